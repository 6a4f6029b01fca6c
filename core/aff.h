/*
 * aff.h - the engine of RedisServerAffinity: leases, routes, links, proxy sockets, custom events.
 *
 * The engine is a step function without I/O, clock, threads, globals or randomness of its own:
 *
 *     aff_step(engine, now_ms, &event);              something happened
 *     while ((action = aff_next_action(engine)))     do what it asks for
 *         perform(action);
 *     timer_start(aff_deadline(engine));             and step again with AFF_EV_TICK by then
 *
 * Threads: an engine belongs to one thread at a time; two engines share nothing.
 *
 * Memory: what an event points to is read during aff_step() and copied where it is kept. What an
 * action points to belongs to the engine and is valid until the next call of aff_next_action(),
 * aff_step() or aff_free().
 *
 * Words: "the app" is what stands above the engine (the JavaScript facade), a "frame" is one
 * message of a Hocuspocus client or server, whose first field is the address: the document's name,
 * or name NUL session. ARCHITECTURE.md explains the rest; docs/PROTOCOL.md has the wire format.
 */
#ifndef AFF_H
#define AFF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Errors: every one is negative; 0 is success. */
#define AFF_ERRORS(X)                                                                              \
    X(EINVAL, -1, "invalid argument")                                                              \
    X(ENOMEM, -2, "out of memory")                                                                 \
    X(ENOTCONN, -3, "not connected to Redis")                                                      \
    X(EFULL, -4, "a queue is full")                                                                \
    X(EOWNED, -5, "another server owns the document")                                              \
    X(EREDIS, -6, "Redis could not be reached in time")                                            \
    X(ETIMEOUT, -7, "no answer in time")                                                           \
    X(ETAKEN, -8, "serverId is in use by another living server")                                   \
    X(ECLOSED, -9, "the instance is closed")                                                       \
    X(EEVENT, -10, "the event handler failed")                                                     \
    X(ENOTOPEN, -11, "no server has the document open")                                            \
    X(EREFUSED, -12, "Redis refused the connection's credentials or database")                     \
    X(EPROTO, -13, "malformed data")

typedef enum {
#define X(name, value, text) AFF_##name = value,
    AFF_ERRORS(X)
#undef X
} aff_error;

/* The name ("AFF_EINVAL") and the text of an error; "AFF_EUNKNOWN" for any other number. Static. */
const char *aff_error_name(int error);
const char *aff_error_text(int error);

/* Bytes that somebody else owns. */
typedef struct {
    const uint8_t *data;
    size_t len;
} aff_slice;

/* Limits that are part of the design (docs/PROTOCOL.md, "Limits"); bytes unless said. */
enum {
    AFF_PROCESS_LEN = 12,    /* 48 random bits as lower-case hex: one run of a server */
    AFF_BOOT_LEN = 16,       /* a boot id: the process, and how often its membership has lapsed */
    AFF_NAME_MAX = 65535,    /* a document's name, UTF-8 */
    AFF_SERVER_ID_MAX = 255, /* a serverId, UTF-8 */
    AFF_ADDRESS_MAX = 262,   /* where a server listens: "host:port" */
    AFF_MESSAGE_MAX = (64 << 20) + (1 << 17) /* a frame or event payload: 64 MiB and its envelope */
};

/*
 * How memory is had. `realloc_(ctx, NULL, n)` allocates, `realloc_(ctx, p, 0)` frees and returns
 * NULL, as in Lua. A NULL return for n > 0 means out of memory: the engine then fails as a whole
 * (see aff_step).
 */
typedef struct {
    void *(*realloc_)(void *ctx, void *pointer, size_t size);
    void *ctx;
} aff_allocator;

