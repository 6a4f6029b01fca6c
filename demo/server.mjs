// One server of the cluster: Hocuspocus behind the `ws` library, with RedisServerAffinity between the two.
// cluster.mjs starts three of these, and hears over IPC when each is ready.

import { createServer } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { RedisServerAffinity, serializeRequest } from '@hocuspocus/extension-redis-affinity'
import { dashboard } from '@hocuspocus/extension-redis-affinity/dashboard'
import { Hocuspocus } from '@hocuspocus/server'
import { Redis } from 'ioredis'
import { WebSocketServer } from 'ws'
import { FileStore } from './store.mjs'

const { SERVER_ID: serverId, REDIS_SOCKET: redisSocket, SOCKET: socketPath, DATA_FOLDER: dataFolder, DASHBOARD_TOKEN: token } = process.env
const MESSAGE_MAX_BYTES = 64 * 1024 * 1024
const LOCK_TTL_MS = 3_000 // after this, a frozen server's documents go to another
const LAST_STORES_MS = 3_000

const affinity = new RedisServerAffinity({
  redis: new Redis({ path: redisSocket, lazyConnect: true }),
  serverId,
  lockTTL: LOCK_TTL_MS,
  drainTimeout: LAST_STORES_MS,
})

const hocuspocus = new Hocuspocus({
  quiet: true,
  debounce: 500,
  extensions: [affinity, new FileStore(dataFolder)],
  // Runs on the owner, with the context that the server with the client's socket gave to onSocketOpen.
  async connected({ connection, context, documentName }) {
    const placement = { type: 'placement', document: documentName, owner: serverId, socketServer: context.socketServer }
    connection.sendStateless(JSON.stringify(placement))
  },
})

const { handle } = dashboard(affinity, { token })
const httpServer = createServer((request, response) => handle(request, response) || response.end(`${serverId}\n`))
const webSocketServer = new WebSocketServer({ server: httpServer, maxPayload: MESSAGE_MAX_BYTES })

webSocketServer.on('connection', (socket, request) => {
  const serialized = serializeRequest(request)
  socket.binaryType = 'arraybuffer'
  socket.on('message', (message) => affinity.onSocketMessage(socket, serialized, message))
  socket.on('close', (code, reason) => {
    const bytes = new Uint8Array(reason).buffer
    affinity.onSocketClose(request.headers['sec-websocket-key'], code, bytes)
  })
  socket.on('error', (error) => console.error(`${serverId}: ${error.message}`)) // 'close' follows
  affinity.onSocketOpen(socket, serialized, { socketServer: serverId })
})

let stopping = false

// The documents go to other servers first, which their clients do not notice unless their socket is here.
async function stop() {
  if (stopping) return
  stopping = true
  httpServer.close()
  await affinity.drain()
  for (const socket of webSocketServer.clients) socket.close(1012, 'Service Restart')
  await Promise.race([hocuspocus.hooks('onDestroy', { instance: hocuspocus }), sleep(LAST_STORES_MS)])
  process.exit()
}

for (const event of ['SIGINT', 'SIGTERM', 'disconnect']) process.on(event, stop)

await affinity.ready()
httpServer.listen(socketPath, () => process.send?.('ready'))
