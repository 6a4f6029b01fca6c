import { Packr } from 'msgpackr'
import { AffinityError } from './errors.js'
import type { Options, RSAMessage } from './options.js'

const UNKNOWN_FAILURE = 'the event handler failed'

/** Without `pack`, payloads keep Date, Map, Set, typed arrays, undefined and cycles, as structuredClone does. */
const packr = new Packr({ structuredClone: true })

export const packValue = (value: unknown): Uint8Array => packr.pack(value)
export const unpackValue = (bytes: Uint8Array): unknown => packr.unpack(bytes.slice())

/** What `pack` gave back, as bytes. */
export function bytesOf(packed: string | Uint8Array): Uint8Array {
  if (typeof packed === 'string') return Buffer.from(packed)
  if (packed instanceof Uint8Array) return packed
  throw new AffinityError('AFF_EINVAL', `"pack" must give back a string or a Uint8Array, not ${typeof packed}`)
}

/** Serializes what custom events carry: with the user's `pack` where there is one. */
export class PayloadCodec {
  constructor(private readonly options: Pick<Options, 'pack' | 'unpack' | 'log'>) {}

  pack(message: RSAMessage): Uint8Array {
    if (!this.options.pack) return packValue(message)
    return bytesOf(this.options.pack(message))
  }

  unpack(bytes: Uint8Array): RSAMessage {
    if (!this.options.unpack) return unpackValue(bytes) as RSAMessage
    return this.options.unpack(Buffer.from(bytes))
  }

  /** Never throws: where an error can't be packed, another one says so; where that can't be either, nothing does. */
  packError(error: unknown): Uint8Array {
    try {
      const { message, name, code } = (error ?? {}) as Partial<Error> & { code?: string | number }
      return this.pack({ type: 'error', message: message ?? String(error), name, code })
    } catch (cause) {
      this.options.log.error('an error of an event handler could not be packed', { error: cause })
    }
    try {
      return this.pack({ type: 'error', message: UNKNOWN_FAILURE })
    } catch {
      return new Uint8Array()
    }
  }

  /** The error as it was thrown at the owner: its message, name and code. */
  unpackError(bytes: Uint8Array): Error {
    const thrown = bytes.length > 0 ? this.unpack(bytes) : undefined
    if (thrown?.type !== 'error') return new Error(UNKNOWN_FAILURE)
    const error: Error & { code?: string | number } = new Error(thrown.message)
    if (thrown.name) error.name = thrown.name
    if (thrown.code !== undefined) error.code = thrown.code
    return error
  }
}
