# cython: cdivision=True
# What the compiled heartbeat keeps of what it has to say, in the order of time.
# Law: C only; nothing of Python, no lock, no clock.

from libc.math cimport floor, frexp, ldexp
from libc.stdlib cimport free, realloc
from libc.string cimport memcmp

from fastlock._codec cimport Reply, free_chain
from fastlock._hiredis cimport REDIS_REPLY_INTEGER, REDIS_REPLY_STATUS, REDIS_REPLY_STRING

cdef enum:
    MOST_USUAL = 16     # bytes of a usual reply

cdef enum:  # which heap
    DUE, END

cdef enum News:
    NOTHING, REFUSED, TROUBLE, EXPIRED

cdef struct Usual:
    bint is_text
    size_t size
    char text[MOST_USUAL]
    long long number

# What is to be said again and again, until ``deadline``. All under the mutex.
cdef struct Entry:
    double keys[2]          # by heap: when to say it next; no later than its deadline
    Py_ssize_t places[2]    # in the heaps
    long long number
    char *data
    size_t size
    Usual usual
    Usual expected          # of what is under way
    double period
    double span             # from sending to the deadline that a usual reply gives
    double said             # when what was answered last had been sent
    double deadline
    double until            # nothing is sent from then on
    bint paused
    bint flying             # under way, unanswered
    bint unsure             # a try has failed since the last answer
    bint removed            # out of the heaps
    bint gone               # its Beat is: freed by who still has it
    bint listed             # in the list of news
    News news
    Reply *answer           # of TROUBLE
    Entry *next_news

cdef struct Heap:
    Entry **items
    Py_ssize_t count
    Py_ssize_t room


cdef inline double aligned(double when, double period) noexcept nogil:
    """Not later than ``when``, and the same for all that are due at about that time.

    Steps of at most a quarter of a second, and of an eighth of the period.
    """
    cdef int exponent = 0
    frexp(period / 8, &exponent)
    cdef double step = min(ldexp(1.0, exponent - 1), 0.25)
    return floor(when / step) * step


cdef inline double first_due(Entry *entry, double now) noexcept nogil:
    """Before a third of what is left is over."""
    return aligned(now + min(entry.period, max(entry.deadline - now, 0.0) / 3), entry.period)


cdef inline double retry_due(Entry *entry, double now) noexcept nogil:
    """A second later at most."""
    return aligned(now + min(entry.period / 8, 1.0), entry.period)


# ------------------------------------------------------------------ heaps, smallest key first


cdef inline bint is_before(Entry *one, Entry *other, int which) noexcept nogil:
    if one.keys[which] != other.keys[which]:
        return one.keys[which] < other.keys[which]
    return one.number < other.number


cdef inline void sift(Heap *heap, int which, Entry *entry) noexcept nogil:
    """Its key has changed: move it to where it belongs."""
    cdef Py_ssize_t place = entry.places[which]
    cdef Py_ssize_t other
    while place > 0:
        other = (place - 1) // 2
        if is_before(heap.items[other], entry, which):
            break
        heap.items[place] = heap.items[other]
        heap.items[place].places[which] = place
        place = other
    while True:
        other = 2 * place + 1
        if other >= heap.count:
            break
        if other + 1 < heap.count and is_before(heap.items[other + 1], heap.items[other], which):
            other += 1
        if is_before(entry, heap.items[other], which):
            break
        heap.items[place] = heap.items[other]
        heap.items[place].places[which] = place
        place = other
    heap.items[place] = entry
    entry.places[which] = place


cdef inline bint make_room(Heap *heap) noexcept nogil:
    cdef Entry **grown
    if heap.count == heap.room:
        grown = <Entry **>realloc(heap.items, (2 * heap.room + 16) * sizeof(Entry *))
        if grown == NULL:
            return False
        heap.items = grown
        heap.room = 2 * heap.room + 16
    return True


cdef inline void put(Heap *heap, int which, Entry *entry) noexcept nogil:
    """There is room."""
    entry.places[which] = heap.count
    heap.count += 1
    sift(heap, which, entry)


cdef inline void take_out(Heap *heap, int which, Entry *entry) noexcept nogil:
    cdef Entry *last = heap.items[heap.count - 1]
    heap.count -= 1
    if last != entry:
        last.places[which] = entry.places[which]
        sift(heap, which, last)


# ------------------------------------------------------------------ entries


cdef inline bint is_usual(Usual *usual, Reply *reply) noexcept nogil:
    if not usual.is_text:
        return reply.kind == REDIS_REPLY_INTEGER and reply.integer == usual.number
    return (
        (reply.kind == REDIS_REPLY_STATUS or reply.kind == REDIS_REPLY_STRING)
        and reply.size == usual.size
        and memcmp(<char *>(reply + 1), usual.text, usual.size) == 0
    )


cdef inline void drop(Entry *entry) noexcept nogil:
    """Nobody needs it any more, but perhaps who still has it in hand."""
    if entry.flying or entry.listed:
        entry.gone = True
        return
    free_chain(entry.answer)
    free(entry.data)
    free(entry)
