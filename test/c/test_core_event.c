/* Custom events: run by the owner of their document, whoever emits them. */
#include "cluster.h"

static void answer_event(cluster *c, int i, uint64_t token, int status, const char *data) {
    tell(c, i,
         &(aff_event){.type = AFF_EV_EVENT_RESULT,
                      .request = token,
                      .status = status,
                      .data = aff__str(data)});
}

/* The token of the event that a server has been told to run: "run:<token>:...". */
static uint64_t token_at(cluster *c, int i) {
    const char *run = strstr(c->servers[i].trace, "run:");
    assert_non_null(run);
    uint64_t token = strtoull(run + 4, NULL, 10);
    const char *rest = strchr(run + 4, ':');
    memmove((char *)(uintptr_t)run + 3, rest, strlen(rest) + 1); /* its number is of no interest */
    return token;
}

static void an_event_for_a_document_of_nobody_is_run_here(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    emit(c, A, 7, "doc", "data");
    expect(c, A, "here:7");
    assert_string_equal(owner_of(c, "doc"), "A"); /* while it runs */
    unuse(c, A, "doc", AFF_USE_EVENT);
    assert_string_equal(owner_of(c, "doc"), "");
    cluster_free(c);
}

static void an_event_is_run_by_the_owner_and_its_result_comes_back(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    emit(c, B, 7, "doc", "question");
    uint64_t token = token_at(c, A);
    expect(c, A, "run:ping:doc:question");
    unuse(c, A, "doc", AFF_USE_HOLD);
    assert_string_equal(owner_of(c, "doc"), "A"); /* the running handler is a use */
    answer_event(c, A, token, 0, "answer");
    expect(c, B, "done:7:ok:answer");
    assert_string_equal(owner_of(c, "doc"), "");
    assert_int_equal(stats_of(c, B).documents, 0);
    cluster_free(c);
}

static void h24_a_failing_handler_answers_with_its_error(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    emit(c, B, 7, "doc", "x");
    answer_event(c, A, token_at(c, A), AFF_EEVENT, "no handler");
    expect(c, B, "done:7:AFF_EEVENT:no handler");
    cluster_free(c);
}

static void an_event_without_an_answer_times_out(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    emit(c, B, 7, "doc", "x");
    uint64_t token = token_at(c, A);
    advance(c, 4999);
    expect(c, B, "");
    advance(c, 1);
    expect(c, B, "done:7:AFF_ETIMEOUT");
    answer_event(c, A, token, 0, "too late");
    expect(c, B, "");
    assert_int_equal(stats_of(c, B).stale, 1);
    cluster_free(c);
}

static void an_event_while_redis_is_down_waits_and_times_out(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    cut(c, A);
    emit(c, A, 7, "doc", "x");
    advance(c, 4999);
    expect(c, A, "");
    advance(c, 1);
    expect(c, A, "done:7:AFF_ETIMEOUT");
    emit(c, A, 8, "doc", "x");
    connect_redis(c, A);
    expect(c, A, "");
    advance(c, 700); /* those who owned it before Redis went away come first */
    expect(c, A, "here:8");
    cluster_free(c);
}

static void a_refused_event_goes_to_the_next_owner(void **state) {
    (void)state;
    cluster *c = cluster_of(3);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    c->servers[A].deaf = true;
    emit(c, B, 7, "doc", "x"); /* on its way to A, which lets the document go */
    input *event = take(&c->servers[A]);
    assert_int_equal(event->event.type, AFF_EV_MESSAGE);
    c->servers[A].deaf = false;
    unuse(c, A, "doc", AFF_USE_HOLD);
    claim(c, C, 2, "doc", AFF_USE_HOLD);
    forget_traces(c);
    tell(c, A, &event->event);
    input_free(event);
    answer_event(c, C, token_at(c, C), 0, "from C");
    expect(c, A, "");
    expect(c, B, "done:7:ok:from C");
    expect(c, C, "run:ping:doc:x");
    cluster_free(c);
}

static void h24_an_event_of_a_dead_owner_is_run_by_the_next(void **state) {
    (void)state;
    cluster *c = cluster_new();
    for (int i = 0; i < 3; i++) {
        c->servers[i].config.event_ttl_ms = 30000;
        start(c, i);
    }
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    emit(c, B, 7, "doc", "x");
    kill_server(c, A); /* in the middle of the handler */
    advance(c, 11000);
    expect(c, B, "here:7");
    assert_string_equal(owner_of(c, "doc"), "B");
    cluster_free(c);
}

static void an_event_that_was_lost_on_the_way_is_sent_again(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    lose(c, B, A, 1);
    emit(c, B, 7, "doc", "x");
    expect(c, A, "");
    advance(c, 1500);
    answer_event(c, A, token_at(c, A), 0, "y");
    expect(c, A, "run:ping:doc:x");
    expect(c, B, "done:7:ok:y");
    cluster_free(c);
}

