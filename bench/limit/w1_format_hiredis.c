/* One caller, one key, on libhiredis: redisCommand with a format string. */
#include "hiredis_pairs.h"

static struct tokens tokens;
static char key[KEY];

static void pair(void) {
    char token[TOKEN];
    fresh(&tokens, token);
    check(redisCommand(connection, ACQUIRE_FORMAT, key, (size_t)KEY, token, (size_t)TOKEN),
          REDIS_REPLY_STATUS, "SET refused");
    check(redisCommand(connection, RELEASE_FORMAT, release_by, key, (size_t)KEY, token,
                       (size_t)TOKEN),
          REDIS_REPLY_INTEGER, "release refused");
}

static void measure(struct order order, struct outcome *done) { alone(order, done, pair); }

int main(int argc, char **argv) {
    arguments(argc, argv);
    open_tokens(&tokens);
    key_of(0, key);
    open_connection();
    serve(measure);
    return 0;
}
