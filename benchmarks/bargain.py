"""BARGAIN_A (Zeighami, Shankar, Parameswaran, SIGMOD 2025), the published package itself, on given scores.

It is no dependency. Install it into a folder of its own, and name that folder in DATASHUNT_BARGAIN:

    pip install --no-deps --target FOLDER bargain==0.1.3
"""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np

from benchmarks.scored import Scored
from datashunt.errors import UsageError

INSTALL = "pip install --no-deps --target FOLDER bargain==0.1.3, then DATASHUNT_BARGAIN=FOLDER"


def require() -> None:
    """Import the package.

    Raises:
        UsageError: it is not there; the message says how to install it.
    """
    folder = os.environ.get("DATASHUNT_BARGAIN")
    if folder and folder not in sys.path:
        sys.path.append(folder)
    try:
        import BARGAIN  # noqa: F401
    except ImportError as error:
        raise UsageError(f"the package that is compared with cannot be imported ({error}): {INSTALL}") from None


def asked(scored: Scored, *, alpha: float, delta: float, seed: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """(n,): which items BARGAIN_A asks so that at most alpha of all differ from the LLM. Call `require` before."""
    from BARGAIN import BARGAIN_A, Oracle, Proxy

    confidence, wrong = scored.confidence, scored.wrong

    class Small(Proxy):  # type: ignore[misc]
        def proxy_func(self, record: int) -> tuple[int, float]:
            return 0, float(confidence[record])

    class LLM(Oracle):  # type: ignore[misc]
        def oracle_func(self, record: int, said: int) -> tuple[bool, int]:  # noqa: ARG002 - its interface
            return not wrong[record], int(wrong[record])

    model = BARGAIN_A(
        Small(verbose=False, max_workers=1),
        LLM(verbose=False, max_workers=1),
        target=1.0 - alpha,
        delta=delta,
        verbose=False,
        seed=seed,
    )
    _, used = model.process(list(range(len(confidence))), return_oracle_usage=True)
    return np.array(used)
