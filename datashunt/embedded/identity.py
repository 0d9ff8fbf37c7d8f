"""Who the embedded servers run as. PostgreSQL refuses to run as root. Imports errors only.

An ordinary user runs them itself. Root runs them as `nobody` where that user can reach folder and programs,
else in a user namespace, where it is an ordinary user and its files outside stay its own. A folder that
holds data already runs as its owner.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from pathlib import Path

from datashunt.embedded import process
from datashunt.embedded.process import NAMESPACE, SAME, Identity
from datashunt.errors import EmbeddedError


def of_data(folder: Path) -> Identity:
    """Who may run on this existing data.

    Raises:
        EmbeddedError: it belongs to another user.
    """
    found, me = folder.stat(), os.geteuid()
    if me == 0:
        return process.user(found.st_uid, found.st_gid) if found.st_uid != 0 else NAMESPACE
    if found.st_uid != me:
        raise EmbeddedError(
            f"{folder} belongs to user {found.st_uid}, and this is user {me}: start as that user or as root,"
            " or choose another folder with --data-dir"
        )
    return SAME


def for_new(folder: Path, programs: Sequence[Path]) -> Identity:
    """Who shall run these programs on data to be made below `folder`.

    Raises:
        EmbeddedError: this is root, and no other identity reaches both.
    """
    if os.geteuid() != 0:
        return SAME
    for identity in (*_nobody(), NAMESPACE):
        if all(_can_run(identity, folder, program) for program in programs):
            return identity
    raise EmbeddedError(
        f"PostgreSQL does not run as root: user `nobody` cannot reach {folder} or the programs in"
        f" {programs[0].parent}, and user namespaces are not allowed here; choose a folder that everybody can"
        " reach with --data-dir, or start as an ordinary user"
    )


def _nobody() -> list[Identity]:
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        return []
    return [process.user(entry.pw_uid, entry.pw_gid)]


def _can_run(identity: Identity, folder: Path, program: Path) -> bool:
    return process.run([str(program), "--version"], identity=identity, folder=folder, env={}).returncode == 0
