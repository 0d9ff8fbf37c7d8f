"""The score lane on a real database: what is kept, asked and audited, and what goes wrong without a loss."""

from __future__ import annotations

import time
from collections.abc import Sequence
from types import SimpleNamespace
from uuid import uuid4

import pytest
import torch
from lanes import NAME, FakeModel, FakeModels, World, choke_on_all

from datashunt.errors import BundleError, ModelBroken, ModelError
from datashunt.items import Item, Wake, readable
from datashunt.pipeline import models as remembered
from datashunt.pipeline import score as lane
from datashunt.pipeline.models import Directory
from datashunt.pipeline.score import Scorer
from datashunt.store import scores
from datashunt.store.classifiers import Registered

KEEP, DOUBT = "positive 0.95", "negative 0.5"


def steal(world: World, table: str = "items") -> None:
    """Another worker takes the leases over, as after this one slept for too long."""
    world.change(f"UPDATE {table} SET lease_token = gen_random_uuid() WHERE lease_token IS NOT NULL")


def test_without_a_bundle_everything_is_asked_and_a_fifth_is_held_out(world: World) -> None:
    made = world.score(*["positive 0.99"] * 600)
    assert world.states() == {"asked": 600}
    asks = world.rows("SELECT id, reason, role, propensity, offered, prior, score_id, spec_version FROM asks")
    assert sorted(made) == sorted(ask.id for ask in asks)
    assert {(ask.reason, ask.offered, ask.prior, ask.score_id, ask.spec_version) for ask in asks} == {
        ("escalation", None, None, None, 1)
    }
    held_out = [ask for ask in asks if ask.propensity is not None]
    assert 70 <= len(held_out) <= 170  # 120 are expected, with a standard deviation of 10
    assert all(ask.propensity == pytest.approx(0.2) for ask in held_out)
    assert {ask.role for ask in held_out} == {"fit", "judge"}
    assert {ask.role for ask in asks if ask.propensity is None} == {"train"}
    assert world.rows("SELECT * FROM scores") == world.rows("SELECT * FROM outcomes") == []


def test_a_confident_item_is_kept_and_a_doubtful_one_is_asked(world: World) -> None:
    bundle = world.bundle()
    made = world.score(KEEP, DOUBT)
    assert world.rows("SELECT key, state, label, source FROM items ORDER BY id") == [
        ("i0", "done", "positive", "small"),
        ("i1", "asked", None, None),
    ]
    ((ask,),) = (world.rows("SELECT * FROM asks"),)
    assert (ask.id, ask.reason, ask.role, ask.propensity) == (made[0], "escalation", "train", None)
    kept, doubted = world.rows("SELECT * FROM scores ORDER BY id")
    assert (kept.bundle_id, kept.label, kept.kept, kept.spec_version) == (bundle.id, "positive", True, 1)
    assert kept.probabilities == pytest.approx([0.025, 0.025, 0.95])
    assert (kept.confidence, kept.threshold) == (pytest.approx(0.95), pytest.approx(0.9))
    assert (doubted.label, doubted.kept, doubted.id) == ("negative", False, ask.score_id)


def test_an_item_exactly_at_the_threshold_is_kept(world: World) -> None:
    world.apply(policy={"threshold": 0.75})
    world.bundle()
    world.score("positive 0.75")
    assert world.states() == {"done": 1}


def test_every_number_that_led_to_an_outcome_can_be_read_back(world: World) -> None:
    world.bundle()
    world.score(KEEP)
    row = world.rows(
        "SELECT o.label, o.source, o.confidence, o.probabilities, o.threshold, s.threshold AS scored_at, s.kept,"
        "       b.version, b.content_hash, p.document ->> 'instruction' AS instruction, p.version AS spec, t.text"
        "  FROM items i JOIN outcomes o ON o.id = i.outcome_id JOIN scores s ON s.id = o.score_id"
        "  JOIN bundles b ON b.id = o.bundle_id AND b.id = s.bundle_id JOIN texts t ON t.item_id = i.id"
        "  JOIN specs p ON p.classifier_id = o.classifier_id AND p.version = o.spec_version"
    )[0]
    assert (row.label, row.source, row.version, row.spec, row.kept) == ("positive", "small", 1, 1, True)
    assert (row.confidence, row.threshold, row.scored_at) == pytest.approx((0.95, 0.9, 0.9))
    assert row.probabilities == pytest.approx([0.025, 0.025, 0.95])
    assert (row.instruction, row.text) == ("Say how the writer feels.", KEEP)


