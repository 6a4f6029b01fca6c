import type { ClientConnection } from './hocuspocus.js'
import type { Logger } from './log.js'

/** What Hocuspocus 4 calls on a socket (its `WebSocketLike`). */
export interface SocketForHocuspocus {
  send(data: Uint8Array): void
  close(code?: number, reason?: string): void
  readonly readyState: number
}

/** As Hocuspocus's own limits on what waits for an authentication. */
const MAX_WAITING = 1000
const MAX_WAITING_BYTES = 5 * 1024 * 1024

/**
 * A connection of Hocuspocus that opens when the context is known: `deriveContext` may be asynchronous, and
 * frames wait for it.
 */
export class LazyConnection {
  #connection: ClientConnection | undefined
  #waiting: Uint8Array[] = []
  #waitingBytes = 0
  #closed = false

  constructor(
    open: () => ClientConnection | Promise<ClientConnection>,
    private readonly onFailure: (error: unknown) => void,
    private readonly log: Logger,
  ) {
    try {
      const opened = open()
      if (opened instanceof Promise) opened.then((connection) => this.#onOpen(connection)).catch(onFailure)
      else this.#connection = opened
    } catch (error) {
      onFailure(error)
    }
  }

  #onOpen(connection: ClientConnection): void {
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
      this.onFailure(error)
    }
  }

  #wait(frame: Uint8Array): void {
    if (this.#closed) return
    this.#waiting.push(frame)
    this.#waitingBytes += frame.length
    if (this.#waiting.length <= MAX_WAITING && this.#waitingBytes <= MAX_WAITING_BYTES) return
    this.#closed = true
    this.#waiting = []
    this.onFailure(new Error('too many messages wait for deriveContext'))
  }

  handleClose(event?: { code: number; reason: string }): void {
    this.#closed = true
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
