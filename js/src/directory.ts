import { hostname } from 'node:os'
import type { Engine } from './engine.js'
import { repeat } from './time.js'
import type { RedisValue } from './values.js'

/** What a server tells of itself: for operators, and for whoever chooses one. */
export interface ServerInfo {
  serverId: string
  /** Is it a member of the cluster? One that was killed is listed for a while, and is none. */
  alive: boolean
  /** The option `region`. */
  region?: string
  host: string
  pid: number
  /** Of this package. */
  version: string
  /** In ms since 1970, by its own clock. */
  startedAt: number
  updatedAt: number
  /** It hands its documents on, and claims none. */
  draining: boolean
  /** Documents that it owns. */
  documents: number
  /** Clients' sockets that are connected to it. */
  sockets: number
  /** Proxy sockets: clients of other servers with documents here. */
  proxies: number
  /** Messages from and to other servers, since the last update, per second. */
  messagesPerSecond: { in: number; out: number }
}

/** What changes from one update to the next. */
export type ServerState = Pick<ServerInfo, 'draining' | 'documents' | 'sockets' | 'proxies'> & { framesIn: number; framesOut: number }

/** How long one that has gone without a word is listed. */
const FORGET_MS = 10 * 60_000
/** As many as one command has room for; the rest goes with the next list. */
const FORGET_AT_ONCE = 6

const textOf = (value: RedisValue | undefined) => (Buffer.isBuffer(value) ? value.toString() : undefined)

function infoOf(text: string | undefined): ServerInfo | undefined {
  try {
    const info = JSON.parse(text ?? '') as ServerInfo
    return typeof info?.serverId === 'string' && typeof info.updatedAt === 'number' ? info : undefined
  } catch {
    return undefined
  }
}

/**
 * The servers of a cluster, as each has told of itself in one hash of Redis, `<prefix>Servers`. That is hearsay: who is
 * a member stands in the keys of the memberships, and who owns what in those of the leases.
 */
export class Directory {
  readonly #key: string
  readonly #startedAt = Date.now()
  #last: { at: number; framesIn: number; framesOut: number } | undefined
  #timer: NodeJS.Timeout | undefined
  #state: (() => ServerState) | undefined
  #isRefused = false

  constructor(
    private readonly engine: Engine,
    private readonly prefix: string,
    private readonly self: Pick<ServerInfo, 'serverId' | 'region' | 'version'>,
  ) {
    this.#key = `${prefix}Servers`
  }

  /** Tells of this server now, and every so many ms, as long as anybody refers to it. */
  begin(every: number, state: () => ServerState): void {
    this.#state = state
    this.#timer = repeat(this, every, (directory) => void directory.#tell())
    void this.#tell()
  }

  /** Tells of this server at once: it has something to say that others should know. */
  tell(): void {
    if (this.#state) void this.#tell()
  }

  end(): void {
    clearInterval(this.#timer)
  }

  /** This server is not listed any more. */
  async leave(): Promise<void> {
    this.end()
    await this.engine.command('HDEL', this.#key, this.self.serverId).catch(() => {})
  }

  async #tell(): Promise<void> {
    const { framesIn, framesOut, ...state } = this.#state!()
    const now = Date.now()
    const last = this.#last ?? { at: this.#startedAt, framesIn: 0, framesOut: 0 }
    const seconds = Math.max(0.001, (now - last.at) / 1000)
    const rate = (frames: number, before: number) => Math.round((frames - before) / seconds)
    this.#last = { at: now, framesIn, framesOut }
    const info: Omit<ServerInfo, 'alive'> = {
      ...this.self,
      host: hostname(),
      pid: process.pid,
      startedAt: this.#startedAt,
      updatedAt: now,
      ...state,
      messagesPerSecond: { in: rate(framesIn, last.framesIn), out: rate(framesOut, last.framesOut) },
    }
    try {
      await this.engine.command('HSET', this.#key, this.self.serverId, JSON.stringify(info))
    } catch (error) {
      // Somebody's ACL: nothing else depends on it.
      if (!this.#isRefused) this.engine.log.debug(`this server is not listed: ${(error as Error).message}`, { topic: 'redis' })
      this.#isRefused = true
    }
  }

  /** All servers that are listed, by name. Those that have been gone for long are removed from the list. */
  async servers(): Promise<ServerInfo[]> {
    const values = await this.engine.command('HVALS', this.#key)
    const told = values.map((value) => infoOf(textOf(value))).filter((info) => info !== undefined) // else somebody else's
    const channels = await Promise.all(told.map(({ serverId }) => this.channelOf(serverId)))
    const infos = told.map((info, n) => ({ ...info, alive: channels[n] !== undefined }))
    const isListed = ({ alive, updatedAt }: ServerInfo) => alive || Date.now() - updatedAt < FORGET_MS
    const forgotten = infos.filter((info) => !isListed(info)).map(({ serverId }) => serverId)
    if (forgotten.length > 0) await this.engine.command('HDEL', this.#key, ...forgotten.slice(0, FORGET_AT_ONCE))
    return infos.filter(isListed).sort((a, b) => (a.serverId < b.serverId ? -1 : 1))
  }

  /** The boot under which a server is a member; undefined: it is none. */
  async bootOf(serverId: string): Promise<string | undefined> {
    const [boot] = await this.engine.command('GET', `${this.prefix}Server:${serverId}`)
    return textOf(boot)
  }

  /** Where a server listens; undefined: it is no member. */
  async channelOf(serverId: string): Promise<string | undefined> {
    const process = (await this.bootOf(serverId))?.slice(0, 12)
    return process && `${this.prefix}Link:${process}`
  }

  /** Who has the lease of a document, alive or not; undefined: nobody. */
  async ownerOf(documentName: string): Promise<string | undefined> {
    const [record] = await this.engine.command('GET', `${this.prefix}Lock:${documentName}`)
    return /^\d+ [0-9a-f]{16} (.+)$/s.exec(textOf(record) ?? '')?.[1]
  }
}
