"""`datashunt forget` as a person meets it, and forgetting what lies in a batch at the endpoint."""

from __future__ import annotations

import io
import logging
import sys

import pytest
from lanes import NAME, FakeLLM, World, reply
from test_batches import Start, start
from test_command_line import Run, is_one_sentence, run
from test_forget import MARK, SURE, UNSURE, forgotten, sound, whole

__all__ = ["run", "start"]  # the fixtures


@pytest.fixture
def busy(world: World) -> World:
    """One kept item, and one that the LLM answered."""
    world.bundle()
    world.score(SURE, UNSURE)
    world.ask(FakeLLM([reply("negative")]))
    assert world.states() == {"done": 2}
    return world


def test_items_are_forgotten_by_their_ids_and_counted(run: Run, busy: World) -> None:
    ended = run("forget", NAME, "i0", "i1")
    assert (ended.code, ended.out) == (0, "2 forgotten\n")
    assert busy.states() == {"forgotten": 2}
    assert MARK not in whole(busy) + ended.err
    assert run("forget", NAME, "i0").out == "1 forgotten\n"


def test_bundles_that_may_have_learnt_from_them_are_named(run: Run, busy: World) -> None:
    busy.bundle()
    busy.change(
        "INSERT INTO distillations (classifier_id, spec_version, state, bundle_id, up_to_answer, up_to_score)"
        " SELECT classifier_id, spec_version, 'promoted', id, (SELECT max(id) FROM answers), 0 FROM bundles"
        " WHERE version = 2"
    )
    assert "bundles that may have learnt from them: 2; see docs/security.md" in run("forget", NAME, "i1").out


def test_what_is_worked_on_is_said_to_need_a_second_run(run: Run, busy: World) -> None:
    busy.change("UPDATE asks SET state = 'calling'")
    assert "1 of them were being worked on: run this again" in run("forget", NAME, "i1").out


def test_only_texts_go_by_age(run: Run, busy: World, monkeypatch: pytest.MonkeyPatch) -> None:
    busy.change("UPDATE items SET done_at = now() - interval '8 days' WHERE key = 'i0'")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert run("forget", NAME, "--older-than", "7").code == 130
    assert busy.one("SELECT count(*) FROM texts") == 2
    assert run("forget", NAME, "--older-than", "7", "--yes").out == "1 texts removed\n"
    assert busy.states() == {"done": 2}
    assert busy.one("SELECT count(*) FROM texts") == 1


def test_what_cannot_be_meant_is_one_sentence_and_nothing_is_forgotten(run: Run, busy: World) -> None:
    assert is_one_sentence(run("forget", NAME), 2, "--older-than DAYS")
    assert is_one_sentence(run("forget", NAME, "i0", "--older-than", "7"), 2, "--older-than DAYS")
    assert is_one_sentence(run("forget", NAME, "i0", "nobody"), 2, "'nobody'", "nothing was forgotten")
    assert is_one_sentence(run("forget", "other", "i0"), 2, "other")
    assert busy.states() == {"done": 2}


def test_an_item_in_a_batch_under_way_ends_without_an_answer_and_leaves_no_text_anywhere(
    start: Start, world: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    world.bundle()
    bench = start()
    bench.ask(UNSURE, "negative 0.5 another")
    bench.dies("look_at", after=False)  # the endpoint has the batch, and nobody has fetched it
    assert any(MARK in bench.client.files.content(file.id).text for file in bench.client.files.list())
    key = world.one("SELECT key FROM items JOIN texts ON item_id = items.id WHERE text = :text", text=UNSURE)
    forgotten(world, key)
    bench.harvest()
    assert world.states() == {"forgotten": 1, "done": 1}
    assert world.one("SELECT count(*) FROM answers JOIN items ON items.id = item_id WHERE key = :key", key=key) == 0
    assert list(bench.client.files.list()) == []
    bench.check_ledger()  # both are paid for
    forgotten(world, key)  # for what the harvest has left
    assert MARK not in whole(world)
    assert MARK not in "".join(str(vars(record)) for record in caplog.records if record.name.startswith("datashunt"))
    sound(world)
