/* runtime/queue.c: the one way across threads, and the layout that js/src/records.ts shares. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "queue.h"

static aff_slice str(const char *text) {
    return (aff_slice){(const uint8_t *)text, strlen(text)};
}

/* Three records; the same bytes as in test/node/records.test.mjs, where JavaScript writes them. */
static const char laid_out[] =
    "\x30\0\0\0\x07\x01\x6d\x10\x04\x03\x02\x01\xfd\xff\xff\xff\0\0\0\0\0\0\x40\x43"
    "\0\0\0\0\0\0\0\0\x03\0\0\0\x04\0\0\0docnamedata!"
    "\x29\0\0\0\x08\0\0\0\x09\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "frame"
    "\x32\0\0\0\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
    "\0\0\0\0\0\0\0\0\0\0\0\0\x08\0\0\0\x01\0\0\0\x0d\x0c\x0b\x0a"
    "to two";
enum { LAID_OUT = sizeof(laid_out) - 1 };

static const uint8_t two[] = {1, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a};

static aff_record record(int n) {
    switch (n) {
        case 0:
            return (aff_record){.kind = 7,
                                .flag = true,
                                .code = 4205,
                                .socket = 0x01020304,
                                .status = -3,
                                .request = (uint64_t)1 << 53,
                                .document = str("doc"),
                                .name = str("name"),
                                .data = str("data!")};
        case 1: return (aff_record){.kind = 8, .socket = 9, .data = str("frame")};
        default: return (aff_record){.kind = 10, .name = {two, sizeof(two)}, .data = str("to two")};
    }
}

static void assert_slice(aff_slice got, aff_slice wanted) {
    assert_int_equal(got.len, wanted.len);
    if (got.len) assert_memory_equal(got.data, wanted.data, got.len);
}

static void assert_records(const aff_block *block, int count) {
    aff_record got;
    size_t at = 0;
    for (int n = 0; n < count; n++) {
        aff_record wanted = record(n % 3);
        assert_true(aff_record_read(block, &at, &got));
        assert_int_equal(got.kind, wanted.kind);
        assert_int_equal(got.flag, wanted.flag);
        assert_int_equal(got.code, wanted.code);
        assert_int_equal(got.socket, wanted.socket);
        assert_int_equal(got.status, wanted.status);
        assert_true(got.request == wanted.request && got.bytes == wanted.bytes);
        assert_slice(got.document, wanted.document);
        assert_slice(got.name, wanted.name);
        assert_slice(got.data, wanted.data);
    }
    assert_false(aff_record_read(block, &at, &got));
}

static void test_records_have_one_layout(void **state) {
    (void)state;
    aff_queue queue;
    assert_int_equal(aff_queue_init(&queue, 1 << 20), 0);
    for (int n = 0; n < 3; n++) {
        aff_record r = record(n);
        assert_int_equal(aff_queue_push(&queue, &r, 5), 0);
    }
    aff_block block = aff_queue_take(&queue);
    assert_slice((aff_slice){block.data, block.len},
                 (aff_slice){(const uint8_t *)laid_out, LAID_OUT});
    assert_int_equal(block.credit, 15);
    assert_records(&block, 3);
    free(block.data);
    aff_queue_free(&queue);
}

static void test_records_laid_out_elsewhere_are_taken_in_order(void **state) {
    (void)state;
    aff_queue queue;
    assert_int_equal(aff_queue_init(&queue, 1 << 20), 0);
    assert_null(aff_queue_take(&queue).data);
    assert_int_equal(aff_queue_append(&queue, NULL, 0), 0);
    assert_int_equal(aff_queue_append(&queue, laid_out, LAID_OUT), 0);
    for (int n = 0; n < 3; n++) {
        aff_record r = record(n);
        assert_int_equal(aff_queue_push(&queue, &r, 0), 0);
    }
    assert_int_equal(aff_queue_append(&queue, laid_out, LAID_OUT), 0);
    aff_block block = aff_queue_take(&queue);
    assert_records(&block, 9);
    free(block.data);
    aff_queue_free(&queue);
}

static void test_a_full_queue_takes_none_of_them(void **state) {
    (void)state;
    aff_queue queue;
    assert_int_equal(aff_queue_init(&queue, 2 * LAID_OUT - 1), 0);
    assert_int_equal(aff_queue_append(&queue, laid_out, LAID_OUT), 0);
    assert_int_equal(aff_queue_append(&queue, laid_out, LAID_OUT), AFF_EFULL);
    aff_record r = record(0);
    assert_int_equal(aff_queue_push(&queue, &r, 0), 0); /* this one has room */
    aff_block block = aff_queue_take(&queue);
    assert_records(&block, 4);
    free(block.data);
    assert_int_equal(aff_queue_append(&queue, laid_out, LAID_OUT), 0);
    aff_queue_free(&queue);
}

/* ---- Two threads ------------------------------------------------------------------------------
 */

enum { ROUNDS = 2000 };

static void write_many(void *arg) {
    for (int n = 0; n < ROUNDS; n++) {
        aff_queue_append(arg, laid_out, LAID_OUT);
        for (int i = 0; i < 3; i++) {
            aff_record r = record(i);
            aff_queue_push(arg, &r, 0);
        }
    }
}

static void test_a_reader_takes_while_others_write(void **state) {
    (void)state;
    aff_queue queue;
    uv_thread_t writer;
    assert_int_equal(aff_queue_init(&queue, 1 << 30), 0);
    assert_int_equal(uv_thread_create(&writer, write_many, &queue), 0);
    aff_record got;
    for (int next = 0; next < ROUNDS * 6;) {
        aff_block block = aff_queue_take(&queue);
        for (size_t at = 0; aff_record_read(&block, &at, &got); next++) {
            assert_int_equal(got.kind, record(next % 3).kind);
        }
        free(block.data);
    }
    uv_thread_join(&writer);
    assert_null(aff_queue_take(&queue).data);
    aff_queue_free(&queue);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_records_have_one_layout),
        cmocka_unit_test(test_records_laid_out_elsewhere_are_taken_in_order),
        cmocka_unit_test(test_a_full_queue_takes_none_of_them),
        cmocka_unit_test(test_a_reader_takes_while_others_write),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
