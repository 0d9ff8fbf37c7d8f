"""Producers: what is accepted, what is refused and why, and that sending again changes nothing."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from lanes import NAME, World

from datashunt.errors import SubmissionError, UnknownClassifier
from datashunt.items import Item, Refusal, Wake
from datashunt.store import intake

LIMIT = 1_000_000


def stored(world: World) -> dict[str, str]:
    return dict(world.rows("SELECT key, text FROM items JOIN texts ON texts.item_id = items.id"))  # type: ignore[arg-type]


def test_bad_entries_are_refused_with_their_reasons_and_the_good_ones_are_taken(world: World) -> None:
    entries = [{"id": "b", "text": ""}, Item("good", "fine"), {"id": "c"}, {"id": "d", "text": "a\0b"}, "just text"]
    receipt, wakes = world.runtime.intake.submit(NAME, entries, "s1")
    assert (receipt.accepted, receipt.known) == (1, 0)
    assert [(r.position, r.id, r.reason) for r in receipt.refused] == [
        (0, "b", "empty"),
        (2, "c", "missing_field"),
        (3, "d", "nul_byte"),
        (4, None, "not_an_item"),
    ]
    assert stored(world) == {"good": "fine"}
    assert len(wakes[0].ids) == 1
    kept = world.runtime.intake.receipt("s1")
    assert kept is not None
    assert kept.receipt == receipt


def test_texts_and_meta_are_stored_as_they_came(world: World) -> None:
    text = "line\r\n “quoted” \\u0000 🦊 " + "x" * (LIMIT - 100)
    meta = {"n": 1.5, "path": "C:\\u0000", "deep": [None, {"ä": True}]}
    receipt, _ = world.submit(Item("ü 1", text, meta))
    assert receipt.accepted == 1
    assert world.rows("SELECT text, meta FROM texts") == [(text, meta)]


def test_items_are_numbered_in_the_order_of_submission(world: World) -> None:
    _, wakes = world.submit(Item("z", "1"), Item("a", "2"), Item("m", "3"))
    assert [row.key for row in world.rows("SELECT key FROM items ORDER BY id")] == ["z", "a", "m"]
    assert wakes == [Wake("score", NAME, tuple(row.id for row in world.rows("SELECT id FROM items ORDER BY id")))]


def test_a_submission_larger_than_one_insert_is_stored_whole(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intake, "CHUNK", 7)
    receipt, wakes = world.submit(*[Item(f"k{n}", f"text {n}") for n in range(50)])
    assert receipt.accepted == len(wakes[0].ids) == len(stored(world)) == 50


def test_the_same_id_and_text_again_is_accepted_and_changes_nothing(world: World) -> None:
    world.submit(Item("a", "one"))
    receipt, wakes = world.submit(Item("a", "one"), Item("b", "two"))
    assert (receipt.accepted, receipt.known, receipt.refused) == (1, 1, ())
    assert len(wakes[0].ids) == 1
    _, wakes = world.submit(Item("a", "one"))
    assert wakes == []


def test_the_same_id_with_another_text_is_refused_by_name(world: World) -> None:
    world.submit(Item("a", "one"))
    receipt, _ = world.submit(Item("b", "two"), Item("a", "other"))
    assert (receipt.accepted, receipt.known) == (1, 0)
    assert [(r.position, r.id, r.reason) for r in receipt.refused] == [(1, "a", "id_conflict")]
    assert "'a'" in receipt.refused[0].detail
    assert stored(world) == {"a": "one", "b": "two"}


def test_an_id_twice_in_one_call_keeps_the_first(world: World) -> None:
    receipt, _ = world.submit(Item("a", "one"), Item("a", "one"), Item("a", "other"), Item("a", "one"))
    assert (receipt.accepted, receipt.known) == (1, 2)
    assert [(r.position, r.reason) for r in receipt.refused] == [(2, "id_conflict")]
    assert stored(world) == {"a": "one"}


def test_the_same_id_in_another_classifier_is_another_item(world: World) -> None:
    world.apply(name="other")
    world.submit(Item("a", "one"))
    receipt, _ = world.submit(Item("a", "two"), name="other")
    assert receipt.accepted == 1


def test_refusals_of_a_reader_keep_their_place_among_others(world: World) -> None:
    found = Refusal(1, None, "not_json", "line 2 is no JSON")
    receipt, _ = world.submit(Item("a", ""), found, Item("b", "two"))
    assert [r.position for r in receipt.refused] == [0, 1]
    assert receipt.refused[1] == found


def test_a_submission_sent_again_returns_its_first_receipt(world: World) -> None:
    entries = [Item("a", "one"), {"id": "b", "text": ""}]
    first, wakes = world.submit(*entries, submission="s1")
    again, none = world.submit(*entries, submission="s1")
    assert again == first
    assert wakes
    assert none == []


@pytest.mark.parametrize(
    ("entries", "name"), [([Item("a", "other")], NAME), ([Item("a", "one")], "second"), ([], NAME)]
)
def test_a_submission_id_is_refused_for_other_items(world: World, entries: list[Item], name: str) -> None:
    world.apply(name="second")
    world.submit(Item("a", "one"), submission="s1")
    with pytest.raises(SubmissionError, match="'s1' was used for other items"):
        world.submit(*entries, submission="s1", name=name)
    assert stored(world) == {"a": "one"}


def test_a_submission_id_that_cannot_be_stored_is_refused(world: World) -> None:
    for bad in ("", "a\0b", "\ud800", "s" * 600):
        with pytest.raises(SubmissionError, match="submission id"):
            world.runtime.intake.submit(NAME, [Item("a", "one")], bad)
    assert stored(world) == {}


def test_an_unknown_classifier_refuses_the_call_and_stores_nothing(world: World) -> None:
    for name in ("nobody", "", "a\0b", "\ud800", "No Name"):
        with pytest.raises(UnknownClassifier, match="there is no classifier"):
            world.submit(Item("a", "one"), submission="s1", name=name)
    assert stored(world) == {}
    assert world.runtime.intake.receipt("s1") is None
    receipt, _ = world.submit(Item("a", "one"), submission="s1")
    assert receipt.accepted == 1


def test_a_refused_call_leaves_its_id_free_and_its_reason_readable(world: World) -> None:
    world.runtime.intake.refuse("nobody", "s1", "there is no classifier named 'nobody'")
    kept = world.runtime.intake.receipt("s1")
    assert kept is not None
    assert kept.receipt.error == "there is no classifier named 'nobody'"
    receipt, _ = world.submit(Item("a", "one"), submission="s1")
    assert receipt.accepted == 1
    kept = world.runtime.intake.receipt("s1")
    assert kept is not None
    assert kept.receipt.error is None


def test_a_late_refusal_does_not_replace_a_stored_submission(world: World) -> None:
    world.submit(Item("a", "one"), submission="s1")
    world.runtime.intake.refuse(NAME, "s1", "submission id 's1' was used for other items before")
    kept = world.runtime.intake.receipt("s1")
    assert kept is not None
    assert (kept.receipt.error, kept.receipt.accepted) == (None, 1)


def test_an_empty_submission_is_accepted_and_wakes_nobody(world: World) -> None:
    receipt, wakes = world.submit(submission="s1")
    assert (receipt.accepted, receipt.known, receipt.refused, wakes) == (0, 0, (), [])


def test_overlapping_submissions_at_the_same_time_store_each_item_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In opposite orders and in several inserts each: neither may wait for the other for ever."""
    monkeypatch.setattr(intake, "CHUNK", 20)
    items = [Item(f"k{n:04}", f"text {n}") for n in range(600)]
    start = Barrier(4)

    def send(number: int) -> tuple[int, int]:
        start.wait()
        mine = items if number % 2 else items[::-1]
        receipt, _ = world.submit(*mine)
        return receipt.accepted, receipt.known

    with ThreadPoolExecutor(4) as pool:
        receipts = list(pool.map(send, range(4)))
    assert sum(accepted for accepted, _ in receipts) == 600
    assert all(accepted + known == 600 for accepted, known in receipts)
    assert world.states() == {"queued": 600}


def test_the_same_submission_at_the_same_time_is_stored_once(world: World) -> None:
    start = Barrier(4)

    def send(_: int) -> Any:
        start.wait()
        return world.submit(Item("a", "one"), Item("b", ""), submission="s1")

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(send, range(4)))
    assert len({receipt for receipt, _ in answers}) == 1
    assert sum(len(wakes) for _, wakes in answers) == 1
