"""Every failure of an LLM request, translated into our errors in this one place.

Messages never repeat the item, since they are stored and logged, and servers like to quote what they refuse.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx2
import openai

from datashunt.errors import (
    LLMError,
    LLMNotFound,
    LLMRejected,
    LLMThrottled,
    LLMUnauthorized,
    LLMUnavailable,
    tls_fault,
)
from datashunt.llm.adapter import Adapter, storable
from datashunt.llm.chat import OPTIONAL
from datashunt.prompts import Prompt

CHECK_TLS = "check DATASHUNT_LLM_BASE_URL, and for a CA of your own SSL_CERT_FILE"
DEFAULT_RETRY_AFTER_S = 5.0
MIN_RETRY_AFTER_S = 0.1  # an endpoint that says "now" each time must not be asked in a loop
MAX_RETRY_AFTER_S = 86_400.0
_NOT_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError)
_OUT_OF_MONEY = {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active"}
_GATEWAY_GAVE_UP = {408, 504, 524}  # what it stood in front of may still be working, and bill it
_PASSING = {408, 409, 425}
_QUOTED = 12  # so many characters in a row are taken for a quotation of the item
_ROOM = re.compile(r"context length (?:is |of )?(\d{1,9}) tokens\D+(\d{1,9})")
_RESET = re.compile(r"(?:(\d+)h)?(?:(\d+)m(?!s))?(?:([\d.]+)s)?(?:([\d.]+)ms)?")


def deadline_passed(deadline_s: float) -> LLMUnavailable:
    """The reply was not complete at the deadline."""
    return LLMUnavailable(
        f"the LLM endpoint gave no whole reply within {deadline_s:g} s; DATASHUNT_LLM_DEADLINE_S sets this",
        kind="timeout",
        may_be_billed=True,
    )


def translate(error: openai.OpenAIError, prompt: Prompt | None, model: str, adapter: Adapter) -> LLMError:
    """Our error for one of the client's.

    Args:
        error: what the client raised.
        prompt: what was asked, so that the message does not quote it; None for many prompts in a file, of which
            no message is repeated.
        model: whom.
        adapter: by which API.
    """
    if isinstance(error, openai.APIStatusError):
        return _of_status(error, prompt, model, adapter)
    sent = not isinstance(error.__cause__, _NOT_SENT)
    fault = None if sent else tls_fault(error)
    name = type(error.__cause__ or error).__name__
    if isinstance(error, openai.APITimeoutError) and sent:
        return LLMUnavailable("the LLM endpoint was silent for too long", kind="timeout", may_be_billed=True)
    if sent:
        message = f"the connection to the LLM endpoint broke before the reply was whole ({name})"
    elif fault is not None:
        message = f"the LLM endpoint cannot be used ({fault}): {CHECK_TLS}"
    else:
        message = f"the LLM endpoint cannot be reached ({name}): check DATASHUNT_LLM_BASE_URL"
    return LLMUnavailable(message, kind="connection", may_be_billed=sent)


def refused_parameter(error: openai.APIStatusError, prompt: Prompt) -> str | None:
    """Which optional part of the request the server does not know, by its name in wire.OPTIONAL, if any."""
    if error.status_code not in {400, 422} or _too_long(error):
        return None
    complaint = f"{error.param or ''} {_quotable(error, prompt)}".lower()
    named = (name for name, words in OPTIONAL.items() if error.param == name or any(w in complaint for w in words))
    return next(named, None)


def concerns_the_item(error: openai.APIStatusError) -> bool:
    """Whether this item is refused, and not the way in which it is asked."""
    return error.status_code == 413 or error.code == "content_filter" or _too_long(error)


def retry_after_s(headers: Mapping[str, str], now: datetime) -> float:
    """Seconds to wait after a 429: Retry-After in any form, else the reset of the limit that is used up.

    Args:
        headers: of the response; names in lower case, or a mapping that does not mind.
        now: with time zone, for a Retry-After that is a date in a response that has none of its own.
    """
    return min(MAX_RETRY_AFTER_S, max(MIN_RETRY_AFTER_S, _named_wait_s(headers, now)))


def _named_wait_s(headers: Mapping[str, str], now: datetime) -> float:
    for name, unit in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            return float(headers.get(name, "")) * unit
        except ValueError:
            continue
    try:
        until = parsedate_to_datetime(headers.get("retry-after", ""))
        return (until - _endpoints_now(headers, now)).total_seconds()
    except (ValueError, TypeError):
        pass  # neither a number nor a date
    resets = [
        _reset_s(headers.get(f"x-ratelimit-reset-{limit}", ""))
        for limit in ("requests", "tokens")
        if headers.get(f"x-ratelimit-remaining-{limit}", "").strip() == "0"
    ]
    return max(resets, default=0.0) or DEFAULT_RETRY_AFTER_S


def _endpoints_now(headers: Mapping[str, str], now: datetime) -> datetime:
    """What time it is on the clock that a Retry-After was read from: the endpoint's, if it says so."""
    try:
        said = parsedate_to_datetime(headers.get("date", ""))
    except (ValueError, TypeError):
        return now
    return said if said.tzinfo is not None else now


