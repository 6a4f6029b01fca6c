// uWebSockets.js. It is not in npm's registry; its authors say how to install it. (The tests run this file with a stand-in
// that is as strict: a request can't be read after its callback, a message's memory is gone after it, and so is a closed socket.)
//
//     PORT=8001 SERVER_ID=server-1 node uwebsockets.mjs

import { RedisServerAffinity, serializeRequest } from '@hocuspocus/extension-redis-affinity'
import { Hocuspocus } from '@hocuspocus/server'
import { Redis } from 'ioredis'
import uWS from 'uWebSockets.js'

const { PORT = '8001', SERVER_ID, REDIS_URL = 'redis://127.0.0.1:6379' } = process.env

const redis = new Redis(REDIS_URL, { lazyConnect: true })
const affinity = new RedisServerAffinity({ redis, serverId: SERVER_ID })
const hocuspocus = new Hocuspocus({ quiet: true, extensions: [affinity] }) // and the one that loads and stores

await affinity.ready()

let listening
uWS
  .App()
  .ws('/*', {
    maxPayloadLength: 64 * 1024 * 1024,
    // By default what is sent to a client that reads slowly is dropped beyond 64 KiB, in silence: it would miss edits. Closed
    // instead, it connects again and gets everything.
    maxBackpressure: 64 * 1024 * 1024,
    closeOnBackpressureLimit: true,

    upgrade(response, request, context) {
      // Here and nowhere else can request and response be read.
      const [key, protocol, extensions] = ['key', 'protocol', 'extensions'].map((name) => request.getHeader(`sec-websocket-${name}`))
      response.upgrade({ request: serializeRequest(request, response) }, key, protocol, extensions, context)
    },
    open(ws) {
      affinity.onSocketOpen(ws, ws.getUserData().request)
    },
    message(ws, message) {
      affinity.onSocketMessage(ws, ws.getUserData().request, message)
    },
    close(ws, code, reason) {
      affinity.onSocketClose(ws, code, reason)
    },
  })
  .listen(Number(PORT), (token) => {
    listening = token
    console.log(`${affinity.serverId} listens on ${uWS.us_socket_local_port(token)}`)
  })

let stopping = false
async function stop() {
  if (stopping) return
  stopping = true
  uWS.us_listen_socket_close(listening) // no new sockets
  await affinity.drain() // the documents move; this server's own clients still work, through it
  await affinity.onDestroy() // closes their sockets
  process.exit()
}
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, stop)
