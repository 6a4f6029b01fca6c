/*
 * link.c - ordered streams of frames between two servers. docs/PROTOCOL.md has the wire format.
 *
 * Everything for one peer in one loop turn goes out as batches, each one PUBLISH on the channel of
 * the peer's process. A batch says who sends it to whom, in which session of the pair, and its
 * number; what was received, and how far the other side may go on (credit, in bytes of the
 * session).
 *
 * With the option `link` batches take a direct connection instead, where there is one (direct.c).
 *
 * Redis keeps nothing for a listener that is away. So batches are kept until they are acknowledged,
 * and sent again when the other side misses one: it sees a number that is too high, in the next
 * batch or in the beat that follows within a second. What comes twice is dropped. Frames therefore
 * arrive in order, each once, for as long as both processes live (I4).
 *
 * A session ends, and the next one starts empty on both sides, only when a bound was hit or one
 * side has forgotten the other; routes then fail over as if the peer had died.
 */
#include "engine.h"

enum {
    /* What is sent. Raising it takes two releases: docs/PROTOCOL.md, Versions. */
    VERSION = 1,
    FLAG_FRAMES = 1,
    FLAG_ANSWER = 2,     /* the sender waits for an acknowledgement or for credit */
    FLAG_MISSING = 4,    /* the sender misses what comes after its `ack` */
    FLAG_UNREADABLE = 8, /* the sender can't read what it was sent: there is nothing but the head */
    BATCH_MAX = 256 << 10,
    FRAGMENT_MAX = 128 << 10,
    WINDOW_MIN = 2 * BATCH_MAX, /* credit below one batch would stop a link for ever */
    ACK_SOON_MS = 200,          /* what clients say, see is_of_client(); it is asked about after: */
    BEAT_SOON_MS = 400, /* its PUBLISH may be the only one, and have counted a dying listener */
    ACK_LATER_MS = 800, /* all else, and after: */
    BEAT_LATER_MS = 1000,
    REPAIR_EVERY_MS = 100, /* asking and sending again, at most this often */
    CHECK_EVERY_MS = 100,  /* whether a silent peer is a member still */
    FOREIGN_TOLD_EVERY_MS = 60000,
    FOREIGN_ANSWERED_EVERY_MS = 1000,
    IDLE_FORGET_MS = 600000,
    PEERS_MAX = 10000, /* anyone who may publish can invent senders */
    FORMER_MAX = 1000
};

/* Far from the end of the numbers: a forged one must not make the next one zero. */
static const uint64_t SESSION_MAX = UINT64_MAX >> 2;

typedef struct {
    char from[AFF_PROCESS_LEN + 1], to[AFF_PROCESS_LEN + 1];
    uint8_t version, flags;
    uint64_t session, seq, ack, limit;
} batch_header;

/*
 * Can anything be sent? After its farewell a server says nothing more; one whose application hangs
 * falls silent, so that its peers find out that it is no member.
 */
static bool may_speak(const aff_engine *e) {
    const aff__member *m = &e->member;
    return m->redis_up && !m->stalled && m->state != AFF_MEMBER_LEAVING;
}

/* ---- Peers ------------------------------------------------------------------------------- */

aff__peer *aff__peer_find(const aff_engine *e, aff_slice process) {
    aff__item *item = aff__map_get(&e->peers, process);
    return item ? AFF_OF(item, aff__peer, item) : NULL;
}

static void restart(aff__peer *peer, uint64_t session) {
    peer->session = session;
    aff__buf_free(&peer->queue);
    aff__buf_free(&peer->sizes);
    aff__buf_free(&peer->fragment);
    peer->acked_at = peer->queue_at = 0;
    peer->out_seq = peer->out_bytes = peer->acked_seq = 0;
    peer->client_bytes = 0;
    peer->in_seq = peer->in_bytes = 0;
    peer->out_limit = peer->in_limit = WINDOW_MIN;
    peer->ack_wanted = peer->broken = peer->missing = false;
}

/*
 * A peer that is gone may live, and batches of ours may be on their way to it: if the session with
 * it went on, their numbers would be taken for those of other ones. So sessions with it only grow.
 */
typedef struct {
    aff__item item; /* by process */
    aff__list by_age;
    char process[AFF_PROCESS_LEN];
    uint64_t session; /* the last one */
    aff__gone why;
} former_peer;

static former_peer *find_former(const aff_engine *e, const char *process) {
    aff__item *item = aff__map_get(&e->former_peers, aff__slice(process, AFF_PROCESS_LEN));
    return item ? AFF_OF(item, former_peer, item) : NULL;
}

static void forget_former(aff_engine *e, former_peer *former) {
    aff__map_remove(&e->former_peers, &former->item);
    aff__list_remove(&former->by_age);
    aff__release(&e->heap, former);
}

static void remember_former(aff_engine *e, const aff__peer *peer, aff__gone why) {
    if (e->former_peers.count >= FORMER_MAX) {
        forget_former(e, AFF_OF(e->formers.next, former_peer, by_age));
    }
    former_peer *former = aff__alloc(&e->heap, sizeof(*former));
    memcpy(former->process, peer->process, AFF_PROCESS_LEN);
    aff__item_init(&former->item, aff__slice(former->process, AFF_PROCESS_LEN));
    former->session = peer->session;
    former->why = why;
    aff__map_put(&e->former_peers, &former->item);
    aff__list_append(&e->formers, &former->by_age);
}

aff__gone aff__why_gone(const aff_engine *e, const char *process) {
    const former_peer *former = find_former(e, process);
    return former ? former->why : AFF_GONE_UNKNOWN;
}

