/*
 * engine.h - what the parts of the engine share. Nothing here is public.
 *
 *   member.c  the membership of this server                  (is it alive, under which boot)
 *   lease.c   documents and their leases                     (who owns what, and for how long)
 *   link.c    ordered streams of frames from and to peers    (batches, sessions, credit)
 *   direct.c  direct links                                   (which way a batch takes)
 *   origin.c  client sockets and their routes                (this server holds the socket)
 *   owner.c   proxy sockets                                  (this server owns the document)
 *   events.c  custom events
 *   engine.c  dispatch, actions, time
 */
#ifndef AFF_ENGINE_H
#define AFF_ENGINE_H

#include "map.h"
#include "mutate.h"

typedef struct aff__doc aff__doc;
typedef struct aff__peer aff__peer;
typedef struct aff__socket aff__socket;
typedef struct aff__visit aff__visit;
typedef struct aff__route aff__route;
typedef struct aff__proxy aff__proxy;
typedef struct aff__served aff__served;

/* Frames of Hocuspocus: address, type, and what follows for some types (docs/PROTOCOL.md). */
enum { AFF_HP_AUTH = 2, AFF_HP_STATELESS = 5, AFF_HP_CLOSE = 7 };
enum { AFF_HP_TOKEN = 0, AFF_HP_DENIED = 1, AFF_HP_AUTHENTICATED = 2 };
enum { AFF_CLOSE_RESET = 4205, AFF_CLOSE_UNAUTHORIZED = 4401, AFF_CLOSE_TOO_BIG = 1009 };

typedef struct {
    aff_slice address,
        document;   /* `address`: with NUL and the session behind it, where it has one */
    aff_slice body; /* all behind the address */
    uint64_t type;
    uint64_t sub;      /* what comes next: an Auth's kind, a sync step, a SyncStatus's value */
    aff_slice payload; /* what comes then */
} aff__client_frame;

/* ---- Membership (member.c) -------------------------------------------------------------- */

typedef enum {
    AFF_MEMBER_OFFLINE, /* no connection to Redis yet, or none any more before a first join */
    AFF_MEMBER_JOINING, /* the key is being set */
    AFF_MEMBER_PROBING, /* another boot has the key: is anybody listening on its channel? */
    AFF_MEMBER_JOINED,  /* a member */
    AFF_MEMBER_LEAVING, /* shutting down */
    AFF_MEMBER_STATES
} aff__member_state;

typedef struct {
    aff__member_state state;
    char boot[AFF_BOOT_LEN + 1];
    uint32_t lapses;
    char former[AFF_BOOT_LEN + 1];  /* the boot before this one */
    char rival[AFF_BOOT_LEN + 1];   /* PROBING: the boot that has the key; "": try to join again */
    char awaited[AFF_BOOT_LEN + 1]; /* a rival of whom only the key can tell whether it lives */
    uint64_t awaited_since;
    uint64_t asked_at;              /* when the request in flight was sent */
    uint64_t settled_at;            /* when others that lost it too are back as well */
    uint64_t renew_at, valid_until; /* JOINED; `valid_until` is also kept when Redis is away */
    uint64_t probe_at, probe_until; /* PROBING */
    uint64_t due_at;                /* when a renewal that has yet to succeed was due; 0: none */
    bool asking;                    /* a request is in flight */
    bool redis_up, listening, subscribed, announced;
    bool stalled, draining;
    bool failed;      /* the serverId is taken: off until it is shut down */
    uint64_t stop_at; /* LEAVING: when to give up waiting */
} aff__member;

/* ---- Documents (lease.c) ---------------------------------------------------------------- */

typedef enum {
    AFF_DOC_FREE,      /* nothing is known, nothing is asked */
    AFF_DOC_CLAIMING,  /* Redis has been asked for the lease */
    AFF_DOC_CHECKING,  /* another server has it: is that one alive? */
    AFF_DOC_OWNED,     /* the lease is ours, under `epoch` */
    AFF_DOC_REMOTE,    /* `owner` has it, under `epoch` */
    AFF_DOC_RELEASING, /* Redis has been asked to delete our record */
    AFF_DOC_STATES
} aff__doc_state;

