/*
 * check.c - the invariants that one engine can check, by the numbers of ARCHITECTURE.md.
 *
 * Called by tests after every step. The missing numbers need more than one engine (I1, I4) or a
 * history (I5's order itself); tests and the simulator watch those.
 */
#include "engine.h"

#define COUNT(head) count_items(&(head))

static size_t count_items(const aff__list *head) {
    size_t n = 0;
    for (const aff__list *i = head->next; i != head; i = i->next) {
        AFF_ASSERT(i->next->prev == i && i->prev->next == i);
        n++;
    }
    return n;
}

static bool is_linked(const aff__list *head, const aff__list *item) {
    for (const aff__list *i = head->next; i != head; i = i->next) {
        if (i == item) return true;
    }
    return false;
}

/* Is the item found under its own key? */
static bool is_mapped(const aff__map *map, const aff__item *item) {
    return aff__map_get(map, aff__item_key(item)) == item;
}

static void check_map(const aff__map *map) {
    size_t n = 0;
    for (aff__item *i = NULL; (i = aff__map_next(map, i)); n++) AFF_ASSERT(is_mapped(map, i));
    AFF_ASSERT(n == map->count);
}

/* How many whole frames, each behind its length, the bytes are. */
static size_t count_frames(aff_slice rest) {
    size_t n = 0;
    for (aff_slice frame; rest.len > 0; n++) AFF_ASSERT(aff__get_bytes(&rest, &frame));
    return n;
}

/* A link leads to another server, or it is the one back to ourselves. */
static bool is_peer(const aff_engine *e, const aff__peer *peer) {
    return peer == e->self || is_mapped(&e->peers, &peer->item);
}

/* ---- Membership -------------------------------------------------------------------------- */

static void check_member(const aff_engine *e) {
    const aff__member *m = &e->member;
    /* I6: only a member has leases that are valid, and for no longer than lockTTL. */
    AFF_ASSERT(m->state == AFF_MEMBER_JOINED || m->valid_until == 0);
    AFF_ASSERT(m->valid_until < e->now + e->config.lock_ttl_ms);
    /* I7: a boot is never taken up again. */
    AFF_ASSERT(strlen(m->boot) == AFF_BOOT_LEN && strcmp(m->boot, m->former) != 0);
}

/* ---- Documents --------------------------------------------------------------------------- */

static bool is_used(const aff__doc *doc) {
    for (int use = 0; use < AFF_USE_COUNT; use++) {
        if (doc->uses[use]) return true;
    }
    return false;
}

static bool is_asked(const aff__doc *doc) {
    return doc->state == AFF_DOC_CLAIMING || doc->state == AFF_DOC_CHECKING ||
           doc->state == AFF_DOC_RELEASING;
}

static bool is_idle(const aff__doc *doc) {
    return !is_used(doc) && aff__list_empty(&doc->waiters) && aff__list_empty(&doc->routes) &&
           aff__list_empty(&doc->served);
}

static size_t count_routes(const aff__doc *doc, aff__route_state state) {
    size_t n = 0;
    for (const aff__list *i = doc->routes.next; i != &doc->routes; i = i->next) {
        if (AFF_OF(i, const aff__route, by_doc)->state == state) n++;
    }
    return n;
}

static size_t count_placeable(const aff__doc *doc) {
    size_t n = 0;
    for (const aff__list *i = doc->routes.next; i != &doc->routes; i = i->next) {
        n += aff__route_placeable(AFF_OF(i, const aff__route, by_doc));
    }
    return n;
}

static size_t count_accepted(const aff__doc *doc) {
    size_t n = 0;
    for (const aff__list *i = doc->served.next; i != &doc->served; i = i->next) {
        if (AFF_OF(i, const aff__served, by_doc)->accepted) n++;
    }
    return n;
}

static bool is_own_record(const aff_engine *e, const aff__doc *doc) {
    aff_slice record = aff__buf_slice(&doc->record);
    const uint8_t *space = record.len ? memchr(record.data, ' ', record.len) : NULL;
    size_t left = space ? (size_t)(record.data + record.len - space) : 0;
    return left > 1 + AFF_BOOT_LEN && memcmp(space + 1, e->member.boot, AFF_BOOT_LEN) == 0;
}