/* The lowest session with a process that nothing was sent in before. */
static uint64_t least_session(const aff_engine *e, const char *process) {
    const former_peer *former = find_former(e, process);
    return former ? former->session + 1 : 1;
}

static aff__peer *new_peer(aff_engine *e, const char *process) {
    aff__peer *peer = aff__alloc(&e->heap, sizeof(*peer));
    former_peer *former = find_former(e, process);
    memcpy(peer->process, process, AFF_PROCESS_LEN);
    aff__item_init(&peer->item, aff__slice(peer->process, AFF_PROCESS_LEN));
    peer->number = ++e->next_peer;
    aff__buf *bufs[] = {&peer->server_id, &peer->queue, &peer->sizes, &peer->fragment,
                        &peer->targets};
    for (size_t i = 0; i < sizeof(bufs) / sizeof(*bufs); i++) aff__buf_init(bufs[i], &e->heap);
    aff__list *lists[] = {&peer->dirty, &peer->visits, &peer->proxies, &peer->events,
                          &peer->by_target};
    for (size_t i = 0; i < sizeof(lists) / sizeof(*lists); i++) aff__list_init(lists[i]);
    /* At random, so that a side that has forgotten the other can't be taken for its former self. */
    aff__direct_init(e, peer);
    restart(peer, former ? former->session + 1 : (aff__random(e) & 0xffffffff) + 1);
    if (former) forget_former(e, former);
    peer->spoken_at = peer->heard_at = e->now;
    return peer;
}

aff__peer *aff__self(aff_engine *e) {
    if (!e->self) {
        e->self = new_peer(e, e->member.boot);
        aff__put(&e->self->server_id, e->config.server_id, strlen(e->config.server_id));
    }
    return e->self;
}

aff__peer *aff__peer_get(aff_engine *e, const char *process) {
    aff__peer *peer = aff__peer_find(e, aff__slice(process, AFF_PROCESS_LEN));
    if (peer) return peer;
    peer = new_peer(e, process);
    aff__map_put(&e->peers, &peer->item);
    return peer;
}

bool aff__peer_alive(const aff_engine *e, const aff__peer *peer) {
    return peer->in_seq > 0 && e->now - peer->heard_at < e->config.lock_ttl_ms / 2;
}

static void mark_dirty(aff_engine *e, aff__peer *peer) {
    aff__list_remove(&peer->dirty);
    aff__list_append(&e->dirty, &peer->dirty);
}

/* Ends what was built on this session; the next one starts empty. */
static void end_session(aff_engine *e, aff__peer *peer, uint64_t next) {
    aff__buf queue = peer->queue; /* aside: what is ended meanwhile is told the peer */
    aff_slice rest = aff__buf_slice(&queue), acknowledged;
    aff__get(&rest, peer->acked_at, &acknowledged);
    aff__buf_init(&peer->queue, &e->heap);
    restart(peer, next);
    aff__routes_rescue(e, peer, rest);
    aff__buf_free(&queue);
    aff__proxies_end(e, peer);
    aff__visits_end(e, peer);
    aff__events_requeue(e, peer);
}

/* The pair goes on under a higher session. */
static void new_session(aff_engine *e, aff__peer *peer, uint64_t session) {
    e->stats.resets++;
    end_session(e, peer, session);
    mark_dirty(e, peer);
    peer->ack_wanted = true;
    peer->ack_at = e->now;
}

static const char *gone_text(aff__gone why) {
    switch (why) {
        case AFF_GONE_GOODBYE: return "it said goodbye";
        case AFF_GONE_UNHEARD: return "nobody listens on its channel";
        case AFF_GONE_ENDED: return "its membership has ended";
        case AFF_GONE_IDLE: return "idle";
        default: return "unknown";
    }
}

void aff__peer_gone(aff_engine *e, aff__peer *peer, aff__gone why) {
    aff__about about = {.server = aff__buf_slice(&peer->server_id)};
    aff__log(e, 0, AFF_TOPIC_LINKS, &about, "server %.*s is gone (%s)", (int)peer->server_id.len,
             (const char *)peer->server_id.data, gone_text(why));
    aff__news(e, AFF_NEWS_SERVER_DOWN, aff__none(), aff__buf_slice(&peer->server_id), 0);
    aff__map_remove(&e->peers, &peer->item);
    aff__docs_forget_owner(e, peer);
    end_session(e, peer, peer->session);
    remember_former(e, peer, why);
    aff__list_remove(&peer->dirty);
    aff__direct_free(e, peer);
    aff__buf *bufs[] = {&peer->server_id, &peer->queue, &peer->sizes, &peer->fragment,
                        &peer->targets};
    for (size_t i = 0; i < sizeof(bufs) / sizeof(*bufs); i++) aff__buf_free(bufs[i]);
    aff__release(&e->heap, peer);
}

static bool read_frames(aff_engine *e, aff__peer *peer, aff_slice rest);

/* ---- Sending ------------------------------------------------------------------------------ */

aff__buf *aff__frame(aff_engine *e, aff__frame_type type) {
    e->scratch.len = 0;
    aff__put_u8(&e->scratch, (uint8_t)type);
    return &e->scratch;
}

static void enqueue(aff__peer *peer, aff_slice frame) {
    aff__put_bytes(&peer->queue, frame);
}

