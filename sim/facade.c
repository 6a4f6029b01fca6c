/* facade.c - a server's JavaScript: client sockets, proxy sockets, custom events. */
#include "facade.h"

#include <stdio.h>

enum { RESET = 4205 };

/* ---- To the engine ------------------------------------------------------------------------------
 */

static void flush_sends(server *s) {
    facade *f = s->facade;
    if (!f->gathered_count) return;
    server_post(s, &(aff_event){.type = AFF_EV_PROXY_SEND,
                                .sockets = f->gathered_for,
                                .count = f->gathered_count,
                                .data = f->gathered});
    f->gathered_count = 0;
}

void facade_post(server *s, const aff_event *event) {
    flush_sends(s);
    server_post(s, event);
}

static void proxy_send(server *s, uint32_t id, aff_slice data) {
    facade *f = s->facade;
    if (f->gathered_count == 256 || !aff__equal(f->gathered, data)) {
        flush_sends(s);
        f->gathered = sim_copy(s->w, data);
    }
    f->gathered_for[f->gathered_count++] = id;
}

void facade_turn_ends(server *s) {
    facade *f = s->facade;
    flush_sends(s);
    if (f->taken) server_post(s, &(aff_event){.type = AFF_EV_CONSUMED, .bytes = f->taken});
    f->taken = 0;
}

uint64_t facade_ask(server *s, void (*then)(server *, void *, const aff_action *), void *arg) {
    facade *f = s->facade;
    pending *p = sim_alloc(s->w, sizeof(*p));
    *p = (pending){.next = f->requests, .request = ++f->last_request, .then = then, .arg = arg};
    f->requests = p;
    return p->request;
}

static void on_answer(server *s, const aff_action *a) {
    for (pending **at = &s->facade->requests; *at; at = &(*at)->next) {
        pending *p = *at;
        if (p->request != a->request) continue;
        *at = p->next;
        p->then(s, p->arg, a);
        return;
    }
    sim_fail(s->w, "I33: %s answers request %llu twice", s->name, (unsigned long long)a->request);
}

/* ---- Client sockets -----------------------------------------------------------------------------
 */

static client_socket *find_socket(const server *s, uint32_t id) {
    client_socket *c = s->facade->sockets;
    while (c && c->id != id) c = c->next;
    return c;
}

static route *find_route(client_socket *c, const char *address) {
    route *r = c->routes;
    while (r && strcmp(r->address, address) != 0) r = r->next;
    return r;
}

static route *get_route(server *s, client_socket *c, const char *address) {
    route *r = find_route(c, address);
    if (r) return r;
    r = sim_alloc(s->w, sizeof(*r));
    snprintf(r->address, ADDRESS_MAX, "%s", address);
    r->next = c->routes;
    c->routes = r;
    return r;
}

static void told_to_close(sim *w, void *arg, uint64_t number) {
    const client_socket *c = arg;
    person_is_closed(w, c->id, (int)(number >> 32), (unsigned)(number & 0xffffffff));
}

static void close_socket(server *s, client_socket *c, unsigned code) {
    sim *w = s->w;
    if (c->is_closed || c->was_told) return;
    c->was_told = true;
    person *p = person_of(w, c->id);
    sim_at(w, in_turn(w, &p->down, takes(w, w->net_us)), NULL, NULL, told_to_close, c,
           (uint64_t)s->index << 32 | code);
}

typedef struct {
    uint32_t socket;
    int from;
    aff_slice frame;
} frame_down;

static void arrives(sim *w, void *arg, uint64_t number) {
    (void)number;
    const frame_down *d = arg;
    person_receives(w, d->socket, d->from, d->frame);
}

static void to_client(server *s, client_socket *c, aff_slice frame) {
    sim *w = s->w;
    if (c->is_closed || c->was_told) return;
    frame_down *d = sim_alloc(w, sizeof(*d));
    *d = (frame_down){c->id, s->index, sim_copy(w, frame)};
    person *p = person_of(w, c->id);
    sim_at(w, in_turn(w, &p->down, takes(w, w->net_us)), NULL, NULL, arrives, d, 0);
}

