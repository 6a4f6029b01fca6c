import { randomBytes } from 'node:crypto'
import { AffinityError, errorOf } from './errors.js'
import { Foreign, type ForeignEvents } from './foreign.js'
import { RESET } from './hocuspocus.js'
import type { Logger, LogTopic } from './log.js'
import { native, type NativeHandle, type NativeMetrics, type NativeOptions } from './native.js'
import type { Options, RSAMessage } from './options.js'
import { bytesOf } from './payload.js'
import { type Fields, HEADER, Records, handOneByOne } from './records.js'
import { repeat } from './time.js'
import { layOut, type RedisValue, valuesIn } from './values.js'
import { Message } from './websocket.js'

const k = native.constants
const { ON_SEND, ON_PROXY_FRAME, PROXY_SEND, SOCKET_FRAME } = k

const NOTHING = new Uint8Array()

/** What the engine tells; `data` is a view of a block that is shared with other messages: copy what is kept. */
export interface EngineEvents {
  /** A frame of a document's owner, for a client socket. */
  send(socket: number, message: Message): void
  /** All that has come at once has been sent: it can go out together. */
  sent(): void
  closeSocket(socket: number, code: number, reason: string): void
  /** A client's frame for the Hocuspocus here. */
  local(socket: number, data: Uint8Array): void
  /** Where an address of a socket is served now; `taken`: its frames that the engine has had. */
  route(socket: number, address: string, place: Place, taken: number): void
  openProxy(proxy: number, origin: string, request: Uint8Array): void
  proxyFrame(proxy: number, data: Uint8Array): void
  proxyAlive(proxy: number): void
  closeProxy(proxy: number, code: number, reason: string): void
  lost(documentName: string): void
  /** Nobody has the document, and clients here want it: place() says who shall have it. */
  place(documentName: string): void
  /** The engine has ended by itself: nothing is served here any more. */
  failed(error: AffinityError): void
  news(kind: NewsKind, news: News): void
  runEvent(token: number, name: string, documentName: string, payload: Uint8Array): void
  /** A message of another server, or of an operator's tool, that listens to the channel `from`. */
  control(from: string, message: Uint8Array): void
  /** Does somebody count on this server, although nobody may refer to its extension any more? */
  isNeeded(): boolean
}

/** `recall`: not here any more; the engine wants to know what the client has sent. */
export type Place = 'here' | 'ended' | 'recall'
const PLACES: Record<number, Place> = { [k.ROUTE_HERE]: 'here', [k.ROUTE_RECALL]: 'recall' }

/** What lines of the engine are about; the order is that of aff_topic in core/aff.h. */
const TOPICS: LogTopic[] = ['documents', 'links', 'redis', 'sockets']

/** What happened, for logs and metrics; the order is that of aff_news in core/aff.h. */
const NEWS = ['owned', 'lost', 'takeover', 'resync', 'serverUp', 'serverDown'] as const
export type NewsKind = (typeof NEWS)[number] | 'failed'
export interface News {
  /** With `owned`, `lost` and `takeover`. */
  documentName?: string
  /** The other server, except with `owned`. */
  server?: string
  /** The document's epoch; with `takeover`, the dead owner's. */
  epoch?: number
  /** With `failed`: why this server is out of the cluster until its process starts again. */
  error?: AffinityError
}

export type Use = 'hold' | 'loaded' | 'event'
const USES: Record<Use, number> = { hold: k.USE_HOLD, loaded: k.USE_LOADED, event: k.USE_EVENT }

export type EventOutcome = { here: true } | { here: false; open: false } | { here: false; open: true; result: Uint8Array }

/** A handler's error as its owner sent it. */
export class RemoteFailure extends Error {
  constructor(readonly data: Uint8Array) {
    super('the event handler failed')
  }
}

interface Pending<T> {
  what: string
  resolve(value: T): void
  reject(error: Error): void
}

