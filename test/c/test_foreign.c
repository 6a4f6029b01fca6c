/*
 * An instance whose Redis is reached by way of the application: the test is the application, and
 * Redis as well. It takes records as binding.c does, and answers them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "foreign.h"
#include "instance.h"

enum { DEADLINE_MS = 10000, TEXT_MAX = 2048, ARGS_MAX = 8 };

static aff_instance *instance;
static aff_block block;
static size_t at;

static aff_slice str(const char *text) {
    return (aff_slice){(const uint8_t *)text, strlen(text)};
}

static bool is(aff_slice bytes, const char *text) {
    return bytes.len == strlen(text) && memcmp(bytes.data, text, bytes.len) == 0;
}

static void nothing(void *arg) {
    (void)arg;
}

static void open_instance(const char *secret) {
    aff_instance_config config = {.engine = {.server_id = "a",
                                             .prefix = "rsa",
                                             .seed = 7,
                                             .lock_ttl_ms = 1500,
                                             .proxy_socket_ttl_ms = 30000,
                                             .event_ttl_ms = 30000},
                                  .foreign = true,
                                  .secrets = {str(secret)},
                                  .secret_count = secret[0] ? 1 : 0,
                                  .wake = nothing};
    assert_int_equal(aff_instance_open(&config, &instance, NULL, 0), 0);
}

static int tear_down(void **state) {
    (void)state;
    if (instance) aff_instance_close(instance);
    instance = NULL;
    free(block.data);
    block = (aff_block){0};
    at = 0;
    return 0;
}

/* The next record of that kind; others are left out. It lasts until the next call. */
static aff_record await(int kind) {
    aff_record record;
    uint64_t end = aff_now() + DEADLINE_MS;
    for (;;) {
        while (aff_record_read(&block, &at, &record)) {
            if (record.kind == kind) return record;
        }
        free(block.data);
        block = aff_instance_take(instance);
        at = 0;
        if (!block.data) {
            if (aff_now() > end) fail_msg("no record of kind %d", kind);
            uv_sleep(1);
        }
    }
}

/* As js/src/records.ts lays them out. */
static void tell(const aff_record *record) {
    aff_queue queue;
    assert_int_equal(aff_queue_init(&queue, 1 << 20), 0);
    assert_true(aff_queue_push(&queue, record, 0) >= 0);
    aff_block records = aff_queue_take(&queue);
    assert_int_equal(aff_instance_hand(instance, records.data, records.len), 0);
    free(records.data);
    aff_queue_free(&queue);
}

static void tell_kind(int kind, uint32_t downs) {
    tell(&(aff_record){.kind = (uint8_t)kind, .socket = downs});
}

typedef struct {
    aff_record record;
    int argc;
    aff_slice argv[ARGS_MAX];
} command;

/* The next command, which is a script on that key. */
static command await_script(const char *key) {
    command c = {.record = await(AFF_RECORD_REDIS_COMMAND)};
    aff_slice rest = c.record.data;
    while (rest.len > 0) {
        uint32_t len;
        assert_true(c.argc < ARGS_MAX + 4 && rest.len >= sizeof(len));
        memcpy(&len, rest.data, sizeof(len));
        rest = (aff_slice){rest.data + sizeof(len), rest.len - sizeof(len)};
        assert_true(rest.len >= len);
        if (c.argc < ARGS_MAX) c.argv[c.argc] = (aff_slice){rest.data, len};
        c.argc++;
        rest = (aff_slice){rest.data + len, rest.len - len};
    }
    assert_true(is(c.argv[0], "EVAL"));
    assert_true(is(c.argv[2], "1"));
    if (!is(c.argv[3], key)) {
        fail_msg("%.*s instead of %s", (int)c.argv[3].len, (const char *)c.argv[3].data, key);
    }
    return c;
}

static void answer(const command *c, const uint8_t *values, size_t len) {
    tell(&(aff_record){
        .kind = AFF_RECORD_REDIS_REPLY, .request = c->record.request, .data = {values, len}});
}

