"""Files and Batches of the simulation, over real HTTP, as the official client sees them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch
from simulated import ROWS, SPEC, ask, client_of, label_of, write_answers, write_faults

from datashunt.prompts import render
from datashunt.simulator import Options, Simulator
from datashunt.simulator.batch import MAX_REQUESTS

Start = Callable[..., tuple[Simulator, openai.OpenAI]]
TEXTS = [str(row["text"]) for row in ROWS]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a simulation, and a client of it."""
    with ExitStack() as stack:

        def begin(faults: str | None = None, **options: Any) -> tuple[Simulator, openai.OpenAI]:
            path = write_faults(tmp_path, faults) if faults else None
            simulator = stack.enter_context(Simulator(Options(write_answers(tmp_path), faults=path, **options)))
            return simulator, stack.enter_context(client_of(simulator))

        yield begin


def line(custom_id: object, text: str, **changes: Any) -> dict[str, Any]:
    prompt = render(SPEC, text)
    body = {"model": "small-llm", "messages": prompt.messages, "response_format": prompt.response_format}
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body | changes}


def upload(client: openai.OpenAI, lines: list[Any]) -> str:
    content = "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in lines)
    return client.files.create(file=("in.jsonl", content.encode()), purpose="batch").id


def begin(client: openai.OpenAI, lines: list[Any]) -> Batch:
    return client.batches.create(
        input_file_id=upload(client, lines),
        endpoint="/v1/chat/completions",
        completion_window="24h",
        metadata={"classifier": "reviews"},
    )


def ended(client: openai.OpenAI, batch: Batch) -> Batch:
    return reached(client, batch, lambda now: now.status not in {"validating", "in_progress", "cancelling"})


def reached(client: openai.OpenAI, batch: Batch, condition: Callable[[Batch], bool]) -> Batch:
    deadline = time.monotonic() + 60
    while not condition(now := client.batches.retrieve(batch.id)):
        assert time.monotonic() < deadline, now
    return now


def lines_of(client: openai.OpenAI, file_id: str | None) -> dict[str, Any]:
    assert file_id is not None
    lines = client.files.content(file_id).text.splitlines()
    return {one["custom_id"]: one for one in map(json.loads, lines)}


def test_a_file_is_kept_as_it_was_until_it_is_deleted(start: Start, tmp_path: Path) -> None:
    _, client = start()
    content = b'\r\n{"a": "\xc3\xa9"}\r\n--not the boundary\n\n'
    path = tmp_path / "of requests.jsonl"
    path.write_bytes(content)
    made = client.files.create(file=path, purpose="batch")
    assert (made.filename, made.bytes, made.purpose) == (path.name, len(content), "batch")
    assert client.files.retrieve(made.id) == made
    assert client.files.content(made.id).content == content
    assert [file.id for file in client.files.list()] == [made.id]
    assert client.files.delete(made.id).deleted
    with pytest.raises(openai.NotFoundError, match=made.id):
        client.files.retrieve(made.id)


def test_only_files_for_batches_are_taken(start: Start) -> None:
    _, client = start()
    with pytest.raises(openai.BadRequestError) as caught:
        client.files.create(file=b"{}", purpose="fine-tune")
    assert caught.value.param == "purpose"
    with pytest.raises(openai.BadRequestError, match="multipart"):
        client.post("/files", body={"purpose": "batch"}, cast_to=object)


def test_a_batch_answers_as_live_calls_do_and_books_each_request(start: Start) -> None:
    simulator, client = start()
    batch = begin(client, [line(f"item-{n}", text, logprobs=True, top_logprobs=3) for n, text in enumerate(TEXTS)])
    assert batch.metadata == {"classifier": "reviews"}
    done = ended(client, batch)
    assert (done.status, done.error_file_id, done.errors) == ("completed", None, None)
    assert done.request_counts is not None
    assert (done.request_counts.total, done.request_counts.completed, done.request_counts.failed) == (3, 3, 0)
    replies = lines_of(client, done.output_file_id)
    live = [ask(client, text, logprobs=True, top_logprobs=3) for text in TEXTS]
    for n, completion in enumerate(live):
        response = replies[f"item-{n}"]["response"]
        assert response["status_code"] == 200
        assert response["body"]["usage"] == completion.usage.model_dump(exclude_unset=True)
        assert response["body"]["choices"] == [choice.model_dump(exclude_unset=True) for choice in completion.choices]
    booked, usage = simulator.ledger["endpoints"], done.usage
    assert usage is not None
    assert (usage.input_tokens, usage.output_tokens) == (
        booked["batch"]["prompt_tokens"],
        booked["batch"]["completion_tokens"],
    )
    for name in ("served", "prompt_tokens", "completion_tokens"):
        assert booked["batch"][name] == booked["chat"][name] == simulator.ledger["models"]["small-llm"][name] / 2
    assert (booked["batch"]["peak_requests"], simulator.ledger["peak_requests"]) == (0, 3)


