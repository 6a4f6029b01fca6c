/* runtime/seal.c: what is signed, and what is refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "seal.h"

static aff_slice str(const char *text) {
    return (aff_slice){(const uint8_t *)text, strlen(text)};
}

static aff_seal *new_seal(const char *current, const char *former) {
    aff_slice secrets[] = {str(current), str(former ? former : "")};
    aff_seal *seal = NULL;
    assert_int_equal(aff_seal_new(secrets, former ? 2 : 1, &seal), 0);
    return seal;
}

/* A copy of its own, so that a sanitizer sees who reads past its end; freed by the caller. */
static aff_slice seal_it(aff_seal *seal, const char *channel, aff_slice data) {
    aff_slice out;
    assert_int_equal(aff_seal_put(seal, str(channel), data, &out), 0);
    uint8_t *copy = malloc(out.len);
    assert_non_null(copy);
    memcpy(copy, out.data, out.len);
    return (aff_slice){copy, out.len};
}

static void forget(aff_slice sealed) {
    free((void *)sealed.data);
}

static int open_it(aff_seal *seal, const char *channel, aff_slice sealed) {
    aff_slice data = {(const uint8_t *)"untouched", 9};
    int verdict = aff_seal_open(seal, str(channel), sealed, &data);
    if (verdict != AFF_SEAL_GOOD) assert_string_equal((const char *)data.data, "untouched");
    return verdict;
}

static void expect_passes(aff_seal *from, aff_seal *to) {
    aff_slice sealed = seal_it(from, "c", str("hello")), data;
    assert_int_equal(aff_seal_open(to, str("c"), sealed, &data), AFF_SEAL_GOOD);
    assert_int_equal(data.len, 5);
    assert_memory_equal(data.data, "hello", 5);
    forget(sealed);
}

static void expect_refused(aff_seal *from, aff_seal *to) {
    aff_slice sealed = seal_it(from, "c", str("hello"));
    assert_int_equal(open_it(to, "c", sealed), AFF_SEAL_FORGED);
    forget(sealed);
}

static void test_what_is_sealed_is_opened(void **state) {
    (void)state;
    aff_seal *a = new_seal("one", NULL), *b = new_seal("one", NULL);
    static const size_t lens[] = {0, 1, 63, 64, 65, 1000, 256 << 10, 3 << 20, 5, 2 << 20, 0};
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        uint8_t *bytes = malloc(lens[i] + 1);
        assert_non_null(bytes);
        for (size_t n = 0; n < lens[i]; n++) bytes[n] = (uint8_t)(n * 7 + i);
        aff_slice sealed = seal_it(a, "rsaLink:x", (aff_slice){bytes, lens[i]}), data;
        assert_int_equal(sealed.data[0], AFF_SEAL_FORM);
        assert_int_equal(aff_seal_open(b, str("rsaLink:x"), sealed, &data), AFF_SEAL_GOOD);
        assert_int_equal(data.len, lens[i]);
        if (lens[i]) assert_memory_equal(data.data, bytes, lens[i]);
        forget(sealed);
        free(bytes);
    }
    aff_seal_free(a);
    aff_seal_free(b);
    aff_seal_free(NULL);
}

static void test_secrets_of_any_length(void **state) {
    (void)state;
    static uint8_t long_one[AFF_SECRET_MAX + 1];
    static const size_t lens[] = {1, 31, 32, 64, 65, AFF_SECRET_MAX};
    for (size_t i = 0; i < sizeof(lens) / sizeof(*lens); i++) {
        aff_seal *a = NULL, *b = NULL, *other = NULL;
        assert_int_equal(aff_seal_new(&(aff_slice){long_one, lens[i]}, 1, &a), 0);
        assert_int_equal(aff_seal_new(&(aff_slice){long_one, lens[i]}, 1, &b), 0);
        expect_passes(a, b);
        if (lens[i] > 1) { /* a shorter one of the same bytes is another one */
            assert_int_equal(aff_seal_new(&(aff_slice){long_one, lens[i] - 1}, 1, &other), 0);
            expect_refused(a, other);
        }
        aff_seal_free(a);
        aff_seal_free(b);
        aff_seal_free(other);
    }
    aff_seal *none = NULL;
    aff_slice three[] = {str("a"), str("b"), str("c")};
    assert_int_equal(aff_seal_new(&(aff_slice){long_one, 0}, 1, &none), AFF_EINVAL);
    assert_int_equal(aff_seal_new(&(aff_slice){long_one, AFF_SECRET_MAX + 1}, 1, &none),
                     AFF_EINVAL);
    assert_int_equal(aff_seal_new(three, 0, &none), AFF_EINVAL);
    assert_int_equal(aff_seal_new(three, 3, &none), AFF_EINVAL);
    assert_null(none);
}

