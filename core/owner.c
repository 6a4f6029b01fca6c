/*
 * owner.c - proxy sockets: this server owns documents of clients whose sockets others hold.
 *
 * A proxy socket stands here for one client socket of an origin. For each of its addresses:
 *
 *   OFFER --we own the document under that epoch--> accepted: its frames go to Hocuspocus
 *     |                                                |
 *     | our own claim is not answered yet              +--Denied or CLOSE from Hocuspocus--> gone
 *     +--------------> waits, then accepted or refused
 *     | anything else
 *     +--------------> refused: the origin looks the owner up again
 *
 * No frame reaches Hocuspocus here for a document that this server does not own (I2).
 */
#include "engine.h"

/* ---- Finding --------------------------------------------------------------------------------- */

static aff__proxy *find_proxy(const aff_engine *e, uint32_t id) {
    aff__item *item = aff__map_get(&e->proxies, aff__slice(&id, sizeof(id)));
    return item ? AFF_OF(item, aff__proxy, item) : NULL;
}

static void put_origin_key(uint8_t key[8], const aff__peer *peer, uint32_t visit) {
    memcpy(key, &peer->number, 4);
    memcpy(key + 4, &visit, 4);
}

static aff__proxy *find_by_origin(const aff_engine *e, const aff__peer *peer, uint32_t visit) {
    uint8_t key[8];
    put_origin_key(key, peer, visit);
    aff__item *item = aff__map_get(&e->proxies_by_origin, aff__slice(key, sizeof(key)));
    return item ? AFF_OF(item, aff__proxy, by_origin) : NULL;
}

static aff_slice served_key(aff_engine *e, uint32_t proxy, aff_slice address) {
    e->key.len = 0;
    aff__put(&e->key, &proxy, sizeof(proxy));
    aff__put(&e->key, address.data, address.len);
    return aff__buf_slice(&e->key);
}

static aff_slice served_address(const aff__served *served) {
    return aff__slice(served->item.key + 4, served->item.key_len - 4);
}

static aff__served *find_served(aff_engine *e, aff__proxy *proxy, aff_slice address) {
    if (proxy->recent && aff__equal(served_address(proxy->recent), address)) return proxy->recent;
    aff__item *item = aff__map_get(&e->served, served_key(e, proxy->id, address));
    if (!item) return NULL;
    proxy->recent = AFF_OF(item, aff__served, item);
    return proxy->recent;
}

/* ---- One address of a proxy socket ------------------------------------------------------------
 */

static aff__served *new_served(aff_engine *e, aff__proxy *proxy, aff__doc *doc, aff_slice address) {
    aff_slice key = served_key(e, proxy->id, address);
    aff__served *served = aff__alloc(&e->heap, sizeof(*served) + key.len);
    memcpy(served + 1, key.data, key.len);
    aff__item_init(&served->item, aff__slice(served + 1, key.len));
    served->proxy = proxy;
    served->doc = doc;
    aff__buf_init(&served->held, &e->heap);
    aff__map_put(&e->served, &served->item);
    aff__list_append(&proxy->routes, &served->by_proxy);
    aff__list_append(&doc->served, &served->by_doc);
    return served;
}

static void free_served(aff_engine *e, aff__served *served) {
    aff__map_remove(&e->served, &served->item);
    if (served->proxy->recent == served) served->proxy->recent = NULL;
    aff__list_remove(&served->by_proxy);
    aff__list_remove(&served->by_doc);
    aff__buf_free(&served->held);
    aff__release(&e->heap, served);
}

static void end_served(aff_engine *e, aff__served *served) {
    aff__doc *doc = served->doc;
    if (served->accepted) aff__doc_unuse(e, doc, AFF_USE_ROUTE);
    free_served(e, served);
    aff__doc_settle(e, doc);
}

/* MOVED also says up to where the origin's batches were read while the address was served. */
static void answer(aff_engine *e, aff__frame_type type, const aff__proxy *proxy, uint64_t epoch,
                   aff_slice address) {
    aff__buf *frame = aff__frame(e, type);
    aff__put_uint(frame, proxy->visit);
    aff__put_uint(frame, epoch);
    if (type == AFF_FRAME_MOVED) aff__put_uint(frame, proxy->peer->in_seq);
    aff__put(frame, address.data, address.len);
    aff__frame_send(e, proxy->peer);
}

