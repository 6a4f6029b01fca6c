/* move.c - as js/src/move.ts and placement.ts: documents go to servers that somebody has chosen. */
#include "facade.h"

/* It may have been closed meanwhile. */
static void stays(instance *i) {
    i->s->facade->leaving--;
    i->turn_given = false;
    if (!i->is_lost) hocus_may_unload(i);
}

static void is_moved(server *s) {
    s->facade->leaving--;
}

static void given(server *s, void *arg, const aff_action *a) {
    instance *i = arg;
    bool was_ours = a->status == 0;
    if (i->is_lost || (!was_ours && a->status != AFF_EOWNED)) {
        stays(i);
        return;
    }
    i->turn_given = false;
    bool is_changed = i->changes_stored != changes_made(i) || hocus_named(s, i->name)->running;
    hocus_evict(s, i->name, !was_ours || is_changed || i->direct > 0);
    handover_taken(s, i->name, is_moved);
}

static void gives(sim *w, void *arg, uint64_t number) {
    instance *i = arg;
    server *s = i->s;
    const server *to = &w->servers[number];
    if (hocus_named(s, i->name)->running) { /* a store of before */
        hocus_after(s, 2 * MS, gives, i, number);
        return;
    }
    if (!to->engine || i->is_lost || hocus_named(s, i->name)->current != i) {
        stays(i);
        return;
    }
    facade_post(s, &(aff_event){.type = AFF_EV_LEAVE,
                                .request = facade_ask(s, given, i),
                                .document = aff__str(w->names[i->name].name),
                                .name = aff__str(to->name),
                                .data = sim_copy(w, aff__str(aff_boot(to->engine)))});
}

void facade_move(server *s, int name, int to) {
    named *n = hocus_named(s, name);
    instance *i = n->current;
    if (!i || !i->is_tracked || i->turn_given || n->holds || s->facade->drains || to == s->index)
        return;
    sim_trace(s->w, s->name, "moves %s to %s", s->w->names[name].name, s->w->servers[to].name);
    s->facade->leaving++;
    hocus_give_turn(i);
    gives(s->w, i, (uint64_t)to);
}

/* Any server, though it may have died meanwhile; or this one. */
static void places(sim *w, void *arg, uint64_t name) {
    server *s = arg;
    const server *to = &w->servers[below(w, (unsigned)w->server_count)];
    aff_event place = {.type = AFF_EV_PLACE, .document = aff__str(w->names[name].name)};
    if (to->engine) {
        place.name = aff__str(to->name);
        place.data = sim_copy(w, aff__str(aff_boot(to->engine)));
        sim_trace(w, s->name, "places %s at %s", w->names[name].name, to->name);
    }
    facade_post(s, &place);
}

void facade_place(server *s, int name) {
    hocus_after(s, takes(s->w, s->w->redis_us), places, s, (uint64_t)name);
}