static void enqueue_fragments(aff_engine *e, aff__peer *peer, aff_slice frame) {
    aff__buf piece;
    aff__buf_init(&piece, &e->heap);
    for (uint64_t index = 0; frame.len > 0; index++) {
        size_t len = frame.len < FRAGMENT_MAX ? frame.len : FRAGMENT_MAX;
        aff_slice bytes;
        aff__get(&frame, len, &bytes);
        piece.len = 0;
        aff__put_u8(&piece, AFF_FRAME_FRAGMENT);
        aff__put_uint(&piece, index);
        aff__put_u8(&piece, frame.len == 0);
        aff__put(&piece, bytes.data, bytes.len);
        enqueue(peer, aff__buf_slice(&piece));
    }
    aff__buf_free(&piece);
}

static void enqueue_hello(aff_engine *e, aff__peer *peer) {
    aff__buf hello;
    aff__buf_init(&hello, &e->heap);
    aff__put_u8(&hello, AFF_FRAME_HELLO);
    aff__put_bytes(&hello, aff__str(e->config.server_id));
    if (e->config.direct_address) aff__put_bytes(&hello, aff__str(e->config.direct_address));
    enqueue(peer, aff__buf_slice(&hello));
    aff__buf_free(&hello);
}

static size_t unsent(const aff__peer *peer) {
    return peer->queue.len - peer->queue_at;
}

/* Does an origin say it for a client? It would have to repeat it to the next owner. */
static bool is_of_client(aff__frame_type type) {
    return type >= AFF_FRAME_OPEN && type <= AFF_FRAME_ALIVE;
}

int aff__frame_send(aff_engine *e, aff__peer *peer) {
    aff_slice frame = aff__buf_slice(&e->scratch);
    if (frame.len > AFF_MESSAGE_MAX) return AFF_EFULL;
    if (unsent(peer) + frame.len > e->config.link_queue_max) {
        e->stats.overflows++;
        peer->broken = true;
        mark_dirty(e, peer);
        return AFF_EFULL;
    }
    if (peer->out_seq == 0 && peer->queue.len == 0) enqueue_hello(e, peer);
    if (frame.len > FRAGMENT_MAX) {
        enqueue_fragments(e, peer, frame);
    } else {
        enqueue(peer, frame);
    }
    if (is_of_client((aff__frame_type)e->scratch.data[0])) {
        peer->client_bytes = peer->out_bytes + unsent(peer);
    }
    e->stats.frames_out++;
    mark_dirty(e, peer);
    return 0;
}

static uint64_t credit(const aff_engine *e, const aff__peer *peer) {
    if (e->stats.backlog >= e->config.backlog_max) return peer->in_limit;
    size_t share = e->config.backlog_max / (e->peers.count ? e->peers.count : 1);
    size_t window = e->config.window < share ? e->config.window : share;
    size_t left = e->config.backlog_max - (size_t)e->stats.backlog;
    if (window > left) window = left;
    if (window < WINDOW_MIN) window = WINDOW_MIN;
    uint64_t limit = peer->in_bytes + window;
    return limit > peer->in_limit ? limit : peer->in_limit;
}

static void put_process(aff__buf *out, const char *process) {
    static const char digits[] = "0123456789abcdef";
    for (int i = 0; i < AFF_PROCESS_LEN; i += 2) {
        long high = strchr(digits, process[i]) - digits;
        long low = strchr(digits, process[i + 1]) - digits;
        aff__put_u8(out, (uint8_t)(high << 4 | low));
    }
}

static void put_head(const aff_engine *e, aff__buf *out, const char *to, unsigned flags) {
    aff__put_u8(out, VERSION);
    aff__put_u8(out, (uint8_t)flags);
    put_process(out, e->member.boot);
    put_process(out, to);
}

static void put_out(aff_engine *e, const char *process, aff_slice batch) {
    aff_slice channel = aff__key(e, "Link", aff__str(process));
    aff_action *act = aff__act(e, AFF_ACT_PUBLISH, aff__none(), channel, batch);
    act->request = aff__remember_ask(e, AFF_ASK_PUBLISHED, NULL, process);
}

/* Is there anything that an answer would settle? */
static bool is_waiting(const aff__peer *peer) {
    return peer->acked_seq < peer->out_seq || unsent(peer) > 0;
}

/*
 * Sends a batch under its number; with no frames, a beat under that of the last batch.
 *
 * What is acknowledged is forgotten by its sender. A MOVED among the frames that are still to come
 * may ask for it back: so the last batch alone acknowledges, and tells what is missing.
 */
static void publish(aff_engine *e, aff__peer *peer, uint64_t seq, aff_slice frames,
                    unsigned flags) {
    aff__buf *out = &e->scratch;
    if (frames.len) flags |= FLAG_FRAMES;
    bool is_last = unsent(peer) == 0 && seq == peer->out_seq;
    if (peer->missing && is_last) flags |= FLAG_MISSING;
    out->len = 0;
    peer->in_limit = credit(e, peer);
    put_head(e, out, peer->process, flags);
    aff__put_uint(out, peer->session);
    aff__put_uint(out, seq);
    aff__put_uint(out, is_last ? peer->in_seq : 0);
    aff__put_uint(out, peer->in_limit);
    aff__put(out, frames.data, frames.len);
    if (!aff__direct_send(e, peer, aff__buf_slice(out))) {
        put_out(e, peer->process, aff__buf_slice(out));
        peer->unanswered++;
    }
    peer->spoken_at = e->now;
    peer->ack_wanted = false;
    if (is_last) peer->missing = false;
    e->stats.batches_out++;
    e->stats.bytes_out += out->len;
}

/* An answer asks for none itself: two that wait would never be silent again. */
static void answer(aff_engine *e, aff__peer *peer) {
    publish(e, peer, peer->out_seq, aff__none(), 0);
}

