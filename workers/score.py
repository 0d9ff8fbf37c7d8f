"""`datashunt.score(classifier, ids)`: score the backlog until none of these items is queued."""

from __future__ import annotations

from workers.app import app, publish, runtime, stopping


@app.task(name="datashunt.score")  # type: ignore[untyped-decorator]
def score(classifier: str, ids: list[int]) -> None:
    """A wake-up: the rows are the truth, so a repeated one is a cheap no-op."""
    for wake in runtime().scorer.run(classifier, ids, stop=stopping):
        publish([wake])
