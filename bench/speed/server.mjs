// One server of the benchmark, in a process of its own, steered over IPC by cluster.mjs: of one of the variants
//   mirror    a WebSocket server and nothing behind it: what ws itself costs
//   relay     the same at another server than its clients', to which their frames are passed through Redis
//   relayed   or directly
//   bare      Hocuspocus alone
//   redis     with @hocuspocus/extension-redis
//   plain     with bench/speed/plain.mjs
//   ours      with RedisServerAffinity
//   linked    with RedisServerAffinity and direct links
// All stand on the same WebSocket server (ws), so that they differ in nothing else.
import { readdirSync } from 'node:fs'
import { createServer } from 'node:http'
import { Session } from 'node:inspector/promises'
import { Hocuspocus } from '@hocuspocus/server'
import { Redis } from 'ioredis'
import { WebSocketServer } from 'ws'
import * as Y from 'yjs'
import { ownTime } from './profile.mjs'
import { relay } from './relay.mjs'

process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))

/** What a variant does with its sockets, and what it adds to Hocuspocus. */
let affinity
let hocuspocus
let ioThread
const locks = []
const direct = new Map()
const session = new Session()

const threads = () => readdirSync('/proc/self/task').map(Number)
const toRequest = (incoming) => new Request(new URL(incoming.url, 'http://localhost'), { headers: incoming.headers })

const variants = {
  async mirror() {
    return mirror
  },

  relay: (settings) => relay(settings, mirror),

  relayed: (settings) => relay({ ...settings, isDirect: true }, mirror),

  async bare() {
    hocuspocus = new Hocuspocus(configuration())
    return viaHandleConnection
  },

  async redis({ redis, serverId, name }) {
    const { Redis: Extension } = await import('@hocuspocus/extension-redis')
    // disconnectDelay: documents go at once when their clients have gone, as with the others.
    affinity = new Extension({ options: redis, identifier: serverId, prefix: name, disconnectDelay: 0 })
    hocuspocus = new Hocuspocus(configuration(affinity))
    return viaHandleConnection
  },

  async plain({ redis, serverId, name }) {
    const { PlainServerAffinity } = await import('./plain.mjs')
    affinity = new PlainServerAffinity({ redis: new Redis(redis), serverId, prefix: name })
    hocuspocus = new Hocuspocus(configuration(affinity))
    await affinity.ready()
    return viaHooks
  },

  async ours({ redis, serverId, name, link }) {
    const { RedisServerAffinity } = await import('@hocuspocus/extension-redis-affinity')
    affinity = new RedisServerAffinity({ redis: new Redis({ ...redis, lazyConnect: true }), serverId, prefix: name, ...link })
    const before = new Set(threads())
    const ready = affinity.ready()
    ioThread = threads().find((thread) => !before.has(thread))
    hocuspocus = new Hocuspocus(configuration(affinity))
    await ready
    return viaHooks
  },

  linked: (settings) => variants.ours({ ...settings, link: { secret: 'for the benchmark', link: { listen: '127.0.0.1:0' } } }),
}

const configuration = (...extensions) => ({ quiet: true, debounce: 60_000, maxDebounce: 600_000, extensions })

function viaHandleConnection(socket, incoming) {
  const connection = hocuspocus.handleConnection(socket, toRequest(incoming))
  socket.on('message', (message) => connection.handleMessage(message))
  socket.on('close', (code, reason) => connection.handleClose({ code, reason: reason.toString() }))
}

function viaHooks(socket, incoming, request) {
  affinity.onSocketOpen(socket, request)
  socket.on('message', (message) => affinity.onSocketMessage(socket, request, message))
  socket.on('close', (code) => affinity.onSocketClose(request.headers['sec-websocket-key'], code))
}

/**
 * As many frames as Hocuspocus would send, of about their size, with no work behind them: an acknowledgement for each
 * update, and in the next turn of the loop one frame with all that came, for each socket of the document.
 */
