// Foreign on clients of ioredis that do what the test says: what a real Redis seldom does, or not in time.
import assert from 'node:assert/strict'
import { EventEmitter } from 'node:events'
import { describe, test } from 'node:test'
import { Foreign } from '../../js/dist/foreign.js'
import { native } from '../../js/dist/native.js'
import { holds, until } from '../support/wait.mjs'

const CHANNEL = Buffer.from('rsaLink:boot')

class Client extends EventEmitter {
  status = 'wait'

  constructor(world, options = {}) {
    super()
    this.world = world
    this.options = options
    world.made.push(this)
  }

  async connect() {
    await new Promise(setImmediate)
    if (this.world.isDead(this)) throw new Error('connect ECONNREFUSED')
    this.stream = this.world.streamOf(this)
    this.status = 'ready'
    this.emit('ready')
  }

  disconnect() {
    if (this.status === 'end') return
    this.status = 'end'
    this.emit('cut') // whoever waits for an answer
    setImmediate(() => this.emit('close'))
  }

  duplicate(options) {
    return new Client(this.world, { ...this.options, ...options })
  }

  async callBuffer(command, ...args) {
    return this.world.answer(this, command.toLowerCase(), args.map(String))
  }

  async ping() {
    return this.world.ping(this)
  }
}

/** A Foreign, with its Redis and its engine; `answer` says what Redis says, undefined: OK. */
async function start(t, { answer = () => undefined, nodes = undefined, natMap = undefined, listens = true } = {}) {
  const world = {
    made: [],
    answer: (client, command, args) => answer(client, command, args) ?? (command === 'ssubscribe' ? 1 : 'OK'),
    ping: () => 'PONG',
    isDead: () => false,
    streamOf: () => undefined,
    told: [],
    isGone: false,
    of: (kind) => world.told.filter(([one]) => one === kind),
    /** Those that are connected. */
    standing: () => world.made.filter(({ status }) => status === 'ready'),
    listener: () => world.standing().find((client) => client.listenerCount('messageBuffer') > 0),
  }
  /** @type {any} */
  const redis = new Client(world, { natMap })
  if (nodes) {
    redis.nodes = () => []
    redis.duplicate = () => Object.assign(new Client(world), { nodes: () => world.nodes, refreshSlotsCache: () => world.told.push(['refresh']) })
    world.nodes = nodes.map((port) => Object.assign(new Client(world, { host: 'redis', port }), { status: 'ready' }))
  }
  world.made.length = 0
  const kinds = ['up', 'down', 'refused', 'retry', 'reply', 'message', 'subscribed', 'unsubscribed']
  const events = Object.fromEntries(kinds.map((kind) => [kind, (...args) => world.told.push([kind, ...args])]))
  world.foreign = new Foreign(redis, { ...events, isGone: () => world.isGone })
  t.after(() => world.foreign.close())
  await until(() => world.of('up').length === 1, { what: 'it is up' })
  if (listens) {
    world.foreign.listen(CHANNEL)
    await until(() => world.of('subscribed').length === 1, { what: 'it listens' })
  }
  world.ask = (request, downs, ...words) => {
    const parts = words.map((word) => Buffer.from(word)).flatMap((bytes) => [Buffer.from(new Uint32Array([bytes.length]).buffer), bytes])
    world.foreign.command(request, downs, Buffer.concat(parts))
    world.foreign.flush()
  }
  /** The answer to a request: its status, and its values. */
  world.answered = async (request) => {
    const [, , status, data] = await until(() => world.of('reply').find(([, one]) => one === request), { what: `${request} is answered` })
    return [status === 0 ? 'OK' : native.errors[status][0], Buffer.from(data)]
  }
  return world
}

const NIL = Buffer.of(0)
const number = (value) => Buffer.concat([Buffer.of(1), Buffer.from(new Float64Array([value]).buffer)])
const text = (value) => Buffer.concat([Buffer.of(2), Buffer.from(new Uint32Array([value.length]).buffer), Buffer.from(value)])

