"""The fault campaign's line to a given broker: it passes on, can be cut, and is mended."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest

from tests.acceptance.faults.link import Link


@pytest.fixture
def link() -> Iterator[Link]:
    """A line to a server that says everything again."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                one, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=_echo, args=(one,), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    with Link(f"amqp://us%40er@127.0.0.1:{server.getsockname()[1]}/a%2Fvhost") as made:
        yield made
    server.close()


def _echo(one: socket.socket) -> None:
    with one:
        while content := one.recv(100):
            one.sendall(content)


def connect(link: Link) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(link.url.rpartition(":")[2].partition("/")[0])), timeout=20)


def test_the_url_is_the_same_but_for_where_it_leads(link: Link) -> None:
    assert link.url.startswith("amqp://us%40er@127.0.0.1:")
    assert link.url.endswith("/a%2Fvhost")


def test_a_line_passes_on_until_it_is_cut_and_again_when_it_is_mended(link: Link) -> None:
    with connect(link) as before:
        before.sendall(b"hello")
        assert before.recv(5) == b"hello"
        link.cut()
        assert before.recv(5) == b""
    with connect(link) as meanwhile:
        assert meanwhile.recv(5) == b""
    link.mend()
    with connect(link) as after:
        after.sendall(b"again")
        assert after.recv(5) == b"again"