struct aff__doc {
    aff__item item; /* by name; the name stands behind the structure */
    aff__doc_state state;
    uint32_t lookups; /* routes in LOOKUP */
    uint64_t epoch;
    aff__buf record;  /* OWNED, RELEASING: ours, as it is in Redis; CHECKING: the holder's */
    aff__peer *owner; /* REMOTE */
    uint32_t uses[AFF_USE_COUNT];
    bool kept : 1;        /* the app counts on the lease: owned before the boot changed */
    bool peeked : 1;      /* CLAIMING: only to look */
    bool giving : 1;      /* RELEASING: to another server */
    bool placing : 1;     /* the app has been asked who shall have it */
    bool placed : 1;      /* it has answered */
    bool for_other : 1;   /* CLAIMING: in another server's name */
    bool expected : 1;    /* CLAIMING: somebody says that it is ours, under `epoch` */
    bool doubted : 1;     /* the server that Redis has named does not own it, under `epoch` */
    bool answering : 1;   /* those who wait are being answered: settled when that is done */
    bool refreshing : 1;  /* Redis has been asked to keep our record for longer */
    uint64_t given_until; /* given to us: kept for so long, though nobody wants it yet; or 0 */
    uint64_t asked;       /* CLAIMING: the request to Redis */
    uint64_t left;        /* RELEASING: the request of AFF_EV_LEAVE; else 0 */
    uint64_t refresh_at;
    uint64_t absent_at; /* when its holder's membership was found missing first; 0: not */
    aff__list waiters;  /* aff__waiter: claims and events that want the lease or its owner */
    aff__list routes;   /* aff__route */
    aff__list served;   /* aff__served */
};

typedef struct {
    aff__list by_doc, by_time;
    aff__doc *doc;
    uint64_t request, deadline;
    aff_use use;                         /* AFF_USE_EVENT: an event, see below; else a claim */
    bool is_event, only_if_open, forced; /* `forced`: claims even where the server is leaving */
    bool only_confirm;                   /* a claim that adds no use, */
    uint64_t newer_than; /* answered by a claim after this request to Redis only; 0: by any */
    aff__peer *peer;     /* an event: where it was sent, else NULL */
    aff__list by_peer;   /* an event that was sent */
    aff__item item;      /* an event, by request */
    aff__buf document, name, data; /* an event */
} aff__waiter;

/* ---- Links (link.c) --------------------------------------------------------------------- */

typedef enum {
    AFF_FRAME_HELLO = 1,
    AFF_FRAME_OPEN,
    AFF_FRAME_OFFER,
    AFF_FRAME_DATA,
    AFF_FRAME_CLOSE,
    AFF_FRAME_ALIVE,
    AFF_FRAME_ACCEPT,
    AFF_FRAME_REFUSE,
    AFF_FRAME_OUT,
    AFF_FRAME_KICK,
    AFF_FRAME_EVENT,
    AFF_FRAME_RESULT,
    AFF_FRAME_FRAGMENT,
    AFF_FRAME_BYE,
    AFF_FRAME_MOVED
} aff__frame_type;

typedef enum {
    AFF_DIRECT_NONE,     /* one side does not want any, or it is not known where the peer listens */
    AFF_DIRECT_DIALLING, /* the runtime has been asked for a connection */
    AFF_DIRECT_READY,    /* there is one; what Redis carries is to be acknowledged first */
    AFF_DIRECT_UP,       /* batches take it */
    AFF_DIRECT_WAITING,  /* there is none: tried again at `until` */
    AFF_DIRECT_STATES
} aff__direct_state;

