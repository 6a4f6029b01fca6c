/*
 * instance.h - an engine on a thread of its own, with its two connections to Redis (one for
 * commands, one that listens).
 *
 * The thread exists so that a busy application thread can't delay a renewal, or let Redis's output
 * buffer for the listener fill up. The application talks to it through two queues of records.
 */
#ifndef AFF_INSTANCE_H
#define AFF_INSTANCE_H

#include "direct.h"
#include "queue.h"
#include "redis.h"

/* Records beside those of aff_event_type (to the instance) and aff_action_type (from it). */
enum {
    /* From it: `data` is to be packed by the application, and given back with AFF_RECORD_PACKED
     * and the same `request` and `name`; and the other way round. Only where `pack` is set. */
    AFF_RECORD_PACK = 100,
    AFF_RECORD_UNPACK,
    AFF_RECORD_PACKED,   /* to it */
    AFF_RECORD_UNPACKED, /* to it */
    /* The application asks Redis, by way of the instance. */
    AFF_RECORD_ASK, /* to it: `request`, `data`: the arguments (foreign.h), at most AFF_ARGV_MAX */
    AFF_RECORD_ANSWER, /* from it: `request`, `status`, `data`: the values (arrays: one level), or
                          what went wrong */
    /* What applications say to each other, as whole messages that may be lost: from it, `name` is
     * the channel of the sender, to it that of the receiver, which AFF_RECORD_ANSWER follows with
     * how many have got it. */
    AFF_RECORD_CONTROL,
    /* From it, only where `foreign` is set: Redis by way of the application (foreign.h). `socket`
     * is that of the last UP or DOWN heard: with another one a command is answered AFF_ENOTCONN. */
    AFF_RECORD_REDIS_COMMAND, /* `request`, `socket`, `data`: the arguments */
    AFF_RECORD_REDIS_PUBLISH, /* `request`, `socket`, `name`: the channel, `data` */
    AFF_RECORD_REDIS_LISTEN,  /* to the channel `name`, now and after each reconnection, and to
                                 nothing else */
    /* To it, with what became of that. */
    AFF_RECORD_REDIS_UP,           /* commands can be sent; `socket`: how often it was down */
    AFF_RECORD_REDIS_DOWN,         /* they can't; all have been answered before. `socket`, `data`:
                                      why */
    AFF_RECORD_REDIS_REFUSED,      /* `data`: Redis's words, which trying again will not cure */
    AFF_RECORD_REDIS_RETRY,        /* it could not be reached; `data`: why */
    AFF_RECORD_REDIS_REPLY,        /* `request`, `status`: 0 (`data`: values), AFF_ENOTCONN or
                                      AFF_EREDIS (`data`: Redis's words). Once for each command;
                                      of PUBLISH a nil, where nobody can tell how many listen */
    AFF_RECORD_REDIS_MESSAGE,      /* on the channel `name`: `data` */
    AFF_RECORD_REDIS_SUBSCRIBED,   /* to the channel `name` */
    AFF_RECORD_REDIS_UNSUBSCRIBED, /* messages may be missing from here on */
};

enum {
    AFF_INBOX_MAX = 512 << 20, /* bytes that wait for the thread */
    AFF_OUTBOX_MAX = 1 << 30   /* bytes that wait for the application: bounded by credit before */
};

typedef struct aff_instance aff_instance;

typedef struct {
    aff_config engine;      /* `allocator` and `direct_address` must be NULL */
    aff_redis_config redis; /* `tls` must be NULL */
    bool has_redis_tls;
    aff_tls_config redis_tls;
    bool foreign;    /* Redis by way of the application: `redis` and `redis_tls` are not used */
    bool has_direct; /* direct links as `direct` says: only with secrets, and not with `pack` */
    aff_direct_config direct;
    bool pack;
    /* The shared secrets of the cluster: what is published is sealed, and only what is sealed is
     * taken. None: nothing is. What `pack` gave is sealed, so `unpack` gets genuine bytes alone. */
    aff_slice secrets[AFF_SEAL_KEYS_MAX];
    size_t secret_count;
    uint64_t stall_limit_ms; /* the application's silence after which nothing is renewed; 0: none */
    /* On the instance's thread: there is something to take. At the end of a turn, and while there
     * is much. */
    void (*wake)(void *arg);
    void *arg;
} aff_instance_config;

/*
 * Starts the thread. Everything in `config` is copied, except the secrets: keys are derived from
 * these. Errors: AFF_EINVAL, where `error` says what is wrong with `redis_tls` or `direct`
 * ("redis: ...", "link: ..."), if it is one of these, and is left alone else; AFF_ENOMEM.
 */
int aff_instance_open(const aff_instance_config *config, aff_instance **out, char *error,
                      size_t error_len);

/*
 * Tells it something, in whole records (queue.h), and wakes it: a system call, which all that a
 * turn of the application's loop has to tell should share. None: it is woken alone, to hear of what
 * was consumed. Where it will soon wake anyway (an answer of Redis is due) it is not woken, and
 * reads within 2 ms. Any thread. Errors: AFF_EFULL, AFF_ENOMEM, which changed nothing.
 */
int aff_instance_hand(aff_instance *instance, const void *records, size_t len);

/* Takes what it has to tell; one thread. Give the block's credit back with aff_instance_consumed()
 * once it has been worked through, or peers will stop sending: it is heard of with the next
 * aff_instance_hand(). */
aff_block aff_instance_take(aff_instance *instance);
int aff_instance_consumed(aff_instance *instance, uint64_t credit);

/* Until when this server's leases are valid (CLOCK_BOOTTIME, ms); 0: not a member. Any thread. */
uint64_t aff_instance_valid_until(const aff_instance *instance);

/* The engine's counters as of the end of its last loop turn; any thread. */
void aff_instance_stats(aff_instance *instance, aff_stats *out);

/* Messages that were refused because of their seal, since the start; any thread. */
typedef struct {
    uint64_t forged;   /* not signed with a secret of ours */
    uint64_t replayed; /* had before, or overtaken by what was had */
} aff_seal_stats;

void aff_instance_seal_stats(const aff_instance *instance, aff_seal_stats *out);

/* Bytes that wait for the instance's thread, and for the application; any thread. */
typedef struct {
    size_t inbox, outbox;
} aff_queue_stats;

void aff_instance_queue_stats(aff_instance *instance, aff_queue_stats *out);

/* The application lives: to be called well more often than `stall_limit_ms`; one thread. */
void aff_instance_alive(aff_instance *instance);

/* CLOCK_BOOTTIME in ms. */
uint64_t aff_now(void);

/*
 * Ends the thread, waits for it, and frees the instance; not on the instance's thread. For a clean
 * leave post AFF_EV_SHUTDOWN first, and call this after AFF_ACT_STOPPED.
 */
void aff_instance_close(aff_instance *instance);

#endif
