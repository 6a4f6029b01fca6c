/*
 * Streams: see stream.h for what they do, here is how. listener.c is where accepted ones come from.
 *
 *            name               resolved              connected             done
 *     NEW ---------> RESOLVING ----------> CONNECTING ----------> HANDSHAKE -----> UP
 *      |  |                                  ^  ^  |  |                             ^
 *      |  +-- address, Unix socket -----------+  |  |  +-- without TLS --------------+
 *      |                                        +--+ next address
 *      +-- accepted ----------------------------------------------^
 *
 * Each may go DOWN, and each, DOWN included, to CLOSED, which lasts until libuv has given
 * everything back. An accepted stream without TLS is in HANDSHAKE until the next turn.
 *
 * Bytes to be sent are in `out` as they were written, then in `wire` as they go over it, then in
 * `writing` while libuv has them. Without TLS they are not copied on this way.
 *
 * What fails inside a call is told from the timer: callbacks run from the loop.
 */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "stream.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/un.h>

#include "aff.h"
#include "alloc.h"
#include "resolver.h"

enum {
    READ_MAX = 64 * 1024,
    RECORD_MAX = 16 * 1024,   /* what TLS puts into one record */
    ENCRYPT_MAX = 128 * 1024, /* at a time: what waits is not kept twice */
    BUFFER_MIN = 4096,
    BUFFER_KEEP_MAX = 256 * 1024,
    KEEPALIVE_S = 15,
    LAST_WORDS_MS = 20, /* from a failed write to giving up reading */
    TLS_ALERT = 21,     /* a record's first byte says what it holds; one of these comes first */
    TLS_HANDSHAKE = 22
};

typedef enum { NEW, RESOLVING, CONNECTING, HANDSHAKE, UP, DOWN, CLOSED } state;

typedef struct {
    char *bytes;
    size_t start, end, cap; /* bytes[start] to bytes[end - 1] are held */
} buffer;

struct aff_stream {
    uv_loop_t *loop;
    state state;
    unsigned refs; /* handles and requests that libuv holds; s is freed with the last */
    aff_stream_callbacks on;
    void *arg;
    aff_tls *tls;               /* or NULL */
    aff__tls_conn *conn;        /* from HANDSHAKE on, with TLS */
    void (*settled)(void *arg); /* of an accepted stream in its handshake */
    void *settled_arg;

    uv_timer_t timer; /* up to UP: the limit; once broken: until it is told */
    union {
        uv_handle_t handle;
        uv_stream_t stream;
        uv_tcp_t tcp;
        uv_pipe_t pipe;
    } socket;
    bool socket_open; /* initialised, and not closed by us */
    uv_connect_t connect;
    uv_write_t write;
    bool write_busy;
    bool broken, refused;
    bool hears_tls; /* something has come that begins as TLS does */
    char reason[256];

    /* Of a stream that connects. */
    char *host, *path; /* one of them */
    uint16_t port;
    int family;
    uint32_t timeout_ms, first;
    uint64_t deadline_ms;
    aff_question *question; /* or NULL: the resolver is not asked */
    struct sockaddr_storage addresses[AFF_RESOLVER_ADDRESSES_MAX];
    size_t address_count; /* of a Unix socket: 1 */
    size_t tried;         /* of them */

    buffer out, wire, writing;
    char read_buffer[READ_MAX];
};

static void on_timer(uv_timer_t *timer);
static void connect_next(aff_stream *s);
static void write_out(aff_stream *s);

static void set_timer(aff_stream *s, uint64_t delay_ms) {
    AFF_ASSERT(uv_timer_start(&s->timer, on_timer, delay_ms, 0) == 0);
}

static void set_state(aff_stream *s, state to) {
#define BIT(s) (1u << (s))
    static const unsigned ends = BIT(DOWN) | BIT(CLOSED);
    static const unsigned allowed[] = {
        [NEW] = BIT(RESOLVING) | BIT(CONNECTING) | BIT(HANDSHAKE),
        [RESOLVING] = BIT(CONNECTING),
        [CONNECTING] = BIT(HANDSHAKE) | BIT(UP),
        [HANDSHAKE] = BIT(UP),
        [UP] = 0,
        [DOWN] = 0,
        [CLOSED] = 0,
    };
    AFF_ASSERT(((allowed[s->state] | ends) & BIT(to)) != 0);
    AFF_ASSERT(s->state != CLOSED && s->state != to);
    AFF_ASSERT((BIT(to) & (BIT(HANDSHAKE) | BIT(UP))) == 0 || s->socket_open);
    AFF_ASSERT((BIT(to) & ends) == 0 || !s->socket_open);
#undef BIT
    s->state = to;
}