static void beat(aff_engine *e, aff__peer *peer) {
    peer->client_bytes = 0; /* asked about; from here on there is no hurry */
    publish(e, peer, peer->out_seq, aff__none(), is_waiting(peer) ? FLAG_ANSWER : 0);
}

/* Is anything unacknowledged that a client has said, and not asked about yet? */
static bool is_pressing(const aff__peer *peer) {
    return peer->client_bytes > peer->out_bytes - (peer->queue_at - peer->acked_at);
}

/* As many whole frames as fit into one batch; at least one. */
static aff_slice next_batch(const aff__peer *peer) {
    aff_slice rest = {peer->queue.data + peer->queue_at, unsent(peer)};
    const uint8_t *start = rest.data;
    size_t len = 0;
    while (rest.len > 0) {
        aff_slice frame;
        AFF_ASSERT(aff__get_bytes(&rest, &frame));
        size_t end = (size_t)(rest.data - start);
        if (len > 0 && end > BATCH_MAX) break;
        len = end;
    }
    return aff__slice(start, len);
}

static uint32_t size_of_batch(const aff__peer *peer, uint64_t index) {
    uint32_t size;
    memcpy(&size, peer->sizes.data + index * sizeof(size), sizeof(size));
    return size;
}

aff_slice aff__link_sent_after(const aff__peer *peer, uint64_t seq) {
    size_t at = peer->acked_at;
    for (uint64_t i = 0; peer->acked_seq + i < peer->out_seq && peer->acked_seq + i < seq; i++) {
        at += size_of_batch(peer, i);
    }
    if (at == peer->queue.len) return aff__none(); /* there may be no buffer at all */
    return aff__slice(peer->queue.data + at, peer->queue.len - at);
}

static void send_batch(aff_engine *e, aff__peer *peer, aff_slice batch) {
    uint32_t size = (uint32_t)batch.len;
    peer->out_bytes += batch.len;
    peer->queue_at += batch.len;
    publish(e, peer, ++peer->out_seq, batch, 0);
    aff__put(&peer->sizes, &size, sizeof(size));
}

void aff__link_send_again(aff_engine *e, aff__peer *peer) {
    if (peer->acked_seq == peer->out_seq || !may_speak(e)) return;
    peer->resent_at = e->now;
    e->stats.gaps++;
    aff__news(e, AFF_NEWS_RESYNC, aff__none(), aff__buf_slice(&peer->server_id), 0);
    size_t at = peer->acked_at;
    for (uint64_t i = 0; peer->acked_seq + i < peer->out_seq; i++) {
        uint32_t size = size_of_batch(peer, i);
        publish(e, peer, peer->acked_seq + i + 1, aff__slice(peer->queue.data + at, size), 0);
        at += size;
    }
}

/* Moves what is kept to the front, once more than half of the buffer is not needed any more. */
static void compact(aff__peer *peer) {
    size_t kept = peer->queue.len - peer->acked_at;
    if (kept == 0 && peer->queue.cap > BATCH_MAX) {
        aff__buf_free(&peer->queue); /* a burst's memory is given back */
    } else if (kept > 0 && peer->acked_at <= peer->queue.len / 2) {
        return;
    } else if (kept > 0) {
        memmove(peer->queue.data, peer->queue.data + peer->acked_at, kept);
    }
    peer->queue.len = kept;
    peer->queue_at -= peer->acked_at;
    peer->acked_at = 0;
}

static void acknowledged(aff__peer *peer, uint64_t ack, uint64_t now) {
    uint64_t count = ack - peer->acked_seq;
    if (count == 0) return;
    for (uint64_t i = 0; i < count; i++) peer->acked_at += size_of_batch(peer, i);
    size_t used = (size_t)count * sizeof(uint32_t);
    memmove(peer->sizes.data, peer->sizes.data + used, peer->sizes.len - used);
    peer->sizes.len -= used;
    peer->acked_seq = ack;
    peer->progress_at = now;
    aff__direct_acknowledged(peer);
    compact(peer);
}

/* Frames to this server itself are dispatched where they stand; what they cause is appended. */
static void loop_back(aff_engine *e, aff__peer *self) {
    aff__buf queue = self->queue;
    aff__buf_init(&self->queue, &e->heap);
    read_frames(e, self, aff__buf_slice(&queue));
    aff__buf_free(&queue);
}

/* While Redis is at work on the last PUBLISH, what comes gathers for the next one: batches grow
 * with the load, and a quiet link waits for nothing. What fills a batch has gathered enough. */
static bool is_held(const aff__peer *peer) {
    return peer->unanswered > 0 && peer->direct.state != AFF_DIRECT_UP && unsent(peer) < BATCH_MAX;
}

static void flush(aff_engine *e, aff__peer *peer) {
    if (peer->broken) new_session(e, peer, peer->session + 1);
    if (peer == e->self) {
        loop_back(e, peer);
        return;
    }
    aff__direct_settle(e, peer);
    if (peer->acked_seq == peer->out_seq) peer->progress_at = e->now;
    while (unsent(peer) > 0 && !is_held(peer)) {
        aff_slice batch = next_batch(peer);
        if (peer->out_bytes + batch.len > peer->out_limit) break;
        send_batch(e, peer, batch);
    }
    if (peer->ack_wanted && e->now >= peer->ack_at) answer(e, peer);
}