def test_an_audited_item_has_its_outcome_and_a_reference_ask(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0}, prompt={"pruning": "both"})
    world.bundle(prune_cut=0.2)
    world.score(KEEP, DOUBT)
    assert world.rows("SELECT state, label FROM items ORDER BY id") == [("done", "positive"), ("asked", None)]
    asks = world.rows("SELECT reason, propensity, role, offered, prior FROM asks ORDER BY item_id")
    assert [ask.reason for ask in asks] == ["audit", "escalation"]
    assert all(ask.propensity == 1.0 and ask.role in {"fit", "judge"} for ask in asks)
    assert all(ask.offered is None and ask.prior is None for ask in asks)


@pytest.mark.parametrize(
    ("pruning", "offered", "prior"),
    [
        ("off", None, None),
        ("soft", None, {"negative": 0.6, "neutral": 0.2, "positive": 0.2}),
        ("hard", ["negative", "neutral"], None),
        ("both", ["negative", "neutral"], {"negative": 0.6, "neutral": 0.2, "positive": 0.2}),
    ],
)
def test_a_prompt_is_pruned_as_the_classifier_says(
    world: World, pruning: str, offered: list[str] | None, prior: dict[str, float] | None
) -> None:
    world.apply(prompt={"pruning": pruning})
    world.bundle(prune_cut=0.3)
    world.score("negative 0.6")
    assert world.rows("SELECT offered, prior FROM asks") == [(offered, prior)]


def test_a_score_that_is_no_number_is_asked_over_all_labels_without_a_prior(world: World) -> None:
    world.apply(prompt={"pruning": "both"}, policy={"threshold": 0.0})
    world.bundle(prune_cut=0.3)
    world.score("negative nan")
    assert world.states() == {"asked": 1}
    assert world.rows("SELECT offered, prior FROM asks") == [(None, None)]


def test_a_bundle_without_a_cut_offers_all_labels(world: World) -> None:
    world.apply(prompt={"pruning": "hard"})
    world.bundle(prune_cut=None)
    world.score(DOUBT)
    assert world.one("SELECT offered FROM asks") is None


def test_the_backlog_is_scored_in_batches_oldest_first(world: World) -> None:
    world.bundle()
    model = FakeModel()
    world.score(*[f"positive 0.95 {n}" for n in range(300)], models=FakeModels(model))
    assert [len(batch) for batch in model.batches] == [256, 44]
    assert sorted(model.batches[1]) == sorted(f"positive 0.95 {n}" for n in range(256, 300))
    assert world.states() == {"done": 300}


def test_a_message_tops_its_batch_up_from_the_backlog(world: World) -> None:
    world.bundle()
    _, wakes = world.submit(KEEP, KEEP, KEEP)
    assert list(world.scorer().run(NAME, wakes[0].ids[2:])) == []
    assert world.states() == {"done": 3}


def test_a_redelivered_message_is_a_no_op(world: World) -> None:
    world.bundle()
    model = FakeModel()
    _, wakes = world.submit(KEEP, DOUBT)
    for _ in range(2):
        list(world.scorer(FakeModels(model)).run(NAME, wakes[0].ids))
    assert len(model.batches) == 1
    assert world.one("SELECT count(*) FROM scores") == 2
    assert world.one("SELECT count(*) FROM asks") == 1
    assert world.one("SELECT count(*) FROM outcomes") == 1


def test_a_lost_lease_writes_nothing(world: World) -> None:
    world.bundle()
    models = FakeModels(FakeModel(before=lambda _: steal(world)))
    assert world.score(KEEP, DOUBT, models=models) == []
    assert world.states() == {"scoring": 2}
    for table in ("scores", "asks", "outcomes"):
        assert world.one(f"SELECT count(*) FROM {table}") == 0


