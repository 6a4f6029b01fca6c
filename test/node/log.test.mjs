// What is told people: the option `log`, the console without it, and the namespaces of `debug`.
import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { describe, test } from 'node:test'
import { inspect, promisify } from 'node:util'
import { Server } from '@hocuspocus/server'
import Redis from 'ioredis'
import { RedisServerAffinity } from '../../js/dist/index.js'
import { Logger } from '../../js/dist/log.js'
import { connect, synced } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startRedis } from '../support/redis.mjs'
import { startServer } from '../support/server.mjs'
import { until } from '../support/wait.mjs'

const run = promisify(execFile)

/** Keeps what it is called with, in each server's process. */
function setup({ kept }) {
  kept.log = []
  return {
    affinity: {
      log: (entry) => {
        kept.log.push({ ...entry, error: entry.error && String(entry.error) })
        if (kept.logThrows) throw new Error('the hook has thrown')
        if (kept.logRejects) return Promise.reject(new Error('the hook has rejected'))
      },
    },
  }
}

const lines = (server, level) => server.run(({ kept }, level) => kept.log.filter((entry) => !level || entry.level === level), level)
const find = (server, pattern) => lines(server).then((all) => all.find(({ message }) => pattern.test(message)))

/** What a call prints to the console. */
async function printed(call) {
  const out = []
  const { warn, error } = console
  console.warn = (...args) => out.push(['warn', ...args])
  console.error = (...args) => out.push(['error', ...args])
  try {
    await call()
  } finally {
    Object.assign(console, { warn, error })
  }
  return out
}