/* The connection on which this server sends to a peer (direct.c). */
typedef struct {
    aff__direct_state state;
    aff__buf address;   /* where the peer listens */
    uint64_t until;     /* DIALLING, WAITING, READY: it does not last for longer */
    uint64_t first_seq; /* UP: the first batch that has taken it */
    uint64_t backoff_ms;
} aff__direct;

struct aff__peer {
    aff__item item; /* by process */
    char process[AFF_PROCESS_LEN + 1];
    uint32_t number; /* of this peer, in this engine */
    aff__buf server_id;
    uint64_t session;

    aff__buf queue;  /* frames, each behind its length: what is not acknowledged, then unsent */
    size_t acked_at; /* before it: acknowledged */
    size_t queue_at; /* from it on: unsent */
    aff__buf sizes;  /* uint32_t: the lengths of the batches that are not acknowledged */
    uint64_t out_seq, out_bytes, out_limit, acked_seq;
    uint64_t client_bytes; /* of out_bytes: the end of the last frame of a client; 0: no beat has to
                              hurry */
    uint64_t spoken_at;    /* when the last batch was sent */
    uint64_t resent_at;    /* when batches were last sent again */
    /* When something was last acknowledged (or the peer said that it will be later), or sent while
     * nothing was to be acknowledged. */
    uint64_t progress_at;
    aff__direct direct;

    uint64_t in_seq, in_bytes, in_limit;
    aff__buf fragment; /* a frame in pieces, as far as it has come */
    uint64_t heard_at;
    uint64_t missed_at;  /* when a missing batch was last asked for */
    bool missing;        /* the next message says that something is missing */
    uint32_t unanswered; /* PUBLISHes to it that Redis is at work on */
    bool ack_wanted;     /* something was received that is not yet acknowledged */
    uint64_t ack_at;

    bool checking;      /* its membership has been asked for */
    uint64_t absent_at; /* when its membership was found missing first; 0: it stands */
    uint64_t check_at;
    uint64_t mute_at;            /* since when it has been a member that says nothing; 0: not so */
    char boot[AFF_BOOT_LEN + 1]; /* as its membership names it; "" if that was not asked for */
    uint64_t unheard_at;         /* since when nobody listens on its channel; 0: somebody does */
    uint64_t foreign_told_at;    /* when people were told last that its version is another one */
    bool broken;     /* something could not be queued: the session ends at the next flush */
    aff__list dirty; /* in engine->dirty while there is something to flush */

    aff__list visits, proxies, events;
    aff__list by_target; /* scratch of aff__proxy_send() */
    aff__buf targets;
    uint32_t target_count, last_target;
};

/* ---- The origin's side (origin.c) ------------------------------------------------------- */

struct aff__socket {
    aff__item item; /* by id */
    uint32_t id;
    bool closed; /* the engine has given it up; the app has not yet said so */
    aff__list routes, visits;
    aff__route *recent; /* the one that was found last; NULL: none */
    uint32_t route_count, pending_count;
    size_t held_bytes;
    uint64_t active_at; /* when the last frame came */
    uint32_t held_count;
    uint32_t request_len; /* the client's HTTP request stands behind the structure */
    uint8_t request[];
};

/* A socket's proxy at one peer. */
struct aff__visit {
    aff__item item; /* by id */
    uint32_t id;    /* on the link: what the peer says of an earlier visit is not of this one */
    uint32_t route_count : 31;
    uint32_t was_left : 1; /* a route of it has moved away: no others are offered to it */
    aff__list by_socket, by_peer;
    aff__socket *socket;
    aff__peer *peer;
    uint64_t active_at; /* when the peer last heard of this socket */
};

/* What is known of a client for the case that its document moves (shim.c). */
typedef enum { AFF_SHIM_IDLE, AFF_SHIM_TOKEN, AFF_SHIM_AUTH, AFF_SHIM_SYNC } aff__shim_phase;

