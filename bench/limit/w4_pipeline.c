/* COUNT keys acquired in one write, then released in one write, RESP by hand. */
#include "common.h"

static int fd;
static struct tokens tokens;
static struct command acquire, release;
static char *keys, *held, *out;

static void batch(void) {
    size_t size = 0;
    for (int i = 0; i < count; i++) {
        memcpy(out + size, acquire.text, acquire.size);
        memcpy(out + size + acquire.key, keys + i * KEY, KEY);
        fresh(&tokens, held + i * TOKEN);
        memcpy(out + size + acquire.token, held + i * TOKEN, TOKEN);
        size += acquire.size;
    }
    send_all(fd, out, size);
    expect(fd, ACQUIRED, count);
    size = 0;
    for (int i = 0; i < count; i++) {
        memcpy(out + size, release.text, release.size);
        memcpy(out + size + release.key, keys + i * KEY, KEY);
        memcpy(out + size + release.token, held + i * TOKEN, TOKEN);
        size += release.size;
    }
    send_all(fd, out, size);
    expect(fd, RELEASED, count);
}

/* Batches until the time is over; with mode n, so many batches. */
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
    acquire = acquire_command();
    release = release_command();
    keys = malloc((size_t)count * KEY);
    held = malloc((size_t)count * TOKEN);
    out = malloc((size_t)count * sizeof acquire.text);
    for (int i = 0; i < count; i++) key_of(i, keys + i * KEY);
    fd = dial();
    serve(measure);
    return 0;
}
