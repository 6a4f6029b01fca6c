/*
 * core.c - what the engine alone costs: frames of clients through two engines in memory, without
 * threads, sockets or Redis.
 *
 *   core [messages of each turn...]
 *
 * A client's frame is stepped into the origin, which routes and frames it; its batch is stepped
 * into the owner, which unpacks it: one message. Then the way back: one frame for one proxy socket.
 * Prints, for each size of a turn, ns for one message in each direction, and of that what its
 * sender takes to route and frame it; then the bytes that an idle proxied socket takes of each
 * engine.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "aff.h"

enum { ORIGIN, OWNER, ENGINES };
enum { RECORD_MAX = 128, EVENTS_MAX = 1 << 14, PAYLOAD = 24 };

/* What stands for a server. Its batches and Redis's answers wait in `bytes` until they are taken.
 */
typedef struct {
    aff_engine *engine;
    size_t in_use; /* bytes that it has allocated */
    char boot[AFF_BOOT_LEN + 1], channel[64];
    size_t channel_len;
    uint64_t delivered; /* frames for Hocuspocus, or for clients' sockets */
    uint64_t credit;
    uint32_t proxy; /* the last one opened */
} server;

static server servers[ENGINES];
static char record[RECORD_MAX]; /* of the document: the owner's */
static uint64_t now = 1000000;

static void fail(const char *what) {
    fprintf(stderr, "core: %s\n", what);
    exit(1);
}

/* ---- Counted memory -------------------------------------------------------------------------- */

static void *count_realloc(void *ctx, void *pointer, size_t size) {
    server *s = ctx;
    size_t *head = pointer ? (size_t *)pointer - 2 : NULL;
    if (head) s->in_use -= *head;
    if (size == 0) {
        free(head);
        return NULL;
    }
    size_t *moved = realloc(head, size + 2 * sizeof(size_t));
    if (!moved) fail("out of memory");
    *moved = size;
    s->in_use += size;
    return moved + 2;
}

/* ---- Events that wait for an engine -----------------------------------------------------------
 */

typedef struct {
    int to;
    aff_event event;
    aff_value values[2];
    uint8_t *data;
} waiting;

static waiting queue[EVENTS_MAX];
static size_t queue_first, queue_end;

static waiting *put(int to, aff_event event) {
    if (queue_end - queue_first == EVENTS_MAX) fail("too many events wait");
    waiting *w = &queue[queue_end++ % EVENTS_MAX];
    *w = (waiting){.to = to, .event = event};
    return w;
}

static void put_message(int to, aff_slice data) {
    waiting *w = put(to, (aff_event){.type = AFF_EV_MESSAGE});
    w->data = malloc(data.len + 1);
    if (!w->data) fail("out of memory");
    memcpy(w->data, data.data, data.len);
    w->event.data = (aff_slice){w->data, data.len};
}

static aff_value integer(int64_t number) {
    return (aff_value){.type = AFF_VALUE_INT, .integer = number};
}

static aff_value string(const char *text) {
    return (aff_value){AFF_VALUE_STRING, 0, {(const uint8_t *)text, strlen(text)}};
}

static void answer(int to, uint64_t request, size_t count, aff_value first, aff_value second) {
    waiting *w = put(to, (aff_event){.type = AFF_EV_REPLY, .request = request});
    w->values[0] = first;
    w->values[1] = second;
    w->event.value_count = count;
}

/* ---- Redis, as far as it is needed ------------------------------------------------------------
 */

static void run_script(int from, const aff_action *a) {
    aff_value none = {.type = AFF_VALUE_NIL};
    switch ((int)a->script) {
        case AFF_SCRIPT_CLAIM: /* the first to ask is the owner */
            if (!record[0]) {
                snprintf(record, sizeof(record), "1000000000 %.*s %.*s", (int)a->argv[1].len,
                         (const char *)a->argv[1].data, (int)a->argv[2].len,
                         (const char *)a->argv[2].data);
            }
            answer(from, a->request, 2, integer(from == OWNER), string(record));
            return;
        case AFF_COMMAND_GET:
            answer(from, a->request, 1, string(servers[OWNER].boot), none);
            return;
        default: answer(from, a->request, 1, integer(1), none); return;
    }
}

