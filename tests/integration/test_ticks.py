"""Periodic work as due rows: expired leases, hopeless rows, lost messages, due distillations."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from uuid import uuid4

import pytest
from lanes import NAME, PRICE, FakeLLM, World, reply

from datashunt.errors import StoreError
from datashunt.items import Item, Wake
from datashunt.pipeline import tick as tick_lane
from datashunt.pipeline.tick import Ticker
from datashunt.settings import Settings
from datashunt.store import distillations, scores, sweeps

DOUBT = "negative 0.5"


@pytest.fixture(autouse=True)
def no_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let distillations be due without answers to judge by; one test asks for them."""
    monkeypatch.setattr(tick_lane, "FEWEST_JUDGES", 0)


def tick(world: World) -> list[Wake]:
    """One tick at a time when its work is due."""
    world.change("UPDATE due SET due_at = '-infinity'")
    return world.runtime.ticker.run()


def claim_items(world: World, most: int = 256) -> None:
    with world.store.begin() as tx:
        scores.claim(tx, world.known().id, uuid4(), lease_s=60, most=most)


def expire(world: World, table: str) -> None:
    world.change(f"UPDATE {table} SET lease_until = now() - interval '1 ms' WHERE lease_token IS NOT NULL")


def stand_still(world: World, table: str) -> None:
    """As if the messages of all rows had been published longer ago than a row may stand still."""
    columns = ("announced_at", "not_before") if table == "asks" else ("announced_at",)
    earlier = ", ".join(f"{column} = {column} - make_interval(secs => :s)" for column in columns)
    world.change(f"UPDATE {table} SET {earlier}", s=world.settings.stand_still_s + 1)


def learn(world: World, count: int) -> None:
    """So many answers to train on."""
    world.score(*[f"{DOUBT} {n}" for n in range(count)])
    world.change("UPDATE asks SET role = 'train', propensity = NULL")
    world.ask(FakeLLM())


# leases


def test_an_expired_item_is_queued_and_published_again_at_once(world: World) -> None:
    world.submit(DOUBT, DOUBT)
    claim_items(world)
    assert tick(world) == []
    expire(world, "items")
    rows = tuple(row.id for row in world.rows("SELECT id FROM items ORDER BY id"))
    assert tick(world) == [Wake("score", NAME, rows)]
    assert set(world.rows("SELECT state, attempts, lease_token FROM items")) == {("queued", 1, None)}


def test_an_item_claimed_too_often_is_a_dead_letter_with_its_reason(world: World) -> None:
    world.submit(DOUBT, DOUBT)
    claim_items(world)
    world.change("UPDATE items SET attempts = :n WHERE key = 'i0'", n=world.settings.score_max_attempts)
    expire(world, "items")
    (wake,) = tick(world)
    assert len(wake.ids) == 1
    assert world.rows("SELECT key, state FROM items ORDER BY key") == [("i0", "dead"), ("i1", "queued")]
    assert world.rows("SELECT reason, detail FROM dead_letters") == [
        ("never_scored", "claimed 5 times and never finished: it may bring its worker down")
    ]


def test_an_expired_ask_waits_again_and_is_published_at_once(world: World) -> None:
    made = world.score(DOUBT)
    world.change("UPDATE asks SET state = 'calling', lease_token = gen_random_uuid(), lease_until = now()")
    expire(world, "asks")
    assert tick(world) == [Wake("llm", NAME, tuple(made))]
    assert world.rows("SELECT state, attempts FROM asks") == [("waiting", 0)]


def test_an_expired_ask_is_taken_by_a_lane_at_work_before_it_is_published(world: World) -> None:
    world.score(DOUBT)
    world.change("UPDATE asks SET state = 'calling', lease_token = gen_random_uuid()")
    expire(world, "asks")
    with world.store.begin() as tx:
        assert sweeps.free_expired(tx, score_max_attempts=3, llm_max_attempts=3, call_deadline_s=60).asks == 1
    assert world.ask(FakeLLM()) == 1
    assert world.states() == {"done": 1}


