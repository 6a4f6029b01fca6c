/*
 * foreign.h - how commands to Redis and their answers are written into records: where Redis is
 * reached by way of the application, which has a client that can do what redis.c can't (Cluster,
 * Sentinel), and where the application asks Redis by way of the instance.
 *
 * Arguments of a command: for each one a u32 length and its bytes. Values of an answer: for each
 * one a u8 type (0 nil, 1 number, 2 string), and then nothing, an f64, or a u32 length and bytes.
 * All numbers are little-endian, as in queue.h.
 */
#ifndef AFF_FOREIGN_H
#define AFF_FOREIGN_H

#include "aff.h"

/*
 * Lays out the arguments of a command in memory of its own, which the caller frees with free().
 * Errors: AFF_ENOMEM, which leaves `*out` alone.
 */
int aff_foreign_put(int argc, const aff_slice *args, aff_slice *out);

/* Reads the arguments of a command, which point into `data`. Returns how many, or AFF_EPROTO: cut
 * short, or more than `max`. */
int aff_foreign_get_args(aff_slice data, aff_slice *out, int max);

/* Lays out the values of an answer, as aff_foreign_put() does the arguments of a command. */
int aff_foreign_put_values(size_t count, const aff_value *values, aff_slice *out);

/*
 * Reads the values of an answer, at most `max`; what is beyond is left out. The strings point into
 * `data`. Returns how many, or AFF_EPROTO.
 */
int aff_foreign_get(aff_slice data, aff_value *out, int max);

#endif
