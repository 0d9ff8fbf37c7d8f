"""One request in, one reply out: routes, key, faults, ledger. Imports its siblings but not server and wire.

Nothing here waits or touches a socket; the time comes from a clock that is passed in.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import replace

from datashunt.simulator import faults
from datashunt.simulator.answers import Answers
from datashunt.simulator.asking import Asking, named_model
from datashunt.simulator.batches import Batches
from datashunt.simulator.bodies import PREFIX
from datashunt.simulator.faults import Plan
from datashunt.simulator.files import Files
from datashunt.simulator.ledger import BATCH, Ledger
from datashunt.simulator.messages import Refused, Request, Response, error
from datashunt.simulator.options import Options
from datashunt.simulator.spoil import spoil, unserved

QUESTIONS = {
    "/v1/chat/completions": "chat",
    "/v1/decisions": "decisions",
    "/v1/systemone": "systemone",
}
"""Path → endpoint of the requests that ask the LLM."""

LEDGER = "/simulator/ledger"
MARKS = {"Server": "datashunt-simulation", "x-datashunt-simulation": "true"}
"""Headers of every reply."""

Handler = Callable[[Request], Response]


class Endpoint:
    """The simulated service behind its socket. Not for use by several threads at once.

    Raises:
        UsageError: the file of faults cannot be read.
    """

    def __init__(self, options: Options, answers: Answers, clock: Callable[[], float]) -> None:
        self.ledger = Ledger(options.window_s)
        self._options = options
        self._clock = clock
        self._started = self._now = clock()
        self._plan = Plan([]) if options.faults is None else faults.read(options.faults)
        # Limits and ledger see a request at the same instant: else the ledger could find one too many.
        self._asking = Asking(options, answers, self.ledger, lambda: self._now)
        files = Files()
        self._batches = Batches(
            files, self._batched, clock, delay_s=options.batch_delay_s, window_s=options.batch_window_s
        )
        self._routes = self._served(files)

    def handle(self, request: Request, override: Response | None = None) -> Response:
        """Answer one request; an override is sent instead of an answer, and booked as one."""
        self._now = self._clock()
        place = _place(request)
        response = override or self._with_faults(place, lambda: self._route(request)(request))
        if asks(request):
            self._book(place, request.body, response)
        headers = {**MARKS, **self._asking.limit_headers(), **response.headers}
        return replace(response, headers=headers)

    def advance(self) -> bool:
        """Take open batches forward a little; say whether any is still open."""
        self._now = self._clock()
        return self._batches.advance()

    def _served(self, files: Files) -> dict[tuple[str, str], Handler]:
        batches, without = self._batches, self._options.without
        routes: dict[tuple[str, str], Handler] = {
            ("POST", path): self._asked for path, name in QUESTIONS.items() if name not in without
        }
        if "batches" not in without:
            routes |= {
                ("POST", "/v1/files"): files.upload,
                ("GET", "/v1/files"): files.listing,
                ("GET", "/v1/files/ID"): files.retrieve,
                ("DELETE", "/v1/files/ID"): files.delete,
                ("GET", "/v1/files/ID/content"): files.content,
                ("POST", "/v1/batches"): batches.create,
                ("GET", "/v1/batches"): batches.listing,
                ("GET", "/v1/batches/ID"): batches.retrieve,
                ("POST", "/v1/batches/ID/cancel"): batches.cancel,
            }
        routes[("GET", "/v1/models")] = self._models
        return {
            **{route: self._guarded(handler) for route, handler in routes.items()},
            ("GET", LEDGER): lambda _: Response(200, self.ledger.to_json()),
            ("GET", "/healthz"): lambda _: Response(200, {"status": "ok", "simulation": True}),
        }

    def _route(self, request: Request) -> Handler:
        pattern = _pattern(request.path)
        route = self._routes.get((request.method, pattern))
        if route is not None:
            return route
        methods = [method for method, path in self._routes if path == pattern]
        if methods:
            allowed = ", ".join(methods)
            message = f"expected {allowed} {request.path}, found {request.method}"
            raise Refused(error(405, message, headers={"Allow": allowed}))
        raise Refused(error(404, f"there is no {request.path}", code="unknown_url"))

    def _asked(self, request: Request) -> Response:
        return self._asking.answer(QUESTIONS[request.path], request.body)

    def _batched(self, body: bytes) -> Response:
        response = self._with_faults(BATCH, lambda: self._asking.answer(BATCH, body))
        self._book(BATCH, body, response)
        return response

    def _models(self, _: Request) -> Response:
        names = sorted(self._options.models or {f"{PREFIX}any"})
        models = [{"id": name, "object": "model", "created": 0, "owned_by": "simulation"} for name in names]
        return Response(200, {"object": "list", "data": models})

    def _with_faults(self, place: str, serve: Callable[[], Response]) -> Response:
        """The reply of `serve`, or what the fault that is due makes of it."""
        fault = self._plan.next(place, self._now - self._started) if place != LEDGER else None
        if fault is not None and not fault.billed:
            self.ledger.fault(fault.kind, None)
            return unserved(fault)
        try:
            response = serve()
        except Refused as refused:
            return refused.response
        if fault is None:
            return response
        self.ledger.fault(fault.kind, response.billed)
        return spoil(fault, place, response)

    def _book(self, endpoint: str, body: bytes, response: Response) -> None:
        model = named_model(body) if response.model is None else response.model
        self.ledger.reply(endpoint, model, response, self._now)

    def _guarded(self, handler: Handler) -> Handler:
        def authorized(request: Request) -> Response:
            self._authorize(request)
            return handler(request)

        return authorized

    def _authorize(self, request: Request) -> None:
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        given = bearer.strip()
        if scheme.lower() != "bearer" or not given:
            raise Refused(error(401, "expected an Authorization header with a Bearer key"))
        key = self._options.api_key
        expected = given if key is None else key.get_secret_value()
        if not secrets.compare_digest(given.encode(), expected.encode()):
            raise Refused(error(401, "this key is not the one that is let in", code="invalid_api_key"))


def asks(request: Request) -> bool:
    """Whether a request asks the LLM; only these are counted, limited and delayed."""
    return request.method == "POST" and request.path in QUESTIONS


def _place(request: Request) -> str:
    """Where a request goes, in the words of a file of faults."""
    if request.path in QUESTIONS:
        return QUESTIONS[request.path]
    parts = request.path.split("/")
    return parts[2] if parts[1:3] in (["v1", "files"], ["v1", "batches"]) else request.path


def _pattern(path: str) -> str:
    """`/v1/files/ID/content` for the path of any file's content, and the like."""
    parts = path.split("/")
    if parts[1:3] in (["v1", "files"], ["v1", "batches"]) and len(parts) > 3:
        parts[3] = "ID"
    return "/".join(parts)
