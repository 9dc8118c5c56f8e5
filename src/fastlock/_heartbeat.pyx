# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, cdivision=True
# cython: freethreading_compatible=True
"""The compiled core's heartbeat: repeats what has to be said in time, without the GIL.

Law: the same names, arguments, results and errors as ``_pyheartbeat.py``; it knows bytes,
usual replies, periods and deadlines, and no lock words. Nobody takes the GIL while holding
the mutex.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from libc.math cimport INFINITY
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from fastlock._beats cimport *
from fastlock._codec cimport Reply, values_of
from fastlock._scheduler cimport (
    ASKED,
    ASKING,
    CONNECTED,
    NAP,
    Scheduler,
    pthread_cond_t,
    pthread_mutex_t,
)

from ._core import Pipe

__all__ = ["Beat", "Heartbeat"]

cdef extern from "_threads.h":
    int pthread_mutex_init(pthread_mutex_t *, void *) nogil
    int pthread_mutex_lock(pthread_mutex_t *) nogil
    int pthread_mutex_unlock(pthread_mutex_t *) nogil
    int pthread_cond_broadcast(pthread_cond_t *) nogil
    int fl_bell_init(pthread_cond_t *) nogil
    void fl_bell_wait(pthread_cond_t *, pthread_mutex_t *, long long) nogil
    double fl_steady() nogil

cdef extern from "_posix.h":
    int fl_flag(const int *) nogil
    double fl_clock() nogil


cdef int usual_of(Usual *usual, object reply) except -1:
    if PyLong_CheckExact(reply):
        usual.is_text = False
        usual.number = reply
    elif PyBytes_CheckExact(reply) and PyBytes_GET_SIZE(reply) <= MOST_USUAL:
        usual.is_text = True
        usual.size = PyBytes_GET_SIZE(reply)
        memcpy(usual.text, PyBytes_AS_STRING(reply), usual.size)
    else:
        raise TypeError("a usual reply is an integer or at most 16 bytes")
    return 0


cdef char *text_of(bytes data) except NULL:
    cdef char *text = <char *>malloc(PyBytes_GET_SIZE(data) + 1)
    if text == NULL:
        raise MemoryError()
    memcpy(text, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    return text


def _check(double period, double span):
    if not (0 < period < INFINITY and 0 < span < INFINITY):
        raise ValueError("a period and a span are seconds above 0")


@cython.final
cdef class Heartbeat(Scheduler):
    """Says everything in time, over one Pipe: what is due together leaves in one write.

    An entry is bytes (one command), its usual reply, a period, a span, a deadline. It is
    sent every ``period``; each usual reply moves the deadline to ``span`` after the sending.
    A reply that is an error, or none, is tried again until the deadline; any other reply,
    or the deadline, ends it. Its thread starts with the first entry and reads for itself.

    Args:
        patience: seconds without an answer after which a connection is given up; for
            entries of a shorter period that one, but at least 1 second.
    """
    cdef object __weakref__
    cdef list pipes                 # keeps alive what the thread has and uses

    def __cinit__(self, double patience):
        self.pipes = []

    def __dealloc__(self):  # the thread ends before the pipes go
        self.halt()
        self.wait_for_end()

    def __reduce__(self):
        raise TypeError("a Heartbeat cannot be pickled or copied")

    @property
    def count(self):
        """How many entries there are."""
        return self.ends.count

    @property
    def renewed(self):
        """How often the usual reply has come in time."""
        cdef unsigned long long renewals
        with nogil:
            pthread_mutex_lock(&self.mutex)
            renewals = self.renewals
            pthread_mutex_unlock(&self.mutex)
        return renewals

    def add(
        self, bytes data not None, usual, double period, double span, double deadline,
        double until
    ):
        """Say ``data`` from now on; nothing is sent after ``until``. Its Beat."""
        cdef Entry *entry
        cdef Beat beat
        cdef Usual wanted
        cdef double now
        cdef bint room, running
        _check(period, span)
        usual_of(&wanted, usual)
        entry = <Entry *>calloc(1, sizeof(Entry))
        if entry == NULL:
            raise MemoryError()
        beat = Beat.__new__(Beat, by_add)
        beat.entry = entry
        beat.epoch = -1  # not ours yet
        beat.heart = self
        entry.removed = True
        entry.data = text_of(data)
        entry.size = PyBytes_GET_SIZE(data)
        entry.usual = wanted
        entry.period = period
        entry.span = span
        entry.deadline = deadline
        entry.said = deadline - span
        entry.until = until
        with nogil:
            pthread_mutex_lock(&self.mutex)
            room = make_room(&self.due) and make_room(&self.ends)
            running = room and self.start()
            if running:
                self.numbers += 1
                entry.number = self.numbers
                entry.removed = False
                now = fl_clock()
                entry.keys[DUE] = first_due(entry, now)
                entry.keys[END] = deadline
                put(&self.due, DUE, entry)
                put(&self.ends, END, entry)
                if entry.keys[DUE] < self.wakes:
                    pthread_cond_broadcast(&self.bell)
                pthread_cond_broadcast(&self.told)
            beat.epoch = self.epoch
            pthread_mutex_unlock(&self.mutex)
        if not room:
            raise MemoryError()
        if not running:
            raise RuntimeError("the heartbeat has been stopped, or cannot start a thread")
        return beat

    def attach(self, pipe):
        """Send over this Pipe from now on, and what has failed at once."""
        cdef Py_ssize_t i
        cdef Entry *entry
        cdef double now
        cdef void *used
        if type(pipe) is not Pipe:
            raise TypeError("the compiled heartbeat takes the compiled Pipe")
        with cython.critical_section(self):
            self.pipes.append(pipe)
            with nogil:
                pthread_mutex_lock(&self.mutex)
                self.pipe = <void *>pipe
                used = self.used
                self.asking = CONNECTED
                now = fl_clock()
                for i in range(self.ends.count):
                    entry = self.ends.items[i]
                    if entry.unsure and entry.keys[DUE] > now:
                        self.plan(entry, now)
                pthread_cond_broadcast(&self.bell)
                pthread_mutex_unlock(&self.mutex)
            self.pipes = [old for old in self.pipes if old is pipe or <void *>old == used]

    def wait(self, double timeout):
        """What has happened, waiting at most ``timeout`` seconds: (number, what, reply) each.

        "refused" (the reply was not the usual one), "expired" (the deadline has passed):
        the entry of that number has ended. "trouble": the reply was an error, and it goes
        on. "broken", of number 0: a Pipe is needed. Empty when time is over, or stopped.
        """
        cdef double end = fl_steady() + timeout
        cdef double pause
        cdef bint asking
        with nogil:
            pthread_mutex_lock(&self.mutex)
            while not fl_flag(&self.stopped):
                self.look_for_ends()
                if self.first_news != NULL or self.asking == ASKING:
                    break
                pause = end - fl_steady()
                if pause <= 0:
                    break
                if self.ends.count:
                    pause = min(pause, NAP, self.ends.items[0].keys[END] - fl_clock())
                fl_bell_wait(&self.told, &self.mutex, <long long>(1e9 * pause) + 1)
            asking = self.asking == ASKING
            if asking:
                self.asking = ASKED
            pthread_mutex_unlock(&self.mutex)
        return self.collect([(0, "broken", None)] if asking else [])

    def stop(self):
        """Say nothing more, ever; whoever waits for news goes on at once."""
        self.halt()

    def join(self):
        """Wait until the thread has ended, after ``stop``: soon, or when the Pipe is closed."""
        with nogil:
            self.wait_for_end()

    def forked(self):
        """In a forked child: the entries are the parent's, and so is the thread."""
        # The thread may have been in the middle of anything: what it worked on is left alone.
        pthread_mutex_init(&self.mutex, NULL)
        fl_bell_init(&self.bell)
        fl_bell_init(&self.told)
        fl_bell_init(&self.landed)
        self.epoch += 1
        self.running = False
        self.renewals = 0
        self.due.items = self.ends.items = NULL
        self.due.count = self.ends.count = self.due.room = self.ends.room = 0
        self.first_news = self.last_news = NULL
        self.pipe = self.used = NULL
        self.pipes = []
        self.asking = CONNECTED
        self.wire = NULL
        self.room = 0

    cdef list collect(self, list found):
        cdef Entry *entry
        cdef Reply *answer
        cdef News news
        cdef long long number
        while True:
            with nogil:
                pthread_mutex_lock(&self.mutex)
                entry = self.first_news
                news = NOTHING
                if entry != NULL:
                    self.first_news = entry.next_news
                    entry.listed = False
                    news = entry.news
                    entry.news = NOTHING
                    number = entry.number
                    answer = entry.answer
                    entry.answer = NULL
                    if entry.removed:
                        news = NOTHING
                    if entry.gone:
                        drop(entry)
                pthread_mutex_unlock(&self.mutex)
            if entry == NULL:
                return found
            said = values_of(answer)
            if news == REFUSED:
                found.append((number, "refused", None))
            elif news == EXPIRED:
                found.append((number, "expired", None))
            elif news == TROUBLE:
                found.append((number, "trouble", said[0]))


