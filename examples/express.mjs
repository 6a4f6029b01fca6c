// ws beside Express on one port: Express answers HTTP, /collaboration is the WebSocket. A session is read from a cookie at
// the handshake, and reaches Hocuspocus's hooks as their context, on whichever server the document is.
//
//     PORT=8001 SERVER_ID=server-1 node express.mjs

import { createServer } from 'node:http'
import { RedisServerAffinity, serializeRequest } from '@hocuspocus/extension-redis-affinity'
import { Hocuspocus } from '@hocuspocus/server'
import express from 'express'
import { Redis } from 'ioredis'
import { WebSocketServer } from 'ws'

const { PORT = '8001', SERVER_ID, REDIS_URL = 'redis://127.0.0.1:6379' } = process.env

const redis = new Redis(REDIS_URL, { lazyConnect: true })
const affinity = new RedisServerAffinity({ redis, serverId: SERVER_ID })
const hocuspocus = new Hocuspocus({
  quiet: true,
  extensions: [affinity], // and the one that loads and stores your documents
  async onAuthenticate({ context, token }) {
    return { ...context, token } // throw, and the client may not have the document
  },
})

/** @param {import('node:http').IncomingMessage} request */
function contextOf(request) {
  const [, session] = /(?:^|; )session=([^;]*)/.exec(request.headers.cookie ?? '') ?? []
  return { session: session ?? 'none' } // plain data: it crosses to other servers
}

let stopping = false
const app = express()
app.get('/ready', (_request, response) => {
  response.status(stopping ? 503 : 200).send(stopping ? 'stopping' : 'ready')
})

const httpServer = createServer(app)
const webSocketServer = new WebSocketServer({ server: httpServer, path: '/collaboration' })
webSocketServer.on('connection', (socket, incoming) => {
  const request = serializeRequest(incoming)
  socket.on('message', (message) => affinity.onSocketMessage(socket, request, /** @type {Buffer} */ (message)))
  socket.on('close', (code, reason) => affinity.onSocketClose(socket, code, Uint8Array.from(reason).buffer))
  socket.on('error', console.error) // 'close' follows
  affinity.onSocketOpen(socket, request, contextOf(incoming))
})

async function stop() {
  if (stopping) return
  stopping = true
  httpServer.close() // no new sockets
  await affinity.drain() // the documents move; this server's own clients still work, through it
  await affinity.onDestroy() // closes their sockets
  process.exit()
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, stop)

await affinity.ready()
httpServer.listen(Number(PORT), () => {
  const { port } = /** @type {import('node:net').AddressInfo} */ (httpServer.address())
  console.log(`${affinity.serverId} listens on ${port}`)
})
