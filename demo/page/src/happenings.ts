// What this page sees happen: servers and Redis go and come, the document moves, its own socket closes, typing goes on.

import type { Placement } from './cluster'
import type { State, States } from './control'
import { note } from './log'

/** From when something that the document needs goes away until it is served again. */
type Gap = { cause: 'redis' | 'server'; began: number; typed: number; over: boolean }

export class Happenings {
  #states: States | undefined
  #placement: Placement | undefined
  #closedAt: number | undefined
  #gap: Gap | undefined

  states(now: States): void {
    const before = this.#states
    this.#states = now
    if (!before) return
    for (const [id, state] of Object.entries(now.servers)) {
      if (state.name === before.servers[id]!.name) continue
      note(serverNote(id, before.servers[id]!, state))
      if (id !== this.#placement?.owner) continue
      if (['down', 'stopping', 'frozen'].includes(state.name)) this.#begin('server')
      else this.#end('server')
    }
    if (now.redis.name === before.redis.name) return
    if (now.redis.name === 'up') {
      note(`Redis is back${this.#after('redis')}.`)
      this.#end('redis')
    } else {
      note('Redis goes away.')
      this.#begin('redis')
    }
  }

  placed(now: Placement): void {
    const before = this.#placement
    this.#placement = now
    const closedAt = this.#closedAt
    this.#closedAt = undefined
    if (!before) return
    if (now.owner !== before.owner) {
      note(`The document moved from ${before.owner} to ${now.owner}${this.#after('server')}.`)
      this.#end('server')
    }
    if (closedAt === undefined) return
    note(`This page is connected again, through ${now.socketServer}, after ${duration(closedAt)}.`)
    this.#end('server')
  }

  socketClosed(): void {
    if (this.#closedAt !== undefined || !this.#placement) return
    this.#closedAt = performance.now()
    note(`The socket of this page, on ${this.#placement.socketServer}, was closed.`)
    this.#begin('server')
  }

  typed(): void {
    if (this.#gap && !this.#gap.over) this.#gap.typed++
  }

  allSaved(): void {
    const gap = this.#gap
    if (!gap?.over) return
    this.#gap = undefined
    if (gap.typed === 1) note('Your change of that time is saved.')
    if (gap.typed > 1) note(`Typing went on: all ${gap.typed} changes of yours are saved, after ${duration(gap.began)}.`)
  }

  #begin(cause: Gap['cause']): void {
    if (!this.#gap || this.#gap.over) this.#gap = { cause, began: performance.now(), typed: 0, over: false }
  }

  #end(cause: Gap['cause']): void {
    if (this.#gap?.cause === cause) this.#gap.over = true
  }

  #after(cause: Gap['cause']): string {
    return this.#gap?.cause === cause ? ` after ${duration(this.#gap.began)}` : ''
  }
}

function duration(since: number): string {
  const ms = performance.now() - since
  return ms < 1000 ? `${Math.round(ms)} ms` : `${(ms / 1000).toFixed(1)} s`
}

function serverNote(id: string, before: State, { name, why }: State): string {
  if (name === 'down') return why === 'killed' || why === 'stopped' ? `${id} was ${why}.` : `${id} is down: it ${why}.`
  if (name === 'frozen') return `${id} was frozen.`
  if (name === 'stopping') return `${id} is asked to stop.`
  if (name === 'starting') return `${id} starts.`
  return before.name === 'frozen' ? `${id} was thawed.` : `${id} is running again.`
}
