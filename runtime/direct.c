#include "direct.h"

#include <openssl/rand.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    LENGTH_LEN = 4,
    MESSAGE_MAX = 1 << 20, /* a batch has 256 KiB, and its head and seal */
    GREETING_MAX = 1024,   /* before it is known who the other side is */
    GREETED_WITHIN_MS = 5000,
    LOOK_EVERY_MS = 1000,
    STRANGERS_MAX = 100, /* accepted, and not greeted yet */
    NONCE_LEN = 16
};

/* A message's first byte. */
enum { GREETING = 1, BATCH = 2 };

/* One that was dialled (`process` is the peer's; for sending) or accepted (for hearing). */
typedef struct connection {
    struct connection *next;
    aff_direct *direct;
    aff_stream *stream;
    aff_seal *seal; /* of this connection alone: what is said on others may overtake it */
    bool is_dialled, is_greeted;
    uint8_t nonce[NONCE_LEN]; /* drawn here */
    char *own_channel;        /* what the other side signs for */
    char *channel;            /* what this one signs for; NULL: its nonce is still to come */
    uint64_t since;           /* ms */
    char process[AFF_PROCESS_LEN];
    char *in; /* what has come and is no whole message yet */
    size_t in_len, in_cap;
} connection;

struct aff_direct {
    uv_loop_t *loop;
    aff_listener *listener;
    aff_tls *server_tls, *client_tls;
    aff_seal *seal;
    aff_direct_callbacks callbacks;
    void *arg;
    uv_timer_t timer;
    uint16_t port;
    char address[AFF_ADDRESS_MAX + 1];
    char process[AFF_PROCESS_LEN];
    char *prefix;
    connection *connections;
    uint8_t *out;
    size_t out_cap;
};

/* ---- Connections -------------------------------------------------------------------------------
 */

static void free_connection(connection *c) {
    aff_seal_free(c->seal);
    free(c->own_channel);
    free(c->channel);
    free(c->in);
    free(c);
}

static void end(connection *c) {
    connection **at = &c->direct->connections;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
    if (c->stream) aff_stream_close(c->stream);
    free_connection(c);
}

/* The last thing that is done with a connection. */
static void fail(connection *c, const char *reason) {
    aff_direct *d = c->direct;
    bool is_dialled = c->is_dialled;
    char process[AFF_PROCESS_LEN];
    memcpy(process, c->process, sizeof(process));
    end(c);
    if (is_dialled)
        d->callbacks.down(d->arg, (aff_slice){(uint8_t *)process, sizeof(process)}, reason);
}

/*
 * What a message is signed for: one process and one connection, and not what goes through Redis.
 * NULL: out of memory.
 */
static char *make_channel(const aff_direct *d, const char *process, const uint8_t *nonce) {
    size_t size = strlen(d->prefix) + sizeof("Direct::") + AFF_PROCESS_LEN + 2 * NONCE_LEN;
    char *channel = malloc(size);
    if (!channel) return NULL;
    int len = snprintf(channel, size, "%sDirect:%.*s:", d->prefix, AFF_PROCESS_LEN, process);
    for (int i = 0; i < NONCE_LEN; i++, len += 2) snprintf(channel + len, 3, "%02x", nonce[i]);
    return channel;
}

static connection *new_connection(aff_direct *d, bool is_dialled) {
    connection *c = calloc(1, sizeof(*c));
    if (!c) return NULL;
    bool ok = aff_seal_copy(d->seal, &c->seal) == 0 && RAND_bytes(c->nonce, NONCE_LEN) == 1;
    if (ok) c->own_channel = make_channel(d, d->process, c->nonce);
    if (!c->own_channel) {
        free_connection(c);
        return NULL;
    }
    c->direct = d;
    c->is_dialled = is_dialled;
    c->since = uv_now(d->loop);
    c->next = d->connections;
    d->connections = c;
    return c;
}

static connection *find_dialled(const aff_direct *d, aff_slice process) {
    connection *c = d->connections;
    if (process.len != AFF_PROCESS_LEN) return NULL;
    while (c && !(c->is_dialled && memcmp(c->process, process.data, AFF_PROCESS_LEN) == 0))
        c = c->next;
    return c;
}

/* ---- Messages ----------------------------------------------------------------------------------
 */

static aff_slice text_of(const char *channel) {
    return (aff_slice){(const uint8_t *)channel, strlen(channel)};
}

