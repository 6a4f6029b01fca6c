/* people.c - people with browsers: a socket, some documents, and a temper. */
#include "sim.h"

#include <stdio.h>

static void lives(sim *w, void *arg, uint64_t number);

int name_of(const sim *w, const char *address) {
    for (int n = 0; n < w->name_count; n++) {
        size_t len = strlen(w->names[n].name);
        if (strncmp(address, w->names[n].name, len) == 0 &&
            (address[len] == '\0' || address[len] == '/'))
            return n;
    }
    AFF_ASSERT(false);
    return 0;
}

person *person_of(sim *w, uint32_t socket) {
    return &w->people[w->socket_of[socket]];
}

static const char *who(const person *p) {
    static char text[16];
    snprintf(text, sizeof(text), "person %u", p->id);
    return text;
}

/* ---- Sending ------------------------------------------------------------------------------ */

typedef struct {
    server *to;
    item_kind kind;
    uint32_t socket;
    aff_slice frame;
} upward;

static void arrives(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    const upward *u = arg;
    server_push(u->to, &u->to->js, &(item){.kind = u->kind, .socket = u->socket, .data = u->frame});
}

static void send_up(person *p, item_kind kind, aff_slice frame) {
    sim *w = p->w;
    upward *u = sim_alloc(w, sizeof(*u));
    server *s = &w->servers[p->server];
    *u = (upward){.to = s, .kind = kind, .socket = p->socket, .frame = sim_copy(w, frame)};
    uint64_t at = in_turn(w, &p->up, takes(w, w->net_us));
    if (!s->engine || s->life != p->server_life) return;
    sim_at(w, at, s, NULL, arrives, u, 0);
}

static void send_frame(void *to, aff_slice frame) {
    person *p = to;
    if (p->is_open) send_up(p, CLIENT_SENDS, frame);
}

static wire wire_of(person *p) {
    return (wire){send_frame, p, p->id};
}

/* ---- Its socket --------------------------------------------------------------------------- */

static void try_connect(sim *w, void *arg, uint64_t number);

static void start_provider(person *p, int index) {
    provider *v = &p->providers[index];
    v->authenticated = v->synced = v->ended = false;
    p->last_epoch[index] = 0;
    p->said[index] = p->heard[index] = 0;
    provider_authenticates(wire_of(p), v);
}

/* The load balancer knows who lives and does not leave, and nothing more. */
static int find_server(sim *w) {
    int first = (int)below(w, (unsigned)w->server_count);
    for (int n = 0; n < w->server_count; n++) {
        int i = (first + n) % w->server_count;
        const server *s = &w->servers[i];
        if (s->engine && s->is_ready && !s->drains && !s->leaves) return i;
    }
    return -1;
}

static void try_connect(sim *w, void *arg, uint64_t number) {
    person *p = arg;
    (void)number;
    if (p->is_open || p->is_gone || w->sockets == 1023) return;
    int at = find_server(w);
    if (at < 0) {
        sim_at(w, w->now + 500 * MS, NULL, NULL, try_connect, p, 0);
    } else {
        person_connects(p, at);
    }
}

void person_connects(person *p, int at) {
    sim *w = p->w;
    p->is_open = true;
    p->connections++;
    p->server = at;
    p->server_life = w->servers[at].life;
    p->socket = ++w->sockets;
    p->opened_at = w->now;
    w->socket_of[p->socket] = p->id - 1;
    p->up = p->down = (pipe_order){0};
    sim_trace(w, who(p), "connects to %s: socket %u", w->servers[at].name, p->socket);
    send_up(p, CLIENT_OPENS, aff__none());
    for (int i = 0; i < OPEN_MAX; i++) {
        if (p->is_used[i]) start_provider(p, i);
    }
}

static void socket_ends(person *p) {
    sim *w = p->w;
    p->is_open = false;
    if (p->is_gone) return;
    sim_at(w, w->now + 50 * MS + below(w, 1000) * (uint64_t)MS, NULL, NULL, try_connect, p, 0);
}

/* Its own decision. */
static void close_socket(person *p) {
    if (!p->is_open) return;
    sim_trace(p->w, who(p), "closes its socket");
    send_up(p, CLIENT_CLOSES, aff__none());
    socket_ends(p);
}

void person_is_closed(sim *w, uint32_t socket, int from, unsigned code) {
    person *p = person_of(w, socket);
    if (!p->is_open || p->socket != socket || p->server != from) return;
    sim_trace(w, who(p), "is told to connect again (%u)", code);
    watch_closed(p, code);
    send_up(p, CLIENT_CLOSES, aff__none());
    socket_ends(p);
}

static void notices_death(sim *w, void *arg, uint64_t socket) {
    (void)w;
    person *p = arg;
    if (p->is_open && p->socket == socket) socket_ends(p);
}

void people_lose_server(server *s) {
    sim *w = s->w;
    for (int i = 0; i < w->person_count; i++) {
        person *p = &w->people[i];
        if (!p->is_open || p->server != s->index || p->server_life != s->life) continue;
        sim_at(w, w->now + takes(w, 20 * MS), NULL, NULL, notices_death, p, p->socket);
    }
    for (int n = 0; n < w->name_count; n++) w->names[n].by[s->index] = 0;
}

