/*
 * Fail-over: a document moves, and no client notices. Here clients are providers that type, point
 * and synchronise, and documents are what Hocuspocus would have in memory (cluster.h); nothing is
 * stored, so whatever a new owner knows came from the clients.
 */
#include "cluster.h"

static const char *const NEW = "4.8.0", *const OLD = NULL;

/* Every client has all edits, and knows that they have arrived. */
static void expect_synced(cluster *c, const char *address, uint64_t edits) {
    for (uint32_t k = 0; k < CLIENTS_MAX; k++) {
        const provider *p = c->clients[k].open ? provider_of(c, k, address) : NULL;
        if (!p || !p->token) continue;
        assert_false(p->ended);
        assert_int_equal(p->edits, edits);
        assert_int_equal(p->unsynced, 0);
    }
    for (int i = 0; i < SERVERS_MAX; i++) {
        if (c->servers[i].engine && strcmp(owner_of(c, address), c->servers[i].name) == 0) {
            assert_int_equal(content_of(&c->servers[i], address)->edits, edits);
        }
    }
}

static size_t count_in(const char *trace, const char *text) {
    size_t n = 0;
    for (const char *at = trace; (at = strstr(at, text)); at += strlen(text)) n++;
    return n;
}

/* "doc" is owned by A for no client of its own, and clients 1 at B and 2 at C have it open. */
static cluster *three(const char *version) {
    cluster *c = cluster_of(3);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    join(c, 1, B, "doc", version);
    join(c, 2, C, "doc", version);
    type(c, 1, "doc", 0);
    type(c, 2, "doc", 1);
    advance(c, 2000);
    expect_synced(c, "doc", 3);
    forget_traces(c);
    return c;
}

/* ---- The owner is killed --------------------------------------------------------------------- */

static void h11_every_client_of_a_killed_owner_goes_on_with_the_next(void **state) {
    (void)state;
    cluster *c = three(NEW);
    provider_points(wire_of(c, 1), provider_of(c, 1, "doc"), 7);
    settle(c);
    forget_traces(c);
    kill_server(c, A);
    type(c, 1, "doc", 2);
    type(c, 2, "doc", 3);
    advance(c, 999); /* of a lockTTL of 10,000 */
    expect_synced(c, "doc", 15);
    assert_int_equal(provider_of(c, 1, "doc")->tokens, 1);
    assert_int_equal(provider_of(c, 2, "doc")->tokens, 1);
    /* The first to notice owns it; its own client is asked for a token, and sees neither that it
     * was authenticated nor any acknowledgement but its own. */
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_non_null(
        strstr(c->servers[B].trace,
               "proxy:1:open:B proxy:1:doc:token proxy:1:doc:step1:0 proxy:1:doc:aware:7"));
    assert_null(strstr(c->clients[1].trace, "authenticated"));
    assert_null(strstr(c->clients[2].trace, "authenticated"));
    assert_int_equal(provider_of(c, 2, "doc")->cursors[1], 7);
    assert_int_equal(count_in(c->clients[1].trace, "status:1"), 1);
    assert_int_equal(count_in(c->clients[2].trace, "status:1"), 1);
    cluster_free(c);
}

static void h11_the_counter_of_unsynced_changes_is_settled_exactly(void **state) {
    (void)state;
    for (unsigned before = 0; before < 4; before++) {
        for (unsigned during = 0; during < 4; during++) {
            cluster *c = three(NEW);
            provider *p = provider_of(c, 1, "doc");
            uint64_t edits = 3;
            kill_server(c, A);
            for (unsigned i = 0; i < before; i++) { /* nobody has these but the client */
                type(c, 1, "doc", 8 + i);
                edits |= 1ull << (8 + i);
            }
            advance(c, 10);
            p->hangs = true;
            advance(c, 5000);
            assert_int_equal(p->tokens, 1);
            for (unsigned i = 0; i < during; i++) {
                type(c, 1, "doc", 16 + i);
                edits |= 1ull << (16 + i);
            }
            settle(c);
            assert_int_equal(p->unsynced, before + during);
            forget_traces(c);
            provider_authenticates(wire_of(c, 1), p);
            type(c, 1, "doc", 24); /* right behind it: before the owner's Authenticated */
            edits |= 1ull << 24;
            settle(c);
            type(c, 1, "doc", 25);
            edits |= 1ull << 25;
            advance(c, 100);
            expect_synced(c, "doc", edits);
            assert_int_equal(count_in(c->clients[1].trace, "status:1"), before + during + 2);
            cluster_free(c);
        }
    }
}

static void h11_a_reader_gets_no_acknowledgement_for_what_was_refused(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    provider *p = join(c, 1, B, "doc", NEW);
    provider *reader = join(c, 2, B, "doc", NEW);
    reader->token = "ro";
    close_socket(c, 2);
    open_client(c, 2, B);
    snprintf(reader->address, ADDRESS_MAX, "doc");
    reader->token = "ro";
    reader->version = NEW;
    provider_authenticates(wire_of(c, 2), reader);
    settle(c);
    assert_int_equal(reader->unsynced, 0);
    advance(c, 2000);
    type(c, 2, "doc", 5); /* as a reader's own change that no server takes */
    type(c, 1, "doc", 0);
    settle(c);
    assert_int_equal(reader->unsynced, 1);
    assert_int_equal(p->unsynced, 0);
    forget_traces(c);
    kill_server(c, A);
    type(c, 1, "doc", 1);
    advance(c, 2000);
    assert_true(c->clients[2].open && !reader->ended);
    assert_int_equal(reader->edits, 35);
    assert_int_equal(reader->unsynced, 1);
    assert_int_equal(count_in(c->clients[2].trace, "status:"), 0);
    assert_int_equal(p->edits, 3); /* a reader's change goes nowhere */
    assert_int_equal(p->unsynced, 0);
    cluster_free(c);
}

static void h23_stateless_messages_are_kept_in_order(void **state) {
    (void)state;
    cluster *c = three(NEW);
    provider *p = provider_of(c, 1, "doc");
    p->hangs = true;
    kill_server(c, A);
    say_stateless(c, 1, "doc", "1"); /* to the dead one, */
    settle(c);
    say_stateless(c, 1, "doc", "2");
    advance(c, 2000);
    assert_int_equal(p->tokens, 1);
    say_stateless(c, 1, "doc", "3"); /* while the client is asked for its token, */
    settle(c);
    c->servers[B].deaf = true;
    provider_authenticates(wire_of(c, 1), p);
    say_stateless(c, 1, "doc", "4"); /* and before the next owner has accepted */
    c->servers[B].deaf = false;
    settle(c);
    say_stateless(c, 1, "doc", "5");
    settle(c);
    const char *trace =
        strcmp(owner_of(c, "doc"), "B") == 0 ? c->servers[B].trace : c->servers[C].trace;
    const char *at = strstr(trace, "doc:token");
    for (int i = 1; i <= 5; i++) {
        char text[32];
        snprintf(text, sizeof(text), "doc:stateless:%d", i);
        assert_int_equal(count_in(trace, text), 1);
        const char *next = strstr(trace, text);
        assert_true(next > at);
        at = next;
    }
    cluster_free(c);
}

