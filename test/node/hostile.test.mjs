// Bad input: from clients, from the Redis channels, in names. One server suffers for one client at most.
import assert from 'node:assert/strict'
import { randomBytes } from 'node:crypto'
import net from 'node:net'
import { after, before, describe, test } from 'node:test'
import { makeServer, makeSocket } from '../support/lifecycle-process.mjs'
import { authFrame, connect, frame, MessageType, rawSocket, showing, statelessFrame, syncFrame, synced, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startRedis } from '../support/redis.mjs'
import { until } from '../support/wait.mjs'

describe('bad input', () => {
  let cluster, s1, s2
  /** Two clients on two servers who must not notice anything. */
  let ann, bob
  let letters = 0

  before(async () => {
    cluster = await startCluster(2)
    ;[s1, s2] = cluster.servers
    ann = await synced(connect({ url: s2.url, name: 'bystanders' }))
    bob = await synced(connect({ url: s1.url, name: 'bystanders' }))
  })
  after(async () => {
    ann?.destroy()
    bob?.destroy()
    await cluster.stop()
  })

  async function allIsWell() {
    type(letters % 2 ? ann : bob, 'x')
    letters += 1
    await showing('x'.repeat(letters), [ann, bob])
    assert.deepEqual([s1.exit, s2.exit], [null, null])
    assert.deepEqual([ann.closes, bob.closes], [[], []])
  }

  const malformed = {
    'an empty frame': new Uint8Array(0),
    'one byte': new Uint8Array([5]),
    'one high byte': new Uint8Array([0xff]),
    'a huge declared length': new Uint8Array([0xff, 0xff, 0xff, 0xff, 0x0f, 0x61]),
    'a length beyond 64 bits': new Uint8Array(20).fill(0xff),
    'an address without a type': frame('bystanders', 0).subarray(0, -1),
    'broken UTF-8 as a name': new Uint8Array([2, 0xc3, 0x28, 2, 0, 0]),
    'a truncated token': authFrame('bystanders').subarray(0, 16),
  }

  for (const [what, bytes] of Object.entries(malformed)) {
    test(`H25 ${what}: that socket is closed, nothing else is touched`, async () => {
      for (const server of [s1, s2]) {
        const socket = await rawSocket(server.url)
        socket.send(bytes)
        await until(() => socket.closed, { what: `${server.serverId} closes the socket` })
        assert.ok([4401, 4205].includes(socket.closed.code), `closed with ${socket.closed.code}`)
      }
      await allIsWell()
    })
  }

  test('H25 after authentication: a broken sync message ends that document as Hocuspocus does, with and without a proxy', async () => {
    const seen = []
    for (const server of [s1, s2]) {
      const socket = await rawSocket(server.url)
      socket.send(authFrame('bystanders'))
      await until(() => socket.frames.some((one) => one.type === MessageType.Auth))
      socket.send(frame('bystanders', MessageType.Sync, (encoder) => encoder.cbuf.fill(0xff, encoder.cpos, (encoder.cpos += 8))))
      await until(() => socket.closed || socket.frames.some((one) => one.type === MessageType.CLOSE))
      seen.push(socket.closed ? socket.closed.code : 'CLOSE')
      socket.terminate()
    }
    assert.equal(seen[0], seen[1])
    await allIsWell()
  })

  test('H25 a client can send garbage as long as it likes', async () => {
    for (let round = 0; round < 30; round++) {
      const socket = await rawSocket((round % 2 ? s1 : s2).url)
      if (round % 3 === 0) socket.send(authFrame('bystanders'))
      const prefix = round % 2 ? frame('bystanders', round % 12) : new Uint8Array(0)
      for (let n = 0; n < 20; n++) socket.send(Buffer.concat([prefix, randomBytes(n * 7)]))
      socket.terminate()
    }
    await allIsWell()
  })

  test('H28 malformed messages on the channels of the links are dropped', async () => {
    const { client } = cluster.redis
    const spy = client.duplicate()
    const recorded = []
    spy.on('pmessageBuffer', (_pattern, channel, message) => recorded.push([channel.toString(), message]))
    await spy.psubscribe('rsaLink:*')
    await allIsWell()
    await until(() => recorded.length > 0, { what: 'messages on rsaLink:*' })
    const channels = /** @type {string[]} */ (await client.pubsub('CHANNELS', 'rsaLink:*'))
    assert.ok(channels.length >= 2, `channels: ${channels}`)

    for (const channel of channels) {
      await client.publish(channel, '')
      for (let length = 1; length < 64; length++) await client.publish(channel, randomBytes(length))
      await client.publish(channel, Buffer.alloc(100_000, 0xff))
      await client.publish(channel, '{"json": true}')
    }
    await allIsWell()
    const counts = await Promise.all([s1, s2].map((server) => server.run(({ affinity }) => affinity.stats().malformed)))
    assert.ok(counts.every((count) => count >= 60), `counted: ${counts}`)
    // Real ones, cut off and with one bit changed.
    for (const [channel, message] of recorded.slice(0, 20)) {
      for (let end = 0; end < message.length; end += 1 + Math.floor(message.length / 20)) await client.publish(channel, message.subarray(0, end))
      for (let n = 0; n < 20; n++) {
        const changed = Buffer.from(message)
        changed[Math.floor((n * message.length) / 20)] ^= 1 << (n % 8)
        await client.publish(channel, changed)
      }
    }
    await spy.disconnect()
    await until(() => ann.isSynced && bob.isSynced)
    // These may be taken for the real peer's (H31 is about that), and cost clients their sockets, but no edit.
    type(ann, 'x')
    type(bob, 'x')
    letters += 2
    await showing('x'.repeat(letters), [ann, bob], 20_000)
    ann.closes.length = 0
    bob.closes.length = 0
    assert.deepEqual([s1.exit, s2.exit], [null, null])
    const fresh = await synced(connect({ url: s1.url, name: 'after-garbage' }))
    const other = await synced(connect({ url: s2.url, name: 'after-garbage' }))
    type(other, 'fine')
    await showing('fine', [fresh, other])
    fresh.destroy()
    other.destroy()
  })

  const names = {
    colons: 'a:b:c',
    braces: '{tag}-{x}',
    spaces: '  two  words ',
    'a path': '../../etc/passwd?x=1#y%00',
    'a newline': 'line\r\nline',
    emoji: 'Ünïcode 日本語 😀',
    glob: '*?[a-z]',
    'one byte': 'a',
    '65,535 bytes': 'n'.repeat(65_535),
    '65,535 bytes of three-byte characters': '語'.repeat(21_845),
    'our own keys': 'rsaLock:x',
  }
  for (const [what, name] of Object.entries(names)) {
    test(`H29 a document's name: ${what}`, async () => {
      const owner = await synced(connect({ url: s2.url, name }))
      const remote = await synced(connect({ url: s1.url, name }))
      type(remote, 'ok')
      await showing('ok', [owner, remote])
      assert.deepEqual(await cluster.holders(name), [s2])
      owner.destroy()
      remote.destroy()
      await cluster.unloaded(name)
      assert.equal(cluster.store.text(name), 'ok')
    })
  }

  for (const name of ['constructor', '__proto__']) {
    test(`H29 a document named ${name}, which Hocuspocus refuses, harms nothing`, async () => {
      for (const server of [s1, s2]) {
        const socket = await rawSocket(server.url)
        socket.send(authFrame(name))
        socket.send(syncFrame(name))
        await until(() => socket.closed || socket.frames.length > 0)
        socket.terminate()
      }
      await until(async () => (await cluster.redis.client.exists(`rsaLock:${name}`)) === 0, { what: 'no lease is left' })
      await allIsWell()
    })
  }

  test('H29 names that are too long, empty or blank are refused', async () => {
    for (const name of ['n'.repeat(65_536), 'n'.repeat(1_000_000), '', '   ']) {
      const socket = await rawSocket(s1.url)
      socket.send(authFrame(name))
      await until(() => socket.closed || socket.frames.some((one) => one.type === MessageType.Auth), { what: `${name.length} characters are refused` })
      assert.ok(socket.closed || socket.frames[0].bytes.at(-1) !== 0)
      socket.terminate()
    }
    await until(async () => (await cluster.redis.client.keys('rsaLock:*')).every((key) => key === 'rsaLock:bystanders'), { what: 'no lease is left' })
    await allIsWell()
  })

  test('H30 denied clients leave no lease behind', async () => {
    const socket = await rawSocket(s1.url)
    for (let n = 0; n < 90; n++) socket.send(authFrame(`denied-${n}`, 'denied'))
    await until(() => socket.frames.filter((one) => one.type === MessageType.Auth).length === 90, { what: '90 denials' })
    await until(async () => (await cluster.redis.client.keys('rsaLock:denied-*')).length === 0, { what: 'their leases are gone' })
    assert.deepEqual(await s1.documents(), [])
    socket.terminate()
    await allIsWell()
  })

  test('H30 a client that never authenticates meets bounds, and leaves nothing behind', async () => {
    const socket = await rawSocket(s1.url)
    for (let n = 0; n < 1000; n++) socket.send(syncFrame(`anonymous-${n}`))
    await until(() => socket.closed, { what: 'too many documents' })
    assert.equal(socket.closed.code, 4205)

    const second = await rawSocket(s1.url)
    // For a document that another server owns, more than Hocuspocus would keep before authentication (5 MiB).
    for (let n = 0; n < 100; n++) second.send(statelessFrame('bystanders', 'y'.repeat(100_000)))
    await until(() => second.closed, { what: 'too many bytes' })
    assert.equal(second.closed.code, 4205)
    await until(async () => (await cluster.redis.client.keys('rsaLock:anonymous-*')).length === 0, { what: 'no lease is left' })
    await allIsWell()
  })
})

