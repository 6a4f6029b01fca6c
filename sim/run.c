/* run.c - a run: what a seed is like, its faults, its healing, its end. */
#include "sim.h"

#include <stdio.h>

static void draw_world(sim *w) {
    static const unsigned lock_ttls[] = {3000, 5000, 10000};
    w->server_count = 2 + (int)below(w, 5);
    if (w->server_count > 4 && chance(w, 600)) w->server_count -= 2;
    w->person_count = 2 + (int)below(w, PEOPLE_MAX - 1);
    w->name_count = 1 + (int)below(w, NAMES_MAX);
    w->net_us = 200 + below(w, 20000);
    w->redis_us = 50 + below(w, chance(w, 200) ? 20000 : 1000);
    w->thread_us = 20 + below(w, 300);
    w->store_us = 500 + below(w, chance(w, 200) ? 150000 : 10000);
    w->loss = chance(w, 500) ? below(w, 30) : 0;
    w->debounce_us = (50 + below(w, 2000)) * (uint64_t)MS;
    w->max_debounce_us = w->debounce_us * (2 + below(w, 4));
    w->fail_closed = chance(w, 150);
    uint64_t lock_ttl = lock_ttls[below(w, 3)], event_ttl = 1000 + below(w, 5000);
    bool has_links = chance(w, 500);
    uint64_t proxy_ttl = 5000 + below(w, 25000), stall = (2 + below(w, 10)) * (uint64_t)SECOND;
    for (int n = 0; n < NAMES_MAX; n++) {
        snprintf(w->names[n].name, sizeof(w->names[n].name), "doc%c", 'P' + n);
        w->names[n].fences = chance(w, 300);
    }
    for (int i = 0; i < SERVERS_MAX; i++) {
        server *s = &w->servers[i];
        s->w = w;
        s->index = i;
        s->name[0] = (char)('A' + i);
        s->rate_ppm = 1000000 - 30000 + below(w, 60000); /* up to 3 % fast or slow */
        s->stall_limit = stall;
        s->config = (aff_config){.server_id = s->name,
                                 .prefix = "rsa",
                                 .direct_address = has_links && chance(w, 850) ? s->name : NULL,
                                 .lock_ttl_ms = lock_ttl,
                                 .proxy_socket_ttl_ms = proxy_ttl,
                                 .event_ttl_ms = event_ttl,
                                 .places = w->seed * 2654435761u / 1024 % 3 == 0};
    }
}

/* In a scenario nothing but latencies is left to chance. */
static void lay_out_stage(sim *w) {
    w->server_count = 3;
    w->person_count = 2;
    w->name_count = 1;
    w->net_us = 2000;
    w->redis_us = 200;
    w->thread_us = 50;
    w->store_us = 1000;
    w->loss = 0;
    w->debounce_us = 500 * MS;
    w->max_debounce_us = 2 * SECOND;
    w->fail_closed = false;
    for (int i = 0; i < SERVERS_MAX; i++) {
        w->servers[i].config.direct_address = NULL;
        w->servers[i].config.places = false;
    }
}

static void gather_totals(sim *w) {
    for (int i = 0; i < w->server_count; i++) {
        if (!w->servers[i].engine) continue;
        aff_stats stats;
        aff_get_stats(w->servers[i].engine, &stats);
        w->totals.failovers += stats.failovers;
        w->totals.takeovers += stats.takeovers;
        w->totals.gaps += stats.gaps;
        w->totals.resets += stats.resets;
    }
}

/* Within this time of the last fault all must be well again. */
enum { HEALS_WITHIN_S = 90 };

static void heal(sim *w) {
    faults_heal(w);
    sim_trace(w, "all", "nothing goes wrong any more");
    uint64_t until = w->now + HEALS_WITHIN_S * (uint64_t)SECOND;
    for (int good = 0; good < 2;) {
        sim_until(w, 1 * SECOND);
        good = watch_is_in_sync(w, false) ? good + 1 : 0;
        if (w->now < until) continue;
        watch_is_in_sync(w, true);
        sim_fail(w, "I36: not in sync %d s after the last fault", HEALS_WITHIN_S);
    }
}

static void go_home(sim *w) {
    w->ends = true;
    sim_trace(w, "all", "in sync; all go home");
    for (int i = 0; i < w->person_count; i++) person_leaves(&w->people[i]);
    watch_end(w);
    gather_totals(w);
    for (int i = 0; i < w->server_count; i++) server_kill(&w->servers[i]);
}

void sim_run(sim *w) {
    draw_world(w);
    if (w->plan) {
        lay_out_stage(w);
        w->plan(w);
        return;
    }
    for (int i = 0; i < w->server_count; i++) server_start(&w->servers[i]);
    people_start(w);
    uint64_t lasts = (8 + below(w, 20)) * (uint64_t)SECOND;
    faults_plan(w, w->now + lasts);
    sim_until(w, lasts);
    heal(w);
    go_home(w);
}
