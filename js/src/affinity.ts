// Its one declaration file says that it is of an ES module: ours for CommonJS has to ask for it as such.
import type {
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
import { EventCalls } from './calls.js'
import { Connector } from './connection.js'
import { Control, type DocumentInfo, type DocumentList, type DrainState, type Moved } from './control.js'
import { Directory, type ServerInfo, type ServerState } from './directory.js'
import { Documents } from './documents.js'
import { Drain } from './drain.js'
import { Engine, type EngineEvents, type News, type NewsKind } from './engine.js'
import { AffinityError } from './errors.js'
import { type MetricsTarget, exportMetrics } from './exporters.js'
import { documentOf } from './frames.js'
import { HandOvers } from './handover.js'
import { type Health, healthOf } from './health.js'
import { Heartbeat } from './heartbeat.js'
import { type Adapter, RESET, type SocketForHocuspocus } from './hocuspocus.js'
import { Measures, type Metrics, readMetrics } from './metrics.js'
import { Moves } from './move.js'
import { native, type NativeMetrics } from './native.js'
import { NewsDesk } from './news.js'
import { Openings } from './openings.js'
import { type Configuration, type CustomEvents, type Options, readOptions } from './options.js'
import { packValue } from './payload.js'
import { Candidates, Placements } from './placement.js'
import { ProxySocket } from './proxy.js'
import { type Rebalanced, type RebalanceSettings, Rebalancing } from './rebalance.js'
import type { SerializedHTTPRequest } from './request.js'
import type { ClientSocket, SocketHost } from './socket.js'
import { Sockets } from './sockets.js'
import { type Leaving, Stores } from './stores.js'
import { repeat, within } from './time.js'
import type { BaseWebSocket } from './websocket.js'
import { wrap } from './wrap.js'

/** What hand-overs that are under way may take at the end. */
const FLUSH_MS = 1000
const MAX_NAME = 65_535
const MAX_LISTED = 10_000

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
  readonly #news: NewsDesk
  readonly #connector: Connector
  #engine: Engine | undefined
  #host!: SocketHost
  #documents!: Documents
  #handOvers!: HandOvers
  #calls!: EventCalls
  #directory!: Directory
  #control!: Control
  #placements!: Placements
  #moves: Moves | undefined
  readonly #measures = new Measures()
  #failure: AffinityError | undefined
  readonly #openings = new Openings()
  #instance: Hocuspocus | undefined
  #adapter: Adapter | undefined
  #stores: Stores | undefined
  #heartbeat: Heartbeat | undefined
  #drain: Drain | undefined
  #drained: Promise<void> | undefined
  #destroyed: Promise<void> | undefined

  readonly #sockets = new Sockets(
    () => {
      this.#start()
      return this.#host
    },
    (client, request, context) => this.#added(client, request, context),
  )
  #proxies = new Map<number, ProxySocket>()
  #failClosedTimer: NodeJS.Timeout | undefined
  #rebalancing: Rebalancing | undefined
  #rebalanceTimer: NodeJS.Timeout | undefined
  #wasMember = false
  #isEvicting = false

  /** @throws AffinityError `AFF_EINVAL`: an option is not valid; the message names it. */
  constructor(configuration: Configuration<TCE>) {
    this.#options = readOptions(configuration)
    this.#news = new NewsDesk(this.#options.log)
    this.#connector = new Connector(this.#options, () => this.#adapter)
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
    void this.#drainAndLog()
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
    return (await this.#calls.handle(eventName, documentName, payload, onlyIfOpen)) as Awaited<ReturnType<TCE[TName]>>
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
    this.#sockets.open(ws, serializedHTTPRequest, context)
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
    this.#sockets.receive(ws, data)
  }

  /**
   * Ends a client's socket.
   *
   * @param socketId the request's `sec-websocket-key`; or, where there is none (HTTP/2), the socket itself
   */
  onSocketClose(socketId: string | BaseWebSocket, code?: number, reason?: ArrayBuffer): void {
    this.#sockets.closed(socketId, code, reason)
  }

  #added(client: ClientSocket, request: SerializedHTTPRequest, context: unknown): void {
    const engine = this.#engine!
    const isOut = engine.isClosed || (this.#options.failClosed && !engine.isMember())
    if (isOut) setImmediate(() => client.close(1013, 'Try Again Later'))
    this.#heartbeat?.add(client)
    engine.openSocket(client.id, packValue({ request, context: this.#options.deriveContext ? undefined : (context ?? {}) }))
  }

  // ---- Hocuspocus hooks -------------------------------------------------------------------------------

  /** Takes its place between Hocuspocus and its sockets. */
  async onConfigure({ instance }: Pick<onConfigurePayload, 'instance'>): Promise<void> {
    if (this.#instance === instance || this.#destroyed) return
    if (this.#instance) throw new AffinityError('AFF_EINVAL', 'one RedisServerAffinity serves one Hocuspocus')
    this.#instance = instance
    const adapter = adapterOf(instance)
    this.#adapter = adapter
    adapter.intercept((...args) => this.#sockets.accept(...args))
    if (adapter.pings) this.#heartbeat = new Heartbeat(instance.configuration.timeout)
    const engine = this.#start()
    const documents = this.#documents
    const leaving = this.#leaving
    const stores = new Stores(instance, adapter, engine, documents, leaving, this.#measures.stores, this.#options.lockTTL)
    this.#stores = stores
    this.#handOvers.serve(instance, stores)
    this.#moves = new Moves(instance, engine, documents, this.#directory, this.#evict)
    wrap(instance, {
      documents,
      openings: this.#openings,
      isKept: (document) => stores.isLate(document) || leaving.isEnding(document),
      drain: () => (this.#destroyed ? undefined : this.#drainAndLog()),
    })
  }

  readonly #leaving: Leaving = {
    drain: () => this.#drain,
    isEnding: (document) => (this.#drain?.isEnding(document) || this.#moves?.isEnding(document)) ?? false,
    isClosed: () => this.#destroyed !== undefined,
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
    this.#stores!.reloads.loading(payload, await this.#documents.load(instance, document))
  }

  async afterLoadDocument({ document }: Pick<afterLoadDocumentPayload, 'document'>): Promise<void> {
    this.#documents.watchChanges(document)
  }

  /** Redis is asked before each store: what this server has lost is not stored. */
  async onStoreDocument(payload: onStoreDocumentPayload): Promise<void> {
    await this.#stores?.before(payload)
  }

  async afterStoreDocument({ document }: Pick<afterStoreDocumentPayload, 'document'>): Promise<void> {
    this.#documents.stored(document)
  }

  /** An instance that has been stored goes once Redis has said that its document is still this server's. */
  async beforeUnloadDocument(payload: beforeUnloadDocumentPayload): Promise<void> {
    await this.#stores?.beforeUnload(payload)
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
    this.#drain ??= new Drain(instance, this.#engine, this.#documents, this.#handOvers, this.#evict, this.#options.drainTimeout)
    this.#drained ??= this.#drain.run()
    this.#directory.tell()
    await this.#drained
  }

  async #drainAndLog(): Promise<void> {
    await this.drain().catch((error) => this.#options.log.error('draining failed', { topic: 'documents', error }))
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
    this.#sockets.closeAll(1012, 'Service Restart')
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
    this.#host = { engine: this.#engine, connect: (client, socket) => this.#connector.ofClient(client, socket) }
    this.#documents = new Documents(this.#engine)
    this.#handOvers = new HandOvers(this.#engine, this.#documents)
    this.#calls = new EventCalls(this.#engine, this.#documents, this.#handOvers, this.#options, this.#measures.events)
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
    this.#rebalancing = new Rebalancing(settings, this.serverId, candidates, this.#options.log)
    this.#rebalanceTimer = repeat(this, settings.every, (affinity) => {
      if (affinity.#drain) clearInterval(affinity.#rebalanceTimer)
      else if (affinity.#engine!.isMember()) void affinity.#rebalancing!.run(affinity.#rebalanced())
    })
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
    this.#failClosedTimer = repeat(this, Math.max(20, this.#options.lockTTL / 40), (affinity) => affinity.#lookAtMembership())
  }

  #lookAtMembership(): void {
    const isMember = this.#engine!.isMember()
    if (this.#wasMember && !isMember) this.#sockets.closeAll(1013, 'Try Again Later')
    this.#wasMember = isMember
  }

  readonly #events: EngineEvents = {
    send: (id, message) => this.#sockets.gather(id, message),
    sent: () => this.#sockets.flush(),
    closeSocket: (id, code, reason) => this.#sockets.get(id)?.close(code, reason),
    local: (id, data) => this.#sockets.get(id)?.local(data),
    route: (id, address, place, taken) => this.#sockets.get(id)?.placed(address, place, taken),
    openProxy: (id, origin, packed) => {
      const connect = (socket: SocketForHocuspocus) => this.#connector.ofProxy(packed, socket)
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
      this.#sockets.closeAll(1012, 'Service Restart')
      this.#news.tell('failed', { error })
    },
    news: (kind, news) => {
      if (kind === 'owned') this.#onOwned(news.documentName!, news.epoch!)
      if (kind === 'takeover') this.#stores?.onceMore(news.documentName!)
      this.#control.tell(kind, news)
      this.#news.tell(kind, news)
    },
    control: (from, message) => this.#control.receive(from, message),
    isNeeded: () => this.#proxies.size > 0 || this.#documents.count > 0,
    runEvent: (token, name, documentName, packed) => this.#calls.asked(token, name, documentName, packed),
  }

  /** With an instance that is loaded this is a new epoch: others may have owned and stored the document in between. */
  #onOwned(name: string, epoch: number): void {
    this.#documents.renewed(name, epoch)
    const document = this.#documents.instanceOf(name)
    if (document) this.#stores!.reloads.reload(document, epoch)
  }

  /**
   * Another server owns a document that is loaded here, or will: its instance goes, unstored, after its
   * difference has been handed over. The connections that it still has are served elsewhere already.
   */
  readonly #evict = (name: string, handOver: boolean): void => {
    const instance = this.#instance
    this.#openings.lost(name)
    const document = this.#documents.lose(name)
    if (!document || !instance) return
    if (instance.documents.get(name) === document) instance.documents.delete(name)
    // The CLOSE frames of these are for nobody: the client may be here again, as one of the next epoch's.
    this.#isEvicting = true
    for (const connection of document.getConnections()) {
      try {
        connection.close(RESET)
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
