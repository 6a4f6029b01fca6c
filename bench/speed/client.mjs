// A client that costs little: it speaks WebSocket and Hocuspocus's protocol by hand, sends bytes that were made before,
// and only keeps what comes. `ws` makes the handshake; after that its parser is out of the way.
import * as decoding from 'lib0/decoding'
import * as encoding from 'lib0/encoding'
import WebSocket from 'ws'
import * as Y from 'yjs'

const SYNC = 0
const AUTH = 2
const SYNC_STATUS = 8
const AUTHENTICATED = 2
const STEP2 = 1
const UPDATE = 2

/** A client's WebSocket frame. The mask is zero: allowed, and the payload stays readable. */
export function webSocketFrame(payload) {
  const { length } = payload
  const header = length < 126 ? Buffer.from([0x82, 0x80 | length]) : length < 65536 ? Buffer.from([0x82, 0xfe, length >> 8, length & 255]) : undefined
  if (!header) throw new Error('too long for this client')
  return Buffer.concat([header, Buffer.alloc(4), payload])
}

function message(name, ...write) {
  const encoder = encoding.createEncoder()
  encoding.writeVarString(encoder, name)
  for (const part of write) part(encoder)
  return Buffer.from(encoding.toUint8Array(encoder))
}
const uint = (value) => (encoder) => encoding.writeVarUint(encoder, value)
const string = (value) => (encoder) => encoding.writeVarString(encoder, value)
const bytes = (value) => (encoder) => encoding.writeVarUint8Array(encoder, value)

export const authFrame = (name) => webSocketFrame(message(name, uint(AUTH), uint(0), string('token'), string('4.8.0')))
export const step1Frame = (name) => webSocketFrame(message(name, uint(SYNC), uint(0), bytes(Y.encodeStateVector(new Y.Doc()))))
export const updateFrame = (name, update) => webSocketFrame(message(name, uint(SYNC), uint(UPDATE), bytes(update)))

export class Client {
  /** Frames of SyncStep2 and updates, as they came. */
  received = []
  acknowledged = 0
  frames = 0
  onAcknowledged = () => {}
  /** @type {(frame: Buffer) => void} */
  onUpdate = () => {}
  onFailure = (error) => {
    throw error
  }
  #rest
  #typeAt
  #authenticated = false
  #synced = false
  #ready
  #isReady = false

  constructor(url, name) {
    this.url = url
    this.name = name
    this.#typeAt = 1 + Buffer.byteLength(name) // names here are shorter than 128 bytes
  }

  /** Resolves when the document is synchronised. */
  async open() {
    this.webSocket = new WebSocket(this.url, { perMessageDeflate: false })
    await new Promise((resolve, reject) => {
      this.webSocket.once('open', resolve)
      this.webSocket.once('error', reject)
    })
    this.socket = this.webSocket._socket
    this.socket.setNoDelay(true)
    this.socket.removeAllListeners('data')
    this.socket.on('data', (chunk) => this.#parse(chunk))
    this.socket.on('close', () => this.closed || this.onFailure(new Error(`the socket of "${this.name}" was closed`)))
    const ready = new Promise((resolve) => (this.#ready = resolve))
    this.socket.write(Buffer.concat([authFrame(this.name), step1Frame(this.name)]))
    await ready
  }

  write(frame) {
    this.socket.write(frame)
  }

  close() {
    this.closed = true
    this.socket.destroy()
  }

  #parse(chunk) {
    const data = this.#rest ? Buffer.concat([this.#rest, chunk]) : chunk
    let at = 0
    while (at + 2 <= data.length) {
      let length = data[at + 1]
      let start = at + 2
      if (length === 126) {
        if (at + 4 > data.length) break
        length = data.readUInt16BE(at + 2)
        start = at + 4
      } else if (length === 127) {
        if (at + 10 > data.length) break
        length = data.readUInt32BE(at + 6)
        start = at + 10
      }
      if (start + length > data.length) break
      const opcode = data[at] & 15
      at = start + length
      if (opcode === 2) this.#onFrame(data.subarray(start, at))
      else if (opcode === 8) this.onFailure(new Error(`the server closed the socket of "${this.name}" with ${data.readUInt16BE(start)}`))
    }
    this.#rest = at < data.length ? data.subarray(at) : undefined
  }

  #onFrame(frame) {
    this.frames++
    const type = frame[this.#typeAt]
    if (type === SYNC_STATUS) {
      this.acknowledged++
      this.onAcknowledged()
    } else if (type === SYNC) {
      const step = frame[this.#typeAt + 1]
      if (step !== UPDATE && step !== STEP2) return
      this.received.push(frame)
      if (step === UPDATE) this.onUpdate(frame)
      else this.#synced = true
    } else if (type === AUTH) {
      if (frame[this.#typeAt + 1] !== AUTHENTICATED) this.onFailure(new Error(`"${this.name}" was denied`))
      this.#authenticated = true
    }
    if (!this.#isReady && this.#authenticated && this.#synced) {
      this.#isReady = true
      this.#ready()
    }
  }

  /** What this client knows, all frames applied. */
  document() {
    const doc = new Y.Doc()
    for (const frame of this.received) {
      const decoder = decoding.createDecoder(frame.subarray(this.#typeAt + 2))
      Y.applyUpdate(doc, decoding.readVarUint8Array(decoder))
    }
    return doc
  }
}
