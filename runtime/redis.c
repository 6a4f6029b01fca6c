/*
 * One connection to Redis: see redis.h for what it does, here is how.
 *
 *                            connected            greeted
 *     WAITING ---> CONNECTING ----------> GREETING --------> UP
 *        ^             |                     |               |
 *        +-------------+---------------------+---------------+
 *                       failure, time-out, loss
 *
 * WAITING is the pause before the next attempt. Each attempt has a stream of its own (stream.h),
 * which resolves, connects and shakes hands in CONNECTING. Each state may go to CLOSING, which
 * lasts until libuv has given everything back.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "redis.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aff.h"
#include "alloc.h"
#include "stream.h"

enum {
    FEED_MAX = 16 * 1024,   /* hiredis moves what is left of its buffer after each reply */
    ARGC_MAX = 1024 * 1024, /* Redis's own limit */
    BACKOFF_MIN_MS = 10,
    CONNECT_TIMEOUT_MS = 5000,
    SILENT_TICKS_MAX = 4
};

typedef enum { WAITING, CONNECTING, GREETING, UP, CLOSING } state;

/* What a reply answers. */
typedef enum {
    NOTHING,
    COMMAND,
    AUTH,
    SELECT,
    SETNAME,
    GREETING_PING, /* the last of the greeting */
    PING,
    SUBSCRIBE, /* tag: the subscription's id */
    UNSUBSCRIBE
} kind;

typedef struct {
    uint64_t tag;
    kind kind;
} due;

typedef struct {
    uint64_t id;
    char *channel;
    size_t len;
} subscription;

struct aff_redis {
    uv_loop_t *loop;
    aff_redis_config config;
    aff_redis_callbacks on;
    void *arg;
    void (*closed)(void *arg);
    void *closed_arg;
    state state;
    unsigned refs; /* handles that libuv holds; r is freed with the last */

    uv_timer_t timer; /* WAITING: the pause; GREETING: the attempt's limit; UP: the silence */
    uv_timer_t ping_timer;
    uv_prepare_t prepare; /* runs last before the loop sleeps: the end of a turn */

    aff_stream *stream;  /* from CONNECTING to UP */
    redisReader *reader; /* of the last stream; kept after it, since it may be at work */
    int64_t put;         /* bytes written to it */
    uint32_t first;      /* of a name's addresses: to be tried next */
    uint64_t attempt_deadline_ms;
    unsigned failures; /* since the connection was last up for long */
    uint64_t up_since_ms;
    uint64_t random;
    char reason[256];

    due *dues; /* ring: the replies that are to come */
    size_t due_first, due_count, due_cap;
    unsigned silent_ticks;
    int64_t sent_before; /* bytes that the socket had taken at the last tick */

    bool subscriber; /* has ever subscribed */
    subscription *subscriptions;
    size_t subscription_count, subscription_cap;
    uint64_t last_subscription_id;
};

static void on_timer(uv_timer_t *timer);
static void start_attempt(aff_redis *r);

static void set_timer(aff_redis *r, uint64_t delay_ms) {
    AFF_ASSERT(uv_timer_start(&r->timer, on_timer, delay_ms, 0) == 0);
}

static void set_state(aff_redis *r, state to) {
#define BIT(s) (1u << (s))
    static const unsigned allowed[] = {
        [WAITING] = BIT(WAITING) | BIT(CONNECTING) | BIT(CLOSING),
        [CONNECTING] = BIT(WAITING) | BIT(GREETING) | BIT(CLOSING),
        [GREETING] = BIT(WAITING) | BIT(UP) | BIT(CLOSING),
        [UP] = BIT(WAITING) | BIT(CLOSING),
        [CLOSING] = 0,
    };
    AFF_ASSERT((allowed[r->state] & BIT(to)) != 0);
    AFF_ASSERT((r->stream != NULL) ==
               ((BIT(to) & (BIT(CONNECTING) | BIT(GREETING) | BIT(UP))) != 0));
#undef BIT
    r->state = to;
}

__attribute__((format(printf, 2, 3))) /* a sentence for people */
static void
set_reason(aff_redis *r, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(r->reason, sizeof r->reason, format, args);
    va_end(args);
}

