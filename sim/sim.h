/*
 * sim.h - the simulator: a cluster, Redis, a database and people, in virtual time, from a seed.
 *
 *   main.c    the command line: one seed with its trace, or many on all cores
 *   world.c   time, chance, memory, traces, the end of a run that has failed
 *   server.c  a server: its process, its two threads, its connections to Redis
 *   facade.c  its JavaScript thread: client sockets, proxy sockets (js/src/socket.ts, proxy.ts)
 *   hocus.c   Hocuspocus and documents there: loading, storing, losing (js/src/documents.ts)
 *   people.c  people with browsers
 *   faults.c  what goes wrong, and when
 *   watch.c   the invariants of the cluster (ARCHITECTURE.md, from I28)
 *
 * frames, redis_model, provider and document are models that the C tests use as well.
 *
 * Time is in microseconds. Everything that takes time goes through sim_at(); what has the same time
 * happens in the order in which it was asked for. A run is a function of its seed.
 */
#ifndef SIM_H
#define SIM_H

#include <stdio.h>

#include "document.h"
#include "redis_model.h"

enum {
    SERVERS_MAX = 6,
    PEOPLE_MAX = 8,
    NAMES_MAX = 3,
    OPEN_MAX = 2,
    EVENTS_MAX = 256,
    TCP_MAX = 16
};
enum { MS = 1000, SECOND = 1000 * MS };
enum { ASKED_MAX = 512 };

typedef struct sim sim;
typedef struct server server;
typedef struct person person;
typedef struct facade facade;

typedef void (*sim_call)(sim *w, void *arg, uint64_t number);

/* ---- What waits for a thread -------------------------------------------------------------- */

typedef enum { FOR_ENGINE, FOR_FACADE, CLIENT_OPENS, CLIENT_SENDS, CLIENT_CLOSES, CALL } item_kind;

typedef struct item {
    struct item *next;
    item_kind kind;
    aff_event event; /* FOR_ENGINE */
    aff_value values[2];
    aff_action action; /* FOR_FACADE */
    uint32_t socket;   /* CLIENT_... */
    aff_slice data;
    sim_call call; /* CALL */
    void *arg;
    uint64_t number;
} item;

/* The thread takes them in order, all at once, when it is woken and does not stand still. */
typedef struct {
    item *first, **end;
    bool is_woken;
    uint64_t blocked_until;
} thread;

/* Things that go one behind the other take different times, but don't overtake each other. */
typedef struct {
    uint64_t last_at;
} pipe_order;

/* ---- Servers -------------------------------------------------------------------------------- */

/* One of a server's two connections to Redis. */
typedef struct {
    bool up;
    bool known_to_redis; /* Redis has not noticed that it broke: a subscriber still counts */
    unsigned generation; /* what an earlier one had under way is lost */
    pipe_order out, in;
    uint64_t asked[ASKED_MAX]; /* requests without an answer */
    unsigned asked_count;
} redis_link;

/* A connection to another server's process: a direct link. */
typedef struct {
    enum { TCP_FREE, TCP_DIALLING, TCP_UP } state;
    char process[AFF_PROCESS_LEN];
    unsigned generation;   /* of the connection */
    uint64_t silent_until; /* nothing arrives before */
    pipe_order order;
} tcp_link;

struct server {
    sim *w;
    int index;
    char name[2];
    aff_config config;
    aff_allocator allocator;
    size_t memory, memory_peak; /* bytes of the engine */
    aff_engine *engine;         /* NULL: the process does not run */
    unsigned life;              /* of the process; what an earlier one has begun never happens */
    bool is_ready, drains, leaves, cut;
    bool announced_stall;      /* the engine was told that JavaScript hangs */
    uint64_t renewed_at;       /* when Redis last did so with its membership */
    uint64_t stood_us;         /* how long its threads have stood still in all */
    uint64_t started, base_ms; /* its clock: base_ms at `started`, and */
    uint64_t rate_ppm;         /* so many microseconds for a million */
    uint64_t timer_at;         /* when its I/O thread wants to be woken; UINT64_MAX: never */
    uint64_t paused_until;     /* the whole process */
    uint64_t far_until;        /* nothing passes between it and Redis */
    uint64_t stall_limit;      /* microseconds */
    thread io, js;
    redis_link commands, listener;
    tcp_link links[TCP_MAX];
    bytes channel;
    unsigned resets;       /* of links, of all its lives so far */
    unsigned false_alarms; /* servers that it took for gone, though one of that name lives */
    facade *facade;
};

