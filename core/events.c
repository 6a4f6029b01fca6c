/*
 * events.c - custom events: run by the owner of their document, whoever emits them.
 *
 * An event waits for the document's owner (lease.c), then it is either handed to the app here, or
 * sent to the owner and kept until its result comes, its time is over, or the owner is gone: then
 * it looks for the next owner. Across the death of an owner it is run at least once.
 */
#include "engine.h"

/* An event of a peer that the app is running. */
typedef struct {
    aff__item item; /* by token */
    uint64_t token, id;
    char process[AFF_PROCESS_LEN + 1];
    aff__buf document;
} running;

static void done(aff_engine *e, uint64_t request, int status, aff_slice data) {
    aff_action *act = aff__act(e, AFF_ACT_EVENT_DONE, aff__none(), aff__none(), data);
    act->request = request;
    act->status = status;
    e->stats.backlog += data.len;
}

/* ---- The emitter's side ---------------------------------------------------------------------- */

static aff__waiter *find_event(const aff_engine *e, uint64_t request) {
    aff__item *item = aff__map_get(&e->events, aff__slice(&request, sizeof(request)));
    return item ? AFF_OF(item, aff__waiter, item) : NULL;
}

static void copy(aff_engine *e, aff__buf *to, aff_slice from) {
    aff__buf_init(to, &e->heap);
    aff__put(to, from.data, from.len);
}

void aff__event_emit(aff_engine *e, const aff_event *event) {
    if (find_event(e, event->request)) return;
    aff__waiter *waiter = aff__alloc(&e->heap, sizeof(*waiter));
    waiter->request = event->request;
    waiter->use = AFF_USE_EVENT;
    waiter->is_event = true;
    waiter->only_if_open = event->flag;
    waiter->forced = event->code == 1;
    waiter->deadline = e->now + e->config.event_ttl_ms;
    aff__item_init(&waiter->item, aff__slice(&waiter->request, sizeof(waiter->request)));
    copy(e, &waiter->document, event->document);
    copy(e, &waiter->name, event->name);
    copy(e, &waiter->data, event->data);
    aff__list_init(&waiter->by_peer);
    aff__list_append(&e->event_times, &waiter->by_time);
    aff__map_put(&e->events, &waiter->item);
    aff__doc_wait(e, aff__doc_get(e, event->document), waiter);
}

static void send_event(aff_engine *e, aff__waiter *waiter, aff__peer *peer, uint64_t epoch) {
    aff__list_remove(&waiter->by_doc);
    waiter->doc = NULL;
    waiter->peer = peer;
    aff__list_append(&peer->events, &waiter->by_peer);
    aff__buf *frame = aff__frame(e, AFF_FRAME_EVENT);
    aff__put_uint(frame, waiter->request);
    aff__put_uint(frame, epoch);
    aff__put_bytes(frame, aff__buf_slice(&waiter->document));
    aff__put_bytes(frame, aff__buf_slice(&waiter->name));
    aff__put(frame, waiter->data.data, waiter->data.len);
    if (aff__frame_send(e, peer) == 0) return;
    done(e, waiter->request, AFF_EFULL, aff__none());
    aff__waiter_free(e, waiter);
}

void aff__event_place(aff_engine *e, aff__waiter *waiter) {
    aff__doc *doc = waiter->doc;
    if (doc->state != AFF_DOC_OWNED) {
        send_event(e, waiter, doc->owner, doc->epoch);
        return;
    }
    aff__doc_use(e, doc, AFF_USE_EVENT);
    aff__act(e, AFF_ACT_EVENT_LOCAL, aff__none(), aff__none(), aff__none())->request =
        waiter->request;
    aff__waiter_free(e, waiter);
}

static void look_again(aff_engine *e, aff__waiter *waiter) {
    aff__list_remove(&waiter->by_peer);
    waiter->peer = NULL;
    aff__doc_wait(e, aff__doc_get(e, aff__buf_slice(&waiter->document)), waiter);
}

void aff__events_requeue(aff_engine *e, aff__peer *peer) {
    aff__list waiting; /* what is sent to the same peer again must not be met twice */
    aff__list_init(&waiting);
    while (!aff__list_empty(&peer->events)) {
        aff__list *item = peer->events.next;
        aff__list_remove(item);
        aff__list_append(&waiting, item);
    }
    while (!aff__list_empty(&waiting)) {
        aff__waiter *waiter = AFF_OF(waiting.next, aff__waiter, by_peer);
        if (AFF_MUTATE(19, true, false)) {
            aff__waiter_free(e, waiter);
        } else {
            look_again(e, waiter);
        }
    }
}

