// What users give us may throw: the process lives, the error is reported, and nobody else misses anything.
import assert from 'node:assert/strict'
import { after, before, describe, test } from 'node:test'
import { connect, showing, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

/** Runs in each server's process. */
function setup({ msgpackr, kept }) {
  const odd = { toString: () => 'odd' }
  return {
    affinity: {
      pack(message) {
        if (kept.packFails?.(message)) throw new Error('pack failed')
        return kept.packGives?.(message) ?? msgpackr.pack(message)
      },
      unpack(bytes) {
        if (kept.unpackFails-- > 0) throw new Error('unpack failed')
        return msgpackr.unpack(bytes)
      },
      deriveContext(request) {
        const how = new URL(request.url, 'http://x').searchParams.get('derive')
        if (how === 'throws') throw new Error('derive failed')
        if (how === 'rejects') return Promise.reject(new Error('derive rejected'))
        if (how === 'never') return new Promise(() => {})
        return { user: how }
      },
      customEvents: {
        echo: async (_name, payload) => payload,
        throws: () => {
          throw Object.assign(new TypeError('thrown'), { code: 'E_THROWN' })
        },
        rejectsNull: async () => {
          throw null
        },
        rejectsText: async () => {
          throw 'a text'
        },
        rejectsOdd: async () => {
          throw {
            get message() {
              throw odd
            },
          }
        },
        unpackable: async () => {
          kept.packFails = (message) => message.type === 'result'
          return 1
        },
        nothingPacks: async () => {
          kept.packFails = (message) => message.type === 'result' || message.type === 'error'
          return 1
        },
      },
    },
  }
}

describe('callbacks that throw', () => {
  let cluster, s1, s2, ann, bob
  let letters = 0
  before(async () => {
    cluster = await startCluster(2, { setup })
    ;[s1, s2] = cluster.servers
    ann = await synced(connect({ url: s1.url, name: 'doc' }))
    bob = await synced(connect({ url: s2.url, name: 'doc' }))
  })
  after(async () => {
    ann?.destroy()
    bob?.destroy()
    await cluster.stop()
  })

  async function allIsWell() {
    for (const client of [ann, bob]) {
      type(client, 'x')
      letters++
    }
    await showing('x'.repeat(letters), [ann, bob])
    assert.deepEqual([s1.exit, s2.exit], [null, null], s1.output() + s2.output())
    assert.deepEqual([ann.closes, bob.closes], [[], []])
  }

  const expected = {
    throws: { name: 'Error', message: /thrown/, code: 'E_THROWN' },
    rejectsNull: { message: /null/ },
    rejectsText: { message: /a text/ },
    rejectsOdd: { message: /failed|odd/ },
    unpackable: { message: /pack failed/ },
    nothingPacks: { message: /failed/ },
  }
  for (const [event, error] of Object.entries(expected)) {
    test(`H26 event handler "${event}": the call rejects, at home and elsewhere`, async () => {
      const { name: _name, ...properties } = error
      await assert.rejects(s2.handleEvent(event, 'doc', {}), properties)
      await s1.run(({ kept }) => delete kept.packFails)
      assert.equal(await s2.handleEvent('echo', 'doc', 5), 5)
      await allIsWell()
    })
  }

  test('pack and unpack that fail for a while: what they have failed on is sent again', async () => {
    for (const [server, client] of [[s1, ann], [s2, bob]]) {
      await server.run(({ kept }) => {
        let failures = 5
        kept.packFails = (message) => message.type === 'batch' && failures-- > 0
        kept.unpackFails = 3
      })
      for (let n = 0; n < 10; n++) {
        type(client, 'x')
        letters++
      }
      await showing('x'.repeat(letters), [ann, bob])
      assert.match(server.output(), /pack failed/)
    }
    await until(() => /unpack failed/.test(s1.output() + s2.output()))
    await allIsWell()
  })

  test('pack that gives back neither text nor bytes, for a while', async () => {
    await s2.run(({ kept }) => {
      const gives = [5, {}, Promise.resolve('x'), Symbol('x')]
      kept.packGives = (message) => (message.type === 'batch' ? gives.pop() : undefined)
    })
    await allIsWell()
    assert.match(s2.output(), /must give back a string or a Uint8Array/)
  })

  test('listeners: the others are called, and the document opens', async (t) => {
    await s1.run(({ affinity, kept }) => {
      kept.told = []
      affinity.on('owned', () => {
        throw new Error('listener failed')
      })
      affinity.on('owned', async () => {
        throw new Error('listener rejected')
      })
      affinity.on('owned', ({ documentName }) => kept.told.push(documentName))
    })
    const cleo = await synced(connect({ url: s1.url, name: 'another' }))
    t.after(() => cleo.destroy())
    await until(async () => (await s1.run(({ kept }) => kept.told)).includes('another'))
    await until(() => /listener failed[^]*listener rejected/.test(s1.output()))
    await allIsWell()
  })

  for (const how of ['throws', 'rejects']) {
    test(`deriveContext ${how}: that client is closed with 4205, at home and elsewhere`, async (t) => {
      for (const server of [s1, s2]) {
        const client = connect({ url: `${server.url}/?derive=${how}`, name: 'doc' })
        t.after(() => client.destroy())
        await until(() => client.socket.closes.length > 0)
        assert.equal(client.socket.closes[0].code, 4205)
        client.destroy()
      }
      assert.match(s1.output(), how === 'throws' ? /derive failed/ : /derive rejected/)
      await allIsWell()
    })
  }

  test('deriveContext that never answers: what waits for it is bounded', async (t) => {
    const client = connect({ url: `${s1.url}/?derive=never`, name: 'doc' })
    t.after(() => client.destroy())
    await until(() => client.socket.status === 'connected')
    const many = setInterval(() => {
      for (let n = 0; n < 100; n++) client.sendStateless('x')
    }, 5)
    t.after(() => clearInterval(many))
    await until(() => client.socket.closes.length > 0)
    assert.equal(client.socket.closes[0].code, 4205)
    await allIsWell()
  })
})

for (const where of ['its own server', 'the owner']) {
  test(`a socket whose send throws costs no other client an update, and is closed (document at ${where})`, async (t) => {
    const cluster = await startCluster(2, { wiring: 'ws' })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const owner = await synced(connect({ url: (where === 'the owner' ? s2 : s1).url, name: 'doc' }))
    const clients = await Promise.all([1, 2, 3].map(() => synced(connect({ url: s1.url, name: 'doc' }))))
    t.after(() => [owner, ...clients].forEach((client) => client.destroy()))
    await until(async () => (await s1.connections('doc')) + (await s2.connections('doc')) === 4)
    // The first one that is sent to, from now on.
    await s1.run(async ({ import: load }) => {
      const { WebSocket } = await load('ws')
      const { send } = WebSocket.prototype
      let broken
      WebSocket.prototype.send = function (...args) {
        broken ??= this
        if (broken === this) throw new Error('send failed')
        return send.apply(this, args)
      }
    })
    type(owner, 'seen by all')
    await until(() => [owner, ...clients].filter((client) => text(client) === 'seen by all').length >= 3)
    await until(() => [owner, ...clients].some((client) => client.socket.closes.some(({ code }) => code === 4205)))
    await showing('seen by all', [owner, ...clients]) // the closed one has connected again
    assert.match(s1.output(), /send failed/)
    assert.equal(s1.exit, null)
  })
}
