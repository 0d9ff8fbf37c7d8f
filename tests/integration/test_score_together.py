"""One batch for several classifiers whose heads are over the same encoder: who is let in, and what each one gets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from lanes import DOCUMENT, LABELS, NAME, FakeModel, World
from numpy.typing import NDArray

from datashunt import classifier, prompts
from datashunt.errors import BundleError
from datashunt.items import Item
from datashunt.store import bundles, classifiers, scores
from datashunt.store.classifiers import Bundle, Registered

SURE = "positive 0.95"
OTHERS = ("second", "third")


class Together:
    """Models over one encoder: all bundles but those named share it. `passes`: the texts of each pass, by part."""

    def __init__(self, *apart: str, broken: str | None = None) -> None:
        self.passes: list[list[list[str]]] = []
        self.model = FakeModel()
        self.loaded: set[str] = set()
        self._apart, self._broken = apart, broken

    def get(self, bundle: Bundle) -> FakeModel:
        if bundle.content_hash == self._broken:
            raise BundleError("its hash is wrong")
        self.loaded.add(bundle.content_hash)
        return self.model

    def serving(self, known: Registered) -> FakeModel | None:
        return self.get(known.incumbent) if known.incumbent else None

    def load(self, *hashes: str) -> Together:
        self.loaded |= set(hashes)
        return self

    def alike(self, bundle: Bundle) -> frozenset[str]:
        if bundle.content_hash in self._apart:
            return frozenset()
        return frozenset(self.loaded - {bundle.content_hash, *self._apart})

    def probabilities(self, parts: Sequence[Any], *, batch_tokens: int = 0) -> list[NDArray[np.float32]]:
        self.passes.append([list(texts) for _, texts, _ in parts])
        return [self.model.probabilities(texts) for _, texts, _ in parts]


@pytest.fixture
def three(world: World) -> World:
    """`sentiment`, `second` and `third`, each with a bundle whose content hash is its name."""
    for name in (NAME, *OTHERS):
        declare(world, name, threshold=0.9 if name != "third" else 0.99)
    return world


def declare(world: World, name: str, **policy: Any) -> None:
    spec = classifier.parse({**DOCUMENT, "name": name, "policy": {"audit_rate": 0.0, **policy}})
    with world.store.begin() as tx:
        classifiers.apply(tx, spec, prompts.prompt_hash(spec))
        known = classifiers.current(tx, name)
        made = bundles.add(tx, known, uri="x", content_hash=name, recipe="head", prune_cut=None, evaluation={})
        bundles.promote_by_hand(tx, known, made.version)


def submit(world: World, name: str, count: int, text: str = SURE, priority: int = 0) -> tuple[int, ...]:
    entries = [Item(f"{name}-{uuid4()}", text, priority=priority) for _ in range(count)]
    _, wakes = world.submit(*entries, name=name)
    return wakes[0].ids


def run(world: World, models: Together, name: str, rows: Sequence[int]) -> dict[str, tuple[int, ...]]:
    return {wake.classifier: wake.ids for wake in world.scorer(models).run(name, rows)}


def done(world: World) -> dict[str, int]:
    found = world.rows(
        "SELECT name, count(*) FROM items JOIN classifiers c ON c.id = classifier_id WHERE state <> 'queued' GROUP BY 1"
    )
    return dict(found)  # type: ignore[arg-type]


def test_a_batch_with_room_takes_others_along_in_one_pass(three: World) -> None:
    models = Together().load(*OTHERS)
    rows = submit(three, NAME, 3)
    submit(three, "second", 4)
    submit(three, "third", 5)
    run(three, models, NAME, rows)
    assert [[len(texts) for texts in one] for one in models.passes] == [[3, 4, 5]]
    assert done(three) == {NAME: 3, "second": 4, "third": 5}


def test_each_classifier_keeps_its_own_threshold_bundle_and_asks(three: World) -> None:
    rows = submit(three, NAME, 2)
    submit(three, "second", 2)
    submit(three, "third", 2)
    asked = run(three, Together().load(*OTHERS), NAME, rows)
    assert set(asked) == {"third"}  # 0.95 is below its 0.99
    found = three.rows(
        "SELECT c.name, b.content_hash, s.threshold::numeric(3, 2)::text, s.kept, i.state, o.source, count(*)"
        "  FROM items i JOIN classifiers c ON c.id = i.classifier_id JOIN scores s ON s.item_id = i.id"
        "  JOIN bundles b ON b.id = s.bundle_id LEFT JOIN outcomes o ON o.id = i.outcome_id"
        " GROUP BY 1, 2, 3, 4, 5, 6 ORDER BY 1"
    )
    assert found == [
        ("second", "second", "0.90", True, "done", "small", 2),
        (NAME, NAME, "0.90", True, "done", "small", 2),
        ("third", "third", "0.99", False, "asked", None, 2),
    ]
    owner = (
        "SELECT c.name, array_agg(a.id ORDER BY a.id) FROM asks a JOIN classifiers c ON c.id = classifier_id GROUP BY 1"
    )
    assert three.rows(owner) == [("third", list(asked["third"]))]


def test_the_messages_own_items_come_first_and_others_share_what_is_left(three: World) -> None:
    models = Together().load(*OTHERS)
    rows = submit(three, NAME, 216)
    submit(three, "second", 100)
    submit(three, "third", 100)
    three.change("UPDATE items SET priority = 5 WHERE id = ANY(:rows)", rows=list(rows))
    with three.store.begin() as tx:
        ids = {name: classifiers.current(tx, name).id for name in (NAME, *OTHERS)}
        others = [ids[name] for name in OTHERS]
        items = scores.claim(tx, ids[NAME], uuid4(), lease_s=60, rows=rows, others=others)
    assert {name: sum(item.classifier_row == row for item in items) for name, row in ids.items()} == {
        NAME: 216,
        "second": 20,
        "third": 20,
    }
    assert models.passes == []


def test_others_are_taken_by_priority_and_age(three: World) -> None:
    submit(three, "second", 3)
    urgent = submit(three, "second", 2, priority=-1)
    rows = submit(three, NAME, 254)
    with three.store.begin() as tx:
        own, other = (classifiers.current(tx, name).id for name in (NAME, "second"))
        items = scores.claim(tx, own, uuid4(), lease_s=60, rows=rows, others=[other])
    assert {item.row for item in items} == {*rows, *urgent}


def test_a_message_whose_items_are_gone_takes_nobody_along(three: World) -> None:
    models = Together().load(*OTHERS)
    rows = submit(three, NAME, 2)
    run(three, models, NAME, rows)
    submit(three, "second", 2)
    assert run(three, models, NAME, rows) == {}
    assert done(three) == {NAME: 2}


def test_nobody_is_taken_along_over_another_encoder_or_before_its_bundle_is_loaded(three: World) -> None:
    rows = submit(three, NAME, 2)
    submit(three, "second", 2)
    submit(three, "third", 2)
    run(three, Together("second").load("second"), NAME, rows)
    assert done(three) == {NAME: 2}


def test_suspects_are_never_taken_along(three: World) -> None:
    rows = submit(three, NAME, 2)
    three.change(
        "UPDATE items SET attempts = :n WHERE id = ANY(:rows)",
        n=scores.SUSPECT_AFTER,
        rows=list(submit(three, "second", 1)),
    )
    run(three, Together().load(*OTHERS), NAME, rows)
    assert done(three) == {NAME: 2}


def test_a_budget_has_batches_of_its_own(three: World) -> None:
    spec = classifier.parse(
        {**DOCUMENT, "name": "second", "policy": {"mode": "budget", "calls_per_day": 10, "audit_rate": 0.02}}
    )
    with three.store.begin() as tx:
        classifiers.apply(tx, spec, prompts.prompt_hash(spec))
    rows = submit(three, NAME, 2)
    budgeted = submit(three, "second", 2)
    run(three, Together().load(*OTHERS), NAME, rows)
    assert done(three) == {NAME: 2}
    submit(three, NAME, 2)
    run(three, Together().load(NAME, *OTHERS), "second", budgeted)
    assert done(three) == {NAME: 2, "second": 2}


def test_a_poisonous_text_is_buried_and_its_neighbours_are_scored_each_by_its_own(three: World) -> None:
    models = Together().load(*OTHERS)

    def choke(texts: Sequence[str]) -> None:
        if any("poison" in text for text in texts):
            raise RuntimeError("device-side assert triggered")

    models.model = FakeModel(before=choke)
    rows = submit(three, NAME, 2)
    submit(three, "second", 1, f"{SURE} poison")
    submit(three, "second", 1)
    run(three, models, NAME, rows)
    assert three.rows(
        "SELECT name, state, count(*) FROM items JOIN classifiers c ON c.id = classifier_id GROUP BY 1, 2 ORDER BY 1, 2"
    ) == [("second", "dead", 1), ("second", "done", 1), (NAME, "done", 2)]


def test_items_whose_bundle_was_exchanged_for_a_broken_one_are_handed_back(three: World) -> None:
    rows = submit(three, NAME, 2)
    submit(three, "second", 2)
    run(three, Together(broken="second").load("second"), NAME, rows)
    found = three.rows("SELECT state, attempts, lease_token IS NULL, count(*) FROM items GROUP BY 1, 2, 3 ORDER BY 1")
    assert found == [("done", 1, True, 2), ("queued", 0, True, 2)]


def test_the_labels_of_a_batch_are_those_of_all_its_classifiers(three: World) -> None:
    rows = submit(three, NAME, 1, "negative 0.95")
    submit(three, "second", 1, "neutral 0.95")
    run(three, Together().load(*OTHERS), NAME, rows)
    found = three.rows("SELECT name, label FROM items JOIN classifiers c ON c.id = classifier_id ORDER BY 1")
    assert found == [("second", "neutral"), (NAME, "negative")]
    assert {label for _, label in found} < set(LABELS)
