// The versions of the provider that clients may have: through the proxy, and across the death of the owner.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { connect, openSocket, others, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startScene } from '../support/faults.mjs'
import { isMatrix, loadProvider as load, PROVIDERS } from '../support/versions.mjs'
import { until } from '../support/wait.mjs'

/** Since 3.3 a provider can be asked for its token; older ones have their Auth frame replayed. */
const isAskable = (version) => {
  const [major, minor] = version.split('.').map(Number)
  return major > 3 || (major === 3 && minor >= 3)
}

for (const version of isMatrix ? PROVIDERS : ['2.15.3', '3.2.3', '3.4.4', '4.8.0']) {
  const canBeAsked = isAskable(version)
  describe(`provider ${version}`, () => {
    test('edits, cursors and stateless messages go both ways through the proxy', async (t) => {
      const library = await load(version)
      const cluster = await startCluster(2)
      const clients = []
      // Hocuspocus 4 says goodbye with a frame that makes provider 2 throw: its clients go first.
      t.after(() => {
        for (const one of clients) one.destroy()
        return cluster.stop()
      })
      const [s1, s2] = cluster.servers
      const ann = await synced(connect({ url: s1.url, name: 'doc' }))
      const socket = openSocket({ url: s2.url, library })
      const old = await synced(connect({ socket, name: 'doc', library }))
      const second = await synced(connect({ socket, name: 'local', library }))
      clients.push(ann, old, second, socket)
      assert.deepEqual((await cluster.holders('doc')).map((server) => server.serverId), ['s1'])
      for (let round = 0; round < 20; round++) {
        type(ann, 'a')
        type(old, 'o')
        type(second, 's')
      }
      await until(() => text(ann).length === 40 && text(ann) === text(old), { what: 'both have all' })
      await Promise.all([ann, old, second].map((provider) => synced(provider)))
      ann.setAwarenessField('user', 'ann')
      old.setAwarenessField('user', 'old')
      await until(() => others(old).some((state) => state.user === 'ann') && others(ann).some((state) => state.user === 'old'), { what: 'each sees the other' })
      old.sendStateless('to the owner')
      await until(async () => (await s1.events('onStateless', 'doc')).some((event) => event.payload === 'to the owner'))
      await s1.broadcastStateless('doc', 'to all')
      await until(() => old.stateless.includes('to all'))
      assert.deepEqual([...socket.closes, ...old.closes, ...second.closes], [])
    })

    test(`H11 the owner dies: ${canBeAsked ? 'it notices nothing' : 'its Auth frame is replayed, or its socket is closed with 4205 and it is back'}`, async (t) => {
      const library = await load(version)
      const scene = await startScene(t, { lockTTL: 30_000 })
      await scene.enter('old', { at: 's2', documents: ['doc-1', 'doc-2'], library })
      await scene.warm()
      const killed = performance.now()
      await scene.server.s1.kill('SIGKILL')
      const took = await scene.flows(killed, { between: ['old', 'bob'] })
      assert.ok(took < 3000, `${took} ms`)
      const { closed } = await scene.check({ mayClose: canBeAsked ? ['home'] : ['home', 'old'] })
      const codes = closed.filter(({ name }) => name === 'old').map(({ code }) => code)
      t.diagnostic(`edits flowed again after ${Math.round(took)} ms; closes: ${codes.join() || 'none'}`)
      assert.ok(codes.every((code) => code === 4205), codes.join())
    })

    if (!canBeAsked) {
      test('a replayed token that the new owner denies: closed with 4205, and told the truth when it is back', async (t) => {
        const library = await load(version)
        const scene = await startScene(t, {
          lockTTL: 30_000,
          setup: ({ kept }) => ({
            extensions: [
              {
                onAuthenticate: async ({ token }) => {
                  if (kept.denied && token === 'old') throw Object.assign(new Error('denied'), { reason: 'expired' })
                },
              },
            ],
          }),
        })
        const client = await scene.enter('old', { at: 's2', documents: ['doc-1'], library, writes: false })
        await scene.warm()
        for (const server of [scene.server.s2, scene.server.s3]) await server.run(({ kept }) => void (kept.denied = true))
        await scene.server.s1.kill('SIGKILL')
        await until(() => client.documents.get('doc-1').denied.length > 0, { what: 'it is denied after it has connected again' })
        assert.equal(client.socket.closes[0]?.code, 4205)
        client.documents.get('doc-1').destroy()
        client.socket.destroy()
        delete scene.clients.old
        await scene.flows(performance.now())
        await scene.check({ mayClose: ['home', 'old'] })
      })
    }
  })
}
