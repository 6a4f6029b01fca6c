// The option `secret`: who has it is heard, and nobody else.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import { test } from 'node:test'
import { connect, openSocket, showing, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { holds, until } from '../support/wait.mjs'

const ONE = 'a secret of the cluster'
const TWO = randomBytes(32)

const stats = (server) => server.run(({ affinity }) => affinity.stats())

/** What is published on the links: `[channel, message]`. */
async function listenIn(t, redis) {
  const spy = redis.client.duplicate()
  t.after(() => spy.disconnect())
  const heard = []
  spy.on('pmessageBuffer', (_pattern, channel, message) => heard.push([channel.toString(), message]))
  await spy.psubscribe('rsaLink:*')
  return heard
}

for (const [what, options] of [
  ['alone', { secret: ONE }],
  ['as bytes', { secret: TWO }],
  ['with pack', { secret: ONE, setup: ({ msgpackr }) => ({ affinity: { pack: msgpackr.pack, unpack: msgpackr.unpack } }) }],
]) {
  test(`H31 two servers with the same secret work together (${what})`, async (t) => {
    const cluster = await startCluster(2, options)
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const heard = await listenIn(t, cluster.redis)
    const ann = await synced(connect({ url: s1.url, name: 'doc' }))
    const bob = await synced(connect({ url: s2.url, name: 'doc' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    for (let n = 0; n < 20; n++) type(n % 2 ? ann : bob, 'x')
    await showing('x'.repeat(20), [ann, bob])
    type(bob, 'y'.repeat(1_000_000)) // in fragments
    await until(() => text(ann).length === 1_000_020)
    for (const server of [s1, s2]) {
      const { forged, replayed, malformed, gaps } = await stats(server)
      assert.deepEqual({ forged, replayed, malformed, gaps }, { forged: 0, replayed: 0, malformed: 0, gaps: 0 })
    }
    assert.ok(heard.length > 4 && heard.every(([, message]) => message[0] === 0x81), 'all is signed')
  })
}

test('without a secret nothing is signed, and nothing refused', async (t) => {
  const cluster = await startCluster(2)
  t.after(() => cluster.stop())
  const heard = await listenIn(t, cluster.redis)
  const ann = await synced(connect({ url: cluster.servers[0].url, name: 'doc' }))
  const bob = await synced(connect({ url: cluster.servers[1].url, name: 'doc' }))
  t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
  type(bob, 'x')
  await showing('x', [ann, bob])
  assert.ok(heard.length > 0 && heard.every(([, message]) => message[0] === 1), 'the first byte is the version')
  assert.equal((await stats(cluster.servers[0])).forged, 0)
})

test('H31 forged, changed, misdirected and replayed messages are refused and counted', async (t) => {
  const cluster = await startCluster(2, { secret: ONE })
  t.after(() => cluster.stop())
  const [s1, s2] = cluster.servers
  const heard = await listenIn(t, cluster.redis)
  const ann = await synced(connect({ url: s1.url, name: 'doc' }))
  const bob = await synced(connect({ url: s2.url, name: 'doc' }))
  t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
  type(bob, 'x')
  await showing('x', [ann, bob])
  const { client } = cluster.redis
  const genuine = heard.slice()
  const channels = [...new Set(genuine.map(([channel]) => channel))]
  assert.equal(channels.length, 2)
  const counted = async (name) => (await stats(s1))[name] + (await stats(s2))[name]

  // What the batch would be without a secret, and noise.
  let expected = 0
  const forge = async (channel, message) => {
    await client.publish(channel, message)
    expected++
  }
  for (const [channel, message] of genuine.slice(0, 10)) {
    await forge(channel, message.subarray(1 + 8 + 8 + 1 + 20))
    for (const at of [0, 1, 9, 16, 17, 18, 22, 37, 38, message.length - 1]) {
      const changed = Buffer.from(message)
      changed[at] ^= 1
      await forge(channel, changed)
    }
    await forge(channel, message.subarray(0, -1))
    await forge(channels.find((other) => other !== channel), message)
    await forge(channel, randomBytes(100))
    await forge(channel, '')
  }
  await until(async () => (await counted('forged')) === expected, { what: `${expected} are counted` })

  for (const [channel, message] of genuine) await client.publish(channel, message)
  await until(async () => (await counted('replayed')) === genuine.length, { what: 'replayed ones are counted' })

  type(ann, 'y')
  type(bob, 'z')
  await until(() => text(ann).length === 3 && text(ann) === text(bob))
  for (const name of ['malformed', 'stale', 'resets', 'failovers']) assert.equal(await counted(name), 0, name)
  assert.deepEqual([ann.closes, bob.closes], [[], []])
  for (const server of [s1, s2]) {
    const told = server.output().match(/without a valid signature/g) ?? []
    assert.equal(told.length, 1, 'told once, not each time')
  }
})

for (const [what, secret] of [
  ['no secret', undefined],
  ['another secret', 'of another cluster'],
]) {
  test(`H31 a server with ${what} is not heard; its clients are closed, not left hanging`, async (t) => {
    const cluster = await startCluster(1, { secret: ONE, lockTTL: 600, proxySocketTTL: 1000 })
    t.after(() => cluster.stop())
    const [s1] = cluster.servers
    const odd = await cluster.add('odd', { secret })
    const ann = await synced(connect({ url: s1.url, name: 'doc' }))
    const own = await synced(connect({ url: odd.url, name: 'own' }))
    const socket = openSocket({ url: odd.url })
    const bob = connect({ socket, name: 'doc' })
    const cleo = connect({ url: s1.url, name: 'own' })
    t.after(() => [ann, own, bob, cleo, socket].forEach((provider) => provider.destroy()))

    // Both directions: what the odd one does not own, and what it owns.
    await until(() => socket.closes.length > 0 && cleo.socket.closes.length > 0, { what: 'both are closed' })
    assert.equal(socket.closes[0].code, 4205)
    assert.equal(cleo.socket.closes[0].code, 4205)
    assert.deepEqual([bob.isSynced, cleo.isSynced], [false, false])
    assert.match(odd.output(), /server s1 .*does not answer.*secret/)
    assert.match(s1.output(), /server odd .*does not answer.*secret/)
    assert.match(s1.output(), /without a valid signature/)
    assert.match(odd.output(), secret ? /without a valid signature/ : /this server has none/)
    assert.ok((await stats(s1)).forged > 0)

    // Each goes on with its own documents, and neither takes the other's.
    type(ann, 'a')
    type(own, 'o')
    await Promise.all([synced(ann), synced(own)])
    assert.deepEqual([ann.socket.closes, own.socket.closes], [[], []])
    assert.deepEqual(await cluster.holders('doc'), [s1])
    assert.deepEqual(await cluster.holders('own'), [odd])
    await assert.rejects(odd.lockDocument('doc'), { code: 'AFF_EOWNED', owner: 's1' })

    // Put right, it works: the provider has not given up.
    await odd.destroy()
    const right = await cluster.add('odd', { secret: ONE })
    const dan = await synced(connect({ url: right.url, name: 'doc' }))
    t.after(() => dan.destroy())
    assert.equal(text(dan), 'a')
  })
}

test('H31 the secret is changed server by server while clients type', async (t) => {
  const cluster = await startCluster(3, { secret: ONE })
  t.after(() => cluster.stop())
  const current = [...cluster.servers]
  const clients = await Promise.all(
    ['ann', 'bob', 'cleo'].map(async (name, index) => {
      // A load balancer: home, or whoever is there.
      const home = `s${index + 1}`
      const url = () => (current.find((server) => server.serverId === home) ?? current.find(Boolean)).url
      return synced(connect({ url, name: 'doc', token: name }))
    }),
  )
  t.after(() => clients.forEach((client) => client.destroy()))
  let typed = 0
  const typing = setInterval(() => type(clients[typed++ % 3], '.'), 5)
  t.after(() => clearInterval(typing))

  for (const secret of [[TWO, ONE], TWO]) {
    for (let index = 0; index < 3; index++) {
      const old = current[index]
      current.splice(index, 1)
      await old.destroy()
      current.splice(index, 0, await cluster.add(old.serverId, { secret }))
      const before = typed
      await until(() => typed > before + 20 && clients.every((client) => client.isSynced))
    }
  }
  clearInterval(typing)
  await Promise.all(clients.map((client) => synced(client)))
  await until(() => clients.every((client) => text(client).length === typed), { what: `all ${typed} letters are there` })
  assert.equal((await cluster.holders('doc')).length, 1)
  for (const server of cluster.servers.slice(3)) {
    if (!server.exit) assert.equal((await stats(server)).forged, 0, server.serverId)
  }
  assert.ok(clients.every((client) => client.denied.length === 0))
})

test('a bad secret is refused by name, and never shown', async () => {
  const { RedisServerAffinity } = await import('@hocuspocus/extension-redis-affinity')
  const { Redis } = await import('ioredis')
  const redis = new Redis({ lazyConnect: true })
  for (const secret of ['', 5, null, {}, [], ['hush', 5], ['hush', ''], ['hush', undefined], ['hush', 'hush2', 'hush3'], Buffer.alloc(0), 'hush'.repeat(16_385)]) {
    assert.throws(
      () => new RedisServerAffinity({ redis, secret }),
      (error) => error.code === 'AFF_EINVAL' && error.message.includes('option "secret"') && !error.message.includes('hush'),
      `${typeof secret} ${String(secret).slice(0, 20)}`,
    )
  }
})
