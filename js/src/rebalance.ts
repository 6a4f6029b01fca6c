import type { DocumentInfo } from './control.js'
import type { ServerInfo } from './directory.js'
import type { Logger } from './log.js'
import type { Candidates } from './placement.js'

export interface RebalanceConfiguration {
  /** How often this server looks at its documents, in ms, 100 to 3,600,000. Default: 10,000. */
  every?: number
  /** A document that nobody has changed for so long may move, in ms, 0 to 3,600,000. Default: 10,000. */
  idle?: number
  /** How many documents this server moves within any minute, 1 to 10,000. Default: 30. */
  perMinute?: number
  /** A document that came here is left alone for so long, in ms, 0 to 3,600,000. Default: 60,000. */
  rest?: number
}

export type RebalanceSettings = Required<RebalanceConfiguration>

/** A server is hot with so many times as many documents as servers have on the average, and at least so many more. */
const HOT_SHARE = 1.5
const HOT_MORE = 10

const MINUTE = 60_000

export interface Move {
  document: string
  to: string
  because: 'clients' | 'load'
}

/** What is asked of the server whose documents are moved. */
export interface Rebalanced {
  documents(): DocumentInfo[]
  /** Is it locked, or does something else keep it here? */
  isHeld(documentName: string): boolean
  /** When it was last changed, or came here, in ms since 1970; undefined: it is not open here any more. */
  since(documentName: string): { changed: number; here: number } | undefined
  move(documentName: string, serverId: string): Promise<unknown>
}

/**
 * Idle documents go to where most of their clients are, and a server with far more documents than others hands some of them on.
 * Each server looks at its own.
 */
export class Rebalancing {
  /** When documents were moved, within the last minute. */
  #moves: number[] = []
  #isRunning = false

  constructor(
    private readonly settings: RebalanceSettings,
    private readonly serverId: string,
    private readonly candidates: Candidates,
    private readonly log: Logger,
  ) {}

  /** Looks once, and moves what is to be moved. Returns what has been moved. */
  async run(self: Rebalanced): Promise<Move[]> {
    if (this.#isRunning) return []
    this.#isRunning = true
    const done: Move[] = []
    try {
      for (const move of this.plan(self, await this.candidates.all(), Date.now())) {
        if (await this.#move(self, move)) done.push(move)
      }
    } catch (error) {
      this.log.debug(`documents could not be rebalanced: ${(error as Error).message}`, { topic: 'documents', error })
    } finally {
      this.#isRunning = false
    }
    return done
  }

  /** What is to be moved now, the most useful first, and no more than the limits allow. */
  plan(self: Rebalanced, servers: ServerInfo[], now: number): Move[] {
    this.#moves = this.#moves.filter((at) => now - at < MINUTE)
    const others = servers.filter(({ serverId }) => serverId !== this.serverId)
    if (others.length === 0) return []
    const idle = self.documents().filter(({ name }) => this.#mayMove(self, name, now))
    const average = servers.reduce((sum, { documents }) => sum + documents, 0) / servers.length
    const isHot = (documents: number) => documents >= HOT_SHARE * average && documents >= average + HOT_MORE
    const moves = toClients(idle, others.filter(({ documents }) => !isHot(documents + 1)), this.serverId)
    const own = servers.find(({ serverId }) => serverId === this.serverId)?.documents ?? 0
    if (isHot(own)) moves.push(...this.#shed(idle, moves, others, own - average))
    return moves.slice(0, this.settings.perMinute - this.#moves.length)
  }

  /** Those with the fewest clients here go first. */
  #shed(idle: DocumentInfo[], moving: Move[], others: ServerInfo[], surplus: number): Move[] {
    const gone = new Set(moving.map(({ document }) => document))
    const clientsHere = ({ from }: DocumentInfo) => from[this.serverId] ?? 0
    const rest = idle.filter(({ name }) => !gone.has(name)).sort((a, b) => clientsHere(a) - clientsHere(b))
    const near = this.candidates.near(others).map((server) => ({ ...server }))
    return rest.slice(0, Math.max(0, Math.floor(surplus) - moving.length)).map(({ name }) => {
      const to = this.candidates.leastLoaded(near)!
      to.documents++
      return { document: name, to: to.serverId, because: 'load' }
    })
  }

  #mayMove(self: Rebalanced, name: string, now: number): boolean {
    const since = self.since(name)
    if (!since || self.isHeld(name)) return false
    return now - since.changed >= this.settings.idle && now - since.here >= this.settings.rest
  }

  async #move(self: Rebalanced, { document, to, because }: Move): Promise<boolean> {
    this.#moves.push(Date.now())
    try {
      await self.move(document, to)
      const why = because === 'clients' ? 'most of its clients are there' : 'it has fewer documents'
      this.log.info(`document "${document}" was moved to server "${to}": ${why}`, { topic: 'documents', document, peer: to })
      return true
    } catch (error) {
      this.log.debug(`document "${document}" could not be moved: ${(error as Error).message}`, { topic: 'documents', document, peer: to })
      return false
    }
  }
}

/** Documents with more than half of their clients at one other server. */
function toClients(documents: DocumentInfo[], servers: ServerInfo[], serverId: string): Move[] {
  const moves: (Move & { gain: number })[] = []
  for (const { name, clients, from } of documents) {
    const best = servers.find((server) => (from[server.serverId] ?? 0) > clients / 2)
    if (best) moves.push({ document: name, to: best.serverId, because: 'clients', gain: from[best.serverId]! - (from[serverId] ?? 0) })
  }
  return moves.sort((a, b) => b.gain - a.gain).map(({ gain, ...move }) => move)
}
