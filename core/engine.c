/* engine.c - dispatch of events, the queue of actions, time. */
#include "engine.h"

#include <stdarg.h>
#include <stdio.h>

const char *aff_error_name(int error) {
    switch (error) {
#define X(name, value, text)                                                                       \
    case value: return "AFF_" #name;
        AFF_ERRORS(X)
#undef X
        default: return "AFF_EUNKNOWN";
    }
}

const char *aff_error_text(int error) {
    switch (error) {
#define X(name, value, text)                                                                       \
    case value: return text;
        AFF_ERRORS(X)
#undef X
        default: return "unknown error";
    }
}

/* ---- Making and freeing ------------------------------------------------------------------ */

#define OR_DEFAULT(field, value)                                                                   \
    if (c->field == 0) c->field = (value)

static void apply_defaults(aff_config *c) {
    OR_DEFAULT(alive_every_ms, 15000);
    OR_DEFAULT(window, 4 << 20);
    OR_DEFAULT(backlog_max, 8 << 20);
    OR_DEFAULT(link_queue_max, (size_t)512 << 20);
    OR_DEFAULT(route_queue_max, 5 << 20);
    OR_DEFAULT(route_queue_count, 1000);
    OR_DEFAULT(pending_routes_max, 100);
    OR_DEFAULT(socket_routes_max, 10000);
    OR_DEFAULT(server_pending_max, 100000);
}

static bool in_range(uint64_t value, uint64_t min, uint64_t max) {
    return value >= min && value <= max;
}

static bool is_valid(const aff_config *c) {
    if (!c || !c->server_id || !c->prefix) return false;
    const char *address = c->direct_address;
    if (address && !in_range(strlen(address), 1, AFF_ADDRESS_MAX)) return false;
    return in_range(strlen(c->server_id), 1, AFF_SERVER_ID_MAX) &&
           in_range(c->lock_ttl_ms, 100, 3600000) &&
           in_range(c->proxy_socket_ttl_ms, 100, 3600000) && in_range(c->event_ttl_ms, 1, 86400000);
}

static const char *copy_string(aff__heap *heap, aff__buf *buf, const char *text) {
    aff__buf_init(buf, heap);
    aff__put(buf, text, strlen(text) + 1);
    return (const char *)buf->data;
}

static void init(aff_engine *e, const aff_config *config) {
    aff__heap *heap = &e->heap;
    e->config = *config;
    apply_defaults(&e->config);
    e->config.server_id = copy_string(heap, &e->server_id, config->server_id);
    e->config.prefix = copy_string(heap, &e->prefix, config->prefix);
    if (config->direct_address) {
        e->config.direct_address = copy_string(heap, &e->direct_address, config->direct_address);
    }
    e->random_state = config->seed;
    e->resume_at = UINT64_MAX;
    uint64_t seed = aff__random(e);
    aff__map *maps[] = {
        &e->docs,   &e->peers, &e->sockets, &e->routes,  &e->proxies,      &e->proxies_by_origin,
        &e->served, &e->asks,  &e->events,  &e->running, &e->former_peers, &e->visits};
    for (size_t i = 0; i < sizeof(maps) / sizeof(*maps); i++) aff__map_init(maps[i], heap, seed);
    aff__map *numbers[] = {&e->sockets, &e->visits, &e->proxies, &e->proxies_by_origin, &e->asks};
    for (size_t i = 0; i < sizeof(numbers) / sizeof(*numbers); i++) numbers[i]->has_numbers = true;
    aff__list *lists[] = {&e->formers,     &e->dirty, &e->claims,
                          &e->event_times, &e->shims, &e->actions};
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) aff__list_init(lists[i]);
    aff__buf_init(&e->scratch, heap);
    aff__buf_init(&e->key, heap);
    aff__buf_init(&e->group, heap);
    aff__new_boot(e);
}

