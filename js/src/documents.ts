import type { Document, Hocuspocus } from '@hocuspocus/server'
import { AffinityError } from './errors.js'
import type { Engine } from './engine.js'
import { NOT_OWNER_REASON } from './hocuspocus.js'

/** Why this server keeps documents: loaded instances, and holds of lockDocument. The engine counts the rest. */
export class Documents {
  /* Instances, not names: an old instance's late unload must not end the new one's use. */
  #loaded = new Map<string, Set<Document>>()
  #lost = new WeakSet<Document>()
  #holds = new Map<string, Set<object>>()

  constructor(private readonly engine: Engine) {}

  isLoaded(name: string): boolean {
    return this.#loaded.has(name)
  }

  /** Has this server lost the document since the instance was loaded? Then it must not be stored. */
  isLost(document: Document): boolean {
    return this.#lost.has(document)
  }

  // ---- lockDocument -----------------------------------------------------------------------------------

  async hold(name: string): Promise<() => Promise<void>> {
    await this.engine.claim(name, 'hold')
    const hold = {}
    const holds = this.#holds.get(name) ?? new Set()
    this.#holds.set(name, holds.add(hold))
    return async () => {
      if (!holds.delete(hold)) return
      if (holds.size === 0 && this.#holds.get(name) === holds) this.#holds.delete(name)
      this.engine.unuse(name, 'hold')
    }
  }

  releaseHolds(name: string): void {
    const holds = this.#holds.get(name)
    this.#holds.delete(name)
    for (const hold of holds ?? []) {
      holds!.delete(hold)
      this.engine.unuse(name, 'hold')
    }
  }

  // ---- loading ----------------------------------------------------------------------------------------

  /** Called while Hocuspocus loads a document: without the lease nothing loads. */
  async load(instance: Hocuspocus, document: Document): Promise<void> {
    const { name } = document
    try {
      await this.engine.claim(name, 'loaded')
    } catch (error) {
      throw Object.assign(error as AffinityError, { reason: NOT_OWNER_REASON })
    }
    this.#track(document)
    // No hook tells of a load that fails later; the promise does.
    instance.loadingDocuments.get(name)?.catch(() => this.unloaded(document))
  }

  #track(document: Document): void {
    const instances = this.#loaded.get(document.name) ?? new Set()
    this.#loaded.set(document.name, instances.add(document))
    document.once('destroy', () => this.unloaded(document))
  }

  /** The instance is gone; idempotent. */
  unloaded(document: Document): void {
    const instances = this.#loaded.get(document.name)
    if (!instances?.delete(document)) return
    if (instances.size === 0) this.#loaded.delete(document.name)
    this.engine.unuse(document.name, 'loaded')
  }

  /** Ends the use of instances that Hocuspocus has destroyed. */
  sweep(name: string): void {
    for (const document of [...(this.#loaded.get(name) ?? [])]) {
      if (document.isDestroyed) this.unloaded(document)
    }
  }

  /** Another server owns the document: the engine counts no use of it any more. */
  lost(name: string): void {
    for (const document of this.#loaded.get(name) ?? []) this.#lost.add(document)
    this.#loaded.delete(name)
    this.#holds.get(name)?.clear()
    this.#holds.delete(name)
  }
}
