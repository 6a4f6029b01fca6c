// Who owns a document, from when, until when. Leases are `rsaLock:<document>` in Redis, memberships `rsaServer:<serverId>`.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startServer } from '../support/server.mjs'
import { holds, until, within } from '../support/wait.mjs'

const owned = (server, by) => (error) => {
  assert.equal(error.code, 'AFF_EOWNED')
  assert.equal(error.owner, by.serverId)
  assert.match(error.message, new RegExp(by.serverId))
  return true
}

describe('ownership', () => {
  let cluster, s1, s2
  const leased = async (name) => (await cluster.redis.client.exists(`rsaLock:${name}`)) === 1

  before(async () => {
    // `kept.gates` lets a test stop a document in a hook: while its client is authenticated, while it loads, or after it was
    // unloaded; or stop the store's loading, whatever it loads.
    const setup = ({ kept }) => {
      kept.gates = {}
      return {
        extensions: [
          {
            priority: 2000,
            onAuthenticate: async ({ documentName }) => void (await kept.gates[`auth ${documentName}`]),
            onLoadDocument: async ({ documentName }) => void (await kept.gates[`load ${documentName}`]),
            afterUnloadDocument: async ({ documentName }) => void (await kept.gates[`unload ${documentName}`]),
          },
        ],
        beforeLoad: async () => void (await kept.gates['store']),
      }
    }
    cluster = await startCluster(2, { setup, lockTTL: 1500 })
    ;[s1, s2] = cluster.servers
  })
  after(() => cluster.stop())

  const shut = (server, gate) =>
    server.run(({ kept }, gate) => {
      kept.gates[gate] = new Promise((resolve) => (kept.openGate = resolve))
    }, gate)
  const open = (server, gate) =>
    server.run(({ kept }, gate) => {
      delete kept.gates[gate]
      kept.openGate()
    }, gate)

  test('lockDocument claims, its release frees', async () => {
    await s1.lockDocument('lock')
    assert.ok(await leased('lock'))
    await assert.rejects(s2.lockDocument('lock'), owned(s2, s1))
    await s1.release('lock')
    await until(async () => !(await leased('lock')))
    await s2.lockDocument('lock')
    await s2.release('lock')
  })

  test('lockDocument holds are counted; releaseLock drops all of them', async () => {
    await s1.lockDocument('counted')
    await s1.lockDocument('counted')
    await s1.release('counted')
    await holds(() => leased('counted'), { during: 200 })
    await s1.lockDocument('counted')
    await s1.releaseLock('counted')
    await until(async () => !(await leased('counted')))
    // The releases that are left over have nothing to release any more, not even the next owner's lease.
    await s2.lockDocument('counted')
    await s1.release('counted')
    await s1.release('counted')
    await holds(() => leased('counted'), { during: 200 })
    await s2.release('counted')
  })

  test("the specification's example: lock, stream over a direct connection, disconnect, release", async () => {
    await s1.run(async ({ affinity, hocuspocus }) => {
      const release = await affinity.lockDocument('llm')
      const conn = await hocuspocus.openDirectConnection('llm', {})
      for (const content of ['a ', 'stream ', 'of ', 'words']) {
        await conn.transact((doc) => doc.getText('text').insert(doc.getText('text').length, content))
      }
      await conn.disconnect()
      await release()
    })
    await cluster.unloaded('llm')
    assert.equal(cluster.store.text('llm'), 'a stream of words')
  })

  test('opening a document that another server owns rejects and names the owner', async () => {
    const bob = await synced(connect({ url: s2.url, name: 'direct' }))
    await assert.rejects(s1.edit('direct', 'x'), owned(s1, s2))
    assert.deepEqual(await cluster.holders('direct'), [s2])
    assert.equal(cluster.store.loads('direct').length, 1)
    bob.destroy()
    await cluster.unloaded('direct')
    await s1.edit('direct', 'x')
    await cluster.unloaded('direct')
  })

  test('a document is locked while it is loaded, and only so long', async () => {
    const bob = await synced(connect({ url: s1.url, name: 'loaded' }))
    await holds(() => leased('loaded'), { during: 2000, what: 'the lease lasts longer than lockTTL' })
    bob.destroy()
    await cluster.unloaded('loaded')
  })

  test('two servers that open a document at the same moment: one owner, one load', async () => {
    for (let round = 0; round < 10; round++) {
      const name = `race-${round}`
      const clients = [s1, s2].map((server) => connect({ url: server.url, name }))
      await Promise.all(clients.map((provider) => synced(provider)))
      type(clients[0], 'a')
      type(clients[1], 'b')
      await until(() => text(clients[0]).length === 2 && text(clients[0]) === text(clients[1]))
      assert.equal((await cluster.holders(name)).length, 1)
      assert.equal(cluster.store.loads(name).length, 1)
      assert.ok(clients.every((provider) => provider.denied.length === 0), 'a lost race is no denial')
      clients.forEach((provider) => provider.destroy())
    }
  })

  test('H02 release() while clients have the document open keeps the lease', async () => {
    await s1.lockDocument('h02')
    const bob = await synced(connect({ url: s1.url, name: 'h02' }))
    await s1.release('h02')
    await holds(() => leased('h02'), { during: 300 })
    await assert.rejects(s2.lockDocument('h02'), owned(s2, s1))
    await s1.lockDocument('h02')
    await s1.releaseLock('h02')
    await holds(() => leased('h02'), { during: 300 })
    bob.destroy()
    await cluster.unloaded('h02')
  })

  test('H03 a document that another server took meanwhile is not stolen by locking it again', async () => {
    await s1.lockDocument('h03')
    await s1.release('h03')
    const bob = await synced(connect({ url: s2.url, name: 'h03' }))
    await assert.rejects(s1.lockDocument('h03'), owned(s1, s2))
    type(bob, 'mine')
    await synced(bob)
    bob.destroy()
    await cluster.unloaded('h03')
  })

  test('H06 a document that loads for longer than lockTTL stays locked', async () => {
    await shut(s1, 'load h06')
    const bob = connect({ url: s1.url, name: 'h06' })
    await until(() => leased('h06'))
    await holds(() => leased('h06'), { during: 2500 })
    await assert.rejects(s2.lockDocument('h06'), owned(s2, s1))
    await open(s1, 'load h06')
    await synced(bob)
    bob.destroy()
    await cluster.unloaded('h06')
  })

  test('H06 a client is authenticated for longer than three times lockTTL: one owner, one load', async () => {
    await shut(s1, 'auth h06-auth')
    const bob = connect({ url: s1.url, name: 'h06-auth' })
    await until(() => leased('h06-auth'))
    const record = await cluster.redis.client.get('rsaLock:h06-auth')
    const cleo = connect({ url: s2.url, name: 'h06-auth' })
    await holds(
      async () => {
        await assert.rejects(s2.lockDocument('h06-auth'), owned(s2, s1))
        return (await cluster.redis.client.get('rsaLock:h06-auth')) === record && !bob.isAuthenticated && !cleo.isAuthenticated
      },
      { during: 4600, what: 'the lease stands, and nobody is authenticated' },
    )
    assert.deepEqual(cluster.store.loads('h06-auth'), [])
    await open(s1, 'auth h06-auth')
    await Promise.all([bob, cleo].map((provider) => synced(provider)))
    assert.deepEqual(await cluster.holders('h06-auth'), [s1])
    assert.deepEqual(cluster.store.loads('h06-auth').map((load) => load.serverId), ['s1'])
    assert.equal(await cluster.redis.client.get('rsaLock:h06-auth'), record)
    assert.deepEqual([...bob.denied, ...cleo.denied, ...bob.socket.closes, ...cleo.socket.closes], [])
    for (const provider of [bob, cleo]) provider.destroy()
    await cluster.unloaded('h06-auth')
  })

  test('H06 the store loads for longer than three times lockTTL, for a direct connection alone: one owner, one load', async () => {
    await shut(s1, 'store')
    const edited = s1.edit('h06-direct', 'x')
    await until(() => cluster.store.loads('h06-direct').length === 1)
    const record = await cluster.redis.client.get('rsaLock:h06-direct')
    assert.notEqual(record, null)
    await holds(
      async () => {
        await assert.rejects(s2.lockDocument('h06-direct'), owned(s2, s1))
        await assert.rejects(s2.edit('h06-direct', 'y'), owned(s2, s1))
        return (await cluster.redis.client.get('rsaLock:h06-direct')) === record
      },
      { during: 4600, what: 'the lease stands' },
    )
    await open(s1, 'store')
    await edited
    await cluster.unloaded('h06-direct')
    assert.equal(cluster.store.text('h06-direct'), 'x')
    assert.deepEqual(cluster.store.loads('h06-direct').map((load) => load.serverId), ['s1'])
  })

  test('H07 a document that is opened again while its unload hooks run keeps its lease', async () => {
    await shut(s1, 'unload h07')
    const first = await synced(connect({ url: s1.url, name: 'h07' }))
    first.destroy()
    await until(async () => !(await s1.documents()).includes('h07'), { what: 'the first one is unloaded' })
    const second = await synced(connect({ url: s1.url, name: 'h07' }))
    await open(s1, 'unload h07')
    await holds(() => leased('h07'), { during: 500 })
    const third = await synced(connect({ url: s2.url, name: 'h07' }))
    assert.deepEqual(await cluster.holders('h07'), [s1])
    second.destroy()
    third.destroy()
    await cluster.unloaded('h07')
  })

  test('H10 a second server with the same serverId does not start while the first lives', async () => {
    await assert.rejects(startServer({ serverId: 's1', redis: cluster.redis, lockTTL: 1500 }), { code: 'AFF_ETAKEN', message: /s1/ })
    await s1.lockDocument('h10')
    await s1.release('h10')
  })

  test('H33 a claim that failed because Redis was away is made anew afterwards', async (t) => {
    const own = await startCluster(1, { lockTTL: 1000 })
    t.after(() => own.stop())
    await own.redis.kill9()
    await assert.rejects(own.servers[0].lockDocument('h33'), (error) => ['AFF_EREDIS', 'AFF_ETIMEOUT'].includes(error.code))
    await own.redis.restart()
    await until(() => own.servers[0].lockDocument('h33').then(() => true), { what: 'the document can be locked again', every: 50 })
    assert.equal(await own.redis.client.exists('rsaLock:h33'), 1)
  })
})

