# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""The compiled core: the codec of ``_pack.pyx`` and ``_codec.pyx``, and Pipe.

Law: the same names, arguments, results and errors as ``_pycore.py``; it knows
RESP, sockets and time, and no lock words. Nothing that runs without the GIL
touches a Python object; nobody takes the GIL while holding a Pipe's mutex or
its leadership.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals

from fastlock._codec cimport Reply, free_chain, values_of
from fastlock._mux cimport (
    ABANDONED,
    ANSWERED,
    NO_MEMORY,
    SIGNALS,
    TIMED_OUT,
    Mux,
    Outcome,
    Place,
    pthread_mutex_t,
)

import os
import threading

from ._codec import Decoder
from ._divide import Division, slot
from ._leases import Leases
from ._pack import Numbered, pack, prepare
from .errors import TransportError

__all__ = [
    "Decoder", "Division", "Leases", "Numbered", "Pipe", "Ticket", "clock", "name", "pack",
    "prepare", "slot",
]

name = "cython"

cdef extern from "pythread.h":
    unsigned long PyThread_get_thread_ident() nogil

cdef extern from "_posix.h":
    int pthread_mutex_init(pthread_mutex_t *, void *) nogil
    int pthread_mutex_lock(pthread_mutex_t *) nogil
    int pthread_mutex_unlock(pthread_mutex_t *) nogil
    long long fl_now() nogil
    double fl_clock() nogil
    void fl_raise_flag(int *) nogil
    int fl_flag(const int *) nogil
    int close(int) nogil


def clock():
    """Seconds on the one clock that leases are measured on.

    It never jumps and runs on while the machine is suspended, where the system has one
    that does, so that a lease which expired during suspend is seen to have expired.
    """
    return fl_clock()


