/*
 * world.h - one engine in a world that a fuzzer's bytes decide on.
 *
 * The world keeps to the contract of core/aff.h, as the runtime and the facade do; what breaks it
 * is no finding, so it does not happen here:
 *
 *   - a socket's number is used once, and nothing comes from it after AFF_EV_SOCKET_CLOSE;
 *   - every request to Redis gets one answer, scripts in their order and PUBLISH in its own, and
 *     all get AFF_ENOTCONN before AFF_EV_REDIS_DOWN; UP and DOWN alternate; SUBSCRIBED comes only
 *     after AFF_ACT_SUBSCRIBE;
 *   - AFF_EV_UNUSE ends what AFF_EV_CLAIM or AFF_ACT_EVENT_LOCAL has granted;
 *   - AFF_EV_CONSUMED gives back no more than was delivered;
 *   - AFF_EV_ROUTE_STATE counts updates that a client can have sent;
 *   - time never goes back, and nothing is told after AFF_ACT_STOPPED.
 *
 * What clients, peers and Redis say is anything at all. After each step every invariant is checked.
 */
#ifndef WORLD_H
#define WORLD_H

#include <stdio.h>
#include <stdlib.h>

#include "engine.h"

enum { SOCKETS_MAX = 8, DOCS = 4, PEERS = 3, ASKS_MAX = 4096, PROXIES_MAX = 16, TEXT_MAX = 512 };

/* The bytes that decide; when they are used up all is 0. */
typedef struct {
    const uint8_t *data;
    size_t len;
} dice;

static inline uint8_t byte(dice *d) {
    if (d->len == 0) return 0;
    d->len--;
    return *d->data++;
}

static inline unsigned below(dice *d, unsigned limit) {
    return byte(d) % limit;
}

static inline uint64_t wide(dice *d) {
    uint64_t value = 0;
    for (unsigned n = below(d, 9); n > 0; n--) value = value << 8 | byte(d);
    return value;
}

static inline aff_slice some(dice *d, size_t max) {
    size_t len = byte(d);
    if (len > max) len = max;
    if (len > d->len) len = d->len;
    aff_slice out = aff__slice(d->data, len);
    d->data += len;
    d->len -= len;
    return out;
}

typedef struct {
    uint64_t request;
    aff_script script;
    unsigned doc;
} asked;

typedef struct {
    asked items[ASKS_MAX];
    size_t first, count;
} line;

typedef struct {
    uint32_t id;
    bool open;
} seat;

typedef struct {
    aff_engine *engine;
    uint64_t now, epoch, next_request;
    bool up, may_subscribe, stopped;
    line scripts, publishes;
    seat sockets[SOCKETS_MAX];
    uint32_t last_socket;
    uint32_t proxies[PROXIES_MAX];
    uint64_t events[PROXIES_MAX];
    unsigned next_proxy, next_event;
    unsigned granted[DOCS][AFF_USE_COUNT];
    struct {
        uint64_t request;
        unsigned doc;
        aff_use use;
    } claims[16];
    unsigned next_claim;
    uint64_t owed;
} world;

static const char *const doc_names[DOCS] = {"a", "b", "\xc3\xa4", "a longer name of a document"};
static const char *const peer_boots[PEERS] = {"0000000000b10000", "0000000000c20000",
                                              "0000000000d30001"};
static const char *const peer_names[PEERS] = {"B", "C", "D"};

static inline unsigned doc_of(aff_slice name) {
    for (unsigned i = 0; i < DOCS; i++) {
        if (aff__equal(name, aff__str(doc_names[i]))) return i;
    }
    return 0;
}

static inline void ask(line *to, const aff_action *act) {
    if (to->count == ASKS_MAX) return; /* never answered, as by a Redis that hangs */
    asked *at = &to->items[(to->first + to->count++) % ASKS_MAX];
    *at = (asked){act->request, act->script, 0};
    size_t prefix = strlen("rsaLock:");
    if (act->type == AFF_ACT_REDIS && act->argv[0].len > prefix) {
        at->doc = doc_of(aff__slice(act->argv[0].data + prefix, act->argv[0].len - prefix));
    }
}

