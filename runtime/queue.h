/*
 * queue.h - the one way across threads: a bounded queue of records, many writers and one reader.
 *
 * A record is a header and three byte strings, laid out as below, all numbers little-endian (the
 * machines that Node runs on are). The reader takes everything at once, as one block of memory.
 *
 *   u32 length of the record, without these four bytes
 *   u8 kind | u8 flag | u16 code | u32 socket | i32 status | f64 request | f64 bytes |
 *   u32 length of document | u32 length of name | document | name | data
 */
#ifndef AFF_QUEUE_H
#define AFF_QUEUE_H

#include <uv.h>

#include "aff.h"

enum { AFF_RECORD_HEADER = 40, AFF_QUEUE_BURST = 64 };

typedef struct {
    uint8_t kind;
    bool flag;
    uint16_t code;
    uint32_t socket;
    int32_t status;
    uint64_t request, bytes; /* up to 2^53 */
    aff_slice document, name, data;
} aff_record;

typedef struct {
    uv_mutex_t mutex;
    uint8_t *data;
    size_t len, cap, max;
    unsigned count;  /* records in `data` */
    uint64_t credit; /* of what is in `data` */
} aff_queue;

/* What aff_queue_take() hands over; the reader frees `data` with free(). */
typedef struct {
    uint8_t *data;
    size_t len;
    uint64_t credit;
} aff_block;

/* `max`: bytes that may wait. Errors: AFF_ENOMEM. */
int aff_queue_init(aff_queue *queue, size_t max);
void aff_queue_free(aff_queue *queue);

/*
 * Appends a record; any thread. `credit` is added up for the reader, whom the writer wakes once it
 * has no more to write. Returns 1 with each AFF_QUEUE_BURST-th record: time to wake the reader, so
 * that both work at once; 0; AFF_EFULL or AFF_ENOMEM, which changed nothing.
 */
int aff_queue_push(aff_queue *queue, const aff_record *record, uint64_t credit);

/*
 * Appends whole records that the writer has laid out itself; any thread. They are taken as they
 * are. Returns 0; AFF_EFULL or AFF_ENOMEM, which changed nothing.
 */
int aff_queue_append(aff_queue *queue, const void *records, size_t len);

/* Bytes that wait; any thread. */
size_t aff_queue_len(aff_queue *queue);

/* Takes all that waits; the reader's thread. `data` is NULL where there is nothing. */
aff_block aff_queue_take(aff_queue *queue);

/* Reads the next record of a block from `*at`; false at its end. The slices point into it. */
bool aff_record_read(const aff_block *block, size_t *at, aff_record *out);

#endif
