/* hocus.c - Hocuspocus at a server: its connections; documents loaded, stored, lost, handed over.
 */
#include "facade.h"

#include <stdio.h>

enum { RETRY_STORE_MS = 500 };

void hocus_after(server *s, uint64_t us, sim_call call, void *arg, uint64_t number) {
    sim_at(s->w, s->w->now + us, s, &s->js, call, arg, number);
}

named *hocus_named(server *s, int name) {
    return &s->facade->names[name];
}

/* ---- The life of an instance --------------------------------------------------------------------
 */

static instance *new_instance(server *s, int name) {
    instance *i = sim_alloc(s->w, sizeof(*i));
    i->s = s;
    i->name = name;
    i->next = s->facade->instances;
    s->facade->instances = i;
    return i;
}

/* Its use ends with it; what was lost has none. */
void hocus_destroy(instance *i) {
    if (i->is_destroyed) return;
    i->is_destroyed = true;
    if (!i->is_tracked) return;
    i->is_tracked = false;
    facade_post(
        i->s, &(aff_event){.type = AFF_EV_UNUSE, .document = name_slice(i), .use = AFF_USE_LOADED});
}

static bool is_unused(const instance *i) {
    return !i->document.connections && i->direct == 0;
}

static bool should_unload(const instance *i) {
    const named *n = hocus_named(i->s, i->name);
    return is_unused(i) && !n->is_debounced && !n->running;
}

static void unload(instance *i);

static void unload_again(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    unload(arg);
}

/* beforeUnloadDocument: nobody else has had it since the last store. */
static void may_unload(server *s, void *arg, const aff_action *a) {
    instance *i = arg;
    i->is_unloading = false;
    if (a->status == 0) {
        if (i->reloading_under) return;
        i->was_stored = false;
        unload(i);
    } else if (a->status != AFF_EOWNED) {
        hocus_after(s, RETRY_STORE_MS * MS, unload_again, i, 0);
    }
}

static void unload(instance *i) {
    named *n = hocus_named(i->s, i->name);
    if (!should_unload(i) || n->current != i || i->is_unstored) return;
    if (i->turn_given) return; /* drain.ts ends it, with what is not stored */
    if (i->was_stored) {
        if (i->is_unloading) return;
        i->is_unloading = true;
        uint64_t request = facade_ask(i->s, may_unload, i);
        facade_post(
            i->s,
            &(aff_event){.type = AFF_EV_CONFIRM, .request = request, .document = name_slice(i)});
        return;
    }
    sim_trace(i->s->w, i->s->name, "unloads %s", info_of(i)->name);
    n->current = NULL;
    hocus_destroy(i);
}

static void load_ends(named *n, instance *loaded) {
    n->loading = NULL;
    bool was_lost = loaded && loaded->is_lost; /* affinity.ts, #wrap() */
    if (loaded && !was_lost) n->current = loaded;
    load_waiter *waiters = n->waiters;
    n->waiters = NULL;
    n->waiters_end = &n->waiters;
    for (; waiters; waiters = waiters->next) {
        if (was_lost) {
            hocus_want(waiters->s, loaded->name, waiters->then, waiters->arg);
        } else {
            waiters->then(waiters->s, waiters->arg, loaded);
        }
    }
}

static void was_read(sim *w, void *arg, uint64_t number) {
    instance *i = arg;
    i->document.edits = number;
    sim_trace(w, i->s->name, "has loaded %s: %llx", info_of(i)->name, (unsigned long long)number);
    load_ends(hocus_named(i->s, i->name), i);
}

static void reads(sim *w, void *arg, uint64_t number) {
    (void)number;
    instance *i = arg;
    sim_at(w, w->now + takes(w, w->store_us) / 2, i->s, &i->s->js, was_read, i, info_of(i)->stored);
}

static void load_claimed(server *s, void *arg, const aff_action *a) {
    instance *i = arg;
    if (a->status != 0) {
        i->is_destroyed = true;
        hocus_named(s, i->name)->has_moved = a->status == AFF_EOWNED;
        load_ends(hocus_named(s, i->name), NULL);
        return;
    }
    i->epoch = i->loaded_under = a->bytes;
    i->is_tracked = true;
    sim_at(s->w, s->w->now + takes(s->w, s->w->store_us) / 2, s, NULL, reads, i, 0);
}

