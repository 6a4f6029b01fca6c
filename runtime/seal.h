/*
 * seal.h - signs what is published and checks what comes in, for servers with a shared secret.
 *
 * A sealed message says who has made it and how many it had made before, and carries a MAC for each
 * key of its sender. The MAC covers the channel too, so a message is good for one receiver, and of
 * one sender only those are taken that follow what was taken before: once, in their order.
 * docs/PROTOCOL.md has the format.
 *
 * A seal belongs to one thread.
 */
#ifndef AFF_SEAL_H
#define AFF_SEAL_H

#include "aff.h"

enum {
    AFF_SEAL_KEYS_MAX = 2,    /* the current and the former one */
    AFF_SECRET_MAX = 1 << 16, /* bytes */
    AFF_SEAL_FORM = 0x81      /* the first byte: no version of a batch */
};

typedef enum {
    AFF_SEAL_GOOD,
    AFF_SEAL_FORGED,  /* no MAC of a key of ours, or a wrong one */
    AFF_SEAL_REPLAYED /* had before, or made before one that was had */
} aff_seal_verdict;

typedef struct aff_seal aff_seal;

/*
 * `secrets[count]`: 1 to AFF_SEAL_KEYS_MAX, each of 1 to AFF_SECRET_MAX bytes; not kept. Errors:
 * AFF_EINVAL; AFF_ENOMEM, also where OpenSSL fails.
 */
int aff_seal_new(const aff_slice *secrets, size_t count, aff_seal **out);
/* Another sender with the same secrets: where messages take two ways, one would overtake the other
 * and make it look like a repetition. Freed by aff_seal_free(). Errors: AFF_ENOMEM. */
int aff_seal_copy(const aff_seal *seal, aff_seal **out);
void aff_seal_free(aff_seal *seal); /* NULL is fine; keys are wiped */

/*
 * Seals `data` for `channel`. `*out` is the seal's until the next call. Errors: AFF_ENOMEM, as
 * above.
 */
int aff_seal_put(aff_seal *seal, aff_slice channel, aff_slice data, aff_slice *out);

/*
 * Opens what came in on `channel`; GOOD sets `*data`, a part of `sealed`. Errors: AFF_ENOMEM, as
 * above; else an aff_seal_verdict.
 */
int aff_seal_open(aff_seal *seal, aff_slice channel, aff_slice sealed, aff_slice *data);

#endif
