"""Where something comes from outside, and what may become of it: a value or one of our errors, nothing else.

Each target takes a random generator and a folder of its own, and returns how many inputs it tried.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any
from unittest import mock

import httpx2
import openai
from pydantic import SecretStr

from datashunt import classifier, streams
from datashunt.errors import BundleError, LLMError, LLMUnusable, SpecError, UsageError
from datashunt.items import Receipt, Reply, Wake
from datashunt.llm import LLM, Batches, chat, decisions, systemone
from datashunt.llm.batches import Line
from datashunt.llm.failures import refused_parameter, translate
from datashunt.pipeline.submit import fault_of_id, sort_out
from datashunt.prompts import render
from datashunt.signing import Signer
from datashunt.small import SmallModel
from datashunt.small.bundle import read_info
from datashunt.streams import BadRow, Row
from tests.fuzz import mutate

LINES = 500
SPEC = {
    "name": "mood",
    "labels": {"good": "likes it", "bad": None, "odd": ""},
    "instruction": "How does it feel?",
    "llm": {"model": "m", "input_price": "1", "output_price": "2", "rpm": 60},
    "policy": {"mode": "fixed", "threshold": 0.9, "audit_rate": 0.1},
    "prompt": {"pruning": "off"},
    "distil": {"every_s": 60, "min_new_answers": 10},
}
YAML = b"name: mood\nlabels: {good: likes it, bad: , odd: ''}\ninstruction: &a How?\npolicy:\n  threshold: 0.9\n"
ITEM = {"id": "a1", "text": "a fine day", "meta": {"n": 1}, "deadline": 60, "priority": 1}
USAGE = {"prompt_tokens": 10, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 4}}
LOGPROBS = {"content": [{"token": "good", "logprob": -0.1, "bytes": [103], "top_logprobs": [
    {"token": "good", "logprob": -0.1, "bytes": None}, {"token": "bad", "logprob": -3.0, "bytes": None}]}]}  # fmt: skip
CHAT = {
    "id": "1", "model": "m-1", "system_fingerprint": "fp", "usage": USAGE,
    "choices": [{"index": 0, "finish_reason": "stop", "logprobs": LOGPROBS,
                 "message": {"role": "assistant", "content": '{"label": "good"}', "refusal": None}}],
}  # fmt: skip
DECISION = {
    "model": "m-1", "usage": USAGE,
    "answers": [{"type": "choice", "choice": "good", "probabilities": [
        {"value": "good", "probability": 0.9}, {"value": "bad", "probability": 0.1},
        {"value": "odd", "probability": 0.0}]}],
}  # fmt: skip
SYSTEMONE = {"model": "m-1", "usage": USAGE, "answers": {"label": {
    "choice": "good", "probabilities": {"good": 0.9, "bad": 0.1, "odd": 0.0}}}}  # fmt: skip
REFUSAL = {
    "message": "This model's context length is 4096 tokens. However, your messages have 5000 tokens.",
    "type": "invalid_request_error", "code": "context_length_exceeded", "param": "messages",
}  # fmt: skip
BATCH_LINES = (
    {"custom_id": "7", "response": {"status_code": 200, "body": CHAT}, "error": None},
    {"custom_id": "7", "response": {"status_code": 400, "body": {"error": REFUSAL}}, "error": None},
    {"custom_id": "7", "response": None, "error": {"code": "batch_expired", "message": "too late"}},
)
BUNDLE = {
    "format": 1, "labels_hash": "x", "labels": ["bad", "good"], "temperature": 1.5, "recipe": "head", "threshold": 0.9,
    "base": "b", "max_tokens": 128, "created_at": "2026-01-01T00:00:00+00:00", "trained_on": {"train": 1},
    "evaluation": {"n": 2, "agreement": 0.5}, "parent": None,
}  # fmt: skip
BUNDLE["labels_hash"] = classifier.digest(BUNDLE["labels"])
PROMPT = render(classifier.parse(SPEC), "a fine day")
BATCHES = Batches(LLM("http://127.0.0.1:9/v1", None), 1.0)


def specs(rng: Random, _: Path) -> int:
    """A classifier's document."""
    try:
        known = classifier.parse(mutate.document(rng, SPEC))
    except SpecError as error:
        assert str(error)
    else:
        assert classifier.parse({**known.document(), "labels": known.labels}).spec_hash == known.spec_hash
    return 1


