// health(): in every state that a server can be in.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Hocuspocus } from '@hocuspocus/server'
import Redis from 'ioredis'
import { healthOf } from '../../js/dist/health.js'
import { RedisServerAffinity } from '../../js/dist/index.js'
import { startRedis } from '../support/redis.mjs'
import { until } from '../support/wait.mjs'

const quiet = () => {}

/** An instance with a Hocuspocus, in this process. */
function instance(redis, serverId, options = {}) {
  const client = new Redis({ ...redis.options, lazyConnect: true })
  client.on('error', quiet)
  const affinity = new RedisServerAffinity({ redis: client, serverId, log: quiet, ...options })
  return { affinity, hocuspocus: new Hocuspocus({ quiet: true, extensions: [affinity] }) }
}

const flags = ({ live, serving, ready, redis, member, draining, reason }) => ({ live, serving, ready, redis, member, draining, reason })

describe('health', () => {
  test('starting, ready, draining, closed', async (t) => {
    const redis = await startRedis()
    t.after(() => redis.stop())
    const { affinity, hocuspocus } = instance(redis, 's1')
    t.after(() => affinity.onDestroy())
    assert.deepEqual(flags(affinity.health()), { live: true, serving: false, ready: false, redis: 'down', member: false, draining: false, reason: 'starting: not connected to Redis yet' })

    await affinity.ready()
    await until(() => affinity.health().ready)
    const { membershipMs, ...health } = affinity.health()
    assert.ok(membershipMs > 5000 && membershipMs <= 10_000, `${membershipMs}`)
    assert.deepEqual(health, { live: true, serving: true, ready: true, redis: 'up', member: true, draining: false, stalled: false, servers: 0, documents: 0 })

    const connection = await hocuspocus.openDirectConnection('doc', {})
    await until(() => affinity.health().documents === 1)
    await connection.disconnect()
    const drained = affinity.drain()
    assert.deepEqual(flags(affinity.health()), { live: true, serving: false, ready: false, redis: 'up', member: true, draining: true, reason: 'draining' })
    await drained
    assert.equal(affinity.health().reason, 'draining')

    await affinity.onDestroy()
    const closed = affinity.health()
    assert.deepEqual([closed.live, closed.serving, closed.ready, closed.member, closed.membershipMs, closed.reason], [true, false, false, false, 0, 'closed'])
  })

  test('a server that has never reached its Redis says where that should be, and has nothing to drain', async (t) => {
    const lines = []
    const { affinity } = instance({ options: { host: '127.0.0.1', port: 1 } }, 's1', { drainTimeout: 60_000, log: ({ message }) => lines.push(message) })
    t.after(() => affinity.onDestroy())
    await until(() => lines.some((line) => line.includes("Redis at 127.0.0.1:1 can't be reached")), { what: 'the address is told' })
    assert.match(affinity.health().reason, /^starting: Redis at 127\.0\.0\.1:1 can't be reached, still trying: connect: connection refused$/)
    const started = performance.now()
    await affinity.drain()
    await affinity.onDestroy()
    assert.ok(performance.now() - started < 30_000)
  })

  test('a server that has reached Redis, and not joined yet, is just starting', () => {
    const engine = { redisUp: 1, stalled: 0, peers: 0, documentsOwned: 0 }
    assert.equal(healthOf({ hasJoined: false, isClosed: false, isDraining: false, failClosed: false, membershipMs: 0, whyAway: 'why it was', engine }).reason, 'starting')
  })

  test('while Redis is away servers serve, but are not ready once their membership is over; with failClosed they do not', async (t) => {
    const redis = await startRedis()
    t.after(() => redis.stop())
    const open = instance(redis, 'open', { lockTTL: 1500 }).affinity
    const closed = instance(redis, 'closed', { lockTTL: 1500, failClosed: true }).affinity
    t.after(() => Promise.all([open.onDestroy(), closed.onDestroy()]))
    await Promise.all([open.ready(), closed.ready()])
    await until(() => open.health().ready && closed.health().ready)

    await redis.kill9()
    await until(() => open.health().redis === 'down')
    const { ready, member } = open.health()
    assert.equal(ready, member, 'ready as long as the membership lasts')
    await until(() => !open.health().member && !closed.health().member && closed.health().redis === 'down')
    const reason = `Redis at ${redis.path} can't be reached, still trying: connect: connection refused`
    const away = { live: true, ready: false, redis: 'down', member: false, draining: false, reason }
    assert.deepEqual(flags(open.health()), { ...away, serving: true })
    assert.deepEqual(flags(closed.health()), { ...away, serving: false })

    await redis.restart()
    await until(() => open.health().ready && closed.health().ready, { what: 'both are ready again' })
    assert.equal(open.metrics().membershipLapses, 1)
  })

  test('failed: the serverId is taken', async (t) => {
    const redis = await startRedis()
    t.after(() => redis.stop())
    const first = instance(redis, 's1').affinity
    t.after(() => first.onDestroy())
    await first.ready()
    const second = instance(redis, 's1').affinity
    t.after(() => second.onDestroy())
    await assert.rejects(second.ready(), { code: 'AFF_ETAKEN' })
    const { live, serving, ready, reason } = second.health()
    assert.deepEqual({ live, serving, ready }, { live: false, serving: false, ready: false })
    assert.match(reason, /^failed: .*"s1" is in use/)
    assert.equal(first.health().live, true)
    assert.equal(second.metrics().ready, 0)
  })
})
