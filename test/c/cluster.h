/*
 * cluster.h - several engines, a Redis and the clients, in one process and in virtual time.
 *
 * Engines tell a Redis model what to do; its answers and messages wait in each server's inbox until
 * settle() delivers them, round after round, until nothing is left. advance() moves the clock from
 * deadline to deadline. Nothing is random: a scenario gives the same trace every time.
 *
 * What a test looks at are traces: words in the order in which things happened. A server's trace is
 * what its app (Hocuspocus, the facade) was told, a client's is what came through its socket; each
 * word is written down once, and taken by expect() or expect_client():
 *
 *     local:1:doc:token      a frame of client 1 for the Hocuspocus here
 *     proxy:1:doc:token      a frame for proxy socket 1
 *     proxy:1:open:A  proxy:1:closed:1005  proxy:1:alive
 *     claim:7:ok  claim:7:owned:A  claim:7:AFF_EREDIS  lost:doc
 *     run:5:name:doc:data  here:5  done:5:ok:data  done:5:AFF_ETIMEOUT
 *     ready  failed:AFF_ETAKEN  stopped
 *     doc:authenticated      (client) a frame; an address with a session is doc/session
 *     doc:update:5  doc:status:1  doc:aware:2  doc:stateless:text
 *     closed:4205            (client) its socket
 */
#ifndef CLUSTER_H
#define CLUSTER_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine.h"
#include "nomem.h"
#include "provider.h"
#include "redis_model.h"

enum { SERVERS_MAX = 4, TRACE_MAX = 32 << 10 };
enum { PROVIDERS_MAX = 4, DOCUMENTS_MAX = 8, CONNECTIONS_MAX = 64 };
enum { A, B, C, D };

/* What waits for a server: something that aff_step() will be told. */
typedef struct input {
    struct input *next;
    aff_event event;
    aff_value values[3];
    char text[2][512];
} input;

typedef struct {
    input *first, **end;
} queue;

/* A command on its way to Redis. */
typedef struct command {
    struct command *next;
    uint64_t request;
    bool is_publish;
    aff_script script;
    int argc;
    bytes argv[AFF_ARGV_MAX]; /* PUBLISH: channel, message */
} command;

/* What Hocuspocus has in memory: a document is a set of at most 64 edits. Sets of edits merge by
 * union, as Yjs's do; a state vector is the set itself. */
typedef struct {
    char name[ADDRESS_MAX];
    uint64_t edits;
} content;

/* A connection to one document, and what the facade remembers of it if it is a local one. */
typedef struct {
    bool open, is_proxy, authenticated, readonly;
    uint32_t id; /* the proxy socket, or the client */
    char address[ADDRESS_MAX];
    bytes auth, step1, cursor;
    uint32_t unsynced;
} connection;

typedef struct {
    aff_engine *engine; /* NULL: not started, or dead */
    aff_config config;
    char name[2];
    bool connected;          /* its two connections to Redis */
    bool mute;               /* its commands wait on the way to Redis */
    bool deaf;               /* its inbox is not emptied: it hangs, or is far away */
    bool hungry;             /* the app takes what it is given at once */
    bool unheard;            /* its subscription has broken, and Redis knows it */
    bool silent;             /* its Hocuspocus does not answer */
    int places_at;           /* documents that nobody has go to this server; 0: where they are */
    bool denies;             /* its Hocuspocus denies every token */
    uint8_t version;         /* of the protocol, between it and others; 0: as it is */
    bool out_of_memory;      /* a step has failed with AFF_ENOMEM, which the test asked for */
    size_t owed;             /* delivered and not yet taken */
    bool links[SERVERS_MAX]; /* its direct links */
    command *commands, **commands_end;
    queue inbox;
    bytes channel; /* subscribed to */
    content documents[DOCUMENTS_MAX];
    connection connections[CONNECTIONS_MAX];
    char trace[TRACE_MAX];
    char warning[512]; /* the last one in its log */
    uint32_t warnings;
} server;

typedef struct {
    struct cluster *in;
    uint32_t number;
    int server;
    bool open;
    provider providers[PROVIDERS_MAX];
    char trace[TRACE_MAX];
} client;

typedef struct cluster {
    uint64_t now;
    redis_data redis;
    server servers[SERVERS_MAX];
    client clients[CLIENTS_MAX];
    /* Hooks. */
    int lose_from, lose_to, lose_count; /* the next batches with frames of that link are lost */
    bool lose_any;                      /* those of any link */
    bytes captured;                     /* the last batch with frames, lost or not */
    int64_t clock_offset;               /* of Redis's clock, in ms */
    bool no_links;                      /* direct links can't be had, */
    bool silent_links, silent_from[SERVERS_MAX]; /* or carry nothing */
    unsigned dials, direct_batches;
    bool quiet;                    /* nothing is traced */
    bool nobody_counts;            /* PUBLISH says that somebody listens, whoever does */
    bool counts_unknown;           /* nobody can tell who listens */
    bool refuses;                  /* Redis answers each script with an error */
    size_t batches, largest_batch; /* what Redis has carried */
    unsigned commands_run;         /* how often any script or command ran */
} cluster;

/* ---- Traces -------------------------------------------------------------------------------- */

__attribute__((format(printf, 2, 3))) static inline void trace(char *to, const char *format, ...) {
    size_t len = strlen(to);
    assert_true(len + 600 < TRACE_MAX);
    if (len) to[len++] = ' ';
    va_list args;
    va_start(args, format);
    vsnprintf(to + len, TRACE_MAX - len, format, args);
    va_end(args);
}

/* ---- Inboxes ------------------------------------------------------------------------------- */

static inline aff_slice own(aff_slice s) {
    if (!s.len) return aff__none();
    uint8_t *copy = malloc(s.len);
    assert_non_null(copy);
    memcpy(copy, s.data, s.len);
    return aff__slice(copy, s.len);
}