static inline void on_claimed(world *w, const aff_action *act) {
    for (int i = 0; i < 16; i++) {
        if (w->claims[i].request != act->request || !act->request) continue;
        if (act->status == 0) w->granted[w->claims[i].doc][w->claims[i].use]++;
        w->claims[i].request = 0;
    }
}

static inline void on_action(world *w, const aff_action *act) {
    w->owed += aff_action_credit(act);
    switch (act->type) {
        case AFF_ACT_REDIS: ask(&w->scripts, act); break;
        case AFF_ACT_PUBLISH: ask(&w->publishes, act); break;
        case AFF_ACT_SUBSCRIBE: w->may_subscribe = true; break;
        case AFF_ACT_PROXY_OPEN: w->proxies[w->next_proxy++ % PROXIES_MAX] = act->socket; break;
        case AFF_ACT_EVENT_RUN: w->events[w->next_event++ % PROXIES_MAX] = act->request; break;
        case AFF_ACT_CLAIMED: on_claimed(w, act); break;
        case AFF_ACT_LOST:
            memset(w->granted[doc_of(act->document)], 0, sizeof(w->granted[0]));
            break;
        case AFF_ACT_STOPPED: w->stopped = true; break;
        default: break;
    }
}

static inline void tell(world *w, const aff_event *event) {
    if (w->stopped) return;
    int status = aff_step(w->engine, w->now, event);
    AFF_ASSERT(status == 0 || status == AFF_EINVAL);
    aff_check(w->engine);
    for (const aff_action *act; (act = aff_next_action(w->engine));) on_action(w, act);
    aff_stats stats;
    aff_get_stats(w->engine, &stats);
    AFF_ASSERT(stats.backlog == w->owed);
}

static inline void say(world *w, aff_event_type type) {
    tell(w, &(aff_event){.type = type});
}

/* ---- Redis ------------------------------------------------------------------------------------
 */

static inline aff_value integer(int64_t value) {
    return (aff_value){.type = AFF_VALUE_INT, .integer = value};
}

static inline aff_value string(aff_slice value) {
    return (aff_value){.type = AFF_VALUE_STRING, .string = value};
}

static inline asked next_asked(line *from) {
    asked out = from->items[from->first];
    from->first = (from->first + 1) % ASKS_MAX;
    from->count--;
    return out;
}

static inline void answer(world *w, asked a, int status, size_t count, const aff_value *values) {
    tell(w, &(aff_event){.type = AFF_EV_REPLY,
                         .request = a.request,
                         .status = status,
                         .values = values,
                         .value_count = count});
}

static inline aff_slice record(char *text, uint64_t epoch, const char *boot, const char *server) {
    int len = snprintf(text, TEXT_MAX, "%llu %s %s", (unsigned long long)epoch, boot, server);
    return aff__slice(text, (size_t)len);
}

/* What the scripts can say; `way` chooses. */
static inline void answer_rightly(world *w, asked a, unsigned way) {
    char text[TEXT_MAX];
    const char *boot = way % 4 ? aff_boot(w->engine) : peer_boots[way / 4 % PEERS];
    const char *server = way % 4 ? "A" : peer_names[way / 4 % PEERS];
    aff_stats stats;
    aff_get_stats(w->engine, &stats);
    if (stats.epoch_max > w->epoch && stats.epoch_max < AFF_EPOCH_MAX) w->epoch = stats.epoch_max;
    aff_value yes[2] = {integer(1)};
    size_t count = 1;
    switch ((int)a.script) {
        case AFF_SCRIPT_CLAIM:
            yes[0] = integer(way % 4 ? 1 : 0);
            yes[1] = string(record(text, ++w->epoch, boot, server));
            count = 2;
            if (way % 16 == 9) yes[count = 0] = integer(2), count = 1;
            break;
        case AFF_COMMAND_GET:
            yes[0] = way % 5 == 4 ? (aff_value){.type = AFF_VALUE_NIL}
                                  : string(aff__str(peer_boots[way % PEERS]));
            break;
        case AFF_COMMAND_NUMSUB:
            yes[0] = string(aff__str("x"));
            yes[1] = integer(way % 2);
            count = 2;
            break;
        case AFF_SCRIPT_JOIN:
            if (way % 8 == 7) {
                yes[0] = integer(0);
                yes[1] = string(aff__str(peer_boots[0]));
                count = 2;
            }
            break;
        default: yes[0] = integer(way % 16 != 15);
    }
    answer(w, a, 0, count, yes);
}

