/* bytes.h - growing bytes with lib0's encodings, for models of what stands around the engine. */
#ifndef SIM_BYTES_H
#define SIM_BYTES_H

#include <stdlib.h>

#include "engine.h"

typedef struct {
    uint8_t *data;
    size_t len, cap;
} bytes;

static inline void add(bytes *to, const void *data, size_t len) {
    if (to->len + len > to->cap) {
        to->cap = (to->len + len) * 2 + 64;
        to->data = realloc(to->data, to->cap);
        AFF_ASSERT(to->data);
    }
    if (len) memcpy(to->data + to->len, data, len);
    to->len += len;
}

static inline void set(bytes *to, aff_slice from) {
    bytes fresh = {0};
    add(&fresh, from.data, from.len);
    free(to->data);
    *to = fresh;
}

static inline aff_slice slice(const bytes *b) {
    return (aff_slice){b->data, b->len};
}

static inline void add_uint(bytes *to, uint64_t value) {
    for (; value > 0x7f; value >>= 7) add(to, (uint8_t[]){(uint8_t)(value | 0x80)}, 1);
    add(to, (uint8_t[]){(uint8_t)value}, 1);
}

static inline void add_text(bytes *to, aff_slice text) {
    add_uint(to, text.len);
    add(to, text.data, text.len);
}

#endif
