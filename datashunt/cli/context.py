"""What every command needs: settings with the embedded servers filled in, and a runtime that is closed."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from rich.console import Console

from datashunt import settings as settings_module
from datashunt.bootstrap import Runtime
from datashunt.settings import Settings

out = Console(width=None if sys.stdout.isatty() else 200)  # a file or pipe has no width to fit into
err = Console(stderr=True)


def load(data_dir: Path | None = None) -> Settings:
    """The settings; URLs that are not set come from the embedded servers, if those run."""
    given: dict[str, Any] = {} if data_dir is None else {"data_dir": data_dir}
    found = settings_module.load(**given)
    if found.database_url is not None and found.broker_url is not None:
        return found
    from datashunt import embedded

    urls = embedded.running(found.data_dir)
    if urls is None:
        return found
    if found.database_url is None:
        given["database_url"] = SecretStr(urls.database)
    if found.broker_url is None:
        given["broker_url"] = SecretStr(urls.broker)
    if not found.models_url:
        given["models_url"] = urls.models
    return settings_module.load(**given)


@contextmanager
def runtime() -> Iterator[Runtime]:
    """A runtime for the length of one command."""
    made = Runtime(load(), pool_size=2)
    try:
        yield made
    finally:
        made.close()


def print_json(value: Any) -> None:
    """One JSON document, indented, for people and programs."""
    print(json.dumps(value, indent=2, ensure_ascii=False, default=str))
