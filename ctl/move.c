/*
 * Moves a document: says what it will do, asks, has it done, and tells who has it then. Its owner
 * does it (js/src/move.ts), and is asked at the channel of the process that holds the lease:
 * another process under the same name must not be meant.
 */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster.h"
#include "text.h"

enum {
    LISTED_MAX = 10000,     /* documents among which this one is looked for */
    MOVES_WITHIN_MS = 35000 /* its owner stores it first */
};

typedef struct {
    ctl_session *session;
    ctl_mailbox *mailbox;
    const char *document, *to;
    char *from;                      /* its owner */
    char *from_channel, *to_channel; /* of the two */
    json_int_t clients;
} move;

static bool is_there_already(const move *m) {
    return strcmp(m->from, m->to) == 0;
}

static bool has_option(const move *m, unsigned option) {
    return (ctl_session_options(m->session)->given & option) != 0;
}

/* ---- Before ---------------------------------------------------------------------------------- */

/* Who has it; false: a complaint has been made. */
static bool find_owner(move *m) {
    ctl_lease lease;
    ctl_ownership ownership = ctl_find_owner(m->session, m->document, &lease);
    m->from = (char *)lease.server.data;
    if (ownership == CTL_OWNED)
        m->from_channel = ctl_channel_of(m->session, lease.boot);
    else if (ownership == CTL_UNTOLD)
        (void)ctl_give_up(m->session);
    else if (ownership == CTL_LEFT)
        ctl_complain("document \"%s\": nobody has it open; server \"%s\" had it, and is gone",
                     m->document, m->from);
    else
        ctl_complain("document \"%s\": nobody has it open", m->document);
    return ownership == CTL_OWNED;
}

static bool is_draining(const ctl_servers *servers, const char *id) {
    for (size_t i = 0; i < servers->count; i++)
        if (ctl_is_named(&servers->servers[i], id)) return servers->servers[i].draining;
    return false;
}

/* Whether both may do their part; false: a complaint has been made. */
static bool check_servers(move *m) {
    char boot[CTL_BOOT_LEN + 1];
    ctl_servers servers;
    if (!ctl_require_member(m->session, m->to, boot)) return false;
    m->to_channel = ctl_channel_of(m->session, boot);
    if (!ctl_list_servers(m->session, &servers)) {
        (void)ctl_give_up(m->session);
        return false;
    }
    bool takes = !is_draining(&servers, m->to), gives = !is_draining(&servers, m->from);
    ctl_servers_free(&servers);
    if (!takes)
        ctl_complain("server \"%s\" is draining: it takes no documents", m->to);
    else if (!gives)
        ctl_complain("server \"%s\" is draining: it hands its documents on by itself", m->from);
    return takes && gives;
}

static bool is_answered(const ctl_question *q, const char *server) {
    if (q->outcome != CTL_ANSWERED) ctl_complain("server \"%s\": %s", server, q->error);
    return q->outcome == CTL_ANSWERED;
}

/* How many have it open, by its owner's list of documents; false: a complaint has been made. */
static bool take_clients(move *m, json_t *list) {
    size_t index;
    json_t *document, *documents = json_object_get(list, "documents");
    json_array_foreach(documents, index, document) {
        const char *name = json_string_value(json_object_get(document, "name"));
        if (name == NULL || strcmp(name, m->document) != 0) continue;
        m->clients = json_integer_value(json_object_get(document, "clients"));
        return true;
    }
    if (json_integer_value(json_object_get(list, "total")) > (json_int_t)index) {
        ctl_complain("more than %d names start with \"%s\": its clients are not counted",
                     LISTED_MAX, m->document);
        return true;
    }
    ctl_complain("document \"%s\": nobody has it open; server \"%s\" holds its lease", m->document,
                 m->from);
    return false;
}

/*
 * Asks both servers: the owner how many have it open, and the other one to see whether it answers,
 * since a membership outlives its server for a while. False: a complaint has been made.
 */
static bool look(move *m) {
    json_t *args = json_pack("{s:s, s:i}", "prefix", m->document, "limit", LISTED_MAX);
    ctl_question q[] = {
        {.kind = "documents", .args = args, .channel = m->from_channel},
        {.kind = "documents", .args = args, .channel = m->to_channel},
    };
    bool to_both = !is_there_already(m);
    ctl_ask(m->mailbox, q, to_both ? 2 : 1, 0);
    bool good = is_answered(&q[0], m->from) && (!to_both || is_answered(&q[1], m->to)) &&
                take_clients(m, q[0].answer);
    json_decref(q[0].answer);
    json_decref(q[1].answer);
    json_decref(args);
    return good;
}

/* ---- After ----------------------------------------------------------------------------------- */

