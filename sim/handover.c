/* handover.c - as js/src/handover.ts: what a living server holds of a document that it has lost, or
 * left, goes to the next owner.
 */
#include "facade.h"

enum { NEW_OWNER_MS = 1000, LOOK_AGAIN_MS = 20, GATHER_MS = 100, GATHER_MAX_MS = 5000 };

/* ---- Its state ----------------------------------------------------------------------------------
 */

static void send_state(sim *w, void *arg, uint64_t number);

static void stops_handing(instance *i) {
    i->s->facade->handing--;
    hocus_destroy(i);
}

static void state_sent(instance *i) {
    i->wait_ms = GATHER_MS;
    hocus_after(i->s, GATHER_MS * MS, send_state, i, 0);
}

static void state_failed(instance *i) {
    i->changes_sent = i->document.changes - 1; /* again */
    i->wait_ms = 2 * i->wait_ms < GATHER_MAX_MS ? 2 * i->wait_ms : GATHER_MAX_MS;
    hocus_after(i->s, i->wait_ms * (uint64_t)MS, send_state, i, 0);
}

static void end_of(server *s, int name) {
    facade_post(s, &(aff_event){.type = AFF_EV_UNUSE,
                                .document = aff__str(s->w->names[name].name),
                                .use = AFF_USE_EVENT});
}

static void merged_here(server *s, void *arg, bool ok) {
    instance *i = arg;
    end_of(s, i->name);
    if (ok)
        state_sent(i);
    else
        state_failed(i);
}

static void emit_state(instance *i);

static void emit_again(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    emit_state(arg);
}

static void merge_outcome(server *s, void *arg, const aff_action *a) {
    instance *i = arg;
    if (a->type == AFF_ACT_EVENT_LOCAL) {
        hocus_merge(s, i->name, i->document.edits, merged_here, i);
    } else if (a->status == 0) {
        state_sent(i);
    } else if (a->status == AFF_ENOTOPEN) {
        hocus_after(s, LOOK_AGAIN_MS * MS, emit_again, i, 0);
    } else {
        state_failed(i);
    }
}

static void emit_state(instance *i) {
    server *s = i->s;
    if (s->facade->stopping) return;
    bytes state = {0};
    add_uint(&state, i->document.edits);
    uint64_t request = facade_ask(s, merge_outcome, i);
    facade_post(s,
                &(aff_event){.type = AFF_EV_EMIT,
                             .request = request,
                             .name = i->still_stores ? EVENT(LATE_MERGE_EVENT) : EVENT(MERGE_EVENT),
                             .document = name_slice(i),
                             .data = slice(&state),
                             .flag = s->w->now < i->merge_until,
                             .code = 1});
    free(state.data);
}

static void send_state(sim *w, void *arg, uint64_t number) {
    (void)number;
    instance *i = arg;
    if (i->changes_sent != i->document.changes) {
        i->changes_sent = i->document.changes;
        i->merge_until = w->now + NEW_OWNER_MS * (uint64_t)MS;
        emit_state(i);
    } else if (i->direct > 0 || i->still_stores) {
        state_sent(i);
    } else {
        stops_handing(i);
    }
}

void handover_begin(instance *i) {
    i->s->facade->handing++;
    i->changes_sent = i->document.changes - 1;
    i->wait_ms = GATHER_MS;
    send_state(i->s->w, i, 0);
}

/* ---- Is it open at the next owner? --------------------------------------------------------------
 */

typedef struct {
    server *s;
    int name;
    uint64_t until, token;
    void (*then)(server *s);
} question;

static void ask_whether_taken(sim *w, void *arg, uint64_t number);

static void told_whether_taken(server *s, void *arg, const aff_action *a) {
    const question *q = arg;
    if (a->type == AFF_ACT_EVENT_LOCAL) {
        end_of(s, q->name); /* nobody else has wanted it */
    } else if (a->status != 0 && s->w->now < q->until) {
        hocus_after(s, LOOK_AGAIN_MS * MS, ask_whether_taken, arg, 0);
        return;
    }
    q->then(s);
}

static void ask_whether_taken(sim *w, void *arg, uint64_t number) {
    (void)number;
    const question *q = arg;
    if (q->s->facade->stopping) return;
    uint64_t request = facade_ask(q->s, told_whether_taken, arg);
    facade_post(q->s, &(aff_event){.type = AFF_EV_EMIT,
                                   .request = request,
                                   .name = EVENT(OPEN_EVENT),
                                   .document = aff__str(w->names[q->name].name),
                                   .flag = true,
                                   .code = 1});
}

void handover_taken(server *s, int name, void (*then)(server *s)) {
    question *q = sim_alloc(s->w, sizeof(*q));
    *q = (question){.s = s, .name = name, .until = s->w->now + NEW_OWNER_MS * MS, .then = then};
    ask_whether_taken(s->w, q, 0);
}

static void look_whether_open(sim *w, void *arg, uint64_t number) {
    (void)number;
    const question *q = arg;
    if (!hocus_named(q->s, q->name)->current && w->now < q->until) {
        hocus_after(q->s, LOOK_AGAIN_MS * MS, look_whether_open, arg, 0);
        return;
    }
    facade_post(q->s, &(aff_event){.type = AFF_EV_EVENT_RESULT, .request = q->token});
}

void handover_open(server *s, int name, uint64_t token) {
    question *q = sim_alloc(s->w, sizeof(*q));
    *q = (question){.s = s, .name = name, .until = s->w->now + NEW_OWNER_MS * MS, .token = token};
    look_whether_open(s->w, q, 0);
}
