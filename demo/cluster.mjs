// What the demo's buttons act on: three servers and Redis, each with a state, and with what can be done to it then.

import { EventEmitter } from 'node:events'
import { rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { messageFrom, signal, startModule, startProgram, unlessItEnds, until } from './children.mjs'

const SERVER_IDS = ['server-1', 'server-2', 'server-3'] // the page draws these three
const REDIS_AWAY_MS = 1_000

const ACTIONS = {
  starting: ['kill'],
  up: ['kill', 'stop', 'freeze'],
  frozen: ['kill', 'thaw'],
  stopping: ['kill'],
  down: ['start'],
}

/** Emits 'change' when any state has changed, and 'failure' with an error when Redis has gone for good. */
export class Cluster extends EventEmitter {
  constructor({ folder, dataFolder, dashboardToken }) {
    super()
    this.setMaxListeners(0) // one for each open page
    const changed = () => this.emit('change')
    this.redis = new RedisProcess(folder, changed, (error) => this.emit('failure', error))
    const env = { ...process.env, REDIS_SOCKET: this.redis.socket, DATA_FOLDER: dataFolder, DASHBOARD_TOKEN: dashboardToken }
    this.servers = SERVER_IDS.map((id) => new ServerProcess(id, join(folder, `${id}.sock`), env, changed))
  }

  async start() {
    await this.redis.start()
    await Promise.all(this.servers.map((server) => server.start()))
  }

  /** What the page shows. */
  states() {
    const servers = this.servers.map((server) => [server.id, { ...server.state, actions: server.actions() }])
    return { servers: Object.fromEntries(servers), redis: { ...this.redis.state, actions: this.redis.actions() } }
  }

  find(id) {
    return [...this.servers, this.redis].find((member) => member.id === id)
  }
}

/** A process that has a state: `{ name, why }`, both words. */
class Member {
  state = { name: 'down', why: 'not started yet' }
  program

  constructor(id, changed) {
    this.id = id
    this.changed = changed
  }

  enter(name, why) {
    this.state = { name, why }
    this.changed()
  }
}

class ServerProcess extends Member {
  #why // it will have ended, where that is known before

  constructor(id, socket, env, changed) {
    super(id, changed)
    this.socket = socket
    this.env = { ...env, SERVER_ID: id, SOCKET: socket }
  }

  actions() {
    return ACTIONS[this.state.name]
  }

  /** Resolves when the server takes sockets; rejects if it ends before. */
  async start() {
    this.enter('starting')
    await rm(this.socket, { force: true }) // what a killed one has left
    const program = startModule(this.id, fileURLToPath(new URL('server.mjs', import.meta.url)), { env: this.env })
    this.program = program
    this.#why = undefined
    for (const stream of [program.child.stdout, program.child.stderr]) stream.pipe(process.stderr, { end: false })
    program.ended.then((how) => {
      if (!this.#why && how !== 0) console.error(`${this.id} ended (${how}); the others go on.`)
      this.enter('down', this.#why ?? `ended by itself: ${how}`)
    })
    await messageFrom(program)
    this.enter('up')
  }

  kill() {
    this.#why = 'killed'
    signal(this.program, 'SIGKILL')
  }

  stop() {
    this.#why = 'stopped'
    this.enter('stopping')
    signal(this.program, 'SIGTERM')
  }

  freeze() {
    this.enter('frozen')
    signal(this.program, 'SIGSTOP')
  }

  thaw() {
    signal(this.program, 'SIGCONT')
    this.enter('up')
  }
}

class RedisProcess extends Member {
  #folder
  #failed

  constructor(folder, changed, failed) {
    super('redis', changed)
    this.socket = join(folder, 'redis.sock')
    this.#folder = folder
    this.#failed = failed
  }

  actions() {
    return this.state.name === 'up' ? ['restart'] : []
  }

  async start() {
    const options = ['--port', '0', '--unixsocket', this.socket, '--dir', this.#folder, '--save', '', '--appendonly', 'no']
    const program = startProgram('redis-server', 'redis-server', options)
    this.program = program
    await unlessItEnds(program, until('redis-server', () => canConnect(this.socket)))
    this.enter('up')
    program.ended.then((how) => {
      if (this.state.name === 'up') this.#failed(new Error(`redis-server ended (${how})`))
    })
  }

  /** It comes back empty: nothing of the cluster's state is kept but what the servers know. */
  async restart() {
    this.enter('down', 'restarting')
    signal(this.program, 'SIGTERM')
    await Promise.all([this.program.ended, sleep(REDIS_AWAY_MS)])
    await this.start().catch(this.#failed)
  }
}

export function canConnect(where) {
  return new Promise((resolve, reject) => {
    const socket = connect(where, () => resolve(socket.destroy()))
    socket.once('error', reject)
  })
}
