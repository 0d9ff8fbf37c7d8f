"""The same targets, guided by coverage: `python -m tests.fuzz.guided "chat replies" -max_total_time=600`.

Needs `pip install atheris`, which has wheels for Linux only. What follows the target are libFuzzer's options. A crash
leaves a file `crash-…` in the working folder; given after the target, it is tried again.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from random import Random

try:
    import atheris
except ImportError:
    sys.exit("tests.fuzz.guided needs atheris: pip install atheris; without it, make fuzz tries seeded mutations")

with atheris.instrument_imports(include=["datashunt", "workers"]):
    from tests.fuzz.targets import TARGETS


class Fed(Random):
    """Draws what the fuzzer says, and zeros when that is used up: so that it learns which bytes lead where."""

    def __init__(self, data: bytes) -> None:
        super().__init__(0)
        self._data, self._at = data, 0

    def getrandbits(self, k: int) -> int:
        """The next bits."""
        length = -(-k // 8)
        piece = self._data[self._at : self._at + length].ljust(length, b"\0")
        self._at += length
        return int.from_bytes(piece, "little") >> (8 * length - k)

    def random(self) -> float:
        """The next number from 0 to 1."""
        return self.getrandbits(16) / 65_536


def main() -> None:
    """Fuzz one target until an option, or a crash, ends it."""
    if len(sys.argv) < 2 or sys.argv[1] not in TARGETS:
        sys.exit(f"expected one of: {', '.join(TARGETS)}")
    target, folder = TARGETS[sys.argv.pop(1)], tempfile.mkdtemp(prefix="datashunt-fuzz-")
    atheris.Setup(sys.argv, lambda data: target(Fed(data), Path(folder)) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
