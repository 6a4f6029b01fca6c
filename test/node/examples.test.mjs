// examples/: each program runs twice, as two servers of one cluster, with a real provider on each.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { connect, showing, synced, text, type } from '../support/client.mjs'
import { startProgram } from '../support/program.mjs'
import { freePort, startRedis } from '../support/redis.mjs'
import { patience, until } from '../support/wait.mjs'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../../', import.meta.url))

/** The owner of a document, as Redis names it: `<epoch> <boot> <serverId>`. */
const ownerOf = async (redis, name) => (await redis.client.get(`rsaLock:${name}`))?.split(' ')[2]

let redis
before(async () => {
  redis = await startRedis({ port: true })
  await run('node_modules/.bin/tsc', ['-p', 'examples'], { cwd: root })
})
after(() => redis?.stop())

const examples = {
  'Hocuspocus Server': { args: ['examples/server.mjs'], path: '' },
  Express: { args: ['examples/express.mjs'], path: '/collaboration' },
  crossws: { args: ['examples/crossws.mjs'], path: '' },
  NestJS: { args: ['build/examples/examples/nestjs.js'], path: '/collaboration', end: 'SIGTERM' }, // NestJS kills itself at last,
  'uWebSockets.js (a stand-in for it)': { args: ['--import', './test/support/uws-register.mjs', 'examples/uwebsockets.mjs'], path: '' },
}

describe('examples', { concurrency: 2 }, () => {
  for (const [what, { args, path: urlPath, end }] of Object.entries(examples)) {
    test(`${what}: an edit crosses, and goes on when a server ends`, async (t) => {
      const prefix = what.replace(/\W.*/, '')
      const name = `page of ${prefix}`
      const programs = await Promise.all(['one', 'two'].map((n) => startProgram(t, args, { REDIS_URL: redis.url, SERVER_ID: `${prefix}-${n}` })))
      const providers = []
      t.after(() => providers.forEach((provider) => provider.destroy()))
      const urlOf = (program) => `${program.servers()[0].url}${urlPath}`
      for (const program of programs) providers.push(await synced(connect({ url: urlOf(program), name })))

      const [ann, bob] = providers
      type(ann, 'over ')
      await showing('over ', providers)
      type(bob, 'and back')
      await showing('over and back', providers)
      assert.equal(await ownerOf(redis, name), `${prefix}-one`)

      // The owner leaves. Its own client is closed only after the document has moved; the other one hears nothing of it.
      await programs[0].stop(end)
      await until(() => ann.socket.closes.length > 0)
      assert.ok([1012, 4205].includes(ann.socket.closes[0].code), `closed with ${ann.socket.closes[0].code}`)
      ann.socket.disconnect()
      await until(async () => (await ownerOf(redis, name)) === `${prefix}-two`)
      type(bob, '!')
      await until(() => bob.unsyncedChanges === 0)
      assert.deepEqual(bob.socket.closes, [])
      const carl = await synced(connect({ url: urlOf(programs[1]), name }))
      providers.push(carl)
      await showing('over and back!', [bob, carl])
      await programs[1].stop(end)
    })
  }

  test('node:cluster: the workers share a port, and one that is killed comes back', async (t) => {
    const program = await startProgram(t, ['examples/cluster.mjs'], { REDIS_URL: redis.url, WORKERS: '2', SERVER_ID: 'machine' })
    const servers = program.servers()
    assert.deepEqual(servers.map(({ serverId }) => serverId).sort(), ['machine-1', 'machine-2'])
    assert.equal(new Set(servers.map(({ port }) => port)).size, 1)
    await crosses(t, { port: servers[0].port, name: 'cluster' })

    const { stdout } = await run('pgrep', ['-P', String(program.pid)])
    process.kill(Number(stdout.trim().split('\n')[0]), 'SIGKILL')
    await until(() => program.servers().length === 3, { what: 'the worker is back' })
    await program.stop()
  })
})

/** Four providers on one port, which node:cluster gives to its workers by turns; each one's edit comes to all. */
async function crosses(t, { port, name }) {
  const providers = []
  t.after(() => providers.forEach((provider) => provider.destroy()))
  for (let n = 0; n < 4; n++) providers.push(await synced(connect({ url: `ws://127.0.0.1:${port}`, name })))
  let expected = ''
  for (const [n, provider] of providers.entries()) {
    type(provider, `${n}`)
    expected += n
    await showing(expected, providers)
  }
  return providers
}

test('PM2 in cluster mode: a reload interrupts nobody', { timeout: patience * 60_000 }, async (t) => {
  const home = mkdtempSync(path.join(os.tmpdir(), 'rsa-pm2-'))
  const port = await freePort()
  const env = { ...process.env, PM2_HOME: home, PM2_DISABLE_VERSION_CHECK: 'true', PM2_DISCRETE_MODE: 'true', NODE_ENV: 'testing', PORT: String(port), REDIS_URL: redis.url }
  const pm2 = (...args) => run(process.execPath, ['test/runners/node_modules/pm2/bin/pm2', ...args], { cwd: root, env, timeout: patience * 40_000 })
  t.after(async () => {
    await pm2('kill').catch(() => {})
    rmSync(home, { recursive: true, force: true })
  })
  await pm2('start', 'examples/pm2.config.cjs')
  const providers = await crosses(t, { port, name: 'pm2' })
  const before = await redis.client.keys('rsaServer:*')
  await pm2('reload', 'collaboration')
  await showing('0123', providers)
  for (const [n, provider] of providers.entries()) type(provider, `${n}`)
  await until(() => providers.every((provider) => text(provider).length === 8 && provider.unsyncedChanges === 0))
  const now = await redis.client.keys('rsaServer:*')
  assert.ok(before.length >= 2 && now.every((key) => !before.includes(key)), 'all processes are new')
})
