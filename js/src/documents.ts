import type { Document, Hocuspocus } from '@hocuspocus/server'
import { AffinityError } from './errors.js'
import type { Engine } from './engine.js'
import { MOVED_REASON, NOT_OWNER_REASON } from './hocuspocus.js'

/** Why this server keeps documents: loaded instances, and holds of lockDocument. The engine counts the rest. */
export class Documents {
  /* Instances, not names: an old instance's late unload must not end the new one's use. */
  #loaded = new Map<string, Set<Document>>()
  #lost = new WeakSet<Document>()
  #holds = new Map<string, Set<object>>()
  #epochs = new Map<string, number>()
  /* How many changes an instance has had; how many of them the last store has seen, and the last that ended well. */
  #changes = new WeakMap<Document, { made: number; storing: number; stored: number; stores: number; here: number; changed: number }>()

  constructor(private readonly engine: Engine) {}

  /** Documents that are loaded or held. */
  get count(): number {
    return this.#loaded.size + this.#holds.size
  }

  /** Does lockDocument keep it here? */
  isHeld(name: string): boolean {
    return this.#holds.has(name)
  }

  isLoaded(name: string): boolean {
    return this.#loaded.has(name)
  }

  /** Is the instance loaded, or being loaded with the lease in hand? */
  isTracked(document: Document): boolean {
    return this.#loaded.get(document.name)?.has(document) ?? false
  }

  /** Has this server lost the document since the instance was loaded? Then it must not be stored. */
  isLost(document: Document): boolean {
    return this.#lost.has(document)
  }

  /** The instance that is loaded here, if this server has not lost it. */
  instanceOf(name: string): Document | undefined {
    return [...(this.#loaded.get(name) ?? [])].at(-1)
  }

  /** Asks Redis whether the document is this server's; resolves with its epoch. */
  async confirm(name: string): Promise<number> {
    const epoch = await this.engine.confirm(name)
    this.renewed(name, epoch)
    return epoch
  }

  /** The epoch under which this server owns a document that is loaded or held here, as last heard of Redis. */
  epochOf(name: string): number | undefined {
    return this.#epochs.get(name)
  }

  /** The engine has claimed the document anew by itself. */
  renewed(name: string, epoch: number): void {
    if (this.#epochs.has(name)) this.#epochs.set(name, epoch)
  }

  #forgetEpoch(name: string): void {
    if (!this.#loaded.has(name) && !this.#holds.has(name)) this.#epochs.delete(name)
  }

  // ---- lockDocument -----------------------------------------------------------------------------------

  async hold(name: string): Promise<() => Promise<void>> {
    this.#epochs.set(name, await this.engine.claim(name, 'hold'))
    const hold = {}
    const holds = this.#holds.get(name) ?? new Set()
    this.#holds.set(name, holds.add(hold))
    return async () => {
      if (!holds.delete(hold)) return
      if (holds.size === 0 && this.#holds.get(name) === holds) this.#holds.delete(name)
      this.#forgetEpoch(name)
      this.engine.unuse(name, 'hold')
    }
  }

  releaseHolds(name: string): void {
    const holds = this.#holds.get(name)
    this.#holds.delete(name)
    this.#forgetEpoch(name)
    for (const hold of holds ?? []) {
      holds!.delete(hold)
      this.engine.unuse(name, 'hold')
    }
  }

  // ---- loading ----------------------------------------------------------------------------------------

  /** Called while Hocuspocus loads a document: without the lease nothing loads. Resolves with its epoch. */
  async load(instance: Hocuspocus, document: Document): Promise<number> {
    const { name } = document
    let epoch: number
    try {
      epoch = await this.engine.claim(name, 'loaded')
    } catch (error) {
      const reason = (error as AffinityError).code === 'AFF_EOWNED' ? MOVED_REASON : NOT_OWNER_REASON
      throw Object.assign(error as AffinityError, { reason })
    }
    this.#epochs.set(name, epoch)
    this.#track(document)
    // No hook tells of a load that fails later; the promise does.
    instance.loadingDocuments.get(name)?.catch(() => this.unloaded(document))
    return epoch
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
    this.#forgetEpoch(document.name)
    this.engine.unuse(document.name, 'loaded')
  }

  /** Ends the use of instances that Hocuspocus has destroyed. */
  sweep(name: string): void {
    for (const document of [...(this.#loaded.get(name) ?? [])]) {
      if (document.isDestroyed) this.unloaded(document)
    }
  }

  // ---- storing ----------------------------------------------------------------------------------------

  /** From here on changes count: what came before was loaded. */
  watchChanges(document: Document): void {
    const now = Date.now()
    const changes = { made: 0, storing: 0, stored: 0, stores: 0, here: now, changed: now }
    this.#changes.set(document, changes)
    document.on('update', () => {
      changes.made++
      changes.changed = Date.now()
    })
  }

  storing(document: Document): void {
    const changes = this.#changes.get(document)
    if (changes) changes.storing = changes.made
  }

  stored(document: Document): void {
    const changes = this.#changes.get(document)
    if (!changes) return
    changes.stored = changes.storing
    changes.stores++
  }

  wasStored(document: Document): boolean {
    return (this.#changes.get(document)?.stores ?? 0) > 0
  }

  /** When it came here, and when it was last changed, in ms since 1970. */
  since(document: Document): { here: number; changed: number } | undefined {
    return this.#changes.get(document)
  }

  /** Counts as a change; returns its number. */
  touch(document: Document): number {
    const changes = this.#changes.get(document)
    return changes ? ++changes.made : 0
  }

  /** Has no store that ended well seen the changes up to that one, or up to the last one? */
  isUnstored(document: Document, upTo?: number): boolean {
    const changes = this.#changes.get(document)
    return changes !== undefined && changes.stored < (upTo ?? changes.made)
  }

  // ---- losing -----------------------------------------------------------------------------------------

  /**
   * Another server owns the document, or may: the engine counts no use of it any more. Returns the instance
   * that was loaded here, which must not be stored.
   */
  lose(name: string): Document | undefined {
    const instances = [...(this.#loaded.get(name) ?? [])]
    for (const document of instances) this.#lost.add(document)
    this.#loaded.delete(name)
    this.#holds.get(name)?.clear()
    this.#holds.delete(name)
    this.#epochs.delete(name)
    return instances.at(-1)
  }
}
