"""JSON lines and CSV. Imports rows and errors only."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from datashunt.errors import UsageError
from datashunt.streams.rows import BadRow, Columns, File, Row, bad, is_unicode, kind_of, no_column, of_document

FIELD_LIMIT = 64 * 2**20
"""Most characters of one CSV field. An unclosed quote swallows no more than this."""

_BOM = b"\xef\xbb\xbf"


def jsonl(path: Path, file: File, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of an open file of JSON lines.

    Raises:
        UsageError: the file is empty, or a further column is in none of its lines.
    """
    empty = True
    there: list[str] = []
    absent = set(columns.extra)
    for number, line in enumerate(file, start=1):
        content = line.removeprefix(_BOM) if number == 1 else line
        if not content.strip():
            continue
        empty = False
        document = _document(number, content)
        if isinstance(document, BadRow):
            yield document
            continue
        there = there or list(document)
        absent -= document.keys()
        yield of_document(number, document, columns)
    if empty:
        raise UsageError(f"{path}: is empty: expected one JSON object a line, with {columns.id!r} and {columns.text!r}")
    if there and absent:
        raise no_column(path, min(absent, key=columns.extra.index), there, "the first object")


def _document(line: int, content: bytes) -> dict[str, Any] | BadRow:
    try:
        document = json.loads(content.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        return BadRow(line, None, "invalid_utf8", f"byte {error.start + 1} of line {line} is no UTF-8")
    except (ValueError, RecursionError) as error:
        return BadRow(line, None, "not_json", f"line {line} is no JSON: {_why(error)}")
    if not isinstance(document, dict):
        detail = f"line {line}: expected a JSON object, found {kind_of(document)}"
        return BadRow(line, None, "not_object", detail)
    return document


def csv_rows(path: Path, file: File, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of an open CSV file, its header first.

    Raises:
        UsageError: the file is empty, its header is no CSV, or a column is missing or there twice.
    """
    csv.field_size_limit(max(FIELD_LIMIT, csv.field_size_limit()))
    # Surrogates mark undecodable bytes, so that one bad row does not end the decoding of the file.
    with TextIOWrapper(file, encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        header, places = _header(path, reader, columns)
        while True:
            line = reader.line_num + 1
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                lost = f"lines {line} to {reader.line_num}" if reader.line_num > line else f"line {line}"
                detail = f"{lost}: {error}; is a quote not closed, or not doubled?"
                yield BadRow(line, None, "bad_csv", detail, max(1, reader.line_num - line + 1))
                continue
            if fields:
                yield _of_fields(line, fields, len(header), places, columns)


def _header(path: Path, reader: Iterator[list[str]], columns: Columns) -> tuple[list[str], dict[str, int]]:
    """The header, and at which place of a row each column stands."""
    try:
        header = next(reader, None)
    except csv.Error as error:
        raise UsageError(f"{path}: its header is no CSV: {error}") from None
    if not header:
        raise UsageError(f"{path}: is empty: expected a header with {columns.id!r} and {columns.text!r}")
    for name in columns.names:
        if header.count(name) != 1:
            raise no_column(path, name, header)
    return header, {name: header.index(name) for name in columns.names}


def _of_fields(line: int, fields: list[str], width: int, places: dict[str, int], columns: Columns) -> Row | BadRow:
    if len(fields) > width:
        detail = f"line {line} has {len(fields)} fields, the header {width}: quote texts that hold commas"
        return BadRow(line, None, "bad_csv", detail)
    known = {name: fields[place] for name, place in places.items() if place < len(fields)}
    key = known.get(columns.id)
    for name in (columns.id, columns.text) if columns.lenient else columns.names:
        if name not in known:
            return bad(line, key, "missing_field", f"line {line} has no field {name!r}")
        if not is_unicode(known[name]):
            return bad(line, key, "invalid_utf8", f"the row that starts in line {line} holds bytes that are no UTF-8")
    readable = {name: value for name, value in known.items() if is_unicode(value)}
    extra = {name: readable.get(name) for name in columns.extra}
    return Row(line, known[columns.id], known[columns.text], fields=extra)


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON value")


def _why(error: ValueError | RecursionError) -> str:
    """The decoder's complaint, without the text it complains of."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at character {error.pos + 1}"
    return "it is nested too deep" if isinstance(error, RecursionError) else str(error)
