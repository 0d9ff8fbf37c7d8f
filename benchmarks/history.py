"""Whether history costs: the pipeline's own ceiling with many old items in the database, and with none.

The old items are finished, each with its text, score and outcome; they are made inside PostgreSQL, indexes and all, and
vacuumed, as they would be by then. The model costs nothing, so that nothing hides behind it.
"""

from __future__ import annotations

import shutil
import time
from statistics import median

from sqlalchemy import text

from benchmarks import command
from benchmarks.ceiling import WARM_UP, Round, one_round
from benchmarks.figures import Measure, Result
from benchmarks.service import Service, score_worker, serve_stand_in, service
from datashunt.client import Client
from datashunt.errors import DatashuntError

SLICE = 250_000
BYTES_AN_ITEM = 2_500
"""Disk that an old item takes, write-ahead log and a margin included."""
TARGET = 0.95
_MAKE = (
    "INSERT INTO items (id, classifier_id, key, text_hash, state, attempts, submission_id, label, source, outcome_id,"
    " created_at, done_at) OVERRIDING SYSTEM VALUE"
    " SELECT n, 1, 'old-' || n, decode(md5(n::text) || md5((-n)::text), 'hex'), 'done', 1, 'old', 'positive', 'small',"
    " n, now() - interval '30 days', now() - interval '30 days' FROM generate_series(:first, :last) AS n",
    "INSERT INTO texts (item_id, text)"
    " SELECT n, repeat(md5(n::text) || ' ', 3) FROM generate_series(:first, :last) AS n",
    "INSERT INTO scores (id, item_id, bundle_id, spec_version, probabilities, label, confidence, threshold, kept)"
    " OVERRIDING SYSTEM VALUE SELECT n, n, 1, 1, '{0.05,0.15,0.8}', 'positive', 0.8, 0, true"
    " FROM generate_series(:first, :last) AS n",
    "INSERT INTO outcomes (id, xact, item_id, classifier_id, spec_version, label, source, confidence, probabilities,"
    " bundle_id, threshold, score_id) OVERRIDING SYSTEM VALUE"
    " SELECT n, 1, n, 1, 1, 'positive', 'small', 0.8, '{0.05,0.15,0.8}', 1, 0, n"
    " FROM generate_series(:first, :last) AS n",
)
_SIZES = (
    "SELECT sum(pg_total_relation_size(oid)) FROM pg_class"
    " WHERE relkind = 'r' AND relname ~ '^(items$|texts_|scores_|outcomes_)'"
)


def benchmark(full: bool) -> Result:
    """10 million old items, or 200,000; rounds of 20,000 new ones, five before and five after, or three of 8,000.

    Raises:
        DatashuntError: the disk is too small.
    """
    old, rounds, items = (10_000_000, 5, 20_000) if full else (200_000, 3, 8_000)
    started = time.monotonic()
    with service() as running:
        _check_disk(running, old)
        serve_stand_in(running)
        with score_worker(running, app="benchmarks.free") as worker, Client(running.settings) as client:
            one_round(running, worker, client, WARM_UP, "warm-up")
            empty = [one_round(running, worker, client, items, f"empty-{i}") for i in range(rounds)]
            size = fill(running, old)
            one_round(running, worker, client, WARM_UP, "warm-up-again")
            filled = [one_round(running, worker, client, items, f"filled-{i}") for i in range(rounds)]
    return Result("history", full, time.monotonic() - started, _measures(items, old, size, empty, filled))


def _check_disk(running: Service, old: int) -> None:
    free, needed = shutil.disk_usage(running.settings.data_dir).free, old * BYTES_AN_ITEM
    if free < needed:
        raise DatashuntError(f"{old:,} old items need {needed / 1e9:.0f} GB of disk, {free / 1e9:.0f} GB are free")


def fill(running: Service, count: int) -> float:
    """So many finished items of the benchmark's classifier; returns the bytes that one takes, with its indexes."""
    store = running.runtime.store
    with store.begin() as tx:
        before = float(tx.execute(text(_SIZES)).scalar_one())
        # far below where this month's numbers begin: they lie in the partition of what came before
        first = 1_000_000_000
    for start in range(0, count, SLICE):
        values = {"first": first + start, "last": first + min(start + SLICE, count) - 1}
        with store.begin() as tx:
            for statement in _MAKE:
                tx.execute(text(statement), values)
    with store.single() as connection:
        connection.execute(text("VACUUM ANALYZE items, texts, scores, outcomes"))
        connection.execute(text("CHECKPOINT"))
        return (float(connection.execute(text(_SIZES)).scalar_one()) - before) / count


def _measures(items: int, old: int, size: float, empty: list[Round], filled: list[Round]) -> list[Measure]:
    def rate(found: list[Round]) -> float:
        return items / median(one.wall for one in found)

    def cpu(found: list[Round]) -> float:
        return median(one.postgres for one in found) / items * 1e6

    return [
        Measure("share", "throughput with old items, as a share", rate(filled) / rate(empty), "", TARGET),
        Measure("empty_items_s", "without", rate(empty), "items/s"),
        Measure("filled_items_s", "with", rate(filled), "items/s"),
        Measure("empty_us", "CPU of PostgreSQL, without", cpu(empty), "µs/item"),
        Measure("filled_us", "CPU of PostgreSQL, with", cpu(filled), "µs/item"),
        Measure("bytes", "disk of a finished item: its rows in four tables, with their indexes", size, "B"),
        Measure("old", "old items", old),
        Measure("items", "items of a round", items),
    ]


if __name__ == "__main__":
    command.main(benchmark, __doc__)
