// Versions of Hocuspocus, each with two servers of its own, and mixed; `make matrix` takes all of test/servers.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { authFrame, connect, MessageType, openSocket, others, rawSocket, showing, statelessFrame, syncFrame, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { freeze, startScene, thaw } from '../support/faults.mjs'
import { until, within } from '../support/wait.mjs'
import { PROVIDERS, SERVERS, diagnose, isMatrix, loadProvider } from '../support/versions.mjs'

/** All other tests run with Hocuspocus 4. */
const VERSIONS = isMatrix ? SERVERS : ['3.4.4']

const setup = ({ kept }) => ({
  affinity: { customEvents: { whoAmI: async (name, payload) => `${process.pid} ${name} ${payload}`, fails: async () => { throw Object.assign(new Error('no'), { code: 'E_NO' }) } } },
  extensions: [{ onAuthenticate: async ({ token }) => { if (token === kept.denied) throw Object.assign(new Error('denied'), { reason: 'denied for now' }) } }],
  beforeWrite: async () => {
    if (kept.broken) throw new Error('the database says no')
    await kept.gate
  },
})

/** Two servers; s1 owns `doc`, which ann has open there. */
async function two(t, hocuspocus, options = {}) {
  const cluster = await startCluster(2, { hocuspocus, setup, ...options })
  const clients = []
  // Hocuspocus 4 says goodbye with a frame that makes provider 2 throw: its clients go first.
  t.after(() => {
    for (const client of clients) client.destroy()
    return cluster.stop()
  })
  const [s1, s2] = cluster.servers
  const open = async (options) => {
    const client = connect(options)
    clients.push(client)
    return client
  }
  const ann = await synced(await open({ url: s1.url, name: 'doc', token: 'ann' }))
  return { cluster, s1, s2, ann, open, clients }
}

async function authenticated(socket, address) {
  await until(() => socket.frames.some((frame) => frame.address === address && frame.type === MessageType.Auth && frame.bytes.at(-1) !== 0), { what: `${address} is answered` })
  return socket.frames.filter((frame) => frame.address === address && frame.type === MessageType.Auth).at(-1)
}
const isDenied = ({ address, bytes }) => bytes[1 + Buffer.byteLength(address) + 1] === 1

/** Documents that were closed while their socket stayed open: a provider never recovers from that. */
const closedAlone = (scene) =>
  Object.values(scene.clients).flatMap(({ name, socket, documents }) =>
    [...documents].filter(([, { closes }]) => closes.length > socket.closes.length).map(([document]) => `${name} ${document}`),
  )

