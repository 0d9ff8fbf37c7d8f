"""What a wake-up may say: a classifier's name, and ids of rows. Whatever else came is discarded, and said so."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from datashunt.classifier import NAME
from datashunt.telemetry import event

MOST_IDS = 1_024
"""Four times what a message of ours holds at most."""
MOST_ID = 2**63 - 1


def fault_of(given: tuple[Any, ...], named: dict[str, Any]) -> str | None:
    """Why these arguments are no wake-up, or None."""
    if named or len(given) != 2:
        return "it has not two arguments"
    classifier, ids = given
    if not isinstance(classifier, str) or not NAME.fullmatch(classifier):
        return "its first argument is no classifier's name"
    if not isinstance(ids, list) or len(ids) > MOST_IDS:
        return f"its second argument is no list of at most {MOST_IDS:,} ids"
    if not all(type(one) is int and 0 < one <= MOST_ID for one in ids):
        return "some of its ids are no row's"
    return None


def wake_up(work: Callable[[str, list[int]], None]) -> Callable[..., None]:
    """A task that does this work for a wake-up, and nothing for any other message of its name."""

    @functools.wraps(work)
    def checked(*given: Any, **named: Any) -> None:
        fault = fault_of(given, named)
        if fault is None:
            work(*given)
        else:
            event("message_discarded", level=logging.WARNING, task=work.__name__, why=fault)

    del checked.__wrapped__  # Celery would read the signature there, and refuse other arguments in its own way
    return checked