test('H32 sockets without a sec-websocket-key, as over HTTP/2, are told apart', async (t) => {
  const redis = await startRedis()
  const servers = ['owner', 'origin'].map((serverId) => makeServer(serverId, { address: redis.options }))
  t.after(async () => {
    await Promise.all(servers.map(({ affinity }) => affinity.onDestroy()))
    await redis.stop()
  })
  const [owner, origin] = servers
  await Promise.all(servers.map(({ affinity }) => affinity.ready()))
  const held = await Promise.all(['doc-1', 'doc-2'].map((name) => owner.hocuspocus.openDirectConnection(name, {})))
  const seen = [[], []]
  const sockets = seen.map((frames) => makeSocket(origin, (data) => frames.push(Buffer.from(data).toString('latin1')), { key: null }))
  sockets.forEach((socket, n) => {
    socket.say(authFrame(`doc-${n + 1}`))
    socket.say(syncFrame(`doc-${n + 1}`))
  })
  const tell = (text) => held.forEach(({ document }) => document.broadcastStateless(`${text} ${document.name}`))
  await until(() => origin.affinity.stats().routes === 2 && held.every(({ document }) => document.getConnectionsCount() === 2))
  tell('first')
  await until(() => seen.every((frames) => frames.some((frame) => frame.includes('first'))))
  sockets[0].close()
  await until(() => held[0].document.getConnectionsCount() === 1)
  tell('second')
  await until(() => seen[1].some((frame) => frame.includes('second doc-2')))
  assert.equal(held[1].document.getConnectionsCount(), 2)
  assert.ok(!seen[0].some((frame) => /doc-2|second/.test(frame)))
  assert.ok(!seen[1].some((frame) => frame.includes('doc-1')))
  for (const connection of held) await connection.disconnect()
})

