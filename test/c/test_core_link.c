/* Links: batches, sessions, credit, and what happens when messages are lost. */
#include "cluster.h"

/* A owns "doc"; client 1 at B has it open through proxy socket 1. */
static cluster *linked(void) {
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    auth(c, 1, "doc");
    forget_traces(c);
    return c;
}

static aff__peer *peer_at(cluster *c, int at, int of) {
    aff_slice process = aff__slice(aff_boot(c->servers[of].engine), AFF_PROCESS_LEN);
    return aff__peer_find(c->servers[at].engine, process);
}

/* A batch as a peer would write it; `frames` may be anything. */
static void make_batch(bytes *out, const char *from, const char *to, uint8_t flags,
                       uint64_t session, uint64_t seq, aff_slice frames) {
    add(out, (uint8_t[]){1, flags}, 2);
    const char *processes[] = {from, to};
    for (int p = 0; p < 2; p++) {
        for (int i = 0; i < AFF_PROCESS_LEN; i += 2) {
            char hex[3] = {processes[p][i], processes[p][i + 1], 0};
            add(out, (uint8_t[]){(uint8_t)strtoul(hex, NULL, 16)}, 1);
        }
    }
    add_uint(out, session);
    add_uint(out, seq);
    add_uint(out, 0);
    add_uint(out, 1 << 20);
    add(out, frames.data, frames.len);
}

static void inject(cluster *c, int to, const bytes *batch) {
    tell(c, to, &(aff_event){.type = AFF_EV_MESSAGE, .data = slice(batch)});
}

static void batches_are_numbered_and_acknowledged(void **state) {
    (void)state;
    cluster *c = linked();
    uint64_t before = peer_at(c, B, A)->out_seq;
    for (int i = 0; i < 5; i++) edit(c, 1, "doc", "x");
    assert_int_equal(peer_at(c, B, A)->out_seq, before + 5);
    assert_int_equal(peer_at(c, A, B)->in_seq, before + 5);
    advance(c, 200); /* not each one by a batch of its own */
    assert_int_equal(peer_at(c, B, A)->acked_seq, before + 5);
    assert_int_equal(stats_of(c, A).gaps + stats_of(c, B).gaps, 0);
    cluster_free(c);
}

/* What only owners have said is acknowledged with the next thing that is said, if that comes soon.
 */
static void an_origin_acknowledges_with_its_next_frame(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 1000);
    size_t before = c->batches;
    for (int i = 0; i < 20; i++) {
        edit(c, 1, "doc", "x");
        broadcast(c, A, "doc", "y", 1, (uint32_t[]){1});
        advance(c, 500);
    }
    assert_int_equal(c->batches - before, 40);
    assert_true(peer_at(c, A, B)->out_seq - peer_at(c, A, B)->acked_seq <= 1);
    advance(c, 801);
    assert_int_equal(peer_at(c, A, B)->acked_seq, peer_at(c, A, B)->out_seq);
    cluster_free(c);
}

/* A client's frame that nobody acknowledges is asked about after 400 ms, an owner's after 1 s. */
static void what_clients_say_is_asked_about_sooner(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 2000);
    c->servers[A].deaf = true;
    size_t before = c->batches;
    edit(c, 1, "doc", "x");
    advance(c, 399);
    assert_int_equal(c->batches - before, 1);
    advance(c, 1);
    assert_int_equal(c->batches - before, 2);
    advance(c, 999); /* and then in no hurry */
    assert_int_equal(c->batches - before, 2);
    c->servers[A].deaf = false;
    advance(c, 2000);
    c->servers[B].deaf = true;
    before = c->batches;
    broadcast(c, A, "doc", "y", 1, (uint32_t[]){1});
    advance(c, 999);
    assert_int_equal(c->batches - before, 1);
    advance(c, 1);
    assert_int_equal(c->batches - before, 2);
    cluster_free(c);
}

/* While Redis is at work on a PUBLISH, frames gather for the next one. */
static void batches_grow_while_redis_is_slow(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 1000);
    size_t before = c->batches;
    c->servers[B].mute = true; /* on the way to Redis */
    for (int i = 0; i < 50; i++) edit(c, 1, "doc", "x");
    c->servers[B].mute = false;
    settle(c);
    assert_int_equal(c->batches, before + 2);
    cluster_free(c);
}

static void a_farewell_waits_for_no_answer(void **state) {
    (void)state;
    cluster *c = linked();
    c->servers[B].mute = true;
    edit(c, 1, "doc", "x");
    edit(c, 1, "doc", "y");
    tell(c, B, &(aff_event){.type = AFF_EV_SHUTDOWN});
    c->servers[B].mute = false;
    settle(c);
    expect(c, A, "proxy:1:doc:x proxy:1:doc:y proxy:1:closed:1006");
    cluster_free(c);
}

static void everything_of_one_loop_turn_is_one_batch(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 1000);
    size_t before = c->batches;
    for (int i = 0; i < 50; i++) send_edit(c, 1, "doc", "x");
    settle(c);
    assert_int_equal(c->batches, before + 1);
    cluster_free(c);
}

static void an_idle_link_costs_no_more_than_its_beat(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 1000);
    size_t before = c->batches;
    advance(c, 100000);
    assert_in_range(c->batches - before, 2, 130); /* both sides, lockTTL/3, answered */
    expect_client(c, 1, "");
    assert_int_equal(stats_of(c, A).gaps + stats_of(c, B).gaps, 0);
    cluster_free(c);
}

