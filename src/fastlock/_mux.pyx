# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
# cython: freethreading_compatible=True
"""Many callers, one socket: the part of the compiled Pipe that runs without the GIL.

Law: what ``_pymux.py`` does, in C; it knows RESP, sockets and time. Only making a Mux touches
Python objects; nothing here ever takes the GIL.
"""

cimport cython
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy

from fastlock._codec cimport (
    Reply,
    close_codec,
    feed_codec,
    free_chain,
    free_reply,
    is_aggregate,
    next_replies,
    open_codec,
    split_reply,
)
from fastlock._hiredis cimport REDIS_REPLY_INTEGER, REDIS_REPLY_PUSH

from ._resp import MALFORMED, MAX_ANSWER, MAX_LINE, NO_ANSWER, TOO_MUCH

__all__ = ["Mux"]

cdef extern from "_posix.h":
    int pthread_mutex_init(pthread_mutex_t *, void *) nogil
    int pthread_mutex_destroy(pthread_mutex_t *) nogil
    int pthread_mutex_lock(pthread_mutex_t *) nogil
    int pthread_mutex_unlock(pthread_mutex_t *) nogil
    int fl_parker_init(fl_parker *) nogil
    void fl_parker_destroy(fl_parker *) nogil
    void fl_park(fl_parker *, long long) nogil
    void fl_unpark(fl_parker *) nogil
    long long fl_now() nogil
    int fl_poll(int, int, long long) nogil
    void fl_receive_slice(int, long) nogil
    void fl_reset_on_close(int) nogil
    void fl_raise_flag(int *) nogil
    int fl_flag(const int *) nogil
    void errno_set(int) nogil
    ssize_t send(int, const void *, size_t, int) nogil
    ssize_t recv(int, void *, size_t, int) nogil
    int close(int) nogil
    enum:
        MSG_DONTWAIT
        MSG_NOSIGNAL
        POLLIN
        POLLOUT
        POLLERR
        POLLHUP

cdef enum:
    CHUNK = 65536           # bytes a receive takes at most
    # While the leader reads, a caller writes at once what has queued if at most so many
    # commands are unanswered, or if what has queued is at least one part in so many of
    # them; less than that leaves together with what comes next.
    FLUSH_FEW = 4
    FLUSH_PART = 2
    # The leader, while it wakes owners, writes after each of so many portions of them, none
    # larger than so much, what those already awake have queued again.
    WAKE_PORTIONS = 4
    WAKE_AT_MOST = 16

# Longest a leader sits in one receive, in ns: bounds how late the main thread runs a
# signal's handler, or a leader notices that the Pipe was ended by somebody else.
cdef long long SLICE = 50_000_000


