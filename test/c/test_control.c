/* runtime/control.c: the outer form of questions and answers. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "control.h"

static aff_slice str(const char *text) {
    return (aff_slice){(const uint8_t *)text, strlen(text)};
}

static void expect(aff_slice slice, aff_slice expected) {
    assert_int_equal(slice.len, expected.len);
    if (expected.len > 0) assert_memory_equal(slice.data, expected.data, expected.len);
}

/* Reads memory that ends where the message does, so that a sanitizer sees who reads past it. */
static bool read_copy(const uint8_t *message, size_t len) {
    uint8_t *copy = malloc(len + 1);
    assert_non_null(copy);
    memcpy(copy + 1, message, len);
    aff_slice channel = str("untouched"), body = str("untouched");
    bool good = aff_control_read((aff_slice){copy + 1, len}, &channel, &body);
    if (!good) {
        expect(channel, str("untouched"));
        expect(body, str("untouched"));
    }
    free(copy);
    return good;
}

/* As docs/PROTOCOL.md has it: other programs, and other machines, read it. */
static void test_the_bytes_are_those_of_the_protocol(void **state) {
    (void)state;
    static const uint8_t expected[] = {0, 'a', 'f', 'f', 'c', 't', 'l', 1,
                                       3, 0,   'c', 'h', 'n', '{', '}'};
    aff_slice message = aff_control_write(str("chn"), str("{}"));
    expect(message, (aff_slice){expected, sizeof(expected)});
    free((void *)message.data);

    static uint8_t name[0x0102];
    message = aff_control_write((aff_slice){name, sizeof(name)}, str(""));
    assert_int_equal(message.len, 10 + sizeof(name));
    assert_int_equal(message.data[8], 0x02); /* least significant byte first */
    assert_int_equal(message.data[9], 0x01);
    free((void *)message.data);
}

static void test_what_is_written_is_read(void **state) {
    (void)state;
    static uint8_t bytes[AFF_CONTROL_CHANNEL_MAX];
    for (size_t i = 0; i < sizeof(bytes); i++) bytes[i] = (uint8_t)(i * 7);
    static const size_t lens[] = {0, 1, 255, 256, 1000, AFF_CONTROL_CHANNEL_MAX};
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        for (size_t n = 0; n < sizeof(lens) / sizeof(*lens); n++) {
            aff_slice channel, body, a = {bytes, lens[i]}, b = {bytes, lens[n]};
            aff_slice message = aff_control_write(a, b);
            assert_true(aff_control_read(message, &channel, &body));
            expect(channel, a);
            expect(body, b);
            free((void *)message.data);
        }
    }
    aff_slice none = {NULL, 0}, channel, body;
    aff_slice message = aff_control_write(none, none);
    assert_true(aff_control_read(message, &channel, &body));
    expect(channel, none);
    expect(body, none);
    free((void *)message.data);
}

static void test_a_name_that_is_too_long_is_not_cut(void **state) {
    (void)state;
    static uint8_t name[AFF_CONTROL_CHANNEL_MAX + 1];
    assert_null(aff_control_write((aff_slice){name, sizeof(name)}, str("{}")).data);
}

/* Anybody who may publish can send anything. */
static void test_anything_else_is_left_alone(void **state) {
    (void)state;
    aff_slice message = aff_control_write(str("channel"), str(""));
    assert_true(read_copy(message.data, message.len));
    for (size_t len = 0; len < message.len; len++) assert_false(read_copy(message.data, len));
    uint8_t *bytes = (uint8_t *)message.data;
    for (size_t bit = 0; bit < 64; bit++) { /* of the mark */
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_false(read_copy(bytes, message.len));
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    bytes[8] = 8; /* one more than there are */
    assert_false(read_copy(bytes, message.len));
    bytes[8] = bytes[9] = 0xff;
    assert_false(read_copy(bytes, message.len));
    free(bytes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_the_bytes_are_those_of_the_protocol),
        cmocka_unit_test(test_what_is_written_is_read),
        cmocka_unit_test(test_a_name_that_is_too_long_is_not_cut),
        cmocka_unit_test(test_anything_else_is_left_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
