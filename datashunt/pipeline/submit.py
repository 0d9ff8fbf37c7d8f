"""Submissions: refuse what cannot be classified, one by one and with the reason; store the rest."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from datashunt.errors import SubmissionError
from datashunt.items import Item, Receipt, Refusal, Wake
from datashunt.pipeline.bound import Bound
from datashunt.store import Connection, Store, classifiers, intake
from datashunt.store.intake import Entry

MOST_PRIORITY = 100
MAX_ID_BYTES = 512
MAX_DEADLINE_S = 10 * 365 * 86_400.0
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


@dataclass(frozen=True, slots=True)
class Intake:
    """Takes submissions. Accepted means committed."""

    store: Store
    max_text_bytes: int
    bound: Bound = field(default_factory=lambda: Bound(0))

    def submit(
        self, classifier: str, entries: Iterable[Item | Mapping[str, Any] | Refusal], submission_id: str
    ) -> tuple[Receipt, list[Wake]]:
        """Store what is fit to be classified; returns the receipt and what to publish.

        Sending the same submission again returns its receipt and changes nothing.

        Args:
            classifier: name of an applied classifier.
            entries: items, mappings with `id`, `text` and perhaps `meta`, `deadline`, `priority`, or refusals that a
                reader found.
            submission_id: names this call, for its receipt.

        Raises:
            UnknownClassifier: nothing was stored.
            SubmissionError: the submission id cannot be one, or was used for another payload before.
            QueueFull: as many items are queued as may be; nothing was stored.
            StoreError: nothing was stored.
        """
        fault = fault_of_id(submission_id)
        if fault is not None:
            raise SubmissionError(f"the submission id cannot be used: {fault[1]}")
        good, refused, payload = sort_out(entries, self.max_text_bytes)
        with self.store.begin() as tx:
            classifier_id = classifiers.id_of(tx, classifier)
            if not intake.open_submission(tx, submission_id, classifier, payload):
                return self._receipt_of(tx, submission_id, classifier, payload), []
            self.bound.check(tx, classifier_id, classifier)
            good, repeats, conflicts = one_of_each(good)
            refused += conflicts
            added = intake.add_items(tx, classifier_id, submission_id, good)
            refused += [_conflict(entry) for entry in added.conflicts]
            refused.sort(key=lambda refusal: refusal.position)
            known = repeats + added.known
            since = intake.ids_since(tx, classifier)
            receipt = Receipt(submission_id, classifier, len(added.rows), known, tuple(refused), ids_since=since)
            intake.close_submission(tx, receipt)
        self.bound.add(classifier_id, len(added.rows))
        return receipt, [Wake("score", classifier, added.rows)] if added.rows else []

    def refuse(self, classifier: str, submission_id: str, error: str) -> Receipt:
        """Keep the refusal of a whole call, so that its producer can read why. No item is stored."""
        receipt = Receipt(submission_id, classifier, 0, 0, error=error)
        with self.store.begin() as tx:
            if intake.open_submission(tx, submission_id, classifier, b""):
                intake.close_submission(tx, receipt)
        return receipt

    def receipt(self, submission_id: str) -> intake.StoredSubmission | None:
        """What became of an earlier submission, or None."""
        with self.store.begin() as tx:
            return intake.find_submission(tx, submission_id)

    @staticmethod
    def _receipt_of(tx: Connection, submission_id: str, classifier: str, payload: bytes) -> Receipt:
        stored = intake.find_submission(tx, submission_id)
        if stored is None:
            raise SubmissionError(f"submission {submission_id!r} is being stored right now: ask again")
        if stored.payload_hash != payload or stored.receipt.classifier != classifier:
            raise SubmissionError(
                f"submission id {submission_id!r} was used for other items before: give every call its own id"
            )
        return stored.receipt


def sort_out(
    entries: Iterable[Item | Mapping[str, Any] | Refusal], max_text_bytes: int
) -> tuple[list[Entry], list[Refusal], bytes]:
    """Part the good from the bad; also the hash of all there was, which tells a resend from another call."""
    good: list[Entry] = []
    refused: list[Refusal] = []
    payload = hashlib.sha256()
    for position, entry in enumerate(entries):
        checked = check(position, entry, max_text_bytes)
        if isinstance(checked, Refusal):
            refused.append(checked)
            payload.update(f"refused {checked.position} {checked.id!a} {checked.reason}".encode())
        else:
            good.append(checked)
            payload.update(checked.item.id.encode() + b"\0" + checked.text_hash)
            if checked.item.deadline is not None:
                payload.update(f"deadline {checked.item.deadline}".encode())
            if checked.item.priority:
                payload.update(f"priority {checked.item.priority}".encode())
    return good, refused, payload.digest()


def check(position: int, entry: object, max_text_bytes: int) -> Entry | Refusal:
    """One entry of a submission, fit to be stored, or why it is not."""
    if isinstance(entry, Refusal):
        return entry
    if isinstance(entry, Item):
        key, text, meta, deadline, priority = entry.id, entry.text, entry.meta, entry.deadline, entry.priority
    elif isinstance(entry, Mapping):
        missing = [name for name in ("id", "text") if name not in entry]
        if missing:
            given = entry.get("id")
            return Refusal(
                position,
                given if isinstance(given, str) and fault_of_id(given) is None else None,
                "missing_field",
                f"expected the fields id and text, found no {missing[0]}",
            )
        key, text, meta, deadline = entry["id"], entry["text"], entry.get("meta"), entry.get("deadline")
        priority = entry.get("priority", 0)
    else:
        return Refusal(position, None, "not_an_item", f"expected id and text, found {type(entry).__name__}")
    fault = fault_of_id(key)
    if fault is not None:
        return Refusal(position, None, *fault)
    meta_length, fault_of_meta = measure_meta(meta, max_text_bytes)
    fault = (
        fault_of_text(text, max_text_bytes)
        or fault_of_meta
        or fault_of_deadline(deadline)
        or fault_of_priority(priority)
    )
    if fault is not None:
        return Refusal(position, key, *fault)
    item = Item(key, text, meta, deadline_of(deadline), priority)
    return Entry(position, item, hashlib.sha256(text.encode()).digest(), meta_length)


def fault_of_id(key: object) -> tuple[str, str] | None:
    """Reason and detail if this cannot be an id, else None."""
    if not isinstance(key, str):
        return "bad_id", f"expected the id as text, found {type(key).__name__}"
    if not key.strip():
        return "bad_id", "the id is empty"
    if "\0" in key:
        return "bad_id", "the id holds a NUL byte"
    encoded = _utf8(key)
    if encoded is None:
        return "bad_id", "the id is no valid Unicode"
    if len(encoded) > MAX_ID_BYTES:
        return "bad_id", f"the id has {len(encoded)} bytes, at most {MAX_ID_BYTES} are allowed"
    return None


def fault_of_text(text: object, max_bytes: int) -> tuple[str, str] | None:
    """Reason and detail if this cannot be classified, else None."""
    if not isinstance(text, str):
        return "not_text", f"expected text, found {type(text).__name__}"
    if not text.strip():
        return "empty", "the text is empty"
    if "\0" in text:
        return "nul_byte", f"the text holds a NUL byte at character {text.index(chr(0))}"
    encoded = _utf8(text)
    if encoded is None:
        return "invalid_utf8", "the text holds a lone surrogate: it is no valid Unicode"
    if len(encoded) > max_bytes:
        return "too_large", f"the text has {len(encoded)} bytes, at most {max_bytes} are allowed"
    return None


def measure_meta(meta: object, max_bytes: int) -> tuple[int, tuple[str, str] | None]:
    """Characters of meta as JSON; and reason and detail if it cannot be stored as such beside the item, else None."""
    if meta is None:
        return 0, None
    if not isinstance(meta, Mapping):
        return 0, ("bad_meta", f"expected meta as an object, found {type(meta).__name__}")
    try:
        encoded = json.dumps(dict(meta), allow_nan=False, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        return 0, ("bad_meta", f"meta is no JSON: {error}")
    stored = _utf8(encoded)
    if _NUL.search(encoded) or stored is None:
        return 0, ("bad_meta", "meta holds a character that JSON in PostgreSQL cannot hold")
    if len(stored) > max_bytes:
        return 0, ("too_large", f"meta has {len(stored)} bytes as JSON, at most {max_bytes} are allowed")
    return len(encoded), None


def fault_of_priority(value: object) -> tuple[str, str] | None:
    """Reason and detail if this cannot be a priority, else None."""
    if isinstance(value, bool) or not isinstance(value, int) or not -MOST_PRIORITY <= value <= MOST_PRIORITY:
        found = _beginning(value)
        return "bad_priority", f"expected a priority of -{MOST_PRIORITY} (first) to {MOST_PRIORITY}, found {found}"
    return None


def _beginning(value: object) -> str:
    """What a refusal shows of a value that may be anything."""
    try:
        return f"{value!r:.40}"
    except (ValueError, RecursionError):  # Python writes no number of thousands of digits, and nothing nested as deep
        return f"something too long to be shown ({type(value).__name__})"


def fault_of_deadline(value: object) -> tuple[str, str] | None:
    """Reason and detail if this cannot be a deadline, else None."""
    try:
        deadline_of(value)
    except ValueError as error:
        return "bad_deadline", str(error)
    return None


def deadline_of(value: object) -> float | datetime | None:
    """A deadline as a producer may write it: seconds, or a moment as ISO 8601, or as a datetime.

    Raises:
        ValueError: it is none, or lacks its time zone.
    """
    if value is None:
        return None
    if isinstance(value, str):
        value = _number_or_moment(value.strip())
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("expected a deadline with its time zone, such as 2026-05-04T12:00:00+02:00")
        try:
            return value.astimezone(UTC)
        except OverflowError:
            raise ValueError("expected a deadline within the years 1 to 9999") from None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_DEADLINE_S:
        raise ValueError(f"expected a deadline in seconds, more than 0 and at most {MAX_DEADLINE_S:.0f}, or a moment")
    return float(value)


def _number_or_moment(text: str) -> float | datetime:
    for read in (float, datetime.fromisoformat):
        try:
            return read(text)
        except ValueError:
            continue
    raise ValueError("expected the deadline in seconds, or a moment such as 2026-05-04T12:00:00+02:00")


def one_of_each(entries: Sequence[Entry]) -> tuple[list[Entry], int, list[Refusal]]:
    """The first entry of each id; how many repeat it; refusals of those that give it another text."""
    first: dict[str, Entry] = {}
    repeats = 0
    conflicts = []
    for entry in entries:
        seen = first.setdefault(entry.item.id, entry)
        if seen is entry:
            continue
        if seen.text_hash == entry.text_hash:
            repeats += 1
        else:
            conflicts.append(_conflict(entry))
    return list(first.values()), repeats, conflicts


def _conflict(entry: Entry) -> Refusal:
    return Refusal(entry.position, entry.item.id, "id_conflict", f"id {entry.item.id!r} is taken by another text")


def _utf8(text: str) -> bytes | None:
    try:
        return text.encode()
    except UnicodeEncodeError:
        return None
