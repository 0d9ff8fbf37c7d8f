"""PostgreSQL and Valkey for one machine, from wheels, and a supervisor for the workers.

    wheels     where the programs are          launch     becomes a program that ends with its parent
    process    spawn, end, find again          identity   who servers run as
    folder     what lies where, and its owner  server, postgres, valkey   one server
    stack      both servers of a folder        supervise  keeps workers running
    service    `up` and `down`

Imports errors, settings and telemetry only.
"""

from __future__ import annotations

from datashunt.embedded.folder import Urls
from datashunt.embedded.service import down, exports, up
from datashunt.embedded.stack import Stack, running
from datashunt.embedded.supervise import Command, Supervisor, worker_commands

__all__ = ["Command", "Stack", "Supervisor", "Urls", "down", "exports", "running", "up", "worker_commands"]