static void write_message(connection *c, aff_slice message) {
    uint32_t len = (uint32_t)message.len;
    char head[LENGTH_LEN] = {(char)(len >> 24), (char)(len >> 16), (char)(len >> 8), (char)len};
    aff_stream_write(c->stream, head, sizeof(head));
    aff_stream_write(c->stream, (const char *)message.data, message.len);
}

/* False: out of memory. */
static bool send_message(connection *c, uint8_t kind, aff_slice data) {
    aff_direct *d = c->direct;
    if (data.len + 1 > d->out_cap) {
        uint8_t *out = realloc(d->out, data.len + 1);
        if (!out) return false;
        d->out = out;
        d->out_cap = data.len + 1;
    }
    d->out[0] = kind;
    memcpy(d->out + 1, data.data, data.len);
    aff_slice sealed, plain = {d->out, data.len + 1};
    if (aff_seal_put(c->seal, text_of(c->channel), plain, &sealed) != 0) return false;
    write_message(c, sealed);
    return true;
}

/*
 * Whoever has accepted sends a nonce, and then each says who it is. What is signed is signed for
 * the nonce that the receiver has drawn: so nothing that was recorded is good for another
 * connection.
 */
static void challenge(connection *c) {
    write_message(c, (aff_slice){c->nonce, NONCE_LEN});
    aff_stream_flush(c->stream);
}

/* `nonce`: the other side's. False, here and below: the connection is over, and freed. */
static bool greet(connection *c, const uint8_t *nonce) {
    uint8_t greeting[AFF_PROCESS_LEN + NONCE_LEN];
    memcpy(greeting, c->direct->process, AFF_PROCESS_LEN);
    memcpy(greeting + AFF_PROCESS_LEN, c->nonce, NONCE_LEN);
    c->channel = make_channel(c->direct, c->process, nonce);
    if (!c->channel || !send_message(c, GREETING, (aff_slice){greeting, sizeof(greeting)})) {
        fail(c, "out of memory");
        return false;
    }
    aff_stream_flush(c->stream);
    return true;
}

static bool on_challenge(connection *c, aff_slice nonce) {
    if (nonce.len != NONCE_LEN) {
        fail(c, "it says what can't be understood");
        return false;
    }
    return greet(c, nonce.data);
}

static bool on_greeting(connection *c, aff_slice from) {
    aff_direct *d = c->direct;
    if (c->is_greeted || from.len != AFF_PROCESS_LEN + NONCE_LEN ||
        (c->is_dialled && memcmp(from.data, c->process, AFF_PROCESS_LEN) != 0)) {
        fail(c, "another server answers there");
        return false;
    }
    c->is_greeted = true;
    if (c->is_dialled) {
        d->callbacks.up(d->arg, (aff_slice){(uint8_t *)c->process, AFF_PROCESS_LEN});
        return true;
    }
    memcpy(c->process, from.data, AFF_PROCESS_LEN);
    return greet(c, from.data + AFF_PROCESS_LEN);
}

static bool on_message(connection *c, aff_slice sealed) {
    aff_direct *d = c->direct;
    if (c->is_dialled && !c->channel) return on_challenge(c, sealed);
    aff_slice data = {NULL, 0};
    int status = aff_seal_open(c->seal, text_of(c->own_channel), sealed, &data);
    if (status != AFF_SEAL_GOOD || data.len == 0) {
        if (status == AFF_SEAL_FORGED) d->callbacks.forged(d->arg);
        fail(c, status == AFF_ENOMEM ? "out of memory"
                                     : "it has another secret, or is another server");
        return false;
    }
    aff_slice rest = {data.data + 1, data.len - 1};
    if (data.data[0] == GREETING) return on_greeting(c, rest);
    bool is_batch = data.data[0] == BATCH && !c->is_dialled && c->is_greeted;
    if (is_batch) d->callbacks.message(d->arg, rest);
    if (!is_batch) fail(c, "it says what can't be understood");
    return is_batch;
}

/* The length of the message that begins there; 0: not all of it has come. -1: it can't be one. */
static int64_t message_len(const connection *c, const char *bytes, size_t len) {
    if (len < LENGTH_LEN) return 0;
    const uint8_t *b = (const uint8_t *)bytes;
    uint32_t wanted = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    if (wanted > (c->is_greeted ? MESSAGE_MAX : GREETING_MAX)) return -1;
    return len - LENGTH_LEN < wanted ? 0 : LENGTH_LEN + (int64_t)wanted;
}

