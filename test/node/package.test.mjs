// What npm gets: the packed package, installed into an empty project, on every Node that is promised.
import assert from 'node:assert/strict'
import { chmod, copyFile, mkdir, rm, symlink, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import addon from '../../js/addon.cjs'
import { ANSWER, listedFiles, project, root, run } from '../support/packed.mjs'
import { startRedis } from '../support/redis.mjs'

/** Resolves with the exit code and the output, whatever the code is. */
const outcome = (command, args, options) =>
  run(command, args, options).then(
    ({ stdout, stderr }) => ({ code: 0, stdout, stderr }),
    ({ code, stdout, stderr }) => ({ code, stdout, stderr }),
  )

describe('the packed package in an empty project', () => {
  let redis, app
  const here = addon.platform()

  before(async () => {
    redis = await startRedis()
    app = await project(['@types/node'])
  })
  after(async () => {
    await redis?.stop()
    await app?.end()
  })

  test('holds what test/node/package-files.txt lists, and nothing else', async () => {
    const listed = await listedFiles()
    // Those for other machines are made by `make prebuilds`.
    const optional = (file) => file.startsWith('prebuilds/') && !file.startsWith(`prebuilds/${here}/`)
    assert.deepEqual(app.files.filter((file) => !listed.includes(file)), [], 'not listed')
    assert.deepEqual(listed.filter((file) => !app.files.includes(file) && !optional(file)), [], 'missing')
  })

  const nodes = {
    'the Node that runs the tests': process.execPath,
    'Node 22': path.join(root, 'test/nodes/node_modules/node-22/bin/node'),
    'Node 24': path.join(root, 'test/nodes/node_modules/node-24/bin/node'),
  }
  const runs = [
    ['imported', 'program.mjs'],
    // As Node 20 was before 20.19: what is required has to be CommonJS.
    ['required', '--no-experimental-require-module', 'program.cjs'],
  ]
  for (const [what, node] of Object.entries(nodes)) {
    for (const [how, ...args] of runs) {
      test(`works with ${what} when ${how}, without any install script`, async () => {
        const { stdout } = await run(node, args, { cwd: app.folder, env: { ...process.env, REDIS_SOCKET: redis.path }, timeout: 20_000 })
        assert.deepEqual(JSON.parse(stdout), ANSWER)
      })
    }
  }

  test('a process that imports and requires it has one addon', async () => {
    const name = '@hocuspocus/extension-redis-affinity'
    const code = `
      const required = require('${name}')
      import('${name}').then((imported) => {
        const addons = Object.keys(require.cache).filter((file) => /addon.cjs$|[.]node$/.test(file) && file.includes('affinity'))
        console.log(JSON.stringify([Object.keys(imported).sort(), Object.keys(required).sort(), addons.length]))
      })`
    const [imported, required, addons] = JSON.parse((await run(process.execPath, ['-e', code], { cwd: app.folder })).stdout)
    assert.deepEqual(imported, required)
    assert.equal(addons, 2, 'addon.cjs and the binary')
  })

  test('the dashboard has its files with it, imported and required', async () => {
    const code = `
      const name = '@hocuspocus/extension-redis-affinity/dashboard'
      const affinity = { serverId: 's', servers: async () => [], documents: async () => ({}), health: () => ({}) }
      const body = ({ dashboard }) => new Promise((resolve) => {
        const { handle } = dashboard(affinity, { token: 'x'.repeat(16) })
        const response = { writeHead: () => ({ end: (text) => resolve(String(text)) }) }
        handle({ url: '/affinity/', method: 'GET', headers: {}, socket: {} }, response)
      })
      const [required, imported] = [require(name), import(name)]
      imported.then(async (imported) => console.log((await body(required)) === (await body(imported)), (await body(required)).includes('<form')))`
    assert.equal((await run(process.execPath, ['-e', code], { cwd: app.folder })).stdout, 'true true\n')
  })

  describe('has types', () => {
    before(async () => {
      for (const name of ['consumer.mts', 'consumer.cts', 'consumer.ts']) {
        await copyFile(path.join(root, 'test/types/consumer.ts'), path.join(app.folder, name))
      }
    })

    // yjs's own declarations need those of browsers.
    const strict = ['--noEmit', '--strict', '--skipLibCheck', 'false', '--target', 'es2022', '--lib', 'es2022,dom', '--types', 'node']
    const node16 = ['node16', 'node16', 'consumer.mts', 'consumer.cts']
    const modes = [node16, ['nodenext', 'nodenext', 'consumer.mts', 'consumer.cts'], ['esnext', 'bundler', 'consumer.ts']]
    // The older one takes its time: it gets what is strictest.
    const compilers = { 'TypeScript 7': ['node_modules', modes], 'TypeScript 5': ['test/types/node_modules', [node16]] }
    for (const [compiler, [folder, itsModes]] of Object.entries(compilers)) {
      for (const [module, resolution, ...files] of itsModes) {
        test(`for ${compiler} with moduleResolution ${resolution}: ${files.join(', ')}`, async () => {
          const tsc = path.join(root, folder, 'typescript/bin/tsc')
          const args = [tsc, ...strict, '--module', module, '--moduleResolution', resolution, ...files]
          const { code, stdout } = await outcome(process.execPath, args, { cwd: app.folder })
          assert.equal(code, 0, stdout)
        })
      }
    }
  })

  test('looks for a binary of its own on musl, and says how to come by one', async () => {
    const code = `
      process.report.getReport = () => ({ header: {} })
      require('node:fs').rmSync('${app.installed}/prebuilds/${here}-musl', { recursive: true, force: true })
      require('@hocuspocus/extension-redis-affinity')`
    const { code: status, stderr } = await outcome(process.execPath, ['-e', code], { cwd: app.folder })
    assert.equal(status, 1)
    assert.match(stderr, new RegExp(`has no binary for ${here}-musl; run "node scripts/install.mjs" in its folder to build one`))
  })

  describe('where no binary fits', () => {
    const install = (env = {}) => outcome(process.execPath, ['scripts/install.mjs'], { cwd: app.installed, env: { ...process.env, ...env } })

    before(() => rm(path.join(app.installed, 'prebuilds'), { recursive: true }))

    test('the install script says in one line what is missing', async () => {
      const bin = path.join(app.folder, 'bin')
      await mkdir(bin)
      for (const tool of ['sh', 'make', 'uname', 'pkg-config']) {
        await symlink((await run('which', [tool])).stdout.trim(), path.join(bin, tool))
      }
      const lacking = async (what, env = {}) => {
        const { code, stderr } = await install({ PATH: bin, ...env })
        assert.equal(code, 1)
        const line = `@hocuspocus/extension-redis-affinity: no prebuilt binary for ${here}, and it could not be built; missing: ${what} (Debian package names)\n`
        assert.equal(stderr, line)
      }
      await lacking('gcc')
      // A compiler that has not got one of the headers.
      const without = path.join(bin, 'gcc')
      await writeFile(without, '#!/bin/sh\ncase "$*" in *--version*) exit 0 ;; *-E*) read -r line; case "$line" in *hiredis*) exit 1 ;; esac; exit 0 ;; esac\nexit 1\n')
      await chmod(without, 0o755)
      await lacking('libhiredis-dev')
      await rm(path.join(bin, 'make'))
      await lacking('make libhiredis-dev')
    })

    test('it builds one, and that works', async () => {
      const { code, stderr } = await install({ OPT: '-O0' })
      assert.equal(code, 0, stderr)
      const { stdout } = await run(process.execPath, ['program.mjs'], { cwd: app.folder, env: { ...process.env, REDIS_SOCKET: redis.path }, timeout: 20_000 })
      assert.deepEqual(JSON.parse(stdout), ANSWER)
    })
  })
})
