/* server.c - a server's process: threads, clock, connections to Redis (as runtime/ does it). */
#include "sim.h"

#include <stdio.h>

/* ---- Clock and memory ------------------------------------------------------------------------ */

uint64_t server_clock(const server *s) {
    return s->base_ms + (s->w->now - s->started) / 1000 * s->rate_ppm / 1000000;
}

/* When its clock will show `ms`. */
static uint64_t time_of(const server *s, uint64_t ms) {
    if (ms <= s->base_ms) return s->w->now;
    return s->started + ((ms - s->base_ms) * 1000000 / s->rate_ppm + 2) * 1000;
}

typedef struct {
    size_t size;
    max_align_t data[];
} counted;

static void *count_memory(void *ctx, void *pointer, size_t size) {
    server *s = ctx;
    counted *old = pointer ? AFF_OF(pointer, counted, data) : NULL;
    if (old) s->memory -= old->size;
    if (size == 0) {
        free(old);
        return NULL;
    }
    counted *fresh = realloc(old, sizeof(*fresh) + size);
    AFF_ASSERT(fresh);
    fresh->size = size;
    s->memory += size;
    if (s->memory > s->memory_peak) s->memory_peak = s->memory;
    return fresh->data;
}

/* ---- Threads -----------------------------------------------------------------------------------
 */

static void io_turn(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    server *s = arg;
    s->io.is_woken = false;
    server_turn(s);
}

static void js_turn(sim *w, void *arg, uint64_t number) {
    (void)number;
    server *s = arg;
    thread *t = &s->js;
    t->is_woken = false;
    if (t->blocked_until > w->now) return; /* woken again when that ends */
    for (item *it; s->engine && (it = t->first);) {
        t->first = it->next;
        if (!t->first) t->end = &t->first;
        if (it->kind == CALL) {
            it->call(w, it->arg, it->number);
        } else {
            facade_do(s, it);
        }
    }
    if (s->engine) facade_turn_ends(s);
}

static void wake(server *s, thread *t, uint64_t after) {
    if (t->is_woken) return;
    t->is_woken = true;
    sim_at(s->w, s->w->now + after, s, NULL, t == &s->js ? js_turn : io_turn, s, 0);
}

void server_push(server *s, thread *t, const item *template) {
    sim *w = s->w;
    item *it = sim_alloc(w, sizeof(*it));
    *it = *template;
    it->next = NULL;
    it->data = sim_copy(w, template->data);
    if (it->kind == FOR_ENGINE) {
        aff_event *v = &it->event;
        v->document = sim_copy(w, v->document);
        v->name = sim_copy(w, v->name);
        v->data = sim_copy(w, v->data);
        aff_slice sockets = sim_copy(w, aff__slice(v->sockets, v->count * sizeof(uint32_t)));
        v->sockets = (const uint32_t *)(const void *)sockets.data;
        for (size_t i = 0; i < v->value_count; i++) {
            it->values[i] = v->values[i];
            it->values[i].string = sim_copy(w, v->values[i].string);
        }
        v->values = it->values;
    } else if (it->kind == FOR_FACADE) {
        aff_action *a = &it->action;
        a->document = sim_copy(w, a->document);
        a->name = sim_copy(w, a->name);
        a->data = sim_copy(w, a->data);
        if (a->type == AFF_ACT_SEND) {
            aff_slice sockets = sim_copy(w, aff__slice(a->sockets, a->count * sizeof(uint32_t)));
            a->sockets = (const uint32_t *)(const void *)sockets.data;
        }
    }
    *t->end = it;
    t->end = &it->next;
    if (t->blocked_until <= w->now) wake(s, t, 1 + below(w, s->w->thread_us));
}

static void to_engine(server *s, const aff_event *event) {
    server_push(s, &s->io, &(item){.kind = FOR_ENGINE, .event = *event});
}

void server_post(server *s, const aff_event *event) {
    to_engine(s, event);
}

/* ---- To Redis and back -------------------------------------------------------------------------
 */

uint64_t redis_ms(const sim *w) {
    return w->now / 1000;
}

int64_t redis_listeners(sim *w, aff_slice channel) {
    int64_t n = 0;
    for (int i = 0; i < w->server_count; i++) {
        const server *s = &w->servers[i];
        n += s->listener.known_to_redis && aff__equal(slice(&s->channel), channel);
    }
    return n;
}

/* The way between a server and Redis: nothing passes while the server is far away. */
static uint64_t passes_at(server *s, pipe_order *order) {
    sim *w = s->w;
    uint64_t wait = s->far_until > w->now ? s->far_until - w->now : 0;
    return in_turn(w, order, wait + takes(w, w->redis_us));
}

