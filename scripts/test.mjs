// Runs the suites that are asked for and sums them up:
//   node scripts/test.mjs [--c <folder of test programs>] [--nomem <likewise> [some|each]] [--fuzz] [--node] [--faults] [--browser] [files...]
// The last line is `N passed, N failed`, alone; the exit code says the same. PATIENCE=n in the environment multiplies all
// limits of time, for builds that are slow.
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
process.chdir(root)

const total = { passed: 0, failed: 0 }
const failures = []

/** A program that never returns must not hang the whole run: generous limits per program and per suite. */
const patience = Number(process.env.PATIENCE ?? 1)
const C_LIMIT_MS = patience * 120_000
const NODE_LIMIT_MS = patience * 15 * 60_000
const FILE_LIMIT_MS = patience * 300_000

const running = new Set()

function killGroup(child) {
  try {
    process.kill(-child.pid, 'SIGKILL')
  } catch {
    // It has ended by itself.
  }
}

for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => {
    running.forEach(killGroup)
    process.exit(1)
  })
}

function run(command, args, { limit, env = {}, onText = () => {} }) {
  return new Promise((resolve) => {
    // In a group of its own: what it has started ends with it.
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], env: { ...process.env, ...env }, detached: true })
    running.add(child)
    const stop = () => {
      console.log(`${command} ${args.join(' ')}: no end after ${limit / 1000} s, stopped`)
      killGroup(child)
    }
    const timer = limit < Infinity ? setTimeout(stop, limit) : undefined
    // cmocka writes its sums to standard error.
    for (const stream of [child.stdout, child.stderr]) {
      stream.on('data', (data) => {
        process.stdout.write(data)
        onText(data.toString())
      })
    }
    child.on('error', (error) => console.log(error.message))
    child.on('close', (code, signal) => {
      running.delete(child)
      clearTimeout(timer)
      resolve(signal ?? code)
    })
  })
}

/** The test programs of a folder whose sources are there still: any other is a leftover of an older build. */
const programsOf = (folder) =>
  existsSync(folder) ? readdirSync(folder).filter((name) => /^test_\w+$/.test(name) && existsSync(`test/c/${name}.c`)).sort() : []

/** cmocka's own counts; a program that ends without them (a crash) is one failure on top of what it told. */
async function runC(folder) {
  for (const name of programsOf(folder)) {
    let text = ''
    const status = await run(path.join(folder, name), [], { limit: C_LIMIT_MS, onText: (more) => (text += more) })
    const count = (label) => [...text.matchAll(new RegExp(`^\\[  ${label}  \\] (\\d+) test\\(s\\)`, 'gm'))].reduce((sum, m) => sum + Number(m[1]), 0)
    const passed = count('PASSED')
    let failed = count('FAILED')
    if (failed === 0 && (status !== 0 || passed === 0)) failed = 1
    total.passed += passed
    total.failed += failed
    if (failed > 0) failures.push(`${name}${status === 0 ? '' : ` (${status})`}`)
  }
}

/** The core's C tests while allocations fail (test/c/nomem.h), on two cores: a program is one test. */
async function runNomem(folder, which = 'some') {
  const usesClusters = (name) => /#include "\w*cluster\.h"/.test(readFileSync(`test/c/${name}.c`, 'utf8'))
  const waiting = programsOf(folder).filter((name) => /^test_core_(?!alloc)/.test(name) && usesClusters(name))
  // What a program leaves of its own when a test ends in its midst is no leak of an engine's; those are counted. A fork copies
  // what is kept aside.
  const env = { AFF_FAIL_AT: which, ASAN_OPTIONS: 'detect_leaks=0:quarantine_size_mb=4' }
  const runOne = async (name) => {
    let text = ''
    const status = await run(path.join(folder, name), [], { limit: which === 'each' ? Infinity : C_LIMIT_MS, env, onText: (more) => (text += more) })
    const passed = status === 0 && /^[1-9]\d* allocations have failed$/m.test(text)
    total[passed ? 'passed' : 'failed']++
    if (!passed) failures.push(`allocation failures in ${name} (${status})`)
  }
  const runSome = async () => {
    for (let name; (name = waiting.shift()); ) await runOne(name)
  }
  await Promise.all([runSome(), runSome()])
}

/** The kept inputs of each fuzz target, and 2,000 runs from a fixed seed. */
async function runFuzz() {
  const targets = readdirSync('fuzz').filter((name) => /^fuzz_\w+\.c$/.test(name)).map((name) => name.slice(5, -2))
  for (const target of targets.sort()) {
    let text = ''
    const status = await run('scripts/fuzz.sh', ['--short', target], { limit: C_LIMIT_MS, onText: (more) => (text += more) })
    const passed = status === 0 && /^stat::number_of_executed_units: *[1-9]/m.test(text)
    total[passed ? 'passed' : 'failed']++
    if (!passed) failures.push(`fuzz target ${target} (${status})`)
  }
}

async function runNode(suite, files) {
  const chosen = files.length > 0 ? files : readdirSync(`test/${suite}`).filter((name) => name.endsWith('.test.mjs')).map((name) => `test/${suite}/${name}`)
  if (chosen.length === 0) return
  mkdirSync('build', { recursive: true })
  const tap = `build/${suite}-tests.tap`
  rmSync(tap, { force: true })
  const status = await run(
    process.execPath,
    [
      '--test',
      '--test-concurrency=2',
      // Per file, too (Node 20): single waits have shorter deadlines of their own.
      `--test-timeout=${FILE_LIMIT_MS}`,
      '--test-reporter=spec',
      '--test-reporter-destination=stdout',
      '--test-reporter=tap',
      `--test-reporter-destination=${tap}`,
      ...chosen.sort(),
    ],
    { limit: NODE_LIMIT_MS },
  )
  const text = existsSync(tap) ? readFileSync(tap, 'utf8') : ''
  const count = (label) => Number(text.match(new RegExp(`^# ${label} (\\d+)$`, 'm'))?.[1] ?? 0)
  const failed = count('fail') + count('cancelled')
  total.passed += count('pass')
  total.failed += status !== 0 && failed === 0 ? 1 : failed
  if (status !== 0) {
    const named = [...text.matchAll(/^ *not ok \d+ - (.*)$/gm)].map((match) => match[1]).filter((name) => !name.endsWith('.mjs'))
    failures.push(...(named.length > 0 ? named : [`${suite} tests (${status})`]))
  }
}

const args = process.argv.slice(2)
const files = args.filter((arg) => arg.endsWith('.mjs'))
if (args.includes('--c')) await runC(args[args.indexOf('--c') + 1])
if (args.includes('--nomem')) await runNomem(...args.slice(args.indexOf('--nomem') + 1).filter((arg) => !arg.startsWith('--')))
if (args.includes('--fuzz')) await runFuzz()
// Faults are measured against clocks: those tests share the machine with each other alone. They wait more than they compute.
const isFault = (name) => /^(fault-|providers|versions)/.test(path.basename(name))
const inFolder = readdirSync('test/node').filter((name) => name.endsWith('.test.mjs')).map((name) => `test/node/${name}`)
if (args.includes('--node')) await runNode('node', files.length > 0 ? files : inFolder.filter((name) => !isFault(name)))
if (args.includes('--faults')) await runNode('node', files.length > 0 ? files : inFolder.filter(isFault))
if (args.includes('--browser')) await runNode('browser', files)

if (failures.length > 0) console.log(`\nfailed:\n${failures.map((name) => `  ${name}`).join('\n')}`)
console.log(`\n${total.passed} passed, ${total.failed} failed`)
process.exit(total.failed === 0 && total.passed > 0 ? 0 : 1)
