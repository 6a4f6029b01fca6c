#include "foreign.h"

#include <stdlib.h>
#include <string.h>

enum { NIL, NUMBER, STRING };

int aff_foreign_put(int argc, const aff_slice *args, aff_slice *out) {
    size_t total = 0;
    for (int i = 0; i < argc; i++) total += sizeof(uint32_t) + args[i].len;
    uint8_t *bytes = malloc(total + 1);
    if (!bytes) return AFF_ENOMEM;
    uint8_t *at = bytes;
    for (int i = 0; i < argc; i++) {
        uint32_t len = (uint32_t)args[i].len;
        memcpy(at, &len, sizeof(len));
        at += sizeof(len);
        if (len > 0) memcpy(at, args[i].data, len);
        at += len;
    }
    *out = (aff_slice){bytes, total};
    return 0;
}

static bool take(aff_slice *from, void *to, size_t len) {
    if (from->len < len) return false;
    memcpy(to, from->data, len);
    *from = (aff_slice){from->data + len, from->len - len};
    return true;
}

/* Whole, and exact: the engine's numbers are counts. */
static bool take_number(aff_slice *from, int64_t *out) {
    double number;
    if (!take(from, &number, sizeof(number))) return false;
    if (!(number >= -9007199254740992.0 && number <= 9007199254740992.0)) return false;
    *out = (int64_t)number;
    return true;
}

static bool take_string(aff_slice *from, aff_slice *out) {
    uint32_t len;
    if (!take(from, &len, sizeof(len)) || from->len < len) return false;
    *out = (aff_slice){from->data, len};
    *from = (aff_slice){from->data + len, from->len - len};
    return true;
}

int aff_foreign_get_args(aff_slice data, aff_slice *out, int max) {
    int count = 0;
    while (data.len > 0) {
        if (count == max || !take_string(&data, &out[count])) return AFF_EPROTO;
        count++;
    }
    return count;
}

static size_t size_of(const aff_value *value) {
    if (value->type == AFF_VALUE_INT) return 1 + sizeof(double);
    return value->type == AFF_VALUE_STRING ? 1 + sizeof(uint32_t) + value->string.len : 1;
}

static uint8_t *put_value(uint8_t *at, const aff_value *value) {
    double number = (double)value->integer;
    uint32_t len = (uint32_t)value->string.len;
    switch (value->type) {
        case AFF_VALUE_INT:
            *at++ = NUMBER;
            memcpy(at, &number, sizeof(number));
            return at + sizeof(number);
        case AFF_VALUE_STRING:
            *at++ = STRING;
            memcpy(at, &len, sizeof(len));
            at += sizeof(len);
            if (len > 0) memcpy(at, value->string.data, len);
            return at + len;
        default: *at++ = NIL; return at;
    }
}

int aff_foreign_put_values(size_t count, const aff_value *values, aff_slice *out) {
    size_t total = 0;
    for (size_t i = 0; i < count; i++) total += size_of(&values[i]);
    uint8_t *bytes = malloc(total + 1), *at = bytes;
    if (!bytes) return AFF_ENOMEM;
    for (size_t i = 0; i < count; i++) at = put_value(at, &values[i]);
    *out = (aff_slice){bytes, total};
    return 0;
}

static bool take_value(aff_slice *from, aff_value *out) {
    uint8_t type;
    *out = (aff_value){.type = AFF_VALUE_NIL};
    if (!take(from, &type, 1)) return false;
    if (type == NUMBER) {
        out->type = AFF_VALUE_INT;
        return take_number(from, &out->integer);
    }
    if (type == STRING) {
        out->type = AFF_VALUE_STRING;
        return take_string(from, &out->string);
    }
    return type == NIL;
}

int aff_foreign_get(aff_slice data, aff_value *out, int max) {
    int count = 0;
    while (data.len > 0 && count < max) {
        if (!take_value(&data, &out[count])) return AFF_EPROTO;
        count++;
    }
    return count;
}
