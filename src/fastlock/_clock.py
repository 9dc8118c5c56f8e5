"""The one clock leases are measured on, in seconds.

Law: it runs on while the machine is suspended and never jumps, so that a lease
that expired during suspend is seen to have expired.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

if hasattr(time, "CLOCK_BOOTTIME"):
    clock: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
elif hasattr(time, "CLOCK_MONOTONIC"):  # macOS: this one includes sleep, time.monotonic() does not
    clock = partial(time.clock_gettime, time.CLOCK_MONOTONIC)
else:
    clock = time.monotonic
