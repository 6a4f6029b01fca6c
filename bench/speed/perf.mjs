// CPU time of a server's JavaScript thread by function, from the kernel's profiler (perf), where there is one. It sees what
// a profile of V8 does not: system calls, and that a thread which has to wait for a core costs nothing.
import { spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

/**
 * Servers need these from their start: perf can name JavaScript's functions, and each is compiled by itself, since what V8
 * inlines counts as its caller's. (So all take a little longer.)
 */
export const PERF_FLAGS = ['--perf-basic-prof', '--no-turbo-inlining']

/** What Node leaves behind under that flag. */
export const removeMap = (pid) => rmSync(path.join(os.tmpdir(), `perf-${pid}.map`), { force: true })

export const hasPerf = () => spawnSync('perf', ['record', '-o', '/dev/null', '-e', 'cpu-clock', 'true']).status === 0

/** Starts to record the main thread of a process; the result ends it, and gives what perf has seen. */
export async function startPerf(pid) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-perf-'))
  const file = path.join(folder, 'perf.data')
  const perf = spawn('perf', ['record', '-q', '-e', 'cpu-clock', '-F', '5000', '-g', '-t', String(pid), '-o', file], { stdio: 'ignore' })
  const exited = new Promise((resolve) => perf.once('exit', resolve))
  // It says nothing when it has begun; what it misses is missing from all functions alike.
  await new Promise((resolve) => setTimeout(resolve, 200))
  return async () => {
    perf.kill('SIGINT')
    await exited
    const script = await read('perf', ['script', '-i', file, '-F', 'period,ip,sym,dso'])
    rmSync(folder, { recursive: true, force: true })
    return sumUp(script)
  }
}

function read(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'ignore'] })
    const parts = []
    child.stdout.on('data', (data) => parts.push(data))
    child.once('error', reject)
    child.once('close', () => resolve(Buffer.concat(parts).toString()))
  })
}

/** Node's streams, which V8 may have inlined into who writes to them. */
const STREAMS = /^node::(LibuvStreamWrap|StreamBase|WriteWrap|StreamResource)/
const ADDON = /^(aff_|js_hand|on_wake|wrap_block)/
/** On the way from a document's owner to clients. At the owner the addon is called for little else. */
const OUTWARD = { origin: /#onBlock|#onRecord|^JS:.? .*\/engine\.js|aff_instance_consumed|on_wake/, owner: /#flushSends|proxySend|send .*\/proxy\.js|putForMany|#handOver|js_hand|^aff_instance_hand/ }

/** @returns the same as ownTime() in profile.mjs, with the part of each function that passed in the kernel */
function sumUp(script) {
  const sums = { busy: 0, ours: 0, originOut: 0, ownerOut: 0 }
  const functions = new Map()
  for (const block of script.split('\n\n')) {
    const [head, ...lines] = block.trim().split('\n')
    const time = Number(head) / 1000
    if (!time || lines.length === 0) continue
    const frames = lines.map((line) => line.trim().match(/^[0-9a-f]+ (.*?)(?:\+0x[0-9a-f]+)? \((.*)\)$/) ?? []).map(([, symbol = '', dso = '']) => ({ symbol, dso }))
    // The innermost of the two; the addon's frames end a stack where it was compiled without frame pointers.
    const isAddon = ({ symbol, dso }) => dso.endsWith('affinity.node') || ADDON.test(symbol)
    const chosen = frames.find((frame) => frame.symbol.startsWith('JS:') || isAddon(frame))
    const isStream = frames.slice(0, frames.indexOf(chosen)).some(({ symbol }) => STREAMS.test(symbol))
    const ours = chosen !== undefined && !isStream && (isAddon(chosen) || chosen.symbol.includes('/js/dist/'))
    sums.busy += time
    if (ours) {
      sums.ours += time
      if (frames.some(({ symbol }) => OUTWARD.origin.test(symbol))) sums.originOut += time
      if (frames.some(({ symbol }) => OUTWARD.owner.test(symbol))) sums.ownerOut += time
    }
    const name = isStream ? "(Node) its streams' system calls" : chosen ? chosen.symbol.replace(/^JS:[*^~]?/, '').replace(/(file:\/\/)?\/\S*\/(node_modules|js\/dist|bench)\//, (_, _scheme, place) => (place === 'node_modules' ? '' : `${place}/`)) : `(Node, V8) ${frames.find(({ symbol }) => /uv_|malloc|free|epoll/.test(symbol))?.symbol ?? ''}`
    const known = functions.get(name) ?? { name, self: 0, kernel: 0, ours }
    known.self += time
    if (frames[0].dso.includes('kernel')) known.kernel += time
    functions.set(name, known)
  }
  return { ...sums, functions: [...functions.values()].sort((a, b) => b.self - a.self) }
}
