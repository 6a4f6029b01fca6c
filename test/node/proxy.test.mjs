// Everything that a client does works through a server that does not own the document.
import assert from 'node:assert/strict'
import { after, afterEach, before, describe, test } from 'node:test'
import { connect, openSocket, others, showing, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { holds, until } from '../support/wait.mjs'

describe('through the proxy', () => {
  let cluster, s1, s2, s3
  /** What a test opened, closed after it in reverse. */
  let opened = []

  before(async () => {
    cluster = await startCluster(3)
    ;[s1, s2, s3] = cluster.servers
  })
  afterEach(() => {
    for (const one of opened.reverse()) one.destroy()
    opened = []
  })
  after(() => cluster.stop())

  function client(server, name, options = {}) {
    const provider = connect({ url: options.socket ? undefined : server.url, name, ...options })
    opened.push(provider)
    return provider
  }
  function sharedSocket(server) {
    const socket = openSocket({ url: server.url })
    opened.push(socket)
    return socket
  }
  /** A client at `owner` opens the document first: that server owns it from then on. */
  const ownedBy = (owner, name, options) => synced(client(owner, name, options))

  test('edits go both ways, and the document is loaded on its owner only', async () => {
    const ann = await ownedBy(s2, 'both-ways')
    const bob = await synced(client(s1, 'both-ways'))
    const cleo = await synced(client(s3, 'both-ways'))
    type(ann, 'one ')
    await showing('one ', [ann, bob, cleo])
    type(bob, 'two ')
    await showing('one two ', [ann, bob, cleo])
    type(cleo, 'three')
    await showing('one two three', [ann, bob, cleo])
    await Promise.all([ann, bob, cleo].map((provider) => synced(provider)))

    assert.deepEqual(await cluster.holders('both-ways'), [s2])
    assert.equal(cluster.store.loads('both-ways').length, 1)
    assert.equal(await s2.text('both-ways'), 'one two three')
  })

  test('what JavaScript has taken is given back to the peers, also where that is little and nothing follows', async () => {
    const ann = await ownedBy(s2, 'given-back')
    const bob = await synced(client(s1, 'given-back'))
    type(bob, 'a little')
    await showing('a little', [ann, bob])
    const owed = () => Promise.all([s1, s2].map((server) => server.run(({ affinity }) => affinity.stats().backlog)))
    await until(async () => (await owed()).every((backlog) => backlog === 0), { timeout: 3000, what: 'nothing is owed' })
  })

  test('a client that comes later gets what is there', async () => {
    const ann = await ownedBy(s2, 'later')
    type(ann, 'written before')
    const bob = await synced(client(s1, 'later'))
    assert.equal(text(bob), 'written before')
  })

  test('one who edits offline first brings it along', async () => {
    await ownedBy(s2, 'offline')
    const bob = client(s1, 'offline')
    type(bob, 'from the train')
    await synced(bob)
    await until(async () => (await s2.text('offline')) === 'from the train')
  })

  test('H19 awareness goes both ways and ends with its client', async () => {
    const ann = await ownedBy(s2, 'awareness')
    const bob = await synced(client(s1, 'awareness'))
    ann.setAwarenessField('user', 'ann')
    bob.setAwarenessField('user', 'bob')
    await until(() => others(ann).some((state) => state.user === 'bob'), { what: 'ann sees bob' })
    await until(() => others(bob).some((state) => state.user === 'ann'), { what: 'bob sees ann' })

    // Not a farewell, but a socket that is gone: it is the servers that must tell.
    bob.socket.shouldConnect = false
    bob.socket.webSocket._socket.destroy()
    await until(() => others(ann).length === 0, { what: 'bob has disappeared' })
    await until(async () => (await s2.connections('awareness')) === 1, { what: 'his proxy socket is closed' })
  })

  test('stateless messages reach the owner, and its broadcasts all clients, in order', async () => {
    const ann = await ownedBy(s2, 'stateless')
    const bob = await synced(client(s1, 'stateless'))
    const numbers = Array.from({ length: 200 }, (_, index) => `${index}`)
    for (const number of numbers) bob.sendStateless(number)
    await until(async () => (await s2.events('onStateless', 'stateless')).length === 200)
    assert.deepEqual((await s2.events('onStateless', 'stateless')).map((event) => event.payload), numbers)

    for (const number of numbers) await s2.broadcastStateless('stateless', number)
    await until(() => ann.stateless.length === 200 && bob.stateless.length === 200)
    assert.deepEqual(bob.stateless, numbers)
  })

  test('hooks on the owner see the client: token, headers, cookies, URL parameters, address', async () => {
    await ownedBy(s2, 'hooks')
    const bob = connect({
      url: `${s1.url}/room?tenant=blue&tenant=x`,
      name: 'hooks',
      token: 'bobs-token',
      headers: { cookie: 'session=42; theme=dark', 'x-forwarded-for': '203.0.113.7', 'user-agent': 'tests' },
    })
    opened.push(bob)
    await synced(bob)
    assert.deepEqual(await s1.events(undefined, 'hooks'), [], 'no hook of this document runs on the server that passes it on')

    for (const hook of ['onConnect', 'onAuthenticate', 'connected']) {
      const event = (await s2.events(hook, 'hooks')).at(-1)
      assert.equal(event.headers.cookie, 'session=42; theme=dark', hook)
      assert.equal(event.headers['x-forwarded-for'], '203.0.113.7', hook)
      assert.equal(event.headers['user-agent'], 'tests', hook)
      assert.match(event.url, /\/room\?tenant=blue&tenant=x$/, hook)
      // Hocuspocus 3 does not pass the address to listen on: it listens on all, in IPv6.
      if (hook !== 'connected') assert.equal(event.address.replace('::ffff:', ''), '127.0.0.1', hook)
    }
    assert.equal((await s2.events('onAuthenticate', 'hooks')).at(-1).token, 'bobs-token')
    assert.equal((await s2.events('connected', 'hooks')).at(-1).context.user, 'bobs-token', 'what onAuthenticate returned')

    bob.destroy()
    opened.pop()
    await until(async () => (await s2.events('onDisconnect', 'hooks')).length === 1)
    assert.equal((await s2.events('onDisconnect', 'hooks'))[0].context.user, 'bobs-token')
  })

  test('a read-only client sees edits and makes none', async () => {
    const ann = await ownedBy(s2, 'read-only')
    const bob = await synced(client(s1, 'read-only', { token: 'readonly' }))
    assert.equal(bob.authorizedScope, 'readonly')
    type(ann, 'for your eyes only')
    await showing('for your eyes only', [ann, bob])
    type(bob, '!')
    await holds(() => text(ann) === 'for your eyes only', { during: 300 })
    assert.equal(await s2.text('read-only'), 'for your eyes only')
    assert.ok(bob.unsyncedChanges > 0, 'and its client knows')
  })

  test('a denied client is told the reason, and only for that document', async () => {
    await ownedBy(s2, 'denied')
    const socket = sharedSocket(s1)
    const allowed = await synced(client(s1, 'allowed', { socket }))
    const denied = client(s1, 'denied', { socket, token: 'denied' })
    await until(() => denied.denied.length > 0)
    assert.deepEqual(denied.denied, ['denied by the test'])
    assert.deepEqual(socket.closes, [])

    type(allowed, 'still here')
    await synced(allowed)
    assert.equal(await s2.connections('denied'), 1)

    // A second try with a good token, as a page does after a login.
    denied.configuration.token = 'alice'
    await denied.onOpen({})
    await synced(denied)
  })

  test('the owner asks for the token again, and gets it', async () => {
    await ownedBy(s2, 'token-sync')
    let token = 'first'
    const bob = await synced(client(s1, 'token-sync', { token: () => token }))
    token = 'second'
    await s2.run(({ hocuspocus }, name) => {
      for (const connection of hocuspocus.documents.get(name).getConnections()) connection.requestToken()
    }, 'token-sync')
    await until(async () => (await s2.events('onTokenSync', 'token-sync')).some((event) => event.token === 'second'))
    assert.deepEqual(bob.closes, [])
  })

  test('the application closes the connections of a document: its clients are told, others are not', async () => {
    const ann = await ownedBy(s2, 'closed')
    const socket = sharedSocket(s1)
    const bob = await synced(client(s1, 'closed', { socket }))
    const other = await synced(client(s1, 'not-closed', { socket }))
    await s2.closeConnections('closed')
    await until(() => bob.closes.length === 1 && ann.closes.length === 1)
    assert.deepEqual(bob.closes, ann.closes, 'the same, with and without a proxy')
    assert.equal(socket.closes.length, 0)
    type(other, 'on')
    await synced(other)
  })

  // H16 too: the client learns that its connection at the owner is closed.
  test('H19 a close of the proxied connection closes the socket of the client, with the code', async () => {
    await ownedBy(s2, 'close-code')
    const bob = await synced(client(s1, 'close-code'))
    await s2.run(({ hocuspocus }, name) => {
      for (const { webSocket, context } of hocuspocus.documents.get(name).getConnections()) {
        if (context.user === 'mallory') webSocket.close(4403, 'Forbidden')
      }
    }, 'close-code')
    assert.deepEqual(bob.closes, [], 'not mallory')
    const mallory = await synced(client(s1, 'close-code', { token: 'mallory' }))
    await s2.run(({ hocuspocus }, name) => {
      for (const { webSocket, context } of hocuspocus.documents.get(name).getConnections()) {
        if (context.user === 'mallory') webSocket.close(4403, 'Forbidden')
      }
    }, 'close-code')
    await until(() => mallory.socket.closes.length > 0)
    assert.deepEqual(mallory.socket.closes[0], { code: 4403, reason: 'Forbidden' })
    assert.deepEqual(bob.closes, [])
  })

  test('H19 a client that closes its socket is gone at the owner', async () => {
    await ownedBy(s2, 'leaves')
    const bob = await synced(client(s1, 'leaves'))
    assert.equal(await s2.connections('leaves'), 2)
    bob.destroy()
    opened.pop()
    await until(async () => (await s2.connections('leaves')) === 1)
    await until(async () => (await s2.events('onDisconnect', 'leaves')).length === 1)
  })

  // Hocuspocus 4 sends no pings through its connections: it looks when the last message came (H15 in lifetime.test.mjs).
  test('H19 a socket that breaks off, the last one of its document: no ghost cursor, and the owner stores and unloads it', async () => {
    const watcher = await ownedBy(s2, 'broken-off')
    const socket = sharedSocket(s1)
    const bob = await synced(client(s1, 'broken-off', { socket }))
    // This one is owned by s3, where a direct connection has it open until bob has come.
    await s3.edit('broken-off-alone', '', { keep: true })
    const alone = await synced(client(s1, 'broken-off-alone', { socket }))
    await s3.closeDirect('broken-off-alone')
    assert.deepEqual(await cluster.holders('broken-off-alone'), [s3])
    const cleo = await synced(client(s3, 'broken-off'))
    bob.setAwarenessField('user', 'bob')
    await until(() => [watcher, cleo].every((provider) => others(provider).some((state) => state.user === 'bob')), { what: 'both see bob' })
    type(bob, 'the last words')
    await Promise.all([bob, alone].map((provider) => synced(provider)))

    // No closing handshake, no farewell of a provider.
    socket.shouldConnect = false
    socket.webSocket._socket.destroy()
    await until(() => [watcher, cleo].every((provider) => others(provider).length === 0), { what: 'nobody sees bob any more' })
    assert.equal(await s2.connections('broken-off'), 2)
    await cluster.unloaded('broken-off-alone')

    for (const provider of [watcher, cleo]) {
      provider.socket.shouldConnect = false
      provider.socket.webSocket._socket.destroy()
    }
    await cluster.unloaded('broken-off')
    assert.equal(cluster.store.text('broken-off'), 'the last words')
    for (const server of cluster.servers) assert.equal((await server.run(({ affinity }) => affinity.stats())).proxies, 0, server.serverId)
  })

  test('H20 session-aware providers: several addresses of one document on one socket, one lease', async () => {
    const ann = await ownedBy(s2, 'sessions', { sessionAwareness: true })
    const socket = sharedSocket(s1)
    const first = await synced(client(s1, 'sessions', { socket, sessionAwareness: true }))
    const second = await synced(client(s1, 'sessions', { socket, sessionAwareness: true }))
    const plain = await synced(client(s3, 'sessions'))
    type(first, 'a')
    await showing('a', [ann, first, second, plain])
    type(plain, 'b')
    await showing('ab', [ann, first, second, plain])
    const leases = (await cluster.redis.client.keys('rsaLock:*')).filter((key) => key.includes('sessions'))
    assert.deepEqual(leases, ['rsaLock:sessions'])

    first.destroy()
    opened.splice(opened.indexOf(first), 1)
    await until(async () => (await s2.connections('sessions')) === 3)
    type(second, 'c')
    await showing('abc', [ann, second, plain])
  })

  test('several documents of several owners on one socket', async () => {
    const owners = { 'multi-1': await ownedBy(s1, 'multi-1'), 'multi-2': await ownedBy(s2, 'multi-2'), 'multi-3': await ownedBy(s3, 'multi-3') }
    const socket = sharedSocket(s1)
    const providers = await Promise.all(Object.keys(owners).map((name) => synced(client(s1, name, { socket }))))
    for (const provider of providers) type(provider, provider.configuration.name)
    for (const provider of providers) await showing(provider.configuration.name, [provider, owners[provider.configuration.name]])
    assert.deepEqual(await cluster.holders('multi-1'), [s1])
    assert.deepEqual(await cluster.holders('multi-2'), [s2])
    assert.deepEqual(await cluster.holders('multi-3'), [s3])
  })

  test('H18 closing one document of a socket leaves the others of that socket alone', async () => {
    const ann = await ownedBy(s2, 'stays')
    await ownedBy(s2, 'goes')
    await ownedBy(s3, 'goes-too')
    const socket = sharedSocket(s1)
    const [stays, goes, goesToo] = await Promise.all(['stays', 'goes', 'goes-too'].map((name) => synced(client(s1, name, { socket }))))
    for (const provider of [goes, goesToo]) {
      provider.destroy()
      opened.splice(opened.indexOf(provider), 1)
    }
    await until(async () => (await s2.connections('goes')) === 1 && (await s3.connections('goes-too')) === 1)
    type(stays, 'a')
    type(ann, 'b')
    await until(() => text(ann).length === 2 && text(stays) === text(ann))
    await synced(stays)

    const again = await synced(client(s1, 'goes', { socket }))
    type(again, 'back')
    await until(async () => (await s2.text('goes')) === 'back')
  })

  test('a document is stored by its owner, once loaded in the whole cluster, and moves when all have left', async () => {
    const bob = await ownedBy(s1, 'moves')
    type(bob, 'kept')
    await synced(bob)
    bob.destroy()
    opened.pop()
    await cluster.unloaded('moves')
    assert.equal(cluster.store.text('moves'), 'kept')
    const cleo = await ownedBy(s3, 'moves')
    assert.equal(text(cleo), 'kept')
    assert.deepEqual(cluster.store.loads('moves').map((load) => load.serverId), ['s1', 's3'])
  })
})
