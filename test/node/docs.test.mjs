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
import { blocksOf, samplesOf } from '../support/pages.mjs'
import { freePort } from '../support/redis.mjs'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../../', import.meta.url))
const page = (name) => path.join(root, name)

/** `npm install a b` links what this repository has installed; all else is npm's. (What npm itself makes of the package: package.test.mjs.) */
const NPM = `#!/bin/sh
[ "$1" = install ] || exec "$NPM" "$@"
shift
for name; do
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
