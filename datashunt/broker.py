"""Publishing over the broker: the only module that knows Celery, and only to send tasks by name."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from celery import Celery
from celery.app.amqp import AMQP
from kombu.entity import Queue
from kombu.exceptions import OperationalError
from kombu.serialization import dumps
from pydantic import SecretStr

from datashunt.errors import BrokerError, SettingsError, tls_fault
from datashunt.items import Wake
from datashunt.signing import HEADER, RECEIPT, Signer

TASKS = {
    "score": "datashunt.score",
    "llm": "datashunt.ask",
    "batch": "datashunt.batch",
    "distil": "datashunt.distil",
    "certify": "datashunt.certify",
}
IDS_PER_MESSAGE = {"score": 256, "llm": 4, "batch": 1, "distil": 1, "certify": 1}
"""A score message is one batch; an LLM message is what one thread asks one after another."""
AMQPS_FILES = {"ssl_ca_certs": "ca_certs", "ssl_certfile": "certfile", "ssl_keyfile": "keyfile"}
"""Options of an amqps URL, and what RabbitMQ's client calls them."""
MOST_WAITING = 1_000
"""Messages in a lane's queue from which on its workers, if there are any, need no more to find their rows."""
LOOK_AFTER = 100
"""Messages of the LLM lane after which a publisher looks how many wait."""
LOOK_S = 1.0
"""How long it sends none before it looks again."""
CONFIRM_S = 10
"""How long RabbitMQ may take to confirm a message, in seconds. One that is out of memory or of disk reads none."""
PING_S = 5
"""How long to connect may take where nothing is sent, in seconds."""
RETRY = {"max_retries": 2, "interval_start": 0.1, "interval_step": 0.4, "interval_max": 1.0}


class _Signing(AMQP):  # type: ignore[misc]  # Celery ships no types
    """Signs every task that its app sends."""

    def __init__(self, app: Celery, signer: Signer) -> None:
        super().__init__(app)
        self._signer = signer

    def as_task_v2(self, task_id: str, name: str, *args: Any, **other: Any) -> Any:
        """Celery's message, with the signature of the very bytes that it will send."""
        message = super().as_task_v2(task_id, name, *args, **other)
        message.headers[HEADER] = self._signer.sign(name, _bytes(message.body))
        return message


def configure(app: Celery, url: SecretStr, key: SecretStr | None = None, *, quorum: bool = False) -> Celery:
    """Fill the project's settings and the broker's URL into a Celery app; nothing is connected yet.

    With a key, what the app sends is signed, and it takes no remote control: Celery cannot sign that. RabbitMQ
    confirms what it is sent; `quorum` makes its queues quorum queues, where each consumer has a prefetch of its own.

    Raises:
        SettingsError: it is no URL of a broker.
    """
    app.config_from_object("celeryconfig")
    if key is not None:
        app.amqp_cls = partial(_Signing, signer=Signer(key))
        app.conf.worker_enable_remote_control = False
    known = _known(app, url.get_secret_value())
    servers = [_verified(one) for one in known.split(";")]
    app.conf.broker_url = ";".join(server for server, _ in servers)
    app.conf.broker_use_ssl = {name: value for _, told in servers for name, value in told.items()} or False
    if not known.startswith(("redis", "sentinel")):
        app.conf.broker_transport_options = {}  # the others know none of Redis' options
    if known.startswith("amqp"):
        app.conf.broker_transport_options = {"confirm_publish": True}
        if quorum:
            app.conf.task_queues = [_quorum(queue) for queue in app.conf.task_queues]
    return app


