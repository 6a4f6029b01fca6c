// The single runs: each sets clients up, measures, checks that all documents are the same everywhere, and takes all down.
import { until } from '../../test/support/wait.mjs'
import { cost } from './cluster.mjs'

const pass = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
/** Acknowledgements between servers come up to 200 ms later: they belong to the run. */
const AFTERMATH_MS = process.env.SIZE === 'smoke' ? 20 : 250

let lastRun = 0

/**
 * @param {import('./cluster.mjs').Cluster} cluster
 * @param {ReturnType<import('./cluster.mjs').startProcess>} load
 * @param {{ count?: number, urls: (document: number) => string[], writers: number[], edits: number }} shape of each document
 */
async function withDocuments(cluster, load, { count = 1, urls, writers, edits }, measure) {
  const prefix = `run-${++lastRun}`
  const documents = Array.from({ length: count }, (_, n) => ({ name: `${prefix}-${n}`, urls: urls(n), writers, edits }))
  const names = documents.map(({ name }) => name)
  await cluster.owner.call('open', names)
  await load.call('open', documents)
  const figures = await measure()
  figures.checked = await until(
    async () => {
      const states = []
      for (const [n, server] of cluster.servers.entries()) {
        for (const { name, state } of await server.call('states', names)) states.push({ server: `s${n + 1}`, name, state })
      }
      return cluster.hasDocuments ? load.call('check', states) : 1
    },
    { timeout: 20_000, every: 200, what: 'all documents are the same everywhere' },
  )
  await load.call('close')
  await cluster.owner.call('close')
  for (const server of cluster.servers.slice(1)) await server.call('close')
  return figures
}

function perUpdate({ result, servers, redis, load, publishes, bytes }, updates) {
  return {
    load: load / updates,
    origin: servers.slice(1).reduce((sum, { cpu }) => sum + cpu, 0) / updates,
    originThread: servers.slice(1).reduce((sum, { ioThread }) => sum + ioThread, 0) / updates,
    owner: servers[0].cpu / updates,
    ownerThread: servers[0].ioThread / updates,
    redis: redis / updates,
    all: (servers.reduce((sum, { cpu }) => sum + cpu, 0) + redis) / updates,
    publishes: publishes / updates,
    bytes: bytes / updates,
    ...result,
  }
}

/**
 * Many documents at once, two clients each, both at a server that does not own it, a window of updates under way.
 * `profile(server)` starts a profile, and resolves with a function that ends it and gives what it says.
 */
export function pipelined(cluster, load, { documents, edits, window, others = 1, profile }) {
  const urls = (n) => Array(2).fill(cluster.other(n % others).url)
  return withDocuments(cluster, load, { count: documents, urls, writers: [0, 1], edits: Math.ceil(edits / 2) }, async () => {
    const spent = await cost(cluster, load, async () => {
      const stops = profile ? await Promise.all(cluster.servers.map(profile)) : []
      const result = await load.call('pipelined', { window })
      await pass(AFTERMATH_MS)
      return { ...result, profiles: await Promise.all(stops.map((stop) => stop())) }
    })
    const figures = perUpdate(spent, spent.result.updates)
    return { ...figures, rate: spent.result.updates / spent.result.seconds }
  })
}

/** One update at a time, from one client to the other, both at a server that does not own the document. */
export function oneAtATime(cluster, load, { edits }) {
  const urls = () => [cluster.other().url, cluster.other().url]
  return withDocuments(cluster, load, { urls, writers: [0], edits }, () => load.call('oneAtATime', { count: edits }))
}

/** The same from a client at such a server to one at the owner. */
export function across(cluster, load, { edits }) {
  const urls = () => [cluster.other().url, cluster.owner.url]
  return withDocuments(cluster, load, { urls, writers: [0], edits }, () => load.call('oneAtATime', { count: edits }))
}

/**
 * One update to many clients, on `others` servers that do not own the document; its writer is one of them, or a client
 * of the owner (`fromOwner`).
 */
export function fanOut(cluster, load, { clients, edits, alone = 3, others = 1, fromOwner = false }) {
  const many = Array.from({ length: clients }, (_, n) => cluster.other(n % others).url)
  const urls = () => (fromOwner ? [cluster.owner.url, ...many] : many)
  return withDocuments(cluster, load, { urls, writers: [0], edits: 1 + edits + alone }, async () => {
    await load.call('fanOut', { count: 1 }) // the first one makes routes warm
    const spent = await cost(cluster, load, async () => {
      const result = await load.call('fanOut', { count: edits })
      await pass(AFTERMATH_MS)
      return result
    })
    // Alone, so that everything that a single update causes is seen: late acknowledgements between servers too.
    const single = await cost(cluster, load, () => load.call('fanOut', { count: alone, pause: AFTERMATH_MS }))
    return { ...perUpdate(spent, spent.result.updates), publishesAlone: single.publishes / alone, bytesAlone: single.bytes / alone }
  })
}

/** Many documents owned by one server, idle. */
export async function idleDocuments(cluster, { documents, seconds }) {
  await cluster.owner.call('lock', { count: documents })
  await pass(4 * AFTERMATH_MS)
  const started = performance.now()
  const spent = await cost(cluster, undefined, () => pass(seconds * 1000))
  const passed = (performance.now() - started) / 1000
  await cluster.owner.call('unlock')
  return {
    sent: (spent.commands - (spent.scripts > 0 ? spent.scripted : 0)) / passed,
    commands: spent.commands / passed,
    owner: (spent.servers[0].cpu / 1e6 / passed) * 100,
    redis: (spent.redis / 1e6 / passed) * 100,
  }
}

/** Memory of idle sockets: bytes for each, at the origin and at the owner. */
export async function idleSockets(cluster, load, { sockets, documents }) {
  const each = Math.ceil(sockets / documents)
  const urls = (length) => () => Array(length).fill(cluster.other().url)
  const measure = async () => {
    // What was opened leaves garbage for a while: promises, timers, V8's own.
    await cluster.collect()
    await pass(2 * AFTERMATH_MS)
    return cluster.collect()
  }
  // The first sockets make room in tables and caches that later ones use too.
  await withDocuments(cluster, load, { count: documents, urls: urls(4), writers: [0], edits: 1 }, () => load.call('pipelined', { window: 1 }))
  const before = await measure()
  let after
  await withDocuments(cluster, load, { count: documents, urls: urls(each), writers: [0], edits: 1 }, async () => {
    const result = await load.call('pipelined', { window: 1 })
    await pass(AFTERMATH_MS)
    after = await measure()
    return result
  })
  const count = each * documents
  const perSocket = (n, field) => (after[n][field] - before[n][field]) / count
  const at = (n) => ({ heap: perSocket(n, 'heapUsed') + perSocket(n, 'external'), rss: perSocket(n, 'rss') })
  return { owner: at(0), origin: at(cluster.isAlone ? 0 : 1) }
}
