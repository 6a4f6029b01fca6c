// Connections between single servers and Redis are cut, go silent or are slow; and what arrives at the wrong server then.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { authFrame, connect, MessageType, rawSocket, statelessFrame, syncFrame, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startScene } from '../support/faults.mjs'
import { startRelay } from '../support/relay.mjs'
import { holds, until, within } from '../support/wait.mjs'

const storesOf = (scene, serverId, name) => scene.cluster.store.stores(name).filter((store) => store.serverId === serverId)

describe('the owner is cut off from Redis, others are not', () => {
  for (const [what, fault] of [
    ['its connections go silent', (relay) => relay.blackhole()],
    ['its connections are reset, and refused from then on', (relay) => relay.cut({ refuse: true })],
  ]) {
    test(`${what}: the document moves after lockTTL; it has stopped storing before; when it returns, nothing is lost`, async (t) => {
      const lockTTL = 1500
      const scene = await startScene(t, { relays: true, lockTTL })
      await scene.warm()
      const before = await scene.lease('doc-1')
      fault(scene.relay.s1)
      const cut = performance.now()
      // Only s1 hears of this one.
      await scene.server.s1.edit('doc-1', scene.note('doc-1', 'd'), { keep: true })
      const took = await scene.flows(cut)
      t.diagnostic(`edits flowed again after ${Math.round(took)} ms of a lockTTL of ${lockTTL} ms`)
      assert.ok(took < lockTTL + 1500, `${took} ms`)
      const after = await scene.lease('doc-1')
      assert.ok(after.epoch > before.epoch && after.server !== 's1')
      const first = await until(() => scene.cluster.store.stores('doc-1').find((store) => store.serverId !== 's1'), { what: 'the new owner stores' })
      assert.ok(storesOf(scene, 's1', 'doc-1').every((store) => store.time <= first.time), 's1 has stopped storing before')
      const stored = storesOf(scene, 's1', 'doc-1').length
      await scene.warm(5)
      scene.relay.s1.restore()
      await scene.flows(performance.now(), { between: ['home', 'ann'] })
      // s1 was dead to the others, as an origin too: its clients' connections elsewhere were closed.
      await scene.check({ cursors: false })
      assert.equal(storesOf(scene, 's1', 'doc-1').length, stored, 'it has stored nothing since')
      assert.deepEqual((await scene.cluster.holders('doc-1')).map((server) => server.serverId), [after.server])
    })
  }

  test('a store that was under way when the lease ended lands late: the new owner stores once more', async (t) => {
    const setup = ({ kept }) => ({
      beforeWrite: async () => {
        if (!kept.writes) return
        kept.held = true
        await kept.writes
      },
    })
    const scene = await startScene(t, { relays: true, lockTTL: 1500, setup })
    const { s1 } = scene.server
    await scene.warm()
    await s1.run(({ kept }) => void (kept.writes = new Promise((resolve) => (kept.write = resolve))))
    await until(() => s1.run(({ kept }) => kept.held === true), { what: 's1 is about to write' })
    scene.relay.s1.blackhole()
    await scene.flows(performance.now())
    scene.relay.s1.restore()
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    await until(async () => !(await s1.documents()).includes('doc-1'), { what: 's1 has given doc-1 up' })
    scene.rest()
    await until(() => scene.cluster.store.text('doc-1') === text(scene.provider('ann', 'doc-1')), { what: 'the new owner has stored all' })
    await s1.run(({ kept }) => kept.write())
    await until(() => storesOf(scene, 's1', 'doc-1').length > 0 && scene.cluster.store.stores('doc-1').at(-1).serverId !== 's1', {
      what: 'the new owner stores after the late write',
    })
    await scene.check({ cursors: false, returns: true })
  })

  test('H01 what another server has stored meanwhile, and has closed since, is not overwritten', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 1500 })
    const { s1, s2 } = scene.server
    const idle = await synced(connect({ url: s1.url, name: 'idle' }))
    t.after(() => idle.destroy())
    type(idle, 'before ')
    await until(() => scene.cluster.store.text('idle') === 'before ')
    await scene.warm()
    scene.relay.s1.blackhole()
    const visitor = await synced(connect({ url: s2.url, name: 'idle' }), 8000)
    type(visitor, 'meanwhile ')
    await until(() => scene.cluster.store.text('idle').includes('meanwhile '), { what: 's2 has stored' })
    visitor.destroy()
    await until(async () => (await scene.lease('idle')) === null, { what: 's2 has closed it' })
    scene.relay.s1.restore()
    await until(async () => (await scene.lease('idle'))?.server === 's1', { what: 's1 owns it again' })
    type(idle, 'after ')
    await until(() => /after /.test(scene.cluster.store.text('idle')), { what: 's1 stores again' })
    assert.match(scene.cluster.store.text('idle'), /meanwhile /)
    await until(() => text(idle) === scene.cluster.store.text('idle') && idle.unsyncedChanges === 0, { what: 'its client has it too' })
    assert.deepEqual([...idle.closes, ...idle.socket.closes], [])
    await scene.check({ cursors: false })
  })

  test('H10 another process takes its serverId meanwhile: it fails, and its clients are told to connect again', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 1000 })
    const { s1 } = scene.server
    await scene.warm()
    await s1.run(({ affinity, kept }) => void affinity.on('failed', ({ error }) => (kept.failed = error.code)))
    scene.relay.s1.blackhole()
    await until(async () => !(await scene.redis.client.exists('rsaServer:s1')), { what: 'its membership has ended' })
    const twin = await within(scene.cluster.add('s1'), 'a second s1 starts, after lockTTL', 8000)
    scene.leaving.add('s1') // the load balancer knows the old one by this name
    scene.relay.s1.restore()
    await until(() => s1.run(({ kept }) => kept.failed), { what: 'the old one has noticed' })
    assert.equal(await s1.run(({ kept }) => kept.failed), 'AFF_ETAKEN')
    await until(() => scene.clients.home.socket.closes.length > 0, { what: 'its client is sent away' })
    assert.equal(scene.clients.home.socket.closes[0].code, 1012)
    const late = connect({ url: s1.url, name: 'late' })
    t.after(() => late.destroy())
    await until(() => late.socket.closes.length > 0, { what: 'so are new ones' })
    assert.equal(late.socket.closes[0].code, 1013)
    late.destroy()
    await s1.kill('SIGKILL')
    assert.equal(twin.exit, null)
    await scene.flows(performance.now(), { between: ['home', 'ann'] })
    await scene.check({ mayClose: ['home'] })
  })

  test('for less than lockTTL, in silence: the document stays, everything comes later', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 5000 })
    await scene.warm()
    const before = await scene.lease('doc-1')
    scene.relay.s1.blackhole()
    const cut = performance.now()
    await until(() => performance.now() - cut > 1200)
    scene.relay.s1.restore()
    await scene.flows(performance.now())
    await scene.check()
    assert.deepEqual(await scene.lease('doc-1'), before)
  })

  test('its connections are cut again and again, and come back each time: the document stays', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 5000 })
    await scene.warm()
    const before = await scene.lease('doc-1')
    for (let round = 0; round < 5; round++) {
      scene.relay.s1.cut()
      await scene.flows(performance.now())
    }
    await scene.check()
    assert.deepEqual(await scene.lease('doc-1'), before)
  })
})