static void a_64_mib_message_crosses_in_fragments(void **state) {
    (void)state;
    cluster *c = linked();
    size_t len = 64 << 20;
    char *text = malloc(len + 1);
    assert_non_null(text);
    memset(text, 'x', len);
    text[len] = '\0';
    send_edit(c, 1, "doc", text);
    send_edit(c, 1, "doc", "behind it");
    settle(c);
    free(text);
    expect(c, A, "proxy:1:doc:[67108864] proxy:1:doc:behind it");
    assert_in_range(c->largest_batch, 128 << 10, (256 << 10) + 1024);
    assert_int_equal(stats_of(c, B).queued, 0);
    cluster_free(c);
}

static void a_message_above_the_limit_closes_its_socket(void **state) {
    (void)state;
    cluster *c = linked();
    char *text = malloc(AFF_MESSAGE_MAX + 1);
    assert_non_null(text);
    memset(text, 'x', AFF_MESSAGE_MAX);
    text[AFF_MESSAGE_MAX] = '\0';
    edit(c, 1, "doc", text);
    free(text);
    expect_client(c, 1, "closed:1009");
    expect(c, A, "proxy:1:closed:1005");
    assert_int_equal(stats_of(c, B).gaps, 0);
    cluster_free(c);
}

static char *text_of(size_t len) {
    char *text = malloc(len + 1);
    assert_non_null(text);
    memset(text, 'x', len);
    text[len] = '\0';
    return text;
}

static void a_sender_stops_at_the_window_and_goes_on_when_the_app_has_consumed(void **state) {
    (void)state;
    cluster *c = linked();
    c->servers[A].hungry = false;
    char *text = text_of(100 << 10);
    for (int i = 0; i < 300; i++) edit(c, 1, "doc", text); /* 30 MB */
    free(text);
    /* Delivered: up to the backlog's limit, and what was allowed before it was reached. */
    size_t owed = c->servers[A].owed;
    assert_in_range(owed, 8 << 20, 13 << 20);
    assert_true(stats_of(c, B).queued > (15 << 20));
    advance(c, 30000);
    assert_int_equal(c->servers[A].owed, owed);
    assert_true(c->clients[1].open);
    assert_int_equal(stats_of(c, A).gaps + stats_of(c, B).gaps, 0);
    for (int i = 0; i < 10; i++) {
        consume(c, A);
        settle(c);
    }
    assert_int_equal(stats_of(c, B).queued, 0);
    cluster_free(c);
}

static void two_sides_that_both_wait_do_not_answer_each_other_for_ever(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 500);
    lose_any(c, 4); /* each side's batch, and then again as it is repeated */
    send_edit(c, 1, "doc", "1");
    broadcast(c, A, "doc", "2", 1, (uint32_t[]){1});
    expect(c, A, "");
    size_t before = c->batches;
    advance(c, 3000); /* comes to rest, each time */
    assert_in_range(c->batches - before, 6, 30);
    assert_int_equal(c->lose_count, 0);
    expect(c, A, "proxy:1:doc:1");
    expect_client(c, 1, "doc:2");
    cluster_free(c);
}

static void credit_that_was_lost_is_asked_for_again(void **state) {
    (void)state;
    cluster *c = linked();
    c->servers[A].hungry = false;
    char *text = text_of(100 << 10);
    for (int i = 0; i < 200; i++) edit(c, 1, "doc", text);
    free(text);
    assert_true(stats_of(c, B).queued > 0);
    c->servers[B].connected = false; /* the message that says so reaches nobody */
    c->servers[A].hungry = true;
    consume(c, A);
    settle(c);
    c->servers[B].connected = true;
    assert_true(stats_of(c, B).queued > 0);
    advance(c, 2000);
    assert_int_equal(stats_of(c, B).queued, 0);
    assert_int_equal(stats_of(c, B).gaps, 0);
    cluster_free(c);
}

static void an_overflowing_link_ends_its_session_not_the_server(void **state) {
    (void)state;
    cluster *c = cluster_new();
    c->servers[B].config.link_queue_max = 2 << 20;
    start(c, A);
    start(c, B);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    open_client(c, 2, B);
    open_client(c, 3, B);
    auth(c, 1, "doc");
    auth(c, 2, "local");
    auth(c, 3, "doc");
    forget_traces(c);
    c->servers[A].deaf = true;
    char *text = text_of(100 << 10);
    for (int i = 0; i < 100 && c->clients[1].open; i++) edit(c, 1, "doc", text);
    free(text);
    expect_client(c, 1, "closed:4205");
    c->servers[A].deaf = false;
    settle(c);
    edit(c, 3, "doc", "x"); /* its route has failed over, to the same owner */
    assert_non_null(strstr(c->servers[A].trace, "proxy:3:open:B proxy:3:doc:token proxy:3:doc:x"));
    expect_client(c, 3, "");
    assert_true(c->clients[2].open && c->clients[3].open);
    assert_int_equal(peer_at(c, A, B)->session, peer_at(c, B, A)->session);
    cluster_free(c);
}

static void h13_a_lost_batch_is_sent_again_and_nothing_is_closed(void **state) {
    (void)state;
    cluster *c = linked();
    uint64_t before = peer_at(c, A, B)->session;
    lose(c, B, A, 1);
    edit(c, 1, "doc", "lost");
    expect(c, A, "");
    edit(c, 1, "doc", "behind it"); /* shows the gap */
    expect(c, A, "proxy:1:doc:lost proxy:1:doc:behind it");
    edit(c, 1, "doc", "x");
    expect(c, A, "proxy:1:doc:x");
    expect_client(c, 1, "");
    assert_int_equal(peer_at(c, A, B)->session, before);
    assert_int_equal(peer_at(c, B, A)->session, before);
    assert_int_equal(stats_of(c, B).gaps, 1);
    cluster_free(c);
}