static void check_doc(const aff_engine *e, const aff__doc *doc) {
    bool owned = doc->state == AFF_DOC_OWNED, remote = doc->state == AFF_DOC_REMOTE;
    size_t local = count_routes(doc, AFF_ROUTE_LOCAL), accepted = count_accepted(doc);
    /* I2: no frame reaches Hocuspocus for a document that this server does not own, unless the
     * document is being claimed again under a new boot or epoch, is just being handed off, or the
     * server is leaving. */
    bool serves = local > 0 || accepted > 0;
    bool is_left = doc->state == AFF_DOC_RELEASING && doc->left;
    AFF_ASSERT(!serves || owned || doc->kept || is_left || e->member.state == AFF_MEMBER_LEAVING);
    AFF_ASSERT(!doc->left || is_left);
    AFF_ASSERT(!doc->kept || doc->state == AFF_DOC_FREE || doc->state == AFF_DOC_CLAIMING ||
               doc->state == AFF_DOC_CHECKING);
    /* I3: a document without uses, waiters, routes and served addresses is not OWNED, unless it has
     * just been given to this server, nor kept in mind as REMOTE. */
    bool is_given = owned && e->now < doc->given_until && e->resume_at <= doc->given_until;
    AFF_ASSERT(!is_idle(doc) || doc->state == AFF_DOC_FREE || is_asked(doc) || doc->refreshing ||
               is_given);
    AFF_ASSERT(!doc->answering);
    /* I8: OWNED has an epoch and a record of this boot, REMOTE an epoch and an owner that is a
     * peer, and nothing else has an owner. */
    AFF_ASSERT(!owned || (doc->epoch > 0 && is_own_record(e, doc)));
    AFF_ASSERT(remote == (doc->owner != NULL));
    AFF_ASSERT(!remote || (doc->epoch > 0 && is_mapped(&e->peers, &doc->owner->item)));
    /* I9: nobody waits for what is known: OWNED has no waiters, and neither OWNED nor REMOTE has
     * a route that looks for the owner, unless it waits for its client's token. */
    AFF_ASSERT(!owned || aff__list_empty(&doc->waiters));
    AFF_ASSERT(doc->lookups == count_routes(doc, AFF_ROUTE_LOOKUP));
    AFF_ASSERT(!(owned || remote) || count_placeable(doc) == 0);
    /* I10: every route served here and every accepted address is one use. */
    AFF_ASSERT(doc->uses[AFF_USE_ROUTE] == local + accepted);
    /* I11: no epoch is above the highest one seen. */
    AFF_ASSERT(doc->epoch <= e->stats.epoch_max);
}

static void check_docs(const aff_engine *e) {
    size_t owned = 0, routes = 0, served = 0;
    for (aff__item *i = NULL; (i = aff__map_next(&e->docs, i));) {
        const aff__doc *doc = AFF_OF(i, const aff__doc, item);
        check_doc(e, doc);
        owned += doc->state == AFF_DOC_OWNED;
        routes += COUNT(doc->routes);
        served += COUNT(doc->served);
    }
    /* I12: gauges and lists count the same. */
    AFF_ASSERT(owned == e->stats.documents_owned);
    AFF_ASSERT(routes == e->routes.count && served == e->served.count);
}

/* I13: what Redis is asked about exists, and a document is asked about as its state says. */
static void check_asks(const aff_engine *e) {
    size_t asked = 0, pending = 0;
    for (aff__item *i = NULL; (i = aff__map_next(&e->asks, i));) {
        const aff__ask *ask = AFF_OF(i, const aff__ask, item);
        AFF_ASSERT(ask->id <= e->next_id);
        if (!ask->doc) continue;
        AFF_ASSERT(is_mapped(&e->docs, &ask->doc->item));
        AFF_ASSERT(ask->kind != AFF_ASK_CLAIM || ask->doc->state == AFF_DOC_CLAIMING);
        AFF_ASSERT(ask->kind != AFF_ASK_HOLDER || ask->doc->state == AFF_DOC_CHECKING);
        AFF_ASSERT(ask->kind != AFF_ASK_RELEASE || ask->doc->state == AFF_DOC_RELEASING);
        pending += ask->kind != AFF_ASK_REFRESH;
    }
    for (aff__item *i = NULL; (i = aff__map_next(&e->docs, i));) {
        asked += is_asked(AFF_OF(i, const aff__doc, item));
    }
    AFF_ASSERT(asked == pending);
}

