/*
 * direct.c - direct links: the connections that batches take instead of Redis (option `link`).
 *
 *          HELLO has an address           up                 all that Redis carries is
 *   NONE ----------------------> DIALLING -----> READY ------acknowledged, or 1 s------> UP
 *                                  |  ^            |                                      |
 *                       down, 15 s |  | time       +------------> WAITING <---------------+
 *                                  +--+-----------------------------^   down, or nothing arrives
 *
 * Each side dials the other, and sends on the connection that it has dialled: one direction can
 * have one while the other has none. The order of frames is link.c's matter: its batches have
 * numbers and are kept until they are acknowledged, whatever way they take. So a connection may
 * break, or swallow what it is given, at any moment: what is not acknowledged is sent again through
 * Redis. That nothing arrives shows at either side: what it sends is not acknowledged for a second,
 * or what it has acknowledged comes again. While batches are under way through Redis a new
 * connection would overtake them, and the peer would ask for what is only late: hence READY.
 */
#include "engine.h"

enum {
    DIAL_MS = 15000,    /* DIALLING: the runtime has given up long before */
    SETTLE_MS = 1000,   /* READY: for so long at most */
    PATIENCE_MS = 1000, /* acknowledgements come within 200 ms and a way back */
    BACKOFF_MIN_MS = 500,
    BACKOFF_MAX_MS = 30000
};

static const bool allowed[AFF_DIRECT_STATES][AFF_DIRECT_STATES] = {
    [AFF_DIRECT_NONE] = {[AFF_DIRECT_DIALLING] = 1},
    [AFF_DIRECT_DIALLING] = {[AFF_DIRECT_READY] = 1, [AFF_DIRECT_WAITING] = 1},
    [AFF_DIRECT_READY] = {[AFF_DIRECT_UP] = 1, [AFF_DIRECT_WAITING] = 1},
    [AFF_DIRECT_UP] = {[AFF_DIRECT_WAITING] = 1},
    [AFF_DIRECT_WAITING] = {[AFF_DIRECT_DIALLING] = 1},
};

static void to(aff__peer *peer, aff__direct_state state) {
    AFF_ASSERT(allowed[peer->direct.state][state]);
    peer->direct.state = state;
}

static void dial(aff_engine *e, aff__peer *peer) {
    to(peer, AFF_DIRECT_DIALLING);
    peer->direct.until = e->now + DIAL_MS;
    aff__act(e, AFF_ACT_DIRECT_OPEN, aff__none(), aff__str(peer->process),
             aff__buf_slice(&peer->direct.address));
}

/* Everything that is not acknowledged goes again, through Redis. */
static void fall_back(aff_engine *e, aff__peer *peer) {
    aff__direct *d = &peer->direct;
    bool was_up = d->state == AFF_DIRECT_UP;
    to(peer, AFF_DIRECT_WAITING);
    d->until = e->now + d->backoff_ms;
    d->backoff_ms = d->backoff_ms * 2 < BACKOFF_MAX_MS ? d->backoff_ms * 2 : BACKOFF_MAX_MS;
    if (was_up) aff__link_send_again(e, peer);
}

void aff__direct_init(aff_engine *e, aff__peer *peer) {
    aff__buf_init(&peer->direct.address, &e->heap);
    peer->direct.backoff_ms = BACKOFF_MIN_MS;
}

void aff__direct_free(aff_engine *e, aff__peer *peer) {
    if (peer->direct.state != AFF_DIRECT_NONE && peer->direct.state != AFF_DIRECT_WAITING) {
        aff__act(e, AFF_ACT_DIRECT_CLOSE, aff__none(), aff__str(peer->process), aff__none());
    }
    aff__buf_free(&peer->direct.address);
}

void aff__direct_address(aff_engine *e, aff__peer *peer, aff_slice address) {
    aff__direct *d = &peer->direct;
    if (!e->config.direct_address || peer == e->self) return;
    if (address.len == 0 || address.len > AFF_ADDRESS_MAX) return;
    d->address.len = 0;
    aff__put(&d->address, address.data, address.len);
    if (d->state == AFF_DIRECT_NONE) dial(e, peer);
}

void aff__direct_up(aff_engine *e, aff_slice process) {
    aff__peer *peer = aff__peer_find(e, process);
    if (!peer || peer->direct.state != AFF_DIRECT_DIALLING) return;
    to(peer, AFF_DIRECT_READY);
    peer->direct.until = e->now + SETTLE_MS;
}

void aff__direct_down(aff_engine *e, aff_slice process) {
    aff__peer *peer = aff__peer_find(e, process);
    if (!peer || peer->direct.state == AFF_DIRECT_NONE) return;
    if (peer->direct.state != AFF_DIRECT_WAITING) fall_back(e, peer);
}

void aff__direct_settle(aff_engine *e, aff__peer *peer) {
    aff__direct *d = &peer->direct;
    if (d->state != AFF_DIRECT_READY) return;
    if (peer->acked_seq < peer->out_seq && e->now < d->until) return;
    to(peer, AFF_DIRECT_UP);
    d->first_seq = peer->out_seq + 1;
    peer->progress_at = e->now;
    peer->unheard_at = 0; /* whoever answers there lives */
}

void aff__direct_acknowledged(aff__peer *peer) {
    aff__direct *d = &peer->direct;
    if (d->state == AFF_DIRECT_UP && peer->acked_seq >= d->first_seq)
        d->backoff_ms = BACKOFF_MIN_MS;
}

static void give_up(aff_engine *e, aff__peer *peer, const char *why) {
    aff__log(e, 1, AFF_TOPIC_LINKS, &(aff__about){.server = aff__buf_slice(&peer->server_id)},
             "the direct link to server %.*s is given up: %s", (int)peer->server_id.len,
             (const char *)peer->server_id.data, why);
    aff__act(e, AFF_ACT_DIRECT_CLOSE, aff__none(), aff__str(peer->process), aff__none());
    fall_back(e, peer);
}

void aff__direct_doubt(aff_engine *e, aff__peer *peer) {
    if (peer->direct.state == AFF_DIRECT_UP) give_up(e, peer, "acknowledgements do not arrive");
}

bool aff__direct_send(aff_engine *e, const aff__peer *peer, aff_slice batch) {
    /* Who is no member any more must fall silent: Redis may be out of reach without our knowing. */
    if (peer->direct.state != AFF_DIRECT_UP || !aff__is_member(e)) return false;
    aff__act(e, AFF_ACT_DIRECT_SEND, aff__none(), aff__str(peer->process), batch);
    e->stats.batches_direct++;
    return true;
}

uint64_t aff__direct_due(const aff__peer *peer) {
    const aff__direct *d = &peer->direct;
    if (d->state == AFF_DIRECT_WAITING || d->state == AFF_DIRECT_DIALLING) return d->until;
    bool waits = d->state == AFF_DIRECT_UP && peer->acked_seq < peer->out_seq;
    return waits ? peer->progress_at + PATIENCE_MS : UINT64_MAX;
}

void aff__direct_tick(aff_engine *e, aff__peer *peer) {
    if (e->now < aff__direct_due(peer)) return;
    switch (peer->direct.state) {
        case AFF_DIRECT_WAITING: dial(e, peer); return;
        case AFF_DIRECT_DIALLING: give_up(e, peer, "nobody answers"); return;
        default: give_up(e, peer, "nothing arrives"); return;
    }
}
