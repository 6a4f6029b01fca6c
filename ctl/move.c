/*
 * Moves a document: says what it will do, asks, has it done, and tells who has it then. Its owner
 * does it (js/src/move.ts).
 */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster.h"
#include "text.h"

enum {
    LISTED_MAX = 10000,     /* documents among which this one is looked for */
    MOVES_WITHIN_MS = 35000 /* its owner gives up after 30 s: it stores first */
};

typedef struct {
    ctl_session *session;
    ctl_mailbox *mailbox;
    const char *document, *to;
    char *from;    /* its owner */
    char *channel; /* of that one */
    json_int_t clients;
} move;

/* ---- Before ---------------------------------------------------------------------------------- */

/* Who has it; false: a complaint has been made. */
static bool find_owner(move *m) {
    ctl_call call;
    ctl_lease lease;
    aff_slice key = ctl_key(m->session, "Lock:", ctl_slice(m->document));
    bool sent = CTL_SEND(m->session, &call, ctl_slice("GET"), key);
    free((void *)key.data);
    redisReply *reply = sent ? ctl_receive(m->session, &call) : NULL;
    if (reply == NULL) {
        (void)ctl_give_up(m->session);
        return false;
    }
    bool owned = reply->type == REDIS_REPLY_STRING &&
                 ctl_lease_read((aff_slice){(uint8_t *)reply->str, reply->len}, &lease);
    if (owned)
        m->from = ctl_format("%.*s", (int)lease.server.len, (const char *)lease.server.data);
    else
        ctl_complain("document \"%s\": nobody has it open", m->document);
    freeReplyObject(reply);
    char boot[CTL_BOOT_LEN + 1];
    if (!owned || !ctl_require_member(m->session, m->from, boot)) return false;
    m->channel = ctl_channel_of(m->session, boot);
    return true;
}

/* Who shall have it can take it; false: a complaint has been made. */
static bool check_target(const move *m) {
    char boot[CTL_BOOT_LEN + 1];
    ctl_servers servers;
    if (!ctl_require_member(m->session, m->to, boot)) return false;
    if (!ctl_list_servers(m->session, &servers)) {
        (void)ctl_give_up(m->session);
        return false;
    }
    bool drains = false;
    for (size_t i = 0; i < servers.count; i++) {
        aff_slice id = servers.servers[i].id;
        bool is_it = id.len == strlen(m->to) && memcmp(id.data, m->to, id.len) == 0;
        drains = drains || (is_it && servers.servers[i].draining);
    }
    ctl_servers_free(&servers);
    if (drains) ctl_complain("server \"%s\" is draining: it takes no documents", m->to);
    return !drains;
}

static ctl_question ask(move *m, const char *kind, json_t *args, uint32_t within_ms) {
    ctl_question q = {.kind = kind, .args = args, .channel = m->channel};
    ctl_ask(m->mailbox, &q, 1, within_ms);
    json_decref(args);
    if (q.outcome != CTL_ANSWERED) ctl_complain("server \"%s\": %s", m->from, q.error);
    return q;
}

/* How many have it open; false: a complaint has been made. */
static bool count_clients(move *m) {
    json_t *args = json_pack("{s:s, s:i}", "prefix", m->document, "limit", LISTED_MAX);
    ctl_question q = ask(m, "documents", args, 0);
    if (q.outcome != CTL_ANSWERED) return false;
    size_t index;
    json_t *document;
    json_array_foreach(json_object_get(q.answer, "documents"), index, document) {
        const char *name = json_string_value(json_object_get(document, "name"));
        if (name != NULL && strcmp(name, m->document) == 0)
            m->clients = json_integer_value(json_object_get(document, "clients"));
    }
    json_decref(q.answer);
    return true;
}

/* ---- After ----------------------------------------------------------------------------------- */

/* `to`: who has it; NULL: nobody. */
static int report(const move *m, const char *to, uint64_t took_ms) {
    bool moved = to != NULL && strcmp(to, m->to) == 0;
    if (ctl_session_options(m->session)->json) {
        ctl_print_json(json_pack("{s:s, s:s, s:s?, s:I, s:b, s:I}", "document", m->document, "from",
                                 m->from, "to", to, "clients", m->clients, "moved", (int)moved,
                                 "ms", (json_int_t)took_ms));
        return moved ? CTL_OK : CTL_NO;
    }
    char *name = ctl_escape(ctl_slice(m->document));
    char *server = ctl_escape(ctl_slice(to != NULL ? to : ""));
    if (to == NULL)
        printf("%s: nobody has it open any more\n", name);
    else if (strcmp(m->from, m->to) == 0)
        printf("%s is at %s already\n", name, server);
    else
        printf("%s is at %s now, after %llu ms\n", name, server, (unsigned long long)took_ms);
    free(name);
    free(server);
    return moved ? CTL_OK : CTL_NO;
}

static int carry_out(move *m) {
    uint64_t began_ms = ctl_session_now(m->session);
    json_t *args = json_pack("{s:s, s:s}", "document", m->document, "to", m->to);
    ctl_question q = ask(m, "move", args, MOVES_WITHIN_MS);
    if (q.outcome != CTL_ANSWERED) return CTL_NO;
    const char *to = json_string_value(json_object_get(q.answer, "to"));
    int code = report(m, to, ctl_session_now(m->session) - began_ms);
    json_decref(q.answer);
    return code;
}

static void show_plan(const move *m) {
    ctl_complain(
        "document \"%s\" is at server \"%s\", and %lld client%s it open. It is stored there, "
        "and goes to \"%s\"; no client's socket is closed, they pause for a moment.",
        m->document, m->from, (long long)m->clients, m->clients == 1 ? " has" : "s have", m->to);
}

static int run(move *m) {
    if (!count_clients(m)) return CTL_NO;
    if (strcmp(m->from, m->to) == 0) return report(m, m->to, 0);
    const ctl_options *o = ctl_session_options(m->session);
    if (!o->json || (o->given & CTL_OPTION_YES) == 0) show_plan(m);
    int code = ctl_confirm(m->session, "move", "Move it? [y/N] ");
    return code == CTL_OK ? carry_out(m) : code;
}

int ctl_move_command(ctl_session *s, char **args) {
    move m = {.session = s, .document = args[0], .to = args[1]};
    int code = CTL_NO;
    if (find_owner(&m) && check_target(&m)) {
        m.mailbox = ctl_mailbox_open(s);
        code = m.mailbox != NULL ? run(&m) : ctl_give_up(s);
        ctl_mailbox_free(m.mailbox);
    }
    free(m.from);
    free(m.channel);
    return code;
}