static void h13_a_lost_last_batch_is_noticed_soon(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 1000); /* all is acknowledged: nothing else will be said */
    lose(c, B, A, 1);
    edit(c, 1, "doc", "lost");
    advance(c, 399);
    expect(c, A, "");
    advance(c, 1);
    expect(c, A, "proxy:1:doc:lost");
    assert_true(c->clients[1].open);
    cluster_free(c);
}

static void h13_a_lost_batch_from_the_owner_is_noticed_too(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 500);
    lose(c, A, B, 1);
    broadcast(c, A, "doc", "lost", 1, (uint32_t[]){1});
    expect_client(c, 1, "");
    advance(c, 1001);
    expect_client(c, 1, "doc:lost");
    expect(c, A, "");
    assert_int_equal(stats_of(c, A).gaps, 1);
    cluster_free(c);
}

static void h13_an_offer_that_was_lost_arrives_after_all(void **state) {
    (void)state;
    cluster *c = linked();
    open_client(c, 2, B);
    lose(c, B, A, 1);
    send_edit(c, 2, "doc", "before");
    send_auth(c, 2, "doc", "token");
    settle(c);
    expect(c, A, "");
    edit(c, 2, "doc", "x");
    expect(c, A, "proxy:2:open:B proxy:2:doc:before proxy:2:doc:token proxy:2:doc:x");
    expect_client(c, 2, "doc:authenticated");
    expect_client(c, 1, "");
    cluster_free(c);
}

static void h13_an_acceptance_that_was_lost_arrives_after_all(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    lose(c, A, B, 1);
    auth(c, 1, "doc");
    edit(c, 1, "doc", "x");
    advance(c, 1500);
    edit(c, 1, "doc", "y");
    expect_client(c, 1, "doc:authenticated");
    expect(c, A, "claim:1:ok proxy:1:open:B proxy:1:doc:token proxy:1:doc:x proxy:1:doc:y");
    cluster_free(c);
}

static void h13_after_many_losses_in_both_directions_all_has_arrived_once_in_order(void **state) {
    (void)state;
    cluster *c = linked();
    uint64_t before = peer_at(c, A, B)->session;
    bytes sent = {0}, heard = {0};
    for (unsigned round = 0; round < 60; round++) {
        char text[8], word_at_a[32], word_at_client[32];
        snprintf(text, sizeof(text), "%u", round);
        int length =
            snprintf(word_at_a, sizeof(word_at_a), "%sproxy:1:doc:%u", round ? " " : "", round);
        add(&sent, word_at_a, (size_t)length);
        length =
            snprintf(word_at_client, sizeof(word_at_client), "%sdoc:%u", round ? " " : "", round);
        add(&heard, word_at_client, (size_t)length);
        lose(c, round % 2 ? A : B, round % 2 ? B : A, 1 + (int)round % 4);
        edit(c, 1, "doc", text);
        broadcast(c, A, "doc", text, 1, (uint32_t[]){1});
        advance(c, round * 37 % 700);
    }
    c->lose_count = 0;
    advance(c, 3000);
    add(&sent, "", 1);
    add(&heard, "", 1);
    expect(c, A, (const char *)sent.data);
    expect_client(c, 1, (const char *)heard.data);
    assert_int_equal(peer_at(c, A, B)->session, before);
    free(sent.data);
    free(heard.data);
    cluster_free(c);
}

static void h13_a_fragment_that_was_lost_is_sent_again_with_what_is_behind_it(void **state) {
    (void)state;
    cluster *c = linked();
    char *text = text_of(600 << 10);
    lose(c, B, A, 2);
    send_edit(c, 1, "doc", text);
    send_edit(c, 1, "doc", "behind it");
    settle(c);
    free(text);
    advance(c, 1001);
    expect(c, A, "proxy:1:doc:[614400] proxy:1:doc:behind it");
    assert_int_equal(stats_of(c, A).malformed, 0);
    cluster_free(c);
}

static void h13_a_redis_restart_in_the_middle_of_typing_loses_nothing(void **state) {
    (void)state;
    cluster *c = linked();
    cut(c, A);
    edit(c, 1, "doc", "into the void");
    edit(c, 1, "doc", "and more");
    advance(c, 50);
    connect_redis(c, A);
    expect(c, A, "proxy:1:doc:into the void proxy:1:doc:and more"); /* both greet at once */
    cut(c, B);
    edit(c, 1, "doc", "waits here");
    broadcast(c, A, "doc", "waits there", 1, (uint32_t[]){1});
    advance(c, 50);
    connect_redis(c, B);
    expect(c, A, "proxy:1:doc:waits here");
    expect_client(c, 1, "doc:waits there");
    assert_int_equal(stats_of(c, A).resets + stats_of(c, B).resets, 0);
    cluster_free(c);
}

static void h17_proxy_sockets_are_closed_when_their_origin_was_silent_for_their_ttl(void **state) {
    (void)state;
    cluster *c = linked();
    kill_server(c, B);
    advance(c, 29000);
    expect(c, A, "");
    advance(c, 1100);
    expect(c, A, "proxy:1:closed:1006");
    assert_int_equal(stats_of(c, A).proxies, 0);
    cluster_free(c);
}