describe('One Redis', () => {
  test('a primary that has become a replica is left by both connections; other errors are answers', async (t) => {
    const answer = (_client, _command, [key]) => {
      if (key === 'write') throw new Error("READONLY You can't write against a read only replica.")
      if (key === 'wrong') throw new Error('WRONGTYPE Operation against a key')
    }
    const world = await start(t, { answer })
    const former = world.standing()
    world.ask(1, 0, 'GET', 'wrong')
    assert.equal((await world.answered(1))[0], 'AFF_EREDIS')
    assert.deepEqual(world.standing(), former)

    world.ask(2, 0, 'DEL', 'write')
    assert.equal((await world.answered(2))[0], 'AFF_EREDIS')
    await until(() => world.of('up').length === 2 && world.of('subscribed').length === 2, { what: 'both are connected anew' })
    assert.deepEqual(former.map(({ status }) => status), ['end', 'end'])
    assert.match(world.of('down')[0][2], /^READONLY/)
    assert.deepEqual(world.of('up')[1], ['up', 1])
  })

  test('what is asked before the engine has heard of an end is answered as what the end has met', async (t) => {
    let hasAsked = false
    const answer = (client) => {
      hasAsked = true
      return new Promise((_, reject) => client.on('cut', () => reject(new Error('Connection is closed.'))))
    }
    const world = await start(t, { answer, listens: false })
    world.ask(1, 0, 'GET', 'key')
    await until(() => hasAsked)
    world.standing()[0].disconnect()
    await until(() => world.of('up').length === 2)
    assert.equal((await world.answered(1))[0], 'AFF_ENOTCONN')
    world.ask(2, 0, 'GET', 'key')
    assert.equal((await world.answered(2))[0], 'AFF_ENOTCONN')
    assert.ok(world.told.findIndex(([kind, request]) => kind === 'reply' && request === 1) < world.told.findIndex(([kind]) => kind === 'down'))
  })

  test('what the engine could not take, an answer or news, is told anew after an end of both connections', async (t) => {
    const world = await start(t)
    world.ask(1, 0, 'GET', 'key')
    await world.answered(1)
    world.told.length = 0
    world.foreign.refused(1)
    await until(() => world.of('up').length === 1 && world.of('subscribed').length === 1, { what: 'both are connected anew' })
    assert.equal((await world.answered(1))[0], 'AFF_ENOTCONN')
    assert.ok(world.of('down').length === 1 && world.of('unsubscribed').length === 1)
  })

  test('a listener elsewhere than the commands is connected anew', async (t) => {
    let port = 1
    const world = await start(t, { listens: false })
    world.streamOf = () => ({ remoteAddress: '10.0.0.1', remotePort: port })
    world.foreign.listen(CHANNEL)
    await until(() => world.of('subscribed').length === 1)
    world.standing()[0].disconnect()
    await until(() => world.of('up').length === 2)
    assert.equal(world.of('unsubscribed').length, 0, 'it is where they are')
    port = 2
    world.standing().find((client) => client.listenerCount('messageBuffer') === 0).disconnect()
    await until(() => world.of('subscribed').length === 2, { what: 'it listens there' })
    assert.deepEqual(world.standing().map(({ stream }) => stream.remotePort), [2, 2])
  })

  test('a connection that does not answer is given up, at the fourth look; one that says no is alive', async (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] })
    const world = await start(t)
    const look = async () => {
      t.mock.timers.tick(5000)
      await new Promise(setImmediate)
    }
    world.ping = () => Promise.reject(Object.assign(new Error('NOPERM no'), { name: 'ReplyError' }))
    const former = world.standing()
    for (let n = 0; n < 10; n++) await look()
    assert.deepEqual(world.standing(), former)
    world.ping = () => new Promise(() => {})
    for (let n = 0; n < 3; n++) await look()
    assert.deepEqual(world.standing(), former)
    await look()
    await until(() => world.of('up').length === 2 && world.of('subscribed').length === 2, { what: 'both are connected anew' })
    assert.match(world.of('down')[0][2], /does not answer/)
  })

  test('an engine that everybody has forgotten has no connections', async (t) => {
    t.mock.timers.enable({ apis: ['setInterval'] })
    const world = await start(t)
    world.isGone = true
    t.mock.timers.tick(5000)
    assert.deepEqual(world.standing(), [])
  })
})

