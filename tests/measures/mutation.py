"""Changes the code that decides and proves, one place at a time, and counts the changes that no test notices.

mutmut makes the changes; pyproject.toml names the files and the tests. A change that a test notices, or that makes it
run for ever, is found. What no test can notice counts as not found too.
"""

from __future__ import annotations

import subprocess
import sys
from collections import Counter

LEAST = 0.85
PROCESSES = 2
FOUND = {"killed", "timeout"}
WHOLES = ("datashunt.shunt", "datashunt.certificate")


def main() -> int:
    """Print the share of each file and of each whole, and the changes that were not found. 1 if too few were."""
    ended = subprocess.run([sys.executable, "-m", "mutmut", "run", "--max-children", str(PROCESSES)], check=False)
    if ended.returncode:
        return ended.returncode
    said = subprocess.run(
        [sys.executable, "-m", "mutmut", "results", "--all", "true"], check=True, stdout=subprocess.PIPE, text=True
    ).stdout
    states = dict(line.strip().split(": ") for line in said.splitlines())
    print(*(f"{name}: {state}" for name, state in states.items() if state not in FOUND), sep="\n")
    modules = sorted({name.rpartition(".")[0] for name in states})
    for module in modules:
        share(module, states)
    print("in all:")
    return int(min([share(whole, states) for whole in WHOLES]) < LEAST)


def share(start: str, states: dict[str, str]) -> float:
    """Print how many changes of a module or package were found; their share."""
    counts = Counter(state for name, state in states.items() if name.startswith(f"{start}."))
    found, made = sum(counts[state] for state in FOUND), counts.total()
    print(f"{start:40} {found:5} of {made:5} {found / made:6.1%}")
    return found / made


if __name__ == "__main__":
    sys.exit(main())