__attribute__((format(printf, 2, 3))) /* a sentence for people */
static void
set_reason(aff_stream *s, const char *format, ...) {
    va_list args;
    va_start(args, format);
    vsnprintf(s->reason, sizeof s->reason, format, args);
    va_end(args);
}

/* `what` failed with a status of libuv's. */
static void set_uv_reason(aff_stream *s, const char *what, int status) {
    if (status == UV_ENOMEM)
        set_reason(s, "%s", aff_error_text(AFF_ENOMEM));
    else
        set_reason(s, "%s: %s", what, uv_strerror(status));
}

/* For whoever reads that a handshake of ours has come to nothing: what is likely. */
static const char *tls_hint(const aff_stream *s) {
    bool is_ours = s->state == HANDSHAKE && s->host != NULL;
    return is_ours && !s->hears_tls ? " (does that port speak TLS?)" : "";
}

/* TLS is over. */
static void set_tls_reason(aff_stream *s) {
    s->refused = aff__tls_is_refused(s->conn);
    set_reason(s, "%s%s", aff__tls_reason(s->conn), s->refused ? tls_hint(s) : "");
}

/* --- buffers --------------------------------------------------------------------------------- */

static size_t held(const buffer *b) {
    return b->end - b->start;
}

static void drop(buffer *b) {
    free(b->bytes);
    *b = (buffer){0};
}

/* Keeps the memory of an empty buffer, but not a burst's. */
static void settle(buffer *b) {
    if (held(b) > 0) return;
    b->start = b->end = 0;
    if (b->cap > BUFFER_KEEP_MAX) drop(b);
}

static bool reserve(buffer *b, size_t more) {
    if (b->cap - b->end >= more) return true;
    /* Moving costs no more than what has gone out since it was moved last. */
    if (b->start > 0 && b->start >= held(b)) {
        memmove(b->bytes, b->bytes + b->start, held(b));
        b->end -= b->start;
        b->start = 0;
        if (b->cap - b->end >= more) return true;
    }
    size_t cap = b->cap > 0 ? b->cap : BUFFER_MIN;
    while (cap - b->end < more) cap *= 2;
    char *bytes = realloc(b->bytes, cap);
    if (bytes == NULL) return false;
    b->bytes = bytes;
    b->cap = cap;
    return true;
}

static void swap(buffer *a, buffer *b) {
    buffer c = *a;
    *a = *b;
    *b = c;
}

/* --- libuv giving things back ---------------------------------------------------------------- */

/* The handshake of an accepted stream has ended, well or not. */
static void tell_listener(aff_stream *s) {
    void (*settled)(void *) = s->settled;
    s->settled = NULL;
    if (settled != NULL) settled(s->settled_arg);
}

static void free_stream(aff_stream *s) {
    aff_tls_free(s->tls);
    drop(&s->out);
    drop(&s->wire);
    drop(&s->writing);
    free(s->host);
    free(s->path);
    free(s);
}

static void release(aff_stream *s) {
    AFF_ASSERT(s->refs > 0);
    if (--s->refs > 0) return;
    AFF_ASSERT(s->state == CLOSED && !s->write_busy && s->question == NULL);
    free_stream(s);
}

static void on_timer_closed(uv_handle_t *timer) {
    release(timer->data);
}

static void on_socket_closed(uv_handle_t *socket) {
    aff_stream *s = socket->data;
    if (s->state == CONNECTING && !s->broken) connect_next(s);
    release(s);
}

/* --- the end --------------------------------------------------------------------------------- */

static void forget_question(aff_stream *s) {
    if (s->question != NULL) aff_question_forget(s->question);
    s->question = NULL;
}

