/* runtime/direct.c: two sides on one loop, who know each other or don't. */
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "direct.h"

enum { DEADLINE_MS = 10000, WORD_MAX = 512 };

typedef struct {
    aff_direct *direct;
    aff_seal *seal;
    const char *process;
    unsigned ups, downs, forged, messages;
    char reason[WORD_MAX], last[WORD_MAX];
} side;

static uv_loop_t loop;

static aff_slice str(const char *text) {
    return (aff_slice){(const uint8_t *)text, strlen(text)};
}

static void on_up(void *arg, aff_slice process) {
    side *s = arg;
    assert_int_equal(process.len, AFF_PROCESS_LEN);
    s->ups++;
}

static void on_down(void *arg, aff_slice process, const char *reason) {
    side *s = arg;
    assert_int_equal(process.len, AFF_PROCESS_LEN);
    s->downs++;
    snprintf(s->reason, sizeof(s->reason), "%s", reason);
}

static void on_message(void *arg, aff_slice batch) {
    side *s = arg;
    s->messages++;
    snprintf(s->last, sizeof(s->last), "%.*s", (int)(batch.len < 100 ? batch.len : 100),
             (const char *)batch.data);
}

static void on_forged(void *arg) {
    ((side *)arg)->forged++;
}

static const aff_direct_callbacks callbacks = {
    .up = on_up, .down = on_down, .message = on_message, .forged = on_forged};

static void open_side(side *s, const char *process, const char *secret, const char *advertise) {
    aff_slice secrets[] = {str(secret)};
    char error[WORD_MAX] = "";
    *s = (side){.process = process};
    assert_int_equal(aff_seal_new(secrets, 1, &s->seal), 0);
    aff_direct_config config = {.host = "127.0.0.1", .advertise = advertise};
    int status =
        aff_direct_open(&loop, &config, s->seal, &callbacks, s, &s->direct, error, sizeof(error));
    if (status != 0) fail_msg("%s", error);
    assert_int_equal(aff_direct_start(s->direct, process, "rsa"), 0);
}

static void close_side(side *s) {
    aff_direct_close(s->direct);
    aff_seal_free(s->seal);
}

/* Runs the loop until `*count` is `wanted`. */
static void until(const unsigned *count, unsigned wanted) {
    uv_update_time(&loop);
    uint64_t end = uv_now(&loop) + DEADLINE_MS;
    while (*count != wanted) {
        uv_run(&loop, UV_RUN_NOWAIT);
        assert_true(uv_now(&loop) < end);
    }
}

static void dial(side *from, const side *to, const char *process) {
    aff_direct_dial(from->direct, str(process), str(aff_direct_address(to->direct)));
}

static void say(side *from, const char *process, const char *text) {
    aff_direct_send(from->direct, str(process), str(text));
    aff_direct_flush(from->direct);
}

static int set_up(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    return uv_loop_init(&loop);
}

static int tear_down(void **state) {
    (void)state;
    while (uv_run(&loop, UV_RUN_DEFAULT)) {
    }
    return uv_loop_close(&loop);
}

#define PROCESS_A "aaaaaaaaaaaa"
#define PROCESS_B "bbbbbbbbbbbb"
#define PROCESS_C "cccccccccccc"

static void batches_go_where_they_are_sent_in_their_order(void **state) {
    (void)state;
    side a, b;
    open_side(&a, PROCESS_A, "secret", NULL);
    open_side(&b, PROCESS_B, "secret", NULL);
    dial(&a, &b, PROCESS_B);
    dial(&b, &a, PROCESS_A);
    say(&a, PROCESS_B, "too early: dropped");
    until(&a.ups, 1);
    until(&b.ups, 1);
    for (unsigned n = 1; n <= 1000; n++) {
        char text[32];
        snprintf(text, sizeof(text), "batch %u", n);
        say(&a, PROCESS_B, text);
        say(&b, PROCESS_A, text);
        until(&b.messages, n);
        assert_string_equal(b.last, text);
    }
    until(&a.messages, 1000);
    static char big[300000];
    memset(big, 'x', sizeof(big) - 1);
    say(&a, PROCESS_B, big);
    say(&a, PROCESS_B, "behind it");
    until(&b.messages, 1002);
    assert_string_equal(b.last, "behind it");
    assert_int_equal(a.downs + b.downs + a.forged + b.forged, 0);
    close_side(&a);
    close_side(&b);
}

static void another_process_at_the_address_is_not_taken_for_the_wanted_one(void **state) {
    (void)state;
    side a, b;
    open_side(&a, PROCESS_A, "secret", NULL);
    open_side(&b, PROCESS_B, "secret", NULL);
    dial(&a, &b, PROCESS_C);
    until(&a.downs, 1);
    assert_int_equal(a.ups, 0);
    say(&a, PROCESS_C, "for nobody");
    dial(&a, &b, PROCESS_B);
    until(&a.ups, 1);
    say(&a, PROCESS_B, "for you");
    until(&b.messages, 1);
    assert_string_equal(b.last, "for you");
    close_side(&a);
    close_side(&b);
}

