#include "text.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

void *ctl_realloc(void *memory, size_t size) {
    void *more = realloc(memory, size > 0 ? size : 1);
    if (more == NULL) {
        (void)fputs("affinityctl: out of memory\n", stderr);
        exit(1);
    }
    return more;
}

void *ctl_alloc(size_t size) {
    return ctl_realloc(NULL, size);
}

static char *format_list(const char *format, va_list args) {
    va_list again;
    va_copy(again, args);
    int len = vsnprintf(NULL, 0, format, again);
    va_end(again);
    char *text = ctl_alloc((size_t)len + 1);
    (void)vsnprintf(text, (size_t)len + 1, format, args);
    return text;
}

char *ctl_format(const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = format_list(format, args);
    va_end(args);
    return text;
}

aff_slice ctl_slice(const char *text) {
    return (aff_slice){(const uint8_t *)text, strlen(text)};
}

/* ---- Escapes --------------------------------------------------------------------------------- */

/* The code point at the start of `bytes`, and its length; 0: these are no UTF-8. */
static size_t decode(aff_slice bytes, uint32_t *out) {
    static const uint32_t lowest[] = {0, 0, 0x80, 0x800, 0x10000};
    uint8_t first = bytes.data[0];
    size_t len = first < 0x80             ? 1
                 : (first & 0xe0) == 0xc0 ? 2
                 : (first & 0xf0) == 0xe0 ? 3
                 : (first & 0xf8) == 0xf0 ? 4
                                          : 0;
    if (len == 0 || len > bytes.len) return 0;
    uint32_t code = len == 1 ? first : first & (0xffu >> (len + 1));
    for (size_t i = 1; i < len; i++) {
        if ((bytes.data[i] & 0xc0) != 0x80) return 0;
        code = code << 6 | (bytes.data[i] & 0x3fu);
    }
    if (code < lowest[len] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return 0;
    *out = code;
    return len;
}

/* Controls, and what Unicode has to hide text or to turn its direction. */
static bool is_hidden(uint32_t code) {
    static const uint32_t ranges[][2] = {
        {0, 0x1f},        {0x7f, 0x9f},     {0xad, 0xad},     {0x61c, 0x61c},   {0x200b, 0x200f},
        {0x2028, 0x202e}, {0x2060, 0x206f}, {0xfeff, 0xfeff}, {0xfff9, 0xfffb}, {0xe0000, 0xe0fff}};
    for (size_t i = 0; i < sizeof(ranges) / sizeof(*ranges); i++) {
        if (code >= ranges[i][0] && code <= ranges[i][1]) return true;
    }
    return false;
}

static char *escape(aff_slice bytes, bool backslash) {
    enum { LONGEST = 10 }; /* of what stands for one byte or code point: \U0010ffff */
    char *text = ctl_alloc(bytes.len * LONGEST + 1), *at = text;
    while (bytes.len > 0) {
        uint32_t code = 0;
        size_t len = decode(bytes, &code);
        if (len == 0) {
            at += sprintf(at, "\\x%02x", bytes.data[0]);
            len = 1;
        } else if (backslash && code == '\\') {
            at += sprintf(at, "\\\\");
        } else if (is_hidden(code)) {
            at += sprintf(at, code > 0xffff ? "\\U%08x" : "\\u%04x", (unsigned)code);
        } else {
            memcpy(at, bytes.data, len);
            at += len;
        }
        bytes.data += len;
        bytes.len -= len;
    }
    *at = '\0';
    return text;
}

char *ctl_escape(aff_slice bytes) {
    return escape(bytes, true);
}

void ctl_complain(const char *format, ...) {
    va_list args;
    va_start(args, format);
    char *text = format_list(format, args);
    va_end(args);
    char *shown = escape(ctl_slice(text), false);
    (void)fflush(stdout); /* in their order, where both are one terminal */
    (void)fprintf(stderr, "affinityctl: %s\n", shown);
    free(shown);
    free(text);
}

/* ---- Tables ---------------------------------------------------------------------------------- */

void ctl_table_put(ctl_table *table, char *text) {
    if (table->count == table->cap) {
        table->cap = table->cap > 0 ? 2 * table->cap : 64;
        table->cells = ctl_realloc(table->cells, table->cap * sizeof(*table->cells));
    }
    table->cells[table->count++] = text;
}

/* In columns of a terminal. */
static size_t width_of(const char *text) {
    size_t width = 0;
    aff_slice rest = ctl_slice(text);
    while (rest.len > 0) {
        uint32_t code = 0;
        size_t len = decode(rest, &code);
        int columns = len > 0 ? wcwidth((wchar_t)code) : 1;
        width += columns >= 0 ? (size_t)columns : 1;
        rest.data += len > 0 ? len : 1;
        rest.len -= len > 0 ? len : 1;
    }
    return width;
}

static void print_cell(const ctl_table *table, size_t n, size_t width) {
    size_t column = n % table->columns;
    bool is_last = column == table->columns - 1, right = (table->right >> column & 1) != 0;
    int padding = (int)(width - width_of(table->cells[n]));
    if (right) printf("%*s", padding, "");
    (void)fputs(table->cells[n], stdout);
    if (!right && !is_last) printf("%*s", padding, "");
    (void)fputs(is_last ? "\n" : "  ", stdout);
}

void ctl_table_print(const ctl_table *table) {
    size_t *widths = ctl_alloc(table->columns * sizeof(*widths));
    memset(widths, 0, table->columns * sizeof(*widths));
    for (size_t n = 0; n < table->count; n++) {
        size_t width = width_of(table->cells[n]), *widest = &widths[n % table->columns];
        if (width > *widest) *widest = width;
    }
    for (size_t n = 0; n < table->count; n++) print_cell(table, n, widths[n % table->columns]);
    free(widths);
}

void ctl_table_free(ctl_table *table) {
    for (size_t n = 0; n < table->count; n++) free(table->cells[n]);
    free(table->cells);
}
