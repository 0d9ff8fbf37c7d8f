"""`python -m tests.acceptance.faults`: a campaign; ends with 1 if anything was violated, or slow."""

from __future__ import annotations

import argparse
import sys

from tests.acceptance.faults.campaign import Orders, attempt


def main() -> None:
    """Read the orders, run, print the report."""
    usual = Orders()
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.faults")
    parser.add_argument("--seed", type=int, default=usual.seed)
    parser.add_argument("--faults", type=int, default=usual.faults)
    parser.add_argument("--items", type=int, default=usual.items)
    parser.add_argument("--minutes", type=float, default=usual.minutes)
    parser.add_argument("--only", default=usual.only, help="kinds of faults whose name holds this")
    parser.add_argument("--broker", default=usual.broker, help="URL of a RabbitMQ or Redis to use, port included")
    report = attempt(Orders(**vars(parser.parse_args())))
    sys.stdout.write("\n".join(report.lines()) + "\n")
    sys.exit(1 if report.violations or report.slow else 0)


if __name__ == "__main__":
    main()
