#include "seal.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <stdlib.h>
#include <string.h>

enum {
    KEY_LEN = 32,
    ID_LEN = 4,   /* tells the receiver which of its keys to try */
    MAC_LEN = 16, /* of HMAC-SHA-256's 32 */
    SENDER_LEN = 8,
    NUMBER_LEN = 8,
    SIGNATURE_LEN = ID_LEN + MAC_LEN,
    HEAD_LEN = 1 + SENDER_LEN + NUMBER_LEN, /* what comes before the count of signatures */
    SENDERS_MAX = 32768                     /* of a generation; there are two */
};

typedef struct {
    uint8_t key[KEY_LEN];
    uint8_t id[ID_LEN];
} seal_key;

/* The last number of each sender; linear probing, the sender being its own hash. */
typedef struct {
    uint64_t sender; /* 0: free */
    uint64_t number;
} seal_entry;

typedef struct {
    seal_entry *entries;
    size_t size, count; /* a power of two, or 0 */
} seal_table;

struct aff_seal {
    seal_key keys[AFF_SEAL_KEYS_MAX];
    size_t key_count;
    EVP_MAC_CTX *mac;
    uint8_t sender[SENDER_LEN];
    uint64_t number; /* of the last message that was sealed */
    /* Who is not heard of while `young` fills up is forgotten: memory is bounded. */
    seal_table young, old;
    uint8_t *out;
    size_t out_cap;
};

static void put_u64(uint8_t *to, uint64_t value) {
    for (int i = 0; i < 8; i++) to[i] = (uint8_t)(value >> (56 - 8 * i));
}

static uint64_t get_u64(const uint8_t *from) {
    uint64_t value = 0;
    for (int i = 0; i < 8; i++) value = value << 8 | from[i];
    return value;
}

/* ---- Keys ------------------------------------------------------------------------------------ */

/* HKDF-SHA-256: any secret becomes a key, and the key's name. */
static bool derive(aff_slice secret, seal_key *out) {
    static char digest[] = "SHA256", salt[] = "redis-affinity", info[] = "sealed batch 1";
    uint8_t bytes[KEY_LEN + ID_LEN];
    OSSL_PARAM params[] = {
        OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, (void *)secret.data, secret.len),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt, sizeof(salt) - 1),
        OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info, sizeof(info) - 1),
        OSSL_PARAM_construct_end(),
    };
    EVP_KDF *kdf = EVP_KDF_fetch(NULL, "HKDF", NULL);
    EVP_KDF_CTX *ctx = kdf ? EVP_KDF_CTX_new(kdf) : NULL;
    bool ok = ctx && EVP_KDF_derive(ctx, bytes, sizeof(bytes), params) > 0;
    EVP_KDF_CTX_free(ctx);
    EVP_KDF_free(kdf);
    memcpy(out->key, bytes, KEY_LEN);
    memcpy(out->id, bytes + KEY_LEN, ID_LEN);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    return ok;
}

static EVP_MAC_CTX *new_mac(void) {
    static char digest[] = "SHA256";
    OSSL_PARAM params[] = {OSSL_PARAM_construct_utf8_string(OSSL_MAC_PARAM_DIGEST, digest, 0),
                           OSSL_PARAM_construct_end()};
    EVP_MAC *hmac = EVP_MAC_fetch(NULL, "HMAC", NULL);
    EVP_MAC_CTX *ctx = hmac ? EVP_MAC_CTX_new(hmac) : NULL;
    EVP_MAC_free(hmac); /* the context keeps it */
    if (ctx && EVP_MAC_CTX_set_params(ctx, params) > 0) return ctx;
    EVP_MAC_CTX_free(ctx);
    return NULL;
}

/* Over the channel's length and name, the head and the data. */
static bool compute(aff_seal *seal, const seal_key *key, aff_slice channel, const uint8_t *head,
                    aff_slice data, uint8_t *out) {
    uint8_t channel_len[8], whole[32];
    size_t len;
    put_u64(channel_len, channel.len);
    /* With its key each time: without, some versions of OpenSSL 3.0 do not start anew. */
    bool ok = EVP_MAC_init(seal->mac, key->key, KEY_LEN, NULL) > 0 &&
              EVP_MAC_update(seal->mac, channel_len, sizeof(channel_len)) > 0 &&
              EVP_MAC_update(seal->mac, channel.data, channel.len) > 0 &&
              EVP_MAC_update(seal->mac, head, HEAD_LEN) > 0 &&
              EVP_MAC_update(seal->mac, data.data, data.len) > 0 &&
              EVP_MAC_final(seal->mac, whole, &len, sizeof(whole)) > 0 && len == sizeof(whole);
    if (ok) memcpy(out, whole, MAC_LEN);
    return ok;
}

/* A sender without keys; NULL: out of memory. */
static aff_seal *new_sender(size_t key_count) {
    aff_seal *seal = calloc(1, sizeof(*seal));
    if (!seal) return NULL;
    seal->key_count = key_count;
    seal->mac = new_mac();
    bool ok = seal->mac != NULL;
    while (ok && get_u64(seal->sender) == 0) ok = RAND_bytes(seal->sender, SENDER_LEN) == 1;
    if (ok) return seal;
    aff_seal_free(seal);
    return NULL;
}

int aff_seal_new(const aff_slice *secrets, size_t count, aff_seal **out) {
    if (count < 1 || count > AFF_SEAL_KEYS_MAX) return AFF_EINVAL;
    for (size_t i = 0; i < count; i++) {
        if (secrets[i].len < 1 || secrets[i].len > AFF_SECRET_MAX) return AFF_EINVAL;
    }
    aff_seal *seal = new_sender(count);
    bool ok = seal != NULL;
    for (size_t i = 0; ok && i < count; i++) ok = derive(secrets[i], &seal->keys[i]);
    if (!ok) {
        aff_seal_free(seal);
        return AFF_ENOMEM;
    }
    *out = seal;
    return 0;
}

