/*
 * lease.c - documents and their leases.
 *
 *            claim                won
 *   FREE ------------> CLAIMING ------------> OWNED --last use ends--> RELEASING --> FREE
 *    ^  ^                |  ^  \                |
 *    |  |         held by|  |   \held by        | a new boot: claim it anew
 *    |  |     a stranger |  |    \a known peer  +------------------------> CLAIMING
 *    |  |                v  |     v
 *    |  +---- Redis -- CHECKING -> REMOTE --a claim of the app, or a refusal--> CLAIMING
 *    |       is away   (dead: claim with its record expected)
 *    +------- nobody wants it any more
 *
 * A document that is given to another server is RELEASING too, and still served: if Redis does not
 * answer, it goes on as one that is `kept`.
 *
 * Invariants (aff_check): OWNED has an epoch and a record, and REMOTE an owner; a document without
 * uses, waiters, routes and served addresses is not OWNED (I3), and is forgotten unless Redis is
 * being asked about it.
 */
#include "engine.h"

#include <stdio.h>

/* A record outlives its server by this at most; refreshed at half. */
enum { LOOK_AGAIN_MS = 30, REFUSED_AGAIN_MS = 500, GIVEN_MS = 1000 };
static const uint64_t RECORD_TTL_MS = 24ull * 3600 * 1000;

static const bool allowed[AFF_DOC_STATES][AFF_DOC_STATES] = {
    [AFF_DOC_FREE] = {[AFF_DOC_CLAIMING] = 1},
    [AFF_DOC_CLAIMING] =
        {[AFF_DOC_FREE] = 1, [AFF_DOC_OWNED] = 1, [AFF_DOC_CHECKING] = 1, [AFF_DOC_REMOTE] = 1},
    [AFF_DOC_CHECKING] = {[AFF_DOC_FREE] = 1, [AFF_DOC_CLAIMING] = 1, [AFF_DOC_REMOTE] = 1},
    [AFF_DOC_OWNED] = {[AFF_DOC_RELEASING] = 1, [AFF_DOC_FREE] = 1},
    [AFF_DOC_REMOTE] = {[AFF_DOC_CLAIMING] = 1, [AFF_DOC_FREE] = 1},
    [AFF_DOC_RELEASING] = {[AFF_DOC_FREE] = 1},
};

static void to(aff_engine *e, aff__doc *doc, aff__doc_state state) {
    AFF_ASSERT(allowed[doc->state][state]);
    if (doc->state == AFF_DOC_OWNED) e->stats.documents_owned--;
    if (state == AFF_DOC_OWNED) e->stats.documents_owned++;
    if (doc->state == AFF_DOC_REMOTE) doc->owner = NULL;
    doc->state = state;
}

/* ---- The documents ----------------------------------------------------------------------- */

aff__doc *aff__doc_find(const aff_engine *e, aff_slice name) {
    aff__item *item = aff__map_get(&e->docs, name);
    return item ? AFF_OF(item, aff__doc, item) : NULL;
}

aff__doc *aff__doc_get(aff_engine *e, aff_slice name) {
    aff__doc *doc = aff__doc_find(e, name);
    if (doc) return doc;
    doc = aff__alloc(&e->heap, sizeof(*doc) + name.len);
    memcpy(doc + 1, name.data, name.len);
    aff__item_init(&doc->item, aff__slice(doc + 1, name.len));
    aff__buf_init(&doc->record, &e->heap);
    aff__list_init(&doc->waiters);
    aff__list_init(&doc->routes);
    aff__list_init(&doc->served);
    aff__map_put(&e->docs, &doc->item);
    return doc;
}

static bool is_used(const aff__doc *doc) {
    for (int use = 0; use < AFF_USE_COUNT; use++) {
        if (doc->uses[use]) return true;
    }
    return false;
}

static bool is_asked(const aff__doc *doc) {
    return doc->state == AFF_DOC_CLAIMING || doc->state == AFF_DOC_CHECKING ||
           doc->state == AFF_DOC_RELEASING || doc->refreshing;
}

/* Is there anything that waits for the owner's name? */
static bool is_wanted(const aff__doc *doc) {
    return !aff__list_empty(&doc->waiters) || is_used(doc) || doc->lookups > 0;
}

bool aff__doc_serves(const aff__doc *doc) {
    return doc->state == AFF_DOC_OWNED || doc->kept || doc->giving;
}

void aff__doc_use(aff_engine *e, aff__doc *doc, aff_use use) {
    (void)e;
    doc->uses[use]++;
}

void aff__doc_unuse(aff_engine *e, aff__doc *doc, aff_use use) {
    (void)e;
    AFF_ASSERT(doc->uses[use] > 0);
    doc->uses[use]--;
}

/* ---- Asking Redis ------------------------------------------------------------------------ */

static aff_slice lease_key(aff_engine *e, const aff__doc *doc) {
    return aff__key(e, "Lock", aff__item_key(&doc->item));
}

