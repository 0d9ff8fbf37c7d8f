"""Runs every target for an equal number of inputs; the first crash ends it with the seed that repeats it."""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path
from random import Random

from tests.fuzz.targets import SHARES, TARGETS


def main() -> int:
    """Print a line for each target, and the sum."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="of all targets together")
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    options = parser.parse_args()
    total = crashes = 0
    shares = {name: SHARES.get(name, 1.0) for name in TARGETS}
    with tempfile.TemporaryDirectory() as folder:
        for name, target in TARGETS.items():
            count, seed, began = 0, options.seed, time.monotonic()
            share = math.ceil(options.inputs * shares[name] / sum(shares.values()))
            while count < share:
                try:
                    count += target(Random(seed), Path(folder))
                except Exception as error:  # noqa: BLE001 - that is what it looks for
                    crashes += 1
                    count += 1
                    print(f"{name}: seed {seed}: {type(error).__name__}: {error!s:.300}", flush=True)
                    if crashes > 20:
                        return 1
                seed += 1
            print(f"{count:>9,} {name}, {time.monotonic() - began:.0f} s", flush=True)
            total += count
    print(f"{total:>9,} inputs, {crashes} crashes")
    return 1 if crashes else 0


if __name__ == "__main__":
    sys.exit(main())