int aff_seal_copy(const aff_seal *seal, aff_seal **out) {
    aff_seal *copy = new_sender(seal->key_count);
    if (!copy) return AFF_ENOMEM;
    memcpy(copy->keys, seal->keys, sizeof(copy->keys));
    *out = copy;
    return 0;
}

void aff_seal_free(aff_seal *seal) {
    if (!seal) return;
    EVP_MAC_CTX_free(seal->mac);
    free(seal->young.entries);
    free(seal->old.entries);
    free(seal->out);
    OPENSSL_cleanse(seal->keys, sizeof(seal->keys));
    free(seal);
}

/* ---- Sealing --------------------------------------------------------------------------------- */

static bool make_room(aff_seal *seal, size_t len) {
    if (len <= seal->out_cap && seal->out_cap <= 1 << 20) return true;
    if (len <= seal->out_cap && len > seal->out_cap / 4) return true;
    uint8_t *out = realloc(seal->out, len); /* a burst's memory is given back */
    if (!out) return false;
    seal->out = out;
    seal->out_cap = len;
    return true;
}

int aff_seal_put(aff_seal *seal, aff_slice channel, aff_slice data, aff_slice *out) {
    size_t head_len = HEAD_LEN + 1 + seal->key_count * SIGNATURE_LEN;
    if (!make_room(seal, head_len + data.len)) return AFF_ENOMEM;
    uint8_t *at = seal->out;
    *at++ = AFF_SEAL_FORM;
    memcpy(at, seal->sender, SENDER_LEN);
    put_u64(at + SENDER_LEN, ++seal->number);
    at += SENDER_LEN + NUMBER_LEN;
    *at++ = (uint8_t)seal->key_count;
    for (size_t i = 0; i < seal->key_count; i++, at += SIGNATURE_LEN) {
        memcpy(at, seal->keys[i].id, ID_LEN);
        if (!compute(seal, &seal->keys[i], channel, seal->out, data, at + ID_LEN))
            return AFF_ENOMEM;
    }
    if (data.len) memcpy(at, data.data, data.len);
    *out = (aff_slice){seal->out, head_len + data.len};
    return 0;
}

/* ---- Opening --------------------------------------------------------------------------------- */

/* The sender's entry, or the free one where it belongs; `size` is not 0. */
static seal_entry *look_up(const seal_table *table, uint64_t sender) {
    size_t at = (size_t)sender & (table->size - 1);
    while (table->entries[at].sender != 0 && table->entries[at].sender != sender) {
        at = (at + 1) & (table->size - 1);
    }
    return &table->entries[at];
}

static bool grow(seal_table *table) {
    seal_table bigger = {.size = table->size ? table->size * 2 : 64, .count = table->count};
    bigger.entries = calloc(bigger.size, sizeof(*bigger.entries));
    if (!bigger.entries) return false;
    for (size_t i = 0; i < table->size; i++) {
        seal_entry *entry = &table->entries[i];
        if (entry->sender != 0) *look_up(&bigger, entry->sender) = *entry;
    }
    free(table->entries);
    *table = bigger;
    return true;
}

/* The last number of a sender, to be changed; NULL: out of memory. */
static uint64_t *last_number(aff_seal *seal, uint64_t sender) {
    if (seal->young.count >= SENDERS_MAX) {
        free(seal->old.entries);
        seal->old = seal->young;
        seal->young = (seal_table){0};
    }
    if (2 * seal->young.count >= seal->young.size && !grow(&seal->young)) return NULL;
    seal_entry *entry = look_up(&seal->young, sender);
    if (entry->sender == 0) {
        uint64_t before = seal->old.size ? look_up(&seal->old, sender)->number : 0;
        *entry = (seal_entry){sender, before};
        seal->young.count++;
    }
    return &entry->number;
}

int aff_seal_open(aff_seal *seal, aff_slice channel, aff_slice sealed, aff_slice *data) {
    if (sealed.len < HEAD_LEN + 1 || sealed.data[0] != AFF_SEAL_FORM) return AFF_SEAL_FORGED;
    const uint8_t *at = sealed.data + HEAD_LEN;
    size_t count = *at++, head_len = HEAD_LEN + 1 + count * SIGNATURE_LEN;
    if (count < 1 || count > AFF_SEAL_KEYS_MAX || sealed.len < head_len) return AFF_SEAL_FORGED;
    aff_slice rest = {sealed.data + head_len, sealed.len - head_len};
    bool genuine = false;
    for (size_t s = 0; !genuine && s < count; s++, at += SIGNATURE_LEN) {
        for (size_t k = 0; !genuine && k < seal->key_count; k++) {
            uint8_t mac[MAC_LEN];
            if (memcmp(at, seal->keys[k].id, ID_LEN) != 0) continue; /* names are no secret */
            if (!compute(seal, &seal->keys[k], channel, sealed.data, rest, mac)) return AFF_ENOMEM;
            genuine = CRYPTO_memcmp(mac, at + ID_LEN, MAC_LEN) == 0;
        }
    }
    uint64_t sender = get_u64(sealed.data + 1), number = get_u64(sealed.data + 1 + SENDER_LEN);
    if (!genuine || sender == 0) return AFF_SEAL_FORGED;
    uint64_t *last = last_number(seal, sender);
    if (!last) return AFF_ENOMEM;
    if (number <= *last) return AFF_SEAL_REPLAYED;
    *last = number;
    *data = rest;
    return AFF_SEAL_GOOD;
}
