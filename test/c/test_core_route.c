/* Routes: from a client's address to the Hocuspocus that owns the document. */
#include "cluster.h"

static void a_local_document_needs_no_proxy(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    edit(c, 1, "doc", "one");
    expect(c, A, "local:1:doc:token local:1:doc:one");
    expect_client(c, 1, "doc:authenticated");
    assert_int_equal(c->batches, 0);
    cluster_free(c);
}

static void a_remote_document_is_reached_through_a_proxy_socket(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    open_client(c, 1, B);
    auth(c, 1, "doc");
    edit(c, 1, "doc", "one");
    expect(c, A, "proxy:1:open:B proxy:1:doc:token proxy:1:doc:one");
    expect_client(c, 1, "doc:authenticated");
    broadcast(c, A, "doc", "two", 1, (uint32_t[]){1});
    expect_client(c, 1, "doc:two");
    close_socket(c, 1);
    expect(c, A, "proxy:1:closed:1005");
    assert_int_equal(stats_of(c, B).documents, 0);
    cluster_free(c);
}

static void h30_nothing_is_asked_of_redis_before_the_auth_frame(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    open_client(c, 1, A);
    edit(c, 1, "doc", "anonymous");
    edit(c, 1, "other", "anonymous");
    assert_int_equal(c->redis.claims, 0);
    expect(c, A, "");
    auth(c, 1, "doc");
    assert_int_equal(c->redis.claims, 1);
    expect(c, A, "local:1:doc:anonymous local:1:doc:token"); /* as they came */
    cluster_free(c);
}

static void h30_a_denied_client_leaves_no_lease_behind(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    open_client(c, 1, A);
    send_auth(c, 1, "doc", "no");
    settle(c);
    expect_client(c, 1, "doc:denied");
    assert_string_equal(owner_of(c, "doc"), "");
    assert_int_equal(stats_of(c, A).routes, 0);
    assert_true(c->clients[1].open);
    cluster_free(c);
}

static void h30_a_client_denied_by_a_remote_owner_holds_nothing_there(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    open_client(c, 2, B);
    send_auth(c, 2, "doc", "no");
    settle(c);
    expect_client(c, 2, "doc:denied");
    assert_int_equal(stats_of(c, A).proxies, 0);
    assert_int_equal(stats_of(c, B).routes, 0);
    close_socket(c, 1); /* the last use */
    assert_string_equal(owner_of(c, "doc"), "");
    auth(c, 2, "doc"); /* and may try again, with another token */
    expect_client(c, 2, "doc:authenticated");
    cluster_free(c);
}

static void h22_frames_keep_their_order_while_the_owner_is_looked_up(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    open_client(c, 1, B);
    c->servers[B].mute = true; /* the look-up takes its time */
    send_edit(c, 1, "doc", "0");
    send_auth(c, 1, "doc", "token");
    settle(c);
    edit(c, 1, "doc", "1");
    edit(c, 1, "doc", "2");
    c->servers[B].mute = false;
    c->servers[A].deaf = true; /* offered, and not yet accepted */
    settle(c);
    edit(c, 1, "doc", "3");
    c->servers[A].deaf = false;
    edit(c, 1, "doc", "4");
    expect(c, A,
           "proxy:1:open:B proxy:1:doc:0 proxy:1:doc:token proxy:1:doc:1 proxy:1:doc:2 "
           "proxy:1:doc:3 proxy:1:doc:4");
    cluster_free(c);
}

static void h22_frames_keep_their_order_when_the_document_is_here(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    open_client(c, 1, A);
    c->servers[A].mute = true;
    send_auth(c, 1, "doc", "token");
    send_edit(c, 1, "doc", "1");
    settle(c);
    edit(c, 1, "doc", "2");
    c->servers[A].mute = false;
    send_edit(c, 1, "doc", "3");
    settle(c);
    edit(c, 1, "doc", "4");
    expect(c, A, "local:1:doc:token local:1:doc:1 local:1:doc:2 local:1:doc:3 local:1:doc:4");
    cluster_free(c);
}

