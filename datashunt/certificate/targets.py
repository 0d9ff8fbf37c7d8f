"""What is promised. Each target is: of the items in its scope, at most a share `allowed` miss. Pure.

    OfKept       of the kept items, at most α disagree with the LLM
    OfAll        of all items, at most α are kept and disagree: what is asked counts as right
    LabelAlpha   of the items kept as anything else, at most α would have been this label for the LLM
    MinRecall    of the items that are this label for the LLM, at most 1 - recall are kept as anything else

A target is monotone if its scope does not depend on the threshold: then its risk only grows as the threshold falls
(but for what pruned prompts miss, which falls a little).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from datashunt.certificate.answers import Answers
from datashunt.certificate.bounds import inside
from datashunt.errors import CertificateError


class Tally(NamedTuple):
    """At each of t thresholds: (n, t) which of n answers are in scope, and which of those miss."""

    scope: NDArray[np.bool_]
    missed: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class OfKept:
    """Of the kept items, at most `alpha` disagree with the LLM. Its risk may rise and fall with the threshold."""

    alpha: float
    monotone = False
    label = None

    def __post_init__(self) -> None:
        inside(self.alpha, "alpha")

    @property
    def allowed(self) -> float:
        """Share of the scope that may miss."""
        return self.alpha

    def tally(self, answers: Answers, thresholds: NDArray[np.float64]) -> Tally:
        """Scope: what is kept."""
        kept = answers.kept(thresholds)
        return Tally(kept, _disagreeing(kept, answers))

    def __str__(self) -> str:
        return f"at most {self.alpha:g} of the kept disagree"


@dataclass(frozen=True, slots=True)
class OfAll:
    """Of all items, at most `alpha` are kept and disagree with the LLM: what is asked counts as right.

    But where prompts are pruned: there an item also misses that is asked without the label that the LLM would give.

    Attributes:
        alpha: that share.
        cuts: one for each threshold of the sequence, below which a label is not offered to what escalates at it; -inf:
            all are. None: no prompt is pruned.
    """

    alpha: float
    cuts: tuple[float, ...] | None = None
    monotone = True
    label = None

    def __post_init__(self) -> None:
        inside(self.alpha, "alpha")

    @property
    def allowed(self) -> float:
        """Share of the scope that may miss."""
        return self.alpha

    def tally(self, answers: Answers, thresholds: NDArray[np.float64]) -> Tally:
        """Scope: everything.

        Raises:
            CertificateError: there are cuts, and not one for each threshold, or no reach of the answers.
        """
        kept = answers.kept(thresholds)
        missed = _disagreeing(kept, answers)
        if self.cuts is not None:
            if len(self.cuts) != len(thresholds) or answers.reach is None:
                raise CertificateError(
                    f"expected a cut for each of {len(thresholds)} thresholds and the reach of each answer, found"
                    f" {len(self.cuts)} cuts and {'no' if answers.reach is None else 'a'} reach"
                )
            missed |= ~kept & (answers.reach[:, None] < np.array(self.cuts))
        return Tally(np.ones_like(kept), missed)

    def __str__(self) -> str:
        pruned = "" if self.cuts is None else ", or are asked without the label that the LLM would give"
        return f"at most {self.alpha:g} of all are kept and disagree{pruned}"


@dataclass(frozen=True, slots=True)
class LabelAlpha:
    """Of the items kept as anything else, at most `alpha` would have been this label for the LLM."""

    label: int
    alpha: float
    monotone = False

    def __post_init__(self) -> None:
        inside(self.alpha, f"alpha of label {self.label}")

    @property
    def allowed(self) -> float:
        """Share of the scope that may miss."""
        return self.alpha

    def tally(self, answers: Answers, thresholds: NDArray[np.float64]) -> Tally:
        """Scope: what is kept as another label."""
        scope = answers.kept(thresholds) & (answers.said != self.label)[:, None]
        return Tally(scope, scope & (answers.truth == self.label)[:, None])

    def __str__(self) -> str:
        return f"at most {self.alpha:g} of what is kept as another label is label {self.label}"


@dataclass(frozen=True, slots=True)
class MinRecall:
    """Of the items that are this label for the LLM, at least `recall` are asked, or kept as this label."""

    label: int
    recall: float
    monotone = True

    def __post_init__(self) -> None:
        inside(self.recall, f"min_recall of label {self.label}")

    @property
    def allowed(self) -> float:
        """Share of the scope that may miss."""
        return 1.0 - self.recall

    def tally(self, answers: Answers, thresholds: NDArray[np.float64]) -> Tally:
        """Scope: what is this label for the LLM, kept or not."""
        kept = answers.kept(thresholds)
        scope = np.broadcast_to((answers.truth == self.label)[:, None], kept.shape)
        return Tally(scope, scope & kept & (answers.said != self.label)[:, None])

    def __str__(self) -> str:
        return f"at least {self.recall:g} of label {self.label} are found"


def _disagreeing(kept: NDArray[np.bool_], answers: Answers) -> NDArray[np.bool_]:
    """(n, t) which of the kept disagree with the LLM."""
    wrong: NDArray[np.bool_] = answers.said != answers.truth
    return kept & wrong[:, None]


Target = OfKept | OfAll | LabelAlpha | MinRecall


def check(targets: Sequence[Target], labels: int) -> None:
    """Refuse targets that cannot stand together.

    Args:
        targets: all that one threshold must keep.
        labels: number of labels of the classifier.

    Raises:
        CertificateError: there is none, one is of no label of the classifier, or two speak of the same thing.
    """
    if not targets:
        raise CertificateError("nothing is promised: name a target, such as alpha")
    seen: dict[tuple[type, int | None], Target] = {}
    for target in targets:
        if target.label is not None and not 0 <= target.label < labels:
            raise CertificateError(f"a target speaks of label {target.label}, and there are {labels} labels")
        other = seen.setdefault((type(target), target.label), target)
        if other is not target:
            raise CertificateError(f"two targets contradict each other: {other}, and {target}; keep one of them")
