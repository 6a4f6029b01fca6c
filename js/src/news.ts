import { EventEmitter } from 'node:events'
import type { News, NewsKind } from './engine.js'
import type { Logger } from './log.js'

export type NewsListener = (news: News) => unknown

/** Tells this server's own listeners, and its log, what happens. */
export class NewsDesk {
  #emitter = new EventEmitter()

  constructor(private readonly log: Logger) {}

  on(kind: NewsKind, listener: NewsListener): void {
    this.#emitter.on(kind, listener)
  }

  off(kind: NewsKind, listener: NewsListener): void {
    this.#emitter.off(kind, listener)
  }

  tell(kind: NewsKind, news: News): void {
    this.#log(kind, news)
    for (const listener of this.#emitter.listeners(kind)) this.#call(kind, listener as NewsListener, news)
  }

  /** The engine itself tells of the other kinds. */
  #log(kind: NewsKind, { documentName, server, epoch }: News): void {
    const topic = documentName === undefined ? 'links' : 'documents'
    if (!this.log.wants(topic)) return
    const details = { topic, document: documentName, peer: server, epoch } as const
    if (kind === 'owned') this.log.debug(`document "${documentName}" is owned here`, details)
    if (kind === 'lost') this.log.debug(`document "${documentName}" is lost to server "${server}"`, details)
    if (kind === 'resync') this.log.debug(`messages to server "${server}" were missing, and are sent again`, details)
    if (kind === 'serverUp') this.log.debug(`first word from server "${server}"`, details)
  }

  /** One listener's error is no other's. */
  #call(kind: NewsKind, listener: NewsListener, news: News): void {
    const failed = (error: unknown) => this.log.error(`a listener of "${kind}" failed`, { error })
    try {
      Promise.resolve(listener(news)).catch(failed)
    } catch (error) {
      failed(error)
    }
  }
}
