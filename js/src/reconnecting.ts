import { causeOf, type Client, isRefusal, messageOf } from './ioredis.js'

/** Longest pause between two attempts to connect: AFF_REDIS_BACKOFF_MAX_MS. Peers reckon with it. */
const BACKOFF_MAX_MS = 250

/**
 * A connection that comes back by itself: each attempt is a client of its own, so nothing of a broken one is left over.
 */
export class Reconnecting {
  client: Client | undefined
  isUp = false
  #attempts = 0
  #error: unknown
  #timer: NodeJS.Timeout | undefined
  #isClosed = false

  /** @param make undefined: not possible yet */
  constructor(
    private readonly make: () => Client | undefined,
    private readonly on: {
      made?(client: Client): void
      /** Connected; up() is to be called when it can be used. */
      connected(client: Client): void
      down(reason: string): void
      refused(error: string): void
      retry(reason: string): void
    },
  ) {}

  start(): void {
    clearTimeout(this.#timer)
    this.#error = undefined
    let client: Client | undefined
    try {
      client = this.make()
    } catch (error) {
      this.#error = error
    }
    this.client = client
    if (!client) return this.#notMade()
    // Once it is not ours any more its errors are nobody's, but they need a listener.
    client.on('error', (error) => this.#onError(client, error))
    client.on('ready', () => this.client === client && this.#onReady(client))
    client.on('close', () => this.#ended(client))
    client.on('end', () => this.#ended(client))
    this.on.made?.(client)
    this.#timer = setTimeout(() => this.drop('no connection in time'), Number(client.options['connectTimeout'] ?? 10_000)).unref()
    client.connect().catch(() => this.#ended(client))
  }

  /** It can be used. */
  up(): void {
    this.isUp = true
    this.#attempts = 0
    clearTimeout(this.#timer)
  }

  drop(reason: unknown): void {
    const { client } = this
    this.#error ??= reason
    client?.disconnect()
    this.#ended(client)
  }

  close(): void {
    this.#isClosed = true
    clearTimeout(this.#timer)
    const { client } = this
    this.client = undefined
    this.isUp = false
    client?.disconnect()
  }

  #onError(client: Client, error: unknown): void {
    if (this.client !== client) return
    this.#error = error
    // A connection that has an error of its own is not to be trusted; a Cluster looks after its nodes'.
    if (this.isUp && !client.nodes) this.drop(error)
  }

  #onReady(client: Client): void {
    const refusal = causeOf(this.#error)
    if (isRefusal(refusal)) this.drop(refusal) // a database that is not there: the client would use another one
    else this.on.connected(client)
  }

  #notMade(): void {
    if (this.#error) this.on.retry(messageOf(this.#error))
    this.#again()
  }

  #ended(client: Client | undefined): void {
    if (this.client !== client || !client) return
    this.client = undefined
    client.disconnect() // a Cluster's timers
    const reason = messageOf(causeOf(this.#error ?? 'the connection was closed'))
    if (this.isUp) this.on.down(reason)
    else if (isRefusal(causeOf(this.#error))) this.on.refused(reason)
    else this.on.retry(reason)
    this.isUp = false
    this.#again()
  }

  #again(): void {
    if (this.#isClosed) return
    this.#attempts++
    clearTimeout(this.#timer)
    const most = Math.min(BACKOFF_MAX_MS, 20 * 2 ** Math.min(this.#attempts, 8))
    this.#timer = setTimeout(() => this.start(), (most * (1 + Math.random())) / 2).unref()
  }
}
