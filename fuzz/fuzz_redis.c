/*
 * What Redis says, as runtime/redis.c reads it: a connection that is greeted, and then commands or
 * subscriptions, with all bytes from the dice, in chunks of their sizes. Callbacks close, subscribe
 * and unsubscribe, as they may.
 *
 * redis.c is included, so that a connection can stand on one end of a socket pair.
 */
#include <sys/socket.h>
#include <unistd.h>

#include "../runtime/redis.c"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

typedef struct {
    aff_redis *redis; /* NULL: closed */
    unsigned way;     /* what callbacks do */
    uint64_t asked, answered;
    bool closed;
} watch;

static void on_end(void *arg) {
    ((watch *)arg)->closed = true;
}

static void close_it(watch *w) {
    if (!w->redis) return;
    aff_redis_close(w->redis, on_end, w);
    w->redis = NULL;
}

static void ask(watch *w) {
    if (!w->redis) return;
    if (aff_redis_command(w->redis, w->asked, 1, (const char *[]){"PING"}, NULL) == 0) w->asked++;
}

static void touch(const char *text, size_t len) {
    volatile char sum = 0;
    for (size_t i = 0; i < len; i++) sum = (char)(sum ^ text[i]);
}

static void got_reply(void *arg, uint64_t tag, const redisReply *reply) {
    watch *w = arg;
    AFF_ASSERT(tag == w->answered); /* each once, in order */
    w->answered++;
    if (reply && reply->str) touch(reply->str, reply->len);
    if (reply && (w->way & 1)) ask(w);
    if (reply && (w->way & 2) && w->answered == 3) close_it(w);
}

static void got_message(void *arg, const char *channel, size_t channel_len, const char *text,
                        size_t len) {
    touch(channel, channel_len);
    touch(text, len);
    if (((watch *)arg)->way & 4) close_it(arg);
}

static void got_up(void *arg) {
    if (((watch *)arg)->way & 8) close_it(arg);
}

static void got_subscribed(void *arg, const char *channel, size_t len) {
    watch *w = arg;
    touch(channel, len);
    if (w->redis && (w->way & 16)) aff_redis_unsubscribe(w->redis, channel, len);
}

static void got_denied(void *arg, const char *channel, size_t len, const char *error) {
    touch(error, strlen(error));
    got_subscribed(arg, channel, len);
}

static void got_text(void *arg, const char *text) {
    (void)arg;
    touch(text, strlen(text));
}

static void got_retry(void *arg, const char *text, uint32_t delay_ms) {
    AFF_ASSERT(delay_ms <= AFF_REDIS_BACKOFF_MAX_MS);
    got_text(arg, text);
}

/* As if it had connected: what connect_next() and on_connect() do, but on the socket pair. */
static void connect_to(aff_redis *r, int fd) {
    conn *c = calloc(1, sizeof *c);
    AFF_ASSERT(c != NULL);
    c->reader = redisReaderCreate();
    AFF_ASSERT(c->reader != NULL && uv_pipe_init(r->loop, &c->u.pipe, 0) == 0);
    AFF_ASSERT(uv_pipe_open(&c->u.pipe, fd) == 0);
    c->reader->maxbuf = 4 * READ_MAX;
    c->owner = r;
    c->u.handle.data = c->connect.data = c;
    r->conn = c;
    r->refs++;
    set_state(r, CONNECTING);
    AFF_ASSERT(greet(r, c) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size < 2) return 0;
    watch w = {.way = data[0]};
    unsigned kind = data[1];
    const aff_redis_callbacks on = {.up = got_up,
                                    .down = got_text,
                                    .refused = got_text,
                                    .retry = got_retry,
                                    .reply = got_reply,
                                    .message = got_message,
                                    .subscribed = got_subscribed,
                                    .subscribe_failed = got_denied};
    aff_redis_config config = {.path = "/nonexistent",
                               .password = kind & 1 ? "p" : NULL,
                               .db = kind & 2 ? 1 : 0,
                               .client_name = kind & 4 ? "n" : NULL};
    uv_loop_t loop;
    int pair[2];
    AFF_ASSERT(uv_loop_init(&loop) == 0);
    AFF_ASSERT(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
    AFF_ASSERT(aff_redis_open(&loop, &config, &on, &w, &w.redis) == 0);
    if (kind & 8) aff_redis_subscribe(w.redis, "c", 1);
    if (kind & 16) aff_redis_subscribe(w.redis, "d\0e", 3);
    connect_to(w.redis, pair[0]);
    data += 2, size -= 2;
    /* A byte says how long the next chunk is: small ones, or all that a read may give. */
    while (size > 0 && w.redis && w.redis->conn) {
        size_t len = data[0] < 128 ? data[0] : data[0] * 64u;
        data++, size--;
        if (len > size) len = size;
        if (len > READ_MAX) len = READ_MAX;
        if (w.redis->state == UP && (kind & 32)) ask(&w);
        memcpy(w.redis->read_buffer, data, len);
        uv_buf_t buf = uv_buf_init(w.redis->read_buffer, READ_MAX);
        if (len > 0) on_read(&w.redis->conn->u.stream, (ssize_t)len, &buf);
        data += len, size -= len;
    }
    close_it(&w);
    uv_run(&loop, UV_RUN_DEFAULT);
    AFF_ASSERT(w.closed && w.answered == w.asked);
    AFF_ASSERT(uv_loop_close(&loop) == 0);
    close(pair[1]);
    return 0;
}
