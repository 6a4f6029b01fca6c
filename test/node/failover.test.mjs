// The owner of a document goes away: its documents move, and their clients must not notice.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { connect, showing, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

/** Three documents on one socket, each owned by another server; plus a read-only and a session-aware client. */
async function scene(t, options) {
  const cluster = await startCluster(3, { lockTTL: 2000, ...options })
  t.after(() => cluster.stop())
  const [s1, s2, s3] = cluster.servers
  const owners = await Promise.all(
    cluster.servers.map(async (server, n) => synced(connect({ url: server.url, name: `doc-${n + 1}` }))),
  )
  t.after(() => owners.forEach((provider) => provider.destroy()))
  return { cluster, s1, s2, s3, owners }
}

const letters = (n) => 'abcdefghijklmnopqrstuvwxyz'[n % 26]

describe('the owner dies', () => {
  test('H11 its document moves; no socket is closed, nothing is lost, nothing is left unsynced', async (t) => {
    const { cluster, s1, s2, s3, owners } = await scene(t)
    // One socket to s2, three documents on it; doc-1 is owned by s1.
    const first = await synced(connect({ url: s2.url, name: 'doc-1' }))
    const websocketProvider = first.configuration.websocketProvider
    const second = await synced(connect({ url: s2.url, name: 'doc-2', websocketProvider }))
    const third = await synced(connect({ url: s2.url, name: 'doc-3', websocketProvider }))
    const other = await synced(connect({ url: s3.url, name: 'doc-1' }))
    const reader = await synced(connect({ url: s3.url, name: 'doc-1', token: 'readonly' }))
    const session = await synced(connect({ url: s3.url, name: 'doc-1', sessionAwareness: true }))
    const all = [first, second, third, other, reader, session]
    t.after(() => all.forEach((provider) => provider.destroy()))

    let n = 0
    const typing = setInterval(() => {
      for (const provider of [first, second, third, other, session]) type(provider, letters(n))
      n++
    }, 5)
    t.after(() => clearInterval(typing))
    await until(() => n > 20)
    owners[0].destroy()
    const killed = Date.now()
    s1.kill('SIGKILL')
    const seen = text(other).length
    await until(async () => (await cluster.holders('doc-1')).some((server) => server !== s1), { timeout: 10_000, what: 'a new owner' })
    await until(() => text(other).length > seen + 40)
    const took = Date.now() - killed
    const more = n + 50
    await until(() => n > more)
    clearInterval(typing)

    const writers = [first, other, session]
    await until(() => all.every((provider) => provider === reader || provider.unsyncedChanges === 0), { timeout: 10_000, what: 'all synced' })
    await until(() => new Set([...writers, reader].map(text)).size === 1, { what: 'one text' })
    assert.equal(text(first).length, 3 * n)
    assert.equal(text(second).length, n)
    assert.equal(text(third).length, n)
    assert.deepEqual(all.flatMap((provider) => provider.closes), [])
    t.diagnostic(`edits flowed again after ${took} ms`)
    assert.ok(took < 4000)
  })
})
