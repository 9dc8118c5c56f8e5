/* What the limit programs share: the protocol with the runner, RESP by hand, clocks.
 *
 * Law: the least work that still does the job: a fresh token for each acquisition,
 * every reply checked. No retries, no timeouts, no errors handled: any surprise ends
 * the program, so that a figure is never made of refused locks.
 *
 * Arguments of every program: PORT RELEASE COUNT
 *   RELEASE  the SHA-1 of the release script, or DELIFEQ, or DELEX
 *   COUNT    threads, owners or keys, as the workload says
 * Environment: BENCH_FIRST, the number of the first key (0), for several processes at once
 * Standard input, a line per measurement:  s SECONDS | l SECONDS (with latencies) | n PAIRS
 * Standard output: "ready", then one JSON object per measurement. End of input ends it.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { KEY = 16, TOKEN = 32, TTL_MS = 30000, BETWEEN_CLOCKS = 16 };

static int port, count, first_key;
static const char *release_by;

static void die(const char *what) {
    perror(what);
    exit(1);
}

static void refuse(const char *text, size_t size) {
    fprintf(stderr, "unexpected reply: %.*s\n", (int)size, text);
    exit(1);
}

/* Seconds. */
static double clock_of(clockid_t id) {
    struct timespec t;
    clock_gettime(id, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void) { return clock_of(CLOCK_MONOTONIC); }

/* -- keys and tokens */

static void key_of(int number, char *at) {
    char text[32];
    snprintf(text, sizeof text, "bench:key:%06d", first_key + number);
    memcpy(at, text, KEY);
}

/* 64 random bits drawn once, and a counter: one owner, no lock. */
struct tokens {
    char prefix[TOKEN / 2];
    uint64_t counter;
};

static const char HEX[] = "0123456789abcdef";

static void put_hex(uint64_t number, char *at) {
    for (int i = 15; i >= 0; i--, number >>= 4) at[i] = HEX[number & 15];
}

static void open_tokens(struct tokens *tokens) {
    uint64_t random;
    if (getrandom(&random, sizeof random, 0) != sizeof random) die("getrandom");
    put_hex(random, tokens->prefix);
    tokens->counter = 0;
}

static void fresh(struct tokens *tokens, char *at) {
    memcpy(at, tokens->prefix, TOKEN / 2);
    put_hex(++tokens->counter, at + TOKEN / 2);
}

/* -- commands by hand: a text with two holes */

struct command {
    char text[256];
    size_t size, key, token; /* the length, and where the holes are */
};

static void add_part(struct command *command, const char *part, size_t size) {
    char *end = command->text + command->size;
    int head = sprintf(end, "$%zu\r\n", size);
    if (part)
        memcpy(end + head, part, size);
    else if (size == KEY)
        command->key = command->size + (size_t)head;
    else
        command->token = command->size + (size_t)head;
    memcpy(end + head + size, "\r\n", 2);
    command->size += (size_t)head + size + 2;
}

static void add_word(struct command *command, const char *word) {
    add_part(command, word, strlen(word));
}

static void start(struct command *command, int parts) {
    command->size = (size_t)sprintf(command->text, "*%d\r\n", parts);
}

static struct command acquire_command(void) {
    struct command command;
    char ttl[16];
    snprintf(ttl, sizeof ttl, "%d", TTL_MS);
    start(&command, 6);
    add_word(&command, "SET");
    add_part(&command, NULL, KEY);
    add_part(&command, NULL, TOKEN);
    add_word(&command, "NX");
    add_word(&command, "PX");
    add_word(&command, ttl);
    return command;
}

static struct command release_command(void) {
    struct command command;
    if (!strcmp(release_by, "DELIFEQ")) {
        start(&command, 3);
        add_word(&command, "DELIFEQ");
        add_part(&command, NULL, KEY);
    } else if (!strcmp(release_by, "DELEX")) {
        start(&command, 4);
        add_word(&command, "DELEX");
        add_part(&command, NULL, KEY);
        add_word(&command, "IFEQ");
    } else {
        start(&command, 5);
        add_word(&command, "EVALSHA");
        add_word(&command, release_by);
        add_word(&command, "1");
        add_part(&command, NULL, KEY);
    }
    add_part(&command, NULL, TOKEN);
    return command;
}

/* -- the socket */

static int dial(void) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in there = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    there.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (fd < 0 || connect(fd, (struct sockaddr *)&there, sizeof there)) die("connect");
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
}