static void publish(int from, const aff_action *a) {
    for (int to = 0; to < ENGINES; to++) {
        if (servers[to].channel_len == a->name.len &&
            memcmp(servers[to].channel, a->name.data, a->name.len) == 0)
            put_message(to, a->data);
    }
    answer(from, a->request, 1, integer(1), integer(0));
}

static void perform(int from, const aff_action *a) {
    server *s = &servers[from];
    s->credit += aff_action_credit(a);
    switch (a->type) {
        case AFF_ACT_REDIS: run_script(from, a); return;
        case AFF_ACT_PUBLISH: publish(from, a); return;
        case AFF_ACT_SUBSCRIBE:
            if (a->name.len > sizeof(s->channel)) fail("a channel's name is too long");
            memcpy(s->channel, a->name.data, a->name.len);
            s->channel_len = a->name.len;
            put(from, (aff_event){.type = AFF_EV_SUBSCRIBED});
            return;
        case AFF_ACT_PROXY_OPEN: s->proxy = a->socket; return;
        case AFF_ACT_PROXY_FRAME:
        case AFF_ACT_SEND: s->delivered++; return;
        case AFF_ACT_LOCAL:
        case AFF_ACT_SOCKET_CLOSE:
        case AFF_ACT_FAILED: fail("an action that should not be"); return;
        default: return;
    }
}

/* ---- Driving -----------------------------------------------------------------------------------
 */

static void step(int to, const aff_event *event) {
    if (aff_step(servers[to].engine, now, event) != 0) fail("a step failed");
}

static void perform_all(int from) {
    for (const aff_action *a; (a = aff_next_action(servers[from].engine));) perform(from, a);
}

/* The end of a loop turn. */
static void flush(int of) {
    step(of, &(aff_event){.type = AFF_EV_FLUSH});
    perform_all(of);
}

static void consume(int of) {
    uint64_t credit = servers[of].credit;
    servers[of].credit = 0;
    if (credit) step(of, &(aff_event){.type = AFF_EV_CONSUMED, .bytes = credit});
}

/* Hands over all that waits, until nothing does. */
static void settle(void) {
    while (queue_first < queue_end) {
        waiting *w = &queue[queue_first++ % EVENTS_MAX];
        w->event.values = w->values;
        step(w->to, &w->event);
        free(w->data);
        flush(w->to);
        consume(w->to);
    }
}

static void pass(uint64_t ms) {
    for (uint64_t end = now + ms; now < end; now += 10) {
        for (int i = 0; i < ENGINES; i++) {
            step(i, &(aff_event){.type = AFF_EV_TICK});
            flush(i);
        }
        settle();
    }
}

static void start(int i) {
    static const char *const names[] = {"origin", "owner"};
    server *s = &servers[i];
    static aff_allocator allocators[ENGINES];
    allocators[i] = (aff_allocator){count_realloc, s};
    aff_config config = {.server_id = names[i],
                         .prefix = "rsa",
                         .seed = 1000u + (unsigned)i,
                         .lock_ttl_ms = 10000,
                         .proxy_socket_ttl_ms = 30000,
                         .event_ttl_ms = 30000,
                         .allocator = &allocators[i]};
    if (aff_new(&config, &s->engine) != 0) fail("no engine");
    snprintf(s->boot, sizeof(s->boot), "%s", aff_boot(s->engine));
    step(i, &(aff_event){.type = AFF_EV_REDIS_UP});
    flush(i);
    settle();
}

/* ---- Frames ------------------------------------------------------------------------------- */

static const char document[] = "document-of-some-name";

typedef struct {
    uint8_t data[64];
    size_t len;
} frame;

static frame make_frame(const uint8_t *body, size_t len) {
    frame f = {.len = 1 + strlen(document) + len};
    f.data[0] = (uint8_t)strlen(document);
    memcpy(f.data + 1, document, strlen(document));
    memcpy(f.data + 1 + strlen(document), body, len);
    return f;
}

static aff_slice slice(const frame *f) {
    return (aff_slice){f->data, f->len};
}