static void h14_publishing_to_nobody_is_evidence_that_is_acted_on(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 2000);
    kill_server(c, A);
    edit(c, 1, "doc", "x");
    expect(c, B, "");
    advance(c, 999); /* of a lockTTL of 10,000 */
    expect(c, B, "proxy:1:open:B proxy:1:doc:token");
    expect_client(c, 1, "");
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_int_equal(stats_of(c, B).peers, 0);
    cluster_free(c);
}

static void h14_the_restart_of_an_owner_is_noticed_by_what_stands_in_redis(void **state) {
    (void)state;
    cluster *c = linked();
    advance(c, 2000);
    kill_server(c, A);
    start(c, A); /* the membership names another boot as soon as the probe is over */
    advance(c, 900);
    edit(c, 1, "doc", "x");
    advance(c, 10); /* asked as soon as nobody listens */
    expect(c, B, "proxy:1:open:B proxy:1:doc:token");
    assert_true(c->clients[1].open);
    cluster_free(c);
}

static void a_dead_owners_routes_fail_over_when_its_membership_ends(void **state) {
    (void)state;
    cluster *c = linked();
    kill_server(c, A);
    c->nobody_counts = true; /* Redis can't tell how many listen, as in a Cluster */
    advance(c, 11000);
    expect(c, B, "proxy:1:open:B proxy:1:doc:token");
    expect_client(c, 1, "");
    assert_string_equal(owner_of(c, "doc"), "B");
    open_client(c, 2, B);
    auth(c, 2, "doc");
    expect_client(c, 2, "doc:authenticated");
    cluster_free(c);
}

static void an_owner_that_is_only_silent_is_not_taken_for_dead(void **state) {
    (void)state;
    cluster *c = linked();
    for (int i = 0; i < 20; i++) { /* nothing of A's reaches B, yet its membership stands */
        c->servers[B].channel.data[0] ^= 1;
        advance(c, 1000);
        c->servers[B].channel.data[0] ^= 1;
    }
    assert_non_null(peer_at(c, B, A));
    advance(c, 2000);
    expect(c, A, "");
    assert_true(c->clients[1].open);
    cluster_free(c);
}

/* A secret of its own, say: whatever is published is thrown away at the other side. */
static void deafen(cluster *c, int i) {
    tell(c, i, &(aff_event){.type = AFF_EV_UNSUBSCRIBED});
    c->servers[i].unheard = true;
    c->nobody_counts = true;
}

static void h31_clients_of_a_member_that_never_answers_are_closed_not_left_hanging(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    deafen(c, A);
    open_client(c, 1, B);
    send_auth(c, 1, "doc", "token");
    send_edit(c, 1, "doc", "x");
    settle(c);
    advance(c, 30000); /* it may still come: Redis stands still, a proxy is slow */
    expect_client(c, 1, "");
    advance(c, 6000);
    expect_client(c, 1, "closed:4205");
    assert_string_equal(owner_of(c, "doc"), "A"); /* it lives: the document stays its own */

    /* Who connects again has as much time. */
    open_client(c, 2, B);
    send_auth(c, 2, "doc", "token");
    settle(c);
    advance(c, 25000);
    expect_client(c, 2, "");
    c->servers[A].unheard = c->nobody_counts = false;
    tell(c, A, &(aff_event){.type = AFF_EV_SUBSCRIBED});
    advance(c, 2000);
    expect_client(c, 2, "doc:authenticated");
    advance(c, 60000);
    expect_client(c, 2, "");
    cluster_free(c);
}

static void bye_moves_the_documents_at_once(void **state) {
    (void)state;
    cluster *c = linked();
    open_client(c, 2, B);
    c->servers[A].deaf = true;
    auth(c, 2, "doc"); /* offered to A */
    c->servers[A].deaf = false;
    step(c, &c->servers[A], &(aff_event){.type = AFF_EV_SHUTDOWN});
    settle(c);
    advance(c, 10);
    expect_client(c, 1, "");
    expect_client(c, 2, "doc:authenticated");
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_int_equal(stats_of(c, B).peers, 0);
    assert_int_equal(stats_of(c, B).gaps, 0);
    cluster_free(c);
}

static void a_batch_for_a_former_process_is_dropped(void **state) {
    (void)state;
    cluster *c = linked();
    edit(c, 1, "doc", "x");
    bytes late = {0};
    add(&late, c->captured.data, c->captured.len);
    kill_server(c, A);
    start(c, A);
    advance(c, 1000);
    forget_traces(c);
    inject(c, A, &late);
    expect(c, A, "");
    assert_int_equal(stats_of(c, A).stale, 1);
    free(late.data);
    cluster_free(c);
}

static void a_link_outlives_the_boot_of_its_server(void **state) {
    (void)state;
    cluster *c = linked();
    uint64_t session = peer_at(c, A, B)->session;
    redis_del(c, aff__str("rsaServer:A")); /* A starts again under a new boot */
    lose(c, B, A, 1);
    edit(c, 1, "doc", "lost");
    advance(c, 4000);
    edit(c, 1, "doc", "x");
    expect(c, A, "proxy:1:doc:lost proxy:1:doc:x");
    assert_int_equal(peer_at(c, A, B)->session, session);
    expect_client(c, 1, "");
    cluster_free(c);
}

static void a_batch_from_a_former_boot_delivers_nothing(void **state) {
    (void)state;
    cluster *c = linked();
    edit(c, 1, "doc", "x");
    bytes late = {0};
    add(&late, c->captured.data, c->captured.len);
    kill_server(c, B);
    advance(c, 31000);
    expect(c, A, "proxy:1:doc:x proxy:1:closed:1006");
    inject(c, A, &late);
    advance(c, 2000);
    expect(c, A, "");
    free(late.data);
    cluster_free(c);
}