static void deliver(aff_engine *e, const aff__proxy *proxy, aff_slice frame) {
    aff__act(e, AFF_ACT_PROXY_FRAME, aff__none(), aff__none(), frame)->socket = proxy->id;
    e->stats.backlog += frame.len;
}

static void accept_served(aff_engine *e, aff__served *served) {
    served->accepted = true;
    answer(e, AFF_FRAME_ACCEPT, served->proxy, served->epoch, served_address(served));
    aff_slice rest = aff__buf_slice(&served->held), frame;
    while (aff__get_bytes(&rest, &frame)) deliver(e, served->proxy, frame);
    aff__buf_free(&served->held);
}

void aff__served_place(aff_engine *e, aff__served *served) {
    if (served->accepted) return;
    const aff__doc *doc = served->doc;
    if (doc->state == AFF_DOC_OWNED && doc->epoch == served->epoch) {
        aff__doc_use(e, served->doc, AFF_USE_ROUTE);
        accept_served(e, served);
        return;
    }
    e->stats.refused++;
    answer(e, AFF_FRAME_REFUSE, served->proxy, served->epoch, served_address(served));
    free_served(e, served);
}

/* ---- Proxy sockets -----------------------------------------------------------------------------
 */

static void end_proxy(aff_engine *e, aff__proxy *proxy) {
    while (!aff__list_empty(&proxy->routes)) {
        end_served(e, AFF_OF(proxy->routes.next, aff__served, by_proxy));
    }
    aff__list_remove(&proxy->by_peer);
    aff__map_remove(&e->proxies, &proxy->item);
    aff__map_remove(&e->proxies_by_origin, &proxy->by_origin);
    aff__release(&e->heap, proxy);
}

static void close_proxy(aff_engine *e, aff__proxy *proxy, uint16_t code, const char *reason) {
    aff_action *act = aff__act(e, AFF_ACT_PROXY_CLOSE, aff__none(), aff__none(), aff__str(reason));
    act->socket = proxy->id;
    act->code = code;
    end_proxy(e, proxy);
}

static void kick(aff_engine *e, const aff__proxy *proxy, uint16_t code, aff_slice reason) {
    aff__buf *frame = aff__frame(e, AFF_FRAME_KICK);
    aff__put_uint(frame, proxy->visit);
    aff__put_uint(frame, code);
    aff__put(frame, reason.data, reason.len);
    aff__frame_send(e, proxy->peer);
}

void aff__proxy_closed(aff_engine *e, uint32_t id, uint16_t code, aff_slice reason) {
    aff__proxy *proxy = find_proxy(e, id);
    if (!proxy) return;
    kick(e, proxy, code, reason);
    end_proxy(e, proxy);
}

void aff__proxies_end(aff_engine *e, aff__peer *peer) {
    while (!aff__list_empty(&peer->proxies)) {
        close_proxy(e, AFF_OF(peer->proxies.next, aff__proxy, by_peer), 1006, "");
    }
}

void aff__served_lost(aff_engine *e, aff__doc *doc) {
    while (!aff__list_empty(&doc->served)) {
        aff__served *served = AFF_OF(doc->served.next, aff__served, by_doc);
        if (AFF_MUTATE(20, false, true)) {
            answer(e, AFF_FRAME_MOVED, served->proxy, served->epoch, served_address(served));
        }
        if (served->accepted) aff__doc_unuse(e, doc, AFF_USE_ROUTE);
        free_served(e, served);
    }
}

void aff__served_renewed(aff_engine *e, aff__doc *doc) {
    AFF_EACH(i, &doc->served) {
        aff__served *served = AFF_OF(i, aff__served, by_doc);
        if (!served->accepted) continue;
        served->epoch = doc->epoch;
        answer(e, AFF_FRAME_ACCEPT, served->proxy, doc->epoch, served_address(served));
    }
}

/* ---- Frames from the origin ---------------------------------------------------------------------
 */

