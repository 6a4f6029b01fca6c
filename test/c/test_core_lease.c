/* Leases: who owns a document, for how long, under which epoch. */
#include "cluster.h"

static void h06_a_claim_is_kept_from_the_moment_it_is_made(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_LOADED);
    advance(c, 120000); /* a load that takes two minutes */
    claim(c, B, 2, "doc", AFF_USE_LOADED);
    expect(c, A, "claim:1:ok");
    expect(c, B, "claim:2:owned:A");
    cluster_free(c);
}

static void claims_of_one_document_by_two_servers_at_once_have_one_winner(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    send_claim(c, A, 1, "doc", AFF_USE_HOLD);
    send_claim(c, B, 2, "doc", AFF_USE_HOLD);
    settle(c);
    expect(c, A, "claim:1:ok");
    expect(c, B, "claim:2:owned:A");
    cluster_free(c);
}

static void many_claims_of_one_server_ask_redis_once(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    for (unsigned i = 1; i <= 5; i++) send_claim(c, A, i, "doc", AFF_USE_HOLD);
    settle(c);
    claim(c, A, 6, "doc", AFF_USE_LOADED);
    expect(c, A, "claim:1:ok claim:2:ok claim:3:ok claim:4:ok claim:5:ok claim:6:ok");
    assert_int_equal(c->redis.claims, 1);
    cluster_free(c);
}

static void h02_a_lease_ends_with_the_last_of_its_uses(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    claim(c, A, 1, "doc", AFF_USE_LOADED);
    claim(c, A, 2, "doc", AFF_USE_HOLD);
    claim(c, A, 3, "doc", AFF_USE_HOLD);
    unuse(c, A, "doc", AFF_USE_HOLD);
    assert_string_equal(owner_of(c, "doc"), "A");
    unuse(c, A, "doc", AFF_USE_HOLD);
    assert_string_equal(owner_of(c, "doc"), "A"); /* still loaded */
    unuse(c, A, "doc", AFF_USE_HOLD);             /* one too many: nothing to end */
    assert_string_equal(owner_of(c, "doc"), "A");
    unuse(c, A, "doc", AFF_USE_LOADED);
    assert_string_equal(owner_of(c, "doc"), "");
    assert_int_equal(stats_of(c, A).documents, 0);
    cluster_free(c);
}

static void h02_a_released_hold_leaves_the_lease_to_connected_clients(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    unuse(c, A, "doc", AFF_USE_HOLD);
    assert_string_equal(owner_of(c, "doc"), "A");
    close_socket(c, 1);
    assert_string_equal(owner_of(c, "doc"), "");
    cluster_free(c);
}

static void h03_a_claim_after_a_release_is_decided_by_redis(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    unuse(c, A, "doc", AFF_USE_HOLD);
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    claim(c, A, 3, "doc", AFF_USE_HOLD);
    expect(c, A, "claim:1:ok claim:3:owned:B");
    expect(c, B, "claim:2:ok");
    cluster_free(c);
}

static void h33_a_remembered_owner_is_asked_for_again_by_each_claim(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    unuse(c, A, "doc", AFF_USE_HOLD);
    claim(c, B, 3, "doc", AFF_USE_HOLD);
    expect(c, B, "claim:2:owned:A claim:3:ok");
    cluster_free(c);
}

static void h33_a_look_up_that_failed_is_made_again(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    open_client(c, 1, B);
    cut(c, B);
    send_auth(c, 1, "doc", "token");
    send_claim(c, B, 2, "doc", AFF_USE_HOLD);
    advance(c, 12000); /* lockTTL is over */
    expect(c, B, "claim:2:AFF_EREDIS");
    expect_client(c, 1, "");
    connect_redis(c, B);
    advance(c, 2000);
    expect_client(c, 1, "doc:authenticated");
    forget_traces(c);
    claim(c, B, 3, "doc", AFF_USE_HOLD);
    expect(c, B, "claim:3:owned:A");
    cluster_free(c);
}

