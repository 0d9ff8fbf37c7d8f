from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.classifier import NONE_OF_THESE
from datashunt.classifier import parse as parse_spec
from datashunt.items import ProbabilitySource, Reply, Usage
from datashunt.llm import decided
from datashunt.prompts import render

SPEC = parse_spec({"name": "n", "labels": ["a", "b", "c"], "instruction": "i"})
ALL = render(SPEC, "x")
SOME = render(SPEC, "x", candidates=["a", "b"])


def reply(*votes: str, probabilities: dict[str, float] | None = None) -> Reply:
    source = ProbabilitySource.NONE if probabilities is None else ProbabilitySource.LOGPROBS
    return Reply(votes[0], probabilities, source, "m", "", Usage(1, 1), 1.0, votes if probabilities is None else ())


def test_without_samples_a_reply_is_the_answer() -> None:
    one = reply("a")
    assert decided(one, (), 1, ALL) is one


def test_samples_are_collected_until_there_are_enough() -> None:
    assert decided(reply("a"), ("b",), 3, ALL) is None
    answer = decided(reply("a"), ("b", "a"), 3, ALL)
    assert answer is not None
    assert (answer.label, answer.source) == ("a", "samples")
    assert answer.probabilities == pytest.approx({"a": 2 / 3, "b": 1 / 3, "c": 0.0})


def test_a_drawn_reply_with_probabilities_needs_no_samples_and_names_the_most_probable() -> None:
    answer = decided(reply("b", probabilities={"a": 0.7, "b": 0.3, "c": 0.0}), (), 5, ALL)
    assert answer is not None
    assert (answer.label, answer.source) == ("a", "logprobs")


def test_a_majority_for_none_of_these_is_that_answer() -> None:
    answer = decided(reply(NONE_OF_THESE, NONE_OF_THESE, "a"), (), 3, SOME)
    assert answer is not None
    assert (answer.label, answer.probabilities) == (NONE_OF_THESE, None)


def test_none_of_these_in_the_minority_has_no_share() -> None:
    answer = decided(reply("a", "b", "a", NONE_OF_THESE), (), 4, SOME)
    assert answer is not None
    assert answer.probabilities == pytest.approx({"a": 2 / 3, "b": 1 / 3})


@given(st.lists(st.sampled_from("abc"), min_size=2, max_size=20), st.data())
def test_however_the_samples_come_the_answer_is_the_same(votes: list[str], data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(votes) - 1))
    answer = decided(reply(*votes[cut:]), votes[:cut], len(votes), ALL)
    assert answer is not None
    assert answer.probabilities is not None
    assert sum(answer.probabilities.values()) == pytest.approx(1.0)
    assert answer.probabilities[answer.label] == max(answer.probabilities.values())
    whole = decided(reply(*votes), (), len(votes), ALL)
    assert whole is not None
    assert (answer.label, answer.probabilities) == (whole.label, whole.probabilities)