/* Moves what TLS has for the socket to `wire`. */
static bool take_records(aff_stream *s) {
    size_t due = aff__tls_due(s->conn);
    if (due == 0) return true;
    if (!reserve(&s->wire, due)) return false;
    s->wire.end += aff__tls_take(s->conn, s->wire.bytes + s->wire.end, due);
    return true;
}

/* The alert that says why, or goodbye, as far as the socket takes it at once. */
static void say_last_words(aff_stream *s) {
    if (s->state == UP) aff__tls_goodbye(s->conn);
    if (s->write_busy || s->broken || !take_records(s) || held(&s->wire) == 0) return;
    uv_buf_t buf = uv_buf_init(s->wire.bytes + s->wire.start, (unsigned)held(&s->wire));
    (void)uv_try_write(&s->socket.stream, &buf, 1);
}

static void end_socket(aff_stream *s) {
    AFF_ASSERT(uv_timer_stop(&s->timer) == 0);
    if (!s->socket_open) return;
    if (s->conn != NULL) say_last_words(s);
    aff__tls_conn_free(s->conn);
    s->conn = NULL;
    s->socket_open = false;
    uv_close(&s->socket.handle, on_socket_closed);
}

/* The end of a stream, but for its memory. */
static void end(aff_stream *s, state to) {
    end_socket(s);
    tell_listener(s);
    forget_question(s);
    drop(&s->out);
    drop(&s->wire);
    set_state(s, to);
}

/* It is over, for s->reason. From the loop only. */
static void go_down(aff_stream *s) {
    end(s, DOWN);
    if (s->on.down != NULL) s->on.down(s->arg, s->reason);
}

/* The same later: a call can't run callbacks, and last words are worth waiting for. */
static void go_down_later(aff_stream *s, uint64_t delay_ms) {
    s->broken = true;
    set_timer(s, delay_ms);
}

/* --- writing --------------------------------------------------------------------------------- */

/* The other side often says why before it closes: what it sent is read first. */
static void write_failed(aff_stream *s, int status) {
    set_uv_reason(s, "write", status);
    go_down_later(s, LAST_WORDS_MS);
}

static void on_written(uv_write_t *write, int status) {
    aff_stream *s = write->data;
    s->write_busy = false;
    s->writing.start = s->writing.end;
    settle(&s->writing);
    if (!s->socket_open || s->broken) return;
    if (status < 0)
        write_failed(s, status);
    else
        write_out(s);
}

static void send_wire(aff_stream *s) {
    uv_stream_t *socket = &s->socket.stream;
    uv_buf_t buf = uv_buf_init(s->wire.bytes + s->wire.start, (unsigned)held(&s->wire));
    int n = uv_try_write(socket, &buf, 1);
    if (n > 0) s->wire.start += (size_t)n;
    if (held(&s->wire) == 0) {
        settle(&s->wire);
        return;
    }
    /* Whatever stopped it, a full socket or a broken one: uv_write takes the rest or tells why not
     * from the loop, where callbacks may run. */
    swap(&s->wire, &s->writing);
    buf = uv_buf_init(s->writing.bytes + s->writing.start, (unsigned)held(&s->writing));
    s->write.data = s;
    int status = uv_write(&s->write, socket, &buf, 1, on_written);
    s->write_busy = status == 0;
    if (status < 0) write_failed(s, status);
}

static bool encrypt_some(aff_stream *s) {
    while (held(&s->out) > 0 && held(&s->wire) < ENCRYPT_MAX) {
        size_t len = held(&s->out) < RECORD_MAX ? held(&s->out) : RECORD_MAX;
        if (!aff__tls_write(s->conn, s->out.bytes + s->out.start, len)) {
            set_tls_reason(s);
            return false;
        }
        s->out.start += len;
        if (!take_records(s)) {
            set_reason(s, "%s", aff_error_text(AFF_ENOMEM));
            return false;
        }
    }
    settle(&s->out);
    return true;
}

/* What was written is for the wire, in whole or in part. */
static bool fill_wire(aff_stream *s) {
    if (s->state != UP || held(&s->out) == 0) return true;
    if (s->conn != NULL) return encrypt_some(s);
    if (held(&s->wire) == 0) swap(&s->out, &s->wire);
    return true;
}

