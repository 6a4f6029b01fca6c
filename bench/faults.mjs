// What clients feel of faults, with real HocuspocusProviders, as a table in Markdown:
//   node bench/faults.mjs [scenario...]      RUNS=10 BUDGET=300 (seconds for each scenario) SEED=1
// A scenario makes fewer runs than asked for when its budget is used up; the table says how many it made.
import { connect, synced, text, type } from '../test/support/client.mjs'
import { startCluster } from '../test/support/cluster.mjs'
import { redisAway, startScene } from '../test/support/faults.mjs'
import { until, within } from '../test/support/wait.mjs'

const RUNS = Number(process.env.RUNS) || 10
const BUDGET = (Number(process.env.BUDGET) || 300) * 1000
const lockTTL = 10_000
/** Each client makes 20 edits a second in each of its documents. */
const SCENE = { every: 50, lockTTL }

const now = () => performance.now()
const seconds = (s) => s * 1000
const pass = (ms) => new Promise((resolve) => setTimeout(resolve, ms))
const storesOf = (scene, serverId, name) => scene.cluster.store.stores(name).filter((store) => store.serverId === serverId)
const FOREVER = { debounce: 600_000, maxDebounce: 600_000 }

/** How a scene ended, as figures of the table: what must be 0. */
async function ending(scene, { mayClose = ['home'], timeout = 20_000 } = {}) {
  const { took, wrong, closed, disturbed } = await scene.settle({ timeout })
  const lost = wrong.filter((line) => / lacks /.test(line))
  return {
    took,
    'sockets closed elsewhere': closed.filter(({ name }) => !mayClose.includes(name)).length,
    'events at providers elsewhere': disturbed.filter(({ name }) => !mayClose.includes(name)).length,
    'edits lost': new Set(lost.map((line) => line.split(' lacks ')[1])).size,
    'counts left unsynced': wrong.filter((line) => /unsynced count/.test(line)).length,
    'not as it should be': wrong.filter((line) => !/ lacks |unsynced count/.test(line)).length,
    wrong,
  }
}

