/*
 * origin.c - client sockets and their routes: this server holds the client's socket.
 *
 * A route is one (socket, address). Its frames keep their order, whatever happens (I5):
 *
 *              Auth                 owner is here
 *   WAITING ---------> LOOKUP ------------------------> LOCAL --Hocuspocus ends it--> (gone)
 *      ^              ^  ^ | owner is a peer              | the document is lost
 *      |              |  | |                              v
 *      |              |  | |                          RECALLED --what the app knows--> LOOKUP
 *      |      refused |  | v                 accepted            client's CLOSE
 *      |              +-OFFERED -----------------------> REMOTE ------------------> CLOSING
 *      |                 |                                 | Denied, CLOSE             | likewise
 *      |                 +--the owner is lost--------------+---------(gone)<-----------+
 *      +--frames that came after the client's CLOSE
 *
 * A frame is held until an owner has accepted the route, so that a refusal loses nothing. Before
 * the Auth frame nothing is asked of Redis: anonymous clients claim no leases. A route that has
 * lost its owner looks for the next one while its shim stands in for the client (shim.c); one that
 * moves to this server itself goes through the same frames, by the peer that is this server.
 */
#include "engine.h"

static const bool allowed[AFF_ROUTE_STATES][AFF_ROUTE_STATES] = {
    [AFF_ROUTE_WAITING] = {[AFF_ROUTE_LOOKUP] = 1},
    [AFF_ROUTE_LOOKUP] = {[AFF_ROUTE_LOCAL] = 1, [AFF_ROUTE_OFFERED] = 1},
    [AFF_ROUTE_OFFERED] = {[AFF_ROUTE_LOOKUP] = 1, [AFF_ROUTE_REMOTE] = 1},
    [AFF_ROUTE_REMOTE] = {[AFF_ROUTE_LOOKUP] = 1, [AFF_ROUTE_CLOSING] = 1},
    [AFF_ROUTE_CLOSING] = {[AFF_ROUTE_WAITING] = 1},
    [AFF_ROUTE_LOCAL] = {[AFF_ROUTE_RECALLED] = 1},
    [AFF_ROUTE_RECALLED] = {[AFF_ROUTE_LOOKUP] = 1},
};

/* Routes that have never had an owner: what a client can make without proving who it is. */
static bool is_pending(const aff__route *route) {
    bool no_owner = route->state == AFF_ROUTE_WAITING || route->state == AFF_ROUTE_LOOKUP ||
                    route->state == AFF_ROUTE_OFFERED;
    return no_owner && route->shim.phase == AFF_SHIM_IDLE;
}

static void count_route(aff_engine *e, aff__route *route, int by) {
    if (route->state == AFF_ROUTE_LOOKUP) route->doc->lookups += (uint32_t)by;
    if (!is_pending(route)) return;
    route->socket->pending_count += (uint32_t)by;
    e->pending_count += (uint32_t)by;
}

static void to(aff_engine *e, aff__route *route, aff__route_state state) {
    AFF_ASSERT(allowed[route->state][state]);
    count_route(e, route, -1);
    route->state = state;
    count_route(e, route, 1);
}

/* ---- Finding ------------------------------------------------------------------------------- */

static aff__socket *find_socket(const aff_engine *e, uint32_t id) {
    aff__item *item = aff__map_get(&e->sockets, aff__slice(&id, sizeof(id)));
    return item ? AFF_OF(item, aff__socket, item) : NULL;
}

static aff_slice route_key(aff_engine *e, uint32_t socket, aff_slice address) {
    e->key.len = 0;
    aff__put(&e->key, &socket, sizeof(socket));
    aff__put(&e->key, address.data, address.len);
    return aff__buf_slice(&e->key);
}

static aff_slice route_address(const aff__route *route) {
    return aff__slice(route->item.key + 4, route->item.key_len - 4);
}

static aff__route *route_at(aff_engine *e, aff__socket *socket, aff_slice address) {
    if (socket->recent && aff__equal(route_address(socket->recent), address)) return socket->recent;
    aff__item *item = aff__map_get(&e->routes, route_key(e, socket->id, address));
    if (!item) return NULL;
    socket->recent = AFF_OF(item, aff__route, item);
    return socket->recent;
}

static aff__route *find_route(aff_engine *e, uint32_t id, aff_slice address) {
    aff__socket *socket = find_socket(e, id);
    return socket ? route_at(e, socket, address) : NULL;
}

static aff__route *new_route(aff_engine *e, aff__socket *socket, const aff__client_frame *frame) {
    aff_slice key = route_key(e, socket->id, frame->address);
    aff__route *route = aff__alloc(&e->heap, sizeof(*route) + key.len);
    memcpy(route + 1, key.data, key.len);
    aff__item_init(&route->item, aff__slice(route + 1, key.len));
    route->socket = socket;
    route->doc = aff__doc_get(e, frame->document);
    aff__shim_init(&route->shim);
    aff__list_append(&socket->routes, &route->by_socket);
    aff__list_append(&route->doc->routes, &route->by_doc);
    aff__map_put(&e->routes, &route->item);
    socket->route_count++;
    count_route(e, route, 1);
    return route;
}

/* ---- Visits: a socket's proxy at a peer ------------------------------------------------------ */

