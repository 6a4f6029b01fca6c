/*
 * document.h - a document in Hocuspocus's memory, with the connections to it: what a client's
 * frames do to it, and who is told. Authentication, loading and storing are the caller's.
 */
#ifndef SIM_DOCUMENT_H
#define SIM_DOCUMENT_H

#include "provider.h"

/* A connection to one document; the caller fills it in. */
typedef struct connection {
    struct connection *next;
    struct document *document;
    bool is_proxy, readonly;
    uint32_t id;               /* the proxy socket, or the client's socket */
    char address[ADDRESS_MAX]; /* a session stands behind '/' */
    uint64_t speaks_for;       /* awareness: clients whose cursors came from here */
} connection;

typedef struct document {
    uint64_t edits;
    unsigned changes; /* how often `edits` has grown */
    connection *connections;
    uint64_t clocks[CLIENTS_MAX], cursors[CLIENTS_MAX];
} document;

/* How a frame gets to the client of a connection. */
typedef struct {
    void (*say)(void *at, connection *to, aff_slice frame);
    void *at;
} mouth;

void document_attach(document *d, connection *con, mouth out); /* tells it all cursors */
/* Also declares gone whoever has shown a cursor through it. */
void document_detach(document *d, connection *con, mouth out);
/* A sync or awareness frame from a client. */
void document_receive(document *d, connection *con, const aff__client_frame *frame, mouth out);
/* Edits from elsewhere, told to all connections. */
void document_merge(document *d, uint64_t edits, mouth out);
/* A frame without its address, for all connections but `except`. */
void document_broadcast(document *d, const connection *except, aff_slice body, mouth out);

#endif
