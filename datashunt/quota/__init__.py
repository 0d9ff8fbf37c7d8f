"""The LLM quota that all processes and hosts share: Lua scripts on Redis or Valkey. Imports errors only.

limits      what is limited, and what an acquire brings       turns    whose turn it is, pure
allowance   the store                                         *.lua    the atomic steps
"""

from datashunt.quota.allowance import BURST_S, LATE_S, STATED_S, WINDOW_S, Quota
from datashunt.quota.limits import Busy, Limits, Refused, Slot
from datashunt.quota.turns import ALONE, Turn, in_turn

__all__ = [
    "ALONE",
    "BURST_S",
    "LATE_S",
    "STATED_S",
    "WINDOW_S",
    "Busy",
    "Limits",
    "Quota",
    "Refused",
    "Slot",
    "Turn",
    "in_turn",
]