def test_a_call_whose_worker_died_is_booked_as_unknown_and_uses_up_an_attempt(world: World) -> None:
    made = world.score(DOUBT)
    abandon(world)
    assert tick(world) == [Wake("llm", NAME, tuple(made))]
    call = world.rows("SELECT * FROM calls")[0]
    assert (call.state, call.error_kind, call.cost_usd) == ("unknown", "no_reply", call.reserved_usd)
    assert world.rows("SELECT state, attempts FROM asks") == [("waiting", 1)]
    assert world.ask(FakeLLM(), made) == 1
    assert [row.attempt for row in world.rows("SELECT attempt FROM calls ORDER BY id")] == [1, 2]


def test_an_ask_whose_calls_never_come_back_is_a_dead_letter(world: World) -> None:
    world.score(DOUBT)
    world.change("UPDATE asks SET attempts = :n", n=world.settings.llm_max_attempts - 1)
    abandon(world)
    assert tick(world) == []
    assert world.states() == world.states("asks") == {"dead": 1}
    assert world.rows("SELECT reason, detail FROM dead_letters") == [
        ("never_answered", "called 6 times, and no worker came back with a reply")
    ]


def test_an_audit_whose_calls_never_come_back_leaves_its_item_done(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    world.score("negative 0.95")
    world.change("UPDATE asks SET attempts = :n", n=world.settings.llm_max_attempts - 1)
    abandon(world)
    tick(world)
    assert (world.states(), world.states("asks")) == ({"done": 1}, {"dead": 1})


def abandon(world: World) -> None:
    """A worker sent a call and died; its lease and its deadline are over."""

    class Killed(BaseException):
        pass

    def die(_: object) -> None:
        raise Killed

    with pytest.raises(Killed):
        world.ask(FakeLLM([die]))  # type: ignore[list-item]
    expire(world, "asks")
    world.change("UPDATE calls SET created_at = created_at - make_interval(secs => :s)", s=world.settings.ask_lease_s)


def test_a_call_that_is_still_within_its_deadline_is_left_alone(world: World) -> None:
    world.score(DOUBT)
    seen = []

    def meanwhile(_: object) -> object:
        tick(world)
        seen.append(world.states("calls"))
        return reply()

    world.ask(FakeLLM([meanwhile]))  # type: ignore[list-item]
    assert seen == [{"sent": 1}]
    assert world.one("SELECT cost_usd FROM calls") == PRICE


# lost messages


def test_a_row_whose_message_was_lost_is_published_again(world: World) -> None:
    world.submit(DOUBT)
    assert tick(world) == []
    stand_still(world, "items")
    row = world.one("SELECT id FROM items")
    assert tick(world) == [Wake("score", NAME, (row,))]
    assert tick(world) == []


def test_an_ask_whose_message_was_lost_is_published_again(world: World) -> None:
    made = world.score(DOUBT)
    assert tick(world) == []
    stand_still(world, "asks")
    assert tick(world) == [Wake("llm", NAME, tuple(made))]
    assert tick(world) == []


def test_an_ask_that_waited_for_its_time_is_published_once_when_it_comes(world: World) -> None:
    made = world.score(DOUBT)
    world.change("UPDATE asks SET not_before = now() + interval '1 h'")
    stand_still(world, "asks")
    assert tick(world) == []
    world.change("UPDATE asks SET not_before = now(), announced_at = now() - interval '1 s'")
    assert tick(world) == [Wake("llm", NAME, tuple(made))]
    assert tick(world) == []


def test_one_tick_publishes_a_bounded_number_of_each_classifier(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweeps, "MOST_ROWS", 3)
    world.apply(name="other")
    world.submit(*[DOUBT] * 5)
    world.submit(*[DOUBT] * 2, name="other")
    stand_still(world, "items")
    assert [(wake.classifier, len(wake.ids)) for wake in tick(world)] == [("other", 2), (NAME, 3)]
    assert [(wake.classifier, len(wake.ids)) for wake in tick(world)] == [(NAME, 2)]


def test_an_honest_backlog_is_not_published_again(world: World) -> None:
    """Workers are busy with rows as old as these: their turn comes."""
    world.submit(*[DOUBT] * 10)
    claim_items(world, most=4)
    stand_still(world, "items")
    assert tick(world) == []


def test_rows_that_younger_ones_passed_by_are_published_again(world: World) -> None:
    world.submit(Item("old", DOUBT))
    stand_still(world, "items")
    world.submit(Item("young", DOUBT))
    world.change("UPDATE items SET priority = -1 WHERE key = 'young'")
    claim_items(world, most=1)
    (wake,) = tick(world)
    assert wake.ids == (world.one("SELECT id FROM items WHERE key = 'old'"),)


def test_a_backlog_behind_a_dead_workers_lease_is_published_again(world: World) -> None:
    world.submit(*[DOUBT] * 6)
    claim_items(world, most=2)
    expire(world, "items")
    stand_still(world, "items")
    (wake,) = tick(world)
    assert len(wake.ids) == 6


def test_an_honest_backlog_of_asks_is_not_published_again(world: World) -> None:
    made = world.score(*[DOUBT] * 5)
    stand_still(world, "asks")
    world.change(
        "UPDATE asks SET state = 'calling', lease_token = gen_random_uuid(), lease_until = now() + interval '1 h'"
        " WHERE id = :row",
        row=made[0],
    )
    assert tick(world) == []


def test_what_is_done_dead_or_held_is_never_published(world: World) -> None:
    world.submit(*[DOUBT] * 3)
    world.change("UPDATE items SET state = 'held' WHERE key = 'i0'")
    world.change("UPDATE items SET state = 'dead' WHERE key = 'i1'")
    world.change("UPDATE items SET state = 'done', outcome_id = 1, label = 'neutral' WHERE key = 'i2'")
    stand_still(world, "items")
    assert tick(world) == []


# clocks


def test_ten_ticks_at_once_do_no_more_than_one(world: World) -> None:
    learn(world, 3)
    world.apply(distil={"min_new_answers": 3})
    world.submit(*[Item(f"new {n}", DOUBT) for n in range(5)])
    stand_still(world, "items")
    start = Barrier(10)

    def one(_: int) -> list[Wake]:
        start.wait()
        return Ticker(world.store, world.settings).run()

    with ThreadPoolExecutor(10) as pool:
        wakes = [wake for found in pool.map(one, range(10)) for wake in found]
    assert sorted(wake.lane for wake in wakes) == ["distil", "score"]
    assert world.one("SELECT count(*) FROM distillations") == 1


def test_a_tick_before_its_time_does_nothing(world: World) -> None:
    world.submit(DOUBT)
    stand_still(world, "items")
    assert len(world.runtime.ticker.run()) == 1
    stand_still(world, "items")
    assert world.runtime.ticker.run() == []


def test_work_that_became_more_frequent_does_not_wait_for_the_old_due_time(world: World) -> None:
    world.apply(distil={"every_s": 3_600, "min_new_answers": 1})
    learn(world, 1)
    world.runtime.ticker.run()
    assert world.states("distillations") == {"due": 1}
    world.change("DELETE FROM distillations")
    world.runtime.ticker.run()
    assert world.states("distillations") == {}
    world.apply(distil={"every_s": 60, "min_new_answers": 1})
    world.runtime.ticker.run()
    assert world.states("distillations") == {"due": 1}


def test_a_tick_that_fails_is_due_again_at_once(world: World, settings: Settings) -> None:
    world.submit(DOUBT)
    stand_still(world, "items")
    world.change("ALTER TABLE dead_letters RENAME TO elsewhere")
    with pytest.raises(StoreError):
        world.runtime.ticker.run()
    world.change("ALTER TABLE elsewhere RENAME TO dead_letters")
    assert len(world.runtime.ticker.run()) == 1


def test_a_part_that_fails_keeps_nothing_that_was_found_from_being_published(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO")
    world.apply(name="other", distil={"min_new_answers": 1})
    world.submit(DOUBT)
    stand_still(world, "items")
    world.change("ALTER TABLE distillations RENAME COLUMN up_to_answer TO elsewhere")
    try:
        (wake,) = world.runtime.ticker.run()
    finally:
        world.change("ALTER TABLE distillations RENAME COLUMN elsewhere TO up_to_answer")
    assert (wake.lane, wake.classifier) == ("score", NAME)
    assert (caplog.text + capsys.readouterr().err).count("tick_failed") >= 2


def test_a_classifier_that_only_a_newer_release_can_read_keeps_no_other_from_being_served(
    world: World, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    world.apply(name="newer")
    world.change(
        "UPDATE specs SET document = document || '{\"new_field\": 1}' FROM classifiers c"
        " WHERE c.id = classifier_id AND c.name = 'newer'"
    )
    world.submit(Item("first", DOUBT))
    stand_still(world, "items")
    assert [wake.classifier for wake in world.runtime.ticker.run()] == [NAME]
    world.score("negative 0.5 again")
    assert world.ask(FakeLLM()) >= 1
    assert "classifier_not_read" in caplog.text + capsys.readouterr().err


def test_what_stands_still_behind_the_front_of_a_backlog_is_found_when_it_comes_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeps, "FRONT", 3)
    world.submit(*[Item(f"n{n}", DOUBT) for n in range(5)])
    world.change("UPDATE items SET announced_at = now() - make_interval(secs => 3600) WHERE key IN ('n0', 'n4')")
    (wake,) = tick(world)
    assert [world.one("SELECT key FROM items WHERE id = :id", id=row) for row in wake.ids] == ["n0"]
    claim_items(world, most=3)
    world.change("UPDATE items SET announced_at = now() WHERE state = 'scoring'")
    (wake,) = tick(world)
    assert [world.one("SELECT key FROM items WHERE id = :id", id=row) for row in wake.ids] == ["n4"]


# distillations


def test_a_distillation_is_due_when_enough_new_answers_are_there(world: World) -> None:
    world.apply(distil={"min_new_answers": 3})
    learn(world, 2)
    assert tick(world) == []
    world.submit(Item("third", DOUBT))
    list(world.scorer().run(NAME, [world.one("SELECT id FROM items WHERE key = 'third'")]))
    world.change("UPDATE asks SET role = 'train', propensity = NULL")
    world.ask(FakeLLM())
    (wake,) = tick(world)
    assert (wake.lane, wake.classifier, wake.ids) == ("distil", NAME, (world.one("SELECT id FROM distillations"),))
    assert tick(world) == []
    assert world.states("distillations") == {"due": 1}


def test_held_out_answers_and_those_under_a_prior_do_not_count(world: World) -> None:
    world.apply(distil={"min_new_answers": 1})
    learn(world, 2)
    world.change("UPDATE answers SET had_prior = true WHERE id = (SELECT min(id) FROM answers)")
    world.change("UPDATE answers SET role = 'judge' WHERE id = (SELECT max(id) FROM answers)")
    assert tick(world) == []
    world.change("UPDATE answers SET had_prior = false")
    assert len(tick(world)) == 1


def test_no_distillation_is_due_that_nobody_could_judge(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tick_lane, "FEWEST_JUDGES", 2)
    world.apply(distil={"min_new_answers": 1})
    learn(world, 3)
    world.change("UPDATE answers SET role = 'judge' WHERE id = (SELECT max(id) FROM answers)")
    assert tick(world) == []
    world.change("UPDATE answers SET role = 'judge', prompt_hash = 'another' WHERE id = (SELECT min(id) FROM answers)")
    assert tick(world) == []
    world.change("UPDATE answers SET prompt_hash = (SELECT min(prompt_hash) FROM specs) WHERE role = 'judge'")
    assert len(tick(world)) == 1


def test_answers_that_were_learned_do_not_count_again(world: World) -> None:
    world.apply(distil={"min_new_answers": 2})
    learn(world, 2)
    tick(world)
    finish(world, "rejected")
    assert tick(world) == []


def earlier(world: World, seconds: float) -> None:
    """As if every distillation had ended so much earlier."""
    world.change("UPDATE distillations SET finished_at = finished_at - make_interval(secs => :s)", s=seconds)


def test_failures_in_a_row_double_the_time_until_a_distillation_is_due_again_up_to_an_hour(world: World) -> None:
    world.apply(distil={"min_new_answers": 2, "every_s": 600})
    learn(world, 2)
    assert len(tick(world)) == 1
    for wait in (1_200, 2_400, 3_600, 3_600):
        finish(world, "failed")
        earlier(world, wait - 30)
        assert tick(world) == []
        earlier(world, 31)
        assert len(tick(world)) == 1
    assert world.states("distillations") == {"failed": 4, "due": 1}


def test_a_new_version_of_the_file_is_tried_at_once(world: World) -> None:
    world.apply(distil={"min_new_answers": 2})
    learn(world, 2)
    tick(world)
    finish(world, "failed")
    assert tick(world) == []
    world.apply(distil={"min_new_answers": 2}, small_model={"base": "another"})
    assert len(tick(world)) == 1


def test_a_distillation_that_ends_well_ends_the_waiting(world: World) -> None:
    world.apply(distil={"min_new_answers": 1, "every_s": 600})
    learn(world, 1)
    tick(world)
    finish(world, "failed")
    earlier(world, 2_000)
    tick(world)
    finish(world, "rejected")
    world.score(*[DOUBT] * 2)  # the second is new
    world.change("UPDATE asks SET role = 'train', propensity = NULL")
    world.ask(FakeLLM())
    assert len(tick(world)) == 1


def finish(world: World, state: str) -> None:
    token = uuid4()
    with world.store.begin() as tx:
        claim = distillations.claim(tx, world.known(), token, lease_s=60)
        assert claim is not None
        learned = None if state == "failed" else claim.up_to_answer
        assert distillations.finish(tx, claim.row, token, state=state, up_to_answer=learned)


def test_only_one_worker_claims_a_distillation(world: World) -> None:
    world.apply(distil={"min_new_answers": 1})
    learn(world, 1)
    tick(world)
    with world.store.begin() as tx:
        assert distillations.claim(tx, world.known(), uuid4(), lease_s=60) is not None
    with world.store.begin() as tx:
        assert distillations.claim(tx, world.known(), uuid4(), lease_s=60) is None


def test_a_second_attempt_sees_what_the_first_one_saw(world: World) -> None:
    world.apply(distil={"min_new_answers": 1})
    learn(world, 2)
    tick(world)
    first = claim_run(world)
    world.score(*[DOUBT] * 3)  # the third is new
    world.ask(FakeLLM())
    expire(world, "distillations")
    tick(world)
    second = claim_run(world)
    assert (second.up_to_answer, second.up_to_score) == (first.up_to_answer, first.up_to_score)
    with world.store.begin() as tx:
        assert len(distillations.answers(tx, world.known(), up_to=second.up_to_answer)) == 2
        assert len(distillations.answers(tx, world.known(), up_to=second.up_to_answer + 1)) == 3


@pytest.mark.parametrize("what", ["file", "incumbent"])
def test_a_second_attempt_under_another_file_or_incumbent_sees_all_there_is(world: World, what: str) -> None:
    world.apply(distil={"min_new_answers": 1})
    learn(world, 2)
    tick(world)
    first = claim_run(world)
    world.score(*[DOUBT] * 3)  # the third is new
    world.ask(FakeLLM())
    if what == "incumbent":
        world.bundle()
    else:
        world.apply(distil={"min_new_answers": 1}, small_model={"max_tokens": 32})
    expire(world, "distillations")
    tick(world)
    assert claim_run(world).up_to_answer == first.up_to_answer + 1


def claim_run(world: World) -> distillations.Claim:
    with world.store.begin() as tx:
        claim = distillations.claim(tx, world.known(), uuid4(), lease_s=60)
    assert claim is not None
    return claim


def test_an_expired_distillation_is_due_again_and_fails_the_third_time(world: World) -> None:
    world.apply(distil={"min_new_answers": 1})
    learn(world, 1)
    (due,) = tick(world)
    for attempt in (1, 2, 3):
        token = uuid4()
        with world.store.begin() as tx:
            claim = distillations.claim(tx, world.known(), token, lease_s=60)
        assert claim is not None
        row = claim.row
        assert (row, claim.attempts) == (due.ids[0], attempt)
        expire(world, "distillations")
        wakes = tick(world)
        with world.store.begin() as tx:
            assert not distillations.heartbeat(tx, row, token, lease_s=60, stage="absorb", progress=0.5)
            assert not distillations.finish(tx, row, token, state="promoted")
        if attempt < 3:
            assert wakes == [due]
    first = world.rows("SELECT state, error, finished_at FROM distillations ORDER BY id")[0]
    assert (first.state, first.error) == ("failed", "its worker left no word")
    assert first.finished_at is not None


def test_a_distillation_with_a_heartbeat_is_left_alone(world: World) -> None:
    world.apply(distil={"min_new_answers": 1})
    learn(world, 1)
    tick(world)
    token = uuid4()
    with world.store.begin() as tx:
        claim = distillations.claim(tx, world.known(), token, lease_s=60)
        assert claim is not None
    expire(world, "distillations")
    with world.store.begin() as tx:
        assert distillations.heartbeat(tx, claim.row, token, lease_s=60, stage="absorb", progress=0.5)
    assert tick(world) == []
    assert world.rows("SELECT state, stage, progress FROM distillations") == [("running", "absorb", 0.5)]


def test_a_due_distillation_whose_message_was_lost_is_published_again(world: World) -> None:
    world.apply(distil={"min_new_answers": 1})
    learn(world, 1)
    (due,) = tick(world)
    assert tick(world) == []
    stand_still(world, "distillations")
    assert tick(world) == [due]


def test_proofs_are_looked_at_where_there_is_a_target_and_a_bundle(world: World) -> None:
    world.apply(policy={"mode": "target", "alpha": 0.1, "audit_rate": 0.01})
    assert "certify" not in {wake.lane for wake in tick(world)}
    world.bundle()
    assert [wake for wake in tick(world) if wake.lane == "certify"] == [Wake("certify", NAME, (world.known().id,))]
    assert "certify" not in {wake.lane for wake in world.runtime.ticker.run()}


def test_a_bundle_on_trial_is_given_time_for_its_proof(world: World) -> None:
    world.apply(policy={"mode": "target", "alpha": 0.1, "audit_rate": 0.01}, distil={"min_new_answers": 1})
    learn(world, 10)
    bundle = world.bundle()
    world.change(
        "INSERT INTO distillations (classifier_id, spec_version, state, bundle_id, n_train, up_to_answer)"
        " VALUES (1, 2, 'promoted', :id, 11, 0)",
        id=bundle.id,
    )
    world.change(
        "INSERT INTO trials (classifier_id, bundle_id, promise, delta, thresholds, llm_model, prompt_hash, after_ask,"
        " planned) VALUES (1, :id, '{}', 0.01, '{0.9}', 'm', 'p', 0, 300)",
        id=bundle.id,
    )
    assert "distil" not in {wake.lane for wake in tick(world)}
    world.change("UPDATE distillations SET n_train = 10")
    assert "distil" in {wake.lane for wake in tick(world)}
