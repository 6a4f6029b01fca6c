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

/** Node's stream.Writable, as far as it is used: what is written while it is corked takes one system call. */
export interface Stream {
  cork(): void
  uncork(): void
  write(bytes: Uint8Array): unknown
}

const sends = new WeakMap<object, unknown>()

/** The `send` of a socket's class, as it was with the first one: who has replaced it since wants to see each message. */
function ownSend(ws: BaseWebSocket): unknown {
  const prototype = Object.getPrototypeOf(ws) as BaseWebSocket | null
  if (!prototype) return undefined
  if (!sends.has(prototype)) sends.set(prototype, prototype.send)
  return sends.get(prototype)
}

/**
 * The stream under an open socket of ws that compresses nothing: there WebSocket frames can be written as they are. It
 * has no name for others; where it can't be found, each message goes through the library alone.
 */
function streamOf(ws: BaseWebSocket): Stream | undefined {
  if (ws.send !== ownSend(ws)) return undefined
  const { _socket: stream, _extensions: extensions } = ws as { _socket?: Partial<Stream> | null; _extensions?: object | null }
  const isKnown = typeof stream?.cork === 'function' && typeof stream.uncork === 'function' && typeof stream.write === 'function'
  // Not its `extensions`: crossws has the client's wishes there.
  const isPlain = typeof extensions === 'object' && extensions !== null && Object.keys(extensions).length === 0
  return isKnown && isPlain && ws.readyState === 1 ? (stream as Stream) : undefined
}

const FINAL_BINARY = 0x82

/** A message as one WebSocket frame from a server, which masks nothing. (RFC 6455, 5.2) */
export function toWebSocketFrame(message: Uint8Array): Buffer {
  const { length } = message
  const header = length < 126 ? 2 : length < 65_536 ? 4 : 10
  const frame = Buffer.allocUnsafe(header + length)
  frame[0] = FINAL_BINARY
  if (header === 2) {
    frame[1] = length
  } else if (header === 4) {
    frame[1] = 126
    frame.writeUInt16BE(length, 2)
  } else {
    frame[1] = 127
    frame.writeUInt32BE(0, 2)
    frame.writeUInt32BE(length, 6)
  }
  frame.set(message, header)
  return frame
}

/** One for any number of sockets. */
export class Message {
  #frame: Buffer | undefined

  constructor(readonly data: Uint8Array) {}

  /** Made once for all. */
  get frame(): Buffer {
    return (this.#frame ??= toWebSocketFrame(this.data))
  }
}

/** Makes the kinds of sockets alike. */
export function adaptSocket(ws: BaseWebSocket): RealSocket {
  return new AdaptedSocket(ws)
}

class AdaptedSocket implements RealSocket {
  constructor(private readonly ws: BaseWebSocket) {
    ownSend(ws)
  }

  get readyState(): number {
    return this.ws.readyState ?? 1
  }

  get #isUws(): boolean {
    return typeof this.ws.end === 'function' && this.ws.readyState === undefined
  }

  send(data: Uint8Array): void {
    if (this.#isUws) this.ws.send(data, true)
    else this.ws.send(data)
  }

  stream(): Stream | undefined {
    return streamOf(this.ws)
  }

  close(code: number, reason: string): void {
    const args: [number?, string?] = isCloseCode(code) ? [code, shorten(reason)] : []
    if (this.#isUws) this.ws.end!(...args)
    else this.ws.close(...args)
  }
}
