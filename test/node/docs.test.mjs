// The pages in docs/: getting started is done as it stands there; figures, settings and links are what they say they are.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { parseAllDocuments } from 'yaml'
import { connect, synced } from '../support/client.mjs'
import { listedFiles } from '../support/packed.mjs'
import { blocksOf, samplesOf } from '../support/pages.mjs'
import { startProgram } from '../support/program.mjs'
import { freePort, startRedis } from '../support/redis.mjs'
import { until } from '../support/wait.mjs'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../../', import.meta.url))
const page = (name) => path.join(root, name)

/** `npm install a b` links what this repository has installed; all else is npm's. (What npm itself makes of the package: package.test.mjs.) */
const NPM = `#!/bin/sh
[ "$1" = install ] || exec "$NPM" "$@"
shift
for name; do
  name=$(echo "$name" | sed 's/\\(.\\)@[0-9].*/\\1/')
  [ -e "$ROOT/node_modules/$name" ] || [ "$name" = @hocuspocus/extension-redis-affinity ] || { echo "no package $name" >&2; exit 1; }
  mkdir -p "node_modules/$(dirname "$name")"
  if [ "$name" = @hocuspocus/extension-redis-affinity ]; then ln -s "$ROOT" "node_modules/$name"; else ln -s "$ROOT/node_modules/$name" "node_modules/$name"; fi
done
`

test('getting-started.md: every file and every command', { timeout: 90_000 }, async (t) => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-start-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  const ports = new Map()
  for (const port of ['6379', '8001', '8002']) ports.set(port, String(await freePort()))
  const here = (text) => [...ports].reduce((all, [port, free]) => all.replaceAll(port, free), text)

  const bin = path.join(folder, 'bin')
  mkdirSync(bin)
  writeFileSync(path.join(bin, 'npm'), NPM, { mode: 0o755 })
  const lines = ['set -eu', `cd ${folder}`, "trap 'kill $(jobs -p) 2>/dev/null || true; wait' EXIT"]
  for (const { mark, language, code } of blocksOf(page('docs/getting-started.md'))) {
    const [, file] = /^file: (\S+)$/.exec(mark) ?? []
    assert.ok(file || language === 'sh', `a block is neither a file nor a command: ${code}`)
    if (file) lines.push(`cat > ${file} <<'END OF FILE'\n${here(code)}END OF FILE`)
    else lines.push(here(code))
  }
  // The answer of which the page speaks.
  lines.splice(lines.findIndex((line) => line.includes('redis-cli')) + 1, 0, `redis-cli -p ${ports.get('6379')} get rsaLock:page | grep -q ' server-1$'`)
  const script = path.join(folder, 'script.sh')
  writeFileSync(script, lines.join('\n'))
  const npm = (await run('sh', ['-c', 'command -v npm'])).stdout.trim()
  const env = { ...process.env, PATH: `${bin}:${process.env.PATH}`, ROOT: root, NPM: npm, NODE_ENV: 'testing' }
  const { stdout } = await run('timeout', ['80', 'bash', script], { env }).catch((error) => {
    const logs = readdirSync(path.join(folder, 'collaboration')).filter((name) => name.endsWith('.log'))
    const text = logs.map((name) => `--- ${name}\n${readFileSync(path.join(folder, 'collaboration', name), 'utf8')}`).join('\n')
    throw new Error(`${error.message}\n${error.stdout}${error.stderr}\n${text}`)
  })
  assert.match(stdout, /hello from a client of server-1\nhello from a client of server-2/)
  assert.match(readFileSync(path.join(folder, 'collaboration/server-1.log'), 'utf8'), /server-1 has "notes" now/)
})

