/* COUNT threads, each with a connection and a key of its own, RESP by hand. */
#include "common.h"
#include <pthread.h>

struct owner {
    pthread_t thread;
    int fd;
    long pairs;
    struct tokens tokens;
    struct command acquire, release;
};

static struct owner *owners;
static struct order order;
static pthread_barrier_t begin;
static volatile int stop;

static void *work(void *argument) {
    struct owner *me = argument;
    char *token = me->acquire.text + me->acquire.token;
    pthread_barrier_wait(&begin);
    for (me->pairs = 0; order.mode == 'n' ? me->pairs < (long)order.amount : !stop; me->pairs++) {
        fresh(&me->tokens, token);
        send_all(me->fd, me->acquire.text, me->acquire.size);
        expect(me->fd, ACQUIRED, 1);
        memcpy(me->release.text + me->release.token, token, TOKEN);
        send_all(me->fd, me->release.text, me->release.size);
        expect(me->fd, RELEASED, 1);
    }
    return NULL;
}

static void measure(struct order wanted, struct outcome *done) {
    double began, cpu;
    long least = -1;
    order = wanted;
    stop = 0;
    for (int i = 0; i < count; i++)
        if (pthread_create(&owners[i].thread, NULL, work, &owners[i])) die("pthread_create");
    pthread_barrier_wait(&begin);
    began = now();
    cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    if (order.mode != 'n') {
        struct timespec pause = {.tv_sec = (time_t)order.amount};
        pause.tv_nsec = (long)(1e9 * (order.amount - (double)pause.tv_sec));
        nanosleep(&pause, NULL);
        stop = 1;
    }
    for (int i = 0; i < count; i++) {
        pthread_join(owners[i].thread, NULL);
        done->pairs += owners[i].pairs;
        if (least < 0 || owners[i].pairs < least) least = owners[i].pairs;
    }
    done->seconds = now() - began;
    done->cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
    done->least = (double)least * count / (double)done->pairs;
}

int main(int argc, char **argv) {
    arguments(argc, argv);
    owners = calloc((size_t)count, sizeof *owners);
    pthread_barrier_init(&begin, NULL, (unsigned)count + 1);
    for (int i = 0; i < count; i++) {
        struct owner *owner = &owners[i];
        open_tokens(&owner->tokens);
        owner->acquire = acquire_command();
        owner->release = release_command();
        key_of(i, owner->acquire.text + owner->acquire.key);
        key_of(i, owner->release.text + owner->release.key);
        owner->fd = dial();
    }
    serve(measure);
    return 0;
}