/* Puts an event, copied, into a server's inbox. */
static inline void post(server *s, const aff_event *event) {
    input *in = calloc(1, sizeof(*in));
    assert_non_null(in);
    in->event = *event;
    in->event.document = own(event->document);
    in->event.name = own(event->name);
    in->event.data = own(event->data);
    aff_slice sockets = own(aff__slice(event->sockets, event->count * sizeof(uint32_t)));
    in->event.sockets = (const uint32_t *)(const void *)sockets.data;
    assert_true(event->value_count <= 3);
    for (size_t v = 0; v < event->value_count; v++) {
        in->values[v] = event->values[v];
        in->values[v].string = own(event->values[v].string);
    }
    in->event.values = in->values;
    *s->inbox.end = in;
    s->inbox.end = &in->next;
}

static inline void input_free(input *in) {
    aff_slice slices[] = {in->event.document,   in->event.name,
                          in->event.data,       aff__slice(in->event.sockets, 0),
                          in->values[0].string, in->values[1].string,
                          in->values[2].string};
    for (size_t i = 0; i < sizeof(slices) / sizeof(*slices); i++) {
        free((void *)(uintptr_t)slices[i].data);
    }
    free(in);
}

static inline input *take(server *s) {
    input *in = s->inbox.first;
    if (!in) return NULL;
    s->inbox.first = in->next;
    if (!s->inbox.first) s->inbox.end = &s->inbox.first;
    return in;
}

static inline void reply(server *s, uint64_t request, int status, size_t count,
                         const aff_value *values) {
    post(s, &(aff_event){.type = AFF_EV_REPLY,
                         .request = request,
                         .status = status,
                         .values = values,
                         .value_count = count});
}

/* ---- Redis --------------------------------------------------------------------------------- */

static inline entry *redis_get(cluster *c, aff_slice key) {
    return redis_find(&c->redis, c->now, key);
}

static inline void redis_del(cluster *c, aff_slice key) {
    redis_remove(&c->redis, key);
}

static inline void redis_set(cluster *c, aff_slice key, aff_slice value, uint64_t ttl) {
    redis_put(&c->redis, c->now, key, value, ttl);
}

/* A key by name, for tests; NULL where there is none. */
static inline const char *redis_text(cluster *c, const char *key) {
    static char text[512];
    entry *e = redis_get(c, aff__str(key));
    if (!e) return NULL;
    snprintf(text, sizeof(text), "%.*s", (int)e->value.len, (const char *)e->value.data);
    return text;
}

static inline void redis_lose_everything(cluster *c) {
    redis_clear(&c->redis);
}

static inline int64_t redis_listeners(cluster *c, aff_slice channel) {
    int64_t n = 0;
    for (int i = 0; i < SERVERS_MAX; i++) {
        server *s = &c->servers[i];
        n += s->engine && s->connected && !s->unheard && aff__equal(slice(&s->channel), channel);
    }
    return n;
}

static inline bool redis_loses(cluster *c, const server *from, const server *to, aff_slice batch) {
    if (c->lose_count == 0 || !(batch.data[1] & 1)) return false;
    bool is_that_link = from == &c->servers[c->lose_from] && to == &c->servers[c->lose_to];
    if (!is_that_link && !c->lose_any) return false;
    c->lose_count--;
    return true;
}

static inline void redis_publish(cluster *c, server *from, uint64_t request, aff_slice channel,
                                 aff_slice batch) {
    c->batches++;
    if (batch.len > c->largest_batch) c->largest_batch = batch.len;
    if (batch.data[1] & 1) set(&c->captured, batch);
    for (int i = 0; i < SERVERS_MAX; i++) {
        server *to = &c->servers[i];
        if (!to->engine || !to->connected || to->unheard) continue;
        if (!aff__equal(slice(&to->channel), channel)) continue;
        if (redis_loses(c, from, to, batch)) continue;
        uint8_t version = from->version ? from->version : to->version;
        if (version) ((uint8_t *)batch.data)[0] = version; /* the command's own copy */
        post(to, &(aff_event){.type = AFF_EV_MESSAGE, .data = batch});
    }
    int64_t receivers = c->nobody_counts ? 1 : redis_listeners(c, channel);
    aff_value nil = {.type = AFF_VALUE_NIL};
    reply(from, request, 0, 1, (aff_value[]){c->counts_unknown ? nil : integer(receivers)});
}

/* ---- Direct links -------------------------------------------------------------------------- */

static inline int index_of(const cluster *c, aff_slice process) {
    for (int i = 0; i < SERVERS_MAX; i++) {
        const aff_engine *e = c->servers[i].engine;
        if (e && aff__equal(process, aff__slice(aff_boot(e), AFF_PROCESS_LEN))) return i;
    }
    return -1;
}

static inline void link_open(cluster *c, server *s, const aff_action *act) {
    int to = index_of(c, act->name);
    bool is_up = to >= 0 && !c->no_links;
    if (is_up) assert_true(aff__equal(act->data, aff__str(c->servers[to].config.direct_address)));
    c->dials++;
    if (is_up) s->links[to] = true;
    post(s, &(aff_event){.type = is_up ? AFF_EV_DIRECT_UP : AFF_EV_DIRECT_DOWN, .name = act->name});
}

static inline void link_send(cluster *c, const server *s, const aff_action *act) {
    int to = index_of(c, act->name);
    c->direct_batches++;
    if (to < 0 || c->silent_links || c->silent_from[s - c->servers]) return;
    assert_true(s->links[to]);
    post(&c->servers[to], &(aff_event){.type = AFF_EV_MESSAGE, .data = act->data});
}

static inline void link_close(cluster *c, server *s, const aff_action *act) {
    int to = index_of(c, act->name);
    if (to >= 0) s->links[to] = false;
}

