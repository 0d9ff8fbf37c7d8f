from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt import streams
from datashunt.errors import UsageError
from datashunt.streams import BadRow, Row


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    return path


def bad(path: Path, **columns: str) -> list[tuple[int, str | None, str]]:
    return [(row.line, row.id, row.reason) for row in streams.read(path, **columns) if isinstance(row, BadRow)]


def good(path: Path, **columns: str) -> list[Row]:
    return [row for row in streams.read(path, **columns) if isinstance(row, Row)]


class TestJsonLines:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "A.JSONL", "my.data.jsonl.gz"])
    def test_rows_carry_line_id_text_and_meta(self, tmp_path: Path, name: str) -> None:
        lines = '{"id": "a", "text": "fine", "meta": {"n": 1}}\n\n{"text": "Grüße\\n2", "id": "b"}'
        path = tmp_path / name
        path.write_bytes(gzip.compress(lines.encode()) if name.endswith(".gz") else lines.encode())
        assert list(streams.read(path)) == [Row(1, "a", "fine", {"n": 1}), Row(3, "b", "Grüße\n2")]

    def test_integer_ids_become_their_decimal_text(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.jsonl", '{"id": 7, "text": "x"}\n{"id": -12, "text": "y"}\n')
        assert [row.id for row in good(path)] == ["7", "-12"]

    def test_fields_can_have_other_names(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.jsonl", '{"key": "a", "body": "x", "id": "no", "text": "no"}')
        assert good(path, id_column="key", text_column="body") == [Row(1, "a", "x")]

    def test_a_byte_order_mark_is_no_part_of_the_first_row(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.jsonl", b'\xef\xbb\xbf{"id": "a", "text": "x"}\r\n')
        assert good(path) == [Row(1, "a", "x")]

    def test_a_line_separator_inside_a_text_ends_no_row(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.jsonl", '{"id": "a", "text": "one\u2028two\u0085three"}')
        assert good(path) == [Row(1, "a", "one\u2028two\u0085three")]

    @pytest.mark.parametrize(
        ("line", "key", "reason"),
        [
            (b'{"id": "x", "text": "\xff"}', None, "invalid_utf8"),
            (b"hello", None, "not_json"),
            (b'{"id": "x", "text": "y"', None, "not_json"),
            (b'{"id": "x", "text": "y", "meta": {"n": NaN}}', None, "not_json"),
            (b'{"id": ' + b"9" * 5000 + b', "text": "y"}', None, "not_json"),
            (b"[" * 100_000, None, "not_json"),
            (b'["x", "y"]', None, "not_object"),
            (b"null", None, "not_object"),
            (b'{"text": "y"}', None, "missing_field"),
            (b'{"id": "x"}', "x", "missing_field"),
            (b'{"id": 5}', "5", "missing_field"),
            (b'{"id": null, "text": "y"}', None, "bad_id"),
            (b'{"id": true, "text": "y"}', None, "bad_id"),
            (b'{"id": 1.5, "text": "y"}', None, "bad_id"),
            (b'{"id": "x", "text": 5}', "x", "not_text"),
            (b'{"id": "x", "text": null}', "x", "not_text"),
            (b'{"id": "x", "text": "y", "meta": [1]}', "x", "bad_meta"),
            (b'{"id": "\\ud800", "text": 5}', None, "not_text"),
            (b'{"id": "\\u0000", "text": 5}', None, "not_text"),
        ],
    )
    def test_a_bad_line_is_named_and_the_others_are_read(
        self, tmp_path: Path, line: bytes, key: str | None, reason: str
    ) -> None:
        path = write(tmp_path, "a.jsonl", b'{"id": "1", "text": "a"}\n' + line + b'\n{"id": "3", "text": "c"}\n')
        assert [row.id for row in good(path)] == ["1", "3"]
        assert bad(path) == [(2, key, reason)]

    def test_details_name_line_and_field_but_never_show_the_text(self, tmp_path: Path) -> None:
        lines = ['{"id": "x", "body": "secret"}', '{"id": "x", "text": ["secret"]}', '{"id": "x" "secret"}']
        path = write(tmp_path, "a.jsonl", "\n".join(lines))
        details = [row.detail for row in streams.read(path) if isinstance(row, BadRow)]
        assert details == [
            "line 1: there is no field 'text'",
            "line 2: expected 'text' as text, found a list",
            "line 3 is no JSON: Expecting ',' delimiter at character 12",
        ]

    @given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=20))
    def test_whatever_json_can_say_comes_back(
        self, tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]]
    ) -> None:
        lines = "\n".join(json.dumps({"id": key, "text": text}) for key, text in rows)
        path = write(tmp_path_factory.mktemp("rows"), "a.jsonl", lines)
        assert [(row.id, row.text) for row in good(path)] == rows