static void h11_a_provider_that_cannot_be_asked_is_authenticated_by_its_former_token(void **state) {
    (void)state;
    const char *const versions[] = {NULL, "3.2.9", "2.15.2", "", "next"};
    for (size_t v = 0; v < sizeof(versions) / sizeof(*versions); v++) {
        cluster *c = three(versions[v]);
        kill_server(c, A);
        type(c, 1, "doc", 2);
        advance(c, 4500);
        expect_synced(c, "doc", 7);
        assert_int_equal(provider_of(c, 1, "doc")->tokens, 0);
        assert_int_equal(count_in(c->clients[1].trace, "status:1"), 1);
        cluster_free(c);
    }
}

static void h11_a_former_token_that_is_denied_closes_the_socket(void **state) {
    (void)state;
    cluster *c = three(OLD);
    c->servers[B].denies = true;
    kill_server(c, A);
    type(c, 1, "doc", 2);
    advance(c, 1000);
    expect_client(c, 1, "closed:4205"); /* it connects again, with a token of today */
    assert_true(c->clients[2].open);
    cluster_free(c);
}

static void h11_a_fresh_token_that_is_denied_denies_that_document_only(void **state) {
    (void)state;
    cluster *c = three(NEW);
    join(c, 1, B, "other", NEW);
    forget_traces(c);
    c->servers[B].denies = true;
    kill_server(c, A);
    type(c, 1, "doc", 2);
    advance(c, 1000);
    expect_client(c, 1, "doc:token doc:denied");
    assert_true(c->clients[1].open && !provider_of(c, 1, "other")->ended);
    type(c, 1, "other", 0);
    settle(c);
    expect_client(c, 1, "other:status:1");
    cluster_free(c);
}

static void h11_a_client_that_sends_no_token_is_closed_after_5_s(void **state) {
    (void)state;
    cluster *c = three(NEW);
    provider_of(c, 1, "doc")->hangs = true;
    kill_server(c, A);
    type(c, 1, "doc", 2);
    advance(c, 1000);
    expect_client(c, 1, "doc:token");
    advance(c, 4000);
    assert_true(c->clients[1].open);
    advance(c, 1000);
    expect_client(c, 1, "closed:4205");
    assert_true(c->clients[2].open);
    cluster_free(c);
}

static void h11_a_scope_that_has_changed_is_told(void **state) {
    (void)state;
    cluster *c = three(NEW);
    provider_of(c, 1, "doc")->token = "ro";
    kill_server(c, A);
    type(c, 1, "doc", 2);
    advance(c, 1000);
    assert_int_equal(count_in(c->clients[1].trace, "doc:authenticated"), 1);
    cluster_free(c);
}

/* The client has been authenticated, but its first SyncStep1 is still on its way. */
static void h11_a_document_moves_before_the_first_sync(void **state) {
    (void)state;
    const char *const versions[] = {NEW, OLD};
    for (int v = 0; v < 2; v++) {
        cluster *c = cluster_of(3);
        join(c, 2, C, "doc", NEW);
        type(c, 2, "doc", 0);
        settle(c);
        open_client(c, 1, B);
        provider *p = provider_of(c, 1, "");
        *p = (provider){.address = "doc", .token = "token", .version = versions[v]};
        provider_authenticates(wire_of(c, 1), p);
        while (!strstr(c->servers[C].trace, "proxy:1:doc:token")) settle_some(c, SERVERS_MAX);
        c->servers[B].deaf = true; /* Authenticated and the move reach it together */
        settle(c);
        hand_off(c, C, 7, "doc");
        settle(c);
        assert_false(p->authenticated);
        c->servers[B].deaf = false;
        advance(c, 1000);
        expect_synced(c, "doc", 1);
        assert_int_equal(stats_of(c, B).failovers, 1);
        type(c, 1, "doc", 1);
        settle(c);
        expect_synced(c, "doc", 3);
        cluster_free(c);
    }
}

static void h11_other_documents_of_the_same_socket_do_not_notice(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    claim(c, A, 1, "a", AFF_USE_HOLD);
    claim(c, C, 2, "c", AFF_USE_HOLD);
    join(c, 1, B, "a", NEW);
    join(c, 1, B, "b", NEW);
    join(c, 1, B, "c", NEW);
    advance(c, 2000);
    forget_traces(c);
    kill_server(c, A);
    for (unsigned i = 0; i < 3; i++) {
        type(c, 1, "a", i);
        type(c, 1, "b", i);
        type(c, 1, "c", i);
    }
    advance(c, 1000);
    expect_synced(c, "a", 7);
    expect_synced(c, "b", 7);
    expect_synced(c, "c", 7);
    assert_int_equal(provider_of(c, 1, "b")->tokens, 0);
    assert_int_equal(provider_of(c, 1, "c")->tokens, 0);
    assert_non_null(strstr(c->servers[C].trace, "proxy:1:c:update:1"));
    assert_null(strstr(c->servers[C].trace, "proxy:1:closed"));
    cluster_free(c);
}

static void h20_addresses_with_a_session_fail_over_each(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    join(c, 1, B, "doc/one", NEW);
    join(c, 1, B, "doc/two", NEW);
    advance(c, 2000);
    kill_server(c, A);
    type(c, 1, "doc/one", 1);
    type(c, 1, "doc/two", 2);
    advance(c, 1000);
    const provider *one = provider_of(c, 1, "doc/one"), *two = provider_of(c, 1, "doc/two");
    assert_int_equal(one->edits & two->edits, 6);
    assert_int_equal(one->unsynced + two->unsynced, 0);
    assert_int_equal(stats_of(c, B).failovers, 2);
    cluster_free(c);
}

static void h11_a_close_of_the_client_ends_its_fail_over(void **state) {
    (void)state;
    for (int when = 0; when < 3; when++) {
        cluster *c = three(NEW);
        provider *p = provider_of(c, 1, "doc");
        p->hangs = true;
        kill_server(c, A);
        type(c, 1, "doc", 2);
        advance(c, 1000);
        if (when > 0) { /* else: while its token is awaited */
            c->servers[B].silent = c->servers[C].silent = true;
            provider_authenticates(wire_of(c, 1), p);
        }
        if (when > 1) settle(c);
        p->ended = true;
        leave(c, 1, "doc");
        c->servers[B].silent = c->servers[C].silent = false;
        advance(c, 6000);
        assert_true(c->clients[1].open);
        if (when == 0) assert_int_equal(stats_of(c, B).routes, 0);
        p->ended = false; /* and it may come again */
        p->hangs = false;
        provider_authenticates(wire_of(c, 1), p);
        advance(c, 100);
        if (when == 0) expect_synced(c, "doc", 7);
        cluster_free(c);
    }
}

static void h11_a_socket_that_closes_during_a_fail_over_leaves_nothing(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    provider *p = join(c, 1, B, "doc", NEW);
    p->hangs = true;
    advance(c, 2000);
    kill_server(c, A);
    type(c, 1, "doc", 2);
    advance(c, 1000);
    assert_int_equal(p->tokens, 1);
    close_socket(c, 1);
    advance(c, 6000);
    assert_int_equal(stats_of(c, B).documents + stats_of(c, B).routes + stats_of(c, B).sockets, 0);
    assert_string_equal(owner_of(c, "doc"), "");
    cluster_free(c);
}

