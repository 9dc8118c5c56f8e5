# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, cdivision=True
# cython: freethreading_compatible=True
"""The compiled core's heartbeat: repeats what has to be said in time, without the GIL.

Law: the same names, arguments, results and errors as ``_pyheartbeat.py``; it knows bytes,
usual replies, periods and deadlines, and no lock words. Its thread is not Python's and never
takes the GIL; nobody takes the GIL while holding the mutex.

Times are seconds on the leases' clock (``fl_clock``), which runs on during suspend; sleeps do
not, so nobody sleeps longer than NAP while anything is to be done.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_GET_SIZE
from cpython.long cimport PyLong_CheckExact
from libc.math cimport INFINITY
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from fastlock._beats cimport *
from fastlock._codec cimport Reply, free_chain, free_reply, values_of
from fastlock._hiredis cimport REDIS_REPLY_ERROR
from fastlock._mux cimport Mux

from ._core import Pipe

__all__ = ["Beat", "Heartbeat"]

cdef extern from "_threads.h":
    ctypedef struct pthread_t:
        pass
    ctypedef struct pthread_mutex_t:
        pass
    ctypedef struct pthread_cond_t:
        pass
    int pthread_mutex_init(pthread_mutex_t *, void *) nogil
    int pthread_mutex_destroy(pthread_mutex_t *) nogil
    int pthread_mutex_lock(pthread_mutex_t *) nogil
    int pthread_mutex_unlock(pthread_mutex_t *) nogil
    int pthread_cond_destroy(pthread_cond_t *) nogil
    int pthread_cond_broadcast(pthread_cond_t *) nogil
    int pthread_join(pthread_t, void **) nogil
    int fl_bell_init(pthread_cond_t *) nogil
    void fl_bell_wait(pthread_cond_t *, pthread_mutex_t *, long long) nogil
    int fl_thread_start(pthread_t *, void *(*)(void *) noexcept nogil, void *) nogil
    void fl_thread_name(const char *) nogil
    double fl_steady() nogil

cdef extern from "_posix.h":
    void fl_raise_flag(int *) nogil
    int fl_flag(const int *) nogil
    double fl_clock() nogil

cdef enum:
    BATCH = 1000        # most that leaves in one write: others' commands come in between

cdef double LEAST_PATIENCE = 1.0    # s that an answer may always take
cdef double NAP = 1.0   # s: how late the end of a suspend may be noticed
cdef double NOTHING_TO_DO = 3600.0

cdef enum Asking:
    CONNECTED, ASKING, ASKED


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
cdef class Heartbeat:
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
    cdef pthread_mutex_t mutex
    cdef pthread_cond_t bell        # wakes the thread
    cdef pthread_cond_t told        # wakes who waits for news
    cdef pthread_cond_t landed      # wakes who waits for an answer
    cdef pthread_t thread
    cdef bint running
    cdef int stopped
    cdef int epoch                  # of forks
    cdef double patience
    cdef double wakes               # when the thread looks again by itself
    cdef Heap due
    cdef Heap ends
    cdef long long numbers
    cdef Entry *first_news
    cdef Entry *last_news
    cdef void *pipe                 # NULL: none, or it has ended
    cdef void *used                 # by the thread, now
    cdef list pipes                 # keeps both alive
    cdef Asking asking
    cdef Entry **batch              # the thread's
    cdef char *wire                 # the thread's
    cdef size_t room

    def __cinit__(self, double patience):
        pthread_mutex_init(&self.mutex, NULL)
        fl_bell_init(&self.bell)
        fl_bell_init(&self.told)
        fl_bell_init(&self.landed)
        self.patience = patience
        self.asking = CONNECTED
        self.pipes = []
        self.batch = <Entry **>malloc(BATCH * sizeof(Entry *))
        if self.batch == NULL:
            raise MemoryError()

    def __dealloc__(self):
        self.halt()
        self.wait_for_end()
        free(self.due.items)
        free(self.ends.items)
        free(self.batch)
        free(self.wire)
        pthread_cond_destroy(&self.landed)
        pthread_cond_destroy(&self.told)
        pthread_cond_destroy(&self.bell)
        pthread_mutex_destroy(&self.mutex)

    def __reduce__(self):
        raise TypeError("a Heartbeat cannot be pickled or copied")

    @property
    def count(self):
        """How many entries there are."""
        return self.ends.count

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

    # -- bookkeeping: the mutex is held throughout, except where it says otherwise

    cdef void halt(self) noexcept nogil:
        """The mutex is not held."""
        pthread_mutex_lock(&self.mutex)
        fl_raise_flag(&self.stopped)
        pthread_cond_broadcast(&self.bell)
        pthread_cond_broadcast(&self.told)
        pthread_cond_broadcast(&self.landed)
        pthread_mutex_unlock(&self.mutex)

    cdef void wait_for_end(self) noexcept nogil:
        """The mutex is not held."""
        cdef pthread_t thread
        cdef bint running
        pthread_mutex_lock(&self.mutex)
        running = self.running and fl_flag(&self.stopped)
        thread = self.thread
        if running:
            self.running = False
        pthread_mutex_unlock(&self.mutex)
        if running:
            pthread_join(thread, NULL)

    cdef bint start(self) noexcept nogil:
        if fl_flag(&self.stopped):
            return False
        if not self.running:
            self.running = fl_thread_start(&self.thread, body, <void *>self) == 0
        return self.running

    cdef void plan(self, Entry *entry, double due) noexcept nogil:
        if entry.removed or entry.keys[END] == INFINITY:  # it has ended
            return
        entry.keys[DUE] = INFINITY if entry.paused or entry.flying else due
        sift(&self.due, DUE, entry)

    cdef void tell(self, Entry *entry, News news) noexcept nogil:
        entry.news = news
        if not entry.listed:
            entry.listed = True
            entry.next_news = NULL
            if self.first_news == NULL:
                self.first_news = entry
            else:
                self.last_news.next_news = entry
            self.last_news = entry
        pthread_cond_broadcast(&self.told)

    cdef void finish(self, Entry *entry, News news) noexcept nogil:
        """It has ended; it stays until its owner removes it."""
        entry.keys[DUE] = entry.keys[END] = INFINITY
        sift(&self.due, DUE, entry)
        sift(&self.ends, END, entry)
        self.tell(entry, news)

    cdef void look_for_ends(self) noexcept nogil:
        cdef double now = fl_clock()
        cdef Entry *entry
        while self.ends.count:
            entry = self.ends.items[0]
            if entry.keys[END] > now:
                return
            if entry.deadline > now:  # it has moved since
                entry.keys[END] = entry.deadline
                sift(&self.ends, END, entry)
            else:
                self.finish(entry, EXPIRED)

    # -- the thread

    cdef void run(self) noexcept nogil:
        cdef double now, pause
        fl_thread_name(b"fl-heartbeat")
        pthread_mutex_lock(&self.mutex)
        while not fl_flag(&self.stopped):
            now = fl_clock()
            pause = NOTHING_TO_DO
            if self.due.count:
                pause = min(self.due.items[0].keys[DUE] - now, NAP)
            if pause <= 0:
                if self.pipe != NULL:
                    self.send_due(now)
                    continue
                pause = NAP
                self.ask()
            self.wakes = now + pause
            fl_bell_wait(&self.bell, &self.mutex, <long long>(1e9 * pause) + 1)
            self.wakes = 0
        pthread_mutex_unlock(&self.mutex)

    cdef void ask(self) noexcept nogil:
        if self.asking == CONNECTED:
            self.asking = ASKING
            pthread_cond_broadcast(&self.told)

    cdef void send_due(self, double now) noexcept nogil:
        """Everything that is due, up to BATCH; the mutex is not held in between."""
        cdef Entry *entry
        cdef Reply *chain = NULL
        cdef size_t size = 0
        cdef int count = 0
        cdef double patience = self.patience
        cdef double sent_at
        cdef bint answered
        while count < BATCH:
            entry = self.due.items[0]
            if entry.keys[DUE] > now:
                break
            entry.keys[DUE] = INFINITY
            if now < entry.deadline and now < entry.until:
                if entry.deadline > now + entry.span:  # it would be shortened
                    entry.keys[DUE] = entry.deadline - entry.span
                elif not self.write(entry, &size):
                    entry.keys[DUE] = retry_due(entry, now)
                else:
                    entry.flying = True
                    entry.expected = entry.usual
                    self.batch[count] = entry
                    count += 1
                    patience = min(patience, max(entry.period, LEAST_PATIENCE))
            sift(&self.due, DUE, entry)
        if count == 0:
            return
        self.used = self.pipe
        pthread_mutex_unlock(&self.mutex)
        sent_at = fl_clock()
        answered = (<Mux>self.used).exchange(
            self.wire, size, count, <long long>(1e9 * patience), &self.stopped, &chain
        )
        now = fl_clock()
        pthread_mutex_lock(&self.mutex)
        self.land_all(chain, count, sent_at, now)
        if not answered and self.pipe == self.used:
            self.pipe = NULL
            self.ask()
        self.used = NULL
        pthread_cond_broadcast(&self.landed)

    cdef bint write(self, Entry *entry, size_t *size) noexcept nogil:
        cdef char *grown
        if size[0] + entry.size > self.room:
            grown = <char *>realloc(self.wire, 2 * self.room + entry.size)
            if grown == NULL:
                return False
            self.wire = grown
            self.room = 2 * self.room + entry.size
        memcpy(self.wire + size[0], entry.data, entry.size)
        size[0] += entry.size
        return True

    cdef void land_all(self, Reply *chain, int count, double sent_at, double now) noexcept nogil:
        cdef int place = 0
        cdef Py_ssize_t left
        cdef Reply *reply
        cdef bint kept
        while chain != NULL:
            reply = chain
            chain = reply.next
            reply.next = NULL
            left = reply.times
            kept = False
            while left and place < count:
                kept = self.land(self.batch[place], reply, sent_at, now)
                place += 1
                left -= 1
            if not kept:
                free_reply(reply)
        while place < count:
            self.land(self.batch[place], NULL, sent_at, now)
            place += 1

    cdef bint land(self, Entry *entry, Reply *reply, double sent_at, double now) noexcept nogil:
        """What the answer (NULL: none) means. True: it is kept."""
        entry.flying = False
        if entry.removed or entry.keys[END] == INFINITY:
            if entry.gone:
                drop(entry)
            return False
        if reply != NULL and is_usual(&entry.expected, reply):
            if now < entry.deadline:
                entry.deadline = sent_at + entry.span
                entry.said = sent_at
                entry.unsure = False
                self.plan(entry, aligned(sent_at + entry.period, entry.period))
            return False
        if reply != NULL and reply.kind != REDIS_REPLY_ERROR:
            self.finish(entry, REFUSED)
            return False
        entry.unsure = True
        self.plan(entry, retry_due(entry, now))
        if reply == NULL:
            return False
        free_chain(entry.answer)
        entry.answer = reply
        self.tell(entry, TROUBLE)
        return True


cdef object by_add = object()


cdef void *body(void *heart) noexcept nogil:
    (<Heartbeat>heart).run()
    return NULL


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