typedef struct {
    const char *server_id;      /* 1..255 bytes, unique in the cluster; copied */
    const char *prefix;         /* of Redis keys and channels; copied */
    const char *direct_address; /* "host:port" for peers; copied. NULL: no direct links */
    uint64_t seed;        /* of boot ids and hashes: 64 bits from the system's random source */
    uint64_t lock_ttl_ms; /* membership; 100..3,600,000 */
    uint64_t proxy_socket_ttl_ms;   /* 100..3,600,000 */
    uint64_t event_ttl_ms;          /* 1..86,400,000 */
    uint64_t alive_every_ms;        /* how often owners hear that a client lives; 0: 15,000 */
    size_t window;                  /* credit of one link; 0: 4 MiB */
    size_t backlog_max;             /* undelivered bytes at which credit stops; 0: 8 MiB */
    size_t link_queue_max;          /* unsent bytes of one link; 0: 512 MiB */
    size_t route_queue_max;         /* bytes of a socket that wait for an owner; 0: 5 MiB */
    uint32_t route_queue_count;     /* frames, likewise; 0: 1,000 */
    uint32_t pending_routes_max;    /* routes of a socket without an owner; 0: 100 */
    uint32_t socket_routes_max;     /* routes of a socket; 0: 10,000 */
    uint32_t server_pending_max;    /* routes of all sockets without an owner; 0: 100,000 */
    bool places;                    /* the app says who shall have what nobody has: AFF_ACT_PLACE */
    const aff_allocator *allocator; /* NULL: malloc; must outlive the engine */
} aff_config;

/* Why a document is kept: the lease is released with the last use. */
typedef enum { AFF_USE_HOLD, AFF_USE_LOADED, AFF_USE_EVENT, AFF_USE_ROUTE, AFF_USE_COUNT } aff_use;

/* The scripts and commands that the engine asks Redis to run (core/scripts.c). */
typedef enum {
    AFF_SCRIPT_JOIN,    /* KEYS server; boot, ttl -> [1] or [0, other boot] */
    AFF_SCRIPT_RENEW,   /* KEYS server; boot, ttl -> 1 or 0 */
    AFF_SCRIPT_LEAVE,   /* KEYS server; boot -> 1 or 0 */
    AFF_SCRIPT_CLAIM,   /* KEYS lease; boot, server, standing, expected, ttl, peek, highest */
    AFF_SCRIPT_RELEASE, /* KEYS lease; record -> 1 or 0 */
    AFF_SCRIPT_REFRESH, /* KEYS lease; record, ttl -> 1 or 0 */
    AFF_SCRIPT_COUNT,
    AFF_COMMAND_GET = AFF_SCRIPT_COUNT, /* GET key */
    AFF_COMMAND_NUMSUB                  /* PUBSUB NUMSUB channel -> [channel, count, or nil where
                                           that can't be told] */
} aff_script;

/* The Lua source of a script; static. */
const char *aff_script_source(aff_script script);

/* One value of a reply of Redis. */
typedef struct {
    enum { AFF_VALUE_NIL, AFF_VALUE_INT, AFF_VALUE_STRING } type;
    int64_t integer;
    aff_slice string;
} aff_value;

typedef enum {
    /* From Redis. */
    AFF_EV_REDIS_UP,     /* commands can be sent */
    AFF_EV_REDIS_DOWN,   /* they can't; every request in flight got its AFF_EV_REPLY before */
    AFF_EV_SUBSCRIBED,   /* to `name`, after AFF_ACT_SUBSCRIBE and after each reconnection */
    AFF_EV_UNSUBSCRIBED, /* the subscriber's connection broke: messages may be missing */
    AFF_EV_REPLY, /* `request`; `status` 0 and `values`, or AFF_ENOTCONN, or AFF_EREDIS (`data`) */
    AFF_EV_MESSAGE, /* `data`: a batch from a peer, whatever way it took */
    /* Direct links. */
    AFF_EV_DIRECT_UP,   /* the connection that AFF_ACT_DIRECT_OPEN asked for stands; `name` */
    AFF_EV_DIRECT_DOWN, /* it could not be had, or has ended; `name`: the peer's process */
    /* From the app: the origin's side. */
    AFF_EV_SOCKET_OPEN,  /* `socket`: a number never used before; `data`: its request */
    AFF_EV_SOCKET_FRAME, /* `socket`, `data` */
    AFF_EV_SOCKET_ALIVE, /* `socket`: its client has sent something that the app kept to itself */
    AFF_EV_SOCKET_CLOSE, /* `socket` */
    AFF_EV_ROUTE_END,    /* `socket`, `name`: the local Hocuspocus ended this address */
    AFF_EV_ROUTE_STATE,  /* `socket`, `name`; `data`: u8 (1: authenticated, 2: read-only), the
                            provider's counter, its last Auth, SyncStep1 and Awareness frames,
                            how many SyncStep1s of the owner it has yet to answer, in lib0's
                            encodings */
    /* From the app: the owner's side. */
    AFF_EV_PROXY_SEND,  /* `sockets[count]`: proxy sockets of one document; `data`: one frame */
    AFF_EV_PROXY_CLOSE, /* `socket`: the proxy; `code`, `data`: the reason */
    /* From the app: documents and events. */
    AFF_EV_CLAIM,   /* `request`, `document`, `use`: answered with AFF_ACT_CLAIMED */
    AFF_EV_CONFIRM, /* `request`, `document`: is the lease still ours? AFF_ACT_CLAIMED */
    AFF_EV_LEAVE,   /* `request`, `document`: gives it up, whatever it is used for; its routes
                       move. AFF_ACT_CLAIMED, when it is free; AFF_EOWNED: it has gone before.
                       `flag`: at once, whatever Redis says, and if it says nothing; else
                       `name` and `data`, if given: the serverId and boot of the next owner */
    AFF_EV_PLACE,   /* `document`, after AFF_ACT_PLACE: `name`, `data`: the serverId and boot of
                       who shall have it; none: this server, or nobody while it drains */
    AFF_EV_UNUSE,   /* `document`, `use`: ends a use that was granted */
    AFF_EV_EMIT,    /* `request`, `name`, `document`, `data`, `flag`: only if open; `code` 1:
                       claims the document even after AFF_EV_DRAIN */
    AFF_EV_EVENT_RESULT, /* `request`: of AFF_ACT_EVENT_RUN; `status`, `data` */
    AFF_EV_CONSUMED,     /* `bytes`: the app has taken this much of what was delivered */
    /* Both. */
    AFF_EV_STALLED, /* `flag`: the app does not answer; false: it does again */
    AFF_EV_DRAIN,   /* from here on nothing is claimed */
    AFF_EV_TICK,    /* time has passed */
    AFF_EV_FLUSH,   /* the loop turn ends: send what was gathered */
    AFF_EV_SHUTDOWN /* leave: ends in AFF_ACT_STOPPED. What is loaded still is left to be taken
                       over, as from a dead server; other leases are freed */
} aff_event_type;

