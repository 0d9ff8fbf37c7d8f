"""Who serves: compare-and-set, rollback, changed labels, and what becomes of certificates."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest
from lanes import World
from sqlalchemy import text

from datashunt.errors import BundleError
from datashunt.store import bundles, certificates, classifiers
from datashunt.store.classifiers import Bundle


def serving(world: World) -> int | None:
    incumbent = world.known().incumbent
    return None if incumbent is None else incumbent.version


def certify(world: World, bundle: Bundle) -> None:
    with world.store.begin() as tx:
        certificates.grant(
            tx,
            world.known(),
            bundle,
            trial_id=None,
            threshold=0.9,
            alpha=0.05,
            delta=0.1,
            n=100,
            k=1,
            method="clopper-pearson",
            fingerprints=["fp_1", "fp_1"],
        )


def valid_certificates(world: World) -> list[Any]:
    return [row.bundle_id for row in world.rows("SELECT bundle_id FROM certificates WHERE revoked_at IS NULL")]


def by_hand(world: World, version: int) -> Bundle:
    with world.store.begin() as tx:
        return bundles.promote_by_hand(tx, classifiers.current(tx, "sentiment"), version)


def roll_back(world: World) -> Bundle:
    with world.store.begin() as tx:
        return bundles.rollback(tx, classifiers.current(tx, "sentiment"))


def test_versions_count_within_a_classifier(world: World) -> None:
    assert [world.bundle(serve=False).version for _ in range(3)] == [1, 2, 3]
    assert serving(world) is None


def test_a_winner_is_promoted_against_the_incumbent_it_was_judged_against(world: World) -> None:
    first, second = world.bundle(), world.bundle(serve=False)
    with world.store.begin() as tx:
        known = world.known()
        assert bundles.promote(tx, known.id, second.id, judged_against=first.id, cause="distillation")
    assert serving(world) == 2
    assert world.rows("SELECT bundle_id, previous_id, cause FROM promotions ORDER BY id") == [
        (first.id, None, "person"),
        (second.id, first.id, "distillation"),
    ]
    assert world.one("SELECT state FROM bundles WHERE version = 2") == "promoted"


def test_a_lost_race_changes_nothing(world: World) -> None:
    first, late = world.bundle(), world.bundle(serve=False)
    world.bundle()
    certify(world, world.known().incumbent)  # type: ignore[arg-type]
    with world.store.begin() as tx:
        for against in (first.id, None):
            assert not bundles.promote(tx, world.known().id, late.id, judged_against=against, cause="distillation")
    assert serving(world) == 3
    assert world.one("SELECT state FROM bundles WHERE version = 2") == "challenger"
    assert len(valid_certificates(world)) == 1


def test_of_two_promotions_at_the_same_time_one_wins(world: World) -> None:
    first, second, third = world.bundle(), world.bundle(serve=False), world.bundle(serve=False)
    known = world.known()
    start = Barrier(2)

    def race(bundle: Bundle) -> bool:
        start.wait()
        with world.store.begin() as tx:
            return bundles.promote(tx, known.id, bundle.id, judged_against=first.id, cause="distillation")

    with ThreadPoolExecutor(2) as pool:
        assert sorted(pool.map(race, (second, third))) == [False, True]


def test_a_bundle_of_another_classifier_cannot_serve(world: World) -> None:
    bundle = world.bundle(serve=False)
    world.apply(name="other")
    with world.store.begin() as tx:
        other = classifiers.current(tx, "other")
        assert not bundles.promote(tx, other.id, bundle.id, judged_against=None, cause="person")


def test_a_person_may_promote_what_was_rejected(world: World) -> None:
    bundle = world.bundle(serve=False)
    with world.store.begin() as tx:
        bundles.reject(tx, bundle.id)
    assert by_hand(world, 1).id == bundle.id
    assert serving(world) == 1


def test_promoting_what_serves_changes_nothing(world: World) -> None:
    world.bundle()
    by_hand(world, 1)
    assert world.one("SELECT count(*) FROM promotions") == 1


def test_a_version_that_does_not_exist_is_named(world: World) -> None:
    with pytest.raises(BundleError, match="sentiment has no bundle 7"):
        by_hand(world, 7)


def test_a_rollback_serves_what_served_before_and_can_be_repeated(world: World) -> None:
    for _ in range(3):
        world.bundle()
    assert [roll_back(world).version for _ in range(2)] == [2, 1]
    with pytest.raises(BundleError, match="nothing served before bundle 1"):
        roll_back(world)
    assert serving(world) == 1


def test_a_rollback_without_a_bundle_says_so(world: World) -> None:
    with pytest.raises(BundleError, match="nothing to roll back"):
        roll_back(world)


def test_the_history_tells_every_change(world: World) -> None:
    world.bundle()
    world.bundle()
    roll_back(world)
    world.apply(labels=["bad", "good"])
    with world.store.begin() as tx:
        changes = bundles.history(tx, world.known().id)
    assert [(change.version, change.cause) for change in changes] == [
        (1, "person"),
        (2, "person"),
        (1, "rollback"),
        (None, "labels"),
    ]


def test_changed_labels_retire_every_bundle_and_its_certificate(world: World) -> None:
    world.bundle(serve=False)
    certify(world, world.bundle())
    world.apply(labels=["bad", "good"])
    assert serving(world) is None
    assert set(world.rows("SELECT state FROM bundles")) == {("retired",)}
    assert world.rows("SELECT revoked_why FROM certificates") == [("the labels changed",)]
    with pytest.raises(BundleError, match="trained for other labels"):
        by_hand(world, 1)


def test_labels_in_another_order_are_other_labels(world: World) -> None:
    """A stored vector speaks of labels by their place."""
    world.bundle()
    world.apply(labels=["positive", "neutral", "negative"])
    assert serving(world) is None


def test_a_changed_description_makes_a_new_version_and_keeps_the_bundle(world: World) -> None:
    world.bundle()
    world.apply(labels={"negative": "the writer complains", "neutral": "", "positive": ""})
    assert (world.known().version, serving(world)) == (2, 1)


@pytest.mark.parametrize(
    "change",
    [
        {"instruction": "Say what the writer feels."},
        {"llm": {"model": "teacher-2"}},
        {"policy": {"threshold": 0.8}},
        {"labels": {"negative": "the writer complains", "neutral": "", "positive": ""}},
    ],
)
def test_a_certificate_dies_with_the_llm_the_prompt_or_the_threshold(world: World, change: dict[str, Any]) -> None:
    certify(world, world.bundle())
    world.apply(**change)
    assert valid_certificates(world) == []
    assert serving(world) == 1


def test_a_certificate_outlives_what_it_does_not_speak_of(world: World) -> None:
    certify(world, world.bundle())
    world.apply(distil={"every_s": 60}, policy={"audit_rate": 0.1})
    assert len(valid_certificates(world)) == 1


def test_another_bundle_ends_the_certificate_of_the_one_before(world: World) -> None:
    certify(world, world.bundle())
    world.bundle()
    assert world.rows("SELECT revoked_why FROM certificates") == [("another bundle serves",)]


def test_a_certificate_names_each_fingerprint_once(world: World) -> None:
    certify(world, world.bundle())
    assert world.one("SELECT fingerprints FROM certificates") == ["fp_1"]


def test_applying_the_same_file_again_changes_nothing(world: World) -> None:
    spec = world.apply(labels=["bad", "good"])
    with world.store.begin() as tx:
        done = classifiers.apply(tx, spec, "any")
    assert (done.version, done.created, done.changed, done.labels_changed) == (2, False, False, False)
    assert world.one("SELECT count(*) FROM specs") == 2


def test_two_people_who_apply_at_the_same_time_make_two_versions(world: World) -> None:
    start = Barrier(2)

    def apply(threshold: float) -> None:
        start.wait()
        world.apply(policy={"threshold": threshold})

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(apply, (0.5, 0.6)))
    assert [row.version for row in world.rows("SELECT version FROM specs ORDER BY version")] == [1, 2, 3]


def test_a_stored_classifier_is_read_back_as_it_was_declared(world: World) -> None:
    labels = {"z": "last letter", "a": "", "ü 1": "“quoted”"}
    spec = world.apply(labels=labels, llm={"input_price": "0.40", "output_price": "1.60", "rpm": 500})
    assert world.known().spec == spec
    assert world.known().spec.spec_hash == spec.spec_hash
    assert list(world.known().spec.labels.items()) == list(labels.items())


def aged(world: World, days: int = 2) -> None:
    with world.admin.begin() as tx:
        tx.execute(text("UPDATE bundles SET created_at = created_at - make_interval(days => :days)"), {"days": days})


def unneeded(world: World, keep: int) -> list[int]:
    with world.admin.begin() as tx:
        return [one.version for one in bundles.unneeded(tx, classifiers.current(tx, "sentiment"), keep)]


class TestFilesNobodyNeeds:
    def test_are_of_those_that_lost_and_of_those_that_served_long_ago(self, world: World) -> None:
        for serve in (True, False, True, True):
            world.bundle(serve=serve)
        with world.admin.begin() as tx:
            bundles.reject(tx, bundles.listed(tx, world.known().id)[1].id)
        assert unneeded(world, 1) == []
        aged(world)
        assert unneeded(world, 1) == [1, 2, 3]
        assert unneeded(world, 2) == [1, 2]
        assert unneeded(world, 9) == [2]

    def test_are_not_of_one_that_serves_again(self, world: World) -> None:
        for _ in range(3):
            world.bundle()
        aged(world)
        roll_back(world)
        assert unneeded(world, 1) == [1, 3]

    def test_are_not_of_one_on_trial_or_that_waits_for_one(self, world: World) -> None:
        world.bundle()
        waits, tried = world.bundle(serve=False), world.bundle(serve=False)
        with world.admin.begin() as tx:
            tx.execute(
                text(
                    "INSERT INTO distillations (classifier_id, spec_version, state, bundle_id)"
                    " VALUES (:id, 1, 'uncertified', :bundle)"
                ),
                {"id": world.known().id, "bundle": waits.id},
            )
        aged(world)
        assert unneeded(world, 1) == [tried.version]

    def test_cannot_serve_once_they_are_removed(self, world: World) -> None:
        for _ in range(2):
            world.bundle()
        aged(world)
        with world.admin.begin() as tx:
            bundles.note_removal(tx, bundles.unneeded(tx, classifiers.current(tx, "sentiment"), 1))
        for serve in (lambda: by_hand(world, 1), lambda: roll_back(world)):
            with pytest.raises(BundleError, match="the files of bundle 1 of sentiment were removed"):
                serve()
        assert serving(world) == 2
        assert by_hand(world, 2).version == 2
