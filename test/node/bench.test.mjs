// The speed benchmark, at a size that takes seconds: it must not rot. Its figures mean nothing here.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import test from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = fileURLToPath(new URL('../..', import.meta.url))

test('the speed benchmark runs through and fills its tables', { timeout: 240_000 }, async (t) => {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-bench-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  // The addon's objects are there; the program on core alone is made of them.
  await promisify(execFile)('make', ['-s', 'build/bench/core'], { cwd: root })
  const env = { ...process.env, SIZE: 'smoke', OUT: folder, ROUNDS: '1', ONLY: '' }
  const { stdout } = await promisify(execFile)(process.execPath, ['bench/speed.mjs'], { cwd: root, env })
  assert.equal(readFileSync(path.join(folder, 'speed.md'), 'utf8').trim(), stdout.trim())

  // The documents were the same everywhere after each run, or it would have ended otherwise. Each figure is there:
  const goals = stdout.slice(stdout.indexOf('### Goals')).split('\n').filter((line) => line.startsWith('| ')).slice(2)
  assert.equal(goals.length, 26)
  for (const line of goals) {
    const measured = line.split('|')[3]
    assert.match(measured, /^ -?[\d,.]+ $/, line)
  }
  for (const variant of ['ws alone', 'bare', 'plain', 'ours']) {
    const row = stdout.split('\n').find((line) => line.startsWith(`| ${variant} |`)) ?? ''
    assert.match(row.split('|').at(-2) ?? '', /^ [\d,.]+ $/, `${variant}: updates/s`)
  }
  for (const plot of ['clients', 'documents', 'servers']) {
    const svg = path.join(folder, `cost-${plot}.svg`)
    assert.ok(existsSync(svg), svg)
    assert.match(readFileSync(svg, 'utf8'), /<polyline points="[\d.,]+ [\d.,]+" /)
  }
})
