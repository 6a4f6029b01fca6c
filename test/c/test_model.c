/*
 * The model of Redis that the engine's tests use (cluster.h) against a redis-server: the same
 * scripts and commands, drawn from a seed, have the same answers and leave the same keys with the
 * same time to live in both.
 *
 * What comes from a clock can't be the same. A new epoch is either counted on from a number, then
 * it is the same in both, or it is the clock's, then it must lie between two looks at that clock;
 * the redis-server is given the model's record then, so that both go on alike. Numbers are far from
 * either clock.
 */
#include <hiredis/hiredis.h>

#include "cluster.h"
#include "redis_server.h"

enum { SEEDS = 12, OPERATIONS = 600, KEYS = 3, LISTENERS = 3 };

static const char *const lease_keys[KEYS] = {"rsaLock:a", "rsaLock:b", "rsaLock:\xc3\xa4 c"};
static const char *const server_keys[KEYS] = {"rsaServer:A", "rsaServer:B b", "rsaServer:C"};
static const char *const boots[] = {"00000000000a0000", "00000000000a0001", "00000000000b0000"};
static const char *const names[] = {"A", "B b", "C"};
static const char *const channels[] = {"rsaLink:00000000000a", "rsaLink:00000000000b"};
/* Records of no server: some count as free. */
static const char *const odd_records[] = {
    "12 00000000000b0000 Z",
    "0012 00000000000a0000 A",
    "9007199254740991 00000000000b0000 Z",
    "9007199254740992 00000000000b0000 Z",
    "123456789012345678901234567890 00000000000b0000 Z",
    "0 00000000000b0000 Z",
    "12 00000000000B0000 Z",
    "12 00000000000b000 Z",
    "12 00000000000b00000 Z",
    "12 00000000000b0000 ",
    "12 00000000000b0000",
    "12  00000000000b0000 Z",
    "x",
    "",
};

static redis_server redis;
static unsigned seed; /* that runs */

typedef struct {
    cluster *model;
    redisContext *real, *listeners[LISTENERS];
    uint64_t random;
} pair;

static unsigned below(pair *p, unsigned limit) {
    p->random = p->random * 6364136223846793005u + 1442695040888963407u;
    return (unsigned)(p->random >> 33) % limit;
}

#define ONE_OF(p, array) ((array)[below(p, sizeof(array) / sizeof(*(array)))])

/* ---- Both sides --------------------------------------------------------------------------------
 */

static redisReply *run_real(pair *p, int argc, const aff_slice *args) {
    const char *argv[AFF_ARGV_MAX + 3];
    size_t lens[AFF_ARGV_MAX + 3];
    for (int i = 0; i < argc; i++) {
        argv[i] = args[i].data ? (const char *)args[i].data : "";
        lens[i] = args[i].len;
    }
    redisReply *reply = redisCommandArgv(p->real, argc, argv, lens);
    assert_non_null(reply);
    if (reply->type == REDIS_REPLY_ERROR) fail_msg("seed %u: %s", seed, reply->str);
    return reply;
}

static redisReply *run_script(pair *p, aff_script script, int argc, const aff_slice *args) {
    aff_slice all[AFF_ARGV_MAX + 3];
    int n = 0;
    if (script == AFF_COMMAND_GET) {
        all[n++] = aff__str("GET");
    } else if (script == AFF_COMMAND_NUMSUB) {
        all[n++] = aff__str("PUBSUB");
        all[n++] = aff__str("NUMSUB");
    } else {
        all[n++] = aff__str("EVAL");
        all[n++] = aff__str(aff_script_source(script));
        all[n++] = aff__str("1");
    }
    for (int i = 0; i < argc; i++) all[n++] = args[i];
    return run_real(p, n, all);
}

static input *run_model(pair *p, bool is_publish, aff_script script, int argc,
                        const aff_slice *args) {
    command cmd = {.request = 1, .is_publish = is_publish, .script = script, .argc = argc};
    for (int i = 0; i < argc; i++) set(&cmd.argv[i], args[i]);
    p->model->commands_run++;
    redis_run(p->model, &p->model->servers[0], &cmd);
    for (int i = 0; i < argc; i++) free(cmd.argv[i].data);
    input *in = take(&p->model->servers[0]);
    assert_non_null(in);
    assert_int_equal(in->event.status, 0);
    return in;
}