static void open_client(uint32_t socket) {
    static char request[256]; /* about what a handshake has, packed */
    step(ORIGIN, &(aff_event){.type = AFF_EV_SOCKET_OPEN,
                              .socket = socket,
                              .data = {(const uint8_t *)request, sizeof(request)}});
    frame auth = make_frame(
        (const uint8_t[]){2, 0, 5, 't', 'o', 'k', 'e', 'n', 5, '4', '.', '8', '.', '0'}, 14);
    step(ORIGIN, &(aff_event){.type = AFF_EV_SOCKET_FRAME, .socket = socket, .data = slice(&auth)});
    flush(ORIGIN);
    settle();
    /* The owner's Hocuspocus lets it in. */
    frame ok = make_frame(
        (const uint8_t[]){2, 2, 10, 'r', 'e', 'a', 'd', '-', 'w', 'r', 'i', 't', 'e'}, 13);
    uint32_t proxy = servers[OWNER].proxy;
    step(OWNER, &(aff_event){
                    .type = AFF_EV_PROXY_SEND, .sockets = &proxy, .count = 1, .data = slice(&ok)});
    flush(OWNER);
    settle();
}

/* ---- Measuring ---------------------------------------------------------------------------- */

static uint64_t cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

typedef struct {
    double whole, sending; /* ns for a message; `sending`: to route and to frame it */
} cost;

/* `per_turn` of them in each turn of the sender's loop. */
static cost measure(int from, unsigned per_turn, unsigned turns) {
    uint8_t body[2 + PAYLOAD] = {0, 2}; /* Sync, Update */
    frame update = make_frame(body, sizeof(body));
    uint32_t proxy = servers[OWNER].proxy;
    aff_event event = from == ORIGIN
                          ? (aff_event){.type = AFF_EV_SOCKET_FRAME, .socket = 1}
                          : (aff_event){.type = AFF_EV_PROXY_SEND, .sockets = &proxy, .count = 1};
    event.data = slice(&update);
    server *to = &servers[1 - from];
    uint64_t before = to->delivered, started = cpu_ns(), sending = 0;
    for (unsigned t = 0; t < turns; t++) {
        uint64_t turn_started = cpu_ns();
        for (unsigned n = 0; n < per_turn; n++) step(from, &event);
        flush(from);
        sending += cpu_ns() - turn_started;
        settle();
        if (t % 64 == 0) pass(10);
    }
    uint64_t spent = cpu_ns() - started;
    pass(500);
    if (to->delivered - before != (uint64_t)per_turn * turns) fail("messages are missing");
    double count = (double)per_turn * turns;
    return (cost){(double)spent / count, (double)sending / count};
}

static void measure_memory(void) {
    enum { SOCKETS = 10000 };
    size_t origin = servers[ORIGIN].in_use, owner = servers[OWNER].in_use;
    for (uint32_t n = 0; n < SOCKETS; n++) open_client(2 + n);
    pass(2000);
    printf("memory origin %.0f owner %.0f\n", (double)(servers[ORIGIN].in_use - origin) / SOCKETS,
           (double)(servers[OWNER].in_use - owner) / SOCKETS);
}

int main(int argc, char **argv) {
    start(OWNER);
    aff_slice name = {(const uint8_t *)document, strlen(document)};
    step(OWNER,
         &(aff_event){.type = AFF_EV_CLAIM, .request = 1, .document = name, .use = AFF_USE_LOADED});
    flush(OWNER);
    settle();
    start(ORIGIN);
    open_client(1);
    const char *const sizes[] = {"1", "16", "128"};
    int count = argc > 1 ? argc - 1 : 3;
    for (int i = 0; i < count; i++) {
        unsigned per_turn = (unsigned)atoi(argc > 1 ? argv[i + 1] : sizes[i]);
        if (per_turn < 1 || per_turn > EVENTS_MAX / 2) fail("sizes are from 1 to 8192");
        measure(ORIGIN, per_turn, 2000 / per_turn + 1); /* warm */
        cost there = measure(ORIGIN, per_turn, 400000 / per_turn + 1);
        cost back = measure(OWNER, per_turn, 400000 / per_turn + 1);
        printf("turn %u there %.0f (sending %.0f) back %.0f (sending %.0f)\n", per_turn,
               there.whole, there.sending, back.whole, back.sending);
    }
    measure_memory();
    for (int i = 0; i < ENGINES; i++) aff_free(servers[i].engine);
    return 0;
}
