// A user's program as its types see it. test/node/package.test.mjs checks it as an ES module, as CommonJS and for a bundler.
import { AffinityError, RedisServerAffinity, serializeRequest } from '@hocuspocus/extension-redis-affinity'
import { dashboard, type Dashboard, type DashboardState } from '@hocuspocus/extension-redis-affinity/dashboard'
import type { BaseWebSocket, Configuration, CustomEvents, RSAMessage, SerializedHTTPRequest } from '@hocuspocus/extension-redis-affinity'
import { Redis } from 'ioredis'
import { createServer, type IncomingMessage } from 'node:http'

const customEvents = {
  rename: async (documentName: string, payload: { title: string }) => `${documentName}: ${payload.title}`,
} satisfies CustomEvents

const configuration: Configuration<typeof customEvents> = {
  redis: new Redis({ lazyConnect: true }),
  serverId: 'one',
  customEvents,
  pack: (message: RSAMessage) => new TextEncoder().encode(JSON.stringify(message)),
}
const affinity = new RedisServerAffinity(configuration)

const page: Dashboard = dashboard(affinity, { token: 'a token that is long enough', path: '/ops', limit: 100 })
createServer((request, response) => page.handle(request, response) || response.end())
export const ownerOf = (state: DashboardState, name: string): string | undefined => state.documents.find((document) => document.name === name)?.owner
// @ts-expect-error no token
dashboard(affinity, {})

export async function main(socket: BaseWebSocket, request: IncomingMessage): Promise<string> {
  // For CommonJS, Hocuspocus's own types can't be imported otherwise under "node16".
  const { Server } = await import('@hocuspocus/server')
  const server = new Server({ port: 0, extensions: [affinity, page] })
  await server.listen()

  const serialized: SerializedHTTPRequest = serializeRequest(request)
  affinity.onSocketOpen(socket, serialized, {})
  const release: () => Promise<void> = await affinity.lockDocument('page')
  await release()
  try {
    return await affinity.handleEvent('rename', 'page', { title: 'New' })
  } catch (error) {
    if (error instanceof AffinityError) return error.code
    throw error
  }
}

// @ts-expect-error an event that nobody handles
affinity.handleEvent('remove', 'page', {})
// @ts-expect-error a payload of another type
affinity.handleEvent('rename', 'page', { title: 7 })
// @ts-expect-error an ioredis instance, not an address
new RedisServerAffinity({ redis: 'redis://127.0.0.1' })
new RedisServerAffinity({ nodes: [{ host: '127.0.0.1', port: 6379 }], options: { lazyConnect: true }, identifier: 'a' })
