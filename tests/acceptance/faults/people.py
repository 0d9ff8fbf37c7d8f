"""The people of a campaign: one process that labels finished items now and then, some of them twice."""

from __future__ import annotations

import argparse
import random
import sys
import time

from sqlalchemy import text

from datashunt import settings
from datashunt.bootstrap import Runtime
from datashunt.errors import DatashuntError
from datashunt.pipeline import people
from datashunt.store import Store
from datashunt.streams import Row
from tests.acceptance.faults.stream import CLASSIFIERS
from tests.words import LABELS

_FINISHED = "SELECT key FROM items JOIN classifiers ON classifiers.id = classifier_id"
_FINISHED += " WHERE name = :name AND items.state = 'done' ORDER BY random() LIMIT 3"


def main() -> None:
    """Label until the campaign ends this process; what breaks meanwhile is tried again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--every-s", type=float, required=True, help="time between two looks")
    given = parser.parse_args()
    runtime = Runtime(settings.load(), pool_size=1)
    rng = random.Random()
    while True:
        time.sleep(given.every_s)
        try:
            _label(runtime.store, rng.choice(CLASSIFIERS), rng)
        except DatashuntError as error:
            sys.stderr.write(f"again: {error}\n")


def _label(store: Store, name: str, rng: random.Random) -> None:
    with store.begin() as tx:
        keys = [row.key for row in tx.execute(text(_FINISHED), {"name": name})]
    rows = [Row(line, key, rng.choice(LABELS)) for line, key in enumerate(keys, start=1)]
    for _ in range(rng.randint(1, 2)):  # the same file once more changes nothing
        for _done in people.label(store, name, rows, by=f"person-{rng.randint(1, 3)}"):
            pass


if __name__ == "__main__":
    main()
