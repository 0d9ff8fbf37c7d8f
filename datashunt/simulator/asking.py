"""Questions to the simulated LLM, in each protocol: read, checked against the limits, answered. Its siblings only.

Nothing here waits or touches a socket; the time comes from a clock that is passed in.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence

from datashunt.simulator.answers import Answers
from datashunt.simulator.belief import Said
from datashunt.simulator.bodies import Asked, Manner
from datashunt.simulator.chat import read_chat
from datashunt.simulator.decisions import read_decisions
from datashunt.simulator.gullible import obeyed
from datashunt.simulator.ledger import BATCH, Ledger
from datashunt.simulator.messages import Refused, Response, error, throttled
from datashunt.simulator.options import Options
from datashunt.simulator.systemone import read_systemone
from datashunt.simulator.teacher import Teacher
from datashunt.simulator.window import Excess, Window

READERS: Mapping[str, Callable[[bytes, Manner], Asked]] = {
    "chat": read_chat,
    "decisions": read_decisions,
    "systemone": read_systemone,
    BATCH: read_chat,
}
"""Reads the body of a request to each endpoint."""


class Asking:
    """Answers bodies of requests, whoever sent them and however they came."""

    def __init__(self, options: Options, answers: Answers, ledger: Ledger, clock: Callable[[], float]) -> None:
        self._options = options
        self._teacher = Teacher(options, answers)
        self._ledger = ledger
        self._clock = clock
        fingerprint = f"simulation-{answers.fingerprint}"
        self._manner = Manner(fingerprint, options.without, options.max_choices, options.gullible)
        self._window = Window(options.rpm, options.tpm, options.window_s)

    def answer(self, endpoint: str, body: bytes) -> Response:
        """The paid reply to one request.

        Args:
            endpoint: a key of READERS. The requests of batches do not use up the limits of the live ones.
            body: JSON.

        Raises:
            Refused: carrying the error: the request is wrong, or goes beyond a limit.
        """
        asked = READERS[endpoint](body, self._manner)
        self._check(endpoint, asked)
        said = [self._says(asked, offered) for offered in asked.offers]
        response = asked.reply(said, self._manner)
        total = response.billed.total if response.billed else 0
        excess = None if endpoint == BATCH else self._window.take(self._clock(), total)
        if excess is not None:
            raise Refused(_too_many(excess, total))
        self._ledger.item(self._teacher.id_of(asked.item))
        return response

    def limit_headers(self) -> dict[str, str]:
        """The headers that tell how much of the limits is left."""
        return {} if "limit_headers" in self._options.without else self._window.headers(self._clock())

    def _says(self, asked: Asked, offered: Sequence[str]) -> Said:
        order = obeyed(asked.instructions, asked.said, offered) if self._options.gullible else None
        if order is None:
            return self._teacher.says(asked.item, offered)
        return Said(order, {label: float(label == order) for label in offered})

    def _check(self, endpoint: str, asked: Asked) -> None:
        options = self._options
        for known in (options.models, options.decision_models if endpoint == "decisions" else None):
            if known is not None and asked.model not in known:
                message = f"there is no model {asked.model!r} for {endpoint}; there are {', '.join(sorted(known))}"
                raise Refused(error(404, message, code="model_not_found", param="model"))
        tokens = asked.prompt_tokens + (asked.max_tokens or 0)
        if options.context_tokens is not None and tokens > options.context_tokens:
            message = f"maximum context length is {options.context_tokens} tokens, found {tokens}"
            raise Refused(error(400, message, code="context_length_exceeded", param="messages"))


def named_model(body: bytes) -> str:
    """The model that a request's body names, even if nothing else of it can be read; "" for none."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return ""
    model = document.get("model") if isinstance(document, dict) else None
    return model if isinstance(model, str) else ""


def _too_many(excess: Excess, tokens: int) -> Response:
    if excess.never:
        message = f"request too large: {tokens} tokens are more than the limit ever allows"
    else:
        message = f"limit of {excess.limit} reached; try again in {excess.retry_after_s:.3f} s"
    return throttled(excess.retry_after_s, message, kind=excess.limit)
