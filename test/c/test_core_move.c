/* Documents that their owner gives to another server. */
#include "cluster.h"

static const char *const NEW = "4.8.0";

static void give(cluster *c, int from, uint64_t request, const char *name, int to) {
    post(&c->servers[from], &(aff_event){.type = AFF_EV_LEAVE,
                                         .request = request,
                                         .document = aff__str(name),
                                         .name = aff__str(c->servers[to].name),
                                         .data = aff__str(aff_boot(c->servers[to].engine))});
}

/* "doc" is owned by A; client 1 at A, 2 at B and 3 at C have it open. */
static cluster *three(void) {
    cluster *c = cluster_of(3);
    claim(c, A, 1, "doc", AFF_USE_LOADED);
    for (uint32_t k = 1; k <= 3; k++) {
        join(c, k, (int)k - 1, "doc", NEW);
        type(c, k, "doc", k);
    }
    advance(c, 2000);
    forget_traces(c);
    return c;
}

static void expect_synced(cluster *c, uint64_t edits) {
    for (uint32_t k = 1; k <= 3; k++) {
        const provider *p = provider_of(c, k, "doc");
        assert_true(c->clients[k].open);
        assert_int_equal(p->edits, edits);
        assert_int_equal(p->unsynced, 0);
    }
}

static void who_is_given_a_document_has_it(void **state) {
    (void)state;
    cluster *c = three();
    uint64_t epoch = epoch_of(c, "doc");
    for (uint32_t k = 1; k <= 3; k++) type(c, k, "doc", 10 + k);
    give(c, A, 7, "doc", C);
    settle(c);
    assert_non_null(strstr(c->servers[A].trace, "claim:7:ok"));
    unload(&c->servers[A], "doc");
    assert_string_equal(owner_of(c, "doc"), "C");
    assert_true(epoch_of(c, "doc") > epoch);
    for (uint32_t k = 1; k <= 3; k++) type(c, k, "doc", 20 + k);
    advance(c, 500);
    expect_synced(c, 14 | 14 << 10 | 14 << 20);
    for (uint32_t k = 1; k <= 3; k++) assert_int_equal(provider_of(c, k, "doc")->tokens, 1);
    advance(c, 5000);
    assert_string_equal(owner_of(c, "doc"), "C");
    cluster_free(c);
}

/* Nobody has it open: an event is the first that the new owner hears of it. */
static void an_event_comes_to_who_was_given_the_document(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    claim(c, A, 1, "doc", AFF_USE_LOADED);
    give(c, A, 7, "doc", C);
    settle(c);
    forget_traces(c);
    send_emit(c, A, 8, "doc", "state", true);
    advance(c, 200);
    assert_non_null(strstr(c->servers[C].trace, "doc:state"));
    assert_string_equal(owner_of(c, "doc"), "C");
    cluster_free(c);
}

/* A has given "doc" to B, which client 1 has told of it. */
static cluster *given_to_b(int servers) {
    cluster *c = cluster_of(servers);
    claim(c, A, 1, "doc", AFF_USE_LOADED);
    give(c, A, 7, "doc", B);
    settle(c);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    return c;
}

static void what_nobody_wants_is_not_kept_for_long(void **state) {
    (void)state;
    cluster *c = given_to_b(2);
    assert_string_equal(owner_of(c, "doc"), "B");
    close_socket(c, 1);
    advance(c, 800);
    assert_string_equal(owner_of(c, "doc"), "B");
    advance(c, 400);
    assert_string_equal(owner_of(c, "doc"), "");
    assert_int_equal(stats_of(c, B).documents, 0);
    cluster_free(c);
}

/* B has been given "doc", and nobody has it open; then its record is raised (Redis's own came
 * back). */
static cluster *given_and_raised(void) {
    cluster *c = given_to_b(3);
    close_socket(c, 1);
    settle(c);
    assert_int_equal(stats_of(c, B).documents, 1);
    char record[128];
    int len = snprintf(record, sizeof(record), "%llu %s B",
                       (unsigned long long)epoch_of(c, "doc") + 5, aff_boot(c->servers[B].engine));
    redis_set(c, aff__str("rsaLock:doc"), aff__slice(record, (size_t)len), 60000);
    forget_traces(c);
    return c;
}

static void what_was_given_and_raised_is_offered(void **state) {
    (void)state;
    cluster *c = given_and_raised();
    uint64_t epoch = epoch_of(c, "doc");
    join(c, 3, C, "doc", NEW);
    type(c, 3, "doc", 3);
    advance(c, 500);
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_true(epoch_of(c, "doc") >= epoch);
    assert_int_equal(provider_of(c, 3, "doc")->unsynced, 0);
    assert_int_equal(provider_of(c, 3, "doc")->edits, 1 << 3);
    cluster_free(c);
}

