"""Label probabilities out of the log probabilities of tokens, however a server cuts its text."""

from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.classifier import NONE_OF_THESE
from datashunt.classifier import parse as parse_spec
from datashunt.prompts import Prompt, TokenLogprobs, label_probabilities, render

LABELS = ["positive", "negative", "neutral"]


def prompt(labels: list[str] = LABELS, candidates: list[str] | None = None, option_ids: bool = False) -> Prompt:
    spec = parse_spec({"name": "n", "labels": labels, "instruction": "i", "llm": {"option_ids": option_ids}})
    return render(spec, "x", candidates=candidates)


def tokens(*entries: tuple[str, float, dict[str, float]]) -> list[TokenLogprobs]:
    """Each entry: token, its probability, and the probabilities of alternatives."""
    return [
        TokenLogprobs(
            text.encode(),
            math.log(p),
            tuple((other.encode(), math.log(q)) for other, q in {text: p, **others}.items()),
        )
        for text, p, others in entries
    ]


def certain(text: str) -> tuple[str, float, dict[str, float]]:
    return (text, 1.0, {})


def test_alternatives_that_begin_other_labels_have_their_probability() -> None:
    said = tokens(
        certain('{"'), certain("label"), certain('":"'),
        ("pos", 0.7, {"neg": 0.2, "neut": 0.1}), certain("itive"), certain('"}'),
    )  # fmt: skip
    assert label_probabilities(said, prompt(), "positive") == pytest.approx(
        {"positive": 0.7, "negative": 0.2, "neutral": 0.1}
    )


def test_labels_with_a_common_beginning_are_told_apart_where_they_part() -> None:
    said = tokens(
        certain('{"label":"'),
        ("ne", 0.6, {"pos": 0.4}),
        ("gative", 0.75, {"utral": 0.25}),
        certain('"}'),
    )
    assert label_probabilities(said, prompt(), "negative") == pytest.approx(
        {"positive": 0.4, "negative": 0.45, "neutral": 0.15}
    )


def test_an_alternative_that_could_be_several_labels_is_shared_among_them() -> None:
    said = tokens(certain('{"label":"'), ("pos", 0.6, {"ne": 0.4}), certain('itive"}'))
    assert label_probabilities(said, prompt(), "positive") == pytest.approx(
        {"positive": 0.6, "negative": 0.2, "neutral": 0.2}
    )


def test_a_label_that_begins_another_is_decided_by_its_closing_quote() -> None:
    said = tokens(certain('{"label":"'), certain("good"), ('"}', 0.8, {" news": 0.2}))
    assert label_probabilities(said, prompt(["good", "good news"]), "good") == pytest.approx(
        {"good": 0.8, "good news": 0.2}
    )


def test_tokens_may_begin_before_the_value_and_end_after_it() -> None:
    said = tokens(certain('{"label'), ('":"positive"}', 0.9, {'":"negative"}': 0.1}))
    assert label_probabilities(said, prompt(), "positive") == pytest.approx(
        {"positive": 0.9, "negative": 0.1, "neutral": 0.0}
    )


def test_alternatives_spelled_with_spaces_or_capitals_count_for_their_label() -> None:
    said = tokens(
        certain('{ "label" :'), certain(' "'),
        ("positive", 0.5, {" negative": 0.2, "Neutral": 0.1, "Positive": 0.1, "banana": 0.1}),
        certain('" }'),
    )  # fmt: skip
    assert label_probabilities(said, prompt(), "positive") == pytest.approx(
        {"positive": 0.6 / 0.9, "negative": 0.2 / 0.9, "neutral": 0.1 / 0.9}
    )


def test_other_ways_to_lay_out_the_same_json_say_nothing_of_the_label() -> None:
    said = tokens(certain('{"label'), ('":"', 0.9, {'": "': 0.1}), ("pos", 0.8, {"neg": 0.2}), certain('itive"}'))
    assert label_probabilities(said, prompt(), "positive") == pytest.approx(
        {"positive": 0.8, "negative": 0.2, "neutral": 0.0}
    )


def test_a_code_fence_before_the_json_does_not_hide_the_label() -> None:
    said = tokens(certain("```json\n"), certain('{"label": "'), ("pos", 0.8, {"neg": 0.2}), certain('itive"}\n```'))
    assert label_probabilities(said, prompt(), "positive") == pytest.approx(
        {"positive": 0.8, "negative": 0.2, "neutral": 0.0}
    )


def test_characters_cut_in_half_are_joined() -> None:
    first, second = "ä".encode()[:1], "ä".encode()[1:]
    said = [
        TokenLogprobs(b'{"label":"', 0.0, ((b'{"label":"', 0.0),)),
        TokenLogprobs(first, math.log(0.5), ((first, math.log(0.5)), ("ö".encode(), math.log(0.25)))),
        TokenLogprobs(second, math.log(0.8), (("ü".encode()[1:], math.log(0.2)),)),
        TokenLogprobs(b'"}', 0.0, ()),
    ]
    assert label_probabilities(said, prompt(["ä", "ö", "ü"]), "ä") == pytest.approx(
        {"ä": 0.4 / 0.75, "ö": 0.25 / 0.75, "ü": 0.1 / 0.75}
    )