def _reset_s(text: str) -> float:
    """Seconds in `1h2m3.5s`, `20ms`; 0 for anything else."""
    match = _RESET.fullmatch(text.strip())
    try:
        hours, minutes, seconds, millis = (float(part or 0) for part in match.groups()) if match else (0.0,) * 4
    except ValueError:
        return 0.0
    return hours * 3600 + minutes * 60 + seconds + millis / 1000


def _of_status(error: openai.APIStatusError, prompt: Prompt | None, model: str, adapter: Adapter) -> LLMError:
    status = error.status_code
    if status == 402 or (status in {403, 429} and _is_out_of_money(error)):
        return LLMUnauthorized(
            f"the LLM account has no credit left ({status}): pay or give another DATASHUNT_LLM_API_KEY",
            kind="insufficient_quota",
            http_status=status,
        )
    if status == 429:
        wait = retry_after_s(error.response.headers, datetime.now(UTC))
        return LLMThrottled(f"the LLM endpoint is throttling (429): wait {wait:g} s", retry_after_s=wait)
    if status in {401, 403}:
        return LLMUnauthorized(
            f"the LLM endpoint refuses the key ({status}): check DATASHUNT_LLM_API_KEY and its permissions",
            kind="unauthorized" if status == 401 else "forbidden",
            http_status=status,
        )
    if status in _PASSING or status >= 500:
        return LLMUnavailable(
            f"the LLM endpoint failed ({status}{_quotable(error, prompt)})",
            kind="server_error",
            http_status=status,
            may_be_billed=status in _GATEWAY_GAVE_UP,
        )
    return _rejected(error, prompt, model, adapter)


def _is_out_of_money(error: openai.APIStatusError) -> bool:
    return any(isinstance(said, str) and said in _OUT_OF_MONEY for said in (error.code, error.type))


def _rejected(
    error: openai.APIStatusError, prompt: Prompt | None, model: str, adapter: Adapter
) -> LLMRejected | LLMNotFound:
    status = error.status_code
    if status == 413 or _too_long(error):
        return LLMRejected(
            f"the item is too long for {model} ({status})",
            kind="context_too_long",
            http_status=status,
            fits=_fits(error.message),
        )
    if error.code == "content_filter":
        return LLMRejected(
            f"the endpoint's content filter refuses the item ({status})",
            kind="content_filter",
            http_status=status,
        )
    if status == 404:
        return LLMNotFound(
            f"the LLM endpoint has no model {model!r}, or no {adapter.path} at this address (404): check"
            " llm.model, llm.api and DATASHUNT_LLM_BASE_URL",
            kind="not_found",
            http_status=status,
        )
    return LLMRejected(
        f"the LLM endpoint refuses the request ({status}{_quotable(error, prompt)})",
        kind="rejected",
        http_status=status,
    )


def _fits(message: str) -> float | None:
    """The share of a prompt that the model has room for, from "context length is 4096 tokens … 5000 tokens"."""
    match = _ROOM.search(message)
    room, needed = (int(number) for number in match.groups()) if match else (0, 0)
    return room / needed if 0 < room < needed else None


def _too_long(error: openai.APIStatusError) -> bool:
    return error.code == "context_length_exceeded" or "context length" in error.message.lower()


def _quotable(error: openai.APIStatusError, prompt: Prompt | None) -> str:
    """What the server said, as `: …`, fit to be stored, unless it quotes the prompt; then its error code, if any."""
    code = storable(error.code) if error.code else ""
    if prompt is None:
        return f": {code}" if code else ""
    body = error.body if isinstance(error.body, Mapping) else {}
    message = body.get("message") or body.get("detail")  # `detail`: FastAPI's word, text or the request itself
    said = storable(" ".join(message.split()), most=300) if isinstance(message, str) else ""
    sent = "\n".join(message["content"] for message in prompt.messages)
    item = json.loads(prompt.data)["item"].strip()
    pieces = (said[start : start + _QUOTED] for start in range(max(1, len(said) - _QUOTED + 1)))
    if said and item not in said and not any(piece in sent for piece in pieces):
        return f": {said}"
    return f": {code}" if code and code not in sent else ""