describe('an origin is cut off from Redis', () => {
  test('for less than its proxy sockets live: its clients wait, nobody else notices, nothing is lost', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 1500, proxySocketTTL: 10_000 })
    await scene.warm()
    scene.relay.s3.blackhole()
    const cut = performance.now()
    await until(() => performance.now() - cut > 2000)
    assert.ok(scene.pause(cut, { between: ['home', 'ann'], till: performance.now() - 300 }) < 500, 'home and ann go on')
    scene.relay.s3.restore()
    for (const document of ['doc-1', 'doc-2', 'doc-3']) await scene.flows(performance.now(), { document })
    await scene.check({ cursors: false })
  })

  test('H17 for longer than proxySocketTTL: its proxy sockets are closed; later it opens them again, with authentication, and no twin', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 30_000, proxySocketTTL: 700 })
    await scene.warm()
    scene.rest()
    const { s1 } = scene.server
    await until(async () => (await s1.connections('doc-1')) === 5)
    scene.relay.s3.blackhole()
    await until(async () => (await s1.connections('doc-1')) === 2, { what: "bob's, eve's and rex's connections are closed at the owner" })
    const authenticated = (await s1.events('onAuthenticate', 'doc-1')).length
    scene.relay.s3.restore()
    scene.type()
    await scene.flows(performance.now())
    const users = (await s1.events('onAuthenticate', 'doc-1')).slice(authenticated).map((event) => event.token)
    assert.deepEqual([...new Set(users)].toSorted(), ['bob', 'eve', 'readonly'])
    await scene.check({ cursors: false })
    assert.equal(await s1.connections('doc-1'), 5, 'each client has one connection')
  })
})