void hocus_want(server *s, int name, void (*then)(server *, void *, instance *), void *arg) {
    named *n = hocus_named(s, name);
    if (n->current) {
        then(s, arg, n->current);
        return;
    }
    load_waiter *waiter = sim_alloc(s->w, sizeof(*waiter));
    *waiter = (load_waiter){.s = s, .then = then, .arg = arg};
    *n->waiters_end = waiter;
    n->waiters_end = &waiter->next;
    if (n->loading) return;
    n->loading = new_instance(s, name);
    uint64_t request = facade_ask(s, load_claimed, n->loading);
    facade_post(s, &(aff_event){.type = AFF_EV_CLAIM,
                                .request = request,
                                .document = name_slice(n->loading),
                                .use = AFF_USE_LOADED});
}

/* ---- Storing ------------------------------------------------------------------------------ */

static void run_store(server *s, store_run *run);

static void unload_later(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    unload(arg);
}

static void store_ends(store_run *run, bool may_unload) {
    instance *i = run->document;
    server *s = i->s;
    named *n = hocus_named(s, i->name);
    n->running = NULL;
    if (i->still_stores) { /* it may have ended after the owner's: that is to store once more */
        i->still_stores = false;
        i->changes_sent = i->document.changes - 1;
    }
    if (may_unload) hocus_after(s, 1 * MS, unload_later, i, 0);
    if (run->then) run->then(s, run->arg);
    store_run *next = n->queued;
    if (!next || n->running) return;
    n->queued = next->next;
    if (!n->queued) n->queued_end = &n->queued;
    run_store(s, next);
}

typedef struct {
    store_run *run;
    server *s;
    unsigned life, changes;
    int name;
    uint64_t edits, epoch, confirmed_at;
    bool is_lost_anyway;
} database_write;

static void is_written(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    const database_write *b = arg;
    b->run->document->was_stored = true;
    b->run->document->changes_stored = b->changes;
    store_ends(b->run, true);
}

/* The database does not care whether the writer still lives. */
static void writes(sim *w, void *arg, uint64_t number) {
    (void)number;
    database_write *b = arg;
    document_info *d = &w->names[b->name];
    bool refused = d->fences && b->epoch < d->stored_epoch;
    w->totals.stores++;
    sim_trace(w, b->s->name, "%s %s: %llx under %llu", refused ? "may not store" : "stores",
              d->name, (unsigned long long)b->edits, (unsigned long long)b->epoch);
    if (!refused && b->epoch < d->stored_epoch) { /* what nobody has in memory any more is gone */
        d->must &= b->edits;
        for (int i = 0; i < w->server_count; i++) d->by[i] &= b->edits;
    }
    if (!refused) {
        watch_store(w, b->name, b->s->index, b->epoch, b->confirmed_at);
        d->stored = b->edits;
        d->stored_epoch = b->epoch;
    }
    uint64_t at = w->now + takes(w, w->store_us) / 2;
    if (b->s->life == b->life) sim_at(w, at, b->s, &b->s->js, is_written, b, 0);
}

static void debounce_store(instance *i, bool at_once, void (*then)(server *, void *), void *arg);

static void store_again(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    instance *i = arg;
    if (!i->is_destroyed && !i->s->facade->stopping) debounce_store(i, true, NULL, NULL);
}

static void ask_redis(store_run *run);
static void notice_changes(instance *i);
static void begin_reload(instance *i);

static void was_read_again(sim *w, void *arg, uint64_t stored) {
    instance *i = arg;
    bool is_old = i->loaded_under > i->reloading_under;
    i->reloading_under = 0;
    if (!i->is_destroyed) {
        sim_trace(w, i->s->name, "takes in what is stored of %s: %llx", info_of(i)->name,
                  (unsigned long long)stored);
        document_merge(&i->document, stored, facade_mouth(i->s));
        notice_changes(i);
        if (is_old) {
            begin_reload(i);
            return;
        }
        store_again(w, i, 0);
    }
    store_run *waits = i->waits_for_reload;
    i->waits_for_reload = NULL;
    if (waits) ask_redis(waits);
}

