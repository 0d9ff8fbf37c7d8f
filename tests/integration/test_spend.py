"""What was spent, as people and programs read it."""

from __future__ import annotations

from decimal import Decimal

from lanes import PRICE, FakeLLM, World, reply

from datashunt.errors import LLMUnavailable
from datashunt.items import Item, Usage
from datashunt.store import spend

TIMEOUT = LLMUnavailable("no whole reply within 60 s", kind="timeout", may_be_billed=True)


def asked(world: World, key: str, text: str, llm: FakeLLM) -> None:
    list(world.scorer().run("sentiment", world.submit(Item(key, text))[1][0].ids))
    world.ask(llm)


def spent(world: World, by: spend.By, classifier: int | None = None) -> list[spend.Spent]:
    with world.store.begin() as tx:
        return spend.spent(tx, by, classifier)


def test_calls_tokens_money_and_reused_answers_are_counted_by_day(world: World) -> None:
    world.bundle()
    asked(world, "a", "negative 0.5 one", FakeLLM([reply(usage=Usage(100, 10, cached=64))]))
    asked(world, "b", "negative 0.5 one", FakeLLM())
    world.change("UPDATE calls SET created_at = '2026-01-01 23:30:00+00'")
    world.change("UPDATE answers SET created_at = '2026-01-01 23:30:00+00'")
    world.score("negative 0.5 two")
    world.ask_once(FakeLLM([TIMEOUT]))
    first, second = spent(world, "day")
    assert (first.classifier, first.group, first.calls, first.reused, first.unknown) == (
        "sentiment",
        "2026-01-01",
        1,
        1,
        0,
    )
    assert (first.tokens_in, first.tokens_cached, first.tokens_out, first.usd) == (100, 64, 10, PRICE)
    assert (second.calls, second.reused, second.unknown, second.tokens_in) == (1, 0, 1, 0)
    assert second.usd == world.one("SELECT reserved_usd FROM calls ORDER BY id DESC LIMIT 1") > 0


def test_a_day_on_which_everything_was_reused_has_a_row_too(world: World) -> None:
    world.bundle()
    asked(world, "a", "negative 0.5 one", FakeLLM())
    world.change("UPDATE calls SET created_at = '2026-01-01'")
    asked(world, "b", "negative 0.5 one", FakeLLM())
    assert [(row.calls, row.reused, row.usd) for row in spent(world, "day")] == [(1, 0, PRICE), (0, 1, Decimal(0))]


def test_by_model_it_is_the_model_that_was_asked_for(world: World) -> None:
    world.bundle()
    asked(world, "a", "negative 0.5 one", FakeLLM())
    world.apply(llm={"model": "teacher-2"})
    asked(world, "b", "negative 0.5 one", FakeLLM())
    asked(world, "c", "negative 0.5 one", FakeLLM())
    rows = spent(world, "model")
    assert [(row.group, row.calls, row.reused) for row in rows] == [("teacher-1", 1, 0), ("teacher-2", 1, 1)]
    assert rows[0].to_json("model")["usd"] == float(PRICE)


def test_one_classifier_is_not_charged_for_another(world: World) -> None:
    world.bundle()
    asked(world, "a", "negative 0.5 one", FakeLLM())
    world.apply(name="other")
    other = world.one("SELECT id FROM classifiers WHERE name = 'other'")
    assert spent(world, "day", other) == []
    assert len(spent(world, "day", world.known().id)) == 1
