#include "alloc.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef struct {
    aff__list link;
    max_align_t data[];
} block;

static void *default_realloc(void *ctx, void *pointer, size_t size) {
    (void)ctx;
    if (size == 0) {
        free(pointer);
        return NULL;
    }
    return realloc(pointer, size);
}

void aff__heap_init(aff__heap *heap, const aff_allocator *vtable) {
    heap->vtable = vtable ? *vtable : (aff_allocator){default_realloc, NULL};
    heap->on_failure = NULL;
    aff__list_init(&heap->blocks);
}

void aff__heap_free_all(aff__heap *heap) {
    AFF_EACH(item, &heap->blocks) {
        heap->vtable.realloc_(heap->vtable.ctx, AFF_OF(item, block, link), 0);
    }
    aff__list_init(&heap->blocks);
}

static block *block_of(void *pointer) {
    return AFF_OF(pointer, block, data);
}

void *aff__grow(aff__heap *heap, void *pointer, size_t size) {
    block *old = pointer ? block_of(pointer) : NULL;
    if (old) aff__list_remove(&old->link);
    block *b = heap->vtable.realloc_(heap->vtable.ctx, old, sizeof(block) + size);
    if (!b) {
        if (old) aff__list_append(&heap->blocks, &old->link);
        AFF_ASSERT(heap->on_failure);
        longjmp(*heap->on_failure, 1);
    }
    aff__list_append(&heap->blocks, &b->link);
    return b->data;
}

void *aff__alloc(aff__heap *heap, size_t size) {
    return memset(aff__grow(heap, NULL, size), 0, size);
}

void aff__release(aff__heap *heap, void *pointer) {
    if (!pointer) return;
    block *b = block_of(pointer);
    aff__list_remove(&b->link);
    heap->vtable.realloc_(heap->vtable.ctx, b, 0);
}

void aff__assert_failed(const char *condition, const char *file, int line) {
    fprintf(stderr, "aff: invariant broken: %s (%s:%d)\n", condition, file, line);
    abort();
}
