/*
 * nomem.h - any test of the core, while an allocation fails.
 *
 * With AFF_FAIL_AT=each in the environment, every allocation of a test's engines is one at which
 * the process forks: in the child it fails. The engine that made it must say AFF_ENOMEM then and
 * for ever, and must not be a member; all engines of the test must give all their memory back,
 * whatever they were doing. The child ends there; the test goes on to its next allocation, and to
 * its end. Beyond 5,000 it is every hundredth part more: some tests make 100,000s. AFF_FAIL_AT=some
 * takes very few, others in every test. AFF_FAIL_AT=n repeats one, without a fork.
 */
#ifndef NOMEM_H
#define NOMEM_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "aff.h"

typedef struct {
    size_t made, live;
    size_t fail_at; /* this one fails; 0: none does */
    size_t fork_at; /* a child is made for this one; 0: for none */
    bool is_some, is_child;
    bool paused; /* a test that reaches into an engine by itself wants no failure there */
} nomem_state;

static nomem_state nomem;
static size_t nomem_children; /* of the whole program */

static inline void nomem_tell(void) {
    if (!nomem.is_child) printf("%zu allocations have failed\n", nomem_children);
}

static inline size_t nomem_next(const nomem_state *m) {
    if (m->is_some) return 4 * m->made;
    return m->made < 5000 ? m->made + 1 : m->made + m->made / 100;
}

/* In the child: true. */
static inline bool nomem_fork(nomem_state *m) {
    fflush(NULL);
    pid_t pid = fork();
    assert_int_not_equal(pid, -1);
    if (pid == 0) {
        m->is_child = true;
        m->fork_at = 0;
        m->fail_at = m->made;
        return true;
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    nomem_children++;
    m->fork_at = nomem_next(m);
    if (status != 0) fail_msg("AFF_FAIL_AT=%zu shows it (status %d)", m->made, status);
    return false;
}

static inline bool nomem_fails(nomem_state *m) {
    if (m->paused) return false;
    m->made++;
    return m->made == m->fail_at || (m->made == m->fork_at && nomem_fork(m));
}

static inline void *nomem_realloc(void *ctx, void *pointer, size_t size) {
    nomem_state *m = ctx;
    if (size == 0) {
        m->live -= pointer != NULL;
        free(pointer);
        return NULL;
    }
    if (nomem_fails(m)) return NULL;
    void *fresh = realloc(pointer, size);
    assert_non_null(fresh);
    m->live += pointer == NULL;
    return fresh;
}

/* For a new cluster; NULL where nothing shall fail. */
static inline const aff_allocator *nomem_allocator(void) {
    static const aff_allocator allocator = {nomem_realloc, &nomem};
    static size_t clusters;
    const char *fail_at = getenv("AFF_FAIL_AT");
    if (!fail_at) return NULL;
    if (nomem.is_child) _exit(1); /* its own test has failed, and this is the next one */
    nomem = (nomem_state){.is_some = strcmp(fail_at, "some") == 0};
    if (nomem.is_some || strcmp(fail_at, "each") == 0) {
        bool is_one_of_many = clusters > 50 && clusters % 8 != 0; /* of a test that loops */
        nomem.fork_at = !nomem.is_some ? 1 : is_one_of_many ? 0 : 1 + clusters % 7;
        if (clusters == 0) assert_int_equal(atexit(nomem_tell), 0);
    } else {
        nomem.fail_at = (size_t)atoll(fail_at);
    }
    clusters++;
    return &allocator;
}

/* Has this step or aff_new() met the allocation that failed? */
static inline bool nomem_is_met(int status) {
    return status == AFF_ENOMEM && nomem.fail_at && nomem.made >= nomem.fail_at;
}

/* All has been looked at: so the test ends. */
static inline void nomem_end(void) {
    assert_int_equal(nomem.live, 0);
    if (nomem.is_child) _exit(0);
    skip();
}

#endif
