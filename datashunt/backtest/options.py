"""How a backtest runs: options, order of the stream, keys of the draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any, Literal

import numpy as np

from datashunt import shunt
from datashunt.backtest import asking, spending
from datashunt.backtest.recording import Recorded
from datashunt.classifier import Spec
from datashunt.errors import UsageError
from datashunt.pipeline import promise
from datashunt.policy import TargetPolicy
from datashunt.store.scores import CLAIM_LIMIT

LARGEST_SEED = 2**53
"""A thousand lessons of a run have a seed each, and torch takes 64 bits."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to run. Without `max_calls` and `alpha` the policy of the classifier file decides.

    Attributes:
        order: `file`, or `random` by the seed.
        seed: of the order, the audit draws and the training; at most LARGEST_SEED.
        max_calls: spend at most so many calls over the whole stream.
        alpha, delta, of: keep what is certified: at most alpha of the kept, or of all, disagree, with probability
            ≥ 1 - delta. A file with a target of its own has its own.
        gates: 1, or 2: the first bundle that served keeps what it is sure of before the incumbent is asked;
            not with `alpha`.
        batch: items of one decision, at most those of one claim.
        learning, asking, reuse: with `max_calls`: for how many answers a label calls are made fast, by which rule of
            `asking`, and whether an answer is used again for an equal text.
        plan: fields of `distil.Plan` to change, for ablations.
    """

    order: Literal["file", "random"] = "random"
    seed: int = 0
    max_calls: int | None = None
    alpha: float | None = None
    delta: float = 0.1
    of: Literal["kept", "all"] = "kept"
    gates: int = 1
    batch: int = 128
    learning: int = spending.LEARNING
    asking: str = "confidence"
    reuse: bool = True
    plan: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse what cannot be.

        Raises:
            UsageError: naming the option, what was found and what was expected.
        """
        _expect(0 <= self.seed <= LARGEST_SEED, "seed", self.seed, f"0 to {LARGEST_SEED}")
        _expect(1 <= self.batch <= CLAIM_LIMIT, "batch", self.batch, f"1 to {CLAIM_LIMIT}")
        _expect(self.order in {"file", "random"}, "order", self.order, "file or random")
        _expect(self.gates in {1, 2}, "gates", self.gates, "1 or 2")
        _expect(self.asking in asking.RULES, "asking", self.asking, f"one of {', '.join(asking.RULES)}")
        _expect(self.max_calls is None or self.max_calls >= 1, "max-calls", self.max_calls, "1 or more")
        _expect(self.learning >= 0, "learning", self.learning, "0 or more")
        _expect(self.alpha is None or 0 < self.alpha < 1, "alpha", self.alpha, "a fraction inside (0, 1)")
        _expect(self.of in {"kept", "all"}, "of", self.of, "kept or all")
        _expect(0 < self.delta < 1, "delta", self.delta, "a probability inside (0, 1)")
        _expect(self.alpha is None or self.max_calls is None, "alpha", self.alpha, "it without max-calls")
        # What the first bundle keeps would be uncertified.
        _expect(self.alpha is None or self.gates == 1, "gates", self.gates, "1 with a target (--alpha, or the file's)")


def targeted(spec: Spec, options: Options) -> Spec:
    """The classifier with the target of the options, if they name one and its file does not.

    Raises:
        UsageError: the file audits less than a target takes.
        SpecError: the promise could never be proven.
    """
    if options.alpha is None:
        return spec
    policy = spec.policy
    if not isinstance(policy, TargetPolicy):
        least = shunt.LEAST_RATE
        if policy.audit_rate < least:
            raise UsageError(
                f"--alpha: found policy.audit_rate {policy.audit_rate:g} in the file, expected {least:g} or more:"
                " audits certify what is kept"
            )
        policy = TargetPolicy(
            mode="target",
            alpha=options.alpha,
            delta=options.delta,
            of=options.of,
            audit_rate=policy.audit_rate,
            threshold=policy.threshold,
        )
    made = spec.model_copy(update={"policy": policy})
    promise.check(made)
    return made


def ordered(items: Sequence[Recorded], options: Options) -> list[Recorded]:
    """The items in the order of the file, or shuffled by the seed."""
    if options.order == "file":
        return list(items)
    places = np.random.default_rng(options.seed).permutation(len(items))
    return [items[place] for place in places]


def draw_key(seed: int) -> bytes:
    """The key of the audit draws of this seed: 32 bytes."""
    return blake2b(f"backtest {seed}".encode(), digest_size=32).digest()


def _expect(holds: bool, option: str, found: object, expected: str) -> None:
    if not holds:
        raise UsageError(f"--{option}: found {found}, expected {expected}")