static void what_was_given_and_raised_is_sent_an_event(void **state) {
    (void)state;
    cluster *c = given_and_raised();
    send_emit(c, C, 8, "doc", "state", true);
    advance(c, 500);
    assert_non_null(strstr(c->servers[B].trace, "doc:state"));
    assert_string_equal(owner_of(c, "doc"), "B");
    cluster_free(c);
}

static void who_drains_takes_nothing(void **state) {
    (void)state;
    cluster *c = three();
    close_socket(c, 3);
    tell(c, C, &(aff_event){.type = AFF_EV_DRAIN});
    give(c, A, 7, "doc", C);
    settle(c);
    advance(c, 1000);
    assert_string_not_equal(owner_of(c, "doc"), "C");
    assert_string_not_equal(owner_of(c, "doc"), "");
    type(c, 1, "doc", 20);
    advance(c, 100);
    assert_int_equal(provider_of(c, 2, "doc")->edits, 14 | 1 << 20);
    cluster_free(c);
}

static void who_is_dead_is_taken_over(void **state) {
    (void)state;
    cluster *c = three();
    give(c, A, 7, "doc", C);
    kill_server(c, C);
    c->clients[3].open = false;
    settle(c);
    unload(&c->servers[A], "doc");
    advance(c, 3000);
    assert_string_not_equal(owner_of(c, "doc"), "C");
    type(c, 1, "doc", 20);
    advance(c, 100);
    assert_int_equal(provider_of(c, 2, "doc")->edits, 14 | 1 << 20);
    cluster_free(c);
}

/* Seed 108424: what the owner said while it waited for Redis was dropped. */
static void where_redis_refuses_all_goes_on(void **state) {
    (void)state;
    cluster *c = three();
    c->servers[A].mute = true;
    give(c, A, 7, "doc", C);
    for (uint32_t k = 1; k <= 3; k++) type(c, k, "doc", 10 + k);
    settle(c);
    c->refuses = true;
    c->servers[A].mute = false;
    settle(c);
    assert_non_null(strstr(c->servers[A].trace, "claim:7:AFF_EREDIS"));
    c->refuses = false;
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "A");
    expect_synced(c, 14 | 14 << 10);
    for (uint32_t k = 1; k <= 3; k++) assert_int_equal(provider_of(c, k, "doc")->tokens, 0);
    cluster_free(c);
}

/* It was, but the answer is lost: the claim that follows finds the next owner. */
static void where_the_answer_is_lost_the_next_claim_tells(void **state) {
    (void)state;
    cluster *c = three();
    give(c, A, 7, "doc", C);
    turn(c, &c->servers[A]);
    const char *boot = aff_boot(c->servers[C].engine);
    char record[80];
    snprintf(record, sizeof(record), "1800000000000000 %s C", boot);
    redis_set(c, aff__str("rsaLock:doc"), aff__str(record), 86400000);
    c->refuses = true;
    settle(c);
    c->refuses = false;
    advance(c, 1000);
    assert_non_null(strstr(c->servers[A].trace, "lost:doc"));
    assert_string_equal(owner_of(c, "doc"), "C");
    expect_synced(c, 14);
    cluster_free(c);
}

static void what_is_lost_already_can_not_be_given(void **state) {
    (void)state;
    cluster *c = three();
    char record[80];
    snprintf(record, sizeof(record), "1800000000000000 %s B", aff_boot(c->servers[B].engine));
    redis_set(c, aff__str("rsaLock:doc"), aff__str(record), 86400000);
    give(c, A, 7, "doc", C);
    advance(c, 1000);
    assert_non_null(strstr(c->servers[A].trace, "claim:7:owned:"));
    assert_string_equal(owner_of(c, "doc"), "B");
    expect_synced(c, 14);
    cluster_free(c);
}

static void a_boot_that_is_none_is_refused(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    aff_event leave = {.type = AFF_EV_LEAVE, .request = 1, .document = aff__str("doc")};
    leave.name = aff__str("B");
    leave.data = aff__str("abc");
    assert_int_equal(aff_step(c->servers[A].engine, c->now, &leave), AFF_EINVAL);
    leave.name = aff__none();
    leave.data = aff__str("0123456789abcdef");
    assert_int_equal(aff_step(c->servers[A].engine, c->now, &leave), AFF_EINVAL);
    cluster_free(c);
}

/* ---- Placement ---------------------------------------------------------------------------------
 */

/* At A the app places all that nobody has at C. */
static cluster *placing(void) {
    cluster *c = cluster_new();
    c->servers[A].config.places = true;
    c->servers[A].places_at = C;
    for (int i = A; i <= C; i++) start(c, i);
    return c;
}