static bool on_open(aff_engine *e, aff__peer *peer, uint32_t visit, aff_slice rest) {
    aff_slice request;
    if (!aff__get_bytes(&rest, &request)) return false;
    aff__proxy *old = find_by_origin(e, peer, visit);
    if (old) close_proxy(e, old, 1006, "");
    aff__proxy *proxy = aff__alloc(&e->heap, sizeof(*proxy));
    proxy->id = ++e->next_proxy;
    proxy->visit = visit;
    proxy->peer = peer;
    proxy->is_ours = peer == e->self && aff__visit_socket(e, visit, &proxy->socket);
    memcpy(proxy->id_key, &proxy->id, 4);
    put_origin_key(proxy->origin_key, peer, visit);
    aff__item_init(&proxy->item, aff__slice(proxy->id_key, sizeof(proxy->id_key)));
    aff__item_init(&proxy->by_origin, aff__slice(proxy->origin_key, sizeof(proxy->origin_key)));
    aff__list_init(&proxy->routes);
    aff__list_append(&peer->proxies, &proxy->by_peer);
    aff__map_put(&e->proxies, &proxy->item);
    aff__map_put(&e->proxies_by_origin, &proxy->by_origin);
    aff__act(e, AFF_ACT_PROXY_OPEN, aff__none(), aff__buf_slice(&peer->server_id), request)
        ->socket = proxy->id;
    return true;
}

static void on_offer(aff_engine *e, aff__proxy *proxy, uint64_t epoch,
                     const aff__client_frame *frame, aff_slice data) {
    aff__doc *doc = aff__doc_come(e, frame->document, epoch);
    bool undecided = doc && (doc->state == AFF_DOC_CLAIMING || doc->state == AFF_DOC_CHECKING);
    bool owned = doc && doc->state == AFF_DOC_OWNED && AFF_MUTATE(1, true, doc->epoch == epoch);
    if (!undecided && !owned && !aff__doc_expect(e, frame->document, epoch)) {
        e->stats.refused++;
        aff__doc_disown(e, frame->document, epoch);
        answer(e, AFF_FRAME_REFUSE, proxy, epoch, frame->address);
        return;
    }
    doc = aff__doc_get(e, frame->document);
    aff__served *served = find_served(e, proxy, frame->address);
    if (!served) served = new_served(e, proxy, doc, frame->address);
    if (served->accepted && !owned) { /* offered again: it waits like any other */
        aff__doc_unuse(e, doc, AFF_USE_ROUTE);
        served->accepted = false;
    }
    served->epoch = served->since = epoch;
    aff__put_bytes(&served->held, data);
    if (!owned) return;
    if (!served->accepted) aff__doc_use(e, doc, AFF_USE_ROUTE);
    accept_served(e, served);
}

/* A frame of an address that was refused, or has ended, has nowhere to go: the origin knows. */
static void on_data(aff_engine *e, aff__proxy *proxy, uint64_t epoch,
                    const aff__client_frame *frame, aff_slice data) {
    aff__served *served = find_served(e, proxy, frame->address);
    if (!served || epoch < served->since || epoch > served->epoch) {
        e->stats.stale_by[served ? AFF_STALE_EPOCH : AFF_STALE_ENDED]++;
        if (!served && proxy->is_ours) {
            aff__route_returned(e, proxy->socket, frame, data);
        }
    } else if (served->accepted) {
        deliver(e, proxy, data);
    } else {
        aff__put_bytes(&served->held, data);
    }
}

static bool on_client_frame(aff_engine *e, aff__proxy *proxy, aff__frame_type type,
                            aff_slice rest) {
    uint64_t epoch;
    aff__client_frame frame;
    if (!aff__get_epoch(&rest, &epoch) || !aff__parse_client_frame(rest, &frame)) return false;
    if (frame.document.len == 0 || frame.document.len > AFF_NAME_MAX) return false;
    if (type == AFF_FRAME_OFFER) {
        on_offer(e, proxy, epoch, &frame, rest);
    } else {
        on_data(e, proxy, epoch, &frame, rest);
    }
    return true;
}

