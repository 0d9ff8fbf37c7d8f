"""How long a run has taken over all its starts. Imports nothing of datashunt."""

from __future__ import annotations

import time
from pathlib import Path


class Stopwatch:
    """Adds this start's seconds to those that a file remembers; kill -9 forgets what came after the last `note`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = _read(path)
        self._started = time.monotonic()
        self.noted = self._before

    def note(self) -> None:
        """Remember the seconds so far."""
        self.noted = self._before + time.monotonic() - self._started
        draft = self._path.with_suffix(".new")
        draft.write_text(f"{self.noted:.3f}", encoding="ascii")
        draft.replace(self._path)


def _read(path: Path) -> float:
    """The seconds in the file; 0 where there are none, or none that can be read: it is not worth a run."""
    try:
        return float(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return 0.0
