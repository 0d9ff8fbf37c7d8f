"""`datashunt.distil(classifier, ids)`: run the due distillation of a classifier."""

from __future__ import annotations

from datashunt.items import Wake
from workers.app import app, on_device, publish, runtime, stopping
from workers.wakes import wake_up


@app.task(name="datashunt.distil")  # type: ignore[untyped-decorator]
@wake_up
def distil(classifier: str, ids: list[int]) -> None:
    """A wake-up: if no distillation is due any more, nothing happens.

    A first lesson leaves the whole one due. Its turn comes after those of other classifiers that wait already.
    """
    with on_device():
        ended = runtime().distiller.run(classifier, stop=stopping)
    if ended and not stopping():
        publish([Wake("distil", classifier, tuple(ids))])