typedef struct {
    server *s;
    unsigned generation, life;
    uint64_t request;
    bool is_publish;
    aff_script script;
    int argc;
    aff_slice argv[AFF_ARGV_MAX];
    int status;
    aff_value values[2];
    size_t value_count;
} command;

static void forget_request(redis_link *link, uint64_t request) {
    for (unsigned i = 0; i < link->asked_count; i++) {
        if (link->asked[i] != request) continue;
        memmove(&link->asked[i], &link->asked[i + 1],
                (link->asked_count - i - 1) * sizeof(uint64_t));
        link->asked_count--;
        return;
    }
}

static void on_reply(sim *w, void *arg, uint64_t number) {
    (void)w, (void)number;
    command *c = arg;
    server *s = c->s;
    if (s->commands.generation != c->generation) return;
    forget_request(&s->commands, c->request);
    to_engine(s, &(aff_event){.type = AFF_EV_REPLY,
                              .request = c->request,
                              .status = c->status,
                              .values = c->values,
                              .value_count = c->value_count});
}

static void on_message(sim *w, void *arg, uint64_t generation) {
    (void)w;
    command *c = arg;
    server *s = c->s;
    if (s->listener.generation != generation || !s->listener.up) return;
    to_engine(s, &(aff_event){.type = AFF_EV_MESSAGE, .data = c->argv[1]});
}

static void publish(sim *w, const command *c) {
    w->totals.batches++;
    for (int i = 0; i < w->server_count; i++) {
        server *to = &w->servers[i];
        if (!to->engine || !to->listener.known_to_redis) continue;
        if (!aff__equal(slice(&to->channel), c->argv[0])) continue;
        bool has_frames = c->argv[1].data[1] & 1;
        bool is_next = w->lose_next == to && has_frames;
        if (is_next || (w->loss && !w->heals && chance(w, w->loss))) {
            sim_trace(w, to->name, "a batch for it is lost");
            if (is_next) w->lose_next = NULL;
            continue;
        }
        command *m = sim_alloc(w, sizeof(*m));
        *m = *c;
        m->s = to;
        sim_at(w, passes_at(to, &to->listener.in), to, NULL, on_message, m,
               to->listener.generation);
        /* What was published twice: the connection broke before the answer came. */
        if (w->loss && !w->heals && chance(w, w->loss)) {
            sim_at(w, passes_at(to, &to->listener.in), to, NULL, on_message, m,
                   to->listener.generation);
        }
    }
}

static void at_redis(sim *w, void *arg, uint64_t number) {
    (void)number;
    command *c = arg;
    server *s = c->s;
    bool lives = s->life == c->life && s->engine;
    if (w->redis_down || (lives && s->commands.generation != c->generation)) return;
    w->redis_commands++;
    if (c->is_publish) {
        publish(w, c);
        c->values[0] = integer(redis_listeners(w, c->argv[0]));
        c->value_count = 1;
    } else if (c->script == (aff_script)AFF_COMMAND_NUMSUB) {
        c->values[0] = string(c->argv[0]);
        c->values[1] = integer(redis_listeners(w, c->argv[0]));
        c->value_count = 2;
    } else {
        uint64_t clock_us = 1700000000000000u + w->now + (uint64_t)(w->redis_clock_ms * 1000) +
                            w->redis_commands; /* each takes a microsecond */
        redis_answer a =
            redis_run_script(&w->redis, redis_ms(w), clock_us, c->script, c->argc, c->argv);
        bool renews = c->script == AFF_SCRIPT_JOIN || c->script == AFF_SCRIPT_RENEW;
        if (renews && a.values[0].integer == 1) s->renewed_at = w->now;
        if (a.granted) watch_grant(w, s, c->argv[0], a.values[1].string);
        c->value_count = a.count;
        for (size_t v = 0; v < a.count; v++) {
            c->values[v] = a.values[v];
            c->values[v].string = sim_copy(w, a.values[v].string);
        }
    }
    if (lives) sim_at(w, passes_at(s, &s->commands.in), s, NULL, on_reply, c, 0);
}

