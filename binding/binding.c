/*
 * binding.c - Node-API: an aff_instance as an object of JavaScript. js/src/native.ts has the types.
 *
 *   open(options, onRecords) -> handle      onRecords(ArrayBuffer): a block of records (queue.h)
 *   hand(handle, records, length) -> status   the first `length` bytes are whole records (queue.h)
 *   validUntil(handle), now() -> ms         stats(handle), metrics(handle) -> object
 *   alive(handle)
 *   close(handle)
 *
 * A handle is an external with a type tag. It is closed by close(), when it is collected, or when
 * its environment (process or worker) ends, whichever comes first.
 */
#define NAPI_VERSION 8
#include <node_api.h>
#include <stdlib.h>
#include <string.h>

#include "instance.h"

typedef struct {
    aff_instance *instance; /* NULL: closed */
    napi_threadsafe_function wake;
    napi_env env;
    uint64_t owed; /* credit of blocks that JavaScript is done with */
} handle;

static const napi_type_tag handle_tag = {0x5ad1c0b7e6f94d21u, 0x9c3e80f1a2b74c65u};

enum {
    COPY_BELOW = 16 << 10, /* smaller blocks are cheaper copied than wrapped */
    OWED_MAX = 64 << 10    /* less credit waits for something else that wakes the I/O thread */
};

/* ---- Arguments ------------------------------------------------------------------------------- */

#define CHECK(env, call)                                                                           \
    do {                                                                                           \
        if ((call) != napi_ok) {                                                                   \
            throw_last(env);                                                                       \
            return NULL;                                                                           \
        }                                                                                          \
    } while (0)

static void throw_last(napi_env env) {
    bool pending;
    const napi_extended_error_info *info;
    if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return;
    const char *text = "Node-API call failed";
    if (napi_get_last_error_info(env, &info) == napi_ok && info->error_message) {
        text = info->error_message;
    }
    napi_throw_error(env, "AFF_EINVAL", text);
}

static handle *get_handle(napi_env env, napi_value value) {
    bool ours = false;
    void *pointer = NULL;
    if (napi_check_object_type_tag(env, value, &handle_tag, &ours) == napi_ok && ours &&
        napi_get_value_external(env, value, &pointer) == napi_ok)
        return pointer;
    napi_throw_type_error(env, "AFF_EINVAL", "not a handle of this addon");
    return NULL;
}