describe('H32 two sockets with the same sec-websocket-key', () => {
  /** A WebSocket by hand: `ws` chooses its key itself. */
  async function socketWithKey(port, key) {
    const socket = net.connect(port, '127.0.0.1')
    const state = { bytes: Buffer.alloc(0), closed: false, destroy: () => socket.destroy() }
    socket.on('data', (data) => (state.bytes = Buffer.concat([state.bytes, data])))
    socket.on('close', () => (state.closed = true))
    socket.on('error', () => {})
    socket.write(
      `GET / HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: ${key}\r\n\r\n`,
    )
    await until(() => state.bytes.includes('\r\n\r\n') || state.closed)
    state.send = (bytes) => {
      // Masked with zeros, as short as it can be.
      const header = bytes.length < 126 ? Buffer.from([0x82, 0x80 | bytes.length]) : Buffer.from([0x82, 0x80 | 126, bytes.length >> 8, bytes.length & 0xff])
      socket.write(Buffer.concat([header, Buffer.alloc(4), bytes]))
    }
    return state
  }

  for (const wiring of ['auto', 'ws']) {
    test(`do not get each other's data (${wiring})`, async (t) => {
      const cluster = await startCluster(2, { wiring })
      t.after(() => cluster.stop())
      const [s1, s2] = cluster.servers
      const ann = await synced(connect({ url: s2.url, name: 'secret' }))
      t.after(() => ann.destroy())
      const key = 'dGhlIHNhbWUga2V5IDEyMw=='
      const first = await socketWithKey(s1.port, key)
      t.after(() => first.destroy())
      first.send(authFrame('secret', 'ann'))
      first.send(syncFrame('secret'))
      await until(async () => (await s2.connections('secret')) === 2)

      const second = await socketWithKey(s1.port, key)
      t.after(() => second.destroy())
      if (!second.closed) second.send(authFrame('public', 'mallory'))
      if (wiring === 'ws') {
        // The key is all that onSocketClose() gets: a second one can't be told apart, and is refused.
        await until(() => second.closed || second.bytes.includes(Buffer.from([0x88])), { what: 'the duplicate is refused' })
      }
      await s2.broadcastStateless('secret', 'for ann only')
      await until(() => first.bytes.includes('for ann only'))
      assert.ok(!second.bytes.includes('for ann only'))
      second.destroy()

      // The end of the second is not the end of the first.
      await s2.broadcastStateless('secret', 'still for ann')
      await until(() => first.bytes.includes('still for ann'))
      assert.equal(await s2.connections('secret'), 2)
    })
  }
})
