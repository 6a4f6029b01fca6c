/*
 * Direct links: batches go from server to server where there is a connection, and through Redis
 * where there is none, or none any more. Nothing is lost on the way from one to the other.
 */
#include "cluster.h"

/* "doc" is owned by A, client 1 types at A, client 2 at B; the links of both directions are used.
 */
static cluster *linked(void) {
    cluster *c = cluster_new();
    for (int i = 0; i < 2; i++) c->servers[i].config.direct_address = c->servers[i].name;
    return start_all(c, 2);
}

static void open_both(cluster *c) {
    join(c, 1, A, "doc", "4.8.0");
    join(c, 2, B, "doc", "4.8.0");
    type(c, 1, "doc", 0);
    type(c, 2, "doc", 1);
    advance(c, 2000);
}

static cluster *typed_over_links(void) {
    cluster *c = linked();
    open_both(c);
    assert_int_equal(stats_of(c, A).links, 1);
    assert_int_equal(stats_of(c, B).links, 1);
    return c;
}

static void expect_all(cluster *c, uint64_t edits) {
    for (uint32_t k = 1; k <= 2; k++) {
        const provider *p = provider_of(c, k, "doc");
        assert_true(c->clients[k].open);
        assert_false(p->ended);
        assert_int_equal(p->edits, edits);
        assert_int_equal(p->unsynced, 0);
    }
}

static void batches_take_the_direct_link_and_redis_is_idle(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    size_t through_redis = c->batches;
    for (unsigned n = 2; n < 20; n++) {
        type(c, 1 + n % 2, "doc", n);
        advance(c, 50);
    }
    advance(c, 5000);
    expect_all(c, 0xfffff);
    assert_int_equal(c->batches, through_redis);
    assert_int_equal(stats_of(c, A).gaps + stats_of(c, B).gaps, 0);
    assert_true(stats_of(c, B).batches_direct > 9);
    cluster_free(c);
}

static void what_redis_carries_is_not_overtaken(void **state) {
    (void)state;
    cluster *c = linked();
    c->no_links = true;
    open_both(c);
    assert_int_equal(stats_of(c, B).links, 0);
    c->no_links = false;
    for (unsigned n = 2; n < 60; n++) { /* always something that is not acknowledged */
        type(c, 2, "doc", n);
        advance(c, 60);
    }
    advance(c, 1000);
    assert_int_equal(stats_of(c, B).links, 1);
    assert_int_equal(stats_of(c, A).gaps + stats_of(c, B).gaps, 0);
    expect_all(c, 0xfffffffffffffff);
    cluster_free(c);
}

static void without_a_direct_link_everything_goes_through_redis(void **state) {
    (void)state;
    cluster *c = linked();
    c->no_links = true;
    open_both(c);
    expect_all(c, 3);
    unsigned soon = c->dials;
    assert_true(soon >= 4); /* two directions: at once, after 0.5 s, after 1 s more */
    advance(c, 300000);
    assert_in_range(c->dials - soon, 18, 26); /* each half a minute */
    assert_int_equal(c->direct_batches, 0);
    c->no_links = false;
    advance(c, 31000);
    type(c, 2, "doc", 2);
    advance(c, 1000);
    assert_int_equal(stats_of(c, B).links, 1);
    expect_all(c, 7);
    cluster_free(c);
}

static void a_server_that_has_no_link_is_not_dialled(void **state) {
    (void)state;
    cluster *c = cluster_new();
    c->servers[A].config.direct_address = "A";
    start_all(c, 2);
    open_both(c);
    advance(c, 60000);
    expect_all(c, 3);
    assert_int_equal(c->dials, 0);
    cluster_free(c);
}

/* Redis says that it is A's, which is leaving, takes nothing any more, and can't tell Redis so. */
static void who_refuses_what_redis_says_it_owns_is_asked_now_and_then(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    char record[64];
    snprintf(record, sizeof(record), "1800000000000000 %s A", aff_boot(c->servers[A].engine));
    redis_set(c, aff__str("rsaLock:other"), aff__str(record), 86400000);
    c->servers[A].mute = true;
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    join(c, 2, B, "other", "4.8.0");
    advance(c, 1000);
    assert_in_range(stats_of(c, A).refused, 20, 40);
    c->servers[A].mute = false;
    advance(c, 2000);
    assert_string_equal(owner_of(c, "other"), "B");
    type(c, 2, "other", 5);
    advance(c, 1000);
    assert_int_equal(provider_of(c, 2, "other")->unsynced, 0);
    cluster_free(c);
}

static void a_direct_link_that_breaks_loses_nothing(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    c->silent_links = true; /* under way as it breaks */
    type(c, 2, "doc", 2);
    type(c, 2, "doc", 3);
    settle(c);
    assert_int_equal(content_of(&c->servers[A], "doc")->edits, 3);
    link_break(c, B, A);
    settle(c);
    assert_int_equal(content_of(&c->servers[A], "doc")->edits, 15);
    c->silent_links = false;
    advance(c, 1000);
    type(c, 2, "doc", 4);
    advance(c, 1000);
    assert_int_equal(stats_of(c, B).links, 1); /* dialled again */
    expect_all(c, 31);
    assert_int_equal(stats_of(c, A).resets + stats_of(c, B).resets, 0);
    cluster_free(c);
}

static void a_direct_link_that_carries_nothing_is_given_up_after_a_second(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    c->silent_links = true;
    c->no_links = true;
    for (unsigned n = 2; n < 12; n++) {
        type(c, 2, "doc", n);
        advance(c, 99);
    }
    assert_int_equal(content_of(&c->servers[A], "doc")->edits, 3);
    advance(c, 1200); /* the other direction notices when it has something to say */
    expect_all(c, 0xfff);
    assert_int_equal(stats_of(c, B).links, 0);
    cluster_free(c);
}

