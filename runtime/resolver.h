/*
 * resolver.h - the addresses of a host's name, from threads of our own.
 *
 * Not from libuv's pool: a few names that hang would take all of its threads, which are Node's too,
 * and nothing that hangs there can be given up. Here whoever does not want to wait any longer
 * forgets the question. Questions for a name that is being looked up wait for that: names that hang
 * take one thread each, however often they are asked for.
 *
 * Threads: every call and every callback on the thread of the loop. Errors: libuv's, negative.
 */
#ifndef AFF_RESOLVER_H
#define AFF_RESOLVER_H

#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#define AFF_RESOLVER_ADDRESSES_MAX 16 /* further ones are left out */

typedef struct aff_question aff_question;

/* `status` 0: 1 to AFF_RESOLVER_ADDRESSES_MAX addresses, valid during the call only; or why not. */
typedef void (*aff_answered)(void *arg, int status, const struct sockaddr_storage *addresses,
                             size_t count);

/*
 * Asks for the addresses of a name, with `port` in them: of `family` AF_INET or AF_INET6 alone, or
 * AF_UNSPEC. `answered` runs once, from the loop, and
 * ends the question. `loop` must live until libuv has given back what it has of it, `arg` until
 * then or aff_question_forget; `host` is copied. UV_ENOMEM, or what a thread could not be had for.
 */
int aff_ask(uv_loop_t *loop, const char *host, int family, uint16_t port, aff_answered answered,
            void *arg, aff_question **out);

/* Ends a question that is not answered yet, at once. */
void aff_question_forget(aff_question *q);

#endif