static void h31_a_change_of_any_bit_is_refused(void **state) {
    (void)state;
    aff_seal *a = new_seal("one", NULL), *b = new_seal("one", NULL);
    aff_slice sealed = seal_it(a, "c", str("the data of a batch"));
    uint8_t *bytes = (uint8_t *)sealed.data;
    for (size_t bit = 0; bit < sealed.len * 8; bit++) {
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
        assert_int_equal(open_it(b, "c", sealed), AFF_SEAL_FORGED);
        bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    }
    for (size_t len = 0; len < sealed.len; len++) { /* memory of its own for each */
        uint8_t *shorter = malloc(len + 1);
        assert_non_null(shorter);
        memcpy(shorter + 1, bytes, len);
        assert_int_equal(open_it(b, "c", (aff_slice){shorter + 1, len}), AFF_SEAL_FORGED);
        free(shorter);
    }
    uint8_t longer[256] = {0};
    memcpy(longer, bytes, sealed.len);
    assert_int_equal(open_it(b, "c", (aff_slice){longer, sealed.len + 1}), AFF_SEAL_FORGED);
    assert_int_equal(open_it(b, "c", sealed), AFF_SEAL_GOOD); /* none of that spoilt it */
    forget(sealed);
    aff_seal_free(a);
    aff_seal_free(b);
}

static void h31_no_change_of_a_batch_with_two_signatures_changes_its_data(void **state) {
    (void)state;
    aff_seal *a = new_seal("two", "one");
    aff_slice sealed = seal_it(a, "c", str("the data of a batch"));
    uint8_t *bytes = (uint8_t *)sealed.data;
    size_t passed = 0, signatures = 2 * 20;
    for (size_t at = 0; at < sealed.len; at++) {
        aff_seal *b = new_seal("one", "two");
        aff_slice data;
        bytes[at] ^= 0x40;
        if (aff_seal_open(b, str("c"), sealed, &data) == AFF_SEAL_GOOD) {
            assert_int_equal(data.len, 19);
            assert_memory_equal(data.data, "the data of a batch", 19);
            assert_true(at >= 18 && at < 18 + signatures); /* the other one is enough */
            passed++;
        }
        bytes[at] ^= 0x40;
        aff_seal_free(b);
    }
    assert_int_equal(passed, signatures);
    forget(sealed);
    aff_seal_free(a);
}

static void h31_what_is_not_signed_is_refused(void **state) {
    (void)state;
    aff_seal *b = new_seal("one", NULL);
    uint8_t bytes[200];
    for (unsigned seed = 0; seed < 2000; seed++) {
        size_t len = seed % sizeof(bytes);
        for (size_t i = 0; i < len; i++) bytes[i] = (uint8_t)(seed * 31 + i * i * 17 + i / 3);
        if (len > 0 && seed % 2) bytes[0] = AFF_SEAL_FORM;
        if (len > 17 && seed % 2) bytes[17] = (uint8_t)(seed % 5);
        assert_int_equal(open_it(b, "c", (aff_slice){bytes, len}), AFF_SEAL_FORGED);
    }
    aff_seal_free(b);
}

