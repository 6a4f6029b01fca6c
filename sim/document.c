#include "document.h"

#include <stdio.h>

void document_broadcast(document *d, const connection *except, aff_slice body, mouth out) {
    for (connection *to = d->connections, *next; to; to = next) {
        next = to->next;
        if (to == except) continue;
        bytes frame = {0};
        add_text(&frame, address_of(to->address));
        add(&frame, body.data, body.len);
        out.say(out.at, to, slice(&frame));
        free(frame.data);
    }
}

static void merge(document *d, const connection *from, uint64_t edits, mouth out) {
    uint64_t fresh = edits & ~d->edits;
    if (!fresh) return;
    d->edits |= fresh;
    d->changes++;
    bytes body = {0};
    add(&body, (uint8_t[]){SYNC, UPDATE}, 2);
    add_uint(&body, fresh);
    document_broadcast(d, from, slice(&body), out);
    free(body.data);
}

void document_merge(document *d, uint64_t edits, mouth out) {
    merge(d, NULL, edits, out);
}

static void on_edits(document *d, connection *con, const aff__client_frame *f, mouth out) {
    bytes answer = {0};
    uint64_t edits = edits_in(f);
    if (f->sub == STEP1) {
        make_sync(&answer, f->address, STEP2, d->edits & ~edits);
        out.say(out.at, con, slice(&answer));
        answer.len = 0;
        make_sync(&answer, f->address, STEP1, d->edits);
    } else {
        bool applied = !con->readonly || !(edits & ~d->edits);
        if (!con->readonly) merge(d, con, edits, out);
        make_number(&answer, f->address, STATUS, applied);
    }
    out.say(out.at, con, slice(&answer));
    free(answer.data);
}

static void tell_cursor(const document *d, uint32_t id, bytes *body) {
    bytes frame = {0};
    char state[24] = "null";
    if (d->cursors[id]) snprintf(state, sizeof(state), "%llu", (unsigned long long)d->cursors[id]);
    make_awareness(&frame, aff__none(), id, d->clocks[id], state);
    body->len = 0;
    add(body, frame.data + 1, frame.len - 1); /* without the empty address */
    free(frame.data);
}

/* Only a later clock is believed, or that it has gone, under the one that was heard last. */
static void on_awareness(document *d, connection *con, const aff__client_frame *f, mouth out) {
    awareness seen = awareness_in(f);
    AFF_ASSERT(seen.id < CLIENTS_MAX);
    con->speaks_for |= 1ull << seen.id;
    uint64_t cursor = strtoull(word(seen.state), NULL, 10), known = d->clocks[seen.id];
    bool goes = seen.clock == known && cursor == 0 && d->cursors[seen.id];
    if (seen.clock <= known && !goes) return;
    d->clocks[seen.id] = seen.clock;
    d->cursors[seen.id] = cursor;
    document_broadcast(d, NULL, f->body, out);
}

void document_receive(document *d, connection *con, const aff__client_frame *f, mouth out) {
    if (is_edits(f)) on_edits(d, con, f, out);
    if (f->type == AWARENESS) on_awareness(d, con, f, out);
}

void document_attach(document *d, connection *con, mouth out) {
    con->document = d;
    con->next = d->connections;
    d->connections = con;
    bytes body = {0};
    for (uint32_t id = 0; id < CLIENTS_MAX; id++) {
        if (!d->cursors[id]) continue;
        bytes frame = {0};
        tell_cursor(d, id, &body);
        add_text(&frame, address_of(con->address));
        add(&frame, body.data, body.len);
        out.say(out.at, con, slice(&frame));
        free(frame.data);
    }
    free(body.data);
}

void document_detach(document *d, connection *con, mouth out) {
    connection **at = &d->connections;
    while (*at && *at != con) at = &(*at)->next;
    if (!*at) return;
    *at = con->next;
    con->document = NULL;
    bytes body = {0};
    for (uint32_t id = 0; id < CLIENTS_MAX; id++) {
        if (!(con->speaks_for >> id & 1) || !d->cursors[id]) continue;
        d->cursors[id] = 0; /* under the clock that was heard last */
        tell_cursor(d, id, &body);
        document_broadcast(d, NULL, slice(&body), out);
    }
    free(body.data);
}
