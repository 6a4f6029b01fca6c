/*
 * One connection to Redis that comes back by itself.
 *
 * An aff_redis connects (over TCP, with or without TLS, or a Unix socket), greets (AUTH, SELECT,
 * CLIENT SETNAME, PING), carries commands or subscriptions, and connects again whenever the
 * connection is lost, for as long as it is open. What a connection carried is not sent again: its
 * owner is told which commands have no answer. Only subscriptions are remembered and repeated.
 *
 * Threads: every call and every callback on the thread of the loop given to aff_redis_open.
 * Callbacks run from the loop, never inside a call of this interface, and may call all of it,
 * aff_redis_close included.
 *
 * Time: all durations are in milliseconds.
 *
 * Signals: the process must ignore SIGPIPE, as Node does; libuv's writes can raise it.
 *
 * Errors: a negative AFF_E... of aff.h. A call that fails has changed nothing.
 */
#ifndef AFF_REDIS_H
#define AFF_REDIS_H

#include <hiredis/hiredis.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "tls.h"

/* Longest pause between two attempts to connect. Peers reckon with it (see DESIGN.md, Ownership).
 */
#define AFF_REDIS_BACKOFF_MAX_MS 250

/* Most commands that may wait for their answers. */
#define AFF_REDIS_IN_FLIGHT_MAX (1u << 20)

/* Most channels that one connection may be subscribed to. */
#define AFF_REDIS_SUBSCRIPTION_MAX 1024

/* Longest name of a channel, in bytes. */
#define AFF_REDIS_CHANNEL_MAX (128u * 1024)

/* Highest value of out_max. */
#define AFF_REDIS_OUT_LIMIT ((size_t)1 << 30)

typedef struct aff_redis aff_redis;

/* Where and how to connect. aff_redis_open copies it all, strings included. */
typedef struct {
    /* Name or address (IPv4 or IPv6, no brackets) and port, 1-65535. Each address of a name is
     * tried in turn, until one takes the connection. If there is no good answer to the greeting,
     * the next attempt begins with the address after the first. Unused if `path` is given. */
    const char *host;
    uint16_t port;
    /* AF_INET or AF_INET6: only such addresses of a name. AF_UNSPEC (0): all. */
    int family;
    /* Unix socket; must fit into a sockaddr_un. NULL: TCP. */
    const char *path;
    /* A client's, which is kept as long as needed; not over a Unix socket. NULL: no TLS. */
    aff_tls *tls;
    /* AUTH <password>, or AUTH <username> <password> (a missing password is sent as ""). Both
     * NULL: no AUTH. */
    const char *username;
    const char *password;
    /* Number of the database; 0 sends no SELECT. */
    uint32_t db;
    /* Name for CLIENT LIST, or NULL. Redis may refuse it without consequence. */
    const char *client_name;
    /* Limit on one attempt, from resolving the name to the last answer of the greeting. As long as
     * none has taken the connection, it is shared evenly by the addresses still to be tried.
     * 0: 5,000. */
    uint32_t connect_timeout_ms;
    /* Drop the connection when answers are due and neither a byte comes in nor one goes out for
     * this long. Noticed up to a quarter later; time in which this thread or the machine stood
     * still counts for a quarter at most. 0: never. */
    uint32_t reply_timeout_ms;
    /* Send PING this often while no answer is due, so that reply_timeout_ms notices a dead peer
     * on a quiet connection too. 0: never. */
    uint32_t ping_ms;
    /* Most bytes accepted but not yet taken by the socket, 1 to AFF_REDIS_OUT_LIMIT.
     * 0: 64 MiB. */
    size_t out_max;
    /* Seed of the back-off's jitter; any value. */
    uint64_t seed;
} aff_redis_config;

/*
 * What happens on a connection; `arg` is the one given to aff_redis_open. Each may be NULL.
 * Memory passed in is valid during the call only.
 *
 * The order is: any number of retry and refused, then up, then reply, message, subscribed and
 * subscribe_failed as they come, then reply with NULL for each command without answer, then down,
 * and so on. After aff_redis_close only reply with NULL and `closed` still run.
 */