static aff__visit *find_visit(const aff_engine *e, uint32_t id) {
    aff__item *item = aff__map_get(&e->visits, aff__slice(&id, sizeof(id)));
    return item ? AFF_OF(item, aff__visit, item) : NULL;
}

bool aff__visit_socket(const aff_engine *e, uint32_t id, uint32_t *socket) {
    const aff__visit *visit = find_visit(e, id);
    if (visit) *socket = visit->socket->id;
    return visit != NULL;
}

static void end_visit(aff_engine *e, aff__visit *visit) {
    aff__map_remove(&e->visits, &visit->item);
    aff__list_remove(&visit->by_socket);
    aff__list_remove(&visit->by_peer);
    aff__release(&e->heap, visit);
}

static void tell_end(aff_engine *e, const aff__visit *visit) {
    aff__put_uint(aff__frame(e, AFF_FRAME_CLOSE), visit->id);
    aff__frame_send(e, visit->peer);
}

static void leave_peer(aff_engine *e, aff__visit *visit) {
    tell_end(e, visit);
    end_visit(e, visit);
}

static aff__visit *visit_peer(aff_engine *e, aff__socket *socket, aff__peer *peer) {
    AFF_EACH(i, &socket->visits) {
        aff__visit *visit = AFF_OF(i, aff__visit, by_socket);
        if (visit->peer == peer && !visit->was_left) return visit;
    }
    aff__buf *frame = aff__frame(e, AFF_FRAME_OPEN);
    aff__put_uint(frame, ++e->next_visit);
    aff__put_bytes(frame, aff__slice(socket->request, socket->request_len));
    if (aff__frame_send(e, peer) != 0) return NULL;
    if (aff__list_empty(&peer->visits)) peer->mute_at = 0;
    aff__visit *visit = aff__alloc(&e->heap, sizeof(*visit));
    visit->id = e->next_visit;
    aff__item_init(&visit->item, aff__slice(&visit->id, sizeof(visit->id)));
    visit->socket = socket;
    visit->peer = peer;
    visit->active_at = e->now;
    aff__list_append(&socket->visits, &visit->by_socket);
    aff__list_append(&peer->visits, &visit->by_peer);
    aff__map_put(&e->visits, &visit->item);
    return visit;
}

static void detach(aff_engine *e, aff__route *route) {
    aff__visit *visit = route->visit;
    if (!visit) return;
    route->visit = NULL;
    if (--visit->route_count == 0) leave_peer(e, visit);
}

/* ---- Frames that wait ------------------------------------------------------------------------ */

static aff_slice held_frames(const aff__route *route) {
    return route->held ? aff__buf_slice(route->held) : aff__none();
}

/* The route holds nothing any more; the caller has what it held. */
static aff__buf take_held(aff_engine *e, aff__route *route) {
    aff__buf held;
    aff__buf_init(&held, &e->heap);
    if (route->held) held = *route->held;
    aff__release(&e->heap, route->held);
    route->held = NULL;
    route->socket->held_bytes -= held.len;
    route->socket->held_count -= route->held_count;
    route->held_count = 0;
    return held;
}

static void release_held(aff_engine *e, aff__route *route) {
    aff__buf held = take_held(e, route);
    aff__buf_free(&held);
}

/* As if these frames came from the client now. */
static void feed(aff_engine *e, uint32_t socket, aff__buf held) {
    aff_slice rest = aff__buf_slice(&held), frame;
    while (aff__get_bytes(&rest, &frame)) aff__socket_frame(e, socket, frame);
    aff__buf_free(&held);
}

static void close_socket(aff_engine *e, aff__socket *socket, uint16_t code, const char *reason);
static void on_route_over(aff_engine *e, aff__route *route);
static bool rescue_route(aff_engine *e, aff__route *route, aff_slice frames);

static bool hold(aff_engine *e, aff__route *route, aff_slice frame) {
    aff__socket *socket = route->socket;
    size_t len = frame.len + aff__uint_len(frame.len);
    if (socket->held_bytes + len > e->config.route_queue_max ||
        socket->held_count >= e->config.route_queue_count) {
        e->stats.overflows++;
        close_socket(e, socket, AFF_CLOSE_RESET, "Reset Connection");
        return false;
    }
    if (!route->held) {
        route->held = aff__alloc(&e->heap, sizeof(*route->held));
        aff__buf_init(route->held, &e->heap);
    }
    aff__put_bytes(route->held, frame);
    route->held_count++;
    socket->held_bytes += len;
    socket->held_count++;
    return true;
}

/* ---- Ending routes and sockets --------------------------------------------------------------- */

static void tell_place(aff_engine *e, aff__route *route, aff_route_place place) {
    aff_action *act = aff__act(e, AFF_ACT_ROUTE, aff__none(), route_address(route), aff__none());
    act->socket = route->socket->id;
    act->status = (int)place;
    act->count = route->taken;
    if (place != AFF_ROUTE_RECALL) route->taken = 0;
}

/* Forgets a route; the document may be forgotten or released with it. */
static void end_route(aff_engine *e, aff__route *route) {
    aff__doc *doc = route->doc;
    tell_place(e, route, AFF_ROUTE_ENDED);
    detach(e, route);
    count_route(e, route, -1);
    release_held(e, route);
    aff__shim_free(e, &route->shim);
    route->socket->route_count--;
    aff__list_remove(&route->by_socket);
    aff__list_remove(&route->by_doc);
    aff__map_remove(&e->routes, &route->item);
    if (route->socket->recent == route) route->socket->recent = NULL;
    if (route->state == AFF_ROUTE_LOCAL) aff__doc_unuse(e, doc, AFF_USE_ROUTE);
    aff__release(&e->heap, route);
    aff__doc_settle(e, doc);
}