static void a_batch_that_comes_twice_is_read_once(void **state) {
    (void)state;
    cluster *c = linked();
    edit(c, 1, "doc", "x");
    inject(c, A, &c->captured);
    edit(c, 1, "doc", "y");
    expect(c, A, "proxy:1:doc:x proxy:1:doc:y");
    assert_true(c->clients[1].open);
    cluster_free(c);
}

static void a_link_that_one_side_has_forgotten_works_again(void **state) {
    (void)state;
    cluster *c = linked();
    edit(c, 1, "doc", "x");
    close_socket(c, 1);
    advance(c, 1000);
    /* Ten idle minutes later B's tick comes before A's, and B has a client before A forgets. */
    nomem.paused = true; /* outside of a step */
    aff__peer_gone(c->servers[B].engine, peer_at(c, B, A), AFF_GONE_IDLE);
    nomem.paused = false;
    assert_int_equal(stats_of(c, A).peers, 1);
    forget_traces(c);
    open_client(c, 2, B);
    auth(c, 2, "doc");
    edit(c, 2, "doc", "y");
    expect_client(c, 2, "doc:authenticated");
    expect(c, A, "proxy:2:open:B proxy:2:doc:token proxy:2:doc:y");
    cluster_free(c);
}

static void
what_is_under_way_when_a_peer_is_forgotten_is_not_taken_for_what_comes_later(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "a", AFF_USE_HOLD);
    claim(c, B, 1, "b", AFF_USE_HOLD);
    open_client(c, 1, B);
    open_client(c, 2, A);
    lose(c, B, A, 1000);
    auth(c, 1, "a");
    bytes late = {0}; /* B's first batch; its beats get through, so A knows the session */
    add(&late, c->captured.data, c->captured.len);
    advance(c, 1500);
    close_socket(c, 1);
    uint64_t session = peer_at(c, A, B)->session;
    assert_int_equal(peer_at(c, B, A)->session, session);
    nomem.paused = true; /* outside of a step */
    aff__peer_gone(c->servers[B].engine, peer_at(c, B, A), AFF_GONE_UNHEARD);
    nomem.paused = false;
    auth(c, 2, "b"); /* the first that B hears of A, in that session; its answer is lost as well */
    inject(c, A, &late);
    c->lose_count = 0;
    advance(c, 3000);
    expect_client(c, 2, "b:authenticated");
    assert_true(peer_at(c, A, B)->session > session);
    assert_true(c->clients[2].open);
    free(late.data);
    cluster_free(c);
}

static void h28_malformed_batches_are_counted_and_dropped(void **state) {
    (void)state;
    cluster *c = linked();
    const char *a = aff_boot(c->servers[A].engine), *b = aff_boot(c->servers[B].engine);
    bytes whole = {0};
    make_batch(&whole, b, a, 1, 99, 1, aff__none());
    uint64_t before = stats_of(c, A).malformed;
    for (size_t len = 0; len < whole.len; len++) { /* cut off anywhere */
        bytes part = {0};
        add(&part, whole.data, len);
        inject(c, A, &part);
        free(part.data);
    }
    assert_int_equal(stats_of(c, A).malformed - before, whole.len);
    whole.data[0] = 9; /* a version of the future */
    inject(c, A, &whole);
    assert_int_equal(stats_of(c, A).malformed - before, whole.len + 1);
    expect(c, A, "");
    edit(c, 1, "doc", "x");
    expect(c, A, "proxy:1:doc:x");
    free(whole.data);
    cluster_free(c);
}

static void h28_malformed_frames_are_counted_and_skipped(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    const char *a = aff_boot(c->servers[A].engine), *ghost = "0011223344ff";
    const uint8_t frames[][12] = {
        {0},                                                  /* no type */
        {1, 99},                                              /* an unknown one */
        {1, AFF_FRAME_HELLO},                                 /* no serverId */
        {3, AFF_FRAME_OPEN, 1, 9},                            /* a request shorter than it says */
        {2, AFF_FRAME_ACCEPT, 1},                             /* no epoch */
        {2, AFF_FRAME_KICK, 1},                               /* no code */
        {4, AFF_FRAME_OUT, 1, 1, 2},                          /* no message */
        {4, AFF_FRAME_OUT, 1, 99, 2},                         /* fewer targets than it says */
        {6, AFF_FRAME_OUT, 1, 1, 2, 9, 'd'},                  /* an address shorter than it says */
        {3, AFF_FRAME_EVENT, 1, 1},                           /* no document */
        {2, AFF_FRAME_RESULT, 1},                             /* no status */
        {3, AFF_FRAME_FRAGMENT, 0, 1},                        /* a fragment of nothing */
        {4, AFF_FRAME_FRAGMENT, 5, 1, 7},                     /* a middle without a beginning */
        {5, AFF_FRAME_FRAGMENT, 0, 1, AFF_FRAME_FRAGMENT, 0}, /* a fragment of a fragment */
        {4, AFF_FRAME_FRAGMENT, 0, 1, AFF_FRAME_BYE},
        {200, 1}, /* longer than the batch */
    };
    for (size_t i = 0; i < sizeof(frames) / sizeof(*frames); i++) {
        bytes batch = {0};
        size_t len = frames[i][0] == 200 ? 2 : (size_t)frames[i][0] + 1;
        make_batch(&batch, ghost, a, 1, 1, i + 1, aff__slice(frames[i], len));
        inject(c, A, &batch);
        assert_int_equal(stats_of(c, A).malformed, i + 1);
        free(batch.data);
    }
    expect(c, A, "");
    cluster_free(c);
}

