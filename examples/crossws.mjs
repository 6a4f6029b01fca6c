// crossws, with its adapter for Node. Its other adapters have the same hooks.
//
//     PORT=8001 SERVER_ID=server-1 node crossws.mjs

import { createServer } from 'node:http'
import { RedisServerAffinity, serializeRequest } from '@hocuspocus/extension-redis-affinity'
import { Hocuspocus } from '@hocuspocus/server'
import crossws from 'crossws/adapters/node'
import { Redis } from 'ioredis'

const { PORT = '8001', SERVER_ID, REDIS_URL = 'redis://127.0.0.1:6379' } = process.env

const redis = new Redis(REDIS_URL, { lazyConnect: true })
const affinity = new RedisServerAffinity({ redis, serverId: SERVER_ID })
const hocuspocus = new Hocuspocus({ quiet: true, extensions: [affinity] }) // and the one that loads and stores

/** @param {import('crossws').Peer} peer */
const requestOf = (peer) => serializeRequest(peer.request, peer.remoteAddress)

const sockets = crossws({
  hooks: {
    open(peer) {
      affinity.onSocketOpen(peer, requestOf(peer))
    },
    message(peer, message) {
      // Not arrayBuffer(), which may hold more than the message.
      affinity.onSocketMessage(peer, requestOf(peer), message.uint8Array())
    },
    close(peer, { code, reason }) {
      affinity.onSocketClose(peer, code, new TextEncoder().encode(reason).buffer)
    },
  },
})

const httpServer = createServer((_request, response) => response.end('ready')).on('upgrade', sockets.handleUpgrade)

let stopping = false
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