/* I14: claims and events are in the order of their deadlines. An event waits for its document's
 * owner or for the peer that it was sent to, a claim for its document. */
static void check_waiters(const aff_engine *e) {
    uint64_t before = 0;
    size_t sent = 0, waiting = 0;
    for (const aff__list *i = e->claims.next; i != &e->claims; i = i->next) {
        const aff__waiter *waiter = AFF_OF(i, const aff__waiter, by_time);
        AFF_ASSERT(!waiter->is_event && waiter->deadline >= before);
        AFF_ASSERT(is_linked(&waiter->doc->waiters, &waiter->by_doc));
        before = waiter->deadline;
    }
    before = 0;
    for (const aff__list *i = e->event_times.next; i != &e->event_times; i = i->next) {
        const aff__waiter *waiter = AFF_OF(i, const aff__waiter, by_time);
        AFF_ASSERT(waiter->is_event && waiter->deadline >= before);
        AFF_ASSERT(is_mapped(&e->events, &waiter->item));
        AFF_ASSERT((waiter->doc == NULL) != (waiter->peer == NULL));
        const aff__list *in = waiter->doc ? &waiter->doc->waiters : &waiter->peer->events;
        AFF_ASSERT(is_linked(in, waiter->doc ? &waiter->by_doc : &waiter->by_peer));
        before = waiter->deadline;
    }
    for (aff__item *i = NULL; (i = aff__map_next(&e->docs, i));) {
        waiting += COUNT(AFF_OF(i, const aff__doc, item)->waiters);
    }
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        sent += COUNT(AFF_OF(i, const aff__peer, item)->events);
    }
    AFF_ASSERT(COUNT(e->event_times) == e->events.count);
    AFF_ASSERT(waiting + sent == COUNT(e->claims) + e->events.count);
}

/* ---- The origin's side ------------------------------------------------------------------- */

static bool is_pending(const aff__route *route) {
    bool no_owner = route->state == AFF_ROUTE_WAITING || route->state == AFF_ROUTE_LOOKUP ||
                    route->state == AFF_ROUTE_OFFERED;
    return no_owner && route->shim.phase == AFF_SHIM_IDLE;
}

/* I27: the shim stands in for a client between two owners, never beside one that knows it; it waits
 * for a token as long as it stands in the list of those, in the order of their deadlines. */
static void check_shim(const aff_engine *e, const aff__route *route) {
    const aff__shim *shim = &route->shim;
    switch (route->state) {
        case AFF_ROUTE_LOOKUP: AFF_ASSERT(shim->phase != AFF_SHIM_SYNC); break;
        case AFF_ROUTE_OFFERED:
            AFF_ASSERT(shim->phase == AFF_SHIM_IDLE || shim->phase == AFF_SHIM_AUTH);
            break;
        case AFF_ROUTE_REMOTE:
        case AFF_ROUTE_CLOSING: AFF_ASSERT(shim->phase != AFF_SHIM_TOKEN); break;
        default: AFF_ASSERT(shim->phase == AFF_SHIM_IDLE); break;
    }
    AFF_ASSERT((shim->phase == AFF_SHIM_TOKEN) == (shim->wait != NULL));
    AFF_ASSERT(!shim->wait || is_linked(&e->shims, &shim->wait->by_time));
    AFF_ASSERT(shim->before_step2 <= shim->forwarded);
}

