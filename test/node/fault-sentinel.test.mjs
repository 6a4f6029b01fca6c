// Sentinel: each connection asks it for the primary.
import assert from 'node:assert/strict'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { test } from 'node:test'
import { connect, synced, text, type } from '../support/client.mjs'
import { startSentinels } from '../support/redis-cluster.mjs'
import { startServer } from '../support/server.mjs'
import { until } from '../support/wait.mjs'

process.env.DEBUG = 'redis-affinity' // the servers say how they reach Redis

test('the primary dies while people type, Sentinel promotes the replica, and nothing is lost', async (t) => {
  const redis = await startSentinels()
  t.after(() => redis.stop())
  const storeFolder = mkdtempSync(path.join(os.tmpdir(), 'rsa-store-'))
  const begin = (ioredis, n) => startServer({ serverId: `a${n + 1}`, redis: { ...redis.address, ioredis }, storeFolder })
  const servers = await Promise.all(['ioredis', 'ioredis-5'].map(begin))
  t.after(async () => {
    await Promise.all(servers.map((server) => server.stop()))
    rmSync(storeFolder, { recursive: true, force: true })
  })
  for (const server of servers) assert.match(server.output(), /Redis: through ioredis \(it uses Sentinel\)/)

  const providers = []
  for (const server of servers) providers.push(await synced(connect({ url: server.url, name: 'doc' })))
  t.after(() => providers.forEach((provider) => provider.destroy()))
  let count = 0
  const timer = setInterval(() => {
    count++
    providers.forEach((provider, n) => type(provider, `${'ab'[n]}${count} `))
  }, 20)
  t.after(() => clearInterval(timer))
  await until(() => count > 20, { what: 'people type' })
  const [, boot, owner] = (await redis.primary.client.get('rsaLock:doc')).split(' ')

  // What the replica has, it has: README says what becomes of the rest.
  await until(async () => (await redis.replica.client.get('rsaLock:doc'))?.includes(boot), { what: 'the lease is replicated' })
  await redis.primary.kill9()
  await until(async () => /role:master/.test(await redis.replica.client.info('replication')), { what: 'the replica is promoted', timeout: 30_000 })
  const then = count
  await until(() => count > then + 20, { what: 'people type' })
  clearInterval(timer)

  for (const provider of providers) await synced(provider, 30_000)
  const words = 'ab'.split('').flatMap((who) => Array.from({ length: count }, (_, n) => `${who}${n + 1}`))
  await until(() => providers.every((provider) => words.every((word) => ` ${text(provider)}`.includes(` ${word} `))), { what: 'all is there' })
  for (const provider of providers) assert.deepEqual(provider.closes, [], 'no socket was closed')
  assert.equal((await redis.replica.client.get('rsaLock:doc')).split(' ')[2], owner, 'the owner is the same')
})
