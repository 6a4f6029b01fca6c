import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import type { Redis } from 'ioredis'
import { type ClientConfiguration, clientOf, keyPrefixOf, type RedisClient } from './client.js'
import { AffinityError } from './errors.js'
import { type LinkConfiguration, type LinkSettings, linkSettings } from './link.js'
import { type LogEntry, Logger } from './log.js'
import type { Placement } from './placement.js'
import type { RebalanceConfiguration, RebalanceSettings } from './rebalance.js'
import { type RedisAddress, redisRoute } from './redis.js'
import type { SerializedHTTPRequest } from './request.js'

/**
 * What goes through `pack` and `unpack`: every message between two servers, and inside it, packed on its
 * own, the payload, result or error of a custom event.
 */
export type RSAMessage =
  | { type: 'batch'; channel: string; data: Uint8Array }
  | { type: 'event'; payload: unknown }
  | { type: 'result'; payload: unknown }
  | { type: 'error'; message: string; name?: string; code?: string | number }

// biome-ignore lint/suspicious/noExplicitAny: a handler's payload and result are the user's own types
export type CustomEvents = Record<string, (documentName: string, payload: any) => Promise<any>>

export interface Configuration<TCE extends CustomEvents = CustomEvents> extends ClientConfiguration {
  /** Serializes messages, e.g. to encrypt them. Give both or neither; default: the native format. */
  pack?: (msg: RSAMessage) => string | Uint8Array
  unpack?: (packedMessage: Uint8Array | Buffer) => RSAMessage
  /**
   * Shared by all servers of the cluster, 1 to 65,536 bytes: messages between servers are signed with it, and others
   * are refused. To change it server by server, give `[current, former]`: both are signed with, and accepted. Default:
   * nothing is signed.
   */
  secret?: string | Uint8Array | [current: string | Uint8Array, former: string | Uint8Array]
  /**
   * Direct links between servers that can reach each other, so that messages need not go through Redis. Where a server
   * can't be reached they do as before. Needs a `secret`; not with `pack`. Default: none.
   */
  link?: LinkConfiguration
  /** Unique in the cluster, 1 to 255 bytes. Default: the host's name and a random suffix. */
  serverId?: string
  /** extension-redis's name of `serverId`. */
  identifier?: string
  /** How long a dead server keeps its documents, in ms, 100 to 3,600,000. Default: 10,000. */
  lockTTL?: number
  /** How long a proxy socket outlives the last sign of its origin, in ms, 100 to 3,600,000. Default: 30,000. */
  proxySocketTTL?: number
  /** How long `handleEvent` waits for a reply, in ms, 1 to 86,400,000. Default: 30,000. */
  customEventTTL?: number
  /**
   * How long the JavaScript thread may hang before this server gives its documents up, in ms, 100 to 3,600,000.
   * Default: 20,000.
   */
  stallLimit?: number
  /**
   * When Redis is away for longer than lockTTL: true closes the clients' sockets, so that nobody edits what may be
   * owned elsewhere; false goes on serving this server's own clients, without storing. Default: false.
   */
  failClosed?: boolean
  /** How long `drain` may take before what is left fails over, in ms, 0 to 3,600,000. Default: 10,000. */
  drainTimeout?: number
  /**
   * Which server gets a document that nobody has, when a client opens it: `local`, the one that the client is connected to; `least-loaded`, the
   * one with the fewest documents; or the one whose serverId a function returns. Default: 'local'.
   */
  placement?: Placement
  /** Where this server is: `least-loaded`, and `rebalance` where it hands documents on, stay within a region. 1 to 255 bytes. Default: none. */
  region?: string
  /** Moves idle documents to where most of their clients are, and from a server that has far too many. Default: false. */
  rebalance?: boolean | RebalanceConfiguration
  /** Prefix of Redis keys and channels. Default: 'rsa'. */
  prefix?: string
  /** Handlers of custom events by name. */
  customEvents?: TCE
  /**
   * Computes a client's context on the server where a document is, instead of sending over the one given to
   * `onSocketOpen`.
   */
  deriveContext?: (serializedHTTPRequest: SerializedHTTPRequest) => unknown
  /**
   * Gets everything that this instance has to say to people, of all levels. Default: warnings and errors go to the
   * console, and the rest to `debug` (`DEBUG=redis-affinity`).
   */
  log?: (entry: LogEntry) => void
}

export interface Options {
  redis: RedisClient
  /** For the engine's own connections. */
  address: RedisAddress
  /** Why these can't be used, and duplicates of `redis` are; undefined: they can. */
  foreign?: string
  pack?: (msg: RSAMessage) => string | Uint8Array
  unpack?: (packedMessage: Uint8Array | Buffer) => RSAMessage
  /** The current one first. */
  secrets: Uint8Array[]
  link: LinkSettings
  serverId: string
  lockTTL: number
  proxySocketTTL: number
  customEventTTL: number
  stallLimit: number
  drainTimeout: number
  failClosed: boolean
  prefix: string
  placement: Placement
  region?: string
  /** None: nothing is moved. */
  rebalance?: RebalanceSettings
  customEvents: Map<string, (documentName: string, payload: unknown) => Promise<unknown>>
  deriveContext?: (serializedHTTPRequest: SerializedHTTPRequest) => unknown
  log: Logger
}

