// The dashboard's server side: who gets in, what they get, and what it costs the cluster. The page itself: test/browser/dashboard.test.mjs.
import assert from 'node:assert/strict'
import { once } from 'node:events'
import { createServer } from 'node:http'
import { createRequire } from 'node:module'
import { connect as connectTcp } from 'node:net'
import { describe, test } from 'node:test'
import { Server } from '@hocuspocus/server'
import Redis from 'ioredis'
import { Watcher } from '../../js/dashboard/watcher.js'
import { verdict } from '../../js/dashboard/verdict.js'
import { dashboard } from '../../js/dist/dashboard.js'
import { RedisServerAffinity } from '../../js/dist/index.js'
import { connect, synced } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { mountDashboard, TOKEN } from '../support/dashboard.mjs'
import { startRedis } from '../support/redis.mjs'
import { startServer } from '../support/server.mjs'
import { until } from '../support/wait.mjs'

const HOSTILE = '<img src=x onerror="alert(1)">'
const BEARER = { headers: { authorization: `Bearer ${TOKEN}` } }
const health = { live: true, serving: true, ready: true, redis: 'up', member: true, membershipMs: 9000, draining: false, stalled: false, servers: 1, documents: 1 }
const info = (serverId, more = {}) => ({
  serverId,
  alive: true,
  host: 'host',
  pid: 1,
  version: '0.1.0',
  startedAt: 1,
  updatedAt: 2,
  draining: false,
  documents: 1,
  sockets: 1,
  proxies: 0,
  messagesPerSecond: { in: 1, out: 2 },
  ...more,
})
const listOf = (...names) => ({ total: names.length, documents: names.map((name) => ({ name, epoch: 7, clients: 1, from: { s1: 1 } })) })

/** What stands in for a RedisServerAffinity; `calls` counts. */
function fakeAffinity({ servers = async () => [info('s1')], documents = async () => listOf('a') } = {}) {
  const calls = { servers: 0, documents: [] }
  return {
    calls,
    serverId: 's1',
    health: () => health,
    servers: () => (calls.servers++, servers()),
    documents: (...args) => (calls.documents.push(args), documents(...args)),
  }
}

/** Resolves with the address of an http server that has a dashboard and, beside it, something else. */
async function mount(t, affinity = fakeAffinity(), options = {}) {
  const { handle } = dashboard(affinity, { token: TOKEN, ...options })
  const server = createServer((request, response) => handle(request, response) || response.end('something else'))
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.after(() => server.close().closeAllConnections())
  return `http://127.0.0.1:${server.address().port}`
}

const get = (url, options) => fetch(url, { redirect: 'manual', ...options })
const signIn = (base, token, headers = {}) => get(`${base}/affinity/login`, { method: 'POST', body: new URLSearchParams({ token }), headers })
const stateOf = async (base, query = '') => (await get(`${base}/affinity/state${query}`, BEARER)).json()

describe('options', () => {
  const refused = (options, message, affinity = fakeAffinity()) =>
    assert.throws(() => dashboard(affinity, options), ({ code, message: text }) => code === 'AFF_EINVAL' && message.test(text) && !text.includes('secret-short'))

  test('what is wrong is named, and no message shows the token', () => {
    refused(undefined, /^dashboard: the options must be an object$/)
    refused({}, /option "token" must be a string, not undefined/)
    refused({ token: 'secret-short' }, /option "token" must have 16 to 1024 characters, not 12/)
    for (const path of ['', '/', 'affinity', '/a/', '/a//b', '/..', '/a b', '/a;b', 7]) refused({ token: TOKEN, path }, /option "path" must look like/)
    for (const limit of [0, 1001, 1.5, '10']) refused({ token: TOKEN, limit }, /option "limit" must be an integer from 1 to 1000/)
    refused({ token: TOKEN, tokens: [] }, /option "tokens" is unknown; known are token, path, limit/)
    refused({ token: TOKEN }, /"affinity" must be a RedisServerAffinity/, {})
  })

  test('it can be required as well', () => {
    const required = createRequire(import.meta.url)('@hocuspocus/extension-redis-affinity/dashboard')
    assert.deepEqual(Object.keys(required), ['dashboard'])
  })
})