static void note_sent(route *r, const aff__client_frame *f, aff_slice data) {
    if (f->type == AWARENESS) {
        r->cursor = data;
    } else if (f->type == AFF_HP_AUTH) {
        r->auth = data;
    } else if (is_edits(f) && f->sub == UPDATE) {
        r->unsynced++;
    } else if (is_edits(f) && f->sub == STEP1) {
        r->step1 = data;
        r->unsynced = 1;
    } else if (is_edits(f) && f->sub == STEP2 && r->questions > 0) {
        r->questions--;
    }
}

static void note_received(route *r, const aff__client_frame *f) {
    if (is_edits(f) && f->sub == STEP1) r->questions++;
    if (f->type == STATUS) {
        if (f->sub == 1 && r->unsynced > 0) r->unsynced--;
    } else if (f->type == AFF_HP_AUTH && f->sub == AFF_HP_AUTHENTICATED) {
        aff_slice rest = f->payload, scope = aff__none();
        aff__get_bytes(&rest, &scope);
        r->authenticated = true;
        r->readonly = aff__equal(scope, aff__str("readonly"));
    }
}

static void forget_state(route *r) {
    r->has_state = r->authenticated = r->readonly = false;
    r->auth = r->step1 = r->cursor = aff__none();
    r->unsynced = r->questions = 0;
}

static void end_if_unused(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    client_socket *c = arg;
    if (c->here_count > 0 || !c->hocus || c->is_closed) return;
    hocus_ends(c->hocus);
    c->hocus = NULL;
}

static void set_here(server *s, client_socket *c, route *r, bool here) {
    r->here = here;
    c->here_count += here ? 1 : -1u;
    if (c->here_count == 0) hocus_after(s, 10, end_if_unused, c, 0);
}

static void post_frame(server *s, uint32_t socket, aff_slice data) {
    facade_post(s, &(aff_event){.type = AFF_EV_SOCKET_FRAME, .socket = socket, .data = data});
}

static void receive(server *s, client_socket *c, aff_slice data) {
    if (c->is_closed) return;
    aff__client_frame frame;
    AFF_ASSERT(aff__parse_client_frame(data, &frame));
    route *r = get_route(s, c, word(frame.address));
    if (!r->here || r->posted > 0) {
        r->posted++;
        post_frame(s, c->id, data);
        return;
    }
    if (r->holds) {
        held_frame *h = sim_alloc(s->w, sizeof(*h));
        h->data = data;
        *r->held_end = h;
        r->held_end = &h->next;
        return;
    }
    note_sent(r, &frame, data);
    if (frame.type == AFF_HP_CLOSE) {
        r->holds = true;
        r->held = NULL;
        r->held_end = &r->held;
    }
    hocus_receive(c->hocus, data);
}

static hocus *new_hocus(server *s, uint32_t id, client_socket *c, proxy_socket *p) {
    hocus *h = sim_alloc(s->w, sizeof(*h));
    *h = (hocus){.s = s, .is_proxy = p != NULL, .id = id, .socket = c, .proxy = p};
    return h;
}

/* The engine hands over a frame that was on its way to it. */
static void local(server *s, uint32_t socket, aff_slice data) {
    client_socket *c = find_socket(s, socket);
    if (!c || c->is_closed) return;
    aff__client_frame frame;
    AFF_ASSERT(aff__parse_client_frame(data, &frame));
    route *r = find_route(c, word(frame.address));
    if (!r) return;
    if (r->here && r->posted > 0) r->posted--;
    r->has_state = true;
    r->recalled = false;
    note_sent(r, &frame, data);
    if (!c->hocus) c->hocus = new_hocus(s, socket, c, NULL);
    hocus_receive(c->hocus, data);
}

