import { TIMEOUT } from './hocuspocus.js'
import type { ClientSocket } from './socket.js'
import type { BaseWebSocket } from './websocket.js'

/** A socket of ws. */
interface PingableSocket extends BaseWebSocket {
  ping(): void
  on(event: 'pong', listener: () => void): unknown
}

function isPingable(ws: BaseWebSocket): ws is PingableSocket {
  const { ping, on } = ws as Partial<PingableSocket>
  return typeof ping === 'function' && typeof on === 'function'
}

/**
 * Pings clients' sockets, where the Hocuspocus would. It sees emulated ones instead, here and at other servers: owners
 * hear of each pong as of a message. A client that does not answer is cut off, and its cursors go at once, everywhere.
 */
export class Heartbeat {
  /** With true: it has not answered the last ping. */
  #sockets = new Map<ClientSocket, boolean>()
  readonly #timer: NodeJS.Timeout

  constructor(every: number) {
    const self = new WeakRef(this) // as in Engine: a timer keeps nothing
    this.#timer = setInterval(() => {
      const heartbeat = self.deref()
      if (heartbeat) heartbeat.#beat()
    }, every)
    this.#timer.unref()
  }

  add(client: ClientSocket): void {
    const { ws } = client
    if (!isPingable(ws)) return
    this.#sockets.set(client, false)
    ws.on('pong', () => {
      if (!this.#sockets.has(client)) return
      this.#sockets.set(client, false)
      client.alive()
    })
  }

  #beat(): void {
    for (const [client, isSilent] of this.#sockets) {
      if (client.isClosed) {
        this.#sockets.delete(client)
      } else if (isSilent) {
        client.close(TIMEOUT.code, TIMEOUT.reason)
        client.closed(TIMEOUT)
      } else {
        this.#sockets.set(client, true)
        this.#ping(client.ws as PingableSocket)
      }
    }
  }

  #ping(ws: PingableSocket): void {
    try {
      ws.ping()
    } catch {} // it is being closed
  }

  stop(): void {
    clearInterval(this.#timer)
  }
}
