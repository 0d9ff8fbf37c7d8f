"""Which fault happens to which request: a YAML file of rules, and a plan that follows them. Imports errors only.

seed: 7
faults:
  - fault: 429                # a status: 408, 409, 429, 500, 502, 503 or 504
    rate: 0.05                # share of the requests; default: all
    retry_after_s: 2          # without it there is no Retry-After
  - fault: 503
    calls: [100, 150]         # the 100th to the 150th request that the rule is about
  - fault: timeout
    seconds: [30, 60]         # since the start; [30, null]: and ever after
    at: [chat]                # chat, decisions, systemone, batch (a batch's requests), files, batches
    billed: true              # served all the same: the tokens are booked, a batch is created
  - fault: outage
    seconds: [90, 120]
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from datashunt.errors import UsageError
from datashunt.simulator.draws import uniform

LIVE = ("chat", "decisions", "systemone")
_WIRE = (*LIVE, "files", "batches")
_ANY = (*_WIRE, "batch")


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `at`: where it can happen. `billed`: whether it is; None where the rule says, default no."""

    at: tuple[str, ...]
    billed: bool | None = None


KINDS: Mapping[str, Kind] = {
    "timeout": Kind(_WIRE),
    "reset": Kind(_WIRE),
    "half_closed": Kind(_WIRE),
    "slow_body": Kind(_WIRE, billed=True),
    "408": Kind(_ANY),
    "409": Kind(_ANY),
    "429": Kind(_ANY, billed=False),
    "500": Kind(_ANY),
    "502": Kind(_ANY),
    "503": Kind(_ANY),
    "504": Kind(_ANY),
    "truncated_json": Kind(_WIRE, billed=True),
    "invalid_content": Kind((*LIVE, "batch"), billed=True),
    "empty_choices": Kind((*LIVE, "batch"), billed=True),
    "refusal": Kind(("chat", "decisions", "batch"), billed=True),
    "content_filter": Kind((*LIVE, "batch"), billed=False),
    "filtered_reply": Kind(("chat", "batch"), billed=True),
    "context_too_long": Kind((*LIVE, "batch"), billed=False),
    "model_not_found": Kind((*LIVE, "batch"), billed=False),
    "bad_key": Kind(_WIRE, billed=False),
    "insufficient_quota": Kind(_ANY, billed=False),
    "outage": Kind(_ANY, billed=False),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one request; the fields are those of its rule. `draw`: a number in [0, 1) of its own."""

    kind: str
    billed: bool = False
    retry_after_s: float | None = None
    slow_s: float = 0.0
    draw: float = 0.0


def _as_text(value: object) -> object:
    return str(value) if type(value) is int else value


class Rule(BaseModel):
    """One rule of the file. `calls` are counted among the requests the rule is about, from 1."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    fault: Annotated[str, BeforeValidator(_as_text)]
    at: list[str] | None = None
    rate: Annotated[float, Field(ge=0, le=1)] = 1.0
    calls: Annotated[list[Annotated[int, Field(ge=1)] | None], Field(min_length=2, max_length=2)] | None = None
    seconds: Annotated[list[Annotated[float, Field(ge=0)] | None], Field(min_length=2, max_length=2)] | None = None
    retry_after_s: Annotated[float, Field(ge=0, le=86_400)] | None = None
    slow_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    billed: bool | None = None

    @model_validator(mode="after")
    def _can_happen(self) -> Self:
        kind = KINDS.get(self.fault)
        if kind is None:
            raise ValueError(f"fault: expected one of {', '.join(KINDS)}, found {self.fault}")
        strange = [place for place in self.at or () if place not in kind.at]
        if strange:
            raise ValueError(f"at: {self.fault} can happen at {', '.join(kind.at)}, found {strange[0]}")
        if self.billed is not None and kind.billed not in {None, self.billed}:
            raise ValueError(f"billed: {self.fault} is {'always' if kind.billed else 'never'} billed")
        if self.retry_after_s is not None and self.fault not in {"429", "503"}:
            raise ValueError("retry_after_s: expected with 429 and 503 only")
        if (self.slow_s is not None) != (self.fault == "slow_body"):
            raise ValueError("slow_s: expected with slow_body, seconds that the body takes, and with it only")
        if self.fault == "outage" and (self.seconds is None or {"at", "rate", "calls"} & self.model_fields_set):
            raise ValueError("outage: expected seconds, and neither at, rate nor calls: it befalls every request")
        for name in ("calls", "seconds"):
            first, last = getattr(self, name) or (0, None)
            if first is None or (last is not None and last < first):
                raise ValueError(f"{name}: expected [first, last], and null for no last one")
        return self

    def about(self, place: str) -> bool:
        """Whether it speaks of requests to this place; without `at`, of all live ones that it can happen to."""
        if self.fault == "outage":
            return place != "batch"
        return place in self.at if self.at is not None else place in LIVE and place in KINDS[self.fault].at

    def due(self, call: int, elapsed_s: float, draw: float) -> bool:
        """Whether the fault happens to its `call`-th request, `elapsed_s` after the start."""
        first, last = self.calls or (1, None)
        since, until = self.seconds or (0.0, None)
        return (
            call >= (first or 1)
            and (last is None or call <= last)
            and elapsed_s >= (since or 0.0)
            and (until is None or elapsed_s < until)
            and draw < self.rate
        )

    def fault_of(self, draw: float) -> Fault:
        """What happens."""
        always = KINDS[self.fault].billed
        billed = bool(self.billed) if always is None else always
        return Fault(self.fault, billed, self.retry_after_s, self.slow_s or 0.0, draw)


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    seed: int = 0
    faults: Annotated[list[Rule], Field(min_length=1)]


class Plan:
    """Follows the rules, in their order: the first that is due decides.

    A rule counts the requests that it is about, whatever other rules do with them, and its draws depend on seed,
    place in the file and this number only: the same requests in the same order meet the same faults.
    """

    def __init__(self, rules: list[Rule], seed: int = 0) -> None:
        self._rules = rules
        self._seed = seed
        self._calls = [0] * len(rules)

    def next(self, place: str, elapsed_s: float) -> Fault | None:
        """What happens to the request that has just arrived, if anything.

        Args:
            place: which endpoint it is for; any other name than those of KINDS for one that only an outage hits.
            elapsed_s: seconds since the start.
        """
        found = None
        for number, rule in enumerate(self._rules):
            if not rule.about(place):
                continue
            self._calls[number] += 1
            call = self._calls[number]
            if found is None and rule.due(call, elapsed_s, uniform(self._seed, "fault", str(number), str(call))):
                found = rule.fault_of(uniform(self._seed, "detail", str(number), str(call)))
        return found


def read(path: Path) -> Plan:
    """Read a file of faults.

    Raises:
        UsageError: naming file, rule, what was found and what was expected.
    """
    try:
        document: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as problem:
        why = getattr(problem, "strerror", None) or " ".join(str(problem).split())
        raise UsageError(f"{path}: cannot be read: {why}") from None
    try:
        file = _File.model_validate(document)
    except ValidationError as problem:
        first = problem.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise UsageError(f"{path}: {where}: {_said(first['type'], where, first['msg'])}") from None
    return Plan(file.faults, file.seed)


def _said(kind: str, where: str, message: str) -> str:
    """What is wrong there. Where something is missing, or of another shape, also what was expected."""
    if kind not in {"missing", "too_short", "list_type", "model_type"}:
        return message.removeprefix("Value error, ")
    place = "a rule" if where.rpartition(".")[2].isdigit() else where.rpartition(".")[2]
    expected = {
        "document": "a mapping with faults, a list of rules, and perhaps seed",
        "faults": "a list of rules, such as [{fault: 503, rate: 0.1}]",
        "a rule": "a mapping, such as {fault: 503, rate: 0.1}",
        "fault": f"one of {', '.join(KINDS)}",
    }
    return f"expected {expected[place]} (docs/simulator.md, Faults)" if place in expected else message