static void tell_state(server *s, uint32_t socket, const route *r) {
    bytes state = {0};
    add(&state, (uint8_t[]){(uint8_t)(r->authenticated | r->readonly << 1)}, 1);
    add_uint(&state, r->unsynced);
    add_text(&state, r->auth);
    add_text(&state, r->step1);
    add_text(&state, r->cursor);
    add_uint(&state, r->questions);
    facade_post(s, &(aff_event){.type = AFF_EV_ROUTE_STATE,
                                .socket = socket,
                                .name = address_of(r->address),
                                .data = slice(&state)});
    free(state.data);
}

static void remove_route(client_socket *c, route *r) {
    route **at = &c->routes;
    while (*at != r) at = &(*at)->next;
    *at = r->next;
}

static void placed(server *s, const aff_action *a) {
    client_socket *c = find_socket(s, a->socket);
    route *r = c ? find_route(c, word(a->name)) : NULL;
    if (!r) return;
    bool here = a->status == AFF_ROUTE_HERE;
    if (a->status == AFF_ROUTE_RECALL) {
        r->recalled = true;
        tell_state(s, c->id, r);
    } else {
        r->posted -= a->count < r->posted ? a->count : r->posted;
    }
    if (!here) forget_state(r);
    if (here != r->here) set_here(s, c, r, here);
    if (a->status == AFF_ROUTE_ENDED && r->posted == 0) remove_route(c, r);
}

static bool ends_route(const aff__client_frame *f) {
    return f->type == AFF_HP_CLOSE || (f->type == AFF_HP_AUTH && f->sub == AFF_HP_DENIED);
}

/* Hocuspocus here has a frame for the client. */
static void send_from_here(server *s, client_socket *c, aff_slice data) {
    if (c->is_closed) return;
    aff__client_frame frame;
    AFF_ASSERT(aff__parse_client_frame(data, &frame));
    route *r = find_route(c, word(frame.address));
    if (r && r->recalled) return;
    to_client(s, c, data);
    if (r && r->has_state) note_received(r, &frame);
    if (!ends_route(&frame)) return;
    held_frame *held = r && r->holds ? r->held : NULL;
    if (r) forget_state(r);
    if (r) r->holds = false;
    if (r && r->here) set_here(s, c, r, false);
    facade_post(s, &(aff_event){.type = AFF_EV_ROUTE_END, .socket = c->id, .name = frame.address});
    for (; held; held = held->next) receive(s, c, held->data);
}

static void socket_closed(server *s, uint32_t id) {
    client_socket *c = find_socket(s, id);
    if (!c || c->is_closed) return;
    c->is_closed = true;
    if (c->hocus) hocus_ends(c->hocus);
    c->routes = NULL;
    facade_post(s, &(aff_event){.type = AFF_EV_SOCKET_CLOSE, .socket = id});
    client_socket **at = &s->facade->sockets;
    while (*at != c) at = &(*at)->next;
    *at = c->next;
}

static bool is_member(const server *s) {
    return server_clock(s) < aff_valid_until(s->engine);
}

static void socket_opened(server *s, uint32_t id) {
    facade *f = s->facade;
    client_socket *c = sim_alloc(s->w, sizeof(*c));
    c->id = id;
    c->next = f->sockets;
    f->sockets = c;
    if (f->stopped) {
        close_socket(s, c, 1012);
        return;
    }
    facade_post(s, &(aff_event){.type = AFF_EV_SOCKET_OPEN, .socket = id, .data = aff__str("GET")});
    if (s->w->fail_closed && !is_member(s)) close_socket(s, c, 1013);
}

void facade_close_all(server *s, unsigned code) {
    for (client_socket *c = s->facade->sockets; c; c = c->next) close_socket(s, c, code);
}

/* ---- Proxy sockets ------------------------------------------------------------------------ */

static proxy_socket *find_proxy(const server *s, uint32_t id) {
    proxy_socket *p = s->facade->proxies;
    while (p && p->id != id) p = p->next;
    return p;
}

static void ends_later(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    hocus_ends(arg);
}

static void end_proxy(server *s, proxy_socket *p) {
    p->is_open = false;
    proxy_socket **at = &s->facade->proxies;
    while (*at != p) at = &(*at)->next;
    *at = p->next;
    hocus_after(s, 10, ends_later, p->hocus, 0);
}