static void write_out(aff_stream *s) {
    while (s->socket_open && !s->write_busy && !s->broken) {
        if (!fill_wire(s)) {
            go_down_later(s, 0);
            return;
        }
        if (held(&s->wire) == 0) return;
        send_wire(s);
    }
}

/* Whether so many bytes more may wait. */
static bool has_room(const aff_stream *s, size_t len) {
    size_t pending = aff_stream_pending(s);
    return pending <= AFF_STREAM_PENDING_MAX && len <= AFF_STREAM_PENDING_MAX - pending;
}

char *aff_stream_put(aff_stream *s, size_t len) {
    AFF_ASSERT(len > 0);
    if (s->state == DOWN || !has_room(s, len) || !reserve(&s->out, len)) return NULL;
    s->out.end += len;
    return s->out.bytes + s->out.end - len;
}

void aff_stream_write(aff_stream *s, const char *bytes, size_t len) {
    if (s->state == DOWN || s->broken || len == 0) return;
    char *to = aff_stream_put(s, len);
    if (to != NULL) {
        memcpy(to, bytes, len);
        return;
    }
    set_reason(s, "%s", aff_error_text(has_room(s, len) ? AFF_ENOMEM : AFF_EFULL));
    go_down_later(s, 0);
}

void aff_stream_flush(aff_stream *s) {
    if (s->state == UP) write_out(s);
}

size_t aff_stream_pending(const aff_stream *s) {
    size_t writing = s->socket_open ? uv_stream_get_write_queue_size(&s->socket.stream) : 0;
    return held(&s->out) + held(&s->wire) + writing;
}

bool aff_stream_was_refused(const aff_stream *s) {
    return s->refused;
}

/* --- reading --------------------------------------------------------------------------------- */

static void go_up(aff_stream *s) {
    AFF_ASSERT(uv_timer_stop(&s->timer) == 0);
    tell_listener(s);
    set_state(s, UP);
    if (s->on.up != NULL) s->on.up(s->arg);
    if (s->state == UP) write_out(s);
}

/* One step of the handshake. Returns whether the stream is up, still. */
static bool shake_hands(aff_stream *s) {
    int status = aff__tls_handshake(s->conn);
    if (status < 0 || !take_records(s)) {
        if (status < 0)
            set_tls_reason(s);
        else
            set_reason(s, "%s", aff_error_text(AFF_ENOMEM));
        go_down(s);
        return false;
    }
    write_out(s);
    if (status == 0 || s->broken) return false;
    go_up(s);
    return s->state == UP;
}

static void decrypt(aff_stream *s, const char *bytes, size_t len) {
    char clear[RECORD_MAX];
    if (bytes[0] == TLS_ALERT || bytes[0] == TLS_HANDSHAKE) s->hears_tls = true;
    bool fed = aff__tls_feed(s->conn, bytes, len);
    if (fed && s->state == HANDSHAKE && !shake_hands(s)) return;
    ssize_t n = fed ? 1 : -1;
    while (n > 0 && s->state == UP) { /* a callback may close */
        n = aff__tls_read(s->conn, clear, sizeof clear);
        if (n > 0 && s->on.data != NULL) s->on.data(s->arg, clear, (size_t)n);
    }
    if (!s->socket_open) return;
    if (n < 0) {
        set_tls_reason(s);
        go_down(s);
    } else if (aff__tls_due(s->conn) > 0) { /* TLS's own affairs */
        if (take_records(s)) {
            write_out(s);
        } else {
            set_reason(s, "%s", aff_error_text(AFF_ENOMEM));
            go_down(s);
        }
    }
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf) {
    (void)suggested;
    aff_stream *s = handle->data;
    *buf = uv_buf_init(s->read_buffer, READ_MAX);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf) {
    aff_stream *s = stream->data;
    if (!s->socket_open || n == 0) return;
    if (n < 0) {
        if (n == UV_EOF)
            set_reason(s, "the other side has closed the connection");
        else
            set_uv_reason(s, "read", (int)n);
        go_down(s);
    } else if (s->conn != NULL) {
        decrypt(s, buf->base, (size_t)n);
    } else if (s->on.data != NULL) {
        s->on.data(s->arg, buf->base, (size_t)n);
    }
}

