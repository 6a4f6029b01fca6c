// The owner lives, but stands still: its JavaScript thread alone, or the whole process.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { freeze, startScene, thaw } from '../support/faults.mjs'
import { until, within } from '../support/wait.mjs'

/** Adds an edit to a document over a direct connection and blocks the thread at once: nobody else has heard of the edit. */
const editAndBlock = (server, name, edit, ms) =>
  server.run(
    async ({ hocuspocus, kept }, name, edit, ms) => {
      kept.direct = await hocuspocus.openDirectConnection(name, {})
      kept.direct.document.transact(() => kept.direct.document.getText('text').insert(0, edit))
      const end = Date.now() + ms
      while (Date.now() < end);
    },
    name,
    edit,
    ms,
  )

describe("the owner's JavaScript thread is blocked", () => {
  test('H01 for longer than lockTTL, shorter than the stall limit: one owner all the time, the document stays', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000, stallLimit: 10_000 })
    await scene.warm()
    const before = await scene.lease('doc-1')
    let awake = false
    const blocked = editAndBlock(scene.server.s1, 'doc-1', scene.note('doc-1', 'd'), 2500).then(() => (awake = true))
    let refused = 0
    while (!awake) {
      assert.deepEqual(await scene.lease('doc-1'), before, 'the lease stands')
      await assert.rejects(scene.server.s2.lockDocument('doc-1'), { code: 'AFF_EOWNED', owner: 's1' })
      refused++
    }
    await blocked
    assert.ok(refused > 5)
    await scene.flows(performance.now())
    assert.deepEqual(await scene.lease('doc-1'), before)
    await scene.check()
    assert.deepEqual(scene.storers('doc-1'), ['s1'])
    assert.deepEqual(scene.cluster.store.loads('doc-1').map((load) => load.serverId), ['s1'])
  })

  test('H01 for longer than the stall limit: the document moves; waking up, the server hands over what only it has, and stores nothing', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000, stallLimit: 600 })
    await scene.warm()
    const before = await scene.lease('doc-1')
    const started = performance.now()
    const blocked = editAndBlock(scene.server.s1, 'doc-1', scene.note('doc-1', 'd'), 4000)
    const took = await scene.flows(started + 50)
    t.diagnostic(`edits flowed again after ${Math.round(took)} ms, of a stall of 4,000 ms`)
    assert.ok(took < 3500, `${took} ms`)
    const [holder] = (await Promise.all([scene.server.s2, scene.server.s3].map(async (server) => ((await server.documents()).includes('doc-1') ? server : null)))).filter(Boolean)
    assert.ok((await scene.lease('doc-1')).epoch > before.epoch)
    const stores = scene.cluster.store.stores('doc-1').filter((store) => store.serverId === 's1').length
    await blocked
    // Its own client stays where it is, too: s1 passes its messages on from now on.
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    await scene.check()
    assert.deepEqual(await scene.cluster.holders('doc-1'), [holder])
    assert.equal(scene.cluster.store.stores('doc-1').filter((store) => store.serverId === 's1').length, stores, 's1 has stored nothing since')
  })

  test('an origin whose thread is blocked holds up its own clients only, and loses nothing of theirs', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000, stallLimit: 10_000, proxySocketTTL: 10_000 })
    await scene.warm()
    const started = performance.now()
    const blocked = scene.server.s2.block(2000)
    await scene.flows(started + 50, { between: ['home', 'bob'] })
    assert.ok(scene.pause(started + 50, { between: ['home', 'bob'], till: performance.now() - 300 }) < 500)
    await blocked
    await scene.flows(performance.now())
    await scene.check()
  })
})

describe('the whole process of the owner stands still', () => {
  test('H01 for longer than lockTTL: the document moves; the server finds out before it sends or stores anything', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000 })
    await scene.warm()
    const stores = () => scene.cluster.store.stores('doc-1').filter((store) => store.serverId === 's1').length
    freeze(scene.server.s1)
    t.after(() => scene.server.s1.exit ?? thaw(scene.server.s1))
    const frozen = performance.now()
    const before = stores()
    const took = await scene.flows(frozen)
    t.diagnostic(`edits flowed again after ${Math.round(took)} ms`)
    assert.ok(took < 1000 + 1500, `${took} ms`)
    await scene.warm()
    scene.calm()
    thaw(scene.server.s1)
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    // s1 was dead to the others, as an origin too: its clients' connections elsewhere were closed.
    await scene.check({ cursors: false })
    assert.equal(stores(), before, 's1 has stored nothing since')
    assert.notDeepEqual((await scene.cluster.holders('doc-1')).map((server) => server.serverId), ['s1'])
  })

  test('for less than lockTTL: it goes on as if nothing had been', async (t) => {
    const scene = await startScene(t, { lockTTL: 3000 })
    await scene.warm()
    const before = await scene.lease('doc-1')
    freeze(scene.server.s1)
    t.after(() => scene.server.s1.exit ?? thaw(scene.server.s1))
    await new Promise((resolve) => setTimeout(resolve, 1200)) // the fault itself
    thaw(scene.server.s1)
    await scene.flows(performance.now())
    await scene.check()
    assert.deepEqual(await scene.lease('doc-1'), before)
  })

  test('two of three, one after the other, again and again', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000 })
    await scene.warm()
    for (const server of [scene.server.s1, scene.server.s2, scene.server.s1]) {
      const documents = await server.documents()
      freeze(server)
      await until(async () => (await Promise.all(documents.map((name) => scene.lease(name)))).every((lease) => lease.server !== server.serverId), {
        what: `the documents of ${server.serverId} have moved`,
      }).finally(() => thaw(server))
      await within(server.documents(), `${server.serverId} answers again`)
      for (const document of ['doc-1', 'doc-2', 'doc-3']) await scene.flows(performance.now(), { document, between: ['ann', 'bob'] })
    }
    await scene.check({ cursors: false, returns: true })
  })
})