static void close_proxy(server *s, proxy_socket *p, uint16_t code) {
    if (!p->is_open) return;
    facade_post(s, &(aff_event){.type = AFF_EV_PROXY_CLOSE,
                                .socket = p->id,
                                .code = code,
                                .data = aff__str("Reset Connection")});
    end_proxy(s, p);
}

static void open_proxy(server *s, uint32_t id) {
    proxy_socket *p = sim_alloc(s->w, sizeof(*p));
    *p = (proxy_socket){.id = id, .is_open = true, .next = s->facade->proxies};
    p->hocus = new_hocus(s, id, NULL, p);
    s->facade->proxies = p;
}

/* ---- What Hocuspocus says ----------------------------------------------------------------- */

void facade_say(void *at, connection *to, aff_slice frame) {
    server *s = at;
    if (!to->is_proxy) {
        client_socket *c = find_socket(s, to->id);
        if (c) send_from_here(s, c, frame);
        return;
    }
    const proxy_socket *p = find_proxy(s, to->id);
    if (p && p->is_open) proxy_send(s, to->id, frame);
}

mouth facade_mouth(server *s) {
    return (mouth){facade_say, s};
}

/* A lost race for the lease: the client's socket is closed, from which it recovers by itself. */
void facade_denied(hocus *h) {
    sim_trace(h->s->w, h->s->name, "can't load: closes socket %s%u", h->is_proxy ? "of proxy " : "",
              h->id);
    if (h->is_proxy) {
        close_proxy(h->s, h->proxy, RESET);
    } else {
        close_socket(h->s, h->socket, RESET);
    }
}

/* ---- Custom events ------------------------------------------------------------------------ */

typedef struct {
    server *s;
    emitted *event;
    int name;
    bool has_use, is_late;
    uint64_t token;
} event_run;

static void answered(server *s, emitted *e) {
    sim *w = s->w;
    if (e->answers++ > 0) sim_fail(w, "I33: an event of %s is answered twice", s->name);
    if (w->now > e->deadline + s->stood_us - e->stood_us)
        sim_fail(w, "I33: an event of %s is answered late", s->name);
}

static void count_run(server *s, emitted *e) {
    /* Twice at one life of a server means that a link has delivered it twice, unless a link had to
     * start anew: what is answered over the old one may be lost, and is asked for again. */
    const server *from = &s->w->servers[e->server];
    bool again = e->runs > 0 && e->ran_at == s->index && e->ran_life == s->life;
    if (again && from->life == e->life && links_anew(s->w) == e->links_anew) {
        sim_fail(s->w, "I33: %s runs an event of %s twice", s->name, from->name);
    }
    e->runs++;
    e->ran_at = s->index;
    e->ran_life = s->life;
}

static void local_run_ends(sim *w, void *arg, uint64_t number) {
    (void)number;
    event_run *run = arg;
    answered(run->s, run->event);
    if (run->has_use) {
        facade_post(run->s, &(aff_event){.type = AFF_EV_UNUSE,
                                         .document = aff__str(w->names[run->name].name),
                                         .use = AFF_USE_EVENT});
    }
}

static void event_outcome(server *s, void *arg, const aff_action *a) {
    event_run *run = arg;
    if (a->type == AFF_ACT_EVENT_LOCAL) {
        run->has_use = true;
        count_run(s, run->event);
        hocus_after(s, takes(s->w, 2000), local_run_ends, run, 0);
        return;
    }
    answered(s, run->event);
}

static void event_claimed(server *s, void *arg, const aff_action *a) {
    (void)s;
    event_run *run = arg;
    run->has_use = a->status == 0;
    count_run(s, run->event);
    hocus_after(s, takes(s->w, 2000), local_run_ends, run, 0);
}

