/* watch.c - the invariants of the cluster, by the numbers of ARCHITECTURE.md. */
#include "sim.h"

#include <stdio.h>

enum { MEMORY_MAX = 4 << 20 };

/* ---- While it runs ------------------------------------------------------------------------------
 */

static entry *membership(sim *w, const server *s) {
    char key[32];
    snprintf(key, sizeof(key), "rsaServer:%s", s->name);
    return redis_find(&w->redis, redis_ms(w), aff__str(key));
}

/* By its own clock, and by what stands in Redis. */
static bool is_member(sim *w, const server *s) {
    if (!s->engine || server_clock(s) >= aff_valid_until(s->engine)) return false;
    const entry *e = membership(w, s);
    return e && aff__equal(slice(&e->value), aff__str(aff_boot(s->engine)));
}

static bool owns(const server *s, int name) {
    const aff__doc *doc = aff__doc_find(s->engine, aff__str(s->w->names[name].name));
    return doc && doc->state == AFF_DOC_OWNED;
}

/* I40: what a connected member takes for its own stands in Redis as its own. (Its engine has heard
 * of all that has become of its connection: this is called when the thread has nothing left to do.)
 */
static void watch_records(sim *w, const server *s) {
    if (w->redis_was_flushed || !s->commands.up || s->engine->member.stalled) return;
    if (!is_member(w, s)) return;
    for (int n = 0; n < w->name_count; n++) {
        if (!owns(s, n)) continue;
        char key[32];
        const uint8_t *boot = NULL;
        snprintf(key, sizeof(key), "rsaLock:%s", w->names[n].name);
        const entry *e = redis_find(&w->redis, redis_ms(w), aff__str(key));
        if (e && redis_epoch(e, &boot) && !memcmp(boot, aff_boot(s->engine), AFF_BOOT_LEN))
            continue;
        sim_fail(w, "I40: %s owns %s without a record", s->name, w->names[n].name);
    }
}

void watch_step(server *s) {
    sim *w = s->w;
    /* I34: the memory of an engine is bounded. */
    if (s->memory > MEMORY_MAX) sim_fail(w, "I34: %s uses %zu bytes", s->name, s->memory);
    if (w->redis.epochs_shrank) sim_fail(w, "I4: the epochs of a document shrink");
    /* I37: a server takes itself for a member no longer than Redis does; so its clock may run slow,
     * and its process stand still. */
    bool believes = server_clock(s) < aff_valid_until(s->engine);
    if (believes && w->now > s->renewed_at + s->config.lock_ttl_ms * MS) {
        sim_fail(w, "I37: %s takes itself for a member", s->name);
    }
    watch_records(w, s);
    if (w->redis_was_lost || !is_member(w, s)) return;
    for (int n = 0; n < w->name_count; n++) { /* I1 */
        if (!owns(s, n)) continue;
        for (int i = 0; i < w->server_count; i++) {
            const server *other = &w->servers[i];
            if (other == s || !is_member(w, other) || !owns(other, n)) continue;
            sim_fail(w, "I1: %s is owned by %s and %s", w->names[n].name, s->name, other->name);
        }
    }
}

void watch_grant(sim *w, server *s, aff_slice key, aff_slice record) {
    const char *name = word(aff__slice(key.data + 8, key.len - 8)); /* behind rsaLock: */
    document_info *d = &w->names[name_of(w, name)];
    uint64_t epoch = strtoull((const char *)record.data, NULL, 10);
    bool is_own = record.data[record.len - 1] == (uint8_t)s->name[0]; /* else: given */
    if (is_own && d->confirmed[s->index][0].epoch != epoch) {
        d->confirmed[s->index][1] = d->confirmed[s->index][0];
    }
    if (is_own) {
        d->confirmed[s->index][0].epoch = epoch;
        d->confirmed[s->index][0].at = w->now;
    }
    for (unsigned g = 0; g < d->grants && g < 64; g++) {
        if (d->granted_epoch[g] == epoch) return;
    }
    d->granted_epoch[d->grants % 64] = epoch;
    d->granted_at[d->grants++ % 64] = w->now;
    w->totals.epochs++;
}

/* When Redis has last told a server that it owns a document under this epoch. */
uint64_t watch_confirmed(const document_info *d, const server *s, uint64_t epoch) {
    for (int i = 0; i < 2; i++) {
        if (d->confirmed[s->index][i].epoch == epoch) return d->confirmed[s->index][i].at;
    }
    return 0; /* long ago */
}

/*
 * I28: a store by an older epoch after one by a newer was confirmed before the newer was granted;
 * or by a Redis that has lost that grant (README: "a fail-over to a replica that lacks the last
 * writes").
 */
void watch_store(sim *w, int name, int by, uint64_t epoch, uint64_t confirmed_at) {
    const document_info *d = &w->names[name];
    if (epoch >= d->stored_epoch) return;
    w->totals.late_stores++;
    for (unsigned g = 0; g < d->grants && g < 64; g++) {
        if (d->granted_epoch[g] != d->stored_epoch || d->granted_at[g] > confirmed_at) continue;
        if (d->granted_at[g] <= w->redis_lost_at && w->redis_lost_at <= confirmed_at) continue;
        sim_fail(w, "I28: %s stores %s under %llu after %llu, which was granted before",
                 w->servers[by].name, d->name, (unsigned long long)epoch,
                 (unsigned long long)d->stored_epoch);
    }
}

