#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include "resolver.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "alloc.h"

/* A name that is being looked up, by a thread. All but `host` and `family` is under the mutex. */
typedef struct lookup {
    struct lookup *next;
    uv_thread_t thread;
    char *host;
    int family;
    aff_question *questions;
    bool finished;
    int status;
    size_t count;
    struct sockaddr_storage addresses[AFF_RESOLVER_ADDRESSES_MAX];
} lookup;

struct aff_question {
    aff_question *next;
    lookup *lookup;
    uv_async_t answer; /* its loop's */
    uint16_t port;
    aff_answered answered;
    void *arg;
};

/* Of the whole process: a thread that hangs outlives the loop, and whoever has asked. Those that
 * have come back to nobody are joined by the next who ends or asks a question. */
static uv_once_t once = UV_ONCE_INIT;
static uv_mutex_t mutex;
static lookup *lookups;

static void init(void) {
    AFF_ASSERT(uv_mutex_init(&mutex) == 0);
}

/* ---- On the lookup's thread ------------------------------------------------------------------ */

static int to_uv_status(int error) {
    switch (error) {
        case 0: return 0;
        case EAI_AGAIN: return UV_EAI_AGAIN;
        case EAI_FAIL: return UV_EAI_FAIL;
        case EAI_MEMORY: return UV_ENOMEM;
        case EAI_SYSTEM: return uv_translate_sys_error(errno);
        default: return UV_EAI_NONAME;
    }
}

static size_t copy_addresses(const struct addrinfo *list, struct sockaddr_storage *to) {
    size_t count = 0;
    for (; list != NULL && count < AFF_RESOLVER_ADDRESSES_MAX; list = list->ai_next)
        if (list->ai_family == AF_INET || list->ai_family == AF_INET6)
            memcpy(&to[count++], list->ai_addr, list->ai_addrlen);
    return count;
}

static void look_up(void *arg) {
    lookup *l = arg;
    struct addrinfo hints = {.ai_family = l->family, .ai_socktype = SOCK_STREAM}, *list = NULL;
    int status = to_uv_status(getaddrinfo(l->host, NULL, &hints, &list));
    uv_mutex_lock(&mutex);
    l->count = status == 0 ? copy_addresses(list, l->addresses) : 0;
    l->status = status == 0 && l->count == 0 ? UV_EAI_NONAME : status;
    l->finished = true;
    for (aff_question *q = l->questions; q != NULL; q = q->next) (void)uv_async_send(&q->answer);
    uv_mutex_unlock(&mutex);
    if (status == 0) freeaddrinfo(list);
}

/* ---- On the loops' threads ------------------------------------------------------------------- */

/* Takes a lookup that has finished, and for which nobody waits, out of the list; with the mutex. */
static lookup *take_done(void) {
    for (lookup **at = &lookups; *at != NULL; at = &(*at)->next) {
        lookup *l = *at;
        if (!l->finished || l->questions != NULL) continue;
        *at = l->next;
        return l;
    }
    return NULL;
}

/* Their threads are at their last line, or past it. Unlocks the mutex. */
static void join_done(void) {
    lookup *done = NULL;
    for (lookup *l; (l = take_done()) != NULL; done = l) l->next = done;
    uv_mutex_unlock(&mutex);
    while (done != NULL) {
        lookup *l = done;
        done = l->next;
        AFF_ASSERT(uv_thread_join(&l->thread) == 0);
        free(l->host);
        free(l);
    }
}

static void on_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void end_question(aff_question *q) {
    uv_mutex_lock(&mutex);
    aff_question **at = &q->lookup->questions;
    while (*at != q) at = &(*at)->next;
    *at = q->next;
    join_done();
    uv_close((uv_handle_t *)&q->answer, on_closed);
}

static void on_answer(uv_async_t *handle) {
    aff_question *q = handle->data;
    const lookup *l = q->lookup;
    struct sockaddr_storage addresses[AFF_RESOLVER_ADDRESSES_MAX];
    uv_mutex_lock(&mutex);
    int status = l->status;
    size_t count = l->count;
    memcpy(addresses, l->addresses, count * sizeof *addresses);
    uv_mutex_unlock(&mutex);
    for (size_t i = 0; i < count; i++) {
        if (addresses[i].ss_family == AF_INET6)
            ((struct sockaddr_in6 *)&addresses[i])->sin6_port = htons(q->port);
        else
            ((struct sockaddr_in *)&addresses[i])->sin_port = htons(q->port);
    }
    end_question(q);
    q->answered(q->arg, status, addresses, count);
}

/* With the mutex. */
static lookup *find(const char *host, int family) {
    lookup *l = lookups;
    while (l != NULL && (l->finished || l->family != family || strcmp(l->host, host) != 0))
        l = l->next;
    return l;
}

/* A lookup that has begun; a status of libuv's if not. With the mutex. */
static int begin(const char *host, int family, lookup **out) {
    lookup *l = calloc(1, sizeof *l);
    int status = UV_ENOMEM;
    if (l != NULL && (l->host = strdup(host)) != NULL) {
        l->family = family;
        status = uv_thread_create(&l->thread, look_up, l);
    }
    if (status != 0) {
        if (l != NULL) free(l->host);
        free(l);
        return status;
    }
    l->next = lookups;
    lookups = l;
    *out = l;
    return 0;
}

int aff_ask(uv_loop_t *loop, const char *host, int family, uint16_t port, aff_answered answered,
            void *arg, aff_question **out) {
    uv_once(&once, init);
    aff_question *q = calloc(1, sizeof *q);
    if (q == NULL) return UV_ENOMEM;
    int status = uv_async_init(loop, &q->answer, on_answer);
    if (status != 0) {
        free(q);
        return status;
    }
    q->answer.data = q;
    q->port = port;
    q->answered = answered;
    q->arg = arg;
    uv_mutex_lock(&mutex);
    q->lookup = find(host, family);
    if (q->lookup == NULL) status = begin(host, family, &q->lookup);
    if (status == 0) {
        q->next = q->lookup->questions;
        q->lookup->questions = q;
    }
    join_done();
    if (status == 0)
        *out = q;
    else
        uv_close((uv_handle_t *)&q->answer, on_closed);
    return status;
}

void aff_question_forget(aff_question *q) {
    end_question(q);
}