/* What a later release may add without a new version of the protocol. */
static void more_fields_flags_and_types_of_frames_than_are_known_harm_nothing(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    const char *a = aff_boot(c->servers[A].engine), *ghost = "0011223344ff";
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    uint64_t epoch = epoch_of(c, "doc");
    bytes frames = {0}, offer = {0}, batch = {0};
    const uint8_t hello[] = {AFF_FRAME_HELLO, 1, 'Z', 3, 'a', ':', '1', 7, 7, 7};
    const uint8_t open[] = {AFF_FRAME_OPEN, 1, 2, 'r', 'q', 7, 7};
    const uint8_t unknown[] = {99, 1, 2, 3};
    const uint8_t alive[] = {AFF_FRAME_ALIVE, 1, 7};
    const uint8_t close[] = {AFF_FRAME_CLOSE, 1, 7};
    add(&offer, (uint8_t[]){AFF_FRAME_OFFER, 1}, 2);
    add_uint(&offer, epoch);
    add(&offer, (uint8_t[]){3, 'd', 'o', 'c', 2, 0, 2, 'm', 'e', 3, '4', '.', '0', 7}, 14);
    const aff_slice all[] = {{hello, sizeof(hello)},     {open, sizeof(open)},
                             {unknown, sizeof(unknown)}, slice(&offer),
                             {alive, sizeof(alive)},     {close, sizeof(close)}};
    for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++) {
        add_uint(&frames, all[i].len);
        add(&frames, all[i].data, all[i].len);
    }
    make_batch(&batch, ghost, a, 0xf1 & ~8, 1, 1, slice(&frames));
    inject(c, A, &batch);
    expect(c, A, "claim:1:ok proxy:1:open:Z proxy:1:doc:token proxy:1:alive proxy:1:closed:1005");
    assert_int_equal(stats_of(c, A).malformed, 1); /* the unknown frame */
    assert_int_equal(c->servers[A].warnings, 0);
    free(frames.data);
    free(offer.data);
    free(batch.data);
    cluster_free(c);
}

static void a_server_of_another_version_is_told_of_on_both_sides_and_not_for_ever(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    c->servers[B].version = 2;
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    open_client(c, 2, C);
    auth(c, 1, "doc");
    auth(c, 2, "doc"); /* others are served as ever */
    edit(c, 2, "doc", "x");
    expect(c, A, "claim:1:ok proxy:1:open:C proxy:1:doc:token proxy:1:doc:x");
    assert_non_null(
        strstr(c->servers[A].warning, "speaks version 2 of the protocol, this server version 1"));
    assert_non_null(strstr(c->servers[B].warning, "server A speaks version 2"));
    assert_int_equal(c->servers[C].warnings, 0);
    /* Its clients learn it when the owner has been silent for long (on_mute). */
    advance(c, 50000);
    expect_client(c, 1, "closed:4205");
    assert_in_range(c->servers[A].warnings, 1, 2);
    advance(c, 20000);
    size_t before = c->batches;
    advance(c,
            100000); /* A and C beat as ever; B each second, and is answered: no more than that */
    assert_in_range(c->batches - before, 200, 330);
    edit(c, 2, "doc", "y");
    expect(c, A, "proxy:1:doc:y");
    cluster_free(c);
}

static void frames_about_what_does_not_exist_are_stale(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    const char *a = aff_boot(c->servers[A].engine), *ghost = "0011223344ff";
    const uint8_t frames[] = {4,
                              AFF_FRAME_DATA,
                              1,
                              1,
                              0,
                              2,
                              AFF_FRAME_CLOSE,
                              1,
                              2,
                              AFF_FRAME_ALIVE,
                              1,
                              4,
                              AFF_FRAME_ACCEPT,
                              1,
                              1,
                              'd',
                              4,
                              AFF_FRAME_REFUSE,
                              1,
                              1,
                              'd'};
    bytes batch = {0};
    make_batch(&batch, ghost, a, 1, 1, 1, aff__slice(frames, sizeof(frames)));
    inject(c, A, &batch);
    expect(c, A, "");
    assert_int_equal(stats_of(c, A).stale, 5);
    assert_int_equal(stats_of(c, A).malformed, 0);
    free(batch.data);
    cluster_free(c);
}

static void a_batch_of_our_own_is_ignored(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    const char *a = aff_boot(c->servers[A].engine);
    bytes batch = {0};
    make_batch(&batch, a, a, 1, 1, 1, aff__none());
    inject(c, A, &batch);
    assert_int_equal(stats_of(c, A).peers, 0);
    free(batch.data);
    cluster_free(c);
}

static void an_offer_is_answered_under_its_own_epoch(void **state) {
    (void)state;
    cluster *c = linked();
    uint64_t epoch = epoch_of(c, "doc");
    open_client(c, 2, B);
    c->servers[A].deaf = true;
    auth(c, 2, "doc");
    aff_engine *a = c->servers[A].engine; /* something older is on its way, of another route */
    aff__buf *frame = aff__frame(a, AFF_FRAME_ACCEPT);
    aff__put_uint(frame, 2);
    aff__put_uint(frame, epoch + 5);
    aff__put(frame, "doc", 3);
    assert_int_equal(aff__frame_send(a, peer_at(c, A, B)), 0);
    c->servers[A].deaf = false;
    settle(c);
    expect_client(c, 2, "doc:authenticated");
    edit(c, 2, "doc", "x");
    expect(c, A, "proxy:2:open:B proxy:2:doc:token proxy:2:doc:x");
    cluster_free(c);
}