static void end_routes(aff_engine *e, aff__socket *socket) {
    while (!aff__list_empty(&socket->routes)) {
        end_route(e, AFF_OF(socket->routes.next, aff__route, by_socket));
    }
    while (!aff__list_empty(&socket->visits)) {
        leave_peer(e, AFF_OF(socket->visits.next, aff__visit, by_socket));
    }
}

/* The engine gives a socket up; it stays known until the app says that it is closed. */
static void close_socket(aff_engine *e, aff__socket *socket, uint16_t code, const char *reason) {
    if (socket->closed) return;
    socket->closed = true;
    end_routes(e, socket);
    aff_action *act = aff__act(e, AFF_ACT_SOCKET_CLOSE, aff__none(), aff__none(), aff__str(reason));
    act->socket = socket->id;
    act->code = code;
}

void aff__route_fail(aff_engine *e, aff__route *route, const char *why) {
    aff__about about = {.document = aff__item_key(&route->doc->item)};
    aff__log(e, 0, AFF_TOPIC_SOCKETS, &about, "closing socket %u: %s", route->socket->id, why);
    close_socket(e, route->socket, AFF_CLOSE_RESET, "Reset Connection");
}

void aff__socket_open(aff_engine *e, const aff_event *event) {
    if (find_socket(e, event->socket)) return;
    aff__socket *socket = aff__alloc(&e->heap, sizeof(*socket) + event->data.len);
    socket->id = event->socket;
    aff__item_init(&socket->item, aff__slice(&socket->id, sizeof(socket->id)));
    socket->active_at = e->now;
    socket->request_len = (uint32_t)event->data.len;
    if (event->data.len) memcpy(socket->request, event->data.data, event->data.len);
    aff__list_init(&socket->routes);
    aff__list_init(&socket->visits);
    aff__map_put(&e->sockets, &socket->item);
}

void aff__socket_alive(aff_engine *e, uint32_t id) {
    aff__socket *socket = find_socket(e, id);
    if (socket) socket->active_at = e->now;
}

void aff__socket_closed(aff_engine *e, uint32_t id) {
    aff__socket *socket = find_socket(e, id);
    if (!socket) return;
    socket->closed = true;
    end_routes(e, socket);
    aff__map_remove(&e->sockets, &socket->item);
    aff__release(&e->heap, socket);
}

/* ---- Sending to the owner -------------------------------------------------------------------- */

static bool send_frame(aff_engine *e, aff__route *route, aff__frame_type type, aff_slice data) {
    aff__buf *frame = aff__frame(e, type);
    aff__put_uint(frame, route->visit->id);
    aff__put_uint(frame, route->epoch);
    aff__put(frame, data.data, data.len);
    if (aff__frame_send(e, route->visit->peer) == 0) {
        route->visit->active_at = e->now;
        return true;
    }
    e->stats.overflows++;
    uint16_t code = data.len >= (64u << 20) ? AFF_CLOSE_TOO_BIG : AFF_CLOSE_RESET;
    close_socket(e, route->socket, code,
                 code == AFF_CLOSE_RESET ? "Reset Connection" : "Message Too Big");
    return false;
}

static bool is_close(aff_slice data) {
    aff__client_frame frame;
    return aff__parse_client_frame(data, &frame) && frame.type == AFF_HP_CLOSE;
}

static void offer(aff_engine *e, aff__route *route, aff__peer *peer) {
    aff__visit *visit = visit_peer(e, route->socket, peer);
    if (!visit) {
        e->stats.overflows++;
        close_socket(e, route->socket, AFF_CLOSE_RESET, "Reset Connection");
        return;
    }
    visit->route_count++;
    route->visit = visit;
    route->epoch = route->doc->epoch;
    to(e, route, AFF_ROUTE_OFFERED);
    aff_slice rest = held_frames(route), frame;
    aff__frame_type type = AFF_FRAME_OFFER;
    route->closing = false;
    while (!route->closing && aff__get_bytes(&rest, &frame)) {
        if (!send_frame(e, route, type, frame)) return;
        type = AFF_FRAME_DATA;
        route->closing = is_close(frame);
    }
}

static void deliver_here(aff_engine *e, const aff__route *route, aff_slice frame) {
    aff__act(e, AFF_ACT_LOCAL, aff__none(), aff__none(), frame)->socket = route->socket->id;
}

bool aff__route_placeable(const aff__route *route) {
    return route->state == AFF_ROUTE_LOOKUP && route->shim.phase != AFF_SHIM_TOKEN;
}

static void place_here(aff_engine *e, aff__route *route) {
    aff__doc_use(e, route->doc, AFF_USE_ROUTE);
    to(e, route, AFF_ROUTE_LOCAL);
    aff_slice rest = held_frames(route), frame;
    while (aff__get_bytes(&rest, &frame)) deliver_here(e, route, frame);
    release_held(e, route);
    aff__shim_free(e, &route->shim); /* from here on the app keeps track */
    aff__shim_init(&route->shim);
    tell_place(e, route, AFF_ROUTE_HERE);
}

