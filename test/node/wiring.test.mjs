// The explicit hooks with a WebSocket server of one's own, and what crosses with a socket.
import assert from 'node:assert/strict'
import http from 'node:http'
import { describe, test } from 'node:test'
import { connect, showing, synced, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

describe('onSocketOpen, onSocketMessage, onSocketClose with ws', () => {
  test('clients of two servers share a document, and the context of their socket reaches the owner', async (t) => {
    const cluster = await startCluster(1, { wiring: 'ws' })
    t.after(() => cluster.stop())
    const [s1] = cluster.servers
    const s2 = await cluster.add('s2', { socketContext: { tenant: 'blue', roles: ['editor'] } })

    const ann = await synced(connect({ url: s1.url, name: 'shared' }))
    const bob = await synced(connect({ url: `${s2.url}/?x=1`, name: 'shared', token: 'bob', headers: { cookie: 'a=b' } }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    type(ann, 'hello ')
    await showing('hello ', [ann, bob])
    type(bob, 'you')
    await showing('hello you', [ann, bob])

    const event = (await s1.events('onConnect', 'shared')).at(-1)
    assert.deepEqual(event.context, { tenant: 'blue', roles: ['editor'] })
    assert.equal(event.headers.cookie, 'a=b')
    assert.equal(event.parameters.x, '1')

    bob.socket.shouldConnect = false
    bob.socket.webSocket.close(4001, 'bye')
    await until(async () => (await s1.connections('shared')) === 1)
  })

  test('deriveContext computes the context where it is needed', async (t) => {
    const setup = () => ({ affinity: { deriveContext: (request) => ({ tenant: request.headers['x-tenant'] }) } })
    const cluster = await startCluster(2, { wiring: 'ws', setup })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const ann = await synced(connect({ url: s1.url, name: 'derived', headers: { 'x-tenant': 'red' } }))
    const bob = await synced(connect({ url: s2.url, name: 'derived', headers: { 'x-tenant': 'blue' } }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    assert.deepEqual((await s1.events('onConnect', 'derived')).map((event) => event.context.tenant), ['red', 'blue'])
    assert.deepEqual(await s2.events('onConnect', 'derived'), [])
  })

  test('both wirings work in one cluster', async (t) => {
    const cluster = await startCluster(1)
    t.after(() => cluster.stop())
    const [s1] = cluster.servers
    const s2 = await cluster.add('s2', { wiring: 'ws' })
    const ann = await synced(connect({ url: s1.url, name: 'mixed' }))
    const bob = await synced(connect({ url: s2.url, name: 'mixed' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    type(bob, 'x')
    await showing('x', [ann, bob])
  })
})

describe('serializeRequest', () => {
  const expected = { cookie: 'a=b', 'x-one': '1' }
  function check(request) {
    assert.match(request.url, /\/room\?x=1$/)
    for (const [name, value] of Object.entries(expected)) assert.equal(request.headers[name], value)
    assert.deepEqual(JSON.parse(JSON.stringify(request)), request, 'it is plain data')
  }

  test("takes Node's IncomingMessage", async (t) => {
    const { serializeRequest } = await import('@hocuspocus/extension-redis-affinity')
    const server = http.createServer((incoming, response) => {
      response.end(JSON.stringify(serializeRequest(incoming)))
    })
    await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve))
    t.after(() => server.close())
    const url = `http://127.0.0.1:${server.address().port}/room?x=1`
    const answer = await fetch(url, { headers: { Cookie: 'a=b', 'X-One': '1' } })
    check(await answer.json())
  })

  test('takes a web Request', async () => {
    const { serializeRequest } = await import('@hocuspocus/extension-redis-affinity')
    check(serializeRequest(new Request('http://example.test/room?x=1', { headers: expected })))
  })

  test("takes uWebSockets.js's HttpRequest", async () => {
    const { serializeRequest } = await import('@hocuspocus/extension-redis-affinity')
    check(
      serializeRequest({
        getMethod: () => 'get',
        getUrl: () => '/room',
        getQuery: () => 'x=1',
        getHeader: (name) => expected[name] ?? '',
        forEach: (each) => Object.entries(expected).forEach(([name, value]) => each(name, value)),
      }),
    )
  })
})
