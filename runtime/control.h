/*
 * control.h - the outer form of questions, and of their answers, between servers and operators'
 * tools: a mark, where the sender listens, and a body that is the application's
 * (docs/PROTOCOL.md, Questions). They come on the channels that batches come on.
 */
#ifndef AFF_CONTROL_H
#define AFF_CONTROL_H

#include "aff.h"

enum { AFF_CONTROL_CHANNEL_MAX = 0xffff }; /* bytes: the length is a u16 */

/*
 * A message; the caller's, `data` is to be freed. `channel`: where its sender listens. NULL as
 * `data`: there is no memory, or the channel's name is longer than AFF_CONTROL_CHANNEL_MAX.
 */
aff_slice aff_control_write(aff_slice channel, aff_slice body);

/* The parts of a message. False, with nothing changed: it is something else, such as a batch. */
bool aff_control_read(aff_slice message, aff_slice *channel, aff_slice *body);

#endif
