"""Whether the worker of this container still does its work: exit code 0 or 1, and a sentence.

That its process exists proves nothing: a worker can outlive a reset of the broker without consuming any more. So
it is asked, over the broker. A solo worker in the middle of a task (a distillation takes minutes) answers nobody:
it counts as well while it uses the CPU. What neither answers nor computes is unhealthy.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

ANSWER_WITHIN_S = 10
BUSY_CORES = 0.05
"""An idle worker uses less than 0.01 of a core for its ticks; one that scores or trains, all it gets."""


def node_name(argv: Sequence[str]) -> str | None:
    """The node name of a Celery worker's command line, or None if it is none."""
    # Docker's own init carries the same words, but is no python.
    if not argv or "python" not in Path(argv[0]).name or "worker" not in argv or "-n" not in argv[:-1]:
        return None
    return argv[argv.index("-n") + 1].replace("%h", socket.gethostname())


def find_worker(proc: Path = Path("/proc")) -> tuple[Path, str] | None:
    """Folder in /proc and node name of the worker, or None if there is none."""
    for folder in proc.glob("[0-9]*"):
        try:
            name = node_name((folder / "cmdline").read_text(errors="replace").split("\0"))
        except OSError:
            continue  # gone meanwhile
        if name is not None:
            return folder, name
    return None


def cpu_s(folder: Path) -> float:
    """Seconds of CPU that a process has used, all threads together."""
    fields = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def verdict(name: str, *, answered: bool, cores: float) -> tuple[bool, str]:
    """Healthy or not, and why. `cores`: CPU seconds per second while it was asked."""
    if answered:
        return True, f"{name} answers"
    if cores >= BUSY_CORES:
        return True, f"{name} is at work ({cores:.1f} cores)"
    return False, f"{name} neither answered within {ANSWER_WITHIN_S} s nor used the CPU"


def main() -> int:
    """Look at this container's worker."""
    found = find_worker()
    if found is None:
        sys.stdout.write("no worker runs here\n")
        return 1
    folder, name = found
    started, before = time.monotonic(), cpu_s(folder)
    ping = ["celery", "-A", "workers", "inspect", "ping", "-d", name, "-t", str(ANSWER_WITHIN_S)]
    answered = subprocess.run(ping, capture_output=True, check=False).returncode == 0
    cores = (cpu_s(folder) - before) / (time.monotonic() - started)
    healthy, why = verdict(name, answered=answered, cores=cores)
    sys.stdout.write(f"{why}\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
