"""Becomes another program that ends with its parent. A script of its own: imports nothing of datashunt.

    python -I -S launch.py DEATH_SIGNAL PARENT_PID IDENTITY FOLDER PROGRAM [ARGUMENT …]

IDENTITY is `same`, `UID:GID`, or `namespace` (still the caller outside, an ordinary user inside: for a root
whose files nobody else can reach). FOLDER is entered last, with the new rights; empty: stay. A program in
between and not `preexec_fn`, which may deadlock in a process that has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

CANNOT = 126
"""Exit code when the program could not be reached; the reason is on stderr."""

_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER = 0x10000000


def main(arguments: list[str]) -> int:
    """Replace this process; returns (with `CANNOT`) only when that fails."""
    death_signal, parent, identity, folder, *program = arguments
    linux = sys.platform == "linux"
    libc = ctypes.CDLL(None, use_errno=True) if linux else None
    try:
        _become(identity, libc)
        if libc is not None and libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
        if os.getppid() != int(parent):
            return CANNOT  # it died before the signal was armed
        os.umask(0o077)
        if folder:
            os.chdir(folder)
        # Python ignores it, and an ignored signal stays ignored in the next program.
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        os.execv(program[0], program)  # noqa: S606 - there is no shell, on purpose
    except OSError as error:
        print(f"cannot start {program[0]} as {identity}: {error}", file=sys.stderr)  # noqa: T201 - its log
    return CANNOT


def _become(identity: str, libc: ctypes.CDLL | None) -> None:
    """Change user first: a change of user disarms the parent-death signal."""
    if identity == "same":
        return
    if identity != "namespace":
        uid, gid = (int(part) for part in identity.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        return
    uid, gid = os.getuid(), os.getgid()
    if libc is None:
        raise OSError("user namespaces need Linux")
    if libc.unshare(_CLONE_NEWUSER) != 0:
        raise OSError(ctypes.get_errno(), "unshare(CLONE_NEWUSER)")
    for name, text in (("setgroups", "deny"), ("uid_map", f"1 {uid} 1"), ("gid_map", f"1 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