describe('a dead server', () => {
  test('its documents are taken over after lockTTL', async (t) => {
    const cluster = await startCluster(2, { lockTTL: 2000 })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const bob = await synced(connect({ url: s2.url, name: 'left' }))
    type(bob, 'stored before')
    await synced(bob)
    await until(() => cluster.store.text('left') === 'stored before')
    await s2.kill('SIGKILL')
    bob.destroy()

    const ann = await within(synced(connect({ url: s1.url, name: 'left' }), 20_000), 'a client of s1 opens it', 20_000)
    assert.equal(text(ann), 'stored before')
    assert.deepEqual(await cluster.holders('left'), [s1])
    ann.destroy()
  })

  test('H10 restarts with the same serverId without waiting', async (t) => {
    const cluster = await startCluster(1, { lockTTL: 60_000 })
    t.after(() => cluster.stop())
    await cluster.servers[0].lockDocument('mine')
    await cluster.servers[0].kill('SIGKILL')
    const again = await within(cluster.add('s1'), 's1 starts again long before its lockTTL of 60 s', 8000)
    await again.lockDocument('mine')
  })

  test('H19 its proxy sockets are closed after proxySocketTTL', async (t) => {
    const cluster = await startCluster(2, { lockTTL: 2000, proxySocketTTL: 1500 })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const ann = await synced(connect({ url: s1.url, name: 'ghosts' }))
    const bob = await synced(connect({ url: s2.url, name: 'ghosts' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    bob.setAwarenessField('user', 'bob')
    await until(() => ann.awareness.getStates().size === 2)
    // Longer than the TTL, without a word from bob: the heartbeats of the link count.
    await holds(async () => (await s1.connections('ghosts')) === 2, { during: 2500 })
    await s2.kill('SIGKILL')
    await until(async () => (await s1.connections('ghosts')) === 1)
    await until(() => ann.awareness.getStates().size === 1, { what: 'no ghost cursor' })
  })
})
