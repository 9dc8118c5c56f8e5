# hiredis's reply parser (read.h), the only part of hiredis that is compiled in.
# Law: declarations only, and only what the compiled core uses.

cdef extern from "read.h" nogil:
    enum:
        REDIS_OK
        REDIS_REPLY_STRING
        REDIS_REPLY_ARRAY
        REDIS_REPLY_INTEGER
        REDIS_REPLY_NIL
        REDIS_REPLY_STATUS
        REDIS_REPLY_ERROR
        REDIS_REPLY_DOUBLE
        REDIS_REPLY_BOOL
        REDIS_REPLY_MAP
        REDIS_REPLY_SET
        REDIS_REPLY_ATTR
        REDIS_REPLY_PUSH
        REDIS_REPLY_BIGNUM
        REDIS_REPLY_VERB

    ctypedef struct redisReadTask:
        int type
        int idx
        void *obj
        redisReadTask *parent
        void *privdata

    ctypedef struct redisReplyObjectFunctions:
        void *(*createString)(const redisReadTask *, char *, size_t) noexcept nogil
        void *(*createArray)(const redisReadTask *, size_t) noexcept nogil
        void *(*createInteger)(const redisReadTask *, long long) noexcept nogil
        void *(*createDouble)(const redisReadTask *, double, char *, size_t) noexcept nogil
        void *(*createNil)(const redisReadTask *) noexcept nogil
        void *(*createBool)(const redisReadTask *, int) noexcept nogil
        void (*freeObject)(void *) noexcept nogil

    ctypedef struct redisReader:
        char *buf
        size_t pos
        size_t len
        redisReadTask **task
        int ridx
        void *privdata

    redisReader *redisReaderCreateWithFunctions(redisReplyObjectFunctions *fn)
    void redisReaderFree(redisReader *reader)
    int redisReaderFeed(redisReader *reader, const char *buf, size_t size)
    int redisReaderGetReply(redisReader *reader, void **reply)
