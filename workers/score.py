"""`datashunt.score(classifier, ids)`: score the backlog until none of these items is queued."""

from __future__ import annotations

from workers.app import app, on_device, publish, runtime, stopping
from workers.wakes import wake_up


@app.task(name="datashunt.score")  # type: ignore[untyped-decorator]
@wake_up
def score(classifier: str, ids: list[int]) -> None:
    """A wake-up: the rows are the truth, so a repeated one is a cheap no-op."""
    with on_device():
        for wake in runtime().scorer.run(classifier, ids, stop=stopping):
            publish([wake])
