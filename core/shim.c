/*
 * shim.c - what stands in for a client when its document moves to another owner.
 *
 * The client must not notice, so the shim does what the client would do on a new connection: it
 * authenticates, synchronises and shows its cursor, from what the client has sent before.
 *
 *            the owner is lost                     the client's fresh Auth
 *   IDLE -------------------------> TOKEN -------------------------------------> AUTH
 *     ^  \                                                                        ^ |
 *     |   +--a provider that can't be asked (older than 3.3): its Auth again------+ |
 *     |                                                                             |
 *     +--the owner acknowledges the client's SyncStep2-- SYNC <--Authenticated------+
 *
 * TOKEN: the client is asked for a token (as the server does for a token sync; providers since 3.3
 * answer with an Auth frame). AUTH: the new owner has got Auth, the client's last SyncStep1 (an old
 * state vector is a valid lower bound) and its last awareness. What the client sends of its
 * document before Authenticated is dropped: its SyncStep2 contains it. SYNC: the owner has asked
 * for what it lacks; the client's answer holds all its edits.
 *
 * The provider counts what is not acknowledged: SyncStep1 sets its counter to 1, an Update adds 1,
 * a SyncStatus of 1 subtracts 1. The shim counts along. The acknowledgement of the SyncStep2
 * settles all that the former owners had not acknowledged. Each SyncStep1 of an owner is answered
 * by one SyncStep2: those that answer a former owner are dropped, so that none is acknowledged in
 * vain.
 */
#include "engine.h"

enum { TOKEN_WITHIN_MS = 5000 };
enum { SYNC = 0, AWARENESS = 1, SYNC_REPLY = 4, STEP1 = 0, STEP2 = 1, UPDATE = 2, STATUS = 8 };

static bool is_sync(const aff__client_frame *frame) {
    return frame->type == SYNC || frame->type == SYNC_REPLY;
}

static bool is_token(const aff__client_frame *frame) {
    return frame->type == AFF_HP_AUTH && frame->sub == AFF_HP_TOKEN;
}

/* Providers since 3.3 send their version behind the token, and answer a request for a token. */
static bool can_be_asked(const aff__shim *shim) {
    aff__client_frame frame;
    aff_slice token, version;
    if (!aff__parse_body(aff__shim_known(shim, AFF_KNOWN_AUTH), &frame)) return false;
    aff_slice rest = frame.payload;
    if (!aff__get_bytes(&rest, &token) || !aff__get_bytes(&rest, &version)) return false;
    unsigned numbers[2] = {0, 0};
    for (size_t i = 0, n = 0; i < version.len && n < 2; i++) {
        uint8_t c = version.data[i];
        if (c == '.') {
            n++;
        } else if (c >= '0' && c <= '9' && numbers[n] < 10000) {
            numbers[n] = numbers[n] * 10 + (unsigned)(c - '0');
        } else {
            return false;
        }
    }
    return numbers[0] > 3 || (numbers[0] == 3 && numbers[1] >= 3);
}

void aff__shim_init(aff__shim *shim) {
    *shim = (aff__shim){.phase = AFF_SHIM_IDLE};
}

static void wait_for_token(aff_engine *e, aff__shim *shim) {
    aff__token_wait *wait = shim->wait = aff__alloc(&e->heap, sizeof(*wait));
    wait->shim = shim;
    wait->deadline = e->now + TOKEN_WITHIN_MS;
    aff__list_append(&e->shims, &wait->by_time);
}

static void end_wait(aff_engine *e, aff__shim *shim) {
    if (shim->wait) aff__list_remove(&shim->wait->by_time);
    aff__release(&e->heap, shim->wait);
    shim->wait = NULL;
}

void aff__shim_free(aff_engine *e, aff__shim *shim) {
    aff__release(&e->heap, shim->known);
    end_wait(e, shim);
}

aff_slice aff__shim_known(const aff__shim *shim, aff__known_kind kind) {
    if (!shim->known) return aff__none();
    size_t at = 0;
    for (int k = 0; k < (int)kind; k++) at += shim->known->lens[k];
    return aff__slice(shim->known->bytes + at, shim->known->lens[kind]);
}

