"""Promises and their proofs, on a real database: what is kept while nothing is proven, and what ends a certificate."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from lanes import LABELS, NAME, FakeLLM, FakeModel, FakeModels, World, reply

from datashunt.items import Item
from datashunt.pipeline import proof, rerun
from datashunt.pipeline.certify import Certifier
from datashunt.prompts import Prompt
from datashunt.store import bundles, certificates, trials
from datashunt.store.trials import LLM_CHANGED

PROMISE: dict[str, Any] = {"mode": "target", "alpha": 0.3, "delta": 0.9, "audit_rate": 1.0, "threshold": 0.8}
"""A proof of this takes some twenty answers without a miss."""


def says(prompt: Prompt, **how: Any) -> Any:
    """The LLM's answer: the first word of the item, unless the second is below 0.6; then it is another label."""
    text: str = json.loads(prompt.data)["item"]
    label, confidence, *_ = text.split()
    wrong = float(confidence) < 0.6
    return reply(LABELS[(LABELS.index(label) + wrong) % 3], **how)


def texts(count: int, confidence: str = "0.95", start: int = 0) -> list[Item]:
    return [Item(f"x{n}", f"{LABELS[n % 3]} {confidence} number {n}") for n in range(start, start + count)]


def mixed(count: int, start: int = 0) -> list[Item]:
    """Every third item is one that the small model is unsure of, and wrong about."""
    return [one for n in range(start, start + count) for one in texts(1, "0.5" if n % 3 == 2 else "0.95", start=n)]


def certify(world: World) -> None:
    models: Any = FakeModels(*[FakeModel()] * 9)
    Certifier(world.store, models, world.settings).run(NAME)


def work(world: World, items: list[Item], role: str = "judge", llm: FakeLLM | None = None) -> None:
    """Submit items, score them, give all asks one role, and let the LLM answer."""
    world.submit(*items)
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items")]))
    world.change("UPDATE asks SET role = :role WHERE state = 'waiting'", role=role)
    world.ask(llm or FakeLLM([says]))


@pytest.fixture
def tried(world: World) -> World:
    """A bundle that serves, fit answers, and its trial."""
    world.apply(policy={**PROMISE})
    work(world, [*texts(20), *texts(10, "0.5", start=20)], role="fit")
    world.bundle()
    certify(world)
    assert world.one("SELECT count(*) FROM trials") == 1
    return world


def standing(world: World) -> certificates.Granted | None:
    with world.store.begin() as tx:
        incumbent = world.known().incumbent
        assert incumbent is not None
        return certificates.standing(tx, incumbent.id)


def kinds(world: World) -> list[str]:
    return [row.kind for row in world.rows("SELECT kind FROM events ORDER BY id")]


def test_everything_is_asked_until_enough_is_proven_and_then_the_surest_are_kept(tried: World) -> None:
    work(tried, mixed(10, start=100))
    certify(tried)
    assert standing(tried) is None
    trial = tried.rows("SELECT * FROM trials")[0]
    assert (trial.n, trial.note.startswith("not yet")) == (10, True)
    assert trial.missing > 0
    assert tried.one("SELECT count(*) FROM outcomes WHERE source = 'small'") == 0
    work(tried, mixed(60, start=200))
    certify(tried)
    found = standing(tried)
    assert found is not None
    assert 0.5 < found.threshold <= 0.95
    assert (found.alpha, found.delta, found.k) == (0.3, 0.9, 0)
    assert found.n == 47
    assert found.findings[0]["target"] == "at most 0.3 of the kept disagree"
    tried.submit(*texts(3, start=300), *texts(3, "0.5", start=400))
    list(tried.scorer().run(NAME, [row.id for row in tried.rows("SELECT id FROM items")]))
    rows = tried.rows("SELECT key, state, source FROM items WHERE key LIKE 'x3__' OR key LIKE 'x4__' ORDER BY key")
    assert [(row.state, row.source) for row in rows] == [("done", "small")] * 3 + [("asked", None)] * 3
    assert kinds(tried) == ["trial", "certificate"]