@cython.final
cdef class Pipe(Mux):
    """One shared, pipelined connection for many threads: leader and followers; see ``Mux``.

    Takes a plain TCP or unix socket over (``detach``). Any thread may call any method,
    and so may signal handlers: Python code never runs inside the Pipe.
    """
    def __reduce__(self):
        raise TypeError("a Pipe cannot be pickled or copied")

    # -- for callers

    @property
    def broken(self):
        """Whether the Pipe has ended; it never works again."""
        return bool(fl_flag(&self.ended))

    @property
    def owed(self):
        """How many calls have not been answered yet, abandoned ones included."""
        cdef int unanswered
        with nogil:
            pthread_mutex_lock(&self.mutex)
            unanswered = self.unanswered
            pthread_mutex_unlock(&self.mutex)
        return unanswered

    @property
    def settled(self):
        """The number of the latest deferred command that is answered; 0 if none is."""
        cdef long long done
        with nogil:
            pthread_mutex_lock(&self.mutex)
            done = self.done
            pthread_mutex_unlock(&self.mutex)
        return done

    def call(self, bytes data not None, int count, double timeout):
        """Send ``data`` (whole commands) and return their ``count`` replies, in order.

        Without data and with count 0 it waits until all that came before is answered.
        Blocks at most ``timeout`` seconds. Raises TransportError: ``sent`` says
        whether the server may have seen a byte, ``replies`` what had arrived of the
        answer, ``timed_out`` that only the time ran out and the Pipe goes on; what
        still comes of the answer is then dropped.
        """
        cdef Reply *chain = NULL
        cdef bint sent = False
        cdef Outcome outcome = self.ask(
            PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), count, timeout, &chain, &sent
        )
        if outcome == ANSWERED:
            return values_of(chain)
        raise self.failure(outcome, chain, sent)

    def ticket(self):
        """For a call of which the sending and the waiting are two steps."""
        return Ticket(self)

    def post(self, bytes data not None, int count):
        """Send ``data`` without waiting; its ``count`` replies are dropped when they come.

        Raises TransportError when the Pipe has ended.
        """
        cdef const char *text = PyBytes_AS_STRING(data)
        cdef size_t size = PyBytes_GET_SIZE(data)
        cdef Reply *nothing = NULL
        cdef Place *place = NULL
        cdef Outcome outcome
        with nogil:
            pthread_mutex_lock(&self.mutex)
            outcome = self.enter(text, size, count, &place)
            if outcome == ANSWERED:
                self.flush()
            self.leave(place, &nothing)
            pthread_mutex_unlock(&self.mutex)
        free_chain(nothing)
        if outcome == NO_MEMORY:
            raise MemoryError()
        if outcome != ANSWERED:
            raise TransportError(self.why())

    def defer(self, bytes data not None, long long usual):
        """Send one command without waiting; the command's number, counted from 1.

        The answer is forgotten if it is the integer ``usual``, else kept for ``odd()``.
        Raises TransportError when the Pipe has ended.
        """
        cdef const char *text = PyBytes_AS_STRING(data)
        cdef size_t size = PyBytes_GET_SIZE(data)
        cdef Place *place = NULL
        cdef Outcome outcome
        cdef long long number = 0
        with nogil:
            pthread_mutex_lock(&self.mutex)
            outcome = self.enter(text, size, 1, &place)
            if outcome == ANSWERED:
                self.deferred += 1
                number = place.number = self.deferred
                place.usual = usual
                place.state = ABANDONED
                self.flush()
                self.users -= 1
                if not self.leading:
                    self.let_lead()
                self.close_if_unused()
            pthread_mutex_unlock(&self.mutex)
        if outcome == NO_MEMORY:
            raise MemoryError()
        if outcome != ANSWERED:
            raise TransportError(self.why())
        return number

    def odd(self):
        """Take the unusual answers to deferred commands: (number, reply) each, oldest first."""
        cdef Place *place
        cdef Reply *reply
        cdef long long number
        found = []
        while True:
            with nogil:
                pthread_mutex_lock(&self.mutex)
                place = self.kept
                reply = NULL
                if place != NULL:
                    self.kept = place.next
                    number = place.number
                    reply = place.first
                    place.first = place.last = NULL
                    self.recycle(place)
                pthread_mutex_unlock(&self.mutex)
            if reply == NULL:
                return found
            found.append((number, values_of(reply)[0]))

    def abort(self, str reason not None):
        """End the connection at once, by RST where TCP allows; callers get ``reason``."""
        self.end(reason, True)

    def close(self):
        """End the connection; callers still waiting get a TransportError."""
        self.end("the client was closed", False)

    def forked(self):
        """In a forked child: drop the descriptor and all state, touch nothing shared."""
        # Another thread may have been in the middle of anything: what it worked on is
        # left alone, never walked or freed.
        pthread_mutex_init(&self.mutex, NULL)
        fl_raise_flag(&self.ended)
        self.told = "the connection belongs to the parent process"
        self.leading = self.reading = self.writing = False
        self.users = self.unanswered = self.waiting = 0
        self.head = self.tail = self.spare = self.kept = NULL
        self.codec.reader = NULL
        self.codec.failed = True
        self.out.data = self.wire.data = NULL
        self.out.size = self.out.room = self.wire.size = self.wire.room = self.wire.start = 0
        if self.fd >= 0:
            close(self.fd)
            self.fd = -1

    # -- for the compiled Straight, too

    cdef Outcome ask(
        self, const char *text, size_t size, int count, double timeout, Reply **chain, bint *sent
    ) except? SIGNALS:
        """``call``, in C: how it ended, what came, and whether a byte may have left.

        What a signal handler raises is raised.
        """
        cdef bint main = PyThread_get_thread_ident() == main_thread
        cdef Place *place = NULL
        cdef Outcome outcome
        cdef long long deadline
        with nogil:
            deadline = fl_now() + <long long>(timeout * 1e9)
            pthread_mutex_lock(&self.mutex)
            outcome = self.enter(text, size, count, &place)
            if outcome == ANSWERED:
                outcome = self.wait(place, deadline, main)
            if outcome != SIGNALS:
                sent[0] = self.leave(place, chain)
            pthread_mutex_unlock(&self.mutex)
        if outcome == SIGNALS:
            return self.go_on(place, deadline, main, chain, sent)
        return outcome

    cdef Outcome submit(
        self, const char *text, size_t size, int count, Place **made
    ) noexcept nogil:
        """Queue it and write what can be written; its owner waits later, and leads nobody yet."""
        cdef Outcome outcome
        pthread_mutex_lock(&self.mutex)
        outcome = self.enter(text, size, count, made)
        if outcome == ANSWERED:
            made[0].away = True
            self.flush()
            if not self.leading:
                self.let_lead()
        pthread_mutex_unlock(&self.mutex)
        return outcome

    cdef Outcome finish(
        self, Place *place, double timeout, Reply **chain, bint *sent
    ) except? SIGNALS:
        """``ask`` from after ``submit`` on."""
        cdef bint main = PyThread_get_thread_ident() == main_thread
        cdef Outcome outcome
        cdef long long deadline
        with nogil:
            deadline = fl_now() + <long long>(timeout * 1e9)
            pthread_mutex_lock(&self.mutex)
            outcome = self.wait(place, deadline, main)
            if outcome != SIGNALS:
                sent[0] = self.leave(place, chain)
            pthread_mutex_unlock(&self.mutex)
        if outcome == SIGNALS:
            return self.go_on(place, deadline, main, chain, sent)
        return outcome

    cdef Outcome go_on(
        self, Place *place, long long deadline, bint main, Reply **chain, bint *sent
    ) except? SIGNALS:
        """Run signal handlers, and wait on."""
        cdef Outcome outcome = SIGNALS
        while outcome == SIGNALS:
            try:
                PyErr_CheckSignals()
            except BaseException:
                with nogil:
                    pthread_mutex_lock(&self.mutex)
                    self.leave(place, chain)
                    pthread_mutex_unlock(&self.mutex)
                free_chain(chain[0])
                raise
            with nogil:
                pthread_mutex_lock(&self.mutex)
                outcome = self.wait(place, deadline, main)
                if outcome != SIGNALS:
                    sent[0] = self.leave(place, chain)
                pthread_mutex_unlock(&self.mutex)
        return outcome

    cdef object failure(self, Outcome outcome, Reply *chain, bint sent):
        """The error of a call that was not answered; frees the chain."""
        replies = values_of(chain)
        if outcome == NO_MEMORY:
            return MemoryError()
        timed_out = outcome == TIMED_OUT
        error = TransportError("no answer in time" if timed_out else self.why(), sent=sent)
        error.replies = replies
        error.timed_out = timed_out
        return error

    cdef int end(self, str reason, bint reset) except -1:
        with cython.critical_section(self):  # a reference, which the mutex does not guard
            if self.told is None:
                self.told = reason
        with nogil:
            pthread_mutex_lock(&self.mutex)
            self.fail(NULL, 0, reset)
            self.close_if_unused()
            pthread_mutex_unlock(&self.mutex)
        return 0

    cdef str why(self):
        if self.reason != NULL:
            return (<bytes>self.reason).decode()
        if self.error:
            return "the connection failed: " + os.strerror(self.error)
        with cython.critical_section(self):
            return self.told