def test_only_the_items_still_held_are_written(world: World) -> None:
    world.bundle()

    def lose_one(_: Sequence[str]) -> None:
        world.change("UPDATE items SET lease_token = gen_random_uuid() WHERE key = 'i1'")

    world.score(KEEP, KEEP, KEEP, models=FakeModels(FakeModel(before=lose_one)))
    assert world.rows("SELECT key, state FROM items ORDER BY key") == [
        ("i0", "done"),
        ("i1", "scoring"),
        ("i2", "done"),
    ]
    assert world.one("SELECT count(*) FROM outcomes") == 2


def test_an_unforeseen_error_hands_the_batch_back(world: World) -> None:
    world.bundle()

    def fail(_: Sequence[str]) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.score(KEEP, KEEP, models=FakeModels(FakeModel(before=fail)))
    assert set(world.rows("SELECT state, attempts, lease_token, lease_until FROM items")) == {("queued", 0, None, None)}


def test_a_caller_that_stops_early_leaves_nothing_claimed(world: World) -> None:
    _, wakes = world.submit(*[DOUBT] * 300)
    run = world.scorer().run(NAME, wakes[0].ids)
    assert len(next(run).ids) == 256
    run.close()
    assert world.states() == {"asked": 256, "queued": 44}


def test_a_worker_that_shall_end_finishes_its_batch_and_claims_no_other(world: World) -> None:
    world.bundle()
    model = FakeModel()
    _, wakes = world.submit(*[KEEP] * 300)
    assert list(world.scorer(FakeModels(model)).run(NAME, wakes[0].ids, stop=lambda: model.batches != [])) == []
    assert world.states() == {"done": 256, "queued": 44}


def test_the_next_batch_is_claimed_and_the_last_one_written_beside_the_model(world: World) -> None:
    world.bundle()
    seen: list[dict[str, int]] = []

    def look(_: Sequence[str]) -> None:
        end = time.monotonic() + 30
        wanted = {1: {"done": 256, "scoring": 512}, 2: {"done": 512, "scoring": 256}}.get(len(seen))
        while wanted is not None and world.states() != wanted:
            assert time.monotonic() < end
            time.sleep(0.005)
        seen.append(world.states())

    _, wakes = world.submit(*[KEEP] * 768)
    assert list(world.scorer(FakeModels(FakeModel(before=look))).run(NAME, wakes[0].ids[:257])) == []
    assert seen == [{"queued": 512, "scoring": 256}, {"done": 256, "scoring": 512}, {"done": 512, "scoring": 256}]
    assert world.states() == {"done": 768}


def test_a_worker_that_shall_end_hands_back_what_it_claimed_ahead(world: World) -> None:
    world.bundle()
    model = FakeModel()
    _, wakes = world.submit(*[KEEP] * 768)
    scorer = world.scorer(FakeModels(model))
    assert list(scorer.run(NAME, wakes[0].ids, stop=lambda: len(model.batches) == 2)) == []
    assert world.states() == {"done": 512, "queued": 256}
    assert world.rows("SELECT DISTINCT attempts FROM items WHERE state = 'queued'") == [(0,)]


def test_a_batch_that_fails_hands_back_its_items_and_those_claimed_ahead(world: World) -> None:
    world.bundle()
    model = FakeModel(before=lambda _: _raise_later(model))
    _, wakes = world.submit(*[KEEP] * 768)
    with pytest.raises(KeyboardInterrupt):
        list(world.scorer(FakeModels(model)).run(NAME, wakes[0].ids))
    assert world.states() == {"done": 256, "queued": 512}
    assert world.rows("SELECT DISTINCT attempts, lease_token FROM items WHERE state = 'queued'") == [(0, None)]


def _raise_later(model: FakeModel) -> None:
    if len(model.batches) == 2:
        raise KeyboardInterrupt


def test_a_suspect_is_never_claimed_ahead(world: World) -> None:
    """What is claimed beside a batch that brings its worker down uses up an attempt each time."""
    world.bundle()
    world.submit(*[KEEP] * 3)
    world.change("UPDATE items SET attempts = :n", n=scores.SUSPECT_AFTER)
    with world.store.begin() as tx:
        assert scores.claim(tx, world.known().id, uuid4(), lease_s=60) == []
    assert world.states() == {"queued": 3}


