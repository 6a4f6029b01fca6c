import type { Directory, ServerInfo } from './directory.js'
import type { Logger } from './log.js'
import { pause } from './time.js'

/**
 * Which server gets a document that nobody has, when a client opens it. `local`: the one that the client is connected to.
 * `least-loaded`: the one with the fewest documents, of the same `region` if there is one. A function gets the servers that can take it, and
 * the document's name; a name that is none of theirs, or nothing, means `local`.
 */
export type Placement = 'local' | 'least-loaded' | ((candidates: ServerInfo[], documentName: string) => string | undefined | Promise<string | undefined>)

export interface Target {
  serverId: string
  boot: string
}

/** Servers tell of themselves every third of lockTTL: their list need not be newer than this. */
const LIST_FOR_MS = 500
/** A function that takes longer decides nothing. */
const CHOOSE_WITHIN_MS = 1000

/** Servers that can take documents, and how many each has, as far as is known here. */
export class Candidates {
  #list: { until: number; servers: Promise<ServerInfo[]> } | undefined
  /** What this server has placed there since that one told of itself. */
  #placed = new Map<string, { since: number; count: number }>()

  constructor(
    private readonly directory: Directory,
    private readonly self: { serverId: string; region?: string },
  ) {}

  /** By name. One that drains takes nothing. */
  async all(): Promise<ServerInfo[]> {
    if (!this.#list || Date.now() >= this.#list.until) {
      this.#list = { until: Date.now() + LIST_FOR_MS, servers: this.directory.servers() }
    }
    const servers = await this.#list.servers
    return servers.filter(({ alive, draining }) => alive && !draining).map((server) => ({ ...server, documents: this.#documentsOf(server) }))
  }

  /** Those of this server's region, if there are any. */
  near(servers: ServerInfo[]): ServerInfo[] {
    const near = servers.filter(({ region }) => region === this.self.region)
    return near.length > 0 ? near : servers
  }

  /** The one with the fewest documents; this server, where several have as few. */
  leastLoaded(servers: ServerInfo[]): ServerInfo | undefined {
    const isBetter = (one: ServerInfo, other: ServerInfo) =>
      one.documents < other.documents || (one.documents === other.documents && one.serverId === this.self.serverId)
    return servers.reduce<ServerInfo | undefined>((best, server) => (best && !isBetter(server, best) ? best : server), undefined)
  }

  placed({ serverId, updatedAt }: ServerInfo): void {
    const known = this.#placed.get(serverId)
    if (known?.since === updatedAt) known.count++
    else this.#placed.set(serverId, { since: updatedAt, count: 1 })
  }

  #documentsOf({ serverId, updatedAt, documents }: ServerInfo): number {
    const placed = this.#placed.get(serverId)
    return documents + (placed?.since === updatedAt ? placed.count : 0)
  }
}

/** Says who shall have a document that nobody has. */
export class Placements {
  #hasWarned = false

  constructor(
    private readonly placement: Placement,
    private readonly candidates: Candidates,
    private readonly directory: Directory,
    private readonly serverId: string,
    private readonly log: Logger,
  ) {}

  /** @returns undefined: this server; or nobody, while it drains. Never rejects. */
  async place(documentName: string, isDraining: boolean): Promise<Target | undefined> {
    try {
      const servers = (await this.candidates.all()).filter(({ serverId }) => !isDraining || serverId !== this.serverId)
      const chosen = (await this.#choose(servers, documentName)) ?? (isDraining ? this.#leastLoaded(servers) : undefined)
      if (!chosen) return undefined
      this.candidates.placed(chosen)
      if (chosen.serverId === this.serverId) return undefined
      const boot = await this.directory.bootOf(chosen.serverId)
      return boot === undefined ? undefined : { serverId: chosen.serverId, boot }
    } catch (error) {
      this.#warn(error, documentName) // Redis
      return undefined
    }
  }

  #leastLoaded(servers: ServerInfo[]): ServerInfo | undefined {
    return this.candidates.leastLoaded(this.candidates.near(servers))
  }

  async #choose(servers: ServerInfo[], documentName: string): Promise<ServerInfo | undefined> {
    if (this.placement === 'local') return undefined
    if (this.placement === 'least-loaded') return this.#leastLoaded(servers)
    try {
      const serverId = await Promise.race([this.placement(servers, documentName), pause(CHOOSE_WITHIN_MS).then(() => undefined)])
      const chosen = servers.find((server) => server.serverId === serverId)
      if (!chosen && serverId !== undefined) throw new Error(`"placement" chose ${JSON.stringify(serverId)}, which is none of the candidates`)
      return chosen
    } catch (error) {
      this.#warn(error, documentName)
      return undefined
    }
  }

  /** Once: it concerns every document. */
  #warn(error: unknown, document: string): void {
    const message = `document "${document}" could not be placed: ${(error as Error)?.message ?? error}`
    if (this.#hasWarned) this.log.debug(message, { topic: 'documents', document })
    else this.log.warn(message, { topic: 'documents', document })
    this.#hasWarned = true
  }
}
