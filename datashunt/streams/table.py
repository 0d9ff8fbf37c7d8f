"""Parquet. Imports rows and errors only; pyarrow when a file is read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from datashunt.errors import UsageError, install
from datashunt.streams.rows import BadRow, Columns, File, Row, no_column, of_document

BATCH = 1_024
"""Rows in memory at a time, beside the row group that the file itself sets."""


def parquet(path: Path, file: File, columns: Columns) -> Iterator[Row | BadRow]:
    """The rows of an open Parquet file, counted from 1.

    Raises:
        UsageError: pyarrow is not installed, this is no whole Parquet file, or a column is missing.
    """
    try:
        from pyarrow.lib import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError:
        raise UsageError(f"{path}: Parquet needs pyarrow: {install('backtest')}") from None
    try:
        whole = ParquetFile(file)
        there = list(whole.schema_arrow.names)
        for name in columns.names:
            if there.count(name) != 1:
                raise no_column(path, name, there)
        batches = whole.iter_batches(batch_size=BATCH, columns=list(columns.names))
        rows = (cells for batch in batches for cells in zip(*map(batch.column, columns.names), strict=True))
        for line, cells in enumerate(rows, start=1):
            yield _row(line, cells, columns)
    except ArrowException as error:
        raise UsageError(f"{path}: is no whole Parquet file: {str(error).splitlines()[0]}; write it again") from None


def _row(line: int, cells: tuple[Any, ...], columns: Columns) -> Row | BadRow:
    try:
        values = [cell.as_py() for cell in cells]
    except UnicodeDecodeError:
        return BadRow(line, None, "invalid_utf8", f"row {line} holds bytes that are no UTF-8")
    return of_document(line, dict(zip(columns.names, values, strict=True)), columns)