static size_t count_tokens(const aff_engine *e) {
    uint64_t before = 0;
    size_t n = 0;
    for (const aff__list *i = e->shims.next; i != &e->shims; i = i->next, n++) {
        const aff__token_wait *wait = AFF_OF(i, const aff__token_wait, by_time);
        AFF_ASSERT(wait->shim->wait == wait && wait->deadline >= before);
        before = wait->deadline;
    }
    return n;
}

static void check_route(const aff_engine *e, const aff__socket *socket, const aff__route *route) {
    aff_slice key = aff__item_key(&route->item), name = aff__item_key(&route->doc->item);
    /* I15: a route is in the map under its socket and address, and at its document. */
    AFF_ASSERT(route->socket == socket && is_mapped(&e->routes, &route->item));
    AFF_ASSERT(is_mapped(&e->docs, &route->doc->item));
    AFF_ASSERT(is_linked(&route->doc->routes, &route->by_doc));
    AFF_ASSERT(memcmp(key.data, &socket->id, 4) == 0);
    AFF_ASSERT(key.len >= 4 + name.len && memcmp(key.data + 4, name.data, name.len) == 0);
    AFF_ASSERT(key.len == 4 + name.len || key.data[4 + name.len] == 0);
    /* I16: OFFERED, REMOTE and CLOSING have a visit of this socket, and no other state has. */
    bool away = route->state == AFF_ROUTE_OFFERED || route->state == AFF_ROUTE_REMOTE ||
                route->state == AFF_ROUTE_CLOSING;
    AFF_ASSERT(away == (route->visit != NULL));
    AFF_ASSERT(!away || is_linked(&socket->visits, &route->visit->by_socket));
    AFF_ASSERT(!away || route->epoch <= e->stats.epoch_max);
    /* I5: whole frames are held, and none where frames pass: nothing can be overtaken. */
    aff_slice held = route->held ? aff__buf_slice(route->held) : aff__none();
    AFF_ASSERT(count_frames(held) == route->held_count);
    bool passes = route->state == AFF_ROUTE_REMOTE || route->state == AFF_ROUTE_LOCAL;
    AFF_ASSERT(!passes || route->held_count == 0);
    check_shim(e, route);
}

static void check_visit(const aff_engine *e, const aff__socket *socket, const aff__visit *visit) {
    size_t routes = 0, same = 0;
    for (const aff__list *i = socket->routes.next; i != &socket->routes; i = i->next) {
        routes += AFF_OF(i, const aff__route, by_socket)->visit == visit;
    }
    for (const aff__list *i = socket->visits.next; i != &socket->visits; i = i->next) {
        const aff__visit *other = AFF_OF(i, const aff__visit, by_socket);
        same += other->peer == visit->peer && !other->was_left;
    }
    /* I17: a socket visits a peer at most once, and as long as it has routes there. */
    AFF_ASSERT(visit->socket == socket && same <= 1 && is_mapped(&e->visits, &visit->item));
    AFF_ASSERT(visit->route_count == routes && routes > 0);
    AFF_ASSERT(is_peer(e, visit->peer));
    AFF_ASSERT(is_linked(&visit->peer->visits, &visit->by_peer));
}

static void check_socket(const aff_engine *e, const aff__socket *socket) {
    size_t pending = 0, held_bytes = 0, held_count = 0;
    for (const aff__list *i = socket->routes.next; i != &socket->routes; i = i->next) {
        const aff__route *route = AFF_OF(i, const aff__route, by_socket);
        check_route(e, socket, route);
        pending += is_pending(route);
        held_bytes += route->held ? route->held->len : 0;
        held_count += route->held_count;
    }
    for (const aff__list *i = socket->visits.next; i != &socket->visits; i = i->next) {
        check_visit(e, socket, AFF_OF(i, const aff__visit, by_socket));
    }
    /* I18: a socket's counters are the sums over its routes, and within their bounds. */
    AFF_ASSERT(socket->pending_count == pending && socket->route_count == COUNT(socket->routes));
    AFF_ASSERT(socket->held_bytes == held_bytes && socket->held_count == held_count);
    AFF_ASSERT(held_bytes <= e->config.route_queue_max);
    AFF_ASSERT(held_count <= e->config.route_queue_count);
    AFF_ASSERT(socket->route_count <= e->config.socket_routes_max);
    /* I19: a socket that was given up has nothing left. */
    AFF_ASSERT(!socket->closed || (socket->route_count == 0 && COUNT(socket->visits) == 0));
}

