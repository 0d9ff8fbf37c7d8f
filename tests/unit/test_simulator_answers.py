"""Which label the simulated LLM says, and how its answers file is read."""

from __future__ import annotations

import gzip
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datashunt.classifier import NONE_OF_THESE
from datashunt.errors import UsageError
from datashunt.simulator.answers import key, read
from datashunt.simulator.belief import Voice, restrict, say

LABELS = ("anger", "joy", "fear")
SURE = {"anger": 1.0}
SPREAD = {"anger": 0.5, "joy": 0.3, "fear": 0.2}


def written(path: Path, content: str) -> Path:
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_bytes(content.encode())
    return path


def jsonl(*rows: object) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_all_formats_give_the_same_distributions(tmp_path: Path, suffix: str) -> None:
    lines = written(
        tmp_path / f"a.jsonl{suffix}",
        jsonl(
            {"id": "1", "text": 'say "hi",\u2028now', "probabilities": {"joy": 3, "fear": 1}},
            {"id": 2, "text": "no", "probabilities": {"fear": 0.2}},
        ),
    )
    table = written(
        tmp_path / f"a.csv{suffix}", '\ufeffid,text,joy,fear\r\n1,"say ""hi"",\u2028now",3,1\r\n2,no,,0.2\r\n'
    )
    of_lines, of_table = read(lines), read(table)
    assert of_lines.by_key == of_table.by_key
    assert of_lines.labels == of_table.labels == ("joy", "fear")
    found = of_lines.find('say "hi",\u2028now')
    assert found is not None
    assert (found.id, dict(found.distribution)) == ("1", {"joy": 0.75, "fear": 0.25})


def test_a_label_column_means_certainty_and_other_columns_do_not_count(tmp_path: Path) -> None:
    answers = read(written(tmp_path / "a.csv", "meta,id,text,label\nx,1,one,joy\ny,2,two,fear\n"))
    assert answers.labels == ("joy", "fear")
    assert {text: dict(known.distribution) for text, known in answers.by_key.items()} == {
        "one": {"joy": 1.0},
        "two": {"fear": 1.0},
    }


def test_a_text_is_found_whatever_its_composition_and_outer_white_space(tmp_path: Path) -> None:
    answers = read(written(tmp_path / "a.csv", "id,text,label\n1,  cafe\u0301 \n,joy\n".replace(" \n", " ")))
    assert answers.find(key("\tcaf\u00e9\n")) is not None
    assert answers.find(key("cafe")) is None


def test_a_text_that_stands_there_twice_gets_the_mean_under_the_first_id(tmp_path: Path) -> None:
    answers = read(written(tmp_path / "a.csv", "id,text,a,b\n1,same,1,0\n2,same ,1,3\n"))
    found = answers.find("same")
    assert found is not None
    assert (found.id, dict(found.distribution)) == ("1", {"a": 0.625, "b": 0.375})


def test_the_fingerprint_changes_with_the_content_only(tmp_path: Path) -> None:
    content = "id,text,label\n1,one,joy\n"
    plain, packed = written(tmp_path / "a.csv", content), written(tmp_path / "b.csv.gz", content)
    other = written(tmp_path / "c.csv", content.replace("joy", "fear"))
    assert read(plain).fingerprint == read(packed).fingerprint != read(other).fingerprint


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.txt", "", "ends in .jsonl, .jsonl.gz, .csv or .csv.gz"),
        ("a.jsonl", "\n", "holds no answers"),
        ("a.jsonl", "\n{nope\n", "line 2: is no JSON"),
        ("a.jsonl", "[1]\n", "line 1: expected an object"),
        ("a.jsonl", jsonl({"id": "1", "text": "x"}), "line 1: probabilities"),
        ("a.jsonl", jsonl({"text": "x", "probabilities": {"a": 1}}), "line 1: id"),
        ("a.jsonl", jsonl({"id": "1", "text": "", "probabilities": {"a": 1}}), "line 1: text"),
        ("a.jsonl", jsonl({"id": "1", "text": "x", "probabilities": {"a": True}}), "weight of 'a'"),
        ("a.jsonl", jsonl({"id": "1", "text": "x", "probabilities": {"a": math.nan}}), "weight of 'a'"),
        ("a.jsonl", jsonl({"id": "1", "text": "x", "probabilities": {"\ud800": 1}}), "expected a label"),
        ("a.jsonl", jsonl({"id": "1", "text": "x", "probabilities": {"a": 0}}), "a weight above 0"),
        ("a.csv", "", "line 1: expected the columns"),
        ("a.csv", "id,text\n1,x\n", "line 1: expected the columns"),
        ("a.csv", "id,text,a,a\n1,x,1,0\n", "line 1: expected the columns"),
        ("a.csv", "id,text,a\n1,x\n", "line 2: expected 3 columns, found 2"),
        ("a.csv", "id,text,a\n1,x,much\n", "line 2: weight of 'a': expected a number"),
        ("a.csv", "id,text,a\n1,x,-1\n", "line 2: weight of 'a': expected a number"),
        ("a.csv", "id,text,a\n1,x,1\n1,y,1\n", "line 3: the id '1' stands in the file twice"),
        ("a.csv", 'id,text,a\n1,"x"y,1\n', "line 2: is no CSV"),
    ],
)
def test_a_wrong_file_is_refused_by_line_and_reason(tmp_path: Path, name: str, content: str, expected: str) -> None:
    path = written(tmp_path / name, content)
    with pytest.raises(UsageError) as caught:
        read(path)
    assert str(path) in str(caught.value)
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", ["absent.jsonl", "broken.jsonl.gz", "latin.csv"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.jsonl.gz").write_bytes(gzip.compress(b"x" * 1000)[:-9])
    (tmp_path / "latin.csv").write_bytes("id,text,label\n1,caf\u00e9,joy\n".encode("latin-1"))
    with pytest.raises(UsageError, match="cannot be read"):
        read(tmp_path / name)


