"""The clock of a second host: its processes see another time of day, which may jump while they run."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

HOURS = 2


class Clock:
    """What the processes with `env` take for the time of day; the monotonic clock is the true one.

    `env` is empty where the library that does it cannot be loaded: then their clocks are right.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self.set(HOURS)
        library = _library()
        self.env: dict[str, str] = {}
        if library is not None:
            self.env = {
                "LD_PRELOAD": str(library),
                "FAKETIME_TIMESTAMP_FILE": str(file),
                "FAKETIME_CACHE_DURATION": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        self.wrong = bool(self.env) and self._shifts()
        if not self.wrong:
            self.env = {}

    def set(self, hours: float) -> None:
        """Let it be so many hours ahead; the processes see it within a second."""
        draft = self._file.with_suffix(".new")
        draft.write_text(f"{hours:+g}h\n")
        draft.replace(self._file)

    def _shifts(self) -> bool:
        """Whether a process sees it."""
        script = [sys.executable, "-c", "import time; print(time.time())"]
        before = subprocess.run(script, env=dict(os.environ), capture_output=True, text=True, check=True)
        seen = subprocess.run(script, env={**os.environ, **self.env}, capture_output=True, text=True, check=False)
        return seen.returncode == 0 and float(seen.stdout) - float(before.stdout) > HOURS * 1_800


def _library() -> Path | None:
    found = importlib.util.find_spec("libfaketime")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "vendor" / "libfaketime" / "src" / "libfaketime.so.1"
    return path if path.exists() else None
