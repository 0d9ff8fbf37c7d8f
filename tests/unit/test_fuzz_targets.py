"""A short run of what `make fuzz` runs for long; and the crashes that it found."""

from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datashunt import classifier
from datashunt.errors import BundleError, LLMUnusable, SpecError
from datashunt.items import Refusal
from datashunt.llm.adapter import probability_of, usage_of
from datashunt.llm.chat import CHAT
from datashunt.llm.decisions import DECISIONS
from datashunt.llm.systemone import SYSTEMONE
from datashunt.pipeline.submit import sort_out
from datashunt.small.bundle import read_info
from tests.fuzz.targets import CHAT as CHAT_REPLY
from tests.fuzz.targets import PROMPT, SPEC, TARGETS

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


@pytest.fixture(autouse=True)
def _broker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATASHUNT_BROKER_URL", "memory://")


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_input_is_a_value_or_a_typed_error(name: str, tmp_path: Path) -> None:
    tried = seed = 0
    while tried < 300:
        tried += TARGETS[name](Random(1_000_000 + seed), tmp_path)
        seed += 1


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_reply_or_unusable(body: object) -> None:
    for adapter in (CHAT, DECISIONS, SYSTEMONE):
        with pytest.raises(LLMUnusable):
            adapter.read(body, PROMPT, "m", 1.0)


@given(JSON)
@settings(max_examples=200, deadline=None)
def test_any_json_is_a_classifier_or_a_typed_error(document: object) -> None:
    with pytest.raises(SpecError):
        classifier.parse(document)


@pytest.mark.parametrize("number", ["Infinity", "NaN", "1e999", "1" * 400])
def test_a_bundle_of_no_format_is_no_bundle(number: str, tmp_path: Path) -> None:
    (tmp_path / "bundle.json").write_text(f'{{"format": {number}}}')
    with pytest.raises(BundleError):
        read_info(tmp_path)


@pytest.mark.parametrize("bad", [-1, 2**40, 10**400, True, 1.5, None, "3"])
def test_tokens_that_cannot_be_are_not_booked(bad: object) -> None:
    assert usage_of({"usage": {"p": bad, "c": 1}}, "p", "c") is None
    assert usage_of({"usage": {"p": 1, "c": bad}}, "p", "c") is None


def test_no_more_tokens_are_cached_than_there_are() -> None:
    found = usage_of({"usage": {"p": 3, "c": 1, "p_details": {"cached_tokens": 9}}}, "p", "c")
    assert found is not None
    assert found.cached == 3


def test_a_probability_beyond_all_numbers_is_none() -> None:
    with pytest.raises(ValueError, match="expected a probability"):
        probability_of(10**400)


def test_what_a_reply_calls_its_model_can_be_stored() -> None:
    said = CHAT.read({**CHAT_REPLY, "model": "a\0b\ud800" + "x" * 999, "system_fingerprint": "\0"}, PROMPT, "m", 1.0)
    assert said.model.startswith("a?b?x")
    assert len(said.model) == 200
    assert said.fingerprint == "?"


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800"])
@pytest.mark.parametrize("where", ["instruction", "labels", "llm"])
def test_a_classifier_of_characters_that_cannot_be_stored_is_refused(bad: str, where: str) -> None:
    wrong = {"instruction": bad, "labels": {"good": bad, "bad": None}, "llm": {"models": [bad, "m"]}}
    with pytest.raises(SpecError, match=r"NUL|surrogate|unicode"):
        classifier.parse({**SPEC, where: wrong[where]})


TEXTS = {
    "one byte": ("a", None),
    "ten megabytes": ("ä" * 5_000_000, None),
    "more than ten": ("ä" * 5_000_001, "too_large"),
    "emoji": ("\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1e9\U0001f1ea", None),
    "right to left": ("\u202e\u05e9\u05dc\u05d5\u05dd \u0645\u0631\u062d\u0628\u0627\u202c", None),
    "control characters": ("a\x01\x1b[2J\x7f\r\n\tb", None),
    "nul": ("a\0b", "nul_byte"),
    "lone surrogate": ("a\udc80", "invalid_utf8"),
    "nothing": (" \u2003\n", "empty"),
    "not a character": ("\uffff\ufdd0", None),
}


@pytest.mark.parametrize("name", TEXTS)
def test_texts_of_all_kinds_are_taken_or_refused_with_a_reason(name: str) -> None:
    text, reason = TEXTS[name]
    good, refused, _ = sort_out([{"id": "a", "text": text}], 10_000_000)
    assert [one.item.text for one in good] == ([text] if reason is None else [])
    assert [one.reason for one in refused] == ([] if reason is None else [reason])
    assert all(isinstance(one, Refusal) for one in refused)
