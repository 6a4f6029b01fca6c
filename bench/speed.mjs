// What a proxied message costs, beside Hocuspocus alone and beside other ways to run several servers:
//   node bench/speed.mjs      ROUNDS=5 ONLY="pipelined fanout" SIZE=smoke OUT=build/bench
// Variants alternate within each round. Tables in Markdown go to the standard output and to OUT/speed.md, plots as SVG
// beside it; what it is doing goes to the standard error.
import { execFile } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { startRedis } from '../test/support/redis.mjs'
import { Cluster, startProcess } from './speed/cluster.mjs'
import { median, number, spread, table } from './speed/figures.mjs'
import { PERF_FLAGS, hasPerf, startPerf } from './speed/perf.mjs'
import { plotSvg } from './speed/plot.mjs'
import * as runs from './speed/runs.mjs'

const root = fileURLToPath(new URL('..', import.meta.url))
const isSmoke = process.env.SIZE === 'smoke'
const ROUNDS = Number(process.env.ROUNDS) || (isSmoke ? 1 : 5)
const OUT = path.resolve(root, process.env.OUT || (isSmoke ? 'build/bench-smoke' : 'build/bench'))

const SIZES = isSmoke
  ? {
      pipelined: { documents: 3, edits: 20, window: 5 },
      latency: { edits: 10 },
      trips: 20,
      fanOut: { clients: 10, edits: 2, alone: 1 },
      idle: { documents: 200, seconds: 0.2 },
      sockets: { sockets: 40, documents: 4 },
      core: ['16'],
      plots: { edits: 24, clients: [2, 10], documents: [1, 3], servers: [2, 3] },
    }
  : {
      pipelined: { documents: 50, edits: 200, window: 20 },
      latency: { edits: 1000 },
      trips: 1000,
      fanOut: { clients: 500, edits: 40, alone: 3 },
      idle: { documents: 100_000, seconds: 10 },
      sockets: { sockets: 4000, documents: 20 },
      core: ['1', '16', '128'],
      plots: { edits: 4000, clients: [2, 10, 50, 200, 500], documents: [1, 5, 20, 50, 200], servers: [2, 3, 4, 5, 6] },
    }

const NAMES = { mirror: 'ws alone', relay: 'ws, relayed through Redis', relayed: 'ws, relayed directly', bare: 'bare', redis: 'extension-redis', plain: 'plain', ours: 'ours', linked: 'ours, direct links' }

const COLOURS = { bare: '#1f77b4', plain: '#d62728', ours: '#2ca02c' }

function isInstalled(name) {
  try {
    createRequire(import.meta.url).resolve(name)
    return true
  } catch {
    return false
  }
}

const progress = (text) => process.stderr.write(`${text}\n`)
const output = []
const print = (text) => {
  output.push(text)
  console.log(text)
}

/** Rows of the table of goals. */
const goals = []
const goal = (figure, wanted, values, limit) => {
  const reached = limit === undefined ? '' : median(values) <= limit ? 'yes' : 'no'
  goals.push([figure, wanted, spread(values), reached])
}

const redis = await startRedis()
const load = startProcess('./load.mjs')
const clusters = new Map()
process.on('exit', () => {
  for (const cluster of clusters.values()) for (const { pid } of cluster.servers) tryKill(pid)
})

function tryKill(pid) {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It has ended.
  }
}

/** The servers of a variant, that many at least; they stay for later runs. */
async function clusterOf(variant, servers = 2) {
  if (!clusters.has(variant)) clusters.set(variant, new Cluster(variant, redis))
  return clusters.get(variant).start(servers)
}

async function stopClusters() {
  await Promise.all([...clusters.values()].map((cluster) => cluster.stop()))
  clusters.clear()
}

/** Each variant in turn, in each round, after one round that makes all warm. */
async function rounds(what, variants, run, { warm = 1, count = ROUNDS } = {}) {
  const figures = Object.fromEntries(variants.map((variant) => [variant, []]))
  for (let round = isSmoke ? 0 : -warm; round < count; round++) {
    for (const variant of variants) {
      const figure = await run(variant)
      if (round >= 0) figures[variant].push(figure)
    }
    progress(`${what}: round ${round + 1} of ${count}`)
  }
  return figures
}

const all = ['mirror', 'bare', 'redis', 'plain', 'ours', 'linked'].filter((variant) => variant !== 'redis' || isInstalled('@hocuspocus/extension-redis'))
const cluster = all.filter((variant) => variant !== 'mirror' && variant !== 'bare')
const of = (figures, name) => figures.map((figure) => figure[name])
/** Round by round. */
const compare = (a, b, how) => a.map((value, n) => how(value, b[n]))
const minus = (a, b) => compare(a, b, (x, y) => x - y)
const ratio = (a, b) => compare(a, b, (x, y) => x / y)