static void h11_what_waits_during_a_fail_over_is_bounded(void **state) {
    (void)state;
    cluster *c = cluster_new();
    c->servers[B].config.route_queue_count = 10;
    start(c, A);
    start(c, B);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    provider *p = join(c, 1, B, "doc", NEW);
    p->hangs = true;
    advance(c, 2000);
    kill_server(c, A);
    for (int i = 0; i < 8; i++) say_stateless(c, 1, "doc", "x");
    advance(c, 1000);
    assert_true(c->clients[1].open);
    for (int i = 0; i < 8; i++) say_stateless(c, 1, "doc", "x");
    settle(c);
    assert_false(c->clients[1].open);
    cluster_free(c);
}

/* What the link still held for the dead owner is more than a socket may hold. */
static void h11_rescued_messages_are_bounded_too(void **state) {
    (void)state;
    cluster *c = cluster_new();
    c->servers[B].config.route_queue_count = 10;
    start(c, A);
    start(c, B);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    join(c, 1, B, "doc", NEW);
    join(c, 2, B, "doc", NEW);
    advance(c, 2000);
    kill_server(c, A);
    for (int i = 0; i < 12; i++) say_stateless(c, 1, "doc", "x");
    say_stateless(c, 2, "doc", "y");
    advance(c, 1000);
    assert_false(c->clients[1].open);
    assert_true(c->clients[2].open);
    expect_synced(c, "doc", 0);
    cluster_free(c);
}

/* ---- The next owner dies too, at any moment -------------------------------------------------- */

static void h11_the_next_owner_dies_at_any_moment_of_the_fail_over(void **state) {
    (void)state;
    const char *const versions[] = {NEW, OLD};
    for (int v = 0; v < 2; v++) {
        for (int turns = 0; turns < 100; turns++) {
            cluster *c = cluster_of(4);
            claim(c, A, 1, "doc", AFF_USE_HOLD);
            join(c, 1, B, "doc", versions[v]);
            join(c, 2, D, "doc", versions[v]);
            type(c, 1, "doc", 0);
            advance(c, 2000);
            kill_server(c, A);
            redis_del(c, aff__str("rsaServer:A"));
            claim(c, C, 2, "doc", AFF_USE_HOLD);
            advance(c, AFF_ABSENT_MS + 50);
            assert_string_equal(owner_of(c, "doc"), "C");
            type(c, 1, "doc", 1);
            type(c, 2, "doc", 2);
            settle_some(c, turns);
            kill_server(c, C);
            type(c, 1, "doc", 3);
            advance(c, 15000);
            assert_true(c->clients[1].open && c->clients[2].open);
            expect_synced(c, "doc", 15);
            cluster_free(c);
        }
    }
}

/* ---- To the origin itself, and on ------------------------------------------------------------ */

static void h11_from_the_origin_itself_a_document_moves_on(void **state) {
    (void)state;
    cluster *c = three(NEW);
    kill_server(c, A);
    type(c, 1, "doc", 2);
    advance(c, 4500); /* until C has something to say to A, too */
    assert_string_equal(owner_of(c, "doc"), "B");
    expect_synced(c, "doc", 7);
    edit(c, 1, "doc", "through the loop");
    assert_non_null(strstr(c->servers[B].trace, "proxy:1:doc:through the loop"));
    cut(c, B);
    advance(c, 15000); /* C has noticed by its beat, and taken over */
    assert_string_equal(owner_of(c, "doc"), "C");
    type(c, 1, "doc", 3);
    type(c, 2, "doc", 4);
    settle(c);
    forget_traces(c);
    connect_redis(c, B);
    advance(c, 2000);
    assert_non_null(strstr(c->servers[B].trace, "lost:doc"));
    expect_synced(c, "doc", 31);
    assert_true(c->clients[1].open);
    assert_int_equal(provider_of(c, 1, "doc")->tokens, 2);
    close_socket(c, 1);
    assert_int_equal(stats_of(c, B).documents + stats_of(c, B).proxies, 0);
    cluster_free(c);
}

static void a_route_to_the_server_itself_outlives_a_lapse(void **state) {
    (void)state;
    cluster *c = three(NEW);
    kill_server(c, A);
    type(c, 1, "doc", 2);
    advance(c, 1000);
    close_socket(c, 2);
    forget_traces(c);
    uint64_t epoch = epoch_of(c, "doc");
    redis_lose_everything(c);
    advance(c, 4000); /* the renewal shows it */
    type(c, 1, "doc", 3);
    advance(c, 1000);
    assert_true(epoch_of(c, "doc") > epoch);
    assert_int_equal(provider_of(c, 1, "doc")->tokens, 1);
    expect_synced(c, "doc", 15);
    expect_client(c, 1, "doc:status:1");
    cluster_free(c);
}

static void h11_the_last_client_of_a_document_that_moved_here_releases_it(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    provider *p = join(c, 1, B, "doc", NEW);
    advance(c, 2000);
    kill_server(c, A);
    type(c, 1, "doc", 0);
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "B");
    leave(c, 1, "doc");
    assert_true(p->ended);
    assert_string_equal(owner_of(c, "doc"), "");
    assert_int_equal(stats_of(c, B).documents + stats_of(c, B).proxies + stats_of(c, B).routes, 0);
    cluster_free(c);
}

/* ---- Lapses ---------------------------------------------------------------------------------- */

static void local_clients_of_a_lapsed_owner_go_on_where_the_document_was_taken(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    join(c, 1, A, "doc", NEW);
    provider_points(wire_of(c, 1), provider_of(c, 1, "doc"), 9);
    type(c, 1, "doc", 0);
    advance(c, 2000);
    cut(c, A);
    type(c, 1, "doc", 1); /* A goes on serving its own clients */
    settle(c);
    assert_int_equal(provider_of(c, 1, "doc")->unsynced, 0);
    advance(c, 20000);
    join(c, 2, B, "doc", NEW);
    advance(c, AFF_ABSENT_MS + 50); /* its membership is missing, and still is */
    type(c, 2, "doc", 2);
    settle(c);
    assert_string_equal(owner_of(c, "doc"), "B");
    forget_traces(c);
    connect_redis(c, A);
    type(c, 1, "doc", 3);
    advance(c, 2000);
    assert_non_null(strstr(c->servers[A].trace, "lost:doc"));
    expect_synced(c, "doc", 15);
    assert_int_equal(provider_of(c, 1, "doc")->tokens, 1);
    assert_null(strstr(c->clients[1].trace, "authenticated"));
    assert_non_null(strstr(c->servers[B].trace, "proxy:1:doc:aware:9"));
    assert_int_equal(stats_of(c, A).failovers, 1);
    cluster_free(c);
}

