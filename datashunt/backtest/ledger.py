"""What became of each item of a backtest, as one JSON line each: written as it happens, read again to go on."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from datashunt.errors import UsageError
from datashunt.items import Role

DECISIONS = "decisions.jsonl"
STATE = "state.json"


@dataclass(frozen=True, slots=True)
class Decision:
    """One item's fate.

    Attributes:
        position: place in the stream, from 0.
        label, source: its outcome; both None while it has none (held: nobody could be asked; dead: no answer came).
        confidence: of whoever decided it, where known.
        bundle: version that scored it, or None. small_label, small_confidence: what that bundle said.
        reason: `escalation`, `audit`, or None if it was not asked. role: of its answer.
        answer: what the LLM said, None if it was not asked or gave no usable answer.
        calls: how many it took. cost_usd: what they cost.
        propensity: with which it was drawn for the audit; None: it was not.
    """

    position: int
    id: str
    label: str | None
    source: str | None
    confidence: float | None
    bundle: int | None
    small_label: str | None
    small_confidence: float | None
    reason: str | None
    role: str
    audited: bool
    offered: tuple[str, ...] | None
    answer: str | None
    calls: int
    cost_usd: float
    propensity: float | None = None


@dataclass(frozen=True, slots=True)
class Trained:
    """A distillation that ended, and the folder of its bundle relative to the run's folder.

    `state`: `uncertified` for a winner that waits for its own certificate; `failed` has no bundle, and as its verdict
    only the reason. `certificate`: the newest.
    `recut`: the cut of the bundle that serves on, calibrated anew with the answers of this distillation.
    """

    number: int
    at_item: int
    up_to: int
    state: str
    folder: str
    recipe: str
    prune_cut: float | None
    threshold: float
    verdict: dict[str, Any]
    counts: dict[str, int]
    seconds: float
    certificate: dict[str, Any] | None
    evaluation: dict[str, Any]
    recut: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial of one bundle, as the product's table has it.

    `bundle`: its number. `at_item`: only judge answers to later items count. `ended`: why, or None. `granted`: its
    certificates, oldest first.
    """

    bundle: int
    at_item: int
    delta: float
    thresholds: list[float]
    planned: int
    cuts: dict[str, Any] | None
    ended: str | None = None
    granted: tuple[dict[str, Any], ...] = ()


class Ledger:
    """The folder of one run. What `commit` returned from survives kill -9; what came after is done again.

    Attributes:
        decisions, trained, tried: all so far, oldest first. audit_rate: in force under a certificate.
        calls: made so far. judges: answers to judge by.
        learned, new_answers: answers to train on, from before the last distillation and since.
        calls_before: made before the last distillation.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        """Open a run's folder, or begin it.

        Raises:
            UsageError: the folder holds another run, or one that was damaged.
        """
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.decisions: list[Decision] = []
        self.trained: list[Trained] = []
        self.tried: list[Tried] = []
        self.audit_rate: float | None = None
        self.calls = self.judges = self.new_answers = self.learned = self.calls_before = 0
        state = self._read(identity)
        kept = state["bytes"] if state else 0
        with (folder / DECISIONS).open("ab") as file:
            if file.tell() < kept:
                raise _damaged(folder)
            file.truncate(kept)
        if state:
            try:
                self._restore(state)
            except (KeyError, TypeError, ValueError):
                raise _damaged(folder) from None
        self._identity = identity
        self._file = (folder / DECISIONS).open("ab")

    def _restore(self, state: dict[str, Any]) -> None:
        with (self._folder / DECISIONS).open(encoding="utf-8", newline="\n") as lines:  # an id may hold U+2028
            for line in lines:
                self._count(_decision(json.loads(line)))
        self.trained = [Trained(**entry) for entry in state["trained"]]
        self.tried = [Tried(**{**entry, "granted": tuple(entry["granted"])}) for entry in state.get("tried", ())]
        self.audit_rate = state.get("audit_rate")
        self._count_new()

    def commit(self, decisions: Iterable[Decision], trained: Sequence[Trained] = ()) -> None:
        """Append decisions and distillations, and make them durable together."""
        for decision in decisions:
            self._count(decision)
            self._file.write(json.dumps(asdict(decision), ensure_ascii=False).encode() + b"\n")
        if trained:
            self.trained.extend(trained)
            self._count_new()
        self._file.flush()
        os.fsync(self._file.fileno())
        state = {
            "identity": self._identity,
            "bytes": self._file.tell(),
            "trained": [asdict(entry) for entry in self.trained],
            "tried": [asdict(entry) for entry in self.tried],
            "audit_rate": self.audit_rate,
        }
        draft = self._folder / f"{STATE}.new"
        with draft.open("w", encoding="utf-8") as file:
            file.write(json.dumps(state))
            file.flush()
            os.fsync(file.fileno())
        draft.replace(self._folder / STATE)

    def change(self, number: int, **what: Any) -> None:
        """Change what is known of a distillation; the next `commit` makes it durable."""
        self.trained[number - 1] = replace(self.trained[number - 1], **what)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _count(self, decision: Decision) -> None:
        self.decisions.append(decision)
        self.calls += decision.calls
        if decision.answer is not None:
            self.judges += decision.role == Role.JUDGE
            self.new_answers += decision.role == Role.TRAIN

    def _count_new(self) -> None:
        """Part the answers to train on, and the calls, by whether they were before the last distillation."""
        seen = self.trained[-1].up_to if self.trained else 0
        taught = [d.answer is not None and d.role == Role.TRAIN for d in self.decisions]
        self.learned, self.new_answers = sum(taught[:seen]), sum(taught[seen:])
        self.calls_before = sum(d.calls for d in self.decisions[:seen])

    def _read(self, identity: str) -> dict[str, Any] | None:
        path = self._folder / STATE
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            begun, _ = state["identity"], int(state["bytes"])
        except (KeyError, TypeError, ValueError):
            raise _damaged(self._folder) from None
        if begun != identity:
            raise UsageError(
                f"{self._folder} holds a backtest of another stream, classifier file, options or settings:"
                " choose another --out, or remove it"
            )
        return state


def _damaged(folder: Path) -> UsageError:
    return UsageError(f"{folder} holds a backtest whose files are damaged: remove it, and run the backtest again")


def _decision(entry: dict[str, Any]) -> Decision:
    offered = entry["offered"]
    return Decision(**{**entry, "offered": None if offered is None else tuple(offered)})
