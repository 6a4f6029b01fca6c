/* Commands to Redis and its answers, as they cross between the threads: see runtime/foreign.h. */

/** Of a command, as runtime/foreign.h lays them out. */
export function argumentsOf(data: Uint8Array): Buffer[] {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.length)
  const args: Buffer[] = []
  for (let at = 0; at < bytes.length; ) {
    const end = at + 4 + bytes.readUInt32LE(at)
    args.push(bytes.subarray(at + 4, end))
    at = end
  }
  return args
}

function valueOf(value: unknown): Buffer {
  if (typeof value === 'number') {
    const bytes = Buffer.alloc(9, 1)
    bytes.writeDoubleLE(value, 1)
    return bytes
  }
  if (!(value instanceof Uint8Array)) return Buffer.alloc(1)
  const head = Buffer.alloc(5, 2)
  head.writeUInt32LE(value.length, 1)
  return Buffer.concat([head, value])
}

/** An answer of Redis as runtime/foreign.h reads it. */
export function valuesOf(reply: unknown): Uint8Array {
  return Array.isArray(reply) ? Buffer.concat(reply.map(valueOf)) : valueOf(reply)
}

export type RedisValue = null | number | Buffer

/** An answer of Redis, read as runtime/foreign.h lays it out. */
export function valuesIn(data: Uint8Array): RedisValue[] {
  const bytes = Buffer.from(data) // a copy: values outlive the block that they came in
  const values: RedisValue[] = []
  for (let at = 0; at < bytes.length; ) {
    const type = bytes[at++]
    if (type === 1) {
      values.push(bytes.readDoubleLE(at))
      at += 8
    } else if (type === 2) {
      const end = at + 4 + bytes.readUInt32LE(at)
      values.push(bytes.subarray(at + 4, end))
      at = end
    } else {
      values.push(null)
    }
  }
  return values
}

/** A command, laid out as runtime/foreign.h reads it. */
export function layOut(args: (string | Uint8Array)[]): Buffer {
  return Buffer.concat(
    args.flatMap((arg) => {
      const bytes = Buffer.from(arg as string)
      const head = Buffer.alloc(4)
      head.writeUInt32LE(bytes.length)
      return [head, bytes]
    }),
  )
}