def test_a_bundle_that_cannot_be_loaded_claims_nothing(world: World) -> None:
    class Broken:
        def serving(self, known: Registered) -> FakeModel:
            raise BundleError("its hash is wrong")

    world.bundle()
    with pytest.raises(BundleError):
        world.score(KEEP, models=Broken())
    assert world.rows("SELECT state, attempts FROM items") == [("queued", 0)]


class TokenizersError(Exception):
    """Of no better type, as that of tokenizers."""


@pytest.mark.parametrize("error", [RuntimeError, TokenizersError, TypeError, ModelError])
def test_a_poisonous_text_is_buried_alone(world: World, error: type[Exception]) -> None:
    world.bundle()

    def choke(texts: Sequence[str]) -> None:
        if any("poison" in text for text in texts):
            raise error("CUDA error: device-side assert triggered")

    world.score(KEEP, f"{KEEP} poison", DOUBT, models=FakeModels(FakeModel(before=choke)))
    assert world.rows("SELECT key, state FROM items ORDER BY key") == [
        ("i0", "done"),
        ("i1", "dead"),
        ("i2", "asked"),
    ]
    ((letter),) = world.rows("SELECT reason, detail, ask_id FROM dead_letters")
    assert (letter.reason, letter.ask_id) == ("model_error", None)
    assert "poison" not in letter.detail


@pytest.mark.parametrize("error", [BundleError, MemoryError, OSError])
def test_what_is_no_text_s_fault_buries_nothing(world: World, error: type[Exception]) -> None:
    world.bundle()

    def lose(_: Sequence[str]) -> None:
        raise error("it is gone")

    with pytest.raises(error):
        world.score(KEEP, models=FakeModels(FakeModel(before=lose)))
    assert world.rows("SELECT state, attempts FROM items") == [("queued", 0)]


