/* COUNT owners with a key each on ONE connection, in one thread: whatever has been answered
 * by one read goes on with its next command, all of them in one write. */
#include "common.h"

struct owner {
    struct tokens tokens;
    struct command acquire, release;
    int holds;
};

static int fd;
static struct owner *owners;
static int *queue; /* whose answers are still to come, oldest first: a ring of COUNT */
static char *out;
static char in[65536];

static size_t put(struct owner *owner, size_t size) {
    struct command *command = owner->holds ? &owner->release : &owner->acquire;
    char *token = owner->acquire.text + owner->acquire.token;
    if (owner->holds)
        memcpy(owner->release.text + owner->release.token, token, TOKEN);
    else
        fresh(&owner->tokens, token);
    memcpy(out + size, command->text, command->size);
    return size + command->size;
}

static void measure(struct order order, struct outcome *done) {
    double began = now(), cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    long wanted = order.mode == 'n' ? (long)order.amount * count : -1, begun = count;
    size_t size = 0, have = 0;
    int first = 0, waiting = count, ending = 0;
    for (int i = 0; i < count; i++) {
        queue[i] = i;
        size = put(&owners[i], size);
    }
    send_all(fd, out, size);
    while (waiting) {
        size_t used = 0;
        int last = first + waiting;
        size = 0;
        have += receive(fd, in + have, sizeof in - have);
        while (waiting) {
            int who = queue[first % count];
            struct owner *owner = &owners[who];
            const char *text = owner->holds ? RELEASED : ACQUIRED;
            size_t length = owner->holds ? sizeof RELEASED - 1 : sizeof ACQUIRED - 1;
            if (have - used < length) break;
            if (memcmp(in + used, text, length)) refuse(in + used, have - used);
            used += length;
            first++;
            done->pairs += owner->holds;
            owner->holds = !owner->holds;
            if (!owner->holds && (ending || begun == wanted)) {
                waiting--;
                continue;
            }
            begun += !owner->holds;
            queue[last++ % count] = who;
            size = put(owner, size);
        }
        memmove(in, in + used, have - used);
        have -= used;
        first %= count;
        if (size) send_all(fd, out, size);
        if (order.mode != 'n') ending = now() - began >= order.amount;
    }
    done->seconds = now() - began;
    done->cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

int main(int argc, char **argv) {
    arguments(argc, argv);
    owners = calloc((size_t)count, sizeof *owners);
    queue = calloc((size_t)count, sizeof *queue);
    out = malloc((size_t)count * sizeof owners->release.text);
    for (int i = 0; i < count; i++) {
        struct owner *owner = &owners[i];
        open_tokens(&owner->tokens);
        owner->acquire = acquire_command();
        owner->release = release_command();
        key_of(i, owner->acquire.text + owner->acquire.key);
        key_of(i, owner->release.text + owner->release.key);
    }
    fd = dial();
    serve(measure);
    return 0;
}
