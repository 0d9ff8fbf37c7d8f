"""Decisions and systemone of the simulation, over real HTTP, as clients of them see it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from simulated import ROWS, SPEC, ask, client_of, decide, label_of, write_answers

from datashunt.classifier import NONE_OF_THESE
from datashunt.simulator import Options, Simulator

TRUTH = {"positive": 0.7, "negative": 0.2, "mixed_feelings": 0.1}


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return write_answers(tmp_path)


@pytest.fixture
def simulator(answers: Path) -> Iterator[Simulator]:
    with Simulator(Options(answers=answers)) as running:
        yield running


@pytest.fixture
def client(simulator: Simulator) -> Iterator[openai.OpenAI]:
    with client_of(simulator) as opened:
        yield opened


def probabilities_of(answer: Any) -> dict[str, float]:
    return {choice.value: choice.probability for choice in answer.probabilities}


def systemone(client: openai.OpenAI, **changes: Any) -> Any:
    question = {
        "type": "choice",
        "instructions": SPEC.instruction,
        "criteria": {"positive": "glad", "negative": None, "mixed_feelings": None},
    }
    body = {"model": "local/model", "state": "Good.", "questions": {"q": question}} | changes
    return client.post("/systemone", body=body, cast_to=object)


def test_a_decision_has_the_probabilities_of_the_file_and_its_usage(
    simulator: Simulator, client: openai.OpenAI
) -> None:
    decision = decide(client, " Good. ")
    (answer,) = decision.answers
    assert (answer.type, answer.name, answer.choice) == ("choice", "label", "positive")
    assert probabilities_of(answer) == pytest.approx(TRUTH)
    assert answer.confidence == pytest.approx((0.7 - 1 / 3) / (1 - 1 / 3))
    assert decision.model == "simulation/gpt-6-luna"
    assert decision.usage.total_tokens == decision.usage.input_tokens + decision.usage.output_tokens
    counts = simulator.ledger["endpoints"]["decisions"]
    assert (counts["prompt_tokens"], counts["completion_tokens"]) == (
        decision.usage.input_tokens,
        decision.usage.output_tokens,
    )
    assert simulator.ledger["items"] == {"r1": 1}


def test_a_decision_is_what_chat_says_too_for_any_text(client: openai.OpenAI) -> None:
    for text in [str(row["text"]) for row in ROWS] + ["Never seen \u2028 é", "", "12", '{"item": 1}']:
        assert decide(client, text).answers[0].choice == label_of(ask(client, text))


@pytest.mark.parametrize(
    "given",
    [
        '{"item": "Bad.", "prior": {"positive": 1.0}}',
        [{"role": "developer", "content": "Rules."}, {"role": "user", "content": "Bad."}],
        [{"role": "user", "content": [{"type": "input_text", "text": "Bad."}]}],
        [{"role": "user", "content": [{"type": "input_json", "data": {"item": "Bad."}}]}],
    ],
)
def test_the_item_is_found_in_whichever_form_the_input_has(
    simulator: Simulator, client: openai.OpenAI, given: Any
) -> None:
    assert decide(client, given).answers[0].choice == "negative"
    assert simulator.ledger["items"] == {"r2": 1}


def test_answers_come_in_question_order_and_each_is_paid(client: openai.OpenAI) -> None:
    choices: Any = [{"value": label} for label in SPEC.labels]
    decision = client.decisions.create(
        model="m",
        input="Good.",
        questions=[
            {"type": "choice", "name": "all", "instructions": "?", "choices": choices},
            {"type": "choice", "instructions": "?", "choices": [choices[1], {"value": NONE_OF_THESE}]},
        ],
    )
    first, second = decision.answers
    assert (first.name, second.name) == ("all", None)
    assert probabilities_of(second) == pytest.approx({"negative": 0.2, NONE_OF_THESE: 0.8})
    assert decision.usage.output_tokens == 2


def test_questions_beyond_the_limits_are_refused_with_their_place(answers: Path) -> None:
    with Simulator(Options(answers=answers, max_choices=2)) as simulator, client_of(simulator) as client:
        with pytest.raises(openai.BadRequestError, match="at most 2 choices, found 3") as caught:
            decide(client, "Good.")
        assert caught.value.param == "questions.0.choices"
        with pytest.raises(openai.UnprocessableEntityError) as unprocessable:
            systemone(client)
        assert "at most 2 options, got 3" in unprocessable.value.response.json()["detail"][0]["msg"]
        assert simulator.ledger["failed"] == 2
        assert label_of(ask(client, "Good.")) == "positive"


@pytest.mark.parametrize(
    ("question", "param"),
    [
        ({"type": "predicate", "instructions": "Is it?"}, "questions.0.type"),
        ({"type": "choice", "choices": [{"value": "a"}, {"value": "b"}]}, "questions.0.instructions"),
        ({"type": "choice", "instructions": "?", "choices": [{"value": "a"}]}, "questions.0.choices"),
        ({"type": "choice", "instructions": "?", "choices": [{"value": "a"}, {"value": "a"}]}, "questions.0.choices"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused(
    client: openai.OpenAI, question: dict[str, Any], param: str
) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.decisions.create(model="m", input="Good.", questions=[question])  # type: ignore[list-item]
    assert caught.value.param == param


def test_a_request_has_no_more_than_400_questions(client: openai.OpenAI) -> None:
    assert len(decide(client, "Good.", questions=400).answers) == 400
    with pytest.raises(openai.BadRequestError, match="questions"):
        decide(client, "Good.", questions=401)


def test_a_model_that_knows_no_decisions_is_not_found(answers: Path) -> None:
    options = Options(answers=answers, decision_models=frozenset({"gpt-6-luna"}))
    with Simulator(options) as simulator, client_of(simulator) as client:
        assert decide(client, "Good.").answers[0].choice == "positive"
        with pytest.raises(openai.NotFoundError, match="no model 'other' for decisions") as caught:
            decide(client, "Good.", model="other")
        assert caught.value.code == "model_not_found"
        assert label_of(ask(client, "Good.")) == "positive"


def test_systemone_answers_by_name_with_the_probabilities_of_the_file(
    simulator: Simulator, client: openai.OpenAI
) -> None:
    reply = systemone(client)
    answer = reply["answers"]["q"]
    assert (answer["type"], answer["choice"]) == ("choice", "positive")
    assert answer["probabilities"] == pytest.approx(TRUTH)
    assert answer["confidence"] == pytest.approx((0.7 - 1 / 3) / (1 - 1 / 3))
    assert reply["model"] == "local/model"
    counts = simulator.ledger["endpoints"]["systemone"]
    assert counts["prompt_tokens"] == reply["usage"]["input_tokens"] > 0
    assert counts["completion_tokens"] == reply["usage"]["output_tokens"] == 0
    assert systemone(client, state={"item": "Bad."})["answers"]["q"]["choice"] == "negative"


@pytest.mark.parametrize(
    "changes",
    [
        {"questions": {}},
        {"questions": {"q": {"type": "noul", "criteria": {"true": None}}}},
        {"questions": {"q": {"type": "choice", "criteria": {}}}},
        {"questions": {"q": {"type": "choice", "criteria": ["a", "b"]}}},
        {"state": 3},
        {"temperature": 0},
    ],
)
def test_systemone_refuses_what_it_does_not_know_as_its_model_does(
    client: openai.OpenAI, changes: dict[str, Any]
) -> None:
    with pytest.raises(openai.UnprocessableEntityError) as caught:
        systemone(client, **changes)
    problems = caught.value.response.json()["detail"]
    assert problems[0]["loc"][:2] == ["body", next(iter(changes))]


def test_every_protocol_shares_the_limits(answers: Path) -> None:
    with Simulator(Options(answers=answers, rpm=2)) as simulator, client_of(simulator) as client:
        decide(client, "Good.")
        systemone(client)
        with pytest.raises(openai.RateLimitError):
            ask(client, "Good.")
        with pytest.raises(openai.RateLimitError):
            decide(client, "Good.")
        ledger = simulator.ledger
    assert (ledger["served"], ledger["throttled"], ledger["peak_requests"]) == (2, 2, 2)
    assert {name: counts["throttled"] for name, counts in ledger["endpoints"].items()} == {
        "decisions": 1,
        "systemone": 0,
        "chat": 1,
    }
