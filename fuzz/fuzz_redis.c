/*
 * What Redis says, as runtime/redis.c reads it: a connection that is greeted, and then commands or
 * subscriptions, with all bytes from the dice, in chunks of their sizes. Callbacks close, subscribe
 * and unsubscribe, as they may.
 *
 * A stream is here what brings the dice's bytes, and swallows what it is given. redis.c is included
 * for its state.
 */
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

/* ---- In stream.c's place ------------------------------------------------------------------- */

struct aff_stream {
    aff_stream_callbacks on;
    void *arg;
    char *room; /* what was put last */
};

static aff_stream *standing; /* the one that is not closed */

aff_tls *aff__tls_keep(aff_tls *tls) {
    return tls;
}

void aff_tls_free(aff_tls *tls) {
    AFF_ASSERT(tls == NULL);
}

bool aff_stream_is_valid(const aff_stream_target *target) {
    return target->path != NULL;
}

int aff_stream_connect(uv_loop_t *loop, const aff_stream_target *target,
                       const aff_stream_callbacks *callbacks, void *arg, aff_stream **out) {
    (void)loop, (void)target;
    AFF_ASSERT(standing == NULL);
    standing = *out = calloc(1, sizeof **out);
    AFF_ASSERT(standing != NULL);
    standing->on = *callbacks;
    standing->arg = arg;
    return 0;
}

char *aff_stream_put(aff_stream *s, size_t len) {
    free(s->room);
    return s->room = malloc(len);
}

void aff_stream_flush(aff_stream *s) {
    AFF_ASSERT(s == standing);
}

size_t aff_stream_pending(const aff_stream *s) {
    AFF_ASSERT(s == standing);
    return 0;
}

bool aff_stream_was_refused(const aff_stream *s) {
    AFF_ASSERT(s == standing);
    return false;
}

void aff_stream_close(aff_stream *s) {
    AFF_ASSERT(s == standing);
    standing = NULL;
    free(s->room);
    free(s);
}

/* ---- One input ------------------------------------------------------------------------------- */

/* A callback may close the stream: its memory goes then, and nothing more is said. */
static void bring(const uint8_t *data, size_t len) {
    char *copy = malloc(len); /* so that reading past it shows */
    AFF_ASSERT(copy != NULL);
    memcpy(copy, data, len);
    standing->on.data(standing->arg, copy, len);
    free(copy);
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
    AFF_ASSERT(uv_loop_init(&loop) == 0);
    AFF_ASSERT(aff_redis_open(&loop, &config, &on, &w, &w.redis) == 0);
    if (kind & 8) aff_redis_subscribe(w.redis, "c", 1);
    if (kind & 16) aff_redis_subscribe(w.redis, "d\0e", 3);
    while (!standing) uv_run(&loop, UV_RUN_NOWAIT);
    standing->on.up(standing->arg);
    data += 2, size -= 2;
    /* A byte says how long the next chunk is: small ones, or more than is fed at once. */
    while (size > 0 && standing) {
        size_t len = data[0] < 128 ? data[0] : data[0] * 128u;
        data++, size--;
        if (len > size) len = size;
        if (w.redis->state == UP && (kind & 32)) ask(&w);
        if (len > 0) bring(data, len);
        data += len, size -= len;
    }
    if (standing && (kind & 64)) standing->on.down(standing->arg, "the other side has ended it");
    close_it(&w);
    uv_run(&loop, UV_RUN_DEFAULT);
    AFF_ASSERT(w.closed && w.answered == w.asked);
    AFF_ASSERT(uv_loop_close(&loop) == 0 && !standing);
    return 0;
}