/* How often links have started anew: what was sent over them may have arrived or not. */
static unsigned resets(const sim *w) {
    unsigned n = 0;
    for (int i = 0; i < w->server_count; i++) {
        const server *s = &w->servers[i];
        aff_stats stats = {0};
        if (s->engine) aff_get_stats(s->engine, &stats);
        n += s->resets + (unsigned)stats.resets;
    }
    return n;
}

unsigned links_anew(const sim *w) {
    unsigned n = resets(w);
    for (int i = 0; i < w->server_count; i++) n += w->servers[i].false_alarms;
    return n;
}

/* I30: what a client says arrives at owners in order: each message first after those before it. */
void watch_stateless(server *s, aff_slice data) {
    sim *w = s->w;
    unsigned socket, index, number;
    aff__client_frame frame;
    AFF_ASSERT(aff__parse_client_frame(data, &frame));
    if (frame.type != STATELESS ||
        sscanf(word(stateless_in(&frame)), "%u.%u.%u", &socket, &index, &number) != 3)
        return;
    person *p = person_of(w, socket);
    if (p->socket != socket || index >= OPEN_MAX) return;
    if (number > p->heard[index] + 1 && resets(w) == 0) {
        sim_fail(w, "I30: %s hears %u.%u.%u, and %u is the last before it", s->name, socket, index,
                 number, p->heard[index]);
    }
    if (number > p->heard[index]) p->heard[index] = number;
}

void watch_frame(person *p, int index, const aff__client_frame *frame) {
    sim *w = p->w;
    const provider *v = &p->providers[index];
    w->totals.frames++;
    /* I31: a client is told of a document's end only if it has asked for it. */
    if (frame->type == AFF_HP_CLOSE ||
        (frame->type == AFF_HP_AUTH && frame->sub == AFF_HP_DENIED)) {
        sim_fail(w, "I31: person %u is sent away from %s", p->id, v->address);
    }
    /* I32: nothing is acknowledged that was not changed. */
    if (frame->type == STATUS && frame->sub == 1 && v->unsynced == 0) {
        sim_fail(w, "I32: person %u gets one acknowledgement of %s too many", p->id, v->address);
    }
    /* I29: no frame of an older epoch after one of a newer. */
    if (frame->type != STATELESS) return;
    uint64_t epoch = strtoull(word(stateless_in(frame)) + 1, NULL, 10);
    if (epoch < p->last_epoch[index]) {
        sim_fail(w, "I29: person %u hears of %s under %llu after %llu", p->id, v->address,
                 (unsigned long long)epoch, (unsigned long long)p->last_epoch[index]);
    }
    p->last_epoch[index] = epoch;
}

void watch_closed(person *p, unsigned code) {
    (void)code;
    p->w->totals.closed_sockets++;
}

/* ---- At the end --------------------------------------------------------------------------- */

static bool differs(sim *w, bool explain, const char *who, const char *what, uint64_t has,
                    uint64_t wanted) {
    if (has == wanted) return false;
    if (explain) {
        fprintf(stderr, "%s: %s is %llx, not %llx\n", who, what, (unsigned long long)has,
                (unsigned long long)wanted);
    }
    (void)w;
    return true;
}

/*
 * I38: nobody's cursor vanishes because the document has moved, as long as the sockets last. (A
 * provider that connects again, or points while its document moves, may use a clock that others
 * have heard of; that heals itself with its next move, and with y-protocols' renewal after 15 s.)
 */
static bool are_cursors_in_sync(sim *w, const provider *v, uint32_t id, bool explain) {
    bool good = true;
    int n = name_of(w, v->address);
    if (w->people[id - 1].connections > 1) return true;
    for (int k = 0; k < w->person_count; k++) {
        const person *p = &w->people[k];
        for (int i = 0; i < OPEN_MAX && !p->is_gone && p->id != id; i++) {
            const provider *other = &p->providers[i];
            if (!p->is_used[i] || name_of(w, other->address) != n || p->connections > 1) continue;
            char who[64];
            snprintf(who, sizeof(who), "person %u, %s, of person %u", p->id, other->address, id);
            good &= !differs(w, explain, who, "sees the cursor", other->cursors[id] != 0,
                             v->cursor != 0);
        }
    }
    return good;
}

