/*
 * affinityctl - looks at a cluster of RedisServerAffinity, moves documents, and drains servers.
 *
 * What it knows it reads from Redis, or asks the servers themselves (questions.h). To add a
 * command: a function in commands.h, and a line in `commands`.
 */
#include "commands.h"

#include <locale.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "text.h"

typedef struct {
    const char *name;
    const char *arg; /* the names of its arguments, or NULL */
    unsigned options;
    int (*run)(ctl_session *s, char **args);
    bool is_single; /* it wants a single Redis, and complains of another one */
} command;

static const command commands[] = {
    {"servers", NULL, 0, ctl_servers_command, true},
    {"documents", NULL, CTL_OPTION_SERVER | CTL_OPTION_STARTING | CTL_OPTION_LIMIT,
     ctl_documents_command, true},
    {"owner", "DOCUMENT", 0, ctl_owner_command, true},
    {"watch", NULL, CTL_OPTION_SERVER | CTL_OPTION_SECONDS, ctl_watch_command, true},
    {"drain", "SERVER", CTL_OPTION_YES | CTL_OPTION_FORCE, ctl_drain_command, true},
    {"move", "DOCUMENT SERVER", CTL_OPTION_YES | CTL_OPTION_DRY_RUN, ctl_move_command, true},
    {"doctor", NULL, 0, ctl_doctor_command, false},
};

static const char help[] =
    "Usage: affinityctl [options] command\n"
    "\n"
    "Commands:\n"
    "  servers                  the servers of the cluster\n"
    "  documents                the documents that are open, with their owners and clients\n"
    "      --server SERVER      of this server only\n"
    "      --starting TEXT      whose names start so\n"
    "      --limit N            at most so many of each server (1000)\n"
    "  owner DOCUMENT           which server owns a document\n"
    "  watch                    events, as they happen\n"
    "      --server SERVER      of this server only\n"
    "      --seconds N          for so long; else until it is interrupted\n"
    "  drain SERVER             moves all documents of a server to others, so that it can be "
    "stopped\n"
    "      --yes                does not ask\n"
    "      --force              even if no other server is there to take them\n"
    "  move DOCUMENT SERVER     moves a document to another server\n"
    "      --yes                does not ask\n"
    "      --dry-run            says what it would do, and does nothing\n"
    "  doctor                   checks whether Redis is fit for it\n"
    "\n"
    "Options:\n"
    "  --url URL                redis://[user@]host[:port][/db], rediss://..., or the path of a "
    "Unix\n"
    "                           socket ($REDIS_URL, or redis://127.0.0.1:6379)\n"
    "  --password-file FILE     Redis's password ($REDIS_PASSWORD)\n"
    "  --prefix TEXT            the servers' option `prefix`, after ioredis's keyPrefix (rsa)\n"
    "  --secret-file FILE       the servers' option `secret`\n"
    "  --tls-ca FILE            authorities to believe, PEM\n"
    "  --tls-cert FILE, --tls-key FILE   our own certificate, PEM\n"
    "  --tls-name NAME          the name that Redis's certificate must be for\n"
    "  --tls-insecure           believes any certificate\n"
    "  --timeout SECONDS        for a connection, and for each answer (5; for a move 35)\n"
    "  --json                   for programs\n"
    "  --help, --version\n"
    "\n"
    "Exit code: 0; 1 if it failed, or the answer is no; 2 for a wrong command line.\n";

int ctl_give_up(ctl_session *s) {
    ctl_complain("%s", ctl_session_error(s));
    return CTL_NO;
}

int ctl_confirm(ctl_session *s, const char *name, const char *question) {
    if ((ctl_session_options(s)->given & CTL_OPTION_YES) != 0) return CTL_OK;
    if (!isatty(STDIN_FILENO)) {
        ctl_complain("%s: nobody can be asked here: say --yes", name);
        return CTL_USAGE;
    }
    char answer[16] = "";
    (void)fputs(question, stderr);
    if (fgets(answer, sizeof(answer), stdin) != NULL && (answer[0] == 'y' || answer[0] == 'Y'))
        return CTL_OK;
    ctl_complain("nothing was done");
    return CTL_NO;
}

