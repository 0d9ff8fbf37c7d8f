"""Samples for people: drawn once, recorded with their propensity, and what quality they show."""

from __future__ import annotations

import pytest
from lanes import NAME, FakeLLM, World, reply

from datashunt import shunt
from datashunt.errors import UsageError
from datashunt.pipeline import people
from datashunt.pipeline.people import Quality
from datashunt.prompts import Prompt
from datashunt.store import reviews, samples
from datashunt.streams import Row


def label(world: World, labels: dict[str, str], by: str = "ann") -> None:
    rows = [Row(n, key, said, fields={"by": by}) for n, (key, said) in enumerate(labels.items())]
    assert all(not part.refused for part in people.label(world.store, NAME, rows))


def unlabelled(world: World, sample: samples.Sample) -> list[str]:
    with world.store.begin() as tx:
        return [key for key, _ in reviews.unlabelled(tx, sample)]


def truth(key: str) -> str:
    """What people say: the small model is wrong about every tenth item, the LLM about every fifth."""
    number = int(key[1:])
    return "neutral" if number % 10 == 0 or (number % 4 == 0 and number % 5 == 0) else "negative"


@pytest.fixture
def busy(world: World) -> World:
    """300 items, a quarter of them the LLM's, and a third of all audited. The LLM finds most errors of the other."""
    world.apply(policy={"audit_rate": 0.3})
    world.bundle()
    world.score(*[f"negative {0.5 if n % 4 == 0 else 0.95} i{n}" for n in range(300)])

    def said(prompt: Prompt) -> object:
        text = str(prompt.messages[1]["content"])
        number = int(text.rsplit(" i", 1)[1].split('"', maxsplit=1)[0])
        return reply("neutral" if number % 10 == 0 and number % 3 else "negative")

    world.ask(FakeLLM([said]))  # type: ignore[list-item]
    return world


def test_a_sample_is_drawn_once_and_recorded_with_its_propensity(busy: World) -> None:
    made = people.sample(busy.store, NAME, 60, 1)
    assert (made.size, made.population, made.kept) == (60, 300, 225)
    assert busy.one("SELECT propensity FROM samples") == pytest.approx(0.2)
    known = busy.known()
    kept = [f"i{n}" for n in range(300) if n % 4]
    assert made.audited == sum(shunt.audit(known.draw_key, key, 0.3) for key in kept)
    assert people.sample(busy.store, NAME, 60, 1) == made
    assert busy.one("SELECT count(*) FROM sampled_items") == 60


def test_a_seed_that_was_used_for_another_size_is_refused(busy: World) -> None:
    people.sample(busy.store, NAME, 60, 1)
    with pytest.raises(UsageError, match="seed 1 has drawn 60 items of sentiment already"):
        people.sample(busy.store, NAME, 61, 1)
    assert people.sample(busy.store, NAME, 61, 2).size == 61


def test_a_sample_of_more_than_there_is_has_all(busy: World) -> None:
    made = people.sample(busy.store, NAME, 1_000, 1)
    assert (made.size, made.population) == (300, 300)
    assert people.sample(busy.store, NAME, 1_000, 1) == made


def test_nothing_finished_is_nothing_to_draw_from(world: World) -> None:
    world.score("negative 0.5")
    with pytest.raises(UsageError, match="no finished item yet"):
        people.sample(world.store, NAME, 10, 1)
    assert world.one("SELECT count(*) FROM samples") == 0


def test_labelled_items_leave_the_file_and_stay_in_the_sample(busy: World) -> None:
    made = people.sample(busy.store, NAME, 60, 1)
    keys = unlabelled(busy, made)
    assert len(keys) == 60
    label(busy, dict.fromkeys(keys[:10], "neutral"))
    assert unlabelled(busy, made) == keys[10:]
    assert len(people.measure(busy.store, NAME).judged) == 10


def test_what_people_labelled_before_the_draw_is_drawn_like_the_rest_and_counts(busy: World) -> None:
    label(busy, {f"i{n}": truth(f"i{n}") for n in range(300)})
    made = people.sample(busy.store, NAME, 60, 1)
    assert (made.population, made.kept) == (300, 225)
    assert unlabelled(busy, made) == []
    assert len(people.measure(busy.store, NAME).judged) == 60


def measured(world: World, size: int) -> Quality:
    made = people.sample(world.store, NAME, size, 1)
    label(world, {key: truth(key) for key in unlabelled(world, made)})
    return people.measure(world.store, NAME)


def test_quality_compares_the_drawn_outcomes_with_what_people_said(busy: World) -> None:
    was = {row.key: row.label for row in busy.rows("SELECT key, label FROM items")}
    found = measured(busy, 300)
    right = {key: said == truth(key) for key, said in was.items()}
    assert sum(one.right for one in found.judged) == sum(right.values())
    of_small = [one.right for one in found.judged if one.kept]
    assert (len(of_small), sum(of_small)) == (225, sum(right[f"i{n}"] for n in range(300) if n % 4))


def test_audits_that_no_person_saw_inform_the_powered_interval(busy: World) -> None:
    was = {row.key: row.label for row in busy.rows("SELECT key, label FROM items")}
    found = measured(busy, 60)
    small = [one for one in found.judged if one.kept]
    assert all(one.audited for one in small)
    assert found.audited == found.sample.audited - len(small) > 10
    assert found.powered is not None
    everything = sum(said == truth(key) for key, said in was.items()) / 300
    assert found.powered.low < everything < found.powered.high
    with busy.store.begin() as tx:
        agreed = samples.agreed(tx, busy.known().id, found.sample)
    assert len(agreed) + sum(one.agreed for one in small) == busy.one(
        "SELECT count(*) FROM answers a JOIN outcomes o ON o.item_id = a.item_id AND o.source = 'small'"
        " WHERE a.propensity IS NOT NULL AND a.label = o.label"
    )


def test_a_last_word_counts_and_so_does_that_of_another_file(busy: World) -> None:
    made = people.sample(busy.store, NAME, 40, 1)
    keys = unlabelled(busy, made)
    label(busy, dict.fromkeys(keys, "positive"))
    assert not any(one.right for one in people.measure(busy.store, NAME).judged)
    label(busy, dict.fromkeys(keys, "negative"), by="bob")
    assert any(one.right for one in people.measure(busy.store, NAME).judged)


def test_each_seed_has_its_quality_and_the_newest_is_shown(busy: World) -> None:
    people.sample(busy.store, NAME, 40, 7)
    people.sample(busy.store, NAME, 30, 3)
    assert people.measure(busy.store, NAME).sample.seed == 3
    found = people.measure(busy.store, NAME, 7)
    assert (found.sample.size, found.judged, found.powered) == (40, (), None)


def test_without_a_sample_one_is_told_how_to_draw_one(busy: World) -> None:
    with pytest.raises(UsageError, match="datashunt review sentiment --sample"):
        people.measure(busy.store, NAME)
    people.sample(busy.store, NAME, 40, 7)
    with pytest.raises(UsageError, match="no sample of seed 8"):
        people.measure(busy.store, NAME, 8)


def test_every_drawn_item_is_of_the_classifier(busy: World) -> None:
    busy.apply(name="other")
    with pytest.raises(UsageError, match="no finished item"):
        people.sample(busy.store, "other", 5, 1)
    assert people.sample(busy.store, NAME, 5, 1).population == 300
