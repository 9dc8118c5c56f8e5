/* One caller, one key, on libhiredis: redisCommandArgv formats, sends, receives and parses. */
#include "hiredis_pairs.h"

static struct tokens tokens;
static char key[KEY];

static void pair(void) {
    char token[TOKEN];
    struct arguments list;
    fresh(&tokens, token);
    list = acquire_arguments(key, token);
    check(redisCommandArgv(connection, list.count, list.text, list.size), REDIS_REPLY_STATUS,
          "SET refused");
    list = release_arguments(key, token);
    check(redisCommandArgv(connection, list.count, list.text, list.size), REDIS_REPLY_INTEGER,
          "release refused");
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
