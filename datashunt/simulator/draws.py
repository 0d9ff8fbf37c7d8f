"""Draws that repeat themselves: keyed hashes instead of a generator with a state. Pure; imports nothing."""

from __future__ import annotations

from hashlib import blake2b


def uniform(seed: int, purpose: str, *parts: str) -> float:
    """A number in [0, 1) that depends on seed, purpose and parts only."""
    # Lengths are hashed too: ("ab", "c") and ("a", "bc") are different draws.
    encoded = [part.encode() for part in (purpose, *parts)]
    data = b"".join(len(part).to_bytes(8, "big") + part for part in encoded)
    digest = blake2b(data, digest_size=7, key=str(seed).encode()).digest()
    return (int.from_bytes(digest, "big") >> 3) / 2.0**53