/* The client's last frames of these kinds, in the order in which the next owner is to get them. */
typedef enum {
    AFF_KNOWN_AUTH,
    AFF_KNOWN_STEP1,
    AFF_KNOWN_AWARENESS,
    AFF_KNOWN_COUNT
} aff__known_kind;

/* Without the address, which is the route's; one behind the other, since there are many routes. */
typedef struct {
    uint32_t lens[AFF_KNOWN_COUNT], cap;
    uint8_t bytes[];
} aff__known;

typedef struct aff__token_wait aff__token_wait;

typedef struct {
    aff__shim_phase phase;
    bool authenticated : 1, readonly : 1; /* what the client has been told */
    bool fresh : 1;        /* the Auth that is known answers our request for a token */
    bool asks : 1;         /* AUTH: a SyncStep1 is among what the new owner gets */
    bool step2 : 1;        /* SYNC: the client's SyncStep2 has been forwarded */
    uint32_t lost_at;      /* when its owner was lost last: the low 32 bits of ms */
    uint32_t questions;    /* SyncStep1s of owners that the client has yet to answer */
    uint32_t outdated;     /* those of them of former owners */
    uint32_t unsynced;     /* the provider's counter */
    uint32_t forwarded;    /* SYNC: updates that the present owner has not acknowledged */
    uint32_t before_step2; /* SYNC: those of them that were sent before the SyncStep2 */
    aff__known *known;     /* NULL: nothing */
    uint64_t clock;        /* the highest of its awareness that others may have heard */
    aff__token_wait *wait; /* TOKEN; else NULL */
} aff__shim;

/* A client has been asked for its token. */
struct aff__token_wait {
    aff__list by_time; /* in engine->shims */
    uint64_t deadline;
    aff__shim *shim;
};

/* What becomes of a frame. */
typedef enum {
    AFF_PASS,
    AFF_SWALLOW,
    AFF_RESTART, /* the client's fresh Auth: the new owner can be addressed */
    AFF_SETTLE,  /* swallow it, and acknowledge updates to the client */
    AFF_GIVE_UP  /* the client must connect again */
} aff__verdict;

typedef enum {
    AFF_ROUTE_WAITING,  /* for the client's Auth frame */
    AFF_ROUTE_LOOKUP,   /* for the owner's name */
    AFF_ROUTE_OFFERED,  /* sent to `visit->peer`, which has not said yet that it is the owner */
    AFF_ROUTE_REMOTE,   /* served by `visit->peer` under `epoch` */
    AFF_ROUTE_CLOSING,  /* the client has ended it; the owner has not answered yet */
    AFF_ROUTE_LOCAL,    /* served here */
    AFF_ROUTE_RECALLED, /* was served here: the app is asked what it knows of it */
    AFF_ROUTE_STATES
} aff__route_state;

struct aff__route {
    aff__item item; /* by socket and address; the key stands behind the structure */
    aff__route_state state;
    bool closing;   /* OFFERED: the client's CLOSE has been sent; what follows it waits */
    uint32_t taken; /* frames that came from the app */
    uint32_t held_count;
    aff__buf *held; /* frames not yet accepted by an owner, each behind its length; NULL: none */
    aff__socket *socket;
    aff__doc *doc;
    aff__visit *visit; /* OFFERED, REMOTE, CLOSING */
    uint64_t epoch;    /* likewise */
    aff__shim shim;
    aff__list by_socket, by_doc;
};

/* ---- The owner's side (owner.c) --------------------------------------------------------- */

struct aff__proxy {
    aff__item item;      /* by id */
    aff__item by_origin; /* by peer and visit */
    uint32_t id, visit;  /* `visit`: the origin's number */
    bool is_ours;        /* the origin is this server itself, */
    uint32_t socket;     /* and this the client's socket */
    uint8_t id_key[4], origin_key[8];
    aff__peer *peer;
    aff__served *recent; /* the one that was found last; NULL: none */
    aff__list by_peer, routes;
};