static void h05_a_refusal_loses_nothing(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    claim(c, B, 2, "doc", AFF_USE_HOLD); /* B knows: A has it */
    forget_traces(c);
    open_client(c, 1, B);
    c->servers[B].mute = true;
    send_auth(c, 1, "doc", "token");
    settle(c);
    c->servers[B].mute = false;
    c->servers[A].deaf = true;
    settle(c); /* the offer is on its way to A, */
    edit(c, 1, "doc", "one");
    post(&c->servers[A], &(aff_event){.type = AFF_EV_TICK});
    input *unuse_first = calloc(1, sizeof(*unuse_first)); /* and A lets the document go first */
    assert_non_null(unuse_first);
    unuse_first->event = (aff_event){.type = AFF_EV_UNUSE, .use = AFF_USE_HOLD};
    unuse_first->event.document = own(aff__str("doc"));
    unuse_first->next = c->servers[A].inbox.first;
    c->servers[A].inbox.first = unuse_first;
    c->servers[A].deaf = false;
    settle(c);
    edit(c, 1, "doc", "two");
    expect(c, A, "proxy:1:open:B proxy:1:closed:1005");
    expect(c, B, "local:1:doc:token local:1:doc:one local:1:doc:two");
    expect_client(c, 1, "doc:authenticated");
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_int_equal(stats_of(c, A).refused, 1);
    assert_int_equal(stats_of(c, A).refused_events, 0);
    cluster_free(c);
}

static void an_offer_that_overtakes_the_owners_own_claim_waits_for_it(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    c->servers[A].deaf = true;
    send_claim(c, A, 1, "doc", AFF_USE_HOLD);
    c->servers[A].deaf = false;
    turn(c, &c->servers[A]); /* asks */
    c->servers[A].deaf = true;
    settle(c); /* Redis has answered; A does not know yet */
    assert_string_equal(owner_of(c, "doc"), "A");
    open_client(c, 1, B);
    auth(c, 1, "doc");
    /* The offer is read first. */
    server *a = &c->servers[A];
    input *answer = take(a);
    assert_int_equal(answer->event.type, AFF_EV_REPLY);
    post(a, &answer->event);
    input_free(answer);
    a->deaf = false;
    settle(c);
    expect(c, A, "proxy:1:open:B claim:1:ok proxy:1:doc:token");
    expect_client(c, 1, "doc:authenticated");
    cluster_free(c);
}

static void h18_several_documents_of_several_owners_on_one_socket(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    claim(c, A, 1, "a", AFF_USE_HOLD);
    claim(c, C, 2, "c1", AFF_USE_HOLD);
    claim(c, C, 3, "c2", AFF_USE_HOLD);
    forget_traces(c);
    open_client(c, 1, B);
    auth(c, 1, "a");
    auth(c, 1, "b");
    auth(c, 1, "c1");
    auth(c, 1, "c2");
    expect(c, A, "proxy:1:open:B proxy:1:a:token");
    expect(c, B, "local:1:b:token");
    expect(c, C, "proxy:1:open:B proxy:1:c1:token proxy:1:c2:token");
    forget_traces(c);
    leave(c, 1, "c1"); /* one leaves: no other notices */
    expect_client(c, 1, "c1:close");
    edit(c, 1, "a", "x");
    edit(c, 1, "b", "y");
    edit(c, 1, "c2", "z");
    expect(c, A, "proxy:1:a:x");
    expect(c, B, "local:1:b:y");
    expect(c, C, "proxy:1:c1:close proxy:1:c2:z");
    leave(c, 1, "c2"); /* the last one at C takes the proxy socket with it */
    expect(c, C, "proxy:1:c2:close proxy:1:closed:1005");
    assert_true(c->clients[1].open);
    cluster_free(c);
}

static void h20_addresses_with_a_session_share_one_lease(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    open_client(c, 1, A);
    auth(c, 1, "doc/one");
    assert_string_equal(owner_of(c, "doc"), "A");
    open_client(c, 2, B);
    auth(c, 2, "doc/two");
    auth(c, 2, "doc/three");
    assert_int_equal(c->redis.claims, 2);
    expect(c, A,
           "local:1:doc/one:token proxy:1:open:B proxy:1:doc/two:token "
           "proxy:1:doc/three:token");
    expect_client(c, 2, "doc/two:authenticated doc/three:authenticated");
    leave(c, 2, "doc/two");
    edit(c, 2, "doc/three", "x");
    expect(c, A, "proxy:1:doc/two:close proxy:1:doc/three:x");
    close_socket(c, 1);
    assert_string_equal(owner_of(c, "doc"), "A"); /* served for 2 */
    close_socket(c, 2);
    assert_string_equal(owner_of(c, "doc"), "");
    cluster_free(c);
}

static void h34_one_update_for_many_sockets_crosses_once(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    uint32_t proxies[50];
    for (uint32_t k = 0; k < 50; k++) {
        open_client(c, k + 1, B);
        auth(c, k + 1, "doc");
        proxies[k] = k + 1;
    }
    forget_traces(c);
    uint64_t before = stats_of(c, A).frames_out;
    size_t batches = c->batches;
    broadcast(c, A, "doc", "update", 50, proxies);
    for (uint32_t k = 1; k <= 50; k++) expect_client(c, k, "doc:update");
    assert_int_equal(stats_of(c, A).frames_out, before + 1);
    assert_int_equal(c->batches, batches + 1);
    cluster_free(c);
}