def test_it_says_the_most_probable_label() -> None:
    said = say(Voice(), "text", SPREAD, LABELS, LABELS)
    assert (said.label, said.probabilities) == ("anger", SPREAD)


def test_mass_of_labels_left_out_goes_to_none_of_these_where_that_is_offered() -> None:
    offered = ("joy", "fear", NONE_OF_THESE)
    said = say(Voice(), "text", SPREAD, LABELS, offered)
    assert said.label == NONE_OF_THESE
    assert said.probabilities == {"joy": 0.3, "fear": 0.2, NONE_OF_THESE: 0.5}


def test_mass_of_labels_left_out_is_shared_where_none_of_these_is_not_offered() -> None:
    assert restrict(SPREAD, ("joy", "fear")) == pytest.approx({"joy": 0.6, "fear": 0.4})
    assert restrict(SURE, ("joy", "fear")) == {"joy": 0.5, "fear": 0.5}


def test_accuracy_is_the_share_of_texts_with_the_files_label_and_errors_look_sure() -> None:
    n, accuracy = 4000, 0.8
    said = [say(Voice(accuracy=accuracy), f"text {i}", SPREAD, LABELS, LABELS) for i in range(n)]
    counts = Counter(answer.label for answer in said)
    deviation = 5 * math.sqrt(n * 0.25)
    assert abs(counts["anger"] - n * accuracy) < deviation
    assert abs(counts["joy"] - n * 0.2 * 0.6) < deviation
    assert {max(answer.probabilities.values()) for answer in said} == {0.5}
    assert all(answer.probabilities[answer.label] == 0.5 for answer in said)


def test_errors_on_a_certain_label_go_to_all_other_labels_of_the_file() -> None:
    voice = Voice(accuracy=0.0)
    counts = Counter(say(voice, f"text {i}", SURE, LABELS, LABELS).label for i in range(1000))
    assert counts["anger"] == 0
    assert min(counts["joy"], counts["fear"]) > 400


def test_an_error_wins_a_tie() -> None:
    tie = {"anger": 0.5, "joy": 0.5}
    assert say(Voice(accuracy=0.0), "text", tie, LABELS, LABELS).label == "joy"


def test_samples_follow_the_distribution_and_leave_it_as_it_is() -> None:
    n = 4000
    said = [say(Voice(sample=True), f"text {i}", SPREAD, LABELS, LABELS) for i in range(n)]
    counts = Counter(answer.label for answer in said)
    assert all(abs(counts[label] - n * p) < 5 * math.sqrt(n * 0.25) for label, p in SPREAD.items())
    assert all(answer.probabilities == SPREAD for answer in said)


@pytest.mark.parametrize("voice", [Voice(), Voice(accuracy=0.5), Voice(sample=True)])
def test_pruning_that_keeps_the_answer_does_not_change_it(voice: Voice) -> None:
    known = {"anger": 0.6, "joy": 0.25, "fear": 0.15}
    for i in range(200):
        full = say(voice, f"text {i}", known, LABELS, LABELS).label
        pruned = [label for label in LABELS if label in {full, "anger"}]
        assert say(voice, f"text {i}", known, LABELS, pruned).label == full


def test_a_drawn_label_that_is_not_offered_is_none_of_these() -> None:
    voice = Voice(sample=True)
    for i in range(200):
        full = say(voice, f"text {i}", SPREAD, LABELS, LABELS).label
        pruned = say(voice, f"text {i}", SPREAD, LABELS, ("joy", "fear", NONE_OF_THESE)).label
        assert pruned == (NONE_OF_THESE if full == "anger" else full)


def test_unknown_texts_get_every_label_about_equally_often_and_never_none_of_these_unpruned() -> None:
    n = 3000
    offered = (*LABELS, NONE_OF_THESE)
    counts = Counter(say(Voice(), f"unknown {i}", None, LABELS, offered).label for i in range(n))
    assert set(counts) == set(LABELS)
    assert all(abs(count - n / 3) < 5 * math.sqrt(n * 2 / 9) for count in counts.values())


def test_labels_that_the_file_does_not_know_are_answered_too() -> None:
    counts = Counter(say(Voice(), f"text {i}", None, LABELS, ("yes", "no")).label for i in range(200))
    assert set(counts) == {"yes", "no"}


@settings(deadline=None)
@given(
    text=st.text(),
    seed=st.integers(0, 5),
    accuracy=st.floats(0, 1),
    sample=st.booleans(),
    weights=st.none() | st.dictionaries(st.sampled_from("abcdef"), st.floats(0.001, 1), min_size=1),
    offered=st.lists(st.sampled_from([*"abcdefgh", NONE_OF_THESE]), min_size=1, unique=True),
)
def test_every_answer_is_offered_possible_and_repeatable(
    text: str,
    seed: int,
    accuracy: float,
    sample: bool,
    weights: dict[str, float] | None,
    offered: list[str],
) -> None:
    voice = Voice(accuracy, sample, seed)
    known = weights and {label: weight / sum(weights.values()) for label, weight in weights.items()}
    said = say(voice, text, known, "abcdef", offered)
    assert list(said.probabilities) == offered
    assert sum(said.probabilities.values()) == pytest.approx(1)
    assert said.probabilities[said.label] > 0
    assert say(voice, text, known, "abcdef", offered) == said
    if not sample:
        assert said.probabilities[said.label] == max(said.probabilities.values())
