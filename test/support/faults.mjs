// The common scene of fail-over: at least three servers, three documents of different owners, all on one socket of each
// of two clients; clients at home with the owner, read-only and session-aware; all type throughout, the read-only one too.
// What they type can be named afterwards, so that a lost edit has a name: `a17` is the edit 17 of ann.
//
//            s1 owns doc-1       s2 owns doc-2       s3 owns doc-3
//   home  ->  doc-1 doc-2
//   ann   ------------------->  doc-1 doc-2 doc-3
//   bob   --------------------------------------->   doc-1 doc-2 doc-3
//   eve   (session-aware) ----------------------->   doc-1 doc-2 doc-3
//   rex   (read-only) --------------------------->   doc-1 doc-2 doc-3
import assert from 'node:assert/strict'
import { connect, openSocket, others, synced, text, type } from './client.mjs'
import { startCluster } from './cluster.mjs'
import { startRelay } from './relay.mjs'
import { until } from './wait.mjs'

export const DOCUMENTS = ['doc-1', 'doc-2', 'doc-3']

const CLIENTS = {
  home: { at: 's1', documents: ['doc-1', 'doc-2'] },
  ann: { at: 's2', documents: ['doc-2', 'doc-1', 'doc-3'] },
  bob: { at: 's3', documents: ['doc-3', 'doc-1', 'doc-2'] },
  eve: { at: 's3', documents: ['doc-1', 'doc-2', 'doc-3'], sessionAwareness: true },
  rex: { at: 's3', documents: ['doc-1', 'doc-2', 'doc-3'], token: 'readonly', readOnly: true },
}

/** Events of a provider that its page would notice; 'synced' and the counter come with ordinary editing. */
const DISTURBANCES = ['open', 'connect', 'authenticated', 'authenticationFailed', 'status', 'disconnect', 'close', 'destroy']

/** Numbers in [0, 1) from a seed. */
export function random(seed) {
  let state = seed >>> 0 || 1
  return () => {
    state ^= state << 13
    state ^= state >>> 17
    state ^= state << 5
    state >>>= 0
    return state / 2 ** 32
  }
}

const now = () => performance.now()
/** A read-only client types a tenth as often: its edits stay in its own text, which all others are compared with. */
const READER_EVERY = 10
const edits = (string) => [...string.matchAll(/([a-z]+)(\d+)\./g)].map(([, who, n]) => ({ who, n: Number(n) }))

/**
 * @param {{ after(end: () => Promise<void>): void, diagnostic?(text: string): void }} t the test's context
 * @param {object} [options] of startCluster(), for all servers, and
 * @param {number} [options.servers] 3 at least
 * @param {boolean} [options.relays] each server reaches Redis through a relay: `scene.relay.s1`
 * @param {Record<string, object>} [options.each] more options for single servers: `{ s1: { stallLimit: 500 } }`
 * @param {number} [options.seed]
 * @param {number} [options.every] each client makes an edit in each of its documents once in so many ms
 */
export async function startScene(t, { servers = 3, relays = false, each = {}, seed = Number(process.env.SEED) || Date.now() % 1e6, every = 15, ...options } = {}) {
  const scene = new Scene(seed, every)
  t.diagnostic?.(`SEED=${seed}`)
  t.after(() => scene.stop())
  scene.cluster = await startCluster(0, options)
  scene.redis = scene.cluster.redis
  await Promise.all(
    Array.from({ length: servers }, async (_, index) => {
      const serverId = `s${index + 1}`
      if (relays) scene.relay[serverId] = await startRelay(scene.redis)
      scene.server[serverId] = await scene.cluster.add(serverId, { ...(relays && { redis: scene.relay[serverId] }), ...each[serverId] })
    }),
  )
  await scene.open()
  return scene
}

class Scene {
  /** @type {Record<string, Awaited<ReturnType<typeof import('./server.mjs').startServer>>>} */
  server = {}
  /** @type {Record<string, import('./relay.mjs').Relay>} */
  relay = {}
  /** name -> { name, at, socket, documents: Map(name -> provider), writes, readOnly, refused } */
  clients = {}
  /** Servers that the load balancer sends nobody to any more. */
  leaving = new Set()

