// Redis goes away and comes back, empty: restarted, for long, stalled, or as another one.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { redisAway, startScene } from '../support/faults.mjs'
import { startRedis } from '../support/redis.mjs'
import { holds, until } from '../support/wait.mjs'

const alive = (scene) => assert.deepEqual(Object.values(scene.server).map((server) => server.exit), Object.values(scene.server).map(() => null), scene.output())

describe('Redis restarts while everybody types', () => {
  for (const [what, ms] of [['35 ms', 35], ['2 s', 2000]]) {
    for (const lockTTL of [10_000, 1000]) {
      test(`H13 for ${what}, lockTTL ${lockTTL} ms: edits flow again within 3,000 ms of its return, and nothing is missing`, async (t) => {
        const scene = await startScene(t, { lockTTL })
        await scene.warm()
        const { away, returned } = await redisAway(scene.redis, ms)
        for (const document of ['doc-1', 'doc-2', 'doc-3']) await scene.flows(returned, { document })
        const flowing = performance.now() - returned
        await scene.check()
        t.diagnostic(`Redis was away for ${Math.round(away)} ms; edits flowed ${Math.round(flowing)} ms after its return`)
        assert.ok(flowing < 3000, `${flowing} ms`)
        alive(scene)
      })
    }
  }

  test('H13 the last edits before it, with nothing typed afterwards', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000 })
    await scene.warm()
    for (let round = 0; round < 3; round++) {
      scene.rest()
      for (const [name, document] of [['home', 'doc-1'], ['ann', 'doc-1'], ['bob', 'doc-3'], ['eve', 'doc-1'], ['ann', 'doc-3']]) scene.edit(name, document)
      // The frames are on their way: they leave with the turn of the loop.
      await new Promise(setImmediate)
      const { returned } = await redisAway(scene.redis, 35)
      const { took, wrong } = await scene.settle()
      assert.deepEqual(wrong, [])
      t.diagnostic(`all have all ${Math.round(performance.now() - returned)} ms after its return (${Math.round(took)} ms on clients)`)
    }
    await scene.check()
  })

  test('H13 thrice in a row, a few ms after it has come back', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000 })
    await scene.warm()
    for (const ms of [35, 300, 35]) await redisAway(scene.redis, ms)
    await scene.flows(performance.now())
    await scene.check()
    alive(scene)
  })
})

describe('Redis is away for long', () => {
  test('H27 for 12 s: no process dies; local clients go on, nothing is stored; on its return all converge', async (t) => {
    // Slower than elsewhere: of what a client types, 1,000 messages may wait for an owner.
    const scene = await startScene(t, { lockTTL: 1000, every: 60 })
    await scene.enter('ike', { at: 's1', documents: ['doc-1'] })
    await scene.warm()
    await scene.redis.kill9()
    const gone = performance.now()
    const stores = () => scene.cluster.store.stores('doc-1').length
    // A store that was confirmed before the end may be written a moment after it.
    await until(() => performance.now() - gone > 500)
    const stored = stores()
    await holds(() => stores() === stored, { during: 11_500, what: 'nothing is stored while nobody can confirm the lease' })
    const local = scene.pause(gone, { between: ['home', 'ike'], till: performance.now() - 500 })
    assert.ok(local < 500, `local clients go on, long after the membership has ended: ${local} ms`)
    alive(scene)
    await scene.redis.restart()
    const returned = performance.now()
    for (const document of ['doc-1', 'doc-2', 'doc-3']) await scene.flows(returned, { document })
    t.diagnostic(`edits flowed ${Math.round(performance.now() - returned)} ms after its return`)
    await scene.check()
    alive(scene)
  })

  test('H27 with failClosed: local clients stop at the deadline, and go on when it returns', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000, failClosed: true })
    await scene.enter('ike', { at: 's1', documents: ['doc-1'] })
    await scene.warm()
    await scene.redis.kill9()
    const gone = performance.now()
    await until(() => performance.now() - gone > 1500)
    const after = performance.now()
    await until(() => performance.now() - after > 500)
    assert.equal(scene.pause(after, { between: ['home', 'ike'], till: after + 200 }), Infinity, 'no edit is passed on any more')
    alive(scene)
    await scene.redis.restart()
    await scene.flows(performance.now())
    await scene.flows(performance.now(), { between: ['home', 'ike'] })
    const all = ['home', 'ann', 'bob', 'eve', 'rex', 'ike']
    const { closed } = await scene.check({ mayClose: all })
    assert.deepEqual([...new Set(closed.map(({ code, reason }) => `${code} ${reason}`))], ['1013 Try Again Later'])
    assert.deepEqual([...new Set(closed.map(({ name }) => name))].toSorted(), all.toSorted())
    alive(scene)
  })

  test('what only a direct connection wrote meanwhile is there, and stored, after its return', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000 })
    await scene.warm()
    await scene.server.s1.edit('doc-1', scene.note('doc-1', 'd'), { keep: true })
    await scene.redis.kill9()
    await scene.server.s1.run(
      ({ kept }, edit) => kept.direct.get('doc-1').transact((document) => document.getText('text').insert(0, edit)),
      scene.note('doc-1', 'd'),
    )
    const gone = performance.now()
    await until(() => performance.now() - gone > 1200)
    await scene.redis.restart()
    await scene.flows(performance.now())
    await scene.check()
  })
})

