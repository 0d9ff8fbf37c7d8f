"""The drift guard on a real database: it reads scores and audits, and withdraws a promise that lost its ground."""

from __future__ import annotations

import pytest
from lanes import LABELS, NAME, FakeLLM, World, reply
from test_certify import PROMISE, certified, certify, kinds, standing, texts, tried, work

from datashunt.drift import AuditGuard, ScoreGuard
from datashunt.pipeline import guard
from datashunt.policy import TargetPolicy
from datashunt.store import guards

__all__ = ["certified", "tried"]  # fixtures


def watch(world: World) -> bool:
    known = world.known()
    assert isinstance(known.spec.policy, TargetPolicy)
    with world.store.begin() as tx:
        return guard.watch(tx, known, known.spec.policy)


def state(world: World) -> guards.Stored:
    with world.store.begin() as tx:
        found = guards.find(tx, world.one("SELECT max(id) FROM trials"))
    assert found is not None
    return found


def score(world: World, count: int, confidence: str, start: int) -> None:
    world.submit(*texts(count, confidence, start=start))
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items WHERE state = 'queued'")]))


@pytest.fixture
def watched(certified: World) -> World:
    """A guard that has begun."""
    assert watch(certified) is False
    return certified


def test_a_guard_begins_with_the_certificate_and_reads_each_score_once(watched: World) -> None:
    score(watched, 30, "0.95", 1_000)
    watch(watched)
    watch(watched)
    assert state(watched).scores["items"] == 30
    assert state(watched).scores["labels"] == [10, 10, 10]
    assert kinds(watched) == ["trial", "certificate"]


def test_of_more_than_it_reads_it_draws_a_sample_and_does_not_lag(
    watched: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guard, "MOST_SCORES", 100)
    score(watched, 400, "0.95", 1_000)
    newest = watched.one("SELECT max(id) FROM scores")
    watch(watched)
    drawn = state(watched)
    assert drawn.last_score == newest
    assert 60 < drawn.scores["items"] < 140  # 100 are expected; their deviation is 8.7
    assert all(20 <= count <= 47 for count in drawn.scores["labels"])
    score(watched, 90, "0.95", 2_000)
    watch(watched)
    assert state(watched).scores["items"] == drawn.scores["items"] + 90


def test_a_sample_is_the_same_whoever_draws_it(watched: World) -> None:
    score(watched, 300, "0.95", 1_000)
    bundle, last = watched.one("SELECT max(id) FROM bundles"), watched.one("SELECT max(id) - 300 FROM scores")
    with watched.store.begin() as tx:
        first, second = (guards.scores_after(tx, bundle, last, 50) for _ in range(2))
        everything = guards.scores_after(tx, bundle, last, 300)
    assert first == second
    assert 20 < len(first.labels) < 90
    assert len(everything.labels) == 300


def test_a_guard_without_news_goes_on_behind_what_others_scored_and_misses_nothing_that_commits_late(
    watched: World,
) -> None:
    last = state(watched).last_score
    others = (
        "INSERT INTO scores (item_id, bundle_id, spec_version, probabilities, label, confidence, threshold, kept,"
        " created_at) SELECT (SELECT max(id) FROM items), :bundle, 1, '{1,0,0}', 'negative', 1.0, 0.8, true,"
        " now() - make_interval(secs => :age) FROM generate_series(1, 10)"
    )
    late = watched.one("SELECT nextval(pg_get_serial_sequence('scores', 'id'))")
    watched.change(others, bundle=999, age=5)
    watch(watched)
    assert state(watched).last_score == last, "a batch of its own may still be under way"
    own = others.replace("(item_id", "(id, item_id").replace("SELECT (", "OVERRIDING SYSTEM VALUE SELECT :late, (")
    mine = watched.one("SELECT max(id) FROM bundles")
    watched.change(own.replace("(1, 10)", "(1, 1)"), bundle=mine, age=0, late=late)
    watch(watched)
    assert (state(watched).scores["items"], state(watched).last_score) == (1, late)
    watched.change("UPDATE scores SET created_at = now() - interval '2 minutes'")
    watch(watched)
    assert state(watched).scores["items"] == 1
    assert state(watched).last_score == watched.one("SELECT max(id) FROM scores")


def test_without_a_certificate_nothing_is_guarded(tried: World) -> None:
    assert watch(tried) is False
    assert tried.one("SELECT count(*) FROM guards") == 0


def test_scores_that_change_beyond_doubt_suspend_the_certificate(watched: World) -> None:
    score(watched, 1_200, "0.95", 1_000)
    watch(watched)
    score(watched, 400, "0.7", 3_000)
    assert watch(watched) is True
    assert kinds(watched)[-3:] == ["audit_rate_raised", "certificate_suspended", "distillation_wanted"]
    assert standing(watched) is None
    assert watched.known().certified is None
    assert watched.known().audit_rate is None
    assert watched.one("SELECT ended_why FROM trials") == "drift"
    certify(watched)  # the same bundle may be proven again, with fresh answers
    assert watched.one("SELECT count(*) FROM trials WHERE ended_at IS NULL") == 1


def test_a_policy_may_leave_it_to_the_audits(watched: World) -> None:
    watched.apply(policy={**PROMISE, "on_drift": "watch"})
    assert standing(watched) is not None  # nothing else is promised
    score(watched, 1_200, "0.95", 1_000)
    watch(watched)
    score(watched, 400, "0.7", 3_000)
    assert watch(watched) is False
    assert kinds(watched)[-1] == "audit_rate_raised"
    assert standing(watched) is not None


def test_audits_that_disagree_too_often_suspend_it_too(watched: World) -> None:
    wrong = FakeLLM([lambda _prompt: reply(LABELS[0])])
    watched.change("UPDATE classifiers SET audit_rate = 1.0")
    work(watched, texts(60, start=1_000), llm=wrong)
    certify(watched)
    assert watch(watched) is True
    assert state(watched).audits["misses"] == 40
    assert kinds(watched)[-2:] == ["certificate_suspended", "distillation_wanted"]


def test_an_alarm_raises_the_audit_rate_until_audits_say_that_all_is_well(watched: World) -> None:
    watched.apply(policy={"mode": "target", "alpha": 0.3, "delta": 0.9, "audit_rate": 0.2, "threshold": 0.8})
    scores = ScoreGuard.start(len(LABELS), seed=1).to_json()
    found = state(watched)
    with watched.store.begin() as tx:
        alarmed = guards.Stored("calm", {**scores, "evidence": 5.0}, found.audits, found.last_score, found.last_ask)
        guards.save(tx, watched.one("SELECT max(id) FROM trials"), alarmed)
    assert watch(watched) is False
    assert kinds(watched)[-1] == "audit_rate_raised"
    assert watched.known().audit_rate == pytest.approx(0.8)
    certify(watched)
    assert watched.known().audit_rate == pytest.approx(0.8)
    work(watched, texts(100, start=1_000))
    certify(watched)
    watch(watched)
    assert kinds(watched)[-1] == "calmed"
    assert watched.known().audit_rate == pytest.approx(0.2)
    assert state(watched).rung == "calm"


def test_a_guard_of_another_version_begins_anew(watched: World) -> None:
    score(watched, 30, "0.95", 1_000)
    watch(watched)
    watched.change("UPDATE guards SET scores = '{}'")
    watch(watched)
    assert state(watched).scores["items"] == 0
    assert AuditGuard.from_json(state(watched).audits).audits == 0