/* ---- People -----------------------------------------------------------------------------------
 */

struct person {
    sim *w;
    uint32_t id; /* from 1 */
    bool is_gone, is_open;
    unsigned connections; /* so far */
    bool readonly;
    const char *version;
    uint32_t socket; /* of its browser; a number is never used again */
    int server;
    unsigned server_life;
    pipe_order up, down;
    uint64_t opened_at;
    provider providers[OPEN_MAX];
    bool is_used[OPEN_MAX];
    uint64_t last_epoch[OPEN_MAX]; /* I29 */

    unsigned said[OPEN_MAX], heard[OPEN_MAX]; /* stateless messages on this socket: sent, arrived */
};

/* ---- Documents, as the world knows them -------------------------------------------------------
 */

typedef struct {
    char name[8];
    unsigned next_edit;
    uint64_t must;            /* edits that direct connections of living servers have made */
    uint64_t by[SERVERS_MAX]; /* those of a server that nobody else may have yet */
    uint64_t stored;          /* the database: edits, */
    uint64_t stored_epoch;    /* the epoch of the last store, */
    bool fences;              /* and whether it refuses older ones */
    uint64_t granted_epoch[64], granted_at[64]; /* when epochs were first granted */
    unsigned grants;
    /* When Redis last said that the lease is a server's, and under which epoch; and the one before.
     */
    struct {
        uint64_t epoch, at;
    } confirmed[SERVERS_MAX][2];
} document_info;

/* A custom event that was emitted. */
typedef struct {
    int server;
    unsigned life, answers, runs;
    uint64_t at, deadline, stood_us; /* `stood_us`: of its server, then */
    int ran_at;
    unsigned ran_life;
    unsigned links_anew; /* links_anew() when it was emitted */
    uint64_t token;
} emitted;

typedef struct {
    uint64_t order, at;
    int server; /* -1: the world's */
    unsigned life;
    thread *on; /* the server's thread that is to do it; NULL: it just happens */
    sim_call call;
    void *arg;
    uint64_t number;
} happening;

typedef struct {
    uint64_t batches, frames, steps, failovers, takeovers, gaps, closed_sockets, stores,
        late_stores, events, merges, epochs, resets, direct;
} sim_totals;

struct sim {
    uint64_t seed, random, now, order;
    bool traces, heals, ends;
    FILE *trace_to;
    void (*plan)(sim *w); /* a scenario instead of chance */
    server *lose_next;    /* the next batch with frames for this server is lost */
    happening *heap;
    size_t heap_len, heap_cap;
    void *chunks; /* memory of this run */
    size_t chunk_used;
    int server_count, person_count, name_count;
    server servers[SERVERS_MAX];
    person people[PEOPLE_MAX];
    document_info names[NAMES_MAX];
    emitted events[EVENTS_MAX];
    unsigned event_count;
    uint32_t sockets; /* numbers used */
    int64_t socket_of[1024];
    /* Redis */
    redis_data redis, replica;
    bool redis_down, redis_was_lost, redis_was_flushed;
    uint64_t redis_lost_at; /* when it last went without its data, or some of them */
    unsigned cuts; /* connections that broke: what was asked then may have happened, or not */
    int64_t redis_clock_ms;
    uint64_t redis_commands;
    /* What this seed is like. */
    unsigned net_us, redis_us, thread_us, store_us, loss; /* typical latencies; per mille */
    uint64_t debounce_us, max_debounce_us;
    bool fail_closed;
    sim_totals totals;
};

/* ---- world.c ------------------------------------------------------------------------------------
 */

void sim_init(sim *w, uint64_t seed);
void sim_free(sim *w);
void *sim_alloc(sim *w, size_t size); /* zeroed; freed with the run */
aff_slice sim_copy(sim *w, aff_slice bytes);
unsigned below(sim *w, unsigned limit);
bool chance(sim *w, unsigned in_thousand);
uint64_t takes(sim *w, unsigned typical_us); /* mostly about that, sometimes much more */
uint64_t in_turn(sim *w, pipe_order *order, uint64_t latency);
/* `call` happens at `at`; nothing if the server's life has ended by then (server NULL: always). On
 * its thread, if one is given: when that thread gets to it. */