/* For functions of a handle alone; NULL: an exception is pending. */
static handle *get_only_argument(napi_env env, napi_callback_info info) {
    size_t argc = 1;
    napi_value argv[1];
    CHECK(env, napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
    return get_handle(env, argv[0]);
}

static bool get_bytes(napi_env env, napi_value value, aff_slice *out) {
    napi_typedarray_type kind;
    void *data;
    size_t len;
    if (napi_get_typedarray_info(env, value, &kind, &len, &data, NULL, NULL) != napi_ok ||
        kind != napi_uint8_array) {
        napi_throw_type_error(env, "AFF_EINVAL", "expected a Uint8Array");
        return false;
    }
    *out = (aff_slice){data, len};
    return true;
}

static napi_value to_number(napi_env env, double number) {
    napi_value value;
    CHECK(env, napi_create_double(env, number, &value));
    return value;
}

/* ---- Options -----------------------------------------------------------------------------------
 */

/* A copy, which the caller frees; NULL where there is none. False: it could not be copied. */
static bool get_string(napi_env env, napi_value object, const char *name, char **out) {
    napi_value value;
    napi_valuetype type;
    size_t len;
    *out = NULL;
    if (napi_get_named_property(env, object, name, &value) != napi_ok ||
        napi_typeof(env, value, &type) != napi_ok)
        return false;
    if (type != napi_string) return true;
    if (napi_get_value_string_utf8(env, value, NULL, 0, &len) != napi_ok) return false;
    *out = malloc(len + 1);
    return *out && napi_get_value_string_utf8(env, value, *out, len + 1, &len) == napi_ok;
}

static double get_number(napi_env env, napi_value object, const char *name) {
    napi_value value;
    double number = 0;
    if (napi_get_named_property(env, object, name, &value) == napi_ok) {
        napi_get_value_double(env, value, &number);
    }
    return number;
}

static bool get_flag(napi_env env, napi_value object, const char *name) {
    napi_value value;
    bool flag = false;
    if (napi_get_named_property(env, object, name, &value) == napi_ok) {
        napi_get_value_bool(env, value, &flag);
    }
    return flag;
}

enum {
    SERVER_ID,
    PREFIX,
    HOST,
    PATH,
    USERNAME,
    PASSWORD,
    CLIENT_NAME,
    LINK_HOST,
    LINK_ADVERTISE,
    LINK_SERVER_NAME,
    TLS_SERVER_NAME,
    STRING_COUNT
};

static uint64_t random_seed(napi_env env, napi_value options) {
    return (uint64_t)get_number(env, options, "seedHigh") << 32 |
           (uint64_t)get_number(env, options, "seedLow");
}

/* `secrets`: an array of Uint8Arrays, the current one first. What can't be read is not left out: it
 * makes a count that aff_instance_open() refuses. */
static size_t get_secrets(napi_env env, napi_value options, aff_slice *out) {
    napi_value list, item;
    uint32_t count = 0;
    if (napi_get_named_property(env, options, "secrets", &list) != napi_ok ||
        napi_get_array_length(env, list, &count) != napi_ok || count > AFF_SEAL_KEYS_MAX)
        return AFF_SEAL_KEYS_MAX + 1;
    for (uint32_t i = 0; i < count; i++) {
        if (napi_get_element(env, list, i, &item) != napi_ok || !get_bytes(env, item, &out[i]))
            return AFF_SEAL_KEYS_MAX + 1;
    }
    return count;
}

/* False: a string could not be copied; without it others could be connected to. */
static bool get_strings(napi_env env, napi_value options, char **strings) {
    static const char *const names[STRING_COUNT] = {
        "serverId",   "prefix",   "host",          "path",           "username",     "password",
        "clientName", "linkHost", "linkAdvertise", "linkServerName", "tlsServerName"};
    bool all = true;
    for (int i = 0; i < STRING_COUNT; i++) all &= get_string(env, options, names[i], &strings[i]);
    return all;
}

/* The bytes of a property of `options`, if it has that. */
static aff_slice get_pem(napi_env env, napi_value options, const char *name) {
    napi_value value;
    napi_valuetype type;
    aff_slice bytes = {NULL, 0};
    if (napi_get_named_property(env, options, name, &value) == napi_ok &&
        napi_typeof(env, value, &type) == napi_ok && type == napi_object) {
        (void)get_bytes(env, value, &bytes);
    }
    return bytes;
}

static aff_direct_config get_link(napi_env env, napi_value options, char **strings) {
    return (aff_direct_config){
        .host = strings[LINK_HOST],
        .port = (uint16_t)get_number(env, options, "linkPort"),
        .advertise = strings[LINK_ADVERTISE],
        .has_tls = get_flag(env, options, "linkHasTLS"),
        .asks_for_cert = get_flag(env, options, "linkAsksForCert"),
        .tls = {.ca = get_pem(env, options, "linkCA"),
                .cert = get_pem(env, options, "linkCert"),
                .key = get_pem(env, options, "linkKey"),
                .passphrase = get_pem(env, options, "linkPassphrase"),
                .server_name = strings[LINK_SERVER_NAME],
                .reject_unauthorized = get_flag(env, options, "linkRejectUnauthorized")},
    };
}

static aff_tls_config get_redis_tls(napi_env env, napi_value options, char **strings) {
    return (aff_tls_config){.ca = get_pem(env, options, "tlsCA"),
                            .cert = get_pem(env, options, "tlsCert"),
                            .key = get_pem(env, options, "tlsKey"),
                            .passphrase = get_pem(env, options, "tlsPassphrase"),
                            .server_name = strings[TLS_SERVER_NAME],
                            .reject_unauthorized = get_flag(env, options, "tlsRejectUnauthorized")};
}

/* As Node numbers them; 0: any. */
static int get_family(napi_env env, napi_value options) {
    double family = get_number(env, options, "family");
    return family == 4 ? AF_INET : family == 6 ? AF_INET6 : AF_UNSPEC;
}

static aff_instance_config get_config(napi_env env, napi_value options, char **strings) {
    uint64_t seed = random_seed(env, options);
    aff_instance_config config = {
        .engine = {.server_id = strings[SERVER_ID],
                   .prefix = strings[PREFIX],
                   .seed = seed,
                   .lock_ttl_ms = (uint64_t)get_number(env, options, "lockTTL"),
                   .proxy_socket_ttl_ms = (uint64_t)get_number(env, options, "proxySocketTTL"),
                   .event_ttl_ms = (uint64_t)get_number(env, options, "customEventTTL"),
                   .alive_every_ms = (uint64_t)get_number(env, options, "aliveEvery"),
                   .places = get_flag(env, options, "places")},
        .redis = {.host = strings[HOST],
                  .port = (uint16_t)get_number(env, options, "port"),
                  .family = get_family(env, options),
                  .path = strings[PATH],
                  .username = strings[USERNAME],
                  .password = strings[PASSWORD],
                  .db = (uint32_t)get_number(env, options, "db"),
                  .client_name = strings[CLIENT_NAME],
                  .connect_timeout_ms = (uint32_t)get_number(env, options, "connectTimeout"),
                  .seed = seed ^ 0x5bf03635u},
        .has_redis_tls = get_flag(env, options, "hasTLS"),
        .redis_tls = get_redis_tls(env, options, strings),
        .foreign = get_flag(env, options, "foreign"),
        .pack = get_flag(env, options, "pack"),
        .stall_limit_ms = (uint64_t)get_number(env, options, "stallLimit"),
    };
    config.secret_count = get_secrets(env, options, config.secrets);
    config.has_direct = strings[LINK_HOST] != NULL;
    if (config.has_direct) config.direct = get_link(env, options, strings);
    return config;
}

/* ---- From the instance to JavaScript ------------------------------------------------------ */

static void free_block(napi_env env, void *data, void *hint) {
    (void)env, (void)hint;
    free(data);
}

/* The block as an ArrayBuffer, which owns its memory from then on. */
static napi_value wrap_block(napi_env env, aff_block block) {
    napi_value buffer;
    void *copy;
    if (block.len >= COPY_BELOW) {
        if (napi_create_external_arraybuffer(env, block.data, block.len, free_block, NULL,
                                             &buffer) == napi_ok)
            return buffer;
        /* Runtimes with a memory cage allow no external buffers: copy. */
    }
    bool is_made = napi_create_arraybuffer(env, block.len, &copy, &buffer) == napi_ok;
    if (is_made) memcpy(copy, block.data, block.len);
    free(block.data);
    return is_made ? buffer : NULL;
}

/* Gives credit back; it counts when the I/O thread is next woken. What its queue has no room for
 * waits. */
static void pay(handle *h) {
    if (h->instance && h->owed && aff_instance_consumed(h->instance, h->owed) == 0) h->owed = 0;
}

/* The same at once. */
static void pay_now(handle *h) {
    pay(h);
    if (h->instance) aff_instance_hand(h->instance, NULL, 0);
}

static void on_wake(napi_env env, napi_value callback, void *context, void *data) {
    handle *h = context;
    (void)data;
    if (!env || !callback || !h->instance) return;
    aff_block block = aff_instance_take(h->instance);
    if (!block.data) return;
    uint64_t credit = block.credit;
    napi_value buffer = wrap_block(env, block), undefined, result;
    if (!buffer || napi_get_undefined(env, &undefined) != napi_ok) return;
    napi_call_function(env, undefined, callback, 1, &buffer, &result);
    h->owed += credit;
    if (h->owed >= OWED_MAX) pay_now(h);
}

static void wake(void *arg) {
    handle *h = arg;
    napi_call_threadsafe_function(h->wake, NULL, napi_tsfn_nonblocking);
}

/* ---- Opening and closing ------------------------------------------------------------------ */

static void close_handle(void *data) {
    handle *h = data;
    if (!h->instance) return;
    aff_instance *instance = h->instance;
    h->instance = NULL;
    aff_instance_close(instance);
    napi_release_threadsafe_function(h->wake, napi_tsfn_abort);
}

static void finalize_handle(napi_env env, void *data, void *hint) {
    (void)hint;
    napi_remove_env_cleanup_hook(env, close_handle, data);
    close_handle(data);
    free(data);
}

static bool make_wake(napi_env env, napi_value callback, handle *h) {
    napi_value name;
    return napi_create_string_utf8(env, "affinity", NAPI_AUTO_LENGTH, &name) == napi_ok &&
           napi_create_threadsafe_function(env, callback, NULL, name, 0, 1, NULL, NULL, h, on_wake,
                                           &h->wake) == napi_ok;
}

static napi_value open_instance(napi_env env, napi_callback_info info) {
    size_t argc = 2;
    napi_value argv[2], external;
    CHECK(env, napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
    handle *h = calloc(1, sizeof(*h));
    if (!h || !make_wake(env, argv[1], h)) {
        free(h);
        throw_last(env);
        return NULL;
    }
    char *strings[STRING_COUNT];
    bool has_all = get_strings(env, argv[0], strings);
    aff_instance_config config = get_config(env, argv[0], strings);
    config.wake = wake;
    config.arg = h;
    char why[256] = "";
    int status = has_all ? aff_instance_open(&config, &h->instance, why, sizeof(why)) : AFF_ENOMEM;
    for (int i = 0; i < STRING_COUNT; i++) free(strings[i]);
    if (status != 0) {
        napi_release_threadsafe_function(h->wake, napi_tsfn_abort);
        free(h);
        napi_throw_error(env, aff_error_name(status), why[0] ? why : aff_error_text(status));
        return NULL;
    }
    if (napi_add_env_cleanup_hook(env, close_handle, h) != napi_ok) {
        close_handle(h);
        free(h);
        throw_last(env);
        return NULL;
    }
    if (napi_create_external(env, h, finalize_handle, NULL, &external) != napi_ok) {
        throw_last(env);
        finalize_handle(env, h, NULL);
        return NULL;
    }
    CHECK(env, napi_type_tag_object(env, external, &handle_tag)); /* else: collected */
    return external;
}

static napi_value close_instance(napi_env env, napi_callback_info info) {
    handle *h = get_only_argument(env, info);
    if (h) close_handle(h);
    return NULL;
}

/* ---- From JavaScript to the instance ------------------------------------------------------ */

static napi_value js_hand(napi_env env, napi_callback_info info) {
    size_t argc = 3;
    napi_value argv[3];
    uint32_t len;
    aff_slice records;
    CHECK(env, napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
    handle *h = get_handle(env, argv[0]);
    if (!h || !get_bytes(env, argv[1], &records)) return NULL;
    CHECK(env, napi_get_value_uint32(env, argv[2], &len));
    if (!h->instance) return to_number(env, AFF_ECLOSED);
    if (len < records.len) records.len = len;
    pay(h);
    return to_number(env, aff_instance_hand(h->instance, records.data, records.len));
}

/* ---- Looking ------------------------------------------------------------------------------ */

static napi_value js_valid_until(napi_env env, napi_callback_info info) {
    handle *h = get_only_argument(env, info);
    if (!h) return NULL;
    return to_number(env, h->instance ? (double)aff_instance_valid_until(h->instance) : 0);
}

static napi_value js_alive(napi_env env, napi_callback_info info) {
    handle *h = get_only_argument(env, info);
    if (h && h->instance) aff_instance_alive(h->instance);
    if (h && h->owed) pay_now(h);
    return NULL;
}

static napi_value js_now(napi_env env, napi_callback_info info) {
    (void)info;
    return to_number(env, (double)aff_now());
}

typedef struct {
    const char *name;
    uint64_t value;
} field;

static bool set_fields(napi_env env, napi_value object, const field *fields, size_t count) {
    for (size_t i = 0; i < count; i++) {
        napi_value value = to_number(env, (double)fields[i].value);
        if (!value || napi_set_named_property(env, object, fields[i].name, value) != napi_ok)
            return false;
    }
    return true;
}

/* An array of numbers. */
static bool set_numbers(napi_env env, napi_value object, const char *name, const uint64_t *numbers,
                        size_t count) {
    napi_value array;
    if (napi_create_array_with_length(env, count, &array) != napi_ok) return false;
    for (size_t i = 0; i < count; i++) {
        napi_value value = to_number(env, (double)numbers[i]);
        if (!value || napi_set_element(env, array, (uint32_t)i, value) != napi_ok) return false;
    }
    return napi_set_named_property(env, object, name, array) == napi_ok;
}

#define COUNT(array) (sizeof(array) / sizeof(*(array)))

/* What `stats()` shows. */
static bool set_stats(napi_env env, napi_value object, const aff_stats *s,
                      const aff_seal_stats *seal) {
    const field fields[] = {
        {"framesIn", s->frames_in},
        {"framesOut", s->frames_out},
        {"batchesIn", s->batches_in},
        {"batchesOut", s->batches_out},
        {"batchesDirect", s->batches_direct},
        {"bytesIn", s->bytes_in},
        {"bytesOut", s->bytes_out},
        {"malformed", s->malformed},
        {"forged", seal->forged},
        {"replayed", seal->replayed},
        {"stale", s->stale},
        {"gaps", s->gaps},
        {"takeovers", s->takeovers},
        {"resets", s->resets},
        {"failovers", s->failovers},
        {"refused", s->refused},
        {"overflows", s->overflows},
        {"documents", s->documents},
        {"documentsOwned", s->documents_owned},
        {"sockets", s->sockets},
        {"routes", s->routes},
        {"proxies", s->proxies},
        {"peers", s->peers},
        {"links", s->links},
        {"backlog", s->backlog},
        {"queued", s->queued},
    };
    return set_fields(env, object, fields, COUNT(fields));
}

/* What `metrics()` shows more. Arrays are in the order of their enums; durations: of the buckets,
 * then the sum in ms. */
static bool set_details(napi_env env, napi_value object, const aff_stats *s,
                        const aff_queue_stats *queues) {
    const field fields[] = {
        {"losses", s->losses},    {"refusedEvents", s->refused_events},
        {"lapses", s->lapses},    {"disconnects", s->disconnects},
        {"stalls", s->stalls},    {"unacknowledged", s->unacknowledged},
        {"redisUp", s->redis_up}, {"stalled", s->stalled},
        {"inbox", queues->inbox}, {"outbox", queues->outbox},
    };
    enum { NUMBERS = AFF_BUCKET_COUNT + 2 };
    uint64_t renewals[NUMBERS], failovers[NUMBERS];
    memcpy(renewals, s->renewals.counts, sizeof(s->renewals.counts));
    memcpy(failovers, s->failover_times.counts, sizeof(s->failover_times.counts));
    renewals[NUMBERS - 1] = s->renewals.sum_ms;
    failovers[NUMBERS - 1] = s->failover_times.sum_ms;
    return set_fields(env, object, fields, COUNT(fields)) &&
           set_numbers(env, object, "staleBy", s->stale_by, COUNT(s->stale_by)) &&
           set_numbers(env, object, "takeoversBy", s->takeovers_by, COUNT(s->takeovers_by)) &&
           set_numbers(env, object, "reclaimsBy", s->reclaims_by, COUNT(s->reclaims_by)) &&
           set_numbers(env, object, "renewals", renewals, NUMBERS) &&
           set_numbers(env, object, "failoverTimes", failovers, NUMBERS);
}

/* `instance` may be NULL: zeros alone. */
static napi_value make_stats(napi_env env, aff_instance *instance, bool has_details) {
    napi_value object;
    aff_stats s = {0};
    aff_seal_stats seal = {0};
    aff_queue_stats queues = {0};
    if (instance) {
        aff_instance_stats(instance, &s);
        aff_instance_seal_stats(instance, &seal);
        aff_instance_queue_stats(instance, &queues);
    }
    CHECK(env, napi_create_object(env, &object));
    if (set_stats(env, object, &s, &seal) &&
        (!has_details || set_details(env, object, &s, &queues)))
        return object;
    throw_last(env);
    return NULL;
}

static napi_value js_stats(napi_env env, napi_callback_info info) {
    handle *h = get_only_argument(env, info);
    return h ? make_stats(env, h->instance, false) : NULL;
}

static napi_value js_metrics(napi_env env, napi_callback_info info) {
    size_t argc = 1;
    napi_value argv[1];
    napi_valuetype type;
    CHECK(env, napi_get_cb_info(env, info, &argc, argv, NULL, NULL));
    CHECK(env, napi_typeof(env, argv[0], &type));
    if (type == napi_null) return make_stats(env, NULL, true);
    handle *h = get_handle(env, argv[0]);
    return h ? make_stats(env, h->instance, true) : NULL;
}

/* ---- The module --------------------------------------------------------------------------- */

typedef struct {
    const char *name;
    int value;
} constant;

static const constant constants[] = {
    {"SOCKET_OPEN", AFF_EV_SOCKET_OPEN},
    {"SOCKET_FRAME", AFF_EV_SOCKET_FRAME},
    {"SOCKET_ALIVE", AFF_EV_SOCKET_ALIVE},
    {"SOCKET_CLOSE", AFF_EV_SOCKET_CLOSE},
    {"ROUTE_END", AFF_EV_ROUTE_END},
    {"ROUTE_STATE", AFF_EV_ROUTE_STATE},
    {"PROXY_SEND", AFF_EV_PROXY_SEND},
    {"PROXY_CLOSE", AFF_EV_PROXY_CLOSE},
    {"CLAIM", AFF_EV_CLAIM},
    {"UNUSE", AFF_EV_UNUSE},
    {"CONFIRM", AFF_EV_CONFIRM},
    {"LEAVE", AFF_EV_LEAVE},
    {"PLACE", AFF_EV_PLACE},
    {"DRAIN", AFF_EV_DRAIN},
    {"EMIT", AFF_EV_EMIT},
    {"EVENT_RESULT", AFF_EV_EVENT_RESULT},
    {"SHUTDOWN", AFF_EV_SHUTDOWN},
    {"PACKED", AFF_RECORD_PACKED},
    {"UNPACKED", AFF_RECORD_UNPACKED},
    {"ASK", AFF_RECORD_ASK},
    {"CONTROL", AFF_RECORD_CONTROL},
    {"REDIS_UP", AFF_RECORD_REDIS_UP},
    {"REDIS_DOWN", AFF_RECORD_REDIS_DOWN},
    {"REDIS_REFUSED", AFF_RECORD_REDIS_REFUSED},
    {"REDIS_RETRY", AFF_RECORD_REDIS_RETRY},
    {"REDIS_REPLY", AFF_RECORD_REDIS_REPLY},
    {"REDIS_MESSAGE", AFF_RECORD_REDIS_MESSAGE},
    {"REDIS_SUBSCRIBED", AFF_RECORD_REDIS_SUBSCRIBED},
    {"REDIS_UNSUBSCRIBED", AFF_RECORD_REDIS_UNSUBSCRIBED},
    {"ON_READY", AFF_ACT_READY},
    {"ON_FAILED", AFF_ACT_FAILED},
    {"ON_SEND", AFF_ACT_SEND},
    {"ON_SOCKET_CLOSE", AFF_ACT_SOCKET_CLOSE},
    {"ON_LOCAL", AFF_ACT_LOCAL},
    {"ON_ROUTE", AFF_ACT_ROUTE},
    {"ON_PROXY_OPEN", AFF_ACT_PROXY_OPEN},
    {"ON_PROXY_FRAME", AFF_ACT_PROXY_FRAME},
    {"ON_PROXY_ALIVE", AFF_ACT_PROXY_ALIVE},
    {"ON_PROXY_CLOSE", AFF_ACT_PROXY_CLOSE},
    {"ON_CLAIMED", AFF_ACT_CLAIMED},
    {"ON_LOST", AFF_ACT_LOST},
    {"ON_PLACE", AFF_ACT_PLACE},
    {"ON_EVENT_RUN", AFF_ACT_EVENT_RUN},
    {"ON_EVENT_LOCAL", AFF_ACT_EVENT_LOCAL},
    {"ON_EVENT_DONE", AFF_ACT_EVENT_DONE},
    {"ON_NEWS", AFF_ACT_NEWS},
    {"ON_LOG", AFF_ACT_LOG},
    {"ON_STOPPED", AFF_ACT_STOPPED},
    {"ON_PACK", AFF_RECORD_PACK},
    {"ON_UNPACK", AFF_RECORD_UNPACK},
    {"ON_ANSWER", AFF_RECORD_ANSWER},
    {"ON_CONTROL", AFF_RECORD_CONTROL},
    {"ON_REDIS_COMMAND", AFF_RECORD_REDIS_COMMAND},
    {"ON_REDIS_PUBLISH", AFF_RECORD_REDIS_PUBLISH},
    {"ON_REDIS_LISTEN", AFF_RECORD_REDIS_LISTEN},
    {"USE_HOLD", AFF_USE_HOLD},
    {"USE_LOADED", AFF_USE_LOADED},
    {"USE_EVENT", AFF_USE_EVENT},
    {"ROUTE_HERE", AFF_ROUTE_HERE},
    {"ROUTE_RECALL", AFF_ROUTE_RECALL},
};

static bool set_number(napi_env env, napi_value object, const char *name, int number) {
    napi_value value;
    return napi_create_int32(env, number, &value) == napi_ok &&
           napi_set_named_property(env, object, name, value) == napi_ok;
}

static bool set_error(napi_env env, napi_value object, int error) {
    napi_value key, pair, name, text;
    return napi_create_int32(env, error, &key) == napi_ok &&
           napi_create_array_with_length(env, 2, &pair) == napi_ok &&
           napi_create_string_utf8(env, aff_error_name(error), NAPI_AUTO_LENGTH, &name) ==
               napi_ok &&
           napi_create_string_utf8(env, aff_error_text(error), NAPI_AUTO_LENGTH, &text) ==
               napi_ok &&
           napi_set_element(env, pair, 0, name) == napi_ok &&
           napi_set_element(env, pair, 1, text) == napi_ok &&
           napi_set_property(env, object, key, pair) == napi_ok;
}

/* `constants`: numbers of records and uses; `errors`: number -> [name, text]; `bucketMs`. */
static bool set_tables(napi_env env, napi_value exports) {
    napi_value numbers, errors;
    if (napi_create_object(env, &numbers) != napi_ok || napi_create_object(env, &errors) != napi_ok)
        return false;
    for (size_t i = 0; i < sizeof(constants) / sizeof(*constants); i++) {
        if (!set_number(env, numbers, constants[i].name, constants[i].value)) return false;
    }
    static const int all_errors[] = {
#define X(name, value, text) value,
        AFF_ERRORS(X)
#undef X
    };
    for (size_t i = 0; i < sizeof(all_errors) / sizeof(*all_errors); i++) {
        if (!set_error(env, errors, all_errors[i])) return false;
    }
    uint64_t bucket_ms[AFF_BUCKET_COUNT];
    for (int i = 0; i < AFF_BUCKET_COUNT; i++) bucket_ms[i] = aff_bucket_ms[i];
    return set_numbers(env, exports, "bucketMs", bucket_ms, AFF_BUCKET_COUNT) &&
           napi_set_named_property(env, exports, "constants", numbers) == napi_ok &&
           napi_set_named_property(env, exports, "errors", errors) == napi_ok;
}

/* The header's macros define these without declaring them. */
#ifdef NODE_API_MODULE_GET_API_VERSION
int32_t NODE_API_MODULE_GET_API_VERSION(void);
#endif
napi_value NAPI_MODULE_INITIALIZER(napi_env env, napi_value exports);

NAPI_MODULE_INIT() {
    if (!set_tables(env, exports)) {
        throw_last(env);
        return NULL;
    }
    static const struct {
        const char *name;
        napi_callback call;
    } functions[] = {
        {"open", open_instance}, {"close", close_instance},
        {"hand", js_hand},       {"now", js_now},
        {"alive", js_alive},     {"stats", js_stats},
        {"metrics", js_metrics}, {"validUntil", js_valid_until},
    };
    for (size_t i = 0; i < sizeof(functions) / sizeof(*functions); i++) {
        napi_value function;
        CHECK(env, napi_create_function(env, functions[i].name, NAPI_AUTO_LENGTH, functions[i].call,
                                        NULL, &function));
        CHECK(env, napi_set_named_property(env, exports, functions[i].name, function));
    }
    return exports;
}