/* The direct link from one server to another breaks. */
static inline void link_break(cluster *c, int from, int to) {
    server *s = &c->servers[from];
    if (!s->engine || !s->links[to]) return;
    s->links[to] = false;
    const char *process = aff_boot(c->servers[to].engine);
    post(s, &(aff_event){.type = AFF_EV_DIRECT_DOWN, .name = aff__slice(process, AFF_PROCESS_LEN)});
}

static inline void redis_run(cluster *c, server *s, const command *cmd) {
    aff_slice argv[AFF_ARGV_MAX];
    for (int i = 0; i < cmd->argc; i++) argv[i] = slice(&cmd->argv[i]);
    if (cmd->is_publish) {
        redis_publish(c, s, cmd->request, argv[0], argv[1]);
        return;
    }
    if ((int)cmd->script == AFF_COMMAND_NUMSUB) {
        aff_value values[2] = {string(argv[0]), integer(redis_listeners(c, argv[0]))};
        if (c->counts_unknown) values[1] = (aff_value){.type = AFF_VALUE_NIL};
        reply(s, cmd->request, 0, 2, values);
        return;
    }
    if (c->refuses) {
        reply(s, cmd->request, AFF_EREDIS, 0, NULL);
        return;
    }
    uint64_t clock = 1700000000000000u + (c->now + (uint64_t)c->clock_offset) * 1000;
    clock += c->commands_run; /* each takes a microsecond */
    redis_answer a = redis_run_script(&c->redis, c->now, clock, cmd->script, cmd->argc, argv);
    assert_false(c->redis.epochs_shrank); /* I4 */
    reply(s, cmd->request, 0, a.count, a.values);
}

static inline void command_free(command *cmd) {
    for (int i = 0; i < cmd->argc; i++) free(cmd->argv[i].data);
    free(cmd);
}

static inline command *next_command(server *s) {
    command *cmd = s->commands;
    if (!cmd) return NULL;
    s->commands = cmd->next;
    if (!s->commands) s->commands_end = &s->commands;
    return cmd;
}

static inline void send_command(server *s, const aff_action *act) {
    if (!s->connected) {
        reply(s, act->request, AFF_ENOTCONN, 0, NULL);
        return;
    }
    command *cmd = calloc(1, sizeof(*cmd));
    assert_non_null(cmd);
    cmd->request = act->request;
    cmd->is_publish = act->type == AFF_ACT_PUBLISH;
    cmd->script = act->script;
    cmd->argc = cmd->is_publish ? 2 : act->argc;
    if (cmd->is_publish) {
        set(&cmd->argv[0], act->name);
        set(&cmd->argv[1], act->data);
    } else {
        for (int i = 0; i < act->argc; i++) set(&cmd->argv[i], act->argv[i]);
    }
    *s->commands_end = cmd;
    s->commands_end = &cmd->next;
}

/* ---- Hocuspocus, as far as it matters here --------------------------------------------------- */

static inline void client_receives(cluster *c, uint32_t k, aff_slice data);

static inline void say(cluster *c, server *s, connection *to, aff_slice data) {
    if (to->is_proxy) {
        post(s,
             &(aff_event){.type = AFF_EV_PROXY_SEND, .sockets = &to->id, .count = 1, .data = data});
        return;
    }
    aff__client_frame frame;
    assert_true(aff__parse_client_frame(data, &frame));
    if (frame.type == STATUS && frame.sub == 1 && to->unsynced > 0) to->unsynced--;
    client_receives(c, to->id, data);
}

static inline connection *find_connection(server *s, bool is_proxy, uint32_t id, aff_slice at) {
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        connection *con = &s->connections[i];
        if (con->open && con->is_proxy == is_proxy && con->id == id &&
            strcmp(con->address, word(at)) == 0)
            return con;
    }
    return NULL;
}

static inline connection *new_connection(server *s, bool is_proxy, uint32_t id, aff_slice at) {
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        connection *con = &s->connections[i];
        if (con->open) continue;
        *con = (connection){.open = true, .is_proxy = is_proxy, .id = id};
        assert_true(at.len < ADDRESS_MAX);
        snprintf(con->address, ADDRESS_MAX, "%s", word(at));
        return con;
    }
    return NULL; /* tests with more clients than that look at routes, not at documents */
}

static inline void end_connection(connection *con) {
    free(con->auth.data);
    free(con->step1.data);
    free(con->cursor.data);
    *con = (connection){0};
}

static inline bool is_of(const connection *con, const char *name) {
    size_t len = strlen(name);
    return con->open && strncmp(con->address, name, len) == 0 &&
           (con->address[len] == '\0' || con->address[len] == '/');
}

static inline content *content_of(server *s, const char *name) {
    content *unused = NULL;
    for (int i = DOCUMENTS_MAX - 1; i >= 0; i--) {
        if (strcmp(s->documents[i].name, name) == 0) return &s->documents[i];
        if (!s->documents[i].name[0]) unused = &s->documents[i];
    }
    assert_non_null(unused);
    snprintf(unused->name, ADDRESS_MAX, "%s", name);
    return unused;
}

/* The document leaves the memory of this server; nothing is stored anywhere. */
static inline void unload(server *s, const char *name) {
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        if (is_of(&s->connections[i], name)) end_connection(&s->connections[i]);
    }
    *content_of(s, name) = (content){0};
}

static inline void broadcast_here(cluster *c, server *s, const connection *from, const char *name,
                                  aff_slice body) {
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        connection *to = &s->connections[i];
        if (to == from || !is_of(to, name) || !to->authenticated) continue;
        char address[ADDRESS_MAX];
        memcpy(address, to->address, ADDRESS_MAX);
        char *session = strchr(address, '/');
        if (session) *session = '\0';
        bytes frame = {0};
        add_text(&frame, aff__slice(address, strlen(to->address)));
        add(&frame, body.data, body.len);
        say(c, s, to, slice(&frame));
        free(frame.data);
    }
}