def test_a_bundle_that_misses_too_often_gets_no_certificate(tried: World) -> None:
    wrong = FakeLLM([lambda prompt: reply(LABELS[(LABELS.index(json.loads(prompt.data)["item"].split()[0]) + 1) % 3])])
    work(tried, texts(40, start=100), llm=wrong)
    certify(tried)
    assert standing(tried) is None
    assert tried.rows("SELECT n, missing FROM trials")[0].missing > 40


def test_training_and_fit_answers_and_those_of_before_prove_nothing(tried: World) -> None:
    work(tried, texts(40, start=100), role="fit")
    tried.change("UPDATE asks SET role = 'judge' WHERE item_id IN (SELECT id FROM items WHERE key < 'x1')")
    certify(tried)
    assert tried.one("SELECT count(*) FROM trial_answers") == 0


def asked(world: World, role: str) -> None:
    """Score what is queued, and let the LLM answer all of it that is asked in this role."""
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items WHERE state = 'queued'")]))
    rate = None if role == "train" else 1.0
    world.change("UPDATE asks SET role = :role, propensity = :rate WHERE state = 'waiting'", role=role, rate=rate)
    world.ask(FakeLLM([says]))


@pytest.mark.parametrize("role", ["train", "fit", "judge"])
def test_what_was_asked_or_kept_before_proves_nothing_when_it_is_run_again(world: World, role: str) -> None:
    world.submit(*texts(10))
    asked(world, "fit")
    world.bundle()
    world.submit(*texts(30, "0.85", start=100), *texts(30, start=200))
    asked(world, role)
    assert world.one("SELECT count(*) FROM items WHERE source = 'small'") == 30
    world.submit(*texts(3, start=900))  # they wait to be scored when the trial begins
    world.apply(policy={**PROMISE})
    certify(world)
    made = rerun.plan(world.admin, NAME)
    assert sum(len(wake.ids) for wake in rerun.rerun(world.admin, NAME, made)) == 70
    asked(world, "judge")
    certify(world)
    counted = world.rows("SELECT key FROM trial_answers t JOIN asks a ON a.id = ask_id JOIN items i ON i.id = item_id")
    assert sorted(row.key for row in counted) == ["x900", "x901", "x902"]
    assert standing(world) is None


@pytest.mark.parametrize("column", ["prompt_hash", "requested_model"])
def test_an_answer_under_another_prompt_or_model_than_those_of_the_trial_is_left_out(tried: World, column: str) -> None:
    work(tried, texts(6, start=100))
    tried.change(f"UPDATE answers SET {column} = 'another' WHERE ask_id % 2 = 0")
    certify(tried)
    read = tried.rows("SELECT ask_id, truth FROM trial_answers")
    assert [row.ask_id % 2 for row in read] == [1, 1, 1]
    assert all(row.truth >= 0 for row in read)


@pytest.mark.parametrize(
    ("what", "states"),
    [("ask", {"asked"}), ("hold", {"held"}), ("keep", {"done", "asked"})],
)
def test_while_nothing_is_proven_the_policy_says_what_to_do(world: World, what: str, states: set[str]) -> None:
    world.apply(policy={**PROMISE, "on_uncertified": what, "audit_rate": 0.005})
    world.bundle()
    world.submit(*texts(5), *texts(5, "0.5", start=5))
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items")]))
    assert set(world.states()) == states


def test_an_open_audit_ends_what_is_read_and_one_that_waited_too_long_disagrees(tried: World) -> None:
    work(tried, texts(6, start=100))
    tried.change("DELETE FROM answers WHERE ask_id IN (SELECT id FROM asks ORDER BY id DESC LIMIT 3)")
    tried.change("UPDATE asks SET state = 'waiting' WHERE id = (SELECT max(id) - 2 FROM asks)")
    tried.change("UPDATE asks SET state = 'dead' WHERE id = (SELECT max(id) - 1 FROM asks)")
    tried.change("UPDATE asks SET state = 'withdrawn' WHERE id = (SELECT max(id) FROM asks)")
    certify(tried)
    assert [row.truth for row in tried.rows("SELECT truth FROM trial_answers ORDER BY ask_id")] == [1, 2, 0]
    tried.change("UPDATE asks SET created_at = now() - interval '3 days' WHERE state = 'waiting'")
    certify(tried)
    assert [row.truth for row in tried.rows("SELECT truth FROM trial_answers ORDER BY ask_id")] == [1, 2, 0, -1, -1]