def test_requests_that_fail_stand_in_the_error_file(start: Start) -> None:
    simulator, client = start("faults: [{fault: 500, at: [batch], calls: [1, 1]}]", rpm=1)
    right = [line("right", "Good."), line("too", "Bad.")]
    lines = [line("broken", "Good."), line("wrong", "Good.", top_logprobs=3), *right]
    done = ended(client, begin(client, lines))
    assert done.status == "completed"
    errors = lines_of(client, done.error_file_id)
    assert {id_: one["response"]["status_code"] for id_, one in errors.items()} == {"broken": 500, "wrong": 400}
    assert errors["wrong"]["response"]["body"]["error"]["param"] == "top_logprobs"
    assert set(lines_of(client, done.output_file_id)) == {"right", "too"}
    assert simulator.ledger["endpoints"]["batch"]["failed"] == 2
    assert simulator.ledger["faults"]["500"]["requests"] == 1


def test_a_batch_takes_its_time_and_live_calls_are_answered_meanwhile(start: Start) -> None:
    _, client = start(batch_delay_s=86_400.0)
    batch = begin(client, [line("1", "Good.")])
    waiting = reached(client, batch, lambda now: now.status == "in_progress")
    assert waiting.output_file_id is None
    assert label_of(ask(client, "Bad.")) == "negative"
    assert client.batches.retrieve(batch.id).status == "in_progress"


def test_a_batch_that_expires_keeps_what_is_done(start: Start) -> None:
    simulator, client = start(batch_delay_s=0.4, batch_window_s=0.2)
    done = ended(client, begin(client, [line(str(n), "Good.") for n in range(10)]))
    assert done.status == "expired"
    output, errors = lines_of(client, done.output_file_id), lines_of(client, done.error_file_id)
    assert set(output) == {str(n) for n in range(5)}
    assert set(errors) == {str(n) for n in range(5, 10)}
    assert {(one["response"], one["error"]["code"]) for one in errors.values()} == {(None, "batch_expired")}
    assert simulator.ledger["endpoints"]["batch"]["served"] == 5


def test_a_batch_that_is_cancelled_keeps_what_is_done(start: Start) -> None:
    _, client = start(batch_delay_s=60.0)
    batch = begin(client, [line(str(n), "Good.") for n in range(6000)])
    reached(client, batch, lambda now: now.request_counts is not None and now.request_counts.completed > 0)
    assert client.batches.cancel(batch.id).status in {"cancelling", "cancelled"}
    done = ended(client, batch)
    assert (done.status, done.error_file_id) == ("cancelled", None)
    assert done.request_counts is not None
    assert 0 < len(lines_of(client, done.output_file_id)) == done.request_counts.completed < 6000
    with pytest.raises(openai.ConflictError, match="is cancelled"):
        client.batches.cancel(batch.id)


@pytest.mark.parametrize(
    ("wrong", "code", "param"),
    [
        ("{", "invalid_json_line", None),
        ("[]", "missing_required_parameter", "body"),
        (line(None, "Bad."), "missing_required_parameter", "custom_id"),
        (line("1", "Bad."), "duplicate_custom_id", None),
        (line("2", "Bad.") | {"url": "/v1/decisions"}, "invalid_url", "url"),
        (line("2", "Bad.") | {"method": "GET"}, "invalid_url", "url"),
        (line("2", "Bad.", model="other"), "mismatched_model", "body.model"),
    ],
)
def test_a_wrong_line_fails_the_whole_batch(start: Start, wrong: Any, code: str, param: str | None) -> None:
    simulator, client = start()
    done = ended(client, begin(client, [line("1", "Good."), wrong]))
    assert (done.status, done.output_file_id) == ("failed", None)
    assert done.errors is not None
    assert [(one.code, one.line, one.param) for one in done.errors.data or ()] == [(code, 2, param)]
    assert simulator.ledger["requests"] == 0


@pytest.mark.parametrize(("count", "code"), [(0, "empty_file"), (MAX_REQUESTS + 1, "too_many_tasks")])
def test_a_batch_has_from_1_to_50_000_requests(start: Start, count: int, code: str) -> None:
    _, client = start()
    done = ended(client, begin(client, ["{}"] * count))
    assert done.status == "failed"
    assert done.errors is not None
    assert [one.code for one in done.errors.data or ()] == [code]


def test_a_batch_of_another_endpoint_or_of_no_file_is_refused(start: Start) -> None:
    _, client = start()
    file_id = upload(client, [line("1", "Good.")])
    with pytest.raises(openai.BadRequestError) as caught:
        client.batches.create(input_file_id=file_id, endpoint="/v1/responses", completion_window="24h")
    assert caught.value.param == "endpoint"
    with pytest.raises(openai.NotFoundError):
        client.batches.create(input_file_id="file-none", endpoint="/v1/chat/completions", completion_window="24h")
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_none")


def test_batches_are_listed_page_by_page_newest_first(start: Start) -> None:
    _, client = start()
    made = [begin(client, [line("1", "Good.")]).id for _ in range(5)]
    assert [batch.id for batch in client.batches.list(limit=2)] == made[::-1]
    assert [batch.id for batch in client.batches.list(limit=2, after=made[1]).data] == made[:1]
    for wrong in ({"limit": 0}, {"after": "batch_none"}):
        with pytest.raises(openai.BadRequestError):
            client.batches.list(**wrong)  # type: ignore[arg-type]


def test_a_batch_whose_creation_was_not_heard_of_is_there_all_the_same(start: Start) -> None:
    _, client = start("faults: [{fault: reset, at: [batches], calls: [1, 1], billed: true}]")
    with pytest.raises(openai.APIConnectionError):
        begin(client, [line("1", "Good.")])
    (batch,) = client.batches.list()
    assert ended(client, batch).status == "completed"
