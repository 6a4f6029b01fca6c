// What servers know of each other: servers(), documents(), and the questions behind them.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect, synced } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

const serversOf = (server) => server.run(({ affinity }) => affinity.servers())
const documentsOf = (server, ...args) => server.run(({ affinity }, ...args) => affinity.documents(...args), ...args)
const failure = (server, ...args) =>
  server.run(
    ({ affinity }, ...args) =>
      affinity.documents(...args).then(
        () => null,
        ({ code, message }) => ({ code, message }),
      ),
    ...args,
  )

/** Documents `a` (two clients, at s1 and s2) and `b` (one client at s2), both owned by s1; `c` by s2. */
async function threeDocuments(t, options) {
  const cluster = await startCluster(2, options)
  t.after(() => cluster.stop())
  const [s1, s2] = cluster.servers
  const providers = []
  t.after(() => providers.forEach((provider) => provider.destroy()))
  const open = async (server, name) => providers.push(await synced(connect({ url: server.url, name })))
  await open(s1, 'a')
  await open(s1, 'b')
  await open(s2, 'a')
  await open(s2, 'c')
  return { cluster, s1, s2, providers }
}

for (const [what, options] of [
  ['natively', {}],
  ['with a secret', { secret: 'a secret' }],
  ['with pack', { setup: ({ msgpackr }) => ({ affinity: { pack: msgpackr.pack, unpack: msgpackr.unpack } }) }],
  ['with pack and a secret', { secret: 'a secret', setup: ({ msgpackr }) => ({ affinity: { pack: msgpackr.pack, unpack: msgpackr.unpack } }) }],
]) {
  test(`servers list each other and their documents (${what})`, async (t) => {
    const { s1, s2 } = await threeDocuments(t, { lockTTL: 2000, ...options })
    const listed = await until(async () => {
      const servers = await serversOf(s2)
      const [one, two] = servers // each tells of itself every third of lockTTL
      return one?.documents === 2 && one.proxies === 1 && two?.documents === 1 && two.sockets === 2 ? servers : false
    })
    assert.deepEqual(
      listed.map(({ serverId, alive, draining, documents, sockets, proxies }) => ({ serverId, alive, draining, documents, sockets, proxies })),
      [
        { serverId: 's1', alive: true, draining: false, documents: 2, sockets: 2, proxies: 1 },
        { serverId: 's2', alive: true, draining: false, documents: 1, sockets: 2, proxies: 0 },
      ],
    )
    assert.ok(listed.every(({ pid, version, updatedAt, startedAt }) => pid > 0 && /^\d+\.\d+\.\d+/.test(version) && updatedAt >= startedAt))
    for (const asker of [s1, s2]) {
      const { total, documents } = await documentsOf(asker, 's1')
      assert.equal(total, 2)
      assert.deepEqual(
        documents.map(({ name, clients, from }) => ({ name, clients, from })),
        [
          { name: 'a', clients: 2, from: { s1: 1, s2: 1 } },
          { name: 'b', clients: 1, from: { s1: 1 } },
        ],
      )
    }
    assert.deepEqual((await documentsOf(s1, 's2')).documents.map(({ name }) => name), ['c'])
    assert.deepEqual((await documentsOf(s2)).documents.map(({ name }) => name), ['c'])
    assert.deepEqual((await documentsOf(s2, 's1', { prefix: 'b' })).documents.map(({ name }) => name), ['b'])
    const cut = await documentsOf(s2, 's1', { limit: 1 })
    assert.deepEqual([cut.total, cut.documents.length], [2, 1])
  })
}

test('a question that makes no sense is answered with an error', async (t) => {
  const { s1 } = await threeDocuments(t)
  assert.deepEqual(await failure(s1, 'nobody'), { code: 'AFF_EINVAL', message: 'server "nobody" is no member of the cluster' })
  for (const limit of [0, 10_001, 1.5, 'x', null]) {
    for (const server of ['s1', 's2']) {
      assert.deepEqual(await failure(s1, server, { limit }), { code: 'AFF_EINVAL', message: 'limit: must be an integer from 1 to 10000' })
    }
  }
  assert.deepEqual(await failure(s1, 's2', { prefix: 1 }), { code: 'AFF_EINVAL', message: 'prefix: must be a string' })
})

test('what anybody publishes on the channel of a server harms nothing', async (t) => {
  const { cluster, s1 } = await threeDocuments(t)
  const boot = await cluster.redis.client.get('rsaServer:s1')
  const channel = `rsaLink:${boot.slice(0, 12)}`
  const mark = Buffer.from('\0affctl\x01')
  const control = (body, from = 'rsaLink:000000000000') => {
    const length = Buffer.alloc(2)
    length.writeUInt16LE(from.length)
    return Buffer.concat([mark, length, Buffer.from(from), Buffer.from(body)])
  }
  const spy = cluster.redis.client.duplicate()
  t.after(() => spy.disconnect())
  const heard = []
  spy.on('messageBuffer', (_channel, message) => heard.push(message))
  await spy.subscribe('rsaLink:000000000000')
  const messages = [
    mark,
    Buffer.concat([mark, Buffer.from([255, 255])]),
    control(''),
    control('null'),
    control('{"re":1,"answer":1}'),
    control('{"ask":"documents"}'),
    control('{"id":7,"ask":"__proto__"}'),
    control('{"id":8,"ask":"documents","args":null}'),
  ]
  for (const message of messages) await cluster.redis.client.publish(channel, message)
  await until(() => heard.length === 2)
  const [unknown, documents] = heard.map((message) => JSON.parse(message.subarray(10 + message.readUInt16LE(8)).toString()))
  assert.deepEqual(unknown, { re: 7, error: { code: 'AFF_EINVAL', message: 'unknown question "__proto__"' } })
  assert.equal(documents.re, 8)
  assert.equal(documents.answer.total, 2)
  assert.equal((await documentsOf(s1)).total, 2)
})

test('a server that leaves is not listed, one that is killed is no member', async (t) => {
  const { cluster, s1, s2 } = await threeDocuments(t, { lockTTL: 2000 })
  await until(async () => (await serversOf(s1)).length === 2)
  await s2.kill()
  await until(async () => (await serversOf(s1)).some(({ serverId, alive }) => serverId === 's2' && !alive))
  const s3 = await cluster.add('s3')
  await until(async () => (await serversOf(s1)).length === 3)
  await s3.stop()
  assert.deepEqual((await serversOf(s1)).map(({ serverId }) => serverId), ['s1', 's2'])
  // After ten minutes the killed one is forgotten.
  const info = JSON.parse(await cluster.redis.client.hget('rsaServers', 's2'))
  await cluster.redis.client.hset('rsaServers', 's2', JSON.stringify({ ...info, updatedAt: Date.now() - 11 * 60_000 }), 'odd', '{', 'odder', 'null')
  assert.deepEqual((await serversOf(s1)).map(({ serverId }) => serverId), ['s1'])
  assert.equal(await cluster.redis.client.hexists('rsaServers', 's2'), 0)
})

test('a server that hangs does not answer', async (t) => {
  const { s1, s2 } = await threeDocuments(t)
  void s2.kill('SIGSTOP')
  assert.deepEqual(await failure(s1, 's2'), { code: 'AFF_ETIMEOUT', message: 'server "s2" does not answer' })
})
