import type { Document } from '@hocuspocus/server'

/**
 * While a server drains, each document is stored once, in its turn: stores that Hocuspocus starts by itself
 * (a debounce that is over, a flush before the end) wait for that.
 */
export class StoreTurns {
  #turns = new WeakMap<Document, { given: Promise<void>; give: () => void; waiting: number; over: boolean }>()

  #turn(document: Document) {
    let turn = this.#turns.get(document)
    if (!turn) {
      let give!: () => void
      const given = new Promise<void>((resolve) => (give = resolve))
      turn = { given, give, waiting: 0, over: false }
      this.#turns.set(document, turn)
    }
    return turn
  }

  /** Waits for the document's turn. False if that is over: what has changed since is handed over, not stored. */
  async wait(document: Document): Promise<boolean> {
    const turn = this.#turn(document)
    turn.waiting++
    await turn.given
    return !turn.over
  }

  /** Gives a document its turn. True if a store was waiting for it. */
  give(document: Document): boolean {
    const turn = this.#turn(document)
    turn.give()
    return turn.waiting > 0
  }

  end(document: Document): void {
    this.#turn(document).over = true
  }
}