typedef struct {
    aff_event_type type;
    uint32_t socket;
    uint32_t count;
    const uint32_t *sockets;
    uint64_t request;
    uint64_t bytes;
    int status;
    uint16_t code;
    bool flag;
    aff_use use;
    aff_slice document, name, data;
    const aff_value *values;
    size_t value_count;
} aff_event;

typedef enum {
    /* To Redis. */
    AFF_ACT_REDIS,     /* run `script` with `argv[argc]` (keys first: `key_count`); `request` */
    AFF_ACT_PUBLISH,   /* `data` on channel `name`; its AFF_EV_REPLY has the receivers, or nil
                          where that can't be told; `request` */
    AFF_ACT_SUBSCRIBE, /* to `name`, now and after each reconnection, and to nothing else */
    /* Direct links. `name`: the peer's process; there is one to each at most. */
    AFF_ACT_DIRECT_OPEN,  /* connect to it at `data`: "host:port"; AFF_EV_DIRECT_UP or _DOWN */
    AFF_ACT_DIRECT_SEND,  /* `data`: a batch; it may be lost only with the connection */
    AFF_ACT_DIRECT_CLOSE, /* end the connection, or the attempt: no AFF_EV_DIRECT_DOWN follows */
    /* To the app. */
    AFF_ACT_READY,        /* a member, and subscribed */
    AFF_ACT_FAILED,       /* the start failed: `status`, `data`: what was wrong */
    AFF_ACT_SEND,         /* `sockets[count]`: client sockets; `data`: a frame for them */
    AFF_ACT_SOCKET_CLOSE, /* `socket`: close the client's socket; `code`, `data`: the reason */
    AFF_ACT_LOCAL,        /* `socket`, `data`: a frame for the Hocuspocus here */
    AFF_ACT_ROUTE,        /* `socket`, `name`: the address; `status`: aff_route_place; `count` */
    AFF_ACT_PROXY_OPEN,   /* `socket`: a new proxy socket; `data`: request; `name`: origin */
    AFF_ACT_PROXY_FRAME,  /* `socket`: the proxy; `data` */
    AFF_ACT_PROXY_ALIVE,  /* `socket`: the proxy's client has sent something elsewhere */
    AFF_ACT_PROXY_CLOSE,  /* `socket`: the proxy; `code`, `data` */
    AFF_ACT_CLAIMED,      /* `request`; `status` 0 (`bytes`: the epoch), AFF_EOWNED (`name`: the
                             owner), AFF_EREDIS */
    AFF_ACT_LOST,         /* `document`: this server has lost it; its connections are ended */
    AFF_ACT_PLACE,        /* `document`: nobody has it, and clients want it. AFF_EV_PLACE */
    AFF_ACT_EVENT_RUN,    /* `request`, `name`, `document`, `data`: run it; AFF_EV_EVENT_RESULT */
    AFF_ACT_EVENT_LOCAL,  /* `request` of AFF_EV_EMIT: run it here; then end AFF_USE_EVENT */
    AFF_ACT_EVENT_DONE,   /* `request` of AFF_EV_EMIT; `status`, `data`: the result or the error */
    AFF_ACT_NEWS,         /* `status`: aff_news, `document`, `name`: a server, `request`: epoch */
    AFF_ACT_LOG,    /* `data`: for people; `status`: 0 debug, 1 warning; `code`: aff_topic; what
                       it is about: `document`, `name`: a server, `request`: epoch */
    AFF_ACT_STOPPED /* nothing is left to do */
} aff_action_type;

