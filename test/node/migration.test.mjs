// docs/migration.md: the servers that stand there, in the order that it gives, while people type.
import assert from 'node:assert/strict'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { after, before, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { connect, showing, synced, type } from '../support/client.mjs'
import { samplesOf } from '../support/pages.mjs'
import { startProgram } from '../support/program.mjs'
import { startRedis } from '../support/redis.mjs'
import { until } from '../support/wait.mjs'

const root = fileURLToPath(new URL('../../', import.meta.url))
// In here, the package's own name and its development dependencies resolve.
const folder = path.join(root, 'build', 'migration')

let redis
before(async () => {
  redis = await startRedis({ port: true })
  mkdirSync(folder, { recursive: true })
  for (const { name, code } of samplesOf(path.join(root, 'docs/migration.md'))) writeFileSync(path.join(folder, `${name}.mjs`), code)
})
after(async () => {
  await redis?.stop()
  rmSync(folder, { recursive: true, force: true })
})

test('from extension-redis by way of both: no edit is lost, and all see all', { timeout: 90_000 }, async (t) => {
  const name = 'migrating'
  const clients = []
  t.after(() => clients.forEach((client) => client.destroy()))
  let expected = ''

  /** A server, with a client that stays as long as it does. */
  async function add(step, serverId) {
    const program = await startProgram(t, [path.join(folder, `${step}.mjs`)], { REDIS_URL: redis.url, SERVER_ID: serverId })
    const client = await synced(connect({ url: program.servers()[0].url, name }))
    clients.push(client)
    return { program, client }
  }
  /** Every client types, and all see it. */
  async function everybodyTypes(what) {
    for (const [n, client] of clients.entries()) {
      type(client, `${what}${n} `)
      expected += `${what}${n} `
      await showing(expected, clients)
    }
    await until(() => clients.every((client) => client.unsyncedChanges === 0))
  }
  async function end({ program, client }) {
    client.destroy()
    clients.splice(clients.indexOf(client), 1)
    await program.stop()
  }

  const old = [await add('before', 'a'), await add('before', 'b')]
  await everybodyTypes('old')
  const both = [await add('both', 'c'), await add('both', 'd')]
  await showing(expected, clients)
  await everybodyTypes('mixed')
  assert.match(await redis.client.get(`rsaLock:${name}`), / c$/)
  for (const server of old) {
    await end(server)
    await everybodyTypes('rolling')
  }
  const young = [await add('after', 'e'), await add('after', 'f')]
  await everybodyTypes('last')
  for (const server of both) {
    await end(server)
    await everybodyTypes('rolling')
  }
  assert.match(await redis.client.get(`rsaLock:${name}`), / [ef]$/)
  for (const { client } of young) assert.deepEqual(client.socket.closes, [])
})