/* One address of a proxy socket. */
struct aff__served {
    aff__item item; /* by proxy and address; the key stands behind the structure */
    aff__proxy *proxy;
    aff__doc *doc;
    uint64_t epoch, since; /* `since`: the epoch under which it was accepted */
    bool accepted;         /* else: waits for the answer to our claim, its frames in `held` */
    aff__buf held;
    aff__list by_proxy, by_doc;
};

/*
 * A server that lost Redis is back after this at the latest: the longest back-off of a
 * reconnection, and some. Until then the absence of its key or its subscription says nothing.
 */
enum { AFF_BACKOFF_MS = 250, AFF_GRACE_MS = AFF_BACKOFF_MS + 200 };

/*
 * A membership that is missing may be about to be renewed: after Redis has stood still for longer
 * than lockTTL all are. It counts when it is still missing after this.
 */
enum { AFF_ABSENT_MS = 250 };

/* ---- The engine (engine.c) -------------------------------------------------------------- */

typedef enum {
    AFF_ASK_JOIN,
    AFF_ASK_RENEW,
    AFF_ASK_EVICT_RIVAL,
    AFF_ASK_PROBE,
    AFF_ASK_LEAVE,
    AFF_ASK_CLAIM,
    AFF_ASK_HOLDER,
    AFF_ASK_RELEASE,
    AFF_ASK_REFRESH,
    AFF_ASK_PEER,
    AFF_ASK_EVICT,
    AFF_ASK_PUBLISHED
} aff__ask_kind;

/* A request to Redis that has not been answered. */
typedef struct {
    aff__item item; /* by id */
    uint64_t id;
    aff__ask_kind kind;
    aff__doc *doc;               /* a document is not freed while it is asked about */
    char boot[AFF_BOOT_LEN + 1]; /* the boot or process it is about */
} aff__ask;

struct aff_engine {
    aff__heap heap;
    bool failed;
    uint64_t now;
    aff_config config; /* strings point to the copies below */
    aff__buf server_id, prefix, direct_address;
    uint64_t random_state, next_id;
    uint32_t next_proxy, next_peer, next_visit;
    aff__member member;
    aff__map docs, peers, sockets, routes, proxies, proxies_by_origin, served, asks, events,
        running, former_peers, visits;
    aff__list formers;      /* of former_peers, the oldest first */
    aff__list dirty;        /* aff__peer with something to flush */
    aff__list claims;       /* aff__waiter that are claims, by deadline */
    aff__list event_times;  /* aff__waiter that are events, by deadline */
    aff__list shims;        /* aff__token_wait, by deadline */
    aff__peer *self;        /* routes that moved to this server itself; NULL until needed */
    uint32_t pending_count; /* routes without an owner, of all sockets */
    uint64_t scan_at;       /* the next look at idle sockets and old leases */
    uint64_t resume_at;     /* when documents that had to wait are asked about again */
    uint64_t foreign_told_at, foreign_answered_at; /* processes of another version; see link.c */
    aff__list actions;
    aff__list *current; /* the action handed out last */
    aff__buf scratch, key, group;
    aff_stats stats;
};

/* Makes an action at the end of the queue; the three slices are copied. */
aff_action *aff__act(aff_engine *e, aff_action_type type, aff_slice document, aff_slice name,
                     aff_slice data);
/* What a line of the log is about, as far as it is about that. */
typedef struct {
    aff_slice document, server;
    uint64_t epoch;
} aff__about;

/* `about` may be NULL. */
void aff__log(aff_engine *e, int level, aff_topic topic, const aff__about *about,
              const char *format, ...) __attribute__((format(printf, 5, 6)));
void aff__count_duration(aff_durations *durations, uint64_t ms);
void aff__news(aff_engine *e, aff_news news, aff_slice document, aff_slice server, uint64_t epoch);
uint64_t aff__random(aff_engine *e);

