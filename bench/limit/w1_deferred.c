/* One caller, one key, RESP by hand; each release is sent at once and not waited for. Its answer
 * is read together with the next acquisition's. */
#include "common.h"

static int fd, owed;
static struct tokens tokens;
static struct command acquire, release;

static void pair(void) {
    char buffer[64], wanted[16];
    size_t have = 0, size = (size_t)sprintf(wanted, "%s%s", owed ? RELEASED : "", ACQUIRED);
    fresh(&tokens, acquire.text + acquire.token);
    send_all(fd, acquire.text, acquire.size);
    while (have < size) have += receive(fd, buffer + have, sizeof buffer - have);
    if (have != size || memcmp(buffer, wanted, size)) refuse(buffer, have);
    memcpy(release.text + release.token, acquire.text + acquire.token, TOKEN);
    send_all(fd, release.text, release.size);
    owed = 1;
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
