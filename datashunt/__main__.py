"""`python -m datashunt`: the command line."""

from datashunt.cli import main

main()
