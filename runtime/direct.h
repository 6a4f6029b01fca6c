/*
 * direct.h - the direct links of an instance: connections between the processes of two servers, on
 * which batches travel instead of through Redis (option `link`; core/direct.c says when).
 *
 * An instance listens, and dials its peers; it sends on the connections that it has dialled, and
 * hears on those that it has accepted. Every message is signed with the cluster's secret
 * (runtime/seal.h) for the process that it is meant for, and the first ones of a connection show
 * each side who the other is: docs/PROTOCOL.md, "Direct links". With TLS nobody else can read them.
 *
 * All of it on the thread of one uv loop.
 */
#ifndef AFF_DIRECT_H
#define AFF_DIRECT_H

#include "aff.h"
#include "seal.h"
#include "stream.h"

typedef struct aff_direct aff_direct;

typedef struct {
    const char *host;      /* to listen at: a name or address; copied */
    uint16_t port;         /* 0: any that is free */
    const char *advertise; /* "host:port" or "host" for peers; NULL: `host`; copied */
    bool has_tls;
    bool asks_for_cert; /* whoever dials must show a certificate, too */
    aff_tls_config tls; /* of both sides; read while opening */
} aff_direct_config;

typedef struct {
    void (*up)(void *arg, aff_slice process);
    /* A connection that was asked for could not be had, or has ended; not after a close. */
    void (*down)(void *arg, aff_slice process, const char *reason);
    void (*message)(void *arg, aff_slice batch);
    void (*forged)(void *arg); /* somebody without the secret; its connection is closed */
} aff_direct_callbacks;

/*
 * Listens. `seal` stays the caller's, and must live until aff_direct_close(); what is signed here
 * has other senders. `error` gets the reason of AFF_EINVAL: what is wrong with `tls`, or
 * why `host` and `port` can't be listened at. Else AFF_ENOMEM.
 */
int aff_direct_open(uv_loop_t *loop, const aff_direct_config *config, aff_seal *seal,
                    const aff_direct_callbacks *callbacks, void *arg, aff_direct **out, char *error,
                    size_t error_len);

/* Where peers reach this server: "host:port"; lives as long as `direct`. */
const char *aff_direct_address(const aff_direct *direct);
/* The port that it listens at. */
uint16_t aff_direct_port(const aff_direct *direct);

/* This server's process and the prefix of channels, both copied; before the loop runs. Errors:
 * AFF_ENOMEM. */
int aff_direct_start(aff_direct *direct, const char *process, const char *prefix);

/* Dials a process at "host:port"; `up` or `down` follows, not from within. */
void aff_direct_dial(aff_direct *direct, aff_slice process, aff_slice address);
/* Sent by aff_direct_flush(); dropped where there is no connection (any more). */
void aff_direct_send(aff_direct *direct, aff_slice process, aff_slice batch);
void aff_direct_hang_up(aff_direct *direct, aff_slice process);
/* Once for each turn of the loop. */
void aff_direct_flush(aff_direct *direct);

/* Ends all connections, without callbacks; what the kernel has taken is still delivered. NULL:
 * nothing. */
void aff_direct_close(aff_direct *direct);

#endif