/* --- connecting ------------------------------------------------------------------------------ */

static int open_socket(aff_stream *s) {
    int status = s->path != NULL ? uv_pipe_init(s->loop, &s->socket.pipe, 0)
                                 : uv_tcp_init(s->loop, &s->socket.tcp);
    if (status < 0) return status;
    s->socket.handle.data = s;
    s->socket_open = true;
    s->refs++;
    return 0;
}

/* The socket is connected: prepares it, and TLS. */
static int start_reading(aff_stream *s) {
    int status = 0;
    if (s->path == NULL) {
        status = uv_tcp_nodelay(&s->socket.tcp, 1);
        if (status == 0) status = uv_tcp_keepalive(&s->socket.tcp, 1, KEEPALIVE_S);
    }
    if (status == 0 && s->tls != NULL) {
        s->conn = aff__tls_conn_new(s->tls, s->host);
        if (s->conn == NULL) status = UV_ENOMEM;
    }
    return status == 0 ? uv_read_start(&s->socket.stream, on_alloc, on_read) : status;
}

static uint64_t time_left(const aff_stream *s) {
    uint64_t now_ms = uv_now(s->loop);
    return now_ms < s->deadline_ms ? s->deadline_ms - now_ms : 0;
}

static void on_connect(uv_connect_t *connect, int status) {
    aff_stream *s = connect->data;
    if (!s->socket_open || s->broken) return;
    if (status < 0) { /* the next address, once this handle is closed */
        set_uv_reason(s, "connect", status);
        end_socket(s);
        return;
    }
    status = start_reading(s);
    if (status < 0) {
        set_uv_reason(s, "connect", status);
        go_down(s);
    } else if (s->tls != NULL) {
        set_state(s, HANDSHAKE);
        set_timer(s, time_left(s));
        (void)shake_hands(s);
    } else {
        go_up(s);
    }
}

static int start_connecting(aff_stream *s, const struct sockaddr_storage *address) {
    s->connect.data = s;
    if (s->path == NULL)
        return uv_tcp_connect(&s->connect, &s->socket.tcp, (const struct sockaddr *)address,
                              on_connect);
    uv_pipe_connect(&s->connect, &s->socket.pipe, s->path, on_connect);
    return 0;
}

/* Connects to the next address; if there is none, or memory for none, the last reason stands. */
static void connect_next(aff_stream *s) {
    size_t left = s->address_count - s->tried;
    if (left == 0) {
        go_down(s);
        return;
    }
    int status = open_socket(s);
    if (status < 0) {
        set_uv_reason(s, "connect", status);
        go_down(s);
        return;
    }
    status = start_connecting(s, &s->addresses[(s->first + s->tried++) % s->address_count]);
    if (status == 0) {
        set_timer(s, time_left(s) / left);
    } else {
        set_uv_reason(s, "connect", status);
        end_socket(s); /* and on */
    }
}

static void on_answered(void *arg, int status, const struct sockaddr_storage *addresses,
                        size_t count) {
    aff_stream *s = arg;
    s->question = NULL;
    if (s->broken) return;
    if (status < 0) {
        set_reason(s, "resolve %s: %s", s->host,
                   status == UV_ENOMEM ? aff_error_text(AFF_ENOMEM) : uv_strerror(status));
        go_down(s);
        return;
    }
    memcpy(s->addresses, addresses, count * sizeof *addresses);
    s->address_count = count;
    set_state(s, CONNECTING);
    connect_next(s);
}

static void start(aff_stream *s) {
    uv_update_time(s->loop);
    s->deadline_ms = uv_now(s->loop) + s->timeout_ms;
    if (s->address_count > 0) {
        set_state(s, CONNECTING);
        connect_next(s);
        return;
    }
    int status = aff_ask(s->loop, s->host, s->family, s->port, on_answered, s, &s->question);
    if (status < 0) {
        set_uv_reason(s, "resolve", status);
        go_down(s);
        return;
    }
    set_state(s, RESOLVING);
    set_timer(s, s->timeout_ms);
}

