"""Nothing is paid twice: an equal question is answered by the answer that is there, or waits for the one to come."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from lanes import PRICE, FakeLLM, FakeQuota, World, reply
from sqlalchemy.exc import IntegrityError

from datashunt.errors import StoreError
from datashunt.items import Item, Reply
from datashunt.prompts import Prompt, render, reuse_key

DOUBT = "negative 0.5 what a day"
PROBABILITIES = {"negative": 0.1, "neutral": 0.2, "positive": 0.7}


def due_now(world: World) -> None:
    """Let the time pass that asks wait for."""
    world.change("UPDATE asks SET not_before = now() WHERE state = 'waiting'")


def escalated(world: World, *entries: Any) -> None:
    """Submit, and let the small model escalate; nothing is held out, for a bundle serves."""
    list(world.scorer().run("sentiment", world.submit(*entries)[1][0].ids))


def test_an_equal_text_is_answered_by_the_answer_that_was_paid_for(world: World) -> None:
    world.bundle()
    escalated(world, DOUBT)
    llm = FakeLLM([reply(probabilities=PROBABILITIES)])
    assert world.ask(llm) == 1
    escalated(world, Item("again", f"  {DOUBT}\n"))
    assert world.ask(llm) == 0
    assert len(llm.prompts) == 1
    assert world.rows("SELECT state, label, source FROM items") == [("done", "positive", "llm")] * 2
    first, second = world.rows("SELECT * FROM answers ORDER BY id")
    assert (first.reused_from, second.reused_from, second.call_id) == (None, first.id, first.call_id)
    assert second.probabilities == first.probabilities == pytest.approx([0.1, 0.2, 0.7])
    assert second.probability_source == "logprobs"
    assert [row.cost_usd for row in world.calls()] == [PRICE]
    outcome = world.rows("SELECT o.* FROM items i JOIN outcomes o ON o.id = i.outcome_id WHERE i.key = 'again'")[0]
    assert (outcome.label, outcome.answer_id) == ("positive", second.id)
    assert outcome.confidence == pytest.approx(0.7)


def test_a_third_equal_text_reuses_the_first_answer_not_the_second(world: World) -> None:
    world.bundle()
    for key in "abc":
        escalated(world, Item(key, DOUBT))
        world.ask(FakeLLM())
    first, *others = world.rows("SELECT id, reused_from FROM answers ORDER BY id")
    assert [row.reused_from for row in others] == [first.id, first.id]


@pytest.mark.parametrize("change", [{"instruction": "Say it otherwise."}, {"llm": {"model": "teacher-2"}}])
def test_another_question_is_another_call(world: World, change: dict[str, Any]) -> None:
    world.bundle()
    escalated(world, DOUBT)
    world.ask(FakeLLM())
    world.apply(**change)
    escalated(world, Item("again", DOUBT))
    assert world.ask(FakeLLM()) == 1


def test_another_classifier_has_its_own_answers(world: World) -> None:
    world.bundle()
    escalated(world, DOUBT)
    world.ask(FakeLLM())
    world.apply(name="other")
    intake, wakes = world.submit(DOUBT, name="other")
    assert intake.accepted == 1
    list(world.scorer().run("other", wakes[0].ids))
    world.change("UPDATE asks SET role = 'train', propensity = NULL")
    rows = [row.id for row in world.rows("SELECT id FROM asks ORDER BY id")]
    assert world.asker(FakeLLM()).run("other", rows) == 1


@pytest.mark.parametrize(
    "kind",
    [
        "role = 'judge', propensity = 0.2",
        "role = 'fit', propensity = 0.2",
        "reason = 'audit', role = 'judge', propensity = 0.05",
    ],
)
def test_what_the_method_measures_with_is_always_asked(world: World, kind: str) -> None:
    world.bundle()
    escalated(world, DOUBT)
    world.ask(FakeLLM())
    escalated(world, Item("held out", DOUBT))
    world.change(f"UPDATE asks SET {kind} WHERE state = 'waiting'")
    assert world.ask(FakeLLM()) == 1


def test_the_answer_to_an_audit_may_be_reused(world: World) -> None:
    world.bundle()
    escalated(world, DOUBT)
    world.change("UPDATE asks SET role = 'judge', propensity = 0.2")
    world.ask(FakeLLM())
    escalated(world, Item("again", DOUBT))
    assert world.ask(FakeLLM()) == 0
    assert world.rows("SELECT role, propensity FROM answers ORDER BY id DESC LIMIT 1") == [("train", None)]


def test_a_reused_answer_cannot_be_a_reference_answer(world: World) -> None:
    world.bundle()
    escalated(world, DOUBT)
    world.ask(FakeLLM())
    with pytest.raises((IntegrityError, StoreError)):
        world.change("UPDATE answers SET role = 'judge', propensity = 0.1, reused_from = id")


def test_an_equal_text_waits_while_the_first_is_being_paid_for(world: World) -> None:
    world.bundle()
    escalated(world, Item("a", DOUBT), Item("b", DOUBT))
    first, second = [row.id for row in world.rows("SELECT id FROM asks ORDER BY id")]
    meanwhile = FakeLLM()

    def look(_: Prompt) -> Reply:
        assert world.ask(meanwhile, [second]) == 0
        return reply()

    assert world.ask(FakeLLM([look]), [first]) == 1
    assert world.states("asks") == {"answered": 1, "waiting": 1}
    assert world.rows("SELECT attempts, misses FROM asks WHERE state = 'waiting'") == [(0, 0)]
    due_now(world)
    assert world.ask(meanwhile) == 0
    assert meanwhile.prompts == []
    assert world.states() == {"done": 2}


def test_a_wait_for_a_call_that_left_no_word_ends(world: World) -> None:
    world.bundle()
    escalated(world, Item("a", DOUBT), Item("b", DOUBT))
    first, second = [row.id for row in world.rows("SELECT id FROM asks ORDER BY id")]

    def die(_: Prompt) -> Reply:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        world.ask(FakeLLM([die]), [first])
    assert world.ask(FakeLLM(), [second]) == 0
    due_now(world)
    world.change("UPDATE calls SET created_at = now() - make_interval(secs => :s)", s=world.settings.llm_deadline_s + 1)
    assert world.ask(FakeLLM(), [second]) == 1


def test_equal_texts_asked_by_many_threads_at_once_are_paid_once(world: World) -> None:
    world.bundle()
    escalated(world, *[Item(f"k{n}", DOUBT) for n in range(8)])
    rows = [row.id for row in world.rows("SELECT id FROM asks ORDER BY id")]
    llm = FakeLLM()
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda row: world.ask(llm, [row]), rows))
    due_now(world)
    world.ask(llm)
    assert len(llm.prompts) == 1
    assert world.states() == {"done": 8}


def test_a_slot_taken_in_vain_is_given_back(world: World) -> None:
    world.bundle()
    escalated(world, Item("a", DOUBT), Item("b", DOUBT))
    first, second = [row.id for row in world.rows("SELECT id FROM asks ORDER BY id")]

    class Meanwhile(FakeQuota):
        def acquire(self, *args: Any, **more: Any) -> Any:
            slot = super().acquire(*args, **more)
            world.ask(FakeLLM(), [first])
            return slot

    quota, llm = Meanwhile(), FakeLLM()
    assert world.ask(llm, [second], quota) == 0
    assert (llm.prompts, quota.settled) == ([], [0])
    assert world.states() == {"done": 2}


def test_reused_answers_are_neither_counted_nor_trained_on(world: World) -> None:
    from datashunt.store import distillations

    world.apply(distil={"min_new_answers": 2})
    world.bundle()
    for key in "abc":
        escalated(world, Item(key, DOUBT))
        world.ask(FakeLLM())
    with world.store.begin() as tx:
        known = world.known()
        assert len(distillations.answers(tx, known, up_to=10**9)) == 1
        assert distillations.make_due(tx, known, judges=0) is None


# several samples


def test_samples_are_collected_over_calls_that_are_each_booked(world: World) -> None:
    world.apply(llm={"samples": 3})
    world.bundle()
    escalated(world, DOUBT)
    said = [reply(label, votes=(label,)) for label in ("negative", "positive", "negative")]
    assert world.ask(FakeLLM(list(said))) == 3
    assert world.states() == {"done": 1}
    answer = world.rows("SELECT * FROM answers")[0]
    assert (answer.label, answer.probability_source) == ("negative", "samples")
    assert answer.probabilities == pytest.approx([2 / 3, 0.0, 1 / 3])
    assert [(call.state, call.cost_usd, call.votes) for call in world.calls()] == [
        ("answered", PRICE, ["negative"]),
        ("answered", PRICE, ["positive"]),
        ("answered", PRICE, ["negative"]),
    ]
    assert world.rows("SELECT attempts, misses FROM asks") == [(0, 0)]


def test_samples_that_were_paid_for_are_kept_when_the_worker_ends(world: World) -> None:
    world.apply(llm={"samples": 3})
    world.bundle()
    escalated(world, DOUBT)
    stop = iter([False, True])
    asker = world.asker(FakeLLM([reply("negative", votes=("negative", "negative"))]))
    rows = [row.id for row in world.rows("SELECT id FROM asks")]
    assert asker.run("sentiment", rows, stop=lambda: next(stop)) == 1
    assert world.states("asks") == {"waiting": 1}
    assert world.ask(FakeLLM([reply("positive", votes=("positive",))])) == 1
    assert world.rows("SELECT label FROM answers") == [("negative",)]


def test_a_majority_for_none_of_these_is_asked_over_all_labels_with_new_samples(world: World) -> None:
    world.apply(llm={"samples": 2})
    world.bundle()
    escalated(world, DOUBT)
    world.change("UPDATE asks SET offered = ARRAY['negative', 'neutral']")
    none = reply("none of these", votes=("none of these", "none of these"))
    llm = FakeLLM([none, reply("positive", votes=("positive", "positive"))])
    assert world.ask(llm) == 2
    assert [prompt.allow_none for prompt in llm.prompts] == [True, False]
    assert world.rows("SELECT label FROM answers") == [("positive",)]


def test_the_key_is_stored_with_call_and_answer(world: World) -> None:
    world.bundle()
    escalated(world, DOUBT)
    world.ask(FakeLLM())
    spec = world.known().spec
    key = reuse_key(spec, DOUBT, render(spec, DOUBT))
    assert world.rows("SELECT c.reuse_key, a.reuse_key FROM calls c, answers a") == [(key, key)]
