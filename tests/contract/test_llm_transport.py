"""The LLM client over real sockets: what only a network does."""

from __future__ import annotations

import contextlib
import json
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from datashunt.classifier import parse as parse_spec
from datashunt.errors import LLMUnavailable
from datashunt.llm import LLM
from datashunt.prompts import render

PROMPT = render(parse_spec({"name": "n", "labels": ["a", "b"], "instruction": "i"}), "text")
BODY = json.dumps({"choices": [{"message": {"content": '{"label":"a"}'}}], "model": "m"}).encode()
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % len(BODY)
Behaviour = Callable[[socket.socket, threading.Event], None]


@pytest.fixture
def endpoint() -> Iterator[Callable[[Behaviour], LLM]]:
    """Serve every connection on a loopback port by a function, which ends when the event is set."""
    over, listening, clients = threading.Event(), socket.create_server(("127.0.0.1", 0)), []

    def serve(behave: Behaviour) -> None:
        def accept() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=run, args=(connection,), daemon=True).start()

        def run(connection: socket.socket) -> None:
            with connection, contextlib.suppress(OSError):  # when the client hangs up
                behave(connection, over)

        threading.Thread(target=accept, daemon=True).start()

    def make(behave: Behaviour) -> LLM:
        serve(behave)
        clients.append(LLM(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", None))
        return clients[-1]

    yield make
    over.set()
    for client in clients:
        client.close()
    listening.shutdown(socket.SHUT_RDWR)
    listening.close()


def read_request(connection: socket.socket) -> None:
    data, whole = b"", None
    while whole is None or len(data) < whole:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the client has hung up")
        data += piece
        head, end, _ = data.partition(b"\r\n\r\n")
        if end and whole is None:
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            assert length
            whole = len(head) + len(end) + int(length[1])


def trickle(data: bytes) -> Behaviour:
    """Send a byte every 20 ms: never silent, never done in time."""

    def behave(connection: socket.socket, over: threading.Event) -> None:
        read_request(connection)
        for byte in data:
            if over.wait(0.02):
                return
            connection.sendall(bytes([byte]))

    return behave


def silent(connection: socket.socket, over: threading.Event) -> None:
    over.wait(30)


@pytest.mark.parametrize("slow", [trickle(HEAD + BODY), trickle(BODY * 100), silent], ids=["body", "head", "all"])
def test_the_deadline_is_wall_clock_however_slowly_the_reply_comes(
    endpoint: Callable[[Behaviour], LLM], slow: Behaviour
) -> None:
    llm = endpoint(slow)
    started = time.monotonic()
    with pytest.raises(LLMUnavailable) as caught:
        llm.ask(PROMPT, "m", deadline_s=0.4)
    assert time.monotonic() - started >= 0.4
    assert (caught.value.kind, caught.value.may_be_billed) == ("timeout", True)


def test_a_reply_cut_off_in_the_middle_may_have_been_billed(endpoint: Callable[[Behaviour], LLM]) -> None:
    def behave(connection: socket.socket, over: threading.Event) -> None:
        read_request(connection)
        connection.sendall(HEAD + BODY[:10])

    with pytest.raises(LLMUnavailable) as caught:
        endpoint(behave).ask(PROMPT, "m", deadline_s=20)
    assert (caught.value.kind, caught.value.may_be_billed) == ("connection", True)


def test_an_endpoint_that_is_not_there_bills_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    llm = LLM(f"http://127.0.0.1:{port}/v1", None)
    with pytest.raises(LLMUnavailable, match="DATASHUNT_LLM_BASE_URL") as caught:
        llm.ask(PROMPT, "m", deadline_s=20)
    llm.close()
    assert (caught.value.kind, caught.value.may_be_billed) == ("connection", False)


def test_a_broken_connection_is_not_used_again(endpoint: Callable[[Behaviour], LLM]) -> None:
    ended = threading.Semaphore(0)

    def one_reply_a_connection(connection: socket.socket, over: threading.Event) -> None:
        read_request(connection)
        connection.sendall(HEAD + BODY)
        connection.shutdown(socket.SHUT_RDWR)
        ended.release()

    llm = endpoint(one_reply_a_connection)
    for _ in range(3):
        assert llm.ask(PROMPT, "m", deadline_s=20).label == "a"
        assert ended.acquire(timeout=20)  # the client can see it before it asks again


def test_sixty_four_threads_ask_at_the_same_time(endpoint: Callable[[Behaviour], LLM]) -> None:
    together = threading.Barrier(64)

    def when_all_are_there(connection: socket.socket, over: threading.Event) -> None:
        while True:
            read_request(connection)
            together.wait(timeout=60)
            connection.sendall(HEAD + BODY)

    llm = endpoint(when_all_are_there)
    with ThreadPoolExecutor(64) as threads:
        replies = list(threads.map(lambda _: llm.ask(PROMPT, "m", deadline_s=60), range(64)))
    assert {reply.label for reply in replies} == {"a"}
