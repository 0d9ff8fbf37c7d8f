"""What a fault makes of a reply. Pure; imports its siblings only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any

from datashunt.simulator.faults import Fault
from datashunt.simulator.messages import Response, Way, come_back, error

_WAYS = {
    "timeout": Way.NEVER,
    "reset": Way.RESET,
    "outage": Way.RESET,
    "half_closed": Way.HALF,
    "slow_body": Way.SLOW,
}
_REFUSED: Mapping[str, tuple[int, str, str, str]] = {
    "content_filter": (400, "the prompt was filtered", "invalid_request_error", "content_filter"),
    "context_too_long": (
        400,
        "the prompt exceeds this model's maximum context length",
        "invalid_request_error",
        "context_length_exceeded",
    ),
    "model_not_found": (404, "the model does not exist", "invalid_request_error", "model_not_found"),
    "bad_key": (401, "incorrect API key", "invalid_request_error", "invalid_api_key"),
    "insufficient_quota": (429, "you exceeded your current quota", "insufficient_quota", "insufficient_quota"),
    "429": (429, "limit reached", "requests", "rate_limit_exceeded"),
}
NOT_OFFERED = "an option that nobody offered"


def unserved(fault: Fault) -> Response:
    """The reply to a request that the fault keeps from being served."""
    if fault.kind in _REFUSED:
        status, message, kind, code = _REFUSED[fault.kind]
        return error(status, message, kind=kind, code=code, headers=_wait(fault))
    if fault.kind.isdigit():
        return error(int(fault.kind), HTTPStatus(int(fault.kind)).phrase, kind="server_error", headers=_wait(fault))
    return replace(error(502, "Bad Gateway", kind="server_error"), way=_WAYS[fault.kind])


def spoil(fault: Fault, place: str, response: Response) -> Response:
    """What becomes of a reply; what it is billed at stays.

    Args:
        fault: one that is billed.
        place: the endpoint that replies, `batch` for one of a batch's requests.
        response: a 200.
    """
    if fault.kind in _WAYS:
        return replace(response, way=_WAYS[fault.kind], slow_s=fault.slow_s)
    if fault.kind == "truncated_json":
        payload = response.payload
        json_type = {"Content-Type": "application/json"}
        return replace(response, content=payload[: len(payload) * 2 // 3], headers={**response.headers, **json_type})
    if fault.kind.isdigit():
        refused = unserved(fault)
        return replace(refused, billed=response.billed, model=response.model)
    altered = _ALTERED["chat" if place == "batch" else place](fault, response.body)
    return replace(response, body={**response.body, **altered})


def _chat(fault: Fault, body: Mapping[str, Any]) -> dict[str, Any]:
    if fault.kind == "empty_choices":
        return {"choices": []}
    choice = body["choices"][0]
    message, finish = dict(choice["message"]), choice["finish_reason"]
    if fault.kind == "invalid_content":
        message["content"] = message["content"].rstrip("\n`").removesuffix('"}')
    elif fault.kind == "refusal":
        message |= {"content": None, "refusal": "I cannot help with that."}
    else:
        message["content"], finish = "", "content_filter"
    return {"choices": [{**choice, "message": message, "finish_reason": finish, "logprobs": None}]}


def _decisions(fault: Fault, body: Mapping[str, Any]) -> dict[str, Any]:
    answers = list(body["answers"])
    place = int(fault.draw * len(answers))
    if fault.kind == "empty_choices":
        return {"answers": []}
    if fault.kind == "refusal":
        answers[place] = {"type": "refusal", "name": answers[place]["name"]}
    else:
        answers[place] = {**answers[place], "choice": NOT_OFFERED}
    return {"answers": answers}


def _systemone(fault: Fault, body: Mapping[str, Any]) -> dict[str, Any]:
    if fault.kind == "empty_choices":
        return {"answers": {}}
    return {"answers": {name: {**answer, "choice": NOT_OFFERED} for name, answer in body["answers"].items()}}


_ALTERED: Mapping[str, Callable[[Fault, Mapping[str, Any]], dict[str, Any]]] = {
    "chat": _chat,
    "decisions": _decisions,
    "systemone": _systemone,
}


def _wait(fault: Fault) -> dict[str, str]:
    return {} if fault.retry_after_s is None else come_back(fault.retry_after_s)
