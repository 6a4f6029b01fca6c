// A private Redis Cluster, and a Redis with a replica and Sentinels, on loopback. What Debian has is Redis 7.
import Redis from 'ioredis'
import { freePort, startRedis } from './redis.mjs'
import { until } from './wait.mjs'

const SLOTS = 16_384
/** A primary would wait for more replicas before it sends them what it has, and others do not count on one that it has sent nothing since. */
const AT_ONCE = ['--repl-diskless-sync-delay', '0', '--repl-ping-replica-period', '1']

async function startNode(settings) {
  const busPort = await freePort()
  const args = ['--cluster-enabled', 'yes', '--cluster-node-timeout', '1000', '--cluster-port', String(busPort), ...AT_ONCE]
  return Object.assign(await startRedis({ ...settings, port: true, args }), { busPort })
}

/**
 * `primaries` nodes that share the slots evenly, and as many replicas: `replicas[n]` is that of `primaries[n]`.
 *
 * @param {{ primaries?: number, hasReplicas?: boolean } & import('./redis.mjs').RedisOptions} [settings]
 */
export async function startRedisCluster({ primaries: count = 3, hasReplicas = false, ...settings } = {}) {
  const nodes = []
  const cluster = {
    nodes,
    primaries: [],
    replicas: [],
    /** For startServer()'s `redis`. */
    get address() {
      return {
        nodes: cluster.primaries.map(({ port }) => ({ host: '127.0.0.1', port })),
        clusterOptions: { redisOptions: { username: settings.username, password: settings.password } },
      }
    },
    /** A client of the test itself (made at the first use). */
    get client() {
      if (!cluster.made) {
        cluster.made = new Redis.Cluster(cluster.address.nodes, { slotsRefreshTimeout: 2000 })
        cluster.made.on('error', () => {})
      }
      return cluster.made
    },
    /** The node that serves a key now, as the others see it. */
    async primaryOf(key, witness = nodes.find((node) => !node.isDown)) {
      const slot = await witness.client.call('CLUSTER', 'KEYSLOT', key)
      const ranges = /** @type {any[]} */ (await witness.client.call('CLUSTER', 'SLOTS'))
      const [, , [, port]] = ranges.find(([from, to]) => from <= slot && slot <= to)
      return nodes.find((node) => node.port === port)
    },
    async stop() {
      cluster.made?.disconnect()
      await Promise.all(nodes.map((node) => node.stop()))
    },
  }
  try {
    for (let n = 0; n < count * (hasReplicas ? 2 : 1); n++) nodes.push(await startNode(settings))
    cluster.primaries = nodes.slice(0, count)
    cluster.replicas = nodes.slice(count)
    await join(cluster)
  } catch (error) {
    await cluster.stop()
    throw error
  }
  return cluster
}

async function join({ nodes, primaries, replicas }) {
  for (const [n, { client }] of primaries.entries()) {
    const [from, to] = [n, n + 1].map((part) => Math.floor((SLOTS * part) / primaries.length))
    await client.call('CLUSTER', 'ADDSLOTSRANGE', from, to - 1)
  }
  for (const [n, { client }] of nodes.entries()) await client.call('CLUSTER', 'SET-CONFIG-EPOCH', n + 1)
  // Each meets each: gossip would take its time.
  for (const [n, { client }] of nodes.entries()) {
    for (const { port, busPort } of nodes.slice(n + 1)) await client.call('CLUSTER', 'MEET', '127.0.0.1', port, busPort)
  }
  const knowAll = (node) => node.client.call('CLUSTER', 'NODES').then((list) => list.trim().split('\n').length === nodes.length && !/handshake/.test(list))
  for (const node of nodes) await until(() => knowAll(node), { what: 'the nodes know each other' })
  for (const [n, { client }] of replicas.entries()) await client.call('CLUSTER', 'REPLICATE', await primaries[n].client.call('CLUSTER', 'MYID'))
  for (const replica of replicas) await follows(replica)
  const isOk = async ({ client }) => {
    const ranges = /** @type {any[]} */ (await client.call('CLUSTER', 'SLOTS'))
    return /cluster_state:ok/.test(await client.call('CLUSTER', 'INFO')) && ranges.length === primaries.length && ranges.every((range) => range.length === (replicas.length ? 4 : 3))
  }
  for (const node of nodes) await until(() => isOk(node), { what: 'the cluster is up' })
}

const follows = ({ client }) => until(async () => /master_link_status:up/.test(await client.info('replication')), { what: 'the replica follows' })

/** A primary, a replica and three Sentinels (redis-server in that mode) that watch them as `affinity`. */
export async function startSentinels() {
  const started = []
  const start = async (settings) => {
    started.push(await startRedis({ port: true, ...settings }))
    return started.at(-1)
  }
  const stop = () => Promise.all(started.map((one) => one.stop()))
  try {
    const primary = await start({ args: AT_ONCE })
    const replica = await start({ args: ['--replicaof', '127.0.0.1', String(primary.port), ...AT_ONCE] })
    await follows(replica)
    const sentinels = await Promise.all([1, 2, 3].map(() => startSentinel(start, primary.port)))
    const knows = async ({ client }) => {
      const reply = Object.fromEntries(chunks(/** @type {string[]} */ (await client.call('SENTINEL', 'MASTER', 'affinity'))))
      return reply['num-other-sentinels'] === '2' && reply['num-slaves'] === '1'
    }
    for (const sentinel of sentinels) await until(() => knows(sentinel), { what: 'the Sentinels know each other', timeout: 20_000 })
    const address = { sentinels: sentinels.map(({ port }) => ({ host: '127.0.0.1', port })), name: 'affinity' }
    return { primary, replica, sentinels, address, stop }
  } catch (error) {
    await stop()
    throw error
  }
}

function startSentinel(start, port) {
  return start({
    sentinel: [
      `sentinel monitor affinity 127.0.0.1 ${port} 2`,
      'sentinel down-after-milliseconds affinity 1000',
      'sentinel failover-timeout affinity 3000',
      'sentinel parallel-syncs affinity 1',
    ],
  })
}

const chunks = (list) => Array.from({ length: list.length / 2 }, (_, n) => [list[2 * n], list[2 * n + 1]])
