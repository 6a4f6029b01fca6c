#include "buf.h"

void aff__buf_init(aff__buf *buf, aff__heap *heap) {
    *buf = (aff__buf){.heap = heap};
}

void aff__buf_free(aff__buf *buf) {
    aff__release(buf->heap, buf->data);
    aff__buf_init(buf, buf->heap);
}

void aff__buf_grow(aff__buf *buf, size_t more) {
    size_t cap = buf->cap ? buf->cap * 2 : 64;
    while (cap - buf->len < more) cap *= 2;
    buf->data = aff__grow(buf->heap, buf->data, cap);
    buf->cap = cap;
}

void aff__put_long_uint(aff__buf *buf, uint64_t value) {
    uint8_t bytes[10];
    size_t len = 0;
    for (; value > 0x7f; value >>= 7) bytes[len++] = (uint8_t)(value | 0x80);
    bytes[len++] = (uint8_t)value;
    aff__put(buf, bytes, len);
}

size_t aff__uint_len(uint64_t value) {
    size_t len = 1;
    for (; value > 0x7f; value >>= 7) len++;
    return len;
}

bool aff__get(aff_slice *rest, size_t len, aff_slice *out) {
    if (rest->len < len) return false;
    *out = (aff_slice){rest->data, len};
    if (len == 0) return true; /* of nothing, whose pointer may be NULL */
    rest->data += len;
    rest->len -= len;
    return true;
}

bool aff__get_long_uint(aff_slice *rest, uint64_t *out) {
    uint64_t value = 0;
    for (size_t i = 0; i < rest->len && i < 10; i++) {
        uint8_t byte = rest->data[i];
        if (i == 9 && byte > 1) return false; /* more than 64 bits */
        value |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80) {
            rest->data += i + 1;
            rest->len -= i + 1;
            *out = value;
            return true;
        }
    }
    return false;
}

bool aff__get_u32(aff_slice *rest, uint32_t *out) {
    aff_slice copy = *rest;
    uint64_t value;
    if (!aff__get_uint(&copy, &value) || value > UINT32_MAX) return false;
    *rest = copy;
    *out = (uint32_t)value;
    return true;
}
