/*
 * alloc.h - the engine's memory.
 *
 * Every block is on a list, and a failed allocation leaves the running step by longjmp: no function
 * of the engine has an error path for memory, and aff_free() frees all blocks of a failed engine,
 * whatever it was doing. (Failing as a whole is the honest answer of a server that cannot
 * remember what it owns: its membership lapses, and the cluster takes over.)
 */
#ifndef AFF_ALLOC_H
#define AFF_ALLOC_H

#include <setjmp.h>

#include "aff.h"
#include "list.h"

typedef struct {
    aff_allocator vtable;
    aff__list blocks;
    jmp_buf *on_failure; /* set while a step runs */
} aff__heap;

void aff__heap_init(aff__heap *heap, const aff_allocator *vtable);
void aff__heap_free_all(aff__heap *heap);

/* Never return NULL: see above. `aff__alloc` returns zeroed memory. */
void *aff__alloc(aff__heap *heap, size_t size);
void *aff__grow(aff__heap *heap, void *pointer, size_t size);
void aff__release(aff__heap *heap, void *pointer);

/* Own assertion, on in release builds too: a broken invariant never goes on. */
#define AFF_ASSERT(condition)                                                                      \
    do {                                                                                           \
        if (!(condition)) aff__assert_failed(#condition, __FILE__, __LINE__);                      \
    } while (0)

_Noreturn void aff__assert_failed(const char *condition, const char *file, int line);

#endif
