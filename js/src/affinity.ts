import { EventEmitter } from 'node:events'
// Its one declaration file says that it is of an ES module: ours for CommonJS has to ask for it as such.
import type {
  Document,
  Extension,
  Hocuspocus,
  afterLoadDocumentPayload,
  afterStoreDocumentPayload,
  afterUnloadDocumentPayload,
  beforeUnloadDocumentPayload,
  onConfigurePayload,
  onConnectPayload,
  onDisconnectPayload,
  onLoadDocumentPayload,
  onStoreDocumentPayload,
} from '@hocuspocus/server' with { 'resolution-mode': 'import' }
import { version } from '../addon.cjs'
import { adapterOf } from './adapter.js'
import { LazyConnection } from './connection.js'
import { Control, type DocumentInfo, type DocumentList, type DrainState, type Moved } from './control.js'
import { Directory, type ServerInfo, type ServerState } from './directory.js'
import { Documents } from './documents.js'
import { Drain } from './drain.js'
import { Engine, type EngineEvents, type News, type NewsKind, RemoteFailure } from './engine.js'
import { AffinityError } from './errors.js'
import { type MetricsTarget, exportMetrics } from './exporters.js'
import { documentOf } from './frames.js'
import { HandOvers, LATE_MERGE_EVENT, MERGE_EVENT, OPEN_EVENT } from './handover.js'
import { type Health, healthOf } from './health.js'
import { Heartbeat } from './heartbeat.js'
import { type Adapter, type HocuspocusConnection, type Receiver, type SocketForHocuspocus, skipFurtherHooks } from './hocuspocus.js'
import { type EventOutcomeName, Measures, type Metrics, readMetrics } from './metrics.js'
import { Moves } from './move.js'
import { native, type NativeMetrics } from './native.js'
import { Openings } from './openings.js'
import { type Configuration, type CustomEvents, type Options, readOptions } from './options.js'
import { PayloadCodec, packValue, unpackValue } from './payload.js'
import { Candidates, Placements } from './placement.js'
import { ProxySocket } from './proxy.js'
import { type Rebalanced, type RebalanceSettings, Rebalancing } from './rebalance.js'
import { Reloads } from './reload.js'
import { type NativeRequest, type SerializedHTTPRequest, isNative, serializeRequest } from './request.js'
import { ClientSocket, type SocketHost } from './socket.js'
import { within } from './time.js'
import { type BaseWebSocket, closeSocket } from './websocket.js'

const RETRY_STORE_MS = 500
/** What hand-overs that are under way may take at the end. */
const FLUSH_MS = 1000
const MAX_NAME = 65_535
const MAX_LISTED = 10_000
const MAX_PAYLOAD = 64 * 1024 * 1024

/** A call of handleEvent: how has it ended, or would it if nothing more happened? */
interface EventCall {
  outcome: EventOutcomeName
}

/**
 * Puts each document on exactly one server of a cluster, and makes every other server a proxy to it.
 *
 * With Hocuspocus's own `Server` nothing more is needed than to list it among the extensions. With another
 * WebSocket server, call `onSocketOpen`, `onSocketMessage` and `onSocketClose` from its events.
 */
export class RedisServerAffinity<TCE extends CustomEvents = CustomEvents> implements Extension {
  readonly extensionName = 'RedisServerAffinity'
  /** Before any extension that loads or stores documents. */
  readonly priority = 1000