void ctl_print_json(json_t *value) {
    char *text = json_dumps(value, JSON_ENSURE_ASCII | JSON_COMPACT);
    json_decref(value);
    puts(text != NULL ? text : "null");
    free(text);
    (void)fflush(stdout); /* `watch` goes on */
}

static const command *find_command(const char *name) {
    for (size_t i = 0; i < sizeof(commands) / sizeof(*commands); i++)
        if (strcmp(commands[i].name, name) == 0) return &commands[i];
    return NULL;
}

/* The name of the first of `options`. */
static const char *name_of_option(unsigned options) {
    static const char *const names[] = {"server", "starting", "limit",  "seconds",
                                        "yes",    "force",    "dry-run"};
    size_t n = 0;
    while ((options >> n & 1) == 0) n++;
    return names[n];
}

/* Names are UTF-8: no other one can be meant. */
static bool is_utf8(const char *text) {
    json_t *string = json_string(text != NULL ? text : "");
    json_decref(string);
    return string != NULL;
}

/* DOCUMENT SERVER: two. */
static int count_words(const char *text) {
    int count = text != NULL;
    for (; text != NULL && *text != '\0'; text++) count += *text == ' ';
    return count;
}

static bool are_good_args(const ctl_options *o) {
    for (int i = 0; i < o->arg_count; i++)
        if (*o->args[i] == '\0' || !is_utf8(o->args[i])) return false;
    return true;
}

static const command *check(const ctl_options *o) {
    const command *c = find_command(o->command);
    if (c == NULL) {
        ctl_complain("%s: no such command; affinityctl --help lists them", o->command);
    } else if ((o->given & ~c->options) != 0) {
        ctl_complain("--%s: is no option of %s", name_of_option(o->given & ~c->options), c->name);
    } else if (c->arg != NULL && o->arg_count != count_words(c->arg)) {
        ctl_complain("%s: needs %s, %s", c->name,
                     count_words(c->arg) == 1 ? "one argument" : "two arguments", c->arg);
    } else if (c->arg == NULL && o->arg_count > 0) {
        ctl_complain("%s: takes no argument, such as \"%s\"", c->name, o->args[0]);
    } else if (!is_utf8(o->server) || !is_utf8(o->starting)) {
        ctl_complain("--%s: must be UTF-8", is_utf8(o->server) ? "starting" : "server");
    } else if (!are_good_args(o)) {
        ctl_complain("%s: %s must be UTF-8, and not empty", c->name, c->arg);
    } else {
        return c;
    }
    return NULL;
}

static int run(const ctl_options *o) {
    const command *c = check(o);
    if (c == NULL) return CTL_USAGE;
    ctl_session *s = ctl_session_new(o);
    if (s == NULL) return CTL_USAGE;
    int code = c->is_single && !ctl_session_connect_single(s) ? ctl_give_up(s) : c->run(s, o->args);
    ctl_session_free(s);
    return code;
}

static int run_or_help(const ctl_options *o) {
    if (o->command != NULL) return run(o);
    if (o->version)
        puts("affinityctl " CTL_VERSION);
    else
        (void)fputs(help, stdout);
    return CTL_OK;
}

int main(int argc, char **argv) {
    (void)setlocale(LC_CTYPE, "");
    (void)signal(SIGPIPE, SIG_IGN); /* as runtime/redis.h asks for */
    ctl_options options;
    int code = ctl_options_read(argc, argv, &options);
    if (code != CTL_OK) return code;
    code = run_or_help(&options);
    ctl_options_free(&options);
    if (fflush(stdout) != 0 || ferror(stdout)) return code != CTL_OK ? code : CTL_NO;
    return code;
}