static void two_servers_that_open_their_link_at_the_same_time_agree_on_a_session(void **state) {
    (void)state;
    for (unsigned seed = 0; seed < 300; seed++) {
        cluster *c = cluster_new();
        for (int i = 0; i < 2; i++) {
            c->servers[i].config.seed = seed * 977 + (unsigned)i;
            start(c, i);
        }
        claim(c, A, 1, "a", AFF_USE_HOLD);
        claim(c, B, 1, "b", AFF_USE_HOLD);
        for (uint32_t k = 1; k <= 4; k++) open_client(c, k, k % 2 ? A : B);
        if (seed % 3 == 1) lose(c, A, B, 1 + (int)seed % 2);
        if (seed % 3 == 2) lose(c, B, A, 1 + (int)seed % 2);
        forget_traces(c);
        for (uint32_t k = 1; k <= 4; k++) {
            send_auth(c, k, k % 2 ? "b" : "a", "token");
            send_edit(c, k, k % 2 ? "b" : "a", "x");
        }
        send_emit(c, A, 7, "b", "x", false);
        send_emit(c, B, 7, "a", "x", false);
        settle(c); /* each has published before it has heard of the other */
        advance(c, 3000);
        c->lose_count = 0;
        for (uint32_t k = 1; k <= 4; k++) edit(c, k, k % 2 ? "b" : "a", "y");
        assert_int_equal(peer_at(c, A, B)->session, peer_at(c, B, A)->session);
        assert_int_equal(stats_of(c, A).resets + stats_of(c, B).resets, 1); /* the lower one's */
        for (uint32_t k = 1; k <= 4; k++) {
            assert_true(c->clients[k].open);
            assert_non_null(strstr(c->clients[k].trace, ":authenticated"));
        }
        for (int i = 0; i < 2; i++) {
            assert_int_equal(stats_of(c, i).proxies, 2);
            const char *trace = c->servers[i].trace, *at = trace;
            for (int n = 0; n < 2; n++) {
                at = strstr(at, ":y");
                assert_non_null(at++);
            }
            assert_null(strstr(at, ":y"));
            assert_non_null(strstr(trace, "run:"));
        }
        cluster_free(c);
    }
}

/* Any server can say any epoch, and whoever hears a higher one claims above it. */
static void an_epoch_beyond_what_can_be_counted_is_malformed(void **state) {
    (void)state;
    static const uint64_t epochs[] = {((uint64_t)1 << 52) + 1, (uint64_t)1 << 53, UINT64_MAX};
    cluster *c = cluster_of(2);
    char process[AFF_PROCESS_LEN + 1] = "00000000beef";
    uint64_t before = stats_of(c, A).epoch_max;
    for (size_t i = 0; i < 3; i++) {
        bytes event = {0}, frames = {0}, batch = {0};
        add_uint(&event, AFF_FRAME_EVENT);
        add_uint(&event, 1);
        add_uint(&event, epochs[i]);
        add_text(&event, aff__str("doc"));
        add_text(&event, aff__str("name"));
        add_text(&frames, slice(&event));
        make_batch(&batch, process, aff_boot(c->servers[A].engine), 1, 7, i + 1, slice(&frames));
        inject(c, A, &batch);
        assert_int_equal(stats_of(c, A).malformed, i + 1);
        assert_int_equal(stats_of(c, A).epoch_max, before);
        free(event.data), free(frames.data), free(batch.data);
    }
    cluster_free(c);
}

/* Half of what can be counted is believed: all that is claimed from then on is above it, and can be
 * read by everybody. */
static void claims_go_on_above_the_highest_epoch_that_is_believed(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    bytes event = {0}, frames = {0}, batch = {0};
    add_uint(&event, AFF_FRAME_EVENT);
    add_uint(&event, 1);
    add_uint(&event, (uint64_t)1 << 52);
    add_text(&event, aff__str("doc"));
    add_text(&event, aff__str("name"));
    add_text(&frames, slice(&event));
    make_batch(&batch, "00000000beef", aff_boot(c->servers[A].engine), 1, 7, 1, slice(&frames));
    inject(c, A, &batch);
    for (unsigned i = 1; i <= 3; i++) {
        claim(c, A, i, "doc", AFF_USE_HOLD);
        assert_int_equal(epoch_of(c, "doc"), ((uint64_t)1 << 52) + i);
        claim(c, B, i, "doc", AFF_USE_HOLD);
        unuse(c, A, "doc", AFF_USE_HOLD);
    }
    expect(c, A, "claim:1:ok claim:2:ok claim:3:ok");
    expect(c, B, "claim:1:owned:A claim:2:owned:A claim:3:owned:A");
    free(event.data), free(frames.data), free(batch.data);
    cluster_free(c);
}

/* A frame about an address of the stranger's socket 1, as part of a batch. */
static void add_about(bytes *frames, aff__frame_type type, uint64_t epoch, const char *token) {
    bytes frame = {0};
    add_uint(&frame, type);
    add_uint(&frame, 1);
    if (type == AFF_FRAME_OPEN) {
        add_text(&frame, aff__str("GET /"));
    } else {
        add_uint(&frame, epoch);
        make_auth(&frame, aff__str("doc"), AFF_HP_TOKEN, token);
    }
    add_text(frames, slice(&frame));
    free(frame.data);
}

