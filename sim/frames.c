#include "frames.h"

#include <stdio.h>

void make_frame(bytes *out, aff_slice address, uint64_t type, aff_slice body) {
    add_text(out, address);
    add_uint(out, type);
    add(out, body.data, body.len);
}

void make_auth(bytes *out, aff_slice address, uint8_t kind, const char *text) {
    add_text(out, address);
    add(out, (uint8_t[]){AFF_HP_AUTH, kind}, 2);
    add_text(out, aff__str(text));
}

void make_token(bytes *out, aff_slice address, const char *token, const char *version) {
    make_auth(out, address, AFF_HP_TOKEN, token);
    if (version) add_text(out, aff__str(version));
}

void make_sync(bytes *out, aff_slice address, uint8_t step, uint64_t edits) {
    add_text(out, address);
    add(out, (uint8_t[]){SYNC, step}, 2);
    add_uint(out, edits);
}

void make_number(bytes *out, aff_slice address, uint64_t type, uint64_t number) {
    add_text(out, address);
    add_uint(out, type);
    add_uint(out, number);
}

void make_awareness(bytes *out, aff_slice address, uint64_t id, uint64_t clock, const char *state) {
    bytes update = {0};
    add_uint(&update, 1);
    add_uint(&update, id);
    add_uint(&update, clock);
    add_text(&update, aff__str(state));
    add_text(out, address);
    add_uint(out, AWARENESS);
    add_text(out, slice(&update));
    free(update.data);
}

void make_stateless(bytes *out, aff_slice address, aff_slice text) {
    add_text(out, address);
    add_uint(out, STATELESS);
    add_text(out, text);
}

aff_slice address_of(const char *text) {
    static char copy[2][256];
    static unsigned next;
    char *out = copy[next++ % 2];
    snprintf(out, 256, "%s", text);
    char *slash = strchr(out, '/');
    if (slash) *slash = '\0';
    return aff__slice(out, strlen(text));
}

bool is_edits(const aff__client_frame *frame) {
    return frame->type == SYNC && frame->sub <= UPDATE && frame->payload.len > 0;
}

uint64_t edits_in(const aff__client_frame *frame) {
    uint64_t edits = 0;
    aff_slice rest = frame->payload;
    AFF_ASSERT(aff__get_uint(&rest, &edits));
    return edits;
}

awareness awareness_in(const aff__client_frame *frame) {
    awareness out = {0};
    uint64_t count = 0;
    aff_slice rest = frame->payload;
    AFF_ASSERT(aff__get_uint(&rest, &count) && count == 1 && aff__get_uint(&rest, &out.id) &&
               aff__get_uint(&rest, &out.clock) && aff__get_bytes(&rest, &out.state));
    return out;
}

aff_slice stateless_in(const aff__client_frame *frame) {
    aff_slice rest = frame->body, text;
    uint64_t type;
    AFF_ASSERT(aff__get_uint(&rest, &type) && aff__get_bytes(&rest, &text));
    return text;
}

const char *word(aff_slice text) {
    static char words[4][256];
    static unsigned next;
    char *out = words[next++ % 4];
    if (text.len > 200) {
        snprintf(out, 256, "[%zu]", text.len);
        return out;
    }
    for (size_t i = 0; i < text.len; i++) out[i] = (char)(text.data[i] ? text.data[i] : '/');
    out[text.len] = '\0';
    return out;
}

const char *frame_word(aff_slice data) {
    static char out[512];
    static const char *const auths[] = {"token", "denied", "authenticated"};
    static const char *const steps[] = {"step1", "step2", "update"};
    aff__client_frame frame;
    AFF_ASSERT(aff__parse_client_frame(data, &frame));
    char body[300] = "close";
    if (frame.type == AFF_HP_AUTH) {
        AFF_ASSERT(frame.sub <= 2);
        snprintf(body, sizeof(body), "%s", auths[frame.sub]);
    } else if (is_edits(&frame)) {
        snprintf(body, sizeof(body), "%s:%llx", steps[frame.sub],
                 (unsigned long long)edits_in(&frame));
    } else if (frame.type == STATUS) {
        snprintf(body, sizeof(body), "status:%llu", (unsigned long long)frame.sub);
    } else if (frame.type == AWARENESS) {
        snprintf(body, sizeof(body), "aware:%s", word(awareness_in(&frame).state));
    } else if (frame.type == STATELESS) {
        snprintf(body, sizeof(body), "stateless:%s", word(frame.payload));
    } else if (frame.type != AFF_HP_CLOSE) {
        const char *text = word(aff__slice(frame.body.data + 1, frame.body.len - 1));
        snprintf(body, sizeof(body), "%s", text);
    }
    snprintf(out, sizeof(out), "%s:%s", word(frame.address), body);
    return out;
}