for (const version of VERSIONS) {
  describe(`Hocuspocus ${version}`, () => {
    const isThree = version.startsWith('3')

    for (const provider of isMatrix ? PROVIDERS : ['4.8.0']) {
      test(`through the proxy, with provider ${provider}: edits, cursors, stateless messages; its lease ends with its last client`, async (t) => {
        const library = await loadProvider(provider)
        const { cluster, s1, s2, ann, open } = await two(t, version)
        const socket = openSocket({ url: s2.url, library, headers: { cookie: 'who=bob' } })
        t.after(() => socket.destroy())
        const bob = await synced(await open({ socket, name: 'doc', token: 'bob', library }))
        const reader = await synced(await open({ socket: openSocket({ url: s2.url, library }), name: 'doc', token: 'readonly', library }))
        for (let round = 0; round < 10; round++) {
          type(ann, 'a')
          type(bob, 'b')
        }
        await until(() => text(ann).length === 20 && text(ann) === text(bob) && text(ann) === text(reader), { what: 'all have all' })
        await synced(bob)
        type(reader, 'refused')
        ann.setAwarenessField('user', 'ann')
        bob.setAwarenessField('user', 'bob')
        await until(() => others(bob).some(({ user }) => user === 'ann') && others(ann).some(({ user }) => user === 'bob'), { what: 'each sees the other' })
        bob.sendStateless('to the owner')
        await until(async () => (await s1.events('onStateless', 'doc')).some(({ payload }) => payload === 'to the owner'))
        await s1.broadcastStateless('doc', 'to all')
        await until(() => bob.stateless.includes('to all') && ann.stateless.includes('to all'))
        assert.equal(text(ann).length, 20, 'a read-only client writes for itself')
        // Hooks on the owner see the client's own request, in the form of their version.
        const [seen] = (await s1.events('onAuthenticate', 'doc')).filter(({ token }) => token === 'bob')
        assert.equal(seen.headers.cookie, 'who=bob')
        assert.match(seen.url, isThree ? /^\// : /^http:/)
        assert.equal(seen.address.replace('::ffff:', ''), '127.0.0.1')
        const shown = text(ann)
        assert.deepEqual([...bob.closes, ...bob.denied, ...socket.closes], [])
        reader.destroy()
        reader.socket.destroy()
        bob.destroy()
        await until(() => others(ann).length === 0, { what: 'no ghost of bob' })
        ann.destroy()
        await cluster.unloaded('doc')
        assert.equal(cluster.store.text('doc'), shown)
      })
    }

    test('the owner is killed: edits go on, no socket is closed; then the next one drains: no CLOSE', async (t) => {
      const scene = await startScene(t, { hocuspocus: version, lockTTL: 30_000 })
      await scene.warm()
      await scene.server.s1.kill('SIGKILL')
      const took = await scene.flows(performance.now())
      assert.ok(took < 10_000, `${took} ms`)
      await scene.check({ mayClose: ['home'] })
      const next = (await scene.lease('doc-1')).server
      await scene.warm()
      scene.leaving.add(next)
      await within(scene.server[next].destroy(), 'destroy', 15_000)
      await scene.server[next].kill('SIGKILL')
      await scene.flows(performance.now(), { document: 'doc-2', between: ['home', next === 's2' ? 'bob' : 'ann'] })
      const left = Object.values(scene.clients).filter(({ at }) => at === 's1' || at === next).map(({ name }) => name)
      await scene.check({ mayClose: left })
      assert.deepEqual(closedAlone(scene), [])
    })

    test('denied, and let in later on the same socket; another document of it notices nothing', async (t) => {
      const { s1, s2, ann } = await two(t, version)
      const raw = await rawSocket(s2.url)
      t.after(() => raw.terminate())
      await s1.run(({ kept }) => void (kept.denied = 'bob'))
      await s1.lockDocument('other')
      raw.send(authFrame('other', 'ann'))
      raw.send(syncFrame('other'))
      assert.ok(!isDenied(await authenticated(raw, 'other')))
      for (const denied of [true, true, false]) {
        await s1.run(({ kept }, denied) => void (kept.denied = denied ? 'bob' : undefined), denied)
        raw.frames.length = 0
        raw.send(authFrame('doc', 'bob'))
        raw.send(syncFrame('doc'))
        assert.equal(isDenied(await authenticated(raw, 'doc')), denied)
      }
      await until(() => raw.frames.some(({ address, type }) => address === 'doc' && type === MessageType.Sync), { what: 'it is synchronised' })
      raw.send(statelessFrame('other', 'still here'))
      await until(async () => (await s1.events('onStateless', 'other')).some(({ payload }) => payload === 'still here'))
      assert.equal(await s1.connections('doc'), 2)
      assert.equal(raw.closed, null)
      assert.deepEqual(ann.closes, [])
    })

    test('H20 sessions of one document on one socket: one lease, each with what is its own', async (t) => {
      const { cluster, s1, s2, ann, open } = await two(t, version)
      const socket = openSocket({ url: s2.url })
      t.after(() => socket.destroy())
      const [one, another] = [await open({ socket, name: 'doc', sessionAwareness: true }), await open({ socket, name: 'doc', sessionAwareness: true })]
      await synced(one)
      await synced(another)
      one.setAwarenessField('user', 'one')
      another.setAwarenessField('user', 'another')
      type(one, '1')
      await showing('1', [ann, one, another])
      type(another, '2')
      await showing('12', [ann, one, another])
      await until(() => others(ann).map(({ user }) => user).toSorted().join() === 'another,one', { what: 'ann sees both' })
      assert.equal(await s1.connections('doc'), 3)
      assert.deepEqual((await cluster.redis.client.keys('rsaLock:*')), ['rsaLock:doc'])
      one.destroy()
      await until(() => others(ann).length === 1 && others(ann)[0].user === 'another', { what: 'one is gone' })
      type(another, '3')
      await showing('123', [ann, another])
    })

    test('custom events; a store that fails ends nothing and blocks nothing', async (t) => {
      const { cluster, s1, s2, ann } = await two(t, version)
      assert.equal(await s2.handleEvent('whoAmI', 'doc', 'x'), `${s1.pid} doc x`)
      await assert.rejects(s2.handleEvent('fails', 'doc', 'x'), { code: 'E_NO', message: 'no' })
      await assert.rejects(s2.edit('doc', 'nothing'), { code: 'AFF_EOWNED', owner: 's1' })

      await s1.run(({ kept }) => void (kept.broken = true))
      type(ann, 'unstored ')
      await until(() => s1.output().includes('the database says no'), { what: 'a store has failed' })
      if (isThree) await assert.rejects(s1.edit('doc', 'direct '), { message: /the database says no/ }, 'who stores by itself hears of it')
      else await s1.edit('doc', 'direct ')
      await s1.run(({ kept }) => void (kept.broken = false))
      type(ann, 'stored ')
      await until(() => cluster.store.text('doc') === text(ann) && text(ann).includes('stored '), { what: 'a later store works' })
    })

    test('H01 an owner that has slept through its lease stores nothing when it wakes up, and hands over what it has', async (t) => {
      const { cluster, s1, s2, ann, open } = await two(t, version, { lockTTL: 1000, configuration: { debounce: 1000, maxDebounce: 2000 } })
      type(ann, 'ann ')
      await until(async () => (await s1.text('doc')) === 'ann ', { what: 's1 has it, and has yet to store it' })
      freeze(s1)
      const bob = await synced(await open({ url: s2.url, name: 'doc' }), 20_000)
      type(bob, 'bob ')
      ann.destroy()
      await until(() => cluster.store.text('doc') === 'bob ', { what: 's2 stores', timeout: 20_000 })
      thaw(s1)
      await until(() => text(bob).includes('ann ') && cluster.store.text('doc') === text(bob), { what: 'what s1 had is at its new owner, and stored' })
      assert.deepEqual([...new Set(cluster.store.stores('doc').map(({ serverId }) => serverId))], ['s2'])
      assert.deepEqual(bob.closes, [])
    })

    test('Redis is away as a document loses its last client: it stays, and is stored later', async (t) => {
      const { cluster, s1, ann } = await two(t, version, { lockTTL: 2000 })
      await cluster.redis.kill9()
      type(ann, 'kept')
      ann.destroy()
      await until(() => s1.output().includes('[onStoreDocument]'), { what: 'a store is put off', timeout: 15_000 })
      await until(async () => (await s1.connections('doc')) === 0)
      assert.deepEqual(await s1.documents(), ['doc'])
      await cluster.redis.restart()
      await until(() => cluster.store.text('doc') === 'kept', { what: 'it is stored' })
      await cluster.unloaded('doc')
      assert.equal(s1.exit, null)
    })

    if (isThree) {
      test('H19 pings: a client that says nothing stays, one that does not answer is gone, at its owner and its origin', async (t) => {
        const timeout = 2000 // a busy machine may take long for an answer
        const { s1, s2, ann } = await two(t, version, { configuration: { timeout } })
        const sockets = []
        t.after(() => sockets.forEach((raw) => raw.terminate()))
        const enter = async () => {
          const raw = await rawSocket(s2.url)
          sockets.push(raw)
          raw.send(authFrame('doc', 'raw'))
          raw.send(syncFrame('doc'))
          await authenticated(raw, 'doc')
          raw.pings = 0
          raw.on('ping', () => raw.pings++)
          return raw
        }
        // At all times between two pings: the owner's and the origin's clocks are to have nothing to do with each other.
        const idle = []
        while (idle.length < 20) {
          idle.push(await enter())
          await new Promise((resolve) => setTimeout(resolve, timeout / 20))
        }
        // These answer no ping; one of them has no document.
        const [dead, stranger] = [await enter(), await rawSocket(s2.url)]
        sockets.push(stranger)
        dead.pause()
        stranger.pause()
        await until(() => s2.run(({ affinity }, count) => affinity.stats().sockets === count, idle.length), { timeout: 30_000, what: 'those two are given up, and no other' })
        await until(async () => (await s1.connections('doc')) === 1 + idle.length, { timeout: 30_000, what: 'so they are at the owner' })
        const pings = idle.map((raw) => raw.pings)
        await until(() => idle.every((raw, index) => raw.pings >= pings[index] + 8), { timeout: 30_000, what: 'the others are pinged' })
        assert.deepEqual([...idle.map(({ closed }) => closed), ...ann.closes, ...ann.socket.closes].filter(Boolean), [])
      })
    }
  })
}

for (const version of VERSIONS) {
  test(`types: what users write compiles with Hocuspocus ${version}, and so do our declarations`, async () => {
    assert.deepEqual(await diagnose(version, 'test/servers/user.ts'), [])
  })
}

/** Hocuspocus 3 and 4 in one cluster, as during a rolling deploy: s1 drains, and is started again with another version. */
const ROLLS = isMatrix ? [['3.4.0', '4.7.0'], ['3.4.4', '4.0.0'], ['3.4.4', '4.7.0'], ['4.7.0', '3.4.4'], ['4.0.0', '4.7.0']] : [['3.4.4', '4.7.0']]
for (const [from, to] of ROLLS) {
  test(`a rolling deploy from Hocuspocus ${from} to ${to}, and back, while people type: nothing is lost, no document closed`, async (t) => {
    const scene = await startScene(t, { hocuspocus: from, lockTTL: 30_000 })
    const replace = async (serverId, hocuspocus) => {
      await scene.warm(5)
      scene.leaving.add(serverId)
      await within(scene.server[serverId].destroy(), 'destroy', 15_000)
      await scene.server[serverId].kill('SIGKILL')
      const { servers } = scene.cluster
      servers.splice(servers.indexOf(scene.server[serverId]), 1)
      scene.server[serverId] = await scene.cluster.add(serverId, { hocuspocus })
      scene.leaving.delete(serverId)
    }
    const majors = new Set()
    for (const [serverId, version] of [['s1', to], ['s2', to], ['s3', to], ['s1', from]]) {
      await replace(serverId, version)
      await scene.flows(performance.now())
      for (const document of ['doc-1', 'doc-2', 'doc-3']) {
        const { server } = await scene.lease(document)
        majors.add(`${document} ${await scene.server[server].run(({ hocuspocus }) => typeof hocuspocus.flushPendingStores)}`)
      }
    }
    // Each client's server was replaced, and so its socket closed.
    await scene.check({ mayClose: Object.keys(scene.clients), cursors: false, returns: true })
    assert.deepEqual(closedAlone(scene), [])
    if (from[0] !== to[0]) assert.ok(majors.size > 3, `documents were at servers of both versions: ${[...majors].join()}`)
  })
}