static void what_can_be_dialled_and_carries_nothing_is_tried_ever_less_often(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    c->silent_links = true;
    unsigned before = c->dials;
    for (unsigned n = 0; n < 240; n++) {
        type(c, 1 + n % 2, "doc", 2 + n / 5);
        advance(c, 500);
    }
    assert_in_range(c->dials - before, 8, 20); /* two directions, 120 s */
    c->silent_links = false;
    advance(c, 3000);
    expect_all(c, 0x3ffffffffffff);
    cluster_free(c);
}

/* B has nothing to say but that it has received what it has: that must arrive all the same. */
static void a_direct_link_that_carries_no_acknowledgements_is_given_up(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    c->silent_from[B] = c->no_links = true;
    for (unsigned n = 2; n < 42; n++) {
        type(c, 1, "doc", n);
        advance(c, 100);
    }
    assert_int_equal(stats_of(c, B).links, 0);
    c->no_links = false;
    c->silent_from[B] = false;
    advance(c, 31000);
    type(c, 1, "doc", 42);
    type(c, 2, "doc", 43);
    advance(c, 2000);
    assert_int_equal(stats_of(c, A).links + stats_of(c, B).links, 2);
    expect_all(c, 0xfffffffffff);
    cluster_free(c);
}

static void who_is_no_member_any_more_sends_nothing_directly(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    c->servers[B].mute = true; /* Redis does not answer it, and the connection stands */
    advance(c, 10000);
    uint64_t before = stats_of(c, B).batches_direct;
    type(c, 2, "doc", 2);
    advance(c, 2000);
    assert_int_equal(stats_of(c, B).batches_direct, before);
    c->servers[B].mute = false;
    advance(c, 3000);
    expect_all(c, 7);
    cluster_free(c);
}

static void h11_the_owner_at_the_other_end_of_a_direct_link_is_killed(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    kill_server(c, A);
    type(c, 2, "doc", 2);
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "B");
    const provider *p = provider_of(c, 2, "doc");
    assert_int_equal(p->edits, 7);
    assert_int_equal(p->unsynced, 0);
    start(c, A); /* another process at the same address */
    join(c, 3, A, "doc", "4.8.0");
    advance(c, 3000);
    assert_int_equal(stats_of(c, A).links, 1);
    assert_int_equal(provider_of(c, 3, "doc")->edits, 7);
    cluster_free(c);
}

static void h12_a_farewell_takes_the_direct_link_and_leases_are_free_before_it(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    size_t through_redis = c->batches;
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    hand_off(c, A, 7, "doc");
    settle(c);
    unload(&c->servers[A], "doc");
    tell(c, A, &(aff_event){.type = AFF_EV_SHUTDOWN});
    close_socket(c, 1);
    assert_int_equal(c->batches, through_redis);
    type(c, 2, "doc", 2);
    advance(c, 500);
    assert_string_equal(owner_of(c, "doc"), "B");
    assert_int_equal(stats_of(c, B).peers, 0);
    assert_int_equal(provider_of(c, 2, "doc")->unsynced, 0);
    cluster_free(c);
}

static void without_redis_nothing_takes_the_direct_link_either(void **state) {
    (void)state;
    cluster *c = typed_over_links();
    cut(c, B);
    uint64_t before = stats_of(c, B).batches_direct;
    type(c, 2, "doc", 2);
    advance(c, 3000);
    assert_int_equal(stats_of(c, B).batches_direct, before);
    connect_redis(c, B);
    advance(c, 1000);
    expect_all(c, 7);
    cluster_free(c);
}

static void bad_addresses_are_refused(void **state) {
    (void)state;
    char address[AFF_ADDRESS_MAX + 2];
    memset(address, 'a', sizeof(address));
    address[sizeof(address) - 1] = '\0';
    aff_config config = {.server_id = "A",
                         .prefix = "rsa",
                         .lock_ttl_ms = 10000,
                         .proxy_socket_ttl_ms = 30000,
                         .event_ttl_ms = 5000,
                         .direct_address = ""};
    aff_engine *e = NULL;
    assert_int_equal(aff_new(&config, &e), AFF_EINVAL);
    config.direct_address = address;
    assert_int_equal(aff_new(&config, &e), AFF_EINVAL);
    address[AFF_ADDRESS_MAX] = '\0';
    assert_int_equal(aff_new(&config, &e), 0);
    aff_free(e);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(batches_take_the_direct_link_and_redis_is_idle),
        cmocka_unit_test(what_redis_carries_is_not_overtaken),
        cmocka_unit_test(without_a_direct_link_everything_goes_through_redis),
        cmocka_unit_test(a_server_that_has_no_link_is_not_dialled),
        cmocka_unit_test(who_refuses_what_redis_says_it_owns_is_asked_now_and_then),
        cmocka_unit_test(a_direct_link_that_breaks_loses_nothing),
        cmocka_unit_test(a_direct_link_that_carries_nothing_is_given_up_after_a_second),
        cmocka_unit_test(what_can_be_dialled_and_carries_nothing_is_tried_ever_less_often),
        cmocka_unit_test(a_direct_link_that_carries_no_acknowledgements_is_given_up),
        cmocka_unit_test(who_is_no_member_any_more_sends_nothing_directly),
        cmocka_unit_test(h11_the_owner_at_the_other_end_of_a_direct_link_is_killed),
        cmocka_unit_test(h12_a_farewell_takes_the_direct_link_and_leases_are_free_before_it),
        cmocka_unit_test(without_redis_nothing_takes_the_direct_link_either),
        cmocka_unit_test(bad_addresses_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