@cython.final
@cython.no_gc  # it is in no cycle, and must know its Pipe to the end
cdef class Ticket:
    """One call in two steps: what several connections are to do at the same time is sent to all
    of them first, by one thread.

    Belongs to that thread. Whoever has sent it and does not wait for it calls ``leave``.
    """
    cdef Pipe pipe
    cdef Place *place  # NULL: not sent yet, or over

    def __cinit__(self, Pipe pipe not None):
        self.pipe = pipe

    def __dealloc__(self):
        self.abandon()

    def __reduce__(self):
        raise TypeError("a Ticket cannot be pickled or copied")

    def send(self, bytes data not None, int count):
        """Send ``data`` (whole commands), which has ``count`` replies, and do not wait; once.

        Raises TransportError when the Pipe has ended: nothing was sent.
        """
        cdef const char *text = PyBytes_AS_STRING(data)
        cdef size_t size = PyBytes_GET_SIZE(data)
        cdef Pipe pipe = self.pipe
        cdef Place *place = NULL
        cdef Outcome outcome
        if self.place != NULL:
            raise RuntimeError("it is sent already")
        with nogil:
            outcome = pipe.submit(text, size, count, &place)
        self.place = place
        if outcome == NO_MEMORY:
            raise MemoryError()
        if outcome != ANSWERED:
            raise TransportError(pipe.why())

    def wait(self, double timeout):
        """The replies to what was sent, in order; blocks and raises as ``Pipe.call``."""
        cdef Reply *chain = NULL
        cdef bint sent = False
        cdef Place *place = self.place
        cdef Outcome outcome
        if place == NULL:
            raise RuntimeError("nothing is under way")
        self.place = NULL
        outcome = self.pipe.finish(place, timeout, &chain, &sent)
        if outcome == ANSWERED:
            return values_of(chain)
        raise self.pipe.failure(outcome, chain, sent)

    def leave(self):
        """Wait no more, if anything is under way; what comes of it is dropped."""
        self.abandon()

    cdef void abandon(self) noexcept:
        cdef Pipe pipe = self.pipe
        cdef Place *place = self.place
        cdef Reply *nothing = NULL
        self.place = NULL
        if place == NULL:
            return
        with nogil:
            pthread_mutex_lock(&pipe.mutex)
            pipe.leave(place, &nothing)
            pthread_mutex_unlock(&pipe.mutex)
        free_chain(nothing)


cdef unsigned long main_thread


def _note_main_thread():
    global main_thread
    main_thread = threading.main_thread().ident


_note_main_thread()
os.register_at_fork(after_in_child=_note_main_thread)