static void h35_the_request_crosses_once_per_proxy_socket(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "one", AFF_USE_HOLD);
    claim(c, A, 2, "two", AFF_USE_HOLD);
    forget_traces(c);
    open_client(c, 1, B);
    auth(c, 1, "one");
    auth(c, 1, "two");
    edit(c, 1, "two", "x");
    expect(c, A, "proxy:1:open:B proxy:1:one:token proxy:1:two:token proxy:1:two:x");
    cluster_free(c);
}

static void a_close_and_a_new_auth_make_a_new_route(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    auth(c, 1, "doc");
    forget_traces(c);
    send_close(c, 1, "doc"); /* both before the owner's answer */
    send_auth(c, 1, "doc", "token");
    send_edit(c, 1, "doc", "x");
    settle(c);
    expect_client(c, 1, "doc:close doc:authenticated");
    expect(c, A,
           "proxy:1:doc:close proxy:1:closed:1005 proxy:2:open:B proxy:2:doc:token "
           "proxy:2:doc:x");
    edit(c, 1, "doc", "y");
    expect(c, A, "proxy:2:doc:y");
    cluster_free(c);
}

static void a_close_before_the_offer_is_accepted_and_a_new_auth_make_a_new_route(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    forget_traces(c);
    send_auth(c, 1, "doc", "token"); /* as React's strict mode does it */
    send_close(c, 1, "doc");
    send_auth(c, 1, "doc", "token");
    send_edit(c, 1, "doc", "x");
    settle(c);
    expect_client(c, 1, "doc:authenticated doc:close doc:authenticated");
    edit(c, 1, "doc", "y");
    broadcast(c, A, "doc", "z", 1, (uint32_t[]){2});
    expect_client(c, 1, "doc:z");
    expect(c, A,
           "proxy:1:open:B proxy:1:doc:token proxy:1:doc:close proxy:1:closed:1005 "
           "proxy:2:open:B proxy:2:doc:token proxy:2:doc:x proxy:2:doc:y");
    cluster_free(c);
}

static void a_close_that_is_repeated_while_closing_does_nothing(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    auth(c, 1, "doc");
    forget_traces(c);
    send_close(c, 1, "doc");
    send_close(c, 1, "doc");
    settle(c);
    expect_client(c, 1, "doc:close");
    assert_int_equal(stats_of(c, B).routes, 0);
    assert_int_equal(stats_of(c, A).proxies, 0);
    cluster_free(c);
}

static void a_local_document_that_was_closed_can_be_opened_again(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    leave(c, 1, "doc");
    assert_string_equal(owner_of(c, "doc"), "");
    auth(c, 1, "doc");
    expect_client(c, 1, "doc:authenticated doc:close doc:authenticated");
    assert_string_equal(owner_of(c, "doc"), "A");
    cluster_free(c);
}

static void h16_a_proxy_socket_closed_by_hocuspocus_closes_the_clients_socket(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    auth(c, 1, "doc");
    forget_traces(c);
    tell(c, A,
         &(aff_event){.type = AFF_EV_PROXY_CLOSE,
                      .socket = 1,
                      .code = 4408,
                      .data = aff__str("Connection Timeout")});
    expect_client(c, 1, "closed:4408");
    expect(c, A, "");
    assert_int_equal(stats_of(c, A).proxies, 0);
    assert_int_equal(stats_of(c, B).sockets, 0);
    tell(c, A, &(aff_event){.type = AFF_EV_PROXY_CLOSE, .socket = 1, .code = 4408});
    cluster_free(c);
}

static void h25_malformed_frames_close_their_socket_and_nothing_else(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    auth(c, 1, "doc");
    const uint8_t frames[][12] = {
        {0},                          /* an empty name, nothing else */
        {3, 'd', 'o'},                /* shorter than it says */
        {0xff, 0xff, 0xff, 0xff, 15}, /* 4 GiB, it says */
        {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1}, /* no number at all */
        {3, 'd', 'o', 'c'},                                              /* no type */
        {3, 'd', 'o', 'c', 2},                                           /* Auth, of no kind */
        {2, 0, 's', 0},     /* a session of no document */
        {2, 0xc3, 0x28, 0}, /* not UTF-8 */
    };
    const size_t lens[] = {1, 3, 5, 11, 4, 5, 4, 4};
    for (uint32_t i = 0; i < 8; i++) {
        open_client(c, 10 + i, B);
        send_raw(c, 10 + i, aff__slice(frames[i], lens[i]));
        settle(c);
        expect_client(c, 10 + i, "closed:4401");
    }
    open_client(c, 20, B);
    send_raw(c, 20, aff__none());
    settle(c);
    expect_client(c, 20, "closed:4401");
    assert_int_equal(stats_of(c, B).malformed, 9);
    edit(c, 1, "doc", "x");
    assert_true(c->clients[1].open);
    assert_int_equal(stats_of(c, B).sockets, 1);
    cluster_free(c);
}