function printRows(head, figures, columns) {
  const rows = Object.entries(figures).map(([variant, list]) => [NAMES[variant], ...columns.map((column) => spread(of(list, column)))])
  print(`\n${table(['', ...head], rows)}\n`)
}

const scenarios = {
  async pipelined() {
    const { documents, window, edits } = SIZES.pipelined
    const f = await rounds('pipelined', all, async (variant) => runs.pipelined(await clusterOf(variant), load, SIZES.pipelined))
    print(`### Pipelined\n\n${documents} documents with two clients each, both at a server that does not own the document; both write, ${edits} updates of one character for each document, ${window} of them unacknowledged at a time. For each update:`)
    printRows(
      ['origin, us CPU', 'of it I/O thread', 'owner, us CPU', 'of it I/O thread', 'Redis, us CPU', 'publishes', 'bytes through Redis', 'frames to clients', 'load generator, us CPU', 'updates/s'],
      Object.fromEntries(Object.entries(f).map(([variant, list]) => [variant, list.map((one) => ({ ...one, perUpdate: one.frames / one.updates }))])),
      ['origin', 'originThread', 'owner', 'ownerThread', 'redis', 'publishes', 'bytes', 'perUpdate', 'load', 'rate'],
    )
    const { mirror, bare, plain, ours } = f
    goal('CPU on the origin for each update beyond ws alone, us', '<= 3', minus(of(ours, 'origin'), of(mirror, 'owner')), 3)
    goal('CPU on the origin, whole process, ours / plain', '<= 0.4', ratio(of(ours, 'origin'), of(plain, 'origin')), 0.4)
    goal('CPU on the owner for each update beyond bare, us', '<= 2', minus(of(ours, 'owner'), of(bare, 'owner')), 2)
    goal('CPU in Redis for each update, us', '<= 1', of(ours, 'redis'), 1)
    const through = ratio(of(ours, 'rate'), of(bare, 'rate'))
    goal('with direct links: CPU in Redis for each update, us', '', of(f.linked, 'redis'))
    goals.push([`throughput, proxied / bare, ${documents} documents`, '>= 0.9', spread(through), median(through) >= 0.9 ? 'yes' : 'no'])
  },

  async latency() {
    const trips = []
    const run = (how) => async (variant) => how(await clusterOf(variant), load, SIZES.latency)
    const [mirror, ...others] = all
    const variants = [mirror, 'relay', 'relayed', ...others]
    const near = await rounds('latency', variants, async (variant) => {
      if (variant === 'bare') trips.push(await load.call('redisTrips', { path: redis.path, count: SIZES.trips }))
      return run(runs.oneAtATime)(variant)
    }, { warm: 5 }) // V8 compiles for that long, beside what is measured
    const far = await rounds('latency, across', variants, run(runs.across))
    trips.splice(0, trips.length - ROUNDS) // of the warming rounds
    const columns = ['p50', 'p99']
    const merged = Object.fromEntries(variants.map((variant) => [variant, near[variant].map((one, n) => ({ ...one, farP50: far[variant][n].p50, farP99: far[variant][n].p99 }))]))
    print('### One at a time\n\nOne update at a time, from one client to another, ms. "Together": both clients at a server that does not own the document (with extension-redis there is no owner: it is their own server that serves them). "Across": the other client is at the owner.')
    printRows(['together, p50', 'p99', 'across, p50', 'p99'], merged, [...columns, 'farP50', 'farP99'])
    print(`Redis's own way of two hops (publish, a subscriber publishes, a subscriber), in the same run: p50 ${spread(of(trips, 'p50'))} ms, p99 ${spread(of(trips, 'p99'))} ms.\n`)
    const extra = minus(of(near.ours, 'p50'), of(near.bare, 'p50'))
    goal("latency one at a time, proxied minus bare, p50 / Redis's two hops", '<= 1.3', ratio(extra, of(trips, 'p50')), 1.3)
    goal('the same in ms', '', extra)
    const least = minus(of(near.relay, 'p50'), of(near.mirror, 'p50'))
    goal("the same of ws alone: the least that a relay in Node costs / Redis's two hops", '', ratio(least, of(trips, 'p50')))
    goal('with direct links: latency one at a time, proxied minus bare, p50, ms', '<= 0.1', minus(of(near.linked, 'p50'), of(near.bare, 'p50')), 0.1)
    goal('the same of ws alone, relayed directly, ms', '', minus(of(near.relayed, 'p50'), of(near.mirror, 'p50')))
  },

  async fanout() {
    const { clients } = SIZES.fanOut
    const others = async (variant, more) => runs.fanOut(await clusterOf(variant, 3), load, { ...SIZES.fanOut, ...more })
    const one = await rounds('fan-out', all, async (variant) => runs.fanOut(await clusterOf(variant), load, SIZES.fanOut))
    // More of the same: the slowest variant is left out.
    const few = cluster.filter((variant) => variant !== 'redis')
    const two = await rounds('fan-out, two servers', few, (variant) => others(variant, { others: 2 }))
    const owner = await rounds('fan-out from the owner', few, (variant) => others(variant, { fromOwner: true }))
    const ownerTwo = await rounds('fan-out from the owner, two servers', few, (variant) => others(variant, { fromOwner: true, others: 2 }))
    const head = ['publishes, in a row', 'publishes, alone', 'bytes through Redis, alone', 'origins, us CPU', 'owner, us CPU', 'Redis, us CPU', 'all, us CPU', 'last client, ms']
    const columns = ['publishes', 'publishesAlone', 'bytesAlone', 'origin', 'owner', 'redis', 'all', 'last']
    print(`### Fan-out\n\nOne update to ${clients} clients. "In a row": the next update as soon as all have it; "alone": ${250} ms later, so that acknowledgements between servers are counted in full.\n\nAll clients at one server that does not own the document, the writer among them:`)
    printRows(head, one, columns)
    print('Spread over two such servers:')
    printRows(head, two, columns)
    print('The writer at the owner, the others at one other server:')
    printRows(head, owner, columns)
    print('The writer at the owner, the others at two other servers:')
    printRows(head, ownerTwo, columns)
    goal(`publishes for each update to ${clients} clients on one other server, from the owner`, '1', of(owner.ours, 'publishes'), 1)
    goal('on two', '2', of(ownerTwo.ours, 'publishes'), 2)
    goal(`bytes through Redis for each update, ${clients} clients`, '<= 2,048', of(one.ours, 'bytesAlone'), 2048)
    goal(`fan-out to ${clients}: CPU of all, ours / plain`, '<= 0.5', ratio(of(one.ours, 'all'), of(one.plain, 'all')), 0.5)
    goal(`fan-out to ${clients}: CPU of all, ours / bare`, '<= 1.1', ratio(of(one.ours, 'all'), of(one.bare, 'all')), 1.1)
  },

  async profile() {
    const perf = !isSmoke && hasPerf()
    const byV8 = async (server) => {
      await server.call('profileStart')
      return () => server.call('profileStop')
    }
    const profile = perf ? ({ pid }) => startPerf(pid) : byV8
    if (perf) await stopClusters() // those have no names for perf
    const f = await rounds('profile', ['ours'], async (variant) => {
      if (!clusters.has(variant)) clusters.set(variant, new Cluster(variant, redis, perf ? PERF_FLAGS : []))
      return runs.pipelined(await clusterOf(variant), load, { ...SIZES.pipelined, profile })
    }, { warm: 3 }) // V8 compiles what is hot, in steps
    if (perf) await stopClusters()
    const rows = f.ours.map(({ profiles: [owner, origin], updates, frames }) => ({
      originIn: (origin.ours - origin.originOut) / updates,
      originOut: origin.originOut / frames,
      ownerIn: (owner.ours - owner.ownerOut) / updates,
      ownerOut: owner.ownerOut / frames,
      originAll: origin.ours / updates,
      ownerAll: owner.ours / updates,
    }))
    print('### Our code on the JavaScript thread\n\nTime in functions of js/dist and of the addon, and in what they call (system calls too, but not ws or Hocuspocus), in the pipelined run; us for one message in each direction. ' + (perf ? 'By perf: CPU time.' : 'By V8, which samples by the clock: a thread that has to wait for a core, as after waking another, shows as busy, so this is too much. With perf installed it is CPU time.') + ' What Node itself does to call back from the I/O thread is not in it.')
    printRows(
      ['origin, from a client', 'origin, to a client', 'owner, from a client', 'owner, to a client', 'origin, all for one update', 'owner, all for one update'],
      { ours: rows },
      ['originIn', 'originOut', 'ownerIn', 'ownerOut', 'originAll', 'ownerAll'],
    )
    for (const [name, where] of [['originIn', 'origin, from a client'], ['originOut', 'origin, to a client'], ['ownerIn', 'owner, from a client'], ['ownerOut', 'owner, to a client']]) {
      goal(`JavaScript thread, our code, for one message, us: ${where}`, '<= 1', of(rows, name), 1)
    }
    const last = f.ours.at(-1)
    for (const [where, profile] of [['origin', last.profiles[1]], ['owner', last.profiles[0]]]) {
      const top = profile.functions.slice(0, 30).map(({ name, self, kernel, ours }) => [number(self / last.updates), number(kernel / last.updates), ours ? 'yes' : '', `\`${name}\``])
      print(`The ${where}'s JavaScript thread by function (with the native code that each calls) in the last round, us for one update (of ${number(profile.busy / last.updates)}):\n\n${table(['self', 'in the kernel', 'ours', 'function'], top)}\n`)
    }
  },

  async core() {
    const results = []
    for (let round = 0; round < ROUNDS; round++) results.push(await runCore(SIZES.core))
    progress('core')
    print('### The engine alone\n\nFrames through two engines in memory (`make bench-core`), ns for one message: routed and framed by one, unpacked by the other.\n')
    const rows = results[0].turns.map(({ perTurn }, n) => [String(perTurn), ...CORE.map((figure) => spread(results.map((one) => one.turns[n][figure])))])
    print(`${table(['messages in each turn of the loop', 'origin to owner', 'of it to route and frame', 'owner to origin', 'of it to route and frame'], rows)}\n`)
    const largest = results.map(({ turns }) => turns.at(-1))
    goal('core alone: to route and frame a message from origin to owner, ns', '<= 200', of(largest, 'thereSending'), 200)
    goal('and from owner to origin, ns', '<= 200', of(largest, 'backSending'), 200)
  },

  /** The shape: cost for each message must not grow. */
  async plots() {
    const { edits, clients, documents, servers } = SIZES.plots
    const perMessage = ({ all: cpu, updates, frames }) => (cpu * updates) / (updates + frames)
    const variants = isSmoke ? ['ours'] : ['bare', 'plain', 'ours']
    const plot = async (file, title, x, values, run, options = {}) => {
      const chosen = options.variants ?? variants
      const series = chosen.map((variant) => ({ name: NAMES[variant], colour: COLOURS[variant], points: [] }))
      for (const value of values) {
        const f = await rounds(`${file} ${value}`, chosen, (variant) => run(variant, value), { count: Math.min(ROUNDS, 3), warm: options.warm || value === values[0] ? 1 : 0 })
        chosen.forEach((variant, n) => series[n].points.push({ x: value, values: f[variant].map(perMessage) }))
      }
      writeFileSync(path.join(OUT, `${file}.svg`), plotSvg({ title, x, y: 'us CPU for a message', logarithmic: options.logarithmic, series }))
      print(`![${title}](${file}.svg)\n`)
    }
    print('### Shape\n\nCPU time of all servers and Redis for each message that a client sends or receives.\n')
    const wide = { logarithmic: true }
    await plot(
      'cost-clients',
      'One document, one update at a time: cost for each message',
      'clients of the document, all on one server that does not own it',
      clients,
      async (variant, count) => runs.fanOut(await clusterOf(variant), load, { clients: count, edits: Math.min(500, Math.ceil(edits / count)), alone: 0 }),
      wide,
    )
    const spreadOver = (count) => ({ documents: count, edits: Math.ceil(edits / count), window: 20 })
    await plot(
      'cost-documents',
      'Pipelined, two clients for each document: cost for each message',
      'documents',
      documents,
      async (variant, count) => runs.pipelined(await clusterOf(variant), load, spreadOver(count)),
      wide,
    )
    await plot(
      'cost-servers',
      'Pipelined, clients spread over the servers that do not own their documents',
      'servers',
      servers,
      async (variant, count) => runs.pipelined(await clusterOf(variant, count), load, { ...spreadOver(isSmoke ? 4 : 60), others: count - 1 }),
      { variants: variants.filter((variant) => variant !== 'bare'), warm: true }, // a server more is a cold one
    )
  },

  async idle() {
    const { documents } = SIZES.idle
    const variants = isSmoke ? ['ours'] : ['plain', 'ours']
    const f = await rounds('idle documents', variants, async (variant) => {
      // Alone: whatever else is a member of something asks Redis for it.
      await stopClusters()
      return runs.idleDocuments(await clusterOf(variant, 1), SIZES.idle)
    }, { warm: 0 })
    await stopClusters()
    print(`### Idle documents\n\n${number(documents)} documents owned by the only server, nobody at work:`)
    printRows(['commands/s sent to Redis', 'with those that scripts call', 'owner, % CPU', 'Redis, % CPU'], f, ['sent', 'commands', 'owner', 'redis'])
    goal(`${number(documents)} documents owned, idle: commands/s sent to Redis`, '<= 1', of(f.ours, 'sent'), 1)
    goal('CPU of their owner, %', '<= 0.5', of(f.ours, 'owner'), 0.5)
  },

  /** In fresh processes: garbage and grown tables of other runs would hide what a socket takes. */
  async memory() {
    const variants = isSmoke ? ['mirror', 'bare', 'ours'] : ['mirror', 'bare', 'plain', 'ours']
    await stopClusters()
    const f = await rounds(
      'memory',
      variants,
      async (variant) => {
        const fresh = await clusterOf(variant)
        const figures = await runs.idleSockets(fresh, load, SIZES.sockets)
        await stopClusters()
        return Object.fromEntries(Object.entries(figures).flatMap(([where, { heap, rss }]) => [[`${where}Heap`, heap], [`${where}Rss`, rss]]))
      },
      { warm: 0 },
    )
    print(`### Memory of idle sockets\n\n${number(SIZES.sockets.sockets)} sockets with a document each, idle; bytes for each socket, in V8's heap and its external memory after collections, and of the resident set. (ws alone and bare: one process is both.)`)
    printRows(['origin, heap', 'origin, resident', 'owner, heap', 'owner, resident'], f, ['originHeap', 'originRss', 'ownerHeap', 'ownerRss'])
    const engine = await runCore([])
    print(`The engine's own memory, counted by its allocator (\`make bench-core\`): origin ${number(engine.memory.origin)}, owner ${number(engine.memory.owner)} bytes for each socket.\n`)
    const origin = minus(of(f.ours, 'originHeap'), of(f.mirror, 'originHeap')).map((bytes) => bytes + engine.memory.origin)
    const served = minus(of(f.bare, 'ownerHeap'), of(f.mirror, 'ownerHeap'))
    const owner = minus(of(f.ours, 'ownerHeap'), served).map((bytes) => bytes + engine.memory.owner)
    goal('memory of an idle proxied socket at the origin: heap beyond ws alone, and engine; bytes', '<= 1,024', origin, 1024)
    goal('at the owner: heap beyond what bare has beyond ws alone, and engine; bytes', '<= 2,048', owner, 2048)
  },
}

