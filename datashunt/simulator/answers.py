"""The file a simulation answers from. Imports errors only."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import json
import math
import unicodedata
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datashunt.errors import UsageError

MAX_FIELD = 16 * 1024 * 1024
"""Longest CSV field in characters; the csv module's own limit is shorter than an item may be."""


@dataclass(frozen=True, slots=True)
class Known:
    """What the file says of one text. `distribution`: label → probability, sum 1, zeros left out."""

    id: str
    distribution: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Answers:
    """A whole file.

    Attributes:
        labels: every label of the file, in order of appearance.
        fingerprint: hash of the (uncompressed) file.
    """

    labels: tuple[str, ...]
    fingerprint: str
    by_key: Mapping[str, Known]

    def find(self, key: str) -> Known | None:
        """The entry of the text with this key, if there is one."""
        return self.by_key.get(key)


@dataclass(frozen=True, slots=True)
class _Row:
    where: str
    id: str
    text: str
    weights: Mapping[str, float]


def read(path: Path) -> Answers:
    """Read answers from .jsonl, .jsonl.gz, .csv or .csv.gz (UTF-8).

    A line of JSON is `{"id": …, "text": …, "probabilities": {label: weight}}`. A CSV file has the columns
    `id`, `text` and either `label`, or one column of weights for each label. Weights are normalised to
    sum 1. A text that stands there more than once gets the mean of its distributions, under its first id.

    Raises:
        UsageError: naming file, line, what was found and what was expected.
    """
    suffix = "".join(path.suffixes[-2:]) if path.suffix == ".gz" else path.suffix
    readers = {".jsonl": _jsonl_rows, ".csv": _csv_rows}
    reader = readers.get(suffix.removesuffix(".gz"))
    if reader is None:
        raise UsageError(f"{path}: expected a file that ends in .jsonl, .jsonl.gz, .csv or .csv.gz")
    content = _content(path)
    labels: dict[str, None] = {}
    sums: dict[str, tuple[str, dict[str, float]]] = {}
    ids: set[str] = set()
    for row in reader(path, content.decode("utf-8-sig")):
        if row.id in ids:
            raise UsageError(f"{row.where}: the id {row.id!r} stands in the file twice")
        ids.add(row.id)
        labels.update(dict.fromkeys(row.weights))
        _, summed = sums.setdefault(key(row.text), (row.id, {}))
        for label, probability in _normalised(row.weights).items():
            summed[label] = summed.get(label, 0.0) + probability
    if not sums:
        raise UsageError(f"{path}: holds no answers")
    by_key = {text: Known(id_, _normalised(summed)) for text, (id_, summed) in sums.items()}
    return Answers(tuple(labels), hashlib.sha256(content).hexdigest()[:12], by_key)


def key(text: str) -> str:
    """The text by which it is found: NFC, outer white space stripped."""
    return unicodedata.normalize("NFC", text).strip()


def _normalised(weights: Mapping[str, float]) -> dict[str, float]:
    total = sum(weights.values())
    return {label: weight / total for label, weight in weights.items() if weight > 0}


def _content(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        content = gzip.decompress(content) if path.suffix == ".gz" else content
        content.decode("utf-8")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as problem:
        raise UsageError(f"{path}: cannot be read: {getattr(problem, 'strerror', None) or problem}") from None
    return content


def _jsonl_rows(path: Path, content: str) -> Iterator[_Row]:
    for number, line in enumerate(content.split("\n"), start=1):
        if line.strip():
            yield _jsonl_row(f"{path}, line {number}", line)


def _jsonl_row(where: str, line: str) -> _Row:
    try:
        document = json.loads(line)
    except json.JSONDecodeError as problem:
        raise UsageError(f"{where}: is no JSON: {problem.msg} at character {problem.pos + 1}") from None
    if not isinstance(document, dict):
        raise UsageError(f"{where}: expected an object with id, text and probabilities")
    probabilities = document.get("probabilities")
    if not isinstance(probabilities, dict):
        raise UsageError(f"{where}: probabilities: expected an object of label and weight")
    id_ = document.get("id")
    return _row(where, str(id_) if type(id_) is int else id_, document.get("text"), probabilities)


def _csv_rows(path: Path, content: str) -> Iterator[_Row]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    lines = csv.reader(io.StringIO(content, newline=""), strict=True)
    try:
        header = next(lines, [])
        _check_header(path, header)
        for values in lines:
            if values:
                yield _csv_row(f"{path}, line {lines.line_num}", header, values)
    except csv.Error as problem:
        raise UsageError(f"{path}, line {lines.line_num}: is no CSV: {problem}") from None


def _check_header(path: Path, header: list[str]) -> None:
    if not {"id", "text"} < set(header) or len(set(header)) < len(header):
        raise UsageError(
            f"{path}, line 1: expected the columns id, text, and label or one for each label, "
            f"each once, found {', '.join(header) or 'nothing'}"
        )


def _csv_row(where: str, header: list[str], values: list[str]) -> _Row:
    if len(values) != len(header):
        raise UsageError(f"{where}: expected {len(header)} columns, found {len(values)}")
    columns = dict(zip(header, values, strict=True))
    id_, text = columns.pop("id"), columns.pop("text")
    if "label" in columns:
        return _row(where, id_, text, {columns["label"]: 1.0})
    return _row(where, id_, text, {label: _number(weight) for label, weight in columns.items()})


def _number(text: str) -> float | str:
    try:
        return float(text or 0)
    except ValueError:
        return text


def _row(where: str, id_: Any, text: Any, weights: Mapping[str, Any]) -> _Row:
    for name, value in (("id", id_), ("text", text)):
        if not isinstance(value, str) or not value.strip():
            raise UsageError(f"{where}: {name}: expected some text")
    for label, weight in weights.items():
        if not label.strip() or not label.isprintable():
            raise UsageError(f"{where}: expected a label of printable text, found {_short(label)}")
        if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight < math.inf:
            raise UsageError(f"{where}: weight of {label!r}: expected a number, 0 or more, found {_short(weight)}")
    if not 0 < sum(weights.values()) < math.inf:
        raise UsageError(f"{where}: expected at least one label with a weight above 0")
    return _Row(where, id_, text, weights)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
