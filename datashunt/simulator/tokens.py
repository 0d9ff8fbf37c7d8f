"""A reply as tokens with their log-probabilities. Pure; imports nothing of datashunt.

`{"label":"card_payment_fee"}` becomes `{"` `label` `":"` `card` `_payment` `_fee` `"}`. At each place of the
label the alternatives have their probabilities given the tokens before, so that the product along any
label's tokens, the closing one included, is exactly that label's probability.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

LONGEST_WHOLE = 8
"""Labels of up to so many characters are one token; longer ones are cut before each separator."""

NO_CHANCE = -9999.0
"""OpenAI's log-probability of what cannot be."""

_OPEN, _CLOSE = ('{"', "label", '":"'), '"}'
_WORDS = re.compile(r"[\W_]*[^\W_]+|[\W_]+$")


@dataclass(frozen=True, slots=True)
class Token:
    """One token. `choices`: (token, probability) that could stand here, most probable first, itself too."""

    text: str
    choices: tuple[tuple[str, float], ...]


@lru_cache(maxsize=4096)
def pieces(label: str) -> tuple[str, ...]:
    """The tokens of a label within the reply, JSON escapes included; together they are its JSON spelling."""
    spelling = json.dumps(label, ensure_ascii=False)[1:-1]
    # An escape is never cut: its backslash is a separator and separators go with the word that follows.
    return (spelling,) if len(spelling) <= LONGEST_WHOLE else tuple(_WORDS.findall(spelling))


def speak(label: str, probabilities: Mapping[str, float]) -> list[Token]:
    """The reply that says `label`.

    Args:
        label: one of the probabilities' labels, its own above 0.
        probabilities: label → probability, sum 1.
    """
    tokens = [Token(text, ((text, 1.0),)) for text in _OPEN]
    alive = {(*pieces(other), _CLOSE): p for other, p in probabilities.items()}
    for place, piece in enumerate((*pieces(label), _CLOSE)):
        mass: dict[str, float] = {}
        for spelling, p in alive.items():
            mass[spelling[place]] = mass.get(spelling[place], 0.0) + p
        total = sum(mass.values())
        choices = sorted(((text, p / total) for text, p in mass.items()), key=lambda choice: -choice[1])
        tokens.append(Token(piece, tuple(choices)))
        alive = {spelling: p for spelling, p in alive.items() if spelling[place] == piece}
    return tokens


def to_json(token: Token, top: int) -> dict[str, Any]:
    """An entry of `logprobs.content`, with at most `top` alternatives."""
    return {
        **_entry(token.text, dict(token.choices)[token.text]),
        "top_logprobs": [_entry(text, p) for text, p in token.choices[:top]],
    }


def _entry(text: str, probability: float) -> dict[str, Any]:
    logprob = max(math.log(probability), NO_CHANCE) if probability > 0 else NO_CHANCE
    return {"token": text, "logprob": logprob, "bytes": list(text.encode())}