/* 1, as a script says. */
static void say_yes(const command *c) {
    uint8_t values[9] = {1};
    double one = 1;
    memcpy(values + 1, &one, sizeof(one));
    answer(c, values, sizeof(values));
}

static void join(void) {
    tell_kind(AFF_RECORD_REDIS_UP, 0);
    aff_record listen = await(AFF_RECORD_REDIS_LISTEN);
    assert_int_equal(listen.name.len, strlen("rsaLink:") + AFF_PROCESS_LEN);
    char channel[64];
    snprintf(channel, sizeof(channel), "%.*s", (int)listen.name.len,
             (const char *)listen.name.data);
    command c = await_script("rsaServer:a");
    assert_int_equal(c.record.socket, 0);
    assert_int_equal(c.argc, 6);
    assert_true(is(c.argv[5], "1500"));
    say_yes(&c);
    tell(&(aff_record){.kind = AFF_RECORD_REDIS_SUBSCRIBED, .name = str(channel)});
    await(AFF_ACT_READY);
    assert_true(aff_instance_valid_until(instance) > aff_now());
}

static void it_joins_renews_and_leaves(void **state) {
    (void)state;
    open_instance("");
    join();
    for (int i = 0; i < 3; i++) { /* every third of lockTTL */
        command c = await_script("rsaServer:a");
        uint64_t before = aff_instance_valid_until(instance), end = aff_now() + DEADLINE_MS;
        say_yes(&c);
        while (aff_instance_valid_until(instance) <= before) {
            assert_true(aff_now() < end);
            uv_sleep(1);
        }
    }
    tell_kind(AFF_EV_SHUTDOWN, 0);
    for (;;) { /* a renewal may come first */
        command c = await_script("rsaServer:a");
        bool is_leave = memmem(c.argv[1].data, c.argv[1].len, "'DEL'", 5) != NULL;
        say_yes(&c);
        if (is_leave) break;
    }
    await(AFF_ACT_STOPPED);
}

static void it_claims_a_document_and_is_told_of_errors(void **state) {
    (void)state;
    open_instance("");
    join();
    aff_record claim = {.kind = AFF_EV_CLAIM, .request = 9, .document = str("doc"), .code = 0};
    tell(&claim);
    command c = {.argc = 0};
    do { /* renewals go on */
        c.record = await(AFF_RECORD_REDIS_COMMAND);
    } while (!memmem(c.record.data.data, c.record.data.len, "rsaLock:doc", 11));
    tell(&(aff_record){.kind = AFF_RECORD_REDIS_REPLY,
                       .request = c.record.request,
                       .status = AFF_EREDIS,
                       .data = str("CLUSTERDOWN Hash slot not served")});
    aff_record log = await(AFF_ACT_LOG);
    assert_non_null(memmem(log.data.data, log.data.len, "CLUSTERDOWN", 11));
    do { /* asked again by itself */
        c.record = await(AFF_RECORD_REDIS_COMMAND);
    } while (!memmem(c.record.data.data, c.record.data.len, "rsaLock:doc", 11));
    char record[64];
    uint8_t values[14 + sizeof(record)] = {1};
    double one = 1;
    memcpy(values + 1, &one, sizeof(one));
    /* [1, record] names this server's boot, which is in the arguments. */
    aff_slice rest = c.record.data;
    const uint8_t *boot = memmem(rest.data, rest.len, "rsaLock:doc", 11);
    snprintf(record, sizeof(record), "1234 %.16s a", (const char *)boot + 11 + 4);
    uint32_t len = (uint32_t)strlen(record);
    values[9] = 2;
    memcpy(values + 10, &len, sizeof(len));
    memcpy(values + 14, record, len);
    answer(&c, values, 14 + len);
    aff_record claimed = await(AFF_ACT_CLAIMED);
    assert_int_equal(claimed.request, 9);
    assert_int_equal(claimed.status, 0);
    assert_int_equal(claimed.bytes, 1234);
}

