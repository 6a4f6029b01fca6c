#include "address.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "text.h"

static const char bad_form[] =
    "must be redis://[user:password@]host[:port][/db], rediss://..., or the path of a Unix socket";

static char *copy(const char *from, size_t len) {
    char *to = ctl_alloc(len + 1);
    memcpy(to, from, len);
    to[len] = '\0';
    return to;
}

static int hex(char digit) {
    return isdigit((unsigned char)digit) ? digit - '0' : (tolower((unsigned char)digit) - 'a' + 10);
}

/* Replaces each %XX, in place; false: a `%` without two digits, or a NUL. */
static bool unescape(char *text) {
    char *to = text;
    for (const char *from = text; *from != '\0'; from++, to++) {
        *to = *from;
        if (*from != '%') continue;
        if (!isxdigit((unsigned char)from[1]) || !isxdigit((unsigned char)from[2])) return false;
        *to = (char)(16 * hex(from[1]) + hex(from[2]));
        if (*to == '\0') return false;
        from += 2;
    }
    *to = '\0';
    return true;
}

/* Digits and nothing else, up to `max`. */
static bool read_number(const char *text, size_t len, uint32_t max, uint32_t *out) {
    uint64_t number = 0;
    for (size_t i = 0; i < len; i++) {
        if (!isdigit((unsigned char)text[i])) return false;
        number = 10 * number + (uint64_t)(text[i] - '0');
        if (number > max) return false;
    }
    *out = (uint32_t)number;
    return len > 0;
}

static bool read_user(const char *text, size_t len, ctl_address *out) {
    const char *colon = memchr(text, ':', len);
    size_t name_len = colon != NULL ? (size_t)(colon - text) : len;
    if (name_len > 0) out->username = copy(text, name_len);
    if (colon != NULL) out->password = copy(colon + 1, len - name_len - 1);
    return (out->username == NULL || unescape(out->username)) &&
           (out->password == NULL || unescape(out->password));
}

static const char *read_host(const char *text, size_t len, ctl_address *out) {
    const char *end = text + len, *host = text, *host_end = end, *colon;
    if (len > 0 && *text == '[') { /* IPv6 */
        host++;
        host_end = memchr(text, ']', len);
        if (host_end == NULL) return bad_form;
        colon = host_end + 1 < end ? host_end + 1 : NULL;
        if (colon != NULL && *colon != ':') return bad_form;
    } else {
        colon = memchr(text, ':', len);
        if (colon != NULL) host_end = colon;
    }
    uint32_t port = 6379;
    if (colon != NULL && !read_number(colon + 1, (size_t)(end - colon - 1), 65535, &port))
        return "the port must be a number from 1 to 65535";
    if (port == 0) return "the port must be a number from 1 to 65535";
    if (host_end == host) return "names no host";
    out->host = copy(host, (size_t)(host_end - host));
    out->port = (uint16_t)port;
    return NULL;
}

static const char *read_network(const char *rest, ctl_address *out) {
    size_t len = strcspn(rest, "/?#");
    if (rest[len] == '?' || rest[len] == '#') return "options in the URL are not known";
    const char *at = NULL; /* the last one: passwords that are not escaped have them, too */
    for (const char *c = rest; c < rest + len; c++)
        if (*c == '@') at = c;
    if (at != NULL && !read_user(rest, (size_t)(at - rest), out))
        return "user or password have a % without two hexadecimal digits";
    const char *host = at != NULL ? at + 1 : rest;
    const char *problem = read_host(host, len - (size_t)(host - rest), out);
    if (problem != NULL) return problem;
    const char *db = rest[len] == '/' ? rest + len + 1 : "";
    if (*db != '\0' && !read_number(db, strlen(db), INT32_MAX, &out->db))
        return "what follows the host must be the number of a database";
    return NULL;
}

const char *ctl_address_read(const char *url, ctl_address *out) {
    static const char *const schemes[] = {"redis://", "rediss://", "unix://"};
    ctl_address address = {0};
    const char *problem = bad_form;
    if (*url == '/' || *url == '.') {
        address.path = copy(url, strlen(url));
        problem = NULL;
    }
    for (size_t i = 0; i < sizeof(schemes) / sizeof(*schemes); i++) {
        size_t len = strlen(schemes[i]);
        if (strncmp(url, schemes[i], len) != 0) continue;
        address.has_tls = i == 1;
        if (i < 2) {
            problem = read_network(url + len, &address);
        } else if (url[len] != '\0') {
            address.path = copy(url + len, strlen(url + len));
            problem = NULL;
        }
    }
    if (problem == NULL)
        *out = address;
    else
        ctl_address_free(&address);
    return problem;
}

void ctl_address_free(ctl_address *address) {
    free(address->host);
    free(address->path);
    free(address->username);
    free(address->password);
    *address = (ctl_address){0};
}

char *ctl_address_text(const ctl_address *address) {
    if (address->path != NULL) return ctl_format("%s", address->path);
    const char *scheme = address->has_tls ? "rediss" : "redis";
    bool is_ipv6 = strchr(address->host, ':') != NULL;
    return ctl_format("%s://%s%s%s:%u/%u", scheme, is_ipv6 ? "[" : "", address->host,
                      is_ipv6 ? "]" : "", (unsigned)address->port, (unsigned)address->db);
}