static aff__known *new_known(aff_engine *e, const aff_slice *parts) {
    uint32_t cap = 0;
    for (int k = 0; k < AFF_KNOWN_COUNT; k++) cap += (uint32_t)parts[k].len;
    cap = (cap + 15) & ~15u; /* a cursor that moves has more or less digits */
    aff__known *known = aff__grow(&e->heap, NULL, sizeof(*known) + cap);
    known->cap = cap;
    uint8_t *to = known->bytes;
    for (int k = 0; k < AFF_KNOWN_COUNT; k++) {
        known->lens[k] = (uint32_t)parts[k].len;
        if (parts[k].len) memcpy(to, parts[k].data, parts[k].len);
        to += parts[k].len;
    }
    return known;
}

void aff__shim_learn(aff_engine *e, aff__shim *shim, aff__known_kind kind, aff_slice body) {
    aff__known *old = shim->known;
    uint32_t before = old ? old->lens[AFF_KNOWN_AUTH] + old->lens[AFF_KNOWN_STEP1] : 0;
    if (old && kind == AFF_KNOWN_AWARENESS && before + body.len <= old->cap) {
        if (body.len)
            memcpy(old->bytes + before, body.data, body.len); /* the last, and most frequent */
        old->lens[kind] = (uint32_t)body.len;
        return;
    }
    aff_slice parts[AFF_KNOWN_COUNT];
    for (int k = 0; k < AFF_KNOWN_COUNT; k++) {
        parts[k] = k == (int)kind ? body : aff__shim_known(shim, (aff__known_kind)k);
    }
    shim->known = new_known(e, parts);
    aff__release(&e->heap, old);
}

/*
 * An awareness update of y-protocols: a count, then for each client its id, its clock and its state
 * as JSON. What is remembered is the one about the client itself: with one entry, and not "null".
 */
typedef struct {
    uint64_t id, clock;
    aff_slice state;
} awareness_entry;

static bool get_awareness(const aff__client_frame *frame, awareness_entry *out) {
    aff_slice rest = frame->payload;
    uint64_t count;
    return aff__get_uint(&rest, &count) && count == 1 && aff__get_uint(&rest, &out->id) &&
           aff__get_uint(&rest, &out->clock) && aff__get_bytes(&rest, &out->state) && rest.len == 0;
}

static bool get_known_awareness(const aff__shim *shim, awareness_entry *out) {
    aff__client_frame frame;
    return aff__parse_body(aff__shim_known(shim, AFF_KNOWN_AWARENESS), &frame) &&
           get_awareness(&frame, out);
}

static void note_awareness(aff_engine *e, aff__shim *shim, const aff__client_frame *frame) {
    awareness_entry now, before;
    if (!get_awareness(frame, &now)) return;
    if (now.clock > shim->clock) shim->clock = now.clock;
    if (!aff__equal(now.state, aff__str("null"))) {
        aff__shim_learn(e, shim, AFF_KNOWN_AWARENESS, frame->body);
        return;
    }
    bool is_own = get_known_awareness(shim, &before) && before.id == now.id;
    if (is_own) aff__shim_learn(e, shim, AFF_KNOWN_AWARENESS, aff__none());
}

/*
 * Others may have been told that the client has left, when its connection to the former owner
 * ended: they believe only a later clock. The client takes it over when it hears of it.
 */
void aff__shim_wind_clock(aff_engine *e, aff__shim *shim) {
    awareness_entry entry;
    if (!get_known_awareness(shim, &entry)) return;
    aff__buf update, body;
    aff__buf_init(&update, &e->heap);
    aff__buf_init(&body, &e->heap);
    aff__put_uint(&update, 1);
    aff__put_uint(&update, entry.id);
    if (AFF_MUTATE(12, true, false)) return;
    shim->clock = (entry.clock > shim->clock ? entry.clock : shim->clock) + 1;
    aff__put_uint(&update, shim->clock);
    aff__put_bytes(&update, entry.state);
    aff__put_uint(&body, AWARENESS);
    aff__put_bytes(&body, aff__buf_slice(&update));
    aff__shim_learn(e, shim, AFF_KNOWN_AWARENESS, aff__buf_slice(&body));
    aff__buf_free(&update);
    aff__buf_free(&body);
}

void aff__shim_note(aff_engine *e, aff__shim *shim, const aff__client_frame *frame) {
    if (is_token(frame)) {
        aff__shim_learn(e, shim, AFF_KNOWN_AUTH, frame->body);
    } else if (frame->type == AWARENESS) {
        note_awareness(e, shim, frame);
    } else if (is_sync(frame) && frame->sub == STEP1) {
        aff__shim_learn(e, shim, AFF_KNOWN_STEP1, frame->body);
        shim->unsynced = 1;
    } else if (is_sync(frame) && frame->sub == UPDATE) {
        shim->unsynced++;
    } else if (is_sync(frame) && frame->sub == STEP2 && shim->questions > 0) {
        shim->questions--;
    }
}

