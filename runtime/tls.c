#include "tls.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"

struct aff_tls {
    SSL_CTX *ctx;
    char *server_name; /* or NULL */
    bool is_server;
    unsigned refs;
};

struct aff__tls_conn {
    SSL *ssl;
    BIO *in, *out; /* the SSL's */
    bool over, refused;
    char reason[200];
};

/* What OpenSSL has just complained about: its first words, or that memory ran out, whatever came of
 * that. NULL: nothing that has a text. Takes it all: on a thread of Node's it must not be found. */
static const char *take_complaint(void) {
    const char *text = ERR_reason_error_string(ERR_peek_error());
    for (unsigned long error; (error = ERR_get_error()) != 0;)
        if (ERR_GET_REASON(error) == ERR_R_MALLOC_FAILURE) text = aff_error_text(AFF_ENOMEM);
    return text;
}

static bool is_about_memory(const char *text) {
    return text == aff_error_text(AFF_ENOMEM);
}

/* ---- Certificates and keys ------------------------------------------------------------------- */

typedef STACK_OF(X509) certificates;

/* Where aff_tls_new writes why it fails. */
typedef struct {
    char *text;
    size_t len;
} complaint;

/* Something is wrong with `what`; `why` NULL: as OpenSSL says. Returns the error. */
static int complain(complaint to, const char *what, const char *why) {
    const char *text = take_complaint();
    if (is_about_memory(text)) {
        snprintf(to.text, to.len, "%s", text);
        return AFF_ENOMEM;
    }
    if (why == NULL) why = text != NULL ? text : "not accepted";
    snprintf(to.text, to.len, "%s: %s", what, why);
    return AFF_EINVAL;
}

static void forget(certificates *all) {
    sk_X509_pop_free(all, X509_free);
}

/* Only the end of the text ends a PEM file well. */
static bool is_end_of_pem(void) {
    unsigned long error = ERR_peek_last_error();
    return ERR_GET_LIB(error) == ERR_LIB_PEM && ERR_GET_REASON(error) == PEM_R_NO_START_LINE;
}

/* All of `pem`, at least one. NULL: OpenSSL says why, or there is none. */
static certificates *read_certificates(aff_slice pem) {
    BIO *bio = BIO_new_mem_buf(pem.data, (int)pem.len);
    certificates *all = sk_X509_new_null();
    bool ok = bio != NULL && all != NULL;
    while (ok) {
        X509 *one = PEM_read_bio_X509_AUX(bio, NULL, NULL, NULL);
        if (one == NULL) break;
        ok = sk_X509_push(all, one) > 0;
        if (!ok) X509_free(one);
    }
    if (ok && sk_X509_num(all) > 0 && is_end_of_pem()) {
        ERR_clear_error();
    } else {
        if (ok && is_end_of_pem()) ERR_clear_error();
        forget(all);
        all = NULL;
    }
    BIO_free(bio);
    return all;
}

static int complain_of_pem(complaint to, const char *what) {
    return complain(to, what, ERR_peek_error() == 0 ? "no PEM certificate in it" : NULL);
}

static int use_ca(SSL_CTX *ctx, aff_slice pem, complaint to) {
    if (pem.len == 0)
        return SSL_CTX_set_default_verify_paths(ctx) == 1 ? 0 : complain(to, "ca", NULL);
    certificates *all = read_certificates(pem);
    if (all == NULL) return complain_of_pem(to, "ca");
    X509_STORE *store = SSL_CTX_get_cert_store(ctx);
    bool ok = true;
    for (int i = 0; ok && i < sk_X509_num(all); i++)
        ok = X509_STORE_add_cert(store, sk_X509_value(all, i)) == 1;
    forget(all);
    return ok ? 0 : complain(to, "ca", NULL);
}

typedef struct {
    aff_slice passphrase;
    bool asked;
} passphrase_request;

static int give_passphrase(char *to, int size, int writing, void *arg) {
    (void)writing;
    passphrase_request *request = arg;
    request->asked = true;
    if (request->passphrase.len == 0 || request->passphrase.len > (size_t)size) return -1;
    memcpy(to, request->passphrase.data, request->passphrase.len);
    return (int)request->passphrase.len;
}

static int read_key(const aff_tls_config *config, EVP_PKEY **out, complaint to) {
    BIO *bio = BIO_new_mem_buf(config->key.data, (int)config->key.len);
    if (bio == NULL) return complain(to, "key", NULL);
    passphrase_request request = {.passphrase = config->passphrase};
    EVP_PKEY *key = PEM_read_bio_PrivateKey(bio, NULL, give_passphrase, &request);
    BIO_free(bio);
    if (key != NULL) {
        ERR_clear_error();
        *out = key;
        return 0;
    }
    return complain(to, "key",
                    !request.asked                ? "no PEM private key in it"
                    : config->passphrase.len == 0 ? "it is encrypted, and there is no passphrase"
                                                  : "wrong passphrase");
}

