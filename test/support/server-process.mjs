// One Hocuspocus server of a test cluster, in a process of its own; started and steered by server.mjs over IPC.
import { createServer } from 'node:http'
import { Hocuspocus, Server } from '@hocuspocus/server'
import Redis from 'ioredis'
import * as msgpackr from 'msgpackr'
import { WebSocketServer } from 'ws'
import * as Y from 'yjs'
import { fileStore } from './store.mjs'

// Whoever steers us is gone: nothing may stay behind, not even a process whose thread hangs at exit.
process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))

/** What the functions that a test sends are called with. */
const context = {
  Y,
  msgpackr,
  Redis,
  /** What the recording hooks saw, in order. */
  events: [],
  /** Commands that any ioredis client of this process has sent, by name. */
  redisCommands: {},
  /** Free for tests: what one call leaves for the next. */
  kept: {},
  import: (specifier) => import(specifier),
}

const sendCommand = Redis.prototype.sendCommand
Redis.prototype.sendCommand = function (command, ...rest) {
  context.redisCommands[command.name] = (context.redisCommands[command.name] ?? 0) + 1
  return sendCommand.call(this, command, ...rest)
}

/** Headers and the like: of the web, or of Node's http module. */
const plain = (fields) => (typeof fields.entries === 'function' ? Object.fromEntries(fields) : { ...fields })

function recorder() {
  const record = (hook) => async (payload) => {
    context.events.push({
      hook,
      documentName: payload.documentName,
      socketId: payload.socketId,
      token: payload.token,
      headers: payload.requestHeaders && plain(payload.requestHeaders),
      parameters: payload.requestParameters && Object.fromEntries(payload.requestParameters),
      url: payload.request?.url,
      address: payload.request?.socket?.remoteAddress,
      context: payload.context && structuredClone(payload.context),
      payload: typeof payload.payload === 'string' ? payload.payload : undefined,
      clientsCount: payload.clientsCount,
    })
  }
  return {
    extensionName: 'recorder',
    onConnect: record('onConnect'),
    connected: record('connected'),
    onTokenSync: record('onTokenSync'),
    onDisconnect: record('onDisconnect'),
    afterUnloadDocument: record('afterUnloadDocument'),
    onStateless: record('onStateless'),
    async onAuthenticate(payload) {
      await record('onAuthenticate')(payload)
      if (payload.token.startsWith('denied')) throw Object.assign(new Error('denied'), { reason: 'denied by the test' })
      if (payload.token.startsWith('readonly')) payload.connectionConfig.readOnly = true
      return { user: payload.token }
    },
  }
}

/** The function whose source a test sent; it can't see the test's variables, only its arguments. */
const functionOf = (source) => (0, eval)(`(${source})`)

/** What `startServer` got as `redis`: ioredis options, or those of a Cluster; `ioredis`: another version of it. */
async function redisClient({ ioredis = 'ioredis', nodes, clusterOptions, ...options }) {
  const { Redis, Cluster } = await import(ioredis)
  return nodes ? new Cluster(nodes, clusterOptions) : new Redis(options)
}

async function start({ serverId, redis, affinity: options = {}, storeFolder, wiring, configuration = {}, setup, maxPayload, socketContext, entry }) {
  const { RedisServerAffinity, serializeRequest } = await import(entry)
  const more = setup ? await functionOf(setup)(context) : {}

  context.redis = await redisClient(redis)
  context.redis.on('error', () => {})
  context.affinity = new RedisServerAffinity({ redis: context.redis, serverId, ...options, ...more.affinity })
  const extensions = [
    context.affinity,
    recorder(),
    fileStore(
      storeFolder,
      serverId ?? 'unnamed',
      async () => more.beforeLoad?.(context),
      async () => more.beforeWrite?.(context),
    ),
    ...(more.extensions ?? []),
  ]
  const common = { quiet: true, debounce: 50, maxDebounce: 200, ...configuration, extensions }

  if (wiring === 'ws') {
    context.hocuspocus = new Hocuspocus(common)
    const http = createServer()
    const sockets = new WebSocketServer({ server: http, maxPayload })
    sockets.on('connection', (socket, incoming) => {
      const request = serializeRequest(incoming)
      // The specification's socket id: the handshake's key.
      const socketId = incoming.headers['sec-websocket-key']
      context.affinity.onSocketOpen(socket, request, socketContext)
      socket.on('message', (data) => {
        const detachable = data.buffer.slice(data.byteOffset, data.byteOffset + data.byteLength)
        context.affinity.onSocketMessage(socket, request, detachable)
      })
      socket.on('close', (code, reason) => {
        context.affinity.onSocketClose(socketId, code, reason.buffer.slice(reason.byteOffset, reason.byteOffset + reason.byteLength))
      })
      socket.on('error', () => {})
    })
    await context.affinity.ready()
    await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve))
    context.destroy = async () => {
      context.hocuspocus.closeConnections()
      for (const socket of sockets.clients) socket.terminate()
      sockets.close()
      await new Promise((resolve) => http.close(resolve))
      await context.hocuspocus.hooks('onDestroy', { instance: context.hocuspocus })
    }
    return http.address().port
  }

  // Hocuspocus 4 takes the options of its WebSocket server among the others, 3 as a second argument.
  context.server = new Server({ stopOnSignals: false, ...common, port: 0, address: '127.0.0.1', websocketOptions: { maxPayload } }, { maxPayload })
  context.hocuspocus = context.server.hocuspocus
  context.destroy = () => context.server.destroy()
  await context.server.listen()
  return context.server.address.port
}

// IPC copies an Error's message, not its code.
const failure = (error) => ({
  message: error?.message ?? String(error),
  name: error?.name,
  code: error?.code,
  owner: error?.owner,
  stack: error?.stack,
})

process.on('message', async ({ id, start: settings, source, args }) => {
  try {
    const result = settings ? await start(settings) : await functionOf(source)(context, ...args)
    process.send({ id, result })
  } catch (error) {
    process.send({ id, error: failure(error) })
  }
})