bool aff__owner_frame(aff_engine *e, aff__peer *peer, aff__frame_type type, aff_slice rest) {
    uint32_t visit;
    if (!aff__get_u32(&rest, &visit)) return false;
    if (type == AFF_FRAME_OPEN) return on_open(e, peer, visit, rest);
    aff__proxy *proxy = find_by_origin(e, peer, visit);
    if (!proxy) { /* closed here meanwhile */
        e->stats.stale_by[AFF_STALE_ENDED]++;
        return true;
    }
    switch (type) {
        case AFF_FRAME_OFFER:
        case AFF_FRAME_DATA: return on_client_frame(e, proxy, type, rest);
        case AFF_FRAME_CLOSE: close_proxy(e, proxy, 1005, ""); return true;
        case AFF_FRAME_ALIVE:
            aff__act(e, AFF_ACT_PROXY_ALIVE, aff__none(), aff__none(), aff__none())->socket =
                proxy->id;
            return true;
        default: return false;
    }
}

/* ---- Frames from Hocuspocus --------------------------------------------------------------- */

static void add_target(aff__list *peers, const aff__proxy *proxy) {
    aff__peer *peer = proxy->peer;
    if (peer->target_count == 0) {
        aff__list_append(peers, &peer->by_target);
        peer->last_target = 0;
    }
    aff__put_int(&peer->targets, (int64_t)proxy->visit - peer->last_target);
    peer->last_target = proxy->visit;
    peer->target_count++;
}

/* False: the frame is too large for any link. */
static bool send_out(aff_engine *e, aff__peer *peer, const aff__doc *doc, aff_slice data) {
    aff__buf *out = aff__frame(e, AFF_FRAME_OUT);
    aff__put_uint(out, doc->epoch);
    aff__put_uint(out, peer->target_count);
    aff__put(out, peer->targets.data, peer->targets.len);
    aff__put(out, data.data, data.len);
    peer->targets.len = 0;
    peer->target_count = 0;
    aff__list_remove(&peer->by_target);
    if (e->scratch.len > AFF_MESSAGE_MAX) return false;
    aff__frame_send(e, peer); /* if the queue is full, the session of the link ends */
    return true;
}

static bool ends_route(const aff__client_frame *frame) {
    return frame->type == AFF_HP_CLOSE ||
           (frame->type == AFF_HP_AUTH && frame->sub == AFF_HP_DENIED);
}

static void close_too_big(aff_engine *e, uint32_t id) {
    aff__proxy *proxy = find_proxy(e, id);
    if (!proxy) return;
    e->stats.overflows++;
    kick(e, proxy, AFF_CLOSE_TOO_BIG, aff__str("Message Too Big"));
    close_proxy(e, proxy, AFF_CLOSE_TOO_BIG, "Message Too Big");
}

/*
 * One frame to many proxy sockets crosses once to each peer, with the list of its sockets. Where
 * the frame ends the route, the use of the document ends with it.
 */
void aff__proxy_send(aff_engine *e, const uint32_t *proxies, uint32_t count, aff_slice data) {
    aff__client_frame frame;
    if (!aff__parse_client_frame(data, &frame)) {
        e->stats.malformed++;
        return;
    }
    aff__doc *doc = aff__doc_find(e, frame.document);
    if (!doc || !aff__doc_serves(doc)) {
        e->stats.stale_by[AFF_STALE_UNSERVED] += count;
        return;
    }
    bool over = ends_route(&frame);
    aff__list peers; /* with targets */
    aff__list_init(&peers);
    aff__doc_use(e, doc, AFF_USE_ROUTE); /* keeps `doc` while routes end */
    for (uint32_t p = 0; p < count; p++) {
        aff__proxy *proxy = find_proxy(e, proxies[p]);
        aff__served *served = proxy ? find_served(e, proxy, frame.address) : NULL;
        if (!served || !served->accepted) {
            e->stats.stale_by[AFF_STALE_ENDED]++;
            continue;
        }
        add_target(&peers, proxy);
        if (over) end_served(e, served);
    }
    bool fits = true;
    while (!aff__list_empty(&peers)) {
        if (!send_out(e, AFF_OF(peers.next, aff__peer, by_target), doc, data)) fits = false;
    }
    for (uint32_t p = 0; p < count && !fits; p++) close_too_big(e, proxies[p]);
    aff__doc_unuse(e, doc, AFF_USE_ROUTE);
    aff__doc_settle(e, doc);
}