static void reads_again(sim *w, void *arg, uint64_t number) {
    (void)number;
    instance *i = arg;
    sim_at(w, w->now + takes(w, w->store_us) / 2, i->s, &i->s->js, was_read_again, i,
           info_of(i)->stored);
}

static void begin_reload(instance *i) {
    sim *w = i->s->w;
    i->reloading_under = i->loaded_under;
    sim_at(w, w->now + takes(w, w->store_us) / 2, i->s, NULL, reads_again, i, 0);
}

/* Somebody else may have stored since it was loaded under an older epoch. */
static void reload(instance *i, uint64_t epoch) {
    if (epoch <= i->loaded_under) return;
    i->loaded_under = epoch;
    if (!i->reloading_under) begin_reload(i);
}

static void confirmed(server *s, void *arg, const aff_action *a) {
    store_run *run = arg;
    instance *i = run->document;
    sim *w = s->w;
    i->is_unstored = false;
    if (a->status == AFF_EOWNED || i->is_lost) {
        store_ends(run, true); /* SkipFurtherHooksError */
        return;
    }
    if (a->status != 0) {
        i->is_unstored = true;
        hocus_after(s, RETRY_STORE_MS * MS, store_again, i, 0);
        store_ends(run, false);
        return;
    }
    if (w->now - run->asked_at >= s->config.lock_ttl_ms * MS / 2) { /* engine.ts, confirm() */
        ask_redis(run);
        return;
    }
    i->epoch = a->bytes;
    reload(i, i->epoch);
    if (i->reloading_under) {
        i->waits_for_reload = run;
        return;
    }
    /* Whoever says so without having asked says it as of now. */
    uint64_t confirmed_at = watch_confirmed(info_of(i), s, i->epoch);
    database_write *b = sim_alloc(w, sizeof(*b));
    *b = (database_write){.run = run,
                          .s = s,
                          .life = s->life,
                          .name = i->name,
                          .edits = i->document.edits,
                          .changes = changes_made(i),
                          .epoch = i->epoch,
                          .confirmed_at =
                              confirmed_at > run->asked_at ? confirmed_at : run->asked_at};
    sim_at(w, w->now + takes(w, w->store_us) / 2, NULL, NULL, writes, b, 0);
}

static void ask_redis(store_run *run) {
    server *s = run->document->s;
    run->asked_at = s->w->now;
    uint64_t request = facade_ask(s, confirmed, run);
    facade_post(s, &(aff_event){.type = AFF_EV_CONFIRM,
                                .request = request,
                                .document = name_slice(run->document)});
}

/* onStoreDocument, then the database. */
static void run_store(server *s, store_run *run) {
    instance *i = run->document;
    hocus_named(s, i->name)->running = run;
    if (i->is_lost || (s->facade->drains && i->turn_over)) {
        store_ends(run, true);
    } else if (s->facade->drains && !i->turn_given) {
        i->parked = true;
    } else {
        ask_redis(run);
    }
}

static void store_now(instance *i, void (*then)(server *, void *), void *arg) {
    named *n = hocus_named(i->s, i->name);
    n->is_debounced = false;
    n->timer++;
    store_run *run = sim_alloc(i->s->w, sizeof(*run));
    *run = (store_run){.document = i, .then = then, .arg = arg};
    if (!n->running) {
        run_store(i->s, run);
        return;
    }
    *n->queued_end = run;
    n->queued_end = &run->next;
}

static void debounce_is_over(sim *w, void *arg, uint64_t timer) {
    (void)w;
    instance *i = arg;
    const named *n = hocus_named(i->s, i->name);
    if (n->is_debounced && n->timer == timer) store_now(i, NULL, NULL);
}

/* storeDocumentHooks: one for each name, whatever the instance. */
static void debounce_store(instance *i, bool at_once, void (*then)(server *, void *), void *arg) {
    sim *w = i->s->w;
    named *n = hocus_named(i->s, i->name);
    if (i->is_lost) { /* affinity.ts, #wrap() */
        if (then) then(i->s, arg);
        return;
    }
    uint64_t since = n->is_debounced ? n->debounced_since : w->now;
    if (at_once || w->now - since >= w->max_debounce_us) {
        store_now(i, then, arg);
        return;
    }
    n->is_debounced = true;
    n->debounced = i;
    n->debounced_since = since;
    hocus_after(i->s, w->debounce_us, debounce_is_over, i, ++n->timer);
}