void aff__route_place(aff_engine *e, aff__route *route) {
    bool owned = route->doc->state == AFF_DOC_OWNED;
    if (owned && route->shim.phase == AFF_SHIM_IDLE) {
        place_here(e, route);
    } else {
        offer(e, route, owned ? aff__self(e) : route->doc->owner);
    }
}

static void look_up(aff_engine *e, aff__route *route) {
    aff__doc_state state = route->doc->state;
    if (state != AFF_DOC_OWNED && state != AFF_DOC_REMOTE) {
        aff__doc_settle(e, route->doc);
    } else if (aff__route_placeable(route)) {
        aff__route_place(e, route);
    }
}

/* ---- Fail-over ------------------------------------------------------------------------------- */

/* Hands one frame to the app, for many sockets. */
static void send_group(aff_engine *e, const uint32_t *sockets, uint32_t count, aff_slice frame) {
    if (count == 0) return;
    /* The name of the action comes first behind it, and so is aligned. */
    aff_slice ids = aff__slice(sockets, count * sizeof(*sockets));
    aff_action *act = aff__act(e, AFF_ACT_SEND, aff__none(), ids, frame);
    act->sockets = (const uint32_t *)(const void *)act->name.data;
    act->count = count;
    act->name = aff__none();
    e->stats.backlog += frame.len;
}

static void send_to_client(aff_engine *e, const aff__route *route, const uint8_t *body,
                           size_t len) {
    aff__buf frame;
    aff__buf_init(&frame, &e->heap);
    aff__put_bytes(&frame, route_address(route));
    aff__put(&frame, body, len);
    send_group(e, &route->socket->id, 1, aff__buf_slice(&frame));
    aff__buf_free(&frame);
}

/* As the client has sent it, if there is one. */
static bool hold_known(aff_engine *e, aff__route *route, aff__known_kind kind) {
    aff_slice body = aff__shim_known(&route->shim, kind);
    if (body.len == 0) return true;
    aff__buf frame;
    aff__buf_init(&frame, &e->heap);
    aff__put_bytes(&frame, route_address(route));
    aff__put(&frame, body.data, body.len);
    bool fits = hold(e, route, aff__buf_slice(&frame));
    aff__buf_free(&frame);
    return fits;
}

/* What the new owner has to hear first; then what has been waiting. */
static bool hold_replay(aff_engine *e, aff__route *route) {
    aff__buf waiting = take_held(e, route);
    aff__shim_wind_clock(e, &route->shim);
    route->shim.asks = aff__shim_known(&route->shim, AFF_KNOWN_STEP1).len > 0;
    bool fits = true;
    for (int k = 0; k < AFF_KNOWN_COUNT && fits; k++)
        fits = hold_known(e, route, (aff__known_kind)k);
    aff_slice rest = aff__buf_slice(&waiting), frame;
    if (AFF_MUTATE(8, true, false)) rest = aff__none();
    while (fits && aff__get_bytes(&rest, &frame)) fits = hold(e, route, frame);
    aff__buf_free(&waiting);
    return fits; /* false: the socket is closed, and the route is gone */
}

/* The route has lost its owner: another one is looked for, and the client is asked for its token.
 */
static void fail_over(aff_engine *e, aff__route *route) {
    static const uint8_t token_request[] = {AFF_HP_AUTH, AFF_HP_TOKEN};
    e->stats.failovers++;
    bool ask = aff__shim_start(e, &route->shim);
    route->shim.lost_at = (uint32_t)e->now;
    to(e, route, AFF_ROUTE_LOOKUP);
    if (ask) {
        send_to_client(e, route, token_request, sizeof(token_request));
    } else if (!hold_replay(e, route)) {
        return;
    }
    look_up(e, route);
}

void aff__shims_timeout(aff_engine *e) {
    while (!aff__list_empty(&e->shims)) {
        const aff__token_wait *wait = AFF_OF(e->shims.next, aff__token_wait, by_time);
        if (wait->deadline > e->now) return;
        aff__route_fail(e, AFF_OF(wait->shim, aff__route, shim),
                        "the client did not send its token again");
    }
}

/* The peer that it was offered to may have shown the cursor, and then have declared it gone: it is
 * offered to the next one, or there again, under a later clock. False: the socket is closed. */
static bool wind_held(aff_engine *e, aff__route *route) {
    aff_slice awareness = aff__shim_known(&route->shim, AFF_KNOWN_AWARENESS);
    if (route->shim.phase != AFF_SHIM_AUTH || awareness.len == 0) return true;
    aff__buf held = take_held(e, route), before;
    aff__buf_init(&before, &e->heap);
    aff__put(&before, awareness.data, awareness.len);
    aff__shim_wind_clock(e, &route->shim);
    aff_slice rest = aff__buf_slice(&held), data;
    aff__client_frame frame;
    bool fits = true;
    while (fits && aff__get_bytes(&rest, &data)) {
        bool is_it = aff__parse_client_frame(data, &frame) &&
                     aff__equal(frame.body, aff__buf_slice(&before));
        fits = is_it ? hold_known(e, route, AFF_KNOWN_AWARENESS) : hold(e, route, data);
    }
    aff__buf_free(&held);
    aff__buf_free(&before);
    return fits;
}