class Breaking(FakeModel):
    """Scores nothing any more once it was given a text that breaks it, or from the beginning."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__(before=self._look)
        self.broken = broken

    def _look(self, texts: Sequence[str]) -> None:
        self.broken |= any("breaks" in text for text in texts)
        if self.broken:
            raise RuntimeError("CUDA error: device-side assert triggered")


def test_a_broken_device_buries_nothing(world: World) -> None:
    """Those in hand are handed back with their attempt counted, those claimed ahead without."""
    world.bundle()
    _, wakes = world.submit(*[KEEP] * 600)
    with pytest.raises(ModelBroken, match="scores nothing any more"):
        list(world.scorer(FakeModels(Breaking(broken=True))).run(NAME, wakes[0].ids))
    assert world.states() == {"queued": 600}
    assert dict(world.rows("SELECT attempts, count(*) FROM items GROUP BY 1")) == {0: 344, 1: 256}
    assert world.one("SELECT count(*) FROM items WHERE lease_token IS NOT NULL") == 0
    list(world.scorer().run(NAME, wakes[0].ids))
    assert world.states() == {"done": 600}


def test_a_text_that_breaks_the_device_is_found_and_buried_alone(world: World) -> None:
    """As one over which workers die: each new process goes a step further."""
    world.bundle()
    world.submit(KEEP, f"{KEEP} breaks", *[KEEP] * 10)
    rows = [row.id for row in world.rows("SELECT id FROM items")]
    for _ in range(world.settings.score_max_attempts):
        with pytest.raises(ModelBroken):
            list(world.scorer(FakeModels(Breaking())).run(NAME, rows))
        world.change("UPDATE items SET lease_until = now() - interval '1 s' WHERE lease_token IS NOT NULL")
        world.change("UPDATE due SET due_at = now()")
        world.runtime.ticker.run()
    list(world.scorer(FakeModels(Breaking())).run(NAME, rows))
    assert world.rows("SELECT state, count(*) FROM items GROUP BY 1 ORDER BY 1") == [("dead", 1), ("done", 11)]
    assert world.rows("SELECT key, reason FROM items JOIN dead_letters ON item_id = items.id") == [
        ("i1", "never_scored")
    ]


def test_an_item_that_finds_no_memory_is_left_to_its_lease_and_keeps_no_other_waiting(world: World) -> None:
    world.bundle()

    def starve(texts: Sequence[str]) -> None:
        if any("huge" in text for text in texts):
            raise torch.OutOfMemoryError("CUDA out of memory")

    models = FakeModels(FakeModel(before=starve))
    world.score(KEEP, f"{KEEP} huge", DOUBT, models=models)
    assert world.rows("SELECT key, state FROM items ORDER BY key") == [
        ("i0", "done"),
        ("i1", "scoring"),
        ("i2", "asked"),
    ]
    assert world.one("SELECT count(*) FROM dead_letters") == 0
    with pytest.raises(ModelBroken, match="no memory for any of 2 items"):
        world.score(Item("j0", f"{KEEP} huge"), Item("j1", f"{KEEP} huge"), models=models)
    assert world.states() == {"asked": 1, "done": 1, "queued": 2, "scoring": 1}
    assert world.one("SELECT max(attempts) FROM items WHERE state = 'queued'") == 0, "none of them is to blame"


def test_only_what_is_readable_of_a_text_is_claimed_unless_its_price_has_to_be_known(world: World) -> None:
    text = "positive 0.95 " + "ä" * 100_000
    world.submit(text)
    known = world.known()
    most = readable(known.spec.small_model.max_tokens)
    with world.store.begin() as tx:
        (item,) = scores.claim(tx, known.id, uuid4(), lease_s=60, characters=most)
    assert item.text == text[:most]
    world.change("UPDATE items SET state = 'queued', lease_token = NULL, lease_until = NULL")
    world.bundle()
    for policy, read in (
        ({"threshold": 0.9}, most),
        ({"mode": "budget", "calls_per_day": 10}, most),
        ({"mode": "budget", "usd_per_day": 10}, len(text)),
    ):
        world.apply(policy=policy)
        model = FakeModel()
        world.change("UPDATE items SET state = 'queued', label = NULL, source = NULL")
        list(world.scorer(FakeModels(model)).run(NAME, [item.row]))
        assert [len(one) for batch in model.batches for one in batch] == [read]


def test_a_batch_of_nothing_but_poison_is_buried_whole(world: World) -> None:
    world.bundle()
    assert world.score(KEEP, DOUBT, models=FakeModels(FakeModel(before=choke_on_all))) == []
    assert world.states() == {"dead": 2}
    assert world.one("SELECT count(*) FROM dead_letters") == 2


def test_suspects_are_claimed_alone_and_last(world: World) -> None:
    world.bundle()
    model = FakeModel()
    _, wakes = world.submit(*[f"positive 0.95 {n}" for n in range(5)])
    world.change("UPDATE items SET attempts = :n WHERE key IN ('i0', 'i3')", n=scores.SUSPECT_AFTER)
    list(world.scorer(FakeModels(model)).run(NAME, wakes[0].ids))
    assert [sorted(batch) for batch in model.batches] == [
        ["positive 0.95 1", "positive 0.95 2", "positive 0.95 4"],
        ["positive 0.95 0"],
        ["positive 0.95 3"],
    ]


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A message's turn is over after its first batch."""
    monkeypatch.setattr(lane, "TURN_S", 0.0)
    monkeypatch.setattr(lane, "LINGER_S", 0.0)


@pytest.mark.usefixtures("no_time")
def test_a_suspect_that_a_message_names_has_its_turn_though_the_backlog_never_ends(world: World) -> None:
    world.bundle()
    model = FakeModel()
    world.submit(*[f"positive 0.95 {n}" for n in range(3 * scores.CLAIM_LIMIT)])
    world.change("UPDATE items SET attempts = :n WHERE key IN ('i600', 'i700')", n=scores.SUSPECT_AFTER)
    named = world.one("SELECT id FROM items WHERE key = 'i700'")
    list(world.scorer(FakeModels(model)).run(NAME, [named]))
    assert [len(batch) for batch in model.batches] == [scores.CLAIM_LIMIT, 1]
    assert model.batches[1] == ["positive 0.95 700"]
    assert world.states() == {"done": scores.CLAIM_LIMIT + 1, "queued": 2 * scores.CLAIM_LIMIT - 1}


