// One server of the cluster: Hocuspocus behind the `ws` library, with RedisServerAffinity between the two.
// demo.mjs starts three of these, and hears over IPC on which port each listens.

import { createServer } from 'node:http'
import { setTimeout as sleep } from 'node:timers/promises'
import { RedisServerAffinity, serializeRequest } from '@hocuspocus/extension-redis-affinity'
import { Hocuspocus } from '@hocuspocus/server'
import { Redis } from 'ioredis'
import { WebSocketServer } from 'ws'
import { FileStore } from './store.mjs'

const { SERVER_ID: serverId, REDIS_SOCKET: redisSocket, DATA_FOLDER: dataFolder } = process.env
const MESSAGE_MAX_BYTES = 64 * 1024 * 1024
const LAST_STORES_MS = 3_000

const affinity = new RedisServerAffinity({ redis: new Redis({ path: redisSocket }), serverId })

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

const httpServer = createServer((request, response) => response.end(`${serverId}\n`))
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

// As Hocuspocus's own Server does it, but without its CLOSE message: the pages come back when the demo does.
async function stop() {
  if (stopping) return
  stopping = true
  httpServer.close()
  for (const socket of webSocketServer.clients) socket.close(1012, 'Service Restart')
  hocuspocus.flushPendingStores()
  const deadline = Date.now() + LAST_STORES_MS
  while (hocuspocus.getDocumentsCount() > 0 && Date.now() < deadline) await sleep(20)
  await Promise.race([hocuspocus.hooks('onDestroy', { instance: hocuspocus }), sleep(LAST_STORES_MS)])
  process.exit()
}

for (const event of ['SIGINT', 'SIGTERM', 'disconnect']) process.on(event, stop)

await affinity.ready()
httpServer.listen(0, '127.0.0.1', () => process.send?.({ port: httpServer.address().port }))
