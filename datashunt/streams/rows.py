"""What a row of a file must be to hold an item, whatever the format. Pure; imports errors only."""

from __future__ import annotations

import gzip
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from io import BufferedReader
from pathlib import Path
from typing import Any

from datashunt.errors import UsageError

File = gzip.GzipFile | BufferedReader

SHOWN = 20
"""Most columns that a message lists."""

_EXACT = 2**53
"""Whole numbers below this are told apart by floats."""


@dataclass(frozen=True, slots=True)
class Row:
    """One item of a file.

    Attributes:
        line: counts from 1, where the row starts; in Parquet the number of the row.
        meta: only JSON lines have one.
        fields: the further columns that were asked for; None where the row has none, null, or what is no text. Numbers
            and truth values as text: 3, 0.5, true.
    """

    line: int
    id: str
    text: str
    meta: dict[str, Any] | None = None
    fields: dict[str, str | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that holds no item.

    Attributes:
        id: the row's id, where it could be read.
        reason: `invalid_utf8`, `not_json`, `not_object`, `bad_csv`, `missing_field`, `bad_id`, `not_text` or
            `bad_meta`.
        detail: what was found and what was expected; never the row's text.
        lines: how many of the file it takes; an open quote takes all that follow.
    """

    line: int
    id: str | None
    reason: str
    detail: str
    lines: int = 1


@dataclass(frozen=True, slots=True)
class Columns:
    """The columns to read: of the id, of the text, and further ones; and whether a field `meta` is the item's.

    `lenient`: a row whose further column cannot be read is an item all the same, without that field.
    """

    id: str
    text: str
    extra: tuple[str, ...] = ()
    meta: bool = True
    lenient: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Each column once."""
        return tuple(dict.fromkeys((self.id, self.text, *self.extra)))


def of_document(line: int, document: Mapping[str, Any], columns: Columns) -> Row | BadRow:
    """The row that these fields make. A further column that is absent is None."""
    key = _whole(document.get(columns.id))
    fault = _fault({**document, columns.id: key} if columns.id in document else document, columns)
    if fault is not None:
        reason, detail = fault
        return bad(line, key if isinstance(key, str) else None, reason, f"line {line}: {detail}")
    fields = {name: _as_text(document.get(name)) for name in columns.extra}
    return Row(line, key, document[columns.text], document.get("meta") if columns.meta else None, fields)


def bad(line: int, key: str | None, reason: str, detail: str) -> BadRow:
    """A bad row with its id only if that can be stored and printed."""
    known = key if key is not None and is_unicode(key) and "\0" not in key else None
    return BadRow(line, known, reason, detail)


def is_unicode(text: str) -> bool:
    """Whether it holds no lone surrogate."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def no_column(path: Path, name: str, there: Sequence[str], where: str = "the header") -> UsageError:
    """The error of a file that lacks a column, or has it more than once, with those that are `there`."""
    found = there.count(name)
    fault = "there is no column" if found == 0 else f"{found} columns are called"
    shown = ", ".join(ascii(column) for column in there[:SHOWN])
    more = f" and {len(there) - SHOWN} more" if len(there) > SHOWN else ""
    return UsageError(f"{path}: {fault} {name!r}: {where} has {shown}{more}; name another one")


def kind_of(value: object) -> str:
    """What a value is, in words."""
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    numbers = (int, float, Decimal)
    return names.get(type(value), "a number" if isinstance(value, numbers) else type(value).__name__)


def _fault(document: Mapping[str, Any], columns: Columns) -> tuple[str, str] | None:
    """Reason and detail if these fields make no item, else None."""
    for name, reason in ((columns.id, "bad_id"), (columns.text, "not_text")):
        if name not in document:
            return "missing_field", f"there is no field {name!r}"
        if not isinstance(document[name], str):
            return reason, f"expected {name!r} as text, found {kind_of(document[name])}"
    for name in () if columns.lenient else columns.extra:
        value = document.get(name)
        if value is not None and not isinstance(value, str | int | float | Decimal):
            return "not_text", f"expected {name!r} as text, found {kind_of(value)}"
    meta = document.get("meta") if columns.meta else None
    if meta is not None and not isinstance(meta, dict):
        return "bad_meta", f"expected 'meta' as an object, found {kind_of(meta)}"
    return None


def _whole(value: Any) -> Any:
    """A whole number as its decimal text; anything else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < _EXACT else value
    if isinstance(value, Decimal):
        return str(int(value)) if value.is_finite() and value == int(value) else value
    return str(value) if isinstance(value, int) else value


def _as_text(value: Any) -> str | None:
    """The value as text; None for null, for what is no number, and for lists and objects."""
    whole = _whole(value)
    if isinstance(whole, str):
        return whole
    if isinstance(whole, bool):
        return "true" if whole else "false"
    return str(whole) if isinstance(whole, int | float | Decimal) and math.isfinite(whole) else None
