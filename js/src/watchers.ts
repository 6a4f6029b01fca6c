import type { News, NewsKind } from './engine.js'
import { AffinityError } from './errors.js'

/** What a watcher gets to know: an event of `on()`, and of which server. */
export interface WatchedEvent {
  kind: NewsKind
  documentName?: string
  server?: string
  epoch?: number
  /** The server that tells. */
  by: string
  /** So many before this one were left out, since Redis did not take them fast enough. */
  missed?: number
}

const WATCHERS_MAX = 16
const SECONDS_MAX = 60
/** Events of one watcher that Redis has not taken yet. */
const ON_THEIR_WAY_MAX = 1000

interface Watcher {
  /** In ms, by performance.now(). */
  until: number
  onTheirWay: number
  missed: number
}

/** Who has asked to be told of events, by channel; for a while. */
export class Watchers {
  #watchers = new Map<string, Watcher>()

  constructor(
    private readonly serverId: string,
    private readonly send: (channel: string, event: WatchedEvent) => Promise<void>,
  ) {}

  /** @throws AffinityError `AFF_EINVAL`, `AFF_EFULL` */
  watch(channel: string, seconds: unknown): void {
    if (!Number.isInteger(seconds) || (seconds as number) < 1 || (seconds as number) > SECONDS_MAX) {
      throw new AffinityError('AFF_EINVAL', `seconds: must be an integer from 1 to ${SECONDS_MAX}`)
    }
    this.#forget()
    const watcher = this.#watchers.get(channel)
    const until = performance.now() + (seconds as number) * 1000
    if (watcher) watcher.until = until
    else if (this.#watchers.size < WATCHERS_MAX) this.#watchers.set(channel, { until, onTheirWay: 0, missed: 0 })
    else throw new AffinityError('AFF_EFULL', `${WATCHERS_MAX} others watch this server already`)
  }

  tell(kind: NewsKind, { documentName, server, epoch }: News): void {
    if (this.#watchers.size === 0) return
    this.#forget()
    for (const [channel, watcher] of this.#watchers) {
      if (watcher.onTheirWay >= ON_THEIR_WAY_MAX) {
        watcher.missed++
        continue
      }
      const missed = watcher.missed || undefined
      watcher.missed = 0
      watcher.onTheirWay++
      const sent = () => watcher.onTheirWay--
      this.send(channel, { kind, documentName, server, epoch, by: this.serverId, missed }).then(sent, sent)
    }
  }

  #forget(): void {
    const now = performance.now()
    for (const [channel, { until }] of this.#watchers) if (until < now) this.#watchers.delete(channel)
  }
}
