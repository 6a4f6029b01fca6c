/*
 * Drains a server: says what it will do, asks, has it done, and tells what has become of it.
 *
 * The server itself does it (js/src/drain.ts). It is asked again and again how far it is, always at
 * the channel of the process that was asked first: another process under the same name must not be
 * drained by that.
 */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cluster.h"
#include "text.h"

enum {
    LISTED_MAX = 10000, /* documents whose next owners are looked up */
    ASK_EVERY_MS = 250,
    SILENCES_MAX = 3 /* questions in a row without an answer */
};

typedef struct {
    ctl_session *session;
    ctl_mailbox *mailbox;
    const char *server;
    char *channel;
    size_t others;     /* that could take documents */
    json_t *documents; /* at first: an array, or NULL */
    json_int_t total, clients;
    uint64_t began_ms;
    json_t *last; /* the server's last answer, or NULL */
} drain;

/* ---- Before ---------------------------------------------------------------------------------- */

/* Who is there; false: a complaint has been made. */
static bool find(drain *d) {
    char boot[CTL_BOOT_LEN + 1];
    ctl_servers servers;
    if (!ctl_require_member(d->session, d->server, boot)) return false;
    if (!ctl_list_servers(d->session, &servers)) {
        (void)ctl_give_up(d->session);
        return false;
    }
    for (size_t i = 0; i < servers.count; i++) {
        const ctl_server *server = &servers.servers[i];
        if (server->alive && !server->draining && !ctl_is_named(server, d->server)) d->others++;
    }
    ctl_servers_free(&servers);
    d->channel = ctl_channel_of(d->session, boot);
    return true;
}

static ctl_question ask(drain *d, const char *kind, json_t *args) {
    ctl_question q = {.kind = kind, .args = args, .channel = d->channel};
    ctl_ask(d->mailbox, &q, 1, 0);
    json_decref(args);
    return q;
}

/* What it has, before anything is done; false: a complaint has been made. */
static bool look(drain *d) {
    ctl_question q = ask(d, "documents", json_pack("{s:i}", "limit", LISTED_MAX));
    if (q.outcome != CTL_ANSWERED) {
        ctl_complain("server \"%s\": %s", d->server, q.error);
        return false;
    }
    size_t index;
    json_t *document;
    d->documents = json_incref(json_object_get(q.answer, "documents"));
    d->total = json_integer_value(json_object_get(q.answer, "total"));
    json_array_foreach(d->documents, index, document) {
        d->clients += json_integer_value(json_object_get(document, "clients"));
    }
    json_decref(q.answer);
    return true;
}

static const char *plural(json_int_t count) {
    return count == 1 ? "" : "s";
}

static void show_plan(const drain *d) {
    ctl_complain(
        "server \"%s\" has %lld open document%s with %lld client%s. Draining stores each one and "
        "frees it for the %zu other server%s; no client's socket is closed. From then on it "
        "claims no document, until its process is started anew.",
        d->server, (long long)d->total, plural(d->total), (long long)d->clients, plural(d->clients),
        d->others, plural((json_int_t)d->others));
}

/* Somebody at a terminal says yes, or --yes has. */
static int confirm(const drain *d) {
    const ctl_options *o = ctl_session_options(d->session);
    if (d->others == 0 && (o->given & CTL_OPTION_FORCE) == 0) {
        ctl_complain(
            "no other server is there to take the documents of \"%s\": their clients would "
            "wait. Start one first, or say --force",
            d->server);
        return CTL_NO;
    }
    if (!o->json || (o->given & CTL_OPTION_YES) == 0) show_plan(d);
    return ctl_confirm(d->session, "drain", "Drain it? [y/N] ");
}

/* ---- Meanwhile ------------------------------------------------------------------------------- */

static void show_progress(json_int_t left, json_int_t *shown) {
    if (left == *shown || !isatty(STDERR_FILENO)) return;
    *shown = left;
    ctl_complain("%lld document%s left", (long long)left, left == 1 ? " is" : "s are");
}

/* Begins, and waits until it is done; false: a complaint has been made. */
static bool carry_out(drain *d) {
    json_int_t shown = -1;
    unsigned silences = 0;
    d->began_ms = ctl_session_now(d->session);
    for (;;) {
        ctl_question q = ask(d, "drain", NULL);
        if (q.outcome == CTL_ANSWERED) {
            silences = 0;
            json_decref(d->last);
            d->last = q.answer;
            if (json_is_true(json_object_get(d->last, "done"))) return true;
            show_progress(json_integer_value(json_object_get(d->last, "documents")), &shown);
        } else if (q.outcome == CTL_REFUSED || q.outcome == CTL_UNHEARD ||
                   ++silences == SILENCES_MAX) {
            ctl_complain("server \"%s\"%s: %s", d->server,
                         d->last != NULL ? ", while it drained" : "", q.error);
            return false;
        }
        (void)ctl_session_wait(d->session, ASK_EVERY_MS, NULL, NULL);
    }
}