@pytest.fixture
def certified(tried: World) -> World:
    """A certificate that stands."""
    work(tried, texts(40, start=100))
    certify(tried)
    assert standing(tried) is not None
    return tried


def test_a_response_of_another_llm_ends_the_certificate_and_another_trial_begins(certified: World) -> None:
    old = standing(certified)
    assert old is not None
    assert old.fingerprints == ("teacher-1-2026 fp_1",)
    other = FakeLLM([lambda prompt: says(prompt, fingerprint="fp_2")])
    work(certified, texts(60, "0.5", start=500), llm=other)
    certify(certified)
    assert standing(certified) is None
    assert certified.known().certified is None
    assert certified.rows("SELECT ended_why FROM trials") == [(LLM_CHANGED,)]
    assert kinds(certified)[-1] == "withdrawn"
    certify(certified)
    first, second = certified.rows("SELECT delta FROM trials ORDER BY id")
    assert second.delta == pytest.approx(first.delta * (10 / (11 * 12)) / (10 / (10 * 11)))
    assert certified.one("SELECT count(*) FROM delta_ledger WHERE kind = 'certificate'") == 2


def test_no_judge_answer_of_another_llm_joins_a_proof_that_stands_however_many_others_came_since(
    certified: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = FakeLLM([lambda prompt: says(prompt, fingerprint="fp_2")])
    certified.change("UPDATE classifiers SET audit_rate = 1.0")
    work(certified, texts(3, start=500), llm=other)
    work(certified, texts(20, start=600), role="judge")
    few = trials.llms_since
    monkeypatch.setattr(trials, "llms_since", lambda *given: few(*given, most=20))
    certify(certified)
    assert standing(certified) is None
    assert certified.rows("SELECT ended_why FROM trials") == [(LLM_CHANGED,)]


class Looks:
    """One worker's looks at trials, how many answers each had, and what happens during the next."""

    def __init__(self, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
        models: Any = FakeModels(*[FakeModel()] * 9)
        self._certifier = Certifier(world.store, models, world.settings)
        self._look = proof.look
        self.had: list[int] = []
        self.meanwhile: Callable[[], Any] = lambda: None
        monkeypatch.setattr(proof, "look", self)

    def __call__(self, spec: Any, policy: Any, trial: Any, read: Any) -> Any:
        self.had.append(len(read))
        self.meanwhile()
        return self._look(spec, policy, trial, read)

    def run(self) -> None:
        self._certifier.run(NAME)


@pytest.fixture
def looks(tried: World, monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(tried, monkeypatch)


def test_without_new_answers_nothing_is_computed_and_with_many_only_at_two_in_a_hundred_more(
    tried: World, looks: Looks
) -> None:
    looks.run()
    looks.run()
    assert looks.had == [0]
    for n in (1, 1, 98, 1, 1, 1):
        tried.change("UPDATE classifiers SET audit_rate = 1.0")
        work(tried, texts(n, "0.5", start=1_000 * len(tried.rows("SELECT id FROM items"))))
        looks.run()
        looks.run()
    assert looks.had == [0, 1, 2, 100, 102]
    assert tried.one("SELECT n FROM trials") == tried.one("SELECT count(*) FROM trial_answers") == 103


def test_another_llm_is_noticed_without_a_look(certified: World, looks: Looks) -> None:
    looks.run()
    other = FakeLLM([lambda prompt: says(prompt, fingerprint="fp_2")])
    certified.submit(*texts(3, "0.4", start=500))
    list(certified.scorer().run(NAME, [row.id for row in certified.rows("SELECT id FROM items")]))
    certified.change("UPDATE asks SET role = 'train', propensity = NULL WHERE state = 'waiting'")
    certified.ask(other)
    looks.run()
    assert len(looks.had) == 1
    assert standing(certified) is None


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda world: world.apply(policy={**PROMISE, "alpha": 0.35}),
        lambda world: world.apply(policy={**PROMISE}, distil={"min_new_answers": 7}),
        lambda world: world.bundle(),
        lambda world: world.change("UPDATE trials SET n = n + 1"),
    ],
)
def test_what_a_look_finds_counts_only_if_nothing_changed_meanwhile(
    tried: World, looks: Looks, meanwhile: Callable[[World], Any]
) -> None:
    work(tried, texts(40, start=100))
    looks.meanwhile = lambda: meanwhile(tried)  # nobody waits for a lock
    looks.run()
    assert looks.had == [40]
    assert tried.one("SELECT count(*) FROM certificates WHERE trial_id IS NOT NULL") == 0


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "Say it in other words."},
        {"policy": {**PROMISE, "alpha": 0.25}},
        {"llm": {"model": "teacher-2"}},
        {"policy": {"mode": "fixed", "threshold": 0.9}},
    ],
)
def test_another_prompt_promise_or_llm_in_the_file_ends_the_certificate_at_once(
    certified: World, change: dict[str, Any]
) -> None:
    document = {"policy": {**PROMISE}, **change}
    policy = document.pop("policy")
    spec = certified.apply(**document, policy=policy) if policy["mode"] == "target" else None
    if spec is None:
        from datashunt import classifier, prompts
        from datashunt.store import classifiers

        fixed = classifier.parse({"name": NAME, "labels": list(LABELS), "instruction": "Say.", "policy": policy})
        with certified.admin.begin() as tx:
            classifiers.apply(tx, fixed, prompts.prompt_hash(fixed))
    assert certified.known().certified is None
    assert certified.one("SELECT count(*) FROM trials WHERE ended_at IS NULL") == 0