static inline void on_edits(cluster *c, server *s, connection *con, const aff__client_frame *f) {
    bytes answer = {0};
    char name[ADDRESS_MAX];
    snprintf(name, sizeof(name), "%s", word(f->document));
    content *doc = content_of(s, name);
    uint64_t edits = edits_in(f), fresh = edits & ~doc->edits;
    if (f->sub == STEP1) {
        make_sync(&answer, f->address, STEP2, doc->edits & ~edits);
        say(c, s, con, slice(&answer));
        answer.len = 0;
        make_sync(&answer, f->address, STEP1, doc->edits);
    } else {
        if (!con->readonly && fresh) {
            doc->edits |= fresh;
            bytes body = {0};
            add(&body, (uint8_t[]){SYNC, UPDATE}, 2);
            add_uint(&body, fresh);
            broadcast_here(c, s, con, name, slice(&body));
            free(body.data);
        }
        make_number(&answer, f->address, STATUS, !con->readonly || !fresh);
    }
    say(c, s, con, slice(&answer));
    free(answer.data);
}

/* The token "no" is denied, with "ro" edits are refused. False: the address has ended. */
static inline bool on_token(cluster *c, server *s, connection *con, const aff__client_frame *f) {
    aff_slice rest = f->payload, token = aff__none();
    aff__get_bytes(&rest, &token);
    bool denied = s->denies || aff__equal(token, aff__str("no"));
    con->authenticated = !denied;
    con->readonly = aff__equal(token, aff__str("ro"));
    bytes answer = {0};
    make_auth(&answer, f->address, denied ? AFF_HP_DENIED : AFF_HP_AUTHENTICATED,
              con->readonly ? "readonly" : "read-write");
    say(c, s, con, slice(&answer));
    free(answer.data);
    return !denied;
}

/* What the facade keeps of a local client, for AFF_EV_ROUTE_STATE. */
static inline void remember_client(connection *con, const aff__client_frame *f, aff_slice data) {
    if (f->type == AFF_HP_AUTH) set(&con->auth, data);
    if (f->type == AWARENESS) set(&con->cursor, data);
    if (!is_edits(f)) return;
    if (f->sub == STEP1) {
        set(&con->step1, data);
        con->unsynced = 1;
    } else if (f->sub == UPDATE) {
        con->unsynced++;
    }
}

/* A frame of a client reaches the owner's Hocuspocus. False: the address has ended with it. */
static inline bool hocuspocus(cluster *c, server *s, bool is_proxy, uint32_t id, aff_slice data) {
    static connection nobody;
    aff__client_frame frame;
    assert_true(aff__parse_client_frame(data, &frame));
    if (s->silent) return true;
    connection *con = find_connection(s, is_proxy, id, frame.address);
    if (!con && frame.type == AFF_HP_AUTH) con = new_connection(s, is_proxy, id, frame.address);
    if (!con) {
        nobody = (connection){.is_proxy = is_proxy, .id = id};
        con = &nobody;
    }
    if (con != &nobody && !is_proxy) remember_client(con, &frame, data);
    bool goes_on = true;
    if (frame.type == AFF_HP_AUTH) {
        goes_on = on_token(c, s, con, &frame);
    } else if (frame.type == AFF_HP_CLOSE) {
        bytes answer = {0};
        make_frame(&answer, frame.address, AFF_HP_CLOSE, aff__none());
        say(c, s, con, slice(&answer));
        free(answer.data);
        goes_on = false;
    } else if (con->authenticated && is_edits(&frame)) {
        on_edits(c, s, con, &frame);
    } else if (con->authenticated && frame.type == AWARENESS) {
        char name[ADDRESS_MAX];
        snprintf(name, sizeof(name), "%s", word(frame.document));
        broadcast_here(c, s, NULL, name, frame.body);
    }
    if (!goes_on && con != &nobody) end_connection(con);
    return goes_on;
}

static inline void app_local(cluster *c, server *s, uint32_t socket, aff_slice data) {
    if (!c->quiet) trace(s->trace, "local:%u:%s", socket, frame_word(data));
    if (hocuspocus(c, s, false, socket, data)) return;
    aff__client_frame frame;
    aff__parse_client_frame(data, &frame);
    post(s, &(aff_event){.type = AFF_EV_ROUTE_END, .socket = socket, .name = frame.address});
}

static inline void app_proxy_frame(cluster *c, server *s, uint32_t proxy, aff_slice data) {
    if (!c->quiet) trace(s->trace, "proxy:%u:%s", proxy, frame_word(data));
    hocuspocus(c, s, true, proxy, data);
}

static inline void app_proxy_closed(server *s, uint32_t proxy) {
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        connection *con = &s->connections[i];
        if (con->open && con->is_proxy && con->id == proxy) end_connection(con);
    }
}

static inline void close_local(server *s, uint32_t socket) {
    for (int i = 0; i < CONNECTIONS_MAX; i++) {
        connection *con = &s->connections[i];
        if (con->open && !con->is_proxy && con->id == socket) end_connection(con);
    }
}

/* The engine wants to know what the app has seen of a client that was served here. */
static inline void app_recall(server *s, uint32_t socket, aff_slice address) {
    connection *con = find_connection(s, false, socket, address);
    bytes state = {0};
    uint8_t flags = 0;
    if (con && con->authenticated) flags |= 1;
    if (con && con->readonly) flags |= 2;
    add(&state, &flags, 1);
    add_uint(&state, con ? con->unsynced : 0);
    add_text(&state, con ? slice(&con->auth) : aff__none());
    add_text(&state, con ? slice(&con->step1) : aff__none());
    add_text(&state, con ? slice(&con->cursor) : aff__none());
    post(s,
         &(aff_event){
             .type = AFF_EV_ROUTE_STATE, .socket = socket, .name = address, .data = slice(&state)});
    free(state.data);
    if (con) end_connection(con);
}