/* --- libuv giving things back ---------------------------------------------------------------- */

static due pop_due(aff_redis *r) {
    due d = r->dues[r->due_first];
    r->due_first = (r->due_first + 1) & (r->due_cap - 1);
    r->due_count--;
    return d;
}

static void answer(aff_redis *r, uint64_t tag, const redisReply *reply) {
    if (r->on.reply != NULL) r->on.reply(r->arg, tag, reply);
}

static void free_config(aff_redis_config *config) {
    free((char *)config->host);
    free((char *)config->path);
    free((char *)config->username);
    free((char *)config->password);
    free((char *)config->client_name);
    aff_tls_free(config->tls);
}

static void free_redis(aff_redis *r) {
    for (size_t i = 0; i < r->subscription_count; i++) free(r->subscriptions[i].channel);
    free(r->subscriptions);
    free(r->dues);
    if (r->reader != NULL) redisReaderFree(r->reader);
    free_config(&r->config);
    free(r);
}

static void release(aff_redis *r) {
    AFF_ASSERT(r->refs > 0);
    if (--r->refs > 0) return;
    AFF_ASSERT(r->state == CLOSING);
    while (r->due_count > 0) {
        due d = pop_due(r);
        if (d.kind == COMMAND) answer(r, d.tag, NULL);
    }
    void (*closed)(void *) = r->closed;
    void *arg = r->closed_arg;
    free_redis(r);
    if (closed != NULL) closed(arg);
}

static void on_handle_closed(uv_handle_t *handle) {
    release(handle->data);
}

/* --- losing a connection --------------------------------------------------------------------- */

/* Ends the current connection, if any. What is due stays so for the caller to deal with. */
static void end_stream(aff_redis *r) {
    if (r->state == GREETING) r->first++; /* that one takes connections, and that is all */
    if (r->stream != NULL) aff_stream_close(r->stream);
    r->stream = NULL;
    AFF_ASSERT(uv_timer_stop(&r->ping_timer) == 0);
}

