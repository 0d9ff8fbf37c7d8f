"""Dead letters: what is listed, and another life for all of them or some."""

from __future__ import annotations

from lanes import NAME, FakeLLM, FakeModel, FakeModels, World, choke_on_all, reply

from datashunt.errors import LLMRejected
from datashunt.items import Wake
from datashunt.store import dead
from datashunt.store.dead import Letter

REJECTED = LLMRejected("too long (413)", kind="context_too_long", http_status=413)


def letters(world: World) -> list[Letter]:
    with world.store.begin() as tx:
        return dead.listed(tx, world.known().id)


def replay(world: World, *keys: str) -> list[Wake]:
    with world.store.begin() as tx:
        return dead.replay(tx, world.known().id, NAME, keys or None)


def poison(world: World, *texts: str) -> None:
    """Items that no model can score."""
    world.bundle()
    world.score(*texts, models=FakeModels(FakeModel(before=choke_on_all)))


def test_letters_are_listed_oldest_first_with_their_reasons(world: World) -> None:
    poison(world, "positive 0.95", "positive 0.95")
    found = letters(world)
    assert [(letter.id, letter.kind, letter.reason) for letter in found] == [
        ("i0", "item", "model_error"),
        ("i1", "item", "model_error"),
    ]
    assert found[0].detail == "the small model cannot score it: ValueError"


def test_a_replayed_item_is_scored_as_if_it_were_new(world: World) -> None:
    poison(world, "positive 0.95")
    world.change("UPDATE items SET attempts = 9")
    (wake,) = replay(world)
    assert (wake.lane, wake.classifier) == ("score", NAME)
    assert world.rows("SELECT state, attempts FROM items") == [("queued", 0)]
    assert letters(world) == []
    list(world.scorer().run(NAME, wake.ids))
    assert world.states() == {"done": 1}


def test_a_replayed_escalation_is_asked_again(world: World) -> None:
    made = world.score("negative 0.5")
    world.ask(FakeLLM([REJECTED]))
    assert [letter.kind for letter in letters(world)] == ["item"]
    assert replay(world) == [Wake("llm", NAME, tuple(made))]
    assert world.states() == {"asked": 1}
    assert world.rows("SELECT state, attempts, misses FROM asks") == [("waiting", 0, 0)]
    world.ask(FakeLLM([reply("neutral")]))
    assert world.rows("SELECT state, label FROM items") == [("done", "neutral")]


def test_a_replayed_audit_leaves_the_outcome_alone(world: World) -> None:
    world.apply(policy={"audit_rate": 1.0})
    world.bundle()
    made = world.score("negative 0.95")
    world.ask(FakeLLM([REJECTED]))
    assert [letter.kind for letter in letters(world)] == ["audit"]
    assert replay(world) == [Wake("llm", NAME, tuple(made))]
    assert world.rows("SELECT state, label FROM items") == [("done", "negative")]


def test_only_the_letters_asked_for_are_replayed(world: World) -> None:
    poison(world, *["positive 0.95"] * 3)
    (wake,) = replay(world, "i1", "never seen")
    assert len(wake.ids) == 1
    assert [letter.id for letter in letters(world)] == ["i0", "i2"]
    assert replay(world, "i1") == []


def test_a_letter_that_dies_again_is_listed_again(world: World) -> None:
    made = world.score("negative 0.5")
    for _ in range(2):
        world.ask(FakeLLM([REJECTED]), made)
        assert len(letters(world)) == 1
        replay(world)
    assert world.one("SELECT count(*) FROM dead_letters WHERE replayed_at IS NOT NULL") == 2


def test_letters_of_another_classifier_are_left_alone(world: World) -> None:
    poison(world, "positive 0.95")
    world.apply(name="other")
    with world.store.begin() as tx:
        other = world.one("SELECT id FROM classifiers WHERE name = 'other'")
        assert dead.listed(tx, other) == []
        assert dead.replay(tx, other, "other", None) == []
    assert len(letters(world)) == 1