/* ---- Providers, as far as it matters here ---------------------------------------------------- */

/* Only sent: delivered by the next settle(), with whatever else is sent until then. */
static inline void send_raw(cluster *c, uint32_t k, aff_slice data) {
    if (!c->servers[c->clients[k].server].engine) return;
    post(&c->servers[c->clients[k].server],
         &(aff_event){.type = AFF_EV_SOCKET_FRAME, .socket = k, .data = data});
}

static inline provider *provider_of(cluster *c, uint32_t k, const char *address) {
    for (int i = 0; i < PROVIDERS_MAX; i++) {
        if (strcmp(c->clients[k].providers[i].address, address) == 0) {
            return &c->clients[k].providers[i];
        }
    }
    return NULL;
}

static inline void send_to_server(void *client_, aff_slice frame) {
    client *from = client_;
    server *at = &from->in->servers[from->server];
    if (!at->engine) return;
    post(at, &(aff_event){.type = AFF_EV_SOCKET_FRAME, .socket = from->number, .data = frame});
}

static inline wire wire_of(cluster *c, uint32_t k) {
    c->clients[k].in = c;
    c->clients[k].number = k;
    return (wire){send_to_server, &c->clients[k], k};
}

static inline void client_receives(cluster *c, uint32_t k, aff_slice data) {
    client *to = &c->clients[k];
    if (!to->open) return;
    if (!c->quiet) trace(to->trace, "%s", frame_word(data));
    aff__client_frame frame;
    assert_true(aff__parse_client_frame(data, &frame));
    provider *p = provider_of(c, k, word(frame.address));
    if (!p) return;
    provider_receives(wire_of(c, k), p, &frame);
    assert_false(p->overpaid);
}

static inline const char *status_word(int status) {
    return status == 0 ? "ok" : aff_error_name(status);
}

static inline void app_send(cluster *c, const aff_action *act) {
    for (uint32_t i = 0; i < act->count; i++) client_receives(c, act->sockets[i], act->data);
}

static inline void close_client(cluster *c, server *s, const aff_action *act) {
    client *k = &c->clients[act->socket];
    if (!k->open || k->server != (int)(s - c->servers)) return;
    k->open = false;
    close_local(s, act->socket);
    trace(k->trace, "closed:%u", act->code);
    post(s, &(aff_event){.type = AFF_EV_SOCKET_CLOSE, .socket = act->socket});
}

static inline void app_place(cluster *c, server *s, aff_slice document) {
    const server *to = &c->servers[s->places_at];
    aff_event place = {.type = AFF_EV_PLACE, .document = document};
    if (s->places_at && to->engine) {
        trace(s->trace, "place:%s", word(document));
        place.name = aff__str(to->name);
        place.data = aff__str(aff_boot(to->engine));
    }
    post(s, &place);
}

static inline void act_on(cluster *c, server *s, const aff_action *act) {
    s->owed += aff_action_credit(act);
    unsigned long long request = act->request;
    switch (act->type) {
        case AFF_ACT_REDIS:
        case AFF_ACT_PUBLISH: send_command(s, act); break;
        case AFF_ACT_DIRECT_OPEN: link_open(c, s, act); break;
        case AFF_ACT_DIRECT_SEND: link_send(c, s, act); break;
        case AFF_ACT_DIRECT_CLOSE: link_close(c, s, act); break;
        case AFF_ACT_SUBSCRIBE:
            set(&s->channel, act->name);
            if (s->connected) {
                post(s, &(aff_event){.type = AFF_EV_SUBSCRIBED, .name = act->name});
            }
            break;
        case AFF_ACT_READY: trace(s->trace, "ready"); break;
        case AFF_ACT_FAILED: trace(s->trace, "failed:%s", status_word(act->status)); break;
        case AFF_ACT_SEND: app_send(c, act); break;
        case AFF_ACT_SOCKET_CLOSE: close_client(c, s, act); break;
        case AFF_ACT_LOCAL: app_local(c, s, act->socket, act->data); break;
        case AFF_ACT_ROUTE: /* the rest is for the facade's short cut; see test_core_route.c */
            if (act->status == AFF_ROUTE_RECALL) app_recall(s, act->socket, act->name);
            break;
        case AFF_ACT_PROXY_OPEN:
            if (!c->quiet) trace(s->trace, "proxy:%u:open:%s", act->socket, word(act->name));
            break;
        case AFF_ACT_PROXY_FRAME: app_proxy_frame(c, s, act->socket, act->data); break;
        case AFF_ACT_PROXY_ALIVE: trace(s->trace, "proxy:%u:alive", act->socket); break;
        case AFF_ACT_PROXY_CLOSE:
            app_proxy_closed(s, act->socket);
            if (!c->quiet) trace(s->trace, "proxy:%u:closed:%u", act->socket, act->code);
            break;
        case AFF_ACT_CLAIMED:
            if (act->status == AFF_EOWNED) {
                trace(s->trace, "claim:%llu:owned:%s", request, word(act->name));
            } else {
                trace(s->trace, "claim:%llu:%s", request, status_word(act->status));
            }
            break;
        case AFF_ACT_LOST:
            trace(s->trace, "lost:%s", word(act->document));
            unload(s, word(act->document));
            break;
        case AFF_ACT_PLACE: app_place(c, s, act->document); break;
        case AFF_ACT_EVENT_RUN:
            trace(s->trace, "run:%llu:%s:%s:%s", request, word(act->name), word(act->document),
                  word(act->data));
            break;
        case AFF_ACT_EVENT_LOCAL: trace(s->trace, "here:%llu", request); break;
        case AFF_ACT_EVENT_DONE:
            trace(s->trace, "done:%llu:%s%s%s", request, status_word(act->status),
                  act->data.len ? ":" : "", word(act->data));
            break;
        case AFF_ACT_NEWS: break;
        case AFF_ACT_LOG:
            if (act->status == 0) break;
            s->warnings++;
            snprintf(s->warning, sizeof(s->warning), "%.*s", (int)act->data.len,
                     (const char *)act->data.data);
            break;
        case AFF_ACT_STOPPED: trace(s->trace, "stopped"); break;
    }
}

