"""What a training needs to go on after its process was killed: one safetensors file, whose header holds JSON."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor

from datashunt.distil.plan import Example, Plan

if TYPE_CHECKING:
    from datashunt.small import SmallModel

FORMAT = 1
FILE = "checkpoint.safetensors"
_HEADER = "datashunt"
_WORK_FOR_WRITING = 40.0
"""Seconds of work for each second of writing: checkpoints cost a fortieth of the time, and one of them at least."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a training stands.

    Attributes:
        tensors: weights, state of the optimiser, random numbers; by name.
        facts: JSON values: the position, the likelihood so far, more random numbers.
    """

    tensors: Mapping[str, Tensor]
    facts: Mapping[str, Any]


class Checkpoint:
    """The state of one lesson's training in a folder. A state of another lesson is never used."""

    def __init__(self, folder: Path, fingerprint: str) -> None:
        """Touches nothing yet.

        Args:
            folder: created when the first state is saved.
            fingerprint: of all that the training depends on.
        """
        self._path = folder / FILE
        self._fingerprint = fingerprint
        self._not_before = 0.0

    def save(self, state: State) -> None:
        """Replace the state on disk in one step; passes over it when the last one was written a moment ago.

        Raises:
            OSError: the disk is full, or not ours.
        """
        started = time.monotonic()
        if started < self._not_before:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        facts = {"format": FORMAT, "fingerprint": self._fingerprint, "facts": dict(state.facts)}
        beside = self._path.with_suffix(f".{os.getpid()}")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
        try:
            save_file(tensors, beside, {_HEADER: json.dumps(facts, allow_nan=False)})
        except SafetensorError as error:  # a full disk is no OSError there
            beside.unlink(missing_ok=True)
            raise OSError(f"a training's state cannot be written to {beside}: {error}") from error
        beside.replace(self._path)
        ended = time.monotonic()
        self._not_before = ended + (ended - started) * _WORK_FOR_WRITING

    def load(self) -> State | None:
        """The last state of this very lesson, or None: there is none, it is another's, or it cannot be read."""
        try:
            # read, not mapped: whoever cuts a mapped file short ends the process
            content = self._path.read_bytes()
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            document = json.loads(header.get("__metadata__", {}).get(_HEADER, "{}"))
            if (document.get("format"), document.get("fingerprint")) != (FORMAT, self._fingerprint):
                return None
            return State(tensors, document["facts"])
        except (OSError, ValueError, SafetensorError):
            return None


def fingerprint(
    plan: Plan,
    train: Sequence[Example],
    fit: Sequence[tuple[str, int]],
    replay: Sequence[str],
    incumbent: SmallModel | None,
) -> str:
    """A hash of a whole lesson: the same one can be gone on with, any other must be begun."""
    digest = hashlib.sha256()
    before = None if incumbent is None else asdict(incumbent.info)
    known = {"format": FORMAT, "torch": torch.__version__, "plan": asdict(plan), "incumbent": before}
    digest.update(json.dumps(known, default=str, sort_keys=True).encode())
    for example in train:
        told = (example.text, example.weight, example.target.tolist(), example.known.tolist())
        digest.update(json.dumps(told).encode())
    digest.update(json.dumps([list(fit), list(replay)]).encode())
    return digest.hexdigest()
