import { Cluster, type ClusterNode, type ClusterOptions, Redis, type RedisOptions } from 'ioredis'
import type { AffinityError } from './errors.js'

export type RedisClient = Redis | Cluster

/** Where Redis is, in the words of `redis` or of extension-redis. */
export interface ClientConfiguration {
  /**
   * An ioredis instance. The engine connects by itself to where its options point (host and port or Unix
   * socket, username, password, db, keyPrefix), or by duplicates of it where it can't (Cluster, Sentinel); the instance
   * is not used otherwise, and disconnected by `onDestroy`.
   */
  redis?: RedisClient
  /** Makes the ioredis instance; instead of `redis`. */
  createClient?: () => RedisClient
  /** Of a single Redis; instead of `redis`. */
  host?: string
  port?: number
  /** Of a Redis Cluster, some are enough; instead of `redis`. */
  nodes?: ClusterNode[]
  /** Of ioredis, with `host`, `port` or `nodes`. */
  options?: RedisOptions | ClusterOptions
}

type Invalid = (option: string, problem: string) => AffinityError

const WAYS = ['redis', 'createClient', 'nodes', 'host', 'port', 'options'] as const
/** What goes with what. */
const TOGETHER = [['redis'], ['createClient'], ['nodes', 'options'], ['host', 'port', 'options']]

function checkOptions({ host, port, nodes, options }: ClientConfiguration, invalid: Invalid): void {
  if (host !== undefined && (typeof host !== 'string' || host === '')) throw invalid('host', 'must be a name or an address')
  if (port !== undefined && (!Number.isInteger(port) || port < 1 || port > 65_535)) {
    throw invalid('port', `must be a whole number from 1 to 65535, not ${String(port)}`)
  }
  if (nodes !== undefined && !Array.isArray(nodes)) throw invalid('nodes', 'must be an array of nodes of a Redis Cluster')
  if (options !== undefined && (typeof options !== 'object' || options === null || Array.isArray(options))) {
    throw invalid('options', 'must be an object: options of ioredis')
  }
}

function checkClient(option: string, client: unknown, invalid: Invalid): RedisClient {
  if (typeof client !== 'object' || client === null || typeof (client as Redis).duplicate !== 'function') {
    const shown = typeof client === 'string' ? JSON.stringify(client) : String(client)
    throw invalid(option, `must ${option === 'redis' ? 'be' : 'return'} an ioredis instance, not ${shown}`)
  }
  const { role } = (client as Redis).options ?? {}
  if (role === 'slave') throw invalid(option, 'must not ask Sentinel for a replica (role "slave"): the engine writes')
  return client as RedisClient
}

/** Those that are given: an empty list of nodes is none, as in extension-redis. */
function given(configuration: ClientConfiguration): string[] {
  return WAYS.filter((way) => {
    const value = configuration[way]
    return value !== undefined && !(way === 'nodes' && Array.isArray(value) && value.length === 0)
  })
}

/** The instance that was given, or one that is made: it is connected only if somebody uses it. */
export function clientOf(configuration: ClientConfiguration, invalid: Invalid): RedisClient {
  const ways = given(configuration)
  const [first] = ways
  if (first === undefined) throw invalid('redis', 'is missing: give an ioredis instance, or host and port, nodes or createClient')
  const other = ways.find((way) => !TOGETHER.some((some) => some.includes(first) && some.includes(way)))
  if (other) throw invalid(other, `can not be used with "${first}": each says where Redis is`)
  checkOptions(configuration, invalid)
  const { redis, createClient, nodes, host, port, options } = configuration
  if (first === 'redis') return checkClient('redis', redis, invalid)
  if (createClient !== undefined) {
    if (typeof createClient !== 'function') throw invalid('createClient', `must be a function, not ${String(createClient)}`)
    return checkClient('createClient', createClient(), invalid)
  }
  if (nodes?.length) return new Cluster(nodes, { ...(options as ClusterOptions), lazyConnect: true })
  const address = { ...(host !== undefined && { host }), ...(port !== undefined && { port }) }
  return checkClient('options', new Redis({ ...(options as RedisOptions), ...address, lazyConnect: true }), invalid)
}

/** Starts the names of keys and channels; the engine's own connections do not know of it. */
export function keyPrefixOf({ options }: RedisClient): string {
  const { keyPrefix, redisOptions } = options as ClusterOptions
  return String(keyPrefix ?? redisOptions?.keyPrefix ?? '')
}