static void frames_of_a_socket_that_was_given_up_are_ignored(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    open_client(c, 1, A);
    send_raw(c, 1, aff__none());
    send_auth(c, 1, "doc", "token"); /* in flight from the app while the socket is closed */
    settle(c);
    expect(c, A, "");
    send_auth(c, 63, "doc", "token"); /* a socket that never was */
    settle(c);
    expect(c, A, "");
    cluster_free(c);
}

static void too_many_pending_documents_close_the_socket(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    open_client(c, 1, A);
    open_client(c, 2, A);
    char name[16];
    for (unsigned i = 0; i < 100; i++) {
        snprintf(name, sizeof(name), "doc%u", i);
        edit(c, 1, name, "x");
    }
    assert_true(c->clients[1].open);
    edit(c, 1, "one-more", "x");
    expect_client(c, 1, "closed:4205");
    assert_int_equal(stats_of(c, A).overflows, 1);
    assert_int_equal(stats_of(c, A).documents, 0);
    auth(c, 2, "doc");
    expect_client(c, 2, "doc:authenticated");
    cluster_free(c);
}

static void the_server_bounds_its_pending_documents_too(void **state) {
    (void)state;
    cluster *c = cluster_new();
    c->servers[A].config.server_pending_max = 3;
    start(c, A);
    for (uint32_t k = 1; k <= 4; k++) {
        open_client(c, k, A);
        edit(c, k, "doc", "x");
    }
    assert_true(c->clients[3].open);
    expect_client(c, 4, "closed:4205");
    close_socket(c, 1);
    open_client(c, 5, A);
    edit(c, 5, "doc", "x");
    assert_true(c->clients[5].open);
    cluster_free(c);
}

static void a_socket_bounds_its_documents(void **state) {
    (void)state;
    cluster *c = cluster_new();
    c->servers[A].config.socket_routes_max = 2;
    start(c, A);
    open_client(c, 1, A);
    auth(c, 1, "one");
    auth(c, 1, "two");
    auth(c, 1, "three");
    expect_client(c, 1, "one:authenticated two:authenticated closed:4205");
    cluster_free(c);
}

static void too_many_held_bytes_close_the_socket(void **state) {
    (void)state;
    cluster *c = cluster_new();
    c->servers[A].config.route_queue_max = 1000;
    start(c, A);
    open_client(c, 1, A);
    char text[400];
    memset(text, 'x', sizeof(text));
    text[sizeof(text) - 1] = '\0';
    edit(c, 1, "one", text);
    edit(c, 1, "two", text); /* the sum over the socket counts */
    assert_true(c->clients[1].open);
    edit(c, 1, "two", text);
    expect_client(c, 1, "closed:4205");
    cluster_free(c);
}

static void too_many_held_frames_close_the_socket(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    open_client(c, 1, A);
    for (unsigned i = 0; i < 1000; i++) send_edit(c, 1, "doc", "x");
    settle(c);
    assert_true(c->clients[1].open);
    edit(c, 1, "doc", "x");
    expect_client(c, 1, "closed:4205");
    cluster_free(c);
}

static void held_frames_are_freed_when_they_have_passed(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    for (unsigned i = 0; i < 999; i++) send_edit(c, 1, "doc", "x");
    auth(c, 1, "doc");
    edit(c, 1, "other", "y");
    for (unsigned i = 0; i < 1200; i++) send_edit(c, 1, "doc", "x");
    settle(c);
    assert_true(c->clients[1].open);
    cluster_free(c);
}

static void h32_a_duplicate_socket_number_is_refused(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    tell(c, A, &(aff_event){.type = AFF_EV_SOCKET_OPEN, .socket = 1});
    edit(c, 1, "doc", "x");
    expect(c, A, "local:1:doc:token local:1:doc:x");
    assert_int_equal(stats_of(c, A).sockets, 1);
    cluster_free(c);
}