void aff__events_timeout(aff_engine *e) {
    while (!aff__list_empty(&e->event_times)) {
        aff__waiter *waiter = AFF_OF(e->event_times.next, aff__waiter, by_time);
        if (waiter->deadline > e->now) return;
        aff__doc *doc = waiter->doc;
        done(e, waiter->request, AFF_ETIMEOUT, aff__none());
        aff__waiter_free(e, waiter);
        if (doc) aff__doc_settle(e, doc);
    }
}

static bool on_result(aff_engine *e, aff__peer *peer, aff_slice rest) {
    uint64_t id, status;
    if (!aff__get_uint(&rest, &id) || !aff__get_uint(&rest, &status) || status > 1000) return false;
    aff__waiter *waiter = find_event(e, id);
    if (!waiter || waiter->peer != peer) {
        e->stats.stale_by[AFF_STALE_ENDED]++;
        return true;
    }
    if (-(int)status == AFF_EOWNED) {
        aff__doc_doubt(e, aff__buf_slice(&waiter->document), peer);
        look_again(e, waiter);
        return true;
    }
    done(e, id, -(int)status, rest);
    aff__waiter_free(e, waiter);
    return true;
}

/* ---- The owner's side -------------------------------------------------------------------------
 */

static int send_result(aff_engine *e, aff__peer *peer, uint64_t id, int status, aff_slice data) {
    aff__buf *frame = aff__frame(e, AFF_FRAME_RESULT);
    aff__put_uint(frame, id);
    aff__put_uint(frame, (uint64_t)-status);
    aff__put(frame, data.data, data.len);
    return aff__frame_send(e, peer);
}

static bool on_event(aff_engine *e, aff__peer *peer, aff_slice rest) {
    uint64_t id, epoch;
    aff_slice document, name;
    if (!aff__get_uint(&rest, &id) || !aff__get_epoch(&rest, &epoch) ||
        !aff__get_bytes(&rest, &document) || !aff__get_bytes(&rest, &name))
        return false;
    aff__doc *doc = aff__doc_come(e, document, epoch);
    if (!doc || doc->state != AFF_DOC_OWNED || doc->epoch != epoch) {
        e->stats.refused++;
        e->stats.refused_events++;
        if (!aff__doc_expect(e, document, epoch)) aff__doc_disown(e, document, epoch);
        send_result(e, peer, id, AFF_EOWNED, aff__none());
        return true;
    }
    running *run = aff__alloc(&e->heap, sizeof(*run));
    run->token = ++e->next_id;
    run->id = id;
    aff__item_init(&run->item, aff__slice(&run->token, sizeof(run->token)));
    memcpy(run->process, peer->process, sizeof(run->process));
    copy(e, &run->document, document);
    aff__map_put(&e->running, &run->item);
    aff__doc_use(e, doc, AFF_USE_EVENT);
    aff__act(e, AFF_ACT_EVENT_RUN, document, name, rest)->request = run->token;
    e->stats.backlog += rest.len;
    return true;
}

void aff__event_result(aff_engine *e, uint64_t token, int status, aff_slice data) {
    aff__item *item = aff__map_get(&e->running, aff__slice(&token, sizeof(token)));
    if (!item) return;
    running *run = AFF_OF(item, running, item);
    aff__map_remove(&e->running, item);
    aff__peer *peer = aff__peer_find(e, aff__str(run->process));
    if (peer && send_result(e, peer, run->id, status, data) != 0) {
        send_result(e, peer, run->id, AFF_EFULL, aff__none());
    }
    aff__doc *doc = aff__doc_find(e, aff__buf_slice(&run->document));
    if (doc && doc->uses[AFF_USE_EVENT] > 0) {
        aff__doc_unuse(e, doc, AFF_USE_EVENT);
        aff__doc_settle(e, doc);
    }
    aff__buf_free(&run->document);
    aff__release(&e->heap, run);
}

bool aff__event_frame(aff_engine *e, aff__peer *peer, aff__frame_type type, aff_slice rest) {
    return type == AFF_FRAME_EVENT ? on_event(e, peer, rest) : on_result(e, peer, rest);
}