static void expect_equal(const aff_value *model, const redisReply *real) {
    switch (real->type) {
        case REDIS_REPLY_NIL: assert_int_equal(model->type, AFF_VALUE_NIL); return;
        case REDIS_REPLY_INTEGER:
            assert_int_equal(model->type, AFF_VALUE_INT);
            assert_int_equal(model->integer, real->integer);
            return;
        case REDIS_REPLY_STRING:
            assert_int_equal(model->type, AFF_VALUE_STRING);
            assert_int_equal(model->string.len, real->len);
            if (real->len) assert_memory_equal(model->string.data, real->str, real->len);
            return;
        default: fail_msg("seed %u: an answer of type %d", seed, real->type);
    }
}

static void expect_same(const input *model, const redisReply *real) {
    bool is_list = real->type == REDIS_REPLY_ARRAY;
    assert_int_equal(model->event.value_count, is_list ? real->elements : 1);
    for (size_t i = 0; i < model->event.value_count; i++) {
        expect_equal(&model->values[i], is_list ? real->element[i] : real);
    }
}

/* The same value under the key, with the same time to live but for a minute. */
static void expect_same_key(pair *p, const char *key) {
    entry *e = redis_get(p->model, aff__str(key));
    redisReply *value = run_real(p, 2, (aff_slice[]){aff__str("GET"), aff__str(key)});
    aff_value stored = {.type = AFF_VALUE_NIL};
    if (e) stored = string(slice(&e->value));
    expect_equal(&stored, value);
    freeReplyObject(value);
    if (!e) return;
    redisReply *ttl = run_real(p, 2, (aff_slice[]){aff__str("PTTL"), aff__str(key)});
    int64_t left = (int64_t)(e->expires_at - p->model->now);
    assert_in_range(ttl->integer, left - 60000, left);
    freeReplyObject(ttl);
}

static void run_both(pair *p, aff_script script, int argc, const aff_slice *args) {
    input *model = run_model(p, false, script, argc, args);
    redisReply *real = run_script(p, script, argc, args);
    expect_same(model, real);
    input_free(model);
    freeReplyObject(real);
}

/* ---- Epochs -------------------------------------------------------------------------------------
 */

static uint64_t real_clock(pair *p) {
    redisReply *time = run_real(p, 1, (aff_slice[]){aff__str("TIME")});
    uint64_t us = strtoull(time->element[0]->str, NULL, 10) * 1000000 +
                  strtoull(time->element[1]->str, NULL, 10);
    freeReplyObject(time);
    return us;
}

static const uint64_t model_clock_from = 1700000000000000, model_clock_to = 1700100000000000;

static bool is_of_models_clock(const aff_value *record) {
    uint64_t epoch = strtoull((const char *)record->string.data, NULL, 10);
    return epoch >= model_clock_from && epoch < model_clock_to;
}

/* A record made under the model's clock: the real one is the same behind its epoch, which is the
 * real clock's. It becomes the model's. */
static void claimed_by_clock(pair *p, aff_slice key, const aff_value *model, const redisReply *real,
                             uint64_t before) {
    char *rest;
    uint64_t epoch = strtoull(real->str, &rest, 10);
    assert_in_range(epoch, before + 1, real_clock(p) + 1);
    const char *text = (const char *)model->string.data;
    const char *model_rest = memchr(text, ' ', model->string.len);
    size_t len = model->string.len - (size_t)(model_rest - text);
    assert_int_equal(real->len - (size_t)(rest - real->str), len);
    assert_memory_equal(rest, model_rest, len);
    freeReplyObject(
        run_real(p, 4, (aff_slice[]){aff__str("SET"), key, model->string, aff__str("KEEPTTL")}));
}

static void claim_both(pair *p, const aff_slice *args) {
    uint64_t before = real_clock(p);
    entry *e = redis_get(p->model, args[0]);
    /* I4 is for servers, which carry what they have seen; these arguments are drawn. */
    for (entry *h = p->model->redis.history; h; h = h->next) h->expires_at = 0;
    bytes old = {0};
    if (e) set(&old, slice(&e->value));
    input *model = run_model(p, false, AFF_SCRIPT_CLAIM, 8, args);
    redisReply *real = run_script(p, AFF_SCRIPT_CLAIM, 8, args);
    const aff_value *values = model->values;
    bool is_new = model->event.value_count == 2 && !aff__equal(values[1].string, slice(&old)) &&
                  is_of_models_clock(&values[1]);
    if (is_new) {
        assert_int_equal(real->type, REDIS_REPLY_ARRAY);
        assert_int_equal(real->elements, 2);
        expect_equal(&values[0], real->element[0]);
        claimed_by_clock(p, args[0], &values[1], real->element[1], before);
    } else {
        expect_same(model, real);
    }
    free(old.data);
    input_free(model);
    freeReplyObject(real);
}

