# cython: language_level=3, boundscheck=False, wraparound=False, binding=False, cdivision=True
# cython: freethreading_compatible=True
"""The thread of the compiled heartbeat, and what it keeps: sends what is due, moves deadlines.

Law: what ``_pyscheduler.py`` does, in C. Its thread is not Python's: nothing here touches a
Python object or takes the GIL. The mutex is not held while it sends and waits for answers.

Times are seconds on the leases' clock (``fl_clock``), which runs on during suspend; sleeps do
not, so nobody sleeps longer than NAP while anything is to be done.
"""

cimport cython
from libc.math cimport INFINITY
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from fastlock._beats cimport *
from fastlock._codec cimport Reply, free_chain, free_reply
from fastlock._hiredis cimport REDIS_REPLY_ERROR
from fastlock._mux cimport Mux

__all__ = ["Scheduler"]

cdef extern from "_threads.h":
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

cdef extern from "_posix.h":
    void fl_raise_flag(int *) nogil
    int fl_flag(const int *) nogil
    double fl_clock() nogil

cdef enum:
    BATCH = 1000        # most that leaves in one write: others' commands come in between

cdef double LEAST_PATIENCE = 1.0    # s that an answer may always take
cdef double NOTHING_TO_DO = 3600.0


@cython.auto_pickle(False)
cdef class Scheduler:
    """The entries of a Heartbeat in the order of time, its news, its thread."""
    def __cinit__(self, double patience):
        pthread_mutex_init(&self.mutex, NULL)
        fl_bell_init(&self.bell)
        fl_bell_init(&self.told)
        fl_bell_init(&self.landed)
        self.patience = patience
        self.asking = CONNECTED
        self.batch = <Entry **>malloc(BATCH * sizeof(Entry *))
        if self.batch == NULL:
            raise MemoryError()

    def __dealloc__(self):
        free(self.due.items)
        free(self.ends.items)
        free(self.batch)
        free(self.wire)
        pthread_cond_destroy(&self.landed)
        pthread_cond_destroy(&self.told)
        pthread_cond_destroy(&self.bell)
        pthread_mutex_destroy(&self.mutex)

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
                self.renewals += 1
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


cdef void *body(void *heart) noexcept nogil:
    (<Scheduler>heart).run()
    return NULL