/* Hocuspocus hears of each change. */
static void notice_changes(instance *i) {
    if (i->changes_noticed == i->document.changes) return;
    i->changes_noticed = i->document.changes;
    debounce_store(i, false, NULL, NULL);
}

/* A document that is loaded already has a new epoch. */
void hocus_owned(server *s, int name, uint64_t epoch) {
    instance *i = hocus_named(s, name)->current;
    if (!i || !i->is_tracked) return;
    i->epoch = epoch;
    reload(i, epoch);
}

static void stores_once_more(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    instance *i = ((named *)arg)->current;
    if (i && i->is_tracked && !i->s->facade->drains) debounce_store(i, true, NULL, NULL);
}

/* The dead owner's last store may end after the next one's first. */
void hocus_took_over(server *s, int name) {
    hocus_after(s, s->config.lock_ttl_ms * MS, stores_once_more, hocus_named(s, name), 0);
}

/* ---- Connections -------------------------------------------------------------------------- */

static void send_frame(hocus_address *a, const bytes *frame) {
    facade_say(a->hocus->s, &a->con, slice(frame));
}

static void after_disconnect(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    instance *i = arg;
    const named *n = hocus_named(i->s, i->name);
    if (!is_unused(i)) return;
    if (n->is_debounced) {
        store_now(n->debounced, NULL, NULL);
    } else {
        unload(i);
    }
}

static instance *instance_of(document *d) {
    return AFF_OF(d, instance, document);
}

/* Connection.close() of Hocuspocus. */
static void close_connection(hocus_address *a, bool is_mute) {
    if (a->phase != ESTABLISHED) return;
    server *s = a->hocus->s;
    instance *i = instance_of(a->con.document);
    a->phase = OVER;
    document_detach(&i->document, &a->con, facade_mouth(s));
    bytes frame = {0};
    make_frame(&frame, address_of(a->address), AFF_HP_CLOSE, aff__none());
    hocus_after(s, 100, after_disconnect, i, 0);
    if (!is_mute) send_frame(a, &frame);
    free(frame.data);
}

static void on_frame(hocus_address *a, aff_slice data) {
    server *s = a->hocus->s;
    aff__client_frame frame;
    AFF_ASSERT(aff__parse_client_frame(data, &frame));
    if (frame.type == AFF_HP_CLOSE) {
        close_connection(a, false);
    } else if (frame.type == STATELESS) {
        return;
    } else {
        instance *i = instance_of(a->con.document);
        document_receive(&i->document, &a->con, &frame, facade_mouth(s));
        notice_changes(i);
    }
}

/* It waits for the document still, which has left meanwhile. */
static void leave_address(hocus *h, int name) {
    for (hocus_address *a = h ? h->addresses : NULL; a; a = a->next) {
        if (a->name == name && (a->phase == AUTHENTICATING || a->phase == LOADING))
            a->was_left = true;
    }
}

static void leave_addresses(server *s, int name) {
    for (client_socket *c = s->facade->sockets; c; c = c->next) leave_address(c->hocus, name);
    for (proxy_socket *p = s->facade->proxies; p; p = p->next) leave_address(p->hocus, name);
}

static void established(server *s, void *arg, instance *i) {
    hocus_address *a = arg;
    if (a->phase != LOADING) return;
    if (a->was_left) {
        a->phase = OVER;
        if (i) hocus_after(s, 100, after_disconnect, i, 0);
        return;
    }
    if (!i) {
        a->phase = OVER;
        bool has_moved = hocus_named(s, a->name)->has_moved;
        if (!a->hocus->is_closed && !has_moved) facade_denied(a->hocus);
        return;
    }
    if (a->hocus->is_closed) { /* wow, that was fast */
        a->phase = OVER;
        hocus_after(s, 100, after_disconnect, i, 0);
        return;
    }
    a->phase = ESTABLISHED;
    document_attach(&i->document, &a->con, facade_mouth(s));
    held_frame *queue = a->queue;
    a->queue = NULL;
    for (; queue && a->phase == ESTABLISHED; queue = queue->next) on_frame(a, queue->data);
}

