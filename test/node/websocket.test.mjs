// Frames for clients are written to the stream under their WebSocket, many at once, where that is possible.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { describe, test } from 'node:test'
import WebSocket, { WebSocketServer } from 'ws'
import { Message, framesOf, meet, streamOf } from '../../js/dist/websocket.js'
import { connect, showing, synced, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

/** A connection of ws: the server's side, and the client with what it has got. */
async function pair(t, options = {}) {
  const server = new WebSocketServer({ port: 0, ...options })
  await once(server, 'listening')
  const client = new WebSocket(`ws://127.0.0.1:${server.address().port}`, { maxPayload: 1 << 28 })
  t.after(() => {
    client.terminate()
    server.close()
  })
  client.got = []
  client.on('message', (data, isBinary) => client.got.push({ data, isBinary }))
  const [[socket]] = await Promise.all([once(server, 'connection'), once(client, 'open')])
  return { socket, client }
}

describe('websocket', () => {
  test('messages of all lengths arrive as one binary message each, between those that ws itself sends', async (t) => {
    const { socket, client } = await pair(t)
    meet(socket)
    const stream = streamOf(socket)
    const lengths = [1, 125, 126, 127, 65_535, 65_536, 1 << 20]
    for (const length of lengths) {
      stream.write(new Message(new Uint8Array(length).fill(length % 251)).frame)
      socket.send(Buffer.from([length % 251]))
    }
    await until(() => client.got.length === 2 * lengths.length)
    for (const [n, { data, isBinary }] of client.got.entries()) {
      const length = lengths[n >> 1]
      assert.ok(isBinary)
      assert.equal(data.length, n % 2 ? 1 : length)
      assert.ok(data.every((byte) => byte === length % 251))
    }
    assert.equal(client.readyState, WebSocket.OPEN, 'no protocol error')
  })

  test('a frame is made once', () => {
    const message = new Message(Uint8Array.of(1, 2, 3))
    assert.equal(message.frame, message.frame)
    assert.deepEqual([...message.frame], [0x82, 3, 1, 2, 3])
  })

  test('messages are parts of a block, and several are written as one', async (t) => {
    const { socket, client } = await pair(t)
    const block = Uint8Array.from({ length: 200_000 }, (_, n) => n % 251)
    const parts = [[1, 4], [4, 130], [0, 0], [100, 70_000]].map(([from, to]) => ({ message: new Message(block, from, to), bytes: block.slice(from, to) }))
    meet(socket)
    streamOf(socket).write(framesOf(parts.map(({ message }) => message)))
    await until(() => client.got.length === parts.length)
    for (const [n, { message, bytes }] of parts.entries()) {
      assert.deepEqual(Buffer.from(client.got[n].data), Buffer.from(bytes))
      assert.deepEqual(Buffer.from(message.data), Buffer.from(bytes))
    }
  })

  test('a socket that compresses, is closing, has a `send` of its own, or is of another library has no such stream', async (t) => {
    const { socket } = await pair(t, { perMessageDeflate: true })
    assert.equal(streamOf(socket), undefined)
    const { socket: closing } = await pair(t)
    closing.close()
    assert.equal(streamOf(closing), undefined)
    const { socket: replaced } = await pair(t)
    meet(replaced)
    assert.ok(streamOf(replaced))
    replaced.send = () => {}
    assert.equal(streamOf(replaced), undefined)
    assert.equal(streamOf({ readyState: 1, send() {}, close() {} }), undefined)
    assert.equal(streamOf({ send() {}, close() {}, end() {} }), undefined)
  })

  for (const wiring of ['auto', 'ws']) {
    test(`it is used with the wiring "${wiring}"`, async (t) => {
      const cluster = await startCluster(2, { wiring })
      t.after(() => cluster.stop())
      const [s1, s2] = cluster.servers
      const ann = await synced(connect({ url: s1.url, name: 'stream' }))
      // Browsers offer compression, as ws does by itself; the server takes none.
      const bob = await synced(connect({ url: s2.url, name: 'stream' }))
      t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
      await s2.run(async ({ kept }) => {
        const { Socket } = await import('node:net')
        const { write } = Socket.prototype
        kept.whole = 0
        // ws writes the header of a frame, of ten bytes at most, and then the message.
        Socket.prototype.write = function (chunk, ...rest) {
          if (chunk[0] === 0x82 && chunk.length > 10) kept.whole++
          return write.call(this, chunk, ...rest)
        }
      })
      type(ann, 'to bob')
      await showing('to bob', [ann, bob])
      assert.ok((await s2.run(({ kept }) => kept.whole)) > 0)
    })
  }
})
