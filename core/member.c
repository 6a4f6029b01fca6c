/*
 * member.c - the membership of this server.
 *
 *   OFFLINE --Redis is up--> JOINING --key set--------------------------> JOINED
 *      ^                      |   ^                                        |  |
 *      |   another boot has   |   | nobody listens there: its key is       |  | shutdown
 *      |   the key            v   | deleted, if it is still that boot's    |  v
 *      |                     PROBING --it lives--> AFF_ACT_FAILED          | LEAVING
 *      +--the renewal was refused, or came too late: under a new boot------+
 *
 * The key `<prefix>Server:<serverId>` holds the boot id for lockTTL and is renewed every third of
 * it, by compare-and-expire. What the server may rely on is `valid_until`: the time at which the
 * last renewal that succeeded was sent, plus lockTTL, minus a margin for clocks that run apart.
 */
#include "engine.h"

#include <stdio.h>

enum {
    PROBE_EVERY_MS = 200,
    /* A living server that lost its connection is back within this: the longest back-off of a
     * reconnection (500 ms), and some. */
    PROBE_FOR_MS = 800,
    STOP_AFTER_MS = 2000 /* an unreachable Redis does not hold up a shutdown for longer */
};

static const bool allowed[AFF_MEMBER_STATES][AFF_MEMBER_STATES] = {
    [AFF_MEMBER_OFFLINE] = {[AFF_MEMBER_JOINING] = 1, [AFF_MEMBER_LEAVING] = 1},
    [AFF_MEMBER_JOINING] = {[AFF_MEMBER_OFFLINE] = 1,
                            [AFF_MEMBER_PROBING] = 1,
                            [AFF_MEMBER_JOINED] = 1,
                            [AFF_MEMBER_LEAVING] = 1},
    [AFF_MEMBER_PROBING] =
        {[AFF_MEMBER_OFFLINE] = 1, [AFF_MEMBER_JOINING] = 1, [AFF_MEMBER_LEAVING] = 1},
    [AFF_MEMBER_JOINED] = {[AFF_MEMBER_OFFLINE] = 1, [AFF_MEMBER_LEAVING] = 1},
};

static void to(aff_engine *e, aff__member_state state) {
    AFF_ASSERT(allowed[e->member.state][state]);
    e->member.state = state;
}

bool aff__is_member(const aff_engine *e) {
    const aff__member *m = &e->member;
    return m->state == AFF_MEMBER_JOINED && m->redis_up && e->now < m->valid_until;
}

static uint64_t margin(const aff_engine *e) {
    return AFF_MUTATE(17, 0, e->config.lock_ttl_ms / 20 + 1);
}

static void ask(aff_engine *e, aff__ask_kind kind, aff_script script, const char *boot) {
    char ttl[24];
    snprintf(ttl, sizeof(ttl), "%llu", (unsigned long long)e->config.lock_ttl_ms);
    aff_slice argv[] = {aff__key(e, "Server", aff__str(e->config.server_id)), aff__str(boot),
                        aff__str(ttl)};
    aff__ask_redis(e, kind, NULL, boot, script, 3, argv);
    e->member.asking = true;
    e->member.asked_at = e->now;
}

static void subscribe(aff_engine *e) {
    aff_slice channel = aff__key(e, "Link", aff__slice(e->member.boot, AFF_PROCESS_LEN));
    aff__act(e, AFF_ACT_SUBSCRIBE, aff__none(), channel, aff__none());
    e->member.listening = true;
}

static void join(aff_engine *e) {
    to(e, AFF_MEMBER_JOINING);
    ask(e, AFF_ASK_JOIN, AFF_SCRIPT_JOIN, e->member.boot);
}

static void announce(aff_engine *e) {
    aff__member *m = &e->member;
    if (m->announced || m->state != AFF_MEMBER_JOINED || !m->subscribed) return;
    m->announced = true;
    aff__act(e, AFF_ACT_READY, aff__none(), aff__str(m->boot), aff__none());
}