static void an_answer_that_can_not_be_read_is_an_error_of_redis(void **state) {
    (void)state;
    open_instance("");
    tell_kind(AFF_RECORD_REDIS_UP, 0);
    command c = await_script("rsaServer:a");
    answer(&c, (const uint8_t[]){2, 200, 0, 0, 0, 'x'}, 6);
    aff_record log = await(AFF_ACT_LOG);
    assert_non_null(memmem(log.data.data, log.data.len, "could not be read", 17));
    c = await_script("rsaServer:a"); /* tried again */
    say_yes(&c);
}

static void commands_tell_whether_the_engine_has_heard_that_redis_was_down(void **state) {
    (void)state;
    open_instance("");
    join();
    tell(&(aff_record){
        .kind = AFF_RECORD_REDIS_DOWN, .socket = 1, .data = str("a node is another's replica")});
    aff_record log = await(AFF_ACT_LOG);
    assert_non_null(memmem(log.data.data, log.data.len, "another's replica", 17));
    tell_kind(AFF_RECORD_REDIS_UP, 1);
    command c;
    do { /* it makes sure; one may have been under way */
        c = await_script("rsaServer:a");
    } while (c.record.socket == 0);
    assert_int_equal(c.record.socket, 1);
}

static void a_refusal_at_the_start_is_final_and_later_a_warning(void **state) {
    (void)state;
    open_instance("");
    tell(&(aff_record){.kind = AFF_RECORD_REDIS_REFUSED, .data = str("WRONGPASS no")});
    aff_record failed = await(AFF_ACT_FAILED);
    assert_int_equal(failed.status, AFF_EREFUSED);
    assert_true(is(failed.data, "Redis can't be used: WRONGPASS no"));
    aff_instance_close(instance);
    open_instance("");
    join();
    tell(&(aff_record){.kind = AFF_RECORD_REDIS_REFUSED, .data = str("WRONGPASS no")});
    aff_record log = await(AFF_ACT_LOG);
    assert_true(is(log.data, "Redis can't be used: WRONGPASS no"));
}

/* With a secret what is published is sealed, and only what is sealed is taken, on that thread. */
static void messages_are_sealed_and_checked_here(void **state) {
    (void)state;
    open_instance("a secret of the cluster");
    join();
    tell(&(aff_record){
        .kind = AFF_RECORD_REDIS_MESSAGE, .name = str("rsaLink:x"), .data = str("!")});
    aff_record log = await(AFF_ACT_LOG);
    assert_non_null(memmem(log.data.data, log.data.len, "without a valid signature", 25));
    aff_seal_stats stats;
    aff_instance_seal_stats(instance, &stats);
    assert_int_equal(stats.forged, 1);
}

static void values_are_read_within_their_bounds(void **state) {
    (void)state;
    double numbers[] = {-3, 1e300};
    uint8_t bytes[64] = {0, 1};
    memcpy(bytes + 2, &numbers[0], 8);
    bytes[10] = 2;
    bytes[11] = 3;
    memcpy(bytes + 15, "abc", 3);
    aff_value values[3];
    assert_int_equal(aff_foreign_get((aff_slice){bytes, 18}, values, 3), 3);
    assert_int_equal(values[0].type, AFF_VALUE_NIL);
    assert_int_equal(values[1].integer, -3);
    assert_true(is(values[2].string, "abc"));
    assert_int_equal(aff_foreign_get((aff_slice){bytes, 18}, values, 2), 2);
    assert_int_equal(aff_foreign_get((aff_slice){bytes, 0}, values, 2), 0);
    for (size_t len = 2; len < 18; len++) {
        if (len == 10) continue; /* ends with a whole value */
        uint8_t *copy = malloc(len);
        memcpy(copy, bytes, len);
        assert_int_equal(aff_foreign_get((aff_slice){copy, len}, values, 3), AFF_EPROTO);
        free(copy);
    }
    memcpy(bytes + 2, &numbers[1], 8);
    assert_int_equal(aff_foreign_get((aff_slice){bytes, 10}, values, 3), AFF_EPROTO);
    bytes[1] = 3;
    assert_int_equal(aff_foreign_get((aff_slice){bytes, 10}, values, 3), AFF_EPROTO);
}

