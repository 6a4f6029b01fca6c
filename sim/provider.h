/* provider.h - HocuspocusProvider: the client's side of one address, with one document. */
#ifndef SIM_PROVIDER_H
#define SIM_PROVIDER_H

#include "frames.h"

enum { CLIENTS_MAX = 64 };

typedef struct {
    char address[ADDRESS_MAX];   /* a session stands behind '/' */
    const char *token, *version; /* NULL: older than 3.3, does not answer a request for a token */
    bool hangs;                  /* nor does this one */
    bool authenticated;          /* and has therefore started to synchronise */
    bool synced;                 /* has got the owner's SyncStep2 */
    bool ended;                  /* it was told that the document is closed, or denied to it */
    bool overpaid;               /* more was acknowledged than it has changed: a broken invariant */
    uint64_t edits;
    uint64_t clock, cursor;                             /* its own; 0: none */
    uint64_t clocks[CLIENTS_MAX], cursors[CLIENTS_MAX]; /* everyone's, as far as it has heard */
    unsigned unsynced; /* its counter of changes that are not acknowledged */
    unsigned tokens;   /* how often it was asked for one */
} provider;

/* Where its frames go, and its number among the clients (below CLIENTS_MAX). */
typedef struct {
    void (*send)(void *to, aff_slice frame);
    void *to;
    uint32_t id;
} wire;

void provider_authenticates(wire out, const provider *p);
void provider_sends(wire out, const provider *p, uint8_t step, uint64_t edits);
void provider_types(wire out, provider *p, unsigned edit_number); /* below 64 */
void provider_points(wire out, provider *p, uint64_t cursor);     /* shows its cursor */
void provider_receives(wire out, provider *p, const aff__client_frame *frame);

#endif