static void h04_a_late_release_does_not_remove_the_successors_lease(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    c->servers[A].mute = c->servers[A].deaf = true; /* its release hangs in the network */
    post(&c->servers[A],
         &(aff_event){.type = AFF_EV_UNUSE, .document = aff__str("doc"), .use = AFF_USE_HOLD});
    c->servers[A].deaf = false;
    settle(c);
    advance(c, 30000);
    claim(c, B, 2, "doc", AFF_USE_HOLD); /* A's membership has run out */
    advance(c, AFF_ABSENT_MS + 50);      /* its membership is missing, and still is */
    expect(c, B, "claim:2:ok");
    uint64_t epoch = epoch_of(c, "doc");
    c->servers[A].mute = false;
    settle(c);
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_int_equal(epoch_of(c, "doc"), epoch);
    cluster_free(c);
}

static void h07_a_reload_while_the_release_is_under_way_claims_anew(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    claim(c, A, 1, "doc", AFF_USE_LOADED);
    uint64_t epoch = epoch_of(c, "doc");
    c->servers[A].mute = true;
    unuse(c, A, "doc", AFF_USE_LOADED);
    claim(c, A, 2, "doc", AFF_USE_LOADED);
    expect(c, A, "claim:1:ok"); /* the second waits for the release */
    c->servers[A].mute = false;
    settle(c);
    expect(c, A, "claim:2:ok");
    assert_string_equal(owner_of(c, "doc"), "A");
    assert_true(epoch_of(c, "doc") > epoch);
    cluster_free(c);
}

static void h07_an_unload_ends_only_its_own_load(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    claim(c, A, 1, "doc", AFF_USE_LOADED);
    claim(c, A, 2, "doc", AFF_USE_LOADED); /* the reload comes before the unload is over */
    unuse(c, A, "doc", AFF_USE_LOADED);
    assert_string_equal(owner_of(c, "doc"), "A");
    cluster_free(c);
}

static void a_dead_servers_document_is_taken_over_when_its_membership_ends(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    uint64_t epoch = epoch_of(c, "doc");
    kill_server(c, A);
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    expect(c, B, "claim:2:owned:A");
    advance(c, 11000);
    claim(c, B, 3, "doc", AFF_USE_HOLD);
    advance(c, AFF_ABSENT_MS + 50); /* its membership is missing, and still is */
    expect(c, B, "claim:3:ok");
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_true(epoch_of(c, "doc") > epoch);
    assert_int_equal(stats_of(c, B).takeovers, 1);
    cluster_free(c);
}

static void a_restarted_servers_former_documents_are_free(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    kill_server(c, A);
    start(c, A);
    advance(c, 1000); /* the probe */
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    expect(c, B, "claim:2:ok");
    cluster_free(c);
}

static void of_two_that_take_over_one_wins(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    claim(c, C, 1, "doc", AFF_USE_HOLD);
    kill_server(c, C);
    advance(c, 11000);
    send_claim(c, A, 2, "doc", AFF_USE_HOLD);
    send_claim(c, B, 3, "doc", AFF_USE_HOLD);
    settle(c);
    advance(c, AFF_ABSENT_MS + 50); /* its membership is missing, and still is */
    expect(c, A, "claim:2:ok");
    expect(c, B, "claim:3:owned:A");
    cluster_free(c);
}

static void epochs_grow_across_a_release(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    uint64_t last = 0;
    for (unsigned i = 0; i < 6; i++) {
        claim(c, i % 2 ? A : B, i, "doc", AFF_USE_HOLD);
        assert_true(epoch_of(c, "doc") > last);
        last = epoch_of(c, "doc");
        unuse(c, i % 2 ? A : B, "doc", AFF_USE_HOLD);
    }
    cluster_free(c);
}

