"""`datashunt.distil(classifier, ids)`: run the due distillation of a classifier."""

from __future__ import annotations

from workers.app import app, runtime, stopping
from workers.wakes import wake_up


@app.task(name="datashunt.distil")  # type: ignore[untyped-decorator]
@wake_up
def distil(classifier: str, ids: list[int]) -> None:  # noqa: ARG001 - every wake-up has the same shape
    """A wake-up: if no distillation is due any more, nothing happens."""
    runtime().distiller.run(classifier, stop=stopping)