/* The app here does not count on it: there are only events that want an open document. */
static bool is_unclaimed(const aff__doc *doc) {
    if (is_used(doc)) return false;
    for (aff__list *i = doc->waiters.next; i != &doc->waiters; i = i->next) {
        if (!AFF_OF(i, aff__waiter, by_doc)->only_if_open) return false;
    }
    return true;
}

/* A server that is leaving takes nothing any more; it only looks who does. */
static bool is_leaving(const aff_engine *e, const aff__doc *doc) {
    if (!e->member.draining || doc->kept) return false;
    for (aff__list *i = doc->waiters.next; i != &doc->waiters; i = i->next) {
        const aff__waiter *waiter = AFF_OF(i, const aff__waiter, by_doc);
        if (waiter->forced && !waiter->only_if_open) return false;
    }
    return true;
}

/* Clients open what nobody has: the app says who shall have it. After a fail-over it is who has its
 * clients; but a server that is leaving takes nothing. */
static bool may_be_placed(const aff_engine *e, const aff__doc *doc) {
    if (doc->lookups == 0 || doc->kept || !is_unclaimed(doc)) return false;
    return e->member.draining || (e->config.places && doc->epoch == 0 && !doc->placed);
}

/*
 * Has Redis record the document for a server: this one, or who is given it. `standing`: a record of
 * that one stands if its epoch is this or above; `expected`: the record that may be overwritten: a
 * dead boot's, or of our own former boot, or our own; `mode`: the script's ARGV[6].
 */
static void ask_for_lease(aff_engine *e, aff__doc *doc, aff__ask_kind kind, aff_slice boot,
                          aff_slice server, uint64_t standing, aff_slice expected,
                          const char *mode) {
    char least[24], highest[24], ttl[24];
    snprintf(least, sizeof(least), "%llu", (unsigned long long)standing);
    snprintf(highest, sizeof(highest), "%llu", (unsigned long long)e->stats.epoch_max);
    snprintf(ttl, sizeof(ttl), "%llu", (unsigned long long)RECORD_TTL_MS);
    aff_slice argv[] = {lease_key(e, doc), boot,          server,         aff__str(least),
                        expected,          aff__str(ttl), aff__str(mode), aff__str(highest)};
    aff__ask_redis(e, kind, doc, e->member.boot, AFF_SCRIPT_CLAIM, 8, argv);
}

static void claim(aff_engine *e, aff__doc *doc, aff_slice expected) {
    bool is_for_events = doc->lookups == 0 && is_unclaimed(doc);
    doc->for_other = false;
    doc->peeked = is_for_events || is_leaving(e, doc) || may_be_placed(e, doc);
    to(e, doc, AFF_DOC_CLAIMING);
    /* A record of ours may stand as it is; what is new is above all that this server has seen. */
    ask_for_lease(e, doc, AFF_ASK_CLAIM, aff__str(e->member.boot), aff__str(e->config.server_id),
                  doc->kept || doc->expected ? doc->epoch : e->stats.epoch_max, expected,
                  doc->peeked ? "1"
                  : doc->kept ? "2"
                              : "0");
    doc->asked = e->next_id;
}

static void release(aff_engine *e, aff__doc *doc) {
    aff_slice argv[] = {lease_key(e, doc), aff__buf_slice(&doc->record)};
    to(e, doc, AFF_DOC_RELEASING);
    aff__ask_redis(e, AFF_ASK_RELEASE, doc, NULL, AFF_SCRIPT_RELEASE, 2, argv);
}

/* The same, and the lease is another server's then; which learns of it from those who come. */
static void give(aff_engine *e, aff__doc *doc, aff_slice server, aff_slice boot) {
    doc->giving = true;
    to(e, doc, AFF_DOC_RELEASING);
    ask_for_lease(e, doc, AFF_ASK_RELEASE, boot, server, 0, aff__buf_slice(&doc->record), "0");
}

static void forget(aff_engine *e, aff__doc *doc) {
    aff__map_remove(&e->docs, &doc->item);
    aff__buf_free(&doc->record);
    aff__release(&e->heap, doc);
}

/* Those who owned a document before Redis went away claim it first. */
static bool may_claim(aff_engine *e, const aff__doc *doc) {
    if (!aff__is_member(e)) return false;
    if (doc->kept || e->now >= e->member.settled_at) return true;
    aff__docs_resume_at(e, e->member.settled_at);
    return false;
}

static bool is_idle(const aff__doc *doc) {
    return !is_used(doc) && aff__list_empty(&doc->waiters) && aff__list_empty(&doc->routes) &&
           aff__list_empty(&doc->served);
}

/* A route moves to this server itself, and its offer is still under way. */
static bool is_offered_here(const aff_engine *e, const aff__doc *doc) {
    for (const aff__list *i = doc->routes.next; i != &doc->routes; i = i->next) {
        const aff__route *route = AFF_OF(i, const aff__route, by_doc);
        if (route->state == AFF_ROUTE_OFFERED && route->visit->peer == e->self) return true;
    }
    return false;
}