describe('the option log', () => {
  test('gets what happens, with the document, the other server and the epoch', async (t) => {
    const cluster = await startCluster(2, { setup })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    assert.deepEqual(await lines(s1, 'info'), [{ level: 'info', message: 'a member of the cluster', server: 's1', topic: 'redis', error: undefined }])
    const ann = await synced(connect({ url: s1.url, name: 'doc' }))
    const bob = await synced(connect({ url: s2.url, name: 'doc' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    const { level, server, topic, document, epoch } = await find(s1, /is owned here/)
    assert.deepEqual([level, server, topic, document], ['debug', 's1', 'documents', 'doc'])
    assert.equal(epoch, await s1.run(({ affinity }) => affinity.fencingToken('doc')))

    await s1.kill()
    const gone = await until(() => find(s2, /server s1 is gone/))
    assert.deepEqual([gone.level, gone.topic, gone.peer], ['debug', 'links', 's1'])
    const taken = await until(() => find(s2, /taking a document over from s1/))
    assert.deepEqual([taken.topic, taken.document, taken.peer, taken.epoch], ['documents', 'doc', 's1', epoch])
    assert.doesNotMatch(s2.output(), /RedisServerAffinity/, 'the console is left alone')

    await until(async () => (await s2.documents()).includes('doc'))
    await s2.run(({ affinity }) => affinity.drain())
    const drained = (await lines(s2, 'info')).map(({ message }) => message.replace(/\d+ ms/, 'N ms'))
    assert.deepEqual(drained, ['a member of the cluster', 'draining: documents go to other servers', 'drained in N ms'])
  })

  test('warnings and errors have their level, and the code of what failed', async (t) => {
    const cluster = await startCluster(1, { setup })
    t.after(() => cluster.stop())
    const [s1] = cluster.servers
    await s1.run(({ affinity }) => {
      affinity.on('owned', () => {
        throw Object.assign(new Error('listener failed'), { code: 'E_MINE' })
      })
      return affinity.lockDocument('doc').then(() => {})
    })
    const failed = await find(s1, /a listener of "owned" failed/)
    assert.deepEqual([failed.level, failed.code, failed.error], ['error', 'E_MINE', 'Error: listener failed'])
    await cluster.redis.kill9()
    const lost = await until(() => find(s1, /connection to Redis lost/))
    assert.deepEqual([lost.level, lost.topic], ['warn', 'redis'])
  })

  test('a hook that throws or rejects harms nothing, and the console gets the line', async (t) => {
    const cluster = await startCluster(1, { setup })
    t.after(() => cluster.stop())
    const [s1] = cluster.servers
    for (const how of ['logThrows', 'logRejects']) {
      await s1.run(
        async ({ kept, affinity }, how) => {
          kept.logThrows = kept.logRejects = false
          kept[how] = true
          affinity.on('owned', () => {
            throw new Error(`failed with ${how}`)
          })
          await affinity.lockDocument(`doc of ${how}`)
        },
        how,
      )
      await until(() => s1.output().includes(`[RedisServerAffinity] a listener of "owned" failed: Error: failed with ${how}`), { what: how })
    }
    assert.equal(s1.exit, null)
  })

  test('must be a function', async (t) => {
    const redis = new Redis({ lazyConnect: true })
    t.after(() => redis.disconnect())
    for (const log of [null, 'console', {}, true]) {
      assert.throws(() => new RedisServerAffinity({ redis, log }), { code: 'AFF_EINVAL', message: /option "log" must be a function/ })
    }
  })

  test('a taken serverId is an error, with its code, and no field says nothing', async (t) => {
    const redis = await startRedis()
    t.after(() => redis.stop())
    const entries = []
    const make = () => new RedisServerAffinity({ redis: new Redis({ ...redis.options, lazyConnect: true }), serverId: 's1', log: (entry) => entries.push(entry) })
    const [first, second] = [make(), make()]
    t.after(() => Promise.all([first.onDestroy(), second.onDestroy()]))
    await first.ready()
    await assert.rejects(second.ready(), { code: 'AFF_ETAKEN' })
    const { level, message, code, error } = entries.find((entry) => entry.level === 'error')
    assert.deepEqual([level, code, error.code], ['error', 'AFF_ETAKEN', 'AFF_ETAKEN'])
    assert.equal(error.message, `RedisServerAffinity: ${message}`, 'who it is about stands in the line once')
    assert.doesNotMatch(inspect(entries, { depth: null }), /undefined/)
  })
})

describe('without it', () => {
  test('warnings and errors are printed, nothing else, and a console that throws harms nobody', async () => {
    const log = new Logger('s1')
    const error = new Error('why')
    assert.deepEqual(
      await printed(() => {
        log.debug('debug', { topic: 'links' })
        log.info('info')
        log.warn('100 % sure', { peer: 's2' })
        log.error('told')
        log.error('failed', { error })
        log.error('why', { error })
        log.error('told by others', {}, true)
      }),
      [
        ['warn', '[RedisServerAffinity]', '100 % sure'],
        ['error', '[RedisServerAffinity]', 'told'],
        ['error', '[RedisServerAffinity] failed:', error],
        ['error', '[RedisServerAffinity]', 'why'],
      ],
    )
    const { warn } = console
    console.warn = () => {
      throw new Error('no console')
    }
    try {
      log.warn('something')
    } finally {
      console.warn = warn
    }
  })

  test('a start that fails is printed once, and by us only where Hocuspocus does not', async (t) => {
    const redis = await startRedis({ port: true, password: 'right' })
    t.after(() => redis.stop())
    const make = () => new RedisServerAffinity({ redis: new Redis({ port: redis.port, password: 'wrong', lazyConnect: true }) })
    const alone = make()
    const [line, ...more] = await printed(() => assert.rejects(alone.ready(), { code: 'AFF_EREFUSED' }))
    await alone.onDestroy()
    assert.deepEqual([line[0], line[1], more], ['error', '[RedisServerAffinity]', []])
    assert.match(line[2], /^Redis can't be used: WRONGPASS/)

    const server = new Server({ port: 0, address: '127.0.0.1', quiet: true, extensions: [make()] })
    const lines = await printed(() => assert.rejects(server.listen(), { code: 'AFF_EREFUSED' }))
    await server.destroy()
    assert.ok(lines.length > 0 && lines.every(([, head, text]) => head === '[onListen]' && /WRONGPASS/.test(text)), inspect(lines))
  })

  /** What a process with such an environment prints of one line. */
  async function linesWith(DEBUG, call) {
    const program = `import { Logger } from ${JSON.stringify(new URL('../../js/dist/log.js', import.meta.url).href)}\nconst log = new Logger('s1')\n${call}`
    const { stdout, stderr } = await run(process.execPath, ['--input-type=module', '-e', program], { env: { ...process.env, DEBUG, DEBUG_COLORS: 'no' } })
    assert.equal(stdout, '')
    return stderr
  }

  const debug = "log.debug('100%%', { topic: 'documents' })"
  const namespaces = {
    'redis-affinity': [debug, /redis-affinity 100%%/],
    'redis-affinity:documents': [debug, /redis-affinity:documents 100%%/],
    'other,redis-affinity:*': [debug, /redis-affinity:documents 100%%/],
    'redis-affinity:links': [debug, /^$/],
    other: [debug, /^$/],
    '*': ["log.info('joined')", /redis-affinity joined/],
    'redis-affinity:redis': ["log.warn('away', { topic: 'redis' })", /^\[RedisServerAffinity\] away\n$/],
  }
  for (const [DEBUG, [call, pattern]] of Object.entries(namespaces)) {
    test(`DEBUG=${DEBUG}: ${call}`, async () => assert.match(await linesWith(DEBUG, call), pattern))
  }

  test('DEBUG=redis-affinity, as ever, prints what happens', async (t) => {
    const redis = await startRedis()
    t.after(() => redis.stop())
    const before = process.env.DEBUG
    process.env.DEBUG = 'redis-affinity'
    const server = await startServer({ serverId: 's1', redis }).finally(() => {
      if (before === undefined) delete process.env.DEBUG
      else process.env.DEBUG = before
    })
    t.after(() => server.stop())
    await server.lockDocument('doc')
    await until(() => /redis-affinity .*document "doc" is owned here/.test(server.output()))
  })
})
