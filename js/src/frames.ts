/**
 * The outer form of Hocuspocus's messages, as far as routing needs it: a lib0 string (the address:
 * `document`, or `document\0session`), then lib0 integers.
 */
const AUTH = 2
const CLOSE = 7
const PERMISSION_DENIED = 1

/** Where the address ends, and -1 where a frame is too short for its address. */
function addressBounds(frame: Uint8Array): [start: number, end: number] {
  let length = 0
  let factor = 1
  for (let at = 0; at < frame.length && at < 5; at++) {
    const byte = frame[at]!
    length += (byte & 0x7f) * factor
    factor *= 128
    if (byte < 0x80) return at + 1 + length <= frame.length ? [at + 1, at + 1 + length] : [0, -1]
  }
  return [0, -1]
}

/** The address of a frame; undefined where it can't be read. */
export function addressOf(frame: Uint8Array): string | undefined {
  const [start, end] = addressBounds(frame)
  if (end < 0) return undefined
  return Buffer.from(frame.buffer, frame.byteOffset + start, end - start).toString()
}

export function documentOf(address: string): string {
  const separator = address.indexOf('\0')
  return separator < 0 ? address : address.slice(0, separator)
}

/** Does this frame of Hocuspocus end its address: a CLOSE, or PermissionDenied? */
export function endsRoute(frame: Uint8Array): boolean {
  const [, end] = addressBounds(frame)
  if (end < 0) return false
  const type = frame[end]
  return type === CLOSE || (type === AUTH && frame[end + 1] === PERMISSION_DENIED)
}

/** The reason in a PermissionDenied; undefined for any other frame. */
export function deniedReason(frame: Uint8Array): string | undefined {
  const [, end] = addressBounds(frame)
  if (end < 0 || frame[end] !== AUTH || frame[end + 1] !== PERMISSION_DENIED) return undefined
  return addressOf(frame.subarray(end + 2))
}
