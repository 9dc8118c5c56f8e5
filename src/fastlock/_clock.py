"""The one clock leases are measured on, in seconds: the core's.

Law: every lease of the process is measured on it, whichever core its client runs on.
"""

from __future__ import annotations

from ._impl import core

clock = core.clock
