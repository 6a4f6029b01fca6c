/*
 * frames.h - Hocuspocus's messages, made and read.
 *
 * A document is a set of at most 64 edits, an uint64_t. Sets of edits merge by union, as Yjs's do;
 * a state vector is the set itself.
 */
#ifndef SIM_FRAMES_H
#define SIM_FRAMES_H

#include "bytes.h"

enum { SYNC = 0, AWARENESS = 1, STATELESS = 5, STATUS = 8, STEP1 = 0, STEP2 = 1, UPDATE = 2 };
enum { ADDRESS_MAX = 64 };

/* An awareness update about one client: its cursor. */
typedef struct {
    uint64_t id, clock;
    aff_slice state;
} awareness;

/* All append to `out`. `address` is as in the frame, with NUL before a session. */
void make_frame(bytes *out, aff_slice address, uint64_t type, aff_slice body);
void make_auth(bytes *out, aff_slice address, uint8_t kind, const char *text);
void make_token(bytes *out, aff_slice address, const char *token, const char *version);
void make_sync(bytes *out, aff_slice address, uint8_t step, uint64_t edits);
void make_number(bytes *out, aff_slice address, uint64_t type, uint64_t number);
void make_awareness(bytes *out, aff_slice address, uint64_t id, uint64_t clock, const char *state);
void make_stateless(bytes *out, aff_slice address, aff_slice text);

/* `doc/session` in a text is `doc NUL session` in a frame. Valid until the second next call. */
aff_slice address_of(const char *text);

/* A sync frame whose content is a set of edits. */
bool is_edits(const aff__client_frame *frame);
uint64_t edits_in(const aff__client_frame *frame);
awareness awareness_in(const aff__client_frame *frame);
/* The text of a stateless frame. */
aff_slice stateless_in(const aff__client_frame *frame);

/* An address or payload as a word: NUL is '/', what is long is only measured. Valid for the next
 * three calls. */
const char *word(aff_slice text);
/* "doc:token", "doc:close", "doc:update:5", "doc:<text of a sync frame>". Valid until the next. */
const char *frame_word(aff_slice data);

#endif