void person_receives(sim *w, uint32_t socket, int from, aff_slice data) {
    person *p = person_of(w, socket);
    if (!p->is_open || p->socket != socket || p->server != from) return;
    aff__client_frame frame;
    AFF_ASSERT(aff__parse_client_frame(data, &frame));
    const char *address = word(frame.address);
    for (int i = 0; i < OPEN_MAX; i++) {
        provider *v = &p->providers[i];
        if (!p->is_used[i] || strcmp(v->address, address) != 0) continue;
        bool was_in_sync = v->synced && v->unsynced == 0;
        watch_frame(p, i, &frame);
        provider_receives(wire_of(p), v, &frame);
        if (frame.type == AWARENESS) {
            awareness seen = awareness_in(&frame);
            sim_trace(w, who(p), "hears of person %u in %s: %s, clock %u", (unsigned)seen.id,
                      address, word(seen.state), (unsigned)seen.clock);
        }
        if (frame.type == AFF_HP_AUTH) sim_trace(w, who(p), "hears %s", frame_word(data));
        if (!was_in_sync && v->synced && v->unsynced == 0) {
            sim_trace(w, who(p), "is in sync with %s: %llx", v->address,
                      (unsigned long long)v->edits);
        }
    }
}

/* ---- What it does ------------------------------------------------------------------------- */

void person_opens(person *p, int index, const char *address) {
    provider *v = &p->providers[index];
    *v = (provider){.token = p->readonly ? "ro" : "token", .version = p->version};
    snprintf(v->address, ADDRESS_MAX, "%s", address);
    p->is_used[index] = true;
    if (p->is_open) start_provider(p, index);
}

static void open_document(person *p, int index, int name) {
    sim *w = p->w;
    char address[ADDRESS_MAX];
    snprintf(address, sizeof(address), chance(w, 250) ? "%s/s%u" : "%s", w->names[name].name,
             p->id);
    person_opens(p, index, address);
}

void person_types(person *p, int index) {
    sim *w = p->w;
    provider *v = &p->providers[index];
    document_info *d = &w->names[name_of(w, v->address)];
    if (p->readonly || d->next_edit >= 60) return;
    unsigned edit = d->next_edit++;
    sim_trace(w, who(p), "types %llx into %s", 1ull << edit, v->address);
    if (p->is_open && v->authenticated) {
        provider_types(wire_of(p), v, edit);
    } else { /* offline: goes out with the next SyncStep2 */
        v->edits |= 1ull << edit;
    }
}

static void says(person *p, int index) {
    sim *w = p->w;
    char text[32];
    int len =
        snprintf(text, sizeof(text), "%u.%u.%u", p->socket, (unsigned)index, ++p->said[index]);
    bytes frame = {0};
    make_stateless(&frame, address_of(p->providers[index].address), aff__slice(text, (size_t)len));
    sim_trace(w, who(p), "says %s", text);
    send_frame(p, slice(&frame));
    free(frame.data);
}

void person_does_something(person *p) {
    sim *w = p->w;
    int index = (int)below(w, OPEN_MAX);
    if (!p->is_used[index]) index = 0;
    provider *v = &p->providers[index];
    bool speaks = p->is_open && p->is_used[index] && v->authenticated && !v->ended;
    switch (below(w, 40)) {
        case 0: close_socket(p); return;
        case 1:
            if (!p->is_open) return;
            for (int i = 0; i < OPEN_MAX; i++) {
                if (p->is_used[i] || w->heals) continue;
                int name = (int)below(w, (unsigned)w->name_count);
                if (name_of(w, p->providers[1 - i].address) != name) open_document(p, i, name);
                return;
            }
            return;
        case 2:
        case 3:
        case 4:
        case 5:
            if (speaks) says(p, index);
            return;
        case 6:
        case 7:
        case 8:
        case 9:
            if (!speaks) return;
            provider_points(wire_of(p), v, 1 + below(w, 1000));
            sim_trace(w, who(p), "points in %s: %u, clock %u", v->address, (unsigned)v->cursor,
                      (unsigned)v->clock);
            return;
        default:
            if (p->is_used[index]) person_types(p, index);
    }
}

static void lives(sim *w, void *arg, uint64_t number) {
    (void)number;
    person *p = arg;
    if (p->is_gone || w->heals) return;
    person_does_something(p);
    sim_at(w, w->now + 20 * MS + below(w, 1200) * (uint64_t)MS, NULL, NULL, lives, p, 0);
}

void person_leaves(person *p) {
    p->is_gone = true;
    close_socket(p);
    p->is_open = false;
}

void people_start(sim *w) {
    for (int i = 0; i < w->person_count; i++) {
        person *p = &w->people[i];
        p->w = w;
        p->id = (uint32_t)i + 1;
        p->version = chance(w, 750) ? "4.8.0" : NULL;
        p->readonly = i > 0 && chance(w, 120);
        int name = (int)below(w, (unsigned)w->name_count);
        open_document(p, 0, name);
        if (w->name_count > 1 && chance(w, 400)) open_document(p, 1, (name + 1) % w->name_count);
        uint64_t at = w->now + below(w, 3000) * (uint64_t)MS;
        sim_at(w, at, NULL, NULL, try_connect, p, 0);
        sim_at(w, at + 300 * MS, NULL, NULL, lives, p, 0);
    }
}
