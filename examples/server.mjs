// Hocuspocus's own Server: nothing has to be wired, and SIGTERM drains by itself.
//
//     PORT=8001 SERVER_ID=server-1 node server.mjs

import { RedisServerAffinity } from '@hocuspocus/extension-redis-affinity'
import { Server } from '@hocuspocus/server'
import { Redis } from 'ioredis'

const { PORT = '8001', SERVER_ID, REDIS_URL = 'redis://127.0.0.1:6379' } = process.env

const redis = new Redis(REDIS_URL, { lazyConnect: true })
const affinity = new RedisServerAffinity({ redis, serverId: SERVER_ID })
const server = new Server({
  port: Number(PORT),
  quiet: true,
  extensions: [affinity], // and the one that loads and stores your documents
})

await server.listen()
console.log(`${affinity.serverId} listens on ${server.address.port}`)