/* Who has been given a document keeps it until those who bring it have come. */
static bool is_just_given(const aff_engine *e, const aff__doc *doc) {
    return e->now < doc->given_until && !e->member.draining;
}

bool aff__doc_settle(aff_engine *e, aff__doc *doc) {
    if (doc->answering || is_asked(doc)) return true; /* the answer goes on */
    if (doc->state == AFF_DOC_OWNED) {
        if (is_wanted(doc) || is_offered_here(e, doc)) return true;
        if (is_just_given(e, doc)) {
            aff__docs_resume_at(e, doc->given_until);
        } else {
            release(e, doc);
        }
        return true;
    }
    if (is_idle(doc)) {
        if (doc->state == AFF_DOC_REMOTE) to(e, doc, AFF_DOC_FREE);
        forget(e, doc);
        return false;
    }
    if (doc->placing && may_be_placed(e, doc)) return true;
    bool must_ask = doc->state == AFF_DOC_REMOTE ? !aff__list_empty(&doc->waiters) : is_wanted(doc);
    if (must_ask && may_claim(e, doc)) claim(e, doc, aff__none());
    return true;
}

void aff__doc_doubt(aff_engine *e, aff_slice name, aff__peer *peer) {
    peer->boot[0] = '\0'; /* the record may be of a former one */
    aff__doc *doc = aff__doc_find(e, name);
    if (!doc || doc->state != AFF_DOC_REMOTE || doc->owner != peer) return;
    doc->doubted = true;
    to(e, doc, AFF_DOC_FREE);
}

/*
 * Somebody comes to us with a document that we know nothing of: Redis says that it is ours. It may
 * be, if its former owner has given it to us. Asks, if this server takes anything; else false.
 */
bool aff__doc_expect(aff_engine *e, aff_slice name, uint64_t epoch) {
    aff__saw_epoch(e, epoch);
    aff__doc *doc = aff__doc_get(e, name);
    bool is_news =
        doc->state == AFF_DOC_FREE || (doc->state == AFF_DOC_REMOTE && doc->epoch < epoch);
    if (!is_news || doc->kept || e->member.draining || !may_claim(e, doc)) {
        aff__doc_settle(e, doc);
        return false;
    }
    if (doc->state == AFF_DOC_REMOTE) to(e, doc, AFF_DOC_FREE);
    doc->epoch = epoch;
    doc->expected = true;
    claim(e, doc, aff__none());
    return true;
}

/* A record can outlive its release, or the claim that nobody waited for: Redis was away. While this
 * boot lives nobody else could take the document, so exactly that record is deleted. */
void aff__doc_disown(aff_engine *e, aff_slice name, uint64_t epoch) {
    aff__saw_epoch(e, epoch);
    const aff__doc *doc = aff__doc_find(e, name);
    if (doc && doc->state != AFF_DOC_FREE && doc->state != AFF_DOC_REMOTE) return;
    char record[24 + AFF_BOOT_LEN + AFF_SERVER_ID_MAX];
    int len = snprintf(record, sizeof(record), "%llu %s %s", (unsigned long long)epoch,
                       e->member.boot, e->config.server_id);
    aff_slice argv[] = {aff__key(e, "Lock", name), aff__slice(record, (size_t)len)};
    aff__ask_redis(e, AFF_ASK_RELEASE, NULL, NULL, AFF_SCRIPT_RELEASE, 2, argv);
}

aff__doc *aff__doc_come(aff_engine *e, aff_slice name, uint64_t epoch) {
    aff__doc *doc = aff__doc_find(e, name);
    if (!doc || doc->state != AFF_DOC_OWNED || epoch <= doc->epoch) return doc;
    aff__saw_epoch(e, epoch);
    doc->kept = true;
    to(e, doc, AFF_DOC_FREE);
    return aff__doc_settle(e, doc) ? doc : NULL;
}

void aff__docs_forget_owner(aff_engine *e, const aff__peer *peer) {
    for (aff__item *i = NULL; (i = aff__map_next(&e->docs, i));) {
        aff__doc *doc = AFF_OF(i, aff__doc, item);
        if (doc->owner != peer) continue;
        to(e, doc, AFF_DOC_FREE);
        doc->absent_at = 1; /* that it is gone has been made sure of */
    }
}

/* Addresses that waited for the answer to our claim: accepted if we own it, else refused. */
static void place_parked(aff_engine *e, aff__doc *doc) {
    AFF_EACH(i, &doc->served) {
        aff__served_place(e, AFF_OF(i, aff__served, by_doc));
    }
}

/* ---- Answers to who waits ---------------------------------------------------------------- */

