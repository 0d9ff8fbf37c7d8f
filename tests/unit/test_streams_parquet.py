from __future__ import annotations

import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt import streams
from datashunt.errors import UsageError
from datashunt.streams import BadRow, Row


def write(folder: Path, columns: dict[str, Any], **options: Any) -> Path:
    path = folder / "a.parquet"
    pq.write_table(pa.table(columns), path, **options)
    return path


def test_rows_carry_their_number_and_the_columns_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path, {"other": [1, 2], "text": ["x", "Grüße\n2"], "label": ["a", None], "id": ["i", "j"]})
    assert list(streams.read(path, columns=["label"])) == [
        Row(1, "i", "x", fields={"label": "a"}),
        Row(2, "j", "Grüße\n2", fields={"label": None}),
    ]


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([1, -20, None], ["1", "-20", None]),
        ([1.0, 0.5, float("nan")], ["1", "0.5", None]),
        ([Decimal("3.00"), Decimal("2.50"), None], ["3", "2.50", None]),
        ([True, False, None], ["true", "false", None]),
        (pa.array(["a", "b", None]).dictionary_encode(), ["a", "b", None]),
        (pa.array(["a", "b", None], pa.large_string()), ["a", "b", None]),
    ],
    ids=["int", "float", "decimal", "bool", "dictionary", "large string"],
)
def test_numbers_and_truth_values_become_text(tmp_path: Path, values: Any, texts: list[str | None]) -> None:
    path = write(tmp_path, {"id": [1, 2, 3], "text": ["x", "y", "z"], "label": values})
    rows = [row for row in streams.read(path, columns=["label"]) if isinstance(row, Row)]
    assert [row.fields["label"] for row in rows] == texts
    assert [row.id for row in rows] == ["1", "2", "3"]


def test_whole_floats_are_ids_unless_they_cannot_be_told_apart(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": [7.0, 1.5, 2.0**53, None], "text": ["x"] * 4})
    rows = list(streams.read(path))
    assert rows[0] == Row(1, "7", "x")
    assert [(row.line, row.reason) for row in rows if isinstance(row, BadRow)] == [
        (2, "bad_id"), (3, "bad_id"), (4, "bad_id"),
    ]  # fmt: skip


def test_a_bad_row_is_named_and_the_others_are_read(tmp_path: Path) -> None:
    broken = pa.array([b"fine", b"\xff", b"good"]).view(pa.string())
    path = write(tmp_path, {"id": ["a", "b", "c"], "text": broken, "label": [["x"], ["y"], None]})
    assert [type(row) for row in streams.read(path)] == [Row, BadRow, Row]
    found = [row for row in streams.read(path, columns=["label"]) if isinstance(row, BadRow)]
    assert [(row.line, row.id, row.reason) for row in found] == [(1, "a", "not_text"), (2, None, "invalid_utf8")]
    assert found[0].detail == "line 1: expected 'label' as text, found a list"


def test_a_missing_or_doubled_column_names_those_there_are(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": ["a"], "body": ["x"]})
    with pytest.raises(UsageError, match=r"no column 'text': the header has 'id', 'body'; name another one"):
        list(streams.read(path))
    pq.write_table(pa.table([["a"], ["b"], ["x"]], names=["id", "id", "text"]), path)
    with pytest.raises(UsageError, match="2 columns are called 'id'"):
        list(streams.read(path))


def test_many_columns_are_listed_in_part(tmp_path: Path) -> None:
    path = write(tmp_path, {f"c{n}": ["x"] for n in range(30)})
    with pytest.raises(UsageError, match=r"'c19' and 10 more; name"):
        list(streams.read(path))


def test_a_column_name_may_hold_a_dot(tmp_path: Path) -> None:
    path = write(tmp_path, {"a.id": ["i"], "text": ["x"]})
    assert list(streams.read(path, id_column="a.id")) == [Row(1, "i", "x")]


@pytest.mark.parametrize("cut", [0, 3, 200])
def test_a_file_that_is_no_whole_parquet_is_refused(tmp_path: Path, cut: int) -> None:
    path = write(tmp_path, {"id": ["a"], "text": ["x"]})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(UsageError, match=r"a\.parquet: is no whole Parquet file"):
        list(streams.read(path))


def test_a_missing_file_or_a_folder_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        list(streams.read(tmp_path / "gone.parquet"))
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(UsageError, match="cannot be read: Is a directory"):
        list(streams.read(tmp_path / "folder.parquet"))


def test_a_packed_parquet_is_an_unknown_kind(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown kind of file"):
        list(streams.read(tmp_path / "a.parquet.gz"))


def test_without_pyarrow_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path, {"id": ["a"], "text": ["x"]})
    monkeypatch.setitem(sys.modules, "pyarrow.lib", None)
    with pytest.raises(UsageError, match=r'pip install .*"\.\[backtest\]"'):
        list(streams.read(path))


def test_a_table_without_rows_gives_none(tmp_path: Path) -> None:
    path = write(tmp_path, {"id": pa.array([], pa.string()), "text": pa.array([], pa.string())})
    assert list(streams.read(path)) == []


@given(
    st.lists(st.tuples(*[st.text(st.characters(exclude_categories=["Cs"]))] * 2), min_size=1, max_size=20),
    st.integers(1, 5),
)
def test_whatever_parquet_can_say_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], group: int
) -> None:
    ids, texts = zip(*rows, strict=True)
    path = write(tmp_path_factory.mktemp("rows"), {"id": ids, "text": texts}, row_group_size=group)
    read = [row for row in streams.read(path) if isinstance(row, Row)]
    assert [(row.line, row.id, row.text) for row in read] == [(n, *row) for n, row in enumerate(rows, 1)]