static inline aff_value any_value(dice *d, char *text, world *w) {
    switch (below(d, 6)) {
        case 0: return (aff_value){.type = AFF_VALUE_NIL};
        case 1: return integer((int64_t)wide(d));
        case 2: return integer(below(d, 4));
        case 3: {
            const char *boot = below(d, 2) ? aff_boot(w->engine) : peer_boots[below(d, PEERS)];
            return string(record(text, wide(d), boot, below(d, 2) ? "A" : "B"));
        }
        case 4: return string(aff__str(below(d, 2) ? aff_boot(w->engine) : peer_boots[0]));
        default: return string(some(d, 64));
    }
}

static inline void answer_wrongly(world *w, dice *d, asked a) {
    char texts[4][TEXT_MAX];
    aff_value values[4];
    size_t count = below(d, 5);
    for (size_t i = 0; i < count; i++) values[i] = any_value(d, texts[i], w);
    answer(w, a, below(d, 4) ? 0 : AFF_EREDIS, count, values);
}

static inline void answer_one(world *w, dice *d) {
    unsigned way = byte(d);
    line *from = way & 1 ? &w->publishes : &w->scripts;
    if (from->count == 0) return;
    asked a = next_asked(from);
    if (way & 2) {
        answer_wrongly(w, d, a);
    } else if (from == &w->publishes) {
        answer(w, a, 0, 1, (aff_value[]){integer(way >> 2 & 1)});
    } else {
        answer_rightly(w, a, way >> 2);
    }
}

static inline void answer_all(world *w, unsigned way) {
    for (int limit = 0; limit < 64 && w->scripts.count; limit++) {
        answer_rightly(w, next_asked(&w->scripts), way);
    }
    for (int limit = 0; limit < 64 && w->publishes.count; limit++) {
        answer(w, next_asked(&w->publishes), 0, 1, (aff_value[]){integer(1)});
    }
}

static inline void refuse(world *w, line *from, size_t count) {
    for (; count > 0; count--) answer(w, next_asked(from), AFF_ENOTCONN, 0, NULL);
}

/* What is asked of a Redis that is away is answered at once; it must not be asked for ever. */
static inline void refuse_all(world *w) {
    for (int rounds = 0; !w->up && w->scripts.count + w->publishes.count; rounds++) {
        AFF_ASSERT(rounds < 1000);
        refuse(w, &w->scripts, w->scripts.count);
        refuse(w, &w->publishes, w->publishes.count);
    }
}

static inline void toggle_redis(world *w) {
    if (!w->up) {
        w->up = true;
        say(w, AFF_EV_REDIS_UP);
        return;
    }
    refuse(w, &w->scripts, w->scripts.count);
    refuse(w, &w->publishes, w->publishes.count);
    w->up = false;
    say(w, AFF_EV_REDIS_DOWN);
    refuse_all(w);
}

/* ---- Frames and batches ------------------------------------------------------------------------
 */

static inline aff_slice pick_address(dice *d, aff__buf *out) {
    unsigned which = byte(d);
    aff__put(out, doc_names[which % DOCS], strlen(doc_names[which % DOCS]));
    if (which & 64) aff__put(out, "\0s", 2);
    if (which & 128) aff__put(out, "\0t", 2);
    return aff__buf_slice(out);
}

