#include "certificates.h"

#include <openssl/ec.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void add_extension(X509 *cert, X509 *issuer, int nid, const char *value) {
    X509V3_CTX ctx;
    X509V3_set_ctx_nodb(&ctx);
    X509V3_set_ctx(&ctx, issuer, cert, NULL, NULL, 0);
    X509_EXTENSION *extension = X509V3_EXT_conf_nid(NULL, &ctx, nid, value);
    assert_non_null(extension);
    assert_int_equal(X509_add_ext(cert, extension, -1), 1);
    X509_EXTENSION_free(extension);
}

/* What has been written to `bio`, which it frees. */
static char *take_text(BIO *bio) {
    char *bytes;
    size_t len = (size_t)BIO_get_mem_data(bio, &bytes);
    char *text = malloc(len + 1);
    assert_non_null(text);
    memcpy(text, bytes, len);
    text[len] = '\0';
    BIO_free(bio);
    return text;
}

char *identity_locked_key(const identity *id, const char *passphrase) {
    BIO *bio = BIO_new(BIO_s_mem());
    assert_int_equal(PEM_write_bio_PrivateKey(bio, id->key, passphrase ? EVP_aes_128_cbc() : NULL,
                                              NULL, 0, NULL, (void *)passphrase),
                     1);
    return take_text(bio);
}

static void date(X509 *cert, bool expired) {
    assert_non_null(X509_gmtime_adj(X509_getm_notBefore(cert), -7200));
    assert_non_null(X509_gmtime_adj(X509_getm_notAfter(cert), expired ? -3600 : 3600));
}

identity identity_new(const identity_config *config, const identity *by) {
    identity id = {.key = EVP_EC_gen("P-256"), .cert = X509_new()};
    assert_non_null(id.key);
    assert_non_null(id.cert);
    X509 *cert = id.cert, *issuer = by ? by->cert : cert;
    uint32_t serial;
    assert_int_equal(RAND_bytes((unsigned char *)&serial, sizeof serial), 1);
    assert_int_equal(X509_set_version(cert, X509_VERSION_3), 1);
    assert_int_equal(ASN1_INTEGER_set_uint64(X509_get_serialNumber(cert), serial), 1);
    assert_int_equal(X509_set_pubkey(cert, id.key), 1);
    assert_int_equal(X509_NAME_add_entry_by_txt(X509_get_subject_name(cert), "CN", MBSTRING_ASC,
                                                (const unsigned char *)config->common_name, -1, -1,
                                                0),
                     1);
    assert_int_equal(X509_set_issuer_name(cert, X509_get_subject_name(issuer)), 1);
    date(cert, config->expired);
    add_extension(cert, issuer, NID_basic_constraints,
                  config->is_ca ? "critical,CA:TRUE" : "CA:FALSE");
    if (config->names) add_extension(cert, issuer, NID_subject_alt_name, config->names);
    assert_true(X509_sign(cert, by ? by->key : id.key, EVP_sha256()) > 0);
    BIO *bio = BIO_new(BIO_s_mem());
    assert_int_equal(PEM_write_bio_X509(bio, cert), 1);
    id.cert_pem = take_text(bio);
    id.key_pem = identity_locked_key(&id, NULL);
    return id;
}

void identity_free(identity *id) {
    EVP_PKEY_free(id->key);
    X509_free(id->cert);
    free(id->key_pem);
    free(id->cert_pem);
    *id = (identity){0};
}

aff_slice pem(const char *text) {
    return text ? (aff_slice){(const uint8_t *)text, strlen(text)} : (aff_slice){NULL, 0};
}
