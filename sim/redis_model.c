#include "redis_model.h"

#include <stdio.h>

static entry **find(redis_data *r, aff_slice key) {
    entry **at = &r->entries;
    while (*at && !aff__equal(slice(&(*at)->key), key)) at = &(*at)->next;
    return at;
}

static entry *new_entry(entry **list, aff_slice key) {
    entry *e = calloc(1, sizeof(*e));
    AFF_ASSERT(e);
    set(&e->key, key);
    e->next = *list;
    *list = e;
    return e;
}

static void free_entry(entry *e) {
    free(e->key.data);
    free(e->value.data);
    free(e);
}

void redis_remove(redis_data *r, aff_slice key) {
    entry **at = find(r, key), *e = *at;
    if (!e) return;
    *at = e->next;
    free_entry(e);
}

entry *redis_find(redis_data *r, uint64_t now_ms, aff_slice key) {
    entry *e = *find(r, key);
    if (!e || e->expires_at > now_ms) return e;
    redis_remove(r, key);
    return NULL;
}

void redis_put(redis_data *r, uint64_t now_ms, aff_slice key, aff_slice value, uint64_t ttl) {
    entry *e = redis_find(r, now_ms, key);
    if (!e) e = new_entry(&r->entries, key);
    set(&e->value, value);
    e->expires_at = now_ms + ttl;
}

static void free_list(entry **list) {
    for (entry *e; (e = *list);) {
        *list = e->next;
        free_entry(e);
    }
}

void redis_clear(redis_data *r) {
    free_list(&r->entries);
}

void redis_copy(redis_data *to, const redis_data *from) {
    redis_clear(to);
    for (const entry *e = from->entries; e; e = e->next) {
        entry *copy = new_entry(&to->entries, slice(&e->key));
        set(&copy->value, slice(&e->value));
        copy->expires_at = e->expires_at;
    }
}

void redis_forget_epochs(redis_data *r) {
    free_list(&r->history);
}

void redis_free(redis_data *r) {
    redis_clear(r);
    redis_forget_epochs(r);
}

/* I4: the epochs of a document only grow. */
static void remember_epoch(redis_data *r, aff_slice key, uint64_t epoch) {
    entry *e = r->history;
    while (e && !aff__equal(slice(&e->key), key)) e = e->next;
    if (!e) e = new_entry(&r->history, key);
    if (epoch <= e->expires_at) r->epochs_shrank = true;
    e->expires_at = epoch;
}

static uint64_t number_in(aff_slice text) {
    char copy[32] = "";
    AFF_ASSERT(text.len < sizeof(copy));
    memcpy(copy, text.data, text.len);
    return strtoull(copy, NULL, 10);
}

uint64_t redis_epoch(const entry *e, const uint8_t **boot) {
    const aff_slice value = slice(&e->value);
    size_t at = 0;
    uint64_t epoch = 0;
    for (; at < value.len && value.data[at] >= '0' && value.data[at] <= '9'; at++) {
        epoch = epoch * 10 + (uint64_t)(value.data[at] - '0');
        if (epoch > 9007199254740991) return 0;
    }
    size_t from = at + 1, server_at = from + AFF_BOOT_LEN + 1;
    if (value.len <= server_at || value.len > server_at + AFF_SERVER_ID_MAX) return 0;
    if (value.data[at] != ' ' || value.data[server_at - 1] != ' ') return 0;
    for (at = from; at < from + AFF_BOOT_LEN; at++) {
        if (!value.data[at] || !strchr("0123456789abcdef", value.data[at])) return 0;
    }
    *boot = value.data + from;
    return epoch;
}

/* The claim script, in C. */
static redis_answer claim(redis_data *r, uint64_t now_ms, uint64_t clock_us,
                          const aff_slice *argv) {
    static char record[1024];
    uint64_t standing = number_in(argv[3]), epoch = number_in(argv[7]);
    entry *e = redis_find(r, now_ms, argv[0]);
    aff_slice holder = aff__none(); /* another one, whose epoch is raised */
    r->claims++;
    if (e) {
        const uint8_t *boot = NULL;
        uint64_t stored = redis_epoch(e, &boot);
        bool own_boot = stored && memcmp(boot, argv[1].data, AFF_BOOT_LEN) == 0;
        bool expected = !stored || AFF_MUTATE(13, true, aff__equal(slice(&e->value), argv[4]));
        bool stands = own_boot && stored >= standing;
        if (!own_boot && !expected && argv[6].data[0] == '2' && stored < standing) {
            holder = aff__slice(boot, (size_t)(e->value.data + e->value.len - boot));
        } else if (stands || (!own_boot && !expected)) {
            return (redis_answer){.values = {integer(stands), string(slice(&e->value))},
                                  .count = 2,
                                  .granted = stands};
        }
        if (stored > epoch) epoch = stored;
    }
    if (argv[6].data[0] == '1') return (redis_answer){.values = {integer(2)}, .count = 1};
    epoch = AFF_MUTATE(6, clock_us - clock_us % 60000000, epoch > clock_us ? epoch : clock_us) + 1;
    int len = holder.len
                  ? snprintf(record, sizeof(record), "%llu %.*s", (unsigned long long)epoch,
                             (int)holder.len, (const char *)holder.data)
                  : snprintf(record, sizeof(record), "%llu %.*s %.*s", (unsigned long long)epoch,
                             (int)argv[1].len, (const char *)argv[1].data, (int)argv[2].len,
                             (const char *)argv[2].data);
    remember_epoch(r, argv[0], epoch);
    aff_slice text = aff__slice(record, (size_t)len);
    redis_put(r, now_ms, argv[0], text, number_in(argv[5]));
    return (redis_answer){
        .values = {integer(holder.len == 0), string(text)}, .count = 2, .granted = holder.len == 0};
}

redis_answer redis_run_script(redis_data *r, uint64_t now_ms, uint64_t clock_us, aff_script script,
                              int argc, const aff_slice *argv) {
    entry *e = redis_find(r, now_ms, argv[0]);
    bool same = e && argc > 1 && aff__equal(slice(&e->value), argv[1]);
    redis_answer out = {.values = {integer(same)}, .count = 1};
    switch ((int)script) {
        case AFF_SCRIPT_JOIN:
            out.values[0] = integer(!e || same);
            if (!e || same) {
                redis_put(r, now_ms, argv[0], argv[1], number_in(argv[2]));
            } else {
                out.values[1] = string(slice(&e->value));
                out.count = 2;
            }
            return out;
        case AFF_SCRIPT_RENEW:
        case AFF_SCRIPT_REFRESH:
            if (AFF_MUTATE(4, true, false)) {
                redis_put(r, now_ms, argv[0], argv[1], number_in(argv[2]));
                out.values[0] = integer(1);
                return out;
            }
            if (same) e->expires_at = now_ms + number_in(argv[2]);
            return out;
        case AFF_SCRIPT_LEAVE:
        case AFF_SCRIPT_RELEASE:
            if (AFF_MUTATE(2, true, same)) redis_remove(r, argv[0]);
            return out;
        case AFF_SCRIPT_CLAIM: return claim(r, now_ms, clock_us, argv);
        case AFF_COMMAND_GET:
            out.values[0] = e ? string(slice(&e->value)) : (aff_value){.type = AFF_VALUE_NIL};
            return out;
        default: AFF_ASSERT(false); return out;
    }
}
