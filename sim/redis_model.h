/*
 * redis_model.h - what Redis keeps: strings that expire, and what core/scripts.c does with them.
 *
 * Connections, subscriptions and time are the caller's.
 */
#ifndef SIM_REDIS_MODEL_H
#define SIM_REDIS_MODEL_H

#include "bytes.h"

typedef struct entry {
    struct entry *next;
    bytes key, value;
    uint64_t expires_at; /* in the history: the epoch */
} entry;

typedef struct {
    entry *entries;
    entry *history;     /* I4: the highest epoch so far, by lease key */
    bool epochs_shrank; /* I4 is broken */
    unsigned claims;    /* how often the claim script ran */
} redis_data;

/* An answer; its strings are valid until the next call. */
typedef struct {
    aff_value values[2];
    size_t count;
    bool granted; /* the claim script says that the lease is the caller's */
} redis_answer;

/* What `script` answers; `now_ms` is the clock of expiry, `clock_us` that of TIME. */
redis_answer redis_run_script(redis_data *r, uint64_t now_ms, uint64_t clock_us, aff_script script,
                              int argc, const aff_slice *argv);
/* NULL where there is none, or it has expired. */
entry *redis_find(redis_data *r, uint64_t now_ms, aff_slice key);
void redis_put(redis_data *r, uint64_t now_ms, aff_slice key, aff_slice value, uint64_t ttl);
void redis_remove(redis_data *r, aff_slice key);
void redis_clear(redis_data *r);
/* `to` gets a copy of the entries of `from` instead of its own; the history stays. */
void redis_copy(redis_data *to, const redis_data *from);
void redis_forget_epochs(redis_data *r);
void redis_free(redis_data *r);
/* Reads a lease's record as the claim script does; 0: it can't be read. */
uint64_t redis_epoch(const entry *e, const uint8_t **boot);

static inline aff_value integer(int64_t value) {
    return (aff_value){.type = AFF_VALUE_INT, .integer = value};
}

static inline aff_value string(aff_slice value) {
    return (aff_value){.type = AFF_VALUE_STRING, .string = value};
}

#endif
