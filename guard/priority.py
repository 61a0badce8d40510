"""Who computes when all want to: the event loop before the runs, the runs before loading and learning.

Without it every answer waits in the kernel's queue behind the computing threads: with two workers on two cores refusals
under overload took 100 ms instead of 5, and eight callers at once got a tenth fewer answers.
"""

import os
import sys
import threading
from typing import Final

RUNS: Final = 10  # steps of niceness: a tenth of the event loop's share, while both want a core
LOADING: Final = 15
LEARNING: Final = 19
_LOWEST: Final = 19


def give_way(steps: int) -> None:
    """Lower the calling thread's priority, for good; where threads have none of their own (not Linux), do nothing."""
    if sys.platform == "linux":
        own = threading.get_native_id()
        os.setpriority(os.PRIO_PROCESS, own, min(_LOWEST, os.getpriority(os.PRIO_PROCESS, own) + steps))