/*
 * Its document may come back to the same peer, while the application there is still busy with what
 * it had of the visit before: that must not be taken for what the next owner says. So the route
 * goes there on another visit then.
 */
static void move(aff_engine *e, aff__route *route) {
    if (route->visit) route->visit->was_left = true;
    if (route->state == AFF_ROUTE_REMOTE) {
        detach(e, route);
        fail_over(e, route);
    } else if (route->state == AFF_ROUTE_LOCAL) {
        aff__doc_unuse(e, route->doc, AFF_USE_ROUTE);
        to(e, route, AFF_ROUTE_RECALLED);
        tell_place(e, route, AFF_ROUTE_RECALL);
    } else if (route->state == AFF_ROUTE_OFFERED) {
        detach(e, route);
        to(e, route, AFF_ROUTE_LOOKUP);
        if (wind_held(e, route)) look_up(e, route);
    } else if (route->state == AFF_ROUTE_CLOSING) {
        on_route_over(e, route);
    }
}

static aff__route *route_of(const aff__socket *socket, const aff__visit *visit) {
    for (aff__list *i = socket->routes.next; i != &socket->routes; i = i->next) {
        aff__route *route = AFF_OF(i, aff__route, by_socket);
        if (route->visit == visit) return route;
    }
    return NULL;
}

/* The routes of a visit that is over look for another owner. They are moved one by one: moving one
 * can end others. One that is offered to the same peer again makes a new visit there. */
static void move_visitors(aff_engine *e, aff__visit *visit, bool rescue) {
    const aff__peer *peer = visit->peer;
    visit->route_count++; /* keeps it while routes end */
    aff__list_remove(&visit->by_socket);
    aff__route *route;
    while ((route = route_of(visit->socket, visit))) {
        aff_slice sent = aff__link_sent_after(peer, peer->acked_seq);
        bool fits = !rescue || route->state != AFF_ROUTE_REMOTE || rescue_route(e, route, sent);
        if (!fits) continue; /* the socket is closed */
        route->visit = NULL;
        move(e, route);
    }
    end_visit(e, visit);
}

/*
 * The app here, or Redis, says that the document is another server's. A peer that has not said so
 * may not know, and own it again before it does: what it says for this route then could not be told
 * from what it says when the route is offered to it again. So the visit ends, with all its routes.
 */
void aff__route_move(aff_engine *e, aff__route *route) {
    aff__visit *visit = route->visit;
    if (!visit || visit->peer == e->self) {
        move(e, route);
        return;
    }
    tell_end(e, visit);
    move_visitors(e, visit, true);
}

static bool get_state(aff_engine *e, aff_slice rest, aff__shim *shim) {
    uint8_t flags;
    aff_slice frames[AFF_KNOWN_COUNT];
    aff__client_frame frame;
    if (!aff__get_u8(&rest, &flags) || !aff__get_u32(&rest, &shim->unsynced)) return false;
    for (int k = 0; k < AFF_KNOWN_COUNT; k++) {
        if (!aff__get_bytes(&rest, &frames[k])) return false;
    }
    aff__get_u32(&rest, &shim->questions);
    shim->authenticated = flags & 1;
    shim->readonly = flags & 2;
    for (int k = 0; k < AFF_KNOWN_COUNT; k++) {
        bool is_there = aff__parse_client_frame(frames[k], &frame);
        aff__shim_learn(e, shim, (aff__known_kind)k, is_there ? frame.body : aff__none());
    }
    return true;
}

/* The app has told what it knows of a route that was served here; what came meanwhile is held. */
void aff__route_recalled(aff_engine *e, uint32_t socket, aff_slice address, aff_slice state) {
    aff__route *route = find_route(e, socket, address);
    if (!route || route->state != AFF_ROUTE_RECALLED) return;
    if (!get_state(e, state, &route->shim) ||
        aff__shim_known(&route->shim, AFF_KNOWN_AUTH).len == 0) {
        aff__route_fail(e, route, "nothing is known of its client");
        return;
    }
    aff__buf held = take_held(e, route);
    uint32_t taken = route->taken;
    fail_over(e, route);
    feed(e, socket, held);
    route = find_route(e, socket, address);
    if (route) route->taken = taken; /* they had been counted */
}

/* ---- Frames from the client ------------------------------------------------------------------ */

static bool is_token(const aff__client_frame *frame) {
    return frame->type == AFF_HP_AUTH && frame->sub == AFF_HP_TOKEN;
}

static void on_waiting(aff_engine *e, aff__route *route, const aff__client_frame *frame,
                       aff_slice data) {
    if (!hold(e, route, data) || !is_token(frame)) return;
    to(e, route, AFF_ROUTE_LOOKUP);
    look_up(e, route);
}

static void on_looking_up(aff_engine *e, aff__route *route, aff__verdict verdict, aff_slice data) {
    if (verdict == AFF_RESTART) {
        if (hold_replay(e, route)) look_up(e, route);
    } else if (verdict == AFF_PASS) {
        hold(e, route, data);
    }
}