/* Takes whole messages; `*left`: what remains. False: the connection is over. */
static bool take_messages(connection *c, const char *bytes, size_t len, size_t *left) {
    int64_t n;
    while ((n = message_len(c, bytes, len)) > 0) {
        aff_slice sealed = {(const uint8_t *)bytes + LENGTH_LEN, (size_t)n - LENGTH_LEN};
        if (!on_message(c, sealed)) return false;
        bytes += n;
        len -= (size_t)n;
    }
    if (n < 0) {
        fail(c, "it says what can't be understood");
        return false;
    }
    *left = len;
    return true;
}

static bool keep(connection *c, const char *bytes, size_t len) {
    if (c->in_len + len > c->in_cap) {
        size_t cap = 2 * (c->in_len + len);
        char *in = realloc(c->in, cap);
        if (!in) return false;
        c->in = in;
        c->in_cap = cap;
    }
    if (len) memcpy(c->in + c->in_len, bytes, len);
    c->in_len += len;
    return true;
}

static void on_data(void *arg, const char *bytes, size_t len) {
    connection *c = arg;
    size_t left;
    bool was_empty = c->in_len == 0;
    if (was_empty && !take_messages(c, bytes, len, &left)) return;
    const char *rest = was_empty ? bytes + len - left : bytes;
    if (!keep(c, rest, was_empty ? left : len)) {
        fail(c, "out of memory");
        return;
    }
    if (was_empty || !take_messages(c, c->in, c->in_len, &left)) return;
    memmove(c->in, c->in + c->in_len - left, left);
    c->in_len = left;
}

static void on_up(void *arg) {
    connection *c = arg;
    if (!c->is_dialled) challenge(c);
}

static void on_down(void *arg, const char *reason) {
    fail(arg, reason);
}

static const aff_stream_callbacks callbacks = {.up = on_up, .data = on_data, .down = on_down};

static void on_timer(uv_timer_t *timer);

/* Who does not say who it is in time is hung up on. */
static void watch(aff_direct *d) {
    if (uv_is_active((uv_handle_t *)&d->timer)) return;
    uv_timer_start(&d->timer, on_timer, LOOK_EVERY_MS, LOOK_EVERY_MS);
}

static size_t count_strangers(const aff_direct *d) {
    size_t n = 0;
    for (const connection *c = d->connections; c; c = c->next)
        n += !c->is_dialled && !c->is_greeted;
    return n;
}

static void on_accepted(void *arg, aff_stream *stream) {
    connection *c = count_strangers(arg) < STRANGERS_MAX ? new_connection(arg, false) : NULL;
    watch(arg);
    if (!c) {
        aff_stream_close(stream);
        return;
    }
    c->stream = stream;
    aff_stream_accept(stream, &callbacks, c);
}

/* ---- Dialling ----------------------------------------------------------------------------- */

/* "host:port", "[::1]:port". */
static bool split_address(const char *address, char *host, size_t size, uint16_t *port) {
    const char *colon = strrchr(address, ':');
    if (!colon || colon == address) return false;
    char *after;
    unsigned long number = strtoul(colon + 1, &after, 10);
    if (*after || after == colon + 1 || number < 1 || number > 65535) return false;
    const char *start = address, *stop = colon;
    if (*start == '[' && stop[-1] == ']') start++, stop--;
    if (stop <= start || (size_t)(stop - start) >= size) return false;
    memcpy(host, start, (size_t)(stop - start));
    host[stop - start] = '\0';
    *port = (uint16_t)number;
    return true;
}

/* `down` is not called from within aff_direct_dial(): the timer finds a connection without stream.
 */
void aff_direct_dial(aff_direct *d, aff_slice process, aff_slice address) {
    if (process.len != AFF_PROCESS_LEN || address.len > AFF_ADDRESS_MAX) return;
    aff_direct_hang_up(d, process);
    connection *c = new_connection(d, true);
    if (!c) return; /* the engine will hear nothing, and go on without */
    memcpy(c->process, process.data, AFF_PROCESS_LEN);
    char text[AFF_ADDRESS_MAX + 1], host[AFF_ADDRESS_MAX + 1];
    uint16_t port = 0;
    memcpy(text, address.data, address.len);
    text[address.len] = '\0';
    bool ok = split_address(text, host, sizeof(host), &port);
    aff_stream_target target = {
        .host = host, .port = port, .tls = d->client_tls, .timeout_ms = GREETED_WITHIN_MS};
    ok = ok && aff_stream_connect(d->loop, &target, &callbacks, c, &c->stream) == 0;
    if (!ok) c->since = 0;
    watch(d);
}