  /** document -> who -> when each edit was made. */
  #made = new Map(DOCUMENTS.map((name) => [name, new Map()]))
  /** `document reader who` -> when each edit arrived. */
  #arrived = new Map()
  #typing
  /** Disturbances since `calm()`. */
  #disturbed = []
  #closed = []

  constructor(seed, every) {
    this.seed = seed
    this.every = every
    this.random = random(seed)
  }

  // ---- the cast -----------------------------------------------------------------------------------------

  async open() {
    // Who opens a document first makes its own server the owner.
    for (const name of ['home', 'ann', 'bob', 'eve', 'rex']) {
      const { documents, ...cast } = CLIENTS[name]
      await this.enter(name, { ...cast, documents: documents.slice(0, 1) })
    }
    for (const [name, { documents }] of Object.entries(CLIENTS)) {
      for (const document of documents.slice(1)) await this.join(this.clients[name], document)
    }
    for (const [index, name] of DOCUMENTS.entries()) {
      const holders = await this.cluster.holders(name)
      assert.deepEqual(holders.map((server) => server.serverId), [`s${index + 1}`], `the owner of ${name}`)
    }
    await until(() => this.#sees().length === 0, { what: `all see each other: ${this.#sees()}` })
    this.calm()
  }

  /** Adds a client; its documents are opened one after the other, on one socket. */
  async enter(name, { at, documents, writes = true, readOnly = false, library, ...options }) {
    const socket = openSocket({ url: () => this.#balance(at), library })
    /** `refused`: document -> edits of a read-only client: how many, and how many of them before it last connected. */
    const client = { name, at, writes, readOnly, refused: new Map(), documents: new Map(), socket, options: { token: name, library, ...options } }
    this.clients[name] = client
    socket.on('close', ({ event }) => this.#closed.push({ name, at, code: event.code, reason: `${event.reason ?? ''}` }))
    for (const document of documents) await this.join(client, document)
    return client
  }

  async join(client, document) {
    const { name } = client
    const provider = connect({ socket: client.socket, name: document, ...client.options })
    client.documents.set(document, provider)
    await synced(provider)
    provider.setAwarenessField('user', name)
    if (client.readOnly) {
      const refused = { made: 0, before: 0 }
      client.refused.set(document, refused)
      provider.on('open', () => (refused.before = refused.made)) // as it starts to synchronise
    } else if (client.writes) {
      this.#made.get(document)?.set(name[0], [])
    }
    for (const event of DISTURBANCES) {
      provider.on(event, (data) => this.#disturbed.push({ name, document, event, status: data?.status, reason: data?.reason }))
    }
    this.#watch(client, document, provider)
  }

  /** The server that a client is sent to: its own while that one lives. */
  #balance(at) {
    const servers = this.cluster.servers.filter((server) => !server.exit && !this.leaving.has(server.serverId))
    const own = servers.find((server) => server.serverId === at) ?? servers[Math.floor(this.random() * servers.length)]
    if (!own) throw new Error('no server is left')
    return own.url
  }

  #watch(client, document, provider) {
    const seen = (who) => {
      const key = `${document} ${client.name} ${who}`
      if (!this.#arrived.has(key)) this.#arrived.set(key, [])
      return this.#arrived.get(key)
    }
    provider.document.getText('text').observe((event, transaction) => {
      if (transaction.local) return
      const time = now()
      for (const { insert } of event.delta) {
        if (typeof insert !== 'string') continue
        for (const { who, n } of edits(insert)) seen(who)[n] ??= time
      }
    })
  }

  provider(client, document) {
    return this.clients[client].documents.get(document)
  }

  // ---- typing -------------------------------------------------------------------------------------------

  /** Everybody types, from now on. */
  type() {
    let turn = 0
    this.#typing ??= setInterval(() => {
      turn++
      for (const client of Object.values(this.clients)) {
        if (!client.writes || (client.readOnly && turn % READER_EVERY !== 0)) continue
        for (const document of client.documents.keys()) this.edit(client.name, document)
      }
    }, this.every)
  }

  rest() {
    clearInterval(this.#typing)
    this.#typing = undefined
  }

  /** One edit of a client: at the end of the text, or at its beginning. */
  edit(name, document) {
    const { readOnly, refused } = this.clients[name]
    const edit = readOnly ? `${name[0]}${refused.get(document).made++}.` : this.note(document, name[0])
    const shared = this.provider(name, document).document.getText('text')
    shared.insert(this.random() < 0.25 ? 0 : shared.length, edit)
    return edit
  }

  /** Names the next edit of somebody, which must be there in the end. */
  note(document, who) {
    const made = this.#made.get(document)
    if (!made.has(who)) made.set(who, [])
    made.get(who).push(now())
    return `${who}${made.get(who).length - 1}.`
  }

  /** Waits until edits have gone everywhere for a while: where a fault can begin. */
  async warm(count = 15) {
    this.type()
    const started = now()
    const flows = DOCUMENTS.flatMap((document) => [[document, 'ann', 'bob'], [document, 'bob', 'ann']])
    await until(() => flows.every(([document, from, to]) => this.#between(document, from, to, started).filter((edit) => edit.arrived).length >= count), {
      timeout: 20_000,
      what: 'edits flow before the fault',
    })
    this.calm()
  }

  /** What happens from now on counts. */
  calm() {
    this.#disturbed = []
    this.#closed = []
  }

  // ---- figures ------------------------------------------------------------------------------------------

  /** Edits of `from` since a time, as they reached `to`: `{ made, arrived }`, the latter undefined for those that did not. */
  #between(document, from, to, since, till = Infinity) {
    const arrived = this.#arrived.get(`${document} ${to} ${from[0]}`) ?? []
    const made = this.#made.get(document).get(from[0]) ?? []
    const result = []
    for (let n = made.length - 1; n >= 0 && made[n] >= since; n--) if (made[n] <= till) result.push({ n, made: made[n], arrived: arrived[n] })
    return result.reverse()
  }

  /**
   * How long it took, from `since`, until edits made after it had gone both ways between two clients.
   *
   * @returns {Promise<number>} ms
   */
  async flows(since, { document = 'doc-1', between = ['ann', 'bob'], timeout = 15_000 } = {}) {
    const first = (from, to) => Math.min(...this.#between(document, from, to, since).map((edit) => edit.arrived ?? Infinity))
    const ends = () => Math.max(first(...between), first(...[...between].reverse()))
    await until(() => ends() < Infinity, { timeout, every: 2, what: `edits of ${document} flow between ${between.join(' and ')}` })
    return ends() - since
  }

  /** The longest that an edit made since a time was under way between two clients; Infinity if one has not arrived. */
  pause(since, { document = 'doc-1', between = ['ann', 'bob'], till } = {}) {
    const times = [between, [...between].reverse()].flatMap(([from, to]) => this.#between(document, from, to, since, till))
    return Math.max(0, ...times.map(({ made, arrived }) => (arrived ?? Infinity) - made))
  }

  /** The lease's record in Redis. */
  async lease(document) {
    const record = await this.redis.client.get(`rsaLock:${document}`)
    if (record === null) return null
    const [epoch, boot, server] = record.split(' ')
    return { epoch: Number(epoch), boot, server }
  }

  /** Who stored a document, in order, without repeats: `['s1', 's2']`. */
  storers(document) {
    const stores = this.cluster.store.stores(document).map((entry) => entry.serverId)
    return stores.filter((serverId, index) => serverId !== stores[index - 1])
  }

  /** CLOSE messages that clients of living servers have had for single documents: a provider never recovers from one. */
  closesOfDocuments() {
    return Object.values(this.clients).flatMap((client) =>
      this.leaving.has(client.at) ? [] : [...client.documents].flatMap(([document, provider]) => provider.closes.map(() => `${client.name} ${document}`)),
    )
  }

  // ---- how it ended -------------------------------------------------------------------------------------

  /**
   * Who does not see whose cursor; nobody, in the end. Not asked of clients that had to connect again: what has their old
   * cursor's clock is new to nobody, with and without a cluster, until it moves or is renewed after 15 s.
   */
  #sees() {
    const missing = []
    const clients = Object.values(this.clients).filter((client) => client.socket.closes.length === 0)
    for (const client of clients) {
      for (const [document, provider] of client.documents) {
        const seen = new Set(others(provider).map((state) => state.user))
        for (const other of clients) {
          if (other !== client && other.documents.has(document) && !seen.has(other.name)) missing.push(`${client.name} not ${other.name} in ${document}`)
        }
      }
    }
    return missing
  }

  /** Edits that a text lacks, or has twice. */
  #compare(document, string, where) {
    const counts = new Map()
    for (const { who, n } of edits(string)) counts.set(`${who}${n}`, (counts.get(`${who}${n}`) ?? 0) + 1)
    const wrong = []
    for (const [who, made] of this.#made.get(document)) {
      for (let n = 0; n < made.length; n++) {
        const count = counts.get(`${who}${n}`) ?? 0
        if (count !== 1) wrong.push(`${where} ${count === 0 ? 'lacks' : `has ${count} times`} ${who}${n}`)
      }
    }
    return wrong
  }

  /** A client's text as all should have it. A read-only client has its own edits besides: nobody else may have them. */
  #shared(client, document) {
    const whole = text(client.documents.get(document))
    return client.readOnly ? whole.replaceAll(new RegExp(`${client.name[0]}\\d+\\.`, 'g'), '') : whole
  }

  /**
   * The count of unsynced changes that a provider comes to rest with: 0; and with one that may not write, what it shows in
   * Hocuspocus alone: an edit that is refused stays in the count, and a new connection makes one of all that were before.
   */
  #unsynced({ readOnly, refused }, document) {
    if (!readOnly) return 0
    const { made, before } = refused.get(document)
    return made - before + (before > 0 ? 1 : 0)
  }

