/* frame.c - the outer form of Hocuspocus's messages, as far as routing needs it. */
#include "engine.h"

/* Is a byte sequence UTF-8 (RFC 3629)? */
bool aff__is_utf8(aff_slice s) {
    for (size_t i = 0; i < s.len;) {
        uint8_t byte = s.data[i++];
        if (byte < 0x80) continue;
        size_t more = byte >= 0xc2 && byte <= 0xdf ? 1 : (byte & 0xf0) == 0xe0 ? 2 : 3;
        if (byte < 0xc2 || byte > 0xf4 || s.len - i < more) return false;
        uint8_t first = s.data[i];
        bool out_of_range = (byte == 0xe0 && first < 0xa0) || (byte == 0xed && first > 0x9f) ||
                            (byte == 0xf0 && first < 0x90) || (byte == 0xf4 && first > 0x8f);
        if (out_of_range) return false;
        for (; more > 0; more--) {
            if ((s.data[i++] & 0xc0) != 0x80) return false;
        }
    }
    return true;
}

bool aff__parse_body(aff_slice body, aff__client_frame *out) {
    aff_slice rest = out->body = body;
    if (!aff__get_uint(&rest, &out->type)) return false;
    if (out->type == AFF_HP_AUTH && !aff__get_uint(&rest, &out->sub)) return false;
    if (out->type != AFF_HP_AUTH) aff__get_uint(&rest, &out->sub);
    out->payload = rest;
    return true;
}

bool aff__parse_client_frame(aff_slice frame, aff__client_frame *out) {
    aff_slice rest = frame, address;
    if (!aff__get_bytes(&rest, &address)) return false;
    const uint8_t *nul = address.len ? memchr(address.data, 0, address.len) : NULL;
    size_t name_len = nul ? (size_t)(nul - address.data) : address.len;
    *out = (aff__client_frame){
        .address = address,
        .document = aff__slice(address.data, name_len),
    };
    return aff__parse_body(rest, out);
}

bool aff__get_epoch(aff_slice *rest, uint64_t *out) {
    aff_slice copy = *rest;
    uint64_t epoch;
    if (!aff__get_uint(&copy, &epoch) || epoch > AFF_EPOCH_HEARD_MAX) return false;
    *rest = copy;
    *out = epoch;
    return true;
}