void aff__waiter_free(aff_engine *e, aff__waiter *waiter) {
    if (waiter->doc) aff__list_remove(&waiter->by_doc);
    aff__list_remove(&waiter->by_time);
    if (waiter->is_event) {
        aff__list_remove(&waiter->by_peer);
        aff__map_remove(&e->events, &waiter->item);
        aff__buf_free(&waiter->document);
        aff__buf_free(&waiter->name);
        aff__buf_free(&waiter->data);
    }
    aff__release(&e->heap, waiter);
}

static void answer_claim(aff_engine *e, aff__waiter *waiter, int status, aff_slice owner) {
    aff_action *act = aff__act(e, AFF_ACT_CLAIMED, aff__none(), owner, aff__none());
    act->request = waiter->request;
    act->status = status;
    act->bytes = status == 0 ? waiter->doc->epoch : 0;
    aff__waiter_free(e, waiter);
}

/* Is it still with a former owner? One that only has a new epoch tells so itself. */
static bool is_outdated(const aff_engine *e, const aff__doc *doc, const aff__route *route) {
    const aff__peer *owner = doc->state == AFF_DOC_OWNED ? e->self : doc->owner;
    return route->visit && route->visit->peer != owner;
}

/* What Redis said before it was asked for a confirmation does not confirm. */
static aff__waiter *first_waiter(const aff__doc *doc) {
    AFF_EACH(i, &doc->waiters) {
        aff__waiter *waiter = AFF_OF(i, aff__waiter, by_doc);
        if (waiter->newer_than == 0 || waiter->newer_than < doc->asked) return waiter;
    }
    return NULL;
}

/* The document is OWNED or REMOTE now: everyone who waited gets on. */
static void answer_all(aff_engine *e, aff__doc *doc) {
    bool owned = doc->state == AFF_DOC_OWNED;
    for (aff__waiter *waiter; (waiter = first_waiter(doc));) {
        if (waiter->is_event) {
            aff__event_place(e, waiter);
        } else if (owned) {
            if (!waiter->only_confirm) aff__doc_use(e, doc, waiter->use);
            answer_claim(e, waiter, 0, aff__none());
        } else {
            answer_claim(e, waiter, AFF_EOWNED, aff__buf_slice(&doc->owner->server_id));
        }
    }
    place_parked(e, doc);
    /* Placing a route can end others of its socket: start again after each. */
    for (bool again = true; again;) {
        again = false;
        AFF_EACH(i, &doc->routes) {
            aff__route *route = AFF_OF(i, aff__route, by_doc);
            if (aff__route_placeable(route)) {
                aff__route_place(e, route);
                again = true;
                break;
            }
            if (is_outdated(e, doc, route)) {
                aff__route_move(e, route);
                again = true;
                break;
            }
        }
    }
}

void aff__doc_wait(aff_engine *e, aff__doc *doc, aff__waiter *waiter) {
    waiter->doc = doc;
    aff__list_append(&doc->waiters, &waiter->by_doc);
    if (doc->state == AFF_DOC_OWNED) {
        answer_all(e, doc);
    } else {
        aff__doc_settle(e, doc);
    }
}

/* Nobody is left who would be served here. */
static void drop_uses(aff__doc *doc) {
    for (int use = 0; use < AFF_USE_COUNT; use++) {
        if (use != AFF_USE_ROUTE) doc->uses[use] = 0;
    }
}

static void move_local_routes(aff_engine *e, aff__doc *doc) {
    for (bool again = true; again;) {
        again = false;
        AFF_EACH(i, &doc->routes) {
            aff__route *route = AFF_OF(i, aff__route, by_doc);
            bool here =
                route->state == AFF_ROUTE_LOCAL || (route->visit && route->visit->peer == e->self);
            if (!here) continue;
            aff__route_move(e, route);
            again = true;
            break;
        }
    }
}

/* Redis is asked whether our record still stands; where it is missing, it is claimed anew. */
void aff__doc_confirm(aff_engine *e, uint64_t request, aff_slice name) {
    aff__doc *doc = aff__doc_get(e, name);
    aff__waiter *waiter = aff__alloc(&e->heap, sizeof(*waiter));
    waiter->request = request;
    waiter->only_confirm = true;
    waiter->newer_than = doc->state == AFF_DOC_CLAIMING ? e->next_id : 0;
    waiter->deadline = e->now + e->config.lock_ttl_ms;
    waiter->doc = doc;
    aff__list_append(&e->claims, &waiter->by_time);
    aff__list_append(&doc->waiters, &waiter->by_doc);
    if (AFF_MUTATE(5, doc->state == AFF_DOC_OWNED, false)) {
        answer_all(e, doc);
        return;
    }
    if (doc->state == AFF_DOC_OWNED) {
        doc->kept = true;
        to(e, doc, AFF_DOC_FREE);
    }
    aff__doc_settle(e, doc);
}

static void answer_left(aff_engine *e, uint64_t request, int status) {
    aff_action *act = aff__act(e, AFF_ACT_CLAIMED, aff__none(), aff__none(), aff__none());
    act->request = request;
    act->status = status;
}

