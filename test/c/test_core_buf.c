/* Buffers and lib0's encodings, against what lib0 (0.2.x, encoding.js) writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine.h"

static aff__heap heap;

static int setup(void **state) {
    (void)state;
    aff__heap_init(&heap, NULL);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    aff__heap_free_all(&heap);
    return 0;
}

static const struct {
    uint64_t value;
    size_t len;
    uint8_t bytes[10];
} known[] = {
    {0, 1, {0}},
    {1, 1, {1}},
    {127, 1, {0x7f}},
    {128, 2, {0x80, 0x01}},
    {255, 2, {0xff, 0x01}},
    {300, 2, {0xac, 0x02}},
    {16383, 2, {0xff, 0x7f}},
    {16384, 3, {0x80, 0x80, 0x01}},
    {4294967295u, 5, {0xff, 0xff, 0xff, 0xff, 0x0f}},
    {9007199254740991u, 8, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x0f}}, /* 2^53 - 1 */
    {UINT64_MAX, 10, {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01}},
};

static void numbers_are_written_as_lib0_writes_them(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        aff__buf buf;
        aff__buf_init(&buf, &heap);
        aff__put_uint(&buf, known[i].value);
        assert_int_equal(buf.len, known[i].len);
        assert_memory_equal(buf.data, known[i].bytes, buf.len);
        assert_int_equal(aff__uint_len(known[i].value), known[i].len);
        aff__buf_free(&buf);
    }
}

static void numbers_are_read_back_and_the_rest_is_left(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        uint8_t bytes[11];
        memcpy(bytes, known[i].bytes, known[i].len);
        bytes[known[i].len] = 42;
        aff_slice rest = {bytes, known[i].len + 1};
        uint64_t value;
        uint8_t next;
        assert_true(aff__get_uint(&rest, &value));
        assert_true(value == known[i].value);
        assert_true(aff__get_u8(&rest, &next) && next == 42 && rest.len == 0);
    }
}

static void signed_numbers_of_both_kinds_are_small_near_zero(void **state) {
    (void)state;
    static const int64_t values[] = {0,  -1,        1,          -64,       63,
                                     64, INT32_MIN, UINT32_MAX, INT64_MIN, INT64_MAX};
    for (size_t i = 0; i < sizeof(values) / sizeof(*values); i++) {
        aff__buf buf;
        int64_t back;
        aff__buf_init(&buf, &heap);
        aff__put_int(&buf, values[i]);
        if (i < 5) assert_int_equal(buf.len, 1);
        aff_slice rest = aff__buf_slice(&buf);
        assert_true(aff__get_int(&rest, &back));
        assert_true(back == values[i]);
        assert_int_equal(rest.len, 0);
        assert_false(aff__get_int(&rest, &back));
        aff__buf_free(&buf);
    }
}

static void truncated_numbers_change_nothing(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        for (size_t len = 0; len < known[i].len; len++) {
            aff_slice rest = {known[i].bytes, len};
            uint64_t value = 99;
            assert_false(aff__get_uint(&rest, &value));
            assert_true(value == 99 && rest.len == len && rest.data == known[i].bytes);
        }
    }
}

static void numbers_of_more_than_64_bits_are_refused(void **state) {
    (void)state;
    uint8_t big[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02};
    uint8_t endless[] = {0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01};
    aff_slice rest = {big, sizeof(big)};
    uint64_t value;
    assert_false(aff__get_uint(&rest, &value));
    rest = aff__slice(endless, sizeof(endless));
    assert_false(aff__get_uint(&rest, &value));
    assert_int_equal(rest.len, sizeof(endless));
}

static void a_u32_has_32_bits(void **state) {
    (void)state;
    uint8_t most[] = {0xff, 0xff, 0xff, 0xff, 0x0f}, more[] = {0x80, 0x80, 0x80, 0x80, 0x10};
    aff_slice rest = {most, 5};
    uint32_t value = 0;
    assert_true(aff__get_u32(&rest, &value) && value == UINT32_MAX);
    rest = aff__slice(more, 5);
    assert_false(aff__get_u32(&rest, &value));
    assert_int_equal(rest.len, 5);
}

static void byte_strings_stand_behind_their_length(void **state) {
    (void)state;
    aff__buf buf;
    aff__buf_init(&buf, &heap);
    aff__put_bytes(&buf, aff__str("doc"));
    aff__put_bytes(&buf, aff__none());
    assert_int_equal(buf.len, 5);
    assert_memory_equal(buf.data, "\3doc\0", 5);
    aff_slice rest = aff__buf_slice(&buf), text;
    assert_true(aff__get_bytes(&rest, &text) && aff__equal(text, aff__str("doc")));
    assert_true(aff__get_bytes(&rest, &text) && text.len == 0 && rest.len == 0);
    assert_false(aff__get_bytes(&rest, &text));
    aff__buf_free(&buf);
}

