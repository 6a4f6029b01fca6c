// Start, end, options, time-outs.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import Redis from 'ioredis'
import { connect, openSocket, synced, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startRedis } from '../support/redis.mjs'
import { startServer } from '../support/server.mjs'
import { holds, until } from '../support/wait.mjs'

describe('options', () => {
  const bad = {
    redis: [undefined, null, {}, 'localhost'],
    pack: [1, 'x', {}],
    unpack: [1, 'x', {}],
    serverId: ['', 5, 's'.repeat(256)],
    lockTTL: [0, -1, NaN, '10', Infinity],
    proxySocketTTL: [0, -1, NaN, '10'],
    customEventTTL: [0, -1, NaN, '10'],
    prefix: ['', 5],
    customEvents: [5, 'x', { event: 'not a function' }],
    deriveContext: [5, {}],
  }
  for (const [name, values] of Object.entries(bad)) {
    test(`a bad ${name} is refused by name`, async (t) => {
      const { RedisServerAffinity } = await import('@hocuspocus/extension-redis-affinity')
      const redis = new Redis({ lazyConnect: true })
      t.after(() => redis.disconnect())
      for (const value of values) {
        assert.throws(
          () => new RedisServerAffinity({ redis, serverId: 'x', [name]: value }),
          (error) => error instanceof Error && error.code === 'AFF_EINVAL' && error.message.includes(name),
          `${name}: ${String(value)}`,
        )
      }
    })
  }

  test('pack without unpack, or unpack without pack, is refused', async (t) => {
    const { RedisServerAffinity } = await import('@hocuspocus/extension-redis-affinity')
    const redis = new Redis({ lazyConnect: true })
    t.after(() => redis.disconnect())
    assert.throws(() => new RedisServerAffinity({ redis, serverId: 'x', pack: () => '' }), { code: 'AFF_EINVAL', message: /unpack/ })
    assert.throws(() => new RedisServerAffinity({ redis, serverId: 'x', unpack: () => ({}) }), { code: 'AFF_EINVAL', message: /pack/ })
  })

  test('serverId is optional; prefix names keys and channels', async (t) => {
    const redis = await startRedis()
    t.after(() => redis.stop())
    const servers = await Promise.all([1, 2].map(() => startServer({ redis, prefix: 'mine' })))
    t.after(() => Promise.all(servers.map((server) => server.stop())))
    assert.equal((await redis.client.keys('mineServer:*')).length, 2, 'two names without a clash')
    await servers[0].lockDocument('x')
    assert.deepEqual((await redis.client.keys('*')).filter((key) => !key.startsWith('mine')), [])
    assert.equal(await redis.client.exists('mineLock:x'), 1)
    const channels = /** @type {string[]} */ (await redis.client.pubsub('CHANNELS'))
    assert.ok(channels.length > 0 && channels.every((channel) => channel.startsWith('mine')), channels.join())
  })
})

describe('start', () => {
  test('a wrong password rejects server.listen() with a clear error', async (t) => {
    const redis = await startRedis({ password: 'right' })
    t.after(() => redis.stop())
    await assert.rejects(startServer({ serverId: 's1', redis: { ...redis.options, password: 'wrong' } }), { code: 'AFF_EREFUSED', message: /WRONGPASS|password|NOAUTH/i })
    await assert.rejects(startServer({ serverId: 's1', redis: { ...redis.options, password: undefined } }), { code: 'AFF_EREFUSED', message: /NOAUTH|password/i })
  })

  test('ready() rejects in the same way', async (t) => {
    const redis = await startRedis({ password: 'right' })
    t.after(() => redis.stop())
    await assert.rejects(startServer({ serverId: 's1', redis: { ...redis.options, password: 'wrong' }, wiring: 'ws' }), { code: 'AFF_EREFUSED' })
  })

  test('a serverId that is in use rejects', async (t) => {
    const cluster = await startCluster(1)
    t.after(() => cluster.stop())
    await assert.rejects(startServer({ serverId: 's1', redis: cluster.redis }), { code: 'AFF_ETAKEN', message: /s1/ })
    assert.equal((await cluster.servers[0].documents()).length, 0)
  })

  test('waits for a Redis that comes up late', async (t) => {
    const redis = await startRedis({ port: true })
    t.after(() => redis.stop())
    await redis.kill9()
    const starting = startServer({ serverId: 's1', redis })
    t.after(async () => (await starting.catch(() => null))?.stop())
    await redis.restart()
    const server = await starting
    await server.lockDocument('late')
  })
})

