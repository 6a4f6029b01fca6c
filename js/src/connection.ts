import { AffinityError } from './errors.js'
import { type Adapter, type CloseEvent, type HocuspocusConnection, RESET, type SocketForHocuspocus } from './hocuspocus.js'
import type { Logger } from './log.js'
import type { Options } from './options.js'
import { unpackValue } from './payload.js'
import { type NativeRequest, type SerializedHTTPRequest, isNative, serializeRequest } from './request.js'
import type { ClientSocket } from './socket.js'

const CLOSED = 3

/** As Hocuspocus's own limits on what waits for an authentication. */
const MAX_WAITING = 1000
const MAX_WAITING_BYTES = 5 * 1024 * 1024

/**
 * A connection of Hocuspocus that opens when the context is known: `deriveContext` may be asynchronous, and
 * frames wait for it.
 */
export class LazyConnection {
  #connection: HocuspocusConnection | undefined
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #closed = false

  constructor(
    private readonly socket: SocketForHocuspocus,
    open: () => HocuspocusConnection | Promise<HocuspocusConnection>,
    private readonly log: Logger,
  ) {
    try {
      const opened = open()
      if (opened instanceof Promise) opened.then((connection) => this.#onOpen(connection)).catch((error) => this.#onFailure(error))
      else this.#connection = opened
    } catch (error) {
      this.#onFailure(error)
    }
  }

  #onFailure(error: unknown): void {
    this.log.error('a connection could not be opened', { topic: 'sockets', error })
    this.socket.close(RESET.code, RESET.reason)
  }

  #onOpen(connection: HocuspocusConnection): void {
    this.#connection = connection
    for (const frame of this.#waiting) connection.handleMessage(frame)
    this.#waiting = []
    if (this.#closed) connection.handleClose()
  }

  handleMessage(frame: Uint8Array): void {
    if (!this.#connection) {
      this.#wait(frame)
      return
    }
    try {
      this.#connection.handleMessage(frame)
    } catch (error) {
      this.#onFailure(error)
    }
  }

  #wait(frame: Uint8Array): void {
    if (this.#closed) return
    this.#waiting.push(frame)
    this.#waitingBytes += frame.length
    if (this.#waiting.length <= MAX_WAITING && this.#waitingBytes <= MAX_WAITING_BYTES) return
    this.#closed = true
    this.#waiting = []
    this.#onFailure(new Error('too many messages wait for deriveContext'))
  }

  /** Whom it was for is gone. Hocuspocus may still be about to open a document: it looks at `readyState` then. */
  handleClose(event?: CloseEvent): void {
    this.#closed = true
    this.socket.readyState = CLOSED
    try {
      this.#connection?.handleClose(event)
    } catch (error) {
      this.log.error('closing a connection failed', { topic: 'sockets', error })
    }
  }

  /** Traffic elsewhere is life here too: Hocuspocus closes what it has not heard of for its `timeout`. */
  alive(): void {
    if (this.#connection) this.#connection.lastMessageReceivedAt = Date.now()
  }
}

/** Opens connections of the Hocuspocus here, each with its request and its context. */
export class Connector {
  /** @param adapter undefined where there is no Hocuspocus */
  constructor(
    private readonly options: Pick<Options, 'deriveContext' | 'log'>,
    private readonly adapter: () => Adapter | undefined,
  ) {}

  /** For a client of this server. */
  ofClient(client: ClientSocket, socket: SocketForHocuspocus): LazyConnection {
    if (client.context === undefined) client.context = {}
    const { request, context } = client
    const open = () => {
      if (!isNative(request)) return this.#open(socket, request, context)
      return this.#open(socket, serializeRequest(request, request.socket?.remoteAddress), context, request)
    }
    return new LazyConnection(socket, open, this.options.log)
  }

  /** For a client of another server, which has sent its request and its context. */
  ofProxy(packed: Uint8Array, socket: SocketForHocuspocus): LazyConnection {
    const open = () => {
      const { request, context } = unpackValue(packed) as { request: SerializedHTTPRequest; context: unknown }
      return this.#open(socket, request, context ?? {})
    }
    return new LazyConnection(socket, open, this.options.log)
  }

  #open(
    socket: SocketForHocuspocus,
    serialized: SerializedHTTPRequest,
    context: unknown,
    request?: NativeRequest,
  ): HocuspocusConnection | Promise<HocuspocusConnection> {
    const connect = (value: unknown) => {
      const adapter = this.adapter()
      if (!adapter) throw new AffinityError('AFF_EINVAL', 'RedisServerAffinity is not among the extensions of a Hocuspocus')
      return adapter.connect(socket, request ?? adapter.requestOf(serialized), value)
    }
    const derive = this.options.deriveContext
    if (!derive) return connect(context)
    const derived = derive(serialized)
    return derived instanceof Promise ? derived.then(connect) : connect(derived)
  }
}
