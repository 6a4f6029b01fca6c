#include "provider.h"

#include <stdio.h>

void provider_authenticates(wire out, const provider *p) {
    bytes frame = {0};
    make_token(&frame, address_of(p->address), p->token, p->version);
    out.send(out.to, slice(&frame));
    free(frame.data);
}

void provider_sends(wire out, const provider *p, uint8_t step, uint64_t edits) {
    bytes frame = {0};
    make_sync(&frame, address_of(p->address), step, edits);
    out.send(out.to, slice(&frame));
    free(frame.data);
}

void provider_types(wire out, provider *p, unsigned edit_number) {
    p->edits |= 1ull << edit_number;
    p->unsynced++;
    provider_sends(out, p, UPDATE, 1ull << edit_number);
}

static void show_cursor(wire out, const provider *p) {
    bytes frame = {0};
    char state[24];
    snprintf(state, sizeof(state), "%llu", (unsigned long long)p->cursor);
    make_awareness(&frame, address_of(p->address), out.id, p->clock, state);
    out.send(out.to, slice(&frame));
    free(frame.data);
}

void provider_points(wire out, provider *p, uint64_t cursor) {
    p->cursor = cursor;
    p->clock++;
    show_cursor(out, p);
}

/* Only a later clock is believed, or that somebody has gone, under the one that was heard last.
 * What it hears about itself it outbids with its next move. */
static void on_awareness(wire out, provider *p, const awareness *seen) {
    AFF_ASSERT(seen->id >= 1 && seen->id < CLIENTS_MAX);
    uint64_t cursor = strtoull(word(seen->state), NULL, 10);
    if (seen->id == out.id) {
        if (seen->clock > p->clock) p->clock = seen->clock;
        if (cursor == 0 && seen->clock == p->clock && p->cursor) p->clock++;
    }
    bool goes = seen->clock == p->clocks[seen->id] && cursor == 0 && p->cursors[seen->id];
    if (seen->clock <= p->clocks[seen->id] && !goes) return;
    p->clocks[seen->id] = seen->clock;
    p->cursors[seen->id] = cursor;
}

static void on_auth(wire out, provider *p, uint64_t kind) {
    if (kind == AFF_HP_TOKEN) {
        p->tokens++;
        if (p->version && !p->hangs) provider_authenticates(out, p);
    } else if (kind == AFF_HP_DENIED) {
        p->ended = true;
    } else {
        p->authenticated = true;
        p->unsynced = 1;
        provider_sends(out, p, STEP1, p->edits);
        if (p->cursor) provider_points(out, p, p->cursor);
    }
}

static void on_edits(wire out, provider *p, const aff__client_frame *frame) {
    uint64_t edits = edits_in(frame);
    if (frame->sub == STEP1) {
        provider_sends(out, p, STEP2, p->edits & ~edits);
    } else {
        p->edits |= edits;
        if (frame->sub == STEP2) p->synced = true;
    }
}

void provider_receives(wire out, provider *p, const aff__client_frame *frame) {
    if (p->ended) return;
    if (frame->type == AFF_HP_AUTH) {
        on_auth(out, p, frame->sub);
    } else if (is_edits(frame)) {
        on_edits(out, p, frame);
    } else if (frame->type == AWARENESS) {
        awareness seen = awareness_in(frame);
        on_awareness(out, p, &seen);
    } else if (frame->type == STATUS && frame->sub == 1) {
        if (p->unsynced == 0)
            p->overpaid = true; /* nothing is acknowledged twice */
        else
            p->unsynced--;
    } else if (frame->type == AFF_HP_CLOSE) {
        p->ended = true;
    }
}