class TestCsv:
    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
    def test_rows_carry_the_line_where_they_start(self, tmp_path: Path, name: str) -> None:
        content = 'text,other,id\r\n"two\r\nlines",o,a\r\n\r\n"say ""hi"", now",o,b\r\nplain,o,c'
        assert list(streams.read(write(tmp_path, name, content))) == [
            Row(2, "a", "two\r\nlines"),
            Row(5, "b", 'say "hi", now'),
            Row(6, "c", "plain"),
        ]

    def test_columns_can_have_other_names(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.csv", "key,body\n7,x\n")
        assert good(path, id_column="key", text_column="body") == [Row(2, "7", "x")]

    def test_a_byte_order_mark_is_no_part_of_the_first_column(self, tmp_path: Path) -> None:
        assert good(write(tmp_path, "a.csv", b"\xef\xbb\xbfid,text\na,x\n")) == [Row(2, "a", "x")]

    def test_a_field_may_be_longer_than_the_default_limit_of_python(self, tmp_path: Path) -> None:
        text = "x" * 200_000
        assert good(write(tmp_path, "a.csv", f"id,text\na,{text}\n")) == [Row(2, "a", text)]

    @pytest.mark.parametrize(
        ("line", "key", "reason"),
        [
            (b"x,\xff", "x", "invalid_utf8"),
            (b"\xff,x", None, "invalid_utf8"),
            (b"x", "x", "missing_field"),
            (b"x,one,two", None, "bad_csv"),
            (b'x,"one"two', None, "bad_csv"),
        ],
    )
    def test_a_bad_row_is_named_and_the_others_are_read(
        self, tmp_path: Path, line: bytes, key: str | None, reason: str
    ) -> None:
        path = write(tmp_path, "a.csv", b"id,text\n1,a\n" + line + b"\n3,c\n")
        assert [row.id for row in good(path)] == ["1", "3"]
        assert bad(path) == [(3, key, reason)]

    def test_undecodable_bytes_of_other_columns_do_not_matter(self, tmp_path: Path) -> None:
        assert good(write(tmp_path, "a.csv", b"id,text,other\na,x,\xff\n")) == [Row(2, "a", "x")]

    def test_a_quote_that_never_closes_says_which_lines_are_lost(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.csv", 'id,text\n1,a\n2,"b\n3,c\n4,d\n')
        rows = list(streams.read(path))
        assert rows[0] == Row(2, "1", "a")
        assert [(row.line, row.reason) for row in rows[1:] if isinstance(row, BadRow)] == [(3, "bad_csv")]
        assert isinstance(rows[1], BadRow)
        assert "lines 3 to 5" in rows[1].detail

    @pytest.mark.parametrize(
        ("header", "complaint"),
        [
            ("key,text", "no column 'id': the header has 'key', 'text'"),
            ("id;text", "no column 'id': the header has 'id;text'"),
            ("id,body", "no column 'text'"),
            ("id,text,id", "2 columns are called 'id'"),
        ],
    )
    def test_a_missing_or_doubled_column_refuses_the_file(self, tmp_path: Path, header: str, complaint: str) -> None:
        with pytest.raises(UsageError, match=r"a\.csv") as error:
            list(streams.read(write(tmp_path, "a.csv", header + "\n1,x\n")))
        assert complaint in str(error.value)

    def test_a_header_with_a_quote_that_never_closes_refuses_the_file(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"a\.csv: its header is no CSV: "):
            list(streams.read(write(tmp_path, "a.csv", 'id,"text\n1,x\n')))

    def test_a_header_alone_is_a_file_without_rows(self, tmp_path: Path) -> None:
        assert list(streams.read(write(tmp_path, "a.csv", "id,text\n"))) == []


class TestFurtherColumns:
    @pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
    def test_cells_of_csv_come_as_they_are(self, tmp_path: Path, name: str) -> None:
        path = write(tmp_path, name, "gold,id,said,text\n,a, b ,x\n")
        assert list(streams.read(path, columns=["said", "gold"])) == [
            Row(2, "a", "x", fields={"said": " b ", "gold": ""})
        ]

    def test_a_row_of_csv_that_ends_before_a_column_is_bad(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.csv", "id,text,said\na,x\nb,y,z\n")
        rows = list(streams.read(path, columns=["said"]))
        assert rows == [
            BadRow(2, "a", "missing_field", "line 2 has no field 'said'"),
            Row(3, "b", "y", fields={"said": "z"}),
        ]

    def test_undecodable_bytes_in_a_column_asked_for_make_a_bad_row(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.csv", b"id,text,said\na,x,\xff\n")
        (row,) = streams.read(path, columns=["said"])
        assert isinstance(row, BadRow)
        assert row.reason == "invalid_utf8"

    @pytest.mark.parametrize(
        ("value", "text"),
        [("null", None), ("3", "3"), ("3.0", "3"), ("0.5", "0.5"), ("true", "true"), ('"s"', "s"), ("1e999", None)],
    )
    def test_values_of_json_become_text(self, tmp_path: Path, value: str, text: str | None) -> None:
        path = write(tmp_path, "a.jsonl", f'{{"id": 1, "text": "x", "said": {value}}}')
        assert list(streams.read(path, columns=["said"])) == [Row(1, "1", "x", fields={"said": text})]

    def test_a_list_is_no_text(self, tmp_path: Path) -> None:
        path = write(tmp_path, "a.jsonl", '{"id": "a", "text": "x", "said": ["secret"]}')
        expected = BadRow(1, "a", "not_text", "line 1: expected 'said' as text, found a list")
        assert list(streams.read(path, columns=["said"])) == [expected]

    def test_a_field_of_json_may_be_absent_from_some_lines_only(self, tmp_path: Path) -> None:
        lines = ['{"id": "a", "text": "x"}', '{"id": "b", "text": "y", "said": "z"}']
        path = write(tmp_path, "a.jsonl", "\n".join(lines))
        assert [row.fields["said"] for row in streams.read(path, columns=["said"]) if isinstance(row, Row)] == [
            None,
            "z",
        ]
        with pytest.raises(UsageError, match="no column 'gold': the first object has 'id', 'text'; name another one"):
            list(streams.read(path, columns=["said", "gold"]))


class TestWholeFile:
    @pytest.mark.parametrize("name", ["a.txt", "a.json", "a", "a.gz", "csv", "a.csv.zip"])
    def test_an_unknown_extension_names_those_that_are_known(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(UsageError, match=r"expected \.jsonl, \.jsonl\.gz, \.csv, \.csv\.gz or \.parquet"):
            list(streams.read(write(tmp_path, name, "id,text\n")))

    @pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.csv.gz", "a.jsonl.gz"])
    @pytest.mark.parametrize("content", ["", "\n \n"])
    def test_an_empty_file_is_refused_with_what_was_expected(self, tmp_path: Path, name: str, content: str) -> None:
        with pytest.raises(UsageError, match=r"'id'"):
            list(streams.read(write(tmp_path, name, content)))

    def test_a_file_that_is_no_gzip_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.csv.gz").write_bytes(b"id,text\n")
        with pytest.raises(UsageError, match=r"a\.csv\.gz: is no whole gzip file"):
            list(streams.read(tmp_path / "a.csv.gz"))

    @pytest.mark.parametrize("name", ["a.jsonl.gz", "a.csv.gz"])
    def test_a_gzip_cut_short_gives_its_rows_and_then_the_error(self, tmp_path: Path, name: str) -> None:
        lines = [f'{{"id": "{n}", "text": "{n * 7919}"}}' for n in range(20_000)]
        content = "\n".join(lines if name == "a.jsonl.gz" else ["id,text", *map(str, range(20_000))])
        path = write(tmp_path, name, content)
        path.write_bytes(path.read_bytes()[:-2000])
        rows = streams.read(path)
        assert next(rows).line <= 2
        with pytest.raises(UsageError, match="is no whole gzip file"):
            list(rows)

    def test_a_missing_file_or_a_folder_is_one_sentence(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"gone\.csv: cannot be read: No such file"):
            list(streams.read(tmp_path / "gone.csv"))
        (tmp_path / "folder.csv").mkdir()
        with pytest.raises(UsageError, match=r"folder\.csv: cannot be read: Is a directory"):
            list(streams.read(tmp_path / "folder.csv"))

    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
    def test_only_the_row_that_is_asked_for_is_read(self, tmp_path: Path, name: str) -> None:
        """Reading is lazy: the end of the file may even change after the first row is out."""
        row = '{"id": "a", "text": "x"}\n' if name == "a.jsonl" else "a,x\n"
        path = write(tmp_path, name, "id,text\n" * (name == "a.csv") + row * 100_000)
        rows = streams.read(path)
        next(rows)
        path.write_bytes(path.read_bytes()[:1000])
        assert sum(1 for _ in rows) < 50_000


@pytest.mark.parametrize("wanted", [True, False])
def test_meta_is_the_items_beside_further_columns_too_unless_told(tmp_path: Path, wanted: bool) -> None:
    (tmp_path / "items.jsonl").write_text('{"id": "a", "text": "fine", "meta": {"n": 1}, "due": "7"}\n')
    (row,) = streams.read(tmp_path / "items.jsonl", columns=["due"], meta=wanted)
    assert isinstance(row, Row)
    assert (row.meta, row.fields) == ({"n": 1} if wanted else None, {"due": "7"})
