"""A small bundle to spoil, made once in each folder."""

from __future__ import annotations

from pathlib import Path

from datashunt import small
from datashunt.small.network import load_tokenizer
from tests.fuzz.targets import BUNDLE
from tests.tiny import tiny_base


def written(folder: Path) -> Path:
    """The folder of a bundle, whose weights as they were lie beside the others as `whole`."""
    place = folder / "bundle"
    if not (place / "whole").exists():
        base = tiny_base(folder / "base")
        labels = tuple(BUNDLE["labels"])
        known = {name: value for name, value in BUNDLE.items() if name not in {"format", "labels_hash"}}
        info = small.BundleInfo(**{**known, "labels": labels})
        small.save(place, small.SequenceClassifier.of_base(base, labels), load_tokenizer(base, info.max_tokens), info)
        (place / "whole").write_bytes((place / "model.safetensors").read_bytes())
    return place
