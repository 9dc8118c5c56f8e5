"""The clock of the Python core. Law: it knows of no lock, and nothing else tells the time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

#: Seconds on the one clock that leases are measured on: it never jumps and runs on while
#: the machine is suspended, so that a lease which expired then is seen to have expired.
clock: Callable[[], float]
if hasattr(time, "CLOCK_BOOTTIME"):
    clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
elif hasattr(time, "CLOCK_MONOTONIC"):  # macOS: this one includes sleep, time.monotonic() does not
    clock = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:
    clock = time.monotonic