/** Each returns its figures by name: numbers (ms unless the name says otherwise). */
const scenarios = {
  kill: {
    what: 'kill -9 of the owner, its connections to Redis are gone: until edits flow again',
    goal: '≤ 1,000',
    async run(t) {
      const scene = await startScene(t, SCENE)
      await scene.warm()
      const killed = now()
      await scene.server.s1.kill('SIGKILL')
      const ms = await scene.flows(killed, { timeout: 40_000 })
      await scene.warm()
      return { ms, ...(await ending(scene)) }
    },
  },

  vanish: {
    what: 'the machine of the owner vanishes, its connections stand half open: until edits flow again',
    goal: '≤ 10,500',
    async run(t) {
      const scene = await startScene(t, { ...SCENE, relays: true })
      await scene.warm()
      scene.relay.s1.blackhole()
      const vanished = now()
      await scene.server.s1.kill('SIGKILL')
      const ms = await scene.flows(vanished, { timeout: 40_000 })
      return { ms, ...(await ending(scene)) }
    },
  },

  drain: {
    what: 'SIGTERM of the owner of 1 document: the longest pause of an edit',
    goal: '≤ 250',
    async run(t) {
      const scene = await startScene(t, { ...SCENE, each: { s1: { configuration: { ...FOREVER, stopOnSignals: true } } } })
      await scene.warm()
      const started = now()
      scene.leaving.add('s1')
      await within(scene.server.s1.kill('SIGTERM'), 's1 ends', 30_000)
      const left = now() - started
      await scene.flows(now(), { timeout: 40_000 })
      await pass(500)
      const ms = scene.pause(started, { till: now() - 250 })
      return { ms, 'until the process ended': left, ...(await ending(scene)), 'stores by the leaver': storesOf(scene, 's1', 'doc-1').length }
    },
  },

  drain200: {
    what: 'SIGTERM of the owner of 200 documents, each typed in 5 times a second: the longest pause of an edit, p99 of the documents',
    goal: '≤ 250',
    async run(t) {
      const cluster = await startCluster(0, { lockTTL })
      t.after(() => cluster.stop())
      const s1 = await cluster.add('s1', { configuration: { ...FOREVER, stopOnSignals: true } })
      const others = [await cluster.add('s2'), await cluster.add('s3')]
      const names = Array.from({ length: 200 }, (_, n) => `many-${n}`)
      for (const name of names) await s1.lockDocument(name)
      const pairs = names.map((name) => others.map((server) => connect({ url: server.url, name })))
      t.after(async () => pairs.flat().forEach((provider) => provider.destroy()))
      await Promise.all(pairs.flat().map((provider) => synced(provider, 60_000)))
      for (const name of names) await s1.releaseLock(name)
      const pauses = names.map(() => 0)
      const made = names.map(() => [])
      pairs.forEach(([from, to], document) => {
        let seen = 0
        to.document.getText('text').observe(() => {
          // Only one writes, at the end: so many characters, so many edits.
          for (const length = to.document.getText('text').length; seen < length; seen++) pauses[document] = Math.max(pauses[document], now() - made[document][seen])
        })
        void from
      })
      let turn = 0
      // Each document is typed in five times a second, spread over the time.
      const typing = setInterval(() => {
        for (let n = 0; n < 10; n++, turn++) {
          const document = turn % names.length
          made[document].push(now())
          type(pairs[document][0], 'x')
        }
      }, 10)
      t.after(async () => clearInterval(typing))
      await pass(1000)
      pauses.fill(0)
      await within(s1.kill('SIGTERM'), 's1 ends', 60_000)
      await pass(500)
      clearInterval(typing)
      const differs = ([a, b], document) => text(a) !== text(b) || text(a).length !== made[document].length || a.unsyncedChanges + b.unsyncedChanges > 0
      const differing = () => pairs.filter(differs).length
      const wrong = await until(() => differing() === 0, { timeout: 20_000 }).then(() => [], () => [`${differing()} documents differ`])
      const sorted = pauses.toSorted((a, b) => a - b)
      const stores = names.map((name) => cluster.store.stores(name).filter((store) => store.serverId === 's1').length)
      return {
        ms: sorted[Math.ceil(sorted.length * 0.99) - 1],
        'sockets closed elsewhere': pairs.flat().reduce((sum, provider) => sum + provider.socket.closes.length, 0),
        'CLOSE at clients': pairs.flat().reduce((sum, provider) => sum + provider.closes.length, 0),
        'documents that differ': wrong.length,
        'stores by the leaver, most': Math.max(...stores),
        wrong,
      }
    },
  },

  stall: {
    what: "the owner's event loop blocked 15 s (stallLimit 20 s): until edits flow again after it",
    goal: 'one owner',
    async run(t) {
      const scene = await startScene(t, SCENE)
      await scene.warm()
      const before = await scene.lease('doc-1')
      let awake = false
      const blocked = scene.server.s1.block(seconds(15)).then(() => (awake = true))
      let moved = 0
      while (!awake) {
        if ((await scene.lease('doc-1'))?.epoch !== before.epoch) moved = 1
        await pass(50)
      }
      await blocked
      const woke = now()
      await scene.flows(woke, { timeout: 40_000 })
      const ms = now() - woke
      return { ms, 'moved': moved, ...(await ending(scene, { mayClose: [] })) }
    },
  },

  stalled: {
    what: "the owner's event loop blocked 20 s (stallLimit 3 s): until edits flow again",
    goal: '≤ 13,500, then one owner',
    async run(t) {
      const scene = await startScene(t, { ...SCENE, stallLimit: 3000 })
      await scene.warm()
      const started = now()
      const blocked = scene.server.s1.block(seconds(20))
      const ms = await scene.flows(started + 50, { timeout: 40_000 })
      const stored = storesOf(scene, 's1', 'doc-1').length
      await blocked
      await scene.flows(now(), { between: ['home', 'ann'], timeout: 40_000 })
      const figures = await ending(scene, { mayClose: [] })
      return { ms, ...figures, 'stores by the woken server': storesOf(scene, 's1', 'doc-1').length - stored }
    },
  },

  redis35: {
    what: 'redis-server restarted, 35 ms: until everyone has everything after its return',
    goal: '≤ 2,000',

    run: (t) => redisScenario(t, 35),
  },
  redis2000: {
    what: 'redis-server restarted, 2 s: until everyone has everything after its return',
    goal: '≤ 2,000',

    run: (t) => redisScenario(t, 2000),
  },
  redis60: {
    what: 'redis-server away for 60 s, 5 edits a second of each client in each document: until everyone has everything after its return',
    goal: '≤ 2,000',
    budget: 900,
    async run(t) {
      const scene = await startScene(t, { ...SCENE, every: 200 })
      await scene.enter('ike', { at: 's1', documents: ['doc-1'] })
      await scene.warm()
      const gone = now()
      const { returned } = await redisAway(scene.redis, seconds(60))
      const local = scene.pause(gone, { between: ['home', 'ike'], till: returned })
      await scene.flows(returned, { timeout: 40_000 })
      const figures = await ending(scene, { mayClose: [] })
      return {
        ms: now() - returned,
        ...figures,
        'pause of local clients meanwhile': local,
        'processes that died': Object.values(scene.server).filter((server) => server.exit).length,
      }
    },
  },

  partition: {
    what: 'the owner cut off from Redis only, in silence: until edits flow again between others',
    goal: '≤ 10,500',
    async run(t) {
      const scene = await startScene(t, { ...SCENE, relays: true })
      await scene.warm()
      scene.relay.s1.blackhole()
      const cut = now()
      const ms = await scene.flows(cut, { timeout: 40_000 })
      const first = await until(() => scene.cluster.store.stores('doc-1').find((store) => store.serverId !== 's1'))
      await pass(2000)
      scene.relay.s1.restore()
      const restored = now()
      await scene.flows(restored, { between: ['home', 'ann'], timeout: 40_000 })
      const rehomed = now() - restored
      const figures = await ending(scene, { mayClose: [] })
      return {
        ms,
        'its own clients, after its return': rehomed,
        ...figures,
        'stores by it after the new owner': storesOf(scene, 's1', 'doc-1').filter((store) => store.time > first.time).length,
      }
    },
  },

  cold: {
    what: '500 documents, cold, opened on two servers at once: until all are synchronised',
    goal: 'one load each',
    async run(t) {
      const cluster = await startCluster(3, { lockTTL })
      t.after(() => cluster.stop())
      const names = Array.from({ length: 500 }, (_, n) => `cold-${n}`)
      const started = now()
      const clients = names.flatMap((name) => cluster.servers.slice(0, 2).map((server) => connect({ url: server.url, name })))
      t.after(async () => clients.forEach((provider) => provider.destroy()))
      await Promise.all(clients.map((provider) => synced(provider, 60_000)))
      const ms = now() - started
      const loads = new Map()
      for (const { name } of cluster.store.loads()) loads.set(name, (loads.get(name) ?? 0) + 1)
      return {
        ms,
        'loads of a document, most': Math.max(...loads.values()),
        'denied or closed': clients.reduce((sum, provider) => sum + provider.denied.length + provider.closes.length, 0),
        wrong: [],
      }
    },
  },

  event: {
    what: 'a custom event to an owner that has just been killed: until it is answered by the new one',
    goal: 'within its TTL (30 s)',
    async run(t) {
      const setup = () => ({ affinity: { customEvents: { whoAmI: async () => process.pid } } })
      const scene = await startScene(t, { ...SCENE, setup })
      await scene.warm()
      await scene.server.s1.kill('SIGKILL')
      const started = now()
      const pid = await scene.server.s2.handleEvent('whoAmI', 'doc-1', null)
      const ms = now() - started
      const answered = [scene.server.s2.pid, scene.server.s3.pid].includes(pid)
      return { ms, 'answered by nobody': answered ? 0 : 1, ...(await ending(scene)) }
    },
  },
}