/* A message of Hocuspocus or its provider, from any of its kinds to any bytes. */
static inline void put_message(dice *d, aff__buf *out) {
    static const char *const versions[] = {"4.8.0", "3.2.9", "3.3", "x"};
    aff__buf address;
    aff__buf_init(&address, out->heap);
    unsigned kind = below(d, 12);
    if (kind == 11) {
        aff_slice raw = some(d, 200);
        aff__put(out, raw.data, raw.len);
        return;
    }
    aff__put_bytes(out, pick_address(d, &address));
    aff__buf_free(&address);
    if (kind <= 1) {
        aff__put_u8(out, AFF_HP_AUTH);
        aff__put_u8(out, AFF_HP_TOKEN);
        aff__put_bytes(out, aff__str("token"));
        aff__put_bytes(out, aff__str(versions[below(d, 4)]));
    } else if (kind == 2) {
        aff__put_u8(out, AFF_HP_AUTH);
        aff__put_u8(out, (uint8_t)below(d, 4));
        aff__put_bytes(out, aff__str(below(d, 2) ? "readonly" : "read-write"));
    } else if (kind <= 5) {
        aff__put_u8(out, kind == 5 ? 4 : 0);
        aff__put_u8(out, (uint8_t)below(d, 4));
        aff__put_bytes(out, some(d, 20));
    } else if (kind == 6) {
        aff__buf update;
        aff__buf_init(&update, out->heap);
        aff__put_uint(&update, below(d, 8) ? 1 : 2);
        aff__put_uint(&update, below(d, 3));
        aff__put_uint(&update, wide(d));
        aff__put_bytes(&update, below(d, 4) ? aff__str("{}") : aff__str("null"));
        aff__put_u8(out, 1);
        aff__put_bytes(out, aff__buf_slice(&update));
        aff__buf_free(&update);
    } else if (kind == 7) {
        aff__put_u8(out, AFF_HP_STATELESS);
        aff__put_bytes(out, some(d, 20));
    } else if (kind == 8) {
        aff__put_u8(out, AFF_HP_CLOSE);
    } else if (kind == 9) {
        aff__put_u8(out, 8);
        aff__put_u8(out, (uint8_t)below(d, 3));
    } else {
        aff_slice raw = some(d, 200);
        aff__put(out, raw.data, raw.len);
    }
}

static inline uint64_t pick_epoch(dice *d, const world *w) {
    switch (below(d, 8)) {
        case 0: return wide(d);
        case 1: return w->engine->stats.epoch_max + below(d, 3);
        default: {
            aff__doc *doc = aff__doc_find(w->engine, aff__str(doc_names[below(d, DOCS)]));
            return doc ? doc->epoch + (below(d, 16) == 15) : w->engine->stats.epoch_max;
        }
    }
}

static inline uint32_t pick_socket(dice *d, const world *w) {
    unsigned which = byte(d);
    return which >= 248 ? which : w->sockets[which % SOCKETS_MAX].id;
}

static inline void put_hello(aff__buf *out, unsigned draw) {
    aff__put_bytes(out, aff__str(peer_names[draw % PEERS]));
    if (draw & 64) aff__put_bytes(out, aff__str("host:1"));
}

