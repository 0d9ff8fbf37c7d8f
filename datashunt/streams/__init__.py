"""Files of items, read row by row: JSON lines, CSV (both plain or gzip) or Parquet. Imports errors only.

A bad row never ends the reading: it comes out as a `BadRow` at its place. Only a file that as a whole is not
what it should be (unreadable, empty, no such column, cut short) is an error.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from datashunt.errors import UsageError
from datashunt.streams import table, text
from datashunt.streams.rows import BadRow, Columns, Row

__all__ = ["BadRow", "Row", "read"]

_KINDS = {".jsonl": text.jsonl, ".csv": text.csv_rows, ".parquet": table.parquet}
_PACKED = (".jsonl", ".csv")


def read(
    path: Path,
    *,
    id_column: str = "id",
    text_column: str = "text",
    columns: Sequence[str] = (),
    meta: bool = True,
    lenient: bool = False,
) -> Iterator[Row | BadRow]:
    """Read `.jsonl` or `.csv`, each also `.gz`, or `.parquet`, in constant memory; blank lines are skipped.

    JSON lines: one object a line with both fields and, if it likes, an object `meta`. CSV: a header names the
    columns. Parquet: one file, not a folder of them; needs pyarrow. Columns that nobody named are ignored. A whole
    number as an id becomes its decimal text.

    Args:
        path: the file; its name tells the format. UTF-8, with or without a byte order mark.
        id_column: column or field of the producer's id.
        text_column: column or field of the text.
        columns: more columns that the file must have, for `Row.fields`. A field of JSON may be absent from
            some lines, not from all.
        meta: False: a field `meta` of JSON is as any other that nobody named.
        lenient: True: a row one of whose `columns` is missing or no text is an item, with None in its place.

    Raises:
        UsageError: while iterating, when the file as a whole cannot be read, or pyarrow is not installed; rows
            given before stay valid.
    """
    suffixes = [suffix.lower() for suffix in path.suffixes]
    packed = suffixes[-1:] == [".gz"]
    kind = "".join((suffixes[:-1] if packed else suffixes)[-1:])
    if kind not in (_PACKED if packed else _KINDS):
        raise UsageError(f"{path}: unknown kind of file: expected .jsonl, .jsonl.gz, .csv, .csv.gz or .parquet")
    wanted = Columns(id_column, text_column, tuple(columns), meta, lenient)
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            yield from _KINDS[kind](path, file, wanted)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UsageError(f"{path}: is no whole gzip file: {error}; pack it again") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None
