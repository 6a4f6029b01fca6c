#include "control.h"

#include <stdlib.h>
#include <string.h>

/* Neither a version of a batch nor the first byte of what is sealed. */
static const uint8_t mark[8] = {'\0', 'a', 'f', 'f', 'c', 't', 'l', 1};

enum { HEAD = sizeof(mark) + 2 }; /* with the length of the channel's name */

static uint8_t *put(uint8_t *at, aff_slice part) {
    if (part.len > 0) memcpy(at, part.data, part.len);
    return at + part.len;
}

aff_slice aff_control_write(aff_slice channel, aff_slice body) {
    if (channel.len > AFF_CONTROL_CHANNEL_MAX) return (aff_slice){0};
    size_t len = HEAD + channel.len + body.len;
    uint8_t *message = malloc(len);
    if (message == NULL) return (aff_slice){0};
    uint8_t *at = put(message, (aff_slice){mark, sizeof(mark)});
    *at++ = (uint8_t)(channel.len & 0xff);
    *at++ = (uint8_t)(channel.len >> 8);
    (void)put(put(at, channel), body);
    return (aff_slice){message, len};
}

bool aff_control_read(aff_slice message, aff_slice *channel, aff_slice *body) {
    if (message.len < HEAD || memcmp(message.data, mark, sizeof(mark)) != 0) return false;
    const uint8_t *at = message.data + sizeof(mark);
    size_t len = (size_t)at[0] | (size_t)at[1] << 8;
    if (message.len - HEAD < len) return false;
    *channel = (aff_slice){message.data + HEAD, len};
    *body = (aff_slice){message.data + HEAD + len, message.len - HEAD - len};
    return true;
}
