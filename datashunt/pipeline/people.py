"""People's part: their labels taken from a file, a sample drawn for them, and the quality that it shows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from datashunt import quality, shunt
from datashunt.errors import UsageError
from datashunt.pipeline.submit import MAX_ID_BYTES, fault_of_id
from datashunt.quality import Interval, Judged
from datashunt.store import Connection, Store, classifiers, people, samples
from datashunt.store.classifiers import Registered
from datashunt.store.people import PersonLabel
from datashunt.store.samples import Sample
from datashunt.streams import BadRow, Row

BATCH = 500
"""Most labels of one transaction, which holds their items' locks."""
DELTA = 0.05
"""Chance that an interval of the quality misses the truth."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """What became of a part of the file, committed.

    Attributes:
        new: labels that are now the current outcome. known: those that their person had given already.
        blank: rows in which no label was filled in.
        refused: rows that were not taken, each with its line and the reason.
    """

    new: int
    known: int
    blank: int
    refused: tuple[BadRow, ...]


def label(store: Store, name: str, rows: Iterable[Row | BadRow], *, by: str | None = None) -> Iterator[Labelled]:
    """Take labels of people, in batches; the same rows once more change nothing.

    Args:
        store: the database.
        name: of the classifier.
        rows: with the label as their text, and who gave it as their field `by`.
        by: who gave all of them, in place of that field.

    Raises:
        UnknownClassifier, StoreError, UsageError: batches that were yielded before are committed.
    """
    with store.begin() as tx:
        known = classifiers.current(tx, name)
    for batch in _batches(rows, known, by):
        good = [one for one in batch if isinstance(one, PersonLabel)]
        refused = [one for one in batch if isinstance(one, BadRow)]
        with store.begin() as tx:
            taken = people.take(tx, known, good)
        refused += [
            BadRow(one.line, one.id, "unknown_id", f"{name} has no item {one.id!r}: submit it first")
            for one in taken.unknown
        ]
        refused.sort(key=lambda one: one.line)
        yield Labelled(taken.new, taken.known, batch.count(None), tuple(refused))


def _batches(
    rows: Iterable[Row | BadRow], known: Registered, by: str | None
) -> Iterator[list[PersonLabel | BadRow | None]]:
    """Checked rows in order, no item twice in a batch: the later label must find the earlier one in history."""
    batch: list[PersonLabel | BadRow | None] = []
    seen: set[str] = set()
    for row in rows:
        one = check(row, known.spec.label_names, by)
        if len(batch) == BATCH or (isinstance(one, PersonLabel) and one.id in seen):
            yield batch
            batch, seen = [], set()
        batch.append(one)
        if isinstance(one, PersonLabel):
            seen.add(one.id)
    if batch:
        yield batch


def check(row: Row | BadRow, labels: tuple[str, ...], by: str | None) -> PersonLabel | BadRow | None:
    """A row as a label that can be taken, None if none was filled in, or why it cannot be taken."""
    if isinstance(row, BadRow):
        return row
    said = row.text.strip()
    if not said:
        return None
    fault = fault_of_id(row.id)
    if fault is not None:
        return BadRow(row.line, None, *fault)
    if said not in labels:
        known = ", ".join(labels)
        return BadRow(row.line, row.id, "unknown_label", f"expected one of {known}, found {said[:80]!a}")
    who = (by if by is not None else row.fields.get("by") or "").strip()
    if fault_of_id(who) is not None:
        detail = f"expected in 'by' who says so, a name of at most {MAX_ID_BYTES} bytes, found {who[:80]!a}"
        return BadRow(row.line, row.id, "bad_by", detail)
    return PersonLabel(row.line, row.id, said, who)


def sample(store: Store, name: str, size: int, seed: int) -> Sample:
    """Draw a uniform sample of finished items for people, and record it; that of a seed is drawn once.

    Raises:
        UnknownClassifier: there is no such classifier.
        UsageError: nothing is finished, or the seed was used for another size.
    """
    with store.begin() as tx:
        known = classifiers.current(tx, name)
        classifiers.lock(tx, known.id)
        found = samples.find(tx, known.id, seed)
        if found is None:
            rate = known.spec.policy.audit_rate
            made = quality.draw(samples.finished(tx, known.id), size, key=known.draw_key, seed=seed, rate=rate)
            if not made.drawn:
                raise UsageError(f"{name} has no finished item yet: there is nothing to draw a sample from")
            return samples.record(tx, known, made, seed=seed, rate=rate)
    if found.size != min(size, found.population):
        raise UsageError(
            f"seed {seed} has drawn {found.size} items of {name} already: ask for as many to see them again,"
            " or give another --seed"
        )
    return found


@dataclass(frozen=True, slots=True)
class Quality:
    """What people say of a sample.

    Attributes:
        sample: the draw.
        judged: its items that people have labelled.
        audited: kept items that no person saw and that inform `powered`; 0 where they cannot.
        powered: the prediction-powered interval, or None with too few labels.
    """

    sample: Sample
    judged: tuple[Judged, ...]
    audited: int
    powered: Interval | None


@dataclass(frozen=True, slots=True)
class Share:
    """How often outcomes are right: of which, of how many that people labelled, the interval and how it was made."""

    what: str
    n: int
    interval: Interval
    method: str


EXACT = "people alone, exact"


def shares(found: Quality) -> list[Share]:
    """What a sample shows: of all outcomes, of either source, and by label; a label that nobody gave is left out."""
    judged = found.judged
    parts = [
        ("all", judged),
        ("small model's", [one for one in judged if one.kept]),
        ("LLM's", [one for one in judged if not one.kept]),
    ]
    for label in sorted({one.label for one in judged} | {one.said for one in judged}):
        parts += [
            (f"{label}", [one for one in judged if one.label == label]),
            (f"{label} for people: found", [one for one in judged if one.said == label]),
        ]
    exact = [
        Share(what, len(part), quality.exact(sum(one.right for one in part), len(part), DELTA), EXACT)
        for what, part in parts
    ]
    if found.powered is None:
        return exact
    powered = Share("all", len(judged), found.powered, f"prediction-powered, {found.audited} audits more")
    return [exact[0], powered, *exact[1:]]


def measure(store: Store, name: str, seed: int | None = None) -> Quality:
    """How often outcomes are right in the eyes of people, from the sample of this seed, or the newest.

    Raises:
        UnknownClassifier: there is no such classifier.
        UsageError: no such sample was drawn.
    """
    with store.begin() as tx:
        found = newest(tx, classifiers.current(tx, name), seed)
    if found is None:
        which = "" if seed is None else f" of seed {seed}"
        raise UsageError(
            f"{name} has no sample{which}: draw one (datashunt review {name} --sample 300 --out FILE), let people"
            f" fill it in, and give it back (datashunt label {name} FILE)"
        )
    return found


def newest(tx: Connection, known: Registered, seed: int | None = None) -> Quality | None:
    """The same in an open transaction; None if no such sample was drawn."""
    told = alone(tx, known, seed)
    if told is None:
        return None
    found, judged = told.sample, told.judged
    ids = samples.agreed(tx, known.id, found)
    agreed = sum(shunt.audit(known.draw_key, one, found.audit_rate) for one in ids)
    parts = quality.groups(judged, kept=found.kept / found.population, audited=found.audited, agreed=agreed)
    return replace(told, audited=len(parts[0].others), powered=quality.powered(parts, DELTA))


def alone(tx: Connection, known: Registered, seed: int | None = None) -> Quality | None:
    """What people alone say of that sample, without the audits, which take a while to read."""
    found = samples.find(tx, known.id, seed)
    return None if found is None else Quality(found, tuple(samples.judged(tx, found)), 0, None)
