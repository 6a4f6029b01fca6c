import type { Document, onLoadDocumentPayload } from '@hocuspocus/server'

/** So many at once: after a restart of Redis without its data all documents are loaded again. */
const AT_ONCE = 8
const AGAIN_MS = 1000

/** How an instance was loaded, under which epoch it was or is to be loaded last, and the load that is under way. */
interface Load {
  payload: onLoadDocumentPayload
  under: number
  underWay?: Promise<void>
}

/**
 * Loads living documents once more: those that this server owns under a new epoch, while others may have owned and
 * stored them in between. What is stored is merged into the instance, and then the whole is stored. Not before: it
 * would replace what it has not seen.
 */
export class Reloads {
  #loads = new WeakMap<Document, Load>()
  #waiting: (() => void)[] = []
  #running = 0

  constructor(
    private readonly store: (document: Document) => void,
    private readonly merge: (document: Document, loaded: unknown) => void,
  ) {}

  /** The instance is being loaded under this epoch. */
  loading(payload: onLoadDocumentPayload, epoch: number): void {
    this.#loads.set(payload.document, { payload, under: epoch })
  }

  /** Loads an instance again if it has been loaded, or is, under an older epoch. */
  reload(document: Document, epoch: number): void {
    const load = this.#loads.get(document)
    if (!load || epoch <= load.under) return
    load.under = epoch
    if (!load.underWay) this.#begin(document, load)
  }

  isUnderWay(document: Document): boolean {
    return this.#loads.get(document)?.underWay !== undefined
  }

  #begin(document: Document, load: Load): void {
    const epoch = load.under
    load.underWay = this.#load(document, load.payload)
    load.underWay.then(
      () => {
        load.underWay = undefined
        if (document.isDestroyed) return
        // What others have stored since this load has read can be missing.
        if (load.under > epoch) this.#begin(document, load)
        else this.store(document)
      },
      () => {
        const again = () => !document.isDestroyed && this.#begin(document, load)
        setTimeout(again, AGAIN_MS).unref()
      },
    )
  }

  /**
   * Resolves when the instance holds what was stored before this epoch, with whether that took a load; rejects with
   * the error of the last attempt.
   */
  async whole(document: Document, epoch: number): Promise<boolean> {
    this.reload(document, epoch)
    const load = this.#loads.get(document)
    if (!load?.underWay) return false
    while (load.underWay) await load.underWay
    return true
  }

  async #load(document: Document, payload: onLoadDocumentPayload): Promise<void> {
    if (this.#running >= AT_ONCE) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    this.#running++
    try {
      if (document.isDestroyed) return
      await payload.instance.hooks('onLoadDocument', payload, (loaded: unknown) => this.merge(document, loaded))
    } finally {
      this.#running--
      this.#waiting.shift()?.()
    }
  }
}