describe('A Redis Cluster', () => {
  test('who listens to a channel is counted on all nodes, sharded or not; if one does not answer nobody knows', async (t) => {
    let isAway = false
    const answer = ({ options: { port } }, command, [what]) => {
      if (command !== 'pubsub') return undefined
      if (isAway && port === 2) throw new Error('Connection is closed.')
      if (what === 'SHARDNUMSUB' && port === 3) throw new Error('ERR unknown subcommand or wrong number of arguments')
      if (what === 'SHARDNUMSUB') return [CHANNEL, 1]
      return [CHANNEL, 10]
    }
    const world = await start(t, { answer, nodes: [1, 2, 3] })
    world.ask(1, 0, 'PUBSUB', 'NUMSUB', String(CHANNEL))
    assert.deepEqual(await world.answered(1), ['OK', Buffer.concat([text(String(CHANNEL)), number(32)])])
    isAway = true
    world.ask(2, 0, 'PUBSUB', 'NUMSUB', String(CHANNEL))
    assert.deepEqual(await world.answered(2), ['OK', Buffer.concat([text(String(CHANNEL)), NIL])])
  })

  test('another node that serves slots is told as an end and a beginning, and a listener on a replica moves', async (t) => {
    const world = await start(t, { nodes: [1] })
    const cluster = world.made[0]
    const listener = world.listener()
    assert.equal(listener.options.port, 1)
    cluster.emit('refresh')
    assert.equal(world.of('down').length, 0, 'it is the same')

    world.nodes = [Object.assign(new Client(world, { host: 'redis', port: 2 }), { status: 'ready' })]
    cluster.emit('refresh')
    assert.match(world.of('down')[0][2], /another node/)
    assert.deepEqual(world.of('up')[1], ['up', 1])
    await until(() => world.of('subscribed').length === 2, { what: 'it listens elsewhere' })
    assert.equal(world.listener().options.port, 2)
  })

  test('where the slots are is asked again soon after a node is lost', async (t) => {
    const world = await start(t, { nodes: [1] })
    world.made[0].emit('-node')
    await until(() => world.of('refresh').length === 1)
  })

  test('a listener whose slot moves while it listens goes where that is', async (t) => {
    let home = 1
    const answer = ({ options: { port } }, command) => {
      if (command === 'get' && port !== home) throw new Error(`MOVED 1234 redis:${home}`)
    }
    const world = await start(t, { answer, nodes: [1] })
    for (home = 2; home < 10; home++) {
      const count = world.made.length
      world.listener().emit('moved')
      await until(() => world.of('subscribed').length === home)
      assert.equal(world.listener().options.port, home)
      assert.equal(world.made.length, count + 2, 'one has said where')
    }
  })

  test('a node to which it was sent, and that is not there, is asked once', async (t) => {
    let asked = 0
    const answer = (_client, command) => {
      if (command === 'get' && asked++ === 0) throw new Error('MOVED 1234 redis:2')
    }
    const world = await start(t, { answer, nodes: [1], listens: false })
    world.isDead = ({ options: { port } }) => port === 2
    world.foreign.listen(CHANNEL)
    await until(() => world.of('subscribed').length === 1)
    assert.equal(world.made.filter(({ options: { port } }) => port === 2).length, 1)
  })

  const subscriptions = {
    'in both ways': [[], ['ssubscribe', 'subscribe']],
    'in the one that there is': [['ssubscribe'], ['subscribe']],
    'in the one that it may': [['subscribe'], ['ssubscribe']],
  }
  for (const [what, [refused, expected]] of Object.entries(subscriptions)) {
    test(`it listens ${what}`, async (t) => {
      const taken = []
      const answer = (_client, command, [channel]) => {
        if (refused.includes(command)) throw new Error(`NOPERM User app has no permissions to run the '${command}' command`)
        if (channel === String(CHANNEL) && command !== 'get') taken.push(command)
      }
      await start(t, { answer, nodes: [1] })
      assert.deepEqual(taken, expected)
    })
  }

  test('where it may not listen at all, that is final', async (t) => {
    const answer = (_client, command) => {
      if (/subscribe/.test(command)) throw new Error(`NOPERM User app has no permissions to run the '${command}' command`)
    }
    const world = await start(t, { answer, nodes: [1], listens: false })
    world.foreign.listen(CHANNEL)
    await until(() => /NOPERM.*'subscribe'/.test(world.of('refused')[0]?.[1]))
  })

  test('without sharded pub/sub it publishes to all nodes, and tries again on the next connection', async (t) => {
    const published = []
    let isOld = true
    const answer = (_client, command) => {
      if (isOld && command === 'spublish') throw new Error("ERR unknown command 'spublish', with args beginning with: ")
      if (/publish/.test(command)) published.push(command)
      return command === 'spublish' ? 1 : undefined
    }
    const world = await start(t, { answer, nodes: [1] })
    const publish = (request, downs) => {
      world.foreign.publish(request, downs, CHANNEL, Buffer.from('data'))
      world.foreign.flush()
      return world.answered(request)
    }
    assert.deepEqual(await publish(1, 0), ['OK', NIL], 'nobody knows who hears it')
    isOld = false
    assert.deepEqual(await publish(2, 0), ['OK', NIL])
    world.made[0].disconnect()
    await until(() => world.of('up').length === 2)
    assert.deepEqual(await publish(3, 1), ['OK', number(1)])
    assert.deepEqual(published, ['publish', 'publish', 'spublish'])
  })

  const addresses = {
    'the address that the node says': ['MOVED 1234 10.0.0.3:7003', undefined, { host: '10.0.0.3', port: 7003 }],
    'the same host, if it says none': ['MOVED 1234 :7003', undefined, { host: 'redis', port: 7003 }],
    'what a natMap has for it': ['MOVED 1234 10.0.0.3:7003', { '10.0.0.3:7003': { host: 'outside', port: 3 } }, { host: 'outside', port: 3 }],
    'what a function as natMap says': ['MOVED 1234 10.0.0.3:7003', (key) => ({ host: `out-${key}`, port: 3 }), { host: 'out-10.0.0.3:7003', port: 3 }],
    'the node itself, if the slot is on its way': ['ASK 1234 10.0.0.3:7003', undefined, { host: 'redis', port: 1 }],
  }
  for (const [what, [error, natMap, expected]] of Object.entries(addresses)) {
    test(`where a slot is: ${what}`, async (t) => {
      let asked = 0
      const answer = (_client, command) => {
        if (command === 'get' && asked++ === 0) throw new Error(error)
      }
      const world = await start(t, { answer, nodes: [1], natMap })
      const { host, port } = world.listener().options
      assert.deepEqual({ host, port }, expected)
    })
  }

  test('nodes that send it round in a circle are not asked without a pause', async (t) => {
    let asked = 0
    const answer = ({ options: { port } }, command) => {
      if (command === 'get') {
        asked++
        throw new Error(`MOVED 1234 redis:${port === 1 ? 2 : 1}`)
      }
    }
    const world = await start(t, { answer, nodes: [1], listens: false })
    world.foreign.listen(CHANNEL)
    await holds(() => asked < 200, { during: 300 })
  })

  test('messages of a connection that was given up are not heard', async (t) => {
    const world = await start(t, { nodes: [1] })
    const listener = world.listener()
    listener.emit('smessageBuffer', CHANNEL, Buffer.from('1'))
    listener.emit('moved')
    listener.emit('smessageBuffer', CHANNEL, Buffer.from('2'))
    assert.deepEqual(world.of('message').map(([, , data]) => String(data)), ['1'])
  })

  test('an ioredis that does not count sharded subscriptions is too old: final', async (t) => {
    const answer = (_client, command) => (command === 'ssubscribe' ? [] : undefined)
    const world = await start(t, { answer, nodes: [1], listens: false })
    world.foreign.listen(CHANNEL)
    await until(() => /take a newer one/.test(world.of('refused')[0]?.[1]))
  })
})