static void joined(aff_engine *e) {
    aff__member *m = &e->member;
    to(e, AFF_MEMBER_JOINED);
    m->valid_until = m->asked_at + e->config.lock_ttl_ms - margin(e);
    m->renew_at = m->asked_at + e->config.lock_ttl_ms / 3;
    m->due_at = 0;
    announce(e);
    aff__docs_resume(e);
}

/* The membership is gone: whatever this boot owned, others may own now. Never revived. */
static void lapse(aff_engine *e, const char *why) {
    aff__log(e, 1, AFF_TOPIC_REDIS, NULL, "membership lost (%s): starting again under a new boot",
             why);
    e->stats.lapses++;
    e->member.valid_until = 0;
    aff__new_boot(e);
    if (AFF_MUTATE(18, false, true)) aff__docs_reclaim(e);
    to(e, AFF_MEMBER_OFFLINE);
    if (e->member.redis_up) join(e);
}

static bool has_lapsed(const aff_engine *e) {
    return e->member.state == AFF_MEMBER_JOINED && e->now >= e->member.valid_until;
}

/* From when on it is late: what was due while Redis was away counts from then on. */
static void note_due(aff__member *m, uint64_t now) {
    if (m->due_at == 0) m->due_at = m->renew_at < now ? m->renew_at : now;
}

/*
 * Do the key and our records still stand? It may be another Redis by now: a replica that was behind
 * when it was promoted.
 */
static void make_sure(aff_engine *e) {
    note_due(&e->member, e->now);
    e->member.renew_at = e->now;
    aff__member_tick(e);
    if (AFF_MUTATE(14, false, true)) aff__docs_reclaim(e);
    aff__docs_resume(e);
}

void aff__member_up(aff_engine *e) {
    aff__member *m = &e->member;
    m->redis_up = true;
    m->settled_at = m->announced ? e->now + AFF_GRACE_MS : e->now;
    if (m->failed) return;
    if (!m->listening) subscribe(e);
    if (m->state == AFF_MEMBER_OFFLINE) {
        join(e);
    } else if (m->stalled) {
        /* goes on when the application does */
    } else if (has_lapsed(e)) {
        lapse(e, "Redis was away for too long");
    } else if (m->state == AFF_MEMBER_JOINED) {
        make_sure(e);
    }
    aff__peers_greet(e);
}

void aff__member_down(aff_engine *e) {
    aff__member *m = &e->member;
    e->stats.disconnects++;
    m->redis_up = false;
    m->asking = false;
    if (m->state == AFF_MEMBER_JOINING || m->state == AFF_MEMBER_PROBING) {
        to(e, AFF_MEMBER_OFFLINE);
    }
}

void aff__member_subscribed(aff_engine *e, bool yes) {
    e->member.subscribed = yes;
    e->stats.disconnects += !yes;
    if (!yes) return;
    announce(e);
    aff__peers_greet(e);
}

static bool is_one(const aff_event *reply) {
    return reply->value_count >= 1 && reply->values[0].type == AFF_VALUE_INT &&
           reply->values[0].integer == 1;
}

static void start_probe(aff_engine *e, const aff_event *reply) {
    aff__member *m = &e->member;
    to(e, AFF_MEMBER_PROBING);
    snprintf(m->rival, sizeof(m->rival), "%.*s",
             reply->value_count > 1 ? (int)reply->values[1].string.len : 0,
             reply->value_count > 1 ? (const char *)reply->values[1].string.data : "");
    m->probe_at = e->now;
    m->probe_until = e->now + PROBE_FOR_MS;
    if (memcmp(m->rival, m->boot, AFF_PROCESS_LEN) == 0) { /* our own former boot, still there */
        ask(e, AFF_ASK_EVICT_RIVAL, AFF_SCRIPT_LEAVE, m->rival);
        return;
    }
    aff__member_tick(e);
}

