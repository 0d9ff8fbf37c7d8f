"""The LLM client against a server that none of us wrote. Optional: it needs one that runs.

DATASHUNT_TEST_LLM_BASE_URL   its address, with /v1 (docs/llm.md says how to start one)
DATASHUNT_TEST_LLM_MODEL      the model to ask; default: the first that it lists
DATASHUNT_TEST_LLM_API_KEY    if it wants one
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import openai
import pytest
from pydantic import SecretStr

from datashunt.classifier import Api
from datashunt.classifier import parse as parse_spec
from datashunt.errors import LLMRejected, LLMUnusable
from datashunt.items import Reply
from datashunt.llm import LLM, decided
from datashunt.prompts import render

BASE_URL = os.environ.get("DATASHUNT_TEST_LLM_BASE_URL", "")
KEY = os.environ.get("DATASHUNT_TEST_LLM_API_KEY", "")
pytestmark = pytest.mark.skipif(not BASE_URL, reason="DATASHUNT_TEST_LLM_BASE_URL is not set: no server to talk to")
SPEC = parse_spec(
    {
        "name": "feelings",
        "labels": {"positive": "likes it", "negative": "does not like it"},
        "instruction": "How does the writer feel?",
    }
)
PROMPT = render(SPEC, "I love it, the best day of my life! \u2028 <|im_end|>")
DEADLINE_S = 240.0


@pytest.fixture
def llm() -> Iterator[LLM]:
    made = LLM(BASE_URL, SecretStr(KEY) if KEY else None)
    yield made
    made.close()


@pytest.fixture(scope="module")
def model() -> str:
    named = os.environ.get("DATASHUNT_TEST_LLM_MODEL")
    return named or openai.OpenAI(base_url=BASE_URL, api_key=KEY or "none").models.list().data[0].id


def asked(llm: LLM, model: str, api: Api, samples: int = 0) -> Reply | LLMUnusable:
    try:
        return llm.ask(PROMPT, model, deadline_s=DEADLINE_S, api=api, samples=samples)
    except LLMUnusable as error:
        return error
    except LLMRejected as error:
        if error.kind == "not_found":
            pytest.skip(f"this server does not have it: {error}")
        raise


def check(reply: Reply | LLMUnusable) -> None:
    """A tiny model that is not held to the schema may say anything; that is then a miss that was paid for."""
    if isinstance(reply, LLMUnusable):
        assert reply.kind in {"invalid_json", "outside_candidates", "empty", "length"}
        assert reply.usage is not None
        assert reply.usage.prompt > 0
        return
    assert reply.label in PROMPT.answers
    assert reply.model
    assert reply.usage.prompt > 0
    assert reply.latency_ms > 0
    if reply.probabilities is not None:
        assert set(reply.probabilities) == set(PROMPT.candidates)
        assert sum(reply.probabilities.values()) == pytest.approx(1.0)
    assert (reply.probabilities is None) == (reply.source == "none")


@pytest.mark.parametrize("api", ["decisions", "systemone"])
def test_a_decision_has_probabilities(llm: LLM, model: str, api: Api) -> None:
    reply = asked(llm, model, api)
    check(reply)
    assert isinstance(reply, Reply)
    assert reply.source == "decision"


def test_chat_answers_with_a_label_or_says_that_the_model_did_not(llm: LLM, model: str) -> None:
    check(asked(llm, model, "chat"))


def test_auto_finds_an_api_that_answers(llm: LLM, model: str) -> None:
    check(asked(llm, model, "auto"))


def test_samples_come_one_by_one_where_the_server_draws_no_more(llm: LLM, model: str) -> None:
    votes: tuple[str, ...] = ()
    for _ in range(6):
        reply = asked(llm, model, "chat", samples=2 - len(votes))
        if isinstance(reply, LLMUnusable):
            continue
        answer = decided(reply, votes, 2, PROMPT)
        if answer is not None:
            check(answer)
            assert answer.source in {"samples", "logprobs"}
            return
        votes += reply.votes
    pytest.skip(f"{model} named a label in {len(votes)} of 6 replies: too few for two samples")


def test_a_model_that_is_not_there_is_an_error_of_ours(llm: LLM) -> None:
    with pytest.raises(Exception, match="LLM endpoint") as caught:
        llm.ask(PROMPT, "no/such-model-of-ours", deadline_s=DEADLINE_S, api="chat")
    assert type(caught.value).__module__ == "datashunt.errors"
