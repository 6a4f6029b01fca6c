/*
 * text.h - what people read: escaped, aligned.
 *
 * Names of documents and servers are bytes of users. None of them reaches a terminal as it is: what
 * could move the cursor, hide or turn text around is written as an escape.
 */
#ifndef CTL_TEXT_H
#define CTL_TEXT_H

#include <stdbool.h>
#include <stddef.h>

#include "aff.h"

/* Like malloc and realloc, for one run of a program: without memory it ends, with a word. */
void *ctl_alloc(size_t size);
void *ctl_realloc(void *memory, size_t size);

/* A text of printf; the caller's. */
__attribute__((format(printf, 1, 2))) char *ctl_format(const char *format, ...);

/* A static or NUL-terminated string as bytes. */
aff_slice ctl_slice(const char *text);

/* `bytes` on one line; the caller's. `\` itself is escaped, so that it can be read back. */
char *ctl_escape(aff_slice bytes);

/* A sentence for people on standard error, after the program's name; escaped as above. */
__attribute__((format(printf, 1, 2))) void ctl_complain(const char *format, ...);

/* Rows of cells, printed in aligned columns. */
typedef struct {
    size_t columns;
    unsigned right; /* bit n: column n is aligned on its right */
    char **cells;
    size_t count, cap; /* of cells */
} ctl_table;

/* One cell, row after row; `text` is taken (to be freed), and must be escaped already. */
void ctl_table_put(ctl_table *table, char *text);
void ctl_table_print(const ctl_table *table);
void ctl_table_free(ctl_table *table);

#endif