describe('Redis stalls', () => {
  test('CLIENT PAUSE for longer than lockTTL', async (t) => {
    const scene = await startScene(t, { lockTTL: 1000 })
    await scene.warm()
    const pausing = scene.redis.client.duplicate()
    t.after(() => pausing.disconnect())
    await pausing.client('PAUSE', 1600, 'ALL')
    const paused = performance.now()
    await until(() => performance.now() - paused > 1600)
    await scene.flows(performance.now())
    await scene.check()
    alive(scene)
  })

  test('connections that Redis closes, one kind after the other, while everybody types', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000 })
    await scene.warm()
    for (const kind of ['pubsub', 'normal', 'pubsub']) {
      await scene.redis.client.client('KILL', 'TYPE', kind, 'SKIPME', 'yes')
      await scene.flows(performance.now())
    }
    await scene.check()
  })
})

describe('Redis fails over', () => {
  test('H08 to one that never saw the lease, and the owner hears of it last: the older epoch is refused', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 1500 })
    const other = await startRedis()
    t.after(() => other.stop())
    await scene.warm()
    const before = await scene.lease('doc-1')
    scene.redis = scene.cluster.redis
    const old = scene.redis
    scene.relay.s2.retarget(other)
    scene.relay.s3.retarget(other)
    // Whoever is left of the old Redis's view: s1, its lease, and its own client. Two servers own doc-1, each in its Redis.
    await scene.flows(performance.now())
    scene.redis = other
    const after = await scene.lease('doc-1')
    assert.ok(after.epoch > before.epoch && after.server !== 's1', JSON.stringify({ before, after }))
    await scene.server.s1.edit('doc-1', scene.note('doc-1', 'd'))
    const stores = () => scene.cluster.store.stores('doc-1').filter((store) => store.serverId === 's1').length
    scene.relay.s1.retarget(other)
    await until(async () => !(await scene.server.s1.documents()).includes('doc-1'), { what: 's1 has given doc-1 up' })
    const stored = stores()
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    // Two Redis at once are two owners that both store: what is promised is that it ends, and that nothing is lost.
    const { wrong, closed, disturbed } = await scene.settle({ cursors: false })
    assert.deepEqual(wrong.filter((line) => !/was stored by/.test(line)), [])
    assert.deepEqual([closed, disturbed], [[], []])
    assert.equal(stores(), stored)
    await old.client.ping()
  })

  test('H08 the record of a lease is gone, another server claims above it: the older epoch is refused by origins and by the store check', async (t) => {
    // s1 stores so rarely that it hears nothing of Redis while the other one claims.
    const debounce = 2500
    const scene = await startScene(t, { relays: true, lockTTL: 10_000, each: { s1: { configuration: { debounce, maxDebounce: debounce } } } })
    const { s1, s2 } = scene.server
    const stores = () => scene.cluster.store.stores('doc-1').filter((store) => store.serverId === 's1').length
    const stale = () => s2.run(({ affinity }) => affinity.stats().stale)
    const isLoaded = async (server) => (await server.documents()).includes('doc-1')
    await scene.warm()
    const before = await scene.lease('doc-1')
    // So that something of s1 is under way to s2 whenever s2 takes the document.
    scene.relay.s2.latency = 30
    const had = stores()
    await until(() => stores() > had, { what: 's1 has stored doc-1' })
    const stored = stores()
    const storedAt = performance.now()
    await until(() => performance.now() - storedAt > 300, { what: 's1 has asked Redis about that store, too' })
    const staleBefore = await stale()

    await scene.redis.client.del('rsaLock:doc-1')
    await s2.lockDocument('doc-1')
    const after = await scene.lease('doc-1')
    assert.ok(after.server === 's2' && after.epoch > before.epoch, JSON.stringify({ before, after }))
    assert.ok(await isLoaded(s1), 's1 knows nothing of it yet')
    const edit = scene.edit('home', 'doc-1')
    await until(async () => (await stale()) > staleBefore, { what: 's2 drops what s1 sends under the older epoch' })
    await until(async () => !(await isLoaded(s1)), { what: 's1 has learnt of it from its next store, and evicted the document' })
    assert.equal(stores(), stored, 'it has stored nothing since')
    await until(async () => (await s2.text('doc-1'))?.includes(edit), { what: 'its edits are merged into those of s2' })
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    await s2.release('doc-1')
    await scene.check()
    assert.deepEqual((await scene.cluster.holders('doc-1')).map((server) => server.serverId), ['s2'])
    assert.ok((await scene.lease('doc-1')).epoch >= after.epoch)
    assert.equal(stores(), stored)
  })
})
