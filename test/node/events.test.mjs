// Custom events: handleEvent runs a handler where the document lives.
import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { after, before, describe, test } from 'node:test'
import { connect, synced } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { patience, holds, until } from '../support/wait.mjs'

/** Runs in the servers' processes. */
const setup = ({ kept, import: load }) => {
  kept.handled = []
  return {
    affinity: {
      customEvents: {
        echo: async (name, payload) => {
          kept.handled.push(name)
          return payload
        },
        whoAmI: async (name) => {
          kept.handled.push(name)
          return process.pid
        },
        hash: async (_name, payload) => {
          const { createHash } = await load('node:crypto')
          return createHash('sha256').update(payload).digest('hex')
        },
        write: async (name, text) => {
          // The specification's own example: the handler opens the document directly.
          const connection = await kept.hocuspocus().openDirectConnection(name, {})
          await connection.transact((document) => document.getText('text').insert(0, text))
          await connection.disconnect()
        },
        fail: async (_name, code) => {
          throw Object.assign(new Error('no such node'), code && { code })
        },
        failOddly: () => {
          throw undefined
        },
        never: () => new Promise(() => {}),
      },
    },
    extensions: [{ onConfigure: async ({ instance }) => (kept.hocuspocus = () => instance) }],
  }
}

describe('handleEvent', () => {
  let cluster, s1, s2
  const handled = (server, name) => server.run(({ kept }, name) => kept.handled.filter((one) => one === name).length, name)
  const leased = async (name) => (await cluster.redis.client.exists(`rsaLock:${name}`)) === 1
  const owner = async (server, name) => synced(connect({ url: server.url, name }))

  before(async () => {
    cluster = await startCluster(2, { setup, customEventTTL: patience * 20_000 })
    ;[s1, s2] = cluster.servers
  })
  after(() => cluster.stop())

  test('is handled here when the document is loaded here', async () => {
    const bob = await owner(s1, 'here')
    assert.equal(await s1.handleEvent('whoAmI', 'here'), s1.pid)
    bob.destroy()
  })

  test('is handled by the owner when that is another server', async () => {
    const bob = await owner(s2, 'there')
    assert.equal(await s1.handleEvent('whoAmI', 'there'), s2.pid)
    assert.equal(await handled(s1, 'there'), 0)
    bob.destroy()
  })

  test('claims a document that nobody owns, handles it here, and frees it', async () => {
    assert.equal(await s1.handleEvent('whoAmI', 'nobodys'), s1.pid)
    await until(async () => !(await leased('nobodys')))
  })

  test('onlyIfOpen: resolves to undefined, without a claim, when nobody has the document open', async () => {
    assert.equal(await s1.handleEvent('whoAmI', 'closed', null, true), undefined)
    assert.equal(await handled(s1, 'closed'), 0)
    await holds(async () => !(await leased('closed')), { during: 100 })

    const bob = await owner(s2, 'closed')
    assert.equal(await s1.handleEvent('whoAmI', 'closed', null, true), s2.pid)
    assert.equal(await s2.handleEvent('whoAmI', 'closed', null, true), s2.pid)
    bob.destroy()
  })

  test('the handler writes to the document of the owner', async () => {
    const bob = await owner(s2, 'titles')
    await s1.handleEvent('write', 'titles', 'a new title')
    await until(() => bob.document.getText('text').toString() === 'a new title')
    bob.destroy()
    await s1.handleEvent('write', 'titles-of-nobody', 'x')
    await cluster.unloaded('titles-of-nobody')
    assert.equal(cluster.store.text('titles-of-nobody'), 'x')
  })

  test('payloads and results of any type cross', async () => {
    const bob = await owner(s2, 'types')
    for (const payload of [
      undefined,
      null,
      0,
      '',
      'é😀',
      { nested: [1, { x: undefined }] },
      new Date(1_700_000_000_123),
      new Map([['a', 1], ['b', new Date(5)]]),
      new Set([1, 'two']),
      new Uint8Array([0, 255, 1]),
      123456789012345678901234567890n,
    ]) {
      assert.deepEqual(await s1.handleEvent('echo', 'types', payload), payload)
    }
    bob.destroy()
  })

  test('200 payloads of 1 MiB at once arrive whole', async (t) => {
    const bob = await owner(s2, 'large')
    t.after(() => bob.destroy())
    const answers = await s1.run(async ({ affinity }) => {
      const payload = (index) => new Uint8Array(1024 * 1024).fill(index)
      return Promise.all(Array.from({ length: 200 }, (_, index) => affinity.handleEvent('hash', 'large', payload(index))))
    })
    answers.forEach((answer, index) => {
      assert.equal(answer, createHash('sha256').update(new Uint8Array(1024 * 1024).fill(index)).digest('hex'), `payload ${index}`)
    })
    assert.ok(bob.closes.length === 0)
  })

  test('H24 an error of the handler arrives at the caller with its message and code', async () => {
    const bob = await owner(s2, 'errors')
    await assert.rejects(s1.handleEvent('fail', 'errors', 'ENODE'), { message: 'no such node', code: 'ENODE' })
    await assert.rejects(s1.handleEvent('fail', 'errors'), { message: 'no such node' })
    await assert.rejects(s2.handleEvent('fail', 'errors', 'ENODE'), { message: 'no such node', code: 'ENODE' }, 'the same at home')
    bob.destroy()
  })

  test('H26 an unknown event, or one that throws anything, rejects at the caller; the owner stays up', async () => {
    const bob = await owner(s2, 'h26')
    await assert.rejects(s1.handleEvent('unheardOf', 'h26'), { code: 'AFF_EEVENT', message: /unheardOf/ })
    await assert.rejects(s2.handleEvent('unheardOf', 'h26'), { code: 'AFF_EEVENT', message: /unheardOf/ })
    // Inherited names are no handlers.
    await assert.rejects(s1.handleEvent('constructor', 'h26'), { code: 'AFF_EEVENT' })
    await assert.rejects(s1.handleEvent('__proto__', 'h26'), { code: 'AFF_EEVENT' })
    await assert.rejects(s1.handleEvent('failOddly', 'h26'))
    assert.equal(s2.exit, null)
    assert.equal(await s1.handleEvent('whoAmI', 'h26'), s2.pid)
    bob.destroy()
  })

  test('an unknown event claims nothing', async () => {
    await assert.rejects(s1.handleEvent('unheardOf', 'unknown-event'), { code: 'AFF_EEVENT' })
    await until(async () => !(await leased('unknown-event')))
  })

  test('no answer within customEventTTL rejects', async (t) => {
    const s3 = await cluster.add('s3', { customEventTTL: 400 })
    t.after(() => s3.stop())
    const bob = await owner(s2, 'never')
    await assert.rejects(s3.handleEvent('never', 'never'), { code: 'AFF_ETIMEOUT' })
    bob.destroy()
  })
})

