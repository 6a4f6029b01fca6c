/*
 * scripts.c - what runs inside Redis. Redis 6.2 suffices. Each script names all its keys, touches
 * no other, and compares before it changes, so that a late or repeated call harms nothing.
 *
 * A lease's record is the text "<epoch> <boot> <server>"; docs/PROTOCOL.md has the schema.
 */
#include "engine.h"

static const char join[] = "local boot = redis.call('GET', KEYS[1])\n"
                           "if boot and boot ~= ARGV[1] then return {0, boot} end\n"
                           "redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])\n"
                           "return {1}\n";

static const char renew[] = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
                            "return redis.call('PEXPIRE', KEYS[1], ARGV[2])\n";

static const char compare_and_delete[] =
    "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end\n"
    "return redis.call('DEL', KEYS[1])\n";

/*
 * Takes the lease where there is none, where it is ours already, or where its record is the
 * expected one (of a boot that is dead, or of our own former boot). A record of ours stands if its
 * epoch is ARGV[3] or above. A new epoch is above the one stored, the claimer's highest (ARGV[7]),
 * and Redis's clock, so that it grows even if Redis lost the record.
 * Lua's numbers are exact up to 2^53; microseconds since 1970 stay below until the year 2255. A
 * record with an epoch beyond that, or otherwise none that a server writes, counts as free.
 * ARGV[6] is 1 for who only looks; and 2 for who had the lease under the epoch ARGV[3]: another's
 * record that is older is one that Redis had lost since, and its holder gets a new epoch.
 */
static const char claim[] =
    "local record = redis.call('GET', KEYS[1])\n"
    "local epoch, result, holder = tonumber(ARGV[7]), 1, ARGV[1] .. ' ' .. ARGV[2]\n"
    "if record then\n"
    "  local stored, boot, server = string.match(record, '^(%d+) ([0-9a-f]+) (.+)$')\n"
    "  stored = tonumber(stored) or 0\n"
    "  if stored < 1 or stored > 9007199254740991 or #boot ~= 16 or #server > 255 then\n"
    "    stored, boot = 0, nil\n"
    "  end\n"
    "  if boot == ARGV[1] and stored >= tonumber(ARGV[3]) then return {1, record} end\n"
    "  if boot and boot ~= ARGV[1] and record ~= ARGV[4] then\n"
    "    if ARGV[6] ~= '2' or stored >= tonumber(ARGV[3]) then return {0, record} end\n"
    "    result, holder = 0, boot .. ' ' .. server\n"
    "  end\n"
    "  epoch = math.max(epoch, stored)\n"
    "end\n"
    "if ARGV[6] == '1' then return {2} end\n"
    "local time = redis.call('TIME')\n"
    "epoch = math.max(epoch, time[1] * 1000000 + time[2]) + 1\n"
    "record = string.format('%.0f', epoch) .. ' ' .. holder\n"
    "redis.call('SET', KEYS[1], record, 'PX', ARGV[5])\n"
    "return {result, record}\n";

const char *aff_script_source(aff_script script) {
    switch (script) {
        case AFF_SCRIPT_JOIN: return join;
        case AFF_SCRIPT_RENEW:
        case AFF_SCRIPT_REFRESH: return renew;
        case AFF_SCRIPT_LEAVE:
        case AFF_SCRIPT_RELEASE: return compare_and_delete;
        case AFF_SCRIPT_CLAIM: return claim;
        default: return NULL;
    }
}