/* splitmix64 */
static uint64_t next_random(aff_redis *r) {
    uint64_t x = r->random += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* Full jitter: servers that lost the same Redis must not all come back in the same instant. */
static uint32_t back_off(aff_redis *r) {
    uint32_t cap = AFF_REDIS_BACKOFF_MAX_MS;
    if (r->failures < 5 && (uint32_t)BACKOFF_MIN_MS << r->failures < cap)
        cap = (uint32_t)BACKOFF_MIN_MS << r->failures;
    r->failures++;
    uint32_t delay_ms = (uint32_t)(next_random(r) % (cap + 1));
    set_state(r, WAITING);
    uv_update_time(r->loop); /* the pause is counted from now, not from the start of the turn */
    set_timer(r, delay_ms);
    return delay_ms;
}

static void attempt_failed(aff_redis *r) {
    uint32_t delay_ms = back_off(r);
    if (r->on.retry != NULL) r->on.retry(r->arg, r->reason, delay_ms);
}

static void lost(aff_redis *r) {
    /* A connection that never lasts must not be tried every 10 ms for ever. */
    if (uv_now(r->loop) - r->up_since_ms >= AFF_REDIS_BACKOFF_MAX_MS) r->failures = 0;
    back_off(r);
    /* Callbacks may close; `release` answers the rest then. */
    while (r->due_count > 0 && r->state != CLOSING) {
        due d = pop_due(r);
        if (d.kind == COMMAND) answer(r, d.tag, NULL);
    }
    if (r->state != CLOSING && r->on.down != NULL) r->on.down(r->arg, r->reason);
}

/* The current connection failed, for r->reason. */
static void conn_failed(aff_redis *r) {
    end_stream(r);
    if (r->state == UP) {
        lost(r);
        return;
    }
    r->due_count = 0;
    attempt_failed(r);
}

/* For r->reason, and trying again is unlikely to help. */
static void refused(aff_redis *r) {
    end_stream(r);
    r->due_count = 0;
    back_off(r);
    if (r->on.refused != NULL) r->on.refused(r->arg, r->reason);
}

/* While answers are due; one tick is a quarter of reply_timeout_ms. */
static void start_ticking(aff_redis *r) {
    if (r->state == UP && r->due_count > 0 && r->config.reply_timeout_ms > 0 &&
        !uv_is_active((const uv_handle_t *)&r->timer)) {
        uint64_t tick_ms = ((uint64_t)r->config.reply_timeout_ms + 3) / SILENT_TICKS_MAX;
        set_timer(r, tick_ms);
    }
}

/* Counting ticks rather than time makes a thread that was stopped for a minute read what has come
 * in meanwhile before it passes judgement. */
static void tick(aff_redis *r) {
    int64_t sent = r->put - (int64_t)aff_stream_pending(r->stream);
    if (sent > r->sent_before) r->silent_ticks = 0; /* a large command goes out slowly */
    r->sent_before = sent;
    if (r->due_count > 0 && ++r->silent_ticks > SILENT_TICKS_MAX) {
        set_reason(r, "no answer for %u ms", (unsigned)r->config.reply_timeout_ms);
        conn_failed(r);
        return;
    }
    start_ticking(r);
}

static void on_timer(uv_timer_t *timer) {
    aff_redis *r = timer->data;
    if (r->state == UP) {
        tick(r);
    } else if (r->state == WAITING) {
        start_attempt(r);
    } else {
        set_reason(r, "the greeting took too long");
        conn_failed(r);
    }
}

/* --- writing --------------------------------------------------------------------------------- */

static void on_prepare(uv_prepare_t *prepare) {
    aff_redis_flush(prepare->data);
}

static size_t digits(size_t n) {
    size_t count = 1;
    while (n >= 10) {
        n /= 10;
        count++;
    }
    return count;
}

static char *put_head(char *at, char type, size_t n) {
    *at++ = type;
    size_t count = digits(n);
    for (size_t i = count; i-- > 0; n /= 10) at[i] = (char)('0' + n % 10);
    at += count;
    *at++ = '\r';
    *at++ = '\n';
    return at;
}

/* Length of the command in RESP, or 0 if longer than `max`. */
static size_t command_len(int argc, const char *const *argv, const size_t *argv_len, size_t max) {
    size_t len = 3 + digits((size_t)argc);
    for (int i = 0; i < argc; i++) {
        size_t n = argv_len != NULL ? argv_len[i] : strlen(argv[i]);
        if (n > max) return 0; /* before the sum can overflow */
        len += 5 + digits(n) + n;
        if (len > max) return 0;
    }
    return len;
}

static bool reserve_due(aff_redis *r) {
    if (r->due_count < r->due_cap) return true;
    size_t cap = r->due_cap > 0 ? r->due_cap * 2 : 16;
    due *dues = malloc(cap * sizeof *dues);
    if (dues == NULL) return false;
    for (size_t i = 0; i < r->due_count; i++)
        dues[i] = r->dues[(r->due_first + i) & (r->due_cap - 1)];
    free(r->dues);
    r->dues = dues;
    r->due_first = 0;
    r->due_cap = cap;
    return true;
}

/* Queues a command on the current connection. The greeting and the subscriptions that follow it are
 * not limited: they are few, and a connection that can't send them is of no use. */
static int push(aff_redis *r, kind k, uint64_t tag, int argc, const char *const *argv,
                const size_t *argv_len) {
    size_t max = AFF_REDIS_OUT_LIMIT;
    if (r->state == UP) {
        size_t pending = aff_redis_pending_bytes(r);
        max = pending < r->config.out_max ? r->config.out_max - pending : 0;
    }
    size_t len = command_len(argc, argv, argv_len, max);
    if (len == 0 || r->due_count >= AFF_REDIS_IN_FLIGHT_MAX) return AFF_EFULL;
    char *at = reserve_due(r) ? aff_stream_put(r->stream, len) : NULL;
    if (at == NULL) return AFF_ENOMEM;
    at = put_head(at, '*', (size_t)argc);
    for (int i = 0; i < argc; i++) {
        size_t n = argv_len != NULL ? argv_len[i] : strlen(argv[i]);
        at = put_head(at, '$', n);
        if (n > 0) memcpy(at, argv[i], n);
        at += n;
        *at++ = '\r';
        *at++ = '\n';
    }
    r->put += (int64_t)len;
    if (r->due_count == 0) r->silent_ticks = 0;
    r->dues[(r->due_first + r->due_count) & (r->due_cap - 1)] = (due){tag, k};
    r->due_count++;
    start_ticking(r);
    return 0;
}

static int push_subscribe(aff_redis *r, const subscription *s) {
    const char *argv[] = {"SUBSCRIBE", s->channel};
    const size_t argv_len[] = {9, s->len};
    return push(r, SUBSCRIBE, s->id, 2, argv, argv_len);
}

static void on_ping_timer(uv_timer_t *timer) {
    aff_redis *r = timer->data;
    if (r->due_count == 0)
        (void)push(r, PING, 0, 1, (const char *[]){"PING"}, NULL); /* no memory: the next one */
}

/* --- reading --------------------------------------------------------------------------------- */

static char *copy_bytes(const char *bytes, size_t len) {
    char *copy = malloc(len + 1);
    if (copy != NULL && len > 0) memcpy(copy, bytes, len);
    return copy;
}

static bool starts_with(const char *text, const char *start) {
    return strncmp(text, start, strlen(start)) == 0;
}

/* Redis is there, but not yet for us: what waiting cures. */
static bool is_passing(const char *error) {
    return starts_with(error, "LOADING ") || starts_with(error, "MASTERDOWN ") ||
           starts_with(error, "BUSY ") || starts_with(error, "ERR max number of clients");
}

/* Errors to the greeting that leave a usable connection. A password that Redis has no use for is
 * one of them, as in ioredis, whose options are used here. */
static bool is_harmless(kind k, const char *error) {
    return k == SETNAME || (k == GREETING_PING && starts_with(error, "NOPERM ")) ||
           (k == AUTH && (strstr(error, "without any password configured") != NULL ||
                          strstr(error, "no password is set") != NULL));
}

static void go_up(aff_redis *r) {
    for (size_t i = 0; i < r->subscription_count; i++) {
        if (push_subscribe(r, &r->subscriptions[i]) != 0) {
            set_reason(r, "no memory to subscribe again");
            conn_failed(r);
            return;
        }
    }
    AFF_ASSERT(uv_timer_stop(&r->timer) == 0);
    set_state(r, UP);
    r->up_since_ms = uv_now(r->loop);
    r->sent_before = 0;
    start_ticking(r);
    if (r->config.ping_ms > 0) {
        uint64_t ping_ms = r->config.ping_ms;
        AFF_ASSERT(uv_timer_start(&r->ping_timer, on_ping_timer, ping_ms, ping_ms) == 0);
    }
    if (r->on.up != NULL) r->on.up(r->arg);
}

static void greeting_reply(aff_redis *r, kind k, const redisReply *reply) {
    if (reply->type == REDIS_REPLY_ERROR) {
        if (is_passing(reply->str)) {
            set_reason(r, "%s", reply->str);
            conn_failed(r);
            return;
        }
        if (!is_harmless(k, reply->str)) {
            set_reason(r, "%s", reply->str);
            refused(r);
            return;
        }
    }
    if (k == GREETING_PING) go_up(r);
}

/* Whether `reply` is ["message", channel, data] and the like. */
static bool is_pubsub(const redisReply *reply, const char *word) {
    return reply->type == REDIS_REPLY_ARRAY && reply->elements == 3 &&
           reply->element[0]->type == REDIS_REPLY_STRING &&
           strcmp(reply->element[0]->str, word) == 0 &&
           reply->element[1]->type == REDIS_REPLY_STRING;
}

static subscription *find_subscription(const aff_redis *r, uint64_t id) {
    for (size_t i = 0; i < r->subscription_count; i++)
        if (r->subscriptions[i].id == id) return &r->subscriptions[i];
    return NULL;
}

static void subscribe_reply(aff_redis *r, uint64_t id, const redisReply *reply) {
    const subscription *s = find_subscription(r, id);
    if (s == NULL) return; /* unsubscribed since */
    /* A copy: the callback may unsubscribe, which frees the original. */
    size_t len = s->len;
    char *channel = copy_bytes(s->channel, len);
    if (channel == NULL) {
        set_reason(r, "no memory");
        conn_failed(r);
        return;
    }
    if (reply->type != REDIS_REPLY_ERROR && r->on.subscribed != NULL)
        r->on.subscribed(r->arg, channel, len);
    else if (reply->type == REDIS_REPLY_ERROR && r->on.subscribe_failed != NULL)
        r->on.subscribe_failed(r->arg, channel, len, reply->str);
    free(channel);
}

/* Whether a published message: it comes between the replies. */
static bool is_message(const aff_redis *r, const redisReply *reply) {
    return r->subscriber && r->state == UP &&
           (r->due_count == 0 || r->dues[r->due_first].kind != COMMAND) &&
           is_pubsub(reply, "message") && reply->element[2]->type == REDIS_REPLY_STRING;
}

static void on_reply(aff_redis *r, const redisReply *reply) {
    if (is_message(r, reply)) {
        if (r->on.message != NULL) {
            const redisReply *channel = reply->element[1], *data = reply->element[2];
            r->on.message(r->arg, channel->str, channel->len, data->str, data->len);
        }
        return;
    }
    due d = r->due_count > 0 ? pop_due(r) : (due){0, NOTHING};
    bool expected =
        d.kind != SUBSCRIBE || reply->type == REDIS_REPLY_ERROR || is_pubsub(reply, "subscribe");
    if (d.kind == NOTHING || !expected) {
        set_reason(r, "unexpected reply%s%s", reply->type == REDIS_REPLY_ERROR ? ": " : "",
                   reply->type == REDIS_REPLY_ERROR ? reply->str : "");
        conn_failed(r);
    } else if (d.kind == COMMAND) {
        answer(r, d.tag, reply);
    } else if (d.kind == SUBSCRIBE) {
        subscribe_reply(r, d.tag, reply);
    } else if (r->state == GREETING) {
        greeting_reply(r, d.kind, reply);
    }
}

static void feed(aff_redis *r, const char *data, size_t len) {
    const aff_stream *s = r->stream;
    int status = redisReaderFeed(r->reader, data, len);
    void *reply = NULL;
    while (status == REDIS_OK && r->stream == s) { /* a callback may have closed */
        status = redisReaderGetReply(r->reader, &reply);
        if (status == REDIS_OK && reply == NULL) return;
        if (status == REDIS_OK) {
            on_reply(r, reply);
            freeReplyObject(reply);
        }
    }
    if (status != REDIS_OK) {
        set_reason(r, "read: %s", r->reader->errstr);
        conn_failed(r);
    }
}

static void on_data(void *arg, const char *bytes, size_t len) {
    aff_redis *r = arg;
    const aff_stream *s = r->stream;
    r->silent_ticks = 0;
    while (len > 0 && r->stream == s) {
        size_t n = len < FEED_MAX ? len : FEED_MAX;
        feed(r, bytes, n);
        bytes += n;
        len -= n;
    }
}

/* --- connecting ------------------------------------------------------------------------------ */

static int push_greeting(aff_redis *r) {
    const aff_redis_config *config = &r->config;
    const char *password = config->password != NULL ? config->password : "";
    int status = 0;
    if (config->username != NULL) {
        const char *argv[] = {"AUTH", config->username, password};
        status = push(r, AUTH, 0, 3, argv, NULL);
    } else if (config->password != NULL) {
        status = push(r, AUTH, 0, 2, (const char *[]){"AUTH", password}, NULL);
    }
    if (status == 0 && config->db != 0) {
        char db[16];
        snprintf(db, sizeof db, "%u", (unsigned)config->db);
        status = push(r, SELECT, 0, 2, (const char *[]){"SELECT", db}, NULL);
    }
    if (status == 0 && config->client_name != NULL) {
        const char *argv[] = {"CLIENT", "SETNAME", config->client_name};
        status = push(r, SETNAME, 0, 3, argv, NULL);
    }
    if (status == 0) /* a Redis that is loading answers all of the above, but not this */
        status = push(r, GREETING_PING, 0, 1, (const char *[]){"PING"}, NULL);
    return status;
}

static void on_up(void *arg) {
    aff_redis *r = arg;
    set_state(r, GREETING);
    uv_update_time(r->loop);
    uint64_t now_ms = uv_now(r->loop);
    set_timer(r, now_ms < r->attempt_deadline_ms ? r->attempt_deadline_ms - now_ms : 0);
    if (push_greeting(r) == 0) return;
    set_reason(r, "no memory for the greeting");
    conn_failed(r);
}

static void on_down(void *arg, const char *reason) {
    aff_redis *r = arg;
    set_reason(r, "%s", reason);
    if (r->state != UP && aff_stream_was_refused(r->stream))
        refused(r);
    else
        conn_failed(r);
}

static int open_stream(aff_redis *r) {
    static const aff_stream_callbacks callbacks = {.up = on_up, .data = on_data, .down = on_down};
    const aff_redis_config *config = &r->config;
    aff_stream_target target = {.host = config->host,
                                .port = config->port,
                                .family = config->family,
                                .path = config->path,
                                .tls = config->tls,
                                .timeout_ms = config->connect_timeout_ms,
                                .first = r->first};
    if (r->reader != NULL) redisReaderFree(r->reader);
    r->reader = redisReaderCreate();
    if (r->reader == NULL) return AFF_ENOMEM;
    r->reader->maxbuf = 4 * FEED_MAX; /* else it frees and allocates its buffer for each chunk */
    return aff_stream_connect(r->loop, &target, &callbacks, r, &r->stream);
}

static void start_attempt(aff_redis *r) {
    uv_update_time(r->loop);
    r->attempt_deadline_ms = uv_now(r->loop) + r->config.connect_timeout_ms;
    r->put = 0;
    if (open_stream(r) == 0) {
        set_state(r, CONNECTING);
    } else {
        set_reason(r, "no memory to connect");
        attempt_failed(r);
    }
}

/* --- the interface --------------------------------------------------------------------------- */

static bool is_valid(const aff_redis_config *config) {
    return aff_stream_is_valid(&(aff_stream_target){.host = config->host,
                                                    .port = config->port,
                                                    .family = config->family,
                                                    .path = config->path,
                                                    .tls = config->tls,
                                                    .timeout_ms = 1}) &&
           config->out_max <= AFF_REDIS_OUT_LIMIT;
}

static bool copy_string(const char **to, const char *from) {
    *to = from != NULL ? strdup(from) : NULL;
    return from == NULL || *to != NULL;
}

static bool copy_config(aff_redis_config *to, const aff_redis_config *from) {
    *to = *from;
    to->tls = aff__tls_keep(from->tls);
    to->connect_timeout_ms =
        from->connect_timeout_ms ? from->connect_timeout_ms : CONNECT_TIMEOUT_MS;
    to->out_max = from->out_max > 0 ? from->out_max : (size_t)64 << 20;
    /* All of them, whatever fails: free_config frees all of them. */
    bool host = copy_string(&to->host, from->host), path = copy_string(&to->path, from->path);
    bool username = copy_string(&to->username, from->username);
    bool password = copy_string(&to->password, from->password);
    bool name = copy_string(&to->client_name, from->client_name);
    return host && path && username && password && name;
}

int aff_redis_open(uv_loop_t *loop, const aff_redis_config *config,
                   const aff_redis_callbacks *callbacks, void *arg, aff_redis **out) {
    if (loop == NULL || config == NULL || callbacks == NULL || out == NULL || !is_valid(config))
        return AFF_EINVAL;
    aff_redis *r = calloc(1, sizeof *r);
    if (r == NULL) return AFF_ENOMEM;
    if (!copy_config(&r->config, config)) {
        free_redis(r);
        return AFF_ENOMEM;
    }
    r->loop = loop;
    r->on = *callbacks;
    r->arg = arg;
    r->random = config->seed;
    AFF_ASSERT(uv_timer_init(loop, &r->timer) == 0);
    AFF_ASSERT(uv_timer_init(loop, &r->ping_timer) == 0);
    AFF_ASSERT(uv_prepare_init(loop, &r->prepare) == 0);
    r->timer.data = r->ping_timer.data = r->prepare.data = r;
    r->refs = 3;
    AFF_ASSERT(uv_prepare_start(&r->prepare, on_prepare) == 0);
    set_timer(r, 0);
    *out = r;
    return 0;
}

int aff_redis_command(aff_redis *r, uint64_t tag, int argc, const char *const *argv,
                      const size_t *argv_len) {
    if (argc < 1 || argc > ARGC_MAX || r->subscriber) return AFF_EINVAL;
    if (r->state != UP) return AFF_ENOTCONN;
    return push(r, COMMAND, tag, argc, argv, argv_len);
}

static subscription *find_channel(const aff_redis *r, const char *channel, size_t len) {
    for (size_t i = 0; i < r->subscription_count; i++) {
        subscription *s = &r->subscriptions[i];
        if (s->len == len && memcmp(s->channel, channel, len) == 0) return s;
    }
    return NULL;
}

static bool reserve_subscription(aff_redis *r) {
    if (r->subscription_count < r->subscription_cap) return true;
    size_t cap = r->subscription_cap > 0 ? r->subscription_cap * 2 : 4;
    subscription *subscriptions = realloc(r->subscriptions, cap * sizeof *subscriptions);
    if (subscriptions == NULL) return false;
    r->subscriptions = subscriptions;
    r->subscription_cap = cap;
    return true;
}

int aff_redis_subscribe(aff_redis *r, const char *channel, size_t channel_len) {
    if (channel_len > AFF_REDIS_CHANNEL_MAX) return AFF_EINVAL;
    if (find_channel(r, channel, channel_len) != NULL) return 0;
    if (r->subscription_count >= AFF_REDIS_SUBSCRIPTION_MAX) return AFF_EFULL;
    char *copy = copy_bytes(channel, channel_len);
    if (copy == NULL || !reserve_subscription(r)) {
        free(copy);
        return AFF_ENOMEM;
    }
    subscription s = {++r->last_subscription_id, copy, channel_len};
    int status = r->state == UP ? push_subscribe(r, &s) : 0;
    if (status != 0) {
        free(copy);
        return status;
    }
    r->subscriptions[r->subscription_count++] = s;
    r->subscriber = true;
    return 0;
}

int aff_redis_unsubscribe(aff_redis *r, const char *channel, size_t channel_len) {
    subscription *s = find_channel(r, channel, channel_len);
    if (s == NULL) return AFF_EINVAL;
    if (r->state == UP) {
        const char *argv[] = {"UNSUBSCRIBE", channel};
        const size_t argv_len[] = {11, channel_len};
        int status = push(r, UNSUBSCRIBE, 0, 2, argv, argv_len);
        if (status != 0) return status;
    }
    free(s->channel);
    *s = r->subscriptions[--r->subscription_count];
    return 0;
}

bool aff_redis_is_up(const aff_redis *r) {
    return r->state == UP;
}

bool aff_redis_is_waiting(const aff_redis *r) {
    return r->due_count > 0;
}

size_t aff_redis_pending_bytes(const aff_redis *r) {
    return r->stream != NULL ? aff_stream_pending(r->stream) : 0;
}

void aff_redis_flush(aff_redis *r) {
    if (r->stream != NULL) aff_stream_flush(r->stream);
}

void aff_redis_close(aff_redis *r, void (*closed)(void *arg), void *arg) {
    AFF_ASSERT(r->state != CLOSING);
    r->closed = closed;
    r->closed_arg = arg;
    end_stream(r);
    set_state(r, CLOSING);
    uv_close((uv_handle_t *)&r->timer, on_handle_closed);
    uv_close((uv_handle_t *)&r->ping_timer, on_handle_closed);
    uv_close((uv_handle_t *)&r->prepare, on_handle_closed);
}
