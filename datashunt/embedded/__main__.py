"""The process that `datashunt up --detach` leaves behind."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from datashunt import settings, telemetry
from datashunt.embedded.service import serve
from datashunt.errors import DatashuntError


def main() -> int:
    """Own one data folder until told to stop; the exit code is that of the error, if any."""
    parser = argparse.ArgumentParser(prog="python -m datashunt.embedded")
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--workers", action="store_true")
    options = parser.parse_args()
    try:
        telemetry.configure(settings.load().log_level)
        serve(options.data_dir, workers=options.workers)
    except DatashuntError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