const rooms = new Map()
function mirror(socket) {
  socket.on('message', (message) => {
    const end = 1 + message[0]
    const name = message.toString('latin1', 1, end)
    const room = rooms.get(name) ?? { sockets: new Set(), pending: [] }
    rooms.set(name, room)
    if (!room.sockets.has(socket)) {
      room.sockets.add(socket)
      socket.on('close', () => room.sockets.delete(socket))
    }
    // The two that open a document are answered as Hocuspocus answers them.
    if (message[end] === 2) {
      socket.send(Buffer.concat([message.subarray(0, end), Buffer.from([2, 2, 0])]))
    } else if (message[end + 1] === 0) {
      socket.send(Buffer.concat([message.subarray(0, end), Buffer.from([0, 1, 2, 0, 0])]))
    } else {
      socket.send(Buffer.concat([message.subarray(0, end), Buffer.from([8, 1])]))
      if (room.pending.push(message) === 1) setImmediate(() => flush(room))
    }
  })
}

function flush(room) {
  const [first] = room.pending
  const frame = room.pending.length === 1 ? first : Buffer.concat([first, ...room.pending.slice(1).map((m) => m.subarray(1 + m[0] + 3))])
  room.pending = []
  for (const socket of room.sockets) socket.send(frame)
}

const commands = {
  async start(settings) {
    const onConnection = await variants[settings.variant](settings)
    const http = createServer()
    const sockets = new WebSocketServer({ server: http, maxPayload: 1 << 26 })
    sockets.on('connection', (socket, incoming) => {
      // The request as plain data is part of every variant's socket: what is compared is what they add to it.
      const { method, url, headers } = incoming
      const request = { method, url, headers, socket: { remoteAddress: incoming.socket.remoteAddress } }
      socket.on('error', (error) => console.error(request.url, error))
      onConnection(socket, incoming, request)
    })
    await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve))
    return { port: http.address().port, ioThread }
  },

  /** Loads documents here and keeps them: from then on this server owns them. */
  async open(names) {
    if (!hocuspocus) return
    for (const name of names) direct.set(name, await hocuspocus.openDirectConnection(name, {}))
  },

  /** Lets the documents go again; resolves when they have gone, and all client sockets with them. */
  async close() {
    for (const connection of direct.values()) await connection.disconnect()
    direct.clear()
    if (!hocuspocus) return
    const deadline = Date.now() + 20_000
    while (hocuspocus.documents.size > 0) {
      if (Date.now() > deadline) throw new Error(`${hocuspocus.documents.size} documents stay open`)
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  },

  /** Documents that are open here, as updates. */
  states(names) {
    const open = names.filter((name) => hocuspocus?.documents.has(name))
    return open.map((name) => ({ name, state: Y.encodeStateAsUpdate(hocuspocus.documents.get(name)) }))
  },

  /** Owns so many documents, unopened: of names that no server before it has had, since a take-over has work to do later. */
  async lock({ count }) {
    for (let from = 0; from < count; from += 1000) {
      const batch = Array.from({ length: Math.min(1000, count - from) }, (_, n) => `idle-${process.pid}-${from + n}`)
      locks.push(...(await Promise.all(batch.map((name) => affinity.lockDocument(name)))))
    }
    return locks.length
  },

  async unlock() {
    while (locks.length > 0) await Promise.all(locks.splice(0, 1000).map((release) => release()))
  },

  async collect() {
    for (let i = 0; i < 3; i++) {
      globalThis.gc()
      await new Promise((resolve) => setImmediate(resolve))
    }
    return process.memoryUsage()
  },

  async profileStart() {
    session.connect()
    await session.post('Profiler.enable')
    await session.post('Profiler.setSamplingInterval', { interval: 100 })
    await session.post('Profiler.start')
  },

  async profileStop() {
    const { profile } = await session.post('Profiler.stop')
    session.disconnect()
    return ownTime(profile)
  },
}

process.on('message', async ({ id, command, args }) => {
  try {
    process.send({ id, result: await commands[command](...args) })
  } catch (error) {
    process.send({ id, error: error?.stack ?? String(error) })
  }
})