static void commands_and_answers_come_through_as_they_were(void **state) {
    (void)state;
    const aff_slice args[] = {str("HSET"), str(""), str("a b"), {(const uint8_t *)"\0\1", 2}};
    aff_slice data, got[4];
    assert_int_equal(aff_foreign_put(4, args, &data), 0);
    assert_int_equal(aff_foreign_get_args(data, got, 4), 4);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(got[i].len, args[i].len);
        assert_memory_equal(got[i].data, args[i].data, args[i].len);
    }
    assert_int_equal(aff_foreign_get_args(data, got, 3), AFF_EPROTO); /* too many */
    for (size_t len = data.len - 1; len > 11; len--) {
        assert_int_equal(aff_foreign_get_args((aff_slice){data.data, len}, got, 4) == 4, false);
    }
    free((void *)data.data);
    const aff_value values[] = {{.type = AFF_VALUE_INT, .integer = -5},
                                {.type = AFF_VALUE_NIL},
                                {.type = AFF_VALUE_STRING, .string = str("text")},
                                {.type = AFF_VALUE_STRING}};
    aff_value read[4];
    assert_int_equal(aff_foreign_put_values(4, values, &data), 0);
    assert_int_equal(aff_foreign_get(data, read, 4), 4);
    assert_int_equal(read[0].integer, -5);
    assert_int_equal(read[1].type, AFF_VALUE_NIL);
    assert_true(is(read[2].string, "text"));
    assert_int_equal(read[3].string.len, 0);
    free((void *)data.data);
}

/* The application asks Redis by way of the instance: the answer is not the engine's. */
static void the_application_can_ask_redis_too(void **state) {
    (void)state;
    open_instance("");
    join();
    const aff_slice args[] = {str("HVALS"), str("rsaServers")};
    aff_slice data;
    assert_int_equal(aff_foreign_put(2, args, &data), 0);
    tell(&(aff_record){.kind = AFF_RECORD_ASK, .request = 7, .data = data});
    free((void *)data.data);
    aff_record asked = await(AFF_RECORD_REDIS_COMMAND), answered;
    assert_int_equal(asked.data.len, 4 + 5 + 4 + 10);
    uint64_t request = asked.request;
    const aff_value one = {.type = AFF_VALUE_STRING, .string = str("{}")};
    assert_int_equal(aff_foreign_put_values(1, &one, &data), 0);
    tell(&(aff_record){.kind = AFF_RECORD_REDIS_REPLY, .request = request, .data = data});
    answered = await(AFF_RECORD_ANSWER);
    assert_int_equal(answered.request, 7);
    assert_int_equal(answered.status, 0);
    assert_int_equal(answered.data.len, data.len);
    assert_memory_equal(answered.data.data, data.data, data.len);
    free((void *)data.data);
    tell(&(aff_record){.kind = AFF_RECORD_ASK, .request = 8, .data = str("abc")});
    answered = await(AFF_RECORD_ANSWER);
    assert_int_equal(answered.request, 8);
    assert_int_equal(answered.status, AFF_EINVAL);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_teardown(it_joins_renews_and_leaves, tear_down),
        cmocka_unit_test_teardown(it_claims_a_document_and_is_told_of_errors, tear_down),
        cmocka_unit_test_teardown(an_answer_that_can_not_be_read_is_an_error_of_redis, tear_down),
        cmocka_unit_test_teardown(commands_tell_whether_the_engine_has_heard_that_redis_was_down,
                                  tear_down),
        cmocka_unit_test_teardown(a_refusal_at_the_start_is_final_and_later_a_warning, tear_down),
        cmocka_unit_test_teardown(messages_are_sealed_and_checked_here, tear_down),
        cmocka_unit_test(values_are_read_within_their_bounds),
        cmocka_unit_test(commands_and_answers_come_through_as_they_were),
        cmocka_unit_test_teardown(the_application_can_ask_redis_too, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