static void check_sockets(const aff_engine *e) {
    size_t pending = 0, routes = 0, tokens = 0;
    for (aff__item *i = NULL; (i = aff__map_next(&e->sockets, i));) {
        const aff__socket *socket = AFF_OF(i, const aff__socket, item);
        check_socket(e, socket);
        pending += socket->pending_count;
        routes += socket->route_count;
        for (const aff__list *r = socket->routes.next; r != &socket->routes; r = r->next) {
            tokens += AFF_OF(r, const aff__route, by_socket)->shim.phase == AFF_SHIM_TOKEN;
        }
    }
    AFF_ASSERT(tokens == count_tokens(e));                                /* I27 */
    AFF_ASSERT(pending == e->pending_count && routes == e->routes.count); /* I18 */
}

/* ---- The owner's side -------------------------------------------------------------------- */

static void check_served(const aff_engine *e, const aff__proxy *proxy, const aff__served *served) {
    /* I20: a served address is in the map, at its proxy socket and at its document. */
    AFF_ASSERT(served->proxy == proxy && is_mapped(&e->served, &served->item));
    AFF_ASSERT(memcmp(served->item.key, &proxy->id, 4) == 0);
    AFF_ASSERT(is_mapped(&e->docs, &served->doc->item));
    AFF_ASSERT(is_linked(&served->doc->served, &served->by_doc));
    /* I21: it is accepted and holds nothing, under its document's epoch and one not above it
     * since; or it waits for the answer to a claim. */
    const aff__doc *doc = served->doc;
    count_frames(aff__buf_slice(&served->held));
    AFF_ASSERT(!served->accepted || served->held.len == 0);
    AFF_ASSERT(served->since <= served->epoch);
    AFF_ASSERT(!served->accepted || doc->state != AFF_DOC_OWNED || served->epoch == doc->epoch);
    AFF_ASSERT(served->accepted || doc->state == AFF_DOC_CLAIMING ||
               doc->state == AFF_DOC_CHECKING);
}

static void check_proxies(const aff_engine *e) {
    size_t served = 0, listed = 0;
    for (aff__item *i = NULL; (i = aff__map_next(&e->proxies, i));) {
        const aff__proxy *proxy = AFF_OF(i, const aff__proxy, item);
        /* I22: a proxy socket is in both maps and at its peer. */
        AFF_ASSERT(is_mapped(&e->proxies_by_origin, &proxy->by_origin));
        AFF_ASSERT(is_peer(e, proxy->peer));
        AFF_ASSERT(is_linked(&proxy->peer->proxies, &proxy->by_peer));
        for (const aff__list *s = proxy->routes.next; s != &proxy->routes; s = s->next) {
            check_served(e, proxy, AFF_OF(s, const aff__served, by_proxy));
            served++;
        }
    }
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        listed += COUNT(AFF_OF(i, const aff__peer, item)->proxies);
    }
    if (e->self) listed += COUNT(e->self->proxies);
    AFF_ASSERT(served == e->served.count && listed == e->proxies.count);
    AFF_ASSERT(e->proxies.count == e->proxies_by_origin.count);
}

/* ---- Links ------------------------------------------------------------------------------- */

/* What flush() would publish next: whole frames up to a batch, at least one. */
static size_t next_batch_len(const aff__peer *peer) {
    aff_slice rest = {peer->queue.data + peer->queue_at, peer->queue.len - peer->queue_at};
    const uint8_t *start = rest.data;
    size_t len = 0;
    for (aff_slice frame; rest.len > 0;) {
        AFF_ASSERT(aff__get_bytes(&rest, &frame));
        size_t end = (size_t)(rest.data - start);
        if (len > 0 && end > 256 << 10) break;
        len = end;
    }
    return len;
}

