import type { ClientConnection } from './hocuspocus.js'

/** What Hocuspocus 4 calls on a socket (its `WebSocketLike`). */
export interface SocketForHocuspocus {
  send(data: Uint8Array): void
  close(code?: number, reason?: string): void
  readonly readyState: number
}

/**
 * A connection of Hocuspocus that opens when the context is known: `deriveContext` may be asynchronous, and
 * frames wait for it.
 */
export class LazyConnection {
  #connection: ClientConnection | undefined
  #waiting: Uint8Array[] = []
  #closed = false

  constructor(open: () => ClientConnection | Promise<ClientConnection>, onFailure: (error: unknown) => void) {
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
    if (this.#connection) this.#connection.handleMessage(frame)
    else this.#waiting.push(frame)
  }

  handleClose(event?: { code: number; reason: string }): void {
    this.#closed = true
    this.#connection?.handleClose(event)
  }

  /** Traffic elsewhere is life here too: Hocuspocus closes what it has not heard of for its `timeout`. */
  alive(): void {
    if (this.#connection) this.#connection.lastMessageReceivedAt = Date.now()
  }
}
