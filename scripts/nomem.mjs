// Runs the C tests of the core again and again, each time with another allocation that fails (test/c/nomem.h):
//   node scripts/nomem.mjs <folder of test programs> [--all]
// Without --all only some: the first ones, then ever fewer. With it, each of the first 2,000, then every fiftieth part
// more: single tests make 100,000s. The last line is `N passed, N failed`; one test is one program.
import { spawnSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import path from 'node:path'

const [folder, mode] = process.argv.slice(2)
/** What a program leaves of its own when a test ends in its midst is no leak of an engine's; those are counted. */
const env = { ...process.env, ASAN_OPTIONS: 'detect_leaks=0', SWARM_SEEDS: '1' }
/** These do not use the cluster; test_core_alloc fails its own allocations. */
const others = ['test_core_alloc', 'test_core_buf', 'test_core_map']
const programs = readdirSync(folder)
  .filter((name) => /^test_core_\w+$/.test(name) && existsSync(`test/c/${name}.c`) && !others.includes(name))
  .sort()

const next = (n) => Math.max(n + 1, Math.floor(n * (mode !== '--all' ? 1.5 : n < 2000 ? 1 : 1.02)))

/** Until no test of the program comes to its n-th allocation any more. Returns what went wrong, or the number of runs. */
function runAll(name) {
  for (let n = 1, runs = 1; ; n = next(n), runs++) {
    const run = spawnSync(path.join(folder, name), { env: { ...env, AFF_FAIL_AT: String(n) }, encoding: 'utf8', timeout: 120_000 })
    const text = run.stdout + run.stderr
    if (run.status !== 0) return { name, failed: `AFF_FAIL_AT=${n} ${path.join(folder, name)} (${run.signal ?? run.status})`, text }
    if (!/\[  SKIPPED \] \d+ test/.test(text)) return { name, runs, last: n }
  }
}

const results = programs.map((name) => {
  const result = runAll(name)
  console.log(result.failed ? `${result.failed}\n${result.text.slice(-2000)}` : `${name}: ${result.runs} runs, up to allocation ${result.last}`)
  return result
})
const failed = results.filter((result) => result.failed).length
console.log(`${results.length - failed} passed, ${failed} failed`)
process.exit(failed === 0 && results.length > 0 ? 0 : 1)
