#include "session.h"

#include <openssl/rand.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"
#include "text.h"

enum { LEAVING_MS = 1000 }; /* what the end of connections may take */

/* One of the two connections. */
typedef struct {
    ctl_session *session;
    aff_redis *redis; /* NULL: not opened */
    bool refused;
    bool subscribed;
    char reason[256]; /* of the last attempt that failed */
} connection;

struct ctl_session {
    const ctl_options *options;
    uv_loop_t loop;
    uv_timer_t deadline;
    uv_signal_t signals[2];
    bool late, interrupted, catches;
    aff_tls *tls;
    connection commands, listener;
    ctl_call *calls; /* without an answer */
    uint64_t last_tag;
    char *channel;
    ctl_on_message *on_message;
    void *on_message_arg;
    char error[512];
};

/* ---- Waiting --------------------------------------------------------------------------------- */

static void on_deadline(uv_timer_t *timer) {
    ((ctl_session *)timer->data)->late = true;
}

bool ctl_session_wait(ctl_session *s, uint64_t ms, bool (*is_done)(void *arg), void *arg) {
    s->late = false;
    uv_update_time(&s->loop); /* else the time since the last turn counts */
    AFF_ASSERT(uv_timer_start(&s->deadline, on_deadline, ms, 0) == 0);
    bool done = is_done != NULL && is_done(arg);
    while (!done && !s->late && !s->interrupted) {
        uv_run(&s->loop, UV_RUN_ONCE);
        done = is_done != NULL && is_done(arg);
    }
    AFF_ASSERT(uv_timer_stop(&s->deadline) == 0);
    return done;
}

uint64_t ctl_session_now(ctl_session *s) {
    uv_update_time(&s->loop);
    return uv_now(&s->loop);
}

static void on_signal(uv_signal_t *handle, int number) {
    (void)number;
    ((ctl_session *)handle->data)->interrupted = true;
}

void ctl_session_catch_signals(ctl_session *s) {
    static const int numbers[] = {SIGINT, SIGTERM};
    s->catches = true;
    for (size_t i = 0; i < 2; i++) {
        AFF_ASSERT(uv_signal_init(&s->loop, &s->signals[i]) == 0);
        s->signals[i].data = s;
        AFF_ASSERT(uv_signal_start(&s->signals[i], on_signal, numbers[i]) == 0);
    }
}

bool ctl_session_is_interrupted(const ctl_session *s) {
    return s->interrupted;
}

/* ---- Errors ---------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static bool fail(ctl_session *s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    (void)vsnprintf(s->error, sizeof(s->error), format, args);
    va_end(args);
    return false;
}

const char *ctl_session_error(const ctl_session *s) {
    return s->error;
}

const ctl_options *ctl_session_options(const ctl_session *s) {
    return s->options;
}

static bool fail_as_cluster(ctl_session *s) {
    return fail(
        s, "this Redis is a node of a Redis Cluster, and affinityctl works with a single Redis "
           "(or Sentinel's primary) only; ask a server: servers() and documents()");
}

bool ctl_is_refused(ctl_session *s, redisReply *reply) {
    if (reply->type != REDIS_REPLY_ERROR) return false;
    if (strncmp(reply->str, "MOVED ", 6) == 0 || strncmp(reply->str, "CLUSTERDOWN ", 12) == 0)
        fail_as_cluster(s);
    else
        fail(s, "Redis: %s", reply->str);
    freeReplyObject(reply);
    return true;
}

/* ---- Connections ----------------------------------------------------------------------------- */

static redisReply *copy_reply(const redisReply *from) {
    redisReply *to = ctl_alloc(sizeof(*to));
    *to = (redisReply){.type = from->type, .integer = from->integer};
    if (from->str != NULL) {
        to->str = ctl_alloc(from->len + 1);
        memcpy(to->str, from->str, from->len);
        to->str[from->len] = '\0';
        to->len = from->len;
    }
    if (from->elements == 0) return to;
    to->element = ctl_alloc(from->elements * sizeof(*to->element));
    to->elements = from->elements;
    for (size_t i = 0; i < from->elements; i++) to->element[i] = copy_reply(from->element[i]);
    return to;
}

/* Takes a call out of the list; NULL: whoever made it has given it up. */
static ctl_call *unlink_call(ctl_session *s, uint64_t tag) {
    for (ctl_call **at = &s->calls; *at != NULL; at = &(*at)->next) {
        ctl_call *call = *at;
        if (call->tag != tag) continue;
        *at = call->next;
        return call;
    }
    return NULL;
}

static void on_reply(void *arg, uint64_t tag, const redisReply *reply) {
    connection *c = arg;
    ctl_call *call = unlink_call(c->session, tag);
    if (call == NULL) return;
    call->done = true;
    call->reply = reply != NULL ? copy_reply(reply) : NULL;
}

static void on_up(void *arg) {
    ((connection *)arg)->refused = false;
}

