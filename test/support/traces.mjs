// Real editing: the two writers of friendsforever.json.gz, keystroke by keystroke (see the README beside that file).
// The files are not part of the repository; EDITING_TRACES names their folder. Where they are absent a history of
// the same shape is generated.
import { existsSync, readFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { gunzipSync } from 'node:zlib'
import * as Y from 'yjs'
import { until } from './wait.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))

/**
 * @typedef {{ update: Uint8Array, needs: Map<number, number> }} Step one transaction of an agent as a Yjs update;
 *   `needs`: how far (Yjs client id -> clock) the other agents' edits must be known before it can be applied
 * @typedef {{ source: string, endContent: string, agents: Step[][] }} History
 */

/** @returns {History} */
export function readHistory() {
  const file = path.resolve(root, process.env.EDITING_TRACES ?? '../shared/data', 'friendsforever.json.gz')
  if (!existsSync(file)) {
    console.log(`friendsforever.json.gz is not there (EDITING_TRACES names its folder): running on a generated history`)
    return generateHistory({ seed: 1, transactions: 26_000 })
  }
  const trace = JSON.parse(gunzipSync(readFileSync(file)).toString())
  return { source: 'friendsforever', endContent: trace.endContent, agents: stepsOf(trace) }
}

/** A Y.Doc of one agent, recording its own transactions. */
class Writer {
  constructor(agent, field) {
    this.doc = new Y.Doc()
    this.doc.clientID = agent + 1
    this.text = this.doc.getText(field)
    /** @type {Step[]} */
    this.steps = []
    /** How many steps of each agent are applied here. */
    this.known = new Map()
    /** Positions are code points, Yjs's are UTF-16 units: the same until the first astral character. */
    this.astral = false
  }

  /** Applies the other agent's steps up to `count`. */
  learn(other, agent, count) {
    const from = this.known.get(agent) ?? 0
    for (let index = from; index < count; index++) Y.applyUpdate(this.doc, other.steps[index].update)
    if (count > from) this.known.set(agent, count)
    this.astral ||= other.astral
  }

  /** @param {[number, number, string][]} patches [position, delete count, insert] */
  write(patches) {
    const updates = []
    const record = (update) => updates.push(update)
    const needs = new Map(Y.decodeStateVector(Y.encodeStateVector(this.doc)))
    needs.delete(this.doc.clientID)
    this.doc.on('update', record)
    this.doc.transact(() => {
      for (const [position, deleted, inserted] of patches) {
        this.astral ||= /[\u{10000}-\u{10ffff}]/u.test(inserted)
        const start = this.#units(0, position)
        const end = this.#units(start, deleted)
        if (deleted > 0) this.text.delete(start, end - start)
        if (inserted) this.text.insert(start, inserted)
      }
    })
    this.doc.off('update', record)
    // A transaction without an effect still counts: parents are numbered by transaction.
    this.steps.push({ update: updates[0] ?? Y.encodeStateAsUpdate(new Y.Doc()), needs })
  }

  /** The UTF-16 index `count` code points after `start`. */
  #units(start, count) {
    if (!this.astral) return start + count
    const string = this.text.toString()
    let index = start
    for (let point = 0; point < count; point++) index += string.codePointAt(index) > 0xffff ? 2 : 1
    return index
  }
}

/** The transactions of each agent as Yjs updates, made offline with exactly the history's causality. */
export function stepsOf({ txns, numAgents }, field = 'text') {
  const writers = Array.from({ length: numAgents }, (_, agent) => new Writer(agent, field))
  /** Per transaction: how many of each agent's transactions it knows, itself included. */
  const versions = []
  for (const { parents, agent, patches } of txns) {
    const version = new Array(numAgents).fill(0)
    for (const parent of parents) versions[parent].forEach((count, index) => (version[index] = Math.max(version[index], count)))
    if (version[agent] !== writers[agent].steps.length) throw new Error('an agent must know its own transactions')
    version.forEach((count, other) => {
      if (other !== agent) writers[agent].learn(writers[other], other, count)
    })
    writers[agent].write(patches)
    version[agent] += 1
    versions.push(version)
  }
  return writers.map((writer) => writer.steps)
}

/** Two agents writing at the same time, reproducible: they see each other's edits with a delay. */
export function generateHistory({ seed, transactions, agents = 2, field = 'text' }) {
  let state = seed
  const random = (below) => {
    // mulberry32
    state = (state + 0x6d2b79f5) | 0
    let t = Math.imul(state ^ (state >>> 15), 1 | state)
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t
    return ((t ^ (t >>> 14)) >>> 0) % below
  }
  const words = 'the quick brown fox jumps over a lazy dog, né à Łódź\n'
  const writers = Array.from({ length: agents }, (_, agent) => new Writer(agent, field))
  for (let n = 0; n < transactions; n++) {
    const agent = random(agents)
    const writer = writers[agent]
    if (random(8) === 0) writers.forEach((other, index) => index !== agent && writer.learn(other, index, other.steps.length - random(Math.min(4, other.steps.length) + 1)))
    const points = writer.text.length
    const position = random(points + 1)
    const deleted = points > 4000 || random(5) === 0 ? Math.min(random(4), points - position) : 0
    const from = random(words.length - 3)
    writer.write([[position, deleted, deleted ? '' : words.slice(from, from + 1 + random(2))]])
  }
  const steps = writers.map((writer) => writer.steps)
  return { source: `generated, seed ${seed}`, endContent: mergedText(steps, field), agents: steps }
}

const knows = (doc, needs) => [...needs].every(([client, clock]) => Y.getState(doc.store, client) >= clock)

/** What all updates make together, without any server. */
export function mergedText(agents, field = 'text') {
  const doc = new Y.Doc()
  const next = agents.map(() => 0)
  while (agents.some((steps, agent) => next[agent] < steps.length)) {
    agents.forEach((steps, agent) => {
      // In an order in which nothing must be held back: Yjs takes long with what comes too early.
      while (next[agent] < steps.length && knows(doc, steps[next[agent]].needs)) Y.applyUpdate(doc, steps[next[agent]++].update)
    })
  }
  return doc.getText(field).toString()
}

/**
 * Lets each provider type its agent's part, as fast as it goes. A step waits until the others' edits that it builds on
 * have come through the servers: an update that Yjs must hold back would not be sent by the provider.
 *
 * @param {History} history
 * @param {{ document: Y.Doc }[]} providers one per agent, in the agents' order
 * @param {{ timeout?: number, pause?: (step: number) => Promise<void> | void }} [options] `pause` paces it
 */
export async function replay(history, providers, { timeout = 120_000, pause } = {}) {
  const deadline = Date.now() + timeout
  await Promise.all(
    history.agents.map(async (steps, agent) => {
      const { document } = providers[agent]
      for (const [index, { update, needs }] of steps.entries()) {
        const ready = () => knows(document, needs)
        if (!ready()) {
          await until(ready, { timeout: deadline - Date.now(), every: 0, what: `the edits that step ${index} of agent ${agent} builds on arrive` })
        }
        Y.applyUpdate(document, update, 'replay')
        await pause?.(index)
        // Let the sockets run: a loop that never yields would send everything at its end.
        if (index % 20 === 0) await new Promise((resolve) => setImmediate(resolve))
      }
    }),
  )
}