  readonly #options: Options
  readonly #payloads: PayloadCodec
  #engine: Engine | undefined
  #host!: SocketHost
  #documents!: Documents
  #handOvers!: HandOvers
  #directory!: Directory
  #control!: Control
  #placements!: Placements
  #moves: Moves | undefined
  readonly #measures = new Measures()
  #failure: AffinityError | undefined
  #reloads = new Reloads(
    (document) => this.#storeNow(document),
    (document, loaded) => this.#adapter!.merge(document, loaded),
  )
  readonly #openings = new Openings()
  #storesLater = new WeakSet<Document>()
  #instance: Hocuspocus | undefined
  #adapter: Adapter | undefined
  #heartbeat: Heartbeat | undefined
  #drain: Drain | undefined
  #drained: Promise<void> | undefined
  #destroyed: Promise<void> | undefined

  #sockets = new Map<number, ClientSocket>()
  /** To be flushed. */
  #gathering: ClientSocket[] = []
  #byWebSocket = new Map<BaseWebSocket, ClientSocket>()
  #byKey = new Map<string, ClientSocket>()
  /** Sockets refused because another one with their key is open; their close events are still to come. */
  #refusedKeys = new Map<string, number>()
  #proxies = new Map<number, ProxySocket>()
  #lastSocket = 0
  #news = new EventEmitter()
  #failClosedTimer: NodeJS.Timeout | undefined
  #rebalanceTimer: NodeJS.Timeout | undefined
  #wasMember = false
  #isEvicting = false

  /** @throws AffinityError `AFF_EINVAL`: an option is not valid; the message names it. */
  constructor(configuration: Configuration<TCE>) {
    this.#options = readOptions(configuration)
    this.#payloads = new PayloadCodec(this.#options)
  }

  /** This server's name in the cluster. */
  get serverId(): string {
    return this.#options.serverId
  }

  /**
   * Resolves when this server is a member of the cluster and listens to its peers.
   *
   * @throws AffinityError `AFF_EREFUSED` (Redis refused the credentials or the database), `AFF_ETAKEN` (the
   *   serverId is in use), `AFF_EINVAL` (an option that only the engine can check), `AFF_ECLOSED`
   */
  async ready(): Promise<void> {
    await this.#start().ready()
  }

  /** Counters since the start and gauges of the engine. */
  stats(): Record<string, number> {
    return this.#start().stats()
  }

  /** Everything that is counted and measured here; docs/metrics.md explains it. It starts nothing. */
  metrics(): Metrics {
    const engine = this.#engineMetrics()
    return readMetrics({
      serverId: this.serverId,
      engine,
      health: this.#healthWith(engine),
      measures: this.#measures,
      handOvers: this.#handOvers?.count ?? 0,
    })
  }

  /**
   * Has the metrics read by a registry of prom-client or a meter of OpenTelemetry's API, whenever these collect.
   *
   * @returns ends that
   * @throws AffinityError `AFF_EINVAL`: it is neither, or has metrics of these names
   */
  registerMetrics(target: MetricsTarget): () => void {
    return exportMetrics(target, () => this.metrics())
  }

  /** How this server is, for probes; it asks nobody and starts nothing. */
  health(): Health {
    return this.#healthWith(this.#engineMetrics())
  }

  #engineMetrics(): NativeMetrics {
    return this.#engine?.metrics() ?? native.metrics(null)
  }

  #healthWith(engine: NativeMetrics): Health {
    return healthOf({
      hasJoined: this.#engine?.hasJoined ?? false,
      failure: this.#failure,
      isClosed: this.#destroyed !== undefined,
      isDraining: this.#drain !== undefined,
      failClosed: this.#options.failClosed,
      membershipMs: this.#engine?.membershipMs ?? 0,
      whyAway: this.#engine?.whyAway,
      engine,
    })
  }

  // ---- The cluster ------------------------------------------------------------------------------------

  /**
   * The servers of the cluster, this one included, by name; with those that have gone without a word in the last ten
   * minutes. Each tells of itself every third of lockTTL.
   *
   * @throws AffinityError `AFF_EREDIS`, `AFF_ECLOSED`
   */
  async servers(): Promise<ServerInfo[]> {
    this.#start()
    return this.#directory.servers()
  }

  /**
   * Documents that a server owns and has open, this one by default, those with most clients first.
   *
   * @param prefix only names that begin so
   * @param limit at most so many, 1 to 10,000; `total` counts all
   * @throws AffinityError `AFF_EINVAL` (no such server, or a limit beyond its range), `AFF_ETIMEOUT` (it does not
   *   answer), `AFF_EREDIS`, `AFF_ECLOSED`
   */
  async documents(serverId = this.serverId, { prefix = '', limit = 1000 }: { prefix?: string; limit?: number } = {}): Promise<DocumentList> {
    this.#start()
    if (serverId === this.serverId) return this.#listDocuments(prefix, limit)
    return this.#control.ask(serverId, 'documents', { prefix, limit })
  }

  /**
   * Moves an open document to another server. Its clients stay connected where they are; they pause for some
   * milliseconds, and nothing that they have written is lost. May be called on any server.
   *
   * @returns who had it, and who has it now
   * @throws AffinityError `AFF_EINVAL` (no such server, or one that is draining; or the document is locked by
   *   lockDocument), `AFF_ENOTOPEN` (nobody has it open), `AFF_ETIMEOUT` (its owner does not answer), `AFF_EREDIS`,
   *   `AFF_ENOTCONN` (it stays, or the next owner is found as after any loss), `AFF_ECLOSED`
   */
  async move(documentName: string, serverId: string): Promise<Moved> {
    checkName(documentName)
    this.#start()
    const from = await this.#directory.ownerOf(documentName)
    if (from === undefined) throw new AffinityError('AFF_ENOTOPEN', `document "${documentName}" is open on no server`)
    if (from === serverId) return { from, to: from }
    if (from !== this.serverId) return this.#control.ask(from, 'move', { document: documentName, to: serverId })
    return this.#moveHere(documentName, serverId)
  }

  async #moveHere(documentName: string, serverId: string): Promise<Moved> {
    if (!this.#moves || this.#drain) throw new AffinityError('AFF_EINVAL', `server "${this.serverId}" is draining, or has no Hocuspocus`)
    await this.#moves.move(documentName, serverId)
    const to = await this.#directory.ownerOf(documentName)
    await this.#handOvers.taken(documentName) // also: who has it now hears of it, though it may have no client
    return { from: this.serverId, to }
  }

  #listDocuments(prefix: unknown, limit: unknown): DocumentList {
    if (typeof prefix !== 'string') throw new AffinityError('AFF_EINVAL', 'prefix: must be a string')
    if (!Number.isInteger(limit) || (limit as number) < 1 || (limit as number) > MAX_LISTED) {
      throw new AffinityError('AFF_EINVAL', `limit: must be an integer from 1 to ${MAX_LISTED}`)
    }
    const documents = this.#documentsHere(prefix).sort((a, b) => b.clients - a.clients || (a.name < b.name ? -1 : 1))
    return { total: documents.length, documents: documents.slice(0, limit as number) }
  }

  /** Those that this server owns and has open. */
  #documentsHere(prefix: string): DocumentInfo[] {
    const documents: DocumentInfo[] = []
    for (const document of this.#instance?.documents.values() ?? []) {
      const epoch = this.#documents.epochOf(document.name)
      if (epoch === undefined || !document.name.startsWith(prefix)) continue
      const from: Record<string, number> = {}
      for (const { webSocket } of document.getConnections()) {
        const origin = (webSocket as unknown) instanceof ProxySocket ? (webSocket as unknown as ProxySocket).origin : this.serverId
        from[origin] = (from[origin] ?? 0) + 1
      }
      const clients = Object.values(from).reduce((sum, count) => sum + count, 0)
      documents.push({ name: document.name, epoch, clients, from })
    }
    return documents
  }

  /** An operator's drain: it goes on, and the next question tells how far it is. */
  #drainInBackground(): DrainState {
    if (!this.#instance) throw new AffinityError('AFF_EINVAL', 'this server has no Hocuspocus: it has nothing to drain')
    const documents = this.#documentsHere('')
    this.drain().catch((error) => this.#options.log.error('draining failed', { topic: 'documents', error }))
    const clients = documents.reduce((sum, { clients }) => sum + clients, 0)
    const { isDone, unstored } = this.#drain!
    return { documents: documents.length, clients, sockets: this.#sockets.size, done: isDone, unstored }
  }

  /** Lists this server once it is a member. */
  #tellOfItself(): void {
    const self = new WeakRef(this)
    const every = Math.max(100, this.#options.lockTTL / 3)
    const begin = () => {
      const affinity = self.deref()
      if (affinity) affinity.#directory.begin(every, () => affinity.#serverState())
    }
    this.#engine!.joined.then(begin, () => {}) // a failure is told elsewhere
  }

  #serverState(): ServerState {
    const { framesIn, framesOut, documentsOwned, proxies } = this.#engineMetrics()
    return { draining: this.#drain !== undefined, documents: documentsOwned, sockets: this.#sockets.size, proxies, framesIn, framesOut }
  }

  // ---- Documents --------------------------------------------------------------------------------------

  /**
   * Locks a document to this server, open or not, until the returned function is called.
   *
   * @throws AffinityError `AFF_EOWNED` (its `owner` has the document), `AFF_EREDIS`, `AFF_EINVAL`, `AFF_ECLOSED`
   */
  async lockDocument(documentName: string): Promise<() => Promise<void>> {
    checkName(documentName)
    this.#start()
    return this.#documents.hold(documentName)
  }

  /** Ends all holds that `lockDocument` gave this server on a document. Others (it is open, say) stay. */
  async releaseLock(documentName: string): Promise<void> {
    checkName(documentName)
    this.#start()
    this.#documents.releaseHolds(documentName)
  }

  /**
   * Has a custom event handled by the server that owns the document; by this one if nobody does.
   *
   * @param onlyIfOpen handle it only where the document is owned already; else resolve with undefined
   * @returns what the handler returned
   * @throws what the handler threw: its message, name and code; AffinityError `AFF_EEVENT` (no such event at the
   *   owner), `AFF_ETIMEOUT` (no reply within customEventTTL), `AFF_EINVAL`, `AFF_ECLOSED`
   */
  async handleEvent<TName extends keyof TCE & string>(
    eventName: TName,
    documentName: string,
    payload: Parameters<TCE[TName]>[1],
    onlyIfOpen = false,
  ): Promise<Awaited<ReturnType<TCE[TName]>>> {
    checkName(documentName)
    this.#start()
    const call: EventCall = { outcome: 'failed' }
    const started = performance.now()
    try {
      return await this.#haveHandled(call, eventName, documentName, payload, onlyIfOpen)
    } finally {
      this.#measures.events[call.outcome].observe(performance.now() - started)
    }
  }

  // biome-ignore lint/suspicious/noExplicitAny: the handler's own type
  async #haveHandled(call: EventCall, eventName: string, documentName: string, payload: unknown, onlyIfOpen: boolean): Promise<any> {
    const engine = this.#engine!
    if (this.#documents.isLoaded(documentName)) {
      const use = engine.claim(documentName, 'event')
      const ended = use.then(() => () => engine.unuse(documentName, 'event')).catch(() => () => {})
      return this.#runHere(call, eventName, documentName, payload).finally(async () => (await ended)())
    }
    const packed = this.#payloads.pack({ type: 'event', payload })
    if (packed.length > MAX_PAYLOAD) {
      throw new AffinityError('AFF_EINVAL', `event "${eventName}": the payload has ${packed.length} bytes, at most ${MAX_PAYLOAD} are allowed`)
    }
    const outcome = await engine.emit(eventName, documentName, packed, onlyIfOpen).catch((error) => {
      if (error instanceof RemoteFailure) call.outcome = 'threw'
      else if ((error as AffinityError).code === 'AFF_ETIMEOUT') call.outcome = 'timeout'
      throw error instanceof RemoteFailure ? this.#payloads.unpackError(error.data) : error
    })
    if (outcome.here) {
      return this.#runHere(call, eventName, documentName, payload).finally(() => engine.unuse(documentName, 'event'))
    }
    const result = outcome.open ? this.#payloads.unpack(outcome.result) : undefined
    call.outcome = 'ok'
    return result?.type === 'result' ? result.payload : undefined
  }

  // biome-ignore lint/suspicious/noExplicitAny: the handler's own type
  async #runHere(call: EventCall, name: string, documentName: string, payload: unknown): Promise<any> {
    call.outcome = 'threw'
    const result = await this.#runEvent(name, documentName, payload)
    call.outcome = 'ok'
    return result
  }

  // biome-ignore lint/suspicious/noExplicitAny: the handler's own type
  async #runEvent(name: string, documentName: string, payload: unknown): Promise<any> {
    const handler = this.#options.customEvents.get(name)
    if (!handler) throw new AffinityError('AFF_EEVENT', `unknown custom event "${name}" on server "${this.serverId}"`)
    return handler(documentName, payload)
  }

  /**
   * The epoch under which this server owns a document: it grows with every change of owner, for good. Give it to
   * your database, and let that refuse older ones (`WHERE epoch <= $1`): then a late write of a former owner can't
   * overwrite a newer state. Undefined where the document is neither loaded nor locked here.
   */
  fencingToken(documentName: string): number | undefined {
    checkName(documentName)
    return this.#documents?.epochOf(documentName)
  }

  /**
   * Resolves if this server owns the document, loaded or locked, and Redis confirms it now.
   *
   * @throws AffinityError `AFF_EOWNED`, `AFF_EREDIS`, `AFF_EINVAL`, `AFF_ECLOSED`
   */
  async assertOwner(documentName: string): Promise<void> {
    if (this.fencingToken(documentName) === undefined) {
      throw new AffinityError('AFF_EOWNED', `document "${documentName}" is not owned by this server ("${this.serverId}")`)
    }
    await this.#documents.confirm(documentName)
  }

  /**
   * Tells of `owned`, `lost`, `takeover` (a document), `resync`, `serverUp`, `serverDown` (another server), as they
   * happen: for logs and metrics. `failed`: this server is out of the cluster for good (another process has taken its
   * serverId while it was cut off, or memory ran out). Its sockets are closed; end the process, and start it again.
   */
  on(event: NewsKind, listener: (news: News) => void): this {
    this.#news.on(event, listener)
    return this
  }

  off(event: NewsKind, listener: (news: News) => void): this {
    this.#news.off(event, listener)
    return this
  }

  // ---- WebSocket server hooks -------------------------------------------------------------------------

  /**
   * Registers a client's socket.
   *
   * @param context what Hocuspocus's hooks get as their initial context; it crosses to other servers with the
   *   request, so it must be plain data
   */
  onSocketOpen(ws: BaseWebSocket, serializedHTTPRequest: SerializedHTTPRequest, context?: unknown): void {
    const key = headerOf(serializedHTTPRequest, 'sec-websocket-key')
    if (key !== undefined && this.#byKey.has(key)) {
      this.#refusedKeys.set(key, (this.#refusedKeys.get(key) ?? 0) + 1)
      closeSocket(ws, 1008, 'duplicate sec-websocket-key')
      return
    }
    const client = this.#addSocket(ws, serializedHTTPRequest, serializedHTTPRequest, context)
    this.#byWebSocket.set(ws, client)
    if (key !== undefined) this.#byKey.set(key, client)
  }

  /**
   * Handles a client's message: an ArrayBuffer that holds it and nothing else, or a view of it. Its memory may
   * be detached or reused after the call.
   */
  onSocketMessage(
    ws: BaseWebSocket,
    _serializedHTTPRequest: SerializedHTTPRequest,
    detachableMsg: ArrayBuffer | Uint8Array,
  ): void {
    const data = detachableMsg instanceof Uint8Array ? detachableMsg : new Uint8Array(detachableMsg)
    this.#byWebSocket.get(ws)?.receive(data, true)
  }

  /**
   * Ends a client's socket.
   *
   * @param socketId the request's `sec-websocket-key`; or, where there is none (HTTP/2), the socket itself
   */
  onSocketClose(socketId: string | BaseWebSocket, code?: number, reason?: ArrayBuffer): void {
    const refused = typeof socketId === 'string' ? this.#refusedKeys.get(socketId) : undefined
    if (refused !== undefined) {
      if (refused > 1) this.#refusedKeys.set(socketId as string, refused - 1)
      else this.#refusedKeys.delete(socketId as string)
      return
    }
    const client = typeof socketId === 'string' ? this.#byKey.get(socketId) : this.#byWebSocket.get(socketId)
    if (!client) return
    const key = typeof socketId === 'string' ? socketId : headerOf(client.request as SerializedHTTPRequest, 'sec-websocket-key')
    this.#byWebSocket.delete(client.ws)
    if (key !== undefined) this.#byKey.delete(key)
    this.#sockets.delete(client.id)
    client.closed(code === undefined ? undefined : { code, reason: reason ? Buffer.from(reason).toString() : '' })
  }

  /** @param kept what the socket keeps of the request: a connection of the Hocuspocus here gets it */
  #addSocket(ws: BaseWebSocket, request: SerializedHTTPRequest, kept: SerializedHTTPRequest | NativeRequest, context: unknown): ClientSocket {
    const engine = this.#start()
    const isOut = engine.isClosed || (this.#options.failClosed && !engine.isMember())
    const id = ++this.#lastSocket
    const client = new ClientSocket(id, ws, kept, context, this.#host)
    if (isOut) setImmediate(() => client.close(1013, 'Try Again Later'))
    this.#sockets.set(id, client)
    this.#heartbeat?.add(client)
    engine.openSocket(id, packValue({ request, context: this.#options.deriveContext ? undefined : (context ?? {}) }))
    return client
  }

  #connectClient(client: ClientSocket, socket: SocketForHocuspocus): LazyConnection {
    if (client.context === undefined) client.context = {}
    const { request, context } = client
    const open = () => {
      if (!isNative(request)) return this.#connectWithContext(socket, request, context)
      return this.#connectWithContext(socket, serializeRequest(request, request.socket?.remoteAddress), context, request)
    }
    return new LazyConnection(socket, open, this.#options.log)
  }

  #connectWithContext(
    socket: SocketForHocuspocus,
    serialized: SerializedHTTPRequest,
    context: unknown,
    request?: NativeRequest,
  ): HocuspocusConnection | Promise<HocuspocusConnection> {
    const open = (value: unknown) => {
      const adapter = this.#adapterOrThrow()
      return adapter.connect(socket, request ?? adapter.requestOf(serialized), value)
    }
    const derive = this.#options.deriveContext
    if (!derive) return open(context)
    const derived = derive(serialized)
    return derived instanceof Promise ? derived.then(open) : open(derived)
  }

  #adapterOrThrow(): Adapter {
    if (!this.#adapter) {
      throw new AffinityError('AFF_EINVAL', 'RedisServerAffinity is not among the extensions of a Hocuspocus')
    }
    return this.#adapter
  }

  // ---- Hocuspocus hooks -------------------------------------------------------------------------------

  /** Takes its place between Hocuspocus and its sockets. */
  async onConfigure({ instance }: Pick<onConfigurePayload, 'instance'>): Promise<void> {
    if (this.#instance === instance || this.#destroyed) return
    if (this.#instance) throw new AffinityError('AFF_EINVAL', 'one RedisServerAffinity serves one Hocuspocus')
    this.#instance = instance
    this.#adapter = adapterOf(instance)
    this.#adapter.intercept((...args) => this.#accept(...args))
    if (this.#adapter.pings) this.#heartbeat = new Heartbeat(instance.configuration.timeout)
    this.#wrap(instance)
    this.#start()
    this.#handOvers.serve(instance)
    const evict = (name: string, handOver: boolean) => this.#evict(name, handOver)
    this.#moves = new Moves(instance, this.#engine!, this.#documents, this.#directory, evict)
  }

  /** Makes Hocuspocus act on instances where it acts on names, and drain where it would send clients away. */
  #wrap(instance: Hocuspocus): void {
    const unloadDocument = instance.unloadDocument.bind(instance)
    instance.unloadDocument = async (document) => {
      const isKept = this.#storesLater.has(document) || this.#isEnding(document)
      if (isKept && !this.#documents.isLost(document)) return
      if (instance.documents.get(document.name) === document) return unloadDocument(document)
      if (!this.#documents.isLost(document) && !document.isDestroyed) return unloadDocument(document)
    }
    const createDocument = instance.createDocument.bind(instance)
    instance.createDocument = async (...args) => {
      const [documentName, , , connectionConfig] = args
      try {
        for (;;) {
          this.#openings.check(documentName, connectionConfig)
          const document = await createDocument(...args)
          // What was lost while it was being loaded is nobody's: who has come since waits for the next load.
          const isLost = this.#documents?.isLost(document)
          if (isLost && instance.documents.get(documentName) === document) instance.documents.delete(documentName)
          if (!isLost) return this.#opened(document, connectionConfig)
        }
      } finally {
        this.#openings.ended(connectionConfig)
      }
    }
    // One slot of the debouncer serves all instances of a name: a lost one must not take it from the present one.
    const storeDocumentHooks = instance.storeDocumentHooks.bind(instance)
    instance.storeDocumentHooks = (document, payload, immediately) =>
      this.#documents?.isLost(document) ? Promise.resolve() : storeDocumentHooks(document, payload, immediately)
    // Server.destroy() closes all connections before it waits for the documents: they move instead.
    const closeConnections = instance.closeConnections.bind(instance)
    instance.closeConnections = (documentName) => {
      if (documentName !== undefined || this.#destroyed) return closeConnections(documentName)
      void this.drain()
        .catch((error) => this.#options.log.error('draining failed', { topic: 'documents', error }))
        .finally(() => closeConnections())
    }
  }

  /** @throws where whoever has opened it may not have it any more; then perhaps nobody wants it */
  #opened(document: Document, connectionConfig: object): Document {
    try {
      this.#openings.check(document.name, connectionConfig)
      return document
    } catch (error) {
      if (document.getConnectionsCount() === 0) void this.#instance?.unloadDocument(document)
      throw error
    }
  }

  /** Does the document go to another server, stored or not? */
  #isEnding(document: Document): boolean {
    return (this.#drain?.isEnding(document) || this.#moves?.isEnding(document)) ?? false
  }

  /** A socket of Hocuspocus's own wiring. */
  #accept(ws: BaseWebSocket, request: NativeRequest, serialized: SerializedHTTPRequest, context: unknown): Receiver {
    const client = this.#addSocket(ws, serialized, request, context)
    return {
      receive: (data) => client.receive(data),
      closed: (event) => {
        this.#sockets.delete(client.id)
        client.closed(event)
      },
    }
  }

  /** `Server.listen()` resolves only once this server is a member. */
  async onListen(): Promise<void> {
    await this.#start().ready(true) // Hocuspocus prints what its hooks reject with
  }

  /** A client begins to open a document. */
  async onConnect({ connectionConfig }: Pick<onConnectPayload, 'connectionConfig'>): Promise<void> {
    this.#openings.begins(connectionConfig)
  }

  /** Claims the document, or rejects the load with an error that names the owner. */
  async onLoadDocument(payload: onLoadDocumentPayload): Promise<void> {
    const { document, instance } = payload
    if (!document.isLoading || this.#documents?.isTracked(document)) return // again: see Reloads
    this.#start()
    this.#reloads.loading(payload, await this.#documents.load(instance, document))
  }

  async afterLoadDocument({ document }: Pick<afterLoadDocumentPayload, 'document'>): Promise<void> {
    this.#documents.watchChanges(document)
  }

  /** Redis is asked before each store: what this server has lost is not stored. */
  async onStoreDocument(payload: onStoreDocumentPayload): Promise<void> {
    const { document, documentName } = payload
    const notOurs = () => skipFurtherHooks(`document "${documentName}" is owned by another server now`)
    if (this.#documents.isLost(document)) throw notOurs()
    if (this.#drain && !(await this.#drain.turns.wait(document))) throw notOurs()
    try {
      this.#start()
      // Redis is asked last: a load may have taken long.
      while (await this.#reloads.whole(document, await this.#confirmStore(documentName)));
    } catch (error) {
      if ((error as AffinityError).code === 'AFF_EOWNED' || this.#documents.isLost(document)) throw notOurs()
      this.#storeLater(payload)
      throw error
    }
    if (this.#documents.isLost(document)) throw notOurs()
    this.#documents.storing(document)
  }

  async #confirmStore(documentName: string): Promise<number> {
    const { confirmed, refused, unavailable } = this.#measures.stores
    const started = performance.now()
    try {
      const epoch = await this.#documents.confirm(documentName)
      confirmed.observe(performance.now() - started)
      return epoch
    } catch (error) {
      const isLost = (error as AffinityError).code === 'AFF_EOWNED'
      const result = isLost ? refused : unavailable
      result.observe(performance.now() - started)
      throw error
    }
  }

  /** Redis can't say whose the document is: it stays in memory, and is stored when Redis can. */
  #storeLater(payload: onStoreDocumentPayload): void {
    const { document } = payload
    if (this.#storesLater.has(document)) return
    this.#storesLater.add(document)
    this.#options.log.debug(`Redis can't say whose document "${document.name}" is: it is stored later`, { topic: 'documents', document: document.name })
    const again = () => {
      this.#storesLater.delete(document)
      if (!this.#engine!.isClosed && !document.isDestroyed) this.#store(document, payload)
    }
    setTimeout(again, RETRY_STORE_MS).unref()
  }

  async afterStoreDocument({ document }: Pick<afterStoreDocumentPayload, 'document'>): Promise<void> {
    this.#documents.stored(document)
  }

  /**
   * A store may have ended after another server had taken the document over, and loaded it without that: then this
   * instance is still needed. So it goes once Redis has said, after the last store, that the document is ours; but not
   * under a new epoch, before it has been loaded again and stored, nor while a drain is about to hand it over.
   */
  async beforeUnloadDocument({ instance, document, documentName }: beforeUnloadDocumentPayload): Promise<void> {
    if (!this.#documents?.wasStored(document) || this.#documents.isLost(document)) return
    try {
      await this.#documents.confirm(documentName)
    } catch (error) {
      const { code } = error as AffinityError
      if (code === 'AFF_ECLOSED') return
      const again = () => void instance.unloadDocument(document)
      if (code !== 'AFF_EOWNED') setTimeout(again, RETRY_STORE_MS).unref()
      throw skipFurtherHooks()
    }
    if (this.#reloads.isUnderWay(document) || this.#isEnding(document)) throw skipFurtherHooks()
  }

  /** Ends the document's use: its lease is released with the last one. */
  async afterUnloadDocument({ documentName }: Pick<afterUnloadDocumentPayload, 'documentName'>): Promise<void> {
    this.#documents?.sweep(documentName)
  }

  /** Nothing is left to do: routes end with the frames that close them, sockets with their close events. */
  async onDisconnect(_payload: Pick<onDisconnectPayload, 'requestHeaders'>): Promise<void> {}

  /**
   * Hands every document of this server on: it is stored, its lease is freed, and its clients, wherever they are
   * connected, go on at its next owner. From the call on this server claims nothing any more. Done by
   * `Server.destroy()` too; call it before a process ends otherwise.
   */
  async drain(): Promise<void> {
    const instance = this.#instance
    if (!instance || !this.#engine) return
    const evict = (name: string, handOver: boolean) => this.#evict(name, handOver)
    this.#drain ??= new Drain(instance, this.#engine, this.#documents, this.#handOvers, evict, this.#options.drainTimeout)
    this.#drained ??= this.#drain.run()
    this.#directory.tell()
    await this.#drained
  }

  /** Leaves the cluster: leases are freed, proxy sockets closed, and the connections to Redis end. */
  async onDestroy(): Promise<void> {
    this.#destroyed ??= this.#destroy()
    await this.#destroyed
  }

  async #destroy(): Promise<void> {
    clearInterval(this.#failClosedTimer)
    clearInterval(this.#rebalanceTimer)
    await this.#drained
    if (this.#engine && !this.#engine.isClosed) await within(FLUSH_MS, this.#handOvers.settled())
    if (this.#engine?.isMember()) await within(FLUSH_MS, this.#directory.leave())
    this.#control?.close()
    await this.#engine?.stop()
    for (const proxy of [...this.#proxies.values()]) proxy.closed(1001, 'server is going away')
    // Nothing serves them any more: their clients connect to another server.
    for (const client of [...this.#sockets.values()]) client.close(1012, 'Service Restart')
    this.#adapter?.release()
    this.#heartbeat?.stop()
    this.#options.redis.disconnect()
  }

  // ---- The engine -------------------------------------------------------------------------------------

  #start(): Engine {
    if (this.#engine) return this.#engine
    if (this.#destroyed) throw new AffinityError('AFF_ECLOSED', 'RedisServerAffinity: the instance is closed')
    // Owners hear of a client that is busy elsewhere well within Hocuspocus's idle time-out.
    const timeout = this.#instance?.configuration.timeout ?? 60_000
    const aliveEvery = Math.max(50, Math.min(15_000, Math.floor(timeout / 4)))
    this.#engine = new Engine(this.#options, aliveEvery, this.#events)
    this.#host = { engine: this.#engine, connect: (client, socket) => this.#connectClient(client, socket) }
    this.#documents = new Documents(this.#engine)
    this.#handOvers = new HandOvers(this.#engine, this.#documents)
    const { prefix } = this.#options
    const self = { serverId: this.serverId, region: this.#options.region, version }
    this.#directory = new Directory(this.#engine, prefix, self)
    const candidates = new Candidates(this.#directory, self)
    this.#placements = new Placements(this.#options.placement, candidates, this.#directory, this.serverId, this.#options.log)
    if (this.#options.rebalance) this.#rebalance(this.#options.rebalance, candidates)
    this.#control = new Control(this.#engine, this.#directory, this.serverId, {
      documents: ({ prefix = '', limit = 1000 }) => this.#listDocuments(prefix, limit),
      drain: () => this.#drainInBackground(),
      move: ({ document, to }) => {
        checkName(document)
        return this.#moveHere(document, String(to))
      },
    })
    this.#tellOfItself()
    if (this.#options.failClosed) this.#watchMembership()
    return this.#engine
  }

  #rebalance(settings: RebalanceSettings, candidates: Candidates): void {
    const rebalancing = new Rebalancing(settings, this.serverId, candidates, this.#options.log)
    const self = new WeakRef(this) // as in Engine: a timer keeps nothing
    const timer = setInterval(() => {
      const affinity = self.deref()
      if (!affinity || affinity.#drain) clearInterval(timer)
      else if (affinity.#engine!.isMember()) void rebalancing.run(affinity.#rebalanced())
    }, settings.every)
    this.#rebalanceTimer = timer.unref()
  }

  #rebalanced(): Rebalanced {
    return {
      documents: () => this.#documentsHere(''),
      isHeld: (name) => this.#documents.isHeld(name),
      since: (name) => this.#since(name),
      move: (name, to) => this.#moveHere(name, to),
    }
  }

  #since(name: string): { here: number; changed: number } | undefined {
    const document = this.#documents.instanceOf(name)
    return document && this.#documents.since(document)
  }

  /** `failClosed`: past the membership's deadline nobody is served, until Redis says who owns what. */
  #watchMembership(): void {
    const self = new WeakRef(this) // as in Engine: a timer keeps nothing
    const timer = setInterval(
      () => {
        const affinity = self.deref()
        if (affinity) affinity.#lookAtMembership()
        else clearInterval(timer)
      },
      Math.max(20, this.#options.lockTTL / 40),
    )
    timer.unref()
    this.#failClosedTimer = timer
  }

  #lookAtMembership(): void {
    const isMember = this.#engine!.isMember()
    if (this.#wasMember && !isMember) {
      for (const client of [...this.#sockets.values()]) client.close(1013, 'Try Again Later')
    }
    this.#wasMember = isMember
  }

  readonly #events: EngineEvents = {
    send: (id, message) => {
      const client = this.#sockets.get(id)
      if (client?.gather(message)) this.#gathering.push(client)
    },
    sent: () => {
      for (const client of this.#gathering) client.flush()
      this.#gathering.length = 0
    },
    closeSocket: (id, code, reason) => this.#sockets.get(id)?.close(code, reason),
    local: (id, data) => this.#sockets.get(id)?.local(data),
    route: (id, address, place, taken) => this.#sockets.get(id)?.placed(address, place, taken),
    openProxy: (id, origin, packed) => {
      const connect = (socket: SocketForHocuspocus) => {
        const open = () => {
          const { request, context } = unpackValue(packed) as { request: SerializedHTTPRequest; context: unknown }
          return this.#connectWithContext(socket, request, context ?? {})
        }
        return new LazyConnection(socket, open, this.#options.log)
      }
      const isMute = () => this.#isEvicting
      const proxy = new ProxySocket(id, origin, this.#engine!, connect, isMute, () => this.#proxies.delete(id))
      if (proxy.readyState === 1) this.#proxies.set(id, proxy)
    },
    proxyFrame: (id, data) => this.#proxies.get(id)?.receive(data),
    proxyAlive: (id) => this.#proxies.get(id)?.connection.alive(),
    closeProxy: (id, code, reason) => this.#proxies.get(id)?.closed(code, reason),
    lost: (name) => this.#evict(name, true),
    place: (name) => void this.#placements.place(name, this.#drain !== undefined).then((target) => this.#engine!.place(name, target)),
    failed: (error) => {
      this.#failure = error
      for (const client of [...this.#sockets.values()]) client.close(1012, 'Service Restart')
      this.#emit('failed', { error })
    },
    news: (kind, news) => {
      if (kind === 'owned') this.#onOwned(news.documentName!, news.epoch!)
      if (kind === 'takeover') this.#storeOnceMore(news.documentName!)
      this.#emit(kind, news)
    },
    control: (from, message) => this.#control.receive(from, message),
    isNeeded: () => this.#proxies.size > 0 || this.#documents.count > 0,
    runEvent: (token, name, documentName, packed) => {
      const run = async () => {
        if (name === MERGE_EVENT || name === LATE_MERGE_EVENT) {
          await this.#handOvers.receive(documentName, packed.slice())
          if (name === LATE_MERGE_EVENT) this.#storeOnceMore(documentName)
          return new Uint8Array()
        }
        if (name === OPEN_EVENT) {
          await this.#handOvers.opened(documentName)
          return new Uint8Array()
        }
        const event = this.#payloads.unpack(packed)
        const payload = event.type === 'event' ? event.payload : undefined
        return this.#payloads.pack({ type: 'result', payload: await this.#runEvent(name, documentName, payload) })
      }
      run().then(
        (result) => this.#engine!.eventResult(token, true, result),
        (error) => this.#engine!.eventResult(token, false, this.#payloads.packError(error)),
      )
    },
  }

  /** With an instance that is loaded this is a new epoch: others may have owned and stored the document in between. */
  #onOwned(name: string, epoch: number): void {
    this.#documents.renewed(name, epoch)
    const document = this.#documents.instanceOf(name)
    if (document) this.#reloads.reload(document, epoch)
  }

  /** A store of the dead owner's may still have been under way, and end after ours: it is not to be the last one. */
  #storeOnceMore(name: string): void {
    const store = () => {
      const document = this.#destroyed || this.#drain ? undefined : this.#documents.instanceOf(name)
      if (document) this.#storeNow(document)
    }
    setTimeout(store, this.#options.lockTTL).unref()
  }

  #storeNow(document: Document): void {
    this.#store(document, this.#adapter!.storePayload(document))
  }

  #store(document: Document, payload: onStoreDocumentPayload): void {
    this.#instance!.storeDocumentHooks(document, payload, true).catch(() => {}) // Hocuspocus has told of it
  }

  #emit(kind: NewsKind, news: News): void {
    this.#logNews(kind, news)
    if (kind !== 'failed') this.#control.tell(kind, news)
    for (const listener of this.#news.listeners(kind)) this.#tell(kind, listener as (news: News) => unknown, news)
  }

  /** The engine itself tells of the other kinds. */
  #logNews(kind: NewsKind, { documentName, server, epoch }: News): void {
    const { log } = this.#options
    const topic = documentName === undefined ? 'links' : 'documents'
    if (!log.wants(topic)) return
    const details = { topic, document: documentName, peer: server, epoch } as const
    if (kind === 'owned') log.debug(`document "${documentName}" is owned here`, details)
    if (kind === 'lost') log.debug(`document "${documentName}" is lost to server "${server}"`, details)
    if (kind === 'resync') log.debug(`messages to server "${server}" were missing, and are sent again`, details)
    if (kind === 'serverUp') log.debug(`first word from server "${server}"`, details)
  }

  /** One listener's error is no other's. */
  #tell(kind: NewsKind, listener: (news: News) => unknown, news: News): void {
    const failed = (error: unknown) => this.#options.log.error(`a listener of "${kind}" failed`, { error })
    try {
      Promise.resolve(listener(news)).catch(failed)
    } catch (error) {
      failed(error)
    }
  }

  /**
   * Another server owns a document that is loaded here, or will: its instance goes, unstored, after its
   * difference has been handed over. The connections that it still has are served elsewhere already.
   */
  #evict(name: string, handOver: boolean): void {
    const instance = this.#instance
    this.#openings.lost(name)
    const document = this.#documents.lose(name)
    if (!document || !instance) return
    if (instance.documents.get(name) === document) instance.documents.delete(name)
    // The CLOSE frames of these are for nobody: the client may be here again, as one of the next epoch's.
    this.#isEvicting = true
    for (const connection of document.getConnections()) {
      try {
        connection.close({ code: 4205, reason: 'Reset Connection' })
      } catch (error) {
        this.#options.log.error('a listener failed as a connection was closed', { topic: 'sockets', document: name, error })
      }
    }
    this.#isEvicting = false
    if (handOver) void this.#handOvers.begin(document)
    else document.destroy()
    void instance.hooks('afterUnloadDocument', { instance, documentName: name }).catch(() => {})
  }
}

function headerOf(request: SerializedHTTPRequest, name: string): string | undefined {
  const value = request.headers[name]
  return Array.isArray(value) ? value[0] : value
}

function checkName(documentName: string): void {
  if (typeof documentName !== 'string') throw new AffinityError('AFF_EINVAL', 'a document name must be a string')
  const length = Buffer.byteLength(documentName)
  if (length < 1 || length > MAX_NAME) {
    throw new AffinityError('AFF_EINVAL', `a document name must have 1 to ${MAX_NAME} bytes of UTF-8, not ${length}`)
  }
  if (documentOf(documentName) !== documentName) {
    throw new AffinityError('AFF_EINVAL', 'a document name must not contain a NUL character')
  }
}
