"""`datashunt.tick()`: what beat publishes; every worker also ticks by itself."""

from __future__ import annotations

from workers.app import app, tick_once


@app.task(name="datashunt.tick")  # type: ignore[untyped-decorator]
def tick() -> None:
    """Find what stands still, has expired or is due."""
    tick_once()