static void the_app_learns_how_many_frames_were_taken_before_a_route_was_local(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    nomem.paused = true; /* it steps the engine itself */
    aff_engine *a = c->servers[A].engine;
    open_client(c, 1, A);
    c->servers[A].mute = true;
    send_edit(c, 1, "doc", "1");
    auth(c, 1, "doc");
    c->servers[A].deaf = true;
    c->servers[A].mute = false;
    settle(c);
    input *answer = take(&c->servers[A]);
    assert_int_equal(aff_step(a, c->now, &answer->event), 0);
    input_free(answer);
    uint32_t locals = 0, counted = 0;
    for (const aff_action *act; (act = aff_next_action(a));) {
        locals += act->type == AFF_ACT_LOCAL;
        if (act->type != AFF_ACT_ROUTE) continue;
        assert_int_equal(act->status, AFF_ROUTE_HERE);
        assert_int_equal(locals, 2); /* behind them */
        counted = act->count;
    }
    assert_int_equal(counted, 2);
    aff_step(a, c->now,
             &(aff_event){.type = AFF_EV_ROUTE_END, .socket = 1, .name = aff__str("doc")});
    const aff_action *act = aff_next_action(a);
    assert_int_equal(act->type, AFF_ACT_ROUTE);
    assert_int_equal(act->status, AFF_ROUTE_ENDED);
    cluster_free(c);
}

static void h15_traffic_elsewhere_counts_as_life_at_every_owner(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    auth(c, 1, "doc");
    auth(c, 1, "local");
    forget_traces(c);
    advance(c, 20000);
    edit(c, 1, "local", "x");
    advance(c, 20000);
    expect(c, A, "proxy:1:alive");
    advance(c, 60000); /* silence is not life */
    expect(c, A, "");
    /* What the app gives to its own Hocuspocus at once does not pass the engine. */
    tell(c, B, &(aff_event){.type = AFF_EV_SOCKET_ALIVE, .socket = 1});
    tell(c, B, &(aff_event){.type = AFF_EV_SOCKET_ALIVE, .socket = 99}); /* nobody */
    advance(c, 20000);
    expect(c, A, "proxy:1:alive");
    advance(c, 60000);
    expect(c, A, "");
    cluster_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_local_document_needs_no_proxy),
        cmocka_unit_test(a_remote_document_is_reached_through_a_proxy_socket),
        cmocka_unit_test(h30_nothing_is_asked_of_redis_before_the_auth_frame),
        cmocka_unit_test(h30_a_denied_client_leaves_no_lease_behind),
        cmocka_unit_test(h30_a_client_denied_by_a_remote_owner_holds_nothing_there),
        cmocka_unit_test(h22_frames_keep_their_order_while_the_owner_is_looked_up),
        cmocka_unit_test(h22_frames_keep_their_order_when_the_document_is_here),
        cmocka_unit_test(h05_a_refusal_loses_nothing),
        cmocka_unit_test(an_offer_that_overtakes_the_owners_own_claim_waits_for_it),
        cmocka_unit_test(h18_several_documents_of_several_owners_on_one_socket),
        cmocka_unit_test(h20_addresses_with_a_session_share_one_lease),
        cmocka_unit_test(h34_one_update_for_many_sockets_crosses_once),
        cmocka_unit_test(h35_the_request_crosses_once_per_proxy_socket),
        cmocka_unit_test(a_close_and_a_new_auth_make_a_new_route),
        cmocka_unit_test(a_close_before_the_offer_is_accepted_and_a_new_auth_make_a_new_route),
        cmocka_unit_test(a_close_that_is_repeated_while_closing_does_nothing),
        cmocka_unit_test(a_local_document_that_was_closed_can_be_opened_again),
        cmocka_unit_test(h16_a_proxy_socket_closed_by_hocuspocus_closes_the_clients_socket),
        cmocka_unit_test(h25_malformed_frames_close_their_socket_and_nothing_else),
        cmocka_unit_test(frames_of_a_socket_that_was_given_up_are_ignored),
        cmocka_unit_test(too_many_pending_documents_close_the_socket),
        cmocka_unit_test(the_server_bounds_its_pending_documents_too),
        cmocka_unit_test(a_socket_bounds_its_documents),
        cmocka_unit_test(too_many_held_bytes_close_the_socket),
        cmocka_unit_test(too_many_held_frames_close_the_socket),
        cmocka_unit_test(held_frames_are_freed_when_they_have_passed),
        cmocka_unit_test(h32_a_duplicate_socket_number_is_refused),
        cmocka_unit_test(the_app_learns_how_many_frames_were_taken_before_a_route_was_local),
        cmocka_unit_test(h15_traffic_elsewhere_counts_as_life_at_every_owner),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
