"""Labels, and words that tell them: of texts that are learned in a blink. Imports nothing, so that a producer may."""

from __future__ import annotations

LABELS = ("bad", "good", "so-so")
WORDS = (
    ("awful", "broken", "horrid", "useless"),
    ("great", "lovely", "perfect", "superb"),
    ("average", "plain", "usual", "common"),
)
