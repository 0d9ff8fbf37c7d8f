"""One request in, one reply out: routes, key, limits, ledger. Imports its siblings but not server and wire.

Nothing here waits or touches a socket; the time comes from a clock that is passed in.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from datashunt.simulator.answers import Answers, key
from datashunt.simulator.belief import Voice, say
from datashunt.simulator.chat import PREFIX, completion, parse_chat
from datashunt.simulator.ledger import Ledger
from datashunt.simulator.messages import Refused, Request, Response, error, throttled
from datashunt.simulator.options import Options
from datashunt.simulator.tokens import speak
from datashunt.simulator.window import Excess, Window

CHAT = ("POST", "/v1/chat/completions")
MARKS = {"Server": "datashunt-simulation", "x-datashunt-simulation": "true"}
"""Headers of every reply."""


class Endpoint:
    """The simulated service behind its socket. Not for use by several threads at once."""

    def __init__(self, options: Options, answers: Answers, clock: Callable[[], float]) -> None:
        self.ledger = Ledger(options.window_s)
        self._answers = answers
        self._clock = clock
        self._key = options.api_key
        self._logprobs = options.logprobs
        self._voice = Voice(options.accuracy, options.sample, options.seed)
        self._fingerprint = f"simulation-{answers.fingerprint}"
        self._window = Window(options.rpm, options.tpm, options.window_s)
        self._routes: dict[tuple[str, str], Callable[[Request], Response]] = {
            CHAT: self._chat,
            ("GET", "/v1/models"): self._models,
            ("GET", "/simulator/ledger"): lambda _: Response(200, self.ledger.to_json()),
            ("GET", "/healthz"): lambda _: Response(200, {"status": "ok", "simulation": True}),
        }

    def handle(self, request: Request, override: Response | None = None) -> Response:
        """Answer one request; an override is sent instead of an answer, and booked as one."""
        try:
            response = override or self._route(request)(request)
        except Refused as refused:
            response = refused.response
        if is_chat(request):
            self.ledger.reply(response.status, response.billed, self._clock())
        marks = MARKS | self._window.headers(self._clock())
        return Response(response.status, response.body, {**marks, **response.headers}, response.billed)

    def _route(self, request: Request) -> Callable[[Request], Response]:
        route = self._routes.get((request.method, request.path))
        if route is not None:
            return route
        methods = [method for method, path in self._routes if path == request.path]
        if methods:
            allowed = ", ".join(methods)
            message = f"expected {allowed} {request.path}, found {request.method}"
            raise Refused(error(405, message, headers={"Allow": allowed}))
        raise Refused(error(404, f"there is no {request.path}", code="unknown_url"))

    def _models(self, request: Request) -> Response:
        self._authorize(request)
        model = {"id": f"{PREFIX}any", "object": "model", "created": 0, "owned_by": "simulation"}
        return Response(200, {"object": "list", "data": [model]})

    def _chat(self, request: Request) -> Response:
        self._authorize(request)
        chat = parse_chat(request)
        text = key(chat.item)
        known = self._answers.find(text)
        distribution = None if known is None else known.distribution
        said = say(self._voice, text, distribution, self._answers.labels, chat.labels)
        tokens = speak(said.label, said.probabilities)
        total = chat.usage(tokens).total
        excess = self._window.take(self._clock(), total)
        if excess is not None:
            raise Refused(_too_many(excess, total))
        self.ledger.item(None if known is None else known.id)
        return completion(chat, tokens, fingerprint=self._fingerprint, with_logprobs=self._logprobs)

    def _authorize(self, request: Request) -> None:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip()
        if scheme.lower() != "bearer" or not given:
            raise Refused(error(401, "expected an Authorization header with a Bearer key"))
        expected = given if self._key is None else self._key.get_secret_value()
        if not secrets.compare_digest(given.encode(), expected.encode()):
            raise Refused(error(401, "this key is not the one that is let in", code="invalid_api_key"))


def is_chat(request: Request) -> bool:
    """Whether a request asks the LLM; only these are counted, limited and delayed."""
    return (request.method, request.path) == CHAT


def _too_many(excess: Excess, tokens: int) -> Response:
    if excess.never:
        message = f"request too large: {tokens} tokens are more than the limit ever allows"
    else:
        message = f"limit of {excess.limit} reached; try again in {excess.retry_after_s:.3f} s"
    return throttled(excess.retry_after_s, message, kind=excess.limit)
