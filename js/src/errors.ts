import { native } from './native.js'

/** An error of this extension: `code` is one of the names of `AFF_ERRORS` in core/aff.h. */
export class AffinityError extends Error {
  override name = 'AffinityError'
  /** With `AFF_EOWNED`: the `serverId` of the server that owns the document. */
  declare readonly owner?: string

  constructor(
    readonly code: string,
    message: string,
    owner?: string,
  ) {
    super(message)
    if (owner !== undefined) this.owner = owner
  }
}

/** The error for a negative status of the engine. */
export function errorOf(status: number, what: string, owner?: string): AffinityError {
  const [code, text] = native.errors[status] ?? ['AFF_EUNKNOWN', `status ${status}`]
  return new AffinityError(code, `${what}: ${text}`, owner)
}
