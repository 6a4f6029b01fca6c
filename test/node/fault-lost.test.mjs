// What a server still holds of a document that it has lost, or may lose at any moment, is neither stored over nor forgotten.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { connect, openSocket, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startRelay } from '../support/relay.mjs'
import { holds, until } from '../support/wait.mjs'

/** Loads and writes wait as long as their gate is shut. */
const setup = () => ({ beforeLoad: () => globalThis.gates?.load?.shut, beforeWrite: () => globalThis.gates?.write?.shut })

const shut = (server, gate) =>
  server.run((_, gate) => {
    globalThis.gates ??= {}
    globalThis.gates[gate] = {}
    globalThis.gates[gate].shut = new Promise((resolve) => (globalThis.gates[gate].open = resolve))
  }, gate)
const open = (server, gate) =>
  server.run((_, gate) => {
    globalThis.gates[gate].open()
    delete globalThis.gates[gate]
  }, gate)

/** In Redis the document is another server's from here on; nobody has been told. */
async function give(cluster, name, serverId) {
  const { client } = cluster.redis
  const [epoch] = (await client.get(`rsaLock:${name}`)).split(' ')
  await client.set(`rsaLock:${name}`, `${BigInt(epoch) + 1000n} ${await client.get(`rsaServer:${serverId}`)} ${serverId}`)
}

/** The server finds out. */
const findsOut = (server, name) => assert.rejects(server.run(({ affinity }, name) => affinity.assertOwner(name), name), { code: 'AFF_EOWNED' })

/** Who has been given the document takes it, and gives it back. */
async function goesBack(cluster, from, to, name) {
  await until(() => from.run(({ hocuspocus }, name) => hocuspocus.documents.has(name), name), { what: `${from.serverId} has it` })
  await give(cluster, name, to.serverId)
  await findsOut(from, name)
}

/** Redis has lost the document's record, as after a restart. */
const forget = (cluster, name) => cluster.redis.client.del(`rsaLock:${name}`)

const proxies = (server) => server.run(({ affinity }) => affinity.metrics().proxySockets)

/** The server asks Redis, and has the document under a new epoch. */
const findsItOwns = (server, name) => server.run(({ affinity }, name) => affinity.assertOwner(name), name)

async function two(t, options = {}) {
  const cluster = await startCluster(2, { lockTTL: 10_000, setup, configuration: { debounce: 300, maxDebounce: 2000 }, ...options })
  t.after(() => cluster.stop())
  return { cluster, s1: cluster.servers[0], s2: cluster.servers[1] }
}

