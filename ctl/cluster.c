#include "cluster.h"

#include <stdlib.h>
#include <string.h>

#include "text.h"

aff_slice ctl_key(ctl_session *s, const char *name, aff_slice rest) {
    const char *prefix = ctl_session_options(s)->prefix;
    size_t prefix_len = strlen(prefix), name_len = strlen(name);
    uint8_t *key = ctl_alloc(prefix_len + name_len + rest.len);
    memcpy(key, prefix, prefix_len);
    memcpy(key + prefix_len, name, name_len);
    if (rest.len > 0) memcpy(key + prefix_len + name_len, rest.data, rest.len);
    return (aff_slice){key, prefix_len + name_len + rest.len};
}

char *ctl_channel_of(ctl_session *s, const char *boot) {
    return ctl_format("%sLink:%.*s", ctl_session_options(s)->prefix, CTL_PROCESS_LEN, boot);
}

static bool is_boot(const char *text, size_t len) {
    for (size_t i = 0; i < len; i++)
        if (strchr("0123456789abcdef", text[i]) == NULL || text[i] == '\0') return false;
    return len == CTL_BOOT_LEN;
}

/* ---- Memberships ----------------------------------------------------------------------------- */

static bool send_get(ctl_session *s, aff_slice id, ctl_call *call) {
    aff_slice key = ctl_key(s, "Server:", id);
    bool sent = CTL_SEND(s, call, ctl_slice("GET"), key);
    free((void *)key.data);
    return sent;
}

static ctl_membership receive_get(ctl_session *s, ctl_call *call, char boot[CTL_BOOT_LEN + 1]) {
    redisReply *reply = ctl_receive(s, call);
    if (reply == NULL || ctl_is_refused(s, reply)) return CTL_UNKNOWN;
    bool is_member = reply->type == REDIS_REPLY_STRING && is_boot(reply->str, reply->len);
    if (is_member) memcpy(boot, reply->str, CTL_BOOT_LEN + 1);
    freeReplyObject(reply);
    return is_member ? CTL_MEMBER : CTL_NO_MEMBER;
}

ctl_membership ctl_find_member(ctl_session *s, aff_slice id, char boot[CTL_BOOT_LEN + 1]) {
    ctl_call call;
    return send_get(s, id, &call) ? receive_get(s, &call, boot) : CTL_UNKNOWN;
}

bool ctl_require_member(ctl_session *s, const char *id, char boot[CTL_BOOT_LEN + 1]) {
    ctl_membership membership = ctl_find_member(s, ctl_slice(id), boot);
    if (membership == CTL_NO_MEMBER)
        ctl_complain("server \"%s\" is no member of the cluster", id);
    else if (membership == CTL_UNKNOWN)
        ctl_complain("%s", ctl_session_error(s));
    return membership == CTL_MEMBER;
}

/* ---- Cards ----------------------------------------------------------------------------------- */

int64_t ctl_card_number(const ctl_server *server, const char *key) {
    return json_integer_value(json_object_get(server->card, key));
}

const char *ctl_card_text(const ctl_server *server, const char *key) {
    const char *text = json_string_value(json_object_get(server->card, key));
    return text != NULL ? text : "";
}

/* The same test as the extension's: what else stands in the hash is somebody else's. */
static bool read_card(const redisReply *value, ctl_server *out) {
    if (value->type != REDIS_REPLY_STRING) return false;
    json_t *card = json_loadb(value->str, value->len, JSON_ALLOW_NUL, NULL);
    json_t *id = json_object_get(card, "serverId");
    if (!json_is_string(id) || !json_is_number(json_object_get(card, "updatedAt"))) {
        json_decref(card);
        return false;
    }
    *out = (ctl_server){
        .card = card,
        .id = {(const uint8_t *)json_string_value(id), json_string_length(id)},
        .draining = json_is_true(json_object_get(card, "draining")),
    };
    return true;
}

bool ctl_is_named(const ctl_server *server, const char *id) {
    return server->id.len == strlen(id) && memcmp(server->id.data, id, server->id.len) == 0;
}

static int by_name(const void *a, const void *b) {
    aff_slice x = ((const ctl_server *)a)->id, y = ((const ctl_server *)b)->id;
    int order = memcmp(x.data, y.data, x.len < y.len ? x.len : y.len);
    return order != 0 ? order : (x.len > y.len) - (x.len < y.len);
}

