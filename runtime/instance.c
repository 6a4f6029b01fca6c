#include "instance.h"

#include "control.h"
#include "foreign.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct aff_instance {
    aff_instance_config config;
    aff_engine *engine;
    aff_queue inbox, outbox;
    uv_thread_t thread;
    uv_loop_t loop;
    uv_async_t wakeup;
    uv_prepare_t turn;
    uv_timer_t timer, watch; /* the engine's alarm; the look at the application */
    atomic_uint_fast64_t alive_at;
    atomic_bool stalled;
    aff_redis *commands, *listener;
    uint32_t foreign_downs; /* how often Redis was down, as last heard of the application */
    char *channel;          /* what the listener listens to */
    size_t channel_len;
    char where[160];          /* " at host:port", for people; empty: the application knows */
    uint32_t failed_attempts; /* to connect to Redis, since the last success */
    uint32_t failed_links;    /* likewise, direct links to peers */
    bool has_started, refused, closing;
    bool has_news;          /* for the application, which has not been woken yet */
    uint64_t patient_until; /* with Redis, since the last command */
    /* When the thread looks into the inbox at the latest, woken or not; 0: only when woken. */
    atomic_uint_fast64_t looks_by;
    atomic_bool abort;
    atomic_uint_fast64_t valid_until;
    uv_mutex_t stats_mutex;
    aff_stats stats;
    aff_seal *seal;     /* NULL: no secret */
    aff_direct *direct; /* NULL: no direct links */
    atomic_uint_fast64_t forged, replayed;
    uint64_t forgery_told_at; /* 0: not yet */
};

/* The mark of a request that is not the engine's. Such numbers cross as f64, so below 2^53. */
static const uint64_t BY_APPLICATION = 1ull << 52;

enum {
    VALUES_MAX = 4, /* of an answer to the engine */
    TELL_FORGERY_EVERY_MS = 60000,
    PATIENCE_MS = 2 /* Redis mostly answers much sooner */
};