static void h31_another_secret_opens_nothing(void **state) {
    (void)state;
    side a, b;
    open_side(&a, PROCESS_A, "secret", NULL);
    open_side(&b, PROCESS_B, "another", NULL);
    dial(&a, &b, PROCESS_B);
    until(&a.downs, 1);
    assert_int_equal(b.forged, 1);
    assert_int_equal(a.ups + b.messages, 0);
    close_side(&a);
    close_side(&b);
}

static void it_goes_down_with_the_other_side(void **state) {
    (void)state;
    side a, b;
    open_side(&a, PROCESS_A, "secret", NULL);
    open_side(&b, PROCESS_B, "secret", NULL);
    dial(&a, &b, PROCESS_B);
    until(&a.ups, 1);
    close_side(&b);
    until(&a.downs, 1);
    say(&a, PROCESS_B, "for nobody");
    close_side(&a);
}

static void who_hangs_up_hears_nothing_more(void **state) {
    (void)state;
    side a, b;
    open_side(&a, PROCESS_A, "secret", NULL);
    open_side(&b, PROCESS_B, "secret", NULL);
    dial(&a, &b, PROCESS_B);
    aff_direct_hang_up(a.direct, str(PROCESS_B));
    dial(&a, &b, PROCESS_B);
    until(&a.ups, 1);
    aff_direct_hang_up(a.direct, str(PROCESS_B));
    aff_direct_hang_up(a.direct, str(PROCESS_B));
    dial(&a, &b, PROCESS_B);
    until(&a.ups, 2);
    say(&a, PROCESS_B, "again");
    until(&b.messages, 1);
    assert_int_equal(a.downs, 0);
    close_side(&a);
    close_side(&b);
}

static void what_can_not_be_dialled_goes_down(void **state) {
    (void)state;
    static const char *const addresses[] = {"",       "127.0.0.1",   "127.0.0.1:",   ":5",
                                            "host:0", "host:65536",  "host:5x",      "[::1]",
                                            "[]:5",   "127.0.0.1:1", "[127.0.0.1]:1"};
    side a;
    open_side(&a, PROCESS_A, "secret", NULL);
    for (unsigned n = 0; n < sizeof(addresses) / sizeof(*addresses); n++) {
        aff_direct_dial(a.direct, str(PROCESS_B), str(addresses[n]));
        assert_int_equal(a.downs, n); /* not from within */
        until(&a.downs, n + 1);
        assert_true(a.reason[0] != '\0');
    }
    aff_direct_dial(a.direct, str("no process"), str("127.0.0.1:1")); /* ignored */
    assert_int_equal(a.ups, 0);
    close_side(&a);
}

static void an_address_is_told_with_its_port(void **state) {
    (void)state;
    side a;
    char expected[64];
    static const struct {
        const char *advertise, *format;
    } cases[] = {{NULL, "127.0.0.1:%u"},   {"example.org", "example.org:%u"},
                 {"::1", "[::1]:%u"},      {"[::1]", "[::1]:%u"},
                 {"[::1]:80", "[::1]:80"}, {"example.org:80", "example.org:80"}};
    for (size_t n = 0; n < sizeof(cases) / sizeof(*cases); n++) {
        open_side(&a, PROCESS_A, "secret", cases[n].advertise);
        const char *format = cases[n].format;
        const char *percent = strchr(format, '%');
        if (percent) {
            snprintf(expected, sizeof(expected), "%.*s%u", (int)(percent - format), format,
                     aff_direct_port(a.direct));
        } else {
            snprintf(expected, sizeof(expected), "%s", format);
        }
        assert_string_equal(aff_direct_address(a.direct), expected);
        close_side(&a);
    }
}

static void what_can_not_be_listened_at_is_said(void **state) {
    (void)state;
    side a, b = {0};
    char error[WORD_MAX] = "";
    open_side(&a, PROCESS_A, "secret", NULL);
    aff_direct_config config = {.host = "127.0.0.1", .port = aff_direct_port(a.direct)};
    assert_int_equal(
        aff_direct_open(&loop, &config, a.seal, &callbacks, &b, &b.direct, error, sizeof(error)),
        AFF_EINVAL);
    assert_non_null(strstr(error, "in use"));
    config = (aff_direct_config){.host = "127.0.0.1", .has_tls = true};
    assert_int_equal(
        aff_direct_open(&loop, &config, a.seal, &callbacks, &b, &b.direct, error, sizeof(error)),
        AFF_EINVAL);
    close_side(&a);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(batches_go_where_they_are_sent_in_their_order, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(
            another_process_at_the_address_is_not_taken_for_the_wanted_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(h31_another_secret_opens_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(it_goes_down_with_the_other_side, set_up, tear_down),
        cmocka_unit_test_setup_teardown(who_hangs_up_hears_nothing_more, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_can_not_be_dialled_goes_down, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_address_is_told_with_its_port, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_can_not_be_listened_at_is_said, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
