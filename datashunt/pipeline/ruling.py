"""What is decided about scored items: kept, escalated, audited or held, and what their prompts offer. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from datashunt import prune, shunt
from datashunt.items import ClaimedItem
from datashunt.pipeline import promise, pruning
from datashunt.pipeline.promise import Stand
from datashunt.store.classifiers import Registered
from datashunt.store.scores import Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray


def cold_start(known: Registered, item: ClaimedItem) -> Scored:
    """No bundle serves: everything is asked, over all labels; a fifth of the answers is held out."""
    rate = max(shunt.COLD_START_AUDIT_RATE, known.spec.policy.audit_rate)
    audited = shunt.audit(known.draw_key, item.id, rate)
    return Scored(
        row=item.row,
        keep=False,
        label=None,
        confidence=None,
        probabilities=None,
        role=shunt.role(known.draw_key, item.id, audited),
        propensity=rate if audited else None,
        offered=None,
        prior=None,
    )


def decide(
    known: Registered, batch: Sequence[ClaimedItem], probabilities: NDArray[np.float32], *, draft: bool = False
) -> list[Scored]:
    """Keep, escalate or audit each item of a batch, and prune the prompts of those that are asked.

    Args:
        known: the classifier, its policy and its incumbent.
        batch: n claimed items.
        probabilities: (n, k), rows in the order of `batch`, columns in label order.
        draft: every item as it is if it escalates, whatever its confidence: a budget decides later.
    """
    names, stand = known.spec.label_names, promise.stand(known)
    indices, confidences, kept = shunt.decide(probabilities, stand.threshold, stand.never)
    if draft:
        kept = np.zeros_like(kept)
    held = ~kept & stand.holds
    # a model that broke down says nan: nothing that a prompt could be pruned by, nor told
    prunable = np.flatnonzero(~kept & ~held & np.isfinite(confidences))
    offers, priors = _pruned(known, stand, probabilities[prunable])
    places = {row: place for place, row in enumerate(prunable.tolist())}
    labels, sure, keeps, vectors = indices.tolist(), confidences.tolist(), kept.tolist(), probabilities.tolist()
    holds, rates = held.tolist(), stand.rates(probabilities)
    scored = []
    for row, (item, rate) in enumerate(zip(batch, rates, strict=True)):
        audited = shunt.audit(known.draw_key, item.id, rate)
        place = None if audited else places.get(row)
        scored.append(
            Scored(
                row=item.row,
                keep=keeps[row],
                label=names[labels[row]],
                confidence=sure[row],
                probabilities=vectors[row],
                role=shunt.role(known.draw_key, item.id, audited),
                propensity=rate if audited else None,
                offered=None if place is None else offers[place],
                prior=None if place is None else priors[place],
                held=holds[row],
            )
        )
    return scored


def _pruned(
    known: Registered, stand: Stand, probabilities: NDArray[np.float32]
) -> tuple[Sequence[tuple[str, ...] | None], Sequence[dict[str, float] | None]]:
    """What the prompts of n items offer, in the labels' order, and what they tell; None: all labels, and nothing."""
    names, nothing = known.spec.label_names, [None] * len(probabilities)
    cut = pruning.cut_of(known, stand.threshold)
    priors = prune.priors(probabilities, names) if known.spec.prompt.soft else nothing
    if cut is None:
        return nothing, priors
    sets = prune.offered(probabilities, cut).tolist()
    return [None if all(row) else tuple(compress(names, row)) for row in sets], priors
