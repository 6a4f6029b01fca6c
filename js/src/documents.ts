import type { Document, Hocuspocus } from '@hocuspocus/server'
import { applyUpdate, encodeStateAsUpdate } from 'yjs'
import { AffinityError } from './errors.js'
import type { Engine } from './engine.js'
import { NOT_OWNER_REASON } from './hocuspocus.js'

/** The internal event by which the state of a document goes to its new owner. No custom event has such a name. */
export const MERGE_EVENT = '\0merge'

/** What one message between servers can hold. */
const MAX_STATE = 64 * 1024 * 1024

/** How long a document that was given up waits for its next owner. */
const NEW_OWNER_WITHIN_MS = 1000

/** How long a hand-over gathers updates of a lost document before it sends them. */
const GATHER_MS = 50

/** Why this server keeps documents: loaded instances, and holds of lockDocument. The engine counts the rest. */
export class Documents {
  /* Instances, not names: an old instance's late unload must not end the new one's use. */
  #loaded = new Map<string, Set<Document>>()
  #lost = new WeakSet<Document>()
  #holds = new Map<string, Set<object>>()
  #handOvers = new Set<Promise<void>>()
  #epochs = new Map<string, number>()

  constructor(private readonly engine: Engine) {}

  /** Documents that are loaded or held. */
  get count(): number {
    return this.#loaded.size + this.#holds.size
  }

  isLoaded(name: string): boolean {
    return this.#loaded.has(name)
  }

  /** Has this server lost the document since the instance was loaded? Then it must not be stored. */
  isLost(document: Document): boolean {
    return this.#lost.has(document)
  }

  /** Asks Redis whether the document is this server's; resolves with its epoch. */
  async confirm(name: string): Promise<number> {
    const epoch = await this.engine.confirm(name)
    if (this.#epochs.has(name)) this.#epochs.set(name, epoch)
    return epoch
  }

  /** The epoch under which this server owns a document that is loaded or held here, as last heard of Redis. */
  epochOf(name: string): number | undefined {
    return this.#epochs.get(name)
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

  /** Called while Hocuspocus loads a document: without the lease nothing loads. */
  async load(instance: Hocuspocus, document: Document): Promise<void> {
    const { name } = document
    try {
      this.#epochs.set(name, await this.engine.claim(name, 'loaded'))
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
    this.#forgetEpoch(document.name)
    this.engine.unuse(document.name, 'loaded')
  }

  /** Ends the use of instances that Hocuspocus has destroyed. */
  sweep(name: string): void {
    for (const document of [...(this.#loaded.get(name) ?? [])]) {
      if (document.isDestroyed) this.unloaded(document)
    }
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

  /**
   * Gives all that a lost instance holds to the document's owner, and what direct connections still write to
   * it; then it is destroyed. Merging is safe: what the owner has already changes nothing.
   */
  handOver(document: Document): Promise<void> {
    const done = this.#sendState(document).finally(() => this.#handOvers.delete(done))
    this.#handOvers.add(done)
    return done
  }

  async #sendState(document: Document): Promise<void> {
    let changed = true
    document.on('update', () => (changed = true))
    while (changed || document.directConnectionsCount > 0) {
      if (changed) {
        changed = false
        await this.#merge(document).catch(async (error) => {
          changed = true
          console.warn(`[RedisServerAffinity] document "${document.name}" could not be handed over yet: ${error.message}`)
        })
      }
      await new Promise((resolve) => setTimeout(resolve, GATHER_MS))
    }
    if (!document.isDestroyed) document.destroy()
  }

  async #merge(document: Document): Promise<void> {
    const { name } = document
    const size = encodeStateAsUpdate(document).length
    if (size > MAX_STATE) {
      console.error(`[RedisServerAffinity] document "${name}" is too large to be handed over: ${size} bytes`)
      return
    }
    const emit = (onlyIfOpen: boolean) => this.engine.emit(MERGE_EVENT, name, encodeStateAsUpdate(document), onlyIfOpen, true)
    const deadline = Date.now() + NEW_OWNER_WITHIN_MS
    let outcome = await emit(true)
    while (!outcome.here && !outcome.open && Date.now() < deadline) {
      await new Promise((resolve) => setTimeout(resolve, GATHER_MS))
      outcome = await emit(true)
    }
    if (!outcome.here && !outcome.open) outcome = await emit(false)
    if (!outcome.here) return
    // Nobody wants it: this server has it once more, and the state goes to the store through a new instance.
    try {
      await this.receive(this.#instanceFor(), name, encodeStateAsUpdate(document))
    } finally {
      this.engine.unuse(name, 'event')
    }
  }

  #instanceFor: () => Hocuspocus = () => {
    throw new AffinityError('AFF_EINVAL', 'no Hocuspocus')
  }

  /** The Hocuspocus whose documents these are. */
  serve(instance: Hocuspocus): void {
    this.#instanceFor = () => instance
  }

  /** At the new owner: merges what a former one has sent. */
  async receive(instance: Hocuspocus, name: string, update: Uint8Array): Promise<void> {
    const connection = await instance.openDirectConnection(name, {})
    await connection.transact((document) => applyUpdate(document, update))
    await connection.disconnect()
  }

  /** Resolves when all hand-overs are done. */
  async settled(): Promise<void> {
    await Promise.allSettled([...this.#handOvers])
  }
}