/* ---- Running ------------------------------------------------------------------------------- */

static inline void stop_process(server *s);
static inline void cluster_free(cluster *c);

/* The allocation that nomem.h lets fail: the test is over, and leaves nothing of any engine. */
static inline void end_out_of_memory(cluster *c) {
    cluster_free(c);
    nomem_end();
}

static inline void step(cluster *c, server *s, const aff_event *event) {
    if (!s->engine) return;
    int status = aff_step(s->engine, c->now, event);
    if (status == AFF_ENOMEM && s->out_of_memory) {
        assert_int_equal(aff_step(s->engine, c->now, event), AFF_ENOMEM);
        assert_int_equal(aff_valid_until(s->engine), 0);
        stop_process(s);
        return;
    }
    if (nomem_is_met(status)) {
        assert_int_equal(aff_step(s->engine, c->now, event), AFF_ENOMEM);
        assert_int_equal(aff_valid_until(s->engine), 0);
        end_out_of_memory(c);
    }
    assert_int_equal(status, 0);
    aff_check(s->engine);
    for (const aff_action *act; (act = aff_next_action(s->engine));) act_on(c, s, act);
    aff_stats stats;
    aff_get_stats(s->engine, &stats);
    assert_int_equal(stats.backlog, s->owed);
}

/* The app takes what it was given; credit for the peers. */
static inline void consume(cluster *c, int i) {
    server *s = &c->servers[i];
    aff_event consumed = {.type = AFF_EV_CONSUMED, .bytes = s->owed};
    s->owed = 0;
    step(c, s, &consumed);
    if (s->engine) step(c, s, &(aff_event){.type = AFF_EV_FLUSH});
}

/* A member by its own clock, and by what stands in Redis: it may have been declared dead, or Redis
 * may have lost everything; its next renewal will tell it. */
static inline bool is_valid_member(cluster *c, const server *s) {
    if (!s->engine || c->now >= aff_valid_until(s->engine)) return false;
    char key[300];
    snprintf(key, sizeof(key), "rsaServer:%s", s->config.server_id);
    entry *e = redis_get(c, aff__str(key));
    return e && aff__equal(slice(&e->value), aff__str(aff_boot(s->engine)));
}

/* I1: two servers never own a document at the same time while both are members. */
static inline void check_owners(cluster *c) {
    for (int i = 0; i < SERVERS_MAX; i++) {
        if (!is_valid_member(c, &c->servers[i])) continue;
        const aff_engine *a = c->servers[i].engine;
        for (aff__item *d = NULL; (d = aff__map_next(&a->docs, d));) {
            if (AFF_OF(d, aff__doc, item)->state != AFF_DOC_OWNED) continue;
            for (int j = i + 1; j < SERVERS_MAX; j++) {
                if (!is_valid_member(c, &c->servers[j])) continue;
                aff__doc *other = aff__doc_find(c->servers[j].engine, aff__item_key(d));
                assert_false(other && other->state == AFF_DOC_OWNED);
            }
        }
    }
}

/* One turn of a server's loop: all that waits for it, then a flush. */
static inline bool turn(cluster *c, server *s) {
    bool worked = false;
    while (s->engine && !s->mute && s->commands) {
        command *cmd = next_command(s);
        c->commands_run++;
        redis_run(c, s, cmd);
        command_free(cmd);
        worked = true;
    }
    if (!s->engine || s->deaf || !s->inbox.first) return worked;
    for (input *in; s->engine && (in = take(s));) {
        step(c, s, &in->event);
        input_free(in);
    }
    if (!s->engine) return true;
    step(c, s, &(aff_event){.type = AFF_EV_FLUSH});
    if (s->hungry && s->owed) consume(c, (int)(s - c->servers));
    return true;
}

/* Delivers everything that is under way, until nothing is. */
static inline void settle(cluster *c) {
    for (int rounds = 0;; rounds++) {
        bool worked = false;
        for (int i = 0; i < SERVERS_MAX; i++) worked |= turn(c, &c->servers[i]);
        check_owners(c);
        if (!worked) return;
        if (rounds == 10000) fail_msg("the cluster does not come to rest");
    }
}

/* Lets time pass; every engine is ticked at its deadlines. */
static inline void advance(cluster *c, uint64_t ms) {
    uint64_t end = c->now + ms;
    for (int same = 0;;) {
        settle(c);
        uint64_t next = end;
        for (int i = 0; i < SERVERS_MAX; i++) {
            server *s = &c->servers[i];
            if (s->engine && !s->deaf && aff_deadline(s->engine) < next) {
                next = aff_deadline(s->engine);
            }
        }
        same = next > c->now ? 0 : same + 1;
        if (same == 1000) fail_msg("a deadline does not move");
        if (next > c->now) c->now = next;
        for (int i = 0; i < SERVERS_MAX; i++) {
            server *s = &c->servers[i];
            if (!s->engine || s->deaf || aff_deadline(s->engine) > c->now) continue;
            step(c, s, &(aff_event){.type = AFF_EV_TICK});
            if (s->engine) step(c, s, &(aff_event){.type = AFF_EV_FLUSH});
        }
        settle(c);
        if (c->now >= end) {
            bool due = false;
            for (int i = 0; i < SERVERS_MAX; i++) {
                server *s = &c->servers[i];
                due |= s->engine && !s->deaf && aff_deadline(s->engine) <= c->now;
            }
            if (!due) return;
        }
    }
}