static void byte_strings_longer_than_what_is_there_are_refused(void **state) {
    (void)state;
    const char *const inputs[] = {"\4doc",
                                  "\xff\xff\xff\xff\x0f"
                                  "doc",
                                  "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"
                                  "doc"};
    for (size_t i = 0; i < 3; i++) {
        aff_slice rest = aff__str(inputs[i]), text = {NULL, 7};
        size_t before = rest.len;
        assert_false(aff__get_bytes(&rest, &text));
        assert_int_equal(rest.len, before);
        assert_int_equal(text.len, 7);
    }
}

static void a_buffer_grows_and_gives_its_memory_back(void **state) {
    (void)state;
    aff__buf buf;
    aff__buf_init(&buf, &heap);
    for (unsigned i = 0; i < 100000; i++) aff__put_u8(&buf, (uint8_t)i);
    assert_int_equal(buf.len, 100000);
    for (unsigned i = 0; i < 100000; i++) assert_int_equal(buf.data[i], (uint8_t)i);
    aff__buf_free(&buf);
    assert_true(aff__list_empty(&heap.blocks));
    aff__buf_free(&buf); /* an empty one, too */
}

static void equal_compares_length_and_bytes(void **state) {
    (void)state;
    assert_true(aff__equal(aff__none(), aff__str("")));
    assert_true(aff__equal(aff__str("abc"), aff__str("abc")));
    assert_false(aff__equal(aff__str("abc"), aff__str("ab")));
    assert_false(aff__equal(aff__str("abc"), aff__str("abd")));
}

static void utf8_is_told_from_what_only_looks_like_it(void **state) {
    (void)state;
    const char *const good[] = {"",
                                "a",
                                "\xc2\x80",
                                "\xdf\xbf",
                                "\xe0\xa0\x80",
                                "\xed\x9f\xbf",
                                "\xef\xbf\xbf",
                                "\xf0\x90\x80\x80",
                                "\xf4\x8f\xbf\xbf"};
    const char *const bad[] = {"\x80",
                               "\xc0\x80",
                               "\xc1\xbf",
                               "\xc2",
                               "\xc2\x61",
                               "\xe0\x9f\xbf",
                               "\xed\xa0\x80",
                               "\xe2\x82",
                               "\xf0\x8f\xbf\xbf",
                               "\xf4\x90\x80\x80",
                               "\xf5\x80\x80\x80",
                               "\xff"};
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++) {
        assert_true(aff__is_utf8(aff__str(good[i])));
    }
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
        assert_false(aff__is_utf8(aff__str(bad[i])));
    }
}

static void a_client_frame_is_an_address_a_type_and_a_body(void **state) {
    (void)state;
    aff__client_frame frame;
    assert_true(aff__parse_client_frame(aff__slice("\x05"
                                                   "doc\0s\2\0\1t",
                                                   10),
                                        &frame));
    assert_true(aff__equal(frame.document, aff__str("doc")));
    assert_int_equal(frame.address.len, 5);
    assert_true(aff__equal(frame.address, aff__slice("doc\0s", 5)));
    assert_int_equal(frame.type, AFF_HP_AUTH);
    assert_int_equal(frame.sub, AFF_HP_TOKEN);
    assert_int_equal(frame.body.len, 4);
}

/* An empty slice has no address to count from: what is read of it stays where it is. */
static void nothing_can_be_read_of_nothing(void **state) {
    (void)state;
    aff_slice rest = {NULL, 0}, out = {(const uint8_t *)"x", 1};
    assert_true(aff__get(&rest, 0, &out));
    assert_null(out.data);
    assert_int_equal(out.len, 0);
    assert_null(rest.data);
    assert_false(aff__get(&rest, 1, &out));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_written_as_lib0_writes_them),
        cmocka_unit_test(numbers_are_read_back_and_the_rest_is_left),
        cmocka_unit_test(signed_numbers_of_both_kinds_are_small_near_zero),
        cmocka_unit_test(truncated_numbers_change_nothing),
        cmocka_unit_test(numbers_of_more_than_64_bits_are_refused),
        cmocka_unit_test(a_u32_has_32_bits),
        cmocka_unit_test(byte_strings_stand_behind_their_length),
        cmocka_unit_test(byte_strings_longer_than_what_is_there_are_refused),
        cmocka_unit_test(nothing_can_be_read_of_nothing),
        cmocka_unit_test(a_buffer_grows_and_gives_its_memory_back),
        cmocka_unit_test(equal_compares_length_and_bytes),
        cmocka_unit_test(utf8_is_told_from_what_only_looks_like_it),
        cmocka_unit_test(a_client_frame_is_an_address_a_type_and_a_body),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
