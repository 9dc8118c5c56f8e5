/* One caller, one key, RESP by hand: two sends and two receives, and next to nothing else. */
#include "common.h"

static int fd;
static struct tokens tokens;
static struct command acquire, release;

static void pair(void) {
    fresh(&tokens, acquire.text + acquire.token);
    send_all(fd, acquire.text, acquire.size);
    expect(fd, ACQUIRED, 1);
    memcpy(release.text + release.token, acquire.text + acquire.token, TOKEN);
    send_all(fd, release.text, release.size);
    expect(fd, RELEASED, 1);
}

static void measure(struct order order, struct outcome *done) { alone(order, done, pair); }

int main(int argc, char **argv) {
    arguments(argc, argv);
    open_tokens(&tokens);
    acquire = acquire_command();
    release = release_command();
    key_of(0, acquire.text + acquire.key);
    key_of(0, release.text + release.key);
    fd = dial();
    serve(measure);
    return 0;
}