/* A frame of a link, from well-formed ones to any bytes. */
static inline void put_link_frame(dice *d, world *w, aff__buf *out) {
    unsigned type = below(d, 20);
    if (type > AFF_FRAME_MOVED) {
        aff_slice raw = some(d, 200);
        aff__put(out, raw.data, raw.len);
        return;
    }
    aff__put_u8(out, (uint8_t)type);
    uint32_t socket = pick_socket(d, w);
    switch (type) {
        case AFF_FRAME_HELLO: put_hello(out, byte(d)); return;
        case AFF_FRAME_OPEN:
            aff__put_uint(out, socket);
            aff__put_bytes(out, aff__str("GET /"));
            return;
        case AFF_FRAME_OFFER:
        case AFF_FRAME_DATA:
            aff__put_uint(out, socket);
            aff__put_uint(out, pick_epoch(d, w));
            put_message(d, out);
            return;
        case AFF_FRAME_ACCEPT:
        case AFF_FRAME_REFUSE:
        case AFF_FRAME_MOVED: {
            aff__buf address;
            aff__buf_init(&address, out->heap);
            aff__put_uint(out, socket);
            aff__put_uint(out, pick_epoch(d, w));
            pick_address(d, &address);
            aff__put(out, address.data, address.len);
            aff__buf_free(&address);
            return;
        }
        case AFF_FRAME_OUT: {
            unsigned count = below(d, 4);
            aff__put_uint(out, pick_epoch(d, w));
            aff__put_bytes(out, aff__str(doc_names[below(d, DOCS)]));
            aff__put_uint(out, count);
            for (unsigned i = 0; i < count; i++) {
                aff__put_uint(out, pick_socket(d, w));
                aff__put_bytes(out, below(d, 3) ? aff__none() : aff__slice("\0s", 2));
            }
            aff__buf message;
            aff__buf_init(&message, out->heap);
            put_message(d, &message);
            aff_slice rest = aff__buf_slice(&message), address;
            if (aff__get_bytes(&rest, &address)) aff__put(out, rest.data, rest.len);
            aff__buf_free(&message);
            return;
        }
        case AFF_FRAME_KICK:
            aff__put_uint(out, socket);
            aff__put_uint(out, wide(d));
            aff__put(out, "bye", 3);
            return;
        case AFF_FRAME_EVENT:
            aff__put_uint(out, below(d, 8));
            aff__put_uint(out, pick_epoch(d, w));
            aff__put_bytes(out, aff__str(doc_names[below(d, DOCS)]));
            aff__put_bytes(out, aff__str("name"));
            aff__put(out, "x", 1);
            return;
        case AFF_FRAME_RESULT:
            aff__put_uint(out, w->next_request - below(d, 8));
            aff__put_uint(out, below(d, 14));
            return;
        case AFF_FRAME_FRAGMENT: {
            aff_slice raw = some(d, 100);
            aff__put_uint(out, below(d, 3));
            aff__put_u8(out, (uint8_t)below(d, 2));
            aff__put(out, raw.data, raw.len);
            return;
        }
        case AFF_FRAME_CLOSE:
        case AFF_FRAME_ALIVE: aff__put_uint(out, socket); return;
        default: return;
    }
}

static inline void put_process(aff__buf *out, const char *process) {
    for (int i = 0; i < AFF_PROCESS_LEN; i += 2) {
        char hex[3] = {process[i], process[i + 1], 0};
        aff__put_u8(out, (uint8_t)strtoul(hex, NULL, 16));
    }
}

/* A batch that continues the session of a peer, but for what the bytes put wrong. */
static inline void receive_batch(world *w, dice *d, bool raw_frames) {
    aff__heap heap; /* not the engine's, which must be allowed to fail */
    aff__heap_init(&heap, NULL);
    aff__buf batch, frame;
    aff__buf_init(&batch, &heap);
    aff__buf_init(&frame, &heap);
    const char *from = peer_boots[below(d, PEERS)];
    const aff__peer *peer = aff__peer_find(w->engine, aff__slice(from, AFF_PROCESS_LEN));
    unsigned wrong = byte(d);
    uint8_t flags = wrong & 64 ? byte(d) : 1;
    uint64_t session = peer ? peer->session : 7;
    uint64_t seq = peer ? peer->in_seq + (flags & 1) : (flags & 1);
    uint64_t ack = peer ? peer->out_seq : 0, limit = 4 << 20;
    if ((wrong & 3) == 3) session += below(d, 8) ? below(d, 3) : wide(d);
    if ((wrong & 12) == 12) seq = below(d, 2) ? wide(d) : seq + below(d, 3);
    if ((wrong & 48) == 48) ack = below(d, 2) ? wide(d) : ack - below(d, 3);
    if (wrong & 128) limit = wide(d);
    aff__put_u8(&batch, wrong == 255 ? byte(d) : 1);
    aff__put_u8(&batch, flags);
    put_process(&batch, from);
    put_process(&batch, aff_boot(w->engine));
    aff__put_uint(&batch, session);
    aff__put_uint(&batch, seq);
    aff__put_uint(&batch, ack);
    aff__put_uint(&batch, limit);
    if (raw_frames) {
        aff_slice raw = some(d, 255);
        aff__put(&batch, raw.data, raw.len);
    } else if (flags & 1) {
        for (unsigned n = 1 + below(d, 4); n > 0; n--) {
            frame.len = 0;
            put_link_frame(d, w, &frame);
            aff__put_bytes(&batch, aff__buf_slice(&frame));
        }
    }
    tell(w, &(aff_event){.type = AFF_EV_MESSAGE, .data = aff__buf_slice(&batch)});
    aff__heap_free_all(&heap);
}