void aff__link_flush(aff_engine *e) {
    if (e->self && unsent(e->self) > 0) mark_dirty(e, e->self);
    aff__list waiting; /* for Redis */
    aff__list_init(&waiting);
    while (!aff__list_empty(&e->dirty)) {
        aff__peer *peer = AFF_OF(e->dirty.next, aff__peer, dirty);
        aff__list_remove(&peer->dirty);
        if (may_speak(e) || peer == e->self) {
            flush(e, peer);
        } else {
            aff__list_append(&waiting, &peer->dirty);
        }
    }
    while (!aff__list_empty(&waiting)) {
        aff__list *item = waiting.next;
        aff__list_remove(item);
        aff__list_append(&e->dirty, item);
    }
}

/* ---- Receiving ------------------------------------------------------------------------------ */

static bool get_process(aff_slice *rest, char *out) {
    static const char digits[] = "0123456789abcdef";
    aff_slice bytes;
    if (!aff__get(rest, AFF_PROCESS_LEN / 2, &bytes)) return false;
    for (int i = 0; i < AFF_PROCESS_LEN / 2; i++) {
        out[2 * i] = digits[bytes.data[i] >> 4];
        out[2 * i + 1] = digits[bytes.data[i] & 15];
    }
    out[AFF_PROCESS_LEN] = '\0';
    return true;
}

static bool reads(uint8_t version) {
    return version == VERSION;
}

/* What any version of a batch begins with, and what FLAG_UNREADABLE leaves of it. */
static bool get_head(aff_slice *rest, batch_header *out) {
    return aff__get_u8(rest, &out->version) && aff__get_u8(rest, &out->flags) &&
           get_process(rest, out->from) && get_process(rest, out->to);
}

static bool get_numbers(aff_slice *rest, batch_header *out) {
    return aff__get_uint(rest, &out->session) && aff__get_uint(rest, &out->seq) &&
           aff__get_uint(rest, &out->ack) && aff__get_uint(rest, &out->limit) && out->session > 0 &&
           out->session <= SESSION_MAX;
}

static void acknowledge_within(aff_engine *e, aff__peer *peer, uint64_t ms) {
    if (!peer->ack_wanted || peer->ack_at > e->now + ms) peer->ack_at = e->now + ms;
    peer->ack_wanted = true;
}

static void tell_of_foreign(aff_engine *e, const batch_header *h) {
    aff__peer *peer = aff__peer_find(e, aff__str(h->from));
    uint64_t *told_at = peer ? &peer->foreign_told_at : &e->foreign_told_at;
    if (*told_at && e->now - *told_at < FOREIGN_TOLD_EVERY_MS) return;
    *told_at = e->now;
    aff_slice name = peer && peer->server_id.len ? aff__buf_slice(&peer->server_id)
                                                 : aff__slice(h->from, AFF_PROCESS_LEN);
    aff__about about = {.server = peer ? aff__buf_slice(&peer->server_id) : aff__none()};
    aff__log(e, 1, AFF_TOPIC_LINKS, &about,
             "server %.*s speaks version %u of the protocol%s, this server version %u: they can't "
             "work together. Roll releases out one after the other, without leaving one out",
             (int)name.len, (const char *)name.data, h->version,
             h->flags & FLAG_UNREADABLE ? " alone" : "", VERSION);
}

/*
 * A batch of another version, or the answer to one of ours from a server that can't read it. Both
 * sides tell of it; nothing else can be done. Each asks for an answer only with what it sends by
 * itself, so that they do not answer each other for ever.
 */
static void on_foreign(aff_engine *e, const batch_header *h) {
    tell_of_foreign(e, h);
    bool wants_answer = h->flags & (FLAG_FRAMES | FLAG_ANSWER);
    if (!wants_answer || (h->flags & FLAG_UNREADABLE) || !may_speak(e)) return;
    uint64_t *answered_at = &e->foreign_answered_at;
    if (*answered_at && e->now - *answered_at < FOREIGN_ANSWERED_EVERY_MS) return;
    *answered_at = e->now;
    e->scratch.len = 0;
    put_head(e, &e->scratch, h->from, FLAG_UNREADABLE);
    put_out(e, h->from, aff__buf_slice(&e->scratch));
    aff__peer *peer = aff__peer_find(e, aff__str(h->from));
    if (peer) peer->unanswered++;
}

static bool dispatch(aff_engine *e, aff__peer *peer, aff_slice frame);

static bool on_fragment(aff_engine *e, aff__peer *peer, aff_slice rest) {
    uint64_t index;
    uint8_t last;
    if (!aff__get_uint(&rest, &index) || !aff__get_u8(&rest, &last)) return false;
    if (index == 0) peer->fragment.len = 0;
    if (index != 0 && peer->fragment.len == 0) return false;
    if (peer->fragment.len + rest.len > AFF_MESSAGE_MAX) {
        aff__buf_free(&peer->fragment);
        return false;
    }
    aff__put(&peer->fragment, rest.data, rest.len);
    if (!last) return true;
    aff__buf whole = peer->fragment;
    aff__buf_init(&peer->fragment, &e->heap);
    bool ok = whole.len > 0 && whole.data[0] != AFF_FRAME_FRAGMENT &&
              whole.data[0] != AFF_FRAME_BYE && dispatch(e, peer, aff__buf_slice(&whole));
    aff__buf_free(&whole);
    return ok;
}

static bool is_server_id(aff_slice id) {
    return id.len > 0 && id.len <= AFF_SERVER_ID_MAX;
}

