"""What the benchmarks run on: PostgreSQL and Valkey of their own, a served bundle, a real score worker."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.figures import cores
from benchmarks.texts import texts
from datashunt import classifier, prompts
from datashunt import settings as settings_module
from datashunt.bootstrap import Runtime
from datashunt.client import Client
from datashunt.embedded import Stack, process, worker_commands
from datashunt.errors import DatashuntError
from datashunt.settings import Settings
from datashunt.store import bundles, classifiers, migrate, results

CLASSIFIER = "benchmark"
LABELS = ("negative", "neutral", "positive")
CHECKED = 200
"""Texts on which a served bundle is compared in fp32 and bf16."""
PROGRESS_S = 120.0
"""No item finished for so long: the benchmark fails."""


@dataclass(frozen=True, slots=True)
class Service:
    """Running servers with one classifier that keeps every item. `environment`: what a worker needs to reach them."""

    settings: Settings
    runtime: Runtime
    environment: dict[str, str]

    @property
    def log(self) -> Path:
        """Where the score worker writes its events."""
        return self.settings.data_dir / "logs" / "score.log"

    def still_open(self) -> int:
        """Items without an outcome, of all classifiers."""
        with self.runtime.store.begin() as tx:
            return sum(results.still_open(tx, known.id).moving for known in classifiers.everyone(tx))


@contextmanager
def service(*, changes: Mapping[str, Any] | None = None, **more: str) -> Iterator[Service]:
    """Servers in a folder that is removed at the end, with the classifier applied and no bundle yet.

    Args:
        changes: fields of the classifier's file that differ. By default it keeps every item and audits none, so
            that no LLM takes part.
        more: further settings.
    """
    place = Path(tempfile.mkdtemp(prefix="datashunt-benchmark-"))
    place.chmod(0o755)  # as root, PostgreSQL runs as another user, who must reach its data
    stack = Stack(place / "data")
    try:
        urls = stack.start()
        values = {
            "database_url": urls.database,
            "broker_url": urls.broker,
            "models_url": urls.models,
            "data_dir": str(place / "data"),
            "threads": str(cores()),
            "device": "cpu",
            **more,
        }
        settings = settings_module.load(**values)
        runtime = Runtime(settings)
        environment = {f"{settings_module.PREFIX}{name.upper()}": value for name, value in values.items()}
        try:
            migrate.upgrade(runtime.store)
            apply(runtime, CLASSIFIER, changes or {})
            yield Service(settings, runtime, environment)
        finally:
            runtime.close()
    finally:
        stack.stop()
        shutil.rmtree(place, ignore_errors=True)


def apply(runtime: Runtime, name: str, changes: Mapping[str, Any]) -> None:
    """Declare a classifier that keeps every item and audits none, but for these fields of its file."""
    document = {
        "name": name,
        "labels": dict.fromkeys(LABELS, "a generated label"),
        "instruction": "Choose a label.",
        "small_model": {"base": "auto", "max_tokens": 128},
        "policy": {"mode": "fixed", "threshold": 0.0, "audit_rate": 0.0},
        **changes,
    }
    spec = classifier.parse(document, where="the benchmark's classifier")
    with runtime.store.begin() as tx:
        classifiers.apply(tx, spec, prompts.prompt_hash(spec))


def serve_bundle(service: Service, name: str = CLASSIFIER, seed: int = 0, like: Path | None = None) -> Path:
    """Publish and promote a bundle of the packaged encoder with a head of this seed; returns its folder.

    Args:
        service: what runs.
        name: the classifier.
        seed: of the head.
        like: a bundle with another such head, whose measure of rounding is taken over: to measure takes seconds.

    Raises:
        ModelError: the packaged encoder is not installed.
    """
    import torch

    from datashunt import small
    from datashunt.small.network import encode, load_tokenizer

    folder = service.settings.data_dir / f"{name}-bundle"
    with service.runtime.store.begin() as tx:
        known = classifiers.current(tx, name)
    part = known.spec.small_model
    network = small.SequenceClassifier.of_base(part.base, LABELS)
    torch.manual_seed(seed)
    torch.nn.init.normal_(network.head.weight, std=0.5)
    info = small.BundleInfo(
        labels=LABELS,
        temperature=1.0,
        recipe="head",
        threshold=known.spec.policy.threshold,
        base=part.base,
        max_tokens=part.max_tokens,
        created_at=datetime.now(UTC).isoformat(),
    )
    tokenizer = load_tokenizer(part.base, part.max_tokens)
    if like is None:
        info = small.checked(network, tokenizer, info, [encode(tokenizer, texts(CHECKED, seed=seed))])
    else:
        info = replace(info, rounding=small.read_info(like).rounding)
    small.save(folder, network, tokenizer, info)
    uri, content_hash = service.runtime.registry.publish(folder, f"{name}/1")
    with service.runtime.store.begin() as tx:
        bundle = bundles.add(
            tx, known, uri=uri, content_hash=content_hash, recipe=info.recipe, prune_cut=None, evaluation={}
        )
        bundles.promote_by_hand(tx, known, bundle.version)
    return folder


def serve_stand_in(service: Service, name: str = CLASSIFIER) -> None:
    """A bundle that serves by name only: for workers that load a stand-in whatever they are asked for."""
    with service.runtime.store.begin() as tx:
        known = classifiers.current(tx, name)
        made = bundles.add(tx, known, uri="memory://", content_hash=name, recipe="head", prune_cut=None, evaluation={})
        bundles.promote_by_hand(tx, known, made.version)


@contextmanager
def score_worker(service: Service, app: str = "workers") -> Iterator[subprocess.Popen[bytes]]:
    """The score worker that `datashunt up --workers` runs: `celery -A workers worker -Q score -P solo`."""
    command = next(one for one in worker_commands(service.settings.data_dir) if one.name == "score")
    worker = process.spawn(
        [app if word == "workers" else word for word in command.argv],
        log=service.log,
        death_signal=signal.SIGKILL,
        env={**os.environ, **service.environment},
    )
    try:
        yield worker
    finally:
        process.end(worker, signal.SIGTERM, 20.0)


def submit(client: Client, texts: Sequence[str], prefix: str, name: str = CLASSIFIER) -> None:
    """Submit texts in one call; rows get their ids in this order."""
    client.submit(name, [{"id": f"{prefix}-{i:07d}", "text": text} for i, text in enumerate(texts)])


def wait_until_open(service: Service, worker: subprocess.Popen[bytes], most: int) -> int:
    """Wait until at most so many items have no outcome; returns how many. Looks rarely while many are left.

    Raises:
        DatashuntError: the worker ended, or nothing moved for `PROGRESS_S`; the message holds its last lines.
    """
    left, moved_at = service.still_open(), time.monotonic()
    while left > most:
        # looking takes the worker's CPU: 2 ms every half second at first, often only near the end
        time.sleep(min(0.5, max(0.01, (left - most) / 5_000)))
        now = service.still_open()
        if now != left:
            left, moved_at = now, time.monotonic()
        if worker.poll() is not None or time.monotonic() - moved_at > PROGRESS_S:
            raise DatashuntError(f"the score worker stands still; its log ends: {process.last_lines(service.log)}")
    return left


def scored_events(log: Path) -> list[dict[str, Any]]:
    """The `scored` events of a worker's log: items and model_ms of every batch."""
    lines = log.read_text(encoding="utf-8").splitlines()
    return list(map(json.loads, filter(_is_scored, lines)))


def _is_scored(line: str) -> bool:
    return line.startswith("{") and '"event": "scored"' in line