/* A member that has failed to start stays off until it is shut down. */
static void fail(aff_engine *e) {
    char text[AFF_SERVER_ID_MAX + 128];
    int len = snprintf(text, sizeof(text), "serverId \"%s\" is in use by another living server",
                       e->config.server_id);
    to(e, AFF_MEMBER_OFFLINE);
    e->member.failed = true;
    aff__act(e, AFF_ACT_FAILED, aff__none(), aff__none(), aff__slice(text, (size_t)len))->status =
        AFF_ETAKEN;
}

/* Nobody can tell whether the rival listens. But a key that stays for longer than lockTTL is being
 * renewed. */
static void wait_for_end(aff_engine *e) {
    aff__member *m = &e->member;
    if (memcmp(m->awaited, m->rival, AFF_BOOT_LEN) != 0) {
        memcpy(m->awaited, m->rival, AFF_BOOT_LEN);
        m->awaited_since = e->now;
    }
    if (e->now - m->awaited_since >= e->config.lock_ttl_ms + PROBE_FOR_MS) {
        fail(e);
        return;
    }
    m->rival[0] = '\0'; /* the next probe is a join */
    m->probe_at = e->now + PROBE_EVERY_MS;
}

static void probed(aff_engine *e, const aff_event *reply) {
    aff__member *m = &e->member;
    bool is_known = reply->value_count > 1 && reply->values[1].type == AFF_VALUE_INT;
    if (!is_known) {
        wait_for_end(e);
    } else if (reply->values[1].integer > 0) {
        fail(e);
    } else if (e->now >= m->probe_until) {
        ask(e, AFF_ASK_EVICT_RIVAL, AFF_SCRIPT_LEAVE, m->rival);
    } else {
        m->probe_at = e->now + PROBE_EVERY_MS;
    }
}

static void renewed(aff_engine *e, const aff_event *reply) {
    aff__member *m = &e->member;
    if (!is_one(reply)) {
        lapse(e, "the key is gone or names another boot");
        return;
    }
    if (has_lapsed(e)) return; /* too late, whatever Redis says: member_tick gives up */
    m->valid_until = m->asked_at + e->config.lock_ttl_ms - margin(e);
    aff__count_duration(&e->stats.renewals, e->now - m->due_at);
    m->due_at = 0;
}

void aff__member_answer(aff_engine *e, const aff__ask *asked, const aff_event *reply) {
    aff__member *m = &e->member;
    if (m->state == AFF_MEMBER_LEAVING) {
        if (asked->kind == AFF_ASK_LEAVE) {
            aff__act(e, AFF_ACT_STOPPED, aff__none(), aff__none(), aff__none());
            m->stop_at = UINT64_MAX;
        }
        return;
    }
    m->asking = false;
    /* A request of a former boot, or one that the connection took with it: asked again when up. */
    if (reply->status == AFF_ENOTCONN) return;
    if (asked->kind != AFF_ASK_EVICT_RIVAL && asked->kind != AFF_ASK_PROBE &&
        memcmp(asked->boot, m->boot, AFF_BOOT_LEN) != 0)
        return;
    if (reply->status != 0) { /* Redis said no (loading, read-only, out of memory): again soon */
        if (m->state == AFF_MEMBER_JOINED) m->renew_at = e->now + e->config.lock_ttl_ms / 10;
        if (m->state == AFF_MEMBER_JOINING) to(e, AFF_MEMBER_PROBING);
        m->rival[0] = '\0'; /* the next probe is a join */
        m->probe_at = e->now + PROBE_EVERY_MS;
        return;
    }
    switch (asked->kind) {
        case AFF_ASK_JOIN:
            if (m->state != AFF_MEMBER_JOINING) return;
            if (is_one(reply)) {
                joined(e);
            } else {
                start_probe(e, reply);
            }
            return;
        case AFF_ASK_PROBE:
            if (m->state == AFF_MEMBER_PROBING) probed(e, reply);
            return;
        case AFF_ASK_EVICT_RIVAL:
            if (m->state == AFF_MEMBER_PROBING) join(e);
            return;
        case AFF_ASK_RENEW:
            if (m->state == AFF_MEMBER_JOINED) renewed(e, reply);
            return;
        default: return;
    }
}