static void send_command(server *s, const aff_action *act) {
    sim *w = s->w;
    redis_link *link = &s->commands;
    if (!link->up || link->asked_count == ASKED_MAX) {
        int status = link->up ? AFF_EREDIS : AFF_ENOTCONN; /* as runtime/instance.c has it */
        to_engine(s, &(aff_event){.type = AFF_EV_REPLY, .request = act->request, .status = status});
        return;
    }
    command *c = sim_alloc(w, sizeof(*c));
    *c = (command){.s = s,
                   .generation = link->generation,
                   .life = s->life,
                   .request = act->request,
                   .is_publish = act->type == AFF_ACT_PUBLISH,
                   .script = act->script,
                   .argc = act->argc};
    if (c->is_publish) {
        c->argv[0] = sim_copy(w, act->name);
        c->argv[1] = sim_copy(w, act->data);
    }
    for (int i = 0; i < act->argc; i++) c->argv[i] = sim_copy(w, act->argv[i]);
    link->asked[link->asked_count++] = act->request;
    /* What has left the server arrives, though the server may have died since. */
    sim_at(w, passes_at(s, &link->out), NULL, NULL, at_redis, c, 0);
}

/* ---- Connections to Redis ----------------------------------------------------------------- */

static void connect_commands(sim *w, void *arg, uint64_t generation);
static void connect_listener(sim *w, void *arg, uint64_t generation);

static bool reaches_redis(const server *s) {
    return !s->w->redis_down && !s->cut && s->far_until <= s->w->now;
}

static uint64_t back_off(sim *w) {
    return w->now + (10 + below(w, AFF_BACKOFF_MS - 10)) * (uint64_t)MS;
}

static void subscribed(sim *w, void *arg, uint64_t generation) {
    (void)w;
    server *s = arg;
    if (s->listener.generation != generation) return;
    s->listener.known_to_redis = true;
    to_engine(s, &(aff_event){.type = AFF_EV_SUBSCRIBED, .name = slice(&s->channel)});
}

static void subscribe(server *s) {
    if (s->channel.len && s->listener.up) {
        sim_at(s->w, passes_at(s, &s->listener.in), s, NULL, subscribed, s, s->listener.generation);
    }
}

static void connect_commands(sim *w, void *arg, uint64_t generation) {
    server *s = arg;
    if (s->commands.generation != generation || s->commands.up) return;
    if (!reaches_redis(s)) {
        sim_at(w, back_off(w), s, NULL, connect_commands, s, generation);
        return;
    }
    s->commands.up = true;
    sim_trace(w, s->name, "connected to Redis");
    to_engine(s, &(aff_event){.type = AFF_EV_REDIS_UP});
}

static void connect_listener(sim *w, void *arg, uint64_t generation) {
    server *s = arg;
    if (s->listener.generation != generation || s->listener.up) return;
    if (!reaches_redis(s)) {
        sim_at(w, back_off(w), s, NULL, connect_listener, s, generation);
        return;
    }
    s->listener.up = true;
    subscribe(s);
}

static void break_commands(server *s) {
    redis_link *link = &s->commands;
    if (!link->up) return;
    s->w->cuts++;
    link->up = false;
    link->generation++;
    for (unsigned i = 0; i < link->asked_count; i++) {
        to_engine(s, &(aff_event){
                         .type = AFF_EV_REPLY, .request = link->asked[i], .status = AFF_ENOTCONN});
    }
    link->asked_count = 0;
    to_engine(s, &(aff_event){.type = AFF_EV_REDIS_DOWN});
    sim_at(s->w, back_off(s->w), s, NULL, connect_commands, s, link->generation);
}

static void break_listener(server *s, bool noticed) {
    redis_link *link = &s->listener;
    if (noticed) link->known_to_redis = false;
    if (!link->up) return;
    link->up = false;
    link->generation++;
    to_engine(s, &(aff_event){.type = AFF_EV_UNSUBSCRIBED});
    sim_at(s->w, back_off(s->w), s, NULL, connect_listener, s, link->generation);
}

void server_cut(server *s, bool noticed) {
    break_commands(s);
    break_listener(s, noticed);
}

void server_deafen(server *s) {
    break_listener(s, true);
}

static void redis_is_back(sim *w, void *arg, uint64_t number) {
    (void)arg, (void)number;
    w->redis_down = false;
    sim_trace(w, "redis", "is back");
}

static void loses_its_data(sim *w) {
    w->redis_was_lost = true;
    w->redis_lost_at = w->now;
}

/* FLUSHALL, by somebody who did not know: no connection breaks. */
void redis_is_flushed(sim *w) {
    if (w->redis_down) return;
    sim_trace(w, "redis", "is flushed");
    redis_clear(&w->redis);
    loses_its_data(w);
    w->redis_was_flushed = true;
}

