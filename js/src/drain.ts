import type { Document, Hocuspocus } from '@hocuspocus/server'
import type { Documents } from './documents.js'
import type { Engine } from './engine.js'
import type { HandOvers } from './handover.js'
import { pause, within } from './time.js'
import { StoreTurns } from './turns.js'

/** What the move of one document takes, with its clients; half of the time is to suffice for all. */
const EACH_MS = 30
const AT_ONCE_MIN = 2
const AT_ONCE_MAX = 32
const LOOK_AGAIN_MS = 20
/** What handing the rest over may take when the time is over. */
const LAST_HAND_OVER_MS = 500

/** A server hands on all that it has: each document is stored, its lease is freed, and the rest goes to its next owner. */
export class Drain {
  readonly turns = new StoreTurns()
  readonly #until: number
  readonly #atOnce: number
  #taken = new Set<Document>()
  #isDone = false
  #unstored = 0

  /** @param evict ends the instance of a document that is owned here no more; with what was not stored handed over */
  constructor(
    private readonly instance: Hocuspocus,
    private readonly engine: Engine,
    private readonly documents: Documents,
    private readonly handOvers: HandOvers,
    private readonly evict: (name: string, handOver: boolean) => void,
    timeout: number,
  ) {
    this.#until = Date.now() + timeout
    const needed = Math.ceil((instance.documents.size * EACH_MS) / (timeout / 2))
    this.#atOnce = Math.min(AT_ONCE_MAX, Math.max(AT_ONCE_MIN, needed))
  }

  async run(): Promise<void> {
    const started = Date.now()
    this.engine.log.info('draining: documents go to other servers', { topic: 'documents' })
    if (this.engine.hasJoined) await within(this.#left(), this.engine.ready().catch(() => {})) // else it owns nothing
    this.engine.drain()
    await within(this.#left(), Promise.all(Array.from({ length: this.#atOnce }, () => this.#work())))
    await this.#leaveTheRest()
    this.#isDone = true
    this.engine.log.info(`drained in ${Date.now() - started} ms`, { topic: 'documents' })
  }

  /** Is nothing left to do? */
  get isDone(): boolean {
    return this.#isDone
  }

  /** Documents that had not moved when the time was over. */
  get unstored(): number {
    return this.#unstored
  }

  /** Is it this drain that ends the instance? What has changed since its store is handed over then. */
  isEnding(document: Document): boolean {
    return this.#taken.has(document)
  }

  #left(): number {
    return Math.max(0, this.#until - Date.now())
  }

  /**
   * One document after the other, those included that are still being loaded when the drain begins, and those that
   * come back because nobody wants what they hand over.
   */
  async #work(): Promise<void> {
    const { documents, loadingDocuments } = this.instance
    while (this.#left() > 0 && (documents.size + loadingDocuments.size > 0 || this.handOvers.areBehind)) {
      const next = this.#next()
      if (!next) {
        await pause(LOOK_AGAIN_MS)
        continue
      }
      this.#taken.add(next)
      const failed = (error: unknown) =>
        this.engine.log.error(`draining "${next.name}" failed`, { topic: 'documents', document: next.name, error })
      await this.#leave(next).catch(failed)
    }
  }

  /** A document that no worker has had; those that have moved are not in the map any more. */
  #next(): Document | undefined {
    for (const document of this.instance.documents.values()) if (!this.#taken.has(document)) return document
    return undefined
  }

  /** Stores a document, frees its lease, and gives what was not stored to whoever owns it next. */
  async #leave(document: Document): Promise<void> {
    const { name } = document
    const { debouncer } = this.instance
    const id = `onStoreDocument-${name}`
    // A store that is running or waiting takes this turn; else one that is due. What comes later is handed over.
    const isWaiting = this.turns.give(document)
    if (isWaiting || !debouncer.isDebounced(id)) await document.saveMutex.waitForUnlock()
    else await debouncer.executeNow(id)
    this.turns.end(document)
    const wasOurs = await this.#free(document)
    if (this.instance.documents.get(name) !== document) return
    const hasClients = document.getConnectionsCount() > document.directConnectionsCount
    this.evict(name, !wasOurs || this.documents.isUnstored(document) || document.directConnectionsCount > 0)
    // Others take over no more at once than they can: a document pauses while it queues there.
    if (hasClients) await within(this.#left(), this.handOvers.taken(name))
  }

  /** Not while Redis is asked about the lease, or away. True: nobody else can have had the document until then. */
  async #free(document: Document): Promise<boolean> {
    while (this.instance.documents.get(document.name) === document) {
      const wasOurs = await this.engine.leave(document.name).catch(() => undefined)
      if (wasOurs !== undefined) return wasOurs
      if (this.#left() === 0) break
      await pause(LOOK_AGAIN_MS)
    }
    return false
  }

  /**
   * Time is over: the rest moves unstored, with what it has handed over as far as that goes. Where Redis does not
   * answer, documents fail over, from what their clients and the store have.
   */
  async #leaveTheRest(): Promise<void> {
    const names = [...this.instance.documents.keys()]
    if (names.length === 0) return
    this.#unstored = names.length
    await Promise.all(names.map((name) => this.engine.leave(name, true).catch(() => {})))
    for (const name of names) this.evict(name, true)
    await within(LAST_HAND_OVER_MS, this.handOvers.settled())
  }
}
