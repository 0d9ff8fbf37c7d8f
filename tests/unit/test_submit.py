"""Which entries of a submission are fit to be stored, and why the others are not."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from datashunt.items import Item, Refusal
from datashunt.pipeline.submit import check, fault_of_text, measure_meta, one_of_each, sort_out
from datashunt.store import intake
from datashunt.store.intake import Entry

LIMIT = 100


@pytest.mark.parametrize(
    ("entry", "key", "reason"),
    [
        ({"id": "b", "text": ""}, "b", "empty"),
        ({"id": "b", "text": " \n\t"}, "b", "empty"),
        ({"id": "b", "text": 5}, "b", "not_text"),
        ({"id": "b", "text": b"bytes"}, "b", "not_text"),
        ({"id": "b", "text": None}, "b", "not_text"),
        ({"id": "b", "text": "a\0b"}, "b", "nul_byte"),
        ({"id": "b", "text": "a\ud800b"}, "b", "invalid_utf8"),
        ({"id": "b", "text": "x" * 101}, "b", "too_large"),
        ({"id": "b", "text": "ä" * 51}, "b", "too_large"),
        ({"id": "b"}, "b", "missing_field"),
        ({"text": "no id"}, None, "missing_field"),
        ({}, None, "missing_field"),
        ({"id": "", "text": "x"}, None, "bad_id"),
        ({"id": 7, "text": "x"}, None, "bad_id"),
        ({"id": "a\0", "text": "x"}, None, "bad_id"),
        ({"id": "\udfff", "text": "x"}, None, "bad_id"),
        ({"id": "k" * 513, "text": "x"}, None, "bad_id"),
        ({"id": "b", "text": "x", "meta": [1]}, "b", "bad_meta"),
        ({"id": "b", "text": "x", "meta": {"n": float("nan")}}, "b", "bad_meta"),
        ({"id": "b", "text": "x", "meta": {"n": {1, 2}}}, "b", "bad_meta"),
        ({"id": "b", "text": "x", "meta": {"n": "\0"}}, "b", "bad_meta"),
        ({"id": "b", "text": "x", "meta": {"n": "\ud800"}}, "b", "bad_meta"),
        ("just text", None, "not_an_item"),
        (None, None, "not_an_item"),
    ],
)
def test_a_bad_entry_is_refused_with_its_reason(entry: Any, key: str | None, reason: str) -> None:
    refused = check(3, entry, LIMIT)
    assert isinstance(refused, Refusal)
    assert (refused.position, refused.id, refused.reason) == (3, key, reason)
    assert refused.detail


def test_an_item_and_a_mapping_say_the_same() -> None:
    entry = check(0, {"id": "a", "text": "x", "meta": {"n": 1}, "other": "not kept"}, LIMIT)
    assert entry == check(0, Item("a", "x", {"n": 1}), LIMIT)
    assert entry == Entry(0, Item("a", "x", {"n": 1}), hashlib.sha256(b"x").digest(), len('{"n": 1}'))


def test_a_text_of_exactly_the_limit_is_taken() -> None:
    assert fault_of_text("x" * LIMIT, LIMIT) is None
    assert fault_of_text("ä" * (LIMIT // 2), LIMIT) is None
    assert fault_of_text("x" * (LIMIT + 1), LIMIT) == ("too_large", "the text has 101 bytes, at most 100 are allowed")


def test_a_refusal_does_not_repeat_the_text() -> None:
    refused = check(0, {"id": "a", "text": "secret\0"}, LIMIT)
    assert isinstance(refused, Refusal)
    assert "secret" not in refused.detail


def test_meta_may_hold_a_backslash_before_what_looks_like_an_escape() -> None:
    assert measure_meta({"path": "C:\\u0000"}, 100) == (len('{"path": "C:\\\\u0000"}'), None)
    assert measure_meta({"path": "C:\\\0"}, 100)[1] is not None
    assert measure_meta({"\0": 1}, 100)[1] is not None


def test_meta_has_the_limit_of_texts() -> None:
    _, fault = measure_meta({"note": "x" * 100}, 100)
    assert fault is not None
    assert fault[0] == "too_large"
    assert measure_meta({"note": "x" * 80}, 100)[1] is None


def test_one_insert_is_bounded_by_its_texts_and_meta_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CHUNK_CHARACTERS", 100)
    entries = [Item("a", "x" * 20, {"n": "y" * 20}), Item("b", "x" * 40), Item("c", "x", {"n": "y" * 90})]
    good, _, _ = sort_out([*entries, Item("d", "x", {"n": {"m": ["y" * 80]}}), Item("e", "x")], LIMIT)
    chunks = [[entry.item.id for _, entry in chunk] for chunk in intake._chunks(list(enumerate(good)))]
    assert chunks == [["a", "b"], ["c"], ["d", "e"]]


@given(st.text())
def test_whatever_text_is_accepted_can_be_stored(text: str) -> None:
    if fault_of_text(text, LIMIT) is None:
        assert text.strip()
        assert "\0" not in text
        assert len(text.encode()) <= LIMIT


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy")), max_size=12))
def test_each_id_is_kept_once_and_everything_is_accounted_for(pairs: list[tuple[str, str]]) -> None:
    good, refused, _ = sort_out([Item(key, text) for key, text in pairs], LIMIT)
    assert refused == []
    first, repeats, conflicts = one_of_each(good)
    assert len(first) + repeats + len(conflicts) == len(pairs)
    assert [(e.item.id, e.item.text) for e in first] == [
        pair for n, pair in enumerate(pairs) if pair[0] not in {key for key, _ in pairs[:n]}
    ]
    assert all(pairs[c.position][1] != dict(reversed(pairs))[pairs[c.position][0]] for c in conflicts)


def test_the_payload_hash_tells_a_resend_from_another_call() -> None:
    def payload(*entries: Any) -> bytes:
        return sort_out(entries, LIMIT)[2]

    same = payload(Item("a", "x"), {"id": "b"})
    assert same == payload({"id": "a", "text": "x"}, {"id": "b"})
    others = [(Item("a", "y"), {"id": "b"}), ({"id": "b"}, Item("a", "x")), (Item("a", "x"),), (Item("ax", ""),)]
    assert len({same, *(payload(*other) for other in others)}) == 5