static bool is_name_in_sync(sim *w, int n, bool explain) {
    const document_info *d = &w->names[n];
    uint64_t all = d->must;
    bool good = true;
    for (int i = 0; i < w->server_count; i++) {
        all |= d->by[i];
        if (w->servers[i].engine) all |= facade_edits(&w->servers[i], n);
    }
    for (int k = 0; k < w->person_count; k++) {
        const person *p = &w->people[k];
        for (int i = 0; i < OPEN_MAX && !p->is_gone && !p->readonly; i++) {
            if (p->is_used[i] && name_of(w, p->providers[i].address) == n) {
                all |= p->providers[i].edits;
            }
        }
    }
    for (int k = 0; k < w->person_count; k++) {
        const person *p = &w->people[k];
        char who[64];
        for (int i = 0; i < OPEN_MAX && !p->is_gone; i++) {
            const provider *v = &p->providers[i];
            if (!p->is_used[i] || name_of(w, v->address) != n) continue;
            snprintf(who, sizeof(who), "person %u, %s, socket %u at %d%s%s", p->id, v->address,
                     p->socket, p->server, p->is_open ? "" : ", closed",
                     v->authenticated ? "" : ", not authenticated");
            good &= !differs(w, explain, who, "is open", p->is_open, true);
            good &= !differs(w, explain, who, "what it has", v->edits & all, all);
            if (!p->readonly) good &= !differs(w, explain, who, "unsynced", v->unsynced, 0);
            good &= are_cursors_in_sync(w, v, p->id, explain);
            if (resets(w) > 0) continue;
            good &= !differs(w, explain, who, "what was heard of it", p->heard[i], p->said[i]);
        }
    }
    good &= !differs(w, explain, d->name, "what is stored", d->stored & all, all);
    return good;
}

/* I36: every edit that a living client or server holds is stored, and at every living client. */
bool watch_is_in_sync(sim *w, bool explain) {
    bool good = true;
    for (int n = 0; n < w->name_count; n++) good &= is_name_in_sync(w, n, explain);
    for (int i = 0; i < w->server_count; i++) {
        const server *s = &w->servers[i];
        good &= !differs(w, explain, s->name, "is ready", s->engine && s->is_ready, true);
        if (!s->engine) continue;
        good &= !differs(w, explain, s->name, "is leaving", s->leaves || s->drains, false);
        good &= !differs(w, explain, s->name, "is busy", facade_is_busy(s), false);
    }
    for (unsigned e = 0; e < w->event_count; e++) {
        const server *s = &w->servers[w->events[e].server];
        if (!w->events[e].answers && s->engine && s->life == w->events[e].life) {
            if (w->now > w->events[e].deadline + 60 * (uint64_t)SECOND) {
                sim_fail(w, "I33: event %u of %s is never answered", e, s->name);
            }
            good = false;
        }
    }
    return good;
}

/* A record of a boot that lives still. Where a connection broke, a release may not have happened:
 * such a record falls to the next claim. */
static bool is_left_behind(sim *w, const char *key) {
    const entry *e = redis_find(&w->redis, redis_ms(w), aff__str(key));
    const uint8_t *boot = e ? memchr(e->value.data, ' ', e->value.len) : NULL;
    for (int i = 0; i < w->server_count && boot && !w->cuts; i++) {
        const server *s = &w->servers[i];
        if (s->engine && memcmp(boot + 1, aff_boot(s->engine), AFF_BOOT_LEN) == 0) return true;
    }
    return false;
}

/* I35: when all have gone nothing is left of them. */
static bool is_empty(sim *w, bool explain) {
    bool good = true;
    for (int i = 0; i < w->server_count; i++) {
        const server *s = &w->servers[i];
        if (!s->engine) continue;
        aff_stats stats;
        aff_get_stats(s->engine, &stats);
        good &= !differs(w, explain, s->name, "documents", stats.documents, 0);
        good &= !differs(w, explain, s->name, "sockets", stats.sockets, 0);
        good &= !differs(w, explain, s->name, "routes", stats.routes, 0);
        good &= !differs(w, explain, s->name, "proxies", stats.proxies, 0);
        good &= !differs(w, explain, s->name, "queued", stats.queued, 0);
        good &= !differs(w, explain, s->name, "backlog", stats.backlog, 0);
        good &= !differs(w, explain, s->name, "loaded", facade_loaded(s), 0);
    }
    for (int n = 0; n < w->name_count; n++) {
        char key[32];
        snprintf(key, sizeof(key), "rsaLock:%s", w->names[n].name);
        good &= !differs(w, explain, "redis", key, is_left_behind(w, key), 0);
    }
    return good;
}

/* When the last message that is under way will be read: a dead server's peers hear of it until
 * then.
 */
static uint64_t all_is_read(const sim *w) {
    uint64_t at = w->now;
    for (int i = 0; i < w->server_count; i++) {
        if (w->servers[i].paused_until > at) at = w->servers[i].paused_until;
        const redis_link *links[] = {&w->servers[i].commands, &w->servers[i].listener};
        for (int k = 0; k < 2; k++) {
            if (links[k]->in.last_at > at) at = links[k]->in.last_at;
            if (links[k]->out.last_at > at) at = links[k]->out.last_at;
        }
    }
    return at;
}

void watch_end(sim *w) {
    /* A proxy socket outlives the last word of its origin by 30 s, and that can be 20 s on its way.
     */
    uint64_t until = all_is_read(w) + 60 * (uint64_t)SECOND;
    while (!is_empty(w, false)) {
        if (w->now >= until) {
            is_empty(w, true);
            sim_fail(w, "I35: something is left");
        }
        uint64_t next = w->now + 500 * MS;
        while (sim_next(w, next)) continue;
    }
}
