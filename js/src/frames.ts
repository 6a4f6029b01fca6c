/**
 * The outer form of Hocuspocus's messages, as far as routing needs it: a lib0 string (the address:
 * `document`, or `document\0session`), then lib0 integers.
 */
export const AUTH = 2
const SYNC = 0
const AWARENESS = 1
const SYNC_REPLY = 4
const CLOSE = 7
const SYNC_STATUS = 8
const PERMISSION_DENIED = 1
const AUTHENTICATED = 2
const STEP1 = 0
const STEP2 = 1
const UPDATE = 2

/** Where the address ends and the type stands; -1 where a frame is too short for its address. */
function typeAt(frame: Uint8Array): number {
  let length = 0
  let factor = 1
  for (let at = 0; at < frame.length && at < 5; at++) {
    const byte = frame[at]!
    length += (byte & 0x7f) * factor
    factor *= 128
    if (byte < 0x80) return at + 1 + length <= frame.length ? at + 1 + length : -1
  }
  return -1
}

/** Where the address begins, behind its length. */
function addressAt(frame: Uint8Array): number {
  let at = 0
  while (frame[at]! >= 0x80) at++
  return at + 1
}

/** Is this the frame's address, and in ASCII? For others it says no: they are decoded. */
export function hasAddress(frame: Uint8Array, address: string): boolean {
  const end = typeAt(frame)
  const start = addressAt(frame)
  if (end - start !== address.length) return false
  for (let at = start; at < end; at++) {
    const byte = frame[at]!
    if (byte >= 0x80 || byte !== address.charCodeAt(at - start)) return false
  }
  return true
}

/** A lib0 string; undefined where it can't be read. */
function readString(bytes: Uint8Array): string | undefined {
  const end = typeAt(bytes)
  if (end < 0) return undefined
  const start = addressAt(bytes)
  return Buffer.from(bytes.buffer, bytes.byteOffset + start, end - start).toString()
}

/** The address of a frame; undefined where it can't be read. */
export const addressOf = readString

/** The frame under another address. */
export function readdress(frame: Uint8Array, address: string): Uint8Array {
  const bytes = Buffer.from(address)
  return Buffer.concat([lib0Integer(bytes.length), bytes, frame.subarray(typeAt(frame))])
}

export function documentOf(address: string): string {
  const separator = address.indexOf('\0')
  return separator < 0 ? address : address.slice(0, separator)
}

/** Does this frame close its address? */
export function isClose(frame: Uint8Array): boolean {
  const end = typeAt(frame)
  return end >= 0 && frame[end] === CLOSE
}

/** The reason in a CLOSE; undefined for any other frame. */
export function closeReason(frame: Uint8Array): string | undefined {
  const end = typeAt(frame)
  return end >= 0 && frame[end] === CLOSE ? readString(frame.subarray(end + 1)) : undefined
}

/** Does this frame of Hocuspocus end its address: a CLOSE, or PermissionDenied? */
export function endsRoute(frame: Uint8Array): boolean {
  const end = typeAt(frame)
  if (end < 0) return false
  const type = frame[end]
  return type === CLOSE || (type === AUTH && frame[end + 1] === PERMISSION_DENIED)
}

/** The reason in a PermissionDenied; undefined for any other frame. */
export function deniedReason(frame: Uint8Array): string | undefined {
  const end = typeAt(frame)
  if (end < 0 || frame[end] !== AUTH || frame[end + 1] !== PERMISSION_DENIED) return undefined
  return readString(frame.subarray(end + 2))
}

/**
 * What is known of a client of a document that is served here, for the case that the document moves: the
 * engine's shim (core/shim.c) goes on from it.
 */
export class ClientState {
  #auth: Uint8Array | undefined
  #step1: Uint8Array | undefined
  #awareness: Uint8Array | undefined
  /** The provider's counter of changes that are not acknowledged. */
  #unsynced = 0
  /** SyncStep1s of Hocuspocus that the client has yet to answer. */
  #questions = 0
  #authenticated = false
  #readOnly = false

  /** A frame of the client. */
  sent(frame: Uint8Array): void {
    const end = typeAt(frame)
    const type = frame[end]
    if (type === AWARENESS) {
      if (isOwnAwareness(frame, end + 1)) this.#awareness = frame
    }
    else if (type === AUTH) this.#auth = frame
    else if (type === SYNC || type === SYNC_REPLY) {
      const step = frame[end + 1]
      if (step === UPDATE) this.#unsynced++
      else if (step === STEP2) this.#questions = Math.max(0, this.#questions - 1)
      else if (step === STEP1) {
        this.#step1 = frame
        this.#unsynced = 1
      }
    }
  }

  /** A frame of Hocuspocus for the client. */
  received(frame: Uint8Array): void {
    const end = typeAt(frame)
    const type = frame[end]
    if (type === SYNC_STATUS) {
      if (frame[end + 1] === 1 && this.#unsynced > 0) this.#unsynced--
    } else if (type === SYNC && frame[end + 1] === STEP1) {
      this.#questions++
    } else if (type === AUTH && frame[end + 1] === AUTHENTICATED) {
      this.#authenticated = true
      this.#readOnly = readString(frame.subarray(end + 2)) === 'readonly'
    }
  }

  /** As the engine wants it (AFF_EV_ROUTE_STATE in core/aff.h). */
  serialize(): Uint8Array {
    const parts: Uint8Array[] = [
      Uint8Array.of((this.#authenticated ? 1 : 0) | (this.#readOnly ? 2 : 0)),
      lib0Integer(this.#unsynced),
    ]
    for (const frame of [this.#auth, this.#step1, this.#awareness]) {
      parts.push(lib0Integer(frame?.length ?? 0), frame ?? new Uint8Array())
    }
    parts.push(lib0Integer(this.#questions))
    return Buffer.concat(parts)
  }
}

/** One client's state, not its leaving: an awareness update of y-protocols with one entry that is not "null". */
function isOwnAwareness(frame: Uint8Array, at: number): boolean {
  let next = at
  const skip = () => {
    while (next < frame.length && frame[next]! >= 0x80) next++
    next++
  }
  skip() // the update's length
  if (frame[next++] !== 1) return false
  skip() // the client's id
  skip() // its clock
  return readString(frame.subarray(next)) !== 'null'
}

function lib0Integer(value: number): Uint8Array {
  const bytes: number[] = []
  let rest = value
  for (; rest > 0x7f; rest = Math.floor(rest / 128)) bytes.push((rest & 0x7f) | 0x80)
  bytes.push(rest)
  return Uint8Array.from(bytes)
}
