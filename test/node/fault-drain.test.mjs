// A server leaves gracefully: its documents move before it goes, and nobody hears a CLOSE.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { connect, synced, text, type } from '../support/client.mjs'
import { startScene } from '../support/faults.mjs'
import { until, within } from '../support/wait.mjs'

const HOME = { mayClose: ['home'] }
/** So that a store within the test can only be that of the drain. */
const patient = { configuration: { debounce: 60_000, maxDebounce: 120_000 } }

const stores = (scene, serverId, name) => scene.cluster.store.stores(name).filter((store) => store.serverId === serverId)

describe('drain', () => {
  test('H12 affinity.drain(): the documents move while everybody types; the server goes on as an origin; no socket is closed at all', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000, each: { s1: patient } })
    await scene.warm()
    const before = await scene.lease('doc-1')
    const started = performance.now()
    await within(scene.server.s1.run(({ affinity }) => affinity.drain()), 'drain', 15_000)
    t.diagnostic(`drained in ${Math.round(performance.now() - started)} ms`)
    assert.deepEqual(await scene.server.s1.documents(), [])
    const after = await scene.lease('doc-1')
    assert.ok(after.epoch > before.epoch && after.server !== 's1')
    await scene.flows(performance.now())
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    const pause = scene.pause(started, { till: performance.now() - 200 })
    t.diagnostic(`the longest pause: ${Math.round(pause)} ms`)
    assert.ok(pause < 1000, `${pause} ms`)
    await scene.check()
    assert.equal(stores(scene, 's1', 'doc-1').length, 1, 'stored once by the leaver')
    assert.deepEqual(scene.storers('doc-1').slice(0, 1), ['s1'])
  })

  test("H12 server.destroy(): no CLOSE reaches a client that is connected elsewhere, and no other document's is touched", async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000, each: { s1: patient } })
    await scene.warm()
    const started = performance.now()
    scene.leaving.add('s1')
    await within(scene.server.s1.destroy(), 'destroy', 15_000)
    t.diagnostic(`left in ${Math.round(performance.now() - started)} ms`)
    await scene.flows(performance.now())
    const pause = scene.pause(started, { till: performance.now() - 200 })
    t.diagnostic(`the longest pause: ${Math.round(pause)} ms`)
    assert.ok(pause < 1000, `${pause} ms`)
    await scene.server.s1.kill('SIGKILL')
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    await scene.check(HOME)
    assert.equal(stores(scene, 's1', 'doc-1').length, 1, 'stored once by the leaver')
  })

  test('H12 SIGTERM to the process of the owner', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000, each: { s1: { configuration: { ...patient.configuration, stopOnSignals: true } } } })
    await scene.warm()
    const started = performance.now()
    scene.leaving.add('s1')
    const exit = await within(scene.server.s1.kill('SIGTERM'), 's1 ends', 15_000)
    assert.deepEqual(exit, { code: 0, signal: null }, scene.server.s1.output())
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    await scene.flows(performance.now())
    assert.ok(scene.pause(started, { till: performance.now() - 200 }) < 1000)
    await scene.check(HOME)
    assert.equal(stores(scene, 's1', 'doc-1').length, 1, 'stored once by the leaver')
  })

  test('H12 what only a direct connection has written moves with the document', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000, each: { s1: patient } })
    await scene.warm()
    scene.leaving.add('s1')
    const edit = scene.note('doc-1', 'd')
    const took = await scene.server.s1.run(async ({ hocuspocus, affinity }, edit) => {
      const connection = await hocuspocus.openDirectConnection('doc-1', {})
      connection.document.transact(() => connection.document.getText('text').insert(0, edit))
      const started = Date.now()
      await affinity.drain()
      return Date.now() - started
    }, edit)
    assert.ok(took < 5000, `an open direct connection does not hold the drain up until drainTimeout: ${took} ms`)
    await scene.server.s1.kill('SIGKILL')
    await scene.flows(performance.now())
    await scene.check(HOME)
  })

  test('H12 50 documents, each typed in: all move, each is stored once by the leaver', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000, each: { s1: patient } })
    const { s1, s2, s3 } = scene.server
    const names = Array.from({ length: 50 }, (_, n) => `many-${n}`)
    for (const name of names) await s1.lockDocument(name)
    const clients = names.map((name) => [s2, s3].map((server) => connect({ url: server.url, name })))
    t.after(() => clients.flat().forEach((provider) => provider.destroy()))
    await Promise.all(clients.flat().map((provider) => synced(provider, 20_000)))
    for (const name of names) await s1.releaseLock(name)
    await scene.warm()
    let typed = 0
    const typing = setInterval(() => {
      for (const provider of clients.flat()) type(provider, `${typed},`)
      typed++
    }, 100)
    t.after(() => clearInterval(typing))
    await until(() => typed > 3)
    scene.leaving.add('s1')
    await within(s1.destroy(), 'destroy', 15_000)
    const enough = typed + 3
    await until(() => typed > enough)
    clearInterval(typing)
    // Two texts of one length are not enough: each may still lack what the other has typed last.
    const all = Array.from({ length: typed }, (_, n) => `${n},`.repeat(2)).join('')
    const isComplete = ([a, b]) => text(a) === text(b) && text(a).length >= all.length && a.unsyncedChanges + b.unsyncedChanges === 0
    await until(() => clients.every(isComplete), { what: 'all have all' })
    const sorted = (text) => text.split(',').toSorted().join()
    for (const [a] of clients) assert.equal(sorted(text(a)), sorted(all))
    assert.ok(clients.flat().every((provider) => provider.surplus === 0), 'nothing was acknowledged twice')
    assert.deepEqual(clients.flat().flatMap((provider) => provider.closes), [])
    for (const name of names) assert.equal(stores(scene, 's1', name).length, 1, `${name} was stored once by s1`)
    await scene.flows(performance.now())
    await s1.kill('SIGKILL')
    await scene.check(HOME)
  })

  test('H12 without Redis it ends by drainTimeout, and what has not moved fails over', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 1500, drainTimeout: 800 })
    await scene.warm()
    scene.relay.s1.blackhole()
    scene.leaving.add('s1')
    const started = performance.now()
    await within(scene.server.s1.destroy(), 'destroy', 6000)
    t.diagnostic(`left in ${Math.round(performance.now() - started)} ms`)
    await scene.server.s1.kill('SIGKILL')
    await scene.flows(performance.now())
    await scene.check(HOME)
  })

  test('H12 server.destroy() waits for what a direct connection has written, and not for its end', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000, each: { s1: patient } })
    await scene.warm()
    scene.leaving.add('s1')
    const { s1 } = scene.server
    const edit = scene.note('doc-1', 'd')
    // A second document of s1's goes at the same time, and has nothing to hand over.
    await s1.run(async ({ hocuspocus, kept }, edit) => {
      kept.other = await hocuspocus.openDirectConnection('other', {})
      kept.direct = await hocuspocus.openDirectConnection('doc-1', {})
      kept.direct.document.transact(() => kept.direct.document.getText('text').insert(0, edit))
    }, edit)
    const started = performance.now()
    await within(s1.destroy(), 'destroy', 15_000)
    assert.ok(performance.now() - started < 5000, 'long before drainTimeout')
    await s1.kill('SIGKILL')
    await scene.flows(performance.now())
    await scene.check(HOME)
  })

  for (const [what, drainTimeout] of [['a store that hangs', 800], ['no time at all', 0]]) {
    test(`H12 with ${what}: at drainTimeout the document moves unstored; no CLOSE reaches a client elsewhere`, async (t) => {
      const setup = ({ kept }) => ({ beforeWrite: async () => kept.hang && new Promise(() => {}) })
      const scene = await startScene(t, { lockTTL: 10_000, drainTimeout, setup })
      await scene.warm()
      scene.leaving.add('s1')
      if (drainTimeout > 0) await scene.server.s1.run(({ kept }) => void (kept.hang = true))
      await within(scene.server.s1.destroy(), 'destroy', 8000)
      await scene.flows(performance.now())
      await scene.server.s1.kill('SIGKILL')
      await scene.check(HOME)
      assert.deepEqual(scene.closesOfDocuments(), [])
    })
  }

  test('H12 a document that is still being loaded when the drain begins moves too', async (t) => {
    const setup = ({ kept }) => ({ beforeLoad: async () => kept.gate })
    const scene = await startScene(t, { lockTTL: 10_000, setup })
    const { s1, s2 } = scene.server
    await scene.warm()
    await s1.run(({ kept }) => void (kept.gate = new Promise((resolve) => (kept.open = resolve))))
    await s1.lockDocument('late')
    const late = connect({ url: s2.url, name: 'late' })
    t.after(() => late.destroy())
    await until(() => s1.run(({ hocuspocus }) => hocuspocus.loadingDocuments.has('late')), { what: 's1 loads it' })
    scene.leaving.add('s1')
    const destroyed = s1.destroy()
    await until(async () => !(await s1.documents()).includes('doc-1'), { what: 'the drain has begun' })
    type(late, 'early bird')
    await s1.run(({ kept }) => kept.open())
    await within(destroyed, 'destroy', 8000)
    await s1.kill('SIGKILL')
    await until(() => late.unsyncedChanges === 0 && scene.cluster.store.text('late') === 'early bird', { what: 'it is stored elsewhere' })
    assert.deepEqual([...late.closes, ...late.denied, ...late.socket.closes], [])
    await scene.check(HOME)
  })

  test('H12 what a failed store has not stored is not dropped: it is stored as soon as that works', async (t) => {
    const setup = ({ kept }) => ({
      beforeWrite: async () => {
        if (!kept.broken) return
        kept.failures = (kept.failures ?? 0) + 1
        throw new Error('the database says no')
      },
    })
    const scene = await startScene(t, { lockTTL: 10_000, setup })
    const { s1 } = scene.server
    const failures = () => s1.run(({ kept }) => kept.failures ?? 0)
    await scene.warm()
    await s1.run(({ kept }) => void (kept.broken = true))
    const ann = await synced(connect({ url: s1.url, name: 'alone' }))
    type(ann, 'x')
    ann.destroy()
    // Nobody else has it.
    await until(async () => (await failures()) > 0 && (await s1.connections('alone')) === 0)
    scene.leaving.add('s1')
    const destroyed = s1.destroy()
    const before = await failures()
    await until(async () => (await failures()) > before, { what: 's1 tries again' })
    await s1.run(({ kept }) => void (kept.broken = false))
    await within(destroyed, 'destroy', 8000)
    await s1.kill('SIGKILL')
    assert.equal(scene.cluster.store.text('alone'), 'x')
    await scene.check(HOME)
  })

  test('the last server leaves: there is nobody to take its documents; they are stored', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000 })
    await scene.warm()
    scene.rest()
    assert.deepEqual((await scene.settle()).wrong, [])
    const expected = ['doc-1', 'doc-2', 'doc-3'].map((name) => text(scene.provider('bob', name)))
    for (const serverId of ['s1', 's2', 's3']) scene.leaving.add(serverId)
    for (const serverId of ['s1', 's2', 's3']) {
      await within(scene.server[serverId].destroy(), `${serverId} leaves`, 15_000)
      await scene.server[serverId].kill('SIGKILL')
    }
    assert.deepEqual(['doc-1', 'doc-2', 'doc-3'].map((name) => scene.cluster.store.text(name)), expected)
    assert.deepEqual(await scene.redis.client.keys('rsa*'), [])
  })
})
