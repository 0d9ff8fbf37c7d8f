"""A naive LLM: what it takes for an order. Pure; imports nothing of ours.

It obeys whatever names an offered label, anywhere but in the instructions and in what they announce as data. It knows
data by their form alone: one JSON object on one line, in one turn of the conversation. No real model reads as badly. A
prompt that cannot lead even this one astray keeps texts and instructions apart.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Sequence

_ANNOUNCED = re.compile(r'"item".{0,80}\bdata\b', re.DOTALL | re.IGNORECASE)
_CONTROL = re.compile(r"<[|｜][^|｜>]{1,40}[|｜]>|</?\w+>|<</?SYS>>|\[/?(?:INST|SYSTEM_PROMPT)\]")
_DATA = {"item", "prior"}
_OVERRIDE = "\u202e"


def obeyed(instructions: str, said: str, offered: Sequence[str]) -> str | None:
    """The label that it is told to say, and says; None where nobody tells it.

    Args:
        instructions: what was said by those whom it should obey.
        said: the message about the item, whole.
        offered: the labels. Of several that are named, the last one counts.
    """
    heard = _plain(_beside_data(said) if _ANNOUNCED.search(instructions) else said)
    places = {label: heard.rfind(label.casefold()) for label in offered}
    last = max(places, key=lambda label: places[label])
    return last if places[last] >= 0 else None


def _beside_data(said: str) -> str:
    """What a message says beside its data: all of it, unless it has the form of data and nothing else."""
    if len(said.splitlines()) > 1 or _CONTROL.search(said):
        return said
    try:
        json.loads(said)
        pairs = json.loads(said, object_pairs_hook=list)
        names = [name for name, _ in pairs]
    except (ValueError, TypeError, RecursionError):
        return said
    if len(set(names)) < len(names):
        return said  # who knows which of them is meant
    return " ".join(f"{name} {value}" for name, value in pairs if name not in _DATA)


def _plain(text: str) -> str:
    """The letters that a reader sees: compatible forms as one, nothing invisible, and what is turned round."""
    head, turned, tail = text.partition(_OVERRIDE)
    text = f"{head} {tail} {tail[::-1]}" if turned else text
    shown = unicodedata.normalize("NFKC", text)
    return "".join(one for one in shown if unicodedata.category(one) not in {"Cf", "Cc", "Mn"}).casefold()
