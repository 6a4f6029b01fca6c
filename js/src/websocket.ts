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

/** Node's stream.Writable, as far as it is used. */
export interface Stream {
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

/** To be called with each new socket, before anything else is done with it. */
export function meet(ws: BaseWebSocket): void {
  ownSend(ws)
}

/**
 * The stream under an open socket of ws that compresses nothing: there WebSocket frames can be written as they are. It
 * has no name for others; where it can't be found, each message goes through the library alone.
 */
export function streamOf(ws: BaseWebSocket): Stream | undefined {
  if (ws.send !== ownSend(ws)) return undefined
  const { _socket: stream, _extensions: extensions } = ws as { _socket?: Partial<Stream> | null; _extensions?: object | null }
  const isKnown = typeof stream?.write === 'function'
  // Not its `extensions`: crossws has the client's wishes there.
  const isPlain = typeof extensions === 'object' && extensions !== null && Object.keys(extensions).length === 0
  return isKnown && isPlain && ws.readyState === 1 ? (stream as Stream) : undefined
}

const FINAL_BINARY = 0x82

const headerOf = (length: number) => (length < 126 ? 2 : length < 65_536 ? 4 : 10)

/** A message of the engine's: a part of a block that it shares with others. One for any number of sockets. */
export class Message {
  #frame: Buffer | undefined

  constructor(
    private readonly block: Uint8Array,
    private readonly from = 0,
    private readonly to = block.length,
  ) {}

  get data(): Uint8Array {
    return this.block.subarray(this.from, this.to)
  }

  /** As a WebSocket frame, made once for all. */
  get frame(): Buffer {
    if (this.#frame) return this.#frame
    const frame = Buffer.allocUnsafe(this.frameLength)
    this.writeFrame(frame, 0)
    return (this.#frame = frame)
  }

  get frameLength(): number {
    const length = this.to - this.from
    return headerOf(length) + length
  }

  /** As one from a server, which masks nothing. (RFC 6455, 5.2) Returns where it ends. */
  writeFrame(bytes: Buffer, at: number): number {
    const length = this.to - this.from
    const header = headerOf(length)
    bytes[at] = FINAL_BINARY
    if (header === 2) {
      bytes[at + 1] = length
    } else if (header === 4) {
      bytes[at + 1] = 126
      bytes.writeUInt16BE(length, at + 2)
    } else {
      bytes[at + 1] = 127
      bytes.writeUInt32BE(0, at + 2)
      bytes.writeUInt32BE(length, at + 6)
    }
    bytes.set(this.data, at + header)
    return at + header + length
  }
}

/** Messages as WebSocket frames, one behind the other. */
export function framesOf(messages: Message[]): Buffer {
  let length = 0
  for (const message of messages) length += message.frameLength
  const frames = Buffer.allocUnsafe(length)
  let at = 0
  for (const message of messages) at = message.writeFrame(frames, at)
  return frames
}

/* The kinds of sockets are alike from here on. */

const isUws = (ws: BaseWebSocket): boolean => typeof ws.end === 'function' && ws.readyState === undefined

export function sendTo(ws: BaseWebSocket, data: Uint8Array): void {
  if (isUws(ws)) ws.send(data, true)
  else ws.send(data)
}

export function closeSocket(ws: BaseWebSocket, code: number, reason: string): void {
  const args: [number?, string?] = isCloseCode(code) ? [code, shorten(reason)] : []
  if (isUws(ws)) ws.end!(...args)
  else ws.close(...args)
}