int aff_new(const aff_config *config, aff_engine **out) {
    if (!is_valid(config) || !out) return AFF_EINVAL;
    aff__heap first;
    aff__heap_init(&first, config->allocator);
    aff_engine *e = first.vtable.realloc_(first.vtable.ctx, NULL, sizeof(*e));
    if (!e) return AFF_ENOMEM;
    memset(e, 0, sizeof(*e));
    aff__heap_init(&e->heap, config->allocator);
    jmp_buf failure;
    e->heap.on_failure = &failure;
    if (setjmp(failure)) {
        aff_free(e);
        return AFF_ENOMEM;
    }
    init(e, config);
    e->heap.on_failure = NULL;
    *out = e;
    return 0;
}

void aff_free(aff_engine *e) {
    if (!e) return;
    aff__heap_free_all(&e->heap);
    e->heap.vtable.realloc_(e->heap.vtable.ctx, e, 0);
}

/* SplitMix64 (Steele, Lea and Flood, 2014): the only source of randomness, seeded by the config. */
uint64_t aff__random(aff_engine *e) {
    uint64_t z = (e->random_state += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

void aff__new_boot(aff_engine *e) {
    aff__member *m = &e->member;
    if (m->lapses == 0) {
        unsigned long long process = aff__random(e) & 0xffffffffffffu;
        snprintf(m->boot, sizeof(m->boot), "%012llx", process);
    }
    memcpy(m->former, m->boot, sizeof(m->boot));
    snprintf(m->boot + AFF_PROCESS_LEN, sizeof(m->boot) - AFF_PROCESS_LEN, "%04x",
             m->lapses++ & 0xffffu);
}

/* ---- Actions ----------------------------------------------------------------------------- */

typedef struct {
    aff__list link;
    aff_action action;
} action_node;

static uint8_t *copy_slice(uint8_t *to, aff_slice *slice) {
    if (slice->len) memcpy(to, slice->data, slice->len);
    slice->data = to;
    return to + slice->len;
}

aff_action *aff__act(aff_engine *e, aff_action_type type, aff_slice document, aff_slice name,
                     aff_slice data) {
    size_t extra = document.len + name.len + data.len;
    action_node *node = aff__grow(&e->heap, NULL, sizeof(*node) + extra);
    memset(node, 0, sizeof(*node));
    node->action = (aff_action){.type = type, .document = document, .name = name, .data = data};
    uint8_t *to = (uint8_t *)(node + 1);
    to = copy_slice(to, &node->action.document);
    to = copy_slice(to, &node->action.name);
    copy_slice(to, &node->action.data);
    aff__list_append(&e->actions, &node->link);
    return &node->action;
}

static void action_free(aff_engine *e, aff__list *item) {
    action_node *node = AFF_OF(item, action_node, link);
    if (node->action.argc) aff__release(&e->heap, (void *)(uintptr_t)node->action.argv[0].data);
    aff__release(&e->heap, node);
}

const aff_action *aff_next_action(aff_engine *e) {
    if (e->current) action_free(e, e->current);
    e->current = NULL;
    if (aff__list_empty(&e->actions)) return NULL;
    e->current = e->actions.next;
    aff__list_remove(e->current);
    return &AFF_OF(e->current, action_node, link)->action;
}

void aff__log(aff_engine *e, int level, aff_topic topic, const aff__about *about,
              const char *format, ...) {
    char text[512];
    va_list args;
    va_start(args, format);
    int len = vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    if (len < 0) return;
    size_t used = (size_t)len < sizeof(text) ? (size_t)len : sizeof(text) - 1;
    aff__about nothing = {.epoch = 0};
    if (!about) about = &nothing;
    aff_action *act =
        aff__act(e, AFF_ACT_LOG, about->document, about->server, aff__slice(text, used));
    act->status = level;
    act->code = (uint16_t)topic;
    act->request = about->epoch;
}

void aff__news(aff_engine *e, aff_news news, aff_slice document, aff_slice server, uint64_t epoch) {
    aff_action *act = aff__act(e, AFF_ACT_NEWS, document, server, aff__none());
    act->status = (int)news;
    act->request = epoch;
}

/* ---- Requests to Redis ------------------------------------------------------------------- */

aff_slice aff__key(aff_engine *e, const char *kind, aff_slice rest) {
    e->key.len = 0;
    aff__put(&e->key, e->config.prefix, strlen(e->config.prefix));
    aff__put(&e->key, kind, strlen(kind));
    aff__put_u8(&e->key, ':');
    aff__put(&e->key, rest.data, rest.len);
    return aff__buf_slice(&e->key);
}

uint64_t aff__remember_ask(aff_engine *e, aff__ask_kind kind, aff__doc *doc, const char *boot) {
    aff__ask *ask = aff__alloc(&e->heap, sizeof(*ask));
    ask->id = ++e->next_id;
    ask->kind = kind;
    ask->doc = doc;
    for (int i = 0; boot && i < AFF_BOOT_LEN && boot[i]; i++) ask->boot[i] = boot[i];
    aff__item_init(&ask->item, aff__slice(&ask->id, sizeof(ask->id)));
    aff__map_put(&e->asks, &ask->item);
    return ask->id;
}

void aff__ask_redis(aff_engine *e, aff__ask_kind kind, aff__doc *doc, const char *boot,
                    aff_script script, int argc, const aff_slice *argv) {
    size_t total = 1;
    for (int i = 0; i < argc; i++) total += argv[i].len;
    uint8_t *to = aff__grow(&e->heap, NULL, total);
    aff_action *act = aff__act(e, AFF_ACT_REDIS, aff__none(), aff__none(), aff__none());
    act->script = script;
    act->argc = argc;
    act->key_count = 1;
    for (int i = 0; i < argc; i++) {
        act->argv[i] = argv[i];
        to = copy_slice(to, &act->argv[i]);
    }
    act->request = aff__remember_ask(e, kind, doc, boot);
}

static void on_reply(aff_engine *e, const aff_event *event) {
    aff__item *item = aff__map_get(&e->asks, aff__slice(&event->request, sizeof(event->request)));
    if (!item) return;
    aff__ask *ask = AFF_OF(item, aff__ask, item);
    aff__map_remove(&e->asks, item);
    if (event->status == AFF_EREDIS) {
        aff__log(e, 1, AFF_TOPIC_REDIS, NULL, "Redis: %.*s", (int)event->data.len,
                 (const char *)event->data.data);
    }
    switch (ask->kind) {
        case AFF_ASK_JOIN:
        case AFF_ASK_RENEW:
        case AFF_ASK_EVICT_RIVAL:
        case AFF_ASK_PROBE:
        case AFF_ASK_LEAVE: aff__member_answer(e, ask, event); break;
        case AFF_ASK_CLAIM:
        case AFF_ASK_HOLDER:
        case AFF_ASK_RELEASE:
        case AFF_ASK_REFRESH: aff__doc_answer(e, ask, event); break;
        case AFF_ASK_PEER:
        case AFF_ASK_EVICT:
        case AFF_ASK_PUBLISHED: aff__peer_answer(e, ask, event); break;
    }
    aff__release(&e->heap, ask);
}

/* ---- Events ------------------------------------------------------------------------------ */

static void on_claim(aff_engine *e, const aff_event *event) {
    aff__doc *doc = aff__doc_get(e, event->document);
    aff__waiter *waiter = aff__alloc(&e->heap, sizeof(*waiter));
    waiter->request = event->request;
    waiter->use = event->use;
    waiter->deadline = e->now + e->config.lock_ttl_ms;
    aff__list_append(&e->claims, &waiter->by_time);
    aff__doc_wait(e, doc, waiter);
}

static void on_unuse(aff_engine *e, const aff_event *event) {
    aff__doc *doc = aff__doc_find(e, event->document);
    if (!doc || doc->uses[event->use] == 0) return; /* lost meanwhile: nothing is held any more */
    aff__doc_unuse(e, doc, event->use);
    aff__doc_settle(e, doc);
}

static void on_consumed(aff_engine *e, uint64_t bytes) {
    e->stats.backlog -= bytes < e->stats.backlog ? bytes : e->stats.backlog;
    aff__peers_credit(e);
}

static void on_tick(aff_engine *e) {
    aff__member_tick(e);
    aff__peers_tick(e);
    aff__claim_timeout(e);
    aff__events_timeout(e);
    aff__shims_timeout(e);
    if (e->now >= e->resume_at) {
        e->resume_at = UINT64_MAX;
        aff__docs_resume(e);
    }
    if (e->now >= e->scan_at) {
        e->scan_at = e->now + e->config.alive_every_ms;
        aff__sockets_scan(e);
        aff__docs_scan(e);
    }
}

static void dispatch(aff_engine *e, const aff_event *v) {
    switch (v->type) {
        case AFF_EV_REDIS_UP: aff__member_up(e); break;
        case AFF_EV_REDIS_DOWN: aff__member_down(e); break;
        case AFF_EV_SUBSCRIBED: aff__member_subscribed(e, true); break;
        case AFF_EV_UNSUBSCRIBED: aff__member_subscribed(e, false); break;
        case AFF_EV_REPLY: on_reply(e, v); break;
        case AFF_EV_MESSAGE: aff__link_receive(e, v->data); break;
        case AFF_EV_DIRECT_UP: aff__direct_up(e, v->name); break;
        case AFF_EV_DIRECT_DOWN: aff__direct_down(e, v->name); break;
        case AFF_EV_SOCKET_OPEN: aff__socket_open(e, v); break;
        case AFF_EV_SOCKET_FRAME: aff__socket_frame(e, v->socket, v->data); break;
        case AFF_EV_SOCKET_ALIVE: aff__socket_alive(e, v->socket); break;
        case AFF_EV_SOCKET_CLOSE: aff__socket_closed(e, v->socket); break;
        case AFF_EV_ROUTE_END: aff__route_ended_here(e, v->socket, v->name); break;
        case AFF_EV_ROUTE_STATE: aff__route_recalled(e, v->socket, v->name, v->data); break;
        case AFF_EV_PROXY_SEND: aff__proxy_send(e, v->sockets, v->count, v->data); break;
        case AFF_EV_PROXY_CLOSE: aff__proxy_closed(e, v->socket, v->code, v->data); break;
        case AFF_EV_CLAIM: on_claim(e, v); break;
        case AFF_EV_CONFIRM: aff__doc_confirm(e, v->request, v->document); break;
        case AFF_EV_LEAVE: aff__doc_leave(e, v); break;
        case AFF_EV_PLACE: aff__doc_place(e, v); break;
        case AFF_EV_UNUSE: on_unuse(e, v); break;
        case AFF_EV_EMIT: aff__event_emit(e, v); break;
        case AFF_EV_EVENT_RESULT: aff__event_result(e, v->request, v->status, v->data); break;
        case AFF_EV_CONSUMED: on_consumed(e, v->bytes); break;
        case AFF_EV_STALLED: aff__member_stalled(e, v->flag); break;
        case AFF_EV_DRAIN: e->member.draining = true; break;
        case AFF_EV_TICK: on_tick(e); break;
        case AFF_EV_FLUSH: aff__link_flush(e); break;
        case AFF_EV_SHUTDOWN: aff__member_shutdown(e); break;
    }
}

static bool is_name(aff_slice name) {
    return in_range(name.len, 1, AFF_NAME_MAX);
}

static bool is_sane(const aff_event *v) {
    switch (v->type) {
        case AFF_EV_CLAIM:
        case AFF_EV_UNUSE: return is_name(v->document) && v->use < AFF_USE_ROUTE;
        case AFF_EV_CONFIRM: return is_name(v->document);
        case AFF_EV_PLACE:
        case AFF_EV_LEAVE:
            return is_name(v->document) && v->name.len <= AFF_SERVER_ID_MAX &&
                   (v->data.len == 0 || (v->data.len == AFF_BOOT_LEN && v->name.len > 0));
        case AFF_EV_EMIT: return is_name(v->document) && v->data.len <= AFF_MESSAGE_MAX;
        default: return true;
    }
}

int aff_step(aff_engine *e, uint64_t now_ms, const aff_event *event) {
    if (!e || !event || !is_sane(event)) return AFF_EINVAL;
    if (e->failed) return AFF_ENOMEM;
    jmp_buf failure;
    if (setjmp(failure)) {
        e->heap.on_failure = NULL;
        e->failed = true;
        e->member.valid_until = 0;
        return AFF_ENOMEM;
    }
    e->heap.on_failure = &failure;
    if (now_ms > e->now) e->now = now_ms;
    dispatch(e, event);
    e->heap.on_failure = NULL;
    return 0;
}

/* ---- What the engine tells about itself ---------------------------------------------------- */

static uint64_t min(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

uint64_t aff_deadline(const aff_engine *e) {
    if (e->failed) return UINT64_MAX;
    uint64_t at = min(aff__member_deadline(e), aff__peers_deadline(e));
    at = min(at, e->resume_at);
    if (!aff__list_empty(&e->claims)) {
        at = min(at, AFF_OF(e->claims.next, aff__waiter, by_time)->deadline);
    }
    if (!aff__list_empty(&e->event_times)) {
        at = min(at, AFF_OF(e->event_times.next, aff__waiter, by_time)->deadline);
    }
    if (!aff__list_empty(&e->shims)) {
        at = min(at, AFF_OF(e->shims.next, aff__token_wait, by_time)->deadline);
    }
    return e->docs.count || e->sockets.count ? min(at, e->scan_at) : at;
}

uint64_t aff_valid_until(const aff_engine *e) {
    return AFF_MUTATE(10, e->member.valid_until * 2, e->member.valid_until);
}

const char *aff_boot(const aff_engine *e) {
    return e->member.boot;
}

const uint32_t aff_bucket_ms[AFF_BUCKET_COUNT] = {1,   2,   5,    10,   25,   50,    100,
                                                  250, 500, 1000, 2500, 5000, 10000, 30000};

void aff__count_duration(aff_durations *durations, uint64_t ms) {
    size_t bucket = 0;
    while (bucket < AFF_BUCKET_COUNT && ms > aff_bucket_ms[bucket]) bucket++;
    durations->counts[bucket]++;
    durations->sum_ms += ms;
}

static uint64_t sum(const uint64_t *numbers, size_t count) {
    uint64_t all = 0;
    for (size_t i = 0; i < count; i++) all += numbers[i];
    return all;
}

void aff_get_stats(const aff_engine *e, aff_stats *out) {
    *out = e->stats;
    out->stale = sum(e->stats.stale_by, AFF_STALE_COUNT);
    out->takeovers = sum(e->stats.takeovers_by, AFF_TAKEOVER_COUNT);
    out->redis_up = e->member.redis_up;
    out->stalled = e->member.stalled;
    out->documents = e->docs.count;
    out->sockets = e->sockets.count;
    out->routes = e->routes.count;
    out->proxies = e->proxies.count;
    out->peers = e->peers.count;
    out->queued = out->unacknowledged = out->links = 0;
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        const aff__peer *peer = AFF_OF(i, aff__peer, item);
        out->queued += peer->queue.len - peer->queue_at;
        out->unacknowledged += peer->queue_at - peer->acked_at;
        out->links += peer->direct.state == AFF_DIRECT_UP;
    }
}