static void epochs_grow_even_if_redis_loses_everything_and_its_clock_goes_back(void **state) {
    (void)state; /* H08 */
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    uint64_t epoch = epoch_of(c, "doc");
    redis_lose_everything(c);
    c->clock_offset = -500000;
    advance(c, 4000); /* the renewal shows it: a new boot claims again, above what it has seen */
    assert_string_equal(owner_of(c, "doc"), "A");
    assert_true(epoch_of(c, "doc") > epoch);
    cluster_free(c);
}

static void a_claim_while_redis_is_down_waits_and_is_granted_when_it_is_back(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    cut(c, A);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    advance(c, 4000);
    expect(c, A, "");
    connect_redis(c, A);
    expect(c, A, "");
    advance(c, 700); /* those who owned it before Redis went away come first */
    expect(c, A, "claim:1:ok");
    cluster_free(c);
}

static void a_claim_while_redis_is_down_fails_after_lock_ttl(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    cut(c, A);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    advance(c, 9999);
    expect(c, A, "");
    advance(c, 1);
    expect(c, A, "claim:1:AFF_EREDIS");
    connect_redis(c, A);
    advance(c, 1000);
    expect(c, A, "");
    assert_string_equal(owner_of(c, "doc"), ""); /* nobody waits for it any more */
    assert_int_equal(stats_of(c, A).documents, 0);
    cluster_free(c);
}

static void a_claim_whose_answer_comes_too_late_keeps_nobody_out(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    c->servers[A].mute = true;
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    advance(c, 10000);
    expect(c, A, "claim:1:AFF_EREDIS");
    c->servers[A].mute = false;
    advance(c, 1000);
    expect(c, A, "");
    assert_int_equal(stats_of(c, A).documents, 0);
    claim(c, B, 2, "doc", AFF_USE_HOLD); /* the record that came of it is a former boot's */
    expect(c, B, "claim:2:ok");
    cluster_free(c);
}

static void a_claim_that_redis_refuses_is_asked_again(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    c->servers[A].mute = true;
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    command *cmd = next_command(&c->servers[A]);
    tell(c, A,
         &(aff_event){.type = AFF_EV_REPLY,
                      .request = cmd->request,
                      .status = AFF_EREDIS,
                      .data = aff__str("READONLY")});
    command_free(cmd);
    c->servers[A].mute = false;
    expect(c, A, "");
    advance(c, 9000);
    expect(c, A, "claim:1:ok");
    cluster_free(c);
}

static void a_release_that_redis_never_got_does_not_lock_others_out(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    c->servers[A].mute = true;
    unuse(c, A, "doc", AFF_USE_HOLD);
    cut(c, A); /* takes the release with it */
    c->servers[A].mute = false;
    connect_redis(c, A);
    assert_string_equal(owner_of(c, "doc"), "A"); /* A lives and does not know */
    open_client(c, 1, B);
    auth(c, 1, "doc");
    expect_client(c, 1, "doc:authenticated");
    assert_string_equal(owner_of(c, "doc"), "B");
    cluster_free(c);
}

static void a_claim_whose_answer_was_lost_does_not_lock_others_out(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    char record[64]; /* Redis ran it, and the connection broke before A heard of it */
    snprintf(record, sizeof(record), "1700000999999999 %s A", aff_boot(c->servers[A].engine));
    redis_set(c, aff__str("rsaLock:doc"), aff__str(record), 86400000);
    emit(c, B, 7, "doc", "x"); /* A asks Redis: it is A's, as if it had been given to it */
    advance(c, 100);
    expect(c, B, "");
    assert_non_null(strstr(c->servers[A].trace, "ping:doc:x"));
    assert_string_equal(owner_of(c, "doc"), "A");
    cluster_free(c);
}

