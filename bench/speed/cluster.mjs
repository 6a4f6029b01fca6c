// The processes of the benchmark: servers, the load generator, redis-server; and what the kernel says of them.
import { fork } from 'node:child_process'
import { readFileSync, readdirSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { PERF_FLAGS, removeMap } from './perf.mjs'

/** A forked program of this folder: `await process.call('command', ...args)`. */
export function startProcess(program, execArgv = []) {
  const child = fork(fileURLToPath(new URL(program, import.meta.url)), [], {
    serialization: 'advanced',
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: { ...process.env, NODE_ENV: 'production' },
    execArgv: ['--expose-gc', ...execArgv],
  })
  // What it prints is of interest when something fails (extension-redis, say, tells of stores that it leaves out).
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output = (output + data).slice(-16_384)))
  const pending = new Map()
  let lastId = 0
  let ended = false
  const exited = new Promise((resolve) => child.once('exit', resolve))
  child.on('message', ({ id, result, error }) => {
    const call = pending.get(id)
    pending.delete(id)
    if (error) call.reject(new Error(`${error}\n${output}`))
    else call.resolve(result)
  })
  child.on('exit', (code, signal) => {
    ended = true
    for (const { reject } of pending.values()) reject(new Error(`${program} ended (${signal ?? code})\n${output}`))
    pending.clear()
  })
  return {
    pid: child.pid,
    call: (command, ...args) =>
      new Promise((resolve, reject) => {
        if (ended) return reject(new Error(`${program} has ended`))
        pending.set(++lastId, { resolve, reject })
        child.send({ id: lastId, command, args })
      }),
    async stop() {
      child.kill('SIGKILL')
      await exited
    },
  }
}

/**
 * CPU time of a process, in microseconds, as the scheduler has counted it (nanoseconds in schedstat): of all its threads,
 * and of one of them.
 */
export function cpuOf(pid, thread) {
  let total = 0
  let one = 0
  for (const task of readdirSync(`/proc/${pid}/task`)) {
    let text
    try {
      text = readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'latin1')
    } catch {
      continue // it has ended since
    }
    const time = Number(text.split(' ', 1)[0]) / 1000
    total += time
    if (Number(task) === thread) one = time
  }
  return { total, thread: one }
}

/** Redis's own counters: commands, publishes, bytes in and out. */
export async function redisCounters(redis) {
  const [stats, commands] = [await redis.client.info('stats'), await redis.client.info('commandstats')]
  const field = (name) => Number(stats.match(new RegExp(`^${name}:(\\d+)`, 'm'))[1])
  const calls = (name) => Number(commands.match(new RegExp(`^cmdstat_${name}:calls=(\\d+)`, 'm'))?.[1] ?? 0)
  return {
    commands: field('total_commands_processed'),
    // Redis counts what a script calls, too: for an engine that is idle, these come from scripts alone.
    scripts: calls('eval'),
    scripted: ['get', 'set', 'del', 'pexpire', 'time'].reduce((sum, name) => sum + calls(name), 0),
    publishes: calls('publish'),
    bytes: field('total_net_input_bytes') + field('total_net_output_bytes'),
  }
}

/**
 * The servers of one variant. `servers[0]` is to own the documents, the others are the clients'; variants without a cluster
 * (mirror, bare) have one server, for everybody.
 */
export class Cluster {
  /** @type {{ pid: number, url: string, ioThread?: number, call: (command: string, ...args: any[]) => Promise<any>, stop: () => Promise<void> }[]} */
  servers = []

  /** @param {string[]} [execArgv] more options of Node for the servers */
  constructor(variant, redis, execArgv = []) {
    this.variant = variant
    this.redis = redis
    this.execArgv = execArgv
    this.isAlone = variant === 'mirror' || variant === 'bare'
    this.hasDocuments = !['mirror', 'relay', 'relayed'].includes(variant)
  }

  async start(count) {
    while (this.servers.length < (this.isAlone ? 1 : count)) {
      const server = startProcess('./server.mjs', this.execArgv)
      this.servers.push(server)
      const serverId = `s${this.servers.length}`
      const { port, ioThread } = await server.call('start', { variant: this.variant, serverId, name: this.variant, redis: this.redis.options })
      Object.assign(server, { url: `ws://127.0.0.1:${port}`, ioThread })
    }
    return this
  }

  get owner() {
    return this.servers[0]
  }

  /** A server that is not the owner, if there is one. */
  other(n = 0) {
    return this.isAlone ? this.owner : this.servers[1 + n]
  }

  async collect() {
    return Promise.all(this.servers.map((server) => server.call('collect')))
  }

  /** The CPU time of everybody, to be subtracted. */
  cpu(load) {
    return {
      load: load ? cpuOf(load.pid).total : 0,
      servers: this.servers.map(({ pid, ioThread }) => cpuOf(pid, ioThread)),
      redis: cpuOf(this.redis.pid).total,
    }
  }

  async stop() {
    await Promise.all(this.servers.map((server) => server.stop()))
    if (this.execArgv.includes(PERF_FLAGS[0])) for (const { pid } of this.servers) removeMap(pid)
  }
}

/** What `work` has cost: microseconds of CPU by server, of Redis, of the load generator; and Redis's counters. */
export async function cost(cluster, load, work) {
  await cluster.collect()
  // What asking for the counters adds to them.
  const asked = await redisCounters(cluster.redis)
  const redisBefore = await redisCounters(cluster.redis)
  const own = (field) => redisBefore[field] - asked[field]
  const before = cluster.cpu(load)
  const result = await work()
  const after = cluster.cpu(load)
  const redisAfter = await redisCounters(cluster.redis)
  const servers = after.servers.map(({ total, thread }, n) => ({
    cpu: total - before.servers[n].total,
    ioThread: thread - before.servers[n].thread,
  }))
  return {
    result,
    servers,
    redis: after.redis - before.redis,
    load: after.load - before.load,
    publishes: redisAfter.publishes - redisBefore.publishes,
    commands: redisAfter.commands - redisBefore.commands - own('commands'),
    scripts: redisAfter.scripts - redisBefore.scripts,
    scripted: redisAfter.scripted - redisBefore.scripted,
    bytes: redisAfter.bytes - redisBefore.bytes - own('bytes'),
  }
}
