import { EventEmitter } from 'node:events'
import type { IncomingMessage } from 'node:http'
import type { Document, Hocuspocus, onStoreDocumentPayload } from '@hocuspocus/server'
import { type Doc, applyUpdate, encodeStateAsUpdate } from 'yjs'
import { AffinityError } from './errors.js'
import { addressOf, deniedReason, documentOf, endsRoute, hasAddress, readdress } from './frames.js'
import {
  type Accept,
  type Adapter,
  type CloseEvent,
  type HocuspocusConnection,
  type SocketForHocuspocus,
  TIMEOUT,
  UNREADABLE,
  isSkip,
} from './hocuspocus.js'
import { type NativeRequest, type SerializedHTTPRequest, serializeRequest, toIncomingMessage } from './request.js'
import type { BaseWebSocket } from './websocket.js'

type Data = Buffer | ArrayBuffer | Buffer[]
type ClientWebSocket = BaseWebSocket & EventEmitter
/** Of Hocuspocus 3; what the types say is Hocuspocus 4. */
type HandleConnection = (socket: unknown, request: NativeRequest, context?: unknown) => void

const OPEN = 1
const CLOSED = 3

/** Hocuspocus 3: requests are those of Node's http, and it listens to a socket of ws, which it pings. */
export class Hocuspocus3 implements Adapter {
  readonly pings = true
  readonly #handleConnection: HandleConnection

  constructor(private readonly instance: Hocuspocus) {
    this.#handleConnection = instance.handleConnection as HandleConnection
    instance.storeDocumentHooks = (...args) => this.#storeDocumentHooks(...args)
  }

  intercept(accept: Accept): void {
    const handleConnection = (ws: ClientWebSocket, request: IncomingMessage, context?: unknown) => {
      const client = accept(ws, request, serializeRequest(request), context)
      ws.on('message', (data: Data) => client.receive(bytesOf(data)))
      ws.once('close', (code: number, reason: Buffer) => client.closed({ code, reason: reason.toString() }))
    }
    this.instance.handleConnection = handleConnection as unknown as Hocuspocus['handleConnection']
  }

  release(): void {
    this.instance.handleConnection = this.#handleConnection as Hocuspocus['handleConnection']
  }

  requestOf(serialized: SerializedHTTPRequest): NativeRequest {
    return toIncomingMessage(serialized)
  }

  connect(target: SocketForHocuspocus, request: NativeRequest, context: unknown): HocuspocusConnection {
    return new Connection3(target, (socket) => this.#handleConnection.call(this.instance, socket, request, context))
  }

  storePayload(document: Document): onStoreDocumentPayload {
    const payload = {
      instance: this.instance,
      clientsCount: document.getConnectionsCount(),
      context: {},
      document,
      documentName: document.name,
      requestHeaders: {},
      requestParameters: new URLSearchParams(),
      socketId: 'server',
    }
    return payload as unknown as onStoreDocumentPayload
  }

  /** As Hocuspocus does it. */
  merge(document: Document, loaded: unknown): void {
    const kind = (loaded as object | undefined)?.constructor.name
    if (kind === 'Doc' || kind === 'Document') applyUpdate(document, encodeStateAsUpdate(loaded as Doc))
  }

  /**
   * In place of Hocuspocus 3's own, whose debouncer never gets over a store that fails: no store of that document is made
   * any more, and where a timer has started it, the process ends with an unhandled rejection. As in Hocuspocus 4, the
   * document stays in memory then; but who waits for a store of theirs gets its error, as in Hocuspocus 3.
   */
  async #storeDocumentHooks(document: Document, payload: onStoreDocumentPayload, immediately?: boolean): Promise<void> {
    const { debouncer, configuration } = this.instance
    let failure: unknown
    const store = async () => {
      failure = await this.#store(document, payload)
    }
    const wait = immediately ? 0 : configuration.debounce
    await debouncer.debounce(`onStoreDocument-${document.name}`, store, wait, configuration.maxDebounce)
    // Ours only puts a store off.
    if (immediately && failure && !(failure instanceof AffinityError)) throw failure
  }

  /** Resolves with the error if that is one. */
  async #store(document: Document, payload: onStoreDocumentPayload): Promise<unknown> {
    const { instance } = this
    try {
      await document.saveMutex.runExclusive(async () => {
        await instance.hooks('onStoreDocument', payload)
        await instance.hooks('afterStoreDocument', payload)
      })
    } catch (error) {
      // One without a message ends the chain of hooks, and nothing else.
      if (!isSkip(error) && (error as Error | undefined)?.message) {
        console.error('Caught error during storeDocumentHooks. Document stays in memory to avoid data loss', error)
        return error
      }
    }
    setTimeout(() => {
      if (instance.shouldUnloadDocument(document)) void instance.unloadDocument(document)
    }, 0)
    return undefined
  }
}