static void a_record_of_a_former_boot_of_a_living_server_locks_nobody_out(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    claim(c, A, 2, "other", AFF_USE_HOLD);
    open_client(c, 1, B);
    auth(c, 1, "other"); /* B hears of A all the time */
    claim(c, B, 3, "doc", AFF_USE_HOLD);
    forget_traces(c);
    redis_del(c, aff__str("rsaServer:A"));
    c->servers[A].mute = true;
    advance(c, 3400);                                           /* the renewal is on its way, */
    unuse(c, A, "doc", AFF_USE_HOLD);                           /* and so is the release */
    for (command *cmd; (cmd = next_command(&c->servers[A]));) { /* which never arrives */
        aff_value no = integer(0);
        int status = cmd->script == AFF_SCRIPT_RENEW ? 0 : AFF_EREDIS;
        reply(&c->servers[A], cmd->request, status, 1, &no);
        command_free(cmd);
    }
    c->servers[A].mute = false;
    settle(c);
    assert_string_equal(owner_of(c, "doc"), "A");
    open_client(c, 2, B);
    auth(c, 2, "doc");
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "B");
    expect_client(c, 2, "doc:authenticated");
    cluster_free(c);
}

/* Redis has lost the record, and its clock is behind: what the servers have seen still counts. */
static void an_epoch_that_was_seen_is_not_fallen_below(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    char record[64]; /* of B, which does not know: it has outlived its release */
    snprintf(record, sizeof(record), "1800000000000000 %s B", aff_boot(c->servers[B].engine));
    redis_set(c, aff__str("rsaLock:doc"), aff__str(record), 86400000);
    tell(c, B, &(aff_event){.type = AFF_EV_DRAIN});
    send_emit(c, A, 7, "doc", "x", true); /* B refuses it, and the record is deleted */
    settle(c);
    assert_string_equal(owner_of(c, "doc"), "");
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    assert_true(epoch_of(c, "doc") > 1800000000000000);
    cluster_free(c);
}

/* A replica that was behind has become Redis: a former owner's record stands again, and it lives.
 * What it stores under its old epoch a database that compares epochs refuses. */
static void a_former_owner_that_redis_falls_back_to_gets_a_new_epoch(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    char record[512];
    snprintf(record, sizeof(record), "%s", redis_text(c, "rsaLock:doc"));
    c->servers[A].mute = true;
    confirm(c, A, 2, "doc");
    redis_del(c, aff__str("rsaLock:doc"));
    claim(c, B, 1, "doc", AFF_USE_HOLD);
    uint64_t newer = epoch_of(c, "doc");
    c->servers[B].mute = true;
    confirm(c, B, 2, "doc");
    redis_set(c, aff__str("rsaLock:doc"), aff__str(record), 86400000);
    c->servers[A].mute = false;
    settle(c);
    expect(c, A, "claim:1:ok claim:2:ok");
    assert_true(epoch_of(c, "doc") < newer);
    c->servers[B].mute = false;
    settle(c); /* B knows better, but A has it */
    expect(c, B, "claim:1:ok lost:doc claim:2:owned:A");
    open_client(c, 1, B);
    auth(c, 1, "doc"); /* by which A learns of it */
    expect_client(c, 1, "doc:authenticated");
    assert_true(epoch_of(c, "doc") > newer);
    confirm(c, A, 3, "doc");
    assert_non_null(strstr(c->servers[A].trace, "claim:3:ok"));
    assert_true(epoch_of(c, "doc") > newer);
    cluster_free(c);
}

static void a_document_whose_record_is_lost_is_confirmed_above_all_epochs_seen(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    redis_set(c, aff__str("rsaLock:other"), aff__str("1800000000000000 00000000000000aa Z"),
              86400000);
    claim(c, A, 2, "other", AFF_USE_HOLD);
    advance(c, 1000);
    assert_true(epoch_of(c, "other") > 1800000000000000);
    redis_del(c, aff__str("rsaLock:doc"));
    confirm(c, A, 3, "doc");
    assert_true(epoch_of(c, "doc") > epoch_of(c, "other"));
    cluster_free(c);
}

