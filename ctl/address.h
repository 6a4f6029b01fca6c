/*
 * address.h - where Redis is, as it is written in a URL.
 */
#ifndef CTL_ADDRESS_H
#define CTL_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

typedef struct {
    char *host; /* NULL: a Unix socket */
    uint16_t port;
    char *path;                /* of the Unix socket, or NULL */
    char *username, *password; /* or NULL */
    uint32_t db;
    bool has_tls;
} ctl_address;

/*
 * Reads redis://[user[:password]@]host[:port][/db], rediss://..., unix://path or the path of a
 * socket (beginning with `/` or `.`). User and password may have %XX in them. NULL: `*out` is
 * filled, to be freed by ctl_address_free(); else what is wrong, for people, and without a password
 * in it. Static.
 */
const char *ctl_address_read(const char *url, ctl_address *out);
void ctl_address_free(ctl_address *address);

/* The address for people, without user and password; the caller's. */
char *ctl_address_text(const ctl_address *address);

#endif
