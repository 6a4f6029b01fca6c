// Redis as it is reached natively: TCP and Unix sockets, users, databases, reconnection.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { connect, editCrosses, synced, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

async function worksIn(cluster, t) {
  const [s1, s2] = cluster.servers
  const [ann, bob] = await editCrosses(t, s1, s2)
  ann.destroy()
  bob.destroy()
  await cluster.unloaded('doc')
}

describe('Redis', () => {
  const ways = {
    'a Unix socket': {},
    TCP: { port: true },
    'a password': { port: true, password: 'pä$$ wörd' },
    'a user and a password': { username: 'app', password: 'secret', acl: ['default off', 'app on >secret ~* &* +@all'] },
    'a database index': { port: true, db: 3 },
  }
  // The rule is README's, word for word.
  const readme = readFileSync(new URL('../../README.md', import.meta.url), 'utf8')
  const acl = /^ACL SETUSER (affinity .*)$/m.exec(readme)[1].replace('>password', '>secret')
  test('as a user that may do what README says, and nothing else', async (t) => {
    const cluster = await startCluster(0, { redisOptions: { username: 'test', password: 'secret', acl: ['default off', 'test on >secret ~* &* +@all', acl] } })
    t.after(() => cluster.stop())
    const redis = { ...cluster.redis.options, username: 'affinity' }
    await Promise.all([cluster.add('s1', { redis }), cluster.add('s2', { redis })])
    await cluster.redis.client.acl('LOG', 'RESET')
    await worksIn(cluster, t)
    await cluster.servers[0].kill()
    await until(async () => (await cluster.servers[1].edit('doc', 'x').catch(() => null)) !== null, { what: 'evidence of death' })
    await cluster.servers[1].destroy()
    const denied = (await cluster.redis.client.acl('LOG')).map((entry) => entry.join(' '))
    assert.deepEqual(denied.filter((entry) => /name=redis-affinity/.test(entry)), [])
  })

  for (const [what, redisOptions] of Object.entries(ways)) {
    test(`over ${what}`, async (t) => {
      const cluster = await startCluster(2, { redisOptions })
      t.after(() => cluster.stop())
      await worksIn(cluster, t)
      if (redisOptions.db) {
        assert.equal(await cluster.redis.client.exists('rsaServer:s1'), 1, 'the key is in that database')
        const other = cluster.redis.client.duplicate({ db: 0 })
        assert.deepEqual(await other.keys('*'), [])
        other.disconnect()
      }
    })
  }

  test('no ioredis command is sent for documents', async (t) => {
    const cluster = await startCluster(2)
    t.after(() => cluster.stop())
    // What ioredis sends of its own accord when it connects comes first.
    for (const server of cluster.servers) await until(() => server.run(({ redis }) => redis.status === 'ready'))
    const before = await Promise.all(cluster.servers.map((server) => server.redisCommands()))
    await worksIn(cluster, t)
    assert.deepEqual(await Promise.all(cluster.servers.map((server) => server.redisCommands())), before)
  })

  test('connections that Redis closes come back, and nothing that clients wrote is lost', async (t) => {
    const cluster = await startCluster(2)
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const ann = await synced(connect({ url: s1.url, name: 'doc' }))
    const bob = await synced(connect({ url: s2.url, name: 'doc' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    for (const kind of ['pubsub', 'normal']) {
      await cluster.redis.client.client('KILL', 'TYPE', kind, 'SKIPME', 'yes')
      type(ann, 'a')
      type(bob, 'b')
      await until(() => ann.document.getText('text').length === bob.document.getText('text').length && bob.document.getText('text').length % 2 === 0, {
        timeout: 20_000,
        what: `both have all after the ${kind} connections were closed`,
      })
      await Promise.all([synced(ann, 20_000), synced(bob, 20_000)])
    }
    assert.equal(ann.document.getText('text').toString(), bob.document.getText('text').toString())
    assert.equal(ann.document.getText('text').length, 4)
  })

  test('after a restart of Redis, empty, the servers are members again and documents go on', async (t) => {
    const cluster = await startCluster(2, { lockTTL: 2000 })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const ann = await synced(connect({ url: s1.url, name: 'doc' }))
    t.after(() => ann.destroy())
    await cluster.redis.kill9()
    type(ann, 'offline ')
    await cluster.redis.restart()
    await until(async () => (await cluster.redis.client.exists('rsaServer:s1', 'rsaServer:s2')) === 2, { timeout: 20_000, what: 'both are members again' })
    const bob = await synced(connect({ url: s2.url, name: 'other' }), 20_000)
    type(bob, 'fresh')
    await synced(bob)
    bob.destroy()
    assert.deepEqual([s1.exit, s2.exit], [null, null])
  })
})
