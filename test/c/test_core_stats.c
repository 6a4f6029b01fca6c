/*
 * What is counted and measured (aff_stats), in the scenarios that each number is for.
 */
#include "cluster.h"

static uint64_t count_of(const aff_durations *durations) {
    uint64_t all = 0;
    for (int b = 0; b <= AFF_BUCKET_COUNT; b++) all += durations->counts[b];
    return all;
}

/* "doc" is owned by A, and client 1 at B has it open. */
static cluster *two(void) {
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    join(c, 1, B, "doc", "4.8.0");
    advance(c, 2000);
    return c;
}

/* No other cause, and as many as the counter of all says. */
static void expect_takeover(cluster *c, int at, aff_takeover cause) {
    aff_stats stats = stats_of(c, at);
    for (int t = 0; t < AFF_TAKEOVER_COUNT; t++) {
        assert_int_equal(stats.takeovers_by[t], t == (int)cause);
    }
    assert_int_equal(stats.takeovers, 1);
}

static void a_duration_is_in_the_first_bucket_that_holds_it(void **state) {
    (void)state;
    aff_durations d = {.sum_ms = 0};
    for (int b = 1; b < AFF_BUCKET_COUNT; b++) {
        assert_true(aff_bucket_ms[b] > aff_bucket_ms[b - 1]);
    }
    uint32_t last = aff_bucket_ms[AFF_BUCKET_COUNT - 1];
    aff__count_duration(&d, 0);
    aff__count_duration(&d, aff_bucket_ms[0]);
    aff__count_duration(&d, aff_bucket_ms[0] + 1);
    aff__count_duration(&d, last);
    aff__count_duration(&d, last + 1);
    assert_int_equal(d.counts[0], 2);
    assert_int_equal(d.counts[1], 1);
    assert_int_equal(d.counts[AFF_BUCKET_COUNT - 1], 1);
    assert_int_equal(d.counts[AFF_BUCKET_COUNT], 1);
    assert_int_equal(d.sum_ms, 2ull * aff_bucket_ms[0] + 1 + 2ull * last + 1);
}

static void a_killed_owner_is_taken_over_by_evidence_and_the_time_is_measured(void **state) {
    (void)state;
    cluster *c = two();
    kill_server(c, A);
    type(c, 1, "doc", 1);
    advance(c, 999);
    assert_string_equal(owner_of(c, "doc"), "B");
    expect_takeover(c, B, AFF_TAKEOVER_EVIDENCE);
    aff_stats stats = stats_of(c, B);
    assert_int_equal(stats.failovers, 1);
    assert_int_equal(count_of(&stats.failover_times), 1);
    assert_true(stats.failover_times.sum_ms < 999);
    cluster_free(c);
}

/* Nobody depends on it, so nobody looks for evidence. */
static void a_membership_that_ends_is_another_cause(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    kill_server(c, A);
    advance(c, 11000);
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    advance(c, AFF_ABSENT_MS + 50);
    expect_takeover(c, B, AFF_TAKEOVER_ENDED);
    cluster_free(c);
}

static void so_is_a_restart(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    kill_server(c, A);
    start(c, A);
    advance(c, 1000); /* the probe */
    claim(c, B, 2, "doc", AFF_USE_HOLD);
    expect_takeover(c, B, AFF_TAKEOVER_RESTARTED);
    cluster_free(c);
}

static void so_is_an_owner_that_has_said_goodbye(void **state) {
    (void)state;
    cluster *c = two();
    claim(c, A, 2, "doc", AFF_USE_LOADED); /* what is loaded keeps its record */
    tell(c, A, &(aff_event){.type = AFF_EV_SHUTDOWN});
    advance(c, 1000);
    assert_string_equal(owner_of(c, "doc"), "B");
    expect_takeover(c, B, AFF_TAKEOVER_LEFT);
    cluster_free(c);
}

static void an_own_document_under_a_new_epoch_is_no_takeover(void **state) {
    (void)state;
    cluster *c = two();
    redis_del(c, aff__str("rsaLock:doc"));
    confirm(c, A, 7, "doc");
    assert_int_equal(stats_of(c, A).reclaims_by[AFF_RECLAIM_RECORD], 1);
    redis_del(c, aff__str("rsaServer:A"));
    advance(c, 4000); /* its next renewal shows it */
    assert_string_equal(owner_of(c, "doc"), "A");
    aff_stats stats = stats_of(c, A);
    assert_int_equal(stats.lapses, 1);
    assert_int_equal(stats.reclaims_by[AFF_RECLAIM_RECORD], 1);
    assert_int_equal(stats.reclaims_by[AFF_RECLAIM_LAPSE], 1);
    assert_int_equal(stats.takeovers + stats.losses, 0);
    cluster_free(c);
}

