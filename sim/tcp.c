/* tcp.c - direct links: connections between the processes of two servers. */
#include "sim.h"

enum { DIAL_TIMEOUT_MS = 5000 };

static server *server_of_process(sim *w, aff_slice process) {
    for (int i = 0; i < w->server_count; i++) {
        server *s = &w->servers[i];
        if (!s->engine) continue;
        if (aff__equal(process, aff__slice(aff_boot(s->engine), AFF_PROCESS_LEN))) return s;
    }
    return NULL;
}

static void tell(server *s, const tcp_link *link, aff_event_type type) {
    server_post(s, &(aff_event){.type = type, .name = aff__slice(link->process, AFF_PROCESS_LEN)});
}

static tcp_link *link_of(server *s, aff_slice process) {
    for (int i = 0; i < TCP_MAX; i++) {
        tcp_link *link = &s->links[i];
        if (link->state != TCP_FREE &&
            aff__equal(process, aff__slice(link->process, AFF_PROCESS_LEN)))
            return link;
    }
    return NULL;
}

static tcp_link *free_link(server *s) {
    for (int i = 0; i < TCP_MAX; i++) {
        if (s->links[i].state == TCP_FREE) return &s->links[i];
    }
    sim_fail(s->w, "%s has too many direct links", s->name);
}

/* What an earlier connection had under way arrives, or not. */
static void end_link(tcp_link *link) {
    link->state = TCP_FREE;
    link->generation++;
}

typedef struct {
    server *from;
    tcp_link *link;
    unsigned generation;
    aff_slice data;
} tcp_event;

static bool is_over(const tcp_event *t) {
    return t->link->generation != t->generation;
}

static void answers(sim *w, void *arg, uint64_t number) {
    (void)number;
    const tcp_event *t = arg;
    if (is_over(t)) return;
    const server *to = server_of_process(w, aff__slice(t->link->process, AFF_PROCESS_LEN));
    /* A network may let a greeting pass, and nothing behind it. */
    bool is_open = t->link->silent_until <= w->now || chance(w, 500);
    bool is_reached = to && to->io.blocked_until <= w->now && is_open;
    if (is_reached && !(w->loss && !w->heals && chance(w, 100))) {
        t->link->state = TCP_UP;
        tell(t->from, t->link, AFF_EV_DIRECT_UP);
    } else {
        tell(t->from, t->link, AFF_EV_DIRECT_DOWN);
        end_link(t->link);
    }
}

void tcp_open(server *s, aff_slice process) {
    sim *w = s->w;
    if (link_of(s, process)) sim_fail(w, "%s opens a direct link twice", s->name);
    tcp_link *link = free_link(s);
    link->state = TCP_DIALLING;
    memcpy(link->process, process.data, AFF_PROCESS_LEN);
    tcp_event *t = sim_alloc(w, sizeof(*t));
    *t = (tcp_event){.from = s, .link = link, .generation = link->generation};
    uint64_t after = chance(w, 30) ? DIAL_TIMEOUT_MS * (uint64_t)MS : 3 * takes(w, w->redis_us);
    sim_at(w, w->now + after, s, NULL, answers, t, 0);
}

void tcp_close(server *s, aff_slice process) {
    tcp_link *link = link_of(s, process);
    if (link) end_link(link);
}

static void arrives(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    const tcp_event *t = arg;
    server *to = server_of_process(w, aff__slice(t->data.data, AFF_PROCESS_LEN));
    if (!to) return;
    if (is_over(t) && chance(w, 500)) return; /* else it was before the end */
    aff_slice batch = {t->data.data + AFF_PROCESS_LEN, t->data.len - AFF_PROCESS_LEN};
    server_post(to, &(aff_event){.type = AFF_EV_MESSAGE, .data = batch});
}

void tcp_send(server *s, aff_slice process, aff_slice data) {
    sim *w = s->w;
    tcp_link *link = link_of(s, process);
    if (!link || link->state != TCP_UP) return; /* it has just ended: the engine will hear that */
    w->totals.direct++;
    bytes copy = {0};
    add(&copy, process.data, process.len);
    add(&copy, data.data, data.len);
    tcp_event *t = sim_alloc(w, sizeof(*t));
    *t = (tcp_event){
        .from = s, .link = link, .generation = link->generation, .data = sim_copy(w, slice(&copy))};
    free(copy.data);
    uint64_t wait = link->silent_until > w->now ? link->silent_until - w->now : 0;
    /* What has left the server arrives, though the server may have died since. */
    sim_at(w, in_turn(w, &link->order, wait + takes(w, w->redis_us)), NULL, NULL, arrives, t, 0);
}

static void breaks(server *s, tcp_link *link) {
    tell(s, link, AFF_EV_DIRECT_DOWN);
    end_link(link);
}

static tcp_link *any_link(server *s) {
    tcp_link *link = &s->links[below(s->w, TCP_MAX)];
    return s->engine && link->state == TCP_UP ? link : NULL;
}

void tcp_break_any(server *s) {
    tcp_link *link = any_link(s);
    if (!link) return;
    sim_trace(s->w, s->name, "loses a direct link");
    breaks(s, link);
}

void tcp_silence_any(server *s, uint64_t until) {
    tcp_link *link = any_link(s);
    if (!link) return;
    sim_trace(s->w, s->name, "has a direct link that carries nothing for %llu ms",
              (unsigned long long)(until - s->w->now) / MS);
    link->silent_until = until;
}

static void notices(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    const tcp_event *t = arg;
    if (!is_over(t)) breaks(t->from, t->link);
}

/* The others notice soon, or never: its machine may have vanished. */
void tcp_end_all(server *s) {
    sim *w = s->w;
    aff_slice process = aff__slice(aff_boot(s->engine), AFF_PROCESS_LEN);
    bool is_told = chance(w, 800);
    for (int i = 0; i < w->server_count; i++) {
        server *other = &w->servers[i];
        tcp_link *link = other != s && other->engine ? link_of(other, process) : NULL;
        if (!link || !is_told) continue;
        tcp_event *t = sim_alloc(w, sizeof(*t));
        *t = (tcp_event){.from = other, .link = link, .generation = link->generation};
        sim_at(w, w->now + takes(w, w->redis_us), other, NULL, notices, t, 0);
    }
    for (int i = 0; i < TCP_MAX; i++) end_link(&s->links[i]);
}

void tcp_heal(server *s) {
    for (int i = 0; i < TCP_MAX; i++) s->links[i].silent_until = 0;
}
