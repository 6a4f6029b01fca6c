import { load } from '../addon.cjs'
import type { RedisAddress } from './redis.js'

/** What binding/binding.c exports. */
export interface Native {
  open(options: NativeOptions, onRecords: (block: ArrayBuffer) => void): NativeHandle
  close(handle: NativeHandle): void
  /**
   * The first `length` bytes are records (runtime/queue.h). They are heard now, which takes a system call: all that a
   * turn of the loop has to say should share it. Negative: none of them is.
   */
  hand(handle: NativeHandle, records: Uint8Array, length: number): number
  validUntil(handle: NativeHandle): number
  now(): number
  alive(handle: NativeHandle): void
  stats(handle: NativeHandle): Record<string, number>
  /** Null: of an instance that has not started. */
  metrics(handle: NativeHandle | null): NativeMetrics
  constants: Record<ConstantName, number>
  errors: Record<number, [name: string, text: string]>
  /** The upper bounds of the buckets in which durations are counted. */
  bucketMs: number[]
}

type NativeNumber =
  | 'framesIn'
  | 'framesOut'
  | 'batchesIn'
  | 'batchesOut'
  | 'batchesDirect'
  | 'bytesIn'
  | 'bytesOut'
  | 'malformed'
  | 'forged'
  | 'replayed'
  | 'gaps'
  | 'resets'
  | 'failovers'
  | 'losses'
  | 'refused'
  | 'refusedEvents'
  | 'overflows'
  | 'lapses'
  | 'disconnects'
  | 'stalls'
  | 'documents'
  | 'documentsOwned'
  | 'sockets'
  | 'routes'
  | 'proxies'
  | 'peers'
  | 'links'
  | 'backlog'
  | 'queued'
  | 'unacknowledged'
  | 'inbox'
  | 'outbox'
  | 'redisUp'
  | 'stalled'

/** Arrays in the order of their enums in core/aff.h; durations: of each bucket, of longer ones, and the sum in ms. */
export type NativeMetrics = Record<NativeNumber, number> &
  Record<'staleBy' | 'takeoversBy' | 'reclaimsBy' | 'renewals' | 'failoverTimes', number[]>

export type NativeHandle = object

export interface NativeOptions extends RedisAddress {
  serverId: string
  prefix: string
  lockTTL: number
  proxySocketTTL: number
  customEventTTL: number
  aliveEvery: number
  stallLimit: number
  /** ON_PLACE is asked for all that nobody has, not only while this server drains. */
  places: boolean
  /** Redis by way of this thread: see foreign.ts. */
  foreign: boolean
  pack: boolean
  /** The current one first; empty: nothing is signed. */
  secrets: Uint8Array[]
  seedHigh: number
  seedLow: number
  clientName: string
  /** None: no direct links. */
  linkHost?: string
  linkPort?: number
  linkAdvertise?: string
  linkHasTLS?: boolean
  linkAsksForCert?: boolean
  linkCA?: Uint8Array
  linkCert?: Uint8Array
  linkKey?: Uint8Array
  linkPassphrase?: Uint8Array
  linkServerName?: string
  linkRejectUnauthorized?: boolean
}

type ConstantName =
  | 'SOCKET_OPEN'
  | 'SOCKET_FRAME'
  | 'SOCKET_ALIVE'
  | 'SOCKET_CLOSE'
  | 'ROUTE_END'
  | 'ROUTE_STATE'
  | 'PROXY_SEND'
  | 'PROXY_CLOSE'
  | 'CLAIM'
  | 'UNUSE'
  | 'CONFIRM'
  | 'LEAVE'
  | 'PLACE'
  | 'DRAIN'
  | 'EMIT'
  | 'EVENT_RESULT'
  | 'SHUTDOWN'
  | 'PACKED'
  | 'UNPACKED'
  | 'ASK'
  | 'CONTROL'
  | 'REDIS_UP'
  | 'REDIS_DOWN'
  | 'REDIS_REFUSED'
  | 'REDIS_RETRY'
  | 'REDIS_REPLY'
  | 'REDIS_MESSAGE'
  | 'REDIS_SUBSCRIBED'
  | 'REDIS_UNSUBSCRIBED'
  | 'ON_READY'
  | 'ON_FAILED'
  | 'ON_SEND'
  | 'ON_SOCKET_CLOSE'
  | 'ON_LOCAL'
  | 'ON_ROUTE'
  | 'ON_PROXY_OPEN'
  | 'ON_PROXY_FRAME'
  | 'ON_PROXY_ALIVE'
  | 'ON_PROXY_CLOSE'
  | 'ON_CLAIMED'
  | 'ON_LOST'
  | 'ON_PLACE'
  | 'ON_EVENT_RUN'
  | 'ON_EVENT_LOCAL'
  | 'ON_EVENT_DONE'
  | 'ON_NEWS'
  | 'ON_LOG'
  | 'ON_STOPPED'
  | 'ON_PACK'
  | 'ON_UNPACK'
  | 'ON_ANSWER'
  | 'ON_CONTROL'
  | 'ON_REDIS_COMMAND'
  | 'ON_REDIS_PUBLISH'
  | 'ON_REDIS_LISTEN'
  | 'USE_HOLD'
  | 'USE_LOADED'
  | 'USE_EVENT'
  | 'ROUTE_HERE'
  | 'ROUTE_RECALL'

export const native = load() as Native