const KNOWN = new Set([
  'redis',
  'createClient',
  'host',
  'port',
  'nodes',
  'options',
  'pack',
  'unpack',
  'secret',
  'link',
  'serverId',
  'identifier',
  'lockTTL',
  'proxySocketTTL',
  'customEventTTL',
  'stallLimit',
  'drainTimeout',
  'failClosed',
  'prefix',
  'placement',
  'region',
  'rebalance',
  'customEvents',
  'deriveContext',
  'log',
])

const HOUR = 3_600_000
const MAX_SECRET = 65_536

function invalid(option: string, problem: string): AffinityError {
  return new AffinityError('AFF_EINVAL', `RedisServerAffinity: option "${option}" ${problem}`)
}

function show(value: unknown): string {
  return typeof value === 'string' ? JSON.stringify(value) : String(value)
}

function integer(option: string, value: unknown, fallback: number, min: number, max: number): number {
  if (value === undefined) return fallback
  if (!Number.isInteger(value) || (value as number) < min || (value as number) > max) {
    throw invalid(option, `must be a whole number of milliseconds from ${min} to ${max}, not ${show(value)}`)
  }
  return value as number
}

function flag(option: string, value: unknown): boolean {
  if (value !== undefined && typeof value !== 'boolean') throw invalid(option, `must be true or false, not ${show(value)}`)
  return value ?? false
}

function text(option: string, value: unknown, fallback: string, max: number): string {
  if (value === undefined) return fallback
  if (typeof value !== 'string') throw invalid(option, `must be a string, not ${show(value)}`)
  const length = Buffer.byteLength(value)
  if (length < 1 || length > max) throw invalid(option, `must have 1 to ${max} bytes, not ${length}`)
  if (value.includes('\0')) throw invalid(option, 'must not contain a NUL character')
  return value
}

function placementOf(value: Placement | undefined): Placement {
  if (value === undefined) return 'local'
  if (value !== 'local' && value !== 'least-loaded' && typeof value !== 'function') {
    throw invalid('placement', `must be 'local', 'least-loaded' or a function, not ${show(value)}`)
  }
  return value
}

function rebalanceOf(value: Configuration['rebalance']): RebalanceSettings | undefined {
  if (value === undefined || value === false) return undefined
  const given = value === true ? {} : value
  if (typeof given !== 'object' || given === null) throw invalid('rebalance', `must be true, false or an object, not ${show(value)}`)
  const known = ['every', 'idle', 'perMinute', 'rest']
  const unknown = Object.keys(given).find((name) => !known.includes(name))
  if (unknown !== undefined) throw invalid(`rebalance.${unknown}`, `is unknown; known are ${known.join(', ')}`)
  const { perMinute = 30 } = given
  if (!Number.isInteger(perMinute) || perMinute < 1 || perMinute > 10_000) {
    throw invalid('rebalance.perMinute', `must be a whole number from 1 to 10000, not ${show(perMinute)}`)
  }
  return {
    every: integer('rebalance.every', given.every, 10_000, 100, HOUR),
    idle: integer('rebalance.idle', given.idle, 10_000, 0, HOUR),
    perMinute,
    rest: integer('rebalance.rest', given.rest, 60_000, 0, HOUR),
  }
}

function optionalFunction<T>(option: string, value: T | undefined): T | undefined {
  if (value !== undefined && typeof value !== 'function') throw invalid(option, `must be a function, not ${show(value)}`)
  return value
}

/** No message here shows a secret. */
function secretsOf(value: Configuration['secret']): Uint8Array[] {
  if (value === undefined) return []
  const list: unknown[] = Array.isArray(value) ? value : [value]
  if (list.length < 1 || list.length > 2) throw invalid('secret', `must be one secret, or [current, former], not ${list.length}`)
  return list.map((one) => {
    if (typeof one !== 'string' && !(one instanceof Uint8Array)) {
      throw invalid('secret', `must be a string or a Buffer, or an array of two, not ${one === null ? 'null' : typeof one}`)
    }
    const bytes = typeof one === 'string' ? Buffer.from(one) : Uint8Array.from(one)
    if (bytes.length < 1 || bytes.length > MAX_SECRET) {
      throw invalid('secret', `must have 1 to ${MAX_SECRET} bytes, not ${bytes.length}`)
    }
    return bytes
  })
}

