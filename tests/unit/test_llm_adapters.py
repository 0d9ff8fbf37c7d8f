"""Each API of an endpoint, and how `auto` finds the one to ask; the endpoint is a function."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from datashunt.classifier import NONE_OF_THESE, Api
from datashunt.classifier import parse as parse_spec
from datashunt.errors import (
    LLMError,
    LLMNotFound,
    LLMRejected,
    LLMThrottled,
    LLMUnauthorized,
    LLMUnavailable,
    LLMUnusable,
)
from datashunt.items import Usage
from datashunt.llm import LLM
from datashunt.llm.abilities import MOST_FAILURES
from datashunt.llm.adapter import Manner
from datashunt.llm.decisions import DECISIONS
from datashunt.llm.systemone import SYSTEMONE
from datashunt.prompts import Prompt, render
from datashunt.quota import FAILURES

SPEC = parse_spec(
    {"name": "n", "labels": {"good": "likes it", "bad": None, "odd": None}, "instruction": "How does it feel?"}
)
PROMPT = render(SPEC, "a fine day")
Handler = Callable[[httpx2.Request], httpx2.Response]
Connect = Callable[[Handler], LLM]


@pytest.fixture
def connect() -> Iterator[Connect]:
    made: list[LLM] = []

    def make(handler: Handler) -> LLM:
        made.append(LLM("https://llm.example/v1", None, transport=httpx2.MockTransport(handler)))
        return made[-1]

    yield make
    for llm in made:
        llm.close()


def decision(choice: Any = "good", *, usage: bool = True, **answer: Any) -> dict[str, Any]:
    given = [{"value": label, "probability": p} for label, p in {"good": 0.6, "bad": 0.2, "odd": 0.19}.items()]
    counted = {
        "input_tokens": 90,
        "output_tokens": 1,
        "input_tokens_details": {"cached_tokens": 64, "cache_write_tokens": 0},
    }
    first = {"type": "choice", "name": "label", "choice": choice, "confidence": 0.6, "probabilities": given, **answer}
    return {"model": "gpt-x-2026", "answers": [first], **({"usage": counted} if usage else {})}


def systemone(**answer: Any) -> dict[str, Any]:
    told = {"good": 0.5, "bad": 0.25, "odd": 0.25}
    first = {"type": "choice", "choice": "good", "confidence": 0.3, "probabilities": told, **answer}
    return {"model": "tiny", "answers": {"label": first}, "usage": {"input_tokens": 70, "output_tokens": 0}}


def chat(label: str = "bad") -> dict[str, Any]:
    message = {"role": "assistant", "content": json.dumps({"label": label})}
    return {"model": "m-1", "choices": [{"index": 0, "finish_reason": "stop", "message": message}]}


class Endpoint:
    """Answers each path with a status and a body; a path it does not know with 404. Keeps what it was sent."""

    def __init__(self, **paths: Any) -> None:
        self.paths = paths
        self.seen: list[str] = []

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        name = request.url.path.removeprefix("/v1/").split("/")[0]
        self.seen.append(name)
        answer = self.paths.get(name, (404, {"detail": "Not Found"}))
        if callable(answer):
            answer = answer(json.loads(request.content))
        status, body = answer if isinstance(answer, tuple) else (200, answer)
        return httpx2.Response(status, json=body)


def ask(llm: LLM, api: Api = "auto", prompt: Prompt = PROMPT, samples: int = 0) -> Any:
    return llm.ask(prompt, "m", deadline_s=30, api=api, samples=samples)


def refused(message: str = "no", **error: Any) -> dict[str, Any]:
    return {"error": {"message": message, "type": None, "param": None, "code": None, **error}}


# the Decisions API


def test_a_decision_is_asked_as_one_choice_question_about_the_item(connect: Connect) -> None:
    bodies: list[dict[str, Any]] = []

    def endpoint(request: httpx2.Request) -> httpx2.Response:
        assert request.url == "https://llm.example/v1/decisions"
        bodies.append(json.loads(request.content))
        return httpx2.Response(200, json=decision())

    reply = ask(connect(endpoint), "decisions")
    assert (reply.label, reply.source, reply.model, reply.fingerprint) == (
        "good",
        "decision",
        "gpt-x-2026",
        "decisions",
    )
    assert reply.probabilities == pytest.approx({"good": 0.6 / 0.99, "bad": 0.2 / 0.99, "odd": 0.19 / 0.99})
    assert reply.usage == Usage(prompt=90, completion=1, cached=64)
    (question,) = bodies[0]["questions"]
    assert question["type"] == "choice"
    assert question["instructions"] == "How does it feel?"
    assert question["choices"] == [{"value": "good", "description": "likes it"}, {"value": "bad"}, {"value": "odd"}]
    system, user = bodies[0]["input"]
    assert (system["role"], user) == ("system", {"role": "user", "content": '{"item": "a fine day"}'})


def test_all_but_the_data_is_the_same_for_all_items() -> None:
    def without_data(text: str) -> tuple[Any, Any]:
        first = DECISIONS.request(render(SPEC, text), "m", Manner())
        second = SYSTEMONE.request(render(SPEC, text), "m", Manner())
        return (first["input"][:-1], first["questions"]), second["questions"]

    assert without_data("one") == without_data("another { text\n")


def test_probabilities_are_scaled_to_what_was_offered(connect: Connect) -> None:
    prompt = render(SPEC, "x", candidates=["good", "bad"])
    reply = ask(connect(Endpoint(decisions=decision())), "decisions", prompt)
    assert reply.probabilities == pytest.approx({"good": 0.75, "bad": 0.25})


def test_none_of_these_is_a_choice_when_labels_were_left_out(connect: Connect) -> None:
    prompt = render(SPEC, "x", candidates=["good", "bad"])
    reply = ask(connect(Endpoint(decisions=decision(NONE_OF_THESE))), "decisions", prompt)
    assert (reply.label, reply.probabilities, reply.source) == (NONE_OF_THESE, None, "none")


@pytest.mark.parametrize(
    "told",
    [
        None,
        [],
        [3],
        [{"value": "good"}],
        [{"value": "good", "probability": "high"}],
        [{"value": "good", "probability": -1}],
        [{"value": "good", "probability": float("nan")}],
    ],
)
def test_probabilities_in_no_known_form_are_done_without(told: Any) -> None:
    reply = DECISIONS.read(decision(probabilities=told), PROMPT, "m", 1.0)
    assert (reply.label, reply.probabilities, reply.source) == ("good", None, "none")


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"type": "refusal"}, "refusal"),
        ({"choice": "angry"}, "outside_candidates"),
        ({"choice": NONE_OF_THESE}, "outside_candidates"),
        ({"choice": True}, "invalid_json"),
        ({"choice": None}, "invalid_json"),
    ],
)
def test_a_paid_decision_without_a_label_says_what_it_cost(connect: Connect, answer: dict[str, Any], kind: str) -> None:
    with pytest.raises(LLMUnusable) as caught:
        ask(connect(Endpoint(decisions=decision(**answer))), "decisions")
    assert (caught.value.kind, caught.value.model) == (kind, "gpt-x-2026")
    assert caught.value.usage == Usage(prompt=90, completion=1, cached=64)


@pytest.mark.parametrize("api", ["decisions", "systemone"])
@pytest.mark.parametrize("body", [{}, [], {"answers": None}, {"answers": 3}, "text"])
def test_a_page_that_is_no_decision_is_unusable(connect: Connect, api: Api, body: Any) -> None:
    with pytest.raises(LLMUnusable) as caught:
        ask(connect(Endpoint(**{api: body})), api)
    assert caught.value.kind in {"invalid_body", "no_choices"}


def test_a_decision_without_usage_is_taken_at_our_estimate(connect: Connect) -> None:
    reply = ask(connect(Endpoint(decisions=decision(usage=False))), "decisions")
    assert reply.usage == Usage(prompt=PROMPT.tokens(), completion=0)


# systemone


def test_systemone_is_asked_about_a_state_that_is_nothing_but_data(connect: Connect) -> None:
    bodies: list[dict[str, Any]] = []

    def endpoint(body: dict[str, Any]) -> dict[str, Any]:
        bodies.append(body)
        return systemone()

    reply = ask(connect(Endpoint(systemone=endpoint)), "systemone")
    assert (reply.label, reply.source, reply.fingerprint) == ("good", "decision", "systemone")
    assert reply.probabilities == pytest.approx({"good": 0.5, "bad": 0.25, "odd": 0.25})
    assert reply.usage == Usage(prompt=70, completion=0)
    (question,) = bodies[0]["questions"].values()
    assert (question["type"], question["criteria"]) == ("choice", {"good": "likes it", "bad": None, "odd": None})
    assert question["instructions"].startswith("How does it feel?")
    assert bodies[0]["state"] == '{"item": "a fine day"}'


@pytest.mark.parametrize("answer", [{"choice": None}, {"choice": 3}, {"choice": "angry"}])
def test_a_systemone_answer_without_a_label_is_unusable(connect: Connect, answer: dict[str, Any]) -> None:
    with pytest.raises(LLMUnusable) as caught:
        ask(connect(Endpoint(systemone=systemone(**answer))), "systemone")
    assert caught.value.usage == Usage(prompt=70, completion=0)


# auto


def test_the_decisions_api_is_taken_where_there_is_one(connect: Connect) -> None:
    endpoint = Endpoint(decisions=decision(), chat=chat())
    llm = connect(endpoint)
    assert ask(llm).label == ask(llm).label == "good"
    assert endpoint.seen == ["decisions", "decisions"]


@pytest.mark.parametrize(
    "answer",
    [
        (404, {"detail": "Not Found"}),
        (405, {}),
        (501, {}),
        (400, refused("only gpt-6-luna is supported", param="model")),
        (422, {"detail": [{"loc": ["body"], "msg": "?"}]}),
        (401, refused("your key has no access to decisions")),
        (403, refused()),
        {"error": "no such page"},
        "welcome to the gateway",
    ],
)
def test_a_server_without_decisions_is_found_out_once_and_asked_for_chat(connect: Connect, answer: Any) -> None:
    endpoint = Endpoint(decisions=answer, chat=chat())
    llm = connect(endpoint)
    assert [ask(llm).label for _ in range(3)] == ["bad"] * 3
    assert endpoint.seen == ["decisions", "chat", "chat", "chat"]


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ((429, refused()), LLMThrottled),
        ((500, refused()), LLMUnavailable),
        ((402, refused()), LLMUnauthorized),
        ((400, refused(code="context_length_exceeded")), LLMRejected),
        ((413, refused()), LLMRejected),
        ((400, refused(code="content_filter")), LLMRejected),
    ],
)
def test_what_says_nothing_of_the_api_teaches_nothing(connect: Connect, answer: Any, error: type[LLMError]) -> None:
    endpoint = Endpoint(decisions=answer, chat=chat())
    llm = connect(endpoint)
    with pytest.raises(error):
        ask(llm)
    endpoint.paths["decisions"] = decision()
    assert ask(llm).label == "good"
    assert endpoint.seen == ["decisions", "decisions"]


def fail(llm: LLM, times: int) -> None:
    for _ in range(times):
        with pytest.raises(LLMUnavailable):
            ask(llm)


def test_a_decisions_api_that_has_only_ever_failed_gives_way_to_chat(connect: Connect) -> None:
    endpoint = Endpoint(decisions=(500, refused()), chat=chat())
    llm = connect(endpoint)
    fail(llm, MOST_FAILURES - 1)
    assert ask(llm).label == ask(llm).label == "bad"
    assert endpoint.seen == ["decisions"] * MOST_FAILURES + ["chat", "chat"]


def test_an_endpoint_that_fails_altogether_keeps_its_decisions_api(connect: Connect) -> None:
    endpoint = Endpoint(decisions=(500, refused()), chat=(500, refused()))
    llm = connect(endpoint)
    fail(llm, 2 * MOST_FAILURES)
    assert endpoint.seen == [*["decisions"] * MOST_FAILURES, "chat"] * 2
    endpoint.paths["decisions"] = decision()
    assert ask(llm).label == "good"


@pytest.mark.parametrize("status", [502, 503])
def test_an_outage_of_the_decisions_api_is_waited_for(connect: Connect, status: int) -> None:
    endpoint = Endpoint(decisions=(status, refused()), chat=chat())
    fail(connect(endpoint), 2 * MOST_FAILURES)
    assert set(endpoint.seen) == {"decisions"}


def test_a_decisions_api_that_has_answered_once_may_fail_for_as_long_as_it_likes(connect: Connect) -> None:
    endpoint = Endpoint(decisions=decision(), chat=chat())
    llm = connect(endpoint)
    ask(llm)
    endpoint.paths["decisions"] = (500, refused())
    fail(llm, 2 * MOST_FAILURES)
    assert set(endpoint.seen) == {"decisions"}


def test_chat_has_its_chance_before_the_endpoint_is_given_up() -> None:
    assert MOST_FAILURES < FAILURES


def test_systemone_has_its_chance_too_where_there_is_no_chat(connect: Connect) -> None:
    endpoint = Endpoint(decisions=(500, refused()), systemone=systemone())
    llm = connect(endpoint)
    fail(llm, MOST_FAILURES - 1)
    assert ask(llm).fingerprint == ask(llm).fingerprint == "systemone"
    assert endpoint.seen[MOST_FAILURES:] == ["chat", "systemone", "systemone"]


def test_a_question_with_more_options_than_it_takes_goes_to_chat(connect: Connect) -> None:
    def up_to_two(body: dict[str, Any]) -> Any:
        return decision() if len(body["questions"][0]["choices"]) <= 2 else (400, refused("too many choices"))

    spec = parse_spec({"name": "n", "labels": ["good", "bad"], "instruction": "i"})
    endpoint = Endpoint(decisions=up_to_two, chat=chat())
    llm = connect(endpoint)
    small = render(spec, "x")
    assert [ask(llm, "auto", prompt).label for prompt in (small, PROMPT, PROMPT, small)] == [
        "good",
        "bad",
        "bad",
        "good",
    ]
    assert endpoint.seen == ["decisions", "decisions", "chat", "chat", "decisions"]


def test_more_options_than_the_api_has_place_for_are_not_even_tried(connect: Connect) -> None:
    spec = parse_spec({"name": "n", "labels": [f"l{n}" for n in range(256)], "instruction": "i"})
    endpoint = Endpoint(decisions=decision(), chat=chat("l7"))
    assert ask(connect(endpoint), "auto", render(spec, "x")).label == "l7"
    assert endpoint.seen == ["chat"]


def test_an_item_that_the_decisions_api_refuses_does_not_change_the_api(connect: Connect) -> None:
    endpoint = Endpoint(decisions=decision(), chat=chat())
    llm = connect(endpoint)
    ask(llm)
    endpoint.paths["decisions"] = (400, refused("cannot be read"))
    with pytest.raises(LLMRejected):
        ask(llm)
    endpoint.paths["decisions"] = (404, refused("deploying"))
    with pytest.raises(LLMNotFound):
        ask(llm)
    assert endpoint.seen == ["decisions"] * 3


def test_systemone_is_asked_where_there_is_no_chat(connect: Connect) -> None:
    endpoint = Endpoint(systemone=systemone())
    llm = connect(endpoint)
    assert ask(llm).fingerprint == ask(llm).fingerprint == "systemone"
    assert endpoint.seen == ["decisions", "chat", "systemone", "systemone"]


def test_an_endpoint_with_none_of_them_is_asked_again_from_chat_on(connect: Connect) -> None:
    endpoint = Endpoint()
    llm = connect(endpoint)
    with pytest.raises(LLMNotFound, match=r"llm\.api") as caught:
        ask(llm)
    assert caught.value.kind == "not_found"
    endpoint.paths["chat"] = chat()
    assert ask(llm).label == "bad"


def test_a_model_that_is_not_there_is_not_looked_for_elsewhere(connect: Connect) -> None:
    endpoint = Endpoint(chat=(404, refused("no such model", code="model_not_found")), systemone=systemone())
    with pytest.raises(LLMNotFound):
        ask(connect(endpoint))
    assert endpoint.seen == ["decisions", "chat"]


@pytest.mark.parametrize("api", ["chat", "decisions", "systemone"])
def test_an_api_that_is_said_is_the_only_one_asked(connect: Connect, api: Api) -> None:
    endpoint = Endpoint()
    with pytest.raises(LLMNotFound):
        ask(connect(endpoint), api)
    assert endpoint.seen == [api]


def test_each_model_of_an_endpoint_has_its_own_abilities(connect: Connect) -> None:
    def luna_only(body: dict[str, Any]) -> Any:
        return decision() if body["model"] == "luna" else (400, refused("unsupported model"))

    endpoint = Endpoint(decisions=luna_only, chat=chat())
    llm = connect(endpoint)
    labels = [llm.ask(PROMPT, model, deadline_s=30, api="auto").label for model in ("other", "luna", "other")]
    assert labels == ["bad", "good", "bad"]
    assert endpoint.seen == ["decisions", "chat", "decisions", "chat"]


# samples


def sampling(*labels: str) -> dict[str, Any]:
    choices = [{**chat(label)["choices"][0], "index": n} for n, label in enumerate(labels)]
    return {**chat(), "choices": choices, "usage": {"prompt_tokens": 100, "completion_tokens": 6 * len(labels)}}


def test_samples_are_drawn_together_once_it_is_known_that_there_are_no_probabilities(connect: Connect) -> None:
    bodies: list[dict[str, Any]] = []

    def endpoint(body: dict[str, Any]) -> Any:
        bodies.append(body)
        return sampling(*["good", "bad", "good", "odd"][: body.get("n", 1)])

    llm = connect(Endpoint(chat=endpoint))
    first, second = ask(llm, "chat", samples=5), ask(llm, "chat", samples=4)
    assert (first.votes, second.votes) == (("good",), ("good", "bad", "good", "odd"))
    assert second.usage == Usage(prompt=100, completion=24)
    assert [(body.get("n"), body["temperature"] > 0, body["logprobs"]) for body in bodies] == [
        (None, True, True),
        (4, True, True),
    ]


def test_a_server_that_refuses_to_draw_several_is_asked_for_one(connect: Connect) -> None:
    def endpoint(body: dict[str, Any]) -> Any:
        return (400, refused("n must be 1", param="n")) if "n" in body else sampling("good")

    llm = connect(Endpoint(chat=endpoint))
    assert [ask(llm, "chat", samples=3).votes for _ in range(3)] == [("good",)] * 3


def test_samples_that_name_no_label_are_left_out(connect: Connect) -> None:
    llm = connect(Endpoint(chat=lambda body: sampling(*["good", "angry", "bad"][: body.get("n", 1)])))
    ask(llm, "chat", samples=3)
    assert ask(llm, "chat", samples=3).votes == ("good", "bad")


def test_samples_of_which_none_names_a_label_are_unusable(connect: Connect) -> None:
    with pytest.raises(LLMUnusable) as caught:
        ask(connect(Endpoint(chat=sampling("angry", "sad"))), "chat", samples=2)
    assert caught.value.usage == Usage(prompt=100, completion=12)