describe('access', () => {
  test('without the token there is a page to sign in, and nothing of the cluster', async (t) => {
    const affinity = fakeAffinity()
    const base = await mount(t, affinity)
    const page = await get(`${base}/affinity/`)
    assert.equal(page.status, 401)
    assert.match(await page.text(), /<form method="post" action="login">/)
    for (const place of ['state', 'page.js', 'watcher.js', 'index.html', 'nothing']) {
      assert.equal((await get(`${base}/affinity/${place}`)).status, 401, place)
    }
    for (const place of ['style.css', 'icon.svg']) assert.equal((await get(`${base}/affinity/${place}`)).status, 200, place)
    assert.equal(affinity.calls.servers, 0)
  })

  test('signing in gives a cookie that opens the page, on every server with that token, until one signs out', async (t) => {
    const [base, other] = [await mount(t), await mount(t)]
    const answer = await signIn(base, TOKEN)
    assert.deepEqual([answer.status, answer.headers.get('location')], [303, './'])
    const set = answer.headers.get('set-cookie')
    assert.match(set, /^affinity-dashboard=\d+\.[\w-]{43}; Path=\/affinity; Max-Age=43200; HttpOnly; SameSite=Strict$/)
    assert.ok(!set.includes(TOKEN))
    const [cookie] = set.split(';')
    for (const at of [base, other]) {
      assert.equal((await get(`${at}/affinity/state`, { headers: { cookie: `theirs=1; ${cookie}` } })).status, 200)
    }
    const page = await get(`${base}/affinity/`, { headers: { cookie } })
    assert.match(await page.text(), /<script type="module" src="page.js">/)
    const elsewhere = await get(`${base}/affinity/logout`, { method: 'POST' })
    assert.equal(elsewhere.headers.get('set-cookie'), null, 'what another site posts comes without the cookie')
    const out = await get(`${base}/affinity/logout`, { method: 'POST', headers: { cookie } })
    assert.match(out.headers.get('set-cookie'), /^affinity-dashboard=; Path=\/affinity; Max-Age=0;/)
  })

  test('behind TLS the cookie is for TLS only', async (t) => {
    const base = await mount(t)
    assert.match((await signIn(base, TOKEN, { 'x-forwarded-proto': 'https' })).headers.get('set-cookie'), /; Secure$/)
  })

  test('a cookie that is forged, of another token or too old opens nothing', async (t) => {
    const base = await mount(t)
    const open = (cookie) => get(`${base}/affinity/state`, { headers: { cookie } }).then(({ status }) => status)
    const [, end, signature] = /=(\d+)\.([\w-]+)/.exec((await signIn(base, TOKEN)).headers.get('set-cookie'))
    assert.equal(await open(`affinity-dashboard=${end}.${signature}`), 200)
    const other = await mount(t, fakeAffinity(), { token: 'another token, as long' })
    const [foreign] = (await signIn(other, 'another token, as long')).headers.get('set-cookie').split(';')
    const wrong = [foreign, '', 'affinity-dashboard', 'affinity-dashboard=', 'affinity-dashboard=.', `affinity-dashboard=${end}`, `affinity-dashboard=${Number(end) + 1}.${signature}`, `affinity-dashboard=${end}.${signature}x`]
    for (const cookie of wrong) assert.equal(await open(cookie), 401, cookie)
    t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 12 * 3_600_000 + 1000 })
    assert.equal(await open(`affinity-dashboard=${end}.${signature}`), 401)
  })

  test('after ten wrong tokens an address waits, those who are in do not', async (t) => {
    const base = await mount(t)
    const [cookie] = (await signIn(base, TOKEN)).headers.get('set-cookie').split(';')
    for (let n = 0; n < 5; n++) {
      assert.equal((await signIn(base, `wrong ${n}`)).status, 401)
      const bearer = await get(`${base}/affinity/state`, { headers: { authorization: `Bearer wrong ${n}` } })
      assert.equal(bearer.status, n < 4 ? 401 : 429)
    }
    const barred = await signIn(base, TOKEN)
    assert.deepEqual([barred.status, barred.headers.get('retry-after')], [429, '60'])
    assert.match(await barred.text(), /Too many attempts/)
    assert.equal((await get(`${base}/affinity/state`, BEARER)).status, 429)
    assert.equal((await get(`${base}/affinity/state`, { headers: { cookie } })).status, 200)
    t.mock.timers.enable({ apis: ['Date'], now: Date.now() + 61_000 })
    assert.equal((await signIn(base, TOKEN)).status, 303)
  })

  test('a token in the address is none', async (t) => {
    const base = await mount(t)
    assert.equal((await get(`${base}/affinity/state?token=${encodeURIComponent(TOKEN)}`)).status, 401)
  })
})

