"""`datashunt.ask(classifier, ids)`: ask the LLM about these asks."""

from __future__ import annotations

from workers.app import app, runtime, stopping


@app.task(name="datashunt.ask")  # type: ignore[untyped-decorator]
def ask(classifier: str, ids: list[int]) -> None:
    """A wake-up: asks that are answered or taken already are passed over."""
    runtime().asker.run(classifier, ids, stop=stopping)