/* Nobody is served here any more. */
static void abandon(aff_engine *e, aff__doc *doc) {
    bool was_answering = doc->answering;
    doc->answering = true;
    drop_uses(doc);
    aff__served_lost(e, doc);
    move_local_routes(e, doc);
    doc->answering = was_answering;
}

/* The lease is free: whoever claims it next owns the document. The app is told last: it ends its
 * connections then, and what they say must not reach clients whose routes have moved. */
static void left(aff_engine *e, aff__doc *doc, int status) {
    uint64_t request = doc->left;
    doc->left = 0;
    if (AFF_MUTATE(16, true, false)) answer_left(e, request, status);
    abandon(e, doc);
    if (AFF_MUTATE(16, false, true)) answer_left(e, request, status);
}

void aff__doc_leave(aff_engine *e, const aff_event *v) {
    aff__doc *doc = aff__doc_find(e, v->document);
    bool can_ask = doc && doc->state == AFF_DOC_OWNED && aff__is_member(e);
    bool at_once = v->flag;
    if (can_ask && !at_once) {
        doc->left = v->request;
        if (v->data.len > 0) {
            give(e, doc, v->name, v->data);
        } else {
            release(e, doc);
        }
        return;
    }
    if (doc && at_once) {
        doc->kept = false;
        if (can_ask) release(e, doc);
        abandon(e, doc);
    }
    answer_left(e, v->request, can_ask ? 0 : AFF_EREDIS);
    if (doc && at_once) aff__doc_settle(e, doc);
}

/* The app has chosen. Whoever is named learns of it from those who come (aff__doc_expect). */
void aff__doc_place(aff_engine *e, const aff_event *v) {
    aff__doc *doc = aff__doc_find(e, v->document);
    if (!doc || !doc->placing) return;
    doc->placing = false;
    bool is_free = doc->state == AFF_DOC_FREE && may_be_placed(e, doc) && aff__is_member(e);
    bool is_other = v->data.len > 0 && !aff__equal(v->data, aff__str(e->member.boot));
    doc->placed = true;
    if (is_free && is_other) {
        doc->for_other = true;
        doc->peeked = false;
        to(e, doc, AFF_DOC_CLAIMING);
        ask_for_lease(e, doc, AFF_ASK_CLAIM, v->data, v->name, 0, aff__none(), "0");
        doc->asked = e->next_id;
    } else if (is_free && e->member.draining) {
        aff__docs_resume_at(e, e->now + LOOK_AGAIN_MS);
    } else {
        aff__doc_settle(e, doc);
    }
}

/* Whether it happened the next claim will tell; until then all goes on as it was. */
static void not_given(aff_engine *e, aff__doc *doc, int status) {
    uint64_t request = doc->left;
    doc->left = 0;
    doc->kept = true;
    answer_left(e, request, status);
}

/* Where our record did not stand any more, somebody else may have the document. */
static int left_status(const aff_event *reply) {
    if (reply->status != 0) return reply->status;
    bool stood = reply->value_count > 0 && reply->values[0].integer == 1;
    return stood ? 0 : AFF_EOWNED;
}

/* This server has lost a document that the app counted on. */
static void lost(aff_engine *e, aff__doc *doc) {
    if (!doc->kept) return;
    doc->kept = false;
    e->stats.losses++;
    drop_uses(doc);
    aff__served_lost(e, doc);
    move_local_routes(e, doc);
    aff__act(e, AFF_ACT_LOST, aff__item_key(&doc->item), aff__none(), aff__none());
    aff__news(e, AFF_NEWS_LOST, aff__item_key(&doc->item), aff__buf_slice(&doc->owner->server_id),
              doc->epoch);
}

/* ---- Answers of Redis -------------------------------------------------------------------- */

typedef struct {
    uint64_t epoch;
    aff_slice boot, server;
} record_fields;

static bool is_hex(aff_slice text) {
    for (size_t i = 0; i < text.len; i++) {
        uint8_t c = text.data[i];
        if (!(c >= '0' && c <= '9') && !(c >= 'a' && c <= 'f')) return false;
    }
    return true;
}

/* The same as in the claim script: what one of them reads, the other does too. */
static bool parse_record(aff_slice record, record_fields *out) {
    size_t at = 0;
    out->epoch = 0;
    for (; at < record.len && record.data[at] >= '0' && record.data[at] <= '9'; at++) {
        out->epoch = out->epoch * 10 + (uint64_t)(record.data[at] - '0');
        if (out->epoch > AFF_EPOCH_MAX) return false;
    }
    size_t boot_at = at + 1, server_at = boot_at + AFF_BOOT_LEN + 1;
    if (out->epoch == 0 || record.len <= server_at) return false;
    if (record.data[at] != ' ' || record.data[server_at - 1] != ' ') return false;
    out->boot = aff__slice(record.data + boot_at, AFF_BOOT_LEN);
    out->server = aff__slice(record.data + server_at, record.len - server_at);
    return is_hex(out->boot) && out->server.len <= AFF_SERVER_ID_MAX;
}

