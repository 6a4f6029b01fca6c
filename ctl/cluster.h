/*
 * cluster.h - what stands in Redis about servers and documents (docs/PROTOCOL.md, Redis).
 */
#ifndef CTL_CLUSTER_H
#define CTL_CLUSTER_H

#include <jansson.h>

#include "session.h"

enum { CTL_BOOT_LEN = 16, CTL_PROCESS_LEN = 12 };

/* A server that has told of itself. */
typedef struct {
    json_t *card; /* as `servers()` of the extension has it, with `alive` */
    aff_slice id; /* the card's */
    char boot[CTL_BOOT_LEN + 1];
    bool alive; /* its membership stands, under that boot */
    bool draining;
} ctl_server;

typedef struct {
    ctl_server *servers; /* by name */
    size_t count;
} ctl_servers;

/* False: see the session's error. Freed by ctl_servers_free(). */
bool ctl_list_servers(ctl_session *s, ctl_servers *out);
void ctl_servers_free(ctl_servers *servers);

bool ctl_is_named(const ctl_server *server, const char *id);

/* An integer or a string of a card; 0 or "" where it has none. */
int64_t ctl_card_number(const ctl_server *server, const char *key);
const char *ctl_card_text(const ctl_server *server, const char *key);

typedef enum {
    CTL_MEMBER,
    CTL_NO_MEMBER,
    CTL_UNKNOWN /* see the session's error */
} ctl_membership;

/* Whether a server is a member, and under which boot. */
ctl_membership ctl_find_member(ctl_session *s, aff_slice id, char boot[CTL_BOOT_LEN + 1]);

/* The boot of a server that has to be a member; false: a complaint has been made. */
bool ctl_require_member(ctl_session *s, const char *id, char boot[CTL_BOOT_LEN + 1]);

/* Where a boot's process listens; the caller's. */
char *ctl_channel_of(ctl_session *s, const char *boot);

/* `<prefix><name><rest>`; the caller's, in `data`. */
aff_slice ctl_key(ctl_session *s, const char *name, aff_slice rest);

/* A lease's record, as it was read. */
typedef struct {
    uint64_t epoch;
    char boot[CTL_BOOT_LEN + 1];
    aff_slice server;
} ctl_lease;

/* False: it is none that a server writes, and counts as free. `out->server` is the record's. */
bool ctl_lease_read(aff_slice record, ctl_lease *out);

typedef enum {
    CTL_OWNED,
    CTL_LEFT,       /* its server is gone: whoever needs it next takes it */
    CTL_FREE,       /* there is no lease */
    CTL_UNREADABLE, /* a lease that no server writes: likewise */
    CTL_UNTOLD      /* see the session's error */
} ctl_ownership;

/*
 * Whose a document is. With OWNED and LEFT `*out` says it, else it is zeroed; `out->server.data` is
 * the caller's, and ends with a NUL.
 */
ctl_ownership ctl_find_owner(ctl_session *s, const char *document, ctl_lease *out);

#endif