const CORE = ['there', 'thereSending', 'back', 'backSending']

/** The C program's lines, read. */
async function runCore(sizes) {
  const { stdout } = await promisify(execFile)(path.join(root, 'build/bench/core'), sizes)
  const turns = [...stdout.matchAll(/^turn (\d+) there (\d+) \(sending (\d+)\) back (\d+) \(sending (\d+)\)$/gm)].map(([, perTurn, ...figures]) => ({
    perTurn: Number(perTurn),
    ...Object.fromEntries(figures.map((figure, n) => [CORE[n], Number(figure)])),
  }))
  const [, origin, owner] = stdout.match(/^memory origin (\d+) owner (\d+)$/m)
  return { turns, memory: { origin: Number(origin), owner: Number(owner) } }
}

async function machine() {
  const version = (await redis.client.info('server')).match(/^redis_version:(\S+)/m)[1]
  const [{ model }] = os.cpus()
  const hocuspocus = JSON.parse(readFileSync(path.join(root, 'node_modules/@hocuspocus/server/package.json'), 'utf8')).version
  return `${os.cpus().length} cores (${model.trim()}), Linux ${os.release().match(/^\d+\.\d+/)[0]}, Node ${process.versions.node}, Redis ${version}, Hocuspocus ${hocuspocus}; ${ROUNDS} rounds, load average ${os.loadavg()[0].toFixed(1)} at the start`
}

const asked = (process.env.ONLY ?? '').split(/[\s,]+/).filter(Boolean)
for (const name of asked) if (!scenarios[name]) throw new Error(`ONLY: there is no "${name}", but ${Object.keys(scenarios).join(', ')}`)
mkdirSync(OUT, { recursive: true })
print(`${await machine()}. Figures are medians, with the range of the rounds in brackets.\n`)
if (!all.includes('redis')) progress('@hocuspocus/extension-redis is not installed: left out')
for (const [name, run] of Object.entries(scenarios)) if (asked.length === 0 || asked.includes(name)) await run()
print(`### Goals\n\n${table(['figure', 'goal', 'measured', 'reached'], goals)}\n`)
writeFileSync(path.join(OUT, `${['speed', ...asked].join('-')}.md`), `${output.join('\n')}\n`)

await stopClusters()
await load.stop()
await redis.stop()
process.exit()
