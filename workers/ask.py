"""`datashunt.ask(classifier, ids)`: ask the LLM about what waits."""

from __future__ import annotations

from workers.app import app, publish, runtime, stopping


@app.task(name="datashunt.ask")  # type: ignore[untyped-decorator]
def ask(classifier: str, ids: list[int]) -> None:
    """A wake-up: whatever is due is asked, these among it."""
    publish(runtime().asker.run(classifier, ids, stop=stopping).wakes)
