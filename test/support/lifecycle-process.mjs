// A program that ends, or does not, in some way: `node lifecycle-process.mjs <scene>`; Redis's address comes in the
// environment. It prints what it has come to, a line each.
import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { RedisServerAffinity } from '@hocuspocus/extension-redis-affinity'
import { Hocuspocus } from '@hocuspocus/server'
import { Redis } from 'ioredis'
import { authFrame, MessageType, syncFrame } from './client.mjs'
import { until } from './wait.mjs'

const options = JSON.parse(process.env.REDIS ?? '{}')
const [scene] = process.argv.slice(2)

/** A server without a network; `redis` connects to nothing by itself, so that only the extension counts. */
export function makeServer(serverId, { address, ...more } = {}, extensions = []) {
  const redis = new Redis({ ...options, lazyConnect: true, ...address })
  const affinity = new RedisServerAffinity({ redis, serverId, ...more })
  return { affinity, hocuspocus: new Hocuspocus({ quiet: true, debounce: 20, extensions: [affinity, ...extensions] }) }
}

let sockets = 0
/** A client's socket, as a WebSocket library would have it; what it receives goes to `onFrame`. */
export function makeSocket({ affinity }, onFrame = () => {}, { key = `key-${++sockets}` } = {}) {
  const headers = key === null ? {} : { 'sec-websocket-key': key }
  const request = { method: 'GET', url: '/', headers, socket: { remoteAddress: '127.0.0.1' } }
  const ws = { readyState: 1, send: (data) => onFrame(data), close: (code) => socket.closed ?? end(code) }
  const end = (code = 1000) => {
    if (ws.readyState === 3) return
    ws.readyState = 3
    socket.closed = code
    setImmediate(() => affinity.onSocketClose(key ?? ws, code))
  }
  const socket = { closed: undefined, say: (frame) => affinity.onSocketMessage(ws, request, frame), close: end }
  affinity.onSocketOpen(ws, request, { user: 'ann' })
  return socket
}

/** Opens a document through the server; resolves when it is synchronised. */
export function openDocument(server, name) {
  return new Promise((resolve, reject) => {
    const socket = makeSocket(server, (data) => {
      const type = data[1 + Buffer.byteLength(name)]
      if (type === MessageType.Sync) resolve(socket)
      if (socket.closed) reject(new Error(`closed with ${socket.closed}`))
    })
    socket.say(authFrame(name))
    socket.say(syncFrame(name))
  })
}

/** Writes to a document all the time, through a direct connection. */
export async function keepTyping({ hocuspocus }, name) {
  const connection = await hocuspocus.openDirectConnection(name, {})
  const timer = setInterval(() => void connection.transact((document) => document.getText('text').insert(0, 'x')).catch(() => {}), 1)
  return async () => {
    clearInterval(timer)
    await connection.disconnect()
  }
}

export const threads = () => Number(readFileSync('/proc/self/status', 'utf8').match(/^Threads:\s+(\d+)/m)[1])

/** Two servers, documents of both open at both, all writing. */
async function traffic(more) {
  const servers = [makeServer('a', { ...more }), makeServer('b', { ...more })]
  await Promise.all(servers.map(({ affinity }) => affinity.ready()))
  for (const [index, server] of servers.entries()) {
    await keepTyping(server, `doc-${index}`)
    for (let n = 0; n < 5; n++) await openDocument(servers[1 - index], `doc-${index}`)
  }
  return servers
}

