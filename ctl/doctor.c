/*
 * Is this Redis fit for a cluster? Each check says ok, warn or fail in one sentence, with what to
 * do. Where Redis does not let us look (an ACL, a managed service), it says that it can't tell.
 *
 * Nothing is changed: the scripts that try what servers do touch a key that nobody has.
 */
#include "commands.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cluster.h"
#include "text.h"

enum {
    PINGS = 100,
    SLOW_MS = 20, /* a round trip that people notice: each document that is opened takes some */
    TOO_SLOW_MS = 1000,
    CLOCK_OFF_MS = 5000,
    SILENT_MS = 60000,       /* of a server that lives */
    IDLE_TIMEOUT_MIN_S = 60, /* above any usual third of lockTTL */
};

/* Redis's defaults for subscribers, which suffice (docs/operations.md, Redis). */
static const uint64_t hard_min = (uint64_t)32 << 20, soft_min = (uint64_t)8 << 20;

typedef enum { OK, WARN, FAIL } status;

typedef struct {
    ctl_session *session;
    char *info;   /* of Redis; "" where it is not told */
    char *denied; /* why not, or NULL */
    json_t *checks;
    bool failed, cluster;
    bool pending;
} doctor;

__attribute__((format(printf, 4, 5))) static void
report(doctor *d, status result, const char *check, const char *format, ...) {
    static const char *const names[] = {"ok", "warn", "fail"};
    char message[512];
    va_list args;
    va_start(args, format);
    (void)vsnprintf(message, sizeof(message), format, args);
    va_end(args);
    char *shown = ctl_escape(ctl_slice(message));
    d->failed = d->failed || result == FAIL;
    if (ctl_session_options(d->session)->json) {
        (void)json_array_append_new(d->checks,
                                    json_pack("{s:s, s:s, s:s}", "check", check, "status",
                                              names[result], "message", shown));
    } else {
        printf("%-5s %-12s %s\n", names[result], check, shown);
        (void)fflush(stdout);
    }
    free(shown);
}

static void cannot_tell(doctor *d, const char *check, const char *advice) {
    report(d, WARN, check, "can't tell (%s); %s", ctl_session_error(d->session), advice);
}

/* ---- INFO and CONFIG ------------------------------------------------------------------------- */

/* A field of INFO; false: it has none. */
static bool info(const doctor *d, const char *field, char *out, size_t out_len) {
    size_t len = strlen(field);
    for (const char *line = d->info; line != NULL && *line != '\0'; line = strchr(line, '\n')) {
        if (*line == '\n') line++;
        if (strncmp(line, field, len) != 0 || line[len] != ':') continue;
        (void)snprintf(out, out_len, "%.*s", (int)strcspn(line + len + 1, "\r\n"), line + len + 1);
        return true;
    }
    return false;
}

static uint64_t info_number(const doctor *d, const char *field) {
    char text[32];
    return info(d, field, text, sizeof(text)) ? strtoull(text, NULL, 10) : 0;
}

static void read_info(doctor *d) {
    redisReply *reply = CTL_REDIS(d->session, ctl_slice("INFO"));
    d->info = ctl_format("%s", reply != NULL && reply->str != NULL ? reply->str : "");
    if (reply == NULL) d->denied = ctl_format("%s", ctl_session_error(d->session));
    if (reply != NULL) freeReplyObject(reply);
}

/* A setting; NULL: Redis does not tell, see the session's error. The caller's. */
static char *setting(doctor *d, const char *name) {
    redisReply *reply =
        CTL_REDIS(d->session, ctl_slice("CONFIG"), ctl_slice("GET"), ctl_slice(name));
    if (reply == NULL) return NULL;
    bool found = reply->elements == 2 && reply->element[1]->str != NULL;
    char *value = ctl_format("%s", found ? reply->element[1]->str : "");
    freeReplyObject(reply);
    return value;
}

/* ---- What it is ------------------------------------------------------------------------------ */

static void check_version(doctor *d) {
    char version[32];
    if (info(d, "valkey_version", version, sizeof(version))) {
        report(d, OK, "version", "Valkey %s", version);
    } else if (info(d, "redis_version", version, sizeof(version))) {
        char *rest;
        unsigned long major = strtoul(version, &rest, 10);
        unsigned long minor = *rest == '.' ? strtoul(rest + 1, NULL, 10) : 0;
        if (major > 6 || (major == 6 && minor >= 2))
            report(d, OK, "version", "Redis %s", version);
        else
            report(d, FAIL, "version", "Redis %s is too old: 6.2 or newer is needed", version);
    } else {
        report(d, WARN, "version", "can't tell (%s); it must be Redis 6.2 or newer, or Valkey",
               d->denied != NULL ? d->denied : "INFO has no version");
    }
}