void redis_goes(sim *w, uint64_t until, bool loses_data, bool to_replica) {
    if (w->redis_down) return;
    sim_trace(w, "redis", "goes away%s",
              loses_data   ? " and loses everything"
              : to_replica ? ", a replica will come"
                           : "");
    w->redis_down = true;
    if (loses_data) redis_clear(&w->redis);
    if (to_replica) redis_copy(&w->redis, &w->replica);
    /* Epochs may be granted again from below: who fences by them has to know (README). */
    if (to_replica) {
        for (int n = 0; n < w->name_count; n++) w->names[n].fences = false;
    }
    if (loses_data || to_replica) loses_its_data(w);
    for (int i = 0; i < w->server_count; i++) {
        if (w->servers[i].engine) server_cut(&w->servers[i], true);
        w->servers[i].listener.known_to_redis = false;
    }
    sim_at(w, until, NULL, NULL, redis_is_back, NULL, 0);
}

/* ---- The I/O thread ----------------------------------------------------------------------- */

static void step(server *s, const aff_event *event) {
    int status = aff_step(s->engine, server_clock(s), event);
    if (status != 0) sim_fail(s->w, "%s: aff_step() says %s", s->name, aff_error_name(status));
    s->w->totals.steps++;
#ifdef AFF_CHECK
    aff_check(s->engine);
#endif
}

static void trace_action(server *s, const aff_action *a) {
    sim *w = s->w;
    if (a->type == AFF_ACT_LOG) {
        sim_trace(w, s->name, "says: %.*s", (int)a->data.len, (const char *)a->data.data);
    } else if (a->type == AFF_ACT_NEWS && a->status == AFF_NEWS_OWNED) {
        sim_trace(w, s->name, "owns %.*s under %llu", (int)a->document.len,
                  (const char *)a->document.data, (unsigned long long)a->request);
    } else if (a->type == AFF_ACT_NEWS && a->status == AFF_NEWS_LOST) {
        sim_trace(w, s->name, "has lost %.*s to %.*s", (int)a->document.len,
                  (const char *)a->document.data, (int)a->name.len, (const char *)a->name.data);
    } else if (a->type == AFF_ACT_NEWS && a->status == AFF_NEWS_RESYNC) {
        sim_trace(w, s->name, "sends again to %.*s", (int)a->name.len, (const char *)a->name.data);
    }
}

static void count_false_alarm(server *s, aff_slice gone) {
    for (int i = 0; i < s->w->server_count; i++) {
        const server *other = &s->w->servers[i];
        if (other->engine && aff__equal(gone, aff__str(other->name))) s->false_alarms++;
    }
}

static void perform(server *s, const aff_action *a) {
    sim *w = s->w;
    if (w->traces) trace_action(s, a);
    if (a->type == AFF_ACT_NEWS && a->status == AFF_NEWS_SERVER_DOWN) count_false_alarm(s, a->name);
    switch (a->type) {
        case AFF_ACT_REDIS:
        case AFF_ACT_PUBLISH: send_command(s, a); return;
        case AFF_ACT_DIRECT_OPEN: tcp_open(s, a->name); return;
        case AFF_ACT_DIRECT_SEND: tcp_send(s, a->name, a->data); return;
        case AFF_ACT_DIRECT_CLOSE: tcp_close(s, a->name); return;
        case AFF_ACT_SUBSCRIBE:
            set(&s->channel, a->name);
            subscribe(s);
            return;
        case AFF_ACT_LOG: return;
        case AFF_ACT_PROXY_FRAME: watch_stateless(s, a->data); /* fall through */
        default: server_push(s, &s->js, &(item){.kind = FOR_FACADE, .action = *a}); return;
    }
}

void server_turn(server *s) {
    sim *w = s->w;
    thread *t = &s->io;
    if (t->blocked_until > w->now) return;
    if (aff_deadline(s->engine) <= server_clock(s)) step(s, &(aff_event){.type = AFF_EV_TICK});
    while (t->first) {
        const aff_event *event = &t->first->event;
        t->first = t->first->next;
        if (!t->first) t->end = &t->first;
        step(s, event);
    }
    step(s, &(aff_event){.type = AFF_EV_FLUSH});
    for (const aff_action *a; (a = aff_next_action(s->engine));) perform(s, a);
    uint64_t deadline = aff_deadline(s->engine);
    s->timer_at = deadline == UINT64_MAX ? UINT64_MAX : time_of(s, deadline);
    if (s->timer_at <= w->now) s->timer_at = w->now + 1;
    watch_step(s);
}

/* ---- Standing still ----------------------------------------------------------------------- */