static void an_address_that_ended_as_it_was_recalled_can_be_opened_again(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    join(c, 1, A, "doc", NEW);
    cut(c, A);
    advance(c, 20000);
    claim(c, B, 1, "doc", AFF_USE_HOLD);
    advance(c, AFF_ABSENT_MS + 50); /* its membership is missing, and still is */
    server *a = &c->servers[A];
    a->deaf = true;
    connect_redis(c, A);
    for (input *in; !strstr(a->trace, "lost"); input_free(in)) {
        turn(c, a); /* only what it has asked of Redis */
        in = take(a);
        assert_non_null(in);
        step(c, a, &in->event);
    }
    /* The app has been told, but what it says first is that the address has ended. */
    input *answer = take(a);
    assert_int_equal(answer->event.type, AFF_EV_ROUTE_STATE);
    assert_null(a->inbox.first);
    provider *p = provider_of(c, 1, "doc");
    provider_authenticates(wire_of(c, 1), p); /* the next one has come meanwhile */
    post(a, &(aff_event){.type = AFF_EV_ROUTE_END, .socket = 1, .name = aff__str("doc")});
    post(a, &answer->event);
    input_free(answer);
    a->deaf = false;
    advance(c, 1000);
    type(c, 1, "doc", 0);
    settle(c);
    expect_synced(c, "doc", 1);
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_int_equal(p->tokens, 0);
    cluster_free(c);
}

static void an_owner_that_lapses_and_claims_again_is_noticed_by_nobody(void **state) {
    (void)state;
    for (int turns = 0; turns < 50; turns++) {
        cluster *c = three(NEW);
        join(c, 3, A, "doc", NEW);
        settle(c);
        forget_traces(c);
        uint64_t epoch = epoch_of(c, "doc");
        redis_del(c, aff__str("rsaServer:A"));
        c->now += 3400; /* its next renewal shows it */
        post(&c->servers[A], &(aff_event){.type = AFF_EV_TICK});
        settle_some(c, turns);
        type(c, 1, "doc", 2); /* in flight under the old epoch, or the new one, or neither */
        type(c, 3, "doc", 3);
        settle(c);
        type(c, 2, "doc", 4);
        advance(c, 1000);
        assert_true(epoch_of(c, "doc") > epoch);
        assert_string_equal(owner_of(c, "doc"), "A");
        expect_synced(c, "doc", 31);
        for (uint32_t k = 1; k <= 3; k++) {
            assert_int_equal(provider_of(c, k, "doc")->tokens, 0);
            assert_int_equal(count_in(c->clients[k].trace, "status:1"), 1);
        }
        assert_int_equal(stats_of(c, B).failovers + stats_of(c, C).failovers, 0);
        assert_null(strstr(c->servers[A].trace, "lost"));
        cluster_free(c);
    }
}

/* ---- Evidence of death ----------------------------------------------------------------------- */

static void h14_a_server_that_is_away_for_less_than_the_grace_keeps_its_documents(void **state) {
    (void)state;
    cluster *c = three(NEW);
    uint64_t epoch = epoch_of(c, "doc");
    c->servers[A].unheard = true;
    type(c, 1, "doc", 2);
    advance(c, AFF_GRACE_MS - 100);
    c->servers[A].unheard = false;
    post(&c->servers[A],
         &(aff_event){.type = AFF_EV_SUBSCRIBED, .name = slice(&c->servers[A].channel)});
    type(c, 1, "doc", 3);
    advance(c, 20000);
    assert_int_equal(epoch_of(c, "doc"), epoch);
    assert_int_equal(provider_of(c, 1, "doc")->tokens, 0);
    expect_synced(c, "doc", 15);
    cluster_free(c);
}

static void h14_evidence_from_long_ago_does_not_count(void **state) {
    (void)state;
    cluster *c = three(NEW);
    uint64_t epoch = epoch_of(c, "doc");
    c->servers[A].unheard = true;
    type(c, 1, "doc", 2);
    advance(c, 100);
    close_socket(c, 1); /* nothing at B depends on A any more */
    close_socket(c, 2);
    c->servers[A].unheard = false;
    post(&c->servers[A],
         &(aff_event){.type = AFF_EV_SUBSCRIBED, .name = slice(&c->servers[A].channel)});
    advance(c, 60000);
    c->servers[A].unheard = true;
    join(c, 1, B, "doc", NEW);
    advance(c, 100);
    c->servers[A].unheard = false;
    post(&c->servers[A],
         &(aff_event){.type = AFF_EV_SUBSCRIBED, .name = slice(&c->servers[A].channel)});
    advance(c, 2000);
    assert_int_equal(epoch_of(c, "doc"), epoch);
    cluster_free(c);
}

/* Its PUBLISH still counts the subscriber that is dying, and nothing else is said for long. */
static void the_only_edit_falls_into_the_moment_of_the_death(void **state) {
    (void)state;
    cluster *c = three(NEW);
    advance(c, 2000);
    kill_server(c, A);
    c->nobody_counts = true;
    type(c, 1, "doc", 2);
    settle(c);
    c->nobody_counts = false;
    advance(c, 1000);
    assert_string_not_equal(owner_of(c, "doc"), "A");
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

/* A Redis Cluster without sharded pub/sub: only the end of its membership tells. */
static void h14_where_nobody_can_tell_who_listens_there_is_no_evidence(void **state) {
    (void)state;
    cluster *c = three(NEW);
    uint64_t epoch = epoch_of(c, "doc");
    c->counts_unknown = true;
    c->servers[A].unheard = true;
    type(c, 1, "doc", 2);
    advance(c, 5000); /* renewed meanwhile */
    assert_int_equal(epoch_of(c, "doc"), epoch);
    assert_string_equal(owner_of(c, "doc"), "A");
    for (int i = 0; i < 2; i++) { /* nor does what was known before that count */
        c->counts_unknown = false;
        type(c, 1, "doc", 3);
        advance(c, 100);
        c->counts_unknown = true;
        advance(c, 2000);
    }
    assert_string_equal(owner_of(c, "doc"), "A");
    kill_server(c, A);
    advance(c, 11000);
    assert_string_not_equal(owner_of(c, "doc"), "A");
    expect_synced(c, "doc", 15);
    cluster_free(c);
}

static void h14_a_living_server_that_was_declared_dead_gives_everything_up(void **state) {
    (void)state;
    cluster *c = three(NEW);
    join(c, 3, A, "doc", NEW);
    join(c, 3, A, "unrelated", NEW);
    settle(c);
    forget_traces(c);
    char boot[AFF_BOOT_LEN + 1];
    strcpy(boot, aff_boot(c->servers[A].engine));
    c->servers[A].unheard = true; /* its subscription is gone, its commands still pass */
    type(c, 1, "doc", 2);
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "B");
    type(c, 3, "doc", 3); /* A does not know yet */
    settle(c);
    advance(c, 3400); /* its next renewal tells it */
    assert_string_not_equal(aff_boot(c->servers[A].engine), boot);
    assert_non_null(strstr(c->servers[A].trace, "lost:doc"));
    assert_string_equal(owner_of(c, "unrelated"), "A"); /* nobody wanted that one */
    c->servers[A].unheard = false;
    post(&c->servers[A],
         &(aff_event){.type = AFF_EV_SUBSCRIBED, .name = slice(&c->servers[A].channel)});
    advance(c, 3000);
    assert_true(c->clients[3].open);
    expect_synced(c, "doc", 15);
    cluster_free(c);
}

