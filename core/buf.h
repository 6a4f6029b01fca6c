/*
 * buf.h - growing byte buffers, and lib0's encodings (as in Yjs): unsigned integers of 7 bits a
 * byte, least significant first, and byte strings behind their length.
 */
#ifndef AFF_BUF_H
#define AFF_BUF_H

#include <string.h>

#include "alloc.h"

typedef struct {
    aff__heap *heap;
    uint8_t *data;
    size_t len, cap;
} aff__buf;

void aff__buf_init(aff__buf *buf, aff__heap *heap);
void aff__buf_free(aff__buf *buf); /* also: empties it and gives its memory back */
void aff__buf_grow(aff__buf *buf, size_t more);
void aff__put_long_uint(aff__buf *buf, uint64_t value);
size_t aff__uint_len(uint64_t value);

static inline void aff__buf_reserve(aff__buf *buf, size_t more) {
    if (buf->cap - buf->len < more) aff__buf_grow(buf, more);
}

static inline void aff__put(aff__buf *buf, const void *data, size_t len) {
    if (len == 0) return;
    aff__buf_reserve(buf, len);
    memcpy(buf->data + buf->len, data, len);
    buf->len += len;
}

static inline void aff__put_u8(aff__buf *buf, uint8_t value) {
    aff__buf_reserve(buf, 1);
    buf->data[buf->len++] = value;
}

static inline void aff__put_uint(aff__buf *buf, uint64_t value) {
    if (value < 0x80) {
        aff__put_u8(buf, (uint8_t)value);
    } else {
        aff__put_long_uint(buf, value);
    }
}

/* A signed number: 0, -1, 1, -2, 2 ... as 0, 1, 2, 3, 4 ... */
static inline void aff__put_int(aff__buf *buf, int64_t value) {
    aff__put_uint(buf, value < 0 ? ~((uint64_t)value << 1) : (uint64_t)value << 1);
}

/* length, then the bytes */
static inline void aff__put_bytes(aff__buf *buf, aff_slice bytes) {
    aff__put_uint(buf, bytes.len);
    aff__put(buf, bytes.data, bytes.len);
}

static inline aff_slice aff__slice(const void *data, size_t len) {
    return (aff_slice){data, len};
}

static inline aff_slice aff__str(const char *text) {
    return (aff_slice){(const uint8_t *)text, strlen(text)};
}

static inline aff_slice aff__buf_slice(const aff__buf *buf) {
    return (aff_slice){buf->data, buf->len};
}

static inline bool aff__equal(aff_slice a, aff_slice b) {
    return a.len == b.len && (a.len == 0 || memcmp(a.data, b.data, a.len) == 0);
}

/* Reading: the slice is the rest; false, with nothing changed, where it is too short or wrong. */
bool aff__get_long_uint(aff_slice *rest, uint64_t *out);
bool aff__get_u32(aff_slice *rest, uint32_t *out); /* a lib0 integer that fits */
bool aff__get(aff_slice *rest, size_t len, aff_slice *out);

static inline bool aff__get_u8(aff_slice *rest, uint8_t *out) {
    if (rest->len == 0) return false;
    *out = *rest->data++;
    rest->len--;
    return true;
}

static inline bool aff__get_uint(aff_slice *rest, uint64_t *out) {
    if (rest->len == 0 || rest->data[0] >= 0x80) return aff__get_long_uint(rest, out);
    *out = *rest->data++;
    rest->len--;
    return true;
}

static inline bool aff__get_int(aff_slice *rest, int64_t *out) {
    uint64_t value;
    if (!aff__get_uint(rest, &value)) return false;
    *out = (int64_t)(value >> 1) ^ -(int64_t)(value & 1);
    return true;
}

static inline bool aff__get_bytes(aff_slice *rest, aff_slice *out) {
    aff_slice copy = *rest;
    uint64_t len;
    if (!aff__get_uint(&copy, &len) || !aff__get(&copy, len, out)) return false;
    *rest = copy;
    return true;
}

#endif