typedef struct {
    /* Connected and greeted: commands may be sent. Subscriptions are already on their way. */
    void (*up)(void *arg);
    /* Was up and is no more. `reason` is a sentence for people. */
    void (*down)(void *arg, const char *reason);
    /* Redis answered AUTH, SELECT or PING with an error that trying again is unlikely to cure
     * (WRONGPASS, NOAUTH, DB index out of range...): `error` is Redis's text. Or TLS did not come
     * about, because of a certificate on either side, or because one side speaks no TLS: `error`
     * begins with "TLS: ". Attempts go on all the same; it is for the owner to close. */
    void (*refused)(void *arg, const char *error);
    /* An attempt failed otherwise; the next one starts in delay_ms. Redis that is loading,
     * busy, without its master or out of client slots comes here too. */
    void (*retry)(void *arg, const char *reason, uint32_t delay_ms);
    /* The answer to the command sent with `tag`; an error reply is an answer. NULL: the connection
     * was lost, and Redis may or may not have executed the command. Exactly once for each
     * accepted command, in the order of the commands. */
    void (*reply)(void *arg, uint64_t tag, const redisReply *reply);
    /* A published message; both strings may hold NULs. May still come for a channel just
     * unsubscribed. */
    void (*message)(void *arg, const char *channel, size_t channel_len, const char *data,
                    size_t data_len);
    /* Redis confirmed the subscription; again after each reconnection. */
    void (*subscribed)(void *arg, const char *channel, size_t channel_len);
    /* Redis denied the subscription (an ACL's NOPERM). The others and the connection live on;
     * this one is tried again after each reconnection until it is unsubscribed. */
    void (*subscribe_failed)(void *arg, const char *channel, size_t channel_len, const char *error);
} aff_redis_callbacks;

/*
 * Opens a connection. The first attempt starts in the next turn of the loop, which does not end
 * while the connection is open.
 *
 * Whatever `arg` points to must live until `closed` has run, and `loop` until libuv has given back
 * what it has of it; `config` and `callbacks` are copied. The caller owns *out and gives it up with
 * aff_redis_close.
 *
 * AFF_EINVAL: `config` is out of range. AFF_ENOMEM.
 */
int aff_redis_open(uv_loop_t *loop, const aff_redis_config *config,
                   const aff_redis_callbacks *callbacks, void *arg, aff_redis **out);

/*
 * Sends a command of `argc` arguments, 1 to 1,048,576, which are copied. `argv_len` may be NULL
 * when no argument holds a NUL. `tag` comes back with the answer. The commands of one turn of the
 * loop leave together at its end.
 *
 * Not for commands that change the protocol: SUBSCRIBE and its kin, MONITOR, HELLO, CLIENT REPLY.
 *
 * AFF_EINVAL: argc is out of range, or this connection has ever subscribed. AFF_ENOTCONN: not up.
 * AFF_EFULL: more than out_max bytes or AFF_REDIS_IN_FLIGHT_MAX commands would wait. AFF_ENOMEM.
 * The reply callback does not run for a command that was not accepted.
 */
int aff_redis_command(aff_redis *r, uint64_t tag, int argc, const char *const *argv,
                      const size_t *argv_len);

/*
 * Subscribes to a channel, now if up and after every reconnection, until unsubscribed. Does
 * nothing if already subscribed. From the first call on, the connection takes no more commands.
 * The channel is copied.
 *
 * AFF_EINVAL: the name is too long. AFF_EFULL: AFF_REDIS_SUBSCRIPTION_MAX channels, or no room for
 * the command. AFF_ENOMEM.
 */
int aff_redis_subscribe(aff_redis *r, const char *channel, size_t channel_len);

/*
 * Forgets a channel and tells Redis if up.
 *
 * AFF_EINVAL: not subscribed. AFF_EFULL: no room for the command. AFF_ENOMEM.
 */
int aff_redis_unsubscribe(aff_redis *r, const char *channel, size_t channel_len);

/* Whether commands may be sent. */
bool aff_redis_is_up(const aff_redis *r);

/* Whether an answer is due: to a command, or to what the connection has asked by itself. */
bool aff_redis_is_waiting(const aff_redis *r);

/* Bytes accepted but not yet taken by the socket. */
size_t aff_redis_pending_bytes(const aff_redis *r);

/*
 * Hands what was accepted to the socket now rather than at the end of the turn. Never fails: a
 * broken connection shows itself from the loop.
 */
void aff_redis_flush(aff_redis *r);

/*
 * Closes, in any state, once. Bytes not yet taken by the socket are discarded. Commands without
 * answer get their NULL, then r is freed, then `closed` (if not NULL) runs with `arg`; all from
 * the loop.
 */
void aff_redis_close(aff_redis *r, void (*closed)(void *arg), void *arg);

#endif