static int use_identity(SSL_CTX *ctx, const aff_tls_config *config, complaint to) {
    certificates *chain = read_certificates(config->cert);
    if (chain == NULL) return complain_of_pem(to, "cert");
    EVP_PKEY *key = NULL;
    int status = read_key(config, &key, to);
    X509 *own = sk_X509_value(chain, 0);
    if (status == 0 && X509_check_private_key(own, key) != 1)
        status = complain(to, "key", "it is not the key of cert");
    if (status == 0 && SSL_CTX_use_certificate(ctx, own) != 1) status = complain(to, "cert", NULL);
    for (int i = 1; status == 0 && i < sk_X509_num(chain); i++)
        if (SSL_CTX_add1_chain_cert(ctx, sk_X509_value(chain, i)) != 1)
            status = complain(to, "cert", NULL);
    if (status == 0 && SSL_CTX_use_PrivateKey(ctx, key) != 1) status = complain(to, "key", NULL);
    EVP_PKEY_free(key);
    forget(chain);
    return status;
}

/* ---- Contexts -------------------------------------------------------------------------------- */

/* What is wrong with it at first sight, or NULL. */
static const char *find_fault(const aff_tls_config *config, bool is_server) {
    if (config->ca.len > AFF_TLS_PEM_MAX || config->cert.len > AFF_TLS_PEM_MAX ||
        config->key.len > AFF_TLS_PEM_MAX)
        return "ca, cert or key is too long";
    if (config->passphrase.len > AFF_TLS_PASSPHRASE_MAX) return "passphrase is too long";
    if (config->server_name != NULL && strlen(config->server_name) > AFF_TLS_NAME_MAX)
        return "the server's name is too long";
    if (config->cert.len > 0 && config->key.len == 0) return "cert needs key";
    if (config->cert.len == 0 && config->key.len > 0) return "key needs cert";
    if (is_server && config->cert.len == 0) return "a server needs cert and key";
    /* Else whoever has a certificate for any name in the world would be let in. */
    if (is_server && config->request_cert && config->ca.len == 0)
        return "who asks clients for a certificate needs ca";
    return NULL;
}

static int configure(SSL_CTX *ctx, const aff_tls_config *config, bool is_server, complaint to) {
    if (SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION) != 1) return complain(to, "TLS", NULL);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_TICKET);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    /* Connections last: tickets for the next are not worth the bytes. */
    if (SSL_CTX_set_num_tickets(ctx, 0) != 1) return complain(to, "TLS", NULL);
    bool verifies = config->reject_unauthorized && (!is_server || config->request_cert);
    int mode = verifies ? SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT : SSL_VERIFY_NONE;
    SSL_CTX_set_verify(ctx, mode, NULL);
    int status = verifies || config->ca.len > 0 ? use_ca(ctx, config->ca, to) : 0;
    if (status == 0 && config->cert.len > 0) status = use_identity(ctx, config, to);
    return status;
}

int aff_tls_new(const aff_tls_config *config, bool is_server, aff_tls **out, char *error,
                size_t error_len) {
    complaint to = {error, error_len};
    const char *fault = find_fault(config, is_server);
    if (fault != NULL) {
        snprintf(error, error_len, "%s", fault);
        return AFF_EINVAL;
    }
    ERR_clear_error();
    aff_tls *tls = calloc(1, sizeof *tls);
    bool named = config->server_name != NULL && config->server_name[0] != '\0';
    if (tls != NULL) {
        tls->refs = 1;
        tls->is_server = is_server;
        tls->server_name = named ? strdup(config->server_name) : NULL;
        tls->ctx = SSL_CTX_new(TLS_method());
    }
    int status = AFF_ENOMEM;
    if (tls == NULL || tls->ctx == NULL || (named && tls->server_name == NULL)) {
        ERR_clear_error();
        snprintf(error, error_len, "%s", aff_error_text(AFF_ENOMEM));
    } else {
        status = configure(tls->ctx, config, is_server, to);
    }
    if (status == 0)
        *out = tls;
    else
        aff_tls_free(tls);
    return status;
}

void aff_tls_free(aff_tls *tls) {
    if (tls == NULL || --tls->refs > 0) return;
    SSL_CTX_free(tls->ctx);
    free(tls->server_name);
    free(tls);
}

bool aff__tls_is_server(const aff_tls *tls) {
    return tls->is_server;
}

aff_tls *aff__tls_keep(aff_tls *tls) {
    if (tls != NULL) tls->refs++;
    return tls;
}

/* ---- Connections ----------------------------------------------------------------------------- */

