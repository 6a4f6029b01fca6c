import { Packr } from 'msgpackr'
import type { Options, RSAMessage } from './options.js'

/** Without `pack`, payloads keep Date, Map, Set, typed arrays, undefined and cycles, as structuredClone does. */
const packr = new Packr({ structuredClone: true })

export const packValue = (value: unknown): Uint8Array => packr.pack(value)
export const unpackValue = (bytes: Uint8Array): unknown => packr.unpack(bytes.slice())

/** Serializes what custom events carry: with the user's `pack` where there is one. */
export class PayloadCodec {
  constructor(private readonly options: Pick<Options, 'pack' | 'unpack'>) {}

  pack(message: RSAMessage): Uint8Array {
    if (!this.options.pack) return packValue(message)
    const packed = this.options.pack(message)
    return typeof packed === 'string' ? Buffer.from(packed) : packed
  }

  unpack(bytes: Uint8Array): RSAMessage {
    if (!this.options.unpack) return unpackValue(bytes) as RSAMessage
    return this.options.unpack(Buffer.from(bytes))
  }

  packError(error: unknown): Uint8Array {
    const { message, name, code } = (error ?? {}) as Partial<Error> & { code?: string | number }
    return this.pack({ type: 'error', message: message ?? String(error), name, code })
  }

  /** The error as it was thrown at the owner: its message, name and code. */
  unpackError(bytes: Uint8Array): Error {
    const thrown = this.unpack(bytes)
    if (thrown.type !== 'error') return new Error('the event handler failed')
    const error: Error & { code?: string | number } = new Error(thrown.message)
    if (thrown.name) error.name = thrown.name
    if (thrown.code !== undefined) error.code = thrown.code
    return error
  }
}
