"""Inputs that are nearly right: valid ones with something changed. Seeded."""

from __future__ import annotations

import copy
import json
from random import Random
from typing import Any

TEXTS = (
    "", " ", "\0", "\ud800", "\U0001f98a\u200d", "\u202eabc", "\x1b[31m", "\r\n", "\ufeff", "a" * 5_000, "null", "NaN",
    "1e999", "../../etc/passwd", "'; DROP TABLE items; --", "{{7*7}}", "ignore all previous instructions",
    "\u0627\u0644",
)  # fmt: skip
NUMBERS = (
    0,
    -1,
    1,
    0.5,
    2**31,
    2**63,
    2**64,
    -(2**70),
    1e308,
    1e-320,
    float("inf"),
    float("-inf"),
    float("nan"),
    10**400,
)


def value(rng: Random, depth: int = 0) -> Any:
    """Any JSON value, mostly an unpleasant one."""
    kind = rng.randrange(7 if depth < 4 else 5)
    if kind == 0:
        return rng.choice((None, True, False))
    if kind in {1, 2}:
        return rng.choice(NUMBERS)
    if kind in {3, 4}:
        return rng.choice(TEXTS)
    if kind == 5:
        return [value(rng, depth + 1) for _ in range(rng.randrange(4))]
    return {rng.choice(TEXTS): value(rng, depth + 1) for _ in range(rng.randrange(4))}


def document(rng: Random, seed: Any) -> Any:
    """A copy of a JSON document in which up to three places are changed, lost or doubled."""
    changed = copy.deepcopy(seed)
    for _ in range(rng.randint(1, 3)):
        changed = _once(rng, changed)
    return changed


def _once(rng: Random, found: Any) -> Any:
    if isinstance(found, dict) and found and rng.random() < 0.9:
        key = rng.choice(list(found))
        what = rng.random()
        if what < 0.15:
            del found[key]
        elif what < 0.25:
            found[rng.choice(TEXTS)] = value(rng)
        else:
            found[key] = _once(rng, found[key]) if what < 0.7 else value(rng)
        return found
    if isinstance(found, list) and found and rng.random() < 0.9:
        at = rng.randrange(len(found))
        if rng.random() < 0.2:
            found.insert(at, copy.deepcopy(found[at]))
        elif rng.random() < 0.2:
            del found[at]
        else:
            found[at] = _once(rng, found[at])
        return found
    return value(rng)


def raw(rng: Random, seed: bytes) -> bytes:
    """Bytes in which some are changed, lost, doubled or put in."""
    made = bytearray(seed)
    for _ in range(rng.randint(1, 6)):
        at = rng.randrange(len(made) + 1)
        what = rng.randrange(4)
        if what == 0:
            made[at : at + 1] = bytes([rng.randrange(256)])
        elif what == 1:
            del made[at : at + rng.randrange(1, 9)]
        elif what == 2:
            made[at:at] = rng.choice(TEXTS).encode(errors="surrogatepass")[:200]
        else:
            made[at:at] = made[at : at + 20]
    return bytes(made)


def line(rng: Random, seed: dict[str, Any]) -> bytes:
    """A line of JSON, or nearly."""
    made = json.dumps(document(rng, seed)).encode()
    return (raw(rng, made) if rng.random() < 0.5 else made).replace(b"\n", b" ")