static void an_event_whose_result_was_lost_is_answered_at_last(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    emit(c, B, 7, "doc", "x");
    lose(c, A, B, 1);
    answer_event(c, A, token_at(c, A), 0, "first");
    expect(c, A, "run:ping:doc:x");
    expect(c, B, "");
    advance(c, 1500);
    expect(c, A, ""); /* it is not run again */
    expect(c, B, "done:7:ok:first");
    assert_int_equal(stats_of(c, A).documents_owned, 1);
    cluster_free(c);
}

static void only_if_open_finds_the_owner(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    send_emit(c, B, 7, "doc", "x", true);
    settle(c);
    token_at(c, A);
    expect(c, A, "run:ping:doc:x");
    cluster_free(c);
}

static void only_if_open_claims_nothing(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    send_emit(c, B, 7, "doc", "x", true);
    settle(c);
    expect(c, B, "done:7:AFF_ENOTOPEN");
    assert_string_equal(owner_of(c, "doc"), "");
    assert_int_equal(stats_of(c, B).documents, 0);
    cluster_free(c);
}

static void only_if_open_takes_no_dead_servers_document(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    kill_server(c, A);
    advance(c, 11000);
    send_emit(c, B, 7, "doc", "x", true);
    settle(c);
    advance(c, AFF_ABSENT_MS + 50); /* its membership is missing, and still is */
    expect(c, B, "done:7:AFF_ENOTOPEN");
    assert_int_equal(stats_of(c, B).documents, 0);
    cluster_free(c);
}

static void a_claim_that_comes_while_redis_looks_gets_the_document(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    c->servers[A].mute = true;
    send_emit(c, A, 7, "doc", "x", true);
    settle(c);
    claim(c, A, 8, "doc", AFF_USE_HOLD);
    c->servers[A].mute = false;
    settle(c);
    expect(c, A, "done:7:AFF_ENOTOPEN claim:8:ok");
    cluster_free(c);
}

static void events_keep_their_order(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "doc", AFF_USE_HOLD);
    forget_traces(c);
    send_emit(c, B, 7, "doc", "1", false);
    send_emit(c, B, 8, "doc", "2", false);
    emit(c, B, 9, "doc", "3");
    uint64_t first = token_at(c, A);
    answer_event(c, A, first, 0, "");
    answer_event(c, A, first + 1, 0, "");
    answer_event(c, A, first + 2, 0, "");
    assert_non_null(strstr(c->servers[A].trace, ":doc:1 run:"));
    expect(c, B, "done:7:ok done:8:ok done:9:ok");
    cluster_free(c);
}

static void h29_an_event_for_a_document_with_an_odd_name_arrives(void **state) {
    (void)state;
    cluster *c = cluster_of(2);
    claim(c, A, 1, "__proto__", AFF_USE_HOLD);
    forget_traces(c);
    emit(c, B, 7, "__proto__", "x");
    token_at(c, A);
    expect(c, A, "run:ping:__proto__:x");
    cluster_free(c);
}

static void a_result_nobody_asked_for_is_ignored(void **state) {
    (void)state;
    cluster *c = cluster_of(1);
    answer_event(c, A, 4711, 0, "x");
    unuse(c, A, "doc", AFF_USE_EVENT);
    expect(c, A, "");
    assert_int_equal(stats_of(c, A).documents, 0);
    cluster_free(c);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_event_for_a_document_of_nobody_is_run_here),
        cmocka_unit_test(an_event_is_run_by_the_owner_and_its_result_comes_back),
        cmocka_unit_test(h24_a_failing_handler_answers_with_its_error),
        cmocka_unit_test(an_event_without_an_answer_times_out),
        cmocka_unit_test(an_event_while_redis_is_down_waits_and_times_out),
        cmocka_unit_test(a_refused_event_goes_to_the_next_owner),
        cmocka_unit_test(h24_an_event_of_a_dead_owner_is_run_by_the_next),
        cmocka_unit_test(an_event_that_was_lost_on_the_way_is_sent_again),
        cmocka_unit_test(an_event_whose_result_was_lost_is_answered_at_last),
        cmocka_unit_test(only_if_open_finds_the_owner),
        cmocka_unit_test(only_if_open_claims_nothing),
        cmocka_unit_test(only_if_open_takes_no_dead_servers_document),
        cmocka_unit_test(a_claim_that_comes_while_redis_looks_gets_the_document),
        cmocka_unit_test(events_keep_their_order),
        cmocka_unit_test(h29_an_event_for_a_document_with_an_odd_name_arrives),
        cmocka_unit_test(a_result_nobody_asked_for_is_ignored),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