describe('requests', () => {
  test('every answer has strict headers', async (t) => {
    const base = await mount(t)
    for (const [place, options] of [['', {}], ['/', {}], ['/', BEARER], ['/state', BEARER], ['/page.js', BEARER], ['/none', BEARER], ['/login', { method: 'POST' }], ['/', { method: 'PUT' }]]) {
      const { headers } = await get(`${base}/affinity${place}`, options)
      assert.match(headers.get('content-security-policy'), /^default-src 'none'; script-src 'self'; .*frame-ancestors 'none'$/)
      assert.ok(!headers.get('content-security-policy').includes('unsafe'))
      assert.equal(headers.get('x-content-type-options'), 'nosniff')
      assert.equal(headers.get('referrer-policy'), 'no-referrer')
      assert.equal(headers.get('cache-control'), 'no-store')
    }
    assert.equal((await get(`${base}/affinity/state`, BEARER)).headers.get('content-type'), 'application/json; charset=utf-8')
    assert.equal((await get(`${base}/affinity/page.js`, BEARER)).headers.get('content-type'), 'text/javascript; charset=utf-8')
  })

  test('it is read-only', async (t) => {
    const base = await mount(t)
    for (const method of ['POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS']) {
      const answer = await get(`${base}/affinity/state`, { method, ...BEARER })
      assert.deepEqual([answer.status, answer.headers.get('allow')], [405, 'GET, HEAD'], method)
    }
    const head = await get(`${base}/affinity/`, { method: 'HEAD', ...BEARER })
    assert.deepEqual([head.status, await head.text()], [200, ''])
    const signInByGet = await get(`${base}/affinity/login`)
    assert.deepEqual([signInByGet.status, signInByGet.headers.get('location')], [303, './'])
  })

  test('what is not below its path is left to others', async (t) => {
    const base = await mount(t, fakeAffinity(), { path: '/ops/cluster' })
    for (const place of ['/', '/affinity', '/ops', '/ops/clusters', '/opsx/cluster', '/?/ops/cluster']) {
      assert.equal(await (await get(base + place)).text(), 'something else', place)
    }
    assert.equal((await get(`${base}/ops/cluster`)).headers.get('location'), 'cluster/')
    assert.equal((await get(`${base}/ops/cluster/`)).status, 401)
    assert.equal((await get(`${base}/ops/cluster/../cluster/`, BEARER)).status, 200)
    assert.equal((await get(`${base}/ops/cluster/%2e%2e%2fpackage.json`, BEARER)).status, 404)
  })

  test('a form that is too long, or ends too soon, harms nobody', async (t) => {
    const base = await mount(t)
    await signIn(base, 'x'.repeat(100_000)).then(({ status }) => assert.equal(status, 400), () => {})
    const socket = connectTcp(new URL(base).port, '127.0.0.1')
    socket.write('POST /affinity/login HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\ntoken=')
    socket.destroySoon()
    await once(socket, 'close')
    assert.equal((await signIn(base, TOKEN)).status, 303)
  })

  test("Express's parsed body will do", async (t) => {
    const { default: express } = await import('express')
    const { handle } = dashboard(fakeAffinity(), { token: TOKEN })
    const app = express().use(express.urlencoded({ extended: false })).use((request, response, next) => handle(request, response) || next())
    const server = app.listen(0, '127.0.0.1')
    await once(server, 'listening')
    t.after(() => server.close().closeAllConnections())
    assert.equal((await signIn(`http://127.0.0.1:${server.address().port}`, TOKEN)).status, 303)
  })
})

