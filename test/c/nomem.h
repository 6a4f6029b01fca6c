/*
 * nomem.h - any test of the core, run again while its n-th allocation fails.
 *
 * With AFF_FAIL_AT=n in the environment the engines of a test share an allocator whose n-th
 * allocation fails. The engine that made it must say AFF_ENOMEM then and for ever, and must not be
 * a member; all engines of the test must give all their memory back, whatever they were doing. The
 * test ends there, as skipped. A test that does not come to its n-th allocation runs to its end.
 */
#ifndef NOMEM_H
#define NOMEM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "aff.h"

typedef struct {
    size_t made, fail_at, live;
    bool paused; /* a test that reaches into an engine by itself wants no failure there */
} nomem_state;

static nomem_state nomem;

static inline void *nomem_realloc(void *ctx, void *pointer, size_t size) {
    nomem_state *m = ctx;
    if (size == 0) {
        m->live -= pointer != NULL;
        free(pointer);
        return NULL;
    }
    if (!m->paused && ++m->made == m->fail_at) return NULL;
    void *fresh = realloc(pointer, size);
    assert_non_null(fresh);
    m->live += pointer == NULL;
    return fresh;
}

/* For a new cluster; NULL where nothing shall fail. */
static inline const aff_allocator *nomem_allocator(void) {
    static const aff_allocator allocator = {nomem_realloc, &nomem};
    const char *fail_at = getenv("AFF_FAIL_AT");
    if (!fail_at) return NULL;
    nomem = (nomem_state){.fail_at = (size_t)atoll(fail_at)};
    return &allocator;
}

/* Has this step or aff_new() met the allocation that failed? */
static inline bool nomem_is_met(int status) {
    return status == AFF_ENOMEM && nomem.fail_at && nomem.made >= nomem.fail_at;
}

#endif
