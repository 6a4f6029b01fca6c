/* What is there: servers, documents, the owner of a document. */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cluster.h"
#include "text.h"

/* ---- servers --------------------------------------------------------------------------------- */

/* "5 s", "3 min", "2 h", "4 d"; the caller's. */
static char *duration(int64_t ms) {
    long long seconds = ms > 0 ? ms / 1000 : 0;
    if (seconds < 120) return ctl_format("%lld s", seconds);
    if (seconds < 2 * 3600) return ctl_format("%lld min", seconds / 60);
    if (seconds < 48 * 3600) return ctl_format("%lld h", seconds / 3600);
    return ctl_format("%lld d", seconds / 86400);
}

static char *number(json_t *value) {
    return ctl_format("%lld", (long long)json_integer_value(value));
}

static char *text_of(const ctl_server *server, const char *key) {
    char *text = ctl_escape(ctl_slice(ctl_card_text(server, key)));
    if (*text != '\0') return text;
    free(text);
    return ctl_format("-");
}

static void put_titles(ctl_table *table, const char *const *titles) {
    for (size_t i = 0; i < table->columns; i++) ctl_table_put(table, ctl_format("%s", titles[i]));
}

static void put_server(ctl_table *table, const ctl_server *server, int64_t now_ms) {
    json_t *rates = json_object_get(server->card, "messagesPerSecond");
    ctl_table_put(table, ctl_escape(server->id));
    ctl_table_put(table, ctl_format("%s", !server->alive     ? "gone"
                                          : server->draining ? "draining"
                                                             : "alive"));
    ctl_table_put(table, number(json_object_get(server->card, "documents")));
    ctl_table_put(table, number(json_object_get(server->card, "sockets")));
    ctl_table_put(table, number(json_object_get(server->card, "proxies")));
    ctl_table_put(table, number(json_object_get(rates, "in")));
    ctl_table_put(table, number(json_object_get(rates, "out")));
    ctl_table_put(table, text_of(server, "version"));
    ctl_table_put(table, text_of(server, "region"));
    ctl_table_put(table, text_of(server, "host"));
    ctl_table_put(table, number(json_object_get(server->card, "pid")));
    ctl_table_put(table, duration(now_ms - ctl_card_number(server, "startedAt")));
    ctl_table_put(table, duration(now_ms - ctl_card_number(server, "updatedAt")));
}

static void print_servers(const ctl_servers *servers) {
    static const char *const titles[] = {"SERVER", "STATE", "DOCUMENTS", "SOCKETS", "PROXIES",
                                         "IN/S",   "OUT/S", "VERSION",   "REGION",  "HOST",
                                         "PID",    "RUNS",  "HEARD"};
    ctl_table table = {.columns = 13, .right = 0x7c | 3 << 10 | 1 << 12};
    put_titles(&table, titles);
    int64_t now_ms = (int64_t)time(NULL) * 1000;
    for (size_t i = 0; i < servers->count; i++) put_server(&table, &servers->servers[i], now_ms);
    ctl_table_print(&table);
    ctl_table_free(&table);
}

static void complain_of_none(const ctl_session *s) {
    ctl_complain("no server has told of itself; is the prefix \"%s\" theirs?",
                 ctl_session_options(s)->prefix);
}

int ctl_servers_command(ctl_session *s, char **args) {
    (void)args;
    ctl_servers servers;
    if (!ctl_list_servers(s, &servers)) return ctl_give_up(s);
    if (ctl_session_options(s)->json) {
        json_t *list = json_array();
        for (size_t i = 0; i < servers.count; i++)
            (void)json_array_append(list, servers.servers[i].card);
        ctl_print_json(json_pack("{s:o}", "servers", list));
    } else if (servers.count > 0) {
        print_servers(&servers);
    } else {
        complain_of_none(s);
    }
    ctl_servers_free(&servers);
    return CTL_OK;
}

/* ---- documents ------------------------------------------------------------------------------- */

/* One server that is asked for its documents. */
typedef struct {
    char *name; /* NUL-terminated, as it is */
    char boot[CTL_BOOT_LEN + 1];
} asked;

typedef struct {
    asked *servers;
    size_t count;
    json_t *documents, *totals, *failures; /* arrays */
} inquiry;

static void add_asked(inquiry *q, aff_slice id, const char *boot) {
    q->servers = ctl_realloc(q->servers, (q->count + 1) * sizeof(*q->servers));
    asked *server = &q->servers[q->count++];
    server->name = ctl_format("%.*s", (int)id.len, (const char *)id.data);
    memcpy(server->boot, boot, CTL_BOOT_LEN + 1);
}