describe('the state', () => {
  test('has servers, their documents, health; names are what they are', async (t) => {
    const servers = [info('s1'), info('s2'), info('s3', { alive: false })]
    const affinity = fakeAffinity({ servers: async () => servers, documents: async (serverId) => (serverId === 's1' ? { ...listOf('a', HOSTILE), total: 9 } : listOf('b')) })
    const base = await mount(t, affinity, { limit: 2 })
    const { at, ...state } = await stateOf(base)
    assert.ok(Math.abs(Date.now() - at) < 10_000)
    assert.deepEqual(state, {
      self: 's1',
      health,
      servers: [
        { ...servers[0], answers: true, open: 9, listed: 2 },
        { ...servers[1], answers: true, open: 1, listed: 1 },
        { ...servers[2], answers: false, open: 0, listed: 0 },
      ],
      documents: ['a', HOSTILE, 'b'].map((name) => ({ name, epoch: 7, clients: 1, from: { s1: 1 }, owner: name === 'b' ? 's2' : 's1' })),
      prefix: '',
    })
    assert.deepEqual(affinity.calls.documents, [
      ['s1', { prefix: '', limit: 2 }],
      ['s2', { prefix: '', limit: 2 }],
    ])
  })

  test('costs the cluster the same for one viewer and for many', async (t) => {
    const affinity = fakeAffinity()
    const base = await mount(t, affinity)
    const states = await Promise.all(Array.from({ length: 30 }, () => stateOf(base)))
    assert.equal(new Set(states.map(({ at }) => at)).size, 1)
    assert.deepEqual([affinity.calls.servers, affinity.calls.documents.length], [1, 1])
    // Who searches asks for other documents; the servers are known.
    assert.equal((await stateOf(base, '?prefix=x%26y')).prefix, 'x&y')
    assert.equal(affinity.calls.servers, 1)
    assert.deepEqual(affinity.calls.documents[1], ['s1', { prefix: 'x&y', limit: 200 }])
    await until(async () => (await stateOf(base)).at > states[0].at)
    assert.equal(affinity.calls.servers, 2)
    assert.equal((await get(`${base}/affinity/state?prefix=${'x'.repeat(1001)}`, BEARER)).status, 400)
  })

  test('a server that does not answer is shown as such, and asked once', async (t) => {
    let answer
    const silent = new Promise((resolve) => (answer = resolve))
    const affinity = fakeAffinity({ servers: async () => [info('s1'), info('s2')], documents: async (serverId) => (serverId === 's1' ? listOf('a') : silent) })
    const base = await mount(t, affinity)
    const asked = Date.now()
    const first = await stateOf(base)
    assert.ok(Date.now() - asked < 3000)
    assert.deepEqual(first.servers.map(({ answers }) => answers), [true, false])
    assert.deepEqual(first.documents.map(({ name }) => name), ['a'])
    await until(async () => (await stateOf(base)).at > first.at)
    assert.equal(affinity.calls.documents.filter(([serverId]) => serverId === 's2').length, 1)
    answer(listOf('b'))
    await until(async () => (await stateOf(base)).servers[1].answers)
    assert.deepEqual((await stateOf(base)).documents.map(({ name }) => name), ['a', 'b'])
  })

  test('of a server that refuses, the rest is shown', async (t) => {
    const documents = async (serverId) => (serverId === 's1' ? listOf('a') : Promise.reject(new Error('no')))
    const base = await mount(t, fakeAffinity({ servers: async () => [info('s1'), info('s2')], documents }))
    assert.deepEqual((await stateOf(base)).servers.map(({ answers }) => answers), [true, false])
  })

  test('without Redis it is what was known last, and says so', async (t) => {
    let away
    const servers = () => away ?? Promise.resolve([info('s1')])
    const base = await mount(t, fakeAffinity({ servers }))
    assert.equal((await stateOf(base)).error, undefined)
    away = Promise.reject(Object.assign(new Error('Redis is away'), { code: 'AFF_EREDIS' }))
    away.catch(() => {})
    const state = await until(async () => {
      const now = await stateOf(base)
      return now.error && now
    })
    assert.deepEqual(state.error, { code: 'AFF_EREDIS', message: 'Redis is away' })
    assert.deepEqual(state.servers.map(({ serverId }) => serverId), ['s1'])
    away = new Promise(() => {}) // it may also wait
    await until(async () => (await stateOf(base)).error.code === 'AFF_ETIMEOUT')
  })

  test('a document that two servers list is where its epoch is higher', async (t) => {
    const documents = async (serverId) => ({ total: 1, documents: [{ name: 'a', epoch: serverId === 's1' ? 8 : 9, clients: 1, from: {} }] })
    const base = await mount(t, fakeAffinity({ servers: async () => [info('s2'), info('s1')], documents }))
    assert.deepEqual((await stateOf(base)).documents.map(({ owner, epoch }) => [owner, epoch]), [['s2', 9]])
  })
})