static void on_client_frame(aff_engine *e, aff__route *route, const aff__client_frame *frame,
                            aff_slice data) {
    if (route->state != AFF_ROUTE_LOCAL) aff__shim_note(e, &route->shim, frame);
    bool leaves = frame->type == AFF_HP_CLOSE;
    aff__verdict verdict = aff__shim_from_client(e, &route->shim, frame);
    if (verdict == AFF_SWALLOW) return;
    switch (route->state) {
        case AFF_ROUTE_WAITING: on_waiting(e, route, frame, data); return;
        case AFF_ROUTE_LOOKUP:
            if (leaves && route->shim.phase != AFF_SHIM_IDLE) {
                end_route(e, route); /* it had been served: nobody is left to answer */
            } else {
                on_looking_up(e, route, verdict, data);
            }
            return;
        case AFF_ROUTE_OFFERED:
            if (!hold(e, route, data) || route->closing) return;
            if (!send_frame(e, route, AFF_FRAME_DATA, data)) return;
            route->closing = frame->type == AFF_HP_CLOSE;
            return;
        case AFF_ROUTE_REMOTE:
            if (!send_frame(e, route, AFF_FRAME_DATA, data)) return;
            if (leaves) to(e, route, AFF_ROUTE_CLOSING);
            return;
        case AFF_ROUTE_CLOSING:
            /* The same address again: a new route, once the old one has ended. */
            if (route->held_count > 0 || !leaves) hold(e, route, data);
            return;
        case AFF_ROUTE_LOCAL: deliver_here(e, route, data); return;
        case AFF_ROUTE_RECALLED: hold(e, route, data); return;
        case AFF_ROUTE_STATES: break;
    }
}

static bool is_address(const aff__client_frame *frame) {
    return frame->document.len > 0 && frame->document.len <= AFF_NAME_MAX &&
           aff__is_utf8(frame->address);
}

static bool may_open(const aff_engine *e, const aff__socket *socket) {
    return socket->pending_count < e->config.pending_routes_max &&
           socket->route_count < e->config.socket_routes_max &&
           e->pending_count < e->config.server_pending_max;
}

void aff__socket_frame(aff_engine *e, uint32_t id, aff_slice data) {
    aff__socket *socket = find_socket(e, id);
    if (!socket || socket->closed) return;
    socket->active_at = e->now;
    aff__client_frame frame;
    bool readable = aff__parse_client_frame(data, &frame);
    aff__route *route = readable ? route_at(e, socket, frame.address) : NULL;
    if (!readable || (!route && !is_address(&frame))) {
        e->stats.malformed++;
        close_socket(e, socket, AFF_CLOSE_UNAUTHORIZED, "Unauthorized");
        return;
    }
    if (!route && !may_open(e, socket)) {
        e->stats.overflows++;
        close_socket(e, socket, AFF_CLOSE_RESET, "Reset Connection");
        return;
    }
    if (!route) route = new_route(e, socket, &frame);
    if (route->state != AFF_ROUTE_LOCAL) route->taken++; /* those come back one by one */
    on_client_frame(e, route, &frame, data);
}

void aff__route_ended_here(aff_engine *e, uint32_t socket, aff_slice address) {
    aff__route *route = find_route(e, socket, address);
    if (!route) return;
    if (route->state == AFF_ROUTE_LOCAL) {
        end_route(e, route);
    } else if (route->state == AFF_ROUTE_RECALLED) {
        /* It had ended before it was recalled: what came meanwhile is for the next route. */
        aff__buf held = take_held(e, route);
        route->taken = 0; /* counted when they come again */
        end_route(e, route);
        feed(e, socket, held);
    }
}

/* ---- Frames from the owner ------------------------------------------------------------------- */

static aff__route *visiting_route(aff_engine *e, uint32_t id, aff_slice address) {
    const aff__visit *visit = find_visit(e, id);
    aff__route *route = visit ? route_at(e, visit->socket, address) : NULL;
    return route && route->visit == visit ? route : NULL;
}

static aff__route *present_route(aff_engine *e, uint32_t visit, aff_slice address, uint64_t epoch,
                                 const aff__peer *peer) {
    aff__route *route = visiting_route(e, visit, address);
    bool is_there = route && route->visit && route->visit->peer == peer;
    if (is_there && route->epoch == epoch) return route;
    e->stats.stale_by[is_there ? AFF_STALE_EPOCH : AFF_STALE_ENDED]++;
    return NULL;
}

/* What was held up to the client's CLOSE has arrived; what follows is for the next route. */
static void release_closed(aff_engine *e, aff__route *route) {
    aff__buf held = take_held(e, route);
    aff_slice rest = aff__buf_slice(&held), frame;
    for (bool closed = false; aff__get_bytes(&rest, &frame);) {
        closed = closed || is_close(frame);
        if (closed && (route->held_count > 0 || !is_close(frame))) hold(e, route, frame);
    }
    aff__buf_free(&held);
}

static bool on_accept(aff_engine *e, aff__peer *peer, aff_slice rest) {
    uint32_t visit;
    uint64_t epoch;
    if (!aff__get_u32(&rest, &visit) || !aff__get_epoch(&rest, &epoch)) return false;
    aff__route *route = visiting_route(e, visit, rest);
    bool is_there = route && route->visit && route->visit->peer == peer;
    if (!is_there || epoch < route->epoch) {
        e->stats.stale_by[is_there ? AFF_STALE_EPOCH : AFF_STALE_ENDED]++;
        return true;
    }
    if (route->state == AFF_ROUTE_OFFERED && epoch == route->epoch) {
        if (route->shim.phase != AFF_SHIM_IDLE) {
            uint32_t took_ms = (uint32_t)e->now - route->shim.lost_at;
            aff__count_duration(&e->stats.failover_times, took_ms);
        }
        to(e, route, AFF_ROUTE_REMOTE);
        if (route->closing) {
            to(e, route, AFF_ROUTE_CLOSING);
            release_closed(e, route);
        } else {
            release_held(e, route);
        }
    } else if (route->state != AFF_ROUTE_OFFERED && epoch > route->epoch) {
        /* The same owner has claimed its document anew. */
        route->epoch = epoch;
        aff__saw_epoch(e, epoch);
        aff__doc *doc = route->doc;
        if (doc->state == AFF_DOC_REMOTE && doc->owner == peer) doc->epoch = epoch;
    }
    return true;
}