static void records_are_refreshed_at_half_of_their_day(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    uint64_t epoch = epoch_of(c, "doc");
    advance(c, 3 * 24 * 3600000ull);
    assert_int_equal(epoch_of(c, "doc"), epoch);
    cluster_free(c);
}

static void a_record_that_vanished_is_noticed_by_its_refresh(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    open_client(c, 2, B);
    auth(c, 2, "doc");
    forget_traces(c);
    uint64_t epoch = epoch_of(c, "doc");
    redis_del(c, aff__str("rsaLock:doc"));
    advance(c, 13 * 3600000ull);
    assert_string_equal(owner_of(c, "doc"), "A");
    assert_true(epoch_of(c, "doc") > epoch);
    expect_client(c, 1, ""); /* under the new epoch without noticing, whether local */
    expect_client(c, 2, ""); /* or not */
    edit(c, 2, "doc", "x");
    expect(c, A, "proxy:1:doc:x");
    cluster_free(c);
}

static void a_record_that_names_another_is_noticed_by_its_refresh(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    open_client(c, 2, B);
    auth(c, 2, "doc");
    forget_traces(c);
    char record[64]; /* an operator's, or a fail-over's, doing */
    snprintf(record, sizeof(record), "1800000000000000 %s B", aff_boot(c->servers[B].engine));
    redis_set(c, aff__str("rsaLock:doc"), aff__str(record), 86400000);
    advance(c, 13 * 3600000ull);
    /* B had never heard of it: it asks, and gets what is its own. */
    assert_non_null(strstr(c->servers[A].trace, "lost:doc"));
    assert_true(c->clients[1].open && c->clients[2].open);
    expect_client(c, 1, "");
    expect_client(c, 2, "");
    edit(c, 1, "doc", "x");
    edit(c, 2, "doc", "y");
    advance(c, 10000);
    assert_true(c->clients[1].open && c->clients[2].open);
    assert_int_equal(epoch_of(c, "doc"), 1800000000000000);
    assert_int_equal(stats_of(c, B).documents_owned, 1);
    cluster_free(c);
}

static void a_refresh_under_way_when_the_boot_lapses_harms_nothing(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    advance(c, 12 * 3600000ull - 20000);
    c->servers[A].mute = true;
    advance(c, 60000); /* the refresh is asked for, and the membership runs out */
    close_socket(c, 1);
    c->servers[A].mute = false;
    settle(c);
    advance(c, 60000);
    assert_int_equal(stats_of(c, A).documents, 0);
    claim(c, B, 1, "doc", AFF_USE_HOLD);
    expect(c, B, "claim:1:ok");
    cluster_free(c);
}

/* docs/PROTOCOL.md: it counts as free. An operator's or a fault's doing; no server writes these. */
static void a_record_that_can_not_be_read_counts_as_free(void **state) {
    (void)state;
    static const char *const records[] = {
        "1 0123456789abcdef",                  /* nobody's */
        "1 0123456789abcdef ",                 /* likewise */
        "0 0123456789abcdef Z",                /* no epoch */
        "9007199254740992 0123456789abcdef Z", /* beyond what Lua can count */
        "99999999999999999999 0123456789abcdef Z",
        "18446744073709551617 0123456789abcdef Z", /* 1, modulo 2^64 */
        "1 0123456789abcde Z",
        "1 0123456789ABCDEF Z",
        "1 0123456789abcdeg Z",
        "1-0123456789abcdef Z",
        "",
    };
    for (size_t i = 0; i < sizeof(records) / sizeof(*records); i++) {
        cluster *c = cluster_of(2);
        redis_set(c, aff__str("rsaLock:doc"), aff__str(records[i]), 86400000);
        claim(c, A, 1, "doc", AFF_USE_HOLD);
        expect(c, A, "claim:1:ok");
        assert_string_equal(owner_of(c, "doc"), "A");
        assert_in_range(epoch_of(c, "doc"), 1700000000000000, 1800000000000000);
        claim(c, B, 1, "doc", AFF_USE_HOLD);
        expect(c, B, "claim:1:owned:A");
        cluster_free(c);
    }
}