/** Resolves when the extension has told that it can't reach Redis. */
function refused() {
  const { warn } = console
  return new Promise((resolve) => {
    console.warn = (...words) => {
      warn(...words)
      if (/Redis.* can't be reached/.test(words.join(' '))) resolve()
    }
  })
}

/** The process is to end with 7 at the named point. */
const exits = {
  async constructed() {
    makeServer('a')
  },
  async 'Redis unreachable'() {
    const told = refused()
    makeServer('a', { address: { path: '/nowhere/redis.sock' } }).affinity.ready().catch(() => {})
    await told
  },
  async connecting() {
    makeServer('a').affinity.ready().catch(() => {})
  },
  async joining() {
    const { affinity } = makeServer('a')
    affinity.ready().catch(() => {})
    await sleep(Math.random() * 4)
  },
  async 'pending calls'() {
    const { affinity } = makeServer('a')
    await affinity.ready()
    for (let n = 0; n < 100; n++) void affinity.lockDocument(`doc-${n}`)
  },
  async 'documents open'() {
    const server = makeServer('a')
    await server.affinity.lockDocument('held')
    await server.hocuspocus.openDirectConnection('doc', {})
    await openDocument(server, 'doc')
  },
  async traffic() {
    const servers = await traffic()
    await until(() => servers.every(({ affinity }) => affinity.stats().framesOut > 100))
  },
  async 'inside an event handler'() {
    const customEvents = { end: async () => process.exit(7) }
    const servers = await traffic({ customEvents })
    await servers[0].affinity.handleEvent('end', 'doc-1', {})
  },
  async 'inside pack'() {
    let rounds = 0
    const { pack, unpack } = await import('msgpackr')
    const count = (message) => (++rounds > 200 ? process.exit(7) : pack(message))
    await traffic({ pack: count, unpack })
    await new Promise(() => {})
  },
  async 'inside a listener'() {
    const { affinity } = makeServer('a')
    affinity.on('owned', () => process.exit(7))
    await affinity.lockDocument('doc')
    await new Promise(() => {})
  },
  async draining() {
    let isStoring = false
    const slow = { onStoreDocument: () => new Promise(() => (isStoring = true)) }
    const server = makeServer('a', {}, [slow])
    await keepTyping(server, 'doc')
    void server.affinity.drain()
    await until(() => isStoring)
  },
  async destroying() {
    const servers = await traffic()
    for (const { affinity } of servers) void affinity.onDestroy()
  },
  async destroyed() {
    const servers = await traffic()
    await Promise.all(servers.map(({ affinity }) => affinity.onDestroy()))
  },
}

const collect = (isCollected) => until(() => (globalThis.gc(), isCollected()), { what: 'collected' })

/** These decide by themselves when they have nothing left to do. */
const scenes = {
  /** Never started: nothing is connected. */
  async 'never used'() {
    new RedisServerAffinity({ redis: new Redis({ ...options, lazyConnect: true }) })
  },
  async 'destroyed at once'() {
    const { affinity } = makeServer('a')
    await affinity.onDestroy()
  },
  async 'destroyed after use'() {
    const server = makeServer('a')
    const release = await server.affinity.lockDocument('held')
    await (await keepTyping(server, 'doc'))()
    await release()
    await server.affinity.onDestroy()
    await server.affinity.ready().catch((error) => console.log(error.code))
  },
  async 'destroyed without Redis'() {
    const { affinity } = makeServer('a', { address: { path: '/nowhere/redis.sock' } })
    const told = refused()
    affinity.ready().catch((error) => console.log(error.code))
    await told
    await affinity.onDestroy()
  },
  /** A member that nobody has destroyed works on. */
  async 'not destroyed'() {
    globalThis.server = makeServer('a')
    await globalThis.server.affinity.ready()
    console.log('member')
  },
  /** Forgotten: collected, and so the process ends. */
  async forgotten() {
    await (async () => void (await makeServer('a').affinity.ready()))()
    const before = threads()
    await collect(() => threads() < before)
    console.log('collected')
  },
  async 'many forgotten'() {
    const before = threads()
    await (async () => {
      for (let n = 0; n < 30; n++) await makeServer(`a${n}`, { failClosed: n % 2 === 0, rebalance: n % 3 === 0 }).affinity.ready()
    })()
    console.log(`threads ${threads() - before}`)
    await collect(() => threads() === before)
    console.log('collected')
  },
  async workers() {
    const { workers } = await import('./lifecycle-rounds.mjs')
    const { busy } = await workers(options, 10)
    console.log(`busy ${busy}`)
  },
  async 'instances and sockets'() {
    const { instances, rss, sockets } = await import('./lifecycle-rounds.mjs')
    const clients = await sockets(options)
    const grown = []
    for (const work of [() => instances(options, 60), () => clients.run(3000)]) {
      await work() // until caches are warm
      const before = await rss()
      await work()
      grown.push((await rss()) - before)
    }
    await clients.end()
    console.log(grown.map(Math.round).join())
  },
  /** What somebody counts on is not collected, whatever refers to it. */
  async 'forgotten in use'() {
    await makeServer('holder').affinity.lockDocument('held')
    await (async () => void (await makeServer('loader').hocuspocus.openDirectConnection('loaded', {})))()
    const waiting = makeServer('waiter').affinity.ready().then(() => console.log('ready after all'))
    for (let n = 0; n < 50; n++) {
      globalThis.gc()
      await sleep(10)
    }
    await waiting
    const redis = new Redis(options)
    console.log((await redis.mget('rsaLock:held', 'rsaLock:loaded')).map((record) => record?.split(' ')[2]).join())
    console.log((await redis.mget('rsaServer:holder', 'rsaServer:loader')).map(Boolean).join())
    process.exit(0)
  },
}

/* Not awaited: a scene may import what imports this module. */
if (exits[scene]) void exits[scene]().then(() => process.exit(7))
else if (scene) void scenes[scene]()

export const exitScenes = Object.keys(exits)
