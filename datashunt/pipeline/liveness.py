"""Whether a worker still takes messages. That its process lives proves nothing: it can outlive its consumer.

A worker reports when it last took a message or began a batch, a call or a training step. It is well if that was a
moment ago, or if no message waits for it; who does nothing for longer than a lease lasts has lost its work anyway.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from datashunt.broker import Publisher
from datashunt.errors import BrokerError, StoreError
from datashunt.settings import Settings
from datashunt.store import Store, workers
from datashunt.store.workers import Sign

REPORT_S = 3.0
"""A process reports no more often."""
STALE_REPORTS = 6
"""So many reports in a row may be missed."""
QUEUES = ("score", "llm", "intake", "distil")


@dataclass(frozen=True, slots=True)
class Health:
    """Whether all is well, and one sentence."""

    ok: bool
    why: str


def every_s(settings: Settings) -> float:
    """Seconds between two reports of a worker."""
    return max(REPORT_S, settings.tick_every_s)


def patience_s(queue: str, settings: Settings) -> float:
    """How long a worker may do without a step though messages wait: its lane's lease, and what tick needs."""
    lease_s = {"score": settings.score_lease_s, "distil": settings.distil_lease_s}.get(queue, settings.ask_lease_s)
    return lease_s + settings.stand_still_s


def is_silent(sign: Sign, settings: Settings) -> bool:
    """Whether it gives no sign of life any more."""
    return sign.age_s > STALE_REPORTS * every_s(settings)


def suspects(signs: Sequence[Sign], queue: str, settings: Settings) -> list[Sign]:
    """Those that report, and have done nothing for longer than they may if messages wait."""
    limit = patience_s(queue, settings)
    return [one for one in signs if not is_silent(one, settings) and one.idle_s > limit]


def examine(store: Store, publisher: Publisher, settings: Settings, queue: str, host: str) -> Health:
    """Look at this host's workers of a queue; looks twice, a few seconds apart, before it says that one is not well.

    What cannot be found out is no fault of the worker: to restart it would not help, and could lose paid replies that
    it holds.
    """
    try:
        return _examine(store, publisher, settings, queue, host)
    except (StoreError, BrokerError) as error:
        return Health(True, f"nothing is known of the queue {queue}: {error}")


def stuck(store: Store, publisher: Publisher, settings: Settings) -> list[str]:
    """A sentence for each host and queue whose worker lives and takes no message, though some wait.

    Takes no time while all are well, else as long as `examine` for each.
    """
    with store.begin() as tx:
        signs = workers.listed(tx)
    doubtful = {
        (one.host, queue) for queue in QUEUES for one in suspects(signs, queue, settings) if queue in one.queues
    }
    looks = [examine(store, publisher, settings, queue, host) for host, queue in sorted(doubtful)]
    return [found.why for found in looks if not found.ok]


def _examine(store: Store, publisher: Publisher, settings: Settings, queue: str, host: str) -> Health:
    signs = _signs(store, queue, host)
    if not signs:
        return Health(False, f"no worker of the queue {queue} on {host} has given a sign of life")
    newest = min(signs, key=lambda one: one.age_s)
    if is_silent(newest, settings):
        return Health(False, f"{newest.name} gave its last sign of life {newest.age_s:.0f} s ago")
    doubtful = {one.name: one.taken for one in suspects(signs, queue, settings)}
    if not doubtful:
        return Health(True, f"{newest.name} lives, and worked {newest.idle_s:.0f} s ago")
    if publisher.waiting(queue) == 0:
        return Health(True, f"{newest.name} lives, and no message waits in the queue {queue}")
    time.sleep(2 * every_s(settings))  # the message may have come just now; a report of its being taken must have come
    waiting = publisher.waiting(queue)
    still = [
        one for one in suspects(_signs(store, queue, host), queue, settings) if doubtful.get(one.name) == one.taken
    ]
    if waiting == 0 or not still:
        return Health(True, f"{newest.name} lives, and takes messages")
    stuck = still[0]
    return Health(
        False,
        f"{stuck.name} lives, but has done nothing for {stuck.idle_s:.0f} s, and {waiting} messages wait in the queue"
        f" {queue}",
    )


def _signs(store: Store, queue: str, host: str) -> Sequence[Sign]:
    with store.begin() as tx:
        return workers.listed(tx, host=host, queue=queue)
