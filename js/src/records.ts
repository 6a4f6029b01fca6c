/** Where a record's three byte strings begin; the layout is that of runtime/queue.h. */
export const HEADER = 40
const CAPACITY = 64 * 1024
/** So many at the latest are handed over: then the other thread works at them while more are written. */
const BURST = 64
const NONE: Uint8Array = new Uint8Array()

export interface Fields {
  flag?: boolean
  code?: number
  socket?: number
  status?: number
  request?: number
}

/**
 * Records for the engine's thread, gathered in memory of our own: what a turn of the loop has to say crosses in one call.
 */
export class Records {
  readonly #usual: Uint8Array = new Uint8Array(CAPACITY)
  #bytes = this.#usual
  #view = new DataView(this.#bytes.buffer)
  #length = 0
  #count = 0

  /** @param handOver gets the memory, whose first `length` bytes are whole records; it is used again after the call */
  constructor(private readonly handOver: (bytes: Uint8Array, length: number) => void) {}

  put(kind: number, { flag, code = 0, socket = 0, status = 0, request = 0 }: Fields, document = NONE, name = NONE, data = NONE): void {
    const at = this.#begin(kind, socket, document.length + name.length + data.length)
    const view = this.#view
    if (flag) view.setUint8(at + 5, 1)
    view.setUint16(at + 6, code, true)
    view.setInt32(at + 12, status, true)
    view.setFloat64(at + 16, request, true)
    view.setUint32(at + 32, document.length, true)
    view.setUint32(at + 36, name.length, true)
    this.#bytes.set(document, at + HEADER)
    this.#bytes.set(name, at + HEADER + document.length)
    this.#bytes.set(data, at + HEADER + document.length + name.length)
    this.#end()
  }

  /** One with a socket and data: a client's frame, the most frequent one. */
  putFrame(kind: number, socket: number, data: Uint8Array): void {
    const at = this.#begin(kind, socket, data.length)
    this.#bytes.set(data, at + HEADER)
    this.#end()
  }

  /** One with data for the first `count` of `sockets`, whose numbers are its name. */
  putForMany(kind: number, sockets: Uint32Array, count: number, data: Uint8Array): void {
    const at = this.#begin(kind, 0, 4 * count + data.length)
    this.#view.setUint32(at + 36, 4 * count, true)
    for (let n = 0; n < count; n++) this.#view.setUint32(at + HEADER + 4 * n, sockets[n]!, true)
    this.#bytes.set(data, at + HEADER + 4 * count)
    this.#end()
  }

  /** Hands over what there is. */
  flush(): void {
    if (this.#length === 0) return
    const [bytes, length] = [this.#bytes, this.#length]
    this.#length = this.#count = 0
    if (bytes !== this.#usual) this.#use(this.#usual)
    this.handOver(bytes, length)
  }

  /** The header of a record with `size` bytes behind it; returns where it begins. */
  #begin(kind: number, socket: number, size: number): number {
    const length = HEADER + size
    if (this.#length + length > this.#bytes.length) this.#makeRoom(length)
    const at = this.#length
    const view = this.#view
    view.setUint32(at, length - 4, true)
    view.setUint32(at + 4, kind, true)
    view.setUint32(at + 8, socket, true)
    view.setInt32(at + 12, 0, true)
    view.setFloat64(at + 16, 0, true)
    view.setFloat64(at + 24, 0, true)
    view.setFloat64(at + 32, 0, true)
    this.#length = at + length
    return at
  }

  #end(): void {
    if (++this.#count === BURST) this.flush()
  }

  #makeRoom(length: number): void {
    // Again, where those who are told that something was refused have something to say.
    while (this.#length > 0 && this.#length + length > this.#bytes.length) this.flush()
    if (length > this.#bytes.length) this.#use(new Uint8Array(length))
  }

  #use(bytes: Uint8Array): void {
    this.#bytes = bytes
    this.#view = new DataView(bytes.buffer)
  }
}

/** What can be told of a record that was not taken. */
export interface Refused {
  kind: number
  socket: number
  request: number
  status: number
}

/** Hands each record over by itself; returns those that are refused even so. */
export function handOneByOne(records: Uint8Array, hand: (record: Uint8Array) => number): Refused[] {
  const view = new DataView(records.buffer, records.byteOffset, records.length)
  const refused: Refused[] = []
  for (let at = 0; at < records.length; ) {
    const end = at + 4 + view.getUint32(at, true)
    const status = hand(records.subarray(at, end))
    if (status < 0) {
      refused.push({ kind: view.getUint8(at + 4), socket: view.getUint32(at + 8, true), request: view.getFloat64(at + 16, true), status })
    }
    at = end
  }
  return refused
}