static bool on_refuse(aff_engine *e, aff__peer *peer, aff_slice rest) {
    uint32_t visit;
    uint64_t epoch;
    if (!aff__get_u32(&rest, &visit) || !aff__get_epoch(&rest, &epoch)) return false;
    aff__route *route = present_route(e, visit, rest, epoch, peer);
    if (!route || route->state != AFF_ROUTE_OFFERED) return true;
    detach(e, route);
    to(e, route, AFF_ROUTE_LOOKUP);
    if (route->doc->epoch == epoch) aff__doc_doubt(e, aff__item_key(&route->doc->item), peer);
    look_up(e, route);
    return true;
}

/* The owner has lost the document to another server. It has read nothing of it that was sent behind
 * batch `seq`. */
static bool on_moved(aff_engine *e, aff__peer *peer, aff_slice rest) {
    uint32_t visit;
    uint64_t epoch, seq;
    if (!aff__get_u32(&rest, &visit) || !aff__get_epoch(&rest, &epoch) ||
        !aff__get_uint(&rest, &seq))
        return false;
    aff__route *route = present_route(e, visit, rest, epoch, peer);
    if (!route) return true;
    if (peer != e->self && !rescue_route(e, route, aff__link_sent_after(peer, seq))) return true;
    aff__doc_doubt(e, aff__item_key(&route->doc->item), peer);
    move(e, route);
    return true;
}

/* The owner has ended the route; what the client has sent since its CLOSE starts a new one. */
static void on_route_over(aff_engine *e, aff__route *route) {
    if (route->state != AFF_ROUTE_CLOSING || route->held_count == 0) {
        end_route(e, route);
        return;
    }
    detach(e, route);
    aff__shim_free(e, &route->shim);
    aff__shim_init(&route->shim);
    to(e, route, AFF_ROUTE_WAITING);
    aff_slice rest = held_frames(route), data;
    while (aff__get_bytes(&rest, &data)) {
        aff__client_frame frame;
        if (!aff__parse_client_frame(data, &frame)) continue;
        aff__shim_note(e, &route->shim, &frame);
        if (is_token(&frame) && route->state == AFF_ROUTE_WAITING) {
            to(e, route, AFF_ROUTE_LOOKUP);
        }
    }
    if (route->state == AFF_ROUTE_LOOKUP) look_up(e, route);
}

static bool ends_route(const aff__client_frame *frame) {
    return frame->type == AFF_HP_CLOSE ||
           (frame->type == AFF_HP_AUTH && frame->sub == AFF_HP_DENIED);
}

static void on_verdict(aff_engine *e, aff__route *route, aff__verdict verdict, uint32_t settled) {
    static const uint8_t acknowledgement[] = {8, 1}; /* SyncStatus: applied */
    if (verdict == AFF_GIVE_UP) aff__route_fail(e, route, "the new owner denied its former token");
    if (verdict != AFF_SETTLE) return;
    for (uint32_t n = settled; n > 0; n--) {
        send_to_client(e, route, acknowledgement, sizeof(acknowledgement));
    }
}

static void send_out(aff_engine *e, aff_slice frame) {
    send_group(e, (const uint32_t *)(const void *)e->group.data,
               (uint32_t)(e->group.len / sizeof(uint32_t)), frame);
    e->group.len = 0;
}

/* One frame, for each of its visits; they are told by their differences. */
static bool on_out(aff_engine *e, aff__peer *peer, aff_slice rest) {
    uint64_t epoch;
    uint32_t count;
    int64_t visit = 0, step = 0;
    if (!aff__get_epoch(&rest, &epoch) || !aff__get_u32(&rest, &count)) return false;
    aff_slice targets = rest;
    for (uint32_t t = 0; t < count; t++) {
        if (!aff__get_int(&rest, &step)) return false;
    }
    aff__client_frame parsed;
    if (!aff__parse_client_frame(rest, &parsed)) return false;
    bool over = ends_route(&parsed);
    for (uint32_t t = 0; t < count; t++) {
        aff__get_int(&targets, &step);
        visit = (int64_t)((uint64_t)visit + (uint64_t)step);
        if (visit < 0 || visit > UINT32_MAX) {
            e->stats.stale_by[AFF_STALE_ENDED]++;
            continue;
        }
        aff__route *route = present_route(e, (uint32_t)visit, parsed.address, epoch, peer);
        if (!route) continue;
        uint32_t settled = 0;
        aff__verdict verdict = aff__shim_from_owner(&route->shim, &parsed, &settled);
        if (verdict != AFF_PASS) {
            on_verdict(e, route, verdict, settled);
            continue;
        }
        aff__put(&e->group, &route->socket->id, sizeof(uint32_t));
        if (!over) continue;
        send_out(e, rest);
        on_route_over(e, route);
    }
    send_out(e, rest);
    return true;
}