static bool dispatch(aff_engine *e, aff__peer *peer, aff_slice frame) {
    uint8_t type;
    aff_slice id, address;
    if (!aff__get_u8(&frame, &type)) return false;
    e->stats.frames_in++;
    if (is_of_client((aff__frame_type)type)) acknowledge_within(e, peer, ACK_SOON_MS);
    switch ((aff__frame_type)type) {
        case AFF_FRAME_HELLO:
            if (!aff__get_bytes(&frame, &id) || !is_server_id(id)) return false;
            if (peer->in_seq == 1) aff__news(e, AFF_NEWS_SERVER_UP, aff__none(), id, 0);
            peer->server_id.len = 0;
            aff__put(&peer->server_id, id.data, id.len);
            if (aff__get_bytes(&frame, &address)) aff__direct_address(e, peer, address);
            return true;
        case AFF_FRAME_OPEN:
        case AFF_FRAME_OFFER:
        case AFF_FRAME_DATA:
        case AFF_FRAME_CLOSE:
        case AFF_FRAME_ALIVE: return aff__owner_frame(e, peer, (aff__frame_type)type, frame);
        case AFF_FRAME_ACCEPT:
        case AFF_FRAME_REFUSE:
        case AFF_FRAME_OUT:
        case AFF_FRAME_KICK:
        case AFF_FRAME_MOVED: return aff__origin_frame(e, peer, (aff__frame_type)type, frame);
        case AFF_FRAME_EVENT:
        case AFF_FRAME_RESULT: return aff__event_frame(e, peer, (aff__frame_type)type, frame);
        case AFF_FRAME_FRAGMENT: return on_fragment(e, peer, frame);
        default: return false;
    }
}

/* False: the peer is gone, and freed. */
static bool read_frames(aff_engine *e, aff__peer *peer, aff_slice rest) {
    while (rest.len > 0) {
        aff_slice frame;
        if (!aff__get_bytes(&rest, &frame)) {
            e->stats.malformed++;
            return true;
        }
        if (frame.len == 1 && frame.data[0] == AFF_FRAME_BYE) {
            aff__peer_gone(e, peer, AFF_GONE_GOODBYE);
            return false; /* the last frame of a link */
        }
        if (!dispatch(e, peer, frame)) e->stats.malformed++;
    }
    return true;
}

static void answer_now(aff_engine *e, aff__peer *peer) {
    peer->ack_wanted = true;
    peer->ack_at = e->now;
    mark_dirty(e, peer);
}

/* Something is missing: its sender is asked for it, with the next beat. */
static void on_gap(aff_engine *e, aff__peer *peer) {
    if (e->now - peer->missed_at < REPAIR_EVERY_MS) return;
    peer->missed_at = e->now;
    peer->missing = true;
    answer_now(e, peer);
}

/*
 * Is the batch of the session that both sides agree on? Follows the higher one, tells the sender of
 * ours where that is higher, and starts anew where the sender knows another past than we do: then
 * one of us has forgotten the other.
 */
static bool same_session(aff_engine *e, aff__peer *peer, const batch_header *h) {
    if (h->session < peer->session) {
        e->stats.stale_by[AFF_STALE_SESSION]++;
        answer_now(e, peer);
        return false;
    }
    if (h->session > peer->session) new_session(e, peer, h->session);
    bool forgotten =
        h->ack > peer->out_seq || ((h->flags & FLAG_MISSING) && h->ack < peer->acked_seq);
    if (!forgotten) return true;
    new_session(e, peer, peer->session + 1);
    return false;
}

/* Mostly with what is to be said anyway. A direct link is given up where they don't come. */
static void acknowledge_later(aff_engine *e, aff__peer *peer) {
    bool is_direct = peer->direct.state == AFF_DIRECT_UP;
    acknowledge_within(e, peer, is_direct ? ACK_SOON_MS : ACK_LATER_MS);
    if (credit(e, peer) - peer->in_limit >= WINDOW_MIN / 4) answer_now(e, peer);
}

/* What the header says of the other direction; but see on_batch(). */
static void on_header(aff_engine *e, aff__peer *peer, const batch_header *h) {
    if (h->limit > peer->out_limit) {
        peer->out_limit = h->limit;
        if (unsent(peer)) mark_dirty(e, peer);
    }
    if (h->flags & FLAG_ANSWER) answer_now(e, peer);
    /* It has more to say before it acknowledges: see publish(). */
    if (h->ack == 0 && peer->acked_seq > 0) peer->progress_at = e->now;
    bool is_due = e->now - peer->resent_at >= REPAIR_EVERY_MS;
    if ((h->flags & FLAG_MISSING) && is_due) aff__link_send_again(e, peer);
}

/*
 * An acknowledgement counts after the frames that were sent before it: one of them may say that
 * what is acknowledged came too late to be of use (MOVED).
 */
static void on_batch(aff_engine *e, aff__peer *peer, const batch_header *h, aff_slice frames) {
    on_header(e, peer, h);
    bool has_frames = h->flags & FLAG_FRAMES;
    uint64_t expected = peer->in_seq + has_frames;
    if (AFF_MUTATE(3, false, h->seq > expected)) {
        on_gap(e, peer);
        return;
    }
    if (AFF_MUTATE(7, false, h->seq < expected)) { /* had before; its sender may not know */
        e->stats.stale_by[AFF_STALE_REPEATED]++;
        if (!has_frames) return;
        aff__direct_doubt(e, peer);
        answer_now(e, peer);
        return;
    }
    if (has_frames) {
        peer->in_seq = h->seq;
        peer->in_bytes += frames.len;
        acknowledge_later(e, peer);
        if (!read_frames(e, peer, frames)) return;
    }
    if (h->ack > peer->acked_seq) acknowledged(peer, h->ack, e->now);
}

