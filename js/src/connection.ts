import { type CloseEvent, type HocuspocusConnection, RESET, type SocketForHocuspocus } from './hocuspocus.js'
import type { Logger } from './log.js'

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
