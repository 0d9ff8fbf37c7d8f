"""`datashunt.ask(classifier, ids)`: ask the LLM about what waits."""

from __future__ import annotations

from workers.app import app, publish, runtime, stopping
from workers.wakes import wake_up


@app.task(name="datashunt.ask")  # type: ignore[untyped-decorator]
@wake_up
def ask(classifier: str, ids: list[int]) -> None:
    """A wake-up: whatever is due is asked, these among it."""
    publish(runtime().asker.run(classifier, ids, stop=stopping).wakes)
