"""The command line.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 `wait` timed out, 4 queue full, 130 broken off.

Errors are one sentence on stderr, never a traceback; `--debug` shows it.
"""

from __future__ import annotations

import os
import sys

import typer
from typer.exceptions import TyperException

from datashunt import __version__
from datashunt.cli import (
    backtest,
    certificate,
    classifiers,
    dead,
    items,
    maintenance,
    models,
    people,
    privacy,
    rerun,
    retention,
    servers,
    spend,
    status,
    whatif,
)
from datashunt.errors import DatashuntError

app = typer.Typer(
    name="datashunt",
    help="Classify a stream of text with a small model and an LLM, and pay the LLM less every day.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(classifiers.app, name="classifier")
app.add_typer(models.app, name="models")
app.add_typer(dead.app, name="dead")
app.add_typer(maintenance.db, name="db")
items.register(app)
status.register(app)
spend.register(app)
people.register(app)
privacy.register(app)
retention.register(app)
certificate.register(app)
rerun.register(app)
whatif.register(app)
backtest.register(app)
servers.register(app)
maintenance.register(app)


def _version(value: bool) -> None:
    if value:
        print(f"datashunt {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: bool = typer.Option(False, "--debug", help="Show the traceback of an error."),
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    pass


def main() -> None:
    """Run the command line and exit with its code."""
    debug = "--debug" in sys.argv
    try:
        code = app(standalone_mode=False)
    except typer.Abort:
        code = 130
    except TyperException as error:
        code = _misused(error)
    except DatashuntError as error:
        code = _failed(error, error.exit_code, debug)
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: a sentence instead of a traceback
        code = _failed(error, 1, debug)
    sys.exit(code if isinstance(code, int) else 0)


def _misused(error: TyperException) -> int:
    message = error.format_message()
    if message:  # none where the help was printed instead
        context = getattr(error, "ctx", None)
        command = "datashunt" if context is None else context.command_path
        sys.stderr.write(f"datashunt: {message} ({command} --help shows the usage)\n")
    return 2


def _failed(error: Exception, code: int, debug: bool) -> int:
    if debug:
        raise error
    text = " ".join(str(error).split()) or type(error).__name__
    if not isinstance(error, DatashuntError):
        text = f"unexpected {type(error).__name__}: {text} (--debug shows where)"
    sys.stderr.write(f"datashunt: {text}\n")
    return code