static void probe(aff_engine *e) {
    if (e->member.rival[0] == '\0') { /* Redis had said no to the join itself */
        join(e);
        return;
    }
    aff_slice process = aff__slice(e->member.rival, AFF_PROCESS_LEN);
    aff_slice argv[] = {aff__key(e, "Link", process)};
    aff__ask_redis(e, AFF_ASK_PROBE, NULL, e->member.rival, AFF_COMMAND_NUMSUB, 1, argv);
    e->member.asking = true;
}

void aff__member_tick(aff_engine *e) {
    aff__member *m = &e->member;
    switch (m->state) {
        case AFF_MEMBER_JOINED:
            if (!m->redis_up || m->stalled)
                return; /* has_lapsed() speaks for itself; up() goes on */
            if (has_lapsed(e)) {
                lapse(e, "the renewal came too late");
            } else if (e->now >= m->renew_at && !m->asking) {
                note_due(m, e->now);
                m->renew_at = e->now + e->config.lock_ttl_ms / 3;
                ask(e, AFF_ASK_RENEW, AFF_SCRIPT_RENEW, m->boot);
            }
            return;
        case AFF_MEMBER_PROBING:
            if (m->redis_up && !m->asking && e->now >= m->probe_at) probe(e);
            return;
        case AFF_MEMBER_LEAVING:
            if (e->now < m->stop_at) return;
            m->stop_at = UINT64_MAX;
            aff__act(e, AFF_ACT_STOPPED, aff__none(), aff__none(), aff__none());
            return;
        default: return;
    }
}

uint64_t aff__member_deadline(const aff_engine *e) {
    const aff__member *m = &e->member;
    switch (m->state) {
        case AFF_MEMBER_JOINED:
            if (!m->redis_up || m->stalled) return UINT64_MAX;
            return m->asking || m->valid_until < m->renew_at ? m->valid_until : m->renew_at;
        case AFF_MEMBER_PROBING: return m->redis_up && !m->asking ? m->probe_at : UINT64_MAX;
        case AFF_MEMBER_LEAVING: return m->stop_at;
        default: return UINT64_MAX;
    }
}

/*
 * A hung application must not own for ever: its membership is not renewed, and others take over.
 * When it answers again, what has happened meanwhile is found out first of all.
 */
void aff__member_stalled(aff_engine *e, bool stalled) {
    aff__member *m = &e->member;
    if (m->stalled == stalled) return;
    m->stalled = stalled;
    e->stats.stalls += stalled;
    aff__log(e, 1, AFF_TOPIC_REDIS, NULL, "%s",
             stalled ? "the application hangs: membership is not renewed any more"
                     : "the application answers again");
    if (stalled || m->state != AFF_MEMBER_JOINED) return;
    if (m->redis_up) make_sure(e);
    aff__peers_greet(e);
}

void aff__member_shutdown(aff_engine *e) {
    aff__member *m = &e->member;
    if (m->state == AFF_MEMBER_LEAVING) return;
    bool was_joined = m->state == AFF_MEMBER_JOINED && m->redis_up;
    aff__docs_release(e);
    aff__peers_farewell(e);
    to(e, AFF_MEMBER_LEAVING);
    m->valid_until = 0;
    m->stop_at = e->now + STOP_AFTER_MS;
    if (was_joined) {
        ask(e, AFF_ASK_LEAVE, AFF_SCRIPT_LEAVE, m->boot);
    } else {
        m->stop_at = e->now;
    }
}
