import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { startRedis } from './redis.mjs'
import { startServer } from './server.mjs'
import { storeReader } from './store.mjs'
import { until } from './wait.mjs'

/**
 * A private redis-server and `count` Hocuspocus servers `s1`, `s2`, ... that share a store.
 *
 * @param {number} count
 * @param {Partial<import('./server.mjs').ServerOptions> & Record<string, any>} [options] for every server; and `redisOptions`
 *   for startRedis()
 */
export async function startCluster(count, { redisOptions, ...options } = {}) {
  const redis = await startRedis(redisOptions)
  const storeFolder = mkdtempSync(path.join(os.tmpdir(), 'rsa-store-'))
  const start = (serverId, more = {}) => startServer({ serverId, redis, storeFolder, ...options, ...more })
  const servers = []

  const cluster = {
    redis,
    servers,
    store: storeReader(storeFolder),

    /** Another server of this cluster (or a former one again). */
    async add(serverId, more) {
      const server = await start(serverId, more)
      servers.push(server)
      return server
    },

    /** Who has the document's lease, as Redis names it: `<epoch> <boot> <serverId>`; undefined: nobody. */
    async ownerOf(name, prefix = 'rsa') {
      return (await redis.client.get(`${prefix}Lock:${name}`))?.split(' ').slice(2).join(' ')
    },

    /** The servers that have the document loaded. */
    async holders(name) {
      const held = await Promise.all(servers.filter((server) => !server.exit).map(async (server) => ((await server.documents()).includes(name) ? server : null)))
      return held.filter((server) => server !== null)
    },

    /** Waits until no server has the document loaded and its lease is gone. */
    async unloaded(name, prefix = 'rsa') {
      await until(async () => (await cluster.holders(name)).length === 0, { what: `${name} is unloaded` })
      await until(async () => (await redis.client.exists(`${prefix}Lock:${name}`)) === 0, { what: `the lease of ${name} is gone` })
    },

    async stop() {
      await Promise.all(servers.map((server) => server.stop()))
      await redis.stop()
      rmSync(storeFolder, { recursive: true, force: true })
    },
  }

  // All of them have started or failed before anything is stopped: none may be left behind.
  const starts = await Promise.allSettled(Array.from({ length: count }, (_, index) => start(`s${index + 1}`)))
  for (const one of starts) if (one.status === 'fulfilled') servers.push(one.value)
  const failed = starts.find((one) => one.status === 'rejected')
  if (failed) {
    await cluster.stop()
    throw failed.reason
  }
  return cluster
}
