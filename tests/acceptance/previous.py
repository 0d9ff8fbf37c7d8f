"""The previous release: its source, from this repository's own history, and its command line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from datashunt.demo.run import environment
from datashunt.settings import Settings

COMMIT = "cd5d5d28c2"
"""The previous release; the only place that names it. With it goes `schema.OLDEST`, which is its newest migration."""
HISTORY = Path(__file__).parents[2]


class Previous:
    """The previous release, unpacked in a folder of a test's own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def head(self) -> str:
        """Its newest migration."""
        return sorted(path.name[:4] for path in (self.folder / "migrations" / "versions").glob("[0-9]*.py"))[-1]

    def run(self, settings: Settings, *words: str) -> str:
        """Its command line; returns what it prints, and fails the test if it ends with anything but 0."""
        env = {**os.environ, **environment(settings), "PYTHONPATH": str(self.folder)}
        command = [sys.executable, "-m", "datashunt", *words]
        done: Any = subprocess.run(
            command, cwd=self.folder, env=env, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, done.stderr
        return str(done.stdout)


def unpack(folder: Path) -> Previous:
    """Unpack the previous release.

    Outside a git checkout the test is skipped; in one without that history it fails, since CI would else try nothing.
    """
    if not (HISTORY / ".git").exists():
        pytest.skip("the previous release comes from the history of the repository, and this is no git checkout")
    packed = subprocess.run(["git", "archive", COMMIT], cwd=HISTORY, capture_output=True, check=False)
    if packed.returncode:
        pytest.fail(
            f"the history lacks the previous release {COMMIT}: run `git fetch --unshallow`"
            f" ({packed.stderr.decode(errors='replace').strip()})"
        )
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed.stdout, check=True)
    return Previous(folder)