uint64_t aff__remember_ask(aff_engine *e, aff__ask_kind kind, aff__doc *doc, const char *boot);
/* Asks Redis; its answer goes to the part that `kind` belongs to. */
void aff__ask_redis(aff_engine *e, aff__ask_kind kind, aff__doc *doc, const char *boot,
                    aff_script script, int argc, const aff_slice *argv);
/* `<prefix><kind>:<rest>` in engine->key. */
aff_slice aff__key(aff_engine *e, const char *kind, aff_slice rest);
void aff__new_boot(aff_engine *e);

/* member.c */
void aff__member_up(aff_engine *e);
void aff__member_down(aff_engine *e);
void aff__member_subscribed(aff_engine *e, bool yes);
void aff__member_answer(aff_engine *e, const aff__ask *ask, const aff_event *reply);
void aff__member_tick(aff_engine *e);
uint64_t aff__member_deadline(const aff_engine *e);
void aff__member_stalled(aff_engine *e, bool stalled);
void aff__member_shutdown(aff_engine *e);
bool aff__is_member(const aff_engine *e);

/* lease.c */
aff__doc *aff__doc_get(aff_engine *e, aff_slice name); /* makes it where there is none */
aff__doc *aff__doc_find(const aff_engine *e, aff_slice name);
bool aff__doc_serves(const aff__doc *doc);          /* ours, or ours until Redis says otherwise */
void aff__saw_epoch(aff_engine *e, uint64_t epoch); /* epochs to come are above it */
void aff__doc_use(aff_engine *e, aff__doc *doc, aff_use use);
void aff__doc_unuse(aff_engine *e, aff__doc *doc, aff_use use);
/* Goes on with a document after anything about it has changed: asks for it, releases it, or
 * forgets it (then false: the pointer is dead). */
bool aff__doc_settle(aff_engine *e, aff__doc *doc);
/* `peer` says that it does not own the document: whatever is remembered of that is forgotten. */
void aff__doc_doubt(aff_engine *e, aff_slice name, aff__peer *peer);
/* A peer comes with a document of ours under an epoch that it has read in Redis. Where we know of a
 * lower one it was raised there, by a server that had the document under one above ours: claimed
 * anew. Returns the document, NULL if nothing is known of it, or nothing any more. */
aff__doc *aff__doc_come(aff_engine *e, aff_slice name, uint64_t epoch);
/* We are named as the owner under an epoch that we know nothing of: it may have been given to us
 * (true: Redis is asked); else the record is deleted. */
bool aff__doc_expect(aff_engine *e, aff_slice name, uint64_t epoch);
void aff__doc_disown(aff_engine *e, aff_slice name, uint64_t epoch);
void aff__docs_forget_owner(aff_engine *e, const aff__peer *peer);
void aff__doc_wait(aff_engine *e, aff__doc *doc, aff__waiter *waiter);
void aff__doc_answer(aff_engine *e, const aff__ask *ask, const aff_event *reply);
void aff__docs_resume_at(aff_engine *e, uint64_t when);
void aff__docs_resume(aff_engine *e);  /* a member again */
void aff__docs_reclaim(aff_engine *e); /* under a new boot */
void aff__docs_release(aff_engine *e); /* shutting down */
void aff__docs_scan(aff_engine *e);    /* from time to time */
void aff__claim_timeout(aff_engine *e);
void aff__doc_confirm(aff_engine *e, uint64_t request, aff_slice name);
void aff__doc_leave(aff_engine *e, const aff_event *v);
void aff__doc_place(aff_engine *e, const aff_event *v);
void aff__waiter_free(aff_engine *e, aff__waiter *waiter);

