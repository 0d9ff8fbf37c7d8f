"""TLS with real handshakes on loopback: who proves to be the server is talked to, and nobody else.

The embedded servers were built without TLS, so a proxy of the test's own speaks it in front of them. Each server is
looked at with its own CA, with somebody else's, and under another name.
"""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr
from sqlalchemy.engine import make_url
from tls import Authority, TlsProxy

from datashunt import broker, classifier
from datashunt.broker import Publisher
from datashunt.errors import BrokerError, LLMUnavailable, SettingsError, StoreError
from datashunt.items import Wake
from datashunt.llm import LLM
from datashunt.prompts import render
from datashunt.quota import Quota
from datashunt.simulator import Options, Simulator
from datashunt.store import Store

HERE, ELSEWHERE = ("127.0.0.1", "localhost"), ("elsewhere.example",)
UNTRUSTED = "its certificate is not trusted"


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "ours")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"), "theirs")


def port_of(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


def database(url: str, proxy: TlsProxy, **options: str) -> SecretStr:
    made = make_url(url).set(host="127.0.0.1", port=proxy.port, query=options)
    return SecretStr(made.render_as_string(hide_password=False))


def test_postgresql_is_verified_by_the_ca_of_its_url(database_url: str, ours: Authority) -> None:
    with TlsProxy(ours.context(*HERE), port_of(database_url), postgres=True) as proxy:
        url = database(database_url, proxy, sslmode="verify-full", sslrootcert=str(ours.file))
        with closing(Store(url)) as store:
            assert store.ping()
        assert (proxy.accepted, proxy.refused) == (1, 0)


@pytest.mark.parametrize(("whose", "names"), [("theirs", HERE), ("ours", ELSEWHERE)], ids=["ca", "name"])
def test_another_postgresql_gets_no_password(
    database_url: str, ours: Authority, theirs: Authority, whose: str, names: tuple[str, ...]
) -> None:
    server = {"ours": ours, "theirs": theirs}[whose]
    with TlsProxy(server.context(*names), port_of(database_url), postgres=True) as proxy:
        url = database(database_url, proxy, sslmode="verify-full", sslrootcert=str(ours.file))
        with (
            closing(Store(url)) as store,
            pytest.raises(StoreError, match=r"certificate.*: check sslmode and sslrootcert in DATASHUNT_DATABASE_URL"),
        ):
            store.ping()
        assert proxy.accepted == 0


def redis_url(scheme: str, proxy: TlsProxy, **options: object) -> str:
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return f"{scheme}://127.0.0.1:{proxy.port}/0?{query}"


@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_broker_and_quota_are_verified_by_the_ca_of_their_url(valkey_url: str, ours: Authority, scheme: str) -> None:
    with TlsProxy(ours.context(*HERE), port_of(valkey_url)) as proxy:
        url = redis_url(scheme, proxy, ssl_ca_certs=ours.file)
        with closing(Publisher(SecretStr(url))) as publisher:
            before = publisher.waiting("score")
            assert publisher.publish([Wake("score", "mood", (1,))]) == 1
            assert publisher.waiting("score") == before + 1
        with closing(Quota(url)) as quota:
            quota.ping()
        assert proxy.accepted >= 2


Reach = Callable[[str], None]


def by_broker(url: str) -> None:
    with closing(Publisher(SecretStr(url))) as publisher:
        publisher.ping()


def by_quota(url: str) -> None:
    with closing(Quota(url)) as quota:
        quota.ping()


@pytest.mark.parametrize("reach", [by_broker, by_quota])
@pytest.mark.parametrize("trusts", ["another CA", "another name", "nothing said"])
def test_another_redis_gets_no_password(
    valkey_url: str, ours: Authority, theirs: Authority, reach: Reach, trusts: str
) -> None:
    names = ELSEWHERE if trusts == "another name" else HERE
    given = {"another CA": {"ssl_ca_certs": theirs.file}, "another name": {"ssl_ca_certs": ours.file}}.get(trusts, {})
    with TlsProxy(ours.context(*names), port_of(valkey_url)) as proxy:
        with pytest.raises(BrokerError, match=UNTRUSTED):
            reach(redis_url("rediss", proxy, **given))
        assert proxy.accepted == 0


def test_who_says_so_verifies_no_redis(valkey_url: str, ours: Authority) -> None:
    with TlsProxy(ours.context(*ELSEWHERE), port_of(valkey_url)) as proxy:
        by_broker(redis_url("rediss", proxy, ssl_cert_reqs="none", ssl_check_hostname="false"))
        assert proxy.accepted >= 1


def test_rabbitmq_is_verified_by_the_ca_of_its_url(ours: Authority) -> None:
    # Nobody answers behind the proxy: what counts is whether the client begins to speak AMQP.
    with TlsProxy(ours.context(*HERE), None) as proxy:
        with pytest.raises(BrokerError, match="cannot be reached"):
            by_broker(f"amqps://u:p@127.0.0.1:{proxy.port}//?ssl_ca_certs={ours.file}")
        assert proxy.first[:4] == b"AMQP"


@pytest.mark.parametrize("trusts", ["another CA", "another name", "nothing said"])
def test_another_rabbitmq_is_not_spoken_to(ours: Authority, theirs: Authority, trusts: str) -> None:
    names = ELSEWHERE if trusts == "another name" else HERE
    given = {"another CA": f"ssl_ca_certs={theirs.file}", "another name": f"ssl_ca_certs={ours.file}"}.get(trusts, "")
    with TlsProxy(ours.context(*names), None) as proxy:
        with pytest.raises(BrokerError, match=UNTRUSTED):
            by_broker(f"amqps://u:p@127.0.0.1:{proxy.port}//?{given}")
        assert proxy.first == b""


def test_options_of_rabbitmq_that_nobody_knows_are_an_error_and_not_ignored() -> None:
    with pytest.raises(SettingsError, match="ssl_ca_certs, ssl_certfile, ssl_keyfile"):
        Publisher(SecretStr("amqps://u@127.0.0.1:9//?ssl_ca_cert=/x.pem"))


def test_a_server_that_answers_without_tls_is_named_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain, ThreadPoolExecutor(1) as pool:
        answering = pool.submit(_answer_in_plain, plain)
        with pytest.raises(BrokerError, match="no TLS with it"):
            by_broker(f"rediss://127.0.0.1:{plain.getsockname()[1]}/0")
        plain.shutdown(socket.SHUT_RDWR)
        answering.result()


def _answer_in_plain(server: socket.socket) -> None:
    """What other servers do, and a Redis that takes a client's first bytes for a command."""
    with contextlib.suppress(OSError):  # of accept, when the server is shut down
        while True:
            client = server.accept()[0]
            with client, contextlib.suppress(OSError):
                client.recv(4096)
                client.sendall(b"-ERR unknown command\r\n")


def test_a_redis_without_tls_is_said_to_speak_none_perhaps(valkey_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "PING_S", 0.2)
    with pytest.raises(BrokerError, match=r"\(TimeoutError\): check that it runs and speaks TLS, and DATASHUNT_"):
        by_broker(f"rediss://127.0.0.1:{port_of(valkey_url)}/0")


def test_a_redis_that_says_nothing_is_not_waited_for_as_long_as_workers_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker, "PING_S", 0.2)
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(BrokerError, match=r"\(TimeoutError\): check that it runs, and DATASHUNT_"),
    ):
        by_broker(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")


@pytest.fixture
def simulator(tmp_path: Path) -> Iterator[Simulator]:
    path = tmp_path / "answers.jsonl"
    path.write_text(json.dumps({"id": "a", "text": "Good.", "probabilities": {"praise": 1.0, "other": 0.0}}))
    with Simulator(Options(path)) as running:
        yield running


PROMPT = render(classifier.parse({"name": "mood", "labels": ["praise", "other"], "instruction": "?"}), "Good.")


def test_the_llm_is_verified_by_a_ca_of_ones_own(
    simulator: Simulator, ours: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(ours.file))
    with TlsProxy(ours.context(*HERE), port_of(simulator.base_url)) as proxy:
        with closing(LLM(f"https://127.0.0.1:{proxy.port}/v1", SecretStr("k"))) as llm:
            assert llm.ask(PROMPT, "m", deadline_s=30).label == "praise"
            assert "answers and lists" in llm.check()
        assert proxy.accepted >= 1


@pytest.mark.parametrize(("trusted", "names"), [("theirs", HERE), ("ours", ELSEWHERE), ("", HERE)])
def test_another_llm_gets_neither_key_nor_text(
    simulator: Simulator,
    ours: Authority,
    theirs: Authority,
    monkeypatch: pytest.MonkeyPatch,
    trusted: str,
    names: tuple[str, ...],
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    if trusted:
        monkeypatch.setenv("SSL_CERT_FILE", str({"ours": ours, "theirs": theirs}[trusted].file))
    with TlsProxy(ours.context(*names), port_of(simulator.base_url)) as proxy:
        with closing(LLM(f"https://127.0.0.1:{proxy.port}/v1", SecretStr("k"))) as llm:
            for reach in (lambda: llm.ask(PROMPT, "m", deadline_s=30), llm.check):
                with pytest.raises(LLMUnavailable, match=f"{UNTRUSTED}.*SSL_CERT_FILE"):
                    reach()
        assert proxy.accepted == 0
    assert simulator.ledger["requests"] == 0
