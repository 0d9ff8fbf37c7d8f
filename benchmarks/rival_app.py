"""What one would write without datashunt: Celery tasks that score and store, one item at a time or by `celery-batches`.

Runs in a virtual environment of its own (benchmarks/rival.py), with the same bundle, and writes the same rows: the
item's state, its score, its outcome. RIVAL_BUNDLE is the bundle's folder; without it the model costs nothing.

`rival.many` and `rival.one` call our own model code, so they are given its sorting by length, its padding and its
precision. `rival.plain` and `rival.plain_one` are the same with transformers as their documentation shows them: texts
in the order in which they arrive, padded to the longest of the batch, the weights as they are stored (fp32).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import psycopg
from celery import Celery
from celery_batches import Batches
from numpy.typing import NDArray

from benchmarks.stand_in import FreeModel

MOST = 256
app = Celery("rival", broker=os.environ["RIVAL_BROKER"])
app.conf.update(
    task_default_queue="rival",
    task_ignore_result=True,
    accept_content=["json"],
    worker_prefetch_multiplier=2 * MOST,  # celery-batches needs as much as a batch, or it waits for its interval
    worker_send_task_events=False,
)
_WRITE = """
    WITH verdict AS MATERIALIZED (
        SELECT v.*, nextval('outcomes_id_seq') AS outcome_id, nextval('scores_id_seq') AS score_id
          FROM unnest(%(rows)s::bigint[], %(labels)s::text[], %(confidences)s::real[], %(vectors)s::text[])
            AS v (row_id, label, confidence, vector)),
    moved AS (
        UPDATE items SET state = 'done', label = verdict.label, source = 'small', outcome_id = verdict.outcome_id,
                         done_at = now()
          FROM verdict WHERE items.id = ANY(%(rows)s::bigint[]) AND items.id = verdict.row_id
     RETURNING verdict.*, items.classifier_id),
    scored AS (
        INSERT INTO scores (id, item_id, bundle_id, spec_version, probabilities, label, confidence, threshold, kept)
        OVERRIDING SYSTEM VALUE
        SELECT score_id, row_id, %(bundle)s, 1, vector::real[], label, confidence, 0, true FROM moved)
    INSERT INTO outcomes (id, item_id, classifier_id, spec_version, label, source, confidence, probabilities, bundle_id,
                          threshold, score_id)
    OVERRIDING SYSTEM VALUE
    SELECT outcome_id, row_id, classifier_id, 1, label, 'small', confidence, vector::real[], %(bundle)s, 0, score_id
      FROM moved
"""


@cache
def _model() -> Any:
    folder = os.environ.get("RIVAL_BUNDLE")
    if folder is None:
        return FreeModel()
    from pathlib import Path

    from datashunt.small import SmallModel

    return SmallModel.load(Path(folder), device="cpu", threads=int(os.environ["RIVAL_THREADS"]))


@cache
def _transformers() -> tuple[Any, Any, tuple[str, ...], float]:
    """Tokenizer and model as one would load them, and the labels and temperature of the bundle."""
    import json

    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    import datashunt.small  # noqa: F401 - registers the kind of model with transformers

    folder = os.environ["RIVAL_BUNDLE"]
    torch.set_num_threads(int(os.environ["RIVAL_THREADS"]))
    with open(os.path.join(folder, "bundle.json"), encoding="utf-8") as file:
        described = json.load(file)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    labels, temperature = tuple(described["labels"]), float(described["temperature"])
    return AutoTokenizer.from_pretrained(folder), model, labels, temperature


@cache
def _database() -> psycopg.Connection:
    return psycopg.connect(os.environ["RIVAL_DATABASE"], autocommit=True)


def _score(rows: Sequence[int], texts: Sequence[str]) -> None:
    model = _model()
    _store(rows, model.labels, model.probabilities(texts, batch_tokens=8_192))


def _score_plainly(rows: Sequence[int], texts: Sequence[str]) -> None:
    import torch

    tokenizer, model, labels, temperature = _transformers()
    with torch.inference_mode():
        batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
        found = torch.softmax(model(**batch).logits / temperature, dim=1).numpy()
    _store(rows, labels, found)


def _store(rows: Sequence[int], labels: Sequence[str], found: NDArray[np.float32]) -> None:
    _database().execute(
        _WRITE,
        {
            "rows": list(rows),
            "labels": [labels[place] for place in found.argmax(axis=1)],
            "confidences": found.max(axis=1).tolist(),
            "vectors": ["{" + ",".join(f"{p:.6g}" for p in row) + "}" for row in found.tolist()],
            "bundle": 1,
        },
    )


@app.task(name="rival.many", base=Batches, flush_every=MOST, flush_interval=0.2)  # type: ignore[untyped-decorator]
def many(requests: Sequence[Any]) -> None:
    """Up to 256 messages at once."""
    _score([request.args[0] for request in requests], [request.args[1] for request in requests])


@app.task(name="rival.plain", base=Batches, flush_every=MOST, flush_interval=0.2)  # type: ignore[untyped-decorator]
def plain(requests: Sequence[Any]) -> None:
    """The same without our model code."""
    _score_plainly([request.args[0] for request in requests], [request.args[1] for request in requests])


@app.task(name="rival.one", acks_late=True)  # type: ignore[untyped-decorator]
def one(row: int, text: str) -> None:
    """One message, one item, one commit."""
    _score([row], [text])


@app.task(name="rival.plain_one", acks_late=True)  # type: ignore[untyped-decorator]
def plain_one(row: int, text: str) -> None:
    """The same without our model code."""
    _score_plainly([row], [text])