static void authenticated(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    hocus_address *a = arg;
    if (a->phase != AUTHENTICATING) return;
    bytes frame = {0};
    make_auth(&frame, address_of(a->address), AFF_HP_AUTHENTICATED,
              a->con.readonly ? "readonly" : "read-write");
    a->phase = a->was_left ? OVER : LOADING;
    send_frame(a, &frame);
    free(frame.data);
    if (a->was_left) return;
    hocus_want(a->hocus->s, a->name, established, a);
}

static hocus_address *find_address(hocus *h, const char *address) {
    hocus_address *a = h->addresses;
    while (a && (a->phase == OVER || strcmp(a->address, address) != 0)) a = a->next;
    return a;
}

static hocus_address *new_address(hocus *h, const char *address) {
    hocus_address *a = sim_alloc(h->s->w, sizeof(*a));
    a->hocus = h;
    a->queue_end = &a->queue;
    snprintf(a->address, ADDRESS_MAX, "%s", address);
    snprintf(a->con.address, ADDRESS_MAX, "%s", address);
    a->name = name_of(h->s->w, address);
    a->con.is_proxy = h->is_proxy;
    a->con.id = h->id;
    a->next = h->addresses;
    h->addresses = a;
    return a;
}

/* ClientConnection.handleMessage(). */
void hocus_receive(hocus *h, aff_slice data) {
    sim *w = h->s->w;
    if (h->is_closed) return;
    aff__client_frame frame;
    AFF_ASSERT(aff__parse_client_frame(data, &frame));
    if (!h->is_proxy) watch_stateless(h->s, data);
    hocus_address *a = find_address(h, word(frame.address));
    if (!a) a = new_address(h, word(frame.address));
    if (a->phase == ESTABLISHED) {
        on_frame(a, data);
    } else if (a->phase == AT_START && frame.type == AFF_HP_AUTH) {
        aff_slice rest = frame.payload, token = aff__none();
        aff__get_bytes(&rest, &token);
        a->con.readonly = aff__equal(token, aff__str("ro"));
        a->phase = AUTHENTICATING;
        hocus_after(h->s, takes(w, 1500), authenticated, a, 0);
    } else {
        held_frame *q = sim_alloc(w, sizeof(*q));
        q->data = sim_copy(w, data);
        *a->queue_end = q;
        a->queue_end = &q->next;
    }
}

/* ClientConnection.handleClose(). */
void hocus_ends(hocus *h) {
    if (h->is_closed) return;
    for (hocus_address *a = h->addresses; a; a = a->next) close_connection(a, false);
    h->is_closed = true;
}

/* ---- Direct connections ------------------------------------------------------------------- */

typedef struct {
    server *s;
    int name;
    uint64_t edits;
    unsigned writes; /* still to come */
    unsigned merged; /* the change that is to be stored */
    instance *document;
    void (*then)(server *s, void *arg, bool ok);
    void *arg;
} direct;

static void disconnected(server *s, void *arg) {
    const direct *d = arg;
    hocus_after(s, 10, after_disconnect, d->document, 0);
    if (d->then) d->then(s, d->arg, d->document->changes_stored >= d->merged);
}

static void disconnect(direct *d) {
    d->document->direct--;
    debounce_store(d->document, true, disconnected, d);
}

static void opened_to_merge(server *s, void *arg, instance *i) {
    direct *d = arg;
    if (!i) {
        d->then(s, d->arg, false);
        return;
    }
    d->document = i;
    i->direct++;
    document_merge(&i->document, d->edits, facade_mouth(s));
    i->touches++; /* the sender waits for a store, also if nothing is new */
    d->merged = changes_made(i);
    notice_changes(i);
    disconnect(d);
}

/* What another server, or this one, has of a document it has lost: `ok` if it is stored. */
void hocus_merge(server *s, int name, uint64_t edits, void (*then)(server *, void *, bool ok),
                 void *arg) {
    direct *d = sim_alloc(s->w, sizeof(*d));
    *d = (direct){.s = s, .name = name, .edits = edits, .then = then, .arg = arg};
    hocus_want(s, name, opened_to_merge, d);
}