static void h14_after_an_outage_of_our_own_absence_proves_nothing(void **state) {
    (void)state;
    cluster *c = three(NEW);
    uint64_t epoch = epoch_of(c, "doc");
    for (int i = 0; i < 3; i++) cut(c, i); /* Redis restarts, with its data */
    type(c, 1, "doc", 2);
    advance(c, 30);
    connect_redis(c, B);
    type(c, 2, "doc", 3);
    advance(c, 400);
    connect_redis(c, C);
    advance(c, 100);
    connect_redis(c, A); /* the last one back */
    advance(c, 5000);
    assert_int_equal(epoch_of(c, "doc"), epoch);
    assert_int_equal(provider_of(c, 1, "doc")->tokens, 0);
    expect_synced(c, "doc", 15);
    cluster_free(c);
}

/* ---- Redis comes back empty ------------------------------------------------------------------ */

static void h08_redis_restarts_without_data_while_everyone_types(void **state) {
    (void)state;
    for (unsigned order = 0; order < 6; order++) {
        cluster *c = three(NEW);
        join(c, 3, A, "doc", NEW);
        join(c, 4, B, "second", NEW);
        join(c, 5, C, "second", NEW);
        settle(c);
        forget_traces(c);
        uint64_t epoch = epoch_of(c, "doc");
        for (int i = 0; i < 3; i++) cut(c, i);
        redis_lose_everything(c);
        const int orders[6][3] = {{A, B, C}, {A, C, B}, {B, A, C}, {B, C, A}, {C, A, B}, {C, B, A}};
        for (unsigned i = 0; i < 3; i++) {
            type(c, 1, "doc", 10 + i);
            type(c, 2, "doc", 20 + i);
            type(c, 3, "doc", 30 + i);
            type(c, 4, "second", 10 + i);
            type(c, 5, "second", 20 + i);
            settle(c);
            advance(c, 150);
            connect_redis(c, orders[order][i]);
        }
        advance(c, 10000);
        assert_string_equal(owner_of(c, "doc"), "A");
        assert_string_equal(owner_of(c, "second"), "B");
        assert_true(epoch_of(c, "doc") > epoch);
        expect_synced(c, "doc", 3 | 7ull << 10 | 7ull << 20 | 7ull << 30);
        expect_synced(c, "second", 7ull << 10 | 7ull << 20);
        for (uint32_t k = 1; k <= 5; k++) {
            assert_int_equal(c->clients[k].providers[0].tokens, 0);
            assert_true(c->clients[k].open);
        }
        cluster_free(c);
    }
}

/* ---- Leaving --------------------------------------------------------------------------------- */

static void h12_a_document_that_is_handed_off_moves_and_the_leaver_claims_nothing(void **state) {
    (void)state;
    cluster *c = three(NEW);
    join(c, 3, A, "doc", NEW);
    settle(c);
    forget_traces(c);
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    type(c, 1, "doc", 2);
    settle(c);
    hand_off(c, A, 7, "doc");
    settle(c);
    assert_non_null(strstr(c->servers[A].trace, "claim:7:ok"));
    unload(&c->servers[A], "doc");
    advance(c, 1000);
    assert_string_not_equal(owner_of(c, "doc"), "A");
    assert_string_not_equal(owner_of(c, "doc"), "");
    type(c, 1, "doc", 3);
    type(c, 2, "doc", 4);
    type(c, 3, "doc", 5); /* the leaver's own client, served elsewhere now */
    advance(c, 1000);
    expect_synced(c, "doc", 63);
    for (uint32_t k = 1; k <= 3; k++) assert_true(c->clients[k].open);
    tell(c, A, &(aff_event){.type = AFF_EV_SHUTDOWN});
    type(c, 1, "doc", 6);
    advance(c, 1000);
    assert_int_equal(provider_of(c, 1, "doc")->tokens, 1);
    cluster_free(c);
}

static void h12_the_lease_is_free_before_anybody_is_told(void **state) {
    (void)state;
    cluster *c = three(NEW);
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    c->servers[A].mute = true;
    hand_off(c, A, 7, "doc");
    settle(c);
    type(c, 1, "doc", 2); /* still served: the release has not been confirmed */
    settle(c);
    expect_client(c, 1, "");
    expect_client(c, 2, "");
    assert_string_equal(owner_of(c, "doc"), "A");
    c->servers[A].mute = false;
    settle(c);
    unload(&c->servers[A], "doc");
    advance(c, 1000);
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

static void a_leaver_takes_over_nothing(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    claim(c, C, 1, "doc", AFF_USE_HOLD);
    join(c, 1, A, "doc", NEW);
    advance(c, 2000);
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    kill_server(c, C);
    type(c, 1, "doc", 0);
    advance(c, 2000);
    assert_string_not_equal(owner_of(c, "doc"), "A");
    join(c, 2, B, "doc", NEW); /* somebody else does */
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "B");
    expect_synced(c, "doc", 1);
    cluster_free(c);
}

/* A hand-over asks who owns the document now, while a client of the leaver waits for that too. */
static void h12_a_leaver_that_asks_for_the_next_owner_does_not_become_it(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    join(c, 1, A, "doc", NEW); /* its only client */
    settle(c);
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    hand_off(c, A, 7, "doc");
    settle(c);
    unload(&c->servers[A], "doc");
    forget_traces(c);
    aff_event ask = {.type = AFF_EV_EMIT,
                     .request = 8,
                     .name = aff__str("merge"),
                     .document = aff__str("doc"),
                     .flag = true,
                     .code = 1};
    tell(c, A, &ask);
    settle(c);
    assert_string_equal(owner_of(c, "doc"), "");
    ask.flag = false; /* nobody came: it is the leaver's after all */
    ask.request = 9;
    tell(c, A, &ask);
    settle(c);
    assert_string_equal(owner_of(c, "doc"), "A");
    cluster_free(c);
}

static void a_document_that_is_not_owned_can_not_be_handed_off(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    hand_off(c, B, 7, "doc");
    hand_off(c, B, 8, "nothing");
    settle(c);
    expect(c, B, "claim:7:AFF_EREDIS claim:8:AFF_EREDIS");
    assert_string_equal(owner_of(c, "doc"), "A");
    cluster_free(c);
}

static void h12_the_leaver_dies_at_any_moment_of_a_hand_off(void **state) {
    (void)state;
    for (int turns = 0; turns < 60; turns++) {
        cluster *c = three(NEW);
        tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
        hand_off(c, A, 7, "doc");
        type(c, 1, "doc", 2);
        settle_some(c, turns);
        kill_server(c, A);
        type(c, 2, "doc", 3);
        advance(c, 15000);
        assert_true(c->clients[1].open && c->clients[2].open);
        expect_synced(c, "doc", 15);
        cluster_free(c);
    }
}