static void print_report(const move *m, const char *to, uint64_t took_ms) {
    char *name = ctl_escape(ctl_slice(m->document)), *from = ctl_escape(ctl_slice(m->from));
    char *server = ctl_escape(ctl_slice(to != NULL ? to : ""));
    if (to == NULL)
        printf("%s: nobody has it open any more\n", name);
    else if (is_there_already(m))
        printf("%s is at %s already\n", name, server);
    else if (has_option(m, CTL_OPTION_DRY_RUN))
        printf("%s would go from %s to %s; nothing was done\n", name, from, server);
    else
        printf("%s is at %s now, after %llu ms\n", name, server, (unsigned long long)took_ms);
    free(name);
    free(from);
    free(server);
}

/* `to`: who has it, or would have it; NULL: nobody. */
static int report(const move *m, const char *to, uint64_t took_ms) {
    bool good = to != NULL && strcmp(to, m->to) == 0, dry = has_option(m, CTL_OPTION_DRY_RUN);
    bool moved = good && !dry && !is_there_already(m);
    if (ctl_session_options(m->session)->json)
        ctl_print_json(json_pack("{s:s, s:s, s:s?, s:I, s:b, s:b, s:I}", "document", m->document,
                                 "from", m->from, "to", to, "clients", m->clients, "moved",
                                 (int)moved, "dryRun", (int)dry, "ms", (json_int_t)took_ms));
    else
        print_report(m, to, took_ms);
    if (!good) ctl_complain("document \"%s\" did not go to server \"%s\"", m->document, m->to);
    return good ? CTL_OK : CTL_NO;
}

/* Without a good answer: who has it now? The answer alone may be what was lost. */
static int look_again(const move *m, uint64_t took_ms) {
    ctl_lease lease;
    ctl_ownership ownership = ctl_find_owner(m->session, m->document, &lease);
    char *server = (char *)lease.server.data;
    int code = CTL_NO;
    if (ownership == CTL_UNTOLD)
        code = ctl_give_up(m->session);
    else if (ownership == CTL_OWNED && strcmp(server, m->to) == 0)
        code = report(m, server, took_ms);
    else if (ownership == CTL_OWNED)
        ctl_complain("document \"%s\" is at server \"%s\" now", m->document, server);
    else
        ctl_complain("document \"%s\": nobody has it open now", m->document);
    free(server);
    return code;
}

/* ---- Meanwhile ------------------------------------------------------------------------------- */

static int carry_out(move *m) {
    const ctl_options *o = ctl_session_options(m->session);
    uint32_t within_ms = o->has_timeout ? o->timeout_ms : MOVES_WITHIN_MS;
    json_t *args = json_pack("{s:s, s:s}", "document", m->document, "to", m->to);
    ctl_question q = {.kind = "move", .args = args, .channel = m->from_channel};
    uint64_t began_ms = ctl_session_now(m->session);
    ctl_ask(m->mailbox, &q, 1, within_ms);
    uint64_t took_ms = ctl_session_now(m->session) - began_ms;
    json_decref(args);
    if (q.outcome == CTL_ANSWERED) {
        int code = report(m, json_string_value(json_object_get(q.answer, "to")), took_ms);
        json_decref(q.answer);
        return code;
    }
    if (q.outcome == CTL_UNANSWERED) /* it has answered before: what it does is to store */
        ctl_complain("server \"%s\": no answer within %u s: it stores the document first, and may "
                     "still move it",
                     m->from, (unsigned)within_ms / 1000);
    else
        ctl_complain("server \"%s\": %s", m->from, q.error);
    return look_again(m, took_ms);
}

static void show_plan(const move *m) {
    ctl_complain(
        "document \"%s\" is at server \"%s\", and %lld client%s it open. It is stored there, "
        "and goes to \"%s\"; no client's socket is closed, they pause for a moment.",
        m->document, m->from, (long long)m->clients, m->clients == 1 ? " has" : "s have", m->to);
}

static int run(move *m) {
    bool dry = has_option(m, CTL_OPTION_DRY_RUN);
    if (!look(m)) return CTL_NO;
    if (is_there_already(m)) return report(m, m->to, 0);
    bool for_program = ctl_session_options(m->session)->json;
    if (!for_program || (!dry && !has_option(m, CTL_OPTION_YES))) show_plan(m);
    if (dry) return report(m, m->to, 0);
    int code = ctl_confirm(m->session, "move", "Move it? [y/N] ");
    return code == CTL_OK ? carry_out(m) : code;
}

int ctl_move_command(ctl_session *s, char **args) {
    move m = {.session = s, .document = args[0], .to = args[1]};
    int code = CTL_NO;
    if (find_owner(&m) && (is_there_already(&m) || check_servers(&m))) {
        m.mailbox = ctl_mailbox_open(s);
        code = m.mailbox != NULL ? run(&m) : ctl_give_up(s);
        ctl_mailbox_free(m.mailbox);
    }
    free(m.from);
    free(m.from_channel);
    free(m.to_channel);
    return code;
}
