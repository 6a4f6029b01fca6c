/* Events of servers, as they happen: each server is asked to tell, again and again. */
#include "commands.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cluster.h"
#include "text.h"

enum {
    LOOK_EVERY_MS = 1000, /* for servers that are new */
    ASK_FOR_S = 60,       /* a server tells for so long */
    ASK_EVERY_MS = 15000,
    ANSWER_WITHIN_MS = 3000 /* one that hangs shall not keep the others from being asked */
};

/* A server's process. */
typedef struct {
    char process[CTL_PROCESS_LEN + 1];
    uint64_t ask_at_ms;
    bool is_watched;
    bool seen; /* in the last list */
} watched;

typedef struct {
    ctl_session *session;
    ctl_mailbox *mailbox;
    watched *processes;
    size_t count;
    bool is_away; /* Redis */
} watcher;

/* ---- What is told ---------------------------------------------------------------------------- */

static int64_t now_ms(void) {
    struct timespec now;
    (void)clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static char *escaped(json_t *event, const char *key) {
    json_t *value = json_object_get(event, key);
    if (!json_is_string(value)) return ctl_format("%s", "");
    return ctl_escape(
        (aff_slice){(const uint8_t *)json_string_value(value), json_string_length(value)});
}

static void print_event(json_t *event, int64_t at_ms) {
    char *by = escaped(event, "by"), *kind = escaped(event, "kind");
    char *document = escaped(event, "documentName"), *server = escaped(event, "server");
    json_int_t epoch = json_integer_value(json_object_get(event, "epoch"));
    time_t seconds = (time_t)(at_ms / 1000);
    struct tm local;
    char clock[16] = "";
    if (localtime_r(&seconds, &local) != NULL)
        (void)strftime(clock, sizeof(clock), "%H:%M:%S", &local);
    printf("%s.%03d  %s  %s", clock, (int)(at_ms % 1000), by, kind);
    if (*document) printf("  %s", document);
    if (*server) printf("  %s %s", *document ? "server" : "", server);
    if (epoch > 0) printf("  epoch %lld", (long long)epoch);
    putchar('\n');
    (void)fflush(stdout);
    free(by);
    free(kind);
    free(document);
    free(server);
}

static void on_event(void *arg, json_t *event) {
    watcher *w = arg;
    json_int_t missed = json_integer_value(json_object_get(event, "missed"));
    if (!json_is_string(json_object_get(event, "kind"))) return;
    if (ctl_session_options(w->session)->json) {
        (void)json_object_set_new(event, "at", json_integer(now_ms()));
        ctl_print_json(json_incref(event));
        return;
    }
    if (missed > 0)
        ctl_complain("%lld events before the next one were left out", (long long)missed);
    print_event(event, now_ms());
}

/* ---- Who is asked ---------------------------------------------------------------------------- */

static watched *look_up(watcher *w, const char *boot) {
    for (size_t i = 0; i < w->count; i++)
        if (strncmp(w->processes[i].process, boot, CTL_PROCESS_LEN) == 0) return &w->processes[i];
    w->processes = ctl_realloc(w->processes, (w->count + 1) * sizeof(*w->processes));
    watched *process = &w->processes[w->count++];
    *process = (watched){0};
    memcpy(process->process, boot, CTL_PROCESS_LEN);
    return process;
}

static bool is_due(watcher *w, const ctl_server *server) {
    const char *only = ctl_session_options(w->session)->server;
    if (!server->alive || (only != NULL && (strlen(only) != server->id.len ||
                                            memcmp(only, server->id.data, server->id.len) != 0)))
        return false;
    watched *process = look_up(w, server->boot);
    process->seen = true;
    return process->ask_at_ms <= ctl_session_now(w->session);
}

static void on_outcome(watcher *w, const ctl_server *server, const ctl_question *q) {
    watched *process = look_up(w, server->boot);
    process->ask_at_ms = ctl_session_now(w->session) + ASK_EVERY_MS;
    bool is_new = !process->is_watched;
    process->is_watched = q->outcome == CTL_ANSWERED;
    char *name = ctl_format("%.*s", (int)server->id.len, (const char *)server->id.data);
    if (!process->is_watched && !ctl_session_is_interrupted(w->session))
        ctl_complain("server \"%s\" is not watched: %s", name, q->error);
    else if (process->is_watched && is_new)
        ctl_complain("watching server \"%s\"", name);
    free(name);
}

static void ask(watcher *w, const ctl_servers *servers) {
    ctl_question *questions = ctl_alloc(servers->count * sizeof(*questions));
    const ctl_server **due = ctl_alloc(servers->count * sizeof(*due));
    json_t *args = json_pack("{s:i}", "seconds", ASK_FOR_S);
    size_t count = 0;
    for (size_t i = 0; i < servers->count; i++) {
        const ctl_server *server = &servers->servers[i];
        if (!is_due(w, server)) continue;
        questions[count] = (ctl_question){
            .kind = "watch", .args = args, .channel = ctl_channel_of(w->session, server->boot)};
        due[count++] = server;
    }
    if (count > 0) ctl_ask(w->mailbox, questions, count, ANSWER_WITHIN_MS);
    for (size_t i = 0; i < count; i++) {
        on_outcome(w, due[i], &questions[i]);
        json_decref(questions[i].answer);
        free(questions[i].channel);
    }
    json_decref(args);
    free(due);
    free(questions);
}

/* Those that have ended are forgotten. */
static void forget_unseen(watcher *w) {
    size_t kept = 0;
    for (size_t i = 0; i < w->count; i++) {
        if (!w->processes[i].seen) continue;
        w->processes[kept] = w->processes[i];
        w->processes[kept++].seen = false;
    }
    w->count = kept;
}

/* Redis may be away for a while: then there is nothing to see. */
static void look(watcher *w) {
    ctl_servers servers;
    bool listed = ctl_list_servers(w->session, &servers);
    if (ctl_session_is_interrupted(w->session)) {
        if (listed) ctl_servers_free(&servers);
        return;
    }
    if (!listed) {
        if (!w->is_away)
            ctl_complain("%s; events of this time are not seen", ctl_session_error(w->session));
        w->is_away = true;
        return;
    }
    w->is_away = false;
    ask(w, &servers);
    forget_unseen(w);
    ctl_servers_free(&servers);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void run(watcher *w, uint64_t until_ms) {
    while (!ctl_session_is_interrupted(w->session) && !ferror(stdout)) {
        look(w);
        uint64_t now = ctl_session_now(w->session), pause = LOOK_EVERY_MS;
        if (now >= until_ms) return;
        if (until_ms - now < pause) pause = until_ms - now;
        (void)ctl_session_wait(w->session, pause, NULL, NULL);
    }
}

int ctl_watch_command(ctl_session *s, char **args) {
    (void)args;
    const ctl_options *o = ctl_session_options(s);
    char boot[CTL_BOOT_LEN + 1];
    if (o->server != NULL && !ctl_require_member(s, o->server, boot)) return CTL_NO;
    ctl_mailbox *mailbox = ctl_mailbox_open(s);
    if (mailbox == NULL) return ctl_give_up(s);
    watcher w = {.session = s, .mailbox = mailbox};
    ctl_session_catch_signals(s);
    ctl_mailbox_watch(mailbox, on_event, &w);
    run(&w, o->seconds > 0 ? ctl_session_now(s) + (uint64_t)o->seconds * 1000 : UINT64_MAX);
    ctl_mailbox_free(mailbox);
    free(w.processes);
    return CTL_OK;
}
