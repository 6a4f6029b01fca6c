import type { Health } from './health.js'
import { native, type NativeMetrics } from './native.js'

/** Durations as they are shown, in seconds: how many there were, their sum, and how many took at most `le`. */
export interface Durations {
  count: number
  sum: number
  buckets: { le: number; count: number }[]
}

export const EVENT_OUTCOMES = ['ok', 'threw', 'timeout', 'failed'] as const
export const STORE_OUTCOMES = ['confirmed', 'refused', 'unavailable'] as const
export type EventOutcomeName = (typeof EVENT_OUTCOMES)[number]
export type StoreOutcome = (typeof STORE_OUTCOMES)[number]

/* In the order of their enums in core/aff.h. */
const STALE = ['epoch', 'ended', 'session', 'repeated', 'foreign', 'unserved'] as const
const TAKEOVERS = ['evidence', 'left', 'ended', 'restarted'] as const
const RECLAIMS = ['lapse', 'record'] as const

const BOUNDS_MS = native.bucketMs

/** Counts durations in the engine's buckets. */
export class Histogram {
  /** Of each bucket, of what is longer than all, and the sum in ms: as the engine's. */
  readonly numbers: number[] = new Array(BOUNDS_MS.length + 2).fill(0)

  observe(ms: number): void {
    const bucket = BOUNDS_MS.findIndex((bound) => ms <= bound)
    this.numbers[bucket < 0 ? BOUNDS_MS.length : bucket]!++
    this.numbers[BOUNDS_MS.length + 1]! += ms
  }
}

function histograms<Name extends string>(names: readonly Name[]): Record<Name, Histogram> {
  return Object.fromEntries(names.map((name) => [name, new Histogram()])) as Record<Name, Histogram>
}

/** What is measured in JavaScript. */
export class Measures {
  readonly events = histograms(EVENT_OUTCOMES)
  readonly stores = histograms(STORE_OUTCOMES)
}

/** What metrics are read from. */
export interface Sources {
  serverId: string
  /** Of the engine; all zero where it has not started. */
  engine: NativeMetrics
  health: Health
  measures: Measures
  /** Lost documents whose state is on its way to their owners. */
  handOvers: number
}

function durations(numbers: readonly number[]): Durations {
  let count = 0
  const buckets = BOUNDS_MS.map((ms, index) => ({ le: ms / 1000, count: (count += numbers[index]!) }))
  return { count: count + numbers[BOUNDS_MS.length]!, sum: numbers[BOUNDS_MS.length + 1]! / 1000, buckets }
}

function named<Name extends string>(names: readonly Name[], numbers: readonly number[]): Record<Name, number> {
  return Object.fromEntries(names.map((name, index) => [name, numbers[index]!])) as Record<Name, number>
}

function allDurations<Name extends string>(of: Record<Name, Histogram>): Record<Name, Durations> {
  const entries = Object.entries<Histogram>(of).map(([name, { numbers }]) => [name, durations(numbers)])
  return Object.fromEntries(entries) as Record<Name, Durations>
}

export interface Definition<Value = unknown> {
  kind: 'counter' | 'gauge' | 'histogram'
  help: string
  /** What tells the values of this metric apart, if it has several. */
  label?: string
  read(from: Sources): Value
}

type Read<Value> = (from: Sources) => Value
const gauge = (help: string, read: Read<number>): Definition<number> => ({ kind: 'gauge', help, read })
const counter = (help: string, read: Read<number>): Definition<number> => ({ kind: 'counter', help, read })
const counters = <Name extends string>(help: string, label: string, read: Read<Record<Name, number>>): Definition<Record<Name, number>> => ({
  kind: 'counter',
  help,
  label,
  read,
})
const times = (help: string, read: Read<Durations>): Definition<Durations> => ({ kind: 'histogram', help, read })
const timesBy = <Name extends string>(help: string, label: string, read: Read<Record<Name, Durations>>): Definition<Record<Name, Durations>> => ({
  kind: 'histogram',
  help,
  label,
  read,
})

/**
 * Every metric. `metrics()`, Prometheus, OpenTelemetry and docs/metrics.md are made from this table. What a name ends
 * in is its unit.
 */
