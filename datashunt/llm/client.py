"""The LLM endpoint: sends one prompt, returns one reply or raises one of our errors.

Inside, one event loop in a thread of its own serves all callers: only there does a deadline hold for a whole
call, whether the endpoint is slow to connect, to answer, or to end its body.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
import re
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any, TypeVar

import httpx2
import openai
from pydantic import SecretStr

from datashunt.classifier import Api, digest
from datashunt.errors import LLMUnauthorized, LLMUnavailable, SettingsError, tls_fault
from datashunt.items import Reply
from datashunt.llm.abilities import Abilities
from datashunt.llm.failures import CHECK_TLS, deadline_passed, translate
from datashunt.llm.limits import stated_limits
from datashunt.prompts import Prompt

CONNECT_TIMEOUT_S = 10.0
_ADDRESS = re.compile(r"https?://[\w.\[:-]")
_KEY = re.compile(r"[!-~]*")
T = TypeVar("T")
_CONNECTIONS = httpx2.Limits(max_connections=None, max_keepalive_connections=100)


class LLM:
    """One endpoint and key. Safe for any number of threads; not to be used across a fork."""

    def __init__(
        self,
        base_url: str,
        api_key: SecretStr | None,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
    ) -> None:
        """Nothing is sent yet.

        Args:
            base_url: of an OpenAI-compatible endpoint, with its /v1.
            api_key: None for endpoints that want none. The environment's OPENAI_API_KEY is never taken.
            transport: stands in for the network in tests.

        Raises:
            SettingsError: the address is none, or the key cannot be one.
        """
        if not _ADDRESS.match(base_url):
            raise SettingsError("DATASHUNT_LLM_BASE_URL: expected http://HOST/v1 or https://HOST/v1")
        secret = api_key.get_secret_value() if api_key else ""
        if not _KEY.fullmatch(secret):
            raise SettingsError("DATASHUNT_LLM_API_KEY: expected no white space and no characters beyond ASCII")
        self._identity = [base_url.rstrip("/"), hashlib.sha256(secret.encode()).hexdigest()]
        self._client = openai.AsyncOpenAI(
            base_url=base_url,
            api_key=secret or "none",
            max_retries=0,  # an attempt is a row in `calls`; none may happen in secret
            http_client=openai.DefaultAsyncHttpxClient(transport=transport, limits=_CONNECTIONS),
        )
        # These too would come from the environment, and go to whatever endpoint this is.
        self._client.organization = self._client.project = None
        # At DEBUG the client logs whole requests, item and all.
        logging.getLogger("openai").setLevel(logging.INFO)
        self._abilities: dict[str, Abilities] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()

    def quota_key(self, model: str) -> str:
        """Whose limits a call counts against: this endpoint, this key (as a hash) and the model."""
        return digest([*self._identity, model])

    def ask(self, prompt: Prompt, model: str, *, deadline_s: float, api: Api = "chat", samples: int = 0) -> Reply:
        """Ask one question.

        A server that refuses an API of `auto`, or an optional part of a chat request (logprobs, a JSON schema, a
        temperature, a limit of tokens, several samples), is asked again at once in another way, and so from then
        on; it bills nothing for a refusal. At most one request is served.

        Args:
            prompt: the question.
            model: name that the endpoint knows.
            deadline_s: wall-clock limit of the whole call.
            api: which API of the endpoint; `auto`: the best that it has.
            samples: how many answers to draw at random, of a chat model that gives no probabilities; the reply
                may bring fewer. 0: the most likely answer.

        Raises:
            LLMThrottled, LLMUnavailable, LLMUnauthorized, LLMRejected: no answer; errors.py tells them apart.
            LLMUnusable: an answer, perhaps paid, that names no offered label.
        """
        return self.within(deadline_s, lambda _: self._ask(prompt, model, deadline_s, api, samples))

    def within(self, deadline_s: float, work: Callable[[openai.AsyncOpenAI], Coroutine[Any, Any, T]]) -> T:
        """Do something with this endpoint's client, within a wall-clock limit.

        Raises:
            LLMUnavailable: it was not done at the deadline.
            Exception: whatever `work` raises.
        """

        async def limited() -> T:
            try:
                async with asyncio.timeout(deadline_s):
                    return await work(self._client)
            except TimeoutError:
                raise deadline_passed(deadline_s) from None

        return asyncio.run_coroutine_threadsafe(limited(), self._running_loop()).result()

    def abilities(self, model: str) -> Abilities:
        """What the model has shown so far that it can."""
        return self._abilities.setdefault(model, Abilities())

    def check(self) -> str:
        """Whether the endpoint answers and lets this key in, in words; asks for its list of models, which is free.

        Raises:
            LLMUnavailable, LLMUnauthorized: it does not.
        """
        return asyncio.run_coroutine_threadsafe(self._check(), self._running_loop()).result()

    async def _check(self) -> str:
        where = self._identity[0]
        try:
            raw = await self._client.models.with_raw_response.list(timeout=CONNECT_TIMEOUT_S)
            listed = _json(raw.http_response)
        except (openai.AuthenticationError, openai.PermissionDeniedError):
            raise LLMUnauthorized(f"{where} refuses DATASHUNT_LLM_API_KEY", kind="unauthorized") from None
        except openai.APIConnectionError as error:
            fault = tls_fault(error)
            if fault is not None:
                raise LLMUnavailable(f"{where} cannot be used ({fault}): {CHECK_TLS}", kind="connection") from None
            raise LLMUnavailable(
                f"{where} cannot be reached: check DATASHUNT_LLM_BASE_URL", kind="connection"
            ) from None
        except openai.APIStatusError as error:
            return f"{where} answers, with status {error.status_code} to the question for its models"
        models = listed.get("data") if isinstance(listed, dict) else None
        if not isinstance(models, list):
            raise LLMUnavailable(
                f"{where} answers, but not as an OpenAI-compatible endpoint: check DATASHUNT_LLM_BASE_URL",
                kind="invalid_body",
            )
        return f"{where} answers and lists {len(models)} models"

    def close(self) -> None:
        """Close all connections. Call it when no call is under way; the object cannot be used after it."""
        loop = self._running_loop()
        asyncio.run_coroutine_threadsafe(self._client.close(), loop).result()
        loop.call_soon_threadsafe(loop.stop)

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        # Not before it is needed: a process may still fork after it was wired.
        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run, args=(self._loop,), name="llm", daemon=True).start()
            return self._loop

    async def _ask(self, prompt: Prompt, model: str, deadline_s: float, api: Api, samples: int) -> Reply:
        timeout = httpx2.Timeout(deadline_s, connect=min(CONNECT_TIMEOUT_S, deadline_s))
        able = self.abilities(model)
        while True:
            adapter = able.adapter(api, len(prompt.answers))
            request = adapter.request(prompt, model, able.manner(samples))
            started = time.monotonic()
            try:
                response = await self._send(adapter.path, request, timeout)
            except openai.APIStatusError as error:
                if not able.learn_refusal(error, adapter, api, prompt):
                    raise translate(error, prompt, model, adapter) from None
                continue
            except openai.OpenAIError as error:
                raise translate(error, prompt, model, adapter) from None
            latency_ms = (time.monotonic() - started) * 1000
            body = _json(response)
            if not able.learn_reply(body, adapter, api):
                reply = adapter.read(body, prompt, model, latency_ms)
                able.learn_answer(reply, adapter, prompt)
                return replace(reply, limits=stated_limits(response.headers))

    async def _send(self, path: str, body: dict[str, Any], timeout: httpx2.Timeout) -> httpx2.Response:
        # The raw response: what the client makes of a wrong body is not ours to depend on.
        return await self._client.post(path, cast_to=httpx2.Response, body=body, options={"timeout": timeout})


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _json(response: httpx2.Response) -> object:
    """The decoded body; None for what is no JSON."""
    try:
        return json.loads(response.content)
    except (ValueError, RecursionError):
        return None
