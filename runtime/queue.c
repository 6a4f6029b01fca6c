#include "queue.h"

#include <stdlib.h>
#include <string.h>

int aff_queue_init(aff_queue *queue, size_t max) {
    *queue = (aff_queue){.max = max};
    return uv_mutex_init(&queue->mutex) == 0 ? 0 : AFF_ENOMEM;
}

void aff_queue_free(aff_queue *queue) {
    uv_mutex_destroy(&queue->mutex);
    free(queue->data);
}

static int make_room(aff_queue *queue, size_t more) {
    if (queue->len + more > queue->max) return AFF_EFULL;
    if (queue->len + more <= queue->cap) return 0;
    size_t cap = queue->cap ? queue->cap * 2 : 4096;
    while (cap < queue->len + more) cap *= 2;
    uint8_t *data = realloc(queue->data, cap);
    if (!data) return AFF_ENOMEM;
    queue->data = data;
    queue->cap = cap;
    return 0;
}

static uint8_t *put(uint8_t *to, const void *from, size_t len) {
    if (len) memcpy(to, from, len);
    return to + len;
}

static void write_record(uint8_t *to, const aff_record *r, uint32_t len) {
    uint8_t flag = r->flag;
    double request = (double)r->request, bytes = (double)r->bytes;
    uint32_t document_len = (uint32_t)r->document.len, name_len = (uint32_t)r->name.len;
    to = put(to, &len, 4);
    to = put(to, &r->kind, 1);
    to = put(to, &flag, 1);
    to = put(to, &r->code, 2);
    to = put(to, &r->socket, 4);
    to = put(to, &r->status, 4);
    to = put(to, &request, 8);
    to = put(to, &bytes, 8);
    to = put(to, &document_len, 4);
    to = put(to, &name_len, 4);
    to = put(to, r->document.data, r->document.len);
    to = put(to, r->name.data, r->name.len);
    put(to, r->data.data, r->data.len);
}

int aff_queue_push(aff_queue *queue, const aff_record *record, uint64_t credit) {
    size_t len = AFF_RECORD_HEADER + record->document.len + record->name.len + record->data.len;
    if (len > UINT32_MAX) return AFF_EFULL;
    uv_mutex_lock(&queue->mutex);
    int status = make_room(queue, len);
    if (status == 0) {
        status = ++queue->count % AFF_QUEUE_BURST == 0;
        write_record(queue->data + queue->len, record, (uint32_t)len - 4);
        queue->len += len;
        queue->credit += credit;
    }
    uv_mutex_unlock(&queue->mutex);
    return status;
}

int aff_queue_append(aff_queue *queue, const void *records, size_t len) {
    uv_mutex_lock(&queue->mutex);
    int status = make_room(queue, len);
    if (status == 0) {
        put(queue->data + queue->len, records, len);
        queue->len += len;
    }
    uv_mutex_unlock(&queue->mutex);
    return status;
}

size_t aff_queue_len(aff_queue *queue) {
    uv_mutex_lock(&queue->mutex);
    size_t len = queue->len;
    uv_mutex_unlock(&queue->mutex);
    return len;
}

aff_block aff_queue_take(aff_queue *queue) {
    uv_mutex_lock(&queue->mutex);
    aff_block block = {queue->data, queue->len, queue->credit};
    queue->data = NULL;
    queue->len = queue->cap = 0;
    queue->count = 0;
    queue->credit = 0;
    uv_mutex_unlock(&queue->mutex);
    return block;
}

static const uint8_t *get(const uint8_t *from, void *to, size_t len) {
    memcpy(to, from, len);
    return from + len;
}

bool aff_record_read(const aff_block *block, size_t *at, aff_record *out) {
    if (*at >= block->len) return false;
    const uint8_t *from = block->data + *at;
    uint32_t len, document_len, name_len;
    uint8_t flag;
    double request, bytes;
    from = get(from, &len, 4);
    from = get(from, &out->kind, 1);
    from = get(from, &flag, 1);
    from = get(from, &out->code, 2);
    from = get(from, &out->socket, 4);
    from = get(from, &out->status, 4);
    from = get(from, &request, 8);
    from = get(from, &bytes, 8);
    from = get(from, &document_len, 4);
    from = get(from, &name_len, 4);
    out->flag = flag != 0;
    out->request = (uint64_t)request;
    out->bytes = (uint64_t)bytes;
    out->document = (aff_slice){from, document_len};
    out->name = (aff_slice){from + document_len, name_len};
    size_t rest = len + 4 - AFF_RECORD_HEADER - document_len - name_len;
    out->data = (aff_slice){from + document_len + name_len, rest};
    *at += 4 + len;
    return true;
}