void aff__link_receive(aff_engine *e, aff_slice batch) {
    batch_header h;
    aff_slice rest = batch;
    e->stats.batches_in++;
    e->stats.bytes_in += batch.len;
    bool has_head = get_head(&rest, &h);
    bool is_foreign = has_head && (!reads(h.version) || (h.flags & FLAG_UNREADABLE));
    bool is_readable = has_head && !is_foreign && get_numbers(&rest, &h);
    if (!is_readable) e->stats.malformed++;
    if (!is_readable && !is_foreign) return;
    if (memcmp(h.to, e->member.boot, AFF_PROCESS_LEN) != 0 ||
        memcmp(h.from, e->member.boot, AFF_PROCESS_LEN) == 0 ||
        e->member.state == AFF_MEMBER_LEAVING) {
        e->stats.stale_by[AFF_STALE_FOREIGN]++;
        return;
    }
    if (is_foreign) {
        on_foreign(e, &h);
        return;
    }
    bool is_new = !aff__peer_find(e, aff__str(h.from));
    if (is_new && e->peers.count >= PEERS_MAX) {
        e->stats.overflows++;
        return;
    }
    bool adopts = is_new && h.session >= least_session(e, h.from);
    aff__peer *peer = aff__peer_get(e, h.from);
    if (adopts) restart(peer, h.session);
    peer->heard_at = e->now;
    peer->mute_at = 0;
    if (same_session(e, peer, &h)) on_batch(e, peer, &h, rest);
}

/* ---- Time ----------------------------------------------------------------------------------- */

static bool is_active(const aff__peer *peer) {
    return !aff__list_empty(&peer->visits) || !aff__list_empty(&peer->proxies) ||
           !aff__list_empty(&peer->events) || is_waiting(peer);
}

static uint64_t beat_every(const aff_engine *e, const aff__peer *peer) {
    uint64_t lock = e->config.lock_ttl_ms / 3, proxy = e->config.proxy_socket_ttl_ms / 3;
    uint64_t every = lock < proxy ? lock : proxy;
    uint64_t unacked = is_pressing(peer) ? BEAT_SOON_MS : BEAT_LATER_MS;
    return is_waiting(peer) && every > unacked ? unacked : every;
}

/* Who has routes or events at a peer wants to know whether it lives. */
static bool depends_on(const aff__peer *peer) {
    return !aff__list_empty(&peer->visits) || !aff__list_empty(&peer->events);
}

static uint64_t check_due(const aff_engine *e, const aff__peer *peer) {
    if (!depends_on(peer) || peer->checking) return UINT64_MAX;
    uint64_t silent = peer->heard_at + e->config.lock_ttl_ms / 2;
    return silent > peer->check_at ? silent : peer->check_at;
}

/* When to try once more whether anybody listens. */
static uint64_t unheard_due(const aff__peer *peer) {
    if (peer->unheard_at == 0) return UINT64_MAX;
    uint64_t grace_ends = peer->unheard_at + AFF_GRACE_MS;
    return peer->spoken_at >= grace_ends ? peer->spoken_at + CHECK_EVERY_MS : grace_ends;
}

static void check(aff_engine *e, aff__peer *peer) {
    if (!e->member.redis_up || peer->checking) return;
    peer->checking = true;
    peer->check_at = e->now + CHECK_EVERY_MS;
    aff_slice argv[] = {aff__key(e, "Server", aff__buf_slice(&peer->server_id))};
    aff__ask_redis(e, AFF_ASK_PEER, NULL, peer->process, AFF_COMMAND_GET, 1, argv);
}

/*
 * Nobody listens on the channel of a peer, and still nobody after a grace: it has died, well before
 * its membership ends. That ends its membership here and now; if it lives after all, its next
 * renewal tells it. The evidence counts only if our own connection has stood for long enough to
 * have seen it come back.
 */
static void on_receivers(aff_engine *e, aff__peer *peer, int64_t receivers) {
    if (receivers > 0 || !depends_on(peer)) {
        peer->unheard_at = 0;
        return;
    }
    if (peer->unheard_at == 0) peer->unheard_at = e->now;
    bool long_enough = e->now - peer->unheard_at >= AFF_GRACE_MS &&
                       e->now >= e->member.settled_at + AFF_BACKOFF_MS;
    if (!long_enough || peer->boot[0] == '\0') {
        check(e, peer);
        return;
    }
    aff_slice argv[] = {aff__key(e, "Server", aff__buf_slice(&peer->server_id)),
                        aff__str(peer->boot)};
    aff__ask_redis(e, AFF_ASK_EVICT, NULL, peer->process, AFF_SCRIPT_LEAVE, 2, argv);
}

/*
 * A member that has said nothing for long: what is sent does not arrive, or can't be read there (a
 * `secret`, `pack` or version of its own). Nobody else may own its documents, so their clients can
 * only be told, after the time that their proxy sockets there have. By then it is not some loss
 * that a beat would heal, nor a hung application, whose membership would have ended.
 */
static void on_mute(aff_engine *e, aff__peer *peer) {
    if (peer->mute_at == 0) peer->mute_at = e->now;
    uint64_t lock = e->config.lock_ttl_ms, proxy = e->config.proxy_socket_ttl_ms;
    if (e->now - peer->mute_at < (proxy > lock ? proxy : lock)) return;
    peer->mute_at = 0;
    aff__about about = {.server = aff__buf_slice(&peer->server_id)};
    aff__log(e, 1, AFF_TOPIC_LINKS, &about,
             "server %.*s is a member and does not answer: have all servers the same secret, pack "
             "and version? The clients of its documents here are closed",
             (int)peer->server_id.len, (const char *)peer->server_id.data);
    aff__visits_fail(e, peer);
}