/* Found by the simulator (seed 911): a drain's time is over, and Redis is away. */
static void h12_without_redis_a_document_is_left_at_once_and_its_routes_move(void **state) {
    (void)state;
    cluster *c = three(NEW);
    join(c, 3, A, "doc", NEW);
    settle(c);
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    cut(c, A);
    advance(c, 12000);
    forget_traces(c);
    hand_off(c, A, 7, "doc");
    settle(c);
    expect(c, A, "claim:7:AFF_EREDIS");
    assert_int_equal(stats_of(c, A).failovers, 0);
    abandon(c, A, 8, "doc");
    settle(c);
    expect(c, A, "claim:8:AFF_EREDIS");
    assert_int_equal(stats_of(c, A).failovers, 1);
    unload(&c->servers[A], "doc");
    type(c, 3, "doc", 2);
    connect_redis(c, A);
    advance(c, 15000);
    assert_string_not_equal(owner_of(c, "doc"), "A");
    for (uint32_t k = 1; k <= 3; k++) assert_true(c->clients[k].open);
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

static void h12_a_document_whose_lease_is_being_freed_is_left_at_once(void **state) {
    (void)state;
    cluster *c = three(NEW);
    join(c, 3, A, "doc", NEW);
    settle(c);
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    forget_traces(c);
    hand_off(c, A, 7, "doc");
    abandon(c, A, 8, "doc"); /* before Redis has answered */
    settle(c);
    assert_non_null(strstr(c->servers[A].trace, "claim:8:AFF_EREDIS claim:7:ok"));
    unload(&c->servers[A], "doc");
    type(c, 3, "doc", 2);
    advance(c, 2000);
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

static void a_document_that_had_gone_before_it_was_left_is_told_apart(void **state) {
    (void)state;
    cluster *c = three(NEW);
    redis_del(c, aff__str("rsaLock:doc"));
    hand_off(c, A, 7, "doc");
    settle(c);
    assert_non_null(strstr(c->servers[A].trace, "claim:7:owned:"));
    type(c, 1, "doc", 2);
    settle(c);
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

/* ---- A hung application ---------------------------------------------------------------------- */

static void a_server_that_hangs_loses_its_documents_and_learns_it_on_waking(void **state) {
    (void)state;
    cluster *c = three(NEW);
    join(c, 3, A, "doc", NEW);
    settle(c);
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = true});
    advance(c, 11000); /* the last renewal lasts that long */
    join(c, 4, B, "doc", NEW);
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "B");
    forget_traces(c);
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = false});
    type(c, 3, "doc", 2);
    advance(c, 2000);
    assert_int_equal(count_in(c->servers[A].trace, "lost:doc"), 1);
    expect_synced(c, "doc", 7);
    for (uint32_t k = 1; k <= 4; k++) assert_true(c->clients[k].open);
    cluster_free(c);
}

static void a_short_hang_costs_nothing(void **state) {
    (void)state;
    cluster *c = three(NEW);
    uint64_t epoch = epoch_of(c, "doc");
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = true});
    advance(c, 5000);
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = false});
    advance(c, 20000);
    assert_int_equal(epoch_of(c, "doc"), epoch);
    type(c, 1, "doc", 2);
    settle(c);
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

/* Seed 20242: a replica that lacked the lease was promoted while the application hung. */
static void what_redis_has_forgotten_during_a_hang_is_claimed_again(void **state) {
    (void)state;
    cluster *c = three(NEW);
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = true});
    cut(c, A);
    redis_del(c, aff__str("rsaLock:doc"));
    connect_redis(c, A);
    advance(c, 1000);
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = false});
    advance(c, 1000);
    assert_non_null(redis_text(c, "rsaLock:doc"));
    assert_string_equal(owner_of(c, "doc"), "A");
    type(c, 1, "doc", 2);
    settle(c);
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

/* ---- Is it still ours? ----------------------------------------------------------------------- */

static void a_lease_that_stands_is_confirmed_under_its_epoch(void **state) {
    (void)state;
    cluster *c = three(NEW);
    uint64_t epoch = epoch_of(c, "doc");
    confirm(c, A, 7, "doc");
    expect(c, A, "claim:7:ok");
    assert_int_equal(epoch_of(c, "doc"), epoch);
    c->servers[A].mute = true;
    confirm(c, A, 8, "doc");
    confirm(c, A, 9, "doc");
    type(c, 1, "doc", 2); /* served all the while */
    settle(c);
    assert_non_null(strstr(c->servers[A].trace, "proxy:1:doc:update:4"));
    c->servers[A].mute = false;
    settle(c);
    assert_non_null(strstr(c->servers[A].trace, "claim:8:ok claim:9:ok"));
    expect_synced(c, "doc", 7);
    unuse(c, A, "doc", AFF_USE_HOLD); /* a confirmation is no use of its own */
    close_socket(c, 1);
    close_socket(c, 2);
    assert_string_equal(owner_of(c, "doc"), "");
    cluster_free(c);
}

/* Found by the simulator (seed 452354): an answer that was long on its way confirmed what was asked
 * only after another server had got the lease. */
static void a_confirmation_is_newer_than_its_question(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    server *a = &c->servers[A];
    claim(c, A, 1, "doc", AFF_USE_LOADED);
    forget_traces(c);
    aff_event asks = {.type = AFF_EV_CONFIRM, .request = 7, .document = aff__str("doc")};
    step(c, a, &asks);
    a->deaf = true;
    turn(c, a); /* Redis answers */
    redis_del(c, aff__str("rsaLock:doc"));
    claim(c, B, 2, "doc", AFF_USE_LOADED);
    expect(c, B, "claim:2:ok");
    asks.request = 8;
    step(c, a, &asks);
    a->deaf = false;
    settle(c);
    expect(c, A, "claim:7:ok lost:doc claim:8:owned:B");
    cluster_free(c);
}

