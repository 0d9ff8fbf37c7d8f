"""A recorded stream: items with what the LLM said to each, and perhaps the right label. Imports submit and streams.

What is no fault of the stream as a whole is left out or left open, and noted with its line.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from datashunt import streams
from datashunt.classifier import digest
from datashunt.errors import UsageError
from datashunt.items import Item, Refusal
from datashunt.pipeline.submit import check
from datashunt.streams import BadRow, Row

_LONGEST = 40
"""Most characters of a found label that a message shows: anything longer may be a text."""
_LISTED = 20
"""Most labels that a message lists."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One item of a stream.

    Attributes:
        line: where it starts, from 1 (in Parquet: its row).
        teacher: the LLM's label; None if it gave no usable answer. gold: the right label, where it is known.
    """

    line: int
    id: str
    text: str
    teacher: str | None
    gold: str | None


@dataclass(frozen=True, slots=True)
class Recording:
    """A whole stream, in the order of its file.

    Attributes:
        unanswered: items whose teacher is None.
        notes: sentences for the user: each row left out, and each kind of label that is none. Of what a row holds they
            show labels of at most 40 characters, and ids.
        fingerprint: of the file's bytes and of the columns that decide: other columns are another stream.
        left_out: lines that hold no item.
    """

    items: tuple[Recorded, ...]
    unanswered: int
    notes: tuple[str, ...]
    fingerprint: str
    left_out: int = 0


def read(
    path: Path,
    labels: Sequence[str],
    *,
    id_column: str,
    text_column: str,
    teacher_column: str,
    gold_column: str | None = None,
    max_text_bytes: int = 1_000_000,
) -> Recording:
    """Read a recorded stream whole.

    Rows that `datashunt submit` would refuse are left out, and so is every row whose id stood before. A teacher's
    label that is none of `labels`, or nothing, is a call without an answer; such a gold label is no gold label.
    White space around a label does not count.

    Args:
        path: a file that `streams.read` can read.
        labels: the classifier's labels.
        id_column: column or field of the id.
        text_column: likewise of the text.
        teacher_column: likewise of the LLM's label.
        gold_column: likewise of the right label; None if nobody knows the right labels.
        max_text_bytes: longer texts are left out.

    Raises:
        UsageError: the file cannot be read, has no such column or no usable row, or no row of it has a label of
            the classifier from the teacher (or, if asked for, as gold); or a quote that nobody closed takes more lines
            than there are items.
    """
    wanted = [teacher_column] if gold_column is None else [teacher_column, gold_column]
    teacher, gold = _Labels(frozenset(labels)), _Labels(frozenset(labels))
    left_out: list[tuple[str, int]] = []
    items = []
    columns = [id_column, text_column, *wanted]
    rows = streams.read(path, id_column=id_column, text_column=text_column, columns=columns, meta=False, lenient=True)
    for row in _usable(rows, max_text_bytes, left_out):
        known = teacher.known(row.line, row.fields[teacher_column])
        right = None if gold_column is None else gold.known(row.line, row.fields[gold_column])
        items.append(Recorded(row.line, row.id, row.text, known, right))
    if not items:
        found = f"the first of its {len(left_out):,} rows: {left_out[0][0]}" if left_out else "it has no rows"
        raise UsageError(f"{path}: holds no item: {found}")
    worst, most = max(left_out, key=lambda row: row[1], default=("", 0))
    lost = sum(lines for _, lines in left_out)
    if most > len(items):
        raise UsageError(f"{path}: most of it cannot be read: {worst}")
    _require(path, teacher_column, teacher, labels, items)
    if gold_column is not None:
        _require(path, gold_column, gold, labels, items)
    notes = [
        *(why for why, _ in left_out),
        *teacher.notes("the LLM said {}", "a call without an answer"),
        *gold.notes("the gold label is {}", "taken as unknown", silent=True),
    ]
    return Recording(
        items=tuple(items),
        unanswered=teacher.unknown,
        notes=tuple(notes),
        fingerprint=_fingerprint(path, id_column, text_column, teacher_column),
        left_out=lost,
    )


def _usable(rows: Iterator[Row | BadRow], max_text_bytes: int, left_out: list[tuple[str, int]]) -> Iterator[Row]:
    """The rows that can be classified; why each other one is left out, and how many lines it has, to `left_out`."""
    first: dict[str, int] = {}
    for row in rows:
        fault = _fault(row, first, max_text_bytes)
        if isinstance(row, Row) and fault is None:
            first[row.id] = row.line
            yield row
        else:
            lines = row.lines if isinstance(row, BadRow) else 1
            left_out.append((f"line {row.line}: left out: {fault}", lines))


def _fault(row: Row | BadRow, first: Mapping[str, int], max_text_bytes: int) -> str | None:
    if isinstance(row, BadRow):
        return row.detail.removeprefix(f"line {row.line}: ")
    checked = check(row.line, Item(row.id, row.text), max_text_bytes)
    if isinstance(checked, Refusal):
        return checked.detail
    return f"id {row.id!r} stands in line {first[row.id]} already" if row.id in first else None


@dataclass(slots=True)
class _Labels:
    """Sorts the labels of one column into those of the classifier and others.

    Attributes:
        others: each other one as it may be shown, with its first line and how often it came.
    """

    allowed: frozenset[str]
    found: int = 0
    others: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def unknown(self) -> int:
        return sum(count for _, count in self.others.values())

    def known(self, line: int, value: str | None) -> str | None:
        """The label if it is one of the classifier's, else None."""
        label = "" if value is None else value.strip()
        if label in self.allowed:
            self.found += 1
            return label
        shown = _shown(label)
        first, count = self.others.get(shown, (line, 0))
        self.others[shown] = first, count + 1
        return None

    def notes(self, said: str, meaning: str, *, silent: bool = False) -> Iterator[str]:
        """One sentence for each other label, by its first line; if `silent`, none for a missing one."""
        for shown, (line, count) in self.others.items():
            if silent and shown == _NOTHING:
                continue
            what = said.format(shown) + ("" if shown == _NOTHING else ", which is no label of this classifier")
            yield f"line {line}: {what}: {meaning} ({count:,} such line{'' if count == 1 else 's'})"


_NOTHING = "nothing"


def _shown(label: str) -> str:
    if not label:
        return _NOTHING
    return repr(label) if len(label) <= _LONGEST else f"a text of {len(label):,} characters"


def _require(path: Path, column: str, found: _Labels, labels: Sequence[str], items: Sequence[Recorded]) -> None:
    """At least one label of the column must be the classifier's."""
    if found.found:
        return
    shown = next(iter(found.others))
    more = f" and {len(labels) - _LISTED} more" if len(labels) > _LISTED else ""
    expected = ", ".join(repr(label) for label in labels[:_LISTED]) + more
    raise UsageError(
        f"{path}: column {column!r} holds no label of this classifier: line {items[0].line} has {shown},"
        f" expected one of {expected}"
    )


def _fingerprint(path: Path, *columns: str) -> str:
    with path.open("rb") as file:
        return digest([hashlib.file_digest(file, "sha256").hexdigest(), *columns])
