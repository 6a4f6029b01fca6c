/* list.h - an intrusive doubly linked list with a head; a removed item points to itself. */
#ifndef AFF_LIST_H
#define AFF_LIST_H

#include <stdbool.h>
#include <stddef.h>

typedef struct aff__list {
    struct aff__list *next, *prev;
} aff__list;

/* The structure around the list item `pointer`. */
#define AFF_OF(pointer, type, member) ((type *)(void *)((char *)(pointer)-offsetof(type, member)))

/* Walks a list; the body may remove the item it is at, and no other. */
#define AFF_EACH(item, head)                                                                       \
    for (aff__list *item = (head)->next, *item##_next = item->next; item != (head);                \
         item = item##_next, item##_next = item->next)

static inline void aff__list_init(aff__list *head) {
    head->next = head->prev = head;
}

static inline bool aff__list_empty(const aff__list *head) {
    return head->next == head;
}

static inline void aff__list_append(aff__list *head, aff__list *item) {
    item->prev = head->prev;
    item->next = head;
    head->prev->next = item;
    head->prev = item;
}

static inline void aff__list_remove(aff__list *item) {
    item->prev->next = item->next;
    item->next->prev = item->prev;
    item->next = item->prev = item;
}

#endif