  #differences() {
    const wrong = []
    for (const client of Object.values(this.clients)) {
      for (const [document, provider] of client.documents) {
        const name = `${client.name} ${document}`
        wrong.push(...this.#compare(document, text(provider), name))
        const unsynced = this.#unsynced(client, document)
        if (provider.unsyncedChanges !== unsynced) wrong.push(`${name}: unsynced count ${provider.unsyncedChanges}, not ${unsynced}`)
        // A new connection acknowledges in one what was typed before it and what is sent again.
        if (provider.surplus > 0 && client.socket.closes.length === 0) wrong.push(`${name}: ${provider.surplus} acknowledgements too many`)
      }
    }
    for (const document of DOCUMENTS) {
      const texts = new Set(Object.values(this.clients).flatMap((client) => (client.documents.has(document) ? [this.#shared(client, document)] : [])))
      if (texts.size > 1) wrong.push(`${document}: ${texts.size} different texts on clients`)
      for (const string of texts) wrong.push(...this.#leaked(document, string, 'a client'))
    }
    return wrong
  }

  /** Edits of read-only clients, where they must not be. */
  #leaked(document, string, where) {
    const readers = new Set(Object.values(this.clients).flatMap(({ name, readOnly }) => (readOnly ? [name[0]] : [])))
    return edits(string).flatMap(({ who, n }) => (readers.has(who) ? [`${where} of ${document} has ${who}${n}, which is read-only`] : []))
  }

  async #ownersDifferences() {
    const wrong = []
    for (const document of DOCUMENTS) {
      const expected = this.#shared(Object.values(this.clients).find((client) => client.documents.has(document)), document)
      const holders = await this.cluster.holders(document)
      if (holders.length !== 1) wrong.push(`${document} is loaded on ${holders.map((server) => server.serverId).join(' and ') || 'no server'}`)
      for (const server of holders) if ((await server.text(document)) !== expected) wrong.push(`${document}: another text on ${server.serverId}`)
      const stored = this.cluster.store.text(document)
      if (stored === null) wrong.push(`${document} is not stored`)
      else if (stored !== expected) wrong.push(`${document}: another text in the store`, ...this.#compare(document, stored, `the store of ${document}`))
      const lease = await this.lease(document)
      if (lease?.server !== holders[0]?.serverId) wrong.push(`${document}: the lease is ${lease?.server}'s, not ${holders[0]?.serverId}'s`)
    }
    return wrong
  }

  /**
   * Stops typing and waits until all is well.
   *
   * @param {object} [options]
   * @param {number} [options.timeout] shorter than the 15 s after which providers renew their cursors: that would hide a loss
   * @param {boolean} [options.cursors] must all see each other? Not where connections were closed: see #sees()
   * @param {boolean} [options.returns] may a document return to a server that owned it before?
   * @returns {Promise<{ took: number, wrong: string[], closed: object[], disturbed: object[] }>} `took`: until all clients had
   *   everything, in ms from the call; `wrong`: what is not as it should be, empty if all is well; `closed`: sockets closed
   *   since `calm()`; `disturbed`: events of providers since then
   */
  async settle({ timeout = 12_000, cursors = true, returns = false } = {}) {
    this.rest()
    const started = now()
    let took = NaN
    let wrong = []
    await until(
      async () => {
        wrong = this.#differences()
        if (wrong.length > 0) return false
        if (Number.isNaN(took)) took = now() - started
        wrong = [...(await this.#ownersDifferences()), ...(cursors ? this.#sees() : [])]
        return wrong.length === 0
      },
      { timeout, every: 25, what: 'all is well' },
    ).catch((error) => wrong.length === 0 && wrong.push(error.message))
    for (const document of DOCUMENTS) {
      const storers = this.storers(document)
      // A server that owned it twice, with another in between, stores it twice: only where the test made that happen.
      if (!returns && new Set(storers).size < storers.length) wrong.push(`${document} was stored by ${storers.join(', ')}`)
    }
    return { took, wrong, closed: [...this.#closed], disturbed: [...this.#disturbed] }
  }

  /**
   * The final check of every test: the same text on all clients, the owner and the store, with every edit once; nothing
   * unsynced; one owner; no socket closed, and no event on a provider, but for those that `may` names.
   *
   * @param {object} [options]
   * @param {string[]} [options.mayClose] clients whose socket may have been closed: those of a server that ended
   * @param {string[]} [options.mayNotice] clients whose providers may have had events (those of `mayClose` always may)
   * @returns what settle() returned
   */
  async check({ mayClose = [], mayNotice = mayClose, timeout, cursors, returns = false } = {}) {
    const outcome = await this.settle({ timeout, cursors, returns })
    const { wrong, closed, disturbed } = outcome
    assert.deepEqual(summary(wrong), [], `SEED=${this.seed}`)
    assert.deepEqual(closed.filter(({ name }) => !mayClose.includes(name)), [], `sockets closed (SEED=${this.seed})`)
    assert.deepEqual(disturbed.filter(({ name }) => !mayNotice.includes(name)), [], `providers disturbed (SEED=${this.seed})`)
    return outcome
  }

  /** What the servers printed, for a failure's sake. */
  output() {
    return Object.values(this.server).map((server) => `--- ${server.serverId}\n${server.output()}`).join('\n')
  }

  async stop() {
    this.rest()
    for (const client of Object.values(this.clients)) {
      for (const provider of client.documents.values()) provider.destroy()
      client.socket.destroy()
    }
    // No farewells: a frozen or cut-off server would take its time.
    await Promise.all((this.cluster?.servers ?? []).map((server) => server.exit ?? server.kill('SIGKILL')))
    await this.cluster?.stop()
    await Promise.all(Object.values(this.relay).map((relay) => relay.stop()))
  }
}

/** The first of many lines, and how many more there are. */
function summary(lines, most = 12) {
  return lines.length <= most ? lines : [...lines.slice(0, most), `... and ${lines.length - most} more`]
}

// ---- faults ---------------------------------------------------------------------------------------------

/** Kills redis-server and starts it again, empty, `ms` later (as fast as it can where that is longer). Resolves with its return. */
export async function redisAway(redis, ms) {
  const started = now()
  await redis.kill9()
  await new Promise((resolve) => setTimeout(resolve, Math.max(0, ms - (now() - started))))
  await redis.restart()
  return { away: now() - started, returned: now() }
}

/** Stops a server's process, all threads of it, until `thaw()`. */
export const freeze = (server) => process.kill(server.pid, 'SIGSTOP')
export const thaw = (server) => process.kill(server.pid, 'SIGCONT')
