#include "map.h"

static uint64_t rotate(uint64_t x, int by) {
    return (x << by) | (x >> (64 - by));
}

static inline void sip_round(uint64_t v[4]) {
    v[0] += v[1], v[2] += v[3];
    v[1] = rotate(v[1], 13) ^ v[0], v[3] = rotate(v[3], 16) ^ v[2];
    v[0] = rotate(v[0], 32);
    v[2] += v[1], v[0] += v[3];
    v[1] = rotate(v[1], 17) ^ v[2], v[3] = rotate(v[3], 21) ^ v[0];
    v[2] = rotate(v[2], 32);
}

uint64_t aff__hash(uint64_t seed, aff_slice bytes) {
    uint64_t k1 = seed * 0x9e3779b97f4a7c15u;
    uint64_t v[4] = {seed ^ 0x736f6d6570736575u, k1 ^ 0x646f72616e646f6du,
                     seed ^ 0x6c7967656e657261u, k1 ^ 0x7465646279746573u};
    size_t at = 0;
    for (; bytes.len - at >= 8; at += 8) {
        uint64_t word;
        memcpy(&word, bytes.data + at, 8);
        v[3] ^= word;
        sip_round(v);
        v[0] ^= word;
    }
    uint64_t last = (uint64_t)bytes.len << 56;
    if (at < bytes.len) memcpy(&last, bytes.data + at, bytes.len - at);
    v[3] ^= last;
    sip_round(v);
    v[0] ^= last;
    v[2] ^= 0xff;
    for (int i = 0; i < 3; i++) sip_round(v);
    return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void aff__map_init(aff__map *map, aff__heap *heap, uint64_t seed) {
    *map = (aff__map){.heap = heap, .seed = seed};
}

void aff__map_free(aff__map *map) {
    bool has_numbers = map->has_numbers;
    aff__release(map->heap, map->slots);
    aff__map_init(map, map->heap, map->seed);
    map->has_numbers = has_numbers;
}

static uint32_t hash_of(const aff__map *map, aff_slice key) {
    if (!map->has_numbers) return (uint32_t)aff__hash(map->seed, key);
    uint64_t x = 0;
    AFF_ASSERT(key.len <= sizeof(x));
    memcpy(&x, key.data, key.len);
    x ^= map->seed;
    x = (x ^ (x >> 33)) * 0xff51afd7ed558ccdu;
    x = (x ^ (x >> 33)) * 0xc4ceb9fe1a85ec53u;
    return (uint32_t)(x ^ (x >> 33));
}

static aff__item **slot_of(const aff__map *map, uint32_t hash) {
    return &map->slots[hash & (map->slot_count - 1)];
}

aff__item *aff__map_get(const aff__map *map, aff_slice key) {
    if (map->count == 0) return NULL;
    uint32_t hash = hash_of(map, key);
    for (aff__item *i = *slot_of(map, hash); i; i = i->chain) {
        if (i->hash == hash && aff__equal(aff__item_key(i), key)) return i;
    }
    return NULL;
}

static void grow(aff__map *map) {
    size_t old_count = map->slot_count;
    aff__item **old = map->slots;
    size_t count = old_count ? old_count * 2 : 16;
    map->slots = aff__alloc(map->heap, count * sizeof(*map->slots));
    map->slot_count = count;
    for (size_t s = 0; s < old_count; s++) {
        for (aff__item *i = old[s], *chain; i; i = chain) {
            chain = i->chain;
            aff__item **slot = slot_of(map, i->hash);
            i->chain = *slot;
            *slot = i;
        }
    }
    aff__release(map->heap, old);
}

void aff__map_put(aff__map *map, aff__item *item) {
    if (map->count >= map->slot_count) grow(map);
    item->hash = hash_of(map, aff__item_key(item));
    aff__item **slot = slot_of(map, item->hash);
    item->chain = *slot;
    *slot = item;
    map->count++;
}

void aff__map_remove(aff__map *map, aff__item *item) {
    aff__item **at = slot_of(map, item->hash);
    while (*at != item) {
        AFF_ASSERT(*at);
        at = &(*at)->chain;
    }
    *at = item->chain;
    map->count--;
}

aff__item *aff__map_next(const aff__map *map, const aff__item *after) {
    if (map->count == 0) return NULL;
    if (after && after->chain) return after->chain;
    size_t s = after ? (after->hash & (map->slot_count - 1)) + 1 : 0;
    for (; s < map->slot_count; s++) {
        if (map->slots[s]) return map->slots[s];
    }
    return NULL;
}
