import type { DocumentInfo, DocumentList } from './control.js'
import type { ServerInfo } from './directory.js'
import type { Health } from './health.js'
import { within } from './time.js'

/** What the dashboard asks of a RedisServerAffinity. */
export interface ObservedAffinity {
  readonly serverId: string
  servers(): Promise<ServerInfo[]>
  documents(serverId: string, options: { prefix: string; limit: number }): Promise<DocumentList>
  health(): Health
}

export interface DashboardServer extends ServerInfo {
  /** Has it answered when it was asked for its documents? False for one that is not alive. */
  answers: boolean
  /** Documents with the prefix that it has open, and how many of them are in the list. */
  open: number
  listed: number
}

export interface DashboardDocument extends DocumentInfo {
  owner: string
}

export interface DashboardState {
  /** In ms since 1970. */
  at: number
  /** The server that tells this. */
  self: string
  health: Health
  servers: DashboardServer[]
  documents: DashboardDocument[]
  prefix: string
  /** Why `servers` could not be read: they are what was known last. */
  error?: { code: string; message: string }
}

/** A page asks once a second. */
const FRESH_MS = 900
/** A state waits for so long, and shows who has not answered by then. */
const PATIENCE_MS = 700
/** What was searched for lately; each costs its own questions. */
const MAX_VIEWS = 16

/** Calls `read` when its last result is older than FRESH_MS; all who ask meanwhile share one call. */
function shared<T>(read: () => Promise<T>): () => Promise<T> {
  let result: Promise<T> | undefined
  let end = 0
  return () => {
    if (result === undefined || performance.now() > end) {
      end = Infinity
      result = read().finally(() => (end = performance.now() + FRESH_MS))
    }
    return result
  }
}

/** The documents of one server, as it has told them last. */
class Listing {
  list: DocumentList = { total: 0, documents: [] }
  answers = true
  #asking: Promise<void> | undefined

  /** One question at a time, however long it takes. */
  ask(question: () => Promise<DocumentList>): Promise<void> {
    this.#asking ??= this.#read(question).finally(() => (this.#asking = undefined))
    return this.#asking
  }

  async #read(question: () => Promise<DocumentList>): Promise<void> {
    const late = setTimeout(() => (this.answers = false), PATIENCE_MS)
    try {
      this.list = await question()
      this.answers = true
    } catch {
      this.answers = false
    } finally {
      clearTimeout(late)
    }
  }
}

/** Gathers what the page shows, as often as one viewer needs it, however many there are. */
export class Observer {
  #servers: ServerInfo[] = []
  #error: DashboardState['error']
  #views = new Map<string, () => Promise<DashboardState>>()
  readonly #readServers = shared(() => within(PATIENCE_MS, this.#askServers()))
  #asking: Promise<void> | undefined

  constructor(
    private readonly affinity: ObservedAffinity,
    private readonly limit: number,
  ) {}

  /** The state with documents whose names begin with the prefix. It never fails: it tells what has. */
  state(prefix: string): Promise<DashboardState> {
    const view = this.#views.get(prefix) ?? this.#viewOf(prefix)
    this.#views.delete(prefix)
    this.#views.set(prefix, view)
    if (this.#views.size > MAX_VIEWS) this.#views.delete(this.#views.keys().next().value!)
    return view()
  }

  /** While Redis is away this may wait for long: one question at a time, and nobody waits for its end. */
  #askServers(): Promise<void> {
    const late = setTimeout(() => (this.#error = { code: 'AFF_ETIMEOUT', message: 'Redis does not answer' }), PATIENCE_MS - 50)
    this.#asking ??= this.affinity
      .servers()
      .then(
        (servers) => {
          this.#servers = servers
          this.#error = undefined
        },
        ({ code = 'AFF_EREDIS', message }) => {
          this.#error = { code, message }
        },
      )
      .finally(() => (this.#asking = undefined))
    return this.#asking.finally(() => clearTimeout(late))
  }

  #viewOf(prefix: string): () => Promise<DashboardState> {
    const listings = new Map<string, Listing>()
    const listingOf = (serverId: string) => {
      const listing = listings.get(serverId) ?? new Listing()
      listings.set(serverId, listing)
      return listing
    }
    return shared(async () => {
      await this.#readServers()
      const alive = this.#servers.filter((server) => server.alive)
      for (const serverId of listings.keys()) if (!alive.some((server) => server.serverId === serverId)) listings.delete(serverId)
      await within(
        PATIENCE_MS + 50,
        Promise.all(
          alive.map(({ serverId }) =>
            listingOf(serverId).ask(async () => this.affinity.documents(serverId, { prefix, limit: this.limit })),
          ),
        ),
      )
      return this.#stateWith(prefix, listings)
    })
  }

  #stateWith(prefix: string, listings: Map<string, Listing>): DashboardState {
    const servers = this.#servers.map((server) => {
      const { answers, list } = listings.get(server.serverId) ?? { answers: false, list: { total: 0, documents: [] } }
      return { ...server, answers, open: list.total, listed: list.documents.length }
    })
    // What moves can be listed twice for a moment: the later epoch is right.
    const byName = new Map<string, DashboardDocument>()
    for (const [owner, { list }] of listings) {
      for (const document of list.documents) {
        if (document.epoch > (byName.get(document.name)?.epoch ?? -1)) byName.set(document.name, { ...document, owner })
      }
    }
    const documents = [...byName.values()]
    const { serverId: self } = this.affinity
    return { at: Date.now(), self, health: this.affinity.health(), servers, documents, prefix, ...(this.#error && { error: this.#error }) }
  }
}