/** Many restarts in one scene: 10 runs are 50 restarts. */
async function redisScenario(t, away) {
  const scene = await startScene(t, SCENE)
  const runs = []
  for (let n = 0; n < 5; n++) {
    await scene.warm(5)
    const { returned } = await redisAway(scene.redis, away)
    for (const document of ['doc-1', 'doc-2', 'doc-3']) await scene.flows(returned, { document, timeout: 40_000 })
    const flowed = now() - returned
    const figures = await ending(scene, { mayClose: [] })
    runs.push({ ...figures, ms: flowed + figures.took })
    if (figures.wrong.length > 0) break
  }
  return runs
}

// ---- running and printing ---------------------------------------------------------------------------------

/** What a scene wants of a test: the ends, last in first out. */
async function withEnds(run) {
  const ends = []
  try {
    return await run({ after: (end) => ends.unshift(end) })
  } finally {
    for (const end of ends) await end()
  }
}

const median = (values) => {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
const show = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString('en') : String(value))

async function measure(name) {
  const scenario = scenarios[name]
  const started = now()
  const budget = scenario.budget ? scenario.budget * 1000 : BUDGET
  const results = []
  let failed = 0
  let longest = 0
  for (let run = 0; run < RUNS && (run === 0 || now() - started + longest < budget); run++) {
    const began = now()
    try {
      const result = await withEnds((t) => scenario.run(t))
      for (const one of [result].flat()) {
        results.push(one)
        process.stderr.write(`${name} ${run + 1}/${RUNS}: ${show(one.ms)} ms${one.wrong.length ? ` WRONG ${one.wrong.slice(0, 4).join('; ')}` : ''}\n`)
      }
    } catch (error) {
      failed++
      process.stderr.write(`${name} ${run + 1}/${RUNS}: FAILED ${error.message.split('\n')[0]}\n`)
    }
    longest = Math.max(longest, now() - began)
  }
  return { scenario, results, failed }
}