static void an_answer_that_is_not_ours_is_not_taken_for_a_lease(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    server *s = &c->servers[A];
    s->mute = true;
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    for (command *cmd; (cmd = next_command(s));) {
        aff_value values[] = {integer(1), string(aff__str("1700000000000000 0123456789abcdef Z"))};
        reply(s, cmd->request, 0, 2, values);
        command_free(cmd);
    }
    s->mute = false;
    settle(c);
    expect(c, A, "");
    assert_int_equal(stats_of(c, A).documents_owned, 0);
    advance(c, 9000); /* Redis is asked again */
    expect(c, A, "claim:1:ok");
    assert_string_equal(owner_of(c, "doc"), "A");
    cluster_free(c);
}

/* Lets time pass, in steps of a second: all that a server asks of Redis meanwhile is to renew its
 * membership. Returns how often it did. */
static unsigned only_renewals(cluster *c, int i, unsigned seconds) {
    server *s = &c->servers[i];
    unsigned renewals = 0;
    while (seconds-- > 0) {
        s->mute = true; /* so that its commands can be looked at before they run */
        advance(c, 1000);
        for (const command *cmd = s->commands; cmd; cmd = cmd->next) {
            assert_false(cmd->is_publish);
            assert_int_equal(cmd->script, AFF_SCRIPT_RENEW);
            renewals++;
        }
        s->mute = false;
        settle(c);
    }
    return renewals;
}

static void h09_a_released_document_leaves_nothing_behind(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD); /* each of which might start a timer of its own */
    claim(c, A, 2, "doc", AFF_USE_HOLD);
    claim(c, A, 3, "doc", AFF_USE_LOADED);
    unuse(c, A, "doc", AFF_USE_HOLD);
    unuse(c, A, "doc", AFF_USE_HOLD);
    unuse(c, A, "doc", AFF_USE_LOADED);
    assert_string_equal(owner_of(c, "doc"), "");
    assert_in_range(only_renewals(c, A, 60), 14, 19);
    assert_string_equal(owner_of(c, "doc"), ""); /* no phantom has taken it */
    claim(c, B, 4, "doc", AFF_USE_HOLD);
    expect(c, B, "claim:4:ok");
    uint64_t epoch = epoch_of(c, "doc");
    assert_in_range(only_renewals(c, A, 60), 14, 19);
    only_renewals(c, A, 13 * 3600); /* records are refreshed after 12 hours: by B */
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_int_equal(epoch_of(c, "doc"), epoch);
    expect(c, A, "claim:1:ok claim:2:ok claim:3:ok");
    cluster_free(c);
}

static void h29_any_name_can_be_owned(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    const char *const names[] = {"constructor", "__proto__", "a:b{c} d", "\xc3\xa9\xe2\x82\xac",
                                 "*"};
    for (unsigned i = 0; i < 5; i++) {
        claim(c, A, i, names[i], AFF_USE_HOLD);
        assert_string_equal(owner_of(c, names[i]), "A");
    }
    assert_int_equal(stats_of(c, A).documents_owned, 5);
    char name[AFF_NAME_MAX + 1];
    memset(name, 'n', sizeof(name));
    aff_event event = {.type = AFF_EV_CLAIM, .request = 9, .document = {(uint8_t *)name, 0}};
    assert_int_equal(aff_step(c->servers[A].engine, c->now, &event), AFF_EINVAL);
    event.document.len = sizeof(name);
    assert_int_equal(aff_step(c->servers[A].engine, c->now, &event), AFF_EINVAL);
    forget_traces(c);
    event.document.len = AFF_NAME_MAX;
    tell(c, A, &event);
    expect(c, A, "claim:9:ok");
    cluster_free(c);
}