/* ---- The app ------------------------------------------------------------------------------------
 */

static inline void open_socket(world *w, unsigned at) {
    seat *s = &w->sockets[at % SOCKETS_MAX];
    if (s->open) return;
    *s = (seat){++w->last_socket, true};
    tell(w, &(aff_event){.type = AFF_EV_SOCKET_OPEN, .socket = s->id, .data = aff__str("GET /")});
}

static inline void client_sends(world *w, dice *d) {
    const seat *s = &w->sockets[below(d, SOCKETS_MAX)];
    aff__heap heap;
    aff__heap_init(&heap, NULL);
    aff__buf message;
    aff__buf_init(&message, &heap);
    put_message(d, &message);
    if (s->open) {
        tell(w, &(aff_event){.type = AFF_EV_SOCKET_FRAME,
                             .socket = s->id,
                             .data = aff__buf_slice(&message)});
    }
    aff__heap_free_all(&heap);
}

static inline void claim(world *w, unsigned doc, aff_use use) {
    w->claims[w->next_claim % 16].request = ++w->next_request;
    w->claims[w->next_claim % 16].doc = doc;
    w->claims[w->next_claim++ % 16].use = use;
    tell(w, &(aff_event){.type = AFF_EV_CLAIM,
                         .request = w->next_request,
                         .document = aff__str(doc_names[doc]),
                         .use = use});
}

static inline void emit(world *w, dice *d) {
    tell(w, &(aff_event){.type = AFF_EV_EMIT,
                         .request = ++w->next_request,
                         .name = aff__str("name"),
                         .document = aff__str(doc_names[below(d, DOCS)]),
                         .data = aff__str("x"),
                         .flag = below(d, 2),
                         .code = (uint16_t)below(d, 2)});
}

static inline void pass_time(world *w, uint64_t ms) {
    w->now += ms;
    say(w, AFF_EV_TICK);
}

/* A member that is subscribed. */
static inline void world_open(world *w, uint64_t lock_ttl_ms) {
    memset(w, 0, sizeof(*w));
    w->now = 1000000;
    w->epoch = 1700000000000000;
    aff_config config = {.server_id = "A",
                         .prefix = "rsa",
                         .direct_address = "A:1",
                         .seed = 1,
                         .lock_ttl_ms = lock_ttl_ms,
                         .proxy_socket_ttl_ms = 3 * lock_ttl_ms,
                         .event_ttl_ms = lock_ttl_ms / 2,
                         .places = lock_ttl_ms % 2,
                         .route_queue_max = 2000, /* so that bounds are hit */
                         .route_queue_count = 20,
                         .pending_routes_max = 6,
                         .socket_routes_max = 10};
    AFF_ASSERT(aff_new(&config, &w->engine) == 0);
}

static inline void world_join(world *w) {
    toggle_redis(w);
    say(w, AFF_EV_SUBSCRIBED);
    answer_all(w, 1);
}

static inline void world_close(world *w) {
    aff_free(w->engine);
}

#endif