def files(rng: Random, folder: Path) -> int:
    """A classifier's file."""
    path = folder / "spec.yaml"
    path.write_bytes(mutate.raw(rng, YAML))
    try:
        classifier.load(path)
    except SpecError as error:
        assert str(error)
    return 1


def jsonl(rng: Random, folder: Path) -> int:
    """Lines of JSON: as many come out as went in, each an item or a fault, and what comes out can be submitted."""
    path = folder / "items.jsonl"
    path.write_bytes(b"\n".join(mutate.line(rng, ITEM) for _ in range(LINES)) + b"\n")
    return _read(path)


def csv_(rng: Random, folder: Path) -> int:
    """Lines of CSV."""
    rows = io.StringIO()
    writer = csv.writer(rows)
    for n in range(LINES):
        writer.writerow([f"a{n}", rng.choice(mutate.TEXTS), "more"])
    path = folder / "items.csv"
    path.write_bytes(b"id,text,other\n" + mutate.raw(rng, rows.getvalue().encode(errors="surrogatepass")))
    return max(1, _read(path))


def _read(path: Path) -> int:
    count = 0
    try:
        for row in streams.read(path):
            count += 1
            assert isinstance(row, Row | BadRow)
            if isinstance(row, BadRow):
                assert row.reason
                assert row.detail
    except UsageError as error:
        assert str(error)
    return count


def submissions(rng: Random, _: Path) -> int:
    """The entries of a submission over the broker: each is taken or refused, and its receipt can be sent."""
    entries: Any = json.loads(json.dumps([mutate.document(rng, ITEM) for _ in range(5)]))
    good, refused, payload = sort_out(entries, 1_000)
    assert len(good) + len(refused) == len(entries)
    assert len(payload) == 32
    json.dumps([[one.position, one.id, one.reason, one.detail] for one in refused]).encode()
    for one in good:
        assert one.item.text.encode()
        assert "\0" not in one.item.text
    return len(entries)


def messages(rng: Random, _: Path) -> int:
    """A message to a worker with a key: what nobody signed is refused, and its claimed id is fit to be sent back."""
    from workers.signed import _named, fault_of

    body = mutate.document(rng, [["s1", "mood", [ITEM]], {}, {"callbacks": None, "chain": None}])
    headers = mutate.document(rng, {"task": "datashunt.submit", "datashunt-signature": "00" * 32})
    message = SimpleNamespace(
        body=json.dumps(body).encode(), payload=body, headers=headers if isinstance(headers, dict) else None
    )
    assert fault_of(Signer(SecretStr("k" * 32)), "datashunt.submit", message) is not None
    name = _named(message)
    assert name == "" or fault_of_id(name) is None
    return 1


def wakes(rng: Random, _: Path) -> int:
    """Arguments of the lanes' tasks: discarded with a reason, or a name and numbers that the database can take."""
    from workers.wakes import fault_of

    given = mutate.document(rng, ["mood", [1, 2, 2**40]])
    named = mutate.document(rng, {}) if rng.random() < 0.1 else {}
    arguments = tuple(given) if isinstance(given, list) else (given,)
    if fault_of(arguments, named if isinstance(named, dict) else {"": named}) is None:
        name, ids = arguments
        assert classifier.NAME.fullmatch(name)
        assert all(0 < one < 2**63 for one in ids)
    return 1


def batch_lines(rng: Random, _: Path) -> int:
    """Lines of a batch's result file, error pages among them: an answer or a reason, and both can be stored."""
    raw = json.dumps(mutate.document(rng, rng.choice(BATCH_LINES))).encode()
    line = Line.of(mutate.raw(rng, raw) if rng.random() < 0.1 else raw)
    try:
        _check(BATCHES.reply_of(line, PROMPT, "m"))
    except LLMError as error:
        assert error.kind
        assert error.http_status is None or 100 <= error.http_status < 600
        _check_text(str(error))
    return 1


def refusals(rng: Random, _: Path) -> int:
    """Error pages of a live call."""
    status = rng.choice((400, 401, 402, 403, 404, 408, 413, 422, 429, 500, 503))
    said = mutate.document(rng, REFUSAL)
    response = httpx2.Response(status, request=httpx2.Request("POST", "http://127.0.0.1:9/v1"))
    error = openai.APIStatusError("refused", response=response, body=said)
    refused_parameter(error, PROMPT)
    told = translate(error, PROMPT, "m", chat.CHAT)
    assert told.kind
    _check_text(str(told))
    return 1


