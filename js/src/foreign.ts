import type { Cluster, Redis } from 'ioredis'
import {
  type Address,
  type Client,
  CONNECTION,
  corked,
  duplicateOf,
  isReply,
  isUnknown,
  messageOf,
  nameOf,
  REFRESH_MS,
  Unfit,
} from './ioredis.js'
import { native } from './native.js'
import { Reconnecting } from './reconnecting.js'
import { argumentsOf, valuesOf } from './values.js'

/** What the engine is told; the records of runtime/instance.h. */
export interface ForeignEvents {
  up(downs: number): void
  /** All commands have been answered before. */
  down(downs: number, reason: string): void
  /** Redis said no to the user, the password, the database or the subscription. */
  refused(error: string): void
  retry(reason: string): void
  reply(request: number, status: number, data: Uint8Array): void
  message(channel: Uint8Array, data: Uint8Array): void
  subscribed(channel: Uint8Array): void
  unsubscribed(): void
  /** Has everybody forgotten the engine? Then its connections end. */
  isGone(): boolean
}

/** How often a quiet connection is asked for a sign of life, and how many times in vain. */
const PING_MS = 5000
const PINGS_MAX = 3
const REDIRECTIONS_MAX = 5

const [ENOTCONN, EREDIS] = ['AFF_ENOTCONN', 'AFF_EREDIS'].map((name) => {
  return Number(Object.keys(native.errors).find((status) => native.errors[Number(status)]![0] === name))
}) as [number, number]

/**
 * Redis for the engine where its own connections can't reach it (a Cluster, Sentinel): through duplicates of the user's
 * ioredis instance. What they carry is what runtime/redis.c would, and what happens to them is told in the same words.
 */
export class Foreign {
  readonly #redis: Client
  readonly #commands: Reconnecting
  readonly #listener: Reconnecting
  #channel: Uint8Array | undefined
  /** Requests that the engine waits for. */
  #asked = new Set<number>()
  #downs = 0
  #gathered: ((client: Client) => void)[] = []
  #pings = new WeakMap<Client, number>()
  #watch: NodeJS.Timeout

  /* Of a Cluster. */
  /** Connections to nodes that serve slots, as far as they stand or stood. */
  #serving = new WeakSet<Client>()
  /** Nodes that served slots when the client came up, and have not been connected to yet. */
  #unseen: Set<string> | undefined
  /** The node that has the channel's slot; undefined: to be asked for. */
  #target: Address | undefined
  #redirections = 0
  /** Does Redis have sharded pub/sub, and let us use it? */
  #isSharded = true