static void on_timer(uv_timer_t *timer) {
    aff_stream *s = timer->data;
    if (s->broken) {
        go_down(s);
    } else if (s->state == NEW) {
        start(s);
    } else if (s->state == CONNECTING) {
        set_reason(s, "connecting took too long");
        end_socket(s); /* the next address, once this handle is closed */
    } else if (s->state == HANDSHAKE && s->conn == NULL) {
        go_up(s); /* accepted, without TLS */
    } else {
        if (s->state == RESOLVING)
            set_reason(s, "resolving %s took too long", s->host);
        else
            set_reason(s, "the TLS handshake took too long%s", tls_hint(s));
        go_down(s);
    }
}

static aff_stream *new_stream(uv_loop_t *loop, aff_tls *tls) {
    aff_stream *s = calloc(1, sizeof *s);
    if (s == NULL) return NULL;
    s->loop = loop;
    s->tls = aff__tls_keep(tls);
    AFF_ASSERT(uv_timer_init(loop, &s->timer) == 0);
    s->timer.data = s;
    s->refs = 1;
    return s;
}

bool aff__parse_address(const char *host, uint16_t port, struct sockaddr_storage *to) {
    return uv_ip4_addr(host, port, (struct sockaddr_in *)to) == 0 ||
           uv_ip6_addr(host, port, (struct sockaddr_in6 *)to) == 0;
}

bool aff_stream_is_valid(const aff_stream_target *to) {
    if (to->timeout_ms == 0 || (to->tls != NULL && aff__tls_is_server(to->tls))) return false;
    if (to->path != NULL)
        return to->tls == NULL && to->path[0] != '\0' &&
               strlen(to->path) < sizeof((struct sockaddr_un *)0)->sun_path;
    return to->host != NULL && to->host[0] != '\0' && strlen(to->host) <= AFF_STREAM_HOST_MAX &&
           to->port != 0 &&
           (to->family == AF_UNSPEC || to->family == AF_INET || to->family == AF_INET6);
}

int aff_stream_connect(uv_loop_t *loop, const aff_stream_target *target,
                       const aff_stream_callbacks *callbacks, void *arg, aff_stream **out) {
    if (!aff_stream_is_valid(target)) return AFF_EINVAL;
    char *copy = strdup(target->path != NULL ? target->path : target->host);
    aff_stream *s = copy != NULL ? new_stream(loop, target->tls) : NULL;
    if (s == NULL) {
        free(copy);
        return AFF_ENOMEM;
    }
    if (target->path != NULL)
        s->path = copy;
    else
        s->host = copy;
    s->port = target->port;
    s->family = target->family;
    s->timeout_ms = target->timeout_ms;
    s->first = target->first;
    s->on = *callbacks;
    s->arg = arg;
    if (target->path != NULL || aff__parse_address(target->host, target->port, s->addresses))
        s->address_count = 1;
    set_timer(s, 0);
    *out = s;
    return 0;
}

/* --- accepted -------------------------------------------------------------------------------- */

int aff__stream_take(uv_stream_t *listener, aff_tls *tls, void (*settled)(void *arg), void *arg,
                     aff_stream **out) {
    aff_stream *s = new_stream(listener->loop, tls);
    if (s == NULL) return AFF_ENOMEM;
    if (open_socket(s) < 0) {
        aff_stream_close(s);
        return AFF_ENOMEM;
    }
    if (uv_accept(listener, &s->socket.stream) < 0) {
        aff_stream_close(s);
        return AFF_ENOTCONN;
    }
    s->settled = settled;
    s->settled_arg = arg;
    *out = s;
    return 0;
}

bool aff__stream_is_new(const aff_stream *s) {
    return s->state == NEW;
}

void aff_stream_accept(aff_stream *s, const aff_stream_callbacks *callbacks, void *arg) {
    AFF_ASSERT(s->state == NEW && s->socket_open);
    s->on = *callbacks;
    s->arg = arg;
    set_state(s, HANDSHAKE);
    uv_update_time(s->loop);
    set_timer(s, s->tls != NULL ? AFF_STREAM_HANDSHAKE_MS : 0);
    int status = start_reading(s);
    if (status < 0) {
        set_uv_reason(s, "accept", status);
        go_down_later(s, 0);
    }
}

void aff_stream_close(aff_stream *s) {
    end(s, CLOSED);
    uv_close((uv_handle_t *)&s->timer, on_timer_closed);
}