/* ---- Servers ------------------------------------------------------------------------------- */

static inline cluster *cluster_new(void) {
    cluster *c = calloc(1, sizeof(*c));
    assert_non_null(c);
    const aff_allocator *allocator = nomem_allocator();
    c->now = 1000000;
    for (int i = 0; i < SERVERS_MAX; i++) {
        server *s = &c->servers[i];
        s->name[0] = (char)('A' + i);
        s->config = (aff_config){.server_id = s->name,
                                 .prefix = "rsa",
                                 .seed = 1000u + (unsigned)i,
                                 .lock_ttl_ms = 10000,
                                 .proxy_socket_ttl_ms = 30000,
                                 .event_ttl_ms = 5000,
                                 .allocator = allocator};
        s->inbox.end = &s->inbox.first;
        s->commands_end = &s->commands;
    }
    return c;
}

static inline void connect_redis(cluster *c, int i) {
    server *s = &c->servers[i];
    s->connected = true;
    post(s, &(aff_event){.type = AFF_EV_REDIS_UP});
    if (s->channel.len) {
        post(s, &(aff_event){.type = AFF_EV_SUBSCRIBED, .name = slice(&s->channel)});
    }
    settle(c);
}

/* Starts a server's process; a second time: after it was killed, as a new run. */
static inline void start(cluster *c, int i) {
    server *s = &c->servers[i];
    s->config.seed += 100;
    s->hungry = true;
    s->owed = 0;
    int status = aff_new(&s->config, &s->engine);
    if (status == AFF_ENOMEM && s->out_of_memory) return;
    if (nomem_is_met(status)) end_out_of_memory(c);
    assert_int_equal(status, 0);
    connect_redis(c, i);
}

static inline void stop_process(server *s) {
    aff_free(s->engine);
    s->engine = NULL;
    s->connected = s->mute = s->deaf = s->unheard = s->silent = s->denies = false;
    s->channel.len = 0;
    memset(s->links, 0, sizeof(s->links));
    for (int i = 0; i < CONNECTIONS_MAX; i++) end_connection(&s->connections[i]);
    memset(s->documents, 0, sizeof(s->documents));
    for (command *cmd; (cmd = next_command(s));) command_free(cmd);
    for (input *in; (in = take(s));) input_free(in);
}

/* SIGKILL: nobody is told, and its clients' sockets break. */
static inline void kill_server(cluster *c, int i) {
    for (int k = 0; k < CLIENTS_MAX; k++) {
        if (c->clients[k].server == i) c->clients[k].open = false;
    }
    for (int s = 0; s < SERVERS_MAX; s++) link_break(c, s, i);
    stop_process(&c->servers[i]);
}

static inline void cluster_free(cluster *c) {
    for (int i = 0; i < SERVERS_MAX; i++) {
        stop_process(&c->servers[i]);
        free(c->servers[i].channel.data);
    }
    redis_free(&c->redis);
    free(c->captured.data);
    free(c);
}

/* A cluster of `count` servers that are ready; their traces start empty. */
static inline cluster *start_all(cluster *c, int count) {
    for (int i = 0; i < count; i++) {
        start(c, i);
        assert_string_equal(c->servers[i].trace, "ready");
        c->servers[i].trace[0] = '\0';
    }
    return c;
}

static inline cluster *cluster_of(int count) {
    return start_all(cluster_new(), count);
}

/* A server's connections to Redis break: what is under way to Redis never arrives. */
static inline void cut(cluster *c, int i) {
    server *s = &c->servers[i];
    s->connected = false;
    for (command *cmd; (cmd = next_command(s));) {
        reply(s, cmd->request, AFF_ENOTCONN, 0, NULL);
        command_free(cmd);
    }
    post(s, &(aff_event){.type = AFF_EV_REDIS_DOWN});
    post(s, &(aff_event){.type = AFF_EV_UNSUBSCRIBED});
    settle(c);
}

/* The next `count` batches with frames are lost on the way, on the link or on any. */
static inline void lose_any(cluster *c, int count) {
    c->lose_any = true;
    c->lose_count = count;
}

static inline void lose(cluster *c, int from, int to, int count) {
    c->lose_any = false;
    c->lose_from = from;
    c->lose_to = to;
    c->lose_count = count;
}

static inline aff_stats stats_of(cluster *c, int i) {
    aff_stats stats;
    aff_get_stats(c->servers[i].engine, &stats);
    return stats;
}

/* ---- What happens in scenarios --------------------------------------------------------------- */

static inline void tell(cluster *c, int i, const aff_event *event) {
    post(&c->servers[i], event);
    settle(c);
}

/* A client opens its socket. Clients are numbered by the test, from 1. */
static inline void open_client(cluster *c, uint32_t k, int i) {
    c->clients[k].server = i;
    c->clients[k].open = true;
    c->clients[k].trace[0] = '\0';
    memset(c->clients[k].providers, 0, sizeof(c->clients[k].providers));
    tell(c, i, &(aff_event){.type = AFF_EV_SOCKET_OPEN, .socket = k, .data = aff__str("GET /")});
}

static inline void close_socket(cluster *c, uint32_t k) {
    c->clients[k].open = false;
    close_local(&c->servers[c->clients[k].server], k);
    tell(c, c->clients[k].server, &(aff_event){.type = AFF_EV_SOCKET_CLOSE, .socket = k});
}

static inline void send_auth(cluster *c, uint32_t k, const char *address, const char *token) {
    bytes frame = {0};
    make_auth(&frame, address_of(address), AFF_HP_TOKEN, token);
    send_raw(c, k, slice(&frame));
    free(frame.data);
}

static inline void send_edit(cluster *c, uint32_t k, const char *address, const char *text) {
    bytes frame = {0};
    make_frame(&frame, address_of(address), 0, aff__str(text));
    send_raw(c, k, slice(&frame));
    free(frame.data);
}

