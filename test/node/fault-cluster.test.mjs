// A Redis Cluster: through duplicates of the user's instance, on their own thread of JavaScript, with the same engine.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { RedisServerAffinity } from '@hocuspocus/extension-redis-affinity'
import { connect, synced, text, type } from '../support/client.mjs'
import { startRedisCluster } from '../support/redis-cluster.mjs'
import { startServer } from '../support/server.mjs'
import { until } from '../support/wait.mjs'

process.env.DEBUG = 'redis-affinity' // the servers say how they reach Redis

const LOCK_TTL = 6000

describe('A Redis Cluster', () => {
  /** @type {Awaited<ReturnType<typeof startRedisCluster>>} */
  let redis
  before(async () => {
    redis = await startRedisCluster({ hasReplicas: true })
  })
  after(() => redis.stop())

  /** Servers `a1`, `a2`, ... of a cluster of their own: each scene has a prefix. */
  async function start(t, prefix, versions, { address = redis.address, ...options } = {}) {
    const storeFolder = mkdtempSync(path.join(os.tmpdir(), 'rsa-store-'))
    const servers = []
    t.after(async () => {
      await Promise.all(servers.map((server) => server.stop()))
      rmSync(storeFolder, { recursive: true, force: true })
    })
    const begin = (ioredis, n) =>
      startServer({ serverId: `a${n + 1}`, redis: { ...address, ioredis }, storeFolder, prefix, lockTTL: LOCK_TTL, ...options })
    servers.push(...(await Promise.all(versions.map(begin))))
    return servers
  }

  /** People at the last two servers type into a document of the first; everything that they have typed is named. */
  async function people(t, [owner, ...servers], name) {
    await owner.lockDocument(name) // it is the first one's
    const typists = servers.map((server, n) => ({ who: 'ab'[n], count: 0, provider: connect({ url: server.url, name }) }))
    t.after(() => typists.forEach(({ provider }) => provider.destroy()))
    for (const { provider } of typists) await synced(provider)
    const press = () => typists.forEach((typist) => type(typist.provider, `${typist.who}${++typist.count} `))
    let timer = setInterval(press, 20)
    t.after(() => clearInterval(timer))
    return {
      typists,
      /** Until each has typed so much more. */
      more: (count) => {
        const [{ count: former }] = typists
        return until(() => typists[0].count >= former + count, { what: 'people type' })
      },
      /** All that was typed is everywhere, and acknowledged. */
      async agree() {
        clearInterval(timer)
        for (const { provider } of typists) await synced(provider, 30_000)
        const words = typists.flatMap(({ who, count }) => Array.from({ length: count }, (_, n) => `${who}${n + 1}`))
        const has = ({ provider }) => words.every((word) => ` ${text(provider)}`.includes(` ${word} `))
        await until(() => typists.every(has), { what: 'everything that was typed is everywhere', timeout: 30_000 })
        for (const { provider } of typists) assert.deepEqual(provider.closes, [], 'no socket was closed')
      },
    }
  }

  const holders = async (servers, name) => {
    const held = await Promise.all(servers.filter((server) => !server.exit).map(async (server) => (await server.documents()).includes(name)))
    return held.filter(Boolean).length
  }

  /** The nodes on which most depends: those of the document's lease, of a server's membership and of its channel. */
  async function nodesOf(prefix, name, { serverId }) {
    const boot = await until(() => redis.client.get(`${prefix}Server:${serverId}`), { what: `"${serverId}" is a member` })
    const keys = [`${prefix}Lock:${name}`, `${prefix}Server:${serverId}`, `${prefix}Link:${boot.slice(0, 12)}`]
    return Promise.all(keys.map((key) => redis.primaryOf(key)))
  }

  const isPrimary = async ({ client }) => /role:master/.test(await client.info('replication'))

  /** Its replica is the primary now; `end` makes it so. */
  async function passOn(primary, end) {
    const n = redis.primaries.indexOf(primary)
    const replica = redis.replicas[n]
    await end(replica)
    await until(() => isPrimary(replica), { what: 'the replica has taken over', timeout: 30_000 })
    redis.primaries[n] = replica
    redis.replicas[n] = primary
  }

  const takesOver = (replica) => until(() => replica.client.call('CLUSTER', 'FAILOVER').then(() => true), { what: 'the replica is to take over' })

  test('servers list each other and their documents', async (t) => {
    const [a1, a2] = await start(t, 'list', ['ioredis', 'ioredis'])
    const ann = await synced(connect({ url: a1.url, name: 'doc' }))
    t.after(() => ann.destroy())
    const listed = await until(async () => {
      const servers = await a2.run(({ affinity }) => affinity.servers())
      return servers.length === 2 && servers[0].documents === 1 ? servers : false
    })
    assert.deepEqual(listed.map(({ serverId, alive }) => [serverId, alive]), [['a1', true], ['a2', true]])
    const { documents } = await a2.run(({ affinity }) => affinity.documents('a1'))
    assert.deepEqual(documents.map(({ name, from }) => ({ name, from })), [{ name: 'doc', from: { a1: 1 } }])
  })

  test('one owner; it is killed, replicas take over, primaries die, all while people type, and nothing is lost', async (t) => {
    // Two versions of ioredis in one cluster.
    const servers = await start(t, 'rsa', ['ioredis', 'ioredis-5', 'ioredis'])
    for (const server of servers) assert.match(server.output(), /Redis: through ioredis \(it is a Redis Cluster\)/)
    const scene = await people(t, servers, 'doc')
    await scene.more(10)
    assert.equal(await holders(servers, 'doc'), 1)

    assert.match(await redis.client.get('rsaLock:doc'), / a1$/)
    await servers[0].kill()
    const killedAt = Date.now()
    await until(async () => !/ a1$/.test(await redis.client.get('rsaLock:doc')), { what: 'another server owns it' })
    // Sharded pub/sub counts who listens: nobody is evidence of death, before the membership ends.
    assert.ok(Date.now() - killedAt < LOCK_TTL / 2, `evidence was acted on after ${Date.now() - killedAt} ms`)
    await scene.more(20)

    for (const primary of [...redis.primaries]) {
      await passOn(primary, takesOver)
      await scene.more(20)
    }

    const [lease, , channel] = await nodesOf('rsa', 'doc', servers[1])
    for (const node of new Set([lease, channel])) {
      await passOn(node, () => node.kill9())
      await scene.more(20)
      await node.restart()
      await until(async () => /master_link_status:up/.test(await node.client.info('replication')), { what: 'it follows', timeout: 30_000 })
    }
    await scene.more(20)
    await scene.agree()
    assert.equal(await holders(servers, 'doc'), 1)
  })

  test('H10 a second server with a living serverId fails to start; a restart of a dead one does not wait', async (t) => {
    const [first] = await start(t, 'twice', ['ioredis'])
    const again = () => {
      const affinity = new RedisServerAffinity({ redis: redis.client.duplicate([], { lazyConnect: true }), serverId: 'a1', prefix: 'twice', lockTTL: LOCK_TTL })
      t.after(() => affinity.onDestroy())
      return affinity.ready()
    }
    await assert.rejects(again(), { code: 'AFF_ETAKEN' })
    await first.kill()
    const killedAt = Date.now()
    await again()
    assert.ok(Date.now() - killedAt < LOCK_TTL / 2, 'it knew that the former one is dead')
  })

  test('without sharded pub/sub there is no evidence of death, only the end of the membership', async (t) => {
    // What README says that the engine's user needs, without what is sharded.
    const own = '+auth +client|setname +ping +eval +get +set +del +pexpire +time +publish +subscribe +unsubscribe +pubsub|numsub +hset +hvals +hdel'.split(' ')
    const rules = ['>word', '-@all', '~classic*', '&classic*', ...own, '+info', '+cluster|slots', '+cluster|info']
    for (const { client } of redis.nodes) await client.call('ACL', 'SETUSER', 'classic', 'on', 'resetkeys', 'resetchannels', ...rules)
    const address = { ...redis.address, clusterOptions: { redisOptions: { username: 'classic', password: 'word' } } }
    const servers = await start(t, 'classic', ['ioredis', 'ioredis-5'], { address, lockTTL: 3000 })
    const scene = await people(t, servers, 'doc')
    await scene.more(100) // a false alarm would move it
    assert.match(await redis.client.get('classicLock:doc'), / a1$/)
    await servers[0].kill()
    await until(async () => / a2$/.test(await redis.client.get('classicLock:doc')), { what: 'the other server owns it' })
    await scene.more(10)
    await scene.agree()
  })
})
