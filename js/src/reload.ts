import type { Document, onLoadDocumentPayload } from '@hocuspocus/server'
import { Doc, applyUpdate, encodeStateAsUpdate } from 'yjs'

/** So many at once: after a restart of Redis without its data all documents are loaded again. */
const AT_ONCE = 8
const AGAIN_MS = 1000

/**
 * Loads living documents once more: those that this server owns under a new epoch, while others may have owned and
 * stored them in between. What is stored is merged into the instance, and then the whole is stored. Not before: it
 * would replace what it has not seen.
 */
export class Reloads {
  #payloads = new WeakMap<Document, onLoadDocumentPayload>()
  #reloads = new WeakMap<Document, Promise<void>>()
  #waiting: (() => void)[] = []
  #running = 0

  constructor(private readonly store: (document: Document) => void) {}

  /** Remembers how the instance was loaded, to do the same again. */
  loaded(payload: onLoadDocumentPayload): void {
    this.#payloads.set(payload.document, payload)
  }

  /** Begins to load an instance again, unless it waits for that already. */
  reload(document: Document): void {
    if (this.#payloads.has(document) && !this.#reloads.has(document)) this.#begin(document)
  }

  isUnderWay(document: Document): boolean {
    return this.#reloads.has(document)
  }

  #begin(document: Document): void {
    const done = this.#load(document)
    this.#reloads.set(document, done)
    done.then(
      () => {
        this.#reloads.delete(document)
        if (!document.isDestroyed) this.store(document)
      },
      () => {
        const again = () => !document.isDestroyed && this.#begin(document)
        setTimeout(again, AGAIN_MS).unref()
      },
    )
  }

  /** Resolves when the instance holds what is stored; rejects with the error of the last attempt to load it. */
  async whole(document: Document): Promise<void> {
    await this.#reloads.get(document)
  }

  async #load(document: Document): Promise<void> {
    if (this.#running >= AT_ONCE) await new Promise<void>((resolve) => this.#waiting.push(resolve))
    this.#running++
    try {
      if (document.isDestroyed) return
      const payload = this.#payloads.get(document)!
      // As Hocuspocus does it.
      await payload.instance.hooks('onLoadDocument', payload, (loaded: unknown) => {
        if (loaded instanceof Doc) applyUpdate(document, encodeStateAsUpdate(loaded))
        else if (loaded instanceof Uint8Array) applyUpdate(document, loaded)
      })
    } finally {
      this.#running--
      this.#waiting.shift()?.()
    }
  }
}
