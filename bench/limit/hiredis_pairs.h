/* The two commands on libhiredis, in its two spellings: a list of arguments, or a format. */
#include "common.h"
#include <hiredis.h>

static redisContext *connection;

static void open_connection(void) {
    connection = redisConnect("127.0.0.1", port);
    if (!connection || connection->err) die("redisConnect");
}

static void check(redisReply *reply, int type, const char *what) {
    if (!reply || reply->type != type || (type == REDIS_REPLY_INTEGER && reply->integer != 1)) {
        if (reply && reply->str) what = reply->str;
        refuse(what, strlen(what));
    }
    freeReplyObject(reply);
}

struct arguments {
    int count;
    const char *text[8];
    size_t size[8];
};

static void add(struct arguments *list, const char *text, size_t size) {
    list->text[list->count] = text;
    list->size[list->count++] = size;
}

static struct arguments acquire_arguments(const char *key, const char *token) {
    struct arguments list = {0};
    add(&list, "SET", 3);
    add(&list, key, KEY);
    add(&list, token, TOKEN);
    add(&list, "NX", 2);
    add(&list, "PX", 2);
    add(&list, "30000", 5);
    return list;
}

static struct arguments release_arguments(const char *key, const char *token) {
    struct arguments list = {0};
    add(&list, "EVALSHA", 7);
    add(&list, release_by, 40);
    add(&list, "1", 1);
    add(&list, key, KEY);
    add(&list, token, TOKEN);
    return list;
}

#define ACQUIRE_FORMAT "SET %b %b NX PX 30000"
#define RELEASE_FORMAT "EVALSHA %s 1 %b %b"
