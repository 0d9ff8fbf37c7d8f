"""Classify finished items again: which, what it may cost, and their way back into the queue."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal

from datashunt import llm, prompts
from datashunt.classifier import Spec
from datashunt.errors import UsageError
from datashunt.items import Usage, Wake
from datashunt.store import Store, classifiers, reruns

BATCH = 1_000
"""Most items of one transaction."""
IN_HAND_S = 1.0
"""How much longer than a worker remembers a file it may be deciding by it."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a rerun is about to do.

    Attributes:
        before: outcomes of earlier versions than this are classified again under `version`, the current one.
        items: how many there are.
        cost_usd: of one question to the LLM about each of them; None where nobody knows its price.
    """

    before: int
    version: int
    items: int
    cost_usd: Decimal | None


def plan(store: Store, name: str, before: int | None = None) -> Plan:
    """Count what there is to do; changes nothing.

    Args:
        store: the database.
        name: of the classifier.
        before: outcomes of earlier versions than this; None for the current one.

    Raises:
        UnknownClassifier: there is no such classifier.
        UsageError: there is no such version yet; a rerun would never come to an end.
    """
    with store.begin() as tx:
        known = classifiers.current(tx, name)
        limit = known.version if before is None else before
        if not 1 <= limit <= known.version:
            raise UsageError(
                f"{name} has versions 1 to {known.version}, found --spec-before {limit}: items are classified again"
                " under the current version, so give one that is not later"
            )
        asked = Counter(usage(known.spec, text) for text in reruns.old_texts(tx, known, limit))
    return Plan(limit, known.version, asked.total(), cost(known.spec, asked))


def usage(spec: Spec, text: str) -> Usage:
    """What one question about this text uses at most, with all labels, and with a prior where one may be told.

    Each sample of `llm.samples` may be a request of its own.
    """
    prior = dict.fromkeys(spec.label_names, 0.01) if spec.prompt.soft else None
    prompt = prompts.render(spec, text, prior=prior)
    return Usage(prompt=spec.llm.samples * prompt.tokens(), completion=spec.llm.samples * prompt.max_tokens)


def cost(spec: Spec, asked: Counter[Usage]) -> Decimal | None:
    """USD of so many calls of each size; None where nobody knows the model's price."""
    total = Decimal(0)
    for one, times in asked.items():
        price = llm.cost(spec.llm.model, one, spec.llm)
        if price is None:
            return None
        total += price * times
    return total


def until_known(store: Store, name: str, reload_every_s: float) -> None:
    """Wait until every worker has read the current version of the file: what is queued is decided by that one.

    What one has in hand then (a batch of a slow CPU, a call) still ends under the older, and the next run finds it.

    Args:
        store: the database.
        name: of the classifier.
        reload_every_s: how long a worker remembers a file.
    """
    while True:
        with store.begin() as tx:
            age_s = classifiers.age_s(tx, classifiers.current(tx, name))
        if age_s >= reload_every_s + IN_HAND_S:
            return
        time.sleep(reload_every_s + IN_HAND_S - age_s)


def rerun(store: Store, name: str, made: Plan) -> Iterator[Wake]:
    """Queue them again, batch by batch; yields what to publish of each, once it is committed.

    To stop in between loses nothing, and to run it again goes on: what was done has an outcome of the new version,
    or is on its way to one.

    Raises:
        UnknownClassifier, StoreError: batches that were yielded before are committed.
    """
    last: int | None = 0
    while last is not None:
        with store.begin() as tx:
            known = classifiers.current(tx, name)
            batch = reruns.requeue(tx, known, made.before, after=last, most=BATCH)
        last = batch.last
        if batch.rows:
            yield Wake("score", name, batch.rows)