/* link.c */
aff__peer *aff__self(aff_engine *e); /* the peer that is this server itself */
aff__peer *aff__peer_get(aff_engine *e, const char *process); /* makes it where there is none */
aff__peer *aff__peer_find(const aff_engine *e, aff_slice process);
bool aff__peer_alive(const aff_engine *e, const aff__peer *peer); /* heard of lately */
/* Why a peer is gone. */
typedef enum {
    AFF_GONE_UNKNOWN, /* it is not gone, or long forgotten */
    AFF_GONE_GOODBYE,
    AFF_GONE_UNHEARD, /* nobody listens on its channel */
    AFF_GONE_ENDED,   /* its membership */
    AFF_GONE_IDLE
} aff__gone;

void aff__peer_gone(aff_engine *e, aff__peer *peer, aff__gone why); /* frees it */
aff__gone aff__why_gone(const aff_engine *e, const char *process);
void aff__peer_answer(aff_engine *e, const aff__ask *ask, const aff_event *reply);
void aff__peers_tick(aff_engine *e);
void aff__peers_greet(aff_engine *e); /* connected again: what did we miss, what did they? */
void aff__peers_farewell(aff_engine *e);
void aff__peers_credit(aff_engine *e); /* the app has consumed something */
uint64_t aff__peers_deadline(const aff_engine *e);
void aff__link_receive(aff_engine *e, aff_slice batch);
void aff__link_flush(aff_engine *e);
/* What was sent to a peer behind batch `seq`, or waits to be sent. */
aff_slice aff__link_sent_after(const aff__peer *peer, uint64_t seq);
/* Starts a frame in engine->scratch; finished by aff__frame_send(): AFF_EFULL changes nothing. */
aff__buf *aff__frame(aff_engine *e, aff__frame_type type);
int aff__frame_send(aff_engine *e, aff__peer *peer);

/* Everything that is not acknowledged. */
void aff__link_send_again(aff_engine *e, aff__peer *peer);

/* direct.c */
void aff__direct_init(aff_engine *e, aff__peer *peer);
void aff__direct_free(aff_engine *e, aff__peer *peer);
void aff__direct_address(aff_engine *e, aff__peer *peer, aff_slice address); /* the peer tells it */
void aff__direct_up(aff_engine *e, aff_slice process);
void aff__direct_down(aff_engine *e, aff_slice process);
void aff__direct_settle(aff_engine *e, aff__peer *peer); /* READY: is it time to use it? */
void aff__direct_acknowledged(aff__peer *peer);          /* something more is */
/* The peer has not got an acknowledgement of ours, or it was still under way. */
void aff__direct_doubt(aff_engine *e, aff__peer *peer);
/* False: the batch is to take the way through Redis. */
bool aff__direct_send(aff_engine *e, const aff__peer *peer, aff_slice batch);
uint64_t aff__direct_due(const aff__peer *peer); /* when aff__direct_tick() has something to do */
void aff__direct_tick(aff_engine *e, aff__peer *peer);

/* origin.c */
void aff__socket_open(aff_engine *e, const aff_event *event);
void aff__socket_frame(aff_engine *e, uint32_t id, aff_slice frame);
void aff__socket_alive(aff_engine *e, uint32_t id);
void aff__socket_closed(aff_engine *e, uint32_t id);
void aff__route_ended_here(aff_engine *e, uint32_t socket, aff_slice address);
void aff__route_place(aff_engine *e, aff__route *route); /* the document's owner is known */
void aff__route_move(aff_engine *e, aff__route *route);  /* its owner is lost */
void aff__route_fail(aff_engine *e, aff__route *route, const char *why);
/* Whose visit is it? False: it is over. */
bool aff__visit_socket(const aff_engine *e, uint32_t id, uint32_t *socket);
/* Stateless messages among frames that a peer may not have had: held for its next owner. */
void aff__routes_rescue(aff_engine *e, const aff__peer *peer, aff_slice frames);
/* Likewise a frame that this server has sent to itself, for an address that moves or has moved. */
void aff__route_returned(aff_engine *e, uint32_t socket, const aff__client_frame *frame,
                         aff_slice data);