void aff__saw_epoch(aff_engine *e, uint64_t epoch) {
    if (epoch > e->stats.epoch_max) e->stats.epoch_max = epoch;
}

/* A document of ours has a new epoch: why? */
static void count_reclaim(aff_engine *e, const aff__doc *doc) {
    record_fields former;
    bool was_ours = parse_record(aff__buf_slice(&doc->record), &former) &&
                    memcmp(former.boot.data, e->member.boot, AFF_PROCESS_LEN) == 0;
    if (!was_ours) return; /* another server had it in between: a take-over */
    bool has_lapsed = memcmp(former.boot.data, e->member.boot, AFF_BOOT_LEN) != 0;
    e->stats.reclaims_by[has_lapsed ? AFF_RECLAIM_LAPSE : AFF_RECLAIM_RECORD]++;
}

static void won(aff_engine *e, aff__doc *doc, aff_slice record, const record_fields *fields) {
    bool renewed = doc->kept && doc->epoch != fields->epoch;
    if (renewed) count_reclaim(e, doc);
    if (!doc->kept || renewed) {
        aff__news(e, AFF_NEWS_OWNED, aff__item_key(&doc->item), aff__none(), fields->epoch);
    }
    to(e, doc, AFF_DOC_OWNED);
    doc->epoch = fields->epoch;
    doc->kept = false;
    if (renewed) aff__served_renewed(e, doc);
    doc->record.len = 0;
    aff__put(&doc->record, record.data, record.len);
    doc->refresh_at = e->now + RECORD_TTL_MS / 2;
    doc->answering = true;
    answer_all(e, doc);
    doc->answering = false;
    if (!aff__list_empty(&doc->waiters)) { /* for a later answer */
        doc->kept = true;
        to(e, doc, AFF_DOC_FREE);
    }
    aff__doc_settle(e, doc);
}

static void remote(aff_engine *e, aff__doc *doc, aff__peer *peer, const record_fields *fields) {
    bool is_same = doc->doubted && fields->epoch == doc->epoch;
    doc->absent_at = 0;
    doc->doubted = false;
    if (is_same) { /* Redis and the server disagree: whatever is under way there, it needs time */
        to(e, doc, AFF_DOC_FREE);
        place_parked(e, doc);
        aff__docs_resume_at(e, e->now + LOOK_AGAIN_MS);
        return;
    }
    to(e, doc, AFF_DOC_REMOTE);
    doc->owner = peer;
    doc->epoch = fields->epoch;
    if (peer->server_id.len == 0) {
        aff__put(&peer->server_id, fields->server.data, fields->server.len);
    }
    doc->answering = true;
    lost(e, doc);
    answer_all(e, doc);
    doc->answering = false;
    aff__doc_settle(e, doc);
}

static void ask_holder(aff_engine *e, aff__doc *doc, aff_slice record, const record_fields *f) {
    to(e, doc, AFF_DOC_CHECKING);
    doc->record.len = 0;
    aff__put(&doc->record, record.data, record.len);
    aff_slice argv[] = {aff__key(e, "Server", f->server)};
    aff__ask_redis(e, AFF_ASK_HOLDER, doc, (const char *)f->boot.data, AFF_COMMAND_GET, 1, argv);
}

/* Nobody has it, and nobody here wanted more than to know that. */
static void not_open(aff_engine *e, aff__doc *doc) {
    to(e, doc, AFF_DOC_FREE);
    place_parked(e, doc);
    AFF_EACH(i, &doc->waiters) {
        aff__waiter *waiter = AFF_OF(i, aff__waiter, by_doc);
        if (!waiter->only_if_open) continue; /* came later: claimed next */
        aff_action *act = aff__act(e, AFF_ACT_EVENT_DONE, aff__none(), aff__none(), aff__none());
        act->request = waiter->request;
        act->status = AFF_ENOTOPEN;
        aff__waiter_free(e, waiter);
    }
    if (may_be_placed(e, doc)) {
        doc->placing = true;
        aff__act(e, AFF_ACT_PLACE, aff__item_key(&doc->item), aff__none(), aff__none());
    } else if (is_leaving(e, doc) && is_wanted(doc)) {
        aff__docs_resume_at(e, e->now + LOOK_AGAIN_MS);
    } else {
        aff__doc_settle(e, doc);
    }
}

/* Claims what a dead boot has left behind, if this server may have it. */
static void claim_over(aff_engine *e, aff__doc *doc, aff_slice record) {
    to(e, doc, AFF_DOC_FREE);
    if (may_claim(e, doc)) {
        claim(e, doc, record);
    } else {
        place_parked(e, doc);
        aff__doc_settle(e, doc);
    }
}

/* Without asking. A process that lives may have lapsed since, and claimed only what it still
 * wanted. */
static bool is_known_to_live(const aff_engine *e, const aff__peer *peer, aff_slice boot) {
    return aff__peer_alive(e, peer) && memcmp(peer->boot, boot.data, AFF_BOOT_LEN) == 0;
}

