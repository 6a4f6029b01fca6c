// What npm gets: the packed package, installed into an empty project, on every Node that is promised.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { startRedis } from '../support/redis.mjs'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../../', import.meta.url))
const versionOf = async (name) => JSON.parse(await readFile(path.join(root, 'node_modules', name, 'package.json'))).version

/** A user's whole program: two servers, and an event that crosses from one to the other. */
const program = `
import { Server } from '@hocuspocus/server'
import { RedisServerAffinity } from '@hocuspocus/extension-redis-affinity'
import { Redis } from 'ioredis'

const servers = []
for (const serverId of ['one', 'two']) {
  const customEvents = { who: async (documentName, payload) => ({ serverId, documentName, payload }) }
  const affinity = new RedisServerAffinity({ redis: new Redis(process.env.REDIS_SOCKET), serverId, customEvents })
  const server = new Server({ port: 0, address: '127.0.0.1', quiet: true, extensions: [affinity] })
  await server.listen()
  servers.push({ affinity, server })
}
const release = await servers[0].affinity.lockDocument('page')
const answer = await servers[1].affinity.handleEvent('who', 'page', new Date(7))
await release()
for (const { server } of servers) await server.destroy()
console.log(JSON.stringify(answer))
`

describe('the packed package in an empty project', () => {
  let redis, project

  before(async () => {
    redis = await startRedis()
    project = await mkdtemp(path.join(tmpdir(), 'rsa-package-'))
    const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], { cwd: root })
    const [{ filename, files }] = Object.values(JSON.parse(stdout))
    assert.ok(files.some(({ path: file }) => /^prebuilds\/.*\/affinity\.node$/.test(file)), 'it has a binary')
    assert.ok(!files.some(({ path: file }) => /^(test|demo|build)\//.test(file)), 'and nothing that only we need')
    await writeFile(path.join(project, 'package.json'), '{"private": true, "type": "module"}')
    await writeFile(path.join(project, 'program.mjs'), program)
    const others = await Promise.all(['@hocuspocus/server', 'ioredis', 'yjs', 'y-protocols'].map(async (name) => `${name}@${await versionOf(name)}`))
    await run('npm', ['install', '--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund', `./${filename}`, ...others], { cwd: project })
  })
  after(async () => {
    await redis?.stop()
    if (project) await rm(project, { recursive: true, force: true })
  })

  const nodes = {
    'the Node that runs the tests': process.execPath,
    'Node 22': path.join(root, 'test/nodes/node_modules/node-22/bin/node'),
    'Node 24': path.join(root, 'test/nodes/node_modules/node-24/bin/node'),
  }
  for (const [what, node] of Object.entries(nodes)) {
    test(`works with ${what}, without any install script`, async () => {
      const { stdout } = await run(node, ['program.mjs'], { cwd: project, env: { ...process.env, REDIS_SOCKET: redis.path }, timeout: 20_000 })
      assert.deepEqual(JSON.parse(stdout), { serverId: 'one', documentName: 'page', payload: new Date(7).toJSON() })
    })
  }
})
