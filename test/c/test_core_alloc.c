/*
 * Memory runs out, at every allocation in turn: the engine fails as a whole, says so for ever, and
 * aff_free() gives everything back, whatever it was doing.
 */
#include "cluster.h"

typedef struct {
    size_t live, made;
    size_t fail_at; /* the number of the allocation that fails; 0: none does */
} memory;

static void *counted(void *ctx, void *pointer, size_t size) {
    memory *m = ctx;
    if (size == 0) {
        m->live -= pointer != NULL;
        free(pointer);
        return NULL;
    }
    if (++m->made == m->fail_at) return NULL;
    void *fresh = realloc(pointer, size);
    assert_non_null(fresh);
    m->live += pointer == NULL;
    return fresh;
}

/* Routes of A fail over to other servers and to A itself, and A's own documents leave it. */
static void move_everything_about(cluster *c) {
    start(c, C);
    claim(c, C, 9, "moving", AFF_USE_HOLD);
    join(c, 4, A, "moving", "4.8.0");
    provider_points(wire_of(c, 4), provider_of(c, 4, "moving"), 5);
    type(c, 4, "moving", 0);
    advance(c, 1000);
    kill_server(c, C);
    say_stateless(c, 4, "moving", "rescued");
    advance(c, 2000); /* to A itself */
    type(c, 4, "moving", 1);
    join(c, 5, A, "leaving", "4.8.0");
    confirm(c, A, 10, "leaving");
    hand_off(c, A, 11, "leaving");
    settle(c);
    unload(&c->servers[A], "leaving");
    cut(c, A);
    advance(c, 11000);
    claim(c, B, 12, "moving", AFF_USE_HOLD);
    if (c->servers[A].engine) connect_redis(c, A); /* it has lost that one */
    advance(c, 2000);
    if (!c->servers[A].engine) return;
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = true});
    tell(c, A, &(aff_event){.type = AFF_EV_STALLED, .flag = false});
    tell(c, A, &(aff_event){.type = AFF_EV_DRAIN});
    advance(c, 100);
}

/* Everything that A can do: owner, origin, emitter, lapsing, losing, leaving. */
static void live_a_full_life(memory *m) {
    cluster *c = cluster_new();
    aff_allocator allocator = {counted, m};
    c->servers[A].config.allocator = &allocator;
    c->servers[A].out_of_memory = true;
    start(c, B);
    start(c, A);
    open_client(c, 1, A);
    open_client(c, 2, B);
    open_client(c, 3, A);
    auth(c, 1, "mine");
    auth(c, 2, "mine");
    auth(c, 2, "mine/session");
    claim(c, B, 1, "theirs", AFF_USE_HOLD);
    send_edit(c, 3, "theirs", "early");
    auth(c, 3, "theirs");
    char *text = malloc((300 << 10) + 1);
    assert_non_null(text);
    memset(text, 'x', 300 << 10);
    text[300 << 10] = '\0';
    edit(c, 2, "mine", text); /* in fragments, both ways */
    edit(c, 3, "theirs", text);
    free(text);
    broadcast(c, A, "mine", "out", 1, (uint32_t[]){1});
    claim(c, A, 2, "mine", AFF_USE_HOLD);
    claim(c, A, 3, "theirs", AFF_USE_HOLD);
    emit(c, A, 4, "theirs", "x");
    emit(c, A, 5, "mine", "x");
    emit(c, B, 6, "mine", "x");
    send_emit(c, A, 7, "nobody's", "x", true);
    leave(c, 3, "theirs");
    auth(c, 3, "theirs");
    advance(c, 20000);
    lose(c, B, A, 1);
    edit(c, 2, "mine", "lost");
    advance(c, 2000);
    open_client(c, 2, B);
    auth(c, 2, "mine");
    cut(c, A);
    advance(c, 15000);
    connect_redis(c, A); /* under a new boot */
    advance(c, 1000);
    move_everything_about(c);
    send_raw(c, 1, aff__none());
    tell(c, A, &(aff_event){.type = AFF_EV_SHUTDOWN});
    advance(c, 3000);
    cluster_free(c);
}

static void every_allocation_may_fail(void **state) {
    (void)state;
    memory whole = {0};
    live_a_full_life(&whole);
    assert_int_equal(whole.live, 0);
    assert_true(whole.made > 200);
    for (size_t n = 1; n <= whole.made; n++) {
        memory m = {.fail_at = n};
        live_a_full_life(&m);
        if (m.live != 0) fail_msg("%zu blocks are left after allocation %zu failed", m.live, n);
        assert_true(m.made >= n);
    }
}

static void an_engine_that_can_not_be_made_leaves_the_out_parameter_alone(void **state) {
    (void)state;
    memory whole = {0};
    aff_allocator allocator = {counted, &whole};
    aff_config config = {.server_id = "A",
                         .prefix = "rsa",
                         .lock_ttl_ms = 10000,
                         .proxy_socket_ttl_ms = 30000,
                         .event_ttl_ms = 5000,
                         .allocator = &allocator};
    aff_engine *engine = NULL;
    assert_int_equal(aff_new(&config, &engine), 0);
    aff_free(engine);
    assert_int_equal(whole.live, 0);
    for (size_t n = 1; n <= whole.made; n++) {
        memory m = {.fail_at = n};
        allocator.ctx = &m;
        aff_engine *untouched = NULL;
        assert_int_equal(aff_new(&config, &untouched), AFF_ENOMEM);
        assert_null(untouched);
        assert_int_equal(m.live, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_allocation_may_fail),
        cmocka_unit_test(an_engine_that_can_not_be_made_leaves_the_out_parameter_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
