import type { RealSocket } from './socket.js'

/**
 * A client's WebSocket: of ws, crossws, a browser-like implementation, or uWebSockets.js (known by its `end`
 * and by having no `readyState`).
 */
export interface BaseWebSocket {
  // biome-ignore lint/suspicious/noExplicitAny: ws wants a callback there, uWebSockets.js a boolean
  send(data: Uint8Array, ...more: any[]): unknown
  close(code?: number, reason?: string): unknown
  end?(code?: number, reason?: string): unknown
  readonly readyState?: number
}

/** May an application send this close code? (RFC 6455, 7.4) */
function isCloseCode(code: number): boolean {
  return (code >= 1000 && code <= 1014 && ![1004, 1005, 1006].includes(code)) || (code >= 3000 && code <= 4999)
}

/** A close frame carries at most 123 bytes of reason. (RFC 6455, 5.5) */
function shorten(reason: string): string {
  let text = reason
  while (Buffer.byteLength(text) > 123) text = text.slice(0, -1)
  return text
}

/** What holds back what is written to it, as Node's stream.Writable does: one system call for all. */
export interface Corkable {
  cork(): void
  uncork(): void
}

/** The stream under a socket of ws, which has no name for others: where it can't be found, each frame is written alone. */
function streamOf(ws: BaseWebSocket): Corkable | undefined {
  const stream = (ws as { _socket?: Partial<Corkable> | null })._socket
  return typeof stream?.cork === 'function' && typeof stream.uncork === 'function' ? (stream as Corkable) : undefined
}

/** Makes the kinds of sockets alike. */
export function adaptSocket(ws: BaseWebSocket): RealSocket {
  const isUws = typeof ws.end === 'function' && ws.readyState === undefined
  return {
    get readyState() {
      return ws.readyState ?? 1
    },
    send(data) {
      if (isUws) ws.send(data, true)
      else ws.send(data)
    },
    stream: () => streamOf(ws),
    close(code, reason) {
      const args: [number?, string?] = isCloseCode(code) ? [code, shorten(reason)] : []
      if (isUws) ws.end!(...args)
      else ws.close(...args)
    },
  }
}