describe('end', () => {
  test('onDestroy frees leases and membership, and the process ends by itself', async (t) => {
    const cluster = await startCluster(2)
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const ann = await synced(connect({ url: s1.url, name: 'mine' }))
    const bob = await synced(connect({ url: s1.url, name: 'theirs' }))
    const cleo = await synced(connect({ url: s2.url, name: 'theirs' }))
    t.after(() => [ann, bob, cleo].forEach((provider) => provider.destroy()))
    type(ann, 'kept')
    await synced(ann)
    await s1.lockDocument('held')
    for (const provider of [ann, bob]) provider.socket.disconnect()
    await s1.destroy()

    const keys = await cluster.redis.client.keys('rsa*')
    assert.ok(!keys.includes('rsaServer:s1'), 'the membership is gone')
    assert.ok(!keys.includes('rsaLock:mine') && !keys.includes('rsaLock:held'), `the leases are gone: ${keys}`)
    assert.equal(cluster.store.text('mine'), 'kept')
    assert.deepEqual(await s1.endsByItself(), { code: 0, signal: null }, s1.output())

    // Hocuspocus leaves its clients' sockets open; they would hold the process, with and without us.
    cleo.socket.disconnect()
    await s2.lockDocument('held')
    await s2.destroy()
    assert.deepEqual(await s2.endsByItself(), { code: 0, signal: null }, s2.output())
    assert.deepEqual(await cluster.redis.client.keys('rsa*'), [])
    await until(async () => (await cluster.redis.clientCount()) === 0, { what: 'no connection to Redis is left' })
  })

  test('calls after the end reject', async (t) => {
    const cluster = await startCluster(1)
    t.after(() => cluster.stop())
    const [s1] = cluster.servers
    await s1.destroy()
    await assert.rejects(s1.lockDocument('x'), { code: 'AFF_ECLOSED' })
    await assert.rejects(s1.handleEvent('x', 'x'), { code: 'AFF_ECLOSED' })
  })

  test('a process that exits without a word is no trouble', async (t) => {
    const cluster = await startCluster(2, { lockTTL: 1000 })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    await s1.lockDocument('x')
    s1.run(() => process.exit(7)).catch(() => {})
    assert.deepEqual(await s1.exited, { code: 7, signal: null }, s1.output())
    await until(() => s2.lockDocument('x').then(() => true), { what: 's2 takes over', every: 100 })
  })
})

describe("Hocuspocus's time-out", () => {
  test('H15 a client whose documents are all remote stays connected', async (t) => {
    const cluster = await startCluster(1)
    t.after(() => cluster.stop())
    const [owner] = cluster.servers
    const origin = await cluster.add('origin', { configuration: { timeout: 400 } })
    const ann = await synced(connect({ url: owner.url, name: 'remote' }))
    const socket = openSocket({ url: origin.url })
    const bob = await synced(connect({ socket, name: 'remote' }))
    t.after(() => [ann, bob, socket].forEach((one) => one.destroy()))
    await holds(() => socket.closes.length === 0, { during: 2000 })
    type(bob, 'x')
    await synced(bob)

    // The same after a local document has come and gone.
    const local = await synced(connect({ socket, name: 'local' }))
    assert.deepEqual(await origin.documents(), ['local'])
    local.destroy()
    await until(async () => (await origin.documents()).length === 0)
    await holds(() => socket.closes.length === 0, { during: 2000 })
    type(bob, 'y')
    await synced(bob)
  })

  test('H15 traffic for a remote document counts as life for the local one', async (t) => {
    const cluster = await startCluster(1)
    t.after(() => cluster.stop())
    const [owner] = cluster.servers
    const origin = await cluster.add('origin', { configuration: { timeout: 600 } })
    const ann = await synced(connect({ url: owner.url, name: 'remote' }))
    const socket = openSocket({ url: origin.url })
    const remote = await synced(connect({ socket, name: 'remote' }))
    const local = await synced(connect({ socket, name: 'local' }))
    t.after(() => [ann, remote, local, socket].forEach((one) => one.destroy()))
    let typed = 0
    await holds(
      () => {
        if (typed++ % 10 === 0) type(remote, '.')
        return socket.closes.length === 0 && local.closes.length === 0
      },
      { during: 2500 },
    )
    type(local, 'x')
    await synced(local)
  })

  test('H15 traffic for a local document counts as life for the connection at a remote owner', async (t) => {
    const cluster = await startCluster(2, { configuration: { timeout: 600 } })
    t.after(() => cluster.stop())
    const [owner, origin] = cluster.servers
    // A direct connection keeps the document with its owner, and can't time out. It counts as a connection.
    await owner.edit('remote', '', { keep: true })
    const socket = openSocket({ url: origin.url })
    const remote = await synced(connect({ socket, name: 'remote' }))
    const local = await synced(connect({ socket, name: 'local' }))
    t.after(() => [remote, local, socket].forEach((one) => one.destroy()))
    assert.deepEqual(await cluster.holders('local'), [origin])
    assert.deepEqual(await cluster.holders('remote'), [owner])
    let typed = 0
    await holds(
      async () => {
        if (typed++ % 10 === 0) type(local, '.')
        return socket.closes.length === 0 && remote.closes.length === 0 && (await owner.connections('remote')) === 2
      },
      { during: 2500 },
    )
    // The same connection all the time, and not one that was made anew.
    assert.equal((await owner.events('onAuthenticate', 'remote')).length, 1)
    type(remote, 'x')
    await synced(remote)
    assert.equal(await owner.text('remote'), 'x')
  })

  const { HOCUSPOCUS_VERSION: version = '' } = process.env
  const isPinged = version.startsWith('3.')
  const isOnlyTold = version.startsWith('4.0.') // and the socket stays open
  test(`a client that is silent on a local document ${isPinged ? 'answers pings, and stays' : 'is closed'}, as without the extension`, async (t) => {
    const cluster = await startCluster(1, { configuration: { timeout: 300 } })
    t.after(() => cluster.stop())
    const bob = await synced(connect({ url: cluster.servers[0].url, name: 'idle' }))
    t.after(() => bob.destroy())
    if (isPinged) return holds(() => bob.closes.length === 0, { during: 2000 })
    const closes = isOnlyTold ? bob.closes : bob.socket.closes
    await until(() => closes.length > 0)
    assert.deepEqual(closes[0], { code: isOnlyTold ? 1000 : 4408, reason: 'Connection Timeout' })
  })
})