static void h31_a_batch_is_good_for_one_channel(void **state) {
    (void)state;
    aff_seal *a = new_seal("one", NULL), *b = new_seal("one", NULL);
    aff_slice sealed = seal_it(a, "rsaLink:aaaaaaaaaaaa", str("hello"));
    assert_int_equal(open_it(b, "rsaLink:bbbbbbbbbbbb", sealed), AFF_SEAL_FORGED);
    assert_int_equal(open_it(b, "", sealed), AFF_SEAL_FORGED);
    assert_int_equal(open_it(b, "rsaLink:aaaaaaaaaaaa", sealed), AFF_SEAL_GOOD);
    forget(sealed);
    aff_seal_free(a);
    aff_seal_free(b);
}

static void h31_a_batch_is_good_once_and_in_its_order(void **state) {
    (void)state;
    aff_seal *a = new_seal("one", NULL), *b = new_seal("one", NULL), *c = new_seal("one", NULL);
    aff_slice first = seal_it(a, "c", str("1")), second = seal_it(a, "c", str("2"));
    aff_slice third = seal_it(a, "c", str("3")), other = seal_it(c, "c", str("1"));
    assert_int_equal(open_it(b, "c", first), AFF_SEAL_GOOD);
    assert_int_equal(open_it(b, "c", first), AFF_SEAL_REPLAYED);
    assert_int_equal(open_it(b, "c", third), AFF_SEAL_GOOD); /* the second was lost */
    assert_int_equal(open_it(b, "c", second), AFF_SEAL_REPLAYED);
    assert_int_equal(open_it(b, "c", third), AFF_SEAL_REPLAYED);
    assert_int_equal(open_it(b, "c", other), AFF_SEAL_GOOD); /* each sender counts for itself */
    aff_slice all[] = {first, second, third, other};
    for (size_t i = 0; i < 4; i++) forget(all[i]);
    aff_seal_free(a);
    aff_seal_free(b);
    aff_seal_free(c);
}

/* Servers come and go while their peers stay: whom a peer has heard, it knows. */
static void h31_many_senders_are_remembered(void **state) {
    (void)state;
    enum { SENDERS = 5000 };
    aff_seal *b = new_seal("one", NULL);
    aff_slice *sealed = calloc(SENDERS, sizeof(*sealed));
    assert_non_null(sealed);
    for (size_t i = 0; i < SENDERS; i++) {
        aff_seal *a = new_seal("one", NULL);
        sealed[i] = seal_it(a, "c", str("hello"));
        assert_int_equal(open_it(b, "c", sealed[i]), AFF_SEAL_GOOD);
        aff_seal_free(a);
    }
    for (size_t i = 0; i < SENDERS; i++) {
        assert_int_equal(open_it(b, "c", sealed[i]), AFF_SEAL_REPLAYED);
        forget(sealed[i]);
    }
    free(sealed);
    aff_seal_free(b);
}

/* Server by server: one -> [two, one] -> two. All that run side by side understand each other. */
static void h31_a_secret_is_changed_server_by_server(void **state) {
    (void)state;
    aff_seal *old = new_seal("one", NULL), *between = new_seal("two", "one");
    aff_seal *also = new_seal("two", "one"), *new = new_seal("two", NULL);
    expect_passes(old, between);
    expect_passes(between, old);
    expect_passes(between, also);
    expect_passes(between, new);
    expect_passes(new, between);
    expect_refused(old, new);
    expect_refused(new, old);
    aff_seal *stranger = new_seal("three", "four");
    expect_refused(stranger, between);
    expect_refused(between, stranger);
    aff_seal *all[] = {old, between, also, new, stranger};
    for (size_t i = 0; i < 5; i++) aff_seal_free(all[i]);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_what_is_sealed_is_opened),
        cmocka_unit_test(test_secrets_of_any_length),
        cmocka_unit_test(h31_a_change_of_any_bit_is_refused),
        cmocka_unit_test(h31_no_change_of_a_batch_with_two_signatures_changes_its_data),
        cmocka_unit_test(h31_what_is_not_signed_is_refused),
        cmocka_unit_test(h31_a_batch_is_good_for_one_channel),
        cmocka_unit_test(h31_a_batch_is_good_once_and_in_its_order),
        cmocka_unit_test(h31_many_senders_are_remembered),
        cmocka_unit_test(h31_a_secret_is_changed_server_by_server),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
