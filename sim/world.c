/* world.c - time, chance, memory and traces of a run. */
#include "sim.h"

#include <signal.h>
#include <stdarg.h>

/* ---- Memory: given back as a whole --------------------------------------------------------- */

enum { CHUNK = 256 << 10 };

typedef struct chunk {
    struct chunk *next;
    max_align_t data[];
} chunk;

static chunk *spare; /* of former runs of this process */

void *sim_alloc(sim *w, size_t size) {
    size = (size + 15) & ~(size_t)15;
    AFF_ASSERT(size <= CHUNK);
    if (!w->chunks || w->chunk_used + size > CHUNK) {
        chunk *c = spare;
        if (c)
            spare = c->next;
        else
            c = malloc(sizeof(*c) + CHUNK);
        AFF_ASSERT(c);
        c->next = w->chunks;
        w->chunks = c;
        w->chunk_used = 0;
    }
    void *out = (uint8_t *)((chunk *)w->chunks)->data + w->chunk_used;
    w->chunk_used += size;
    return memset(out, 0, size);
}

aff_slice sim_copy(sim *w, aff_slice from) {
    if (!from.len) return aff__none();
    void *copy = sim_alloc(w, from.len);
    memcpy(copy, from.data, from.len);
    return aff__slice(copy, from.len);
}

/* A broken invariant of the engine aborts: which seed was that? */
static volatile uint64_t running;

static void tell_seed(int number) {
    signal(number, SIG_DFL);
    fprintf(stderr, "failed: make sim SEED=%llu\n", (unsigned long long)running);
    raise(number);
}

void sim_init(sim *w, uint64_t seed) {
    memset(w, 0, sizeof(*w));
    w->seed = seed;
    w->random = seed * 0x9e3779b97f4a7c15u + 12345;
    w->now = 100 * (uint64_t)SECOND;
    w->trace_to = stdout;
    running = seed;
    signal(SIGABRT, tell_seed);
}

void sim_free(sim *w) {
    for (int i = 0; i < w->server_count; i++) server_free(&w->servers[i]);
    redis_free(&w->redis);
    redis_free(&w->replica);
    free(w->heap);
    for (chunk *c = w->chunks, *next; c; c = next) {
        next = c->next;
        c->next = spare;
        spare = c;
    }
}

/* ---- Chance ---------------------------------------------------------------------------------- */

unsigned below(sim *w, unsigned limit) {
    w->random = w->random * 6364136223846793005u + 1442695040888963407u;
    uint64_t z = (w->random ^ (w->random >> 31)) * 0x94d049bb133111ebu;
    return (unsigned)((z >> 33) % limit);
}

bool chance(sim *w, unsigned in_thousand) {
    return below(w, 1000) < in_thousand;
}

uint64_t takes(sim *w, unsigned typical_us) {
    uint64_t us = typical_us / 2 + below(w, typical_us + 1);
    return chance(w, 20) ? us * (2 + below(w, 20)) : us;
}

uint64_t in_turn(sim *w, pipe_order *order, uint64_t latency) {
    uint64_t at = w->now + latency;
    if (at <= order->last_at) at = order->last_at + 1;
    return order->last_at = at;
}

/* ---- Time: a heap ------------------------------------------------------------------------------
 */

static bool is_before(const happening *a, const happening *b) {
    return a->at != b->at ? a->at < b->at : a->order < b->order;
}

void sim_at(sim *w, uint64_t at, server *s, thread *on, sim_call call, void *arg, uint64_t number) {
    if (w->heap_len == w->heap_cap) {
        w->heap_cap = w->heap_cap * 2 + 256;
        w->heap = realloc(w->heap, w->heap_cap * sizeof(*w->heap));
        AFF_ASSERT(w->heap);
    }
    happening h = {.order = ++w->order,
                   .at = at > w->now ? at : w->now,
                   .server = s ? s->index : -1,
                   .life = s ? s->life : 0,
                   .on = on,
                   .call = call,
                   .arg = arg,
                   .number = number};
    size_t i = w->heap_len++;
    for (; i > 0 && is_before(&h, &w->heap[(i - 1) / 2]); i = (i - 1) / 2) {
        w->heap[i] = w->heap[(i - 1) / 2];
    }
    w->heap[i] = h;
}

static happening take(sim *w) {
    happening top = w->heap[0], last = w->heap[--w->heap_len];
    size_t i = 0;
    for (size_t child; (child = 2 * i + 1) < w->heap_len; i = child) {
        if (child + 1 < w->heap_len && is_before(&w->heap[child + 1], &w->heap[child])) child++;
        if (!is_before(&w->heap[child], &last)) break;
        w->heap[i] = w->heap[child];
    }
    w->heap[i] = last;
    return top;
}

/* The I/O threads' alarms move too often for the heap. */
static server *first_alarm(sim *w) {
    server *first = NULL;
    for (int i = 0; i < w->server_count; i++) {
        server *s = &w->servers[i];
        if (!s->engine || s->io.blocked_until > w->now) continue;
        if (s->timer_at != UINT64_MAX && (!first || s->timer_at < first->timer_at)) first = s;
    }
    return first;
}

/* False: nothing is left to happen until then, and that is the time now. */
bool sim_next(sim *w, uint64_t until) {
    server *alarm = first_alarm(w);
    uint64_t heap_at = w->heap_len ? w->heap[0].at : UINT64_MAX;
    uint64_t alarm_at = alarm ? alarm->timer_at : UINT64_MAX;
    if (heap_at > until && alarm_at > until) {
        w->now = until;
        return false;
    }
    if (alarm_at < heap_at) {
        if (alarm_at > w->now) w->now = alarm_at;
        server_turn(alarm);
        return true;
    }
    happening h = take(w);
    w->now = h.at;
    server *s = h.server >= 0 ? &w->servers[h.server] : NULL;
    if (s && (!s->engine || s->life != h.life)) return true;
    if (h.on) {
        server_push(s, h.on,
                    &(item){.kind = CALL, .call = h.call, .arg = h.arg, .number = h.number});
    } else {
        h.call(w, h.arg, h.number);
    }
    return true;
}

void sim_until(sim *w, uint64_t us) {
    uint64_t until = w->now + us;
    while (sim_next(w, until)) continue;
}

/* ---- Telling ------------------------------------------------------------------------------ */

void sim_trace(sim *w, const char *who, const char *format, ...) {
    if (!w->traces) return;
    uint64_t t = w->now - 100 * (uint64_t)SECOND;
    fprintf(w->trace_to, "%4llu.%06llu  %-8s ", (unsigned long long)(t / SECOND),
            (unsigned long long)(t % SECOND), who);
    va_list args;
    va_start(args, format);
    vfprintf(w->trace_to, format, args);
    va_end(args);
    fputc('\n', w->trace_to);
}

void sim_note(sim *w, const char *what) {
    if (w->traces) fprintf(w->trace_to, "# %s\n", what);
}

void sim_fail(sim *w, const char *format, ...) {
    va_list args;
    va_start(args, format);
    fflush(w->trace_to);
    fprintf(stderr, "seed %llu, at %.6f s: ", (unsigned long long)w->seed,
            (double)(w->now - 100 * (uint64_t)SECOND) / SECOND);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    abort();
}
