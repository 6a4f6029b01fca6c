import type { Directory } from './directory.js'
import type { Engine, News, NewsKind } from './engine.js'
import { AffinityError } from './errors.js'
import { type WatchedEvent, Watchers } from './watchers.js'

/** What one server, or an operator's tool, can ask another one; docs/PROTOCOL.md has the form. */
export interface Questions {
  documents: { ask: { prefix?: string; limit?: number }; answer: DocumentList }
  /** Events follow for so many seconds, to the channel that has asked. */
  watch: { ask: { seconds: number }; answer: Record<string, never> }
  /** Begins to drain the server, or says how far that is. */
  drain: { ask: Record<string, never>; answer: DrainState }
  /** Of its owner. */
  move: { ask: { document: string; to: string }; answer: Moved }
}

export interface DrainState {
  /** Those that are still here. */
  documents: number
  /** Their clients, wherever these are connected. */
  clients: number
  /** Clients' sockets that are connected to it; they stay. */
  sockets: number
  /** Nothing is left to do: the server can be stopped. */
  done: boolean
  /** Documents that had not moved in time, and went without being stored once more. */
  unstored: number
}

/** What has become of a document that was to be moved. */
export interface Moved {
  from: string
  /** Its owner now: the one that was wanted, unless that was gone or somebody else was quicker. Undefined: nobody has it open. */
  to: string | undefined
}

/** A document at its owner. */
export interface DocumentInfo {
  name: string
  /** The epoch of its lease. */
  epoch: number
  /** Clients that have it open, wherever they are connected. */
  clients: number
  /** How many of them are connected to which server, the owner included. */
  from: Record<string, number>
}

export interface DocumentList {
  /** How many there are; `documents` may be cut short. */
  total: number
  documents: DocumentInfo[]
}

type Kind = keyof Questions
type Answer<K extends Kind> = Questions[K]['answer']
/** What the facade answers; `watch` is answered here. */
export type Answers = { [K in Exclude<Kind, 'watch'>]: (ask: Questions[K]['ask']) => Answer<K> | Promise<Answer<K>> }

/** Messages may be lost, as all that goes through pub/sub. A move stores first. */
const ANSWER_WITHIN_MS: Record<Kind, number> = { documents: 3000, watch: 3000, drain: 3000, move: 30_000 }

interface Message {
  id?: number
  /** With a question. */
  ask?: string
  args?: unknown
  /** With an answer: the `id` of the question. */
  re?: number
  answer?: unknown
  error?: { code: string; message: string }
  /** To a watcher. */
  event?: WatchedEvent
}

interface Waiting {
  resolve(answer: unknown): void
  reject(error: Error): void
  timer: NodeJS.Timeout
}

/** Questions between servers, and of operators' tools. */
export class Control {
  #waiting = new Map<number, Waiting>()
  #questions = 0
  readonly #watchers: Watchers

  constructor(
    private readonly engine: Engine,
    private readonly directory: Directory,
    serverId: string,
    private readonly answers: Answers,
  ) {
    this.#watchers = new Watchers(serverId, (channel, event) => this.#send(channel, { event }))
  }

  /**
   * @throws AffinityError `AFF_EINVAL` (no such server), `AFF_ETIMEOUT`, `AFF_EREDIS`, `AFF_ECLOSED`; what the
   *   server has answered
   */
  async ask<K extends Kind>(serverId: string, kind: K, args: Questions[K]['ask']): Promise<Questions[K]['answer']> {
    const channel = await this.directory.channelOf(serverId)
    if (channel === undefined) throw new AffinityError('AFF_EINVAL', `server "${serverId}" is no member of the cluster`)
    const id = ++this.#questions
    const answer = new Promise<unknown>((resolve, reject) => {
      const giveUp = () => this.#settle(id, (waiting) => waiting.reject(new AffinityError('AFF_ETIMEOUT', `server "${serverId}" does not answer`)))
      this.#waiting.set(id, { resolve, reject, timer: setTimeout(giveUp, ANSWER_WITHIN_MS[kind]) })
    })
    await this.#send(channel, { id, ask: kind, args }).catch((error) => this.#settle(id, (waiting) => waiting.reject(error)))
    return answer as Promise<Questions[K]['answer']>
  }

  /** A message has come. */
  receive(from: string, bytes: Uint8Array): void {
    let message: Message | null
    try {
      message = JSON.parse(Buffer.from(bytes).toString()) as Message | null
    } catch {
      return // anyone who may publish can send anything
    }
    if (typeof message?.re === 'number') this.#onAnswer(message)
    else if (typeof message?.ask === 'string' && typeof message.id === 'number') void this.#onQuestion(from, message.id, message.ask, message.args)
  }

  /** Whoever watches this server is told. */
  tell(kind: NewsKind, news: News): void {
    this.#watchers.tell(kind, news)
  }

  close(): void {
    for (const id of [...this.#waiting.keys()]) {
      this.#settle(id, (waiting) => waiting.reject(new AffinityError('AFF_ECLOSED', 'RedisServerAffinity: the instance is closed')))
    }
  }

  #settle(id: number, settle: (waiting: Waiting) => void): void {
    const waiting = this.#waiting.get(id)
    if (!waiting) return
    this.#waiting.delete(id)
    clearTimeout(waiting.timer)
    settle(waiting)
  }

  #onAnswer({ re, answer, error }: Message): void {
    this.#settle(re!, (waiting) => {
      if (error) waiting.reject(new AffinityError(String(error.code), String(error.message)))
      else waiting.resolve(answer)
    })
  }

  async #onQuestion(to: string, id: number, kind: string, args: unknown): Promise<void> {
    let reply: Message
    try {
      reply = { re: id, answer: await this.#answer(to, kind, args ?? {}) }
    } catch (error) {
      const { code, message } = error as AffinityError
      reply = { re: id, error: { code: code ?? 'AFF_EEVENT', message: message ?? String(error) } }
    }
    await this.#send(to, reply).catch(() => {}) // who has asked asks again
  }

  #answer(from: string, kind: string, args: unknown): unknown {
    if (kind === 'watch') {
      this.#watchers.watch(from, (args as Questions['watch']['ask']).seconds)
      return {}
    }
    if (!Object.hasOwn(this.answers, kind)) throw new AffinityError('AFF_EINVAL', `unknown question "${kind}"`)
    return this.answers[kind as keyof Answers](args as never)
  }

  async #send(channel: string, message: Message): Promise<void> {
    await this.engine.control(channel, Buffer.from(JSON.stringify(message)))
  }
}
