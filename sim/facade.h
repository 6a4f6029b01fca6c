/* facade.h - what the parts of a server's JavaScript share. */
#ifndef SIM_FACADE_H
#define SIM_FACADE_H

#include "sim.h"

typedef struct held_frame {
    struct held_frame *next;
    aff_slice data;
} held_frame;

/* One address of a client's socket; as in js/src/socket.ts. */
typedef struct route {
    struct route *next;
    char address[ADDRESS_MAX];
    bool here, recalled, holds;
    uint32_t posted;
    held_frame *held, **held_end;
    /* ClientState of js/src/frames.ts */
    bool has_state, authenticated, readonly;
    aff_slice auth, step1, cursor;
    uint32_t unsynced, questions;
} route;

typedef struct client_socket {
    struct client_socket *next;
    uint32_t id;
    bool is_closed, was_told; /* `was_told`: the client is to close it */
    route *routes;
    unsigned here_count;
    struct hocus *hocus;
} client_socket;

typedef struct proxy_socket {
    struct proxy_socket *next;
    uint32_t id;
    bool is_open;
    struct hocus *hocus;
} proxy_socket;

/* One address of a ClientConnection of Hocuspocus. */
typedef enum { AT_START, AUTHENTICATING, LOADING, ESTABLISHED, OVER } address_phase;

typedef struct hocus_address {
    struct hocus_address *next;
    struct hocus *hocus;
    char address[ADDRESS_MAX];
    int name;
    address_phase phase;
    bool was_left; /* openings.ts */
    held_frame *queue, **queue_end;
    connection con;
} hocus_address;

/* A ClientConnection of Hocuspocus. */
typedef struct hocus {
    server *s;
    bool is_proxy, is_closed;
    uint32_t id;
    client_socket *socket;
    proxy_socket *proxy;
    hocus_address *addresses;
} hocus;

/* A Document of Hocuspocus. */
typedef struct instance {
    struct instance *next; /* of this server's, ended ones too */
    server *s;
    document document; /* first what the clients see */
    int name;
    bool is_tracked, is_lost, is_destroyed; /* documents.ts */
    bool turn_given, turn_over, parked;     /* turns.ts */
    bool still_stores;                      /* handover.ts */
    bool was_stored, is_unloading;
    bool is_unstored; /* Redis could not confirm a store: it is tried again */
    unsigned direct;
    uint64_t epoch;
    /* reload.ts: the epoch under which it is to be loaded last, and that of the load under way. */
    uint64_t loaded_under, reloading_under;
    struct store_run *waits_for_reload;
    unsigned touches;                       /* count as changes */
    unsigned changes_stored;                /* of changes_made() */
    unsigned changes_noticed, changes_sent; /* of document.changes; sent: handed over */
    unsigned wait_ms;
    uint64_t merge_until;
} instance;

static inline unsigned changes_made(const instance *i) {
    return i->document.changes + i->touches;
}

static inline document_info *info_of(const instance *i) {
    return &i->s->w->names[i->name];
}

static inline aff_slice name_slice(const instance *i) {
    return aff__str(info_of(i)->name);
}

/* Who waits for a document to be loaded. */
typedef struct load_waiter {
    struct load_waiter *next;
    server *s;
    void (*then)(server *s, void *arg, instance *loaded); /* NULL: the load failed */
    void *arg;
} load_waiter;

/* A run of storeDocumentHooks. */
typedef struct store_run {
    struct store_run *next;
    instance *document;
    void (*then)(server *s, void *arg);
    void *arg;
    uint64_t asked_at; /* whether it may store */
} store_run;

/* Hocuspocus works by name: */
typedef struct {
    instance *current, *loading;
    load_waiter *waiters, **waiters_end;
    bool has_moved; /* why the last load failed */
    bool is_debounced;
    unsigned timer; /* of the debounced store */
    uint64_t debounced_since;
    instance *debounced;
    store_run *running, *queued, **queued_end;
    unsigned holds, hold_generation;
} named;

typedef struct pending {
    struct pending *next;
    uint64_t request;
    void (*then)(server *s, void *arg, const aff_action *answer);
    void *arg;
} pending;

struct facade {
    client_socket *sockets;
    proxy_socket *proxies;
    instance *instances;
    named names[NAMES_MAX];
    pending *requests;
    uint64_t last_request;
    bool drains, leaves, stopping, stopped, was_member;
    bool leave_failed; /* Redis was away: a document could not be left */
    uint64_t drain_until;
    unsigned leaving, leaving_at_once, handing;
    size_t taken; /* bytes that were delivered */
    /* proxySend gathers. */
    aff_slice gathered;
    uint32_t gathered_for[256];
    uint32_t gathered_count;
};

/* facade.c */
void facade_post(server *s, const aff_event *event);
uint64_t facade_ask(server *s, void (*then)(server *, void *, const aff_action *), void *arg);
void facade_say(void *at, connection *to, aff_slice frame);
void facade_denied(hocus *h);
void facade_close_all(server *s, unsigned code);
mouth facade_mouth(server *s);

/* hocus.c */
void hocus_receive(hocus *h, aff_slice frame);
void hocus_ends(hocus *h);
void hocus_want(server *s, int name, void (*then)(server *, void *, instance *), void *arg);
void hocus_evict(server *s, int name, bool hand_over);
void hocus_merge(server *s, int name, uint64_t edits, void (*then)(server *, void *, bool ok),
                 void *arg);
void hocus_after(server *s, uint64_t us, sim_call call, void *arg, uint64_t number);
named *hocus_named(server *s, int name);
void hocus_destroy(instance *i);
void hocus_give_turn(instance *i);
void hocus_may_unload(instance *i); /* if nobody has it open */
void hocus_owned(server *s, int name, uint64_t epoch);
void hocus_took_over(server *s, int name);

/* handover.c */
#define MERGE_EVENT "\0merge"
#define LATE_MERGE_EVENT "\0late-merge"
#define OPEN_EVENT "\0open"
#define EVENT(name) aff__slice(name, sizeof(name) - 1)
void handover_begin(instance *i);
/* Calls `then` when the next owner has the document open, or nobody has wanted it for a while. */
void handover_taken(server *s, int name, void (*then)(server *s));
/* The next owner is asked for that. */
void handover_open(server *s, int name, uint64_t token);

/* move.c */
void facade_place(server *s, int name);

/* drain.c */
void drain_stopped(server *s);

#endif