static void goes_on(sim *w, void *arg, uint64_t number) {
    (void)number;
    server *s = arg;
    if (s->io.blocked_until <= w->now && s->io.first) wake(s, &s->io, 1);
    if (s->js.blocked_until > w->now) return;
    if (s->announced_stall) {
        s->announced_stall = false;
        sim_trace(w, s->name, "JavaScript goes on");
        to_engine(s, &(aff_event){.type = AFF_EV_STALLED, .flag = false});
    }
    if (s->js.first) wake(s, &s->js, 1);
}

static void on_watch(sim *w, void *arg, uint64_t number) {
    (void)number;
    server *s = arg;
    if (s->js.blocked_until <= w->now || s->announced_stall || s->io.blocked_until > w->now) return;
    s->announced_stall = true;
    to_engine(s, &(aff_event){.type = AFF_EV_STALLED, .flag = true});
}

void server_stall(server *s, uint64_t until) {
    sim *w = s->w;
    if (!s->engine || s->js.blocked_until >= until) return;
    sim_trace(w, s->name, "JavaScript hangs for %llu ms",
              (unsigned long long)(until - w->now) / MS);
    s->stood_us += until - w->now;
    s->js.blocked_until = until;
    uint64_t watch_at = w->now + s->stall_limit + below(w, (unsigned)(s->stall_limit / 10));
    sim_at(w, watch_at, s, NULL, on_watch, s, 0);
    sim_at(w, until, s, NULL, goes_on, s, 0);
}

void server_pause(server *s, uint64_t until) {
    sim *w = s->w;
    if (!s->engine || s->paused_until > w->now) return;
    sim_trace(w, s->name, "stands still for %llu ms", (unsigned long long)(until - w->now) / MS);
    bool long_enough = until - w->now > s->stall_limit;
    s->stood_us += until - w->now;
    s->paused_until = s->io.blocked_until = until;
    if (s->js.blocked_until < until) s->js.blocked_until = until;
    /* Which of its threads runs first? The watch may find JavaScript silent for long. */
    if (long_enough && !s->announced_stall && chance(w, 500)) {
        s->announced_stall = true;
        to_engine(s, &(aff_event){.type = AFF_EV_STALLED, .flag = true});
    }
    sim_at(w, until, s, NULL, goes_on, s, 0);
}

/* ---- Living and dying --------------------------------------------------------------------- */

void server_start(server *s) {
    sim *w = s->w;
    s->life++;
    s->started = w->now;
    s->base_ms = 1000000 + below(w, 1000000);
    s->config.seed = w->seed * 1000003 + (uint64_t)s->index * 131 + s->life * 7919u;
    s->allocator = (aff_allocator){count_memory, s};
    s->config.allocator = &s->allocator;
    s->memory = s->memory_peak = 0;
    AFF_ASSERT(aff_new(&s->config, &s->engine) == 0);
    s->is_ready = s->drains = s->leaves = s->cut = s->announced_stall = false;
    s->paused_until = s->far_until = 0;
    s->timer_at = UINT64_MAX;
    s->channel.len = 0;
    thread *threads[] = {&s->io, &s->js};
    for (int i = 0; i < 2; i++) *threads[i] = (thread){.end = &threads[i]->first};
    unsigned generations[2] = {s->commands.generation + 1, s->listener.generation + 1};
    s->commands = (redis_link){.generation = generations[0]};
    s->listener = (redis_link){.generation = generations[1]};
    s->facade = facade_new(s);
    sim_trace(w, s->name, "starts");
    sim_at(w, w->now + takes(w, w->redis_us), s, NULL, connect_commands, s, generations[0]);
    sim_at(w, w->now + takes(w, w->redis_us), s, NULL, connect_listener, s, generations[1]);
}

void server_free(server *s) {
    aff_free(s->engine);
    s->engine = NULL;
    free(s->channel.data);
    s->channel = (bytes){0};
}

void server_kill(server *s) {
    if (!s->engine) return;
    sim_trace(s->w, s->name, "is dead");
    aff_stats stats;
    aff_get_stats(s->engine, &stats);
    s->w->totals.failovers += stats.failovers;
    s->w->totals.takeovers += stats.takeovers;
    s->w->totals.gaps += stats.gaps;
    s->w->totals.resets += stats.resets;
    s->resets += (unsigned)stats.resets;
    s->listener.known_to_redis = false;
    people_lose_server(s);
    tcp_end_all(s);
    aff_free(s->engine);
    s->engine = NULL;
    if (s->memory) sim_fail(s->w, "I35: %s leaks %zu bytes", s->name, s->memory);
}