void aff__visits_end(aff_engine *e, aff__peer *peer);  /* the link is gone */
void aff__visits_fail(aff_engine *e, aff__peer *peer); /* and the peer lives: nobody can help */
void aff__sockets_scan(aff_engine *e);
bool aff__origin_frame(aff_engine *e, aff__peer *peer, aff__frame_type type, aff_slice rest);

void aff__route_recalled(aff_engine *e, uint32_t socket, aff_slice address, aff_slice state);
bool aff__route_placeable(const aff__route *route);
void aff__shims_timeout(aff_engine *e);

/* shim.c */
void aff__shim_init(aff__shim *shim);
void aff__shim_free(aff_engine *e, aff__shim *shim);
/* The client's last frame of that kind, without its address; empty: none. */
aff_slice aff__shim_known(const aff__shim *shim, aff__known_kind kind);
/* Replaces it; `body` must not be of the same shim. */
void aff__shim_learn(aff_engine *e, aff__shim *shim, aff__known_kind kind, aff_slice body);
/* Remembers a frame of the client; every one passes here once, in order. */
void aff__shim_note(aff_engine *e, aff__shim *shim, const aff__client_frame *frame);
/* Makes the remembered awareness newer than what others may have heard. */
void aff__shim_wind_clock(aff_engine *e, aff__shim *shim);
/* The owner is lost. True: the client must be asked for a token. */
bool aff__shim_start(aff_engine *e, aff__shim *shim);
aff__verdict aff__shim_from_client(aff_engine *e, aff__shim *shim, const aff__client_frame *frame);
/* `*settled`, with AFF_SETTLE: so many acknowledgements are due to the client. */
aff__verdict aff__shim_from_owner(aff__shim *shim, const aff__client_frame *frame,
                                  uint32_t *settled);

/* owner.c */
bool aff__owner_frame(aff_engine *e, aff__peer *peer, aff__frame_type type, aff_slice rest);
void aff__proxy_send(aff_engine *e, const uint32_t *proxies, uint32_t count, aff_slice frame);
void aff__proxy_closed(aff_engine *e, uint32_t id, uint16_t code, aff_slice reason);
void aff__proxies_end(aff_engine *e, aff__peer *peer);      /* the link is gone */
void aff__served_place(aff_engine *e, aff__served *served); /* our claim has been answered */
void aff__served_lost(aff_engine *e, aff__doc *doc);
void aff__served_renewed(aff_engine *e, aff__doc *doc); /* our own document has a new epoch */

/* events.c */
void aff__event_emit(aff_engine *e, const aff_event *event);
void aff__event_place(aff_engine *e, aff__waiter *waiter);
void aff__event_result(aff_engine *e, uint64_t token, int status, aff_slice data);
void aff__events_requeue(aff_engine *e, aff__peer *peer);
void aff__events_timeout(aff_engine *e);
bool aff__event_frame(aff_engine *e, aff__peer *peer, aff__frame_type type, aff_slice rest);

/*
 * Lua in Redis counts in doubles, which are exact up to 2^53: a record beyond that can't be read.
 * What a peer says is believed up to half of it, so that records can go on growing above whatever
 * anybody makes up (microseconds since 1970 stay below until the year 2112).
 */
#define AFF_EPOCH_MAX (((uint64_t)1 << 53) - 1)
#define AFF_EPOCH_HEARD_MAX ((uint64_t)1 << 52)

/* The epoch in a frame of a peer; as with aff__get_uint(), false for one that can't be. */
bool aff__get_epoch(aff_slice *rest, uint64_t *out);
bool aff__is_utf8(aff_slice bytes);
bool aff__parse_client_frame(aff_slice frame, aff__client_frame *out);
/* The same for all behind the address; `out` keeps what it has of that. */
bool aff__parse_body(aff_slice body, aff__client_frame *out);

static inline aff_slice aff__none(void) {
    return (aff_slice){NULL, 0};
}

#endif