static void a_lease_that_another_has_taken_is_not_confirmed(void **state) {
    (void)state;
    cluster *c = three(NEW);
    join(c, 3, A, "doc", NEW);
    settle(c);
    redis_del(c, aff__str("rsaLock:doc"));
    redis_del(c, aff__str("rsaServer:A"));
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    assert_string_equal(owner_of(c, "doc"), "B");
    forget_traces(c);
    confirm(c, A, 7, "doc");
    assert_non_null(strstr(c->servers[A].trace, "claim:7:owned:B"));
    assert_non_null(strstr(c->servers[A].trace, "lost:doc"));
    type(c, 3, "doc", 2);
    advance(c, 2000);
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

static void a_lease_whose_record_is_missing_is_claimed_anew(void **state) {
    (void)state;
    cluster *c = three(NEW);
    uint64_t epoch = epoch_of(c, "doc");
    redis_del(c, aff__str("rsaLock:doc"));
    confirm(c, A, 7, "doc");
    expect(c, A, "claim:7:ok");
    assert_true(epoch_of(c, "doc") > epoch);
    type(c, 1, "doc", 2);
    settle(c);
    expect_client(c, 1, "doc:status:1");
    expect_client(c, 2, "doc:update:4");
    cluster_free(c);
}

static void without_redis_nothing_is_confirmed(void **state) {
    (void)state;
    cluster *c = three(NEW);
    join(c, 3, A, "doc", NEW);
    settle(c);
    forget_traces(c);
    cut(c, A);
    confirm(c, A, 7, "doc");
    advance(c, 9999);
    expect(c, A, "");
    advance(c, 1);
    expect(c, A, "claim:7:AFF_EREDIS");
    type(c, 3, "doc", 2); /* its own clients are served on */
    settle(c);
    expect_client(c, 3, "doc:status:1");
    connect_redis(c, A);
    advance(c, 20000);
    assert_true(c->clients[3].open);
    expect_synced(c, "doc", 7);
    cluster_free(c);
}

/* ---- What the simulator has found ------------------------------------------------------------ */

static void h23_a_stateless_message_that_crosses_a_move_goes_to_the_next_owner(void **state) {
    (void)state;
    cluster *c = three(NEW);
    forget_traces(c);
    c->servers[B].mute = true; /* what it says is on its way to Redis */
    say_stateless(c, 1, "doc", "late");
    settle(c);
    c->servers[B].deaf = true;
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    hand_off(c, A, 7, "doc");
    settle(c);
    c->servers[B].mute = false; /* it gets to the former owner behind the move */
    settle(c);
    assert_int_equal(count_in(c->servers[A].trace, "doc:stateless:late"), 0);
    c->servers[B].deaf = false;
    advance(c, 3000);
    assert_int_equal(count_in(c->servers[B].trace, "doc:stateless:late") +
                         count_in(c->servers[C].trace, "doc:stateless:late"),
                     1);
    cluster_free(c);
}

static void h23_also_where_the_next_owner_is_known_before_the_former_is_gone(void **state) {
    (void)state;
    cluster *c = three(NEW);
    c->nobody_counts = true;
    forget_traces(c);
    kill_server(c, A);
    say_stateless(c, 1, "doc", "last");
    settle(c);
    c->servers[B].mute = true; /* it can't ask whether A lives */
    redis_del(c, aff__str("rsaServer:A"));
    advance(c, 6000);
    claim(c, C, 5, "doc", AFF_USE_HOLD);
    advance(c, 600);
    assert_string_equal(owner_of(c, "doc"), "C");
    c->servers[B].mute = false;
    claim(c, B, 6, "doc", AFF_USE_HOLD);
    advance(c, 1000);
    assert_non_null(strstr(c->servers[B].trace, "claim:6:owned:C"));
    assert_int_equal(count_in(c->servers[C].trace, "doc:stateless:last"), 1);
    cluster_free(c);
}

static void h11_an_answer_to_the_former_owner_is_not_acknowledged_by_the_next(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    join(c, 2, A, "doc", NULL);
    open_client(c, 1, B);
    provider *p = provider_of(c, 1, "");
    *p = (provider){.address = "doc", .token = "token"};
    provider_authenticates(wire_of(c, 1), p);
    while (!p->authenticated) settle_some(c, SERVERS_MAX);
    p->address[0] = '\0'; /* its answers are under way for long */
    settle(c);
    assert_int_equal(count_in(c->clients[1].trace, "doc:step1"), 1);
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    hand_off(c, A, 7, "doc");
    advance(c, 1000);
    assert_int_equal(count_in(c->clients[1].trace, "doc:step1"), 2);
    snprintf(p->address, ADDRESS_MAX, "doc");
    forget_traces(c);
    provider_sends(wire_of(c, 1), p, STEP2, 0); /* to the former, */
    provider_sends(wire_of(c, 1), p, STEP2, 0); /* and to the present one */
    advance(c, 1000);
    assert_int_equal(count_in(c->clients[1].trace, "doc:status:1"), 1);
    assert_int_equal(p->unsynced, 0);
    cluster_free(c);
}

/* Else what the app says as it ends its connections would reach clients whose routes have moved. */
static void h12_routes_are_recalled_before_the_app_hears_that_its_document_is_left(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    server *s = &c->servers[A];
    join(c, 1, A, "doc", NEW);
    hand_off(c, A, 7, "doc");
    turn(c, s);
    s->deaf = true;
    turn(c, s); /* the release is answered */
    input *in = take(s);
    assert_non_null(in);
    nomem.paused = true; /* it steps the engine itself */
    assert_int_equal(aff_step(s->engine, c->now, &in->event), 0);
    bool recalled = false, told = false;
    for (const aff_action *act; (act = aff_next_action(s->engine));) {
        if (act->type == AFF_ACT_ROUTE && act->status == AFF_ROUTE_RECALL) recalled = true;
        if (act->type == AFF_ACT_CLAIMED) {
            assert_true(recalled);
            told = true;
        }
        act_on(c, s, act);
    }
    nomem.paused = false;
    assert_true(told);
    input_free(in);
    cluster_free(c);
}

/* As a replica that was behind when it was promoted: the membership stands, the lease does not. */
static void h08_a_lease_that_the_next_redis_does_not_know_is_claimed_at_once(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    join(c, 1, A, "doc", NEW);
    uint64_t epoch = epoch_of(c, "doc");
    cut(c, A);
    redis_del(c, aff__str("rsaLock:doc"));
    connect_redis(c, A);
    assert_string_equal(owner_of(c, "doc"), "A");
    assert_true(epoch_of(c, "doc") > epoch);
    cluster_free(c);
}

/* ---- A document that comes back to an owner which has not noticed ------------------------------
 */

/* It is claimed anew while `at` waits for Redis's answer: the record has vanished. */
static void waits_for_redis(cluster *c, int at, uint64_t request) {
    c->servers[at].mute = true;
    confirm(c, at, request, "doc");
    redis_del(c, aff__str("rsaLock:doc"));
}

static void what_an_owner_says_for_a_former_visit_is_not_taken_for_the_present_one(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    join(c, 1, B, "doc", NEW);
    type(c, 1, "doc", 0);
    advance(c, 2000);
    c->lose_any = true;
    c->lose_count = 1000;
    waits_for_redis(c, A, 2);
    claim(c, B, 2, "doc", AFF_USE_HOLD); /* client 1 goes to B; A does not hear of that */
    assert_string_equal(owner_of(c, "doc"), "B");
    waits_for_redis(c, B, 3);
    c->servers[A].mute = false;
    settle(c); /* A tells client 1's route of its new epoch */
    assert_string_equal(owner_of(c, "doc"), "A");
    c->servers[B].mute = false;
    settle(c); /* and B offers client 1 to A under that epoch */
    c->lose_any = false;
    lose(c, B, A, 1000);
    advance(c, 1500);
    forget_traces(c);
    /* A has not heard of that yet: what it still says is for the client's former connection. */
    bytes status = {0};
    make_number(&status, aff__str("doc"), STATUS, 1);
    tell(c, A,
         &(aff_event){.type = AFF_EV_PROXY_SEND,
                      .sockets = (uint32_t[]){1},
                      .count = 1,
                      .data = slice(&status)});
    expect_client(c, 1, "");
    free(status.data);
    c->lose_count = 0;
    advance(c, 3000);
    type(c, 1, "doc", 1);
    advance(c, 1000);
    expect_synced(c, "doc", 3);
    cluster_free(c);
}

/* The same, but the client has another document at that owner. Hocuspocus answers the Auth of a new
 * connection only, so it must get one. */
static void a_visit_does_not_outlive_an_owner_that_has_not_noticed(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    claim(c, A, 1, "other", AFF_USE_HOLD);
    join(c, 1, B, "doc", NEW);
    join(c, 1, B, "other", NEW);
    type(c, 1, "doc", 0);
    type(c, 1, "other", 0);
    advance(c, 2000);
    forget_traces(c);
    c->lose_any = true;
    c->lose_count = 1000;
    waits_for_redis(c, A, 2);
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    waits_for_redis(c, B, 3);
    c->servers[A].mute = false;
    settle(c);
    c->servers[B].mute = false;
    settle(c);
    c->lose_count = 0;
    advance(c, 3000);
    assert_string_equal(owner_of(c, "doc"), "A");
    assert_non_null(strstr(c->servers[A].trace, "proxy:1:closed:1005"));
    assert_non_null(strstr(c->servers[A].trace, "proxy:2:doc:token"));
    type(c, 1, "doc", 1);
    type(c, 1, "other", 1);
    advance(c, 1000);
    expect_synced(c, "doc", 3);
    expect_synced(c, "other", 3);
    assert_int_equal(stats_of(c, A).proxies, 1);
    cluster_free(c);
}

/* Found by the simulator (seed 369764): the application may still be busy with what it had of the
 * document's first visit as the document comes back, so its answers to that must reach nobody. */
static void a_document_that_comes_back_is_visited_anew(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    claim(c, A, 1, "other", AFF_USE_HOLD);
    join(c, 1, C, "doc", NEW);
    join(c, 1, C, "other", NEW);
    type(c, 1, "doc", 0);
    type(c, 1, "other", 0);
    advance(c, 2000);
    c->servers[C].mute = true; /* or it would have the document */
    hand_off(c, A, 2, "doc");
    settle(c);
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    c->servers[C].mute = false;
    advance(c, 2000);
    assert_string_equal(owner_of(c, "doc"), "B");
    forget_traces(c);
    c->servers[C].mute = true; /* or it would have the document */
    hand_off(c, B, 3, "doc");
    settle(c);
    claim(c, A, 3, "doc", AFF_USE_HOLD);
    c->servers[C].mute = false;
    advance(c, 2000);
    assert_string_equal(owner_of(c, "doc"), "A");
    assert_non_null(strstr(c->servers[A].trace, "proxy:2:doc:token"));
    assert_null(strstr(c->servers[A].trace, "proxy:1:"));
    assert_int_equal(stats_of(c, A).proxies, 2);
    type(c, 1, "doc", 1);
    type(c, 1, "other", 1);
    advance(c, 1000);
    expect_synced(c, "doc", 3);
    expect_synced(c, "other", 3);
    cluster_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_document_that_comes_back_is_visited_anew),
        cmocka_unit_test(what_an_owner_says_for_a_former_visit_is_not_taken_for_the_present_one),
        cmocka_unit_test(a_visit_does_not_outlive_an_owner_that_has_not_noticed),
        cmocka_unit_test(h11_every_client_of_a_killed_owner_goes_on_with_the_next),
        cmocka_unit_test(h11_the_counter_of_unsynced_changes_is_settled_exactly),
        cmocka_unit_test(h11_a_reader_gets_no_acknowledgement_for_what_was_refused),
        cmocka_unit_test(h23_stateless_messages_are_kept_in_order),
        cmocka_unit_test(h11_a_provider_that_cannot_be_asked_is_authenticated_by_its_former_token),
        cmocka_unit_test(h11_a_former_token_that_is_denied_closes_the_socket),
        cmocka_unit_test(h11_a_fresh_token_that_is_denied_denies_that_document_only),
        cmocka_unit_test(h11_a_client_that_sends_no_token_is_closed_after_5_s),
        cmocka_unit_test(h11_a_scope_that_has_changed_is_told),
        cmocka_unit_test(h11_a_document_moves_before_the_first_sync),
        cmocka_unit_test(h11_other_documents_of_the_same_socket_do_not_notice),
        cmocka_unit_test(h20_addresses_with_a_session_fail_over_each),
        cmocka_unit_test(h11_a_close_of_the_client_ends_its_fail_over),
        cmocka_unit_test(h11_a_socket_that_closes_during_a_fail_over_leaves_nothing),
        cmocka_unit_test(h11_what_waits_during_a_fail_over_is_bounded),
        cmocka_unit_test(h11_rescued_messages_are_bounded_too),
        cmocka_unit_test(h11_the_next_owner_dies_at_any_moment_of_the_fail_over),
        cmocka_unit_test(h11_from_the_origin_itself_a_document_moves_on),
        cmocka_unit_test(a_route_to_the_server_itself_outlives_a_lapse),
        cmocka_unit_test(h11_the_last_client_of_a_document_that_moved_here_releases_it),
        cmocka_unit_test(local_clients_of_a_lapsed_owner_go_on_where_the_document_was_taken),
        cmocka_unit_test(an_address_that_ended_as_it_was_recalled_can_be_opened_again),
        cmocka_unit_test(an_owner_that_lapses_and_claims_again_is_noticed_by_nobody),
        cmocka_unit_test(h14_a_server_that_is_away_for_less_than_the_grace_keeps_its_documents),
        cmocka_unit_test(h14_evidence_from_long_ago_does_not_count),
        cmocka_unit_test(the_only_edit_falls_into_the_moment_of_the_death),
        cmocka_unit_test(h14_where_nobody_can_tell_who_listens_there_is_no_evidence),
        cmocka_unit_test(h14_a_living_server_that_was_declared_dead_gives_everything_up),
        cmocka_unit_test(h14_after_an_outage_of_our_own_absence_proves_nothing),
        cmocka_unit_test(h08_redis_restarts_without_data_while_everyone_types),
        cmocka_unit_test(h12_a_document_that_is_handed_off_moves_and_the_leaver_claims_nothing),
        cmocka_unit_test(h12_the_lease_is_free_before_anybody_is_told),
        cmocka_unit_test(a_leaver_takes_over_nothing),
        cmocka_unit_test(h12_a_leaver_that_asks_for_the_next_owner_does_not_become_it),
        cmocka_unit_test(a_document_that_is_not_owned_can_not_be_handed_off),
        cmocka_unit_test(h12_the_leaver_dies_at_any_moment_of_a_hand_off),
        cmocka_unit_test(a_server_that_hangs_loses_its_documents_and_learns_it_on_waking),
        cmocka_unit_test(h12_without_redis_a_document_is_left_at_once_and_its_routes_move),
        cmocka_unit_test(h12_a_document_whose_lease_is_being_freed_is_left_at_once),
        cmocka_unit_test(a_document_that_had_gone_before_it_was_left_is_told_apart),
        cmocka_unit_test(a_short_hang_costs_nothing),
        cmocka_unit_test(what_redis_has_forgotten_during_a_hang_is_claimed_again),
        cmocka_unit_test(a_lease_that_stands_is_confirmed_under_its_epoch),
        cmocka_unit_test(a_confirmation_is_newer_than_its_question),
        cmocka_unit_test(a_lease_that_another_has_taken_is_not_confirmed),
        cmocka_unit_test(a_lease_whose_record_is_missing_is_claimed_anew),
        cmocka_unit_test(without_redis_nothing_is_confirmed),
        cmocka_unit_test(h23_a_stateless_message_that_crosses_a_move_goes_to_the_next_owner),
        cmocka_unit_test(h23_also_where_the_next_owner_is_known_before_the_former_is_gone),
        cmocka_unit_test(h11_an_answer_to_the_former_owner_is_not_acknowledged_by_the_next),
        cmocka_unit_test(h12_routes_are_recalled_before_the_app_hears_that_its_document_is_left),
        cmocka_unit_test(h08_a_lease_that_the_next_redis_does_not_know_is_claimed_at_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