def test_what_does_not_touch_the_promise_leaves_the_certificate(certified: World) -> None:
    certified.apply(policy={**PROMISE, "audit_rate": 0.5}, distil={"min_new_answers": 7})
    assert certified.known().certified is not None


def test_a_switch_by_hand_ends_the_certificate(certified: World) -> None:
    certified.bundle()
    assert certified.known().certified is None
    assert certified.known().audit_rate is None


def test_a_winner_waits_until_it_is_certified_itself(certified: World) -> None:
    waiting = certified.bundle(serve=False)
    certified.change(
        "INSERT INTO distillations (classifier_id, spec_version, state, bundle_id) VALUES (1, 1, 'uncertified', :id)",
        id=waiting.id,
    )
    certify(certified)
    assert certified.one("SELECT count(*) FROM trials WHERE ended_at IS NULL") == 2
    work(certified, texts(5, start=500))
    certify(certified)
    assert certified.known().incumbent.version == 1  # type: ignore[union-attr]
    work(certified, texts(240, start=600))  # of which a quarter is audited, by chance
    certify(certified)
    assert certified.known().incumbent.version == 2  # type: ignore[union-attr]
    assert certified.known().certified is not None
    assert certified.rows("SELECT cause FROM promotions ORDER BY id DESC LIMIT 1") == [("certificate",)]


def test_a_winner_that_keeps_less_than_is_kept_now_waits_no_longer_than_one_of_which_nothing_is_proven(
    certified: World,
) -> None:
    waiting = certified.bundle(serve=False)
    certified.change(
        "INSERT INTO distillations (classifier_id, spec_version, state, bundle_id) VALUES (1, 1, 'uncertified', :id)",
        id=waiting.id,
    )
    sure_of_half: Any = FakeModels(FakeModel(), Cautious())
    certifier = Certifier(certified.store, sure_of_half, certified.settings)
    certifier.run(NAME)
    certified.change("UPDATE trials SET planned = 40 WHERE bundle_id = :id", id=waiting.id)
    for n in (100, 100):
        certified.change("UPDATE classifiers SET audit_rate = 1.0")
        work(certified, texts(n, start=certified.one("SELECT count(*) FROM items") * 100))
        certifier.run(NAME)
    assert certified.one("SELECT state FROM bundles WHERE id = :id", id=waiting.id) == "rejected"
    assert certified.known().incumbent.version == 1  # type: ignore[union-attr]
    told = certified.one("SELECT detail FROM events ORDER BY id DESC LIMIT 1")
    assert told == "bundle 2 gets no certificate: it would keep 50.0%, and 100.0% is kept now"


