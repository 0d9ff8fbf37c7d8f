"""`datashunt.certify(classifier, ids)`: look at the judge answers of a classifier's trials."""

from __future__ import annotations

from workers.app import app, on_device, runtime, stopping
from workers.wakes import wake_up


@app.task(name="datashunt.certify")  # type: ignore[untyped-decorator]
@wake_up
def certify(classifier: str, ids: list[int]) -> None:  # noqa: ARG001 - every wake-up has the same shape
    """A wake-up: what was looked at already is not looked at again."""
    if not stopping():
        with on_device():
            runtime().certifier.run(classifier)