bool aff__shim_start(aff_engine *e, aff__shim *shim) {
    end_wait(e, shim);
    shim->forwarded = shim->before_step2 = 0;
    shim->outdated = shim->questions;
    shim->step2 = false;
    shim->fresh = false;
    bool ask = shim->authenticated && can_be_asked(shim);
    shim->phase = ask ? AFF_SHIM_TOKEN : AFF_SHIM_AUTH;
    if (ask) wait_for_token(e, shim);
    return ask;
}

aff__verdict aff__shim_from_client(aff_engine *e, aff__shim *shim, const aff__client_frame *frame) {
    if (is_sync(frame) && frame->sub == STEP2 && AFF_MUTATE(15, false, shim->outdated > 0)) {
        shim->outdated--; /* what it answers to the present owner contains this */
        return AFF_SWALLOW;
    }
    switch (shim->phase) {
        case AFF_SHIM_IDLE: return AFF_PASS;
        case AFF_SHIM_TOKEN:
            if (is_token(frame)) {
                end_wait(e, shim);
                shim->fresh = true;
                shim->phase = AFF_SHIM_AUTH;
                return AFF_RESTART;
            }
            return is_sync(frame) || frame->type == AWARENESS ? AFF_SWALLOW : AFF_PASS;
        case AFF_SHIM_AUTH:
            if (is_sync(frame) && frame->sub == STEP1 && !shim->asks) {
                shim->asks = true; /* it was on its way as the document moved */
                return AFF_PASS;
            }
            return is_sync(frame) ? AFF_SWALLOW : AFF_PASS;
        case AFF_SHIM_SYNC:
            if (!is_sync(frame)) return AFF_PASS;
            if (frame->sub == UPDATE) shim->forwarded++;
            if (frame->sub == STEP2 && !shim->step2) {
                shim->step2 = true;
                shim->before_step2 = shim->forwarded;
            }
            return AFF_PASS;
    }
    return AFF_PASS;
}

static aff__verdict on_authenticated(aff__shim *shim, const aff__client_frame *frame) {
    aff_slice rest = frame->payload, scope = aff__none();
    aff__get_bytes(&rest, &scope);
    bool readonly = scope.len == strlen("readonly");
    bool known = shim->authenticated && shim->readonly == readonly;
    shim->authenticated = true;
    shim->readonly = readonly;
    if (shim->phase != AFF_SHIM_AUTH) return AFF_PASS;
    shim->phase = AFF_SHIM_SYNC;
    return known ? AFF_SWALLOW : AFF_PASS;
}

static aff__verdict on_denied(const aff__shim *shim) {
    bool replayed = shim->phase == AFF_SHIM_AUTH && shim->authenticated && !shim->fresh;
    return replayed ? AFF_GIVE_UP : AFF_PASS;
}

static void acknowledge(aff__shim *shim) {
    if (shim->unsynced > 0) shim->unsynced--;
}

static aff__verdict on_status(aff__shim *shim, bool applied, uint32_t *settled) {
    bool is_step2s = shim->phase == AFF_SHIM_SYNC && shim->step2 && shim->before_step2 == 0;
    if (is_step2s) {
        shim->phase = AFF_SHIM_IDLE;
        *settled =
            applied && shim->unsynced > shim->forwarded ? shim->unsynced - shim->forwarded : 0;
        if (AFF_MUTATE(11, true, false)) *settled = 0;
        shim->unsynced -= *settled;
        return AFF_SETTLE;
    }
    if (shim->phase == AFF_SHIM_SYNC) {
        if (shim->forwarded > 0) shim->forwarded--;
        if (shim->step2) shim->before_step2--;
    }
    if (applied) acknowledge(shim);
    return AFF_PASS;
}

aff__verdict aff__shim_from_owner(aff__shim *shim, const aff__client_frame *frame,
                                  uint32_t *settled) {
    if (is_sync(frame) && frame->sub == STEP1) shim->questions++;
    if (frame->type == STATUS) return on_status(shim, frame->sub == 1, settled);
    if (frame->type != AFF_HP_AUTH) return AFF_PASS;
    if (frame->sub == AFF_HP_AUTHENTICATED) return on_authenticated(shim, frame);
    return frame->sub == AFF_HP_DENIED ? on_denied(shim) : AFF_PASS;
}