def _check_text(text: str) -> None:
    text.encode()
    assert "\0" not in text


def _check(said: Reply) -> None:
    assert said.label in {*SPEC["labels"], "none of these"}
    assert said.usage.prompt >= 0
    assert said.usage.completion >= 0
    for text in (said.model, said.fingerprint, *said.votes):  # it will be stored
        _check_text(text)
    if said.probabilities is not None:
        assert abs(sum(said.probabilities.values()) - 1) < 1e-3
        assert all(0 <= share <= 1 for share in said.probabilities.values())


def _replies(adapter: Any, seed: Any) -> Callable[[Random, Path], int]:
    def target(rng: Random, _: Path) -> int:
        body = mutate.document(rng, seed)
        adapter.recognises(body)
        try:
            said = adapter.read(body, PROMPT, "m", 1.0)
        except LLMUnusable as error:
            assert error.kind
            return 1
        assert isinstance(said, Reply)
        _check(said)
        return 1

    return target


def bundles(rng: Random, folder: Path) -> int:
    """A bundle's description."""
    text = json.dumps(mutate.document(rng, BUNDLE)).encode()
    (folder / "bundle.json").write_bytes(mutate.raw(rng, text) if rng.random() < 0.3 else text)
    try:
        info = read_info(folder)
    except BundleError as error:
        assert str(error)
    else:
        assert info.temperature > 0
    return 1


def weights(rng: Random, folder: Path) -> int:
    """A bundle's weights: their size, their header, their end."""
    from tests.fuzz.bundles import written

    place = written(folder)
    content = (place / "whole").read_bytes()
    size = int.from_bytes(content[:8], "little")
    header, body = content[8 : 8 + size], content[8 + size :]
    what = rng.randrange(4)
    if what == 0:
        header = json.dumps(mutate.document(rng, json.loads(header))).encode()
    elif what == 1:
        header = mutate.raw(rng, header)
    elif what == 2:
        body = body[: rng.randrange(len(body))]
    told = rng.choice((size, 0, 1, 2**31, 2**63, 2**64 - 1)) if what == 3 else len(header)
    (place / "model.safetensors").write_bytes(told.to_bytes(8, "little") + header + body)
    try:
        model = SmallModel.load(place, device="cpu", precision="fp32")
    except BundleError as error:
        assert str(error)
    else:
        assert model.labels == tuple(BUNDLE["labels"])
    return 1


def tasks(rng: Random, _: Path) -> int:
    """A submission as the worker's task takes it: whatever comes, a receipt that can be sent."""
    from workers import intake

    sent = mutate.document(rng, ["s1", "mood", [ITEM, {**ITEM, "id": "a2"}]])
    given = sent if isinstance(sent, list) else [sent]
    submission, name, items, *_ = [*given, None, None, None]
    process = mock.patch.multiple(intake, runtime=lambda: SimpleNamespace(intake=_Counting()), publish=len)
    with process:
        receipt = intake.take(submission, name, items)
    json.dumps(receipt.to_json()).encode()
    if receipt.error is None:
        assert receipt.accepted + len(receipt.refused) == len(items)
    return 1


class _Counting:
    """In the place of the intake with its database: it sorts out, and counts."""

    def submit(self, name: str, items: list[Any], submission: str) -> tuple[Receipt, list[Wake]]:
        good, refused, _ = sort_out(items, 1_000)
        return Receipt(submission, name, len(good), 0, tuple(refused)), []

    def refuse(self, name: str, submission: str, error: str) -> Receipt:
        return Receipt(submission, name, 0, 0, error=error)


TARGETS: dict[str, Callable[[Random, Path], int]] = {
    "classifier documents": specs,
    "classifier files": files,
    "lines of JSON": jsonl,
    "lines of CSV": csv_,
    "entries of submissions": submissions,
    "Celery messages": messages,
    "wake-ups": wakes,
    "chat replies": _replies(chat.CHAT, CHAT),
    "decisions replies": _replies(decisions.DECISIONS, DECISION),
    "systemone replies": _replies(systemone.SYSTEMONE, SYSTEMONE),
    "lines of batches": batch_lines,
    "error pages": refusals,
    "bundle.json": bundles,
    "submissions as a task": tasks,
    "weights of bundles": weights,
}
SHARES = {"weights of bundles": 0.02}
"""Of the inputs that the others get: these take milliseconds each."""