/* Whom to ask: one that is named, else all that live. CTL_NO: a complaint has been made. */
static int choose_servers(ctl_session *s, inquiry *q) {
    const char *name = ctl_session_options(s)->server;
    if (name != NULL) {
        char boot[CTL_BOOT_LEN + 1];
        if (!ctl_require_member(s, name, boot)) return CTL_NO;
        add_asked(q, ctl_slice(name), boot);
        return CTL_OK;
    }
    ctl_servers servers;
    if (!ctl_list_servers(s, &servers)) return ctl_give_up(s);
    for (size_t i = 0; i < servers.count; i++)
        if (servers.servers[i].alive) add_asked(q, servers.servers[i].id, servers.servers[i].boot);
    if (servers.count == 0) complain_of_none(s);
    ctl_servers_free(&servers);
    return CTL_OK;
}

static void take_documents(inquiry *q, const char *server, json_t *answer) {
    size_t index;
    json_t *document;
    json_array_foreach(json_object_get(answer, "documents"), index, document) {
        if (!json_is_string(json_object_get(document, "name"))) continue;
        (void)json_object_set_new(document, "server", json_string(server));
        (void)json_array_append(q->documents, document);
    }
    json_t *total = json_object_get(answer, "total");
    json_t *shown = json_integer((json_int_t)json_array_size(json_object_get(answer, "documents")));
    (void)json_array_append_new(
        q->totals, json_pack("{s:s, s:o, s:O?}", "server", server, "shown", shown, "total", total));
}

/* Asks all at once; false: the mailbox could not be opened. */
static bool ask_for_documents(ctl_session *s, inquiry *q) {
    const ctl_options *o = ctl_session_options(s);
    ctl_mailbox *mailbox = ctl_mailbox_open(s);
    if (mailbox == NULL) return false;
    json_t *args = json_pack("{s:s, s:i}", "prefix", o->starting != NULL ? o->starting : "",
                             "limit", (int)o->limit);
    ctl_question *questions = ctl_alloc(q->count * sizeof(*questions));
    for (size_t i = 0; i < q->count; i++)
        questions[i] = (ctl_question){
            .kind = "documents", .args = args, .channel = ctl_channel_of(s, q->servers[i].boot)};
    ctl_ask(mailbox, questions, q->count, 0);
    for (size_t i = 0; i < q->count; i++) {
        ctl_question *one = &questions[i];
        const char *name = q->servers[i].name;
        if (one->outcome == CTL_ANSWERED)
            take_documents(q, name, one->answer);
        else
            (void)json_array_append_new(
                q->failures, json_pack("{s:s, s:s}", "server", name, "message", one->error));
        json_decref(one->answer);
        free(one->channel);
    }
    free(questions);
    json_decref(args);
    ctl_mailbox_free(mailbox);
    return true;
}

static int by_clients(const void *a, const void *b) {
    json_t *x = *(json_t *const *)a, *y = *(json_t *const *)b;
    json_int_t clients_x = json_integer_value(json_object_get(x, "clients"));
    json_int_t clients_y = json_integer_value(json_object_get(y, "clients"));
    if (clients_x != clients_y) return clients_x < clients_y ? 1 : -1;
    return strcmp(json_string_value(json_object_get(x, "name")),
                  json_string_value(json_object_get(y, "name")));
}

static void sort_documents(inquiry *q) {
    size_t count = json_array_size(q->documents);
    json_t **sorted = ctl_alloc(count * sizeof(*sorted)), *list = json_array();
    for (size_t i = 0; i < count; i++) sorted[i] = json_array_get(q->documents, i);
    if (count > 0) qsort(sorted, count, sizeof(*sorted), by_clients);
    for (size_t i = 0; i < count; i++) (void)json_array_append(list, sorted[i]);
    free(sorted);
    json_decref(q->documents);
    q->documents = list;
}

/* "s1:3 s2:1": where the clients are connected. */
static char *places(json_t *from) {
    char *text = ctl_format("%s", "");
    const char *server;
    json_t *count;
    json_object_foreach(from, server, count) {
        char *name = ctl_escape(ctl_slice(server));
        char *more = ctl_format("%s%s%s:%lld", text, *text ? " " : "", name,
                                (long long)json_integer_value(count));
        free(name);
        free(text);
        text = more;
    }
    return text;
}