/* An origin that offers twice; the second time, the owner is not sure of its lease. */
static void an_address_offered_again_while_it_is_claimed_anew_waits_for_the_answer(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    bytes frames = {0}, batch = {0};
    add_about(&frames, AFF_FRAME_OPEN, 0, "");
    add_about(&frames, AFF_FRAME_OFFER, epoch_of(c, "doc"), "first");
    make_batch(&batch, "00000000beef", aff_boot(c->servers[A].engine), 1, 7, 1, slice(&frames));
    inject(c, A, &batch);
    expect(c, A, "claim:1:ok proxy:1:open: proxy:1:doc:token");
    c->servers[A].mute = true;
    confirm(c, A, 2, "doc");
    frames.len = batch.len = 0;
    add_about(&frames, AFF_FRAME_OFFER, epoch_of(c, "doc") + 5, "second");
    add_about(&frames, AFF_FRAME_OFFER, epoch_of(c, "doc"), "third");
    make_batch(&batch, "00000000beef", aff_boot(c->servers[A].engine), 1, 7, 2, slice(&frames));
    inject(c, A, &batch);
    expect(c, A, "");
    c->servers[A].mute = false;
    settle(c);
    expect(c, A, "claim:2:ok proxy:1:doc:token proxy:1:doc:token");
    free(frames.data), free(batch.data);
    cluster_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_epoch_beyond_what_can_be_counted_is_malformed),
        cmocka_unit_test(an_address_offered_again_while_it_is_claimed_anew_waits_for_the_answer),
        cmocka_unit_test(claims_go_on_above_the_highest_epoch_that_is_believed),
        cmocka_unit_test(batches_are_numbered_and_acknowledged),
        cmocka_unit_test(an_origin_acknowledges_with_its_next_frame),
        cmocka_unit_test(what_clients_say_is_asked_about_sooner),
        cmocka_unit_test(batches_grow_while_redis_is_slow),
        cmocka_unit_test(a_farewell_waits_for_no_answer),
        cmocka_unit_test(everything_of_one_loop_turn_is_one_batch),
        cmocka_unit_test(an_idle_link_costs_no_more_than_its_beat),
        cmocka_unit_test(a_64_mib_message_crosses_in_fragments),
        cmocka_unit_test(a_message_above_the_limit_closes_its_socket),
        cmocka_unit_test(a_sender_stops_at_the_window_and_goes_on_when_the_app_has_consumed),
        cmocka_unit_test(two_sides_that_both_wait_do_not_answer_each_other_for_ever),
        cmocka_unit_test(credit_that_was_lost_is_asked_for_again),
        cmocka_unit_test(an_overflowing_link_ends_its_session_not_the_server),
        cmocka_unit_test(h13_a_lost_batch_is_sent_again_and_nothing_is_closed),
        cmocka_unit_test(h13_a_lost_last_batch_is_noticed_soon),
        cmocka_unit_test(h13_a_lost_batch_from_the_owner_is_noticed_too),
        cmocka_unit_test(h13_an_offer_that_was_lost_arrives_after_all),
        cmocka_unit_test(h13_an_acceptance_that_was_lost_arrives_after_all),
        cmocka_unit_test(h13_after_many_losses_in_both_directions_all_has_arrived_once_in_order),
        cmocka_unit_test(h13_a_fragment_that_was_lost_is_sent_again_with_what_is_behind_it),
        cmocka_unit_test(h13_a_redis_restart_in_the_middle_of_typing_loses_nothing),
        cmocka_unit_test(h17_proxy_sockets_are_closed_when_their_origin_was_silent_for_their_ttl),
        cmocka_unit_test(h14_publishing_to_nobody_is_evidence_that_is_acted_on),
        cmocka_unit_test(h14_the_restart_of_an_owner_is_noticed_by_what_stands_in_redis),
        cmocka_unit_test(a_dead_owners_routes_fail_over_when_its_membership_ends),
        cmocka_unit_test(an_owner_that_is_only_silent_is_not_taken_for_dead),
        cmocka_unit_test(h31_clients_of_a_member_that_never_answers_are_closed_not_left_hanging),
        cmocka_unit_test(bye_moves_the_documents_at_once),
        cmocka_unit_test(a_batch_for_a_former_process_is_dropped),
        cmocka_unit_test(a_link_outlives_the_boot_of_its_server),
        cmocka_unit_test(a_batch_from_a_former_boot_delivers_nothing),
        cmocka_unit_test(a_batch_that_comes_twice_is_read_once),
        cmocka_unit_test(a_link_that_one_side_has_forgotten_works_again),
        cmocka_unit_test(
            what_is_under_way_when_a_peer_is_forgotten_is_not_taken_for_what_comes_later),
        cmocka_unit_test(h28_malformed_batches_are_counted_and_dropped),
        cmocka_unit_test(h28_malformed_frames_are_counted_and_skipped),
        cmocka_unit_test(more_fields_flags_and_types_of_frames_than_are_known_harm_nothing),
        cmocka_unit_test(a_server_of_another_version_is_told_of_on_both_sides_and_not_for_ever),
        cmocka_unit_test(frames_about_what_does_not_exist_are_stale),
        cmocka_unit_test(a_batch_of_our_own_is_ignored),
        cmocka_unit_test(an_offer_is_answered_under_its_own_epoch),
        cmocka_unit_test(two_servers_that_open_their_link_at_the_same_time_agree_on_a_session),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