uint64_t aff_now(void) {
    struct timespec t;
    clock_gettime(CLOCK_BOOTTIME, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* ---- To the application -------------------------------------------------------------------- */

static void wake_application(aff_instance *in) {
    if (in->has_news) in->config.wake(in->config.arg);
    in->has_news = false;
}

static void deliver(aff_instance *in, const aff_record *record, uint64_t credit) {
    int status = aff_queue_push(&in->outbox, record, credit);
    in->has_news = true;
    if (status == 1) wake_application(in);
    if (status < 0) atomic_store(&in->abort, true); /* can't go on without telling: fail whole */
}

static void deliver_action(aff_instance *in, const aff_action *a) {
    aff_record record = {
        .kind = (uint8_t)a->type,
        .code = a->code,
        .socket = a->socket,
        .status = a->status,
        .request = a->type == AFF_ACT_ROUTE ? a->count : a->request,
        .bytes = a->bytes,
        .document = a->document,
        .name = a->name,
        .data = a->data,
    };
    if (a->type == AFF_ACT_SEND) {
        record.name = (aff_slice){(const uint8_t *)a->sockets, a->count * sizeof(uint32_t)};
    }
    deliver(in, &record, aff_action_credit(a));
}

static void tell(aff_instance *in, aff_action_type type, int status, uint16_t code,
                 const char *text) {
    aff_record record = {.kind = (uint8_t)type,
                         .status = status,
                         .code = code,
                         .data = {(const uint8_t *)text, strlen(text)}};
    deliver(in, &record, 0);
}

/* A line for people; `level` as in AFF_ACT_LOG. */
static void tell_log(aff_instance *in, int level, aff_topic topic, const char *text) {
    tell(in, AFF_ACT_LOG, level, (uint16_t)topic, text);
}

/* The same for why Redis is away, which the application remembers. */
static void tell_away(aff_instance *in, const char *text) {
    aff_record record = {.kind = AFF_ACT_LOG,
                         .flag = true,
                         .status = 1,
                         .code = AFF_TOPIC_REDIS,
                         .data = {(const uint8_t *)text, strlen(text)}};
    deliver(in, &record, 0);
}

/* ---- To Redis ------------------------------------------------------------------------------ */

static void step(aff_instance *in, const aff_event *event) {
    if (aff_step(in->engine, aff_now(), event) == AFF_ENOMEM) atomic_store(&in->abort, true);
}

/* What Redis says to something that the application has asked; `data`: values, or an error. */
static void answer_application(aff_instance *in, uint64_t request, int status, aff_slice data) {
    deliver(in,
            &(aff_record){.kind = AFF_RECORD_ANSWER,
                          .request = request & ~BY_APPLICATION,
                          .status = status,
                          .data = data},
            0);
}

static void on_answer(aff_instance *in, const aff_event *reply) {
    if (!(reply->request & BY_APPLICATION)) {
        step(in, reply);
        return;
    }
    aff_slice data = reply->data;
    if (reply->status != 0) {
        answer_application(in, reply->request, reply->status, data);
    } else if (aff_foreign_put_values(reply->value_count, reply->values, &data) == 0) {
        answer_application(in, reply->request, 0, data);
        free((void *)data.data);
    } else {
        atomic_store(&in->abort, true);
    }
}

static aff_slice text(const char *s) {
    return (aff_slice){(const uint8_t *)s, strlen(s)};
}

/* The application sends it, and answers with AFF_RECORD_REDIS_REPLY. */
static void deliver_command(aff_instance *in, uint64_t request, int argc, const aff_slice *args) {
    aff_record record = {
        .kind = AFF_RECORD_REDIS_COMMAND, .request = request, .socket = in->foreign_downs};
    if (aff_foreign_put(argc, args, &record.data) != 0) {
        atomic_store(&in->abort, true);
        return;
    }
    deliver(in, &record, 0);
    free((void *)record.data.data);
}

static void send_command(aff_instance *in, uint64_t request, int argc, const aff_slice *args) {
    if (in->config.foreign) {
        deliver_command(in, request, argc, args);
        return;
    }
    const char *argv[AFF_ARGV_MAX + 3];
    size_t lens[AFF_ARGV_MAX + 3];
    for (int i = 0; i < argc; i++) {
        argv[i] = (const char *)args[i].data;
        lens[i] = args[i].len;
    }
    int status =
        in->commands ? aff_redis_command(in->commands, request, argc, argv, lens) : AFF_ENOTCONN;
    if (status == 0) {
        in->patient_until = aff_now() + PATIENCE_MS;
        return;
    }
    if (status == AFF_ENOMEM) {
        atomic_store(&in->abort, true);
        return;
    }
    /* Only where there is no connection will there be one, after which the engine asks again. */
    aff_event event = {.type = AFF_EV_REPLY, .request = request, .status = AFF_ENOTCONN};
    if (status != AFF_ENOTCONN) {
        event.status = AFF_EREDIS;
        event.data = text("too much waits to be sent");
    }
    on_answer(in, &event);
}

static void run_script(aff_instance *in, const aff_action *a) {
    aff_slice args[AFF_ARGV_MAX + 3];
    int argc = 0;
    if (a->script == AFF_COMMAND_GET) {
        args[argc++] = text("GET");
    } else if (a->script == AFF_COMMAND_NUMSUB) {
        args[argc++] = text("PUBSUB");
        args[argc++] = text("NUMSUB");
    } else {
        /* Always the whole script: Redis knows it by its hash after the first time, and a lease
         * is claimed once for each opening of a document. */
        args[argc++] = text("EVAL");
        args[argc++] = text(aff_script_source(a->script));
        args[argc++] = text("1");
    }
    for (int i = 0; i < a->argc; i++) args[argc++] = a->argv[i];
    send_command(in, a->request, argc, args);
}

static void publish(aff_instance *in, uint64_t request, aff_slice channel, aff_slice data) {
    if (in->seal && aff_seal_put(in->seal, channel, data, &data) != 0) {
        atomic_store(&in->abort, true);
        return;
    }
    if (in->config.foreign) {
        aff_record record = {.kind = AFF_RECORD_REDIS_PUBLISH,
                             .request = request,
                             .socket = in->foreign_downs,
                             .name = channel,
                             .data = data};
        deliver(in, &record, 0);
        return;
    }
    aff_slice args[] = {text("PUBLISH"), channel, data};
    send_command(in, request, 3, args);
}

static void listen_to(aff_instance *in, aff_slice channel) {
    if (!in->listener && !in->config.foreign) return;
    if (in->channel && in->listener &&
        aff_redis_unsubscribe(in->listener, in->channel, in->channel_len) != 0)
        atomic_store(&in->abort, true);
    free(in->channel);
    in->channel = malloc(channel.len + 1);
    if (!in->channel) {
        atomic_store(&in->abort, true);
        return;
    }
    memcpy(in->channel, channel.data, channel.len);
    in->channel_len = channel.len;
    if (in->config.foreign) {
        deliver(in, &(aff_record){.kind = AFF_RECORD_REDIS_LISTEN, .name = channel}, 0);
        return;
    }
    if (aff_redis_subscribe(in->listener, in->channel, in->channel_len) != 0)
        atomic_store(&in->abort, true); /* a deaf server must not go on: fail whole */
}

static void stop(aff_instance *in);

static void perform_direct(aff_instance *in, const aff_action *a) {
    switch (a->type) {
        case AFF_ACT_DIRECT_OPEN: aff_direct_dial(in->direct, a->name, a->data); return;
        case AFF_ACT_DIRECT_SEND: aff_direct_send(in->direct, a->name, a->data); return;
        default: aff_direct_hang_up(in->direct, a->name); return;
    }
}

static void perform(aff_instance *in, const aff_action *a) {
    switch (a->type) {
        case AFF_ACT_REDIS: run_script(in, a); return;
        case AFF_ACT_SUBSCRIBE: listen_to(in, a->name); return;
        case AFF_ACT_PUBLISH:
            if (in->config.pack) {
                aff_record record = {.kind = AFF_RECORD_PACK,
                                     .request = a->request,
                                     .name = a->name,
                                     .data = a->data};
                deliver(in, &record, 0);
            } else {
                publish(in, a->request, a->name, a->data);
            }
            return;
        case AFF_ACT_DIRECT_OPEN:
        case AFF_ACT_DIRECT_SEND:
        case AFF_ACT_DIRECT_CLOSE: perform_direct(in, a); return;
        case AFF_ACT_STOPPED:
            deliver_action(in, a);
            stop(in);
            return;
        case AFF_ACT_READY:
            in->has_started = true;
            deliver_action(in, a);
            return;
        default: deliver_action(in, a); return;
    }
}

/* ---- From Redis ---------------------------------------------------------------------------- */

static void on_up(void *arg) {
    aff_instance *in = arg;
    in->failed_attempts = 0;
    in->refused = false;
    step(arg, &(aff_event){.type = AFF_EV_REDIS_UP});
}

static void on_down(void *arg, const char *reason) {
    aff_instance *in = arg;
    char line[256];
    snprintf(line, sizeof(line), "connection to Redis lost: %s", reason);
    tell_away(in, line);
    step(in, &(aff_event){.type = AFF_EV_REDIS_DOWN});
}

static void on_refused(void *arg, const char *error) {
    aff_instance *in = arg;
    if (in->refused) return;
    in->refused = true;
    char line[256];
    snprintf(line, sizeof(line), "Redis can't be used: %s", error);
    /* A start with wrong credentials or certificates fails. Later, it is an outage: somebody may
     * mend it. */
    if (in->has_started) {
        tell_away(in, line);
    } else {
        tell(in, AFF_ACT_FAILED, AFF_EREFUSED, 0, line);
    }
}

static aff_value to_value(const redisReply *r) {
    aff_value value = {.type = AFF_VALUE_NIL};
    if (r->type == REDIS_REPLY_INTEGER) {
        value.type = AFF_VALUE_INT;
        value.integer = r->integer;
    } else if (r->type == REDIS_REPLY_STRING || r->type == REDIS_REPLY_STATUS) {
        value.type = AFF_VALUE_STRING;
        value.string = (aff_slice){(const uint8_t *)r->str, r->len};
    }
    return value;
}

static void on_reply(void *arg, uint64_t tag, const redisReply *reply) {
    aff_instance *in = arg;
    aff_value few[VALUES_MAX], *values = few;
    aff_event event = {.type = AFF_EV_REPLY, .request = tag};
    if (!reply) {
        event.status = AFF_ENOTCONN;
    } else if (reply->type == REDIS_REPLY_ERROR) {
        event.status = AFF_EREDIS;
        event.data = (aff_slice){(const uint8_t *)reply->str, reply->len};
    } else if (reply->type == REDIS_REPLY_ARRAY) {
        bool is_long = reply->elements > VALUES_MAX && (tag & BY_APPLICATION);
        if (is_long) values = malloc(reply->elements * sizeof(*values));
        if (!values) {
            atomic_store(&in->abort, true);
            return;
        }
        for (size_t i = 0; i < reply->elements && (is_long || i < VALUES_MAX); i++) {
            values[event.value_count++] = to_value(reply->element[i]);
        }
    } else {
        values[event.value_count++] = to_value(reply);
    }
    event.values = values;
    on_answer(in, &event);
    if (values != few) free(values);
}

/* Whoever can publish can make this happen as often as they like: it is told once in a while. */
static void tell_forgery(aff_instance *in, const char *what) {
    uint64_t now = aff_now();
    if (in->forgery_told_at && now - in->forgery_told_at < TELL_FORGERY_EVERY_MS) return;
    in->forgery_told_at = now;
    tell_log(in, 1, AFF_TOPIC_LINKS, what);
}

/* Is the message to be read? Leaves what was sealed in `*message`. */
static bool unseal(aff_instance *in, aff_slice channel, aff_slice *message) {
    if (!in->seal) {
        /* What was packed may begin with any byte. */
        if (!in->config.pack && message->len > 0 && message->data[0] == AFF_SEAL_FORM) {
            tell_forgery(in, "messages of a server that has a `secret` can't be read: this server "
                             "has none");
        }
        return true;
    }
    switch (aff_seal_open(in->seal, channel, *message, message)) {
        case AFF_SEAL_GOOD: return true;
        case AFF_SEAL_FORGED:
            atomic_fetch_add(&in->forged, 1);
            tell_forgery(in, "a message without a valid signature was refused: a server with "
                             "another `secret` or none, or a forgery (see stats().forged)");
            return false;
        case AFF_SEAL_REPLAYED: atomic_fetch_add(&in->replayed, 1); return false;
        default: atomic_store(&in->abort, true); return false;
    }
}

static void on_message(void *arg, const char *channel, size_t channel_len, const char *data,
                       size_t len) {
    aff_instance *in = arg;
    aff_slice batch = {(const uint8_t *)data, len};
    if (!unseal(in, (aff_slice){(const uint8_t *)channel, channel_len}, &batch)) return;
    aff_slice sender, body;
    if (aff_control_read(batch, &sender, &body)) { /* of an application, for ours */
        deliver(in, &(aff_record){.kind = AFF_RECORD_CONTROL, .name = sender, .data = body}, 0);
    } else if (in->config.pack) {
        deliver(in, &(aff_record){.kind = AFF_RECORD_UNPACK, .data = batch}, 0);
    } else {
        step(in, &(aff_event){.type = AFF_EV_MESSAGE, .data = batch});
    }
}

static void on_subscribed(void *arg, const char *channel, size_t len) {
    aff_instance *in = arg;
    if (in->channel_len == len && memcmp(in->channel, channel, len) == 0) {
        step(in, &(aff_event){.type = AFF_EV_SUBSCRIBED});
    }
}

static void on_subscribe_failed(void *arg, const char *channel, size_t len, const char *error) {
    (void)channel, (void)len;
    on_refused(arg, error);
}

static void on_listener_down(void *arg, const char *reason) {
    (void)reason;
    step(arg, &(aff_event){.type = AFF_EV_UNSUBSCRIBED});
}

/* The first failed attempt is news, and then one of some seconds' worth. */
static void on_retry(void *arg, const char *reason, uint32_t delay_ms) {
    aff_instance *in = arg;
    (void)delay_ms;
    if (in->failed_attempts++ % 20 != 0) return;
    char line[512];
    snprintf(line, sizeof(line), "Redis%s can't be reached, still trying: %s", in->where, reason);
    tell_away(in, line);
}

static const aff_redis_callbacks command_callbacks = {
    .up = on_up, .down = on_down, .refused = on_refused, .retry = on_retry, .reply = on_reply};
static const aff_redis_callbacks listener_callbacks = {.down = on_listener_down,
                                                       .refused = on_refused,
                                                       .message = on_message,
                                                       .subscribed = on_subscribed,
                                                       .subscribe_failed = on_subscribe_failed};

/* ---- From Redis, by way of the application -------------------------------------------------- */

static void on_foreign_reply(aff_instance *in, const aff_record *r) {
    if (r->request & BY_APPLICATION) { /* there and back in one form */
        answer_application(in, r->request, r->status, r->data);
        return;
    }
    aff_value values[VALUES_MAX];
    aff_event event = {
        .type = AFF_EV_REPLY, .request = r->request, .status = r->status, .data = r->data};
    if (event.status == 0) {
        int count = aff_foreign_get(r->data, values, VALUES_MAX);
        if (count < 0) {
            event.status = AFF_EREDIS;
            event.data = text("an answer could not be read");
        } else {
            event.values = values;
            event.value_count = (size_t)count;
        }
    }
    step(in, &event);
}

static void on_foreign_news(aff_instance *in, const aff_record *r) {
    char text[192];
    size_t len = r->data.len < sizeof(text) ? r->data.len : sizeof(text) - 1;
    memcpy(text, r->data.data, len);
    text[len] = '\0';
    switch (r->kind) {
        case AFF_RECORD_REDIS_DOWN: on_down(in, text); return;
        case AFF_RECORD_REDIS_REFUSED: on_refused(in, text); return;
        default: on_retry(in, text, 0); return;
    }
}

/* False: it is something else. */
static bool on_foreign(aff_instance *in, const aff_record *r) {
    const char *channel = (const char *)r->name.data, *data = (const char *)r->data.data;
    if (r->kind == AFF_RECORD_REDIS_UP || r->kind == AFF_RECORD_REDIS_DOWN)
        in->foreign_downs = r->socket;
    switch (r->kind) {
        case AFF_RECORD_REDIS_UP: on_up(in); return true;
        case AFF_RECORD_REDIS_DOWN:
        case AFF_RECORD_REDIS_REFUSED:
        case AFF_RECORD_REDIS_RETRY: on_foreign_news(in, r); return true;
        case AFF_RECORD_REDIS_REPLY: on_foreign_reply(in, r); return true;
        case AFF_RECORD_REDIS_MESSAGE:
            on_message(in, channel, r->name.len, data, r->data.len);
            return true;
        case AFF_RECORD_REDIS_SUBSCRIBED: on_subscribed(in, channel, r->name.len); return true;
        case AFF_RECORD_REDIS_UNSUBSCRIBED: on_listener_down(in, ""); return true;
        default: return false;
    }
}

/* ---- Direct links ------------------------------------------------------------------------- */

static void on_direct_up(void *arg, aff_slice process) {
    ((aff_instance *)arg)->failed_links = 0;
    step(arg, &(aff_event){.type = AFF_EV_DIRECT_UP, .name = process});
}

static void on_direct_down(void *arg, aff_slice process, const char *reason) {
    aff_instance *in = arg;
    char line[256];
    snprintf(line, sizeof(line), "no direct link to process %.*s, Redis carries what there is: %s",
             (int)process.len, (const char *)process.data, reason);
    tell_log(in, in->failed_links++ % 20 == 0, AFF_TOPIC_LINKS, line);
    step(in, &(aff_event){.type = AFF_EV_DIRECT_DOWN, .name = process});
}

static void on_direct_message(void *arg, aff_slice batch) {
    step(arg, &(aff_event){.type = AFF_EV_MESSAGE, .data = batch});
}

static void on_direct_forged(void *arg) {
    aff_instance *in = arg;
    atomic_fetch_add(&in->forged, 1);
    tell_forgery(in, "a direct link without a valid signature was refused: a server with another "
                     "`secret`, or a forgery (see stats().forged)");
}

static const aff_direct_callbacks direct_callbacks = {.up = on_direct_up,
                                                      .down = on_direct_down,
                                                      .message = on_direct_message,
                                                      .forged = on_direct_forged};

/* ---- From the application ----------------------------------------------------------------- */

static void ask_redis(aff_instance *in, const aff_record *r) {
    aff_slice args[AFF_ARGV_MAX];
    int argc = aff_foreign_get_args(r->data, args, AFF_ARGV_MAX);
    if (argc > 0) {
        send_command(in, r->request | BY_APPLICATION, argc, args);
    } else {
        answer_application(in, r->request, AFF_EINVAL, text("too many arguments, or none"));
    }
}

static void send_control(aff_instance *in, const aff_record *r) {
    if (!in->channel) {
        answer_application(in, r->request, AFF_ENOTCONN, text(""));
        return;
    }
    aff_slice channel = {(const uint8_t *)in->channel, in->channel_len};
    aff_slice message = aff_control_write(channel, r->data);
    if (message.data == NULL) {
        atomic_store(&in->abort, true);
        return;
    }
    publish(in, r->request | BY_APPLICATION, r->name, message);
    free((void *)message.data);
}

static void on_record(aff_instance *in, const aff_record *r) {
    switch (r->kind) {
        case AFF_RECORD_PACKED: publish(in, r->request, r->name, r->data); return;
        case AFF_RECORD_ASK: ask_redis(in, r); return;
        case AFF_RECORD_CONTROL: send_control(in, r); return;
        default: break;
    }
    if (in->config.foreign && r->kind >= AFF_RECORD_REDIS_UP && on_foreign(in, r)) return;
    aff_event event = {
        .type = r->kind == AFF_RECORD_UNPACKED ? AFF_EV_MESSAGE : (aff_event_type)r->kind,
        .socket = r->socket,
        .request = r->request,
        .bytes = r->bytes,
        .status = r->status,
        .code = r->code,
        .flag = r->flag,
        .use = (aff_use)r->code,
        .document = r->document,
        .name = r->name,
        .data = r->data,
    };
    uint32_t *sockets = NULL;
    if (event.type == AFF_EV_PROXY_SEND) { /* the name holds the numbers, at any alignment */
        event.count = (uint32_t)(r->name.len / sizeof(uint32_t));
        sockets = malloc(r->name.len + 1);
        if (!sockets) {
            atomic_store(&in->abort, true);
            return;
        }
        memcpy(sockets, r->name.data, r->name.len);
        event.sockets = sockets;
    }
    step(in, &event);
    free(sockets);
}

static void read_inbox(aff_instance *in) {
    aff_block block = aff_queue_take(&in->inbox);
    aff_record record;
    for (size_t at = 0; aff_record_read(&block, &at, &record);) on_record(in, &record);
    free(block.data);
}

/* ---- The loop ----------------------------------------------------------------------------- */

/* The end of the turn reads the inbox. */
static void on_wakeup(uv_async_t *handle) {
    (void)handle;
}

static void on_timer(uv_timer_t *handle) {
    step(handle->data, &(aff_event){.type = AFF_EV_TICK});
}

static void set_timer(aff_instance *in) {
    uint64_t at = aff_deadline(in->engine), now = aff_now();
    uint64_t look = atomic_load(&in->looks_by);
    if (look && look < at) at = look;
    if (at == UINT64_MAX) {
        uv_timer_stop(&in->timer);
        return;
    }
    uv_update_time(&in->loop);
    uv_timer_start(&in->timer, on_timer, at > now ? at - now : 0, 0);
}

/* The application's thread is busy for too long, or was: the engine is told. */
static void on_watch(uv_timer_t *handle) {
    aff_instance *in = handle->data;
    bool silent = aff_now() - atomic_load(&in->alive_at) > in->config.stall_limit_ms;
    if (!silent || atomic_exchange(&in->stalled, true)) return;
    step(in, &(aff_event){.type = AFF_EV_STALLED, .flag = true});
}

void aff_instance_alive(aff_instance *in) {
    atomic_store(&in->alive_at, aff_now());
    if (!atomic_exchange(&in->stalled, false)) return;
    aff_queue_push(&in->inbox, &(aff_record){.kind = AFF_EV_STALLED, .flag = false}, 0);
    uv_async_send(&in->wakeup);
}

static void save_stats(aff_instance *in) {
    aff_stats stats;
    aff_get_stats(in->engine, &stats);
    uv_mutex_lock(&in->stats_mutex);
    in->stats = stats;
    uv_mutex_unlock(&in->stats_mutex);
}

/*
 * An answer that is due wakes the thread anyway, and frames for a peer gather until then (link.c):
 * so the application need not wake it for more of them.
 */
static void expect_answer(aff_instance *in) {
    bool is_due = in->commands && aff_redis_is_waiting(in->commands);
    bool is_coming = is_due && aff_now() < in->patient_until;
    atomic_store(&in->looks_by, is_coming ? in->patient_until : 0);
}

static void turn(aff_instance *in) {
    if (in->closing) return;
    atomic_store(&in->looks_by, 0); /* what comes after the inbox was read wakes the thread */
    read_inbox(in);
    if (atomic_load(&in->abort)) {
        tell(in, AFF_ACT_FAILED, AFF_ENOMEM, 0, "the engine has stopped: out of memory");
        stop(in);
        return;
    }
    step(in, &(aff_event){.type = AFF_EV_FLUSH});
    const aff_action *action;
    while (!in->closing && (action = aff_next_action(in->engine))) perform(in, action);
    if (in->closing) return;
    if (in->commands) aff_redis_flush(in->commands);
    if (in->direct) aff_direct_flush(in->direct);
    atomic_store(&in->valid_until, aff_valid_until(in->engine));
    save_stats(in);
    expect_answer(in);
    set_timer(in);
}

/* Before the loop sleeps: send what was gathered, do what the engine wants, set its alarm. */
static void on_turn(uv_prepare_t *handle) {
    turn(handle->data);
    wake_application(handle->data);
}

static void stop(aff_instance *in) {
    if (in->closing) return;
    in->closing = true;
    atomic_store(&in->valid_until, 0);
    if (in->commands) aff_redis_close(in->commands, NULL, NULL);
    if (in->listener) aff_redis_close(in->listener, NULL, NULL);
    aff_direct_close(in->direct);
    in->commands = in->listener = NULL;
    in->direct = NULL;
    uv_close((uv_handle_t *)&in->wakeup, NULL);
    uv_close((uv_handle_t *)&in->turn, NULL);
    uv_close((uv_handle_t *)&in->timer, NULL);
    uv_close((uv_handle_t *)&in->watch, NULL);
}

static void run(void *arg) {
    aff_instance *in = arg;
    uv_run(&in->loop, UV_RUN_DEFAULT);
}

/* ---- Opening and closing ------------------------------------------------------------------ */

static int open_loop(aff_instance *in) {
    if (uv_loop_init(&in->loop) != 0) return AFF_ENOMEM;
    in->wakeup.data = in->turn.data = in->timer.data = in->watch.data = in;
    atomic_store(&in->alive_at, aff_now());
    if (uv_async_init(&in->loop, &in->wakeup, on_wakeup) != 0) {
        uv_loop_close(&in->loop);
        return AFF_ENOMEM;
    }
    uv_prepare_init(&in->loop, &in->turn);
    uv_prepare_start(&in->turn, on_turn);
    uv_timer_init(&in->loop, &in->timer);
    uv_timer_init(&in->loop, &in->watch);
    uint64_t every = in->config.stall_limit_ms / 10 + 1;
    if (in->config.stall_limit_ms) uv_timer_start(&in->watch, on_watch, every, every);
    return 0;
}

/* What `error` says then begins with the option. */
static int complain(const char *option, int status, const char *why, char *error,
                    size_t error_len) {
    if (status == AFF_EINVAL && why[0] != '\0') snprintf(error, error_len, "%s: %s", option, why);
    return status;
}

static void remember_where(aff_instance *in, const aff_redis_config *config) {
    if (config->path) {
        snprintf(in->where, sizeof(in->where), " at %s", config->path);
    } else {
        snprintf(in->where, sizeof(in->where), " at %s:%u", config->host, config->port);
    }
}

static int open_redis(aff_instance *in, const aff_redis_config *config) {
    aff_redis_config second = *config;
    second.seed++;
    int status = aff_redis_open(&in->loop, config, &command_callbacks, in, &in->commands);
    if (status != 0) return status;
    return aff_redis_open(&in->loop, &second, &listener_callbacks, in, &in->listener);
}

static int open_connections(aff_instance *in, char *error, size_t error_len) {
    if (in->config.foreign) return 0;
    aff_redis_config config = in->config.redis;
    char why[200] = "";
    int status = 0;
    if (in->config.has_redis_tls)
        status = aff_tls_new(&in->config.redis_tls, false, &config.tls, why, sizeof(why));
    if (status != 0) return complain("redis", status, why, error, error_len);
    remember_where(in, &config);
    config.ping_ms = 5000;
    config.reply_timeout_ms = 15000;
    config.out_max = AFF_REDIS_OUT_LIMIT;
    status = open_redis(in, &config);
    aff_tls_free(config.tls); /* they keep it */
    return complain("redis", status, "its host, port or path is out of range", error, error_len);
}

static void free_instance(aff_instance *in) {
    aff_free(in->engine);
    aff_seal_free(in->seal);
    aff_queue_free(&in->inbox);
    aff_queue_free(&in->outbox);
    uv_mutex_destroy(&in->stats_mutex);
    free(in->channel);
    free(in);
}

/* The engine tells peers where this server listens: so it listens first. */
static int open_direct(aff_instance *in, char *error, size_t error_len) {
    if (!in->config.has_direct) return 0;
    char why[200] = "";
    int status = aff_direct_open(&in->loop, &in->config.direct, in->seal, &direct_callbacks, in,
                                 &in->direct, why, sizeof(why));
    return complain("link", status, why, error, error_len);
}

static int open_engine(aff_instance *in) {
    aff_config config = in->config.engine;
    if (in->direct) config.direct_address = aff_direct_address(in->direct);
    int status = aff_new(&config, &in->engine);
    if (status != 0 || !in->direct) return status;
    return aff_direct_start(in->direct, aff_boot(in->engine), config.prefix);
}

static void tell_address(aff_instance *in) {
    char line[2 * AFF_ADDRESS_MAX];
    snprintf(line, sizeof(line), "direct links: listening at port %u, which others reach at %s",
             aff_direct_port(in->direct), aff_direct_address(in->direct));
    tell_log(in, 0, AFF_TOPIC_LINKS, line);
}

static int start(aff_instance *in, char *error, size_t error_len) {
    int status = open_loop(in);
    if (status != 0) return status;
    status = open_direct(in, error, error_len);
    if (status == 0) status = open_engine(in);
    if (status == 0 && in->direct) tell_address(in);
    if (status == 0) status = open_connections(in, error, error_len);
    if (status == 0 && uv_thread_create(&in->thread, run, in) != 0) status = AFF_ENOMEM;
    if (status == 0) return 0;
    stop(in);
    uv_run(&in->loop, UV_RUN_DEFAULT);
    uv_loop_close(&in->loop);
    return status;
}

int aff_instance_open(const aff_instance_config *config, aff_instance **out, char *error,
                      size_t error_len) {
    if (config->has_direct && (config->pack || config->secret_count == 0)) return AFF_EINVAL;
    aff_instance *in = calloc(1, sizeof(*in));
    if (!in) return AFF_ENOMEM;
    in->config = *config;
    memset(in->config.secrets, 0, sizeof(in->config.secrets)); /* the caller's */
    int status = config->secret_count == 0
                     ? 0
                     : aff_seal_new(config->secrets, config->secret_count, &in->seal);
    if (status != 0) {
        free(in);
        return status;
    }
    if (aff_queue_init(&in->inbox, AFF_INBOX_MAX) != 0 ||
        aff_queue_init(&in->outbox, AFF_OUTBOX_MAX) != 0 || uv_mutex_init(&in->stats_mutex) != 0)
        abort(); /* a mutex without attributes can't fail on Linux and macOS */
    status = start(in, error, error_len);
    if (status != 0) {
        free_instance(in);
        return status;
    }
    in->config.direct = (aff_direct_config){0}; /* the caller's */
    in->config.redis_tls = (aff_tls_config){0};
    in->config.redis = (aff_redis_config){0};
    *out = in;
    return 0;
}

int aff_instance_hand(aff_instance *in, const void *records, size_t len) {
    int status = aff_queue_append(&in->inbox, records, len);
    if (aff_now() >= atomic_load(&in->looks_by)) uv_async_send(&in->wakeup);
    return status;
}

aff_block aff_instance_take(aff_instance *in) {
    return aff_queue_take(&in->outbox);
}

int aff_instance_consumed(aff_instance *in, uint64_t credit) {
    if (credit == 0) return 0;
    return aff_queue_push(&in->inbox, &(aff_record){.kind = AFF_EV_CONSUMED, .bytes = credit}, 0);
}

uint64_t aff_instance_valid_until(const aff_instance *in) {
    return atomic_load(&in->valid_until);
}

void aff_instance_stats(aff_instance *in, aff_stats *out) {
    uv_mutex_lock(&in->stats_mutex);
    *out = in->stats;
    uv_mutex_unlock(&in->stats_mutex);
}

void aff_instance_seal_stats(const aff_instance *in, aff_seal_stats *out) {
    *out = (aff_seal_stats){atomic_load(&in->forged), atomic_load(&in->replayed)};
}

void aff_instance_queue_stats(aff_instance *in, aff_queue_stats *out) {
    *out = (aff_queue_stats){aff_queue_len(&in->inbox), aff_queue_len(&in->outbox)};
}

void aff_instance_close(aff_instance *in) {
    atomic_store(&in->abort, true);
    uv_async_send(&in->wakeup); /* harmless where the handle is closed: its loop has ended */
    uv_thread_join(&in->thread);
    uv_loop_close(&in->loop);
    free_instance(in);
}
