"""The LLM lane on a real database: every call is booked before it is sent, and nothing paid for is lost."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from lanes import DOWN, LABELS, OUTSIDE, PRICE, REJECTED, THROTTLED, FakeLLM, FakeQuota, World, reply

from datashunt.classifier import NONE_OF_THESE
from datashunt.errors import (
    LLMUnauthorized,
    LLMUnavailable,
    LLMUnusable,
)
from datashunt.items import Reply
from datashunt.prompts import Prompt
from datashunt.quota import STOPPED_S

DOUBT = "negative 0.5 what a day"
TIMEOUT = LLMUnavailable("no whole reply within 60 s", kind="timeout", may_be_billed=True)
REFUSED_KEY = LLMUnauthorized("the key is refused (401)", kind="unauthorized", http_status=401)


def due_now(world: World) -> None:
    """Let the time pass that asks wait for."""
    world.change("UPDATE asks SET not_before = now() WHERE state = 'waiting'")


# an answer


def test_an_answer_ends_the_ask_and_its_item(world: World) -> None:
    world.bundle()
    world.score(DOUBT)
    assert world.ask(FakeLLM([reply(probabilities={"negative": 0.1, "neutral": 0.2, "positive": 0.7})])) == 1
    assert world.rows("SELECT state, label, source FROM items") == [("done", "positive", "llm")]
    assert world.rows("SELECT state, attempts, misses, lease_token FROM asks") == [("answered", 0, 0, None)]
    answer = world.rows("SELECT * FROM answers")[0]
    assert (answer.label, answer.role, answer.propensity, answer.had_prior) == ("positive", "train", None, False)
    assert answer.probabilities == pytest.approx([0.1, 0.2, 0.7])
    assert (answer.requested_model, answer.llm_model, answer.fingerprint) == ("teacher-1", "teacher-1-2026", "fp_1")


def test_every_number_of_an_answer_can_be_read_back_from_its_outcome(world: World) -> None:
    world.bundle()
    world.score(DOUBT)
    world.ask(FakeLLM([reply(probabilities={"negative": 0.1, "neutral": 0.2, "positive": 0.7})]))
    row = world.rows(
        "SELECT o.label, o.source, o.confidence, o.probabilities, a.prompt_hash, a.spec_version, s.label AS small,"
        "       s.confidence AS small_confidence, s.threshold, c.state, c.cost_usd, c.prompt_tokens,"
        "       c.completion_tokens, c.cached_tokens, c.reserved_usd, c.latency_ms, c.model, c.response_model,"
        "       b.version"
        "  FROM items i JOIN outcomes o ON o.id = i.outcome_id JOIN answers a ON a.id = o.answer_id"
        "  JOIN calls c ON c.id = a.call_id JOIN asks q ON q.id = a.ask_id AND q.id = c.ask_id"
        "  JOIN scores s ON s.id = o.score_id AND s.id = q.score_id JOIN bundles b ON b.id = s.bundle_id"
    )[0]
    assert (row.label, row.source, row.small, row.version) == ("positive", "llm", "negative", 1)
    assert (row.confidence, row.small_confidence, row.threshold) == pytest.approx((0.7, 0.5, 0.9))
    assert row.probabilities == pytest.approx([0.1, 0.2, 0.7])
    assert (row.state, row.cost_usd, row.prompt_tokens, row.completion_tokens) == ("answered", PRICE, 100, 10)
    assert (row.cached_tokens, row.latency_ms, row.model, row.response_model) == (
        0,
        12.5,
        "teacher-1",
        "teacher-1-2026",
    )
    assert row.reserved_usd > 0
    assert (row.prompt_hash, row.spec_version) == (world.known().prompt_hash, 1)


def test_a_call_is_booked_before_its_request_is_sent(world: World) -> None:
    world.score(DOUBT)
    seen: list[Any] = []

    def look(_: Prompt) -> Reply:
        seen.extend(world.calls())
        return reply()

    world.ask(FakeLLM([look]))
    assert [(c.state, c.attempt, c.cost_usd, c.settled_at) for c in seen] == [("sent", 1, None, None)]
    assert seen[0].reserved_usd > 0
    assert seen[0].reserved_tokens > 0


def test_several_asks_of_one_message_are_asked_one_after_another(world: World) -> None:
    made = world.score(*[f"{DOUBT} {n}" for n in range(3)])
    llm = FakeLLM()
    assert world.ask(llm, made) == 3
    assert world.states() == {"done": 3}


def test_a_redelivered_message_asks_the_llm_once(world: World) -> None:
    made = world.score(DOUBT)
    llm = FakeLLM()
    assert [world.ask(llm, made) for _ in range(3)] == [1, 0, 0]
    assert len(llm.prompts) == 1


def test_a_message_of_one_classifier_sets_to_work_on_what_waits_of_another_too(world: World) -> None:
    world.score(DOUBT)
    world.apply(name="other", labels=["a", "b"], llm={"model": "teacher-2"})
    llm = FakeLLM()
    assert world.asker(llm).run("other", []).calls == 1
    assert world.states("asks") == {"answered": 1}
    assert llm.prompts[0].candidates == LABELS


def test_an_audit_answer_never_changes_the_outcome(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    world.score("negative 0.95")
    world.ask(FakeLLM([reply("positive")]))
    assert world.rows("SELECT state, label, source FROM items") == [("done", "negative", "small")]
    assert world.rows("SELECT label, source FROM outcomes") == [("negative", "small")]
    answer = world.rows("SELECT label, propensity, role FROM answers")[0]
    assert (answer.label, answer.propensity) == ("positive", 1.0)
    assert answer.role in {"fit", "judge"}


def test_an_item_both_audited_and_escalated_is_asked_once_and_that_decides(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    made = world.score(DOUBT)
    assert world.ask(FakeLLM([reply("neutral")]), made) == 1
    assert world.rows("SELECT state, label, source FROM items") == [("done", "neutral", "llm")]


def test_probabilities_of_labels_that_were_not_offered_are_unknown_not_zero(world: World) -> None:
    world.apply(prompt={"pruning": "hard"})
    world.bundle(prune_cut=0.3)
    world.score("negative 0.6")
    world.ask(FakeLLM([reply("neutral", probabilities={"negative": 0.4, "neutral": 0.6})]))
    for table in ("answers", "outcomes"):
        assert world.one(f"SELECT probabilities FROM {table}") == [pytest.approx(0.4), pytest.approx(0.6), None]


def test_labels_and_prior_of_another_label_set_are_not_offered(world: World) -> None:
    world.apply(prompt={"pruning": "both"})
    world.bundle(prune_cut=0.3)
    world.score("negative 0.6")
    world.apply(labels=["bad", "good"], prompt={"pruning": "both"})
    llm = FakeLLM([reply("good")])
    world.ask(llm)
    assert llm.prompts[0].candidates == ("bad", "good")
    assert "prior" not in llm.prompts[0].messages[1]["content"]
    assert world.rows("SELECT a.label, s.labels FROM outcomes a JOIN specs s ON s.version = a.spec_version") == [
        ("good", ["bad", "good"])
    ]


def test_an_answer_under_a_prior_is_marked(world: World) -> None:
    world.apply(prompt={"pruning": "soft"})
    world.bundle()
    world.score(DOUBT)
    llm = FakeLLM()
    world.ask(llm)
    assert '"prior"' in llm.prompts[0].messages[1]["content"]
    assert world.one("SELECT had_prior FROM answers") is True


# a reply that names no offered label


def test_none_of_these_asks_once_more_over_all_labels(world: World) -> None:
    world.apply(prompt={"pruning": "both"})
    world.bundle(prune_cut=0.3)
    world.score("negative 0.6")
    llm = FakeLLM([reply(NONE_OF_THESE), reply("positive")])
    assert world.ask(llm) == 2
    assert [prompt.candidates for prompt in llm.prompts] == [("negative", "neutral"), LABELS]
    assert world.rows("SELECT state, label FROM items") == [("done", "positive")]
    assert world.rows("SELECT had_prior FROM answers") == [(False,)]
    assert [(c.state, c.attempt, c.error_kind, c.cost_usd) for c in world.calls()] == [
        ("answered", 1, "none_of_these", PRICE),
        ("answered", 2, None, PRICE),
    ]


def test_an_unusable_reply_is_asked_once_more_over_all_labels(world: World) -> None:
    world.apply(prompt={"pruning": "hard"})
    world.bundle(prune_cut=0.3)
    world.score("negative 0.6")
    llm = FakeLLM([OUTSIDE, reply("positive")])
    assert world.ask(llm) == 2
    assert [len(prompt.candidates) for prompt in llm.prompts] == [2, 3]
    assert world.states() == {"done": 1}
    assert world.rows("SELECT attempts, misses FROM asks") == [(0, 1)]


def test_a_second_unusable_reply_is_a_dead_letter_and_both_are_paid(world: World) -> None:
    world.score(DOUBT)
    assert world.ask(FakeLLM([OUTSIDE])) == 2
    assert world.states() == world.states("asks") == {"dead": 1}
    letter = world.rows("SELECT * FROM dead_letters")[0]
    assert letter.reason == "outside_candidates"
    assert "2 replies" in letter.detail
    for call in world.calls():
        assert (call.state, call.cost_usd, call.error_kind) == ("answered", PRICE, "outside_candidates")
        assert (call.prompt_tokens, call.response_model, call.fingerprint) == (100, "teacher-1-2026", "fp_1")


def test_an_unusable_reply_that_counts_no_tokens_is_booked_at_its_reserved_cost(world: World) -> None:
    world.score(DOUBT)
    world.ask(FakeLLM([LLMUnusable("the endpoint's reply is no JSON", kind="invalid_body", http_status=200)]))
    assert all(call.cost_usd == call.reserved_usd > 0 and call.state == "answered" for call in world.calls())


def test_a_buried_audit_leaves_its_item_done(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    world.score("negative 0.95")
    world.ask(FakeLLM([OUTSIDE]))
    assert world.states() == {"done": 1}
    assert world.states("asks") == {"dead": 1}
    assert world.one("SELECT count(*) FROM dead_letters") == 1


# failures


def test_a_failure_waits_as_a_row_and_uses_up_an_attempt(world: World) -> None:
    world.score(DOUBT)
    llm = FakeLLM([DOWN, reply()])
    world.ask(llm)  # the back-off may be over at once: then the same run asks again
    due_now(world)
    world.ask(llm)
    assert world.states() == {"done": 1}
    assert world.one("SELECT attempts FROM asks") == 1
    assert [(c.state, c.attempt, c.cost_usd, c.http_status, c.error_kind) for c in world.calls()] == [
        ("failed", 1, 0, 503, "server_error"),
        ("answered", 2, PRICE, None, None),
    ]


def test_an_ask_is_dead_after_its_last_attempt(world: World) -> None:
    world.score(DOUBT)
    llm = FakeLLM([DOWN])
    for _ in range(3):
        due_now(world)
        world.ask(llm, llm_max_attempts=3)
    assert len(llm.prompts) == 3
    assert world.states() == world.states("asks") == {"dead": 1}
    ((reason, detail),) = world.rows("SELECT reason, detail FROM dead_letters")
    assert reason == "server_error"
    assert detail.startswith("after 3 failed calls: the LLM endpoint failed (503); calls: ")
    assert detail.count("Z teacher-1 server_error") == 3


def test_an_ask_whose_text_was_removed_is_dead_and_others_are_asked(world: World) -> None:
    made = world.score("negative 0.4 first", "negative 0.4 second")
    world.change("DELETE FROM texts WHERE item_id = (SELECT item_id FROM asks WHERE id = :ask)", ask=made[0])
    assert world.ask(FakeLLM([reply("negative")]), made) == 1
    assert world.rows("SELECT key, state FROM items ORDER BY id") == [("i0", "dead"), ("i1", "done")]
    assert world.rows("SELECT reason FROM dead_letters") == [("text_removed",)]


def test_a_rejected_request_is_dead_at_once(world: World) -> None:
    world.score(DOUBT)
    assert world.ask(FakeLLM([REJECTED])) == 1
    assert world.states() == {"dead": 1}
    assert world.one("SELECT reason FROM dead_letters") == "content_filter"


def test_a_call_without_reply_or_error_is_booked_at_its_reserved_cost(world: World) -> None:
    world.score(DOUBT)
    quota = FakeQuota()
    world.ask(FakeLLM([TIMEOUT]), quota=quota, llm_max_attempts=1)
    (call,) = world.calls()
    assert (call.state, call.error_kind) == ("unknown", "timeout")
    assert call.cost_usd == call.reserved_usd > 0
    assert quota.settled == [call.reserved_tokens]


def test_a_model_whose_price_nobody_knows_costs_nothing_and_fails_nothing(world: World) -> None:
    world.apply(llm={"model": "my-own-model", "input_price": None, "output_price": None})
    world.score(DOUBT)
    world.ask(FakeLLM())
    assert [(c.state, c.cost_usd, c.reserved_usd) for c in world.calls()] == [("answered", Decimal(0), Decimal(0))]


@pytest.mark.parametrize(("error", "wait_s", "paused"), [(THROTTLED, 7.0, [7.0]), (REFUSED_KEY, STOPPED_S, [])])
def test_a_wait_for_others_is_a_row_and_uses_up_no_attempt(
    world: World, error: Exception, wait_s: float, paused: list[float]
) -> None:
    made = world.score(DOUBT)
    quota = FakeQuota()
    assert world.ask(FakeLLM([error]), made, quota=quota) == 1  # type: ignore[list-item]
    ask = world.rows("SELECT *, extract(epoch FROM not_before - now()) AS wait_s FROM asks")[0]
    assert (ask.state, ask.attempts, ask.misses, ask.lease_token) == ("waiting", 0, 0, None)
    assert wait_s - 5 < ask.wait_s <= wait_s
    assert quota.paused == paused
    assert [(c.state, c.cost_usd) for c in world.calls()] == [("failed", 0)]