void facade_emit(server *s, int name) {
    sim *w = s->w;
    if (w->event_count == EVENTS_MAX || s->facade->stopping) return;
    unsigned number = w->event_count++;
    emitted *e = &w->events[number];
    uint64_t patience = s->config.event_ttl_ms * MS * 106 / 100 + 2 * (uint64_t)SECOND;
    *e = (emitted){.server = s->index,
                   .life = s->life,
                   .at = w->now,
                   .deadline = w->now + patience,
                   .links_anew = links_anew(w),
                   .stood_us = s->stood_us};
    sim_trace(w, s->name, "emits event %u for %s", number, w->names[name].name);
    event_run *run = sim_alloc(w, sizeof(*run));
    *run = (event_run){.s = s, .event = e, .name = name};
    w->totals.events++;
    char text[16];
    snprintf(text, sizeof(text), "%u", number);
    aff_slice name_text = aff__str(w->names[name].name);
    if (hocus_named(s, name)->current) {
        e->deadline += s->config.lock_ttl_ms * MS;
        uint64_t request = facade_ask(s, event_claimed, run);
        facade_post(s, &(aff_event){.type = AFF_EV_CLAIM,
                                    .request = request,
                                    .document = name_text,
                                    .use = AFF_USE_EVENT});
        return;
    }
    uint64_t request = facade_ask(s, event_outcome, run);
    facade_post(s, &(aff_event){.type = AFF_EV_EMIT,
                                .request = request,
                                .name = aff__str("ping"),
                                .document = name_text,
                                .data = aff__str(text),
                                .flag = chance(w, 300)});
}

static void send_result(server *s, uint64_t token, int status) {
    facade_post(s, &(aff_event){.type = AFF_EV_EVENT_RESULT,
                                .request = token,
                                .status = status,
                                .data = aff__str("done")});
}

static void run_ends(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    const event_run *run = arg;
    send_result(run->s, run->token, 0);
}

static void merged(server *s, void *arg, bool ok) {
    const event_run *run = arg;
    if (ok && run->is_late) hocus_took_over(s, run->name);
    send_result(s, run->token, ok ? 0 : AFF_EEVENT);
}

static void run_event(server *s, const aff_action *a) {
    sim *w = s->w;
    event_run *run = sim_alloc(w, sizeof(*run));
    run->s = s;
    run->token = a->request;
    int name = run->name = name_of(w, word(a->document));
    if (aff__equal(a->name, aff__str("ping"))) {
        unsigned number = (unsigned)strtoul(word(a->data), NULL, 10);
        AFF_ASSERT(number < w->event_count);
        count_run(s, &w->events[number]);
        hocus_after(s, takes(w, 2000), run_ends, run, 0);
        return;
    }
    if (aff__equal(a->name, EVENT(OPEN_EVENT))) {
        handover_open(s, name, a->request);
        return;
    }
    uint64_t edits = 0;
    aff_slice rest = a->data;
    AFF_ASSERT(aff__get_uint(&rest, &edits));
    sim_trace(w, s->name, "gets a state of %s: %llx", w->names[name].name,
              (unsigned long long)edits);
    w->totals.merges++;
    run->is_late = aff__equal(a->name, EVENT(LATE_MERGE_EVENT));
    hocus_merge(s, name, edits, merged, run);
}

/* ---- On the JavaScript thread ------------------------------------------------------------- */

