"""The simulation as a server: in a thread for tests, in the foreground for a process."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

from datashunt.errors import UsageError
from datashunt.simulator import answers as answers_file
from datashunt.simulator.endpoint import Endpoint, asks
from datashunt.simulator.messages import Request, Response, error
from datashunt.simulator.options import Options
from datashunt.simulator.wire import Connection, Send

GRACE_S = 5.0
"""How long a stopping server waits for replies that are under way."""

BACKLOG = 1024
BATCH_PAUSE_S = 0.005
"""Between two slices of the open batches, for live requests; also how soon a batch is noticed to be due."""

OnRequest = Callable[[Request], Response | None]


class _Server:
    """Accepts connections and sends what the endpoint answers, `latency_ms` later."""

    def __init__(self, options: Options, endpoint: Endpoint, on_request: OnRequest | None) -> None:
        self._options = options
        self._endpoint = endpoint
        self._on_request = on_request
        self._connections: set[Connection] = set()

    async def start(self) -> int:
        """Listen; return the port."""
        self._loop = asyncio.get_running_loop()
        options = self._options
        try:
            self._listener = await self._loop.create_server(
                lambda: Connection(self._answer, self._connections),
                options.host,
                options.port,
                backlog=BACKLOG,
            )
        except OSError as problem:
            raise UsageError(
                f"the simulation cannot listen on {options.host}:{options.port}: {problem.strerror}; "
                "choose another port, or 0 for a free one"
            ) from None
        self._advancing = False
        return int(self._listener.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Accept nothing more, send what is under way for at most GRACE_S, close."""
        self._listener.close()
        for connection in list(self._connections):
            connection.finish()
        deadline = self._loop.time() + GRACE_S
        while self._connections and self._loop.time() < deadline:
            await asyncio.sleep(0.01)
        for connection in list(self._connections):
            connection.abort()
        await self._listener.wait_closed()

    def _answer(self, request: Request, send: Send) -> None:
        if self._on_request is not None and asks(request):
            # A thread of its own, for the hook may block as long as it likes.
            arguments = (self._on_request, request, send)
            threading.Thread(target=self._ask_hook, args=arguments, daemon=True).start()
        else:
            self._reply(request, None, send)

    def _ask_hook(self, hook: OnRequest, request: Request, send: Send) -> None:
        try:
            override = hook(request)
        except Exception as problem:  # noqa: BLE001 - a hook is foreign code; its error becomes the reply
            override = error(500, f"the on_request hook raised {problem!r}", kind="server_error")
        with contextlib.suppress(RuntimeError):  # the server has ended meanwhile
            self._loop.call_soon_threadsafe(self._reply, request, override, send)

    def _reply(self, request: Request, override: Response | None, send: Send) -> None:
        response = self._endpoint.handle(request, override)
        if not self._advancing:
            self._advance()
        if override is None and response.billed is not None and self._options.latency_ms > 0:
            self._loop.call_later(self._options.latency_ms / 1000, send, response)
        else:
            send(response)

    def _advance(self) -> None:
        self._advancing = self._endpoint.advance()
        if self._advancing:
            self._loop.call_later(BATCH_PAUSE_S, self._advance)


class Simulator:
    """A simulated LLM endpoint on a real port, served by a thread while the `with` block lasts.

        with Simulator(Options(answers=path)) as simulator:
            openai.OpenAI(base_url=simulator.base_url, api_key="any")

    Args:
        options: how it behaves.
        on_request: called for every request that asks the LLM, before it is looked at, in a thread of its own. It may
            block, to hold the reply back; None lets the request go its way; a `Response` is sent at once
            and booked instead (see `completion_of`, `error`, `throttled`). A hook that still blocks when
            the block ends delays it by GRACE_S seconds.

    Raises:
        UsageError: the answers cannot be read, or the port is taken.
    """

    def __init__(self, options: Options, *, on_request: OnRequest | None = None) -> None:
        self._endpoint = _endpoint(options)
        self._server = _Server(options, self._endpoint, on_request)
        self._host = options.host
        self._port: Future[int] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="simulator", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        self._port.result()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    @property
    def base_url(self) -> str:
        """What an OpenAI client takes as `base_url`."""
        return _base_url(self._host, self._port.result(timeout=0))

    @property
    def ledger(self) -> dict[str, Any]:
        """What it has served so far, as `GET /simulator/ledger` gives it; also after the end."""
        return self._endpoint.ledger.to_json()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        try:
            port = await self._server.start()
        except UsageError as problem:
            self._port.set_exception(problem)
            return
        self._port.set_result(port)
        await self._stop.wait()
        await self._server.stop()


def run(options: Options) -> None:
    """Serve in the foreground until SIGTERM or SIGINT; the first line on stdout says where, and what it is.

    Raises:
        UsageError: the answers cannot be read, or the port is taken.
    """
    asyncio.run(_run(options))


async def _run(options: Options) -> None:
    server = _Server(options, _endpoint(options), None)
    port = await server.start()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    url = _base_url(options.host, port)
    sys.stdout.write(f"simulation of an LLM at {url} (answers from {options.answers}, pseudo-random otherwise)\n")
    sys.stdout.flush()
    await stop.wait()
    await server.stop()


def _endpoint(options: Options) -> Endpoint:
    return Endpoint(options, answers_file.read(options.answers), time.monotonic)


def _base_url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/v1"
