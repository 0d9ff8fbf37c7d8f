"""`review`, `label` and `rerun` as a person meets them."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import typer
from lanes import NAME, FakeLLM, World, reply
from test_command_line import Run, is_one_sentence, run, write

from datashunt.cli import people

__all__ = ["run"]  # the fixture

KEEP, DOUBT = "positive 0.95", "negative 0.5"


def table(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def filled(file: Path, **labels: str) -> Path:
    """The same file with these labels filled in, by ann."""
    rows = [{**row, "label": labels.get(row["id"], ""), "by": "ann"} for row in table(file)]
    with file.open("w", encoding="utf-8", newline="") as lines:
        writer = csv.DictWriter(lines, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return file


@pytest.fixture
def busy(world: World) -> World:
    """Six kept items and two that the LLM answered."""
    world.bundle()
    world.score(*[f"{KEEP} {n}" for n in range(6)], DOUBT, DOUBT)
    world.ask(FakeLLM([reply("negative")]))
    return world


def test_what_is_reviewed_can_be_filled_in_and_given_back(run: Run, busy: World, tmp_path: Path) -> None:
    file = tmp_path / "look.csv"
    shown = run("review", NAME, "--take", 3, "--out", file)
    assert shown.code == 0
    assert "least sure" in shown.out
    assert "positive 0.95" in shown.out
    assert [row["label"] + row["by"] for row in table(file)] == ["", "", ""]
    assert set(table(file)[0]) == {*people.BLANK, *people.HINTS}
    assert run("label", NAME, filled(file, i0="neutral", i1="negative")).out == (
        "2 labelled, 0 known already, 1 not filled in, 0 refused\n"
    )
    assert run("label", NAME, file).out == "0 labelled, 2 known already, 1 not filled in, 0 refused\n"
    assert busy.rows("SELECT key, label FROM items WHERE source = 'human' ORDER BY key") == [
        ("i0", "neutral"),
        ("i1", "negative"),
    ]


def test_json_lines_can_be_filled_in_too(run: Run, busy: World, tmp_path: Path) -> None:
    file = tmp_path / "look.jsonl"
    run("review", NAME, "--out", file)
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    rows[0]["label"] = "neutral"
    write(tmp_path, "look.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    assert run("label", NAME, file, "--by", "bob").out == ("1 labelled, 0 known already, 7 not filled in, 0 refused\n")
    assert busy.one("SELECT labelled_by FROM outcomes WHERE source = 'human'") == "bob"


def test_a_refused_label_names_its_line_and_the_rest_is_taken(run: Run, busy: World, tmp_path: Path) -> None:
    file = write(tmp_path, "l.csv", "id,label,by\ni0,angry,ann\nnobody,neutral,ann\ni2,neutral,\ni3,neutral,ann\n")
    ended = run("label", NAME, file)
    assert ended.code == 1
    assert ended.out == "1 labelled, 0 known already, 0 not filled in, 3 refused\n"
    assert [line.split(":")[:2] for line in ended.err.splitlines()] == [
        ["line 2", " unknown_label"],
        ["line 3", " unknown_id"],
        ["line 4", " bad_by"],
    ]


def test_a_column_that_is_missing_is_named(run: Run, busy: World, tmp_path: Path) -> None:
    assert is_one_sentence(run("label", NAME, write(tmp_path, "a.csv", "id,by\ni0,ann\n")), 2, "no column 'label'")
    assert is_one_sentence(run("label", NAME, write(tmp_path, "b.csv", "id,label\ni0,neutral\n")), 2, "'by'")
    assert run("label", NAME, tmp_path / "b.csv", "--by", "ann").code == 0


def test_a_sample_shows_nobody_what_the_models_said(run: Run, busy: World, tmp_path: Path) -> None:
    file = tmp_path / "sample.csv"
    ended = run("review", NAME, "--sample", 5, "--seed", 2, "--out", file)
    assert ended.out == "sample 2: 5 of 8 finished items, 5 without a person's label\n"
    assert set(table(file)[0]) == set(people.BLANK)
    run("label", NAME, filled(file, **{table(file)[0]["id"]: "neutral"}))
    assert "4 without a person's label" in run("review", NAME, "--sample", 5, "--seed", 2).out
    assert is_one_sentence(run("review", NAME, "--sample", 6, "--seed", 2), 2, "seed 2 has drawn 5 items")


def test_quality_is_told_by_source_with_both_intervals(run: Run, busy: World, tmp_path: Path) -> None:
    assert is_one_sentence(run("review", NAME, "--quality"), 2, "has no sample: draw one")
    file = tmp_path / "sample.csv"
    run("review", NAME, "--sample", 8, "--out", file)
    labels = {f"i{n}": "positive" for n in range(6)} | {"i6": "negative", "i7": "neutral"}
    run("label", NAME, filled(file, **labels))
    out = run("review", NAME, "--quality").out
    assert "8 labelled of 8 drawn from 8 finished items" in out
    assert "87.5%" in out
    assert "fewer than 30 labels: no prediction-powered interval" in out
    assert "no harder" not in out


def test_certificate_status_and_the_database_tell_what_people_say_too(run: Run, busy: World, tmp_path: Path) -> None:
    assert "agreement with people" not in run("certificate", NAME).out
    assert json.loads(run("certificate", NAME, "--json").out)["agreement_with_people"] is None
    assert json.loads(run("status", NAME, "--json").out)["people"] is None
    file = tmp_path / "sample.csv"
    run("review", NAME, "--sample", 8, "--out", file)
    assert "people: 0 of a sample of 8 labelled\n" in run("status").out
    labels = {f"i{n}": "positive" for n in range(6)} | {"i6": "negative", "i7": "neutral"}
    run("label", NAME, filled(file, **labels))
    was = {
        row.id: row.label
        for row in busy.rows(
            "SELECT i.key AS id, o.label FROM outcomes o JOIN items i ON i.id = o.item_id WHERE o.source <> 'human'"
        )
    }
    out = run("certificate", NAME).out
    assert "agreement with people, sample 1:" in out
    assert "87.5%" in out
    found = json.loads(run("certificate", NAME, "--json").out)["agreement_with_people"]
    assert (found["size"], found["labelled"], found["right"][0]["share"]) == (8, 8, 0.875)
    by_label = {one["of"]: one for one in found["right"][3:]}
    for label in ("positive", "negative"):
        of = [key for key, said in was.items() if said == label]
        right = sum(labels[key] == label for key in of)
        assert (by_label[label]["labelled"], by_label[label]["share"]) == (len(of), right / len(of) if of else None)
        said = sum(one == label for one in labels.values())
        assert (by_label[f"{label} for people: found"]["labelled"]) == said
        assert by_label[f"{label} for people: found"]["share"] == right / said
    assert "people: 8 of a sample of 8 labelled: 87.5% right (" in run("status").out
    rows = busy.rows("SELECT label, labelled, agreement FROM people_quality ORDER BY label NULLS FIRST")
    assert (rows[0].label, rows[0].labelled) == (None, 8)
    assert float(rows[0].agreement) == 0.875
    assert {row.label: row.labelled for row in rows[1:]} == {
        label: list(was.values()).count(label) for label in {*was.values()}
    }


def test_enough_labels_give_the_powered_interval(run: Run, world: World, tmp_path: Path) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    world.score(*[f"{KEEP} {n}" for n in range(80)])
    world.ask(FakeLLM([reply("positive")]))
    file = tmp_path / "sample.csv"
    run("review", NAME, "--sample", 40, "--out", file)
    keys = [row["id"] for row in table(file)]
    run("label", NAME, filled(file, **dict.fromkeys(keys[:35], "positive")))
    out = run("review", NAME, "--quality").out
    assert "prediction-powered, 45 audits more" in out
    assert "35 labelled of 40 drawn from 80 finished items" in out
    assert "no harder than what is" in out


def test_a_file_of_another_kind_is_refused(run: Run, busy: World, tmp_path: Path) -> None:
    assert is_one_sentence(run("review", NAME, "--out", tmp_path / "a.xlsx"), 2, "expected .csv or .jsonl")
    assert is_one_sentence(run("review", NAME, "--out", tmp_path / "no" / "a.csv"), 2, "cannot be written")
    assert is_one_sentence(run("review", NAME, "--quality", "--sample", 5), 2, "neither --sample nor --out")
    assert is_one_sentence(run("review", NAME, "--quality", "--out", tmp_path / "a.csv"), 2, "neither --sample nor")
    assert is_one_sentence(run("review", NAME, "--seed", 2), 2, "--sample or --quality")


def test_a_rerun_says_how_many_and_what_it_may_cost(run: Run, busy: World) -> None:
    assert run("rerun", NAME).out == "sentiment has no outcome of a version before 1: nothing to do\n"
    busy.apply(instruction="Say how the writer felt.")
    ended = run("rerun", NAME, "--spec-before", 2, "--yes")
    assert ended.code == 0
    assert ended.out.startswith("8 items of sentiment will be classified again under version 2; if each of them goes")
    assert " at $0.00" in ended.out
    assert ended.out.endswith("8 queued again\n")
    assert busy.states() == {"queued": 8}
    assert is_one_sentence(run("rerun", NAME, "--spec-before", 3), 2, "versions 1 to 2")


@pytest.mark.usefixtures("busy")
@pytest.mark.parametrize("drawn", [(), ("--sample", "5")])
def test_a_file_that_people_may_have_filled_in_is_never_overwritten(
    run: Run, tmp_path: Path, drawn: tuple[str, ...]
) -> None:
    file = write(tmp_path, "look.csv", "id,text,label,by\ni0,a text,positive,ann\n")
    assert is_one_sentence(run("review", NAME, *drawn, "--out", file), 2, "is there already", "another name")
    assert file.read_text("utf-8").endswith("i0,a text,positive,ann\n")


def test_a_rerun_that_nobody_confirms_changes_nothing(run: Run, busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    busy.apply(instruction="Say how the writer felt.")

    def no(*_: object, **__: object) -> bool:
        raise typer.Abort

    monkeypatch.setattr("typer.confirm", no)
    assert run("rerun", NAME).code == 130
    assert busy.states() == {"done": 8}