describe('in a cluster', () => {
  test('documents of all servers are seen at one, those of a hung one are missed', async (t) => {
    const cluster = await startCluster(2, { lockTTL: 5000 })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const providers = [await synced(connect({ url: s1.url, name: 'a' })), await synced(connect({ url: s2.url, name: HOSTILE })), await synced(connect({ url: s1.url, name: HOSTILE }))]
    t.after(() => providers.forEach((provider) => provider.destroy()))
    const url = await mountDashboard(s1)
    const state = async () => (await get(`${url}state`, BEARER)).json()
    const { self, documents, servers } = await until(async () => {
      const now = await state()
      return now.servers.length === 2 && now.documents.length === 2 && now
    })
    assert.equal(self, 's1')
    assert.ok(servers.every(({ answers, open, listed }) => answers && open === 1 && listed === 1))
    assert.deepEqual(
      documents.map(({ name, owner, clients, from }) => ({ name, owner, clients, from })),
      [
        { name: 'a', owner: 's1', clients: 1, from: { s1: 1 } },
        { name: HOSTILE, owner: 's2', clients: 2, from: { s1: 1, s2: 1 } },
      ],
    )
    process.kill(s2.pid, 'SIGSTOP')
    await until(async () => (await state()).servers.some(({ serverId, answers }) => serverId === 's2' && !answers))
    assert.ok((await state()).servers.some(({ serverId, answers }) => serverId === 's1' && answers))
    process.kill(s2.pid, 'SIGCONT')
  })

  test("with Hocuspocus's Server it is one more extension, and leaves the others their requests", async (t) => {
    const redis = await startRedis()
    t.after(() => redis.stop())
    const affinity = new RedisServerAffinity({ redis: new Redis({ ...redis.options, lazyConnect: true }), serverId: 's1', log: () => {} })
    const seen = []
    const other = { onRequest: async ({ request }) => void seen.push(request.url) }
    const server = new Server({ port: 0, address: '127.0.0.1', quiet: true, stopOnSignals: false, extensions: [affinity, dashboard(affinity, { token: TOKEN }), other] })
    const complaints = t.mock.method(console, 'error', () => {})
    await server.listen()
    t.after(() => server.destroy())
    const base = `http://127.0.0.1:${server.address.port}`
    assert.equal(await (await get(base)).text(), 'Welcome to Hocuspocus!')
    assert.equal((await get(`${base}/affinity/`)).status, 401)
    assert.deepEqual((await stateOf(base)).servers.map(({ serverId }) => serverId), ['s1'])
    assert.equal((await signIn(base, TOKEN)).status, 303)
    assert.deepEqual(seen, ['/'])
    assert.equal(complaints.mock.callCount(), 0)
  })
})

test("Hocuspocus 3.4 takes its onRequest, too", async (t) => {
  const redis = await startRedis()
  t.after(() => redis.stop())
  const setup = ({ kept }) => ({ extensions: [{ onRequest: (data) => kept.dashboard.onRequest(data) }] })
  const server = await startServer({ serverId: 's1', redis, setup, hocuspocus: '3.4.0' })
  t.after(() => server.stop())
  await server.run(
    async ({ affinity, kept, import: load }, built, token) => {
      kept.dashboard = (await load(built)).dashboard(affinity, { token })
    },
    new URL('../../js/dist/dashboard.js', import.meta.url).href,
    TOKEN,
  )
  const base = server.url.replace('ws:', 'http:')
  assert.equal(await (await get(base)).text(), 'Welcome to Hocuspocus!')
  assert.deepEqual((await stateOf(base)).servers.map(({ serverId }) => serverId), ['s1'])
  assert.doesNotMatch(server.output(), /error/i)
})

