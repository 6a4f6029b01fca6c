/*
 * options.h - the command line, and what the environment adds to it.
 */
#ifndef CTL_OPTIONS_H
#define CTL_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#include "address.h"
#include "aff.h"

/* What a command is done with: the exit code. */
enum {
    CTL_OK = 0,
    CTL_NO = 1, /* the answer is no, or it failed */
    CTL_USAGE = 2
};

/* Options of single commands; bits. */
enum {
    CTL_OPTION_SERVER = 1,
    CTL_OPTION_STARTING = 2,
    CTL_OPTION_LIMIT = 4,
    CTL_OPTION_SECONDS = 8,
    CTL_OPTION_YES = 16,
    CTL_OPTION_FORCE = 32,
    CTL_OPTION_DRY_RUN = 64
};

typedef struct {
    ctl_address redis;
    char *url;          /* as it was given: `redis` is read from it */
    const char *prefix; /* of Redis's keys and channels */
    char *password;     /* from the environment or a file; NULL: the URL's */
    char *secret;       /* from a file, NUL-terminated bytes; NULL: none */
    size_t secret_len;
    const char *tls_ca, *tls_cert, *tls_key, *tls_name; /* three files, one name; or NULL */
    bool tls_insecure;
    uint32_t timeout_ms; /* for a connection, and for each answer */
    bool has_timeout;    /* it was given */
    bool json;

    unsigned given;       /* of CTL_OPTION_... */
    const char *server;   /* or NULL */
    const char *starting; /* how a document's name starts, or NULL */
    uint32_t limit;       /* documents of one server */
    uint32_t seconds;     /* 0: no end */

    const char *command; /* NULL: help or version were asked for */
    bool version;
    char **args;
    int arg_count;
} ctl_options;

/*
 * Reads the command line. Strings of `argv` are kept. CTL_OK: `*out` is filled, to be freed by
 * ctl_options_free(); CTL_USAGE: a complaint has said what is wrong.
 */
int ctl_options_read(int argc, char **argv, ctl_options *out);
void ctl_options_free(ctl_options *options);

/* A file's bytes with a NUL behind them, at most 16 MiB; the caller's. NULL: a complaint, which
 * names `option`. */
char *ctl_read_file(const char *option, const char *path, size_t *len);

#endif
