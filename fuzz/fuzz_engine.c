/*
 * Any sequence of events at any times: clients, peers, Redis with right and wrong answers, and the
 * app, which keeps to the contract (world.h).
 */
#include "world.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void close_socket(world *w, unsigned at) {
    seat *s = &w->sockets[at % SOCKETS_MAX];
    if (!s->open) return;
    s->open = false;
    tell(w, &(aff_event){.type = AFF_EV_SOCKET_CLOSE, .socket = s->id});
}

static void about_route(world *w, dice *d, bool ends) {
    aff__heap heap;
    aff__heap_init(&heap, NULL);
    aff__buf address, state, message;
    aff__buf_init(&address, &heap);
    aff__buf_init(&state, &heap);
    aff__buf_init(&message, &heap);
    const seat *s = &w->sockets[below(d, SOCKETS_MAX)];
    pick_address(d, &address);
    aff__put_u8(&state, byte(d));
    aff__put_uint(&state, byte(d));
    for (int i = 0; i < 3; i++) {
        message.len = 0;
        if (below(d, 4)) put_message(d, &message);
        aff__put_bytes(&state, aff__buf_slice(&message));
    }
    if (s->open) {
        tell(w, &(aff_event){.type = ends ? AFF_EV_ROUTE_END : AFF_EV_ROUTE_STATE,
                             .socket = s->id,
                             .name = aff__buf_slice(&address),
                             .data = aff__buf_slice(&state)});
    }
    aff__heap_free_all(&heap);
}

static void hocuspocus_sends(world *w, dice *d) {
    aff__heap heap;
    aff__heap_init(&heap, NULL);
    aff__buf message;
    aff__buf_init(&message, &heap);
    uint32_t proxies[4];
    uint32_t count = 1 + below(d, 4);
    for (uint32_t i = 0; i < count; i++) proxies[i] = w->proxies[below(d, PROXIES_MAX)];
    put_message(d, &message);
    tell(w, &(aff_event){.type = AFF_EV_PROXY_SEND,
                         .sockets = proxies,
                         .count = count,
                         .data = aff__buf_slice(&message)});
    aff__heap_free_all(&heap);
}

static void unuse(world *w, dice *d) {
    unsigned doc = below(d, DOCS), use = below(d, AFF_USE_ROUTE);
    if (w->granted[doc][use] == 0) return;
    w->granted[doc][use]--;
    tell(w, &(aff_event){
                .type = AFF_EV_UNUSE, .document = aff__str(doc_names[doc]), .use = (aff_use)use});
}

static void about_document(world *w, dice *d, aff_event_type type) {
    tell(w, &(aff_event){.type = type,
                         .request = ++w->next_request,
                         .document = aff__str(doc_names[below(d, DOCS)])});
}

static void leave_or_place(world *w, dice *d) {
    unsigned draw = byte(d);
    aff_event event = {.type = draw & 1 ? AFF_EV_LEAVE : AFF_EV_PLACE,
                       .request = ++w->next_request,
                       .document = aff__str(doc_names[below(d, DOCS)])};
    if (draw & 2) {
        event.name = aff__str(peer_names[draw / 4 % PEERS]);
        event.data = aff__str(peer_boots[draw / 4 % PEERS]);
    }
    tell(w, &event);
}

static void consume(world *w, dice *d) {
    uint64_t bytes = below(d, 2) ? w->owed : w->owed / 2;
    w->owed -= bytes;
    tell(w, &(aff_event){.type = AFF_EV_CONSUMED, .bytes = bytes});
}

static void event_result(world *w, dice *d) {
    tell(w, &(aff_event){.type = AFF_EV_EVENT_RESULT,
                         .request = w->events[below(d, PROXIES_MAX)],
                         .status = below(d, 2) ? AFF_EEVENT : 0,
                         .data = some(d, 20)});
}

static void drain_or_link(world *w, unsigned draw) {
    aff_slice process = aff__slice(peer_boots[draw / 8 % PEERS], AFF_PROCESS_LEN);
    switch (draw % 8) {
        case 1: say(w, AFF_EV_DRAIN); break;
        case 2:
        case 3:
        case 4: tell(w, &(aff_event){.type = AFF_EV_DIRECT_UP, .name = process}); break;
        case 5: tell(w, &(aff_event){.type = AFF_EV_DIRECT_DOWN, .name = process}); break;
        default: break;
    }
}

/* As the runtime does at the end of a turn. */
static void end_turn(world *w) {
    say(w, AFF_EV_FLUSH);
    uint64_t at = aff_deadline(w->engine);
    if (at <= w->now) say(w, AFF_EV_TICK);
}

static void anything(world *w, dice *d) {
    switch (below(d, 32)) {
        case 0: pass_time(w, wide(d) % 100000); break;
        case 1: pass_time(w, byte(d)); break;
        case 2:
            pass_time(w, aff_deadline(w->engine) < w->now + 100000000 &&
                                 aff_deadline(w->engine) > w->now
                             ? aff_deadline(w->engine) - w->now
                             : 0);
            break;
        case 3: open_socket(w, byte(d)); break;
        case 4: close_socket(w, byte(d)); break;
        case 5: about_route(w, d, true); break;
        case 6: about_route(w, d, false); break;
        case 7:
        case 8: hocuspocus_sends(w, d); break;
        case 9:
            tell(w, &(aff_event){.type = AFF_EV_PROXY_CLOSE,
                                 .socket = w->proxies[below(d, PROXIES_MAX)],
                                 .code = 1000,
                                 .data = some(d, 20)});
            break;
        case 10: claim(w, below(d, DOCS), (aff_use)below(d, AFF_USE_ROUTE)); break;
        case 11: about_document(w, d, AFF_EV_CONFIRM); break;
        case 12: leave_or_place(w, d); break;
        case 13: unuse(w, d); break;
        case 14: emit(w, d); break;
        case 15: event_result(w, d); break;
        case 16: consume(w, d); break;
        case 17: tell(w, &(aff_event){.type = AFF_EV_STALLED, .flag = below(d, 2)}); break;
        case 18: drain_or_link(w, byte(d)); break;
        case 19:
            if (below(d, 16) == 1) say(w, AFF_EV_SHUTDOWN);
            break;
        case 20: toggle_redis(w); break;
        case 21:
            if (w->may_subscribe) say(w, AFF_EV_SUBSCRIBED);
            break;
        case 22: say(w, AFF_EV_UNSUBSCRIBED); break;
        case 23:
        case 24: answer_one(w, d); break;
        case 25: answer_all(w, byte(d)); break;
        case 26: receive_batch(w, d, true); break;
        case 27:
        case 28: receive_batch(w, d, false); break;
        case 29: end_turn(w); break;
        default: client_sends(w, d);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static world w;
    dice d = {data, size};
    world_open(&w, 3000 + (size > 0 ? data[0] % 2 : 0));
    if (below(&d, 4)) world_join(&w);
    while (d.len > 0 && !w.stopped) {
        anything(&w, &d);
        refuse_all(&w);
        if (d.len % 4 == 0) end_turn(&w);
    }
    world_close(&w);
    return 0;
}
