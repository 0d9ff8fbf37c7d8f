"""datashunt: classify a stream of text with a small model and an LLM, and pay the LLM less every day."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from datashunt.errors import DatashuntError
from datashunt.items import Item, Receipt, Refusal, Result

if TYPE_CHECKING:
    from datashunt.client import Client

__version__ = "0.1.0"
__all__ = ["Client", "DatashuntError", "Item", "Receipt", "Refusal", "Result", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the client only when it is asked for: it brings a database driver and a broker with it."""
    if name == "Client":
        from datashunt.client import Client

        return Client
    raise AttributeError(f"module 'datashunt' has no attribute {name!r}")