describe('what the page makes of states', () => {
  /** Servers by name with the documents that they own (names, or all that is to be told of them). */
  const stateWith = (servers, { prefix = '', epoch = 1, ...more } = {}) => ({
    self: 's1',
    health,
    prefix,
    servers: Object.entries(servers).map(([serverId, documents]) => {
      const { list = documents, ...rest } = Array.isArray(documents) ? {} : documents
      const count = Array.isArray(list) ? list.length : 0
      return { ...info(serverId), answers: true, open: count, listed: count, ...rest }
    }),
    documents: Object.entries(servers).flatMap(([owner, documents]) => (Array.isArray(documents) ? documents : (documents.list ?? [])).map((name) => ({ name, owner, epoch, clients: 1, from: {} }))),
    ...more,
  })

  test('the first state is no news; a document at another server has moved, together with others', () => {
    const watcher = new Watcher()
    assert.deepEqual(watcher.next(stateWith({ s1: ['a', 'b', 'c'], s2: ['d'] }), 0), [])
    assert.deepEqual(watcher.next(stateWith({ s1: ['c'], s2: ['a', 'b', 'd'] }, { epoch: 2 }), 1000), [
      { kind: 'moved', from: 's1', to: 's2', documents: [{ name: 'a', epoch: 2 }, { name: 'b', epoch: 2 }] },
    ])
    assert.deepEqual(watcher.next(stateWith({ s1: ['c'], s2: ['a', 'b', 'd'] }, { epoch: 2 }), 2000), [])
    assert.deepEqual(watcher.next(stateWith({ s1: ['a', 'c'], s2: ['b', 'd'] }, { epoch: 1 }), 3000), [], 'an older epoch is old news')
  })

  test('a document that was closed and is opened elsewhere later has not moved, one whose owner is gone has', () => {
    const watcher = new Watcher()
    watcher.next(stateWith({ s1: ['a'], s2: ['b'], s3: [] }), 0)
    const without = { s1: [], s2: { alive: false, answers: false }, s3: [] }
    for (let now = 1000; now <= 30_000; now += 1000) watcher.next(stateWith(without), now)
    const events = watcher.next(stateWith({ ...without, s3: ['a', 'b'] }, { epoch: 2 }), 31_000)
    assert.deepEqual(events, [{ kind: 'moved', from: 's2', to: 's3', documents: [{ name: 'b', epoch: 2 }] }])
  })

  test('who searches has not closed what does not fit', () => {
    const watcher = new Watcher()
    watcher.next(stateWith({ s1: ['a', 'b'], s2: [] }), 0)
    for (let now = 1000; now <= 30_000; now += 1000) watcher.next(stateWith({ s1: ['b'], s2: [] }, { prefix: 'b' }), now)
    assert.equal(watcher.next(stateWith({ s1: ['b'], s2: ['a'] }, { epoch: 2 }), 31_000)[0].documents[0].name, 'a')
  })

  test('servers come, drain, hang, go and leave', () => {
    const watcher = new Watcher()
    const kinds = (state, now) => watcher.next(state, now).map(({ kind, server }) => `${server} ${kind}`)
    kinds(stateWith({ s1: [], s2: [] }), 0)
    assert.deepEqual(kinds(stateWith({ s1: [], s2: [], s3: [] }), 1), ['s3 up'])
    assert.deepEqual(kinds(stateWith({ s1: { draining: true }, s2: { answers: false }, s3: [] }), 2), ['s1 draining', 's2 silent'])
    assert.deepEqual(kinds(stateWith({ s2: { answers: true }, s3: { alive: false, answers: false } }), 3), ['s2 answers', 's3 gone', 's1 left'])
    assert.deepEqual(kinds(stateWith({ s2: [], s3: { pid: 2 } }), 4), ['s3 up'])
    assert.deepEqual(kinds(stateWith({}, { error: { message: 'Redis is away' } }), 5), [], 'nothing is known')
    assert.deepEqual(kinds(stateWith({ s2: { startedAt: 9 }, s3: { pid: 2 } }), 6), ['s2 up'], 'the same name, another process')
  })

  test('the verdict is the worst that there is', () => {
    const of = (servers, more) => verdict(stateWith(servers, more))
    assert.deepEqual(of({ s1: [] }), { level: 'good', text: 'Healthy: 1 server' })
    assert.deepEqual(of({ s1: [], s2: [] }), { level: 'good', text: 'Healthy: all 2 servers' })
    assert.deepEqual(of({ s1: [], s2: { draining: true } }), { level: 'busy', text: 's2 is draining' })
    assert.deepEqual(of({ s1: [], s2: { alive: false }, s3: { alive: false } }), { level: 'warn', text: 's2, s3 are gone' })
    assert.deepEqual(of({ s1: [], s2: { answers: false } }), { level: 'warn', text: 'No answer from s2' })
    assert.deepEqual(of({ s1: [] }, { health: { ...health, ready: false, reason: 'starting' } }), { level: 'warn', text: 's1: starting' })
    assert.deepEqual(of({ s1: [] }, { health: { ...health, redis: 'down' } }), { level: 'bad', text: 'Redis is away, as s1 sees it' })
  })
})