void sim_at(sim *w, uint64_t at, server *s, thread *on, sim_call call, void *arg, uint64_t number);
bool sim_next(sim *w, uint64_t until);
void sim_until(sim *w, uint64_t us);     /* from now */
void sim_note(sim *w, const char *what); /* a line of its own in the trace */
__attribute__((format(printf, 3, 4))) void sim_trace(sim *w, const char *who, const char *format,
                                                     ...);
_Noreturn __attribute__((format(printf, 2, 3))) void sim_fail(sim *w, const char *format, ...);

/* ---- server.c
 * ------------------------------------------------------------------------------------ */

void server_start(server *s);
void server_kill(server *s);
void server_free(server *s);
void server_post(server *s, const aff_event *event); /* from its JavaScript thread to the engine */
void server_push(server *s, thread *t, const item *template);
void server_cut(server *s, bool noticed);     /* both connections to Redis break */
void server_deafen(server *s);                /* the subscription alone */
void server_pause(server *s, uint64_t until); /* the process */
void server_stall(server *s, uint64_t until); /* its JavaScript thread */
void server_turn(server *s);
uint64_t server_clock(const server *s);
int64_t redis_listeners(sim *w, aff_slice channel);
void redis_goes(sim *w, uint64_t until, bool loses_data, bool to_replica);
void redis_is_flushed(sim *w);
uint64_t redis_ms(const sim *w);

/* ---- tcp.c
 * --------------------------------------------------------------------------------------- */

void tcp_open(server *s, aff_slice process);
void tcp_send(server *s, aff_slice process, aff_slice data);
void tcp_close(server *s, aff_slice process);
void tcp_break_any(server *s);
void tcp_silence_any(server *s, uint64_t until);
void tcp_end_all(server *s); /* its process ends */
void tcp_heal(server *s);

/* ---- facade.c, hocus.c
 * --------------------------------------------------------------------------- */

facade *facade_new(server *s);
void facade_do(server *s, const item *it); /* on the JavaScript thread */
void facade_turn_ends(server *s);
void facade_write(server *s, int name);   /* a direct connection writes, and stays a while */
void facade_emit(server *s, int name);    /* a custom event */
void facade_hold(server *s, int name);    /* lockDocument, for a while */
void facade_drain(server *s, bool leave); /* and ends the process */
void facade_move(server *s, int name, int to);
void facade_announce(server *s, int name); /* a stateless broadcast: its epoch */
unsigned facade_loaded(const server *s);
/* Edits that a living server holds in memory: loaded, or being handed over. */
uint64_t facade_edits(const server *s, int name);
bool facade_is_busy(const server *s); /* something is to be stored or handed over */

/* ---- people.c
 * ------------------------------------------------------------------------------------ */

void people_start(sim *w);
void person_opens(person *p, int index, const char *address);
void person_connects(person *p, int server);
void person_types(person *p, int index);
void person_receives(sim *w, uint32_t socket, int from, aff_slice frame);
void person_is_closed(sim *w, uint32_t socket, int from, unsigned code);
void person_does_something(person *p);
void people_lose_server(server *s);
void person_leaves(person *p);
int name_of(const sim *w, const char *address);
person *person_of(sim *w, uint32_t socket);

/* ---- faults.c
 * ------------------------------------------------------------------------------------ */

void faults_plan(sim *w, uint64_t until);
void faults_heal(sim *w);

/* ---- watch.c
 * ------------------------------------------------------------------------------------- */

void watch_step(server *s);        /* after each turn of an I/O thread */
unsigned links_anew(const sim *w); /* how often a link has started anew, of all servers */
void watch_store(sim *w, int name, int by, uint64_t epoch, uint64_t confirmed_at);
uint64_t watch_confirmed(const document_info *d, const server *s, uint64_t epoch);
void watch_grant(sim *w, server *s, aff_slice key, aff_slice record);
void watch_stateless(server *s, aff_slice frame); /* an owner gets it */
void watch_frame(person *p, int index, const aff__client_frame *frame);
void watch_closed(person *p, unsigned code);
bool watch_is_in_sync(sim *w, bool explain);
void watch_end(sim *w);

/* Runs a seed to its end; fails by sim_fail(). */
void sim_run(sim *w);

#endif
