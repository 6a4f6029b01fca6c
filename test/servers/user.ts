// What users write, for any version of Hocuspocus: compiled by versions.test.mjs, never run.
import { createServer } from 'node:http'
import { RedisServerAffinity, serializeRequest } from '@hocuspocus/extension-redis-affinity'
import { type Extension, Hocuspocus, Server } from '@hocuspocus/server'
import { Redis } from 'ioredis'
import { WebSocketServer } from 'ws'

const affinity = new RedisServerAffinity({
  redis: new Redis(),
  customEvents: { rename: async (_documentName: string, title: string) => title.length },
  deriveContext: (request) => ({ cookie: request.headers.cookie }),
})
const asExtension: Extension = affinity

export const server = new Server({ port: 0, extensions: [asExtension, affinity] })
export const hocuspocus = new Hocuspocus({ extensions: [affinity] })

new WebSocketServer({ server: createServer() }).on('connection', (socket, incoming) => {
  const request = serializeRequest(incoming)
  socket.on('message', (message) => affinity.onSocketMessage(socket, request, message as Buffer))
  socket.on('close', (code, reason) => affinity.onSocketClose(socket, code, Uint8Array.from(reason).buffer))
  affinity.onSocketOpen(socket, request, {})
})

export const length: Promise<number> = affinity.handleEvent('rename', 'page', 'A title')