/* ---- Operations ---------------------------------------------------------------------------------
 */

static const char *const ttls[] = {"10000000", "20000000", "86400000"};

static void claim_something(pair *p) {
    static const uint64_t numbers[] = {0, 1, 17, 3000000000000000, 3000000000000009};
    aff_slice key = aff__str(ONE_OF(p, lease_keys));
    entry *e = redis_get(p->model, key);
    const uint8_t *boot;
    uint64_t stored = e ? redis_epoch(e, &boot) : 0;
    char standing[24], highest[24];
    uint64_t least = below(p, 2) ? ONE_OF(p, numbers) : stored + below(p, 3);
    uint64_t carried = below(p, 8) ? ONE_OF(p, numbers) : stored / 2;
    snprintf(standing, sizeof(standing), "%llu", (unsigned long long)least);
    snprintf(highest, sizeof(highest), "%llu", (unsigned long long)carried);
    bytes expected = {0};
    if (e && below(p, 3) == 0) set(&expected, slice(&e->value));
    if (below(p, 8) == 0) set(&expected, aff__str("another"));
    bool has_grown = e && stored > 9007199254740000; /* there is nothing above it */
    aff_slice args[] = {key,
                        aff__str(ONE_OF(p, boots)),
                        aff__str(ONE_OF(p, names)),
                        aff__str(standing),
                        slice(&expected),
                        aff__str(ONE_OF(p, ttls)),
                        aff__str(has_grown || below(p, 5) == 0 ? "1"
                                 : below(p, 3) == 0            ? "2"
                                                               : "0"),
                        aff__str(highest)};
    claim_both(p, args);
    free(expected.data);
}

static void about_record(pair *p, aff_script script) {
    aff_slice key = aff__str(ONE_OF(p, lease_keys));
    entry *e = redis_get(p->model, key);
    bytes record = {0};
    set(&record, e && below(p, 3) ? slice(&e->value) : aff__str("1 00000000000a0000 A"));
    aff_slice args[] = {key, slice(&record), aff__str(ONE_OF(p, ttls))};
    run_both(p, script, script == AFF_SCRIPT_REFRESH ? 3 : 2, args);
    free(record.data);
}

static void about_membership(pair *p, aff_script script) {
    aff_slice args[] = {aff__str(ONE_OF(p, server_keys)), aff__str(ONE_OF(p, boots)),
                        aff__str(ONE_OF(p, ttls))};
    run_both(p, script, script == AFF_SCRIPT_LEAVE ? 2 : 3, args);
}

static void put_odd_record(pair *p) {
    aff_slice key = aff__str(ONE_OF(p, lease_keys)), record = aff__str(ONE_OF(p, odd_records));
    redis_set(p->model, key, record, 10000000);
    freeReplyObject(run_real(
        p, 5, (aff_slice[]){aff__str("SET"), key, record, aff__str("PX"), aff__str("10000000")}));
}

/* A key's time is over: the same for both. */
static void expire(pair *p) {
    const char *name = below(p, 2) ? ONE_OF(p, lease_keys) : ONE_OF(p, server_keys);
    aff_slice key = aff__str(name);
    entry *e = redis_get(p->model, key);
    if (e) e->expires_at = p->model->now;
    freeReplyObject(run_real(p, 3, (aff_slice[]){aff__str("PEXPIRE"), key, aff__str("1")}));
    for (bool gone = false; !gone;) {
        redisReply *exists = run_real(p, 2, (aff_slice[]){aff__str("EXISTS"), key});
        gone = exists->integer == 0;
        freeReplyObject(exists);
    }
}

/* ---- Channels -----------------------------------------------------------------------------------
 */

static void unsubscribe(pair *p, int i) {
    server *s = &p->model->servers[i + 1];
    if (!s->channel.len) return;
    aff_slice was = slice(&s->channel);
    redisReply *reply = redisCommand(p->listeners[i], "UNSUBSCRIBE %b", was.data, was.len);
    assert_non_null(reply);
    assert_string_equal(reply->element[0]->str, "unsubscribe");
    freeReplyObject(reply);
    s->channel.len = 0;
}