static inline void send_close(cluster *c, uint32_t k, const char *address) {
    bytes frame = {0};
    make_frame(&frame, address_of(address), AFF_HP_CLOSE, aff__none());
    send_raw(c, k, slice(&frame));
    free(frame.data);
}

static inline void auth(cluster *c, uint32_t k, const char *address) {
    send_auth(c, k, address, "token");
    settle(c);
}

static inline void edit(cluster *c, uint32_t k, const char *address, const char *text) {
    send_edit(c, k, address, text);
    settle(c);
}

static inline void leave(cluster *c, uint32_t k, const char *address) {
    send_close(c, k, address);
    settle(c);
}

/* Hocuspocus at a server sends a frame to proxy sockets. */
static inline void broadcast(cluster *c, int i, const char *address, const char *text,
                             uint32_t count, const uint32_t *proxies) {
    bytes frame = {0};
    make_frame(&frame, address_of(address), 0, aff__str(text));
    tell(c, i,
         &(aff_event){
             .type = AFF_EV_PROXY_SEND, .sockets = proxies, .count = count, .data = slice(&frame)});
    free(frame.data);
}

static inline void send_claim(cluster *c, int i, uint64_t request, const char *document,
                              aff_use use) {
    post(&c->servers[i],
         &(aff_event){
             .type = AFF_EV_CLAIM, .request = request, .document = aff__str(document), .use = use});
}

static inline void claim(cluster *c, int i, uint64_t request, const char *document, aff_use use) {
    send_claim(c, i, request, document, use);
    settle(c);
}

static inline void unuse(cluster *c, int i, const char *document, aff_use use) {
    tell(c, i, &(aff_event){.type = AFF_EV_UNUSE, .document = aff__str(document), .use = use});
}

static inline void send_emit(cluster *c, int i, uint64_t request, const char *document,
                             const char *data, bool only_if_open) {
    post(&c->servers[i], &(aff_event){.type = AFF_EV_EMIT,
                                      .request = request,
                                      .name = aff__str("ping"),
                                      .document = aff__str(document),
                                      .data = aff__str(data),
                                      .flag = only_if_open});
}

static inline void emit(cluster *c, int i, uint64_t request, const char *document,
                        const char *data) {
    send_emit(c, i, request, document, data, false);
    settle(c);
}

static inline void hand_off(cluster *c, int i, uint64_t request, const char *name) {
    post(&c->servers[i],
         &(aff_event){.type = AFF_EV_LEAVE, .request = request, .document = aff__str(name)});
}

static inline void abandon(cluster *c, int i, uint64_t request, const char *name) {
    post(&c->servers[i],
         &(aff_event){
             .type = AFF_EV_LEAVE, .request = request, .document = aff__str(name), .flag = true});
}

static inline void confirm(cluster *c, int i, uint64_t request, const char *name) {
    tell(c, i,
         &(aff_event){.type = AFF_EV_CONFIRM, .request = request, .document = aff__str(name)});
}

/* ---- Clients that synchronise ---------------------------------------------------------------- */

/* A provider for the address on the client's socket, which is opened at a server if it is not. */
static inline provider *join(cluster *c, uint32_t k, int at, const char *address,
                             const char *version) {
    if (!c->clients[k].open) open_client(c, k, at);
    provider *p = provider_of(c, k, "");
    assert_non_null(p);
    *p = (provider){.token = "token", .version = version};
    snprintf(p->address, ADDRESS_MAX, "%s", address);
    provider_authenticates(wire_of(c, k), p);
    settle(c);
    return p;
}

/* Edits are numbers below 64. Only sent. */
static inline void type(cluster *c, uint32_t k, const char *address, unsigned edit_number) {
    provider *p = provider_of(c, k, address);
    provider_types(wire_of(c, k), p, edit_number);
}

static inline void say_stateless(cluster *c, uint32_t k, const char *address, const char *text) {
    bytes frame = {0};
    make_stateless(&frame, address_of(address), aff__str(text));
    send_raw(c, k, slice(&frame));
    free(frame.data);
}

/* Some turns of the cluster, and no more. */
static inline void settle_some(cluster *c, int turns) {
    for (int t = 0; t < turns; t++) turn(c, &c->servers[t % SERVERS_MAX]);
}

/* ---- What is expected ------------------------------------------------------------------------ */

/* The whole trace since the last time, and nothing else. */
#define expect(c, i, text)                                                                         \
    do {                                                                                           \
        assert_string_equal((c)->servers[i].trace, text);                                          \
        (c)->servers[i].trace[0] = '\0';                                                           \
    } while (0)

#define expect_client(c, k, text)                                                                  \
    do {                                                                                           \
        assert_string_equal((c)->clients[k].trace, text);                                          \
        (c)->clients[k].trace[0] = '\0';                                                           \
    } while (0)

/* What happened before is not what this test is about. */
static inline void forget_traces(cluster *c) {
    for (int i = 0; i < SERVERS_MAX; i++) c->servers[i].trace[0] = '\0';
    for (int k = 0; k < CLIENTS_MAX; k++) c->clients[k].trace[0] = '\0';
}

/* The epoch in a document's record; 0 where there is none. */
static inline uint64_t epoch_of(cluster *c, const char *document) {
    char key[300];
    snprintf(key, sizeof(key), "rsaLock:%s", document);
    const char *record = redis_text(c, key);
    return record ? strtoull(record, NULL, 10) : 0;
}

/* Whose record a document's lease is: "A", or "" where there is none. */
static inline const char *owner_of(cluster *c, const char *document) {
    char key[300];
    snprintf(key, sizeof(key), "rsaLock:%s", document);
    const char *record = redis_text(c, key);
    return record ? strrchr(record, ' ') + 1 : "";
}

#endif