describe('Redis is slow', () => {
  test('100 ms each way for all servers: nothing but slowness', async (t) => {
    const scene = await startScene(t, { relays: true, lockTTL: 3000 })
    await scene.warm()
    for (const relay of Object.values(scene.relay)) relay.delay(100)
    await scene.flows(performance.now())
    await scene.warm()
    for (const relay of Object.values(scene.relay)) relay.restore()
    await scene.flows(performance.now())
    await scene.check()
  })

  /** Two servers behind relays, and a third one at Redis itself. */
  async function slowCluster(t, options) {
    const cluster = await startCluster(0, options)
    t.after(() => cluster.stop())
    const relays = await Promise.all([1, 2].map(() => startRelay(cluster.redis)))
    t.after(() => relays.forEach((relay) => relay.stop()))
    const servers = [await cluster.add('s1', { redis: relays[0] }), await cluster.add('s2', { redis: relays[1] }), await cluster.add('s3')]
    return { cluster, relays, servers }
  }

  test('H05 a server that still believes in an ex-owner: that one refuses, and loads nothing; the next is found', async (t) => {
    const { cluster, relays, servers: [s1, s2, s3] } = await slowCluster(t, { lockTTL: 10_000 })
    const ann = await synced(connect({ url: s1.url, name: 'h05' }))
    type(ann, 'one ')
    await synced(ann)
    await until(() => cluster.store.text('h05') === 'one ')
    const refused = async () => (await s1.run(({ affinity }) => affinity.stats())).refused
    // s1 lives in the past: what it releases is released later, and what it is sent comes later still.
    relays[0].delay(250)
    ann.destroy()
    await until(async () => !(await s1.documents()).includes('h05'))
    assert.equal(await cluster.redis.client.exists('rsaLock:h05'), 1, 'the lease still names s1')
    const bob = connect({ url: s2.url, name: 'h05' })
    const cleo = connect({ url: s3.url, name: 'h05' })
    t.after(() => [bob, cleo].forEach((provider) => provider.destroy()))
    type(bob, 'two ')
    type(cleo, 'three ')
    await Promise.all([synced(bob), synced(cleo)])
    await until(() => text(bob) === text(cleo) && /one/.test(text(bob)) && /two/.test(text(bob)) && /three/.test(text(bob)), { what: 'all have all' })
    assert.ok((await refused()) > 0, 's1 has refused')
    assert.equal(cluster.store.loads('h05').filter((load) => load.serverId === 's1').length, 1, 's1 has not loaded it again')
    assert.equal((await cluster.holders('h05')).length, 1)
    assert.deepEqual([bob, cleo].flatMap((provider) => [...provider.closes, ...provider.denied]), [])
  })

  test('H22 messages that come while the owner is looked up keep their order', async (t) => {
    const { cluster, relays, servers: [s1, s2] } = await slowCluster(t, { lockTTL: 10_000 })
    relays[1].delay(60)
    const numbers = Array.from({ length: 300 }, (_, n) => `${n}`)
    for (const [name, owner] of [['h22-there', s1], ['h22-here', s2]]) {
      const ann = owner === s1 ? await synced(connect({ url: s1.url, name })) : null
      const socket = await rawSocket(s2.url)
      t.after(() => socket.terminate())
      // Nothing of this waits for an answer: it is all there before the look-up has even reached Redis.
      socket.send(authFrame(name))
      socket.send(syncFrame(name))
      for (const number of numbers.slice(0, 200)) socket.send(statelessFrame(name, number))
      // And these come one by one while frames are replayed.
      for (const number of numbers.slice(200)) {
        socket.send(statelessFrame(name, number))
        await new Promise(setImmediate)
      }
      await until(async () => (await owner.events('onStateless', name)).length === numbers.length, { what: 'all have arrived' })
      assert.deepEqual((await owner.events('onStateless', name)).map((event) => event.payload), numbers)
      await until(() => socket.frames.some((frame) => frame.type === MessageType.Sync))
      assert.deepEqual((await cluster.holders(name)).map((server) => server.serverId), [owner.serverId])
      ann?.destroy()
    }
  })

  test('H21 leaving: what is in flight is flushed first, leases and membership are freed; and it does not wait for ever', async (t) => {
    const { cluster, relays, servers: [s1, s2, s3] } = await slowCluster(t, { lockTTL: 30_000 })
    relays[0].delay(120)
    const bob = await synced(connect({ url: s3.url, name: 'bobs' }))
    const ann = await synced(connect({ url: s1.url, name: 'bobs' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    await s1.lockDocument('held')
    type(ann, 'last words')
    ann.socket.disconnect()
    await within(s1.destroy(), 's1 leaves', 6000)
    await until(() => text(bob) === 'last words', { what: 'the last edit has arrived at the owner' })
    const keys = await cluster.redis.client.keys('rsa*')
    assert.ok(!keys.includes('rsaServer:s1') && !keys.includes('rsaLock:held'), keys.join())

    const started = performance.now()
    relays[1].blackhole()
    await within(s2.destroy(), 's2 leaves without Redis', 6000)
    t.diagnostic(`without Redis: ${Math.round(performance.now() - started)} ms`)
  })
})

describe("the owner's idle check", () => {
  test('H16 closes a proxied connection: its client is connected again, or told', async (t) => {
    const cluster = await startCluster(0, { lockTTL: 30_000, proxySocketTTL: 30_000 })
    t.after(() => cluster.stop())
    const relay = await startRelay(cluster.redis)
    t.after(() => relay.stop())
    const owner = await cluster.add('s1', { configuration: { timeout: 600 } })
    const origin = await cluster.add('s2', { redis: relay })
    const ann = await synced(connect({ url: owner.url, name: 'h16' }))
    const bob = await synced(connect({ url: origin.url, name: 'h16' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    // Of what bob does, nothing reaches the owner for longer than its time-out.
    relay.blackhole()
    let typed = 0
    await until(
      async () => {
        if (typed++ % 20 === 0) type(ann, 'a')
        return (await owner.connections('h16')) === 1
      },
      { what: 'the owner has closed the connection of bob' },
    )
    relay.restore()
    type(bob, 'b')
    await until(() => text(ann).includes('b'), { what: "bob's edit arrives" })
    type(ann, 'c')
    await until(() => text(bob) === text(ann) && bob.unsyncedChanges === 0, { what: 'bob has all' })
    await holds(() => text(bob) === text(ann), { during: 200 })
  })
})

describe('cold', () => {
  test('40 documents opened on two servers at the same moment: each is loaded once', async (t) => {
    const cluster = await startCluster(3, { lockTTL: 10_000 })
    t.after(() => cluster.stop())
    const names = Array.from({ length: 40 }, (_, n) => `cold-${n}`)
    const [one, two] = cluster.servers.slice(0, 2).map((server) => names.map((name) => connect({ url: server.url, name })))
    t.after(() => [...one, ...two].forEach((provider) => provider.destroy()))
    await Promise.all([...one, ...two].map((provider) => synced(provider, 30_000)))
    for (const provider of [...one, ...two]) type(provider, '.')
    await until(() => [...one, ...two].every((provider) => text(provider) === '..' && provider.unsyncedChanges === 0), { what: 'all have all' })
    assert.deepEqual(names.filter((name) => cluster.store.loads(name).length !== 1), [])
    assert.deepEqual([...one, ...two].flatMap((provider) => [...provider.closes, ...provider.denied]), [])
  })

  test('direct connections on all three servers at the same moment: one opens it, the others are told who has it', async (t) => {
    const cluster = await startCluster(3, { lockTTL: 10_000 })
    t.after(() => cluster.stop())
    for (let round = 0; round < 10; round++) {
      const name = `direct-${round}`
      const results = await Promise.allSettled(cluster.servers.map((server) => server.edit(name, server.serverId, { keep: true })))
      const won = results.flatMap((result, index) => (result.status === 'fulfilled' ? [cluster.servers[index].serverId] : []))
      assert.equal(won.length, 1)
      for (const { reason } of results.filter((result) => result.status === 'rejected')) {
        assert.equal(reason.code, 'AFF_EOWNED')
        assert.equal(reason.owner, won[0])
      }
      assert.equal(cluster.store.loads(name).length, 1)
    }
  })
})