/* ---- After ----------------------------------------------------------------------------------- */

static void count_at(json_t *places, const char *server) {
    json_int_t count = json_integer_value(json_object_get(places, server));
    (void)json_object_set_new(places, server, json_integer(count + 1));
}

static bool send_lookup(drain *d, json_t *document, ctl_call *call) {
    const char *name = json_string_value(json_object_get(document, "name"));
    aff_slice key = ctl_key(d->session, "Lock:", ctl_slice(name != NULL ? name : ""));
    bool sent = CTL_SEND(d->session, call, ctl_slice("GET"), key);
    free((void *)key.data);
    return sent;
}

/* How many of the documents are at which server now; "" is nobody: they were closed. */
static json_t *find_places(drain *d) {
    size_t count = json_array_size(d->documents), sent = 0;
    ctl_call *calls = ctl_alloc(count * sizeof(*calls));
    json_t *places = json_object();
    while (sent < count && send_lookup(d, json_array_get(d->documents, sent), &calls[sent])) sent++;
    for (size_t i = 0; i < sent; i++) {
        redisReply *reply = ctl_receive(d->session, &calls[i]);
        if (reply == NULL) continue;
        ctl_lease lease;
        bool owned = reply->type == REDIS_REPLY_STRING &&
                     ctl_lease_read((aff_slice){(uint8_t *)reply->str, reply->len}, &lease);
        char *server = owned ? ctl_escape(lease.server) : ctl_format("%s", "");
        count_at(places, server);
        free(server);
        freeReplyObject(reply);
    }
    free(calls);
    return places;
}

/* A number of the server's last answer. */
static json_int_t told(const drain *d, const char *what) {
    return json_integer_value(json_object_get(d->last, what));
}

static void print_line(json_int_t count, const char *what) {
    if (count > 0) printf("  %lld document%s: %s\n", (long long)count, plural(count), what);
}

static void print_report(const drain *d, json_t *places, json_int_t took_ms) {
    const char *server;
    json_t *count;
    char *name = ctl_escape(ctl_slice(d->server));
    json_int_t sockets = told(d, "sockets"), left = told(d, "documents");
    printf("%s is %sdrained, in %.1f s.\n", name, left > 0 ? "not completely " : "",
           (double)took_ms / 1000);
    json_object_foreach(places, server, count) {
        print_line(json_integer_value(count), *server != '\0' ? server : "owned by nobody now");
    }
    print_line(told(d, "unstored"), "not moved by drainTimeout, and not stored once more");
    print_line(left, "still there");
    printf("It can be stopped now; its %lld socket%s closed then, and %s to other servers.\n",
           (long long)sockets, sockets == 1 ? " is" : "s are",
           sockets == 1 ? "the client connects" : "their clients connect");
    free(name);
}

static int report(drain *d) {
    json_int_t took_ms = (json_int_t)(ctl_session_now(d->session) - d->began_ms);
    bool is_clean = told(d, "documents") == 0 && told(d, "unstored") == 0;
    json_t *places = find_places(d);
    if (ctl_session_options(d->session)->json)
        ctl_print_json(json_pack("{s:s, s:b, s:I, s:I, s:I, s:I, s:I, s:I, s:O}", "server",
                                 d->server, "drained", (int)(told(d, "documents") == 0),
                                 "documents", d->total, "clients", d->clients, "sockets",
                                 told(d, "sockets"), "left", told(d, "documents"), "unstored",
                                 told(d, "unstored"), "ms", took_ms, "places", places));
    else
        print_report(d, places, took_ms);
    json_decref(places);
    return is_clean ? CTL_OK : CTL_NO;
}

static int run(drain *d) {
    if (!look(d)) return CTL_NO;
    int code = confirm(d);
    if (code != CTL_OK) return code;
    return carry_out(d) ? report(d) : CTL_NO;
}

int ctl_drain_command(ctl_session *s, char **args) {
    drain d = {.session = s, .server = args[0]};
    if (!find(&d)) return CTL_NO;
    d.mailbox = ctl_mailbox_open(s);
    int code = d.mailbox != NULL ? run(&d) : ctl_give_up(s);
    ctl_mailbox_free(d.mailbox);
    json_decref(d.documents);
    json_decref(d.last);
    free(d.channel);
    return code;
}