/** By the engine's own connections, or else by duplicates of the instance. */
function redisAccess(redis: RedisClient): Pick<Options, 'redis' | 'address' | 'foreign'> {
  const route = redisRoute(redis as Redis)
  if ('reason' in route) return { redis, address: { db: 0, connectTimeout: 0 }, foreign: route.reason }
  return { redis, address: route.address }
}

function serverName({ serverId, identifier }: Pick<Configuration, 'serverId' | 'identifier'>): string {
  if (identifier !== undefined && serverId !== undefined) throw invalid('identifier', 'is another name of "serverId": give one of them')
  const fallback = `${hostname()}-${randomBytes(6).toString('hex')}`
  return identifier === undefined ? text('serverId', serverId, fallback, 255) : text('identifier', identifier, fallback, 255)
}

/** Does a message survive `pack` and `unpack`? */
function checkRoundTrip(options: Pick<Options, 'pack' | 'unpack'>): void {
  const data = Uint8Array.of(0, 127, 128, 255)
  let result: RSAMessage
  try {
    const packed = options.pack!({ type: 'batch', channel: 'probe', data })
    result = options.unpack!(typeof packed === 'string' ? Buffer.from(packed) : packed)
  } catch (error) {
    throw invalid('pack', `and "unpack" fail on a probe message: ${(error as Error)?.message ?? error}`)
  }
  const same = result?.type === 'batch' && result.data instanceof Uint8Array && Buffer.compare(result.data, data) === 0
  if (!same) throw invalid('pack', 'and "unpack" do not give back what was packed: a message with a Uint8Array')
}

function eventHandlers(customEvents: CustomEvents | undefined): Options['customEvents'] {
  if (customEvents === undefined) return new Map()
  if (typeof customEvents !== 'object' || customEvents === null) {
    throw invalid('customEvents', `must be an object of functions, not ${show(customEvents)}`)
  }
  for (const [name, handler] of Object.entries(customEvents)) {
    if (typeof handler !== 'function') throw invalid('customEvents', `"${name}" must be a function, not ${show(handler)}`)
  }
  return new Map(Object.entries(customEvents))
}

/** Checks a configuration and fills in the defaults. Throws an AffinityError that names the option. */
export function readOptions<TCE extends CustomEvents>(configuration: Configuration<TCE>): Options {
  if (typeof configuration !== 'object' || configuration === null) {
    throw new AffinityError('AFF_EINVAL', 'RedisServerAffinity: the configuration must be an object')
  }
  for (const name of Object.keys(configuration)) {
    if (!KNOWN.has(name)) throw invalid(name, `is unknown; known are ${[...KNOWN].join(', ')}`)
  }
  const redis = clientOf(configuration, invalid)
  try {
    return optionsWith(redis, configuration)
  } catch (error) {
    if (redis !== configuration.redis) redis.disconnect() // ours
    throw error
  }
}

function optionsWith<TCE extends CustomEvents>(redis: RedisClient, configuration: Configuration<TCE>): Options {
  const serverId = serverName(configuration)
  const options: Options = {
    ...redisAccess(redis),
    pack: optionalFunction('pack', configuration.pack),
    unpack: optionalFunction('unpack', configuration.unpack),
    secrets: secretsOf(configuration.secret),
    link: linkSettings(configuration.link, invalid),
    serverId,
    lockTTL: integer('lockTTL', configuration.lockTTL, 10_000, 100, HOUR),
    proxySocketTTL: integer('proxySocketTTL', configuration.proxySocketTTL, 30_000, 100, HOUR),
    customEventTTL: integer('customEventTTL', configuration.customEventTTL, 30_000, 1, 24 * HOUR),
    stallLimit: integer('stallLimit', configuration.stallLimit, 20_000, 100, HOUR),
    drainTimeout: integer('drainTimeout', configuration.drainTimeout, 10_000, 0, HOUR),
    failClosed: flag('failClosed', configuration.failClosed),
    placement: placementOf(configuration.placement),
    region: configuration.region === undefined ? undefined : text('region', configuration.region, '', 255),
    rebalance: rebalanceOf(configuration.rebalance),
    prefix: keyPrefixOf(redis) + text('prefix', configuration.prefix, 'rsa', 200),
    customEvents: eventHandlers(configuration.customEvents),
    deriveContext: optionalFunction('deriveContext', configuration.deriveContext),
    log: new Logger(serverId, optionalFunction('log', configuration.log)),
  }
  if (Boolean(options.pack) !== Boolean(options.unpack)) {
    throw invalid(options.pack ? 'unpack' : 'pack', `is missing: "pack" and "unpack" go together`)
  }
  if (options.pack) checkRoundTrip(options)
  if (options.link.linkHost !== undefined) {
    if (options.secrets.length === 0) throw invalid('link', 'needs the option "secret": with it servers know each other')
    if (options.pack) throw invalid('link', 'can not be used with "pack": what goes directly is not packed')
  }
  return options
}
