/* Listeners: see stream.h. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "aff.h"
#include "alloc.h"
#include "stream.h"

enum {
    BACKLOG = 511,
    RETRY_MS = 50 /* of a connection that could not be taken for want of memory */
};

struct aff_listener {
    uv_tcp_t tcp;
    uv_timer_t retry;
    aff_tls *tls; /* or NULL */
    void (*accepted)(void *arg, aff_stream *s);
    void *arg;
    unsigned refs; /* both handles, and each handshake */
    unsigned handshakes;
    bool closed;
};

static void release(aff_listener *l) {
    AFF_ASSERT(l->refs > 0);
    if (--l->refs > 0) return;
    AFF_ASSERT(l->closed && l->handshakes == 0);
    aff_tls_free(l->tls);
    free(l);
}

/* --- accepting ------------------------------------------------------------------------------- */

static void take_connection(aff_listener *l);

static void on_settled(void *arg) {
    aff_listener *l = arg;
    l->handshakes--;
    release(l);
}

static void on_retry(uv_timer_t *timer) {
    take_connection(timer->data);
}

static void take_connection(aff_listener *l) {
    aff_stream *s = NULL;
    int status = aff__stream_take((uv_stream_t *)&l->tcp, l->tls, on_settled, l, &s);
    if (status == AFF_ENOMEM) /* libuv keeps it, and takes no further one meanwhile */
        AFF_ASSERT(uv_timer_start(&l->retry, on_retry, RETRY_MS, 0) == 0);
    if (status != 0) return;
    l->handshakes++;
    l->refs++;
    if (l->tls != NULL && l->handshakes > AFF_STREAM_HANDSHAKES_MAX) {
        aff_stream_close(s);
        return;
    }
    l->accepted(l->arg, s);
    if (aff__stream_is_new(s)) aff_stream_close(s);
}

static void on_connection(uv_stream_t *tcp, int status) {
    aff_listener *l = tcp->data;
    if (status == 0 && !l->closed) take_connection(l);
}

/* --- listening ------------------------------------------------------------------------------- */

static int bind_and_listen(aff_listener *l, const struct sockaddr *address) {
    int status = uv_tcp_bind(&l->tcp, address, 0);
    return status == 0 ? uv_listen((uv_stream_t *)&l->tcp, BACKLOG, on_connection) : status;
}

/* Where to listen; a status of libuv's. */
static int find_address(uv_loop_t *loop, const char *host, uint16_t port,
                        struct sockaddr_storage *to) {
    if (aff__parse_address(host, port, to)) return 0;
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM};
    uv_getaddrinfo_t resolver;
    int status = uv_getaddrinfo(loop, &resolver, NULL, host, NULL, &hints);
    if (status < 0) return status;
    memcpy(to, resolver.addrinfo->ai_addr, resolver.addrinfo->ai_addrlen);
    uv_freeaddrinfo(resolver.addrinfo);
    if (to->ss_family == AF_INET6)
        ((struct sockaddr_in6 *)to)->sin6_port = htons(port);
    else
        ((struct sockaddr_in *)to)->sin_port = htons(port);
    return 0;
}

static uint16_t port_of(const aff_listener *l) {
    struct sockaddr_storage address = {0};
    int len = sizeof address;
    if (uv_tcp_getsockname(&l->tcp, (struct sockaddr *)&address, &len) != 0) return 0;
    return ntohs(address.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&address)->sin6_port
                                               : ((struct sockaddr_in *)&address)->sin_port);
}

static void on_listener_closed(uv_handle_t *handle) {
    release(handle->data);
}

/* NULL: no memory. */
static aff_listener *new_listener(uv_loop_t *loop, aff_tls *tls) {
    aff_listener *l = calloc(1, sizeof *l);
    if (l == NULL) return NULL;
    if (uv_tcp_init(loop, &l->tcp) != 0) {
        free(l);
        return NULL;
    }
    AFF_ASSERT(uv_timer_init(loop, &l->retry) == 0);
    l->tls = aff__tls_keep(tls);
    l->tcp.data = l->retry.data = l;
    l->refs = 2;
    return l;
}

/* Listens at one host; a status of libuv's. */
static int listen_at(uv_loop_t *loop, const char *host, uint16_t port, aff_tls *tls,
                     aff_listener **out) {
    struct sockaddr_storage address = {0};
    int status = find_address(loop, host, port, &address);
    if (status < 0) return status;
    aff_listener *l = new_listener(loop, tls);
    if (l == NULL) return UV_ENOMEM;
    status = bind_and_listen(l, (struct sockaddr *)&address);
    if (status == 0)
        *out = l;
    else
        aff_listener_close(l);
    return status;
}

int aff_listen(uv_loop_t *loop, const char *host, uint16_t port, aff_tls *tls,
               void (*accepted)(void *arg, aff_stream *s), void *arg, aff_listener **out,
               uint16_t *bound_port, char *error, size_t error_len) {
    if (tls != NULL && !aff__tls_is_server(tls)) {
        snprintf(error, error_len, "listening needs a server's TLS");
        return AFF_EINVAL;
    }
    aff_listener *l = NULL;
    int status = listen_at(loop, host != NULL ? host : "::", port, tls, &l);
    if (host == NULL && (status == UV_EAFNOSUPPORT || status == UV_EADDRNOTAVAIL)) /* no IPv6 */
        status = listen_at(loop, "0.0.0.0", port, tls, &l);
    if (status == UV_ENOMEM) {
        snprintf(error, error_len, "%s", aff_error_text(AFF_ENOMEM));
        return AFF_ENOMEM;
    }
    if (status < 0) {
        snprintf(error, error_len, "listen at %s port %u: %s", host != NULL ? host : "any address",
                 (unsigned)port, uv_strerror(status));
        return AFF_EINVAL;
    }
    l->accepted = accepted;
    l->arg = arg;
    if (bound_port != NULL) *bound_port = port_of(l);
    *out = l;
    return 0;
}

void aff_listener_close(aff_listener *l) {
    AFF_ASSERT(!l->closed);
    l->closed = true;
    uv_close((uv_handle_t *)&l->tcp, on_listener_closed);
    uv_close((uv_handle_t *)&l->retry, on_listener_closed);
}
