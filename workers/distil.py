"""`datashunt.distil(classifier, ids)`: run the distillations of a classifier that are due."""

from __future__ import annotations

from workers.app import app, runtime, stopping
from workers.wakes import wake_up


@app.task(name="datashunt.distil")  # type: ignore[untyped-decorator]
@wake_up
def distil(classifier: str, ids: list[int]) -> None:  # noqa: ARG001 - every wake-up has the same shape
    """A wake-up: one distillation after another, until none is due any more; the first lesson leaves one behind."""
    while runtime().distiller.run(classifier, stop=stopping):
        pass