/*
 * Where the frames of a route go. `count` of AFF_ACT_ROUTE is how many frames of this address the
 * engine has taken from the app since it last said HERE or ENDED of it: frames beyond it are still
 * under way to the engine. After HERE they come back as AFF_ACT_LOCAL, one by one.
 */
typedef enum {
    AFF_ROUTE_ENDED,
    AFF_ROUTE_HERE,
    AFF_ROUTE_RECALL /* not any more: tell what you know of it, with AFF_EV_ROUTE_STATE */
} aff_route_place;

/* What an operator wants to know. */
typedef enum {
    AFF_NEWS_OWNED,      /* a document is owned here, under an epoch */
    AFF_NEWS_LOST,       /* another server (`name`) owns it now */
    AFF_NEWS_TAKEOVER,   /* it was taken from a dead server (`name`); AFF_NEWS_OWNED follows */
    AFF_NEWS_RESYNC,     /* messages to a server (`name`) were lost, and sent again */
    AFF_NEWS_SERVER_UP,  /* first word from a server */
    AFF_NEWS_SERVER_DOWN /* a server is gone */
} aff_news;

/* What a line of AFF_ACT_LOG is about. */
typedef enum {
    AFF_TOPIC_DOCUMENTS, /* who owns them */
    AFF_TOPIC_LINKS,     /* other servers, and the messages between them */
    AFF_TOPIC_REDIS,     /* the connections to it, and the membership that hangs on them */
    AFF_TOPIC_SOCKETS    /* of clients */
} aff_topic;

enum { AFF_ARGV_MAX = 8 };

typedef struct {
    aff_action_type type;
    aff_script script;
    int argc, key_count;
    aff_slice argv[AFF_ARGV_MAX];
    uint32_t socket;
    uint32_t count;
    const uint32_t *sockets;
    uint64_t request, bytes;
    int status;
    uint16_t code;
    aff_slice document, name, data;
} aff_action;

/*
 * The bytes of an action that AFF_EV_CONSUMED has to give back when the app has taken them: credit
 * for the peers that sent them.
 */
static inline size_t aff_action_credit(const aff_action *action) {
    switch (action->type) {
        case AFF_ACT_SEND:
        case AFF_ACT_PROXY_FRAME:
        case AFF_ACT_EVENT_RUN:
        case AFF_ACT_EVENT_DONE: return action->data.len;
        default: return 0;
    }
}

typedef struct aff_engine aff_engine;

/* Why a frame or a batch was dropped that was well-formed, but not of now. */
typedef enum {
    AFF_STALE_EPOCH,    /* a frame under another epoch than its route has here */
    AFF_STALE_ENDED,    /* a frame for a route, a proxy socket or an event that has ended */
    AFF_STALE_SESSION,  /* a batch of an older session */
    AFF_STALE_REPEATED, /* a batch that came twice */
    AFF_STALE_FOREIGN,  /* a batch for another process, or after this one has left */
    AFF_STALE_UNSERVED, /* a frame of the app, of a document that is not owned here any more */
    AFF_STALE_COUNT
} aff_stale;

/* Why a document could be taken from another server. */
typedef enum {
    AFF_TAKEOVER_EVIDENCE,  /* nobody listened on its channel, as this server has found out */
    AFF_TAKEOVER_LEFT,      /* it has left with the document loaded */
    AFF_TAKEOVER_ENDED,     /* its membership has ended, or a third server has ended that */
    AFF_TAKEOVER_RESTARTED, /* its membership is that of a later boot */
    AFF_TAKEOVER_COUNT
} aff_takeover;