describe('pack and unpack', () => {
  test("every message goes through them, and event payloads of any type that they carry", async (t) => {
    // Recognisable on the wire: each message is reversed and marked.
    const packing = (context) => {
      const { Packr } = context.msgpackr
      const packr = new Packr({ structuredClone: true })
      const { kept } = context
      kept.packed = 0
      kept.unpacked = 0
      return {
        affinity: {
          pack: (message) => {
            kept.packed += 1
            return Buffer.concat([Buffer.from('MARK'), Buffer.from(packr.pack(message)).reverse()])
          },
          unpack: (packed) => {
            kept.unpacked += 1
            const bytes = Buffer.from(packed)
            if (bytes.subarray(0, 4).toString() !== 'MARK') throw new Error('not ours')
            return packr.unpack(Buffer.from(bytes.subarray(4)).reverse())
          },
          customEvents: { echo: async (_name, payload) => payload },
        },
      }
    }
    const cluster = await startCluster(2, { setup: packing })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const spy = cluster.redis.client.duplicate()
    t.after(() => spy.disconnect())
    const messages = []
    spy.on('pmessageBuffer', (_pattern, _channel, message) => messages.push(message))
    await spy.psubscribe('rsaLink:*')

    const ann = await synced(connect({ url: s2.url, name: 'packed' }))
    const bob = await synced(connect({ url: s1.url, name: 'packed' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    bob.document.getText('text').insert(0, 'needle in the haystack')
    await until(() => ann.document.getText('text').toString() === 'needle in the haystack')
    const payload = { date: new Date(7), map: new Map([[1, 'one']]), bytes: new Uint8Array([1, 2, 3]), nothing: undefined, list: [undefined, null] }
    assert.deepEqual(await s1.handleEvent('echo', 'packed', payload), payload)
    assert.equal(await s1.handleEvent('echo', 'packed', undefined), undefined)

    assert.ok(messages.length > 0)
    assert.ok(messages.every((message) => !message.includes('needle in the haystack')), 'nothing goes out unpacked')
    for (const server of [s1, s2]) {
      assert.ok(await server.run(({ kept }) => kept.packed > 0 && kept.unpacked > 0))
    }
  })

  test("msgpackr's pack and unpack, as in the specification's example", async (t) => {
    const cluster = await startCluster(2, {
      setup: ({ msgpackr: { pack, unpack } }) => ({ affinity: { pack, unpack, customEvents: { echo: async (_name, payload) => payload } } }),
    })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const ann = await synced(connect({ url: s2.url, name: 'example' }))
    const bob = await synced(connect({ url: s1.url, name: 'example' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    bob.document.getText('text').insert(0, 'x')
    await until(() => ann.document.getText('text').toString() === 'x')
    assert.deepEqual(await s1.handleEvent('echo', 'example', { a: [1, 'b', null], at: new Date(3) }), { a: [1, 'b', null], at: new Date(3) })
  })
})
