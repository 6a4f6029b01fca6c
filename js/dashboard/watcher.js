// Finds out what has happened in the cluster by comparing one state with those before.

const MAX_DOCUMENTS = 10_000
/** A document that its owner has closed and another server opens within this time was handed over. */
const HANDED_OVER_MS = 10_000
/** So long is a document remembered whose owner can't be asked. */
const REMEMBERED_MS = 600_000

/**
 * An event: `{ kind: 'moved', from, to, documents: [{ name, epoch }] }`, or `{ kind, server }` with
 * `up`, `gone` (no member any more), `left` (not listed any more), `draining`, `silent` or `answers`.
 */
export class Watcher {
  #documents = new Map()
  #servers

  /** What is new in `state`; `now` in ms, by one clock. */
  next(state, now) {
    const events = [...this.#serverEvents(state), ...this.#moves(state, now)]
    this.#forget(state, now)
    return events
  }

  #serverEvents({ servers, error }) {
    if (error) return [] // nothing new is known of them
    const before = this.#servers
    this.#servers = new Map(servers.map((server) => [server.serverId, server]))
    if (!before) return []
    const events = servers.flatMap((now) => {
      const then = before.get(now.serverId)
      const kinds = then ? changes(then, now) : now.alive ? ['up'] : []
      return kinds.map((kind) => ({ kind, server: now.serverId }))
    })
    for (const [server, { alive }] of before) if (alive && !this.#servers.has(server)) events.push({ kind: 'left', server })
    return events
  }

  /** One event for all documents that have moved from one server to another. */
  #moves({ documents }, now) {
    const moves = new Map()
    for (const { name, owner, epoch } of documents) {
      const known = this.#documents.get(name)
      if (known && known.epoch > epoch) continue
      if (known && known.owner !== owner) {
        const key = JSON.stringify([known.owner, owner])
        const move = moves.get(key) ?? { kind: 'moved', from: known.owner, to: owner, documents: [] }
        moves.set(key, move)
        move.documents.push({ name, epoch })
      }
      this.#documents.delete(name) // the longest unseen come first
      this.#documents.set(name, { owner, epoch, seen: now })
    }
    return [...moves.values()]
  }

  #forget({ servers, prefix }, now) {
    const complete = new Set(servers.filter(({ alive, answers, listed, open }) => alive && answers && listed === open).map(({ serverId }) => serverId))
    for (const [name, known] of this.#documents) {
      if (known.seen === now) break
      const isClosed = complete.has(known.owner) && name.startsWith(prefix)
      if (!isClosed) known.closed = undefined
      else known.closed ??= now
      if (now - (known.closed ?? now) > HANDED_OVER_MS || now - known.seen > REMEMBERED_MS) this.#documents.delete(name)
    }
    for (const name of this.#documents.keys()) {
      if (this.#documents.size <= MAX_DOCUMENTS) break
      this.#documents.delete(name)
    }
  }
}

function changes(then, now) {
  if (then.alive !== now.alive) return [now.alive ? 'up' : 'gone']
  if (!now.alive) return []
  return [
    ...(then.pid !== now.pid || then.startedAt !== now.startedAt ? ['up'] : []),
    ...(now.draining && !then.draining ? ['draining'] : []),
    ...(then.answers !== now.answers ? [now.answers ? 'answers' : 'silent'] : []),
  ]
}
