import { TIMEOUT } from './hocuspocus.js'
import type { ClientSocket } from './socket.js'
import { repeat } from './time.js'
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
 * Twice in a time-out: what an owner does once in it is then never without a pong in between, however the two clocks stand
 * to each other.
 */
const BEATS = 2

/**
 * Pings clients' sockets, where the Hocuspocus would. It sees emulated ones instead, here and at other servers: owners
 * hear of each pong as of a message. A client that does not answer is cut off, and its cursors go at once, everywhere.
 */
export class Heartbeat {
  /** With how many pings in a row they have not answered. */
  #sockets = new Map<ClientSocket, number>()
  readonly #timer: NodeJS.Timeout

  constructor(timeout: number) {
    this.#timer = repeat(this, timeout / BEATS, (heartbeat) => heartbeat.#beat())
  }

  add(client: ClientSocket): void {
    const { ws } = client
    if (!isPingable(ws)) return
    this.#sockets.set(client, 0)
    ws.on('pong', () => {
      if (!this.#sockets.has(client)) return
      this.#sockets.set(client, 0)
      client.alive()
    })
  }

  #beat(): void {
    for (const [client, unanswered] of this.#sockets) {
      if (client.isClosed) {
        this.#sockets.delete(client)
      } else if (unanswered >= BEATS) {
        client.close(TIMEOUT.code, TIMEOUT.reason)
        client.closed(TIMEOUT)
      } else {
        this.#sockets.set(client, unanswered + 1)
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