@pytest.mark.usefixtures("no_time")
def test_a_message_whose_items_are_far_behind_lets_others_have_their_turn(world: World) -> None:
    world.bundle()
    world.submit(*[f"positive 0.95 {n}" for n in range(3 * scores.CLAIM_LIMIT)])
    last = world.one("SELECT max(id) FROM items")
    turns = 0
    wakes = [Wake("score", NAME, (last,))]
    while wakes:
        wakes = list(world.scorer().run(NAME, wakes[0].ids))
        assert wakes in ([], [Wake("score", NAME, (last,))])
        turns += 1
    assert world.states() == {"done": 3 * scores.CLAIM_LIMIT}
    assert turns == 2


def test_a_new_bundle_serves_from_the_next_batch_on_and_no_item_is_dropped(world: World) -> None:
    world.bundle()
    second = FakeModel()

    def promote(_: Sequence[str]) -> None:
        if world.known().incumbent.version == 1:  # type: ignore[union-attr]
            world.bundle()

    world.score(*[KEEP] * 300, models=FakeModels(FakeModel(before=promote), second))
    assert world.states() == {"done": 300}
    assert world.rows(
        "SELECT b.version, count(*) FROM outcomes o JOIN bundles b ON b.id = o.bundle_id GROUP BY 1 ORDER BY 1"
    ) == [(1, 256), (2, 44)]


def test_a_classifier_is_read_again_when_it_is_older_than_allowed(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(remembered, "time", SimpleNamespace(monotonic=lambda: clock.now))
    directory = Directory(world.store, max_age_s=2.0)
    assert directory.get(NAME).incumbent is None
    world.bundle()
    clock.now += 1.9
    assert directory.get(NAME).incumbent is None
    clock.now += 0.2
    assert directory.get(NAME).incumbent is not None


def test_changed_labels_end_the_bundles_and_everything_is_asked_again(world: World) -> None:
    world.bundle()
    world.apply(labels=["negative", "positive"])
    world.score("positive 0.99")
    assert world.rows("SELECT offered, score_id, spec_version FROM asks") == [(None, None, 2)]
    assert world.one("SELECT state FROM bundles") == "retired"


def test_a_waiting_audit_becomes_an_escalation_when_its_item_is_scored_again(world: World) -> None:
    """An item has one open ask at most, and that decides its outcome."""
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    made = world.score(KEEP)
    assert world.one("SELECT reason FROM asks") == "audit"
    world.change("UPDATE items SET state = 'queued', outcome_id = NULL, label = NULL, source = NULL, done_at = NULL")
    world.apply(policy={"audit_rate": 1.0, "threshold": 0.99})
    rows = [row.id for row in world.rows("SELECT id FROM items")]
    wakes = list(world.scorer().run(NAME, rows))
    assert [wake.ids for wake in wakes] == [tuple(made)]
    assert world.rows("SELECT reason, propensity FROM asks") == [("escalation", 1.0)]


def test_two_workers_share_a_backlog_without_meeting(world: World) -> None:
    world.bundle()
    _, wakes = world.submit(*[KEEP] * 300)
    other: Scorer = world.scorer()
    finished: list[int] = []

    def meanwhile(_: Sequence[str]) -> None:
        if not finished:
            finished.append(1)
            list(other.run(NAME, wakes[0].ids))

    list(world.scorer(FakeModels(FakeModel(before=meanwhile))).run(NAME, wakes[0].ids))
    assert world.states() == {"done": 300}
    assert world.one("SELECT count(*) FROM outcomes") == 300


def test_a_smaller_priority_number_goes_first(world: World) -> None:
    world.bundle()
    model = FakeModel()
    _, wakes = world.submit(*[Item(f"k{n}", f"positive 0.95 {n}", priority=-(n == 256)) for n in range(257)])
    list(world.scorer(FakeModels(model)).run(NAME, wakes[0].ids))
    assert "positive 0.95 256" in model.batches[0]
    assert model.batches[1] == ["positive 0.95 255"]
