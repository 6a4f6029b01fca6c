// A TCP relay between a server process and Redis, in the test's process: it resets connections, goes silent, or delays.
import net from 'node:net'
import { once } from 'node:events'

/** One direction of a connection: bytes that have come and are to be passed on, each chunk not before its time. */
class Direction {
  #chunks = []
  #bytes = 0
  #timer
  #ended = false

  constructor(relay, from, to) {
    this.relay = relay
    this.from = from
    this.to = to
    from.on('data', (bytes) => {
      const last = this.#chunks.at(-1)?.due ?? 0
      this.#chunks.push({ bytes, due: Math.max(last, performance.now() + relay.latency) })
      this.#bytes += bytes.length
      // What is not passed on stays with the sender, as it does where a network is slow.
      if (this.#bytes > 1024 * 1024) from.pause()
      this.pump()
    })
    from.on('end', () => {
      this.#ended = true
      this.pump()
    })
    to.on('drain', () => this.pump())
  }

  pump() {
    clearTimeout(this.#timer)
    if (this.relay.silent || !this.to.writable) return
    while (this.#chunks.length > 0 && !this.to.writableNeedDrain) {
      const wait = this.#chunks[0].due - performance.now()
      if (wait > 0.5) {
        this.#timer = setTimeout(() => this.pump(), wait)
        return
      }
      const { bytes } = this.#chunks.shift()
      this.#bytes -= bytes.length
      this.to.write(bytes)
    }
    if (this.#chunks.length > 0) return
    if (this.#ended) this.to.end()
    else this.from.resume()
  }

  stop() {
    clearTimeout(this.#timer)
    this.#chunks = []
  }
}

/**
 * @param {{ options: object }} redis what startRedis() returned
 * @returns {Promise<Relay>}
 */
export async function startRelay(redis) {
  const relay = new Relay(redis)
  relay.server.listen(0, '127.0.0.1')
  await once(relay.server, 'listening')
  return relay
}

export class Relay {
  /** Added to each chunk, in each direction, in ms. */
  latency = 0
  /** Keeps and accepts connections, and passes nothing on: not even that one side has gone. */
  silent = false
  /** Resets every connection that is made. */
  refusing = false
  /** How many connections were made. */
  accepted = 0

  #pairs = new Set()

  constructor(redis) {
    this.target = redis.options
    // Half-open: an end is passed on in its turn, after what came before it.
    this.server = net.createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket))
    this.server.on('error', () => {})
  }

  /** ioredis options for a server whose way to Redis is this relay. */
  get options() {
    const { path, host, port, ...rest } = this.target
    return { ...rest, host: '127.0.0.1', port: this.server.address().port }
  }

  #accept(client) {
    client.on('error', () => {})
    this.accepted += 1
    if (this.refusing) {
      client.resetAndDestroy()
      return
    }
    const { path, host, port } = this.target
    const redis = net.connect({ ...(path ? { path } : { host, port }), allowHalfOpen: true, noDelay: true })
    redis.on('error', () => {})
    const pair = { client, redis, directions: [new Direction(this, client, redis), new Direction(this, redis, client)] }
    this.#pairs.add(pair)
    redis.on('connect', () => pair.directions[0].pump())
    for (const [socket, other] of [[client, redis], [redis, client]]) {
      // In silence, the other side is not told; it learns when the relay passes things on again.
      socket.on('close', (failed) => {
        if (this.silent) pair.broken = true
        else this.#end(pair, failed, other)
      })
    }
  }

  #end(pair, failed, other) {
    if (!this.#pairs.delete(pair)) return
    if (failed) {
      for (const direction of pair.directions) direction.stop()
      reset(other)
    }
  }

  get connections() {
    return this.#pairs.size
  }

  /** Resets all connections, on both sides. New ones are relayed, unless `refuse` is given: until `restore()`. */
  cut({ refuse = false } = {}) {
    this.refusing = refuse
    for (const { client, redis, directions } of this.#pairs) {
      for (const direction of directions) direction.stop()
      reset(client)
      reset(redis)
    }
    this.#pairs.clear()
  }

  /** From now on nothing passes; connections stay, and are accepted, until `restore()`. */
  blackhole() {
    this.silent = true
  }

  /** Every chunk takes this much longer in each direction. */
  delay(ms) {
    this.latency = ms
  }

  /** Back to normal; what was kept is passed on. */
  restore() {
    this.silent = this.refusing = false
    this.latency = 0
    for (const pair of [...this.#pairs]) {
      for (const direction of pair.directions) direction.pump()
      if (!pair.broken) continue
      this.#pairs.delete(pair)
      reset(pair.client)
      reset(pair.redis)
    }
  }

  /** Connections go to another Redis from now on; those that stand are reset. */
  retarget(redis) {
    this.target = redis.options
    this.cut()
  }

  async stop() {
    this.cut({ refuse: true })
    this.server.close()
  }
}

function reset(socket) {
  if (socket.destroyed) return
  if (socket.resetAndDestroy && socket.remoteAddress) socket.resetAndDestroy()
  else socket.destroy()
}
