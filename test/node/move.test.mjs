// move(): a document goes to the server that somebody has chosen, while people type into it.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { connect, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

const move = (server, ...args) => server.run(({ affinity }, ...args) => affinity.move(...args), ...args)
const failure = (server, ...args) =>
  server.run(
    ({ affinity }, ...args) =>
      affinity.move(...args).then(
        () => null,
        ({ code, message }) => ({ code, message }),
      ),
    ...args,
  )

/** Three servers, and somebody at each who types all the time; the document is owned by s1. */
async function threeTypists(t, options = {}) {
  const cluster = await startCluster(3, options)
  t.after(() => cluster.stop())
  const typists = []
  for (const server of cluster.servers) {
    const provider = await synced(connect({ url: server.url, name: 'doc' }))
    t.after(() => provider.destroy())
    typists.push({ provider, count: 0, closed: 0 })
    provider.configuration.websocketProvider.on('close', () => typists.at(-1).closed++)
  }
  const press = () => typists.forEach((typist, n) => type(typist.provider, `${'abc'[n]}${++typist.count} `))
  const timer = setInterval(press, 20)
  t.after(() => clearInterval(timer))
  return {
    cluster,
    typists,
    more: (count) => {
      const [{ count: former }] = typists
      return until(() => typists[0].count >= former + count)
    },
    async agree() {
      clearInterval(timer)
      const words = typists.flatMap(({ count }, n) => Array.from({ length: count }, (_, k) => `${'abc'[n]}${k + 1}`))
      const has = ({ provider }) => words.every((word) => ` ${text(provider)}`.includes(` ${word} `))
      await until(() => typists.every((typist) => has(typist) && !typist.provider.hasUnsyncedChanges), { what: 'all have everything' })
      assert.equal(new Set(typists.map(({ provider }) => text(provider))).size, 1)
      assert.deepEqual(typists.map(({ closed }) => closed), [0, 0, 0], 'no socket was closed')
      return words
    },
  }
}

test('a document is moved round and round while people type: nothing is lost, no socket closed', async (t) => {
  const { cluster, more, agree } = await threeTypists(t)
  const [s1, s2, s3] = cluster.servers
  assert.equal(await cluster.ownerOf('doc'), 's1')
  for (const [by, from, to] of [[s1, 's1', 's2'], [s1, 's2', 's3'], [s2, 's3', 's1'], [s3, 's1', 's3'], [s3, 's3', 's2']]) {
    assert.deepEqual(await move(by, 'doc', to), { from, to })
    await more(10)
    assert.equal(await cluster.ownerOf('doc'), to)
    await until(async () => (await cluster.holders('doc')).length === 1, { what: 'only the new owner has it loaded' })
    assert.deepEqual((await cluster.holders('doc')).map(({ serverId }) => serverId), [to])
  }
  assert.deepEqual(await move(s3, 'doc', 's2'), { from: 's2', to: 's2' })
  const words = await agree()
  await until(async () => words.every((word) => ` ${cluster.store.text('doc')}`.includes(` ${word} `)), { what: 'all is stored' })
})

test('a document that hangs in its store is moved all the same, and what was not stored goes with it', async (t) => {
  const setup = () => ({
    beforeWrite: () => (globalThis.storeFails ? Promise.reject(new Error('no store')) : undefined),
  })
  const { cluster, more, agree } = await threeTypists(t, { setup })
  const [s1] = cluster.servers
  await s1.run(() => (globalThis.storeFails = true))
  await more(10)
  assert.deepEqual(await move(s1, 'doc', 's3'), { from: 's1', to: 's3' })
  await more(5)
  const words = await agree()
  await until(async () => words.every((word) => ` ${cluster.store.text('doc')}`.includes(` ${word} `)), { what: 'all is stored' })
})

test('what can not be moved stays', async (t) => {
  const cluster = await startCluster(2)
  t.after(() => cluster.stop())
  const [s1, s2] = cluster.servers
  assert.deepEqual(await failure(s1, 'doc', 's2'), { code: 'AFF_ENOTOPEN', message: 'document "doc" is open on no server' })
  const ann = await synced(connect({ url: s1.url, name: 'doc' }))
  t.after(() => ann.destroy())
  for (const by of [s1, s2]) {
    assert.deepEqual(await failure(by, 'doc', 's9'), { code: 'AFF_EINVAL', message: 'server "s9" is no member of the cluster' })
  }
  await s1.lockDocument('doc')
  for (const by of [s1, s2]) {
    assert.deepEqual(await failure(by, 'doc', 's2'), { code: 'AFF_EINVAL', message: 'document "doc" is locked by lockDocument: it stays' })
  }
  assert.equal((await failure(s1, '', 's2')).code, 'AFF_EINVAL')
  assert.equal(await cluster.ownerOf('doc'), 's1')
  type(ann, 'x')
  await until(() => !ann.hasUnsyncedChanges)
})

test('a document without clients is moved too, with what a direct connection has written', async (t) => {
  const cluster = await startCluster(2, { configuration: { debounce: 60_000, maxDebounce: 60_000 } })
  t.after(() => cluster.stop())
  const [s1] = cluster.servers
  await s1.run(async ({ hocuspocus }) => {
    globalThis.direct = await hocuspocus.openDirectConnection('doc', {})
    globalThis.direct.document.getText('text').insert(0, 'kept')
  })
  assert.deepEqual(await move(s1, 'doc', 's2'), { from: 's1', to: 's2' })
  await until(() => cluster.store.stores('doc').at(-1)?.serverId === 's2', { what: 's2 has it, and stores it' })
  const ann = await synced(connect({ url: s1.url, name: 'doc' }))
  t.after(() => ann.destroy())
  assert.equal(text(ann), 'kept')
  await s1.run(() => globalThis.direct.disconnect())
})