void aff__peer_answer(aff_engine *e, const aff__ask *ask, const aff_event *reply) {
    aff__peer *peer = aff__peer_find(e, aff__slice(ask->boot, AFF_PROCESS_LEN));
    if (!peer) return;
    if (ask->kind == AFF_ASK_PEER) peer->checking = false;
    if (ask->kind == AFF_ASK_PUBLISHED && peer->unanswered > 0) {
        peer->unanswered--; /* else: of a former peer of this name */
        if (unsent(peer) > 0) mark_dirty(e, peer);
    }
    if (reply->status != 0 || reply->value_count == 0) return;
    const aff_value *value = &reply->values[0];
    if (ask->kind == AFF_ASK_PUBLISHED) {
        if (value->type == AFF_VALUE_INT) {
            on_receivers(e, peer, value->integer);
        } else { /* nobody can tell who listens: no evidence */
            peer->unheard_at = 0;
        }
        return;
    }
    if (ask->kind == AFF_ASK_EVICT) {
        aff__peer_gone(e, peer, AFF_GONE_UNHEARD);
        return;
    }
    bool lives = value->type == AFF_VALUE_STRING && value->string.len == AFF_BOOT_LEN &&
                 memcmp(value->string.data, peer->process, AFF_PROCESS_LEN) == 0;
    if (lives) {
        memcpy(peer->boot, value->string.data, AFF_BOOT_LEN);
        peer->absent_at = 0;
        if (e->now - peer->heard_at >= e->config.lock_ttl_ms / 2) on_mute(e, peer);
        return;
    }
    if (value->type == AFF_VALUE_NIL) {
        if (peer->absent_at == 0) peer->absent_at = e->now;
        if (e->now < peer->absent_at + AFF_ABSENT_MS || e->now < e->member.settled_at) return;
    }
    aff__peer_gone(e, peer, AFF_GONE_ENDED);
}

static void peer_tick(aff_engine *e, aff__peer *peer) {
    if (!aff__list_empty(&peer->proxies) &&
        e->now - peer->heard_at >= e->config.proxy_socket_ttl_ms) {
        aff__about about = {.server = aff__buf_slice(&peer->server_id)};
        aff__log(e, 1, AFF_TOPIC_LINKS, &about, "nothing heard from server %.*s for proxySocketTTL",
                 (int)peer->server_id.len, (const char *)peer->server_id.data);
        new_session(e, peer, peer->session + 1);
    }
    if (peer->ack_wanted && e->now >= peer->ack_at) mark_dirty(e, peer);
    if (!may_speak(e)) return;
    aff__direct_tick(e, peer);
    if (check_due(e, peer) <= e->now) check(e, peer);
    if (unheard_due(peer) <= e->now) beat(e, peer);
    if (is_active(peer) && e->now - peer->spoken_at >= beat_every(e, peer)) {
        beat(e, peer);
    }
}

/* What is done for a peer can end it, so the walk is over a copy of the pointers. */
static size_t copy_peers(aff_engine *e, aff__peer ***out) {
    size_t n = 0;
    *out = aff__alloc(&e->heap, (e->peers.count + 1) * sizeof(aff__peer *));
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        (*out)[n++] = AFF_OF(i, aff__peer, item);
    }
    return n;
}

void aff__peers_tick(aff_engine *e) {
    aff__peer **peers;
    size_t count = copy_peers(e, &peers);
    for (size_t p = 0; p < count; p++) {
        bool forget = !is_active(peers[p]) && e->now - peers[p]->heard_at > IDLE_FORGET_MS &&
                      e->now - peers[p]->spoken_at > IDLE_FORGET_MS;
        if (forget) {
            aff__peer_gone(e, peers[p], AFF_GONE_IDLE);
        } else {
            peer_tick(e, peers[p]);
        }
    }
    aff__release(&e->heap, peers);
}

/* After a connection came back: each side learns at once what the other has sent and had. */
void aff__peers_greet(aff_engine *e) {
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        aff__peer *peer = AFF_OF(i, aff__peer, item);
        if (!is_active(peer)) continue;
        peer->missed_at = peer->resent_at = 0; /* whatever was asked for then is lost */
        peer->missing = true;
        answer_now(e, peer);
    }
}

void aff__peers_farewell(aff_engine *e) {
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        aff__peer *peer = AFF_OF(i, aff__peer, item);
        aff__frame(e, AFF_FRAME_BYE);
        aff__frame_send(e, peer);
        peer->unanswered = 0; /* the last chance to say anything */
    }
    aff__link_flush(e);
}

void aff__peers_credit(aff_engine *e) {
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        aff__peer *peer = AFF_OF(i, aff__peer, item);
        if (credit(e, peer) - peer->in_limit >= WINDOW_MIN / 4) answer_now(e, peer);
    }
}

uint64_t aff__peers_deadline(const aff_engine *e) {
    uint64_t at = UINT64_MAX;
    for (aff__item *i = NULL; (i = aff__map_next(&e->peers, i));) {
        const aff__peer *peer = AFF_OF(i, aff__peer, item);
        uint64_t times[6] = {
            peer->ack_wanted ? peer->ack_at : UINT64_MAX,
            is_active(peer) ? peer->spoken_at + beat_every(e, peer) : UINT64_MAX,
            check_due(e, peer),
            unheard_due(peer),
            aff__direct_due(peer),
            aff__list_empty(&peer->proxies) ? UINT64_MAX
                                            : peer->heard_at + e->config.proxy_socket_ttl_ms,
        };
        for (int t = 0; t < 5 && !may_speak(e); t++) times[t] = UINT64_MAX;
        for (int t = 0; t < 6; t++) {
            if (times[t] < at) at = times[t];
        }
    }
    return at;
}
