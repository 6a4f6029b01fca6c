#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <openssl/crypto.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "seal.h"
#include "text.h"

enum {
    FILE_MAX = 16 << 20, /* as a PEM may have (tls.h) */
    PREFIX_MAX = 1024,   /* bytes */
    TIMEOUT_MAX_S = 600,
    WATCH_MAX_S = 86400,
    LIMIT_MAX = 10000 /* what servers take */
};

/* Long options without a letter. Those up to OF_ALL are for any command. */
enum {
    URL = 1000,
    PASSWORD_FILE,
    PREFIX,
    SECRET_FILE,
    TLS_CA,
    TLS_CERT,
    TLS_KEY,
    TLS_NAME,
    TLS_INSECURE,
    TIMEOUT,
    JSON,
    HELP,
    VERSION,
    SERVER,
    STARTING,
    LIMIT,
    SECONDS,
    YES,
    FORCE,
    DRY_RUN
};

static const struct option known[] = {
    {"url", required_argument, NULL, URL},
    {"password-file", required_argument, NULL, PASSWORD_FILE},
    {"prefix", required_argument, NULL, PREFIX},
    {"secret-file", required_argument, NULL, SECRET_FILE},
    {"tls-ca", required_argument, NULL, TLS_CA},
    {"tls-cert", required_argument, NULL, TLS_CERT},
    {"tls-key", required_argument, NULL, TLS_KEY},
    {"tls-name", required_argument, NULL, TLS_NAME},
    {"tls-insecure", no_argument, NULL, TLS_INSECURE},
    {"timeout", required_argument, NULL, TIMEOUT},
    {"json", no_argument, NULL, JSON},
    {"help", no_argument, NULL, HELP},
    {"version", no_argument, NULL, VERSION},
    {"server", required_argument, NULL, SERVER},
    {"starting", required_argument, NULL, STARTING},
    {"limit", required_argument, NULL, LIMIT},
    {"seconds", required_argument, NULL, SECONDS},
    {"yes", no_argument, NULL, YES},
    {"force", no_argument, NULL, FORCE},
    {"dry-run", no_argument, NULL, DRY_RUN},
    {NULL, 0, NULL, 0},
};

/* ---- Values ---------------------------------------------------------------------------------- */

char *ctl_read_file(const char *option, const char *path, size_t *len) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        ctl_complain("--%s: %s: %s", option, path, strerror(errno));
        return NULL;
    }
    size_t cap = 4096, count = 0, more;
    char *bytes = ctl_alloc(cap + 1);
    while ((more = fread(bytes + count, 1, cap - count, file)) > 0) {
        count += more;
        if (count < cap) continue;
        if (cap > FILE_MAX) break;
        cap *= 2;
        bytes = ctl_realloc(bytes, cap + 1);
    }
    bool failed = ferror(file) != 0;
    int error = errno;
    (void)fclose(file);
    if (failed || count > FILE_MAX) {
        ctl_complain("--%s: %s: %s", option, path, failed ? strerror(error) : "too long");
        free(bytes);
        return NULL;
    }
    bytes[count] = '\0';
    *len = count;
    return bytes;
}

/* A password or secret: what editors add at the end of a file does not belong to it. */
static char *read_secret(const char *option, const char *path, size_t *len) {
    char *bytes = ctl_read_file(option, path, len);
    if (bytes == NULL) return NULL;
    if (*len > 0 && bytes[*len - 1] == '\n') bytes[--*len] = '\0';
    if (*len > 0 && bytes[*len - 1] == '\r') bytes[--*len] = '\0';
    if (*len >= 1 && *len <= AFF_SECRET_MAX) return bytes;
    ctl_complain("--%s: %s: must have 1 to %d bytes", option, path, AFF_SECRET_MAX);
    free(bytes);
    return NULL;
}

static bool read_number(const char *option, const char *text, uint32_t max, uint32_t *out) {
    uint32_t number = 0;
    const char *at = text;
    for (; *at >= '0' && *at <= '9' && number <= max; at++)
        number = 10 * number + (uint32_t)(*at - '0');
    if (at > text && *at == '\0' && number >= 1 && number <= max) {
        *out = number;
        return true;
    }
    ctl_complain("--%s: must be a number from 1 to %u, not \"%s\"", option, (unsigned)max, text);
    return false;
}

static char *copy(const char *text) {
    return ctl_format("%s", text);
}

/* ---- Options --------------------------------------------------------------------------------- */

static bool read_password_file(ctl_options *o, const char *path) {
    size_t len;
    free(o->password);
    o->password = read_secret("password-file", path, &len);
    if (o->password == NULL || strlen(o->password) == len) return o->password != NULL;
    ctl_complain("--password-file: %s: there is a NUL in it", path);
    return false;
}

static bool read_secret_file(ctl_options *o, const char *path) {
    free(o->secret);
    o->secret = read_secret("secret-file", path, &o->secret_len);
    return o->secret != NULL;
}