void aff_direct_send(aff_direct *d, aff_slice process, aff_slice batch) {
    connection *c = find_dialled(d, process);
    if (!c || !c->is_greeted) return;
    if (!send_message(c, BATCH, batch)) fail(c, "out of memory");
}

void aff_direct_hang_up(aff_direct *d, aff_slice process) {
    connection *c = find_dialled(d, process);
    if (c) end(c);
}

void aff_direct_flush(aff_direct *d) {
    for (connection *c = d->connections, *next; c; c = next) {
        next = c->next;
        if (c->stream && c->is_greeted && c->is_dialled) aff_stream_flush(c->stream);
    }
}

static void on_timer(uv_timer_t *timer) {
    aff_direct *d = timer->data;
    uint64_t now = uv_now(d->loop);
    bool waits = false;
    for (connection *c = d->connections, *next; c; c = next) {
        next = c->next;
        if (c->is_greeted) continue;
        bool is_late = !c->stream || now - c->since >= GREETED_WITHIN_MS;
        if (is_late) fail(c, c->stream ? "it does not answer" : "can't be dialled");
        waits |= !is_late;
    }
    if (!waits) uv_timer_stop(timer);
}

/* ---- Opening and closing ------------------------------------------------------------------ */

/* Where the port is not said, it is the one that is listened at. */
static bool set_address(aff_direct *d, const aff_direct_config *config) {
    const char *host = config->advertise ? config->advertise : config->host;
    bool is_literal = strchr(host, ':') != strrchr(host, ':') && host[0] != '[';
    char ignored[AFF_ADDRESS_MAX + 1];
    uint16_t said;
    int len;
    if (!is_literal && split_address(host, ignored, sizeof(ignored), &said)) {
        len = snprintf(d->address, sizeof(d->address), "%s", host);
    } else {
        len = snprintf(d->address, sizeof(d->address), is_literal ? "[%s]:%u" : "%s:%u", host,
                       d->port);
    }
    return len > 0 && (size_t)len < sizeof(d->address);
}

static int open_tls(aff_direct *d, const aff_direct_config *config, char *error, size_t error_len) {
    if (!config->has_tls) return 0;
    aff_tls_config server = config->tls;
    server.request_cert = config->asks_for_cert;
    int status = aff_tls_new(&server, true, &d->server_tls, error, error_len);
    if (status != 0) return status;
    return aff_tls_new(&config->tls, false, &d->client_tls, error, error_len);
}

static void free_direct(aff_direct *d) {
    aff_tls_free(d->server_tls);
    aff_tls_free(d->client_tls);
    free(d->prefix);
    free(d->out);
    free(d);
}

static void on_closed(uv_handle_t *timer) {
    free_direct(timer->data);
}

int aff_direct_open(uv_loop_t *loop, const aff_direct_config *config, aff_seal *seal,
                    const aff_direct_callbacks *calls, void *arg, aff_direct **out, char *error,
                    size_t error_len) {
    aff_direct *d = calloc(1, sizeof(*d));
    if (!d) return AFF_ENOMEM;
    d->loop = loop;
    d->seal = seal;
    d->callbacks = *calls;
    d->arg = arg;
    int status = open_tls(d, config, error, error_len);
    if (status == 0) {
        status = aff_listen(loop, config->host, config->port, d->server_tls, on_accepted, d,
                            &d->listener, &d->port, error, error_len);
    }
    if (status == 0 && !set_address(d, config)) {
        snprintf(error, error_len, "the address is too long");
        status = AFF_EINVAL;
    }
    if (status != 0) {
        if (d->listener) aff_listener_close(d->listener);
        free_direct(d);
        return status;
    }
    uv_timer_init(loop, &d->timer);
    d->timer.data = d;
    *out = d;
    return 0;
}

const char *aff_direct_address(const aff_direct *d) {
    return d->address;
}

uint16_t aff_direct_port(const aff_direct *d) {
    return d->port;
}

int aff_direct_start(aff_direct *d, const char *process, const char *prefix) {
    memcpy(d->process, process, AFF_PROCESS_LEN);
    d->prefix = strdup(prefix);
    return d->prefix ? 0 : AFF_ENOMEM;
}

void aff_direct_close(aff_direct *d) {
    if (!d) return;
    aff_listener_close(d->listener);
    while (d->connections) end(d->connections);
    uv_close((uv_handle_t *)&d->timer, on_closed);
}