/** How Redis is reached, for people. */
function transportOf({ foreign, address: { path, host, port, hasTLS } }: Options): string {
  if (foreign !== undefined) return `through ioredis (${foreign})`
  return path ? `native, socket ${path}` : `native, ${hasTLS ? 'TLS' : 'TCP'} ${host}:${port}`
}

/** Engines that must not be collected: somebody waits for them, or counts on them. */
const needed = new Set<Engine>()

/** Of a document that was given up: has it been this server's until then? */
function wasOurs(left: Promise<number>): Promise<boolean> {
  return left.then(
    () => true,
    (error: AffinityError) => {
      if (error.code === 'AFF_EOWNED') return false
      throw error
    },
  )
}

const decode = (bytes: Uint8Array) => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString()

/** The native engine with types: posts what happens here, and calls `events` with what it wants. */
export class Engine {
  #handle: NativeHandle
  #requests = 0
  #claims = new Map<number, Pending<number>>()
  #events = new Map<number, Pending<EventOutcome>>()
  #commands = new Map<number, Pending<RedisValue[]>>()
  #ready: Promise<void>
  #settleReady!: Pick<Pending<void>, 'resolve' | 'reject'>
  #stopped: Promise<void>
  #onStopped!: () => void
  #stopping = false
  #finished = false
  #isAwaited = false
  #isPrinted = false
  #isReady = false
  /** As last told: while Redis is up, why it was. */
  #whyAway: string | undefined
  /** As they were at the end. */
  #lastMetrics: NativeMetrics | undefined
  #heartbeat: NodeJS.Timeout
  /** Where the engine's own connections can't reach Redis. */
  #foreign: Foreign | undefined

  /** What is for the other thread; it is handed over, and the thread woken, once in a turn of the loop. */
  #records = new Records(this.#handOver.bind(this))
  #wakes = false

  /* Consecutive sends of one frame, gathered: it crosses once to each origin. */
  #sendData: Uint8Array | undefined
  #sendProxies = new Uint32Array(16)
  #sendCount = 0

  constructor(
    private readonly options: Options,
    readonly aliveEvery: number,
    private readonly events: EngineEvents,
  ) {
    this.#ready = new Promise((resolve, reject) => (this.#settleReady = { resolve, reject }))
    this.#ready.catch(() => {}) // whoever awaits ready() is told; nobody has to
    this.#stopped = new Promise((resolve) => (this.#onStopped = resolve))
    const seed = randomBytes(8)
    const settings = {
      ...options.address,
      ...options.link,
      serverId: options.serverId,
      prefix: options.prefix,
      lockTTL: options.lockTTL,
      proxySocketTTL: options.proxySocketTTL,
      customEventTTL: options.customEventTTL,
      aliveEvery,
      stallLimit: options.stallLimit,
      places: options.placement !== 'local',
      foreign: options.foreign !== undefined,
      pack: options.pack !== undefined,
      secrets: options.secrets,
      clientName: 'redis-affinity',
      seedHigh: seed.readUInt32BE(0),
      seedLow: seed.readUInt32BE(4),
    }
    const self = new WeakRef(this)
    this.#handle = Engine.#open(settings, Engine.#blocksOf(self))
    this.#heartbeat = repeat(this, Math.max(10, Math.min(1000, options.stallLimit / 10)), Engine.#beat)
    options.log.debug(`Redis: ${transportOf(options)}`, { topic: 'redis' })
    if (options.foreign !== undefined) this.#foreign = new Foreign(options.redis, Engine.#foreignOf(self))
  }