describe('lost', () => {
  test('a lost instance that a direct connection ends does not cancel the store of the one that came after it', async (t) => {
    const { cluster, s1, s2 } = await two(t)
    const ann = await synced(connect({ url: s1.url, name: 'slot' }))
    t.after(() => ann.destroy())
    await s1.edit('slot', 'direct ', { keep: true })
    await until(() => cluster.store.text('slot') === 'direct ')
    await give(cluster, 'slot', 's2')
    await findsOut(s1, 'slot')
    await goesBack(cluster, s2, s1, 'slot')
    await until(() => s1.run(({ hocuspocus, kept }) => (hocuspocus.documents.get('slot') ?? kept.direct.get('slot').document) !== kept.direct.get('slot').document), {
      what: 'there is another instance',
    })
    await until(async () => (await cluster.ownerOf('slot')) === 's1')
    type(ann, 'ann')
    await synced(ann)
    await s1.closeDirect('slot')
    await until(() => cluster.store.text('slot') === 'direct ann', { timeout: 5000, what: 'it is stored' })
  })

  test('a document that is lost while it is loaded, and had again, is loaded again', async (t) => {
    const { cluster, s1, s2 } = await two(t)
    await shut(s1, 'load')
    const ann = connect({ url: s1.url, name: 'loading' })
    t.after(() => ann.destroy())
    await until(() => cluster.store.loads('loading').length === 1)
    await give(cluster, 'loading', 's2')
    await findsOut(s1, 'loading')
    await goesBack(cluster, s2, s1, 'loading')
    await until(async () => (await cluster.ownerOf('loading')) === 's1')
    await open(s1, 'load')
    type(ann, 'ann')
    await synced(ann)
    await until(() => cluster.store.text('loading') === 'ann', { timeout: 5000, what: 'it is stored' })
    assert.deepEqual(cluster.store.loads('loading').map((load) => load.serverId), ['s1', 's2', 's1'])
    assert.deepEqual([...ann.closes, ...ann.denied], [])
  })

  test('a client that waits for a document that is lost, and had again, opens it once', async (t) => {
    const { cluster, s1, s2 } = await two(t)
    await s1.lockDocument('stays')
    const ann = openSocket({ url: s2.url })
    t.after(() => ann.destroy())
    const stays = await synced(connect({ socket: ann, name: 'stays' }))
    await s1.lockDocument('comes-back')
    await shut(s1, 'load')
    const comesBack = connect({ socket: ann, name: 'comes-back' })
    t.after(() => comesBack.destroy())
    comesBack.setAwarenessField('user', 'ann')
    await until(() => cluster.store.loads('comes-back').length === 1, { what: 's1 loads it' })
    await give(cluster, 'comes-back', 's2')
    await findsOut(s1, 'comes-back')
    await synced(comesBack) // s2 has found its name in Redis
    await give(cluster, 'comes-back', 's1')
    await findsOut(s2, 'comes-back')
    await until(async () => (await proxies(s1)) === 2, { what: 'ann is back on another proxy socket' })
    await open(s1, 'load')
    const bob = await synced(connect({ url: s1.url, name: 'comes-back' }))
    t.after(() => bob.destroy())
    const seesAnn = () => [...bob.awareness.getStates().values()].some(({ user }) => user === 'ann')
    await until(seesAnn, { what: 'bob sees ann' })
    assert.equal(await s1.connections('comes-back'), 2, 'ann and bob')
    stays.destroy() // and so her first proxy socket ends
    await until(async () => (await proxies(s1)) === 1)
    await holds(seesAnn, { during: 200, what: 'bob sees ann' })
    assert.deepEqual(ann.closes, [])
  })

  test('a store that ends after others have loaded the document: its last client leaves, and the owner gets what it holds', async (t) => {
    const { cluster, s1, s2 } = await two(t)
    const ann = await synced(connect({ url: s1.url, name: 'late' }))
    await shut(s1, 'write')
    type(ann, 'ann')
    await synced(ann)
    await until(() => s1.run(({ hocuspocus }) => hocuspocus.documents.get('late').saveMutex.isLocked()), { what: 's1 stores' })
    ann.destroy()
    await until(async () => (await s1.connections('late')) === 0)
    await give(cluster, 'late', 's2')
    const bob = await synced(connect({ url: s2.url, name: 'late' }))
    t.after(() => bob.destroy())
    assert.equal(text(bob), '')
    await open(s1, 'write')
    await until(() => text(bob) === 'ann', { timeout: 5000, what: 'bob has it' })
    type(bob, ' bob')
    await until(() => ['ann bob', ' bobann'].includes(cluster.store.text('late')), { timeout: 5000, what: 'both are stored' })
  })

  test('a new epoch while the document is loaded again: what was read before it does not count', async (t) => {
    const { cluster, s1 } = await two(t)
    const ann = await synced(connect({ url: s1.url, name: 'twice' }))
    t.after(() => ann.destroy())
    await shut(s1, 'load')
    for (let loads = 2; loads <= 3; loads++) {
      await forget(cluster, 'twice')
      await findsItOwns(s1, 'twice')
      if (loads === 2) await until(() => cluster.store.loads('twice').length === 2, { what: 'it is loaded again' })
    }
    await open(s1, 'load')
    await until(() => cluster.store.loads('twice').length === 3, { timeout: 5000, what: 'it is loaded once more' })
    await until(() => cluster.store.stores('twice').length === 1, { what: 'it is stored when it is whole' })
  })

  test('a new epoch while the document is loaded for the first time: its lease ends with it', async (t) => {
    const { cluster, s1 } = await two(t)
    await shut(s1, 'load')
    const ann = connect({ url: s1.url, name: 'first' })
    await until(() => cluster.store.loads('first').length === 1)
    await forget(cluster, 'first')
    await findsItOwns(s1, 'first')
    await until(() => cluster.store.loads('first').length === 2, { what: 'it is loaded under the new epoch too' })
    await open(s1, 'load')
    await synced(ann)
    ann.destroy()
    await cluster.unloaded('first')
  })

  test('an instance under a new epoch is not unloaded before it is loaded again and stored', async (t) => {
    const { cluster, s1 } = await two(t)
    const ann = await synced(connect({ url: s1.url, name: 'only here' }))
    type(ann, 'ann')
    await until(() => cluster.store.text('only here') === 'ann')
    // As if another owner, who had loaded it before that store, had stored over it.
    cluster.store.remove('only here')
    await shut(s1, 'load')
    await forget(cluster, 'only here')
    await findsItOwns(s1, 'only here')
    ann.destroy()
    await until(async () => (await s1.connections('only here')) === 0)
    // Hocuspocus's own attempt to unload it, and one that we can wait for.
    await s1.run(({ hocuspocus }, name) => hocuspocus.unloadDocument(hocuspocus.documents.get(name)), 'only here')
    await open(s1, 'load')
    await until(() => cluster.store.text('only here') === 'ann', { timeout: 5000, what: 'it is stored again' })
    await cluster.unloaded('only here')
  })

  test('what Redis has said before the JavaScript thread hung is not believed afterwards', async (t) => {
    const { cluster, s1 } = await two(t, { lockTTL: 2000 })
    const ann = await synced(connect({ url: s1.url, name: 'hung' }))
    t.after(() => ann.destroy())
    const scripts = async () => Number(/cmdstat_eval:calls=(\d+)/.exec(await cluster.redis.client.info('commandstats'))[1])
    const before = await scripts()
    const outcome = s1.run(async ({ affinity }, name) => {
      const asked = affinity.assertOwner(name)
      await new Promise((resolve) => setImmediate(resolve)) // the engine has the question
      const until = Date.now() + 1500
      while (Date.now() < until);
      return asked.then(() => 'owner', (error) => error.code)
    }, 'hung')
    await until(async () => (await scripts()) > before, { what: 'Redis has answered' })
    await give(cluster, 'hung', 's2')
    assert.equal(await outcome, 'AFF_EOWNED')
  })

  test('H12 a drain that begins while a document is unloaded: both end, and the lease with them', async (t) => {
    const { cluster, s2 } = await two(t)
    const relay = await startRelay(cluster.redis)
    t.after(() => relay.stop())
    const leaver = await cluster.add('leaver', { redis: relay })
    const ann = await synced(connect({ url: leaver.url, name: 'going' }))
    type(ann, 'ann')
    await until(() => cluster.store.text('going') === 'ann')
    relay.delay(300)
    ann.destroy()
    await until(async () => (await leaver.connections('going')) === 0)
    await leaver.run(({ affinity }) => affinity.drain())
    assert.deepEqual(await leaver.documents(), [])
    assert.equal(await cluster.ownerOf('going'), undefined)
    const bob = await synced(connect({ url: s2.url, name: 'going' }))
    t.after(() => bob.destroy())
    assert.equal(text(bob), 'ann')
  })

  test('H12 a drain without Redis: its own clients are not told that their document is closed, and go on when Redis is back', async (t) => {
    const { cluster, s2 } = await two(t)
    const relay = await startRelay(cluster.redis)
    t.after(() => relay.stop())
    const leaver = await cluster.add('leaver', { redis: relay, drainTimeout: 500 })
    const ann = await synced(connect({ url: leaver.url, name: 'cut off' }))
    t.after(() => ann.destroy())
    relay.cut({ refuse: true })
    type(ann, 'ann')
    await leaver.run(({ affinity }) => affinity.drain())
    type(ann, ' goes on')
    assert.deepEqual(await leaver.documents(), [])
    relay.restore()
    const bob = await synced(connect({ url: s2.url, name: 'cut off' }))
    t.after(() => bob.destroy())
    await until(() => text(bob) === 'ann goes on', { timeout: 20_000, what: 'bob has what ann has typed' })
    await synced(ann)
    assert.deepEqual([...ann.closes, ...ann.denied], [])
  })

  test('H12 a store that outlasts the drain and ends after the next owner has stored is stored over', async (t) => {
    const { cluster, s2 } = await two(t, { lockTTL: 3000 })
    const leaver = await cluster.add('leaver', { drainTimeout: 500 })
    await leaver.edit('outlasts', '', { keep: true })
    const ann = await synced(connect({ url: s2.url, name: 'outlasts' }))
    t.after(() => ann.destroy())
    assert.equal(await cluster.ownerOf('outlasts'), 'leaver')
    await shut(leaver, 'write')
    type(ann, 'one')
    await until(() => leaver.run(({ hocuspocus }) => hocuspocus.documents.get('outlasts').saveMutex.isLocked()), { what: 'the leaver stores' })
    await leaver.run(async ({ affinity }) => {
      await affinity.drain()
      await affinity.onDestroy()
    })
    await until(async () => (await cluster.ownerOf('outlasts')) === 's2', { timeout: 5000 })
    type(ann, ' two')
    await until(() => cluster.store.text('outlasts') === 'one two', { timeout: 5000, what: 's2 has stored' })
    await open(leaver, 'write')
    await until(() => cluster.store.text('outlasts') === 'one', { what: "the leaver's store has ended" })
    await until(() => cluster.store.text('outlasts') === 'one two', { timeout: 5000, what: 's2 stores once more' })
  })

  test('H12 what a direct connection writes and leaves behind while the lease is being freed moves with the document', async (t) => {
    const { cluster, s2 } = await two(t)
    const relay = await startRelay(cluster.redis)
    t.after(() => relay.stop())
    const leaver = await cluster.add('leaver', { redis: relay, configuration: { debounce: 60_000, maxDebounce: 60_000 } })
    await leaver.edit('freed', 'one', { keep: true })
    relay.delay(300)
    await leaver.run(({ affinity, hocuspocus, kept }) => {
      kept.document = hocuspocus.documents.get('freed')
      kept.drained = affinity.drain()
    })
    await until(() => cluster.store.text('freed') === 'one', { what: 'the leaver has stored' })
    // It asks Redis to free the lease now, and waits for the answer.
    await leaver.run(async ({ kept }) => {
      await kept.document.saveMutex.waitForUnlock()
      await new Promise(setImmediate)
      const connection = kept.direct.get('freed')
      kept.direct.delete('freed')
      await connection.transact((document) => document.getText('text').insert(3, ' two'))
      await connection.disconnect()
    })
    await leaver.run(({ kept }) => kept.drained)
    const bob = await synced(connect({ url: s2.url, name: 'freed' }))
    t.after(() => bob.destroy())
    await until(() => text(bob) === 'one two', { timeout: 5000, what: 'all of it has moved' })
  })
})
