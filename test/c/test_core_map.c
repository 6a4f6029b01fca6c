/* The hash map and its hash. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include <cmocka.h>

#include "engine.h"

enum { MANY = 5000 };

typedef struct {
    aff__item item;
    char name[16];
    unsigned visits;
} thing;

static aff__heap heap;
static aff__map map;
static thing things[MANY];

static int setup(void **state) {
    (void)state;
    aff__heap_init(&heap, NULL);
    aff__map_init(&map, &heap, 42);
    for (unsigned i = 0; i < MANY; i++) {
        things[i] = (thing){0};
        snprintf(things[i].name, sizeof(things[i].name), "thing %u", i);
        aff__item_init(&things[i].item, aff__str(things[i].name));
        aff__map_put(&map, &things[i].item);
    }
    return 0;
}

static int teardown(void **state) {
    (void)state;
    aff__map_free(&map);
    assert_true(aff__list_empty(&heap.blocks));
    return 0;
}

static void what_was_put_is_found_and_nothing_else(void **state) {
    (void)state;
    assert_int_equal(map.count, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        assert_ptr_equal(aff__map_get(&map, aff__str(things[i].name)), &things[i].item);
    }
    assert_null(aff__map_get(&map, aff__str("thing")));
    assert_null(aff__map_get(&map, aff__none()));
}

static void what_was_removed_is_gone_and_all_else_stays(void **state) {
    (void)state;
    for (unsigned i = 0; i < MANY; i += 3) aff__map_remove(&map, &things[i].item);
    for (unsigned i = 0; i < MANY; i++) {
        aff__item *found = aff__map_get(&map, aff__str(things[i].name));
        assert_ptr_equal(found, i % 3 == 0 ? NULL : &things[i].item);
    }
    for (unsigned i = 0; i < MANY; i += 3) aff__map_put(&map, &things[i].item);
    assert_int_equal(map.count, MANY);
}

static void a_walk_meets_everything_once(void **state) {
    (void)state;
    for (unsigned i = 0; i < MANY; i += 2) aff__map_remove(&map, &things[i].item);
    for (aff__item *i = NULL; (i = aff__map_next(&map, i));) AFF_OF(i, thing, item)->visits++;
    for (unsigned i = 0; i < MANY; i++) assert_int_equal(things[i].visits, i % 2);
}

static void an_empty_map_has_nothing(void **state) {
    (void)state;
    aff__map empty;
    aff__map_init(&empty, &heap, 1);
    assert_null(aff__map_get(&empty, aff__str("x")));
    assert_null(aff__map_next(&empty, NULL));
    thing one = {.item = {.key = (const uint8_t *)""}}; /* an empty key is a key */
    aff__map_put(&empty, &one.item);
    assert_ptr_equal(aff__map_get(&empty, aff__none()), &one.item);
    aff__map_remove(&empty, &one.item);
    assert_null(aff__map_next(&empty, NULL));
    aff__map_free(&empty);
}

static void chains_stay_short(void **state) {
    (void)state;
    size_t longest = 0;
    for (size_t s = 0; s < map.slot_count; s++) {
        size_t len = 0;
        for (aff__item *i = map.slots[s]; i; i = i->chain) len++;
        if (len > longest) longest = len;
    }
    assert_true(map.slot_count >= MANY);
    assert_in_range(longest, 1, 8);
}

/* Key 0, as CPython's `PYTHONHASHSEED=0 python3.11 -c 'print(hash(b"..."))'` gives them. */
static void the_hash_is_siphash_1_3(void **state) {
    (void)state;
    static const struct {
        const char *text;
        size_t len;
        uint64_t hash;
    } known[] = {
        {"a", 1, 0x407448d2b89b1813u},
        {"ab", 2, 0x555508cbc6add439u},
        {"abcdefg", 7, 0x6db12aae9070f506u},
        {"abcdefgh", 8, 0x3f7b849c0b8e35eau},
        {"abcdefghi", 9, 0xf89b34a3d11eb6e5u},
        {"a\0", 2, 0x9b310fba2c6d84d2u},
        {"0123456789abcdef0123", 20, 0x560ed5360a9a319au},
    };
    for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
        uint64_t hash = aff__hash(0, aff__slice(known[i].text, known[i].len));
        assert_true(hash == known[i].hash);
    }
}

static void the_seed_decides(void **state) {
    (void)state;
    unsigned differing_bits = 0;
    for (uint64_t seed = 0; seed < 64; seed++) {
        uint64_t difference =
            aff__hash(seed, aff__str("doc")) ^ aff__hash(seed + 1, aff__str("doc"));
        assert_true(difference != 0);
        differing_bits += (unsigned)__builtin_popcountll(difference);
    }
    assert_in_range(differing_bits / 64, 27, 37); /* about half of 64 */
}

static void bytes_at_the_end_count_even_if_zero(void **state) {
    (void)state;
    static const char zeros[16] = {'a'};
    for (size_t a = 1; a < 16; a++) {
        for (size_t b = a + 1; b <= 16; b++) {
            assert_true(aff__hash(7, aff__slice(zeros, a)) != aff__hash(7, aff__slice(zeros, b)));
        }
    }
}

static void numbers_are_found_like_names(void **state) {
    (void)state;
    static struct {
        aff__item item;
        uint32_t number;
    } numbers[MANY];
    aff__map by_number;
    aff__heap_init(&heap, NULL);
    aff__map_init(&by_number, &heap, 7);
    by_number.has_numbers = true;
    for (uint32_t i = 0; i < MANY; i++) {
        numbers[i].number = i * 3;
        aff__item_init(&numbers[i].item, aff__slice(&numbers[i].number, sizeof(uint32_t)));
        aff__map_put(&by_number, &numbers[i].item);
    }
    for (uint32_t n = 0; n < MANY * 3; n++) {
        aff__item *found = aff__map_get(&by_number, aff__slice(&n, sizeof(n)));
        assert_ptr_equal(found, n % 3 ? NULL : &numbers[n / 3].item);
    }
    aff__map_free(&by_number);
    assert_true(by_number.has_numbers);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_are_found_like_names),
        cmocka_unit_test_setup_teardown(what_was_put_is_found_and_nothing_else, setup, teardown),
        cmocka_unit_test_setup_teardown(what_was_removed_is_gone_and_all_else_stays, setup,
                                        teardown),
        cmocka_unit_test_setup_teardown(a_walk_meets_everything_once, setup, teardown),
        cmocka_unit_test_setup_teardown(an_empty_map_has_nothing, setup, teardown),
        cmocka_unit_test_setup_teardown(chains_stay_short, setup, teardown),
        cmocka_unit_test(the_hash_is_siphash_1_3),
        cmocka_unit_test(the_seed_decides),
        cmocka_unit_test(bytes_at_the_end_count_even_if_zero),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