static void check_mode(doctor *d) {
    char mode[32] = "", role[32] = "", master[256] = "?";
    if (!info(d, "redis_mode", mode, sizeof(mode)))
        (void)info(d, "server_mode", mode, sizeof(mode));
    (void)info(d, "role", role, sizeof(role));
    (void)info(d, "master_host", master, sizeof(master));
    d->cluster = strcmp(mode, "cluster") == 0;
    if (d->cluster)
        report(
            d, WARN, "mode",
            "a node of a Redis Cluster: servers can use it through ioredis, affinityctl can't; the "
            "checks of what servers do are left out");
    else if (strcmp(mode, "sentinel") == 0)
        report(d, FAIL, "mode", "a Sentinel: give the address of its primary");
    else if (strcmp(role, "slave") == 0)
        report(d, FAIL, "mode", "a replica of %s: servers and affinityctl need the primary",
               master);
    else if (*mode == '\0' && *role == '\0')
        report(d, WARN, "mode", "can't tell (%s); it must be a primary, not a replica",
               d->denied != NULL ? d->denied : "INFO has no mode");
    else
        report(d, OK, "mode", "a single primary");
}

static void check_access(doctor *d) {
    static const char script[] = "redis.call('GET', KEYS[1]) redis.call('TIME')\n"
                                 "redis.call('SET', KEYS[1], '', 'XX', 'PX', 1)\n"
                                 "redis.call('PEXPIRE', KEYS[1], 1)\n"
                                 "return redis.call('DEL', KEYS[1])\n";
    static const char *const keys[] = {"Lock:", "Server:"};
    char nobody[32];
    (void)snprintf(nobody, sizeof(nobody), "affinityctl-%016llx", (unsigned long long)ctl_random());
    for (size_t i = 0; i < sizeof(keys) / sizeof(*keys); i++) {
        aff_slice key = ctl_key(d->session, keys[i], ctl_slice(nobody));
        redisReply *reply =
            CTL_REDIS(d->session, ctl_slice("EVAL"), ctl_slice(script), ctl_slice("1"), key);
        free((void *)key.data);
        if (reply == NULL) {
            report(d, FAIL, "access",
                   "this user may not do what servers do with %s%s* (%s): see "
                   "README.md, Users",
                   ctl_session_options(d->session)->prefix, keys[i], ctl_session_error(d->session));
            return;
        }
        freeReplyObject(reply);
    }
    report(d, OK, "access", "this user may do what servers do with their keys");
}

/* ---- What it is told to do ------------------------------------------------------------------- */

static void check_eviction(doctor *d) {
    char policy[64] = "";
    char *value = setting(d, "maxmemory-policy");
    if (value != NULL) (void)snprintf(policy, sizeof(policy), "%s", value);
    free(value);
    if (*policy == '\0' && !info(d, "maxmemory_policy", policy, sizeof(policy))) {
        cannot_tell(d, "eviction", "maxmemory-policy must be noeviction");
        return;
    }
    uint64_t max = info_number(d, "maxmemory");
    if (strcmp(policy, "noeviction") == 0)
        report(d, OK, "eviction", "maxmemory-policy is noeviction");
    else if (max == 0)
        report(d, WARN, "eviction",
               "maxmemory-policy is %s: set noeviction, before somebody sets a maxmemory", policy);
    else
        report(d, FAIL, "eviction",
               "maxmemory-policy is %s: two servers can own a document whose lease was evicted; "
               "set noeviction",
               policy);
}

static void check_memory(doctor *d) {
    uint64_t max = info_number(d, "maxmemory"), used = info_number(d, "used_memory");
    if (used == 0)
        report(d, WARN, "memory", "can't tell (%s); a full Redis takes no leases",
               d->denied != NULL ? d->denied : "INFO has no memory");
    else if (max > 0 && used > max / 10 * 9)
        report(d, FAIL, "memory",
               "%.0f of %.0f MiB are used: a full Redis takes no leases; raise maxmemory",
               (double)used / 1048576, (double)max / 1048576);
    else
        report(d, OK, "memory", "%.0f MiB are used%s", (double)used / 1048576,
               max > 0 ? ", below 90 % of maxmemory" : ", without a limit");
}