static void h37_leases_cost_nothing_while_nothing_happens(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    char name[16];
    for (unsigned i = 0; i < 200; i++) {
        snprintf(name, sizeof(name), "doc%u", i);
        claim(c, A, i, name, AFF_USE_HOLD);
    }
    unsigned before = c->commands_run;
    advance(c, 100000);
    assert_in_range(c->commands_run - before, 29, 31); /* renewals of the membership, only */
    cluster_free(c);
}

/* A slot of a Redis Cluster that nobody serves for a while. */
static void what_redis_refuses_is_asked_again_soon(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    c->refuses = true;
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    advance(c, 2000);
    expect(c, A, "");
    unsigned before = c->commands_run;
    c->refuses = false;
    advance(c, 500);
    expect(c, A, "claim:1:ok");
    assert_in_range(c->commands_run - before, 0, 8);
    cluster_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_redis_refuses_is_asked_again_soon),
        cmocka_unit_test(a_former_owner_that_redis_falls_back_to_gets_a_new_epoch),
        cmocka_unit_test(h06_a_claim_is_kept_from_the_moment_it_is_made),
        cmocka_unit_test(claims_of_one_document_by_two_servers_at_once_have_one_winner),
        cmocka_unit_test(many_claims_of_one_server_ask_redis_once),
        cmocka_unit_test(h02_a_lease_ends_with_the_last_of_its_uses),
        cmocka_unit_test(h02_a_released_hold_leaves_the_lease_to_connected_clients),
        cmocka_unit_test(h03_a_claim_after_a_release_is_decided_by_redis),
        cmocka_unit_test(h33_a_remembered_owner_is_asked_for_again_by_each_claim),
        cmocka_unit_test(h33_a_look_up_that_failed_is_made_again),
        cmocka_unit_test(h04_a_late_release_does_not_remove_the_successors_lease),
        cmocka_unit_test(h07_a_reload_while_the_release_is_under_way_claims_anew),
        cmocka_unit_test(h07_an_unload_ends_only_its_own_load),
        cmocka_unit_test(a_dead_servers_document_is_taken_over_when_its_membership_ends),
        cmocka_unit_test(a_restarted_servers_former_documents_are_free),
        cmocka_unit_test(of_two_that_take_over_one_wins),
        cmocka_unit_test(epochs_grow_across_a_release),
        cmocka_unit_test(epochs_grow_even_if_redis_loses_everything_and_its_clock_goes_back),
        cmocka_unit_test(a_claim_while_redis_is_down_waits_and_is_granted_when_it_is_back),
        cmocka_unit_test(a_claim_while_redis_is_down_fails_after_lock_ttl),
        cmocka_unit_test(a_claim_whose_answer_comes_too_late_keeps_nobody_out),
        cmocka_unit_test(a_claim_that_redis_refuses_is_asked_again),
        cmocka_unit_test(a_release_that_redis_never_got_does_not_lock_others_out),
        cmocka_unit_test(a_claim_whose_answer_was_lost_does_not_lock_others_out),
        cmocka_unit_test(a_record_of_a_former_boot_of_a_living_server_locks_nobody_out),
        cmocka_unit_test(an_epoch_that_was_seen_is_not_fallen_below),
        cmocka_unit_test(a_document_whose_record_is_lost_is_confirmed_above_all_epochs_seen),
        cmocka_unit_test(records_are_refreshed_at_half_of_their_day),
        cmocka_unit_test(a_record_that_vanished_is_noticed_by_its_refresh),
        cmocka_unit_test(a_record_that_names_another_is_noticed_by_its_refresh),
        cmocka_unit_test(a_refresh_under_way_when_the_boot_lapses_harms_nothing),
        cmocka_unit_test(h09_a_released_document_leaves_nothing_behind),
        cmocka_unit_test(a_record_that_can_not_be_read_counts_as_free),
        cmocka_unit_test(an_answer_that_is_not_ours_is_not_taken_for_a_lease),
        cmocka_unit_test(h29_any_name_can_be_owned),
        cmocka_unit_test(h37_leases_cost_nothing_while_nothing_happens),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