  constructor(
    redis: Redis | Cluster,
    private readonly events: ForeignEvents,
  ) {
    this.#redis = redis as unknown as Client
    const { refused, retry } = events
    this.#commands = new Reconnecting(() => duplicateOf(this.#redis), {
      made: (client) => this.#follow(client),
      connected: (client) => this.#onUp(client),
      down: (reason) => this.#onDown(reason),
      refused,
      retry,
    })
    this.#listener = new Reconnecting(() => this.#makeListener(), {
      connected: (client) => void this.#listenWith(client),
      down: () => events.unsubscribed(),
      refused,
      retry: () => {
        this.#target = undefined
      },
    })
    this.#commands.start()
    this.#watch = setInterval(() => this.#look(), PING_MS).unref()
  }

  close(): void {
    clearInterval(this.#watch)
    this.#commands.close()
    this.#listener.close()
  }

  // ---- from the engine --------------------------------------------------------------------------------

  /** `data` of a record: for each argument its length and bytes; see runtime/foreign.h. */
  command(request: number, downs: number, data: Uint8Array): void {
    const [name, ...args] = argumentsOf(data) as [Buffer, ...Buffer[]]
    const command = name.toString().toLowerCase()
    const isCount = command === 'pubsub' && this.#redis.nodes !== undefined
    this.#gather(request, downs, (client) => (isCount ? this.#countListeners(client, args[1]!) : client.callBuffer(command, ...args)))
  }

  publish(request: number, downs: number, channel: Uint8Array, data: Uint8Array): void {
    const [to, bytes] = [Buffer.from(channel), Buffer.from(data.buffer, data.byteOffset, data.length)]
    this.#gather(request, downs, (client) => this.#publish(client, to, bytes))
  }

  listen(channel: Uint8Array): void {
    const wasListening = this.#channel !== undefined
    this.#channel = Buffer.from(channel)
    if (wasListening) this.#listener.drop('another channel')
    else this.#listener.start()
  }

  /** The turn ends: what was gathered goes out. */
  flush(): void {
    const gathered = this.#gathered
    const { client } = this.#commands
    if (gathered.length === 0) return
    this.#gathered = []
    if (client) corked(client, () => gathered.forEach((send) => send(client)))
  }

  /** A record was not taken: nothing was told, so all is told anew. */
  refused(request: number | undefined): void {
    if (request !== undefined) this.#asked.add(request)
    setTimeout(() => {
      this.#commands.drop('the engine was too busy')
      this.#listener.drop('the engine was too busy')
    }, 100).unref()
  }

  #gather(request: number, downs: number, send: (client: Client) => Promise<unknown>): void {
    // Asked before the engine heard that Redis was down: for it that has been answered.
    if (downs !== this.#downs || !this.#commands.isUp) return this.events.reply(request, ENOTCONN, new Uint8Array())
    this.#asked.add(request)
    this.#gathered.push((client) => {
      send(client).then(
        (reply) => this.#answer(request, downs, 0, valuesOf(reply)),
        (error) => this.#fail(client, request, downs, error),
      )
    })
  }

  #answer(request: number, downs: number, status: number, data: Uint8Array): void {
    if (downs !== this.#downs) return // answered as it went down
    this.#asked.delete(request)
    this.events.reply(request, status, data)
  }

  #fail(client: Client, request: number, downs: number, error: unknown): void {
    if (client.status !== 'ready') return // answered when that is noticed
    this.#answer(request, downs, EREDIS, Buffer.from(messageOf(error)))
    // The primary has become a replica: Sentinel knows which one it is now.
    if (!client.nodes && messageOf(error).startsWith('READONLY')) {
      this.#commands.drop(error)
      this.#listener.drop(error)
    }
  }

  // ---- to Redis ---------------------------------------------------------------------------------------

  async #publish(client: Client, channel: Buffer, data: Buffer): Promise<unknown> {
    if (!client.nodes) return client.callBuffer('publish', channel, data)
    if (this.#isSharded) {
      try {
        return await client.callBuffer('spublish', channel, data)
      } catch (error) {
        if (!isUnknown(error)) throw error
        this.#isSharded = false
      }
    }
    // It reaches the listeners of all nodes, and counts those of one.
    await client.callBuffer('publish', channel, data)
    return null
  }

  /** How many listen to the channel, on all nodes of the Cluster; nil where one does not answer. */
  async #countListeners(client: Client, channel: Buffer): Promise<unknown> {
    const count = async (node: Client, what: string) => Number(((await node.callBuffer('pubsub', what, channel)) as unknown[])[1])
    const onNode = async (node: Client) => {
      const sharded = await count(node, 'SHARDNUMSUB').catch((error) => (isUnknown(error) ? 0 : Promise.reject(error)))
      return sharded + (await count(node, 'NUMSUB'))
    }
    try {
      const counts = await Promise.all(client.nodes!('all').map(onNode))
      return [channel, counts.reduce((sum, one) => sum + one, 0)]
    } catch {
      return [channel, null]
    }
  }

  // ---- the connection for commands --------------------------------------------------------------------

  #onUp(client: Client): void {
    this.#isSharded = true
    this.#commands.up()
    this.events.up(this.#downs)
    this.#compareWith(client)
  }

  #onDown(reason: string): void {
    for (const request of this.#asked) this.events.reply(request, ENOTCONN, new Uint8Array())
    this.#asked.clear()
    this.events.down(++this.#downs, reason)
  }

  /** A listener that is connected to another Redis than the commands are hears nothing: a former primary. */
  #compareWith(client: Client): void {
    const [ours, its] = [client.stream, this.#listener.client?.stream]
    if (client.nodes || !this.#listener.isUp || !ours?.remotePort || !its?.remotePort) return
    const isSame = ours.remotePort === its.remotePort && ours.remoteAddress === its.remoteAddress
    if (!isSame) this.#listener.drop('Redis is elsewhere now')
  }

  // ---- a Cluster --------------------------------------------------------------------------------------

  #follow(client: Client): void {
    if (!client.nodes) return
    this.#serving = new WeakSet()
    this.#unseen = undefined
    const look = () => this.#commands.client === client && this.#compareNodes(client)
    client.on('node error', () => {}) // heard of from commands
    client.on('refresh', look)
    client.on('+node', (node: Client) => node.on('ready', look))
    client.on('-node', () => {
      setTimeout(() => this.#commands.client === client && client.refreshSlotsCache?.(), REFRESH_MS).unref()
    })
  }

  /**
   * A node that serves slots now and did not before, or that was lost meanwhile, may lack what its slots had: as after a
   * reconnection to a single Redis, the engine has to make sure of what it owns.
   */
  #compareNodes(cluster: Client): void {
    const nodes = cluster.nodes!('master')
    this.#unseen ??= new Set(nodes.map(nameOf))
    for (const node of nodes) if (node.status === 'wait') node.connect().catch(() => {})
    const others = nodes.filter((node) => node.status === 'ready' && !this.#serving.has(node))
    for (const node of others) this.#serving.add(node)
    const isAnother = others.filter((node) => !this.#unseen!.delete(nameOf(node))).length > 0
    if (!isAnother || !this.#commands.isUp) return
    this.#onDown('another node serves a part of the Redis Cluster')
    this.#isSharded = true
    this.events.up(this.#downs)
    const { client, isUp } = this.#listener
    if (client && isUp && !nodes.some((node) => nameOf(node) === nameOf(client))) this.#listener.drop('its node has become a replica')
  }

  // ---- the connection that listens --------------------------------------------------------------------

  #makeListener(): Client | undefined {
    if (!this.#redis.nodes) return this.#redis.duplicate(CONNECTION)
    const nodes = this.#commands.client?.nodes!('master') ?? []
    const node = nodes[Math.floor(Math.random() * nodes.length)]
    return node?.duplicate({ ...CONNECTION, ...this.#target })
  }

  async #listenWith(client: Client): Promise<void> {
    const channel = this.#channel!
    const hear = (from: Buffer, data: Buffer) => {
      if (this.#listener.client === client) this.events.message(from, data)
    }
    client.on('messageBuffer', hear)
    client.on('smessageBuffer', hear)
    client.on('moved', () => this.#listener.client === client && this.#listener.drop('its slot has moved'))
    try {
      if (this.#redis.nodes && !(await this.#isAtHome(client))) return
      await this.#subscribe(client, channel)
      if (this.#listener.client !== client) return
      this.#redirections = 0
      this.#listener.up()
      this.events.subscribed(channel)
    } catch (error) {
      if (this.#listener.client === client) this.#listener.drop(error)
    }
  }

  async #subscribe(client: Client, channel: Uint8Array): Promise<void> {
    let isSharded = false
    if (this.#redis.nodes) {
      const count = await client.callBuffer('ssubscribe', channel).catch((error) => {
        if (!isUnknown(error)) throw error
      })
      isSharded = count !== undefined
      if (isSharded && typeof count !== 'number') throw new Unfit('this version of ioredis knows no sharded pub/sub: take a newer one')
    }
    // In a Cluster, also for those whose Redis has, or had, nothing else.
    await client.callBuffer('subscribe', channel).catch((error) => {
      if (!isSharded) throw error
    })
  }

  /** Is the channel's slot on this node? Else the next attempt goes to where it is. */
  async #isAtHome(client: Client): Promise<boolean> {
    try {
      await client.callBuffer('get', this.#channel!)
      return true
    } catch (error) {
      const [word, , node = ''] = messageOf(error).split(' ')
      if (word === 'ASK') return true
      if (word !== 'MOVED') throw error
      this.#redirect(client, node)
      return false
    }
  }

  #redirect(from: Client, node: string): void {
    if (this.#listener.client !== from) return
    const colon = node.lastIndexOf(':')
    const key = colon > 0 ? node : `${from.options['host']}${node}`
    const natMap = this.#redis.options['natMap'] as undefined | Record<string, Address> | ((key: string) => Address | null)
    const mapped = typeof natMap === 'function' ? natMap(key) : natMap?.[key]
    this.#target = mapped ?? { host: key.slice(0, key.lastIndexOf(':')), port: Number(node.slice(colon + 1)) }
    if (++this.#redirections > REDIRECTIONS_MAX) {
      this.#redirections = 0
      return this.#listener.drop('redirected too often')
    }
    from.disconnect()
    this.#listener.start()
  }

  // ---- signs of life ----------------------------------------------------------------------------------

  #look(): void {
    if (this.events.isGone()) return this.close()
    const { client } = this.#commands
    if (client?.nodes) for (const node of client.nodes('all')) this.#ping(node, () => node.disconnect())
    else if (client) this.#ping(client, () => this.#commands.drop('Redis does not answer'))
    if (this.#listener.client) this.#ping(this.#listener.client, () => this.#listener.drop('Redis does not answer'))
  }

  #ping(client: Client, drop: () => void): void {
    if (client.status !== 'ready') return
    const pings = (this.#pings.get(client) ?? 0) + 1
    this.#pings.set(client, pings)
    if (pings > PINGS_MAX) return drop()
    const answered = () => this.#pings.set(client, 0)
    client.ping().then(answered, (error) => isReply(error) && answered())
  }
}