static char *escaped(json_t *string) {
    return ctl_escape(
        (aff_slice){(const uint8_t *)json_string_value(string), json_string_length(string)});
}

static void print_documents(const inquiry *q) {
    static const char *const titles[] = {"DOCUMENT", "SERVER", "CLIENTS", "EPOCH", "CONNECTED TO"};
    ctl_table table = {.columns = 5, .right = 0xc};
    put_titles(&table, titles);
    size_t index;
    json_t *document, *total;
    json_array_foreach(q->documents, index, document) {
        ctl_table_put(&table, escaped(json_object_get(document, "name")));
        ctl_table_put(&table, escaped(json_object_get(document, "server")));
        ctl_table_put(&table, number(json_object_get(document, "clients")));
        ctl_table_put(&table, number(json_object_get(document, "epoch")));
        ctl_table_put(&table, places(json_object_get(document, "from")));
    }
    if (index > 0) ctl_table_print(&table);
    ctl_table_free(&table);
    json_array_foreach(q->totals, index, total) {
        json_int_t all = json_integer_value(json_object_get(total, "total"));
        json_int_t shown = json_integer_value(json_object_get(total, "shown"));
        if (all > shown)
            ctl_complain("server \"%s\" has %lld documents; these are the %lld with most clients "
                         "(--limit)",
                         json_string_value(json_object_get(total, "server")), (long long)all,
                         (long long)shown);
    }
}

static int report_documents(ctl_session *s, inquiry *q) {
    sort_documents(q);
    size_t index, failed = json_array_size(q->failures);
    json_t *failure;
    if (ctl_session_options(s)->json)
        ctl_print_json(json_pack("{s:O, s:O, s:O}", "documents", q->documents, "servers", q->totals,
                                 "failed", q->failures));
    else
        print_documents(q);
    json_array_foreach(q->failures, index, failure) {
        ctl_complain("server \"%s\": %s", json_string_value(json_object_get(failure, "server")),
                     json_string_value(json_object_get(failure, "message")));
    }
    return failed > 0 ? CTL_NO : CTL_OK;
}

int ctl_documents_command(ctl_session *s, char **args) {
    (void)args;
    inquiry q = {.documents = json_array(), .totals = json_array(), .failures = json_array()};
    int code = choose_servers(s, &q);
    if (code == CTL_OK) code = ask_for_documents(s, &q) ? report_documents(s, &q) : ctl_give_up(s);
    for (size_t i = 0; i < q.count; i++) free(q.servers[i].name);
    free(q.servers);
    json_decref(q.documents);
    json_decref(q.totals);
    json_decref(q.failures);
    return code;
}

/* ---- owner ----------------------------------------------------------------------------------- */

static int report_owner(ctl_session *s, const char *document, const ctl_lease *lease, bool stands) {
    char *server = ctl_escape(lease->server); /* Redis may hold anything, JSON no bytes */
    if (ctl_session_options(s)->json) {
        ctl_print_json(json_pack("{s:s, s:b, s:s, s:I, s:s}", "document", document, "owned",
                                 (int)stands, "server", server, "epoch", (json_int_t)lease->epoch,
                                 "boot", lease->boot));
    } else {
        printf("%s%s, epoch %llu, boot %s\n", server,
               stands ? "" : " had it, and is gone: whoever needs it next takes it",
               (unsigned long long)lease->epoch, lease->boot);
    }
    free(server);
    return stands ? CTL_OK : CTL_NO;
}

static int report_no_owner(ctl_session *s, const char *document, const char *why) {
    if (ctl_session_options(s)->json)
        ctl_print_json(json_pack("{s:s, s:b}", "document", document, "owned", 0));
    else
        printf("%s\n", why);
    return CTL_NO;
}

int ctl_owner_command(ctl_session *s, char **args) {
    const char *document = args[0];
    ctl_lease lease;
    ctl_ownership ownership = ctl_find_owner(s, document, &lease);
    int code = CTL_NO;
    switch (ownership) {
        case CTL_OWNED:
        case CTL_LEFT: code = report_owner(s, document, &lease, ownership == CTL_OWNED); break;
        case CTL_FREE: code = report_no_owner(s, document, "nobody owns it"); break;
        case CTL_UNREADABLE:
            code = report_no_owner(s, document, "nobody owns it: its lease can't be read");
            break;
        case CTL_UNTOLD: code = ctl_give_up(s); break;
    }
    free((void *)lease.server.data);
    return code;
}
