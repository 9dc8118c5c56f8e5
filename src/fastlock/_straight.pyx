# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""The straight way of a sync client: one try and one release, from arguments to bytes, to the
socket and back to a lease, without a stop.

Law: the same names, arguments and results as ``_pystraight.py``. Only the usual answer is
understood here; any other is handed back as the outcome of the operation's first Call, so
that what it means still stands in ``_ops`` alone.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize

from fastlock._codec cimport Reply, free_chain, text_of, values_of
from fastlock._core cimport Pipe
from fastlock._hiredis cimport REDIS_REPLY_INTEGER, REDIS_REPLY_NIL, REDIS_REPLY_STATUS
from fastlock._leases cimport Leases
from fastlock._meter cimport (
    FL_ACQUIRED,
    FL_HOLD,
    FL_RELEASED,
    FL_TRIP,
    Meter,
    fl_add,
    fl_time,
)
from fastlock._mux cimport ANSWERED, SIGNALS, Outcome
from fastlock._pack cimport Filling, Numbered, Prepared, wire_of

from .errors import TransportError

__all__ = ["Straight"]

cdef extern from "_posix.h":
    double fl_clock() nogil

cdef enum:
    FITS = 512  # bytes of a command that is packed on the stack


@cython.final
cdef class Straight:
    """``client``'s way over one Pipe: its ``leases``, commands, tokens, prefix of keys, meter."""
    cdef object client
    cdef Leases leases
    cdef Pipe pipe
    cdef Prepared acquire, release
    cdef Numbered tokens
    cdef Meter meter  # None: nothing is counted
    cdef bytes prefix
    cdef readonly bytes freed  # the key of the latest release, and when it was sent; of any thread
    cdef readonly double freed_at

    def __cinit__(
        self,
        client,
        Leases leases not None,
        Pipe pipe not None,
        Prepared acquire not None,
        Prepared release not None,
        Numbered tokens not None,
        bytes prefix not None,
        Meter meter,
    ):
        self.client = client
        self.leases = leases
        self.pipe = pipe
        self.acquire = acquire
        self.release = release
        self.tokens = tokens
        self.prefix = prefix
        self.meter = meter
        self.freed = b""

    def __reduce__(self):
        raise TypeError("what belongs to a client cannot be pickled or copied")

    def take(self, key, ttl, double span, generation, double timeout, list trace not None):
        """A lease; None if somebody else has the lock; else (pair, sent at, reply or error).

        ``ttl`` is in ms, ``span`` in seconds from the sending to the deadline, ``timeout``
        in seconds. ``trace`` gets the pair before it is sent: for whoever is interrupted,
        perhaps with the lease on its way to him.
        """
        cdef bytes wire = wire_of(key, self.prefix)
        cdef bytes token
        cdef tuple pair
        cdef Filling filling
        cdef Reply *chain = NULL
        cdef bint sent = False
        cdef double sent_at
        cdef long long milliseconds = ttl
        cdef Outcome outcome
        token = self.tokens.one()
        pair = (wire, token)
        self.acquire.weigh(&filling, 0, wire)
        self.acquire.weigh(&filling, 1, token)
        self.acquire.weigh(&filling, 2, ttl)
        trace.append(pair)
        sent_at = fl_clock()
        outcome = self.ask(self.acquire, &filling, timeout, &chain, &sent)
        if outcome != ANSWERED:
            return pair, sent_at, self.failure(outcome, chain, sent)
        if is_ok(chain):
            free_chain(chain)
            self.tell(FL_ACQUIRED, sent_at)
            return self.leases.new(
                self.client, generation, key, pair, milliseconds / 1000.0, sent_at + span, None
            )
        if chain.kind == REDIS_REPLY_NIL:
            free_chain(chain)
            if self.meter is not None:
                fl_time(&self.meter.data, FL_TRIP, fl_clock() - sent_at, 1)
            return None
        return pair, sent_at, values_of(chain)[0]

    def free(self, lease, generation, double timeout):
        """True: freed. None: it takes more than this. Else (sent at, reply or error)."""
        cdef tuple pair
        cdef Filling filling
        cdef Reply *chain = NULL
        cdef bint sent = False
        cdef double sent_at, since = 0
        cdef Outcome outcome
        with cython.critical_section(lease):
            pair = self.leases.pair_to_free(lease, generation, &since)
        if pair is None:
            return None
        self.release.weigh(&filling, 0, pair[0])
        self.release.weigh(&filling, 1, pair[1])
        sent_at = fl_clock()
        with cython.critical_section(self):  # any thread's; who reads it does the same
            self.freed, self.freed_at = pair[0], sent_at
        outcome = self.ask(self.release, &filling, timeout, &chain, &sent)
        if outcome != ANSWERED:
            return sent_at, self.failure(outcome, chain, sent)
        if chain.kind == REDIS_REPLY_INTEGER and chain.integer == 1:
            free_chain(chain)
            self.leases.freed_by_us(lease)
            self.tell(FL_RELEASED, sent_at)
            if self.meter is not None:
                fl_time(&self.meter.data, FL_HOLD, sent_at - since, 1)
            return True
        return sent_at, values_of(chain)[0]

    cdef void tell(self, int counter, double sent_at) noexcept:
        """What was sent then has just been answered so."""
        if self.meter is not None:
            fl_add(&self.meter.data.counters[counter], 1)
            fl_time(&self.meter.data, FL_TRIP, fl_clock() - sent_at, 1)

    cdef Outcome ask(
        self, Prepared command, Filling *filling, double timeout, Reply **chain, bint *sent
    ) except? SIGNALS:
        cdef char[FITS] stack
        cdef char *text = stack
        cdef size_t size = command.size(filling)
        cdef bytes longer
        if size > FITS:
            longer = PyBytes_FromStringAndSize(NULL, size)
            text = PyBytes_AS_STRING(longer)
        command.finish(command.write(filling, text, 0, command.holes))
        return self.pipe.ask(text, size, 1, timeout, chain, sent)

    cdef object failure(self, Outcome outcome, Reply *chain, bint sent):
        error = self.pipe.failure(outcome, chain, sent)
        if type(error) is not TransportError:
            raise error
        return error


cdef inline bint is_ok(Reply *reply) noexcept nogil:
    return (
        reply.kind == REDIS_REPLY_STATUS
        and reply.size == 2
        and text_of(reply)[0] == b"O"
        and text_of(reply)[1] == b"K"
    )