static void on_down(void *arg, const char *reason) {
    connection *c = arg;
    c->subscribed = false;
    (void)snprintf(c->reason, sizeof(c->reason), "%s", reason);
}

static void on_retry(void *arg, const char *reason, uint32_t delay_ms) {
    connection *c = arg;
    (void)delay_ms;
    (void)snprintf(c->reason, sizeof(c->reason), "%s", reason);
}

static void on_refused(void *arg, const char *error) {
    on_retry(arg, error, 0);
    ((connection *)arg)->refused = true;
}

static void on_message(void *arg, const char *channel, size_t channel_len, const char *data,
                       size_t len) {
    ctl_session *s = ((connection *)arg)->session;
    if (channel_len != strlen(s->channel) || memcmp(channel, s->channel, channel_len) != 0) return;
    s->on_message(s->on_message_arg, (aff_slice){(const uint8_t *)data, len});
}

static void on_subscribed(void *arg, const char *channel, size_t len) {
    (void)channel;
    (void)len;
    ((connection *)arg)->subscribed = true;
}

static void on_subscribe_failed(void *arg, const char *channel, size_t len, const char *error) {
    (void)channel;
    (void)len;
    on_refused(arg, error);
}

static bool open_connection(ctl_session *s, connection *c) {
    static const aff_redis_callbacks callbacks = {
        .up = on_up,
        .down = on_down,
        .refused = on_refused,
        .retry = on_retry,
        .reply = on_reply,
        .message = on_message,
        .subscribed = on_subscribed,
        .subscribe_failed = on_subscribe_failed,
    };
    const ctl_options *o = s->options;
    aff_redis_config config = {
        .host = o->redis.host,
        .port = o->redis.port,
        .path = o->redis.path,
        .tls = s->tls,
        .username = o->redis.username,
        .password = o->password != NULL ? o->password : o->redis.password,
        .db = o->redis.db,
        .client_name = "affinityctl",
        .connect_timeout_ms = o->timeout_ms,
        .reply_timeout_ms = o->timeout_ms,
        .ping_ms = o->timeout_ms,
        .seed = ctl_random(),
    };
    c->session = s;
    int status = aff_redis_open(&s->loop, &config, &callbacks, c, &c->redis);
    return status == 0 || fail(s, "--url: %s", aff_error_text(status));
}

static bool is_up(void *arg) {
    connection *c = arg;
    return c->refused || aff_redis_is_up(c->redis);
}

static bool is_subscribed(void *arg) {
    connection *c = arg;
    return c->refused || c->subscribed;
}

/* Waits for a connection's state; false: there is none, and the error says why. */
static bool await_connection(ctl_session *s, connection *c, bool (*is_there)(void *arg)) {
    bool there = ctl_session_wait(s, s->options->timeout_ms, is_there, c);
    if (there && !c->refused) return true;
    if (s->interrupted) return fail(s, "interrupted");
    char *where = ctl_address_text(&s->options->redis);
    if (c->refused)
        fail(s, "Redis at %s refuses: %s", where, c->reason);
    else
        fail(s, "Redis at %s can't be reached within %u s%s%s", where,
             (unsigned)s->options->timeout_ms / 1000, *c->reason ? ": " : "", c->reason);
    free(where);
    return false;
}

bool ctl_session_connect(ctl_session *s) {
    if (s->commands.redis == NULL && !open_connection(s, &s->commands)) return false;
    return await_connection(s, &s->commands, is_up);
}

static bool has_line(const redisReply *info, const char *a, const char *b) {
    return info->str != NULL && (strstr(info->str, a) != NULL || strstr(info->str, b) != NULL);
}

bool ctl_session_connect_single(ctl_session *s) {
    if (!ctl_session_connect(s)) return false;
    /* Who may not ask for INFO gets by without: the error comes later then, and is less clear. */
    ctl_call call;
    redisReply *info =
        CTL_SEND(s, &call, ctl_slice("INFO"), ctl_slice("server")) ? ctl_receive(s, &call) : NULL;
    if (info == NULL) return false;
    bool is_error = info->type == REDIS_REPLY_ERROR;
    bool is_cluster = !is_error && has_line(info, "redis_mode:cluster", "server_mode:cluster");
    bool is_sentinel = !is_error && has_line(info, "redis_mode:sentinel", "server_mode:sentinel");
    freeReplyObject(info);
    if (is_cluster) return fail_as_cluster(s);
    return !is_sentinel || fail(s, "this is a Sentinel: give the address of its primary (SENTINEL "
                                   "GET-MASTER-ADDR-BY-NAME)");
}

bool ctl_session_listen(ctl_session *s, ctl_on_message *handler, void *arg) {
    connection *c = &s->listener;
    s->on_message = handler;
    s->on_message_arg = arg;
    if (c->redis == NULL && !open_connection(s, c)) return false;
    int status = aff_redis_subscribe(c->redis, s->channel, strlen(s->channel));
    if (status != 0) return fail(s, "can't subscribe: %s", aff_error_text(status));
    return await_connection(s, c, is_subscribed);
}

