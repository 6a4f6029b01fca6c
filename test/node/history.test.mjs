// Real editing histories through the servers; and that the tests' own reading of them is right.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { connect, showing, synced, unsynced } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { generateHistory, mergedText, readHistory, replay, stepsOf } from '../support/traces.mjs'
import { until } from '../support/wait.mjs'

describe('editing histories', () => {
  test('positions are code points: an emoji counts as one', () => {
    const agents = stepsOf({
      numAgents: 2,
      txns: [
        { parents: [], agent: 0, patches: [[0, 0, 'a😀b']] },
        { parents: [0], agent: 1, patches: [[2, 1, 'B'], [1, 1, '']] },
        { parents: [0], agent: 0, patches: [[0, 0, '😎!']] },
        { parents: [1, 2], agent: 0, patches: [[3, 1, '?']] },
      ],
    })
    assert.equal(mergedText(agents), '😎!a?')
  })

  test('merged offline, the two writers make the end content', () => {
    const history = readHistory()
    assert.equal(mergedText(history.agents), history.endContent)
  })

  test('a generated history is concurrent, and the same for the same seed', () => {
    const [one, two] = [1, 1].map((seed) => generateHistory({ seed, transactions: 500 }))
    assert.equal(one.endContent, two.endContent)
    assert.ok(one.endContent.length > 100)
    assert.notEqual(one.endContent, generateHistory({ seed: 2, transactions: 500 }).endContent)
  })

  test('two writers on two servers, a third owns the document: all end in the end content', async (t) => {
    const cluster = await startCluster(3)
    t.after(() => cluster.stop())
    const [s1, s2, s3] = cluster.servers
    const history = readHistory()
    assert.equal(history.agents.length, 2)
    await s3.lockDocument('friends')
    const writers = [s1, s2].map((server) => connect({ url: server.url, name: 'friends' }))
    t.after(() => writers.forEach((writer) => writer.destroy()))
    await Promise.all(writers.map((writer) => synced(writer)))
    assert.deepEqual(await cluster.holders('friends'), [s3])

    const started = Date.now()
    await replay(history, writers)
    await showing(history.endContent, writers, 30_000)
    await Promise.all(writers.map((writer) => synced(writer, 30_000)))
    const edits = history.agents.reduce((sum, steps) => sum + steps.length, 0)
    t.diagnostic(`${history.source}: ${edits} edits in ${Date.now() - started} ms`)

    assert.deepEqual(writers.map(unsynced), [0, 0])
    assert.equal(await s3.text('friends'), history.endContent)
    await until(() => cluster.store.text('friends') === history.endContent, { what: 'the store has it' })
    assert.deepEqual(cluster.store.loads('friends').map((load) => load.serverId), ['s3'])
    assert.deepEqual([...new Set(cluster.store.stores('friends').map((store) => store.serverId))], ['s3'])
    assert.deepEqual(writers.flatMap((writer) => writer.closes), [])
  })
})
