/*
 * stream.h - streams of bytes over TCP, with or without TLS (tls.h): out to others, and from a
 * listener; and out over Unix sockets.
 *
 * A stream comes up once, and goes down once and for all; who wants another connection makes
 * another stream.
 *
 * Threads: every call and every callback on the thread of the loop. Callbacks run from the loop,
 * never inside a call of this interface, and may call all of it, aff_stream_close and
 * aff_listener_close included.
 *
 * Time: all durations are in milliseconds.
 *
 * Signals: the process must ignore SIGPIPE, as Node does; libuv's writes can raise it.
 *
 * Errors: a negative AFF_E... of aff.h. A call that fails has changed nothing. What goes wrong with
 * a stream later, memory that runs out included, comes as `down`.
 */
#ifndef AFF_STREAM_H
#define AFF_STREAM_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "tls.h"

/* Most bytes that may wait in a stream: with more it goes down. Owners stop far earlier. */
#define AFF_STREAM_PENDING_MAX ((size_t)1 << 30)

/* Within this time the TLS handshake of an accepted stream must end. */
#define AFF_STREAM_HANDSHAKE_MS 10000

/* Most streams of a listener that are in their TLS handshake: further connections are closed. */
#define AFF_STREAM_HANDSHAKES_MAX 100

#define AFF_STREAM_HOST_MAX 255 /* bytes of a host's name */

typedef struct aff_stream aff_stream;
typedef struct aff_listener aff_listener;

/*
 * What happens to a stream; `arg` is the one given with them. Each may be NULL. Memory passed in is
 * valid during the call only. The order: up, then data as it comes, then down; or down alone.
 */
typedef struct {
    /* Connected, and with TLS the other side is who it should be. A client that the server refuses
     * for its certificate may come up first, under TLS 1.3, and go down then. */
    void (*up)(void *arg);
    void (*data)(void *arg, const char *bytes, size_t len); /* at least one byte */
    /* It is over, for a reason for people; the other side's end of it is no error, but a reason
     * too. Once; nothing is called any more. The stream still wants its aff_stream_close. */
    void (*down)(void *arg, const char *reason);
} aff_stream_callbacks;

/* Where to connect to. */
typedef struct {
    const char *host; /* a name or address (IPv4 or IPv6, no brackets), 1 to AFF_STREAM_HOST_MAX
                         bytes */
    uint16_t port;    /* 1-65535 */
    int family;       /* AF_INET or AF_INET6: only such addresses of a name; AF_UNSPEC (0): all */
    const char
        *path;    /* a Unix socket, which must fit into a sockaddr_un, instead of both; or NULL */
    aff_tls *tls; /* a client's, or NULL: plain; not over a Unix socket */
    /* Covers all from resolving the name to the end of the handshake, and is shared evenly by the
     * addresses still to be tried; at least 1. */
    uint32_t timeout_ms;
    /* Which of a name's addresses is tried first: 0 the first, and so on, round and round. */
    uint32_t first;
} aff_stream_target;

/* Whether all of it is in range, and `tls` no server's. */
bool aff_stream_is_valid(const aff_stream_target *target);

/*
 * Connects. Each address of a name is tried in turn, until one takes the connection; then it is
 * this one or none.
 *
 * `loop`, and whatever `arg` points to, must live until the stream is closed, the loop until libuv
 * has given back what it has of it; all else is copied or kept. The caller owns *out and gives it
 * up with aff_stream_close.
 *
 * AFF_EINVAL: the target is not valid. AFF_ENOMEM.
 */
int aff_stream_connect(uv_loop_t *loop, const aff_stream_target *target,
                       const aff_stream_callbacks *callbacks, void *arg, aff_stream **out);

/*
 * Takes bytes to be sent, which are copied; they go out with aff_stream_flush. Before `up` they are
 * kept, and go out with it. Once the stream is down they are dropped.
 */
void aff_stream_write(aff_stream *s, const char *bytes, size_t len);

/*
 * The same for bytes that are not there yet: room for `len`, at least 1, which the caller fills
 * before it calls anything else of the stream. NULL: no memory, more than AFF_STREAM_PENDING_MAX
 * would wait, or the stream is down; nothing has changed.
 */
char *aff_stream_put(aff_stream *s, size_t len);

/*
 * Hands what was written to the socket, in one go if that takes it; what it does not take now
 * follows as it does. For the end of a turn. Never fails: a broken connection shows itself from the
 * loop.
 */
void aff_stream_flush(aff_stream *s);

/* Bytes written but not yet taken by the kernel; with TLS partly as they go over the wire. */
size_t aff_stream_pending(const aff_stream *s);

/*
 * Within `down`: whether TLS has ended it, and not the network: one side does not believe the
 * other's certificate, say, or does not speak TLS.
 */
bool aff_stream_was_refused(const aff_stream *s);

/*
 * Closes, in any state, once. What the kernel has not taken is discarded. No callback runs
 * afterwards. The stream frees itself, from the loop.
 */
void aff_stream_close(aff_stream *s);

/*
 * Listens at a host's address (or a name, which is resolved at once, on this thread; NULL: all
 * addresses, IPv6 and IPv4) and port, 0: any that is free. *bound_port, unless NULL, is the one
 * that it is. `tls`: a server's, or NULL: plain TCP.
 *
 * `accepted` gets each new connection, and gives it its callbacks with aff_stream_accept or gives
 * it up with aff_stream_close, before it returns; if it does neither, the stream is closed.
 *
 * `loop` and `arg` as above; the caller owns *out and gives it up with aff_listener_close.
 *
 * AFF_EINVAL: host and port are not to be had, or `tls` is a client's; error[error_len] has a
 * reason for people. AFF_ENOMEM, there too.
 */
int aff_listen(uv_loop_t *loop, const char *host, uint16_t port, aff_tls *tls,
               void (*accepted)(void *arg, aff_stream *s), void *arg, aff_listener **out,
               uint16_t *bound_port, char *error, size_t error_len);

/*
 * Within `accepted`: the stream is the caller's from here on. `up` comes when the handshake is
 * done, without TLS in the next turn.
 */
void aff_stream_accept(aff_stream *s, const aff_stream_callbacks *callbacks, void *arg);

/* Takes no more connections; accepted streams live on. It frees itself, from the loop. */
void aff_listener_close(aff_listener *l);

/* --- between stream.c and listener.c --------------------------------------------------------- */

/*
 * A stream of the connection that `listener` has. `settled` runs once, when its handshake has ended
 * or the stream. AFF_ENOMEM: the connection is still there; AFF_ENOTCONN: it is not.
 */
int aff__stream_take(uv_stream_t *listener, aff_tls *tls, void (*settled)(void *arg), void *arg,
                     aff_stream **out);

/* Neither accepted nor closed. */
bool aff__stream_is_new(const aff_stream *s);

/* Writes an address, if `host` is one: it needs no resolver, and so none of libuv's threads. */
bool aff__parse_address(const char *host, uint16_t port, struct sockaddr_storage *to);

#endif
