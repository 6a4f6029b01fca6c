// The load generator: a process of its own, steered over IPC. Updates are made by a Y.Doc before a run; while it measures
// it counts and keeps, and decodes nothing.
import { isDeepStrictEqual } from 'node:util'
import * as Y from 'yjs'
import { Client, updateFrame } from './client.mjs'
import { median, quantile } from './figures.mjs'
import { connect, publishHead, subscribed } from './resp.mjs'

process.on('disconnect', () => process.kill(process.pid, 'SIGKILL'))

/** @type {{ name: string, clients: Client[], writers: { client: Client, doc: Y.Doc, frames: Buffer[], marker: Buffer, sent: number }[] }[]} */
let documents = []
let failure
let onFailure = () => {}

/** Typing: so many updates of one character each, and at the end a mark by which its arrival is known. */
function typing(name, label, count) {
  const doc = new Y.Doc()
  const text = doc.getText('text')
  const frames = []
  doc.on('update', (update) => frames.push(updateFrame(name, update)))
  const end = `<end of ${label} in ${name}>`
  for (let n = 0; n < count; n++) text.insert(text.length, n === count - 1 ? end : String.fromCharCode(97 + (n % 26)))
  return { doc, frames, marker: Buffer.from(end), sent: 0 }
}

/** Something has gone wrong with a client: whoever waits is told. */
function fail(error) {
  failure ??= error
  onFailure(failure)
}

function untilDone(start) {
  if (failure) throw failure
  return new Promise((resolve, reject) => {
    onFailure = reject
    start(resolve)
  })
}

const commands = {
  /**
   * @param {{ name: string, urls: string[], writers: number[], edits: number }[]} wanted `urls`: one client each;
   *   `writers`: which of them write, and so many edits each
   */
  async open(wanted) {
    failure = undefined
    documents = wanted.map(({ name, urls, writers, edits }) => {
      const clients = urls.map((url) => new Client(url, name))
      for (const client of clients) client.onFailure = fail
      return { name, clients, writers: writers.map((index) => ({ client: clients[index], ...typing(name, index, edits) })) }
    })
    const waiting = documents.flatMap(({ clients }) => clients)
    const worker = async () => {
      for (let client = waiting.pop(); client; client = waiting.pop()) await client.open()
    }
    await Promise.all(Array.from({ length: 64 }, worker))
  },

  /** All documents at once, `window` updates of each unacknowledged at a time. Resolves when every client has everything. */
  async pipelined({ window }) {
    const updates = documents.reduce((sum, { writers }) => sum + writers.reduce((n, { frames }) => n + frames.length, 0), 0)
    const framesBefore = documents.flatMap(({ clients }) => clients).reduce((sum, client) => sum + client.frames, 0)
    let open = documents.length
    const started = performance.now()
    await untilDone((resolve) => {
      for (const document of documents) run(document, window, () => --open === 0 && resolve())
    })
    const seconds = (performance.now() - started) / 1000
    const frames = documents.flatMap(({ clients }) => clients).reduce((sum, client) => sum + client.frames, 0) - framesBefore
    return { seconds, updates, frames }
  },

  /** One update at a time: from its write to its arrival at the other client, in ms. */
  async oneAtATime({ count }) {
    const [{ clients, writers }] = documents
    const [writer] = writers
    const other = clients.find((client) => client !== writer.client)
    const times = []
    await untilDone((resolve) => {
      let started
      let arrived = true
      const next = () => {
        if (!arrived || writer.client.acknowledged < writer.sent) return
        if (writer.sent === Math.min(count, writer.frames.length)) return resolve()
        arrived = false
        started = performance.now()
        writer.client.write(writer.frames[writer.sent++])
      }
      other.onUpdate = () => {
        times.push(performance.now() - started)
        arrived = true
        next()
      }
      writer.client.onAcknowledged = next
      next()
    })
    return { p50: median(times), p99: quantile(times, 0.99), times: times.length }
  },

  /** One update at a time, until all clients have it: the time of the last one, in ms; between them, `pause` ms. */
  async fanOut({ count, pause = 0 }) {
    const [{ clients, writers }] = documents
    const [writer] = writers
    const frames = () => clients.reduce((sum, client) => sum + client.frames, 0)
    const framesBefore = frames()
    const times = []
    for (let n = 0; n < count; n++) {
      await untilDone((resolve) => {
        let missing = clients.length
        const acknowledged = writer.client.acknowledged
        for (const client of clients) {
          client.onUpdate = () => {
            client.onUpdate = () => {}
            missing--
            check()
          }
        }
        let last
        const check = () => {
          if (missing === 0) last ??= performance.now()
          if (missing > 0 || writer.client.acknowledged === acknowledged) return
          times.push(last - started)
          resolve()
        }
        writer.client.onAcknowledged = check
        const started = performance.now()
        writer.client.write(writer.frames[writer.sent++])
      })
      if (pause) await new Promise((resolve) => setTimeout(resolve, pause))
    }
    return { last: median(times), updates: times.length, frames: frames() - framesBefore }
  },

  /** Does every client, and every server that has the document, know all that was written? Throws if not. */
  check(states) {
    let checked = 0
    for (const { name, clients, writers } of documents) {
      const expected = new Y.Doc()
      for (const { doc, sent, frames } of writers) {
        if (sent !== frames.length) throw new Error(`"${name}": ${sent} of ${frames.length} updates were sent`)
        Y.applyUpdate(expected, Y.encodeStateAsUpdate(doc))
      }
      const same = (doc, who) => {
        const isSame = doc.getText('text').toString() === expected.getText('text').toString() && isDeepStrictEqual(Y.encodeStateVector(doc), Y.encodeStateVector(expected))
        if (!isSame) throw new Error(`"${name}" differs at ${who}`)
        checked++
      }
      clients.forEach((client, n) => same(client.document(), `client ${n}`))
      for (const { server, name: other, state } of states) {
        if (other !== name) continue
        const doc = new Y.Doc()
        Y.applyUpdate(doc, state)
        same(doc, `server ${server}`)
      }
    }
    return checked
  },

  close() {
    for (const { clients } of documents) for (const client of clients) client.close()
    documents = []
  },

  redisTrips,
}