/* The batches that are not acknowledged lie in the queue one behind the other. */
static void check_kept_batches(const aff__peer *peer) {
    size_t kept = 0, count = peer->sizes.len / sizeof(uint32_t);
    for (size_t b = 0; b < count; b++) {
        uint32_t size;
        memcpy(&size, peer->sizes.data + b * sizeof(size), sizeof(size));
        count_frames(aff__slice(peer->queue.data + peer->acked_at + kept, size));
        kept += size;
    }
    AFF_ASSERT(peer->out_seq - peer->acked_seq == count && peer->acked_at + kept == peer->queue_at);
}

static void check_peer(const aff_engine *e, const aff__peer *peer) {
    /* I23: a link leads to another process, but for the one that leads back to ours; and it has a
     * session. */
    bool is_ours = memcmp(peer->process, e->member.boot, AFF_PROCESS_LEN) == 0;
    AFF_ASSERT(is_ours == (peer == e->self) && peer->session > 0);
    /* I24: the queue is what is not acknowledged, batch by batch, then whole frames that are not
     * sent; and these are bounded (but for what the last frame needs around it). */
    AFF_ASSERT(peer->queue_at <= peer->queue.len && peer->queue.len <= peer->queue.cap);
    check_kept_batches(peer);
    size_t unsent = peer->queue.len - peer->queue_at;
    AFF_ASSERT(unsent <= e->config.link_queue_max + 8192);
    AFF_ASSERT(peer->fragment.len <= AFF_MESSAGE_MAX);
    /* I25: no more was sent than the credit allows, and nothing acknowledged that was not sent. */
    AFF_ASSERT(peer->out_bytes <= peer->out_limit && peer->acked_seq <= peer->out_seq);
    /* I26: what credit allows to be sent is due to be flushed, now or with Redis's answer to what
     * was sent before: no link stands still. */
    bool is_dirty = !aff__list_empty(&peer->dirty);
    if (unsent && !is_dirty && !peer->unanswered && e->member.redis_up && !e->member.stalled) {
        AFF_ASSERT(peer->out_bytes + next_batch_len(peer) > peer->out_limit);
    }
    /* I39: a direct link is to a peer that has said where it listens, if this server has too. */
    bool is_wanted = e->config.direct_address && peer->direct.address.len > 0;
    AFF_ASSERT(is_wanted == (peer->direct.state != AFF_DIRECT_NONE));
    AFF_ASSERT(peer != e->self || !is_wanted);
    AFF_ASSERT(!peer->broken || is_dirty);
    AFF_ASSERT(!is_dirty || is_linked(&e->dirty, &peer->dirty));
    AFF_ASSERT(peer->target_count == 0 && peer->targets.len == 0);
}

static void check_peers(const aff_engine *e) {
    size_t visits = e->self ? COUNT(e->self->visits) : 0, expected = 0;
    if (e->self) check_peer(e, e->self);
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        const aff__peer *peer = AFF_OF(i, const aff__peer, item);
        check_peer(e, peer);
        visits += COUNT(peer->visits);
    }
    for (aff__item *i = NULL; (i = aff__map_next(&e->sockets, i));) {
        expected += COUNT(AFF_OF(i, const aff__socket, item)->visits);
    }
    AFF_ASSERT(visits == expected && visits == e->visits.count); /* I17 */
}

void aff_check(const aff_engine *e) {
    if (e->failed) return; /* only aff_free() is left */
    const aff__map *maps[] = {
        &e->docs,   &e->peers, &e->sockets, &e->routes,  &e->proxies,      &e->proxies_by_origin,
        &e->served, &e->asks,  &e->events,  &e->running, &e->former_peers, &e->visits};
    for (size_t i = 0; i < sizeof(maps) / sizeof(*maps); i++) check_map(maps[i]);
    check_member(e);
    check_docs(e);
    check_asks(e);
    check_waiters(e);
    check_sockets(e);
    check_proxies(e);
    check_peers(e);
    count_items(&e->actions);
}