def test_a_label_written_with_escapes_is_recognised() -> None:
    said = tokens(certain('{"label":"'), ("\\u00e4", 0.7, {"ö": 0.3}), certain('"}'))
    assert label_probabilities(said, prompt(["ä", "ö"]), "ä") == pytest.approx({"ä": 0.7, "ö": 0.3})


def test_ids_of_one_token_tell_labels_with_a_common_beginning_apart_at_once() -> None:
    said = tokens(certain('{"label":"'), ("B", 0.6, {"C": 0.3, "A": 0.1}), certain('"}'))
    assert label_probabilities(said, prompt(option_ids=True), "negative") == pytest.approx(
        {"positive": 0.1, "negative": 0.6, "neutral": 0.3}
    )


def test_an_id_cut_into_digits_is_joined() -> None:
    labels = [f"label {n}" for n in range(40)]
    said = tokens(certain('{"label":"1'), ("2", 0.8, {"0": 0.2}), ("7", 0.5, {"6": 0.5}), certain('"}'))
    found = label_probabilities(said, prompt(labels, option_ids=True), "label 27")
    assert found is not None
    assert found["label 27"] == pytest.approx(0.4)
    assert found["label 26"] == pytest.approx(0.4)
    assert [found[f"label {n}"] for n in range(10)] == pytest.approx([0.02] * 10)


def test_the_probability_of_none_of_these_is_not_spread_over_the_candidates() -> None:
    said = tokens(certain('{"label":"'), ("pos", 0.5, {"neg": 0.3, "none": 0.2}), certain('itive"}'))
    pruned = prompt(candidates=["positive", "negative"])
    assert label_probabilities(said, pruned, "positive") == pytest.approx({"positive": 0.625, "negative": 0.375})
    assert label_probabilities(said, pruned, NONE_OF_THESE) is None


@pytest.mark.parametrize(
    "said",
    [
        [],
        tokens(certain('{"label":"'), certain("positive"), certain('"}')),
        tokens(certain('{"label":"'), ("neg", 0.9, {"pos": 0.1}), certain('ative"}')),
        tokens(certain('{"label":"'), ("ne", 0.9, {"pos": 0.1})),
        tokens(certain("positive"), ("!", 0.9, {"?": 0.1})),
        [TokenLogprobs(b'{"label":"positive"}', math.nan, ((b'{"label":"negative"}', -1.0),))],
        [TokenLogprobs(b'{"label":"positive"}', -math.inf, ((b'{"label":"negative"}', -1.0),))],
    ],
    ids=["none", "no alternatives", "another label", "cut short", "no json", "nan", "impossible"],
)
def test_tokens_that_tell_nothing_give_no_probabilities(said: list[TokenLogprobs]) -> None:
    assert label_probabilities(said, prompt(), "positive") is None


names = st.text(st.sampled_from('abé"\\ 世'), min_size=1, max_size=6).filter(lambda s: s == s.strip())


@given(
    st.lists(names, min_size=2, max_size=5, unique=True).flatmap(
        lambda labels: st.tuples(
            st.just(labels), st.lists(st.floats(0.01, 1.0), min_size=len(labels), max_size=len(labels))
        )
    ),
    st.data(),
)
def test_whatever_the_tokens_the_label_distribution_comes_back(
    given_labels: tuple[list[str], list[float]], data: st.DataObject
) -> None:
    """A model that speaks byte by byte, or in longer pieces, from a known distribution over labels."""
    labels, weights = given_labels
    truth = {label: weight / sum(weights) for label, weight in zip(labels, weights, strict=True)}
    texts = {label: json.dumps({"label": label}, ensure_ascii=False).encode() for label in labels}
    said = data.draw(st.sampled_from(labels))
    reply, at, entries = texts[said], 0, []
    while at < len(reply):
        step = data.draw(st.integers(1, 4))
        alive = {label: text for label, text in texts.items() if text.startswith(reply[:at])}
        total = sum(truth[label] for label in alive)
        pieces: dict[bytes, float] = {}
        for label, text in alive.items():
            piece = text[at : at + step]
            pieces[piece] = pieces.get(piece, 0.0) + truth[label] / total
        piece = reply[at : at + step]
        entries.append(
            TokenLogprobs(piece, math.log(pieces[piece]), tuple((b, math.log(p)) for b, p in pieces.items()))
        )
        at += step
    found = label_probabilities(entries, prompt(labels), said)
    assert found is not None
    assert sum(found.values()) == pytest.approx(1.0)
    assert found[said] == pytest.approx(truth[said])
