from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.backtest import recording
from datashunt.backtest.recording import Recorded, Recording
from datashunt.errors import UsageError

LABELS = ("a", "b", "1")
ROWS: list[dict[str, Any]] = [
    {"id": "i", "text": "one", "llm": "a", "gold": "b"},
    {"id": "j", "text": "two", "llm": "none", "gold": "a"},
    {"id": "k", "text": "three", "llm": "b", "gold": None},
]


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    out = io.StringIO()
    if ".csv" in name:
        writer = csv.DictWriter(out, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    else:
        out.write("\n".join(json.dumps(row) for row in rows))
    raw = out.getvalue().encode()
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def read(path: Path, *, gold: str | None = "gold", labels: tuple[str, ...] = LABELS, **more: int) -> Recording:
    return recording.read(
        path, labels, id_column="id", text_column="text", teacher_column="llm", gold_column=gold, **more
    )


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz", "a.parquet"])
class TestEveryFormat:
    def test_says_the_same(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path, name, ROWS)
        first = 2 if ".csv" in name else 1
        made = read(path)
        assert made.items == (
            Recorded(first, "i", "one", "a", "b"),
            Recorded(first + 1, "j", "two", None, "a"),
            Recorded(first + 2, "k", "three", "b", None),
        )
        assert made.unanswered == 1
        assert made.notes == (
            f"line {first + 1}: the LLM said 'none', which is no label of this classifier:"
            " a call without an answer (1 such line)",
        )
        assert made.fingerprint == read(path).fingerprint
        other = recording.read(path, LABELS, id_column="id", text_column="text", teacher_column="gold")
        assert made.fingerprint != other.fingerprint

    @pytest.mark.parametrize("column", ["id", "text", "llm", "gold"])
    def test_names_a_missing_column_and_those_there_are(self, tmp_path: Path, name: str, column: str) -> None:
        rows = [{key: value for key, value in row.items() if key != column} for row in ROWS]
        there = ", ".join(repr(key) for key in rows[0])
        with pytest.raises(UsageError, match=rf"no column '{column}': .* has {there};"):
            read(write(tmp_path, name, rows))

    def test_whole_numbers_are_ids_and_labels(self, tmp_path: Path, name: str) -> None:
        rows = [{"id": 7, "text": "one", "llm": 1, "gold": 1}, {"id": 8, "text": "two", "llm": 2, "gold": 1}]
        made = read(write(tmp_path, name, rows))
        assert [(item.id, item.teacher, item.gold) for item in made.items] == [("7", "1", "1"), ("8", None, "1")]


class TestRowsLeftOut:
    def test_each_is_noted_with_its_line_and_without_its_text(self, tmp_path: Path) -> None:
        rows = [
            ROWS[0],
            {"id": "", "text": "secret", "llm": "a"},
            {"id": "x", "text": " ", "llm": "a"},
            {"id": "x", "text": "se\0cret", "llm": "a"},
            {"id": "x", "text": "secret\ud800", "llm": "a"},
            {"id": "x", "text": "secret" * 20, "llm": "a"},
            {"id": "i", "text": "secret", "llm": "a"},
            {"id": "x", "llm": "a"},
            {"text": "secret", "llm": "a"},
            {"id": "x", "text": "good at last", "llm": "b"},
        ]
        made = read(write(tmp_path, "a.jsonl", rows), gold=None, max_text_bytes=100)
        assert [item.line for item in made.items] == [1, 10]
        assert made.left_out == 8
        assert [note.split(": left out: ") for note in made.notes] == [
            ["line 2", "the id is empty"],
            ["line 3", "the text is empty"],
            ["line 4", "the text holds a NUL byte at character 2"],
            ["line 5", "the text holds a lone surrogate: it is no valid Unicode"],
            ["line 6", "the text has 120 bytes, at most 100 are allowed"],
            ["line 7", "id 'i' stands in line 1 already"],
            ["line 8", "there is no field 'text'"],
            ["line 9", "there is no field 'id'"],
        ]

    def test_a_label_that_is_no_text_leaves_the_item_and_is_no_label(self, tmp_path: Path) -> None:
        rows = [*ROWS, {"id": "x", "text": "one", "llm": {"a": 1}, "gold": "a"}, {"id": "y", "text": "two", "llm": "a"}]
        made = read(write(tmp_path, "a.jsonl", rows))
        assert [(one.id, one.teacher, one.gold) for one in made.items[-2:]] == [("x", None, "a"), ("y", "a", None)]
        assert made.left_out == 0

    def test_a_row_of_csv_that_ends_early_is_an_item_without_those_labels(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_bytes(b"id,text,llm,gold\ni,one,a,a\nj,two,b\nk,three\nl,four,\xff,b\n")
        made = read(tmp_path / "a.csv")
        found = [(one.id, one.teacher, one.gold) for one in made.items]
        assert found == [("i", "a", "a"), ("j", "b", None), ("k", None, None), ("l", None, "b")]

    def test_lines_that_an_open_quote_swallowed_are_all_counted(self, tmp_path: Path) -> None:
        lines = [f"{n},text {n},a,b" for n in range(10)]
        (tmp_path / "a.csv").write_text("\n".join(["id,text,llm,gold", *lines, '10,"open,a,b', "11,lost,a,b"]) + "\n")
        assert read(tmp_path / "a.csv").left_out == 2

    def test_a_file_that_an_open_quote_swallows_is_refused(self, tmp_path: Path) -> None:
        lines = [f"{n},text {n},a,b" for n in range(10)]
        (tmp_path / "a.csv").write_text("\n".join(["id,text,llm,gold", "x,fine,a,b", 'y,"open,a,b', *lines]) + "\n")
        with pytest.raises(UsageError, match=r"most of it cannot be read: line 3: left out: lines 3 to 13: .*quote"):
            read(tmp_path / "a.csv")

    @pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.parquet"])
    def test_a_file_without_a_usable_row_is_refused_with_the_first_reason(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path, name, [{"id": "x", "text": "", "llm": "a", "gold": "a"}] * 3)
        with pytest.raises(UsageError, match=r"the first of its 3 rows: line [12]: left out: the text is empty"):
            read(path)

    def test_a_header_alone_or_a_table_without_rows_is_empty(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("id,text,llm,gold\n")
        empty = pa.table({name: pa.array([], pa.string()) for name in ("id", "text", "llm", "gold")})
        pq.write_table(empty, tmp_path / "a.parquet")
        for name in ("a.csv", "a.parquet"):
            with pytest.raises(UsageError, match="holds no item: it has no rows"):
                read(tmp_path / name)

    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.jsonl", "a.jsonl.gz"])
    def test_nothing_at_all_is_empty(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
        with pytest.raises(UsageError, match="is empty"):
            read(tmp_path / name)


class TestLabels:
    def test_each_label_that_is_none_is_noted_once_with_its_first_line_and_count(self, tmp_path: Path) -> None:
        said = ["a", "none", "", None, "none", "b ", " ", "A", "none"]
        rows = [{"id": str(n), "text": "x", "llm": label} for n, label in enumerate(said)]
        made = read(write(tmp_path, "a.jsonl", rows), gold=None)
        assert [item.teacher for item in made.items] == ["a", None, None, None, None, "b", None, None, None]
        assert made.unanswered == 7
        assert made.notes == (
            "line 2: the LLM said 'none', which is no label of this classifier: a call without an answer"
            " (3 such lines)",
            "line 3: the LLM said nothing: a call without an answer (3 such lines)",
            "line 8: the LLM said 'A', which is no label of this classifier: a call without an answer (1 such line)",
        )

    def test_an_unknown_gold_label_is_noted_and_a_missing_one_is_not(self, tmp_path: Path) -> None:
        rows = [{"id": str(n), "text": "x", "llm": "a", "gold": gold} for n, gold in enumerate(["c", None, "", "a"])]
        made = read(write(tmp_path, "a.jsonl", rows))
        assert [item.gold for item in made.items] == [None, None, None, "a"]
        assert made.notes == (
            "line 1: the gold label is 'c', which is no label of this classifier: taken as unknown (1 such line)",
        )
        assert made.unanswered == 0

    @pytest.mark.parametrize(("column", "found"), [("llm", "'x'"), ("gold", "'x'")])
    def test_a_column_without_one_known_label_is_refused(self, tmp_path: Path, column: str, found: str) -> None:
        rows = [{**row, "llm": "a", "gold": "a", column: "x"} for row in ROWS]
        complaint = f"column '{column}' holds no label .*: line 2 has {found}, expected one of 'a', 'b', '1'"
        with pytest.raises(UsageError, match=complaint):
            read(write(tmp_path, "a.csv", rows))

    def test_a_column_of_texts_is_refused_without_showing_one(self, tmp_path: Path) -> None:
        rows = [{**row, "llm": "secret " * 9} for row in ROWS]
        with pytest.raises(UsageError, match="line 2 has a text of 62 characters") as error:
            read(write(tmp_path, "a.csv", rows))
        assert "secret" not in str(error.value)

    def test_many_labels_are_listed_in_part(self, tmp_path: Path) -> None:
        labels = tuple(f"l{n}" for n in range(77))
        with pytest.raises(UsageError, match="'l19' and 57 more"):
            read(write(tmp_path, "a.csv", ROWS), labels=labels)

    def test_gold_is_not_read_unless_asked_for(self, tmp_path: Path) -> None:
        assert {item.gold for item in read(write(tmp_path, "a.csv", ROWS), gold=None).items} == {None}


_anything = st.text(max_size=12) | st.none() | st.integers() | st.sampled_from(LABELS)


@given(st.lists(st.fixed_dictionaries({"id": _anything, "text": _anything, "llm": _anything}), max_size=25))
def test_every_row_is_either_an_item_or_noted(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    good = {"id": "good one", "text": "x", "llm": "a"}
    made = read(write(tmp_path_factory.mktemp("rows"), "a.jsonl", [good, *rows]), gold=None)
    left_out = [note for note in made.notes if ": left out: " in note]
    assert len(made.items) + len(left_out) == len(rows) + 1
    assert len({item.id for item in made.items}) == len(made.items)
    assert made.unanswered == sum(item.teacher is None for item in made.items)
    assert {item.teacher for item in made.items} <= {*LABELS, None}
    assert [item.line for item in made.items] == sorted({item.line for item in made.items})
