"""Files of items, read row by row: JSON lines or CSV, plain or gzip. Imports errors only.

A bad row never ends the reading: it comes out as a `BadRow` at its place. Only a file that as a whole is not
what it should be (unreadable, empty, no such column, cut short) is an error.
"""

from __future__ import annotations

import csv
import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader, TextIOWrapper
from pathlib import Path
from typing import Any

from datashunt.errors import UsageError

FIELD_LIMIT = 64 * 2**20
"""Most characters of one CSV field. An unclosed quote swallows no more than this."""

_BOM = b"\xef\xbb\xbf"
_File = gzip.GzipFile | BufferedReader


@dataclass(frozen=True, slots=True)
class Row:
    """One item of a file. `line` counts from 1 and is where it starts; only JSON lines have a `meta`."""

    line: int
    id: str
    text: str
    meta: dict[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that holds no item.

    Attributes:
        id: the row's id, where it could be read.
        reason: `invalid_utf8`, `not_json`, `not_object`, `bad_csv`, `missing_field`, `bad_id`, `not_text` or
            `bad_meta`.
        detail: what was found and what was expected; never the row's text.
    """

    line: int
    id: str | None
    reason: str
    detail: str


def read(path: Path, *, id_column: str = "id", text_column: str = "text") -> Iterator[Row | BadRow]:
    """Read `.jsonl` or `.csv`, each also `.gz`, in constant memory; blank lines are skipped.

    JSON lines: one object a line with both fields and, if it likes, an object `meta`. CSV: a header names the
    columns; other columns are ignored. An integer id in JSON becomes its decimal text.

    Args:
        path: the file; its name tells the format. UTF-8, with or without a byte order mark.
        id_column: column or field of the producer's id.
        text_column: column or field of the text.

    Raises:
        UsageError: while iterating, when the file as a whole cannot be read; rows given before stay valid.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = (suffixes[:-1] if packed else suffixes)[-1:]
    if kind not in ([".jsonl"], [".csv"]):
        raise UsageError(f"{path}: unknown kind of file: expected .jsonl, .jsonl.gz, .csv or .csv.gz")
    rows = _jsonl if kind == [".jsonl"] else _csv
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            yield from rows(path, file, id_column, text_column)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: is no whole gzip file: {error}; pack it again") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None


def _jsonl(path: Path, file: _File, id_column: str, text_column: str) -> Iterator[Row | BadRow]:
    empty = True
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(_BOM) if number == 1 else line
        if content.strip():
            empty = False
            yield _of_json(number, content, id_column, text_column)
    if empty:
        raise UsageError(f"{path}: is empty: expected one JSON object a line, with {id_column!r} and {text_column!r}")


def _of_json(line: int, content: bytes, id_column: str, text_column: str) -> Row | BadRow:
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return BadRow(line, None, "invalid_utf8", f"byte {error.start + 1} of line {line} is no UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow(line, None, "not_json", f"line {line} is no JSON: {_why(error)}")
    if not isinstance(document, dict):
        detail = f"line {line}: expected a JSON object, found {_type(document)}"
        return BadRow(line, None, "not_object", detail)
    key = document.get(id_column)
    if isinstance(key, int) and not isinstance(key, bool):
        key = document[id_column] = str(key)
    fault = _fault(document, id_column, text_column)
    if fault is not None:
        reason, detail = fault
        return _bad(line, key if isinstance(key, str) else None, reason, f"line {line}: {detail}")
    return Row(line, document[id_column], document[text_column], document.get("meta"))


def _fault(document: dict[str, Any], id_column: str, text_column: str) -> tuple[str, str] | None:
    """Reason and detail if these fields make no item, else None."""
    for name, reason in ((id_column, "bad_id"), (text_column, "not_text")):
        if name not in document:
            return "missing_field", f"there is no field {name!r}"
        if not isinstance(document[name], str):
            return reason, f"expected {name!r} as text, found {_type(document[name])}"
    meta = document.get("meta")
    if meta is not None and not isinstance(meta, dict):
        return "bad_meta", f"expected 'meta' as an object, found {_type(meta)}"
    return None


def _csv(path: Path, file: _File, id_column: str, text_column: str) -> Iterator[Row | BadRow]:
    csv.field_size_limit(max(FIELD_LIMIT, csv.field_size_limit()))
    # Surrogates mark undecodable bytes, so that one bad row does not end the decoding of the file.
    with TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header, places = _header(path, reader, id_column, text_column)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                lost = f"lines {line} to {reader.line_num}" if reader.line_num > line else f"line {line}"
                detail = f"{lost}: {error}; is a quote not closed, or not doubled?"
                yield BadRow(line, None, "bad_csv", detail)
                continue
            if fields:
                yield _of_fields(line, fields, header, places)


def _header(
    path: Path, reader: Iterator[list[str]], id_column: str, text_column: str
) -> tuple[list[str], tuple[int, int]]:
    """The header, and at which places of a row id and text stand."""
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise UsageError(f"{path}: its header is no CSV: {error}") from None
    if not header:
        raise UsageError(f"{path}: is empty: expected a header with {id_column!r} and {text_column!r}")
    return header, (_place(path, header, id_column), _place(path, header, text_column))


def _place(path: Path, header: list[str], name: str) -> int:
    found = header.count(name)
    if found == 1:
        return header.index(name)
    columns = ", ".join(ascii(column) for column in header[:20])
    fault = "there is no column" if found == 0 else f"{found} columns are called"
    raise UsageError(f"{path}: {fault} {name!r}: the header has {columns}; name another with --id or --text")


def _of_fields(line: int, fields: list[str], header: list[str], places: tuple[int, int]) -> Row | BadRow:
    if len(fields) > len(header):
        detail = f"line {line} has {len(fields)} fields, the header {len(header)}: quote texts that hold commas"
        return BadRow(line, None, "bad_csv", detail)
    id_place, text_place = places
    for place in places:
        if place >= len(fields):
            known = fields[id_place] if id_place < len(fields) else None
            return _bad(line, known, "missing_field", f"line {line} has no field {header[place]!r}")
    key, text = fields[id_place], fields[text_place]
    if not _is_unicode(key) or not _is_unicode(text):
        return _bad(line, key, "invalid_utf8", f"the row that starts in line {line} holds bytes that are no UTF-8")
    return Row(line, key, text)


def _bad(line: int, key: str | None, reason: str, detail: str) -> BadRow:
    """A bad row with its id only if that can be stored and printed."""
    known = key if key is not None and _is_unicode(key) and "\0" not in key else None
    return BadRow(line, known, reason, detail)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _why(error: ValueError | RecursionError) -> str:
    """The decoder's complaint, without the text it complains of."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)


def _type(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "a truth value", type(None): "null"}
    return names.get(type(value), "a number")