class Cautious(FakeModel):
    """Is sure of every second item, and wrong about the others."""

    def _one(self, text: str) -> Any:
        vector = super()._one(text)
        return vector if int(text.rsplit(maxsplit=1)[-1]) % 2 else (0.5 * vector + 0.5 / len(LABELS))[[2, 0, 1]]


def test_a_newer_winner_takes_the_place_of_one_that_waits(certified: World) -> None:
    old, new = certified.bundle(serve=False), certified.bundle(serve=False)
    for one in (old, new):
        certified.change(
            "INSERT INTO distillations (classifier_id, spec_version, state, bundle_id)"
            " VALUES (1, 1, 'uncertified', :id)",
            id=one.id,
        )
    with certified.store.begin() as tx:
        bundles.reject_waiting(tx, certified.known().id, but=new.id)
    states = {row.id: row.state for row in certified.rows("SELECT id, state FROM bundles")}
    assert (states[old.id], states[new.id]) == ("rejected", "challenger")


def test_a_promise_that_is_kept_by_far_is_audited_less(certified: World) -> None:
    certified.apply(policy={**PROMISE, "audit_rate": 0.5})
    work(certified, texts(100, start=500))
    certify(certified)
    assert certified.known().audit_rate == pytest.approx(0.125)


def test_a_label_that_is_always_asked_is_never_kept(world: World) -> None:
    world.apply(policy={**PROMISE, "labels": {"neutral": {"always_ask": True}}})
    work(world, [*texts(20), *texts(10, "0.5", start=20)], role="fit")
    world.bundle()
    certify(world)
    work(world, texts(60, start=100))
    certify(world)
    assert standing(world) is not None
    world.submit(*texts(6, start=400))
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items")]))
    rows = world.rows("SELECT state FROM items WHERE key LIKE 'x4__' ORDER BY key")
    assert [row.state for row in rows] == ["asked", "done", "done"] * 2


def test_likely_items_of_a_watched_label_are_audited_more_often(world: World) -> None:
    world.apply(policy={**PROMISE, "audit_rate": 0.1, "labels": {"negative": {"min_recall": 0.6}}})
    world.bundle()
    world.submit(*texts(60))
    list(world.scorer().run(NAME, [row.id for row in world.rows("SELECT id FROM items")]))
    drawn = world.rows(
        "SELECT DISTINCT propensity, split_part(text, ' ', 1) AS label FROM asks JOIN texts USING (item_id)"
        " WHERE propensity IS NOT NULL"
    )
    assert {(row.label, round(row.propensity, 6)) for row in drawn} == {
        ("negative", 0.4),
        ("neutral", 0.1),
        ("positive", 0.1),
    }


def test_label_sets_are_calibrated_for_the_threshold_that_is_proven(world: World) -> None:
    world.apply(policy={**PROMISE}, prompt={"pruning": "hard", "coverage": 0.8})
    work(world, [*texts(20), *texts(10, "0.5", start=20)], role="fit")
    world.bundle()
    certify(world)
    assert _calibrated(world)["threshold"] is None  # nothing is kept yet: all items escalate
    work(world, mixed(60, start=200))
    certify(world)
    found = standing(world)
    assert found is not None
    assert _calibrated(world)["threshold"] == pytest.approx(found.threshold)
    assert _calibrated(world)["answers"] == 10


def _calibrated(world: World) -> Any:
    return world.one("SELECT evaluation -> 'pruning' FROM bundles")


def test_a_bundle_that_serves_again_is_tried_again(certified: World) -> None:
    certified.bundle()
    with certified.store.begin() as tx:
        bundles.rollback(tx, certified.known())
    assert certified.known().certified is None
    certify(certified)
    open_ = certified.rows("SELECT bundle_id FROM trials WHERE ended_at IS NULL")
    assert [row.bundle_id for row in open_] == [certified.known().incumbent.id]  # type: ignore[union-attr]


def test_a_promise_that_is_given_again_is_tried_again(certified: World) -> None:
    certified.apply(policy={**PROMISE, "alpha": 0.2})
    certified.apply(policy={**PROMISE})
    certify(certified)
    assert certified.one("SELECT count(*) FROM trials WHERE ended_at IS NULL") == 1
    assert certified.one("SELECT count(*) FROM trials") == 2
