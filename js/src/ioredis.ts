/** How soon a Cluster's client looks where the slots are after it has lost a node; and how often anyway. */
export const REFRESH_MS = 100
const REFRESH_EVERY_MS = 5000
/** So long, times REFRESH_MS, a command waits for a node that takes over. */
const COMMAND_TRIES = 64

/** What is used of an ioredis client, whatever its version. */
export interface Client {
  status: string
  options: Record<string, unknown>
  stream?: { cork?(): void; uncork?(): void; remoteAddress?: string; remotePort?: number }
  on(event: string, listener: (...args: never[]) => void): unknown
  connect(): Promise<void>
  disconnect(): void
  duplicate(...args: unknown[]): Client
  callBuffer(command: string, ...args: (string | Uint8Array)[]): Promise<unknown>
  ping(): Promise<unknown>
  /** Of a Cluster. */
  nodes?(role: 'all' | 'master'): Client[]
  refreshSlotsCache?(): void
}

export interface Address {
  host: string
  port: number
}

/** Nothing of this can be the user's choice: the engine has to know of each connection that breaks, and when. */
export const CONNECTION = {
  keyPrefix: '',
  lazyConnect: true,
  connectionName: 'redis-affinity',
  enableOfflineQueue: false,
  enableReadyCheck: true,
  enableAutoPipelining: false,
  autoResubscribe: false,
  autoResendUnfulfilledCommands: false,
  maxRetriesPerRequest: null,
  retryStrategy: null,
  sentinelRetryStrategy: null,
  reconnectOnError: null,
  commandTimeout: undefined,
  monitor: false,
  readOnly: false,
  stringNumbers: false,
  protocol: 2,
  replyMapping: 'legacy',
  himportFieldsets: undefined,
}

const CLUSTER = {
  keyPrefix: '',
  lazyConnect: true,
  enableOfflineQueue: true, // while a node is connected to; a client that has broken is thrown away
  enableReadyCheck: true,
  enableAutoPipelining: false,
  shardedSubscribers: false,
  scaleReads: 'master',
  clusterRetryStrategy: () => null,
  clusterNodeRetryStrategy: null,
  slotsRefreshInterval: REFRESH_EVERY_MS,
  // A command for a node that is lost waits for the one that takes over.
  maxRedirections: COMMAND_TRIES,
  retryDelayOnFailover: REFRESH_MS,
  retryDelayOnClusterDown: REFRESH_MS,
  retryDelayOnTryAgain: REFRESH_MS,
  retryDelayOnMoved: 0,
  himportFieldsets: undefined,
}

export function duplicateOf(redis: Client): Client {
  if (!redis.nodes) return redis.duplicate(CONNECTION)
  // The pool of a Cluster has a queue in front of each node, which is there until it is connected.
  const { retryStrategy: _, enableOfflineQueue: __, ...redisOptions } = CONNECTION
  return redis.duplicate([], { ...CLUSTER, redisOptions: { ...(redis.options['redisOptions'] as object), ...redisOptions } })
}

export const messageOf = (error: unknown) => (error as Error)?.message ?? String(error)
export const isReply = (error: unknown) => (error as Error)?.name === 'ReplyError' || 'command' in ((error as object) ?? {})
export const isUnknown = (error: unknown) => /unknown .*command|NOPERM/i.test(messageOf(error))
/** An ioredis that lacks what is needed. */
export class Unfit extends Error {}

/** Redis's words, and Node's codes for a certificate that one side does not believe. */
const REFUSED = /^(WRONGPASS|NOAUTH|NOPERM|ERR (AUTH|invalid password|invalid DB index|DB index))/
const UNBELIEVED = /^(SELF_SIGNED_CERT|DEPTH_ZERO_|UNABLE_TO_|CERT_|HOSTNAME_MISMATCH|ERR_TLS_CERT_|ERR_SSL_\w+_(CERTIFICATE|CA))/

/** What trying again is unlikely to cure. */
export function isRefusal(error: unknown): boolean {
  const code = String((error as { code?: unknown } | undefined)?.code)
  return error instanceof Unfit || REFUSED.test(messageOf(error)) || UNBELIEVED.test(code)
}

/** An error of a node is inside that of the Cluster. */
export const causeOf = (error: unknown) => (error as { lastNodeError?: Error })?.lastNodeError ?? error

/** What a turn of the loop has to send goes out at once. */
export function corked(client: Client, send: () => void): void {
  const streams = (client.nodes?.('all') ?? [client]).map((node) => node.stream)
  for (const stream of streams) stream?.cork?.()
  try {
    send()
  } finally {
    for (const stream of streams) stream?.uncork?.()
  }
}

/** Of a Cluster's node. */
export const nameOf = ({ options }: Client) => `${options['host']}:${options['port']}`
