/*
 * tls.h - TLS of OpenSSL over bytes that somebody else carries (stream.c does).
 *
 * An aff_tls says who we are and whom we believe: certificates, a key, a name. It does not change,
 * and serves any number of connections, all of one thread. It may be made on another thread, before
 * the first of them.
 *
 * TLS 1.2 and 1.3, without renegotiation and resumption.
 *
 * Errors: a negative AFF_E... of aff.h. A call that fails has changed nothing. Where OpenSSL has no
 * memory, it sometimes gives another reason.
 */
#ifndef AFF_TLS_H
#define AFF_TLS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "aff.h"

enum {
    AFF_TLS_PEM_MAX = 16 << 20, /* bytes of each of ca, cert and key */
    AFF_TLS_PASSPHRASE_MAX = 1023,
    AFF_TLS_NAME_MAX = 255
};

typedef struct aff_tls aff_tls;

/* Nothing of it is kept. */
typedef struct {
    aff_slice ca;   /* PEM: whose certificates are believed; empty: the system's default places */
    aff_slice cert; /* PEM: ours, then what leads from it to the ca, if anything; or empty */
    aff_slice key;  /* PEM: of `cert`; both or none, a server has both */
    aff_slice passphrase;    /* of `key`, or empty */
    const char *server_name; /* client: SNI, and the name (or address) that the server's certificate
                                must be for; NULL or "": the host that was dialled */
    bool reject_unauthorized; /* false: takes whatever the other side shows, and asks nobody */
    bool request_cert; /* server: clients must show a certificate of `ca`, which can't be empty then
                        */
} aff_tls_config;

/*
 * Freed by aff_tls_free. Errors: AFF_EINVAL, with a reason for people in error[error_len] (no valid
 * PEM, a key that is not the certificate's, a wrong passphrase, ...); AFF_ENOMEM, there too.
 */
int aff_tls_new(const aff_tls_config *config, bool is_server, aff_tls **out, char *error,
                size_t error_len);

/* The owner's part: streams and listeners keep it for as long as they need it. NULL is fine. */
void aff_tls_free(aff_tls *tls);

/* --- for stream.c ---------------------------------------------------------------------------- */

bool aff__tls_is_server(const aff_tls *tls);
aff_tls *aff__tls_keep(aff_tls *tls); /* one more aff_tls_free; NULL is fine */

/* One end of one connection. Bytes of the socket go in with _feed and come out with _take. */
typedef struct aff__tls_conn aff__tls_conn;

/* `host`: what a client has dialled. NULL: no memory. It does not keep `tls`. */
aff__tls_conn *aff__tls_conn_new(aff_tls *tls, const char *host);
void aff__tls_conn_free(aff__tls_conn *c); /* NULL is fine */

/* What the socket has brought; false: it is over. At most INT_MAX bytes. */
bool aff__tls_feed(aff__tls_conn *c, const char *bytes, size_t len);

/* Goes on with the handshake: 1: done; 0: the other side has to say more; -1: it is over. */
int aff__tls_handshake(aff__tls_conn *c);

/* After the handshake. Takes what was said: its length; 0: nothing yet; -1: it is over. */
ssize_t aff__tls_read(aff__tls_conn *c, char *to, size_t max);

/* After the handshake. Says `bytes`, at least 1 and at most INT_MAX; false: it is over. */
bool aff__tls_write(aff__tls_conn *c, const char *bytes, size_t len);

/* Says goodbye, if it is not over and was ever up. */
void aff__tls_goodbye(aff__tls_conn *c);

/* How many bytes there are for the socket: what all of the above have left, alerts included. */
size_t aff__tls_due(const aff__tls_conn *c);

/* Takes up to `max` of them; returns how many. */
size_t aff__tls_take(aff__tls_conn *c, char *to, size_t max);

/* Why it is over, for people; the connection's. */
const char *aff__tls_reason(const aff__tls_conn *c);

/* Whether it is over because the two don't agree, rather than for lack of memory. */
bool aff__tls_is_refused(const aff__tls_conn *c);

#endif