cdef object by_add = object()


@cython.final
@cython.no_gc  # it is in no cycle, and must know its Heartbeat to the end
cdef class Beat:
    """One entry of a Heartbeat; the entry ends with it."""
    cdef Heartbeat heart
    cdef Entry *entry
    cdef int epoch

    def __cinit__(self, made):
        if made is not by_add:
            raise TypeError("a Beat is made by Heartbeat.add()")

    def __dealloc__(self):
        if self.entry == NULL:
            return
        if self.heart is None or self.epoch != self.heart.epoch:  # made by an ancestor process
            self.entry.flying = self.entry.listed = False
            drop(self.entry)
            return
        with nogil:
            pthread_mutex_lock(&self.heart.mutex)
            self.take_out()
            drop(self.entry)
            pthread_mutex_unlock(&self.heart.mutex)

    def __reduce__(self):
        raise TypeError("a Beat cannot be pickled or copied")

    @property
    def number(self):
        """By which ``Heartbeat.wait`` names it."""
        return self.entry.number

    @property
    def deadline(self):
        """Until when it surely was said in time, in seconds."""
        cdef double deadline
        with nogil:
            self.lock()
            deadline = self.entry.deadline
            self.unlock()
        return deadline

    @deadline.setter
    def deadline(self, double deadline):
        with nogil:
            self.lock()
            self.entry.deadline = deadline
            if not self.entry.removed and self.entry.keys[END] != INFINITY:
                self.entry.keys[END] = deadline
                sift(&self.heart.ends, END, self.entry)
                pthread_cond_broadcast(&self.heart.told)
            self.unlock()

    @property
    def unsure(self):
        """Whether the latest try has failed, or an answer is long overdue."""
        cdef bint unsure
        with nogil:
            self.lock()
            unsure = self.entry.unsure or (
                fl_clock() > self.entry.said + 1.5 * self.entry.period
            )
            self.unlock()
        return bool(unsure)

    def pause(self, double timeout):
        """Send nothing from now on; whether nothing is under way, after ``timeout`` at most."""
        cdef double end = fl_steady() + timeout
        cdef double pause
        cdef bint flying
        with nogil:
            self.lock()
            self.entry.paused = True
            self.heart.plan(self.entry, INFINITY)
            while self.entry.flying and not fl_flag(&self.heart.stopped):
                pause = end - fl_steady()
                if pause <= 0:
                    break
                fl_bell_wait(&self.heart.landed, &self.heart.mutex, <long long>(1e9 * pause) + 1)
            flying = self.entry.flying and not fl_flag(&self.heart.stopped)
            self.unlock()
        return not flying

    def resume(self, bytes data not None, usual, double period, double span):
        """Go on after ``pause``, with other words: those that moved the deadline meanwhile.

        A longer span than before counts only for what surely comes after all that was
        said before: where that is unanswered, the deadline is moved back.
        """
        cdef double now
        _check(period, span)
        self.recode(data, usual)
        with nogil:
            self.lock()
            now = fl_clock()
            if self.entry.unsure and span > self.entry.span:
                self.entry.deadline -= span - self.entry.span
                if self.entry.keys[END] != INFINITY:  # it has ended
                    self.entry.keys[END] = min(self.entry.keys[END], self.entry.deadline)
            self.entry.period = period
            self.entry.span = span
            self.entry.said = max(self.entry.said, self.entry.deadline - span)
            self.entry.paused = False
            if not self.entry.removed and self.entry.keys[END] != INFINITY:
                sift(&self.heart.ends, END, self.entry)
                self.heart.plan(self.entry, first_due(self.entry, now))
                pthread_cond_broadcast(&self.heart.told)
                pthread_cond_broadcast(&self.heart.bell)
            self.unlock()

    def recode(self, bytes data not None, usual):
        """Say it in other words from now on."""
        cdef Usual wanted
        cdef char *text
        cdef size_t size = PyBytes_GET_SIZE(data)
        usual_of(&wanted, usual)
        text = text_of(data)
        with nogil:
            self.lock()
            free(self.entry.data)
            self.entry.data = text
            self.entry.size = size
            self.entry.usual = wanted
            self.unlock()

    def remove(self):
        """Say it no more; what is under way is no news any more."""
        with nogil:
            self.lock()
            self.take_out()
            self.unlock()

    cdef void take_out(self) noexcept nogil:
        if not self.entry.removed:
            take_out(&self.heart.due, DUE, self.entry)
            take_out(&self.heart.ends, END, self.entry)
            self.entry.removed = True

    cdef void lock(self) noexcept nogil:
        pthread_mutex_lock(&self.heart.mutex)
        if self.epoch != self.heart.epoch:  # made by an ancestor process: it has ended here
            self.entry.removed = True
            self.entry.flying = self.entry.listed = False

    cdef void unlock(self) noexcept nogil:
        pthread_mutex_unlock(&self.heart.mutex)