aff_slice ctl_session_channel(const ctl_session *s) {
    return ctl_slice(s->channel);
}

/* ---- Commands -------------------------------------------------------------------------------- */

bool ctl_send(ctl_session *s, ctl_call *call, const aff_slice *args, int count) {
    if (!ctl_session_connect(s)) return false;
    const char **argv = ctl_alloc((size_t)count * sizeof(*argv));
    size_t *lens = ctl_alloc((size_t)count * sizeof(*lens));
    for (int i = 0; i < count; i++) {
        argv[i] = (const char *)args[i].data;
        lens[i] = args[i].len;
    }
    *call = (ctl_call){.tag = ++s->last_tag};
    int status = aff_redis_command(s->commands.redis, call->tag, count, argv, lens);
    free(argv);
    free(lens);
    if (status != 0) return fail(s, "can't send to Redis: %s", aff_error_text(status));
    call->next = s->calls;
    s->calls = call;
    return true;
}

static bool is_done(void *arg) {
    return ((ctl_call *)arg)->done;
}

redisReply *ctl_receive(ctl_session *s, ctl_call *call) {
    bool done = ctl_session_wait(s, s->options->timeout_ms, is_done, call);
    if (!done) {
        (void)unlink_call(s, call->tag);
        fail(s, s->interrupted ? "interrupted" : "Redis does not answer");
    } else if (call->reply == NULL) {
        fail(s, "the connection to Redis was lost: %s", s->commands.reason);
    }
    return call->reply;
}

redisReply *ctl_redis(ctl_session *s, const aff_slice *args, int count) {
    ctl_call call;
    redisReply *reply = ctl_send(s, &call, args, count) ? ctl_receive(s, &call) : NULL;
    return reply != NULL && !ctl_is_refused(s, reply) ? reply : NULL;
}

/* ---- Beginning and end ----------------------------------------------------------------------- */

uint64_t ctl_random(void) {
    uint64_t number;
    AFF_ASSERT(RAND_bytes((unsigned char *)&number, sizeof(number)) == 1);
    return number;
}

static bool read_pem(const char *option, const char *path, aff_slice *out) {
    if (path == NULL) return true;
    out->data = (const uint8_t *)ctl_read_file(option, path, &out->len);
    return out->data != NULL;
}

static bool make_tls(ctl_session *s) {
    const ctl_options *o = s->options;
    if (!o->redis.has_tls) return true;
    aff_tls_config config = {.server_name = o->tls_name, .reject_unauthorized = !o->tls_insecure};
    bool ok = read_pem("tls-ca", o->tls_ca, &config.ca) &&
              read_pem("tls-cert", o->tls_cert, &config.cert) &&
              read_pem("tls-key", o->tls_key, &config.key);
    char problem[256];
    if (ok && aff_tls_new(&config, false, &s->tls, problem, sizeof(problem)) != 0) {
        ctl_complain("--tls-...: %s", problem);
        ok = false;
    }
    free((char *)config.ca.data);
    free((char *)config.cert.data);
    free((char *)config.key.data);
    return ok;
}

ctl_session *ctl_session_new(const ctl_options *options) {
    ctl_session *s = ctl_alloc(sizeof(*s));
    *s = (ctl_session){.options = options};
    AFF_ASSERT(uv_loop_init(&s->loop) == 0);
    AFF_ASSERT(uv_timer_init(&s->loop, &s->deadline) == 0);
    s->deadline.data = s;
    /* Like a server's: its prefix, and a process that nobody else has. */
    s->channel = ctl_format("%sLink:%012llx", options->prefix,
                            (unsigned long long)(ctl_random() & 0xffffffffffffu));
    if (make_tls(s)) return s;
    ctl_session_free(s);
    return NULL;
}

void ctl_session_free(ctl_session *s) {
    if (s->commands.redis != NULL) aff_redis_close(s->commands.redis, NULL, NULL);
    if (s->listener.redis != NULL) aff_redis_close(s->listener.redis, NULL, NULL);
    for (size_t i = 0; s->catches && i < 2; i++) uv_close((uv_handle_t *)&s->signals[i], NULL);
    s->interrupted = false;
    /* A resolver that hangs does not hold us: the process ends anyway. */
    uint64_t until = ctl_session_now(s) + LEAVING_MS;
    while (uv_run(&s->loop, UV_RUN_NOWAIT) != 0 && uv_now(&s->loop) < until)
        (void)ctl_session_wait(s, 1, NULL, NULL);
    uv_close((uv_handle_t *)&s->deadline, NULL);
    while (uv_now(&s->loop) < until && uv_run(&s->loop, UV_RUN_NOWAIT) != 0) continue;
    bool is_closed = uv_loop_close(&s->loop) == 0;
    aff_tls_free(s->tls);
    free(s->channel);
    if (is_closed) free(s);
}
