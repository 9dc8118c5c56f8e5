# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""The compiled core's counters and histograms, of one client.

Law: the same names, arguments and results as ``_pymeter.py``. Every addition is one atomic one,
so any thread may make it, and none is lost. Times are read on the leases' clock.
"""

cimport cython
from libc.string cimport memset

from itertools import repeat

from ._metrics import BOUNDS, COUNTERS, TIMES

__all__ = ["Meter"]

cdef extern from "_posix.h":
    double fl_clock() nogil

if (
    len(COUNTERS) != FL_COUNTERS or len(TIMES) != FL_TIMES or len(BOUNDS) != FL_BOUNDS
    or any(fl_bounds[place] != BOUNDS[place] for place in range(FL_BOUNDS))
):
    raise ImportError("_meter.h and _metrics.py do not say the same")


@cython.final
cdef class Meter:
    """What a client has done, how often and how long."""

    def __reduce__(self):
        raise TypeError("what belongs to a client cannot be pickled or copied")

    def count(self, int which, fl_count_t many=1):
        """Add to one of COUNTERS."""
        if not 0 <= which < FL_COUNTERS:
            raise IndexError("no such counter")
        fl_add(&self.data.counters[which], many)

    def time(self, int which, double seconds, fl_count_t many=1):
        """Add to one of TIMES; nothing for what is no time: not a number, or for ever."""
        if not 0 <= which < FL_TIMES:
            raise IndexError("no such histogram")
        fl_time(&self.data, which, seconds, many)

    def now(self):
        """The time, in seconds."""
        return fl_clock()

    @property
    def ticks(self):
        """For the Python core's Straight, which goes over TLS: always True."""
        return repeat(True)

    @property
    def frees(self):
        """As ``ticks``."""
        return repeat(True)

    def sample(self, double sent_at):
        """As ``took``."""
        self.took(sent_at)

    def held(self, lease, double sent_at):
        """As ``freed``."""
        self.freed(lease, sent_at)

    def took(self, double sent_at):
        """A try that was sent then has just taken its lock."""
        fl_add(&self.data.counters[FL_ACQUIRED], 1)
        fl_time(&self.data, FL_TRIP, fl_clock() - sent_at, 1)

    def refused(self, double sent_at):
        """A try that was sent then has just found its lock held."""
        fl_add(&self.data.counters[FL_REFUSED], 1)
        fl_time(&self.data, FL_TRIP, fl_clock() - sent_at, 1)

    def freed(self, lease, double sent_at):
        """A release that was sent then has just freed its lease."""
        fl_add(&self.data.counters[FL_RELEASED], 1)
        fl_time(&self.data, FL_TRIP, fl_clock() - sent_at, 1)
        fl_time(&self.data, FL_HOLD, sent_at - <double>lease.began(), 1)

    def answered(self, double sent_at):
        """Whatever was sent then has just been answered."""
        fl_time(&self.data, FL_TRIP, fl_clock() - sent_at, 1)

    def waited(self, double since):
        """An acquire that has waited since then waits no more."""
        fl_time(&self.data, FL_WAIT, fl_clock() - since, 1)

    def counts(self):
        """All of COUNTERS."""
        return [fl_read(&self.data.counters[which]) for which in range(FL_COUNTERS)]

    def times(self, int which):
        """One of TIMES: how often in each bucket, and seconds in all."""
        if not 0 <= which < FL_TIMES:
            raise IndexError("no such histogram")
        buckets = [fl_read(&self.data.buckets[which][place]) for place in range(FL_BOUNDS + 1)]
        return buckets, fl_read(&self.data.sums[which]) * 1e-9

    def forked(self):
        """In a forked child: what was counted is the parent's."""
        memset(&self.data, 0, sizeof(self.data))
