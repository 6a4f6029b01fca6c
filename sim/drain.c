/* drain.c - as js/src/drain.ts: a server hands on all that it has; and how it leaves. */
#include "facade.h"

enum { DRAIN_MS = 10000, LAST_HAND_OVER_MS = 500, AT_ONCE = 2, LOOK_AGAIN_MS = 20 };

/* ---- The process ends ---------------------------------------------------------------------------
 */

static void process_ends(sim *w, void *arg, uint64_t number) {
    (void)number;
    server *s = arg;
    bool in_good_order = s->facade->leaves && !s->facade->leave_failed && !facade_is_busy(s);
    for (int n = 0; n < w->name_count; n++) {
        if (in_good_order) w->names[n].must |= w->names[n].by[s->index];
    }
    server_kill(s);
}

void drain_stopped(server *s) {
    s->facade->stopped = true;
    facade_close_all(s, 1012);
    hocus_after(s, 50 * MS, process_ends, s, 0);
}

static void leave_cluster(server *s) {
    if (s->facade->stopping) return;
    s->facade->stopping = true;
    sim_trace(s->w, s->name, "leaves");
    s->leaves = true;
    facade_post(s, &(aff_event){.type = AFF_EV_SHUTDOWN});
}

/* ---- One document -------------------------------------------------------------------------------
 */

static void is_left(server *s) {
    s->facade->leaving--;
}

static void ask_to_leave(sim *w, void *arg, uint64_t number);

/* #free(), and the rest of #leave() */
static void freed(server *s, void *arg, const aff_action *a) {
    instance *i = arg;
    bool was_ours = a->status == 0, done = was_ours || a->status == AFF_EOWNED;
    if (!done && hocus_named(s, i->name)->current == i && s->w->now < s->facade->drain_until) {
        hocus_after(s, LOOK_AGAIN_MS * MS, ask_to_leave, i, 0);
        return;
    }
    if (!done) s->facade->leave_failed = true;
    if (i->is_lost || !done) {
        is_left(s);
        return;
    }
    bool has_clients = i->document.connections != NULL;
    bool is_changed = i->changes_stored != changes_made(i);
    hocus_evict(s, i->name, !was_ours || is_changed || i->direct > 0);
    if (has_clients) {
        handover_taken(s, i->name, is_left);
    } else {
        is_left(s);
    }
}

static void ask_to_leave(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    const instance *i = arg;
    if (i->s->facade->stopping) return;
    uint64_t request = facade_ask(i->s, freed, arg);
    facade_post(i->s,
                &(aff_event){.type = AFF_EV_LEAVE, .request = request, .document = name_slice(i)});
}

static void wait_for_store(sim *w, void *arg, uint64_t number) {
    (void)number;
    instance *i = arg;
    if (hocus_named(i->s, i->name)->running) {
        hocus_after(i->s, 2 * MS, wait_for_store, i, 0);
        return;
    }
    i->turn_over = true;
    ask_to_leave(w, i, 0);
}

/* ---- All of them --------------------------------------------------------------------------------
 */

static void leave_some(server *s) {
    for (int name = 0; name < s->w->name_count && s->facade->leaving < AT_ONCE; name++) {
        instance *i = hocus_named(s, name)->current;
        if (!i || i->turn_given) continue;
        s->facade->leaving++;
        hocus_give_turn(i);
        wait_for_store(s->w, i, 0);
    }
}

static void left_at_once(server *s, void *arg, const aff_action *a) {
    (void)a;
    const instance *i = arg;
    s->facade->leaving_at_once--;
    if (!i->is_lost) hocus_evict(s, i->name, true);
}

/* #leaveTheRest() */
static void leave_the_rest(server *s) {
    for (int name = 0; name < s->w->name_count; name++) {
        instance *i = hocus_named(s, name)->current;
        if (!i || !i->is_tracked) continue;
        s->facade->leaving_at_once++;
        uint64_t request = facade_ask(s, left_at_once, i);
        facade_post(s, &(aff_event){.type = AFF_EV_LEAVE,
                                    .request = request,
                                    .document = name_slice(i),
                                    .flag = true});
    }
}

static void look_whether_handed(sim *w, void *arg, uint64_t until) {
    server *s = arg;
    if (s->facade->leaving_at_once || (s->facade->handing && w->now < until)) {
        hocus_after(s, 5 * MS, look_whether_handed, s, until);
    } else if (s->facade->leaves) {
        leave_cluster(s);
    }
}

static void look_whether_drained(sim *w, void *arg, uint64_t number) {
    (void)number;
    server *s = arg;
    facade *f = s->facade;
    bool over = w->now >= f->drain_until;
    leave_some(s); /* those that were being loaded, too */
    if ((f->leaving || f->handing || facade_loaded(s)) && !over) {
        hocus_after(s, 5 * MS, look_whether_drained, s, 0);
        return;
    }
    leave_the_rest(s);
    look_whether_handed(w, s, w->now + LAST_HAND_OVER_MS * MS);
}

void facade_drain(server *s, bool leave) {
    facade *f = s->facade;
    if (f->drains || !s->is_ready) return;
    sim_trace(s->w, s->name, "drains");
    s->drains = f->drains = true;
    f->leaves = leave;
    f->drain_until = s->w->now + DRAIN_MS * (uint64_t)MS;
    facade_post(s, &(aff_event){.type = AFF_EV_DRAIN});
    look_whether_drained(s->w, s, 0);
}