static void a_hung_owner_loses_its_document(void **state) {
    (void)state;
    cluster *c = two();
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = true});
    assert_true(stats_of(c, A).stalled);
    advance(c, 12000);
    assert_string_equal(owner_of(c, "doc"), "B");
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = false});
    advance(c, 2000);
    aff_stats stats = stats_of(c, A);
    assert_false(stats.stalled);
    assert_int_equal(stats.stalls, 1);
    assert_int_equal(stats.lapses, 1);
    assert_int_equal(stats.losses, 1);
    cluster_free(c);
}

static void renewals_are_measured_from_when_they_were_due(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    advance(c, 10000); /* every third of the lockTTL */
    aff_stats stats = stats_of(c, A);
    uint64_t made = count_of(&stats.renewals);
    assert_true(made >= 2);
    assert_int_equal(stats.renewals.sum_ms, 0);
    assert_true(stats.redis_up);
    cut(c, A);
    assert_false(stats_of(c, A).redis_up);
    advance(c, 5000); /* one falls due, and waits */
    connect_redis(c, A);
    advance(c, 100);
    stats = stats_of(c, A);
    assert_int_equal(stats.lapses, 0);
    assert_int_equal(count_of(&stats.renewals), made + 1);
    assert_in_range(stats.renewals.sum_ms, 5000 - 10000 / 3, 5000);
    assert_int_equal(stats.disconnects, 2); /* for commands, and to listen */
    cluster_free(c);
}

/* Frames under an older epoch are told apart from those of what has ended. */
static void what_is_dropped_is_counted_by_why(void **state) {
    (void)state;
    cluster *c = two();
    aff_engine *b = c->servers[B].engine;
    aff__item *item = aff__map_next(&b->routes, NULL);
    assert_non_null(item);
    AFF_OF(item, aff__route, item)->epoch--;
    broadcast(c, A, "doc", "late", 1, (uint32_t[]){1});
    assert_int_equal(stats_of(c, B).stale_by[AFF_STALE_EPOCH], 1);
    AFF_OF(item, aff__route, item)->epoch++;
    aff_stats stats = stats_of(c, B);
    uint64_t sum = 0;
    for (int s = 0; s < AFF_STALE_COUNT; s++) sum += stats.stale_by[s];
    assert_int_equal(sum, 1);
    assert_int_equal(stats.stale, 1);
    cluster_free(c);
}

/* The owner lets the document go before it reads the event: the emitter looks again. */
static void an_event_that_is_refused_is_told_apart(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    c->servers[A].deaf = true;
    send_emit(c, B, 7, "doc", "x", false);
    settle(c); /* the event is on its way */
    input *unuse_first = calloc(1, sizeof(*unuse_first));
    assert_non_null(unuse_first);
    unuse_first->event = (aff_event){.type = AFF_EV_UNUSE, .use = AFF_USE_HOLD};
    unuse_first->event.document = own(aff__str("doc"));
    unuse_first->next = c->servers[A].inbox.first;
    c->servers[A].inbox.first = unuse_first;
    c->servers[A].deaf = false;
    settle(c);
    expect(c, B, "here:7");
    aff_stats stats = stats_of(c, A);
    assert_int_equal(stats.refused, 1);
    assert_int_equal(stats.refused_events, 1);
    cluster_free(c);
}

static void what_is_not_acknowledged_is_kept_and_told(void **state) {
    (void)state;
    cluster *c = two();
    assert_int_equal(stats_of(c, B).unacknowledged, 0);
    c->servers[A].deaf = true;
    type(c, 1, "doc", 1);
    settle(c);
    assert_true(stats_of(c, B).unacknowledged > 0);
    c->servers[A].deaf = false;
    advance(c, 2000);
    assert_int_equal(stats_of(c, B).unacknowledged, 0);
    cluster_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_duration_is_in_the_first_bucket_that_holds_it),
        cmocka_unit_test(a_killed_owner_is_taken_over_by_evidence_and_the_time_is_measured),
        cmocka_unit_test(a_membership_that_ends_is_another_cause),
        cmocka_unit_test(so_is_a_restart),
        cmocka_unit_test(so_is_an_owner_that_has_said_goodbye),
        cmocka_unit_test(an_own_document_under_a_new_epoch_is_no_takeover),
        cmocka_unit_test(a_hung_owner_loses_its_document),
        cmocka_unit_test(renewals_are_measured_from_when_they_were_due),
        cmocka_unit_test(what_is_dropped_is_counted_by_why),
        cmocka_unit_test(an_event_that_is_refused_is_told_apart),
        cmocka_unit_test(what_is_not_acknowledged_is_kept_and_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
