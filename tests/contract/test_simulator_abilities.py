"""What a simulation can be told to lack or to limit, and how its ledger adds up, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import SecretStr
from simulated import SPEC, ask, client_of, decide, label_of, write_answers

from datashunt.llm import LLM
from datashunt.prompts import render
from datashunt.simulator import Options, Simulator
from datashunt.simulator.options import WITHOUT

Start = Callable[..., tuple[Simulator, openai.OpenAI]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a simulation, and a client of it."""
    with ExitStack() as stack:

        def begin(*without: str, **options: Any) -> tuple[Simulator, openai.OpenAI]:
            given = Options(write_answers(tmp_path), without=frozenset(without), **options)
            simulator = stack.enter_context(Simulator(given))
            return simulator, stack.enter_context(client_of(simulator))

        yield begin


def plain(client: openai.OpenAI, **options: Any) -> Any:
    """Ask with the prompt alone, as one does whom a server refused the schema."""
    messages: Any = render(SPEC, "Good.", candidates=["positive", "negative"]).messages
    return client.chat.completions.create(model="m", messages=messages, **options)


@pytest.mark.parametrize(
    ("lacking", "call"),
    [
        ("chat", lambda client: ask(client, "Good.")),
        ("decisions", lambda client: decide(client, "Good.")),
        ("systemone", lambda client: client.post("/systemone", body={}, cast_to=object)),
        ("batches", lambda client: client.batches.list()),
        ("batches", lambda client: client.files.create(file=b"{}", purpose="batch")),
    ],
)
def test_an_endpoint_that_is_not_there_is_not_found(
    start: Start, lacking: str, call: Callable[[openai.OpenAI], Any]
) -> None:
    _, client = start(lacking)
    with pytest.raises(openai.NotFoundError) as caught:
        call(client)
    assert caught.value.code == "unknown_url"
    assert [model.id for model in client.models.list()] == ["simulation/any"]


def test_a_server_without_response_format_wraps_its_answer_and_reads_the_labels_in_the_prompt(start: Start) -> None:
    _, client = start("response_format")
    content = ask(client, "Good.").choices[0].message.content
    assert content == '```json\n{"label":"positive"}\n```'
    assert '"positive"' in plain(client).choices[0].message.content


def test_our_client_understands_a_server_without_response_format_logprobs_usage_and_fingerprint(start: Start) -> None:
    simulator, _ = start("response_format", "logprobs", "usage", "fingerprint")
    llm, prompt = LLM(simulator.base_url, SecretStr("any")), render(SPEC, "Good.")
    reply = llm.ask(prompt, "m", deadline_s=30)
    llm.close()
    assert (reply.label, reply.probabilities, reply.fingerprint) == ("positive", None, "")
    assert reply.usage.prompt == prompt.tokens() == simulator.ledger["prompt_tokens"]


def test_the_prompt_alone_is_enough_where_no_schema_is_sent(start: Start) -> None:
    _, client = start()
    assert label_of(plain(client)) == "positive"


@pytest.mark.parametrize("parameter", ["temperature", "max_tokens"])
def test_a_parameter_that_is_not_known_is_refused_by_name(start: Start, parameter: str) -> None:
    _, client = start(parameter)
    with pytest.raises(openai.BadRequestError) as caught:
        ask(client, "Good.")
    assert (caught.value.param, caught.value.code) == (parameter, "unsupported_parameter")
    assert label_of(plain(client, max_completion_tokens=50)) == "positive"


def test_our_client_leaves_out_the_parameters_that_are_refused(start: Start) -> None:
    simulator, _ = start("temperature", "max_tokens")
    llm = LLM(simulator.base_url, SecretStr("any"))
    assert llm.ask(render(SPEC, "Good."), "m", deadline_s=30).label == "positive"
    llm.close()


def test_limits_may_be_kept_secret(start: Start) -> None:
    _, client = start("limit_headers", rpm=10)
    raw = client.chat.completions.with_raw_response.create(
        model="m",
        messages=render(SPEC, "Bad.").messages,  # type: ignore[arg-type]
    )
    assert not [name for name in raw.headers if name.startswith("x-ratelimit")]


def test_a_model_that_it_does_not_know_is_not_found_anywhere(start: Start) -> None:
    _, client = start(models=frozenset({"known"}))
    assert [model.id for model in client.models.list()] == ["known"]
    for call in (lambda: ask(client, "Good."), lambda: decide(client, "Good.")):
        with pytest.raises(openai.NotFoundError, match="there are known") as caught:
            call()
        assert caught.value.code == "model_not_found"


def test_prompt_and_reply_must_fit_the_context(start: Start) -> None:
    prompt = render(SPEC, "Good.")
    simulator, client = start(context_tokens=prompt.tokens() + prompt.max_tokens)
    assert label_of(ask(client, "Good.")) == "positive"
    spent = simulator.ledger["prompt_tokens"]
    for call in (lambda: ask(client, "Good. More."), lambda: decide(client, "Good." * 1000)):
        with pytest.raises(openai.BadRequestError, match="maximum context length") as caught:
            call()
        assert caught.value.code == "context_length_exceeded"
    assert simulator.ledger["prompt_tokens"] == spent


def test_the_ledger_adds_up_by_endpoint_and_by_model(start: Start) -> None:
    simulator, client = start(rpm=3, models=frozenset({"small-llm", "gpt-6-luna"}))
    ask(client, "Good.")
    decide(client, "Good.")
    decide(client, "Bad.")
    for refused in (lambda: ask(client, "Good."), lambda: decide(client, "Good.", model="other")):
        with pytest.raises(openai.APIStatusError):
            refused()
    ledger = simulator.ledger
    for name in ("requests", "served", "throttled", "failed", "prompt_tokens", "completion_tokens"):
        for parts in (ledger["endpoints"], ledger["models"]):
            assert sum(part[name] for part in parts.values()) == ledger[name], name
    assert {model: counts["requests"] for model, counts in ledger["models"].items()} == {
        "small-llm": 2,
        "gpt-6-luna": 2,
        "other": 1,
    }
    assert ledger["peak_tokens"] == ledger["prompt_tokens"] + ledger["completion_tokens"]
    assert json.loads(json.dumps(ledger)) == ledger


def test_a_server_may_lack_everything_at_once(start: Start) -> None:
    simulator, client = start(*WITHOUT)
    for path in ("/chat/completions", "/decisions", "/systemone", "/files", "/batches"):
        with pytest.raises(openai.NotFoundError):
            client.post(path, body={}, cast_to=object)
    assert simulator.ledger["failed"] == 3