/* What the script has given us is ours, and no older than what we had. */
static bool is_granted(const aff_engine *e, const aff__doc *doc, const record_fields *fields) {
    return memcmp(fields->boot.data, e->member.boot, AFF_BOOT_LEN) == 0 &&
           (!doc->kept || fields->epoch >= doc->epoch);
}

static void on_claim_answer(aff_engine *e, aff__doc *doc, const aff_event *reply) {
    const aff_value *values = reply->values;
    int64_t result = reply->value_count > 0 ? values[0].integer : -1;
    if (result == 2) {
        not_open(e, doc);
        return;
    }
    record_fields fields;
    if (doc->for_other && result == 1) result = 0; /* somebody else's, as it should be */
    aff_slice record = reply->value_count > 1 ? values[1].string : aff__none();
    if (!parse_record(record, &fields) || (result == 1 && !is_granted(e, doc, &fields))) {
        aff__about about = {.document = aff__item_key(&doc->item)};
        aff__log(e, 1, AFF_TOPIC_DOCUMENTS, &about, "unreadable lease record of a document");
        to(e, doc, AFF_DOC_FREE);
        place_parked(e, doc);
        return;
    }
    aff__saw_epoch(e, fields.epoch);
    if (result == 1) {
        won(e, doc, record, &fields);
        return;
    }
    aff__peer *peer = aff__peer_find(e, aff__slice(fields.boot.data, AFF_PROCESS_LEN));
    bool is_former = memcmp(fields.boot.data, e->member.boot, AFF_PROCESS_LEN) == 0;
    if (is_former) {
        claim_over(e, doc, record);
    } else if (peer && is_known_to_live(e, peer, fields.boot)) {
        remote(e, doc, peer, &fields);
    } else {
        ask_holder(e, doc, record, &fields);
    }
}

/* The holder's membership is missing: for long enough to take its document over? */
static bool is_conclusive(aff_engine *e, aff__doc *doc) {
    if (doc->absent_at == 0) doc->absent_at = e->now;
    if (e->now >= doc->absent_at + AFF_ABSENT_MS) return true;
    aff__docs_resume_at(e, doc->absent_at + AFF_ABSENT_MS);
    return false;
}

/* `is_absent`: its membership is missing; else it is that of another boot. */
static aff_takeover cause_of(const aff_engine *e, const record_fields *fields, bool is_absent) {
    switch (aff__why_gone(e, (const char *)fields->boot.data)) {
        case AFF_GONE_UNHEARD: return AFF_TAKEOVER_EVIDENCE;
        case AFF_GONE_GOODBYE: return AFF_TAKEOVER_LEFT;
        default: return is_absent ? AFF_TAKEOVER_ENDED : AFF_TAKEOVER_RESTARTED;
    }
}

static void on_holder_answer(aff_engine *e, aff__doc *doc, const aff__ask *ask,
                             const aff_event *reply) {
    aff_slice record = aff__buf_slice(&doc->record);
    record_fields fields;
    AFF_ASSERT(parse_record(record, &fields));
    const aff_value *value = reply->value_count ? &reply->values[0] : NULL;
    bool lives = value && value->type == AFF_VALUE_STRING &&
                 aff__equal(value->string, aff__slice(ask->boot, AFF_BOOT_LEN));
    if (lives) {
        aff__peer *peer = aff__peer_get(e, ask->boot);
        memcpy(peer->boot, ask->boot, AFF_BOOT_LEN);
        remote(e, doc, peer, &fields);
        return;
    }
    bool is_absent = value && value->type == AFF_VALUE_NIL;
    if (is_absent && !is_conclusive(e, doc)) {
        to(e, doc, AFF_DOC_FREE);
        place_parked(e, doc);
        return;
    }
    doc->absent_at = 0;
    if (may_claim(e, doc)) {
        aff__about about = {aff__item_key(&doc->item), fields.server, fields.epoch};
        aff__log(e, 0, AFF_TOPIC_DOCUMENTS, &about,
                 "taking a document over from %.*s, which is dead", (int)fields.server.len,
                 (const char *)fields.server.data);
        e->stats.takeovers_by[cause_of(e, &fields, is_absent)]++;
        aff__news(e, AFF_NEWS_TAKEOVER, aff__item_key(&doc->item), fields.server, fields.epoch);
    }
    claim_over(e, doc, record);
}

/* Our record is gone, or not ours any more: the next claim will tell. */
static void on_refresh_answer(aff_engine *e, aff__doc *doc, const aff_event *reply) {
    bool stands = reply->value_count && reply->values[0].integer == 1;
    if (doc->state != AFF_DOC_OWNED || stands) return;
    doc->kept = true;
    to(e, doc, AFF_DOC_FREE);
}