static void act(server *s, const aff_action *a) {
    facade *f = s->facade;
    proxy_socket *proxy;
    client_socket *c;
    f->taken += aff_action_credit(a);
    switch (a->type) {
        case AFF_ACT_READY: s->is_ready = f->was_member = true; return;
        case AFF_ACT_FAILED:
            /* A restarted server's serverId is still taken: its operator tries again. */
            drain_stopped(s);
            return;
        case AFF_ACT_SEND:
            for (uint32_t i = 0; i < a->count; i++) {
                if ((c = find_socket(s, a->sockets[i]))) to_client(s, c, a->data);
            }
            return;
        case AFF_ACT_SOCKET_CLOSE:
            if ((c = find_socket(s, a->socket))) close_socket(s, c, a->code);
            return;
        case AFF_ACT_LOCAL: local(s, a->socket, a->data); return;
        case AFF_ACT_ROUTE: placed(s, a); return;
        case AFF_ACT_PROXY_OPEN: open_proxy(s, a->socket); return;
        case AFF_ACT_PROXY_FRAME:
            if ((proxy = find_proxy(s, a->socket))) hocus_receive(proxy->hocus, a->data);
            return;
        case AFF_ACT_PROXY_CLOSE:
            if ((proxy = find_proxy(s, a->socket))) end_proxy(s, proxy);
            return;
        case AFF_ACT_CLAIMED:
        case AFF_ACT_EVENT_LOCAL:
        case AFF_ACT_EVENT_DONE: on_answer(s, a); return;
        case AFF_ACT_LOST: hocus_evict(s, name_of(s->w, word(a->document)), true); return;
        case AFF_ACT_PLACE: facade_place(s, name_of(s->w, word(a->document))); return;
        case AFF_ACT_EVENT_RUN: run_event(s, a); return;
        case AFF_ACT_NEWS:
            if (a->status == AFF_NEWS_OWNED) {
                hocus_owned(s, name_of(s->w, word(a->document)), a->request);
            } else if (a->status == AFF_NEWS_TAKEOVER) {
                hocus_took_over(s, name_of(s->w, word(a->document)));
            }
            return;
        case AFF_ACT_STOPPED: drain_stopped(s); return;
        default: return;
    }
}

void facade_do(server *s, const item *it) {
    switch (it->kind) {
        case FOR_FACADE: act(s, &it->action); return;
        case CLIENT_OPENS: socket_opened(s, it->socket); return;
        case CLIENT_SENDS: {
            client_socket *c = find_socket(s, it->socket);
            if (c) receive(s, c, it->data);
            return;
        }
        case CLIENT_CLOSES: socket_closed(s, it->socket); return;
        default: AFF_ASSERT(false);
    }
}

/* ---- failClosed
 * ---------------------------------------------------------------------------------------- */

static void look_at_membership(sim *w, void *arg, uint64_t number) {
    (void)number;
    server *s = arg;
    bool now = is_member(s);
    if (s->facade->was_member && !now) facade_close_all(s, 1013);
    s->facade->was_member = now;
    sim_at(w, w->now + s->config.lock_ttl_ms * MS / 40, s, &s->js, look_at_membership, s, 0);
}

/* ---- Holds -------------------------------------------------------------------------------- */

static void hold_ends(sim *w, void *arg, uint64_t number) {
    server *s = arg;
    int name = (int)(number & 0xff);
    named *n = hocus_named(s, name);
    if (n->hold_generation != number >> 8 || n->holds == 0) return;
    n->holds--;
    facade_post(s, &(aff_event){.type = AFF_EV_UNUSE,
                                .document = aff__str(w->names[name].name),
                                .use = AFF_USE_HOLD});
}

static void held(server *s, void *arg, const aff_action *a) {
    int name = (int)(uintptr_t)arg;
    named *n = hocus_named(s, name);
    if (a->status != 0) return;
    n->holds++;
    uint64_t number = (uint64_t)n->hold_generation << 8 | (unsigned)name;
    hocus_after(s, 200 * MS + below(s->w, 5000) * (uint64_t)MS, hold_ends, s, number);
}

void facade_hold(server *s, int name) {
    if (s->facade->stopping) return;
    uint64_t request = facade_ask(s, held, (void *)(uintptr_t)name);
    facade_post(s, &(aff_event){.type = AFF_EV_CLAIM,
                                .request = request,
                                .document = aff__str(s->w->names[name].name),
                                .use = AFF_USE_HOLD});
}

facade *facade_new(server *s) {
    facade *f = sim_alloc(s->w, sizeof(*f));
    for (int n = 0; n < NAMES_MAX; n++) {
        f->names[n].waiters_end = &f->names[n].waiters;
        f->names[n].queued_end = &f->names[n].queued;
    }
    if (s->w->fail_closed) {
        sim_at(s->w, s->w->now + 1, s, &s->js, look_at_membership, s, 0);
    }
    return f;
}