export const DEFINITIONS = {
  // ---- This server
  info: { kind: 'gauge', help: '1, with the serverId as its label.', label: 'server', read: ({ serverId }) => ({ [serverId]: 1 }) } satisfies Definition<Record<string, number>>,
  ready: gauge('1 if this server is ready, as health() says, else 0.', ({ health }) => Number(health.ready)),
  redisUp: gauge('1 if the connection to Redis for commands stands, else 0.', ({ engine }) => engine.redisUp),
  membershipSeconds: gauge('For how long the membership is still valid without a renewal; 0: not a member.', ({ health }) => health.membershipMs / 1000),
  draining: gauge('1 once this server hands its documents on, else 0.', ({ health }) => Number(health.draining)),
  membershipLapses: counter('Times that the membership was lost; all documents are claimed anew then.', ({ engine }) => engine.lapses),
  redisDisconnects: counter('Times that one of the two connections to Redis broke.', ({ engine }) => engine.disconnects),
  javascriptStalls: counter('Times that the JavaScript thread hung for longer than stallLimit.', ({ engine }) => engine.stalls),
  renewalSeconds: times('Renewals of the membership: from when one was due until Redis had made it.', ({ engine }) => durations(engine.renewals)),

  // ---- Documents
  documentsOwned: gauge('Documents that this server owns.', ({ engine }) => engine.documentsOwned),
  documentsKnown: gauge('Documents that the engine has in mind: owned here, or with clients here.', ({ engine }) => engine.documents),
  handOvers: gauge('Lost documents that this server still holds, to hand their state to their owners.', ({ handOvers }) => handOvers),
  takeovers: counters('Documents taken from another server, by why that was possible.', 'cause', ({ engine }) => named(TAKEOVERS, engine.takeoversBy)),
  reclaims: counters("This server's own documents, claimed under a new epoch, by why.", 'cause', ({ engine }) => named(RECLAIMS, engine.reclaimsBy)),
  losses: counter('Documents of this server that another one has taken.', ({ engine }) => engine.losses),
  storeConfirmationSeconds: timesBy("Redis's confirmation before a store, by its result.", 'result', ({ measures }) => allDurations(measures.stores)),

  // ---- Clients
  sockets: gauge('Sockets of clients of this server.', ({ engine }) => engine.sockets),
  routes: gauge('Their documents: one for each socket and document.', ({ engine }) => engine.routes),
  proxySockets: gauge("Proxy sockets: they stand here for other servers' clients, and for own ones whose document has moved here.", ({ engine }) => engine.proxies),
  failovers: counter('Routes that have lost their owner, and looked for the next one.', ({ engine }) => engine.failovers),
  failoverSeconds: times('Routes without an owner: from when this server knows of its loss until the next one has accepted them, without the time until a death is noticed.', ({ engine }) => durations(engine.failoverTimes)),

  // ---- Custom events
  eventSeconds: timesBy('Calls of handleEvent on this server, by their outcome.', 'outcome', ({ measures }) => allDurations(measures.events)),

  // ---- Links
  servers: gauge('Other servers that this one knows.', ({ engine }) => engine.peers),
  directLinks: gauge('Those of them to which messages go directly.', ({ engine }) => engine.links),
  framesReceived: counter('Frames from other servers.', ({ engine }) => engine.framesIn),
  framesSent: counter('Frames for other servers.', ({ engine }) => engine.framesOut),
  batchesReceived: counter('Batches of frames that came.', ({ engine }) => engine.batchesIn),
  batchesSent: counters('Batches of frames that were sent, by their way.', 'way', ({ engine }) => ({
    redis: engine.batchesOut - engine.batchesDirect,
    direct: engine.batchesDirect,
  })),
  batchReceivedBytes: counter('Bytes of the batches that came.', ({ engine }) => engine.bytesIn),
  batchSentBytes: counter('Bytes of the batches that were sent.', ({ engine }) => engine.bytesOut),
  gaps: counter('Times that something was missing on a link, and was sent again.', ({ engine }) => engine.gaps),
  linkResets: counter('Links that started anew.', ({ engine }) => engine.resets),
  stale: counters('Frames, and batches, that were dropped since they are not of now, by what they are.', 'what', ({ engine }) => named(STALE, engine.staleBy)),
  refused: counters('What other servers wanted of documents that this one does not own.', 'what', ({ engine }) => ({
    route: engine.refused - engine.refusedEvents,
    event: engine.refusedEvents,
  })),
  malformed: counter('Frames and batches that could not be read, of clients and servers.', ({ engine }) => engine.malformed),
  forged: counter('With a secret: messages without a valid signature.', ({ engine }) => engine.forged),
  replayed: counter('With a secret: messages that had come before, or came too late.', ({ engine }) => engine.replayed),

  // ---- Queues
  overflows: counter('Bounds that were hit: what did not fit was given up.', ({ engine }) => engine.overflows),
  inboxBytes: gauge('From JavaScript, for the I/O thread.', ({ engine }) => engine.inbox),
  outboxBytes: gauge('From the I/O thread, for JavaScript.', ({ engine }) => engine.outbox),
  backlogBytes: gauge('Messages from other servers that JavaScript has not worked through.', ({ engine }) => engine.backlog),
  queuedBytes: gauge('Frames that wait in links for credit of the other server.', ({ engine }) => engine.queued),
  unacknowledgedBytes: gauge('Frames that were sent, and are kept until they are acknowledged.', ({ engine }) => engine.unacknowledged),
}

/** What `metrics()` returns: a number, durations, or one of these for each value of the metric's label. */
export type Metrics = { -readonly [Name in keyof typeof DEFINITIONS]: ReturnType<(typeof DEFINITIONS)[Name]['read']> }

export function readMetrics(from: Sources): Metrics {
  const entries = Object.entries(DEFINITIONS).map(([name, definition]) => [name, definition.read(from)])
  return Object.fromEntries(entries) as Metrics
}

const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`)

/** What the name of a metric ends in. */
export function unitOf(name: string): 'bytes' | 'seconds' | undefined {
  if (name.endsWith('Bytes')) return 'bytes'
  return name.endsWith('Seconds') ? 'seconds' : undefined
}

export function prometheusName(name: string, { kind }: Pick<Definition, 'kind'>): string {
  return `hocuspocus_affinity_${snake(name)}${kind === 'counter' ? '_total' : ''}`
}

/** There the unit is told apart from the name. */
export const openTelemetryName = (name: string): string => `hocuspocus.affinity.${snake(name.replace(/(Bytes|Seconds)$/, ''))}`

export interface Sample<Value> {
  labels: Record<string, string>
  value: Value
}

/** The values of a metric, each with its label. */
export function samplesOf<Value>({ label }: Definition, value: Value | Record<string, Value>): Sample<Value>[] {
  if (label === undefined) return [{ labels: {}, value: value as Value }]
  return Object.entries(value as Record<string, Value>).map(([name, one]) => ({ labels: { [label]: name }, value: one }))
}
