#include "scenarios.h"

#include <stdio.h>

/* Two people type into docP: the first at the server that owns it, the other elsewhere. */
static void begin(sim *w) {
    for (int i = 0; i < w->server_count; i++) server_start(&w->servers[i]);
    sim_until(w, 1 * SECOND);
    for (int i = 0; i < 2; i++) {
        person *p = &w->people[i];
        *p = (person){.w = w, .id = (uint32_t)i + 1, .version = "4.8.0"};
        person_opens(p, 0, "docP");
        person_connects(p, i);
        sim_until(w, 500 * MS);
    }
    person_types(&w->people[0], 0);
    person_types(&w->people[1], 0);
    sim_until(w, 1 * SECOND);
}

static void both_type(sim *w) {
    person_types(&w->people[0], 0);
    person_types(&w->people[1], 0);
}

static void end(sim *w) {
    sim_until(w, 5 * SECOND);
    if (!watch_is_in_sync(w, true)) sim_fail(w, "I36: not in sync");
}

static void owner_killed(sim *w) {
    begin(w);
    sim_note(w, "the owner is killed; its own client connects elsewhere");
    server_kill(&w->servers[0]);
    person_types(&w->people[1], 0);
    sim_until(w, 5 * SECOND);
    server_start(&w->servers[0]);
    end(w);
}

static void drain(sim *w) {
    begin(w);
    sim_note(w, "the owner is asked to leave");
    facade_drain(&w->servers[0], true);
    both_type(w);
    sim_until(w, 2 * SECOND);
    server_start(&w->servers[0]);
    end(w);
}

static void moved(sim *w) {
    begin(w);
    sim_note(w, "an operator moves the document");
    facade_move(&w->servers[0], 0, 2);
    both_type(w);
    sim_until(w, 2 * SECOND);
    end(w);
}

static void redis_restart(sim *w) {
    begin(w);
    sim_note(w, "Redis restarts without its data");
    redis_goes(w, w->now + 1 * SECOND, true, false);
    sim_until(w, 200 * MS);
    both_type(w);
    sim_until(w, 3 * SECOND);
    end(w);
}

static void lost_batch(sim *w) {
    begin(w);
    sim_note(w, "one batch is lost on its way to the owner");
    w->lose_next = &w->servers[0];
    person_types(&w->people[1], 0);
    end(w);
}

const scenario scenarios[] = {
    {"owner-killed", "the owner of a document is killed", owner_killed},
    {"drain", "the owner of a document leaves in good order", drain},
    {"moved", "a document is moved to another server", moved},
    {"redis-restart", "Redis restarts without its data", redis_restart},
    {"lost-batch", "a message between two servers is lost", lost_batch},
    {NULL, NULL, NULL},
};

void scenario_run(sim *w, const scenario *s, char **text, size_t *len) {
    sim_init(w, 1);
    w->trace_to = open_memstream(text, len);
    AFF_ASSERT(w->trace_to);
    fprintf(w->trace_to, "# %s\n", s->about);
    w->traces = true;
    w->plan = s->play;
    sim_run(w);
    fclose(w->trace_to);
    sim_free(w);
}