/* Why this server claimed a document anew that it had itself. */
typedef enum {
    AFF_RECLAIM_LAPSE,  /* its membership had lapsed */
    AFF_RECLAIM_RECORD, /* its record was not there any more, or lower than what others had seen */
    AFF_RECLAIM_COUNT
} aff_reclaim;

/* Durations: how many took up to aff_bucket_ms[0] ms, and longer up to [1], ...; and longer. */
enum { AFF_BUCKET_COUNT = 14 };
extern const uint32_t aff_bucket_ms[AFF_BUCKET_COUNT];
typedef struct {
    uint64_t counts[AFF_BUCKET_COUNT + 1];
    uint64_t sum_ms;
} aff_durations;

/* Counters since the start, and gauges (documents, sockets, proxies, peers, backlog). What the
 * application shows of it: js/src/metrics.ts. */
typedef struct {
    uint64_t frames_in, frames_out, batches_in, batches_out, bytes_in, bytes_out;
    uint64_t batches_direct; /* those of batches_out that did not go through Redis */
    uint64_t malformed;      /* batches or frames that could not be read, and were dropped */
    uint64_t stale;          /* frames of an older epoch, boot or session, dropped: all of these */
    uint64_t stale_by[AFF_STALE_COUNT];
    uint64_t gaps;      /* times that something was missing on a link, and sent again */
    uint64_t resets;    /* links that started anew */
    uint64_t failovers; /* routes that have lost their owner and look for the next */
    uint64_t takeovers; /* documents taken from a dead server: all of these */
    uint64_t takeovers_by[AFF_TAKEOVER_COUNT];
    uint64_t reclaims_by[AFF_RECLAIM_COUNT];
    uint64_t losses;         /* documents that the app counted on, and another server has now */
    uint64_t refused;        /* routes and events refused because the document is not owned here */
    uint64_t refused_events; /* those of them that are events */
    uint64_t overflows;      /* sockets closed because a bound was hit */
    uint64_t lapses;         /* times that the membership was lost */
    uint64_t disconnects;    /* times that one of the connections to Redis broke */
    uint64_t stalls;         /* times that the app did not answer for too long */
    aff_durations renewals;  /* of the membership: from when one was due until Redis had made it */
    aff_durations failover_times; /* of routes: without an owner, until the next one accepts */
    uint64_t documents_owned, documents, sockets, routes, proxies, peers;
    uint64_t links;          /* peers to whom batches go directly */
    uint64_t backlog;        /* bytes delivered to the app and not yet consumed */
    uint64_t queued;         /* bytes waiting in links for credit */
    uint64_t unacknowledged; /* bytes that were sent on links, and are kept */
    uint64_t epoch_max;      /* the highest epoch seen */
    bool redis_up, stalled;
} aff_stats;

/*
 * Makes an engine. Errors: AFF_EINVAL, AFF_ENOMEM; `*out` is then left alone. Freed by aff_free().
 */
int aff_new(const aff_config *config, aff_engine **out);
void aff_free(aff_engine *engine);

/*
 * Tells the engine what happened. `now_ms` is a clock that also runs while the machine sleeps
 * (CLOCK_BOOTTIME) and never goes back. Errors: AFF_EINVAL (changed nothing); AFF_ENOMEM: the
 * engine has failed, every later call says so too, and only aff_free() is left: it renews nothing,
 * so that the cluster takes over.
 */
int aff_step(aff_engine *engine, uint64_t now_ms, const aff_event *event);

/* The next thing to do, in order; NULL when there is none. */
const aff_action *aff_next_action(aff_engine *engine);

/* When the engine wants its next AFF_EV_TICK, on the clock of `now_ms`; UINT64_MAX: never. */
uint64_t aff_deadline(const aff_engine *engine);

/*
 * Until when this server's leases are valid, on the clock of `now_ms`: 0 while it is not a member.
 */
uint64_t aff_valid_until(const aff_engine *engine);

void aff_get_stats(const aff_engine *engine, aff_stats *out);

/* The boot id: AFF_BOOT_LEN characters and NUL. Its last four, a count in hex, change when the
 * membership has lapsed; the others stay for the life of the engine. */
const char *aff_boot(const aff_engine *engine);

/* Checks every invariant of ARCHITECTURE.md that one engine can check; aborts if one is broken. */
void aff_check(const aff_engine *engine);

#endif
