"""The LLM quota that all processes and hosts share: Lua scripts on Redis or Valkey. Imports errors only.

limits      what is limited, and what an acquire brings       turns    whose turn it is, pure
allowance   the store                                         *.lua    the atomic steps
"""

from datashunt.quota.allowance import (
    BURST_S,
    FAILURES,
    LATE_S,
    PROBE_S,
    STATED_S,
    STOPPED_S,
    WINDOW_S,
    Quota,
)
from datashunt.quota.limits import Busy, Health, Limits, Open, Refused, Slot, Verdict
from datashunt.quota.turns import ALONE, Turn, in_turn

__all__ = [
    "ALONE",
    "BURST_S",
    "FAILURES",
    "LATE_S",
    "PROBE_S",
    "STATED_S",
    "STOPPED_S",
    "WINDOW_S",
    "Busy",
    "Health",
    "Limits",
    "Open",
    "Quota",
    "Refused",
    "Slot",
    "Turn",
    "Verdict",
    "in_turn",
]
