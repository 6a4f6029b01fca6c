// How one says where Redis is: an ioredis instance of any kind, or the options that extension-redis has.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { RedisServerAffinity } from '@hocuspocus/extension-redis-affinity'
import { Cluster, Redis } from 'ioredis'
import Redis5 from 'ioredis-5'
import StandaloneConnector from 'ioredis/built/connectors/StandaloneConnector.js'
import { startRedis } from '../support/redis.mjs'
import { holds, until } from '../support/wait.mjs'

const lazy = { lazyConnect: true }

describe('Where Redis is', () => {
  /** @type {Awaited<ReturnType<typeof startRedis>>} */
  let redis
  before(async () => {
    redis = await startRedis({ port: true, acl: ['other on >word ~* &* +@all'] })
  })
  after(() => redis.stop())

  let last = 0
  /** Joins, and locks a document; what it is connected by is found in Redis. */
  async function worksWith(configuration, { prefix = 'rsa', ...rest } = {}) {
    const serverId = `s${++last}`
    const affinity = new RedisServerAffinity({ lockTTL: 3000, ...(configuration.identifier === undefined && { serverId }), ...configuration, ...rest })
    try {
      await affinity.ready()
      await affinity.lockDocument('doc')
      assert.match(await redis.client.get(`${prefix}Lock:doc`), new RegExp(` ${affinity.serverId}$`))
    } finally {
      await affinity.onDestroy()
    }
    await until(async () => (await redis.clientCount()) === 0, { what: 'all connections have ended' })
  }

  const port = () => redis.port

  test('host and port', () => worksWith({ host: '127.0.0.1', port: port() }))
  test('host and port with options', async () => {
    await worksWith({ host: '127.0.0.1', port: port(), options: { username: 'other', password: 'word', keyPrefix: 'k:' } }, { prefix: 'k:rsa' })
  })
  test('options alone', () => worksWith({ options: { host: '127.0.0.1', port: port() } }))
  test('no nodes are none', () => worksWith({ nodes: [], host: '127.0.0.1', port: port() }))
  test('createClient, whose client onDestroy disconnects', () => worksWith({ createClient: () => new Redis(port(), '127.0.0.1') }))
  test('identifier is the serverId', () => worksWith({ host: '127.0.0.1', port: port(), identifier: 'by-another-name' }))

  class Connector extends StandaloneConnector.default {
    static connections = 0
    connect(...args) {
      Connector.connections++
      return super.connect(...args)
    }
  }

  for (const [version, Client] of Object.entries({ 'ioredis 6': Redis, 'ioredis 5': Redis5 })) {
    test(`a Connector of one's own, ${version}: its keyPrefix is prepended once`, async () => {
      const before = Connector.connections
      await worksWith({ redis: new Client({ Connector, host: '127.0.0.1', port: port(), keyPrefix: 'k:', ...lazy }) }, { prefix: 'k:rsa' })
      assert.equal(Connector.connections - before, 2, 'one connection for commands, one that listens')
    })
  }

  test('nothing that the user wishes of ioredis gets into the way', async () => {
    const wishes = { maxRetriesPerRequest: 0, retryStrategy: () => null, enableOfflineQueue: true, stringNumbers: true, commandTimeout: 1, enableAutoPipelining: true, protocol: 3, replyMapping: 'resp3' }
    await worksWith({ redis: new Redis({ Connector, host: '127.0.0.1', port: port(), ...wishes, ...lazy }) })
  })

  test('connections that Redis closes come back', async () => {
    const affinity = new RedisServerAffinity({ redis: new Redis({ Connector, host: '127.0.0.1', port: port(), ...lazy }), serverId: 'again', lockTTL: 3000 })
    try {
      await affinity.ready()
      for (const kind of ['pubsub', 'normal']) {
        await redis.client.client('KILL', 'TYPE', kind, 'SKIPME', 'yes')
        await until(async () => (await redis.clientCount()) === 2, { what: 'both are back' })
      }
      await affinity.lockDocument('doc')
      const boot = await redis.client.get('rsaServer:again')
      await until(async () => (await redis.client.pubsub('NUMSUB', `rsaLink:${boot.slice(0, 12)}`))[1] === 1, { what: 'it listens' })
    } finally {
      await affinity.onDestroy()
    }
  })

  for (const [what, options] of Object.entries({ password: { password: 'wrong', username: 'other' }, 'database index': { db: 1000 } })) {
    test(`a ${what} that Redis refuses is final`, async () => {
      const affinity = new RedisServerAffinity({ redis: new Redis({ Connector, host: '127.0.0.1', port: port(), ...options, ...lazy }) })
      await assert.rejects(affinity.ready(), { code: 'AFF_EREFUSED' })
      await affinity.onDestroy()
      await until(async () => (await redis.clientCount()) === 0, { what: 'all connections have ended' })
    })
  }

  test('while Redis is away ready() waits', async () => {
    const affinity = new RedisServerAffinity({ redis: new Redis({ Connector, host: '127.0.0.1', port: 1, ...lazy }) })
    let isReady = false
    affinity.ready().then(
      () => (isReady = true),
      () => {},
    )
    await holds(() => !isReady, { during: 300 })
    await affinity.onDestroy()
  })

  test('family: of a name, only addresses of that family are tried', async () => {
    await worksWith({ host: 'localhost', port: port(), options: { family: 4 } }) // Redis is at 127.0.0.1 alone
    const affinity = new RedisServerAffinity({ host: 'localhost', port: port(), options: { family: 6 }, log: () => {} })
    affinity.ready().catch(() => {})
    await until(() => /^starting: Redis at localhost:\d+ can't be reached/.test(affinity.health().reason), { what: 'it has tried' })
    await affinity.onDestroy()
  })

  const address = { host: '127.0.0.1', port: 6379 }
  const client = () => new Redis(lazy)
  const mistakes = [
    [{}, /"redis" is missing: give an ioredis instance, or host and port, nodes or createClient/],
    [{ redis: 'redis://127.0.0.1' }, /"redis" must be an ioredis instance, not "redis:/],
    [{ redis: null }, /"redis" must be an ioredis instance, not null/],
    [{ redis: client(), host: 'a' }, /"host" can not be used with "redis"/],
    [{ redis: client(), options: {} }, /"options" can not be used with "redis"/],
    [{ redis: client(), createClient: client }, /"createClient" can not be used with "redis"/],
    [{ nodes: [address], port: 1 }, /"port" can not be used with "nodes"/],
    [{ createClient: client, nodes: [address] }, /"nodes" can not be used with "createClient"/],
    [{ nodes: address }, /"nodes" must be an array/],
    [{ host: '' }, /"host" must be a name or an address/],
    [{ host: 'a', port: 0 }, /"port" must be a whole number from 1 to 65535, not 0/],
    [{ host: 'a', port: '6379' }, /"port" must be a whole number/],
    [{ host: 'a', options: 'b' }, /"options" must be an object/],
    [{ createClient: client() }, /"createClient" must be a function/],
    [{ createClient: () => undefined }, /"createClient" must return an ioredis instance, not undefined/],
    [{ redis: new Redis({ sentinels: [address], name: 'a', role: 'slave', ...lazy }) }, /"redis" must not ask Sentinel for a replica/],
    [{ ...address, identifier: 'a', serverId: 'b' }, /"identifier" is another name of "serverId"/],
    [{ ...address, identifier: '' }, /"identifier" must have 1 to 255 bytes/],
  ]
  for (const [configuration, message] of mistakes) {
    test(`refused: ${message.source}`, () => {
      assert.throws(() => new RedisServerAffinity(configuration), (error) => error.code === 'AFF_EINVAL' && message.test(error.message))
    })
  }

  test('a client that was made for a configuration with a mistake is disconnected', () => {
    const made = new Cluster([address], lazy)
    assert.throws(() => new RedisServerAffinity({ createClient: () => made, lockTTL: -1 }), /lockTTL/)
    assert.notEqual(made.status, 'wait')
  })
})
