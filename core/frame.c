/* frame.c - the outer form of Hocuspocus's messages, as far as routing needs it. */
#include "engine.h"

bool aff__parse_client_frame(aff_slice frame, aff__client_frame *out) {
    aff_slice rest = frame, address;
    if (!aff__get_bytes(&rest, &address)) return false;
    const uint8_t *nul = address.len ? memchr(address.data, 0, address.len) : NULL;
    size_t name_len = nul ? (size_t)(nul - address.data) : address.len;
    *out = (aff__client_frame){
        .address = address,
        .document = aff__slice(address.data, name_len),
        .suffix = aff__slice(address.data + name_len, address.len - name_len),
        .body = rest,
    };
    if (!aff__get_uint(&rest, &out->type)) return false;
    if (out->type == AFF_HP_AUTH && !aff__get_uint(&rest, &out->auth)) return false;
    return true;
}
