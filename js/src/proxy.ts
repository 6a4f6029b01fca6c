import type { LazyConnection } from './connection.js'
import type { Engine } from './engine.js'
import { closeReason, deniedReason, isClose } from './frames.js'
import { type CloseEvent, MOVED_REASON, NOT_OWNER_REASON, RESET, type SocketForHocuspocus, TIMEOUT } from './hocuspocus.js'

const OPEN = 1
const CLOSED = 3

/** Stands here, at the owner of documents, for a client socket that another server holds. */
export class ProxySocket implements SocketForHocuspocus {
  readyState = OPEN
  readonly connection: LazyConnection
  /** CLOSE frames of documents, held until the end of the turn. */
  #closes: Uint8Array[] = []

  constructor(
    private readonly id: number,
    /** The server that holds the client's socket. */
    readonly origin: string,
    private readonly engine: Engine,
    connect: (socket: SocketForHocuspocus) => LazyConnection,
    private readonly isMute: () => boolean,
    private readonly onEnd: () => void,
  ) {
    this.connection = connect(this)
  }

  /** Hocuspocus has a frame for the client. */
  send(data: Uint8Array): void {
    if (this.readyState !== OPEN || this.isMute()) return
    if (isClose(data)) {
      this.#deferClose(data)
      return
    }
    this.#sendCloses()
    const denied = data.length < 512 ? deniedReason(data) : undefined
    if (denied === MOVED_REASON) return
    if (denied === NOT_OWNER_REASON) this.close(RESET.code, RESET.reason)
    else this.engine.proxySend(this.id, data)
  }

  /**
   * When Hocuspocus gives a socket up it closes each of its documents first, and the socket in the same turn.
   * The client shall hear of the socket alone: from that it recovers by itself.
   */
  #deferClose(data: Uint8Array): void {
    if (this.#closes.push(data) === 1) queueMicrotask(() => this.#sendCloses())
  }

  #sendCloses(): void {
    if (this.#closes.length === 0) return
    for (const data of this.#closes.splice(0)) {
      if (this.readyState !== OPEN) return
      // Hocuspocus 4.0 leaves the socket open, and providers do not recover from that by themselves.
      if (closeReason(data) === TIMEOUT.reason) this.close(TIMEOUT.code, TIMEOUT.reason)
      else this.engine.proxySend(this.id, data)
    }
  }

  /** Hocuspocus closes the client's socket: the origin does it. */
  close(code = 1000, reason = ''): void {
    if (this.readyState !== OPEN) return
    this.engine.proxyClosed(this.id, code, reason)
    this.#end({ code, reason })
  }

  /** A frame of the client. It gets memory of its own: what a client sends may make decoders read past it. */
  receive(data: Uint8Array): void {
    if (this.readyState === OPEN) this.connection.handleMessage(data.slice())
  }

  /** The client's socket, or the link to its origin, is closed. */
  closed(code: number, reason: string): void {
    if (this.readyState === OPEN) this.#end({ code, reason })
  }

  #end(event: CloseEvent): void {
    this.readyState = CLOSED
    this.onEnd()
    // As with a real socket, whose close event comes after the call of close().
    setImmediate(() => this.connection.handleClose(event))
  }
}