@cython.auto_pickle(False)
cdef class Mux:
    """The queue of a Pipe, its places in the order of answers, its leader and its writer.

    A caller queues its bytes and its place. If nobody reads, it becomes the leader:
    it writes what is queued, reads, and hands every reply to the owner of the oldest
    unanswered place, until its own is complete; then the next waiting caller leads.
    A lone caller therefore does its own I/O: one send and one receive.
    """
    def __cinit__(self, sock):
        self.fd = -1
        pthread_mutex_init(&self.mutex, NULL)
        open_codec(&self.codec)
        self.chunk = <char *>malloc(CHUNK)
        if self.chunk == NULL:
            raise MemoryError()
        sock.setblocking(True)
        self.fd = sock.detach()
        fl_receive_slice(self.fd, SLICE // 1000)

    def __dealloc__(self):
        cdef Place *place
        if self.fd >= 0:
            close(self.fd)
        self.fail(NULL, 0)
        while self.kept != NULL:
            place = self.kept
            self.kept = place.next
            self.recycle(place)
        while self.spare != NULL:
            place = self.spare
            self.spare = place.next
            fl_parker_destroy(&place.parker)
            free(place)
        close_codec(&self.codec)
        free(self.chunk)
        free(self.out.data)
        free(self.wire.data)
        pthread_mutex_destroy(&self.mutex)

    # -- bookkeeping: the mutex is held throughout, except where it says otherwise

    cdef Outcome enter(
        self, const char *text, size_t size, int count, Place **made
    ) noexcept nogil:
        """ANSWERED here means: queued."""
        cdef Place *place
        if self.ended:
            return ENDED
        place = self.new_place()
        if place == NULL:
            return NO_MEMORY
        if not append(&self.out, text, size):
            self.recycle(place)
            return NO_MEMORY
        self.users += 1
        made[0] = place
        place.want = count
        place.begin = self.queued
        if count == 0 and self.head == NULL:
            place.state = DONE
            return ANSWERED
        self.queued += size
        if self.tail == NULL:
            self.head = place
        else:
            self.tail.next = place
        self.tail = place
        self.unanswered += 1
        self.waiting += 1
        return ANSWERED

    cdef bint leave(self, Place *place, Reply **chain) noexcept nogil:
        """Hand over what has arrived; tell whether a byte of the command may be out."""
        cdef bint sent
        if place == NULL:
            return False
        # What is abandoned leaves later; what is being written may have left already.
        sent = place.state == WAITING or place.begin < self.written + (
            <long long>(self.wire.size - self.wire.start) if self.writing else 0
        )
        chain[0] = place.first
        place.first = place.last = NULL
        if place.state == WAITING:
            place.state = ABANDONED
        else:
            self.recycle(place)
        self.users -= 1
        if not self.leading:
            self.let_lead()
        self.close_if_unused()
        return sent

    cdef void fail(self, const char *reason, int error, bint reset=True) noexcept nogil:
        """End the Pipe: every unanswered place fails. The first reason stays; so does an RST."""
        cdef Place *place = self.head
        cdef Place *next
        if not self.ended:
            self.reason = reason
            self.error = error
        if reset:
            self.reset_on_close = True
        fl_raise_flag(&self.ended)
        self.head = self.tail = NULL
        self.unanswered = 0
        while place != NULL:
            next = place.next
            if place.state == ABANDONED:
                self.recycle(place)
            else:
                place.state = FAILED
                fl_unpark(&place.parker)
            place = next

    cdef void close_if_unused(self) noexcept nogil:
        if self.ended and self.users == 0 and self.fd >= 0:
            if self.reset_on_close:
                fl_reset_on_close(self.fd)
            close(self.fd)
            self.fd = -1

    cdef Place *new_place(self) noexcept nogil:
        cdef Place *place = self.spare
        if place != NULL:
            self.spare = place.next
        else:
            place = <Place *>calloc(1, sizeof(Place))
            if place == NULL:
                return NULL
            if fl_parker_init(&place.parker) != 0:
                free(place)
                return NULL
        place.next = NULL
        place.number = 0
        place.got = 0
        place.state = WAITING
        place.away = False
        return place

    cdef void recycle(self, Place *place) noexcept nogil:
        free_chain(place.first)
        place.first = place.last = NULL
        place.next = self.spare
        self.spare = place

    cdef void file_away(self, Place *place) noexcept nogil:
        """A deferred command is answered."""
        self.done = place.number
        if place.first.kind == REDIS_REPLY_INTEGER and place.first.integer == place.usual:
            self.recycle(place)
            return
        if is_aggregate(place.first.kind) or place.first.size > c_max_line:
            self.recycle(place)
            self.fail(no_answer, 0)
            return
        place.next = NULL
        if self.kept == NULL:
            self.kept = place
        else:
            self.last_kept.next = place
        self.last_kept = place

    cdef void let_lead(self) noexcept nogil:
        """Nobody leads: wake the one whose answer comes last, who will lead longest."""
        cdef Place *place = self.tail
        if place == NULL:
            return
        if place.state != WAITING or place.away:
            place = self.head
            while place != NULL and (place.state != WAITING or place.away):
                place = place.next
            if place == NULL:
                return
        # It wants the mutex at once: signal without it.
        pthread_mutex_unlock(&self.mutex)
        fl_unpark(&place.parker)
        pthread_mutex_lock(&self.mutex)

    # -- waiting, writing, reading: the mutex is held at start and end, not in between

    cdef Outcome wait(self, Place *place, long long deadline, bint main) noexcept nogil:
        """Lead if nobody does, else sleep until woken."""
        cdef long long remaining
        place.away = False
        while place.state == WAITING:
            if self.ended:  # a fork in a signal handler: the child's copy of this call
                place.state = FAILED
                break
            remaining = deadline - fl_now()
            if remaining <= 0:
                return TIMED_OUT
            if not self.leading:
                self.leading = True
                place.away = self.lead(place, deadline, main)
                self.leading = False
                if place.away:
                    self.let_lead()
                    return SIGNALS
                continue
            if self.reading and (
                self.unanswered <= FLUSH_FEW or self.waiting * FLUSH_PART >= self.unanswered
            ):
                self.flush()
                if place.state != WAITING or not self.leading:
                    continue
            if main and remaining > SLICE:
                remaining = SLICE
            pthread_mutex_unlock(&self.mutex)
            fl_park(&place.parker, remaining)
            pthread_mutex_lock(&self.mutex)
            if main and place.state == WAITING and self.leading:
                place.away = True
                return SIGNALS
        return ANSWERED if place.state == DONE else ENDED

    cdef bint lead(self, Place *place, long long deadline, bint main) noexcept nogil:
        """Read for everybody until ``place`` is answered. True: signals may be pending."""
        cdef bint blocked
        cdef long long wait
        cdef ssize_t got
        cdef int error
        while place.state == WAITING and not self.ended:
            blocked = self.flush()
            if place.state != WAITING:
                break
            wait = deadline - fl_now()
            if wait <= 0:
                break
            if wait > SLICE:
                wait = SLICE
            self.reading = True
            pthread_mutex_unlock(&self.mutex)
            got = self.receive(wait, blocked)
            error = errno
            if got > 0:
                self.digest(got)
                continue
            pthread_mutex_lock(&self.mutex)
            self.reading = False
            if got == 0:
                self.fail(b"the server closed the connection", 0)
            elif error != EAGAIN and error != EINTR:
                self.fail(NULL, error)
            elif main:
                return True
        return False

    cdef ssize_t receive(self, long long wait, bint blocked) noexcept nogil:
        """Mutex not held, leader only. As recv(2); EAGAIN after ``wait`` ns without a byte."""
        if blocked or wait < SLICE:
            if not fl_poll(self.fd, POLLIN | POLLOUT if blocked else POLLIN, wait) & (
                POLLIN | POLLERR | POLLHUP
            ):
                errno_set(EAGAIN)
                return -1
        return recv(self.fd, self.chunk, CHUNK, 0)

    cdef void digest(self, size_t size) noexcept nogil:
        """Leader only; takes the mutex. Each answer belongs to the oldest unanswered place."""
        cdef Reply *reply
        cdef Reply *chain = NULL
        cdef Place *place
        cdef Place *to_wake = NULL
        cdef size_t spent = self.codec.spent
        cdef int complete = 0
        cdef int status = -1
        if feed_codec(&self.codec, self.chunk, size):
            status = next_replies(&self.codec, &chain)
        self.held += self.codec.spent - spent
        pthread_mutex_lock(&self.mutex)
        self.reading = False
        while chain != NULL:
            place = self.head
            if place == NULL or chain.kind == REDIS_REPLY_PUSH or (
                chain.times <= place.want - place.got
            ):
                reply = chain
                chain = reply.next
                reply.next = NULL
            else:
                reply = split_reply(chain, place.want - place.got)
                if reply == NULL:
                    self.fail(b"out of memory", 0)
                    free_chain(chain)
                    break
            if reply.kind == REDIS_REPLY_PUSH:
                free_reply(reply)
                continue
            if place == NULL:
                free_reply(reply)
                self.fail(b"the server answered what nobody had asked", 0)
                continue
            if place.last == NULL:
                place.first = reply
            else:
                place.last.next = reply
            place.last = reply
            place.got += <int>reply.times
            while place != NULL and place.got == place.want:
                self.head = place.next
                if self.head == NULL:
                    self.tail = NULL
                self.unanswered -= 1
                self.held = 0
                if place.number:
                    self.file_away(place)
                elif place.state == ABANDONED:
                    self.recycle(place)
                else:
                    place.state = DONE
                    place.next_to_wake = to_wake
                    to_wake = place
                    complete += 1
                place = self.head  # which may be waiting for this, and nothing else
        if status < 0:
            self.fail(malformed, 0)
        elif self.held > c_max_answer:
            self.fail(too_much, 0)
        if to_wake != NULL and (to_wake.next_to_wake != NULL or self.users > 1):
            self.wake(to_wake, complete)

    cdef void wake(self, Place *to_wake, int count) noexcept nogil:
        """Wake ``count`` owners; what those already awake have queued leaves meanwhile."""
        cdef Place *place
        cdef int portion = min(max(count // WAKE_PORTIONS, 1), WAKE_AT_MOST)
        cdef int woken
        while to_wake != NULL:
            # Woken threads want the mutex at once: signal without it.
            pthread_mutex_unlock(&self.mutex)
            woken = 0
            while to_wake != NULL and woken < portion:
                place = to_wake
                to_wake = place.next_to_wake
                fl_unpark(&place.parker)
                woken += 1
            pthread_mutex_lock(&self.mutex)
            self.flush()

    cdef bint flush(self) noexcept nogil:
        """Write what is queued, without blocking. True: the socket's buffer is full."""
        cdef Buffer taken
        cdef ssize_t wrote
        cdef int error
        while not self.writing and not self.ended:
            if self.wire.start == self.wire.size:
                if self.out.size == 0:
                    break
                taken = self.out
                self.out = self.wire
                self.out.start = self.out.size = 0
                self.waiting = 0
                self.wire = taken
            self.writing = True
            pthread_mutex_unlock(&self.mutex)
            wrote = send(
                self.fd,
                self.wire.data + self.wire.start,
                self.wire.size - self.wire.start,
                MSG_DONTWAIT | MSG_NOSIGNAL,
            )
            error = errno
            pthread_mutex_lock(&self.mutex)
            self.writing = False
            if wrote >= 0:
                self.wire.start += wrote
                self.written += wrote
            elif error == EAGAIN:
                return True
            elif error != EINTR:
                self.fail(NULL, error)
        return False

    cdef bint exchange(
        self, const char *text, size_t size, int count, long long patience, const int *stop,
        Reply **chain
    ) noexcept nogil:
        """As ``call``, for a thread without Python's state. The mutex is not held.

        False: not all is answered; ``chain`` has what is. No answer within ``patience`` ns
        ends the Pipe; ``stop``, once set, only the waiting, soon.
        """
        cdef Place *place = NULL
        cdef long long deadline = fl_now() + patience
        cdef Outcome outcome
        pthread_mutex_lock(&self.mutex)
        outcome = self.enter(text, size, count, &place)
        if outcome == ANSWERED:
            outcome = TIMED_OUT
        while outcome == TIMED_OUT and not fl_flag(stop):
            if fl_now() >= deadline:
                self.fail(b"no answer in time", 0)
                break
            outcome = self.wait(place, min(deadline, fl_now() + SLICE), False)
        self.leave(place, chain)
        pthread_mutex_unlock(&self.mutex)
        return outcome == ANSWERED


cdef bint append(Buffer *buffer, const char *text, size_t size) noexcept nogil:
    cdef size_t room
    cdef char *grown
    if size == 0:  # nor may memcpy be given NULL
        return True
    if buffer.size + size > buffer.room:
        room = 2 * buffer.room + size + 1024
        grown = <char *>realloc(buffer.data, room)
        if grown == NULL:
            return False
        buffer.data = grown
        buffer.room = room
    memcpy(buffer.data + buffer.size, text, size)
    buffer.size += size
    return True


cdef size_t c_max_answer = MAX_ANSWER
cdef size_t c_max_line = MAX_LINE
cdef bytes malformed_text = MALFORMED.encode()
cdef const char *malformed = malformed_text
cdef bytes too_much_text = TOO_MUCH.encode()
cdef const char *too_much = too_much_text
cdef bytes no_answer_text = NO_ANSWER.encode()
cdef const char *no_answer = no_answer_text