/** The figures beside `ms`: the worst of all runs; those of 0 that must be 0 in one word. */
function besides(results) {
  const names = [...new Set(results.flatMap((result) => Object.keys(result)))].filter((name) => !['ms', 'took', 'wrong'].includes(name))
  const worst = names.map((name) => [name, Math.max(...results.map((result) => result[name] ?? 0))])
  return worst.map(([name, value]) => `${name} ${show(value)}`).join(', ')
}

const asked = process.argv.slice(2).flatMap((argument) => argument.split(/[ ,]+/)).filter(Boolean)
for (const name of asked) {
  if (!scenarios[name]) {
    process.stderr.write(`unknown scenario ${name}; there are ${Object.keys(scenarios).join(', ')}\n`)
    process.exit(2)
  }
}

console.log('| scenario | goal, ms | runs | median, ms | maximum, ms | worst of all runs |\n|---|---|---|---|---|---|')
let bad = 0
for (const name of asked.length > 0 ? asked : Object.keys(scenarios)) {
  const { scenario, results, failed } = await measure(name)
  const times = results.map((result) => result.ms)
  const row = [
    `**${name}**: ${scenario.what}`,
    scenario.goal,
    `${results.length}${failed ? ` (and ${failed} failed)` : ''}`,
    times.length ? show(median(times)) : '-',
    times.length ? show(Math.max(...times)) : '-',
    times.length ? besides(results) : '-',
  ]
  bad += failed + results.filter((result) => result.wrong.length > 0).length
  console.log(`| ${row.join(' | ')} |`)
}
process.exit(bad > 0 ? 1 : 0)