function bytesOf(data: Data): Uint8Array {
  if (data instanceof Uint8Array) return data
  return data instanceof ArrayBuffer ? new Uint8Array(data) : Buffer.concat(data)
}

/** What Hocuspocus 3 takes for a client's socket of ws. */
class EmulatedSocket extends EventEmitter implements SocketForHocuspocus {
  readyState = OPEN
  binaryType = 'nodebuffer'
  /** Documents that it has, or has had, each with its address; undefined: Hocuspocus has denied it. */
  readonly documents = new Map<string, string | undefined>()
  #pingedAt = 0

  constructor(private readonly connection: Connection3) {
    super()
  }

  send(data: Uint8Array): void {
    if (this.readyState === OPEN) this.connection.send(this, data)
  }

  close(code = 1000, reason = ''): void {
    if (this.readyState === OPEN) this.connection.target.close(code, reason)
  }

  terminate(): void {
    this.close()
  }

  /** Whoever holds the client's socket pings it, and tells of a pong as of a message. */
  ping(): void {
    if (this.connection.lastMessageReceivedAt < this.#pingedAt) {
      this.close(TIMEOUT.code, TIMEOUT.reason)
      return
    }
    this.#pingedAt = Date.now()
    this.emit('pong')
  }

  /** What has ended for Hocuspocus 3 when it hears of it. */
  end(event?: CloseEvent): void {
    this.readyState = CLOSED
    this.emit('close', event?.code ?? 1005, Buffer.from(event?.reason ?? ''))
  }
}

/**
 * A client's socket, for a Hocuspocus 3. That knows documents and no sessions, so each session of a document has an
 * emulated socket to itself. And it never again listens to a document of a socket that it has denied: so the next one goes
 * to another socket. All others share the first.
 */
class Connection3 implements HocuspocusConnection {
  lastMessageReceivedAt = Date.now()
  #sockets: EmulatedSocket[] = []
  /** By address. */
  #places = new Map<string, EmulatedSocket>()
  #recent: { address: string; socket: EmulatedSocket; isPlain: boolean } | undefined
  #closed = false

  constructor(
    readonly target: SocketForHocuspocus,
    private readonly listen: (socket: EmulatedSocket) => void,
  ) {}

  handleMessage(frame: Uint8Array): void {
    if (this.#closed) return
    this.lastMessageReceivedAt = Date.now()
    if (!this.#recent || !hasAddress(frame, this.#recent.address)) {
      const address = addressOf(frame)
      if (address === undefined) {
        this.target.close(UNREADABLE.code, UNREADABLE.reason)
        return
      }
      this.#recent = { address, socket: this.#placeOf(address), isPlain: documentOf(address) === address }
    }
    const { address, socket, isPlain } = this.#recent
    socket.emit('message', isPlain ? frame : readdress(frame, documentOf(address)))
  }

  #placeOf(address: string): EmulatedSocket {
    const known = this.#places.get(address)
    if (known) return known
    const document = documentOf(address)
    const socket = this.#sockets.find(({ documents }) => !documents.has(document)) ?? this.#open()
    socket.documents.set(document, address)
    this.#places.set(address, socket)
    return socket
  }

  #open(): EmulatedSocket {
    const socket = new EmulatedSocket(this)
    this.#sockets.push(socket)
    this.listen(socket)
    return socket
  }

  /** Hocuspocus has a frame for the client. */
  send(socket: EmulatedSocket, data: Uint8Array): void {
    const document = addressOf(data)!
    const address = socket.documents.get(document) ?? document
    // First: the next frame of this address may come while this one is being sent.
    if (endsRoute(data)) this.#end(socket, document, deniedReason(data) !== undefined)
    this.target.send(address === document ? data : readdress(data, address))
  }

  #end(socket: EmulatedSocket, document: string, isDenied: boolean): void {
    const address = socket.documents.get(document)
    if (address !== undefined) this.#places.delete(address)
    this.#recent = undefined
    if (isDenied) socket.documents.set(document, undefined)
    else socket.documents.delete(document)
    const addresses = [...socket.documents.values()]
    if (addresses.length === 0 || addresses.some((one) => one !== undefined)) return
    this.#sockets.splice(this.#sockets.indexOf(socket), 1)
    socket.end()
  }

  handleClose(event?: CloseEvent): void {
    this.#closed = true
    for (const socket of this.#sockets) socket.end(event)
  }
}
