"""Generated texts whose lengths are spread like those of short messages. Imports nothing of datashunt."""

from __future__ import annotations

import random

VOCABULARY = """
    the a and of to in is it was for with on this that not be have but very they my so all at we had you are one after
    there when good great bad money product service battery phone screen delivery price quality support arrived stopped
    working broken again customer waiting returned excellent disappointed recommend friendly package refund invoice
    yesterday tomorrow minutes expensive reliable unfortunately happy replacement manual nobody answered charger update
    camera sound perfectly nothing everything between morning account password
"""
WORDS = VOCABULARY.split()
SPREAD = 0.55
"""Standard deviation of the logarithm of the number of words."""
MOST_WORDS = 90


def texts(count: int, *, seed: int, median_words: int = 17) -> list[str]:
    """Texts with log-normally many words; 17 words are about 20 tokens of a BERT vocabulary.

    Args:
        count: how many.
        seed: the same seed gives the same texts.
        median_words: half of them are longer, up to `MOST_WORDS`.
    """
    draw = random.Random(seed)
    lengths = [draw.lognormvariate(0.0, SPREAD) * median_words for _ in range(count)]
    return [
        " ".join(draw.choices(WORDS, k=min(MOST_WORDS, max(2, round(length))))).capitalize() + "." for length in lengths
    ]


def texts_of_length(count: int, characters: int, *, seed: int) -> list[str]:
    """Texts of exactly so many characters."""
    draw = random.Random(seed)
    stock = " ".join(draw.choices(WORDS, k=10_000))
    starts = (draw.randrange(len(stock) - characters) for _ in range(count))
    return [stock[start : start + characters] for start in starts]
