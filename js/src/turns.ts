import type { Document } from '@hocuspocus/server'

/**
 * While a server drains, each document is stored once, in its turn: stores that Hocuspocus starts by itself
 * (a debounce that is over, a flush before the end) wait for that. An instance that is loaded later, to store what
 * nobody else wants, has no turn and is stored at once.
 */
export class StoreTurns {
  #turns = new WeakMap<Document, { given: Promise<void>; give: () => void; waiting: number; over: boolean }>()

  constructor(documents: Iterable<Document>) {
    for (const document of documents) {
      let give!: () => void
      const given = new Promise<void>((resolve) => (give = resolve))
      this.#turns.set(document, { given, give, waiting: 0, over: false })
    }
  }

  /** Waits for the document's turn. False if that is over: what has changed since is handed over, not stored. */
  async wait(document: Document): Promise<boolean> {
    const turn = this.#turns.get(document)
    if (!turn) return true
    turn.waiting++
    await turn.given
    return !turn.over
  }

  /** Gives a document its turn. True if a store was waiting for it. */
  give(document: Document): boolean {
    const turn = this.#turns.get(document)
    turn?.give()
    return turn !== undefined && turn.waiting > 0
  }

  end(document: Document): void {
    const turn = this.#turns.get(document)
    if (turn) turn.over = true
  }
}
