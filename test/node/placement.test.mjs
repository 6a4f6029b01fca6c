// Where documents go that nobody has, and which move by themselves.
import assert from 'node:assert/strict'
import { test } from 'node:test'
import { Rebalancing } from '../../js/dist/rebalance.js'
import { Candidates } from '../../js/dist/placement.js'
import { connect, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

const owners = (cluster, names) => Promise.all(names.map((name) => cluster.ownerOf(name)))
const count = (list, one) => list.filter((other) => other === one).length

/** All servers know of each other. */
const listed = (server, servers) =>
  until(() => server.run(({ affinity }, servers) => affinity.servers().then((list) => list.filter(({ alive }) => alive).length === servers), servers), {
    what: 'all servers are listed',
  })

async function start(t, servers, options) {
  const cluster = await startCluster(servers, { lockTTL: 1500, ...options })
  t.after(() => cluster.stop())
  for (const server of cluster.servers) await listed(server, servers)
  return cluster
}

/** Opens documents at a server, one after the other. */
async function openAt(t, server, names) {
  const providers = []
  for (const name of names) {
    const provider = await synced(connect({ url: server.url, name }))
    t.after(() => provider.destroy())
    type(provider, name)
    providers.push(provider)
  }
  await until(() => providers.every((provider) => !provider.hasUnsyncedChanges))
  return providers
}

const names = (length, prefix = 'doc') => Array.from({ length }, (_, n) => `${prefix}-${n}`)

test('local, the default: a document is where its first client is', async (t) => {
  const cluster = await start(t, 2)
  await openAt(t, cluster.servers[1], ['doc'])
  assert.equal(await cluster.ownerOf('doc'), 's2')
})

test('least-loaded: documents that are opened at one server are spread over all', async (t) => {
  const cluster = await start(t, 3, { placement: 'least-loaded' })
  const docs = names(12)
  await openAt(t, cluster.servers[0], docs)
  const spread = await owners(cluster, docs)
  for (const { serverId } of cluster.servers) assert.ok(count(spread, serverId) >= 3, `${serverId} has some of ${spread}`)
  await until(() => docs.every((name) => cluster.store.text(name) === name), { what: 'all is stored' })
})

test('least-loaded stays within a region, as long as it has servers there', async (t) => {
  const cluster = await start(t, 2, { placement: 'least-loaded', region: 'east' })
  const west = await cluster.add('w1', { region: 'west', placement: 'least-loaded' })
  await listed(cluster.servers[0], 3)
  assert.deepEqual(await west.run(({ affinity }) => affinity.servers().then((list) => list.map(({ region }) => region))), ['east', 'east', 'west'])
  const [east, western] = [names(6, 'east'), names(3, 'west')]
  await openAt(t, cluster.servers[0], east)
  await openAt(t, west, western)
  assert.equal(count(await owners(cluster, east), 'w1'), 0)
  assert.equal(count(await owners(cluster, western), 'w1'), 3)
})

test('a function chooses; what it says wrong is told once, and means local', async (t) => {
  const setup = () => ({
    affinity: {
      placement: (candidates, name) => {
        globalThis.asked = [...(globalThis.asked ?? []), { name, candidates: candidates.map(({ serverId }) => serverId) }]
        if (name === 'throws') throw new Error('no idea')
        return { nothing: undefined, nobody: 's9', async: Promise.resolve('s2') }[name] ?? (name === 'nothing' ? undefined : 's3')
      },
      log: (entry) => (globalThis.lines = [...(globalThis.lines ?? []), entry]),
    },
  })
  const cluster = await start(t, 3, { setup })
  const [s1] = cluster.servers
  await openAt(t, s1, ['any', 'nothing', 'nobody', 'throws', 'async'])
  assert.deepEqual(await owners(cluster, ['any', 'nothing', 'nobody', 'throws', 'async']), ['s3', 's1', 's1', 's1', 's2'])
  assert.deepEqual(await s1.run(() => globalThis.asked[0]), { name: 'any', candidates: ['s1', 's2', 's3'] })
  const warnings = await s1.run(() => globalThis.lines.filter(({ level, message }) => level === 'warn' && message.includes('placed')).map(({ message }) => message))
  assert.deepEqual(warnings, ['document "nobody" could not be placed: "placement" chose "s9", which is none of the candidates'])
  // An open document is not placed again.
  await openAt(t, cluster.servers[1], ['nothing'])
  assert.equal(await cluster.ownerOf('nothing'), 's1')
})

test('lockDocument and direct connections have their document where they are', async (t) => {
  const setup = () => ({ affinity: { placement: () => 's2' } })
  const cluster = await start(t, 2, { setup })
  const [s1] = cluster.servers
  await s1.lockDocument('locked')
  await s1.edit('direct', 'x', { keep: true })
  assert.deepEqual(await owners(cluster, ['locked', 'direct']), ['s1', 's1'])
})

test('clients of a server that drains open what nobody has at another one', async (t) => {
  const cluster = await start(t, 2)
  const [s1] = cluster.servers
  await s1.run(({ affinity }) => affinity.drain())
  const [ann] = await openAt(t, s1, ['late'])
  assert.equal(await cluster.ownerOf('late'), 's2')
  assert.deepEqual(ann.closes, [])
})

test('a server that drains does not depend on a function that can not say', async (t) => {
  const setup = () => ({ affinity: { placement: () => undefined } })
  const cluster = await start(t, 2, { setup })
  const [s1] = cluster.servers
  await openAt(t, s1, ['own'])
  assert.equal(await cluster.ownerOf('own'), 's1')
  await s1.run(({ affinity }) => affinity.drain())
  await openAt(t, s1, ['late'])
  assert.deepEqual(await owners(cluster, ['own', 'late']), ['s2', 's2'])
})

test('a bad placement, region or rebalance is refused by name', async (t) => {
  const cluster = await startCluster(1)
  t.after(() => cluster.stop())
  const problem = (options) =>
    cluster.servers[0].run(async (_, options) => {
      const { RedisServerAffinity } = await import('@hocuspocus/extension-redis-affinity')
      try {
        new RedisServerAffinity({ host: '127.0.0.1', options: { lazyConnect: true }, ...options })
      } catch ({ code, message }) {
        return `${code} ${message}`
      }
    }, options)
  for (const [options, name] of [
    [{ placement: 'random' }, 'placement'],
    [{ region: '' }, 'region'],
    [{ region: 7 }, 'region'],
    [{ rebalance: 'yes' }, 'rebalance'],
    [{ rebalance: { often: 1 } }, 'rebalance.often'],
    [{ rebalance: { every: 1 } }, 'rebalance.every'],
    [{ rebalance: { perMinute: 0 } }, 'rebalance.perMinute'],
    [{ rebalance: { idle: -1 } }, 'rebalance.idle'],
    [{ rebalance: { rest: 1.5 } }, 'rebalance.rest'],
  ]) {
    assert.match((await problem(options)) ?? 'accepted', new RegExp(`^AFF_EINVAL .*option "${name}"`))
  }
})

test('an idle document moves to where most of its clients are, and no socket is closed', async (t) => {
  const cluster = await start(t, 2, { rebalance: { every: 100, idle: 300, rest: 0 } })
  const [s1, s2] = cluster.servers
  const [ann] = await openAt(t, s1, ['doc'])
  const people = [ann]
  for (let n = 0; n < 2; n++) people.push(await synced(connect({ url: s2.url, name: 'doc' })))
  t.after(() => people.forEach((provider) => provider.destroy()))
  await until(async () => (await cluster.ownerOf('doc')) === 's2', { what: 's2 has it' })
  people.forEach((provider, n) => type(provider, ` ${n}`))
  await until(() => people.every((provider) => !provider.hasUnsyncedChanges && [0, 1, 2].every((n) => text(provider).includes(` ${n}`))))
  assert.deepEqual(people.flatMap(({ closes }) => closes), [])
})

test('a document that somebody types into stays, and so does one that is locked', async (t) => {
  const cluster = await start(t, 2, { rebalance: { every: 100, idle: 1500, rest: 0 } })
  const [s1, s2] = cluster.servers
  await s1.lockDocument('locked')
  const [busy] = await openAt(t, s2, ['locked'])
  const typist = (await openAt(t, s1, ['busy', 'idle']))[0]
  for (const name of ['busy', 'idle', 'busy', 'idle']) {
    const other = await synced(connect({ url: s2.url, name }))
    t.after(() => other.destroy())
  }
  const timer = setInterval(() => type(typist, '.'), 100)
  t.after(() => clearInterval(timer))
  await until(async () => (await cluster.ownerOf('idle')) === 's2', { what: 'the idle one has moved' })
  assert.deepEqual(await owners(cluster, ['busy', 'locked']), ['s1', 's1'])
  clearInterval(timer)
  await until(async () => (await cluster.ownerOf('busy')) === 's2', { what: 'it has moved when it was idle' })
  assert.deepEqual(busy.closes, [])
})

test('a server with far too many documents hands some on, within its limit', async (t) => {
  const cluster = await start(t, 1, { rebalance: { every: 200, idle: 0, rest: 0, perMinute: 5 } })
  const docs = names(30)
  await openAt(t, cluster.servers[0], docs)
  await cluster.add('s2', { lockTTL: 1500 })
  await until(async () => count(await owners(cluster, docs), 's2') === 5, { what: 'five have moved' })
})

// ---- What it plans ------------------------------------------------------------------------------------

const log = { debug() {}, info() {} }
const settings = { every: 1000, idle: 100, perMinute: 10, rest: 100 }
const server = (serverId, documents, region) => ({ serverId, documents, region, alive: true, draining: false, updatedAt: 1 })
const candidatesOf = (servers, self) => new Candidates({ servers: async () => servers }, self)

function plan(servers, documents, { self = { serverId: 'a' }, held = [], since = {}, given = settings } = {}) {
  const rebalanced = {
    documents: () => documents.map(({ name, from }) => ({ name, from, epoch: 1, clients: Object.values(from).reduce((sum, n) => sum + n, 0) })),
    isHeld: (name) => held.includes(name),
    since: (name) => since[name] ?? { here: 0, changed: 0 },
    move: async () => {},
  }
  const rebalancing = new Rebalancing(given, self.serverId, candidatesOf(servers, self), log)
  return rebalancing.plan(rebalanced, servers, 1000).map(({ document, to, because }) => `${document} ${to} ${because}`)
}

test('the plan: more than half of the clients at one other server', () => {
  const servers = [server('a', 3), server('b', 3), server('c', 3)]
  const documents = [
    { name: 'most', from: { a: 1, b: 3 } },
    { name: 'half', from: { a: 2, b: 2 } },
    { name: 'split', from: { b: 2, c: 2 } },
    { name: 'all', from: { c: 5 } },
    { name: 'gone', from: { d: 5 } },
    { name: 'nobody', from: {} },
  ]
  assert.deepEqual(plan(servers, documents), ['all c clients', 'most b clients'])
  assert.deepEqual(plan(servers, documents, { held: ['all'], since: { most: { here: 950, changed: 0 } } }), [])
  assert.deepEqual(plan(servers, documents, { since: { most: { here: 0, changed: 950 } } }), ['all c clients'])
  assert.deepEqual(plan(servers, documents, { given: { ...settings, perMinute: 1 } }), ['all c clients'])
  assert.deepEqual(plan([server('a', 3)], documents), [])
})

test('the plan: nothing goes to a hot server, and a hot one sheds what few here have open', () => {
  const documents = [
    { name: 'many', from: { a: 9 } },
    { name: 'few', from: { a: 1 } },
    { name: 'elsewhere', from: { a: 1, b: 5 } },
  ]
  assert.deepEqual(plan([server('a', 10), server('b', 100)], documents), [])
  const shed = plan([server('a', 40), server('b', 4), server('c', 3)], documents)
  assert.deepEqual(shed, ['elsewhere b clients', 'few c load', 'many b load'])
  assert.deepEqual(plan([server('a', 14), server('b', 4), server('c', 4)], documents.slice(0, 2)), [], 'few documents are no load')
  const regions = [server('a', 40, 'east'), server('b', 8, 'east'), server('c', 3, 'west')]
  assert.deepEqual(plan(regions, documents.slice(0, 1), { self: { serverId: 'a', region: 'east' } }), ['many b load'])
})