/* Whom a client wants to speak to. An address is looked for among the certificate's addresses, and
 * is no name to send. */
static bool expect_name(SSL *ssl, const char *name) {
    if (X509_VERIFY_PARAM_set1_ip_asc(SSL_get0_param(ssl), name) == 1) return true;
    SSL_set_hostflags(ssl, X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
    return SSL_set1_host(ssl, name) == 1 && SSL_set_tlsext_host_name(ssl, name) == 1;
}

static bool connect_bios(aff__tls_conn *c) {
    c->in = BIO_new(BIO_s_mem());
    c->out = BIO_new(BIO_s_mem());
    if (c->in == NULL || c->out == NULL) {
        BIO_free(c->in);
        BIO_free(c->out);
        return false;
    }
    SSL_set_bio(c->ssl, c->in, c->out);
    return true;
}

aff__tls_conn *aff__tls_conn_new(aff_tls *tls, const char *host) {
    ERR_clear_error();
    aff__tls_conn *c = calloc(1, sizeof *c);
    if (c == NULL) return NULL;
    c->ssl = SSL_new(tls->ctx);
    bool ok = c->ssl != NULL && connect_bios(c);
    if (ok && tls->is_server) {
        SSL_set_accept_state(c->ssl);
    } else if (ok) {
        SSL_set_connect_state(c->ssl);
        ok = expect_name(c->ssl, tls->server_name != NULL ? tls->server_name : host);
    }
    ERR_clear_error();
    if (ok) return c;
    aff__tls_conn_free(c);
    return NULL;
}

void aff__tls_conn_free(aff__tls_conn *c) {
    if (c == NULL) return;
    SSL_free(c->ssl);
    free(c);
}

/* It is over for good, for what OpenSSL or the verification of the certificate says. */
static void end(aff__tls_conn *c) {
    c->over = true;
    long verified = SSL_get_verify_result(c->ssl);
    bool refused = SSL_get_verify_mode(c->ssl) != SSL_VERIFY_NONE && verified != X509_V_OK;
    const char *text = take_complaint();
    if (is_about_memory(text) || verified == X509_V_ERR_OUT_OF_MEM) {
        snprintf(c->reason, sizeof c->reason, "%s", aff_error_text(AFF_ENOMEM));
        return;
    }
    c->refused = true;
    if (refused) text = X509_verify_cert_error_string(verified);
    snprintf(c->reason, sizeof c->reason, "TLS: %s", text != NULL ? text : "broken");
}

/* What a call that returned `result` has come to: 0: it needs more bytes; -1: it is over. */
static int judge(aff__tls_conn *c, int result) {
    int error = SSL_get_error(c->ssl, result);
    if (error == SSL_ERROR_WANT_READ) return 0;
    if (error == SSL_ERROR_ZERO_RETURN)
        snprintf(c->reason, sizeof c->reason, "the other side has closed the connection");
    else
        end(c);
    return -1;
}

bool aff__tls_feed(aff__tls_conn *c, const char *bytes, size_t len) {
    if (c->over) return false;
    ERR_clear_error();
    if (BIO_write(c->in, bytes, (int)len) == (int)len) return true;
    end(c);
    return false;
}

int aff__tls_handshake(aff__tls_conn *c) {
    if (c->over) return -1;
    ERR_clear_error();
    int result = SSL_do_handshake(c->ssl);
    return result == 1 ? 1 : judge(c, result);
}

ssize_t aff__tls_read(aff__tls_conn *c, char *to, size_t max) {
    if (c->over) return -1;
    ERR_clear_error();
    int n = SSL_read(c->ssl, to, max < INT_MAX ? (int)max : INT_MAX);
    return n > 0 ? n : judge(c, n);
}

bool aff__tls_write(aff__tls_conn *c, const char *bytes, size_t len) {
    if (c->over) return false;
    ERR_clear_error();
    /* A memory BIO takes it all, and without renegotiation writing waits for nothing. */
    if (SSL_write(c->ssl, bytes, (int)len) == (int)len) return true;
    end(c);
    return false;
}

void aff__tls_goodbye(aff__tls_conn *c) {
    if (!c->over && SSL_is_init_finished(c->ssl)) (void)SSL_shutdown(c->ssl);
    ERR_clear_error();
}

size_t aff__tls_due(const aff__tls_conn *c) {
    return BIO_ctrl_pending(c->out);
}

size_t aff__tls_take(aff__tls_conn *c, char *to, size_t max) {
    int n = BIO_read(c->out, to, max < INT_MAX ? (int)max : INT_MAX);
    return n > 0 ? (size_t)n : 0;
}

const char *aff__tls_reason(const aff__tls_conn *c) {
    return c->reason;
}

bool aff__tls_is_refused(const aff__tls_conn *c) {
    return c->refused;
}