function run({ clients, writers }, window, onEnd) {
  let outstanding = 0
  let turn = 0
  const more = () => {
    for (let tries = 0; outstanding < window && tries < writers.length; ) {
      const writer = writers[turn++ % writers.length]
      if (writer.sent === writer.frames.length) {
        tries++
        continue
      }
      tries = 0
      outstanding++
      writer.client.write(writer.frames[writer.sent++])
    }
  }
  const total = writers.reduce((sum, { frames }) => sum + frames.length, 0)
  let acknowledged = 0
  let missing = clients.length * writers.length
  const endIfDone = () => {
    if (acknowledged === total && missing === 0) onEnd()
  }
  for (const client of clients) {
    client.onAcknowledged = () => {
      outstanding--
      acknowledged++
      more()
      endIfDone()
    }
    // The writers' last updates may come together, merged.
    const awaited = new Set(writers)
    client.onUpdate = (frame) => {
      for (const writer of awaited) {
        if (writer.sent === writer.frames.length && frame.includes(writer.marker)) {
          awaited.delete(writer)
          missing--
        }
      }
      endIfDone()
    }
  }
  more()
}

/**
 * Redis's own way there and back, on four plain connections: publish, a subscriber hears it and publishes, another
 * subscriber hears that.
 */
async function redisTrips({ path, count }) {
  const payload = 'x'.repeat(40)
  const publish = (channel) => `${publishHead(channel)}${payload.length}\r\n${payload}\r\n`
  const subscribe = async (channel, onMessage) => (await subscribed(path, channel)).on('data', onMessage)
  const there = publish('bench-there')
  const back = publish('bench-back')
  const [first, second] = [await connect(path), await connect(path)]
  first.resume()
  second.resume()
  let arrived
  const subscribers = [await subscribe('bench-there', () => second.write(back)), await subscribe('bench-back', () => arrived())]
  const times = []
  for (let n = 0; n < count; n++) {
    const started = performance.now()
    const done = new Promise((resolve) => (arrived = resolve))
    first.write(there)
    await done
    times.push(performance.now() - started)
  }
  for (const socket of [first, second, ...subscribers]) socket.destroy()
  return { p50: median(times), p99: quantile(times, 0.99) }
}

process.on('message', async ({ id, command, args }) => {
  try {
    process.send({ id, result: await commands[command](...args) })
  } catch (error) {
    process.send({ id, error: error?.stack ?? String(error) })
  }
})
