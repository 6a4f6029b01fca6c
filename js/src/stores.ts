import type { Document, Hocuspocus, beforeUnloadDocumentPayload, onStoreDocumentPayload } from '@hocuspocus/server'
import type { Documents } from './documents.js'
import type { Drain } from './drain.js'
import type { Engine } from './engine.js'
import type { AffinityError } from './errors.js'
import { type Adapter, skipFurtherHooks } from './hocuspocus.js'
import type { Measures } from './metrics.js'
import { Reloads } from './reload.js'

const RETRY_MS = 500

/** What becomes of this server, and of its documents. */
export interface Leaving {
  /** Set once this server hands everything on. */
  drain(): Drain | undefined
  /** Does the document go to another server, stored or not? */
  isEnding(document: Document): boolean
  isClosed(): boolean
}

/** Redis is asked before each store, and after the last one: what this server has lost is not stored. */
export class Stores {
  readonly reloads: Reloads
  #later = new WeakSet<Document>()

  /** @param lateMs so long a store may go on whose server is dead */
  constructor(
    private readonly instance: Hocuspocus,
    private readonly adapter: Adapter,
    private readonly engine: Engine,
    private readonly documents: Documents,
    private readonly leaving: Leaving,
    private readonly measures: Measures['stores'],
    private readonly lateMs: number,
  ) {
    this.reloads = new Reloads(
      (document) => this.now(document),
      (document, loaded) => adapter.merge(document, loaded),
    )
  }

  /** Does the document wait in memory for Redis, to be stored then? */
  isLate(document: Document): boolean {
    return this.#later.has(document)
  }

  /**
   * Resolves when a document is to be stored.
   *
   * @throws what keeps later hooks from storing it
   */
  async before(payload: onStoreDocumentPayload): Promise<void> {
    const { document, documentName } = payload
    const notOurs = () => skipFurtherHooks(`document "${documentName}" is owned by another server now`)
    if (this.documents.isLost(document)) throw notOurs()
    const drain = this.leaving.drain()
    if (drain && !(await drain.turns.wait(document))) throw notOurs()
    try {
      // Redis is asked last: a load may have taken long.
      while (await this.reloads.whole(document, await this.#confirm(documentName)));
    } catch (error) {
      if ((error as AffinityError).code === 'AFF_EOWNED' || this.documents.isLost(document)) throw notOurs()
      this.#storeLater(payload)
      throw error
    }
    if (this.documents.isLost(document)) throw notOurs()
    this.documents.storing(document)
  }

  async #confirm(documentName: string): Promise<number> {
    const { confirmed, refused, unavailable } = this.measures
    const started = performance.now()
    try {
      const epoch = await this.documents.confirm(documentName)
      confirmed.observe(performance.now() - started)
      return epoch
    } catch (error) {
      const isLost = (error as AffinityError).code === 'AFF_EOWNED'
      const result = isLost ? refused : unavailable
      result.observe(performance.now() - started)
      throw error
    }
  }

  /** Redis can't say whose the document is: it stays in memory, and is stored when Redis can. */
  #storeLater(payload: onStoreDocumentPayload): void {
    const { document } = payload
    if (this.#later.has(document)) return
    this.#later.add(document)
    this.engine.log.debug(`Redis can't say whose document "${document.name}" is: it is stored later`, { topic: 'documents', document: document.name })
    const again = () => {
      this.#later.delete(document)
      if (!this.engine.isClosed && !document.isDestroyed) this.#store(document, payload)
    }
    setTimeout(again, RETRY_MS).unref()
  }

  /**
   * A store may have ended after another server had taken the document over, and loaded it without that: then this
   * instance is still needed. So it goes once Redis has said, after the last store, that the document is ours; but not
   * under a new epoch, before it has been loaded again and stored, nor while a drain is about to hand it over.
   */
  async beforeUnload({ document, documentName }: Pick<beforeUnloadDocumentPayload, 'document' | 'documentName'>): Promise<void> {
    if (!this.documents.wasStored(document) || this.documents.isLost(document)) return
    try {
      await this.documents.confirm(documentName)
    } catch (error) {
      const { code } = error as AffinityError
      if (code === 'AFF_ECLOSED') return
      const again = () => void this.instance.unloadDocument(document)
      if (code !== 'AFF_EOWNED') setTimeout(again, RETRY_MS).unref()
      throw skipFurtherHooks()
    }
    if (this.reloads.isUnderWay(document) || this.leaving.isEnding(document)) throw skipFurtherHooks()
  }

  now(document: Document): void {
    this.#store(document, this.adapter.storePayload(document))
  }

  /** A store of the dead owner's may still be under way, and end after ours: it is not to be the last one. */
  onceMore(name: string): void {
    const store = () => {
      const document = this.leaving.isClosed() || this.leaving.drain() ? undefined : this.documents.instanceOf(name)
      if (document) this.now(document)
    }
    setTimeout(store, this.lateMs).unref()
  }

  #store(document: Document, payload: onStoreDocumentPayload): void {
    this.instance.storeDocumentHooks(document, payload, true).catch(() => {}) // Hocuspocus has told of it
  }
}