static void send_all(int fd, const char *text, size_t size) {
    while (size) {
        ssize_t sent = send(fd, text, size, MSG_NOSIGNAL);
        if (sent <= 0) die("send");
        text += sent;
        size -= (size_t)sent;
    }
}

static size_t receive(int fd, char *into, size_t room) {
    ssize_t size = recv(fd, into, room, 0);
    if (size <= 0) die("recv");
    return (size_t)size;
}

static const char ACQUIRED[] = "+OK\r\n", RELEASED[] = ":1\r\n";

/* Exactly ``times`` replies, each of them ``wanted``, and nothing after them. */
static void expect(int fd, const char *wanted, int times) {
    char buffer[65536];
    size_t size = strlen(wanted), have = 0;
    while (times) {
        size_t used = 0;
        have += receive(fd, buffer + have, sizeof buffer - have);
        for (; have - used >= size; used += size, times--)
            if (!times || memcmp(buffer + used, wanted, size)) refuse(buffer + used, have - used);
        memmove(buffer, buffer + used, have - used);
        have -= used;
    }
    if (have) refuse(buffer, have);
}

/* -- the protocol with the runner */

struct order {
    char mode;
    double amount;
};

struct outcome {
    long pairs;
    double seconds, cpu;
    double *latencies; /* seconds; with mode l, freed by serve */
    size_t latency_count;
    double least; /* of threads: the smallest count in relation to the mean */
};

/* Percentages at which latencies are kept for drawing: 0 to 99, and these. As in figures.py. */
static const double TAIL[] = {99.5, 99.9, 99.99, 100};

static double at(const struct outcome *done, double percent) {
    size_t index = (size_t)((double)done->latency_count * percent / 100);
    return done->latencies[index < done->latency_count ? index : done->latency_count - 1];
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void serve(void (*measure)(struct order, struct outcome *)) {
    struct order order;
    puts("ready");
    fflush(stdout);
    while (scanf(" %c %lf", &order.mode, &order.amount) == 2) {
        struct outcome done = {0};
        measure(order, &done);
        printf("{\"pairs\": %ld, \"seconds\": %.9f, \"cpu\": %.9f", done.pairs, done.seconds,
               done.cpu);
        if (done.latency_count) {
            qsort(done.latencies, done.latency_count, sizeof(double), by_size);
            printf(", \"p50\": %.9f, \"p99\": %.9f, \"max\": %.9f, \"quantiles\": [", at(&done, 50),
                   at(&done, 99), at(&done, 100));
            for (int i = 0; i < 100; i++) printf("%.9f, ", at(&done, i));
            for (int i = 0; i < 4; i++) printf(i ? ", %.9f" : "%.9f", at(&done, TAIL[i]));
            printf("]");
        }
        free(done.latencies);
        if (done.least > 0) printf(", \"least\": %.3f", done.least);
        printf("}\n");
        fflush(stdout);
    }
}

/* One caller: ``pair`` again and again. */
static void alone(struct order order, struct outcome *done, void (*pair)(void)) {
    double began = now(), cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID);
    if (order.mode == 'n') {
        for (; done->pairs < (long)order.amount; done->pairs++) pair();
    } else if (order.mode == 'l') {
        size_t room = (size_t)(order.amount * 500000) + BETWEEN_CLOCKS;
        double last = began;
        done->latencies = malloc(room * sizeof(double));
        while (last - began < order.amount && done->latency_count < room) {
            double next;
            pair();
            next = now();
            done->latencies[done->latency_count++] = next - last;
            last = next;
        }
        done->pairs = (long)done->latency_count;
    } else {
        do
            for (int i = 0; i < BETWEEN_CLOCKS; i++, done->pairs++) pair();
        while (now() - began < order.amount);
    }
    done->seconds = now() - began;
    done->cpu = clock_of(CLOCK_PROCESS_CPUTIME_ID) - cpu;
}

static void arguments(int argc, char **argv) {
    if (argc != 4) {
        fprintf(stderr, "usage: %s PORT RELEASE COUNT\n", argv[0]);
        exit(2);
    }
    port = atoi(argv[1]);
    release_by = argv[2];
    count = atoi(argv[3]);
    if (getenv("BENCH_FIRST")) first_key = atoi(getenv("BENCH_FIRST"));
}
