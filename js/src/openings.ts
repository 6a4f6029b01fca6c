import { MOVED_REASON } from './hocuspocus.js'

/** So many documents are remembered: nobody authenticates for longer than those take to be lost. */
const MAX_LOSSES = 10_000

/**
 * Clients that authenticate, and wait for a document to be loaded. When this server loses the document meanwhile, their
 * routes go elsewhere, and come back, if they do, on another socket of Hocuspocus's: the first one must not get the
 * document any more, or its end would end the client's cursor at the present owner.
 */
export class Openings {
  /** When each document was lost last, by a count of all losses. */
  #lostAt = new Map<string, number>()
  #losses = 0
  /** How many losses there were when each one began. Hocuspocus makes such an object for each address of a socket. */
  #begunAt = new WeakMap<object, number>()

  begins(connectionConfig: object): void {
    this.#begunAt.set(connectionConfig, this.#losses)
  }

  lost(documentName: string): void {
    this.#lostAt.delete(documentName)
    this.#lostAt.set(documentName, ++this.#losses)
    if (this.#lostAt.size > MAX_LOSSES) this.#lostAt.delete(this.#lostAt.keys().next().value!)
  }

  /** @throws what makes Hocuspocus forget the address, without a word to the client */
  check(documentName: string, connectionConfig: object | undefined): void {
    const begunAt = connectionConfig && this.#begunAt.get(connectionConfig)
    if (begunAt === undefined || (this.#lostAt.get(documentName) ?? 0) <= begunAt) return
    throw Object.assign(new Error(`document "${documentName}" has moved`), { reason: MOVED_REASON })
  }

  ended(connectionConfig: object | undefined): void {
    if (connectionConfig) this.#begunAt.delete(connectionConfig)
  }
}
