"""The score lane against Celery as one would use it: `celery-batches`, and a task for each item.

The rival has a virtual environment of its own, since celery-batches needs an older Celery than ours; all else that it
imports is that of this one. Same servers, same bundle, same rows written, same texts, in turn. Its producer stores the
items as ours does, and then sends one message for each, with the text. Both are measured twice: with our model code, so
that only the queueing differs, and with transformers as their documentation shows them.
"""

from __future__ import annotations

import os
import signal
import site
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from uuid import uuid4

from celery import Celery

from benchmarks import command
from benchmarks.figures import Measure, Result
from benchmarks.service import CLASSIFIER, Service, score_worker, serve_bundle, service, submit, wait_until_open
from benchmarks.texts import texts
from datashunt.client import Client
from datashunt.embedded import process
from datashunt.errors import DatashuntError

PINNED = ("celery-batches==0.11", "celery[redis]==5.6.3", "kombu==5.7.0", "redis==8.1.0")
WARM_UP = 512
BATCHES_TARGET = 1.5
ONE_TARGET = 5.0
Rates = dict[str, list[float]]
"""Items per second of each round: `ours`, `many`, `plain`, `one`, `plain_one`."""


def benchmark(full: bool) -> Result:
    """Five rounds of 4,000 items, 2,000 of single tasks; or three of 1,000 and 200."""
    rounds, items, single = (5, 4_000, 2_000) if full else (3, 1_000, 200)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="datashunt-rival-") as place:
        python = _environment(Path(place))
        real = _rates(python, rounds, items, single, free=False)
        free = _rates(python, rounds, items, single, free=True)
    return Result("rival", full, time.monotonic() - started, _measures(items, rounds, real, free))


def _environment(place: Path) -> Path:
    """A Python with the rival's Celery, and this one's packages behind it.

    Raises:
        DatashuntError: pip cannot install it.
    """
    venv.create(place, with_pip=True)
    python = place / "bin" / "python"
    done = subprocess.run(
        [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PINNED],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DatashuntError(f"the rival cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    folder = place / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    (folder / "behind.pth").write_text("\n".join(site.getsitepackages()) + "\n", encoding="utf-8")
    return python


def _rates(python: Path, rounds: int, items: int, single: int, *, free: bool) -> Rates:
    found: Rates = {who: [] for who in ("ours", "many", "one", *(() if free else ("plain", "plain_one")))}
    # no tick may find the rival's rows standing still, and score them
    with service(stand_still_s="86400") as running:
        folder = serve_bundle(running)
        with (
            score_worker(running, app="benchmarks.free" if free else "workers") as ours,
            _rival(running, python, None if free else folder) as rival,
            Client(running.settings) as client,
            Celery("producer", broker=_broker(running), set_as_current=False) as app,
        ):
            takes: dict[str, Callable[[Sequence[str], str], float]] = {
                who: partial(_rivals, running, rival, app, f"rival.{who}") for who in found
            } | {"ours": partial(_ours, running, ours, client)}
            for number in range(rounds + 1):
                for who in found:
                    count = WARM_UP if number == 0 else single if who.endswith("one") else items
                    seconds = takes[who](texts(count, seed=number), f"{who}-{number}")
                    if number:
                        found[who].append(count / seconds)
    return found


@contextmanager
def _rival(running: Service, python: Path, bundle: Path | None) -> Iterator[subprocess.Popen[bytes]]:
    database = running.settings.database_url
    assert database is not None
    environment = {
        "RIVAL_BROKER": _broker(running),
        "RIVAL_DATABASE": database.get_secret_value(),
        "RIVAL_THREADS": str(running.settings.threads),
        "OMP_WAIT_POLICY": "PASSIVE",
        **({} if bundle is None else {"RIVAL_BUNDLE": str(bundle)}),
    }
    argv = [str(python), "-m", "celery", "-A", "benchmarks.rival_app", "worker", "-Q", "rival", "-P", "solo"]
    argv += ["--without-gossip", "--without-mingle", "-l", "WARNING"]
    log = running.log.with_name("rival.log")
    worker = process.spawn(argv, log=log, death_signal=signal.SIGKILL, env={**os.environ, **environment})
    try:
        yield worker
    finally:
        worker.kill()  # celery-batches may hang on SIGTERM
        worker.wait()


def _broker(running: Service) -> str:
    url = running.settings.broker_url
    assert url is not None
    return url.get_secret_value()


def _ours(running: Service, worker: subprocess.Popen[bytes], client: Client, made: Sequence[str], name: str) -> float:
    started = time.perf_counter()
    submit(client, made, name)
    wait_until_open(running, worker, 0)
    return time.perf_counter() - started


def _rivals(
    running: Service, worker: subprocess.Popen[bytes], app: Celery, task: str, made: Sequence[str], name: str
) -> float:
    started = time.perf_counter()
    items = [{"id": f"{name}-{i:07d}", "text": text} for i, text in enumerate(made)]
    _, wakes = running.runtime.intake.submit(CLASSIFIER, items, str(uuid4()))
    with app.producer_or_acquire() as producer:
        for row, text in zip(wakes[0].ids, made, strict=True):
            app.send_task(task, args=[row, text], queue="rival", producer=producer)
    wait_until_open(running, worker, 0)
    return time.perf_counter() - started


def _measures(items: int, rounds: int, real: Rates, free: Rates) -> list[Measure]:
    def times(found: Rates, who: str) -> float:
        return median(found["ours"]) / median(found[who])

    return [
        Measure(
            "plain",
            "score lane as a multiple of celery-batches with transformers as documented",
            times(real, "plain"),
            "",
            BATCHES_TARGET,
        ),
        Measure("batches", "the same, celery-batches with our model code", times(real, "many"), "", BATCHES_TARGET),
        Measure(
            "plain_one",
            "score lane as a multiple of a task for each item, transformers as documented",
            times(real, "plain_one"),
            "",
            ONE_TARGET,
        ),
        Measure("one", "the same, a task for each item with our model code", times(real, "one"), "", ONE_TARGET),
        Measure("free_batches", "the same, model that costs nothing: celery-batches", times(free, "many")),
        Measure("free_one", "the same, model that costs nothing: a task for each item", times(free, "one")),
        *(
            Measure(f"{kind}{who}_items_s", f"{name}{words}", median(found[who]), "items/s")
            for kind, words, found in (("", "", real), ("free_", ", free model", free))
            for who, name in (
                ("ours", "score lane"),
                ("plain", "celery-batches, transformers as documented"),
                ("many", "celery-batches, our model code"),
                ("plain_one", "a task for each item, transformers as documented"),
                ("one", "a task for each item, our model code"),
            )
            if who in found
        ),
        Measure("items", "items of a round", items),
        Measure("rounds", "rounds", rounds),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