static void subscribe(pair *p) {
    int i = (int)below(p, LISTENERS);
    unsubscribe(p, i);
    if (below(p, 3) == 0) return;
    const char *channel = ONE_OF(p, channels);
    redisReply *reply = redisCommand(p->listeners[i], "SUBSCRIBE %s", channel);
    assert_non_null(reply);
    assert_string_equal(reply->element[0]->str, "subscribe");
    freeReplyObject(reply);
    set(&p->model->servers[i + 1].channel, aff__str(channel));
}

/* As many receivers, and the same ones. */
static void publish(pair *p) {
    aff_slice args[] = {aff__str(ONE_OF(p, channels)), aff__slice("\1\0batch", 7)};
    input *model = run_model(p, true, 0, 2, args);
    redisReply *real = run_real(p, 3, (aff_slice[]){aff__str("PUBLISH"), args[0], args[1]});
    expect_same(model, real);
    input_free(model);
    freeReplyObject(real);
    for (int i = 0; i < LISTENERS; i++) {
        input *message = take(&p->model->servers[i + 1]);
        if (!message) continue;
        redisReply *got = NULL;
        assert_int_equal(redisGetReply(p->listeners[i], (void **)&got), REDIS_OK);
        assert_int_equal(got->elements, 3);
        assert_string_equal(got->element[0]->str, "message");
        expect_equal(&(aff_value){.type = AFF_VALUE_STRING, .string = message->event.data},
                     got->element[2]);
        freeReplyObject(got);
        input_free(message);
    }
}

static void numsub(pair *p) {
    run_both(p, AFF_COMMAND_NUMSUB, 1, (aff_slice[]){aff__str(ONE_OF(p, channels))});
}

/* ---- Running ------------------------------------------------------------------------------------
 */

static void do_something(pair *p) {
    switch (below(p, 16)) {
        case 0: about_membership(p, AFF_SCRIPT_JOIN); break;
        case 1: about_membership(p, AFF_SCRIPT_RENEW); break;
        case 2: about_membership(p, AFF_SCRIPT_LEAVE); break;
        case 3: about_record(p, AFF_SCRIPT_RELEASE); break;
        case 4: about_record(p, AFF_SCRIPT_REFRESH); break;
        case 5:
            run_both(p, AFF_COMMAND_GET, 1, (aff_slice[]){aff__str(ONE_OF(p, server_keys))});
            break;
        case 6: put_odd_record(p); break;
        case 7: expire(p); break;
        case 8: subscribe(p); break;
        case 9: publish(p); break;
        case 10: numsub(p); break;
        default: claim_something(p);
    }
    for (int i = 0; i < KEYS; i++) {
        expect_same_key(p, lease_keys[i]);
        expect_same_key(p, server_keys[i]);
    }
}

static redisContext *connect_real(void) {
    redisContext *context = redisConnectUnix(redis.path);
    assert_non_null(context);
    assert_int_equal(context->err, 0);
    return context;
}

static void run(void) {
    pair p = {.model = cluster_new(), .real = connect_real(), .random = seed};
    freeReplyObject(run_real(&p, 1, (aff_slice[]){aff__str("FLUSHALL")}));
    static char stands_for_an_engine;
    for (int i = 0; i < LISTENERS; i++) {
        p.listeners[i] = connect_real();
        server *s = &p.model->servers[i + 1];
        s->engine = (aff_engine *)(void *)&stands_for_an_engine; /* only that it is there counts */
        s->connected = true;
    }
    for (int i = 0; i < OPERATIONS; i++) do_something(&p);
    for (int i = 0; i < LISTENERS; i++) {
        redisFree(p.listeners[i]);
        p.model->servers[i + 1].engine = NULL;
    }
    redisFree(p.real);
    cluster_free(p.model);
}

static void the_model_answers_as_redis_does(void **state) {
    (void)state;
    for (seed = 1; seed <= SEEDS; seed++) run();
    seed = 0;
}

static int tell_seed(void **state) {
    (void)state;
    if (seed) print_error("failed with seed %u\n", seed);
    return 0;
}

static int start_server(void **state) {
    (void)state;
    redis_server_start(&redis, NULL);
    return 0;
}

static int stop_server(void **state) {
    (void)state;
    redis_server_free(&redis);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(the_model_answers_as_redis_does, tell_seed),
    };
    return cmocka_run_group_tests(tests, start_server, stop_server);
}