static void what_nobody_has_goes_where_the_app_says(void **state) {
    (void)state;
    cluster *c = placing();
    join(c, 1, A, "doc", NEW);
    type(c, 1, "doc", 1);
    advance(c, 100);
    assert_string_equal(owner_of(c, "doc"), "C");
    assert_int_equal(provider_of(c, 1, "doc")->unsynced, 0);
    assert_int_equal(provider_of(c, 1, "doc")->tokens, 0);
    assert_non_null(strstr(c->servers[A].trace, "place:doc"));
    join(c, 2, B, "doc", NEW); /* it is open: nobody is asked */
    advance(c, 3000);
    assert_string_equal(owner_of(c, "doc"), "C");
    assert_int_equal(provider_of(c, 2, "doc")->edits, 2);
    close_socket(c, 1);
    close_socket(c, 2);
    advance(c, 2000);
    assert_string_equal(owner_of(c, "doc"), "");
    cluster_free(c);
}

static void what_somebody_has_is_not_placed(void **state) {
    (void)state;
    cluster *c = placing();
    claim(c, B, 1, "doc", AFF_USE_HOLD);
    claim(c, A, 2, "own", AFF_USE_LOADED); /* the app counts on it */
    forget_traces(c);
    open_client(c, 1, A);
    auth(c, 1, "doc");
    auth(c, 1, "own");
    assert_null(strstr(c->servers[A].trace, "place:"));
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_string_equal(owner_of(c, "own"), "A");
    cluster_free(c);
}

static void who_drains_is_given_nothing_by_placement(void **state) {
    (void)state;
    cluster *c = placing();
    tell(c, C, &(aff_event){.type = AFF_EV_DRAIN});
    join(c, 1, A, "doc", NEW);
    advance(c, 500);
    assert_string_equal(owner_of(c, "doc"), "A");
    assert_int_equal(provider_of(c, 1, "doc")->unsynced, 0);
    cluster_free(c);
}

static void who_dies_as_it_is_chosen_is_taken_over(void **state) {
    (void)state;
    cluster *c = placing();
    c->servers[A].mute = true; /* the claim in C's name is on its way */
    join(c, 1, A, "doc", NEW);
    kill_server(c, C);
    c->servers[A].mute = false;
    advance(c, 3000);
    assert_string_equal(owner_of(c, "doc"), "A");
    assert_int_equal(provider_of(c, 1, "doc")->unsynced, 0);
    cluster_free(c);
}

static void what_fails_over_goes_to_who_has_its_clients(void **state) {
    (void)state;
    cluster *c = placing();
    join(c, 1, A, "doc", NEW);
    assert_string_equal(owner_of(c, "doc"), "C");
    c->servers[A].places_at = B;
    kill_server(c, C);
    advance(c, 3000);
    assert_string_equal(owner_of(c, "doc"), "A");
    cluster_free(c);
}

/* Nobody else has a client for it, and a server that drains claims nothing. */
static void a_server_that_drains_places_what_its_clients_open(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    join(c, 1, A, "doc", NEW); /* its app knows of nobody */
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "");
    c->servers[A].places_at = B;
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_int_equal(provider_of(c, 1, "doc")->unsynced, 0);
    cluster_free(c);
}

static void whoever_leaves_while_the_app_chooses_is_gone(void **state) {
    (void)state;
    cluster *c = placing();
    open_client(c, 1, A);
    send_auth(c, 1, "doc", "token");
    settle_some(c, 1);
    close_socket(c, 1);
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "");
    tell(c, A, &(aff_event){.type = AFF_EV_PLACE, .document = aff__str("doc")});
    assert_int_equal(stats_of(c, A).documents, 0);
    cluster_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_is_given_a_document_has_it),
        cmocka_unit_test(an_event_comes_to_who_was_given_the_document),
        cmocka_unit_test(what_nobody_wants_is_not_kept_for_long),
        cmocka_unit_test(what_was_given_and_raised_is_offered),
        cmocka_unit_test(what_was_given_and_raised_is_sent_an_event),
        cmocka_unit_test(who_drains_takes_nothing),
        cmocka_unit_test(who_is_dead_is_taken_over),
        cmocka_unit_test(where_redis_refuses_all_goes_on),
        cmocka_unit_test(where_the_answer_is_lost_the_next_claim_tells),
        cmocka_unit_test(what_is_lost_already_can_not_be_given),
        cmocka_unit_test(a_boot_that_is_none_is_refused),
        cmocka_unit_test(what_nobody_has_goes_where_the_app_says),
        cmocka_unit_test(what_somebody_has_is_not_placed),
        cmocka_unit_test(who_drains_is_given_nothing_by_placement),
        cmocka_unit_test(who_dies_as_it_is_chosen_is_taken_over),
        cmocka_unit_test(what_fails_over_goes_to_who_has_its_clients),
        cmocka_unit_test(a_server_that_drains_places_what_its_clients_open),
        cmocka_unit_test(whoever_leaves_while_the_app_chooses_is_gone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