  static #open(settings: NativeOptions, onBlock: (block: ArrayBuffer) => void): NativeHandle {
    try {
      return native.open(settings, onBlock)
    } catch (error) {
      const { code, message } = error as AffinityError
      const [, option, problem] = /^(redis|link): (.*)$/s.exec(message) ?? []
      if (code !== 'AFF_EINVAL' || option === undefined) throw error
      throw new AffinityError('AFF_EINVAL', `RedisServerAffinity: option "${option}": ${problem}`)
    }
  }

  /*
   * Neither the native side nor the timer keeps an engine that everybody has forgotten: it is collected with its
   * extension, and its thread and connections end. (Their closures stand in functions of their own: one in the
   * constructor would share its scope, `this` included, with all others there.)
   */

  static #blocksOf(self: WeakRef<Engine>): (block: ArrayBuffer) => void {
    return (block) => {
      const engine = self.deref()
      if (engine) engine.#onBlock(block)
    }
  }

  static #foreignOf(self: WeakRef<Engine>): ForeignEvents {
    const post = (kind: number, fields: Fields, name?: Uint8Array, data?: Uint8Array) => {
      const engine = self.deref()
      if (engine) engine.#post(kind, fields, undefined, name, data)
    }
    return {
      up: (downs) => post(k.REDIS_UP, { socket: downs }),
      down: (downs, reason) => post(k.REDIS_DOWN, { socket: downs }, undefined, Buffer.from(reason)),
      refused: (error) => post(k.REDIS_REFUSED, {}, undefined, Buffer.from(error)),
      retry: (reason) => post(k.REDIS_RETRY, {}, undefined, Buffer.from(reason)),
      reply: (request, status, data) => post(k.REDIS_REPLY, { request, status }, undefined, data),
      message: (channel, data) => post(k.REDIS_MESSAGE, {}, channel, data),
      subscribed: (channel) => post(k.REDIS_SUBSCRIBED, {}, channel),
      unsubscribed: () => post(k.REDIS_UNSUBSCRIBED, {}),
      isGone: () => self.deref() === undefined,
    }
  }

  static #beat(engine: Engine): void {
    native.alive(engine.#handle)
  }

  /** As ready(), for who does not need it to live. */
  get joined(): Promise<void> {
    return this.#ready
  }

  /** @param isPrinted whoever waits prints why the start has failed */
  ready(isPrinted = false): Promise<void> {
    this.#isPrinted ||= isPrinted
    if (this.#stopping) return this.#ready.then(() => Promise.reject(errorOf(-9, 'RedisServerAffinity')))
    this.#isAwaited = !this.#isReady
    this.#root()
    return this.#ready
  }

  /** Keeps this engine while it is needed. */
  #root(): void {
    const isWaitedFor = this.#isAwaited || this.#stopping || this.#claims.size > 0 || this.#events.size > 0
    if (!this.#finished && (isWaitedFor || this.events.isNeeded())) needed.add(this)
    else needed.delete(this)
  }

  /** Is this server's membership valid right now, by its own clock? */
  isMember(): boolean {
    return native.now() < native.validUntil(this.#handle)
  }

  /** Has it been stopped, or failed? */
  get isClosed(): boolean {
    return this.#stopping
  }

  /** Has it been a member, and heard its peers? */
  get hasJoined(): boolean {
    return this.#isReady
  }

  /** Why Redis is away, if it is; undefined: not known yet. */
  get whyAway(): string | undefined {
    return this.#whyAway
  }

  /** For how long the membership is valid without a renewal. */
  get membershipMs(): number {
    return Math.max(0, native.validUntil(this.#handle) - native.now())
  }

  get log(): Logger {
    return this.options.log
  }

  stats(): Record<string, number> {
    return native.stats(this.#handle)
  }

  metrics(): NativeMetrics {
    return this.#lastMetrics ?? native.metrics(this.#handle)
  }

  // ---- to the engine ----------------------------------------------------------------------------------

  #post(kind: number, fields: Fields, document?: Uint8Array, name?: Uint8Array, data?: Uint8Array): void {
    this.#flushSends()
    this.#root()
    this.#wakeSoon()
    this.#records.put(kind, fields, document, name, data)
  }

  #wakeSoon(): void {
    if (this.#wakes) return
    this.#wakes = true
    setImmediate(Engine.#wake, this)
  }

  static #wake(engine: Engine): void {
    engine.#wakes = false
    engine.#flushSends()
    engine.#records.flush()
  }

  #handOver(bytes: Uint8Array, length: number): void {
    if (native.hand(this.#handle, bytes, length) < 0) this.#handOneByOne(bytes.slice(0, length))
  }

  /** The engine is closed, its queue is full, or memory has run out: who waits for an answer is told. */
  #handOneByOne(records: Uint8Array): void {
    for (const { kind, socket, request, status } of handOneByOne(records, (record) => native.hand(this.#handle, record, record.length))) {
      if (kind === k.SOCKET_OPEN || kind === SOCKET_FRAME) this.events.closeSocket(socket, RESET.code, RESET.reason)
      else if (kind === k.EMIT) this.#settleEvent(request, status, NOTHING)
      else if (kind >= k.REDIS_UP && kind <= k.REDIS_UNSUBSCRIBED) this.#foreign?.refused(kind === k.REDIS_REPLY ? request : undefined)
      else if (kind === k.ASK || kind === k.CONTROL) this.#settleCommand(request, status, NOTHING)
      else if (kind === k.CLAIM || kind === k.CONFIRM || kind === k.LEAVE) this.#settleClaim(request, status, '')
    }
  }

  openSocket(socket: number, request: Uint8Array): void {
    this.#post(k.SOCKET_OPEN, { socket }, undefined, undefined, request)
  }

  /** A frame of the client; the socket is closed where the engine can't take it. */
  frame(socket: number, data: Uint8Array): void {
    this.#wakeSoon()
    this.#records.putFrame(SOCKET_FRAME, socket, data)
  }

  /** The client has sent something that was served here; to be told once in `aliveEvery` ms. */
  socketAlive(socket: number): void {
    this.#post(k.SOCKET_ALIVE, { socket })
  }

  socketClosed(socket: number): void {
    this.#post(k.SOCKET_CLOSE, { socket })
  }

  routeEnded(socket: number, address: string): void {
    this.#post(k.ROUTE_END, { socket }, undefined, Buffer.from(address))
  }

  routeState(socket: number, address: string, state: Uint8Array): void {
    this.#post(k.ROUTE_STATE, { socket }, undefined, Buffer.from(address), state)
  }

  proxyClosed(proxy: number, code: number, reason: string): void {
    this.#post(k.PROXY_CLOSE, { socket: proxy, code }, undefined, undefined, Buffer.from(reason))
  }

  /** A frame of Hocuspocus for a proxy socket; the same Uint8Array for many of them crosses once. */
  proxySend(proxy: number, data: Uint8Array): void {
    if (data !== this.#sendData) {
      this.#flushSends()
      this.#sendData = data
    }
    if (this.#sendCount === this.#sendProxies.length) this.#growSends()
    this.#sendProxies[this.#sendCount++] = proxy
    this.#wakeSoon()
  }

  #flushSends(): void {
    if (this.#sendData === undefined) return
    const [data, count] = [this.#sendData, this.#sendCount]
    this.#sendData = undefined
    this.#sendCount = 0
    this.#records.putForMany(PROXY_SEND, this.#sendProxies, count, data)
  }

  #growSends(): void {
    const larger = new Uint32Array(this.#sendProxies.length * 2)
    larger.set(this.#sendProxies)
    this.#sendProxies = larger
  }

  /** Resolves with the epoch when this server owns the document, and keeps it until `unuse`. */
  claim(documentName: string, use: Use): Promise<number> {
    return this.#askAbout(documentName, k.CLAIM, { code: USES[use] })
  }

  /** Resolves with the epoch when Redis has confirmed that this server owns the document. */
  async confirm(documentName: string): Promise<number> {
    for (let attempts = 0; attempts < 2; attempts++) {
      const asked = native.now()
      const epoch = await this.#askAbout(documentName, k.CONFIRM)
      // What Redis has said before this thread hung may not hold any more.
      if (native.now() - asked < this.options.lockTTL / 2) return epoch
    }
    throw new AffinityError('AFF_EREDIS', `document "${documentName}": Redis, or this thread, is too slow for the lockTTL`)
  }

  /**
   * Gives a document up, whatever it is used for; its routes move. Resolves when it is free: with true if it has been
   * this server's until then. `atOnce`: resolves when its routes have moved, whether Redis has been told or not.
   */
  leave(documentName: string, atOnce = false): Promise<boolean> {
    return wasOurs(this.#askAbout(documentName, k.LEAVE, { flag: atOnce }))
  }

  /** From here on this server claims nothing. */
  drain(): void {
    this.#post(k.DRAIN, {})
  }

  /** As leave(), and the document is another server's then, which learns of it from the first who has it open. */
  give(documentName: string, serverId: string, boot: string): Promise<boolean> {
    return wasOurs(this.#askAbout(documentName, k.LEAVE, { name: Buffer.from(serverId), data: Buffer.from(boot) }))
  }

  /** Says who shall have a document that nobody has: that server, or this one (while it drains: nobody). */
  place(documentName: string, target: { serverId: string; boot: string } | undefined): void {
    const { serverId = '', boot = '' } = target ?? {}
    this.#post(k.PLACE, {}, Buffer.from(documentName), Buffer.from(serverId), Buffer.from(boot))
  }

  #askAbout(documentName: string, kind: number, { name, data, ...fields }: Fields & { name?: Uint8Array; data?: Uint8Array } = {}): Promise<number> {
    if (this.#stopping) return Promise.reject(errorOf(-9, `document "${documentName}"`))
    return new Promise((resolve, reject) => {
      const request = ++this.#requests
      this.#claims.set(request, { what: documentName, resolve, reject })
      this.#post(kind, { ...fields, request }, Buffer.from(documentName), name, data)
    })
  }

  unuse(documentName: string, use: Use): void {
    this.#post(k.UNUSE, { code: USES[use] }, Buffer.from(documentName))
  }

  /** Finds the document's owner and has the event handled there, unless that is this server. */
  emit(name: string, documentName: string, payload: Uint8Array, onlyIfOpen: boolean, evenIfLeaving = false): Promise<EventOutcome> {
    if (this.#stopping) return Promise.reject(errorOf(-9, `event "${name}"`))
    return new Promise((resolve, reject) => {
      const request = ++this.#requests
      this.#events.set(request, { what: `event "${name}" for document "${documentName}"`, resolve, reject })
      this.#post(k.EMIT, { request, flag: onlyIfOpen, code: evenIfLeaving ? 1 : 0 }, Buffer.from(documentName), Buffer.from(name), payload)
    })
  }

  eventResult(token: number, ok: boolean, data: Uint8Array): void {
    this.#post(k.EVENT_RESULT, { request: token, status: ok ? 0 : -10 }, undefined, undefined, data)
  }

  /** Asks Redis something rare. Arrays of an answer are flat; a value is nil (null), a number or bytes. */
  command(...args: (string | Uint8Array)[]): Promise<RedisValue[]> {
    return this.#ask(args[0] as string, k.ASK, '', layOut(args))
  }

  /** A message for whoever listens to that channel, about which nothing is certain. Resolves with how many have got it. */
  async control(channel: string, message: Uint8Array): Promise<number> {
    const [count] = await this.#ask('a message to another server', k.CONTROL, channel, message)
    return typeof count === 'number' ? count : 1 // nobody can tell, in some Clusters
  }

  #ask(what: string, kind: number, name: string, data: Uint8Array): Promise<RedisValue[]> {
    if (this.#stopping) return Promise.reject(errorOf(-9, what))
    return new Promise((resolve, reject) => {
      const request = ++this.#requests
      this.#commands.set(request, { what, resolve, reject })
      this.#post(kind, { request }, undefined, Buffer.from(name), data)
    })
  }

  #settleCommand(request: number, status: number, data: Uint8Array): void {
    const pending = this.#commands.get(request)
    this.#commands.delete(request)
    if (status === 0) pending?.resolve(valuesIn(data))
    else pending?.reject(errorOf(status, data.length ? `${pending.what}: ${decode(data)}` : pending.what))
  }

  /** Leaves the cluster: frees the leases, says goodbye to the peers, closes the connections to Redis. */
  async stop(): Promise<void> {
    if (!this.#stopping) {
      this.#stopping = true
      this.#post(k.SHUTDOWN, {})
    }
    await this.#stopped
  }

  // ---- from the engine --------------------------------------------------------------------------------

  #onBlock(block: ArrayBuffer): void {
    const view = new DataView(block)
    const bytes = new Uint8Array(block)
    for (let at = 0; at < bytes.length; ) {
      const end = at + 4 + view.getUint32(at, true)
      try {
        this.#onRecord(bytes, view, at, end)
      } catch (error) {
        this.log.error('a message of the engine could not be handled', { error })
      }
      at = end
    }
    this.events.sent()
    this.#foreign?.flush()
    this.#root()
  }

  /** A frame for a client, or of one, is the common case; the layout is that of runtime/queue.h. */
  #onRecord(bytes: Uint8Array, view: DataView, at: number, end: number): void {
    const kind = view.getUint8(at + 4)
    const nameAt = at + HEADER + view.getUint32(at + 32, true)
    const dataAt = nameAt + view.getUint32(at + 36, true)
    if (kind === ON_SEND) {
      const message = new Message(bytes, dataAt, end)
      for (let next = nameAt; next < dataAt; next += 4) this.events.send(view.getUint32(next, true), message)
    } else if (kind === ON_PROXY_FRAME) {
      this.events.proxyFrame(view.getUint32(at + 8, true), bytes.subarray(dataAt, end))
    } else {
      const text = (from: number, to: number) => decode(bytes.subarray(from, to))
      this.#onNews(kind, view, at, text(at + HEADER, nameAt), text(nameAt, dataAt), bytes.subarray(dataAt, end))
    }
  }

  #onNews(kind: number, view: DataView, at: number, document: string, name: string, data: Uint8Array): void {
    const code = view.getUint16(at + 6, true)
    const socket = view.getUint32(at + 8, true)
    const status = view.getInt32(at + 12, true)
    const request = view.getFloat64(at + 16, true)
    const bytes = view.getFloat64(at + 24, true)
    const { events } = this
    switch (kind) {
      case k.ON_LOCAL:
        return events.local(socket, data)
      case k.ON_ROUTE:
        return events.route(socket, name, PLACES[status] ?? 'ended', request)
      case k.ON_SOCKET_CLOSE:
        return events.closeSocket(socket, code, decode(data))
      case k.ON_PROXY_OPEN:
        return events.openProxy(socket, name, data)
      case k.ON_PROXY_ALIVE:
        return events.proxyAlive(socket)
      case k.ON_PROXY_CLOSE:
        return events.closeProxy(socket, code, decode(data))
      case k.ON_CLAIMED:
        return this.#settleClaim(request, status, name, bytes)
      case k.ON_LOST:
        return events.lost(document)
      case k.ON_PLACE:
        return events.place(document)
      case k.ON_EVENT_RUN:
        return events.runEvent(request, name, document, data)
      case k.ON_EVENT_LOCAL:
        return this.#settleEvent(request, 0, undefined)
      case k.ON_EVENT_DONE:
        return this.#settleEvent(request, status, data)
      case k.ON_ANSWER:
        return this.#settleCommand(request, status, data)
      case k.ON_CONTROL:
        return events.control(name, data.slice())
      case k.ON_REDIS_COMMAND:
        return this.#foreign?.command(request, socket, data)
      case k.ON_REDIS_PUBLISH:
        return this.#foreign?.publish(request, socket, Buffer.from(name), data)
      case k.ON_REDIS_LISTEN:
        return this.#foreign?.listen(Buffer.from(name))
      case k.ON_PACK:
        return this.#onPack(request, name, data)
      case k.ON_UNPACK:
        return this.#onUnpack(data)
      case k.ON_READY:
        this.#isAwaited = false
        this.#isReady = true
        this.log.info('a member of the cluster', { topic: 'redis' })
        return this.#settleReady.resolve()
      case k.ON_FAILED:
        return this.#onFailed(status, decode(data))
      case k.ON_NEWS:
        return events.news(NEWS[status]!, { documentName: document || undefined, server: name || undefined, epoch: request || undefined })
      case k.ON_LOG:
        if (view.getUint8(at + 5)) this.#whyAway = decode(data)
        return this.#onLog(status, TOPICS[code], decode(data), { document, peer: name, epoch: request })
      case k.ON_STOPPED:
        return this.#finish()
    }
  }

  #onLog(level: number, topic: LogTopic | undefined, message: string, about: { document: string; peer: string; epoch: number }): void {
    const details = { topic, document: about.document || undefined, peer: about.peer || undefined, epoch: about.epoch || undefined }
    if (level > 0) this.log.warn(message, details)
    else this.log.debug(message, details)
  }

  #settleClaim(request: number, status: number, owner: string, epoch = 0): void {
    const pending = this.#claims.get(request)
    this.#claims.delete(request)
    if (!pending) return
    if (status === 0) return pending.resolve(epoch)
    const what = owner ? `document "${pending.what}" is owned by server "${owner}"` : `document "${pending.what}"`
    pending.reject(errorOf(status, what, owner || undefined))
  }

  #settleEvent(request: number, status: number, data: Uint8Array | undefined): void {
    const pending = this.#events.get(request)
    this.#events.delete(request)
    if (!pending) return
    const code = native.errors[status]?.[0]
    if (!data) pending.resolve({ here: true })
    else if (status === 0) pending.resolve({ here: false, open: true, result: data })
    else if (code === 'AFF_ENOTOPEN') pending.resolve({ here: false, open: false })
    else if (code === 'AFF_EEVENT') pending.reject(new RemoteFailure(data))
    else pending.reject(errorOf(status, pending.what))
  }

  #onPack(request: number, channel: string, data: Uint8Array): void {
    let bytes: Uint8Array = new Uint8Array() // what can't be packed is as good as lost on its way: sent again
    try {
      bytes = bytesOf(this.options.pack!({ type: 'batch', channel, data: data.slice() }))
    } catch (error) {
      this.log.warn(`a message could not be packed: ${(error as Error)?.message ?? error}`, { topic: 'links' })
    }
    this.#post(k.PACKED, { request }, undefined, Buffer.from(channel), bytes)
  }

  #onUnpack(data: Uint8Array): void {
    let message: RSAMessage
    try {
      message = this.options.unpack!(Buffer.from(data))
    } catch (error) {
      return this.log.warn(`a message could not be unpacked: ${(error as Error)?.message ?? error}`, { topic: 'links' })
    }
    if (message?.type === 'batch' && message.data instanceof Uint8Array) {
      this.#post(k.UNPACKED, {}, undefined, undefined, message.data)
    } else {
      this.log.warn('a message of an unknown kind was dropped', { topic: 'links' })
    }
  }

  #onFailed(status: number, text: string): void {
    const [code] = native.errors[status] ?? ['AFF_EUNKNOWN']
    const error = new AffinityError(code, `RedisServerAffinity: ${text}`)
    this.log.error(text, { topic: 'redis', error }, this.#isPrinted && !this.#isReady)
    this.#settleReady.reject(error)
    this.#finish()
    this.events.failed(error)
  }

  /** Nothing more will come: everyone who waits is told, and the thread ends. */
  #finish(): void {
    this.#stopping = true
    this.#finished = true
    const closed = (what: string) => errorOf(-9, what)
    this.#settleReady.reject(closed('RedisServerAffinity'))
    const waiting = [...this.#claims.values(), ...this.#events.values(), ...this.#commands.values()]
    for (const pending of waiting) pending.reject(closed(pending.what))
    this.#claims.clear()
    this.#events.clear()
    this.#commands.clear()
    clearInterval(this.#heartbeat)
    this.#foreign?.close()
    this.#root()
    // Not here: this runs inside a call of the engine's.
    setImmediate(() => {
      this.#lastMetrics = native.metrics(this.#handle)
      native.close(this.#handle)
      this.#onStopped()
    })
  }
}
