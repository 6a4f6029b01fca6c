/*
 * map.h - a hash map from byte strings to structures that contain their map item.
 *
 * Keys come from clients, so the hash is SipHash-1-3 (J.-P. Aumasson and D. J. Bernstein, 2012)
 * under a secret seed: nobody can choose names that collide. For numbers that no client chooses the
 * last steps of MurmurHash3 do (A. Appleby, 2011).
 */
#ifndef AFF_MAP_H
#define AFF_MAP_H

#include "buf.h"

typedef struct aff__item {
    struct aff__item *chain;
    const uint8_t *key; /* of the structure around the item, unchanged while it is in a map */
    uint32_t key_len, hash;
} aff__item;

static inline void aff__item_init(aff__item *item, aff_slice key) {
    item->key = key.data;
    item->key_len = (uint32_t)key.len;
}

static inline aff_slice aff__item_key(const aff__item *item) {
    return (aff_slice){item->key, item->key_len};
}

typedef struct {
    aff__heap *heap;
    uint64_t seed;
    aff__item **slots;
    size_t slot_count, count;
    bool has_numbers; /* keys are numbers of servers, of up to 8 bytes: mixed, not hashed */
} aff__map;

void aff__map_init(aff__map *map, aff__heap *heap, uint64_t seed);
void aff__map_free(aff__map *map); /* the map, not what is in it */

aff__item *aff__map_get(const aff__map *map, aff_slice key);
void aff__map_put(aff__map *map, aff__item *item); /* its key must not be in the map */
void aff__map_remove(aff__map *map, aff__item *item);

/* Walks a map: `for (i = NULL; (i = aff__map_next(map, i));)`; the map must not change meanwhile.
 */
aff__item *aff__map_next(const aff__map *map, const aff__item *after);

uint64_t aff__hash(uint64_t seed, aff_slice bytes);

#endif