static bool look_up_members(ctl_session *s, ctl_servers *servers) {
    ctl_call *calls = ctl_alloc(servers->count * sizeof(*calls));
    size_t sent = 0;
    while (sent < servers->count && send_get(s, servers->servers[sent].id, &calls[sent])) sent++;
    bool ok = sent == servers->count;
    for (size_t i = 0; i < sent; i++) {
        ctl_server *server = &servers->servers[i];
        ctl_membership membership = receive_get(s, &calls[i], server->boot);
        server->alive = membership == CTL_MEMBER;
        if (membership == CTL_UNKNOWN) ok = false;
        (void)json_object_set_new(server->card, "alive", json_boolean(server->alive));
    }
    free(calls);
    return ok;
}

bool ctl_list_servers(ctl_session *s, ctl_servers *out) {
    aff_slice key = ctl_key(s, "Servers", (aff_slice){0});
    redisReply *reply = CTL_REDIS(s, ctl_slice("HVALS"), key);
    free((void *)key.data);
    if (reply == NULL) return false;
    ctl_servers servers = {.servers = ctl_alloc(reply->elements * sizeof(ctl_server))};
    for (size_t i = 0; i < reply->elements; i++)
        if (read_card(reply->element[i], &servers.servers[servers.count])) servers.count++;
    freeReplyObject(reply);
    if (servers.count > 0) qsort(servers.servers, servers.count, sizeof(*servers.servers), by_name);
    if (!look_up_members(s, &servers)) {
        ctl_servers_free(&servers);
        return false;
    }
    *out = servers;
    return true;
}

void ctl_servers_free(ctl_servers *servers) {
    for (size_t i = 0; i < servers->count; i++) json_decref(servers->servers[i].card);
    free(servers->servers);
    *servers = (ctl_servers){0};
}

/* ---- Leases ---------------------------------------------------------------------------------- */

bool ctl_lease_read(aff_slice record, ctl_lease *out) {
    enum { SERVER_MAX = 255 };
    const uint64_t epoch_max = ((uint64_t)1 << 53) - 1;
    ctl_lease lease = {0};
    size_t at = 0;
    for (; at < record.len && record.data[at] >= '0' && record.data[at] <= '9'; at++) {
        lease.epoch = 10 * lease.epoch + (uint64_t)(record.data[at] - '0');
        if (lease.epoch > epoch_max) return false;
    }
    const char *rest = (const char *)record.data + at;
    size_t left = record.len - at;
    if (lease.epoch == 0 || left < CTL_BOOT_LEN + 3 || rest[0] != ' ' ||
        rest[CTL_BOOT_LEN + 1] != ' ' || !is_boot(rest + 1, CTL_BOOT_LEN))
        return false;
    memcpy(lease.boot, rest + 1, CTL_BOOT_LEN);
    lease.server = (aff_slice){record.data + at + CTL_BOOT_LEN + 2, left - CTL_BOOT_LEN - 2};
    if (lease.server.len > SERVER_MAX) return false;
    *out = lease;
    return true;
}

/* Does the server's membership stand under the boot that the lease was claimed under? */
static ctl_ownership check_lease(ctl_session *s, const ctl_lease *lease) {
    char boot[CTL_BOOT_LEN + 1];
    ctl_membership membership = ctl_find_member(s, lease->server, boot);
    if (membership == CTL_UNKNOWN) return CTL_UNTOLD;
    bool stands = membership == CTL_MEMBER && strcmp(boot, lease->boot) == 0;
    return stands ? CTL_OWNED : CTL_LEFT;
}

ctl_ownership ctl_find_owner(ctl_session *s, const char *document, ctl_lease *out) {
    *out = (ctl_lease){0};
    aff_slice key = ctl_key(s, "Lock:", ctl_slice(document));
    redisReply *reply = CTL_REDIS(s, ctl_slice("GET"), key);
    free((void *)key.data);
    if (reply == NULL) return CTL_UNTOLD;
    ctl_lease lease;
    ctl_ownership ownership = CTL_FREE;
    if (reply->type == REDIS_REPLY_STRING) {
        bool good = ctl_lease_read((aff_slice){(uint8_t *)reply->str, reply->len}, &lease);
        ownership = good ? check_lease(s, &lease) : CTL_UNREADABLE;
    }
    if (ownership == CTL_OWNED || ownership == CTL_LEFT) {
        char *server = ctl_alloc(lease.server.len + 1);
        memcpy(server, lease.server.data, lease.server.len);
        server[lease.server.len] = '\0';
        *out = lease;
        out->server.data = (const uint8_t *)server;
    }
    freeReplyObject(reply);
    return ownership;
}