static void write_once(sim *w, void *arg, uint64_t number) {
    (void)number;
    direct *d = arg;
    document_info *doc = &w->names[d->name];
    if (doc->next_edit < 60 && !w->heals) {
        uint64_t edit = 1ull << doc->next_edit++;
        sim_trace(w, d->s->name, "writes %llx into %s by itself", (unsigned long long)edit,
                  doc->name);
        doc->by[d->s->index] |= edit;
        document_merge(&d->document->document, edit, facade_mouth(d->s));
        notice_changes(d->document);
    }
    if (d->writes-- > 1 && !w->heals) {
        hocus_after(d->s, takes(w, 200 * MS), write_once, d, 0);
    } else {
        disconnect(d);
    }
}

static void opened_to_write(server *s, void *arg, instance *i) {
    direct *d = arg;
    if (!i) return;
    d->document = i;
    i->direct++;
    write_once(s->w, d, 0);
}

void facade_write(server *s, int name) {
    if (s->facade->stopping) return;
    direct *d = sim_alloc(s->w, sizeof(*d));
    *d = (direct){.s = s, .name = name, .writes = 1 + below(s->w, 4)};
    hocus_want(s, name, opened_to_write, d);
}

/* ---- Losing ------------------------------------------------------------------------------- */

static void close_connections(instance *i) {
    while (i->document.connections) {
        hocus_address *a = AFF_OF(i->document.connections, hocus_address, con);
        close_connection(a, a->con.is_proxy);
    }
}

/* affinity.ts, #evict() */
void hocus_evict(server *s, int name, bool hand_over) {
    named *n = hocus_named(s, name);
    instance *last = NULL;
    for (instance *i = s->facade->instances; i; i = i->next) {
        if (i->name != name || !i->is_tracked) continue;
        i->is_tracked = false;
        i->is_lost = true;
        if (!last) last = i;
    }
    n->holds = 0;
    n->hold_generation++;
    leave_addresses(s, name);
    if (!last) return;
    sim_trace(s->w, s->name, "gives %s up%s", s->w->names[name].name,
              hand_over ? ", and hands it over" : "");
    if (n->current == last) n->current = NULL;
    close_connections(last);
    if (!hand_over) {
        hocus_destroy(last);
        return;
    }
    last->still_stores = n->running && n->running->document == last;
    handover_begin(last);
}

/* A store that is running or waiting takes the document's turn; else one that is due. */
void hocus_give_turn(instance *i) {
    named *n = hocus_named(i->s, i->name);
    i->turn_given = true;
    if (i->parked) {
        i->parked = false;
        ask_redis(n->running);
    } else if (n->is_debounced) {
        store_now(i, NULL, NULL);
    }
}

void hocus_may_unload(instance *i) {
    unload(i);
}

/* ---- For those who watch ------------------------------------------------------------------ */

unsigned facade_loaded(const server *s) {
    unsigned n = 0;
    for (int name = 0; name < NAMES_MAX; name++) {
        n += s->facade->names[name].current || s->facade->names[name].loading;
    }
    return n;
}

uint64_t facade_edits(const server *s, int name) {
    uint64_t edits = 0;
    for (const instance *i = s->facade->instances; i; i = i->next) {
        if (i->name == name && !i->is_destroyed) edits |= i->document.edits;
    }
    return edits;
}

bool facade_is_busy(const server *s) {
    for (int name = 0; name < NAMES_MAX; name++) {
        const named *n = &s->facade->names[name];
        if (n->is_debounced || n->running || n->loading) return true;
    }
    return s->facade->handing || s->facade->leaving;
}

void facade_announce(server *s, int name) {
    instance *i = hocus_named(s, name)->current;
    if (!i || i->is_lost) return;
    bytes body = {0};
    char text[48];
    int len = snprintf(text, sizeof(text), "e%llu", (unsigned long long)i->epoch);
    add_uint(&body, STATELESS);
    add_text(&body, aff__slice(text, (size_t)len));
    document_broadcast(&i->document, NULL, slice(&body), facade_mouth(s));
    free(body.data);
}
