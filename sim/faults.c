/* faults.c - what goes wrong, and when; and what operators do. */
#include "sim.h"

static void happens(sim *w, void *arg, uint64_t until);

static server *any_server(sim *w) {
    return &w->servers[below(w, (unsigned)w->server_count)];
}

static int any_name(sim *w) {
    return (int)below(w, (unsigned)w->name_count);
}

static int count_living(const sim *w) {
    int n = 0;
    for (int i = 0; i < w->server_count; i++) {
        n += w->servers[i].engine && !w->servers[i].leaves && !w->servers[i].drains;
    }
    return n;
}

static uint64_t some_time(sim *w, unsigned most_ms) {
    return w->now + (1 + below(w, chance(w, 700) ? most_ms / 8 + 1 : most_ms)) * (uint64_t)MS;
}

/* Its operator sees to it; also where a former run of it has still been a member. */
static void starts_again(sim *w, void *arg, uint64_t number) {
    (void)number;
    server *s = arg;
    if (!s->engine && !w->ends) server_start(s);
}

/* The same serverId, soon or late. */
static void crash(sim *w, server *s) {
    if (!s->engine || count_living(w) < 2) return;
    server_kill(s);
    sim_at(w, some_time(w, 15000), NULL, NULL, starts_again, s, 0);
}

/* What its application does, when its JavaScript gets to it. */
static void application_does(sim *w, void *arg, uint64_t number) {
    server *s = arg;
    int name = (int)(number & 0xff);
    if (!s->is_ready || w->heals) return;
    switch (number >> 8) {
        case 0: facade_drain(s, true); return;
        case 1: facade_hold(s, name); return;
        case 2: facade_emit(s, name); return;
        case 3: facade_write(s, name); return;
        case 4: facade_move(s, name, any_server(w)->index); return;
        default: facade_announce(s, name); return;
    }
}

static void application(sim *w, server *s, uint64_t what) {
    if (!s->engine) return;
    uint64_t number = what << 8 | (unsigned)any_name(w);
    sim_at(w, w->now, s, &s->js, application_does, s, number);
}

static void replica_is_promoted(sim *w, void *arg, uint64_t number) {
    (void)arg, (void)number;
    if (w->heals) return;
    if (chance(w, 300)) {
        w->redis_clock_ms -= below(w, 100);
        redis_forget_epochs(&w->redis); /* what was granted last may be above what comes */
    }
    redis_goes(w, some_time(w, 2000), false, true);
}

static void do_one(sim *w) {
    server *s = any_server(w);
    switch (below(w, 30)) {
        case 0:
        case 1: crash(w, s); return;
        case 2:
        case 3: server_stall(s, some_time(w, (unsigned)(s->stall_limit / MS) * 2)); return;
        case 4:
        case 5: server_pause(s, some_time(w, (unsigned)s->config.lock_ttl_ms * 2)); return;
        case 6:
            if (s->engine) server_cut(s, chance(w, 800));
            return;
        case 7:
            if (s->engine) server_deafen(s);
            return;
        case 8:
        case 9:
            if (!s->engine) return;
            s->far_until = some_time(w, (unsigned)s->config.lock_ttl_ms * 2);
            sim_trace(w, s->name, "can't be heard by Redis for %llu ms",
                      (unsigned long long)(s->far_until - w->now) / MS);
            /* A silent connection is given up in the end. */
            if (s->far_until - w->now > 15 * (uint64_t)SECOND) server_cut(s, false);
            return;
        case 10:
            if (chance(w, 400)) redis_goes(w, some_time(w, 4000), true, false);
            return;
        case 11:
            if (chance(w, 300)) redis_goes(w, some_time(w, 25000), false, false);
            return;
        case 12:
            redis_copy(&w->replica, &w->redis);
            sim_at(w, some_time(w, 2000), NULL, NULL, replica_is_promoted, NULL, 0);
            return;
        case 13:
            if (s->engine && count_living(w) > 1 && chance(w, 600)) {
                application(w, s, 0);
                sim_at(w, w->now + 12 * SECOND + below(w, 5000) * (uint64_t)MS, NULL, NULL,
                       starts_again, s, 0);
            }
            return;
        case 14:
        case 15: application(w, s, 1); return;
        case 16:
        case 17:
        case 18: application(w, s, 2); return;
        case 19:
        case 20: application(w, s, 3); return;
        case 21:
            if (chance(w, 300)) redis_is_flushed(w);
            return;
        case 22: tcp_break_any(s); return;
        case 25:
        case 26: application(w, s, 4); return;
        case 23:
        case 24: tcp_silence_any(s, some_time(w, 8000)); return;
        default: application(w, s, 5); return;
    }
}

static void happens(sim *w, void *arg, uint64_t until) {
    (void)arg;
    if (w->heals || w->now > until) return;
    do_one(w);
    sim_at(w, w->now + below(w, 700) * (uint64_t)MS, NULL, NULL, happens, NULL, until);
}

void faults_plan(sim *w, uint64_t until) {
    sim_at(w, w->now + 2 * SECOND, NULL, NULL, happens, NULL, until);
}

static void look_after(sim *w, void *arg, uint64_t number) {
    (void)arg;
    for (int i = 0; i < w->server_count; i++) starts_again(w, &w->servers[i], number);
    if (!w->ends) sim_at(w, w->now + 5 * SECOND, NULL, NULL, look_after, NULL, 0);
}

/* Nothing new goes wrong, what stands still goes on, who is dead comes back. */
void faults_heal(sim *w) {
    w->heals = true;
    sim_at(w, w->now + 5 * SECOND, NULL, NULL, look_after, NULL, 0);
    for (int i = 0; i < w->server_count; i++) {
        server *s = &w->servers[i];
        if (!s->engine) server_start(s);
        if (s->far_until > w->now) s->far_until = w->now;
        tcp_heal(s);
    }
}