/* "... pubsub <hard> <soft> <seconds>", in bytes. */
static void check_buffers(doctor *d) {
    char *value = setting(d, "client-output-buffer-limit");
    const char *pubsub = value != NULL ? strstr(value, "pubsub ") : NULL;
    if (pubsub == NULL) {
        cannot_tell(d, "buffers", "client-output-buffer-limit pubsub must be 32mb 8mb 60 or more");
        free(value);
        return;
    }
    char *rest;
    uint64_t hard = strtoull(pubsub + 7, &rest, 10), soft = strtoull(rest, &rest, 10),
             seconds = strtoull(rest, NULL, 10);
    bool is_small = (hard > 0 && hard < hard_min) || (soft > 0 && soft < soft_min) ||
                    (soft > 0 && soft < hard_min && seconds < 60);
    if (is_small)
        report(d, WARN, "buffers",
               "client-output-buffer-limit is pubsub %llu %llu %llu: servers may be cut off in a "
               "burst; set 32mb 8mb 60, Redis's default",
               (unsigned long long)hard, (unsigned long long)soft, (unsigned long long)seconds);
    else
        report(d, OK, "buffers", "client-output-buffer-limit suffices for pubsub");
    free(value);
}

static void check_idle(doctor *d) {
    char *value = setting(d, "timeout");
    uint64_t seconds = value != NULL ? strtoull(value, NULL, 10) : 0;
    if (value == NULL || *value == '\0')
        cannot_tell(d, "timeout", "it must be 0, or more than lockTTL");
    else if (seconds > 0 && seconds < IDLE_TIMEOUT_MIN_S)
        report(d, WARN, "timeout",
               "idle clients are cut off after %llu s: set timeout 0, or more than lockTTL",
               (unsigned long long)seconds);
    else
        report(d, OK, "timeout", "idle connections are left alone");
    free(value);
}

/* ---- How it does it -------------------------------------------------------------------------- */

