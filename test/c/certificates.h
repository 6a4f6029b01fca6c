/*
 * certificates.h - keys and certificates, made anew by each test program: none lies in the
 * repository. A failure fails the running test.
 */
#ifndef CERTIFICATES_H
#define CERTIFICATES_H

#include <stdbool.h>

#include "aff.h"

typedef struct {
    void *key, *cert; /* EVP_PKEY, X509 */
    char *key_pem, *cert_pem;
} identity;

typedef struct {
    const char *common_name;
    const char *names; /* "DNS:a.test,IP:127.0.0.1", or NULL */
    bool is_ca, expired;
} identity_config;

/* `by` NULL: signs itself. Freed with identity_free. */
identity identity_new(const identity_config *config, const identity *by);
void identity_free(identity *id);

/* The key's PEM under a passphrase; freed with free. */
char *identity_locked_key(const identity *id, const char *passphrase);

aff_slice pem(const char *text); /* NULL: empty */

#endif
