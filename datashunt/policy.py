"""When the small model's label is kept: the `policy` of a classifier file, one class for each mode. Imports nothing.

Also what every part of the file is made of: frozen fields that PostgreSQL can store, and numbers that YAML has not
mistaken for truth values.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    SerializerFunctionWrapHandler,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)


def _no_truth_value(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("expected a number, and YAML reads this as a truth value")
    return value


Whole = Annotated[int, BeforeValidator(_no_truth_value)]
Real = Annotated[float, BeforeValidator(_no_truth_value)]
Fraction = Annotated[Real, Field(ge=0.0, le=1.0)]
Inside = Annotated[Real, Field(gt=0.0, lt=1.0)]
PerMinute = Annotated[Whole, Field(ge=1, le=1_000_000_000)]
Price = Annotated[Decimal, BeforeValidator(_no_truth_value), Field(ge=0, le=1_000_000)]


class Part(BaseModel):
    """A part of a classifier file: unknown fields are errors, and nothing changes it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @field_validator("*")
    @classmethod
    def _storable(cls, value: object) -> object:
        for text in value.values() if isinstance(value, dict) else [value]:
            if isinstance(text, str) and "\0" in text:
                raise ValueError("holds a NUL character, which PostgreSQL cannot store")
        return value


Days = Annotated[Whole, Field(ge=1, le=36_500)]


class Kept(Part):
    """How long items are kept, whatever the mode; None: as the settings say.

    Attributes:
        retention_days: after which what was said of an item goes; its outcome and what it cost stay.
        idempotency_days: after which its id goes, too: the same id is then a new item.
    """

    retention_days: Days | None = None
    idempotency_days: Days | None = None

    @model_validator(mode="after")
    def _ids_last(self) -> Self:
        if self.idempotency_days is not None and self.idempotency_days < (self.retention_days or 0):
            raise ValueError("idempotency_days: expected no fewer than retention_days: ids go last")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What is not set is left out: a file that does not use it means the same to workers of releases before it."""
        unset = {name for name in Kept.model_fields if getattr(self, name) is None}
        return {name: value for name, value in serialize(self).items() if name not in unset}


class FixedPolicy(Kept):
    """Keep iff the confidence reaches `threshold`. `audit_rate`: share of all items also asked, at random."""

    mode: Literal["fixed"] = "fixed"
    threshold: Fraction = 0.9
    audit_rate: Fraction = 0.05


class BudgetPolicy(Kept):
    """Spend so much a day on the least confident items; the threshold follows the spend.

    Attributes:
        usd_per_day, calls_per_day: the budget, one of the two.
        timezone: IANA name of the zone in which a day begins and ends.
        at_cap: what becomes of an item that should be asked when nothing is left: the small model's label stands,
            it is held for a person, or it waits until the next day.
        threshold: at which bundles are compared with each other; no decision of the day depends on it.
    """

    mode: Literal["budget"] = "budget"
    threshold: Fraction = 0.9
    audit_rate: Fraction = 0.05
    usd_per_day: Price | None = None
    calls_per_day: Annotated[Whole, Field(le=1_000_000_000)] | None = None
    timezone: str = "UTC"
    at_cap: Literal["keep", "hold", "wait"] = "keep"

    @field_validator("usd_per_day", "calls_per_day")
    @classmethod
    def _something(cls, value: Decimal | int | None) -> Decimal | int | None:
        if value is not None and value * 10**9 < 1:
            raise ValueError("expected more than 0: without money, let mode be fixed and threshold 0")
        return value

    @field_validator("timezone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (OSError, ValueError, LookupError):
            raise ValueError("expected the IANA name of a time zone, such as UTC or Europe/Berlin") from None
        return value

    @model_validator(mode="after")
    def _one_budget(self) -> BudgetPolicy:
        if (self.usd_per_day is None) == (self.calls_per_day is None):
            given = "neither" if self.usd_per_day is None else "both"
            raise ValueError(f"expected one of usd_per_day and calls_per_day, found {given}")
        return self

    @property
    def unit(self) -> Literal["usd", "calls"]:
        """What the budget counts."""
        return "calls" if self.usd_per_day is None else "usd"

    @property
    def per_day(self) -> Decimal:
        """The budget, in its unit."""
        return Decimal(self.calls_per_day or 0) if self.usd_per_day is None else self.usd_per_day


class LabelTarget(Part):
    """What one label needs beside the overall target.

    Attributes:
        alpha: of the items kept as anything else, at most this share would have been the label for the LLM.
        min_recall: of the items that are the label for the LLM, at least this share is asked or kept as it.
        always_ask: an item that the small model takes for it is never kept.
    """

    alpha: Inside | None = None
    min_recall: Inside | None = None
    always_ask: bool = False

    @model_validator(mode="after")
    def _says_something(self) -> LabelTarget:
        if self.alpha is None and self.min_recall is None and not self.always_ask:
            raise ValueError("expected alpha, min_recall or always_ask: true")
        return self

    @property
    def watched(self) -> bool:
        """Whether the items that may be this label are audited more often."""
        return self.alpha is not None or self.min_recall is not None


class TargetPolicy(Kept):
    """Keep as much as can be proven to agree with the LLM; the threshold is found.

    Attributes:
        alpha: share of the scope that may disagree with the LLM's reference answer.
        delta: chance that any certificate of the classifier's life is ever wrong.
        of: the scope: the kept items, or all, of which those asked count as right.
        audit_rate: share of all items that is audited once the certificate stands; more while there is none.
        labels: further targets, by label.
        on_uncertified: while nothing is proven: ask about everything, keep at `threshold`, or hold for people.
        on_drift: whether a stream whose scores have changed beyond doubt suspends the certificate by that alone, or is
            only audited more, until the audits tell: for streams whose days have shapes.
        threshold: at which bundles are compared with each other, and what is kept under `on_uncertified: keep`.
    """

    mode: Literal["target"]
    alpha: Inside
    delta: Inside = 0.1
    of: Literal["kept", "all"] = "kept"
    audit_rate: Annotated[Real, Field(ge=0.005, le=1.0)] = 0.05
    labels: dict[str, LabelTarget] = Field(default_factory=dict)
    on_uncertified: Literal["ask", "keep", "hold"] = "ask"
    on_drift: Literal["suspend", "watch"] = "suspend"
    threshold: Fraction = 0.9

    @property
    def always_ask(self) -> tuple[str, ...]:
        """The labels that are never kept."""
        return tuple(name for name, target in self.labels.items() if target.always_ask)

    @property
    def watched(self) -> tuple[str, ...]:
        """The labels whose likely items are audited more often."""
        return tuple(name for name, target in self.labels.items() if target.watched)

    @property
    def promise(self) -> dict[str, Any]:
        """What is promised, as JSON values: another promise needs another proof."""
        return self.model_dump(mode="json", include={"alpha", "delta", "of", "labels"})


def _mode(value: Any) -> str:
    """Which class reads this policy; what is no mapping is left to the first one, to complain of it."""
    if isinstance(value, dict):
        return str(value.get("mode", "fixed"))
    return str(getattr(value, "mode", "fixed"))


Policy = Annotated[
    Annotated[FixedPolicy, Tag("fixed")]
    | Annotated[BudgetPolicy, Tag("budget")]
    | Annotated[TargetPolicy, Tag("target")],
    Discriminator(_mode),
]