static double now_ms(clockid_t clock) {
    struct timespec now;
    (void)clock_gettime(clock, &now);
    return (double)now.tv_sec * 1000 + (double)now.tv_nsec / 1e6;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void check_latency(doctor *d) {
    double times[PINGS];
    for (size_t i = 0; i < PINGS; i++) {
        double before = now_ms(CLOCK_MONOTONIC);
        redisReply *reply = CTL_REDIS(d->session, ctl_slice("PING"));
        if (reply == NULL) {
            cannot_tell(d, "latency", "servers need an answer within milliseconds");
            return;
        }
        freeReplyObject(reply);
        times[i] = now_ms(CLOCK_MONOTONIC) - before;
    }
    qsort(times, PINGS, sizeof(*times), by_size);
    double p50 = times[PINGS / 2 - 1], p99 = times[PINGS - 2];
    status result = p99 >= TOO_SLOW_MS ? FAIL : p99 >= SLOW_MS ? WARN : OK;
    report(d, result, "latency", "a round trip takes %.2f ms (median), %.2f ms (p99 of %d)%s", p50,
           p99, PINGS,
           result == OK ? ""
                        : ": each document that is opened or stored waits for some; look at the "
                          "network and SLOWLOG");
}

static void check_clock(doctor *d) {
    double before = now_ms(CLOCK_REALTIME);
    redisReply *reply = CTL_REDIS(d->session, ctl_slice("TIME"));
    double after = now_ms(CLOCK_REALTIME);
    if (reply == NULL || reply->elements != 2) {
        if (reply != NULL) freeReplyObject(reply);
        cannot_tell(d, "clock", "epochs come from Redis's clock");
        return;
    }
    double redis =
        strtod(reply->element[0]->str, NULL) * 1000 + strtod(reply->element[1]->str, NULL) / 1000;
    double off = redis - (before + after) / 2;
    freeReplyObject(reply);
    if (fabs(off) > CLOCK_OFF_MS)
        report(d, WARN, "clock",
               "Redis's clock is %.1f s %s of this machine's: nothing breaks, but epochs come from "
               "it; set it right",
               fabs(off) / 1000, off > 0 ? "ahead" : "behind");
    else
        report(d, OK, "clock", "Redis's clock is within %.2f s of this machine's",
               fabs(off) / 1000);
}

static void on_message(void *arg, aff_slice data) {
    (void)data;
    ((doctor *)arg)->pending = false;
}

static bool has_come(void *arg) {
    return !((doctor *)arg)->pending;
}

static void check_reach(doctor *d) {
    static const char advice[] = "servers hear each other by pub/sub";
    uint32_t timeout_ms = ctl_session_options(d->session)->timeout_ms;
    d->pending = true;
    redisReply *reply = NULL;
    if (ctl_session_listen(d->session, on_message, d))
        reply = CTL_REDIS(d->session, ctl_slice("PUBLISH"), ctl_session_channel(d->session),
                          ctl_slice("doctor"));
    if (reply == NULL) {
        report(d, FAIL, "pubsub", "%s: %s", ctl_session_error(d->session), advice);
        return;
    }
    long long heard = reply->integer;
    freeReplyObject(reply);
    if (!ctl_session_wait(d->session, timeout_ms, has_come, d))
        report(d, FAIL, "pubsub", "what is published does not arrive within %u s: %s",
               (unsigned)timeout_ms / 1000, advice);
    else if (heard != 1) /* evidence of death (docs/PROTOCOL.md) */
        report(d, WARN, "pubsub",
               "PUBLISH says %lld listeners where there is one: a killed server is noticed by the "
               "end of its membership only",
               heard);
    else
        report(d, OK, "pubsub", "what is published arrives");
}

/* ---- Who uses it ----------------------------------------------------------------------------- */

/* How many listen on the channel of a server's process; -1: Redis does not tell. */
static long long listeners(doctor *d, const ctl_server *server) {
    char *channel = ctl_channel_of(d->session, server->boot);
    redisReply *reply =
        CTL_REDIS(d->session, ctl_slice("PUBSUB"), ctl_slice("NUMSUB"), ctl_slice(channel));
    free(channel);
    if (reply == NULL) return -1;
    long long count = reply->elements == 2 ? reply->element[1]->integer : -1;
    freeReplyObject(reply);
    return count;
}

static void check_server(doctor *d, const ctl_server *server) {
    char *name = ctl_escape(server->id);
    int64_t silent_ms = (int64_t)now_ms(CLOCK_REALTIME) - ctl_card_number(server, "updatedAt");
    if (!server->alive)
        report(d, WARN, "server", "%s has gone without a word; it is listed for ten minutes", name);
    else if (listeners(d, server) == 0)
        report(d, WARN, "server",
               "%s is a member, and nobody listens for it: it was killed, or is cut off; its "
               "membership ends within lockTTL",
               name);
    else if (llabs((long long)silent_ms) > SILENT_MS)
        report(d, WARN, "server",
               "%s is a member, and has told of itself %lld s ago: it hangs, or its clock or this "
               "machine's is wrong",
               name, (long long)silent_ms / 1000);
    free(name);
}

static void check_servers(doctor *d) {
    ctl_servers servers;
    if (!ctl_list_servers(d->session, &servers)) {
        cannot_tell(d, "servers", "servers are not listed then, and affinityctl knows of none");
        return;
    }
    size_t alive = 0;
    for (size_t i = 0; i < servers.count; i++) {
        check_server(d, &servers.servers[i]);
        if (servers.servers[i].alive) alive++;
    }
    report(d, OK, "servers", "%zu are members under the prefix \"%s\"", alive,
           ctl_session_options(d->session)->prefix);
    ctl_servers_free(&servers);
}

/* ---- The command ----------------------------------------------------------------------------- */

static void examine(doctor *d) {
    double before = now_ms(CLOCK_MONOTONIC);
    if (!ctl_session_connect(d->session)) {
        report(d, FAIL, "connection", "%s", ctl_session_error(d->session));
        return;
    }
    char *where = ctl_address_text(&ctl_session_options(d->session)->redis);
    report(d, OK, "connection", "%s, in %.0f ms", where, now_ms(CLOCK_MONOTONIC) - before);
    free(where);
    read_info(d);
    check_version(d);
    check_mode(d);
    check_eviction(d);
    check_memory(d);
    check_buffers(d);
    check_idle(d);
    check_latency(d);
    check_clock(d);
    if (d->cluster) return;
    check_access(d);
    check_reach(d);
    check_servers(d);
}

int ctl_doctor_command(ctl_session *s, char **args) {
    (void)args;
    doctor d = {.session = s, .checks = json_array()};
    examine(&d);
    if (ctl_session_options(s)->json)
        ctl_print_json(json_pack("{s:b, s:O}", "ok", (int)!d.failed, "checks", d.checks));
    json_decref(d.checks);
    free(d.info);
    free(d.denied);
    return d.failed ? CTL_NO : CTL_OK;
}
