import type { Document, Hocuspocus } from '@hocuspocus/server'
import { applyUpdate, encodeStateAsUpdate, mergeUpdates } from 'yjs'
import type { Documents } from './documents.js'
import type { Engine, EventOutcome } from './engine.js'
import { AffinityError } from './errors.js'
import type { Stores } from './stores.js'
import { pause } from './time.js'

/** The internal event by which the state of a document goes to its new owner. No custom event has such a name. */
const MERGE_EVENT = '\0merge'

/** The same while a store of the sender's is under way, which may end after the new owner's: that is to store once more. */
const LATE_MERGE_EVENT = '\0late-merge'

/** The internal event by which a former owner learns that the document is open at its new owner. */
const OPEN_EVENT = '\0open'

/** What one message between servers can hold. */
const MAX_STATE = 64 * 1024 * 1024

/** How long a document that was given up waits for its next owner. */
const NEW_OWNER_WITHIN_MS = 1000
const LOOK_AGAIN_MS = 20

/** How long updates of a lost document are gathered; after failures twice as long each time. */
const GATHER_MS = 100
const GATHER_MAX_MS = 5000

/** A lost instance on its way to its document's owner. */
class HandOver {
  /** What the owner may not have: all, or what has come since it was sent all. */
  #all = true
  #updates: Uint8Array[] = []
  #sending = false
  /** A store that has begun before the document was lost, and may end after the owner's. */
  #storing: boolean

  constructor(readonly document: Document) {
    document.on('update', (update: Uint8Array) => this.#updates.push(update))
    this.#storing = document.saveMutex.isLocked()
    if (this.#storing) void document.saveMutex.waitForUnlock().then(() => this.#stored())
  }

  /** The owner stores with each merge: so what has just been written here is not what stays. */
  #stored(): void {
    this.#storing = false
    this.#all = true
  }

  get isBehind(): boolean {
    return this.#all || this.#updates.length > 0 || this.#sending || this.#storing
  }

  get isOver(): boolean {
    return !this.isBehind && this.document.directConnectionsCount === 0
  }

  /** Sends what the owner may not have. */
  async send(merge: (update: Uint8Array, isLate: boolean) => Promise<void>): Promise<void> {
    if (!this.#all && this.#updates.length === 0) return
    const all = this.#all
    const updates = this.#updates
    this.#all = false
    this.#updates = []
    this.#sending = true
    try {
      await merge(all ? encodeStateAsUpdate(this.document) : mergeUpdates(updates), this.#storing)
    } catch (error) {
      this.#all ||= all
      this.#updates = [...updates, ...this.#updates]
      throw error
    } finally {
      this.#sending = false
    }
  }
}

/** A living server that has lost a document gives its owner all that it holds of it. */
export class HandOvers {
  #running = new Set<HandOver>()
  #instance: Hocuspocus | undefined
  #stores: Pick<Stores, 'onceMore'> | undefined

  constructor(
    private readonly engine: Engine,
    private readonly documents: Documents,
  ) {}

  /** The Hocuspocus whose documents these are. */
  serve(instance: Hocuspocus, stores: Pick<Stores, 'onceMore'>): void {
    this.#instance = instance
    this.#stores = stores
  }

  /**
   * Gives all that a lost instance holds to the document's owner, and what direct connections still write to
   * it; then it is destroyed. Merging is safe: what the owner has already changes nothing.
   */
  async begin(document: Document): Promise<void> {
    const handOver = new HandOver(document)
    this.#running.add(handOver)
    const merge = (update: Uint8Array, isLate: boolean) => this.#merge(isLate ? LATE_MERGE_EVENT : MERGE_EVENT, document.name, update)
    let wait = GATHER_MS
    for (let isClosed = false; !handOver.isOver && !isClosed; ) {
      await handOver.send(merge).then(
        () => (wait = GATHER_MS),
        (error: AffinityError) => {
          isClosed = error.code === 'AFF_ECLOSED'
          wait = Math.min(2 * wait, GATHER_MAX_MS)
          const message = `document "${document.name}" could not be handed over${isClosed ? '' : ' yet'}: ${error.message}`
          this.engine.log.warn(message, { topic: 'documents', document: document.name })
        },
      )
      await pause(wait)
    }
    this.#running.delete(handOver)
    if (!document.isDestroyed) document.destroy()
  }

  /** Lost instances that are still held. */
  get count(): number {
    return this.#running.size
  }

  /** Do lost instances hold what their owners may not have? */
  get areBehind(): boolean {
    return [...this.#running].some((handOver) => handOver.isBehind)
  }

  /** Resolves when owners have all; direct connections may still have lost instances open. */
  async settled(): Promise<void> {
    while (this.areBehind) await pause(LOOK_AGAIN_MS)
  }

  /** Has an internal event handled by the document's owner, as soon as it has one; waits for that for a while. */
  async #askOwner(event: string, name: string, payload: Uint8Array): Promise<EventOutcome> {
    const deadline = Date.now() + NEW_OWNER_WITHIN_MS
    for (;;) {
      const outcome = await this.engine.emit(event, name, payload, true, true)
      if (outcome.here || outcome.open || Date.now() >= deadline) return outcome
      await pause(LOOK_AGAIN_MS)
    }
  }

  async #merge(event: string, name: string, update: Uint8Array): Promise<void> {
    if (update.length > MAX_STATE) {
      const message = `document "${name}" is too large to be handed over: ${update.length} bytes`
      this.engine.log.error(message, { topic: 'documents', document: name })
      return
    }
    let outcome = await this.#askOwner(event, name, update)
    if (!outcome.here && !outcome.open) outcome = await this.engine.emit(event, name, update, false, true)
    if (!outcome.here) return
    // Nobody wants it: this server has it once more, and the state goes to the store through a new instance.
    try {
      await this.#receive(name, update)
    } finally {
      this.engine.unuse(name, 'event')
    }
  }

  /** Resolves when the next owner has the document open, or nobody has wanted it for a while. */
  async taken(name: string): Promise<void> {
    const { here } = await this.#askOwner(OPEN_EVENT, name, new Uint8Array())
    if (here) this.engine.unuse(name, 'event') // nobody else has wanted it
  }

  /** At the owner: handles an internal event of a former one; undefined where it is none. */
  handle(event: string, name: string, payload: Uint8Array): Promise<void> | undefined {
    if (event === OPEN_EVENT) return this.#opened(name)
    if (event === MERGE_EVENT) return this.#receive(name, payload.slice())
    if (event === LATE_MERGE_EVENT) return this.#receive(name, payload.slice()).then(() => this.#stores!.onceMore(name))
    return undefined
  }

  /** Resolves when the document is open here, or after a while. */
  async #opened(name: string): Promise<void> {
    const deadline = Date.now() + NEW_OWNER_WITHIN_MS
    while (!this.#instance!.documents.has(name) && Date.now() < deadline) await pause(LOOK_AGAIN_MS)
  }

  /** Merges what a former owner has sent, and stores. Fails if it is not stored: the sender keeps it. */
  async #receive(name: string, update: Uint8Array): Promise<void> {
    const connection = await this.#instance!.openDirectConnection(name, {})
    const document = connection.document!
    let merged: number
    try {
      // Not by connection.transact(): that of Hocuspocus 3 stores, and what counts is the store below.
      applyUpdate(document, update, { source: 'local', context: {} })
    } finally {
      merged = this.documents.touch(document)
      await connection.disconnect()
    }
    if (this.documents.isUnstored(document, merged)) throw new AffinityError('AFF_EEVENT', `document "${name}" could not be stored`)
  }
}