describe('operations.md', () => {
  const sample = (name) => samplesOf(page('docs/operations.md')).find((one) => one.name === name).code
  const documents = (name) => parseAllDocuments(sample(name)).map((document) => document.toJS())

  for (const name of ['deployment', 'statefulset']) {
    test(`the ${name} has what the page says of it`, () => {
      const [workload, service, budget] = documents(name)
      const { selector, template } = workload.spec
      assert.deepEqual(selector.matchLabels, template.metadata.labels)
      const [container] = template.spec.containers
      const drainTimeout = Number(/`drainTimeout` \| ms[^|]*\| ([\d,]+) \|/.exec(readFileSync(page('README.md'), 'utf8'))[1].replace(',', '')) / 1000
      const [, waits] = container.lifecycle.preStop.exec.command
      assert.ok(template.spec.terminationGracePeriodSeconds > drainTimeout + Number(waits), 'there is time to drain')
      const podName = container.env.find((one) => one.name === 'POD_NAME')
      assert.equal(podName.valueFrom.fieldRef.fieldPath, 'metadata.name')
      assert.deepEqual(container.readinessProbe.httpGet, { path: '/ready', port: container.ports[0].containerPort })
      assert.match(sample('kubernetes'), /serverId: process\.env\.POD_NAME/)
      if (service) {
        assert.deepEqual(service.spec.selector, template.metadata.labels)
        assert.equal(service.spec.ports[0].targetPort, container.ports[0].containerPort)
        assert.deepEqual(budget.spec.selector.matchLabels, template.metadata.labels)
      }
    })
  }

  test('the server for Kubernetes is ready when it is a member, and refuses when it ends', async (t) => {
    const redis = await startRedis({ port: true })
    const folder = path.join(root, 'build', 'operations')
    mkdirSync(folder, { recursive: true })
    t.after(async () => {
      await redis.stop()
      rmSync(folder, { recursive: true, force: true })
    })
    const file = path.join(folder, 'kubernetes.mjs')
    writeFileSync(file, sample('kubernetes'))
    const port = await freePort()
    const ready = () =>
      fetch(`http://127.0.0.1:${port}/ready`, { headers: { connection: 'close' } }).then(
        (answer) => answer.status,
        () => 'refused',
      )

    await redis.kill9()
    const starting = startProgram(t, [file], { REDIS_URL: redis.url, POD_NAME: 'collaboration-0', PORT: String(port) })
    await until(async () => (await ready()) === 503, { timeout: 20_000, what: 'it listens, and is not ready without Redis' })
    await redis.restart()
    const program = await starting
    assert.equal(program.servers()[0].serverId, 'collaboration-0')
    assert.equal(await ready(), 200)
    assert.equal(await redis.client.exists('rsaServer:collaboration-0'), 1)

    // It waits for Redis before its document goes: meanwhile it is there, and refuses.
    const ann = await synced(connect({ url: `ws://127.0.0.1:${port}`, name: 'page' }))
    t.after(() => ann.destroy())
    await redis.client.client('PAUSE', 1000, 'ALL')
    const stopped = program.stop()
    await until(async () => (await ready()) === 'refused')
    await stopped
  })
})

test('what a sample imports is installed by README, under Installation, or by a command on its page', () => {
  const installedBy = (text) => [...text.matchAll(/npm install ([^\n`#]+)/g)].flatMap(([, names]) => names.trim().split(/\s+/).map((name) => name.replace(/(.)@\d+$/, '$1')))
  const [, installation] = /## Installation\n([\s\S]*?)\n## /.exec(readFileSync(page('README.md'), 'utf8'))
  const missing = []
  for (const name of ['README.md', ...readdirSync(page('docs')).filter((one) => one.endsWith('.md')).map((one) => `docs/${one}`)]) {
    // Whoever comes from there has it.
    const installed = [...installedBy(installation), ...installedBy(readFileSync(page(name), 'utf8')), ...(name === 'docs/migration.md' ? ['@hocuspocus/extension-redis'] : [])]
    for (const { mark, code } of blocksOf(page(name))) {
      for (const [, from] of code.matchAll(/^import .* from '([^'.][^']*)'$/gm)) {
        const [needed] = /^(@[^/]+\/)?[^/]+/.exec(from)
        if (!from.startsWith('node:') && !installed.includes(needed)) missing.push(`${name}, ${mark}: ${needed}`)
      }
    }
  }
  assert.deepEqual(missing, [])
})

describe('links', async () => {
  const packed = await listedFiles()
  const pages = [...packed.filter((name) => name.endsWith('.md')), 'CONTRIBUTING.md', 'demo/README.md', 'docs/MUTANTS.md']
  /** As GitHub makes them. */
  const anchorsOf = (file) =>
    [...readFileSync(file, 'utf8').replace(/```[\s\S]*?```/g, '').matchAll(/^#+ (.*)$/gm)].map(([, title]) =>
      title.toLowerCase().replace(/[^\p{L}\p{N} _-]/gu, '').replaceAll(' ', '-'),
    )
  for (const name of pages) {
    test(`of ${name} lead somewhere`, () => {
      const text = readFileSync(page(name), 'utf8').replace(/```[\s\S]*?```/g, '')
      for (const [, target] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^https?:/.test(target)) continue
        const [file, anchor] = target.split('#')
        const full = file ? path.resolve(path.dirname(page(name)), file) : page(name)
        assert.ok(existsSync(full), `${target}: no such file`)
        if (packed.includes(name)) assert.ok(packed.includes(path.relative(root, full)), `${target} is not in the package`)
        if (anchor) assert.ok(anchorsOf(full).includes(anchor), `${target}: no such section`)
      }
    })
  }
})
