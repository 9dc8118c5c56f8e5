/* COUNT keys acquired and released in two pipelines, on libhiredis' own formatter. */
#include "hiredis_pairs.h"

static struct tokens tokens;
static char *keys, *held;

static void collect(int type, const char *what) {
    for (int i = 0; i < count; i++) {
        void *reply = NULL;
        if (redisGetReply(connection, &reply) != REDIS_OK) die("redisGetReply");
        check(reply, type, what);
    }
}

static void queue(struct arguments list) {
    if (redisAppendCommandArgv(connection, list.count, list.text, list.size) != REDIS_OK)
        die("redisAppendCommandArgv");
}

static void batch(void) {
    for (int i = 0; i < count; i++) {
        fresh(&tokens, held + i * TOKEN);
        queue(acquire_arguments(keys + i * KEY, held + i * TOKEN));
    }
    collect(REDIS_REPLY_STATUS, "SET refused");
    for (int i = 0; i < count; i++) queue(release_arguments(keys + i * KEY, held + i * TOKEN));
    collect(REDIS_REPLY_INTEGER, "release refused");
}

static void measure(struct order order, struct outcome *done) {
    double began = now(), cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    long batches = 0;
    do
        batch(), batches++;
    while (order.mode == 'n' ? batches < (long)order.amount : now() - began < order.amount);
    done->pairs = batches * count;
    done->seconds = now() - began;
    done->cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

int main(int argc, char **argv) {
    arguments(argc, argv);
    open_tokens(&tokens);
    keys = malloc((size_t)count * KEY);
    held = malloc((size_t)count * TOKEN);
    for (int i = 0; i < count; i++) key_of(i, keys + i * KEY);
    open_connection();
    serve(measure);
    return 0;
}
