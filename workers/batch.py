"""`datashunt.batch(classifier, ids)`: take these batches forward."""

from __future__ import annotations

from workers.app import app, runtime, stopping
from workers.wakes import wake_up


@app.task(name="datashunt.batch")  # type: ignore[untyped-decorator]
@wake_up
def batch(_classifier: str, ids: list[int]) -> None:
    """A wake-up: batches that are not due, or in other hands, are passed over."""
    runtime().batcher.run(ids, stop=stopping)