void aff__doc_answer(aff_engine *e, const aff__ask *ask, const aff_event *reply) {
    aff__doc *doc = ask->doc;
    if (!doc) return; /* aff__doc_disown() */
    if (ask->kind == AFF_ASK_REFRESH) {
        doc->refreshing = false;
        if (reply->status == 0) {
            on_refresh_answer(e, doc, reply);
        } else {
            doc->refresh_at = e->now; /* again with the next scan */
        }
        aff__doc_settle(e, doc);
        return;
    }
    if (ask->kind == AFF_ASK_CLAIM) {
        doc->given_until = doc->expected ? e->now + GIVEN_MS : 0;
        doc->expected = false;
    }
    bool outdated =
        ask->kind == AFF_ASK_CLAIM && memcmp(ask->boot, e->member.boot, AFF_BOOT_LEN) != 0;
    if (ask->kind == AFF_ASK_RELEASE) {
        bool is_kept = doc->giving && reply->status != 0;
        to(e, doc, AFF_DOC_FREE); /* a record that Redis kept falls to our own next claim */
        doc->giving = false;
        if (is_kept) {
            not_given(e, doc, reply->status);
        } else if (doc->left) {
            left(e, doc, left_status(reply));
        }
        aff__doc_settle(e, doc);
    } else if (reply->status != 0 || outdated) {
        to(e, doc, AFF_DOC_FREE);
        place_parked(e, doc);
        if (reply->status == AFF_ENOTCONN || outdated) {
            aff__doc_settle(e, doc);
        } else { /* Redis said no (loading, a slot that nobody serves) */
            aff__docs_resume_at(e, e->now + REFUSED_AGAIN_MS);
        }
    } else if (ask->kind == AFF_ASK_CLAIM) {
        on_claim_answer(e, doc, reply);
    } else {
        on_holder_answer(e, doc, ask, reply);
    }
}

/* ---- All documents ----------------------------------------------------------------------- */

/* Settling a document can forget it, so the walk is over a copy of the pointers. */
static void each_doc(aff_engine *e, void (*visit)(aff_engine *, aff__doc *)) {
    size_t count = e->docs.count, n = 0;
    if (count == 0) return;
    aff__doc **docs = aff__alloc(&e->heap, count * sizeof(*docs));
    for (aff__item *i = NULL; (i = aff__map_next(&e->docs, i));) {
        docs[n++] = AFF_OF(i, aff__doc, item);
    }
    for (size_t d = 0; d < n; d++) visit(e, docs[d]);
    aff__release(&e->heap, docs);
}

static void refresh(aff_engine *e, aff__doc *doc) {
    if (doc->state != AFF_DOC_OWNED || e->now < doc->refresh_at) return;
    char ttl[24];
    snprintf(ttl, sizeof(ttl), "%llu", (unsigned long long)RECORD_TTL_MS);
    aff_slice argv[] = {lease_key(e, doc), aff__buf_slice(&doc->record), aff__str(ttl)};
    doc->refresh_at = e->now + RECORD_TTL_MS / 2;
    doc->refreshing = true;
    aff__ask_redis(e, AFF_ASK_REFRESH, doc, NULL, AFF_SCRIPT_REFRESH, 3, argv);
}

/* What Redis has refused (loading, read-only) is asked again. */
static void look_after(aff_engine *e, aff__doc *doc) {
    if (doc->placing) doc->placed = true; /* the app does not answer */
    doc->placing = false;
    if (aff__is_member(e)) refresh(e, doc);
    aff__doc_settle(e, doc);
}

void aff__docs_scan(aff_engine *e) {
    each_doc(e, look_after);
}

static void resume(aff_engine *e, aff__doc *doc) {
    aff__doc_settle(e, doc);
}

void aff__docs_resume_at(aff_engine *e, uint64_t when) {
    if (when < e->resume_at) e->resume_at = when;
}

void aff__docs_resume(aff_engine *e) {
    each_doc(e, resume);
}

static void reclaim(aff_engine *e, aff__doc *doc) {
    if (doc->state != AFF_DOC_OWNED) return;
    doc->kept = true;
    to(e, doc, AFF_DOC_FREE);
    (void)e;
}

void aff__docs_reclaim(aff_engine *e) {
    each_doc(e, reclaim);
}

/* A store of what is loaded still may end after the next owner's first: that one is to take it
 * over, as from a dead server, and store once more. */
static void release_now(aff_engine *e, aff__doc *doc) {
    if (doc->state == AFF_DOC_OWNED && !doc->uses[AFF_USE_LOADED]) release(e, doc);
}

void aff__docs_release(aff_engine *e) {
    each_doc(e, release_now);
}

void aff__claim_timeout(aff_engine *e) {
    while (!aff__list_empty(&e->claims)) {
        aff__waiter *waiter = AFF_OF(e->claims.next, aff__waiter, by_time);
        if (waiter->deadline > e->now) return;
        aff__doc *doc = waiter->doc;
        answer_claim(e, waiter, AFF_EREDIS, aff__none());
        aff__doc_settle(e, doc);
    }
}