def _verified(url: str) -> tuple[str, dict[str, Any]]:
    """A server's URL, and what its client must be told besides: TLS is verified unless the URL says otherwise.

    By itself kombu verifies no Redis, and no RabbitMQ's name, and hands a RabbitMQ's options on under names that its
    client does not know.

    Raises:
        SettingsError: an option is not known.
    """
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    if parts.scheme == "rediss":
        query = urlencode({"ssl_cert_reqs": "required", **options}, safe="/:")
        return urlunsplit(parts._replace(query=query)), {}
    if parts.scheme != "amqps":
        return url, {}
    given = {name: options.pop(name) for name in list(options) if name.startswith("ssl_")}
    required = given.pop("ssl_cert_reqs", "required")
    unknown = sorted(set(given) - AMQPS_FILES.keys())
    if unknown or required not in {"required", "none"}:
        raise SettingsError(
            f"DATASHUNT_BROKER_URL: expected of amqps://…?… only {', '.join(AMQPS_FILES)} and"
            " ssl_cert_reqs=required or none"
        )
    told: dict[str, Any] = {AMQPS_FILES[name]: value for name, value in given.items()}
    if required == "none":
        told["cert_reqs"] = ssl.CERT_NONE
    else:
        told |= {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": None}  # kombu fills in the URL's
    return urlunsplit(parts._replace(query=urlencode(options))), told


def _quorum(queue: Queue) -> Queue:
    return Queue(  # type: ignore[no-untyped-call]
        queue.name,
        queue.exchange,
        routing_key=queue.routing_key,
        durable=True,
        queue_arguments={"x-queue-type": "quorum"},
    )


def _known(app: Celery, url: str) -> str:
    # kombu speaks to Valkey too, but does not know the names of its schemes.
    url = "redis" + url.removeprefix("valkey") if url.startswith("valkey") else url
    try:
        if "://" not in url:
            raise ValueError
        with app.connection_for_write(url) as connection:
            connection.get_transport_cls()
    except (ValueError, KeyError, ImportError):
        raise SettingsError(
            "DATASHUNT_BROKER_URL: expected redis://host:port/0, valkey://host:port/0 or amqp://host:port//,"
            " the port a number"
        ) from None
    return url


class Publisher:
    """Sends wake-ups and receipts. Safe to share between threads."""

    def __init__(self, url: SecretStr, key: SecretStr | None = None, *, quorum: bool = False) -> None:
        self._app = configure(Celery("datashunt", set_as_current=False), url, key, quorum=quorum)
        self._signer = None if key is None else Signer(key)
        self._filling = _Filling()

    def publish(self, wakes: Iterable[Wake]) -> int:
        """Publish wake-ups in messages of bounded size; returns how many messages.

        While `MOST_WAITING` wait for the LLM lane, it gets no more: whichever message a thread has, it takes what is
        due, and tens of millions of asks would fill the broker.

        Raises:
            BrokerError: some were not published. Nothing is lost: tick finds their rows standing still.
        """
        sent = 0
        try:
            with self._app.producer_or_acquire() as producer:
                for wake in wakes:
                    for ids in chunks(wake.ids, IDS_PER_MESSAGE[wake.lane]):
                        if wake.lane == "llm" and self._filling.full(lambda: self.waiting(self._queue("llm"))):
                            break
                        self._app.send_task(
                            TASKS[wake.lane],
                            args=[wake.classifier, list(ids)],
                            producer=producer,
                            retry=True,
                            retry_policy=RETRY,
                            confirm_timeout=CONFIRM_S,
                        )
                        sent += 1
        except (OperationalError, OSError) as error:
            raise self._unreachable(error) from error
        return sent

    def publish_again(self, wakes: Iterable[Wake]) -> list[str]:
        """Publish what tick found, but nothing to a queue in which `MOST_WAITING` messages wait; returns these queues.

        While a lane has no worker its rows stand still again and again, and the broker would fill with their messages.

        Raises:
            BrokerError: as `publish`.
        """
        queues: dict[str, list[Wake]] = {}
        for wake in wakes:
            queues.setdefault(self._queue(wake.lane), []).append(wake)
        counts = {queue: self.waiting(queue) for queue in queues}
        if (llm := self._queue("llm")) in counts:
            self._filling.found(counts[llm])
        full = [queue for queue, count in counts.items() if count >= MOST_WAITING]
        self.publish(wake for queue, found in queues.items() if queue not in full for wake in found)
        return full

    def _queue(self, lane: str) -> str:
        queue: str = self._app.conf.task_routes[TASKS[lane]]["queue"]
        return queue

    def reply(self, queue: str, correlation_id: str | None, body: Mapping[str, Any], *, verified: bool = True) -> None:
        """Send a receipt to the queue that a producer waits on.

        Args:
            queue: its name.
            correlation_id: of the message that is answered.
            body: the receipt.
            verified: False: anybody may have sent that message, and named somebody else's queue and submission. With
                our signature the receipt would be believed there, so it gets none.

        Raises:
            BrokerError: it was not sent; the producer can resend and gets the same receipt.
        """
        signer = self._signer if verified else None
        signed = {} if signer is None else {HEADER: signer.sign(RECEIPT, _bytes(dict(body)))}
        try:
            with self._app.producer_or_acquire() as producer:
                producer.publish(
                    dict(body),
                    headers=signed,
                    serializer="json",
                    exchange="",
                    routing_key=queue,
                    correlation_id=correlation_id,
                    retry=True,
                    retry_policy=RETRY,
                    confirm_timeout=CONFIRM_S,
                )
        except (OperationalError, OSError) as error:
            raise self._unreachable(error) from error

    def ping(self) -> None:
        """Connect once.

        Raises:
            BrokerError: the broker cannot be reached.
        """
        # A Redis knows no connect_timeout. Workers have theirs from celeryconfig: they wait longer.
        redis = self._app.conf.broker_url.startswith("redis")
        options = {"socket_connect_timeout": PING_S, "socket_timeout": PING_S} if redis else None
        try:
            with self._app.connection_for_write(connect_timeout=PING_S, transport_options=options) as connection:
                connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=PING_S)
        except (OperationalError, OSError) as error:
            raise self._unreachable(error) from error

    def waiting(self, queue: str) -> int:
        """How many messages nobody has taken yet from this queue.

        Raises:
            BrokerError: the broker cannot be reached.
        """
        with self._app.connection_for_read(connect_timeout=PING_S) as connection:
            try:
                connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=PING_S)
                return int(connection.default_channel.queue_declare(queue, passive=True).message_count)
            except (OperationalError, OSError, *connection.connection_errors) as error:
                raise self._unreachable(error) from error
            except connection.channel_errors:
                return 0  # nobody has ever sent anything there

    def close(self) -> None:
        """Give all connections back."""
        self._app.close()

    def _unreachable(self, error: Exception) -> BrokerError:
        fault = tls_fault(error)
        if fault is not None:
            return BrokerError(
                f"the broker cannot be used ({fault}): check the address and ssl_ca_certs in DATASHUNT_BROKER_URL"
            )
        # Only the kind of the error: its text may hold the URL.
        kind = type(error.__cause__ or error).__name__
        # A Redis that speaks no TLS waits for the end of what it takes for a command.
        silent = kind == "TimeoutError" and self._app.conf.broker_url.startswith("rediss")
        runs = "it runs and speaks TLS" if silent else "it runs"
        return BrokerError(f"the broker cannot be reached ({kind}): check that {runs}, and DATASHUNT_BROKER_URL")


class _Filling:
    """Whether a queue is full, as of some messages or a moment ago."""

    def __init__(self) -> None:
        self._sent = 0
        self._full = False
        self._looked = 0.0

    def full(self, waiting: Callable[[], int]) -> bool:
        """Whether the next message is one too many; if not, it counts as sent."""
        if self._sent >= LOOK_AFTER or (self._full and time.monotonic() >= self._looked + LOOK_S):
            self.found(waiting())
        self._sent += not self._full
        return self._full

    def found(self, waiting: int) -> None:
        """So many wait there now."""
        self._full = waiting >= MOST_WAITING
        self._sent, self._looked = 0, time.monotonic()


def _bytes(body: Any) -> bytes:
    """A body as kombu writes it."""
    payload: str = dumps(body, serializer="json")[2]  # type: ignore[no-untyped-call]  # kombu ships no types
    return payload.encode()


def chunks(ids: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """Ids in groups of at most `size`, in order."""
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