static bool read_prefix(ctl_options *o, const char *value) {
    o->prefix = value;
    if (strlen(value) <= PREFIX_MAX) return true;
    ctl_complain("--prefix: must have at most %d bytes", PREFIX_MAX);
    return false;
}

static bool read_url(ctl_options *o, const char *value) {
    free(o->url);
    o->url = copy(value);
    return true;
}

static bool read_timeout(ctl_options *o, const char *value) {
    uint32_t seconds = 0;
    if (!read_number("timeout", value, TIMEOUT_MAX_S, &seconds)) return false;
    o->timeout_ms = seconds * 1000;
    o->has_timeout = true;
    return true;
}

/* One of a single command. */
static bool read_special(ctl_options *o, int option, const char *value) {
    o->given |= 1u << (option - SERVER);
    switch (option) {
        case SERVER: o->server = value; return true;
        case STARTING: o->starting = value; return true;
        case LIMIT: return read_number("limit", value, LIMIT_MAX, &o->limit);
        case SECONDS: return read_number("seconds", value, WATCH_MAX_S, &o->seconds);
        default: return true;
    }
}

static bool read_option(ctl_options *o, int option, const char *value) {
    switch (option) {
        case URL: return read_url(o, value);
        case PASSWORD_FILE: return read_password_file(o, value);
        case PREFIX: return read_prefix(o, value);
        case SECRET_FILE: return read_secret_file(o, value);
        case TLS_CA: o->tls_ca = value; return true;
        case TLS_CERT: o->tls_cert = value; return true;
        case TLS_KEY: o->tls_key = value; return true;
        case TLS_NAME: o->tls_name = value; return true;
        case TLS_INSECURE: o->tls_insecure = true; return true;
        case TIMEOUT: return read_timeout(o, value);
        case JSON: o->json = true; return true;
        case VERSION: o->version = true; return true;
        case HELP: return true;
        default: return read_special(o, option, value);
    }
}

static void complain_of_argument(int problem, char **argv) {
    const char *word = argv[optind - 1];
    if (problem == ':')
        ctl_complain("%s: needs a value", word);
    else if (optopt >= URL) /* --json=no */
        ctl_complain("%s: takes no value", word);
    else if (optopt != 0)
        ctl_complain("-%c: no such option", optopt);
    else
        ctl_complain("%s: no such option", word);
}

/* What the environment has, where the command line is silent. */
static bool complete(ctl_options *o) {
    const char *url = getenv("REDIS_URL"), *password = getenv("REDIS_PASSWORD");
    bool by_environment = o->url == NULL && url != NULL && *url != '\0';
    if (o->url == NULL) o->url = copy(by_environment ? url : "redis://127.0.0.1:6379");
    if (o->password == NULL && password != NULL && *password != '\0') o->password = copy(password);
    const char *problem = ctl_address_read(o->url, &o->redis);
    OPENSSL_cleanse(o->url, strlen(o->url));
    if (problem != NULL) {
        ctl_complain("%s: %s", by_environment ? "REDIS_URL" : "--url", problem);
        return false;
    }
    const struct {
        const char *name;
        bool given;
    } tls[] = {{"tls-ca", o->tls_ca != NULL},
               {"tls-cert", o->tls_cert != NULL},
               {"tls-key", o->tls_key != NULL},
               {"tls-name", o->tls_name != NULL},
               {"tls-insecure", o->tls_insecure}};
    for (size_t i = 0; i < sizeof(tls) / sizeof(*tls); i++) {
        if (!tls[i].given || o->redis.has_tls) continue;
        ctl_complain("--%s: needs an address with rediss://", tls[i].name);
        return false;
    }
    return true;
}

static bool read_all(int argc, char **argv, ctl_options *o) {
    bool help = false;
    int option;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":h", known, NULL)) != -1) {
        if (option == '?' || option == ':') {
            complain_of_argument(option, argv);
            return false;
        }
        if (option == HELP || option == 'h')
            help = true;
        else if (!read_option(o, option, optarg))
            return false;
    }
    if (help || o->version) return true;
    if (optind == argc) {
        ctl_complain("which command? affinityctl --help lists them");
        return false;
    }
    o->command = argv[optind];
    o->args = argv + optind + 1;
    o->arg_count = argc - optind - 1;
    return complete(o);
}

int ctl_options_read(int argc, char **argv, ctl_options *out) {
    ctl_options options = {.prefix = "rsa", .timeout_ms = 5000, .limit = 1000};
    if (read_all(argc, argv, &options)) {
        *out = options;
        return CTL_OK;
    }
    ctl_options_free(&options);
    return CTL_USAGE;
}

static void forget(char *secret, size_t len) {
    if (secret != NULL) OPENSSL_cleanse(secret, len);
    free(secret);
}

void ctl_options_free(ctl_options *options) {
    ctl_address_free(&options->redis);
    free(options->url);
    forget(options->password, options->password != NULL ? strlen(options->password) : 0);
    forget(options->secret, options->secret_len);
}