/* Hocuspocus at the owner has closed the proxy socket: the client's socket is closed alike. */
static bool on_kick(aff_engine *e, aff__peer *peer, aff_slice rest) {
    uint32_t id;
    uint64_t code;
    if (!aff__get_u32(&rest, &id) || !aff__get_uint(&rest, &code)) return false;
    const aff__visit *visit = find_visit(e, id);
    if (!visit || visit->peer != peer) return true;
    char reason[124]; /* RFC 6455, 5.5: a close frame carries at most 123 bytes of reason */
    size_t len = rest.len < sizeof(reason) - 1 ? rest.len : sizeof(reason) - 1;
    if (len) memcpy(reason, rest.data, len);
    reason[len] = '\0';
    close_socket(e, visit->socket, (uint16_t)code, reason);
    return true;
}

bool aff__origin_frame(aff_engine *e, aff__peer *peer, aff__frame_type type, aff_slice rest) {
    switch (type) {
        case AFF_FRAME_ACCEPT: return on_accept(e, peer, rest);
        case AFF_FRAME_REFUSE: return on_refuse(e, peer, rest);
        case AFF_FRAME_MOVED: return on_moved(e, peer, rest);
        case AFF_FRAME_OUT: return on_out(e, peer, rest);
        case AFF_FRAME_KICK: return on_kick(e, peer, rest);
        default: return false;
    }
}

/* ---- Links and time -------------------------------------------------------------------------- */

/* Whose stateless message is this frame to `peer`? NULL: it is something else, or for nobody. */
static aff__route *stateless_of(aff_engine *e, const aff__peer *peer, aff_slice *rest) {
    uint8_t type;
    uint32_t visit;
    uint64_t epoch;
    aff__client_frame frame;
    bool readable = aff__get_u8(rest, &type) && type == AFF_FRAME_DATA &&
                    aff__get_u32(rest, &visit) && aff__get_epoch(rest, &epoch) &&
                    aff__parse_client_frame(*rest, &frame);
    if (!readable || frame.type != AFF_HP_STATELESS) return NULL;
    aff__route *route = visiting_route(e, visit, frame.address);
    bool was_sent = route && route->state == AFF_ROUTE_REMOTE && route->visit->peer == peer;
    return AFF_MUTATE(9, false, was_sent) ? route : NULL;
}

void aff__routes_rescue(aff_engine *e, const aff__peer *peer, aff_slice frames) {
    aff_slice frame;
    while (aff__get_bytes(&frames, &frame)) {
        aff__route *route = stateless_of(e, peer, &frame);
        if (route) hold(e, route, frame);
    }
}

/* False: that was too much to hold, and the socket is closed. */
static bool rescue_route(aff_engine *e, aff__route *route, aff_slice frames) {
    const aff__peer *peer = route->visit->peer;
    aff_slice frame;
    while (aff__get_bytes(&frames, &frame)) {
        if (stateless_of(e, peer, &frame) == route && !hold(e, route, frame)) return false;
    }
    return true;
}

void aff__route_returned(aff_engine *e, uint32_t socket, const aff__client_frame *frame,
                         aff_slice data) {
    aff__route *route = find_route(e, socket, frame->address);
    if (!route || frame->type != AFF_HP_STATELESS) return;
    bool moves = route->state == AFF_ROUTE_REMOTE && route->visit->peer == e->self;
    if (moves) {
        hold(e, route, data); /* MOVED is on its way */
    } else {
        on_client_frame(e, route, frame, data);
    }
}

void aff__visits_end(aff_engine *e, aff__peer *peer) {
    aff__list ending; /* a route that is offered to the same peer again makes a new visit there */
    aff__list_init(&ending);
    while (!aff__list_empty(&peer->visits)) {
        aff__list *item = peer->visits.next;
        aff__list_remove(item);
        aff__list_append(&ending, item);
        aff__list_remove(&AFF_OF(item, aff__visit, by_peer)->by_socket);
    }
    while (!aff__list_empty(&ending)) { /* the peer needs not be told: it has ended its side */
        move_visitors(e, AFF_OF(ending.next, aff__visit, by_peer), false);
    }
}

void aff__visits_fail(aff_engine *e, aff__peer *peer) {
    while (!aff__list_empty(&peer->visits)) {
        aff__visit *visit = AFF_OF(peer->visits.next, aff__visit, by_peer);
        close_socket(e, visit->socket, AFF_CLOSE_RESET, "Reset Connection");
    }
}

/* A client's traffic for one document counts as life at all owners of its documents. */
void aff__sockets_scan(aff_engine *e) {
    for (aff__item *i = NULL; (i = aff__map_next(&e->sockets, i));) {
        aff__socket *socket = AFF_OF(i, aff__socket, item);
        AFF_EACH(v, &socket->visits) {
            aff__visit *visit = AFF_OF(v, aff__visit, by_socket);
            if (visit->active_at >= socket->active_at) continue;
            visit->active_at = e->now;
            aff__put_uint(aff__frame(e, AFF_FRAME_ALIVE), visit->id);
            aff__frame_send(e, visit->peer);
        }
    }
}
