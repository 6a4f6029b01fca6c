import type { Document, Hocuspocus } from '@hocuspocus/server'
import type { Directory } from './directory.js'
import type { Documents } from './documents.js'
import type { Engine } from './engine.js'
import { AffinityError } from './errors.js'

/**
 * Documents that go to a server that somebody has chosen: stored, then the lease becomes that server's in one step, and
 * what was not stored is handed over. Clients stay connected where they are, and go on at the new owner.
 */
export class Moves {
  #moving = new WeakSet<Document>()

  /** @param evict ends the instance of a document that is owned here no more; with what was not stored handed over */
  constructor(
    private readonly instance: Hocuspocus,
    private readonly engine: Engine,
    private readonly documents: Documents,
    private readonly directory: Directory,
    private readonly evict: (name: string, handOver: boolean) => void,
  ) {}

  /** Is it a move that ends the instance? What has changed since its store is handed over then. */
  isEnding(document: Document): boolean {
    return this.#moving.has(document)
  }

  /** @throws AffinityError `AFF_EINVAL`, `AFF_EOWNED` (it is not owned and loaded here), `AFF_EREDIS`, `AFF_ENOTCONN` */
  async move(name: string, to: string): Promise<void> {
    const document = this.documents.instanceOf(name)
    if (!document || this.instance.documents.get(name) !== document) throw notHere(name)
    if (this.documents.isHeld(name)) throw new AffinityError('AFF_EINVAL', `document "${name}" is locked by lockDocument: it stays`)
    if (this.#moving.has(document)) throw new AffinityError('AFF_EINVAL', `document "${name}" is being moved already`)
    this.#moving.add(document)
    try {
      const boot = await this.#bootOf(to)
      await this.#store(document)
      if (this.instance.documents.get(name) !== document) throw notHere(name)
      const wasOurs = await this.engine.give(name, to, boot)
      if (this.instance.documents.get(name) !== document) return // somebody else has taken it meanwhile
      const isBehind = this.documents.isUnstored(document) || document.saveMutex.isLocked()
      this.evict(name, !wasOurs || isBehind || document.directConnectionsCount > 0)
    } finally {
      this.#moving.delete(document)
      // Whoever closed it last meanwhile could not unload it.
      if (document.getConnectionsCount() === 0) void this.instance.unloadDocument(document)
    }
  }

  async #bootOf(serverId: string): Promise<string> {
    const server = (await this.directory.servers()).find((one) => one.serverId === serverId)
    const boot = await this.directory.bootOf(serverId)
    if (boot === undefined) throw new AffinityError('AFF_EINVAL', `server "${serverId}" is no member of the cluster`)
    if (server?.draining) throw new AffinityError('AFF_EINVAL', `server "${serverId}" is draining: it takes no documents`)
    return boot
  }

  /** So that the next owner loads what there is. A store that fails is not in the way: its changes are handed over. */
  async #store(document: Document): Promise<void> {
    const { debouncer } = this.instance
    const id = `onStoreDocument-${document.name}`
    if (debouncer.isDebounced(id)) await Promise.resolve(debouncer.executeNow(id)).catch(() => {})
    await document.saveMutex.waitForUnlock()
  }
}

function notHere(name: string): AffinityError {
  return new AffinityError('AFF_EOWNED', `document "${name}" is not open on this server`)
}
