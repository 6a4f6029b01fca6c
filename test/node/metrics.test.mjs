// Metrics: one table, from which metrics(), prom-client's registry, OpenTelemetry and docs/metrics.md are made; and the
// numbers move as they should.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { AggregationTemporality, InMemoryMetricExporter, MeterProvider, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics'
import { parser as promQL } from '@prometheus-io/lezer-promql'
import parsePrometheus from 'parse-prometheus-text-format'
import { AggregatorRegistry, Gauge, Registry } from 'prom-client'
import { RedisServerAffinity } from '../../js/dist/index.js'
import { DEFINITIONS, Histogram, openTelemetryName, prometheusName } from '../../js/dist/metrics.js'
import { describeMetrics } from '../../scripts/docs/metrics.mjs'
import { connect, showing, synced, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

const page = readFileSync(new URL('../../docs/metrics.md', import.meta.url), 'utf8')
const definitions = Object.entries(DEFINITIONS)
const names = definitions.map(([name, definition]) => prometheusName(name, definition))
const unused = () => new RedisServerAffinity({ redis: { options: {}, duplicate() {}, disconnect() {} }, serverId: 'unused' })
const metricsOf = (server) => server.run(({ affinity }) => affinity.metrics())
const total = (labelled) => Object.values(labelled).reduce((sum, value) => sum + value, 0)

describe('the table of metrics', () => {
  test('every name is unique and as Prometheus wants it, and every metric has a help', () => {
    for (const [name, { kind, help, label }] of definitions) {
      const full = prometheusName(name, { kind })
      assert.match(full, /^hocuspocus_affinity(_[a-z]+)+$/)
      assert.equal(full.endsWith('_total'), kind === 'counter', full)
      if (kind === 'histogram') assert.match(full, /_seconds$/)
      assert.match(help, /^\S.*\.$/)
      assert.match(label ?? 'label', /^[a-z]+$/)
    }
    assert.equal(new Set(names).size, names.length)
    assert.equal(new Set(definitions.map(([name]) => openTelemetryName(name))).size, names.length)
  })

  test('values of labels are named as the engine orders them', () => {
    const header = readFileSync(new URL('../../core/aff.h', import.meta.url), 'utf8')
    const inEngine = (kind) => [...header.matchAll(new RegExp(`^    AFF_${kind}_([A-Z]+)\\b`, 'gm'))].map(([, name]) => name.toLowerCase()).filter((name) => name !== 'count')
    const { stale, takeovers, reclaims } = unused().metrics()
    assert.deepEqual(Object.keys(stale), inEngine('STALE'))
    assert.deepEqual(Object.keys(takeovers), inEngine('TAKEOVER'))
    assert.deepEqual(Object.keys(reclaims), inEngine('RECLAIM'))
  })

  test('an instance that has not started has zeros, and is not started by looking', () => {
    const affinity = unused()
    const { info, ...rest } = affinity.metrics()
    assert.deepEqual(info, { unused: 1 })
    const flat = JSON.stringify(rest, (key, value) => (key === 'le' ? undefined : value))
    assert.doesNotMatch(flat, /:[^0{[]/, flat)
    assert.equal(affinity.health().reason, 'starting: not connected to Redis yet')
  })

  test('durations are counted up to the bound of their bucket, and summed up', () => {
    const histogram = new Histogram()
    for (const ms of [0.2, 1, 1.5, 40_000]) histogram.observe(ms)
    assert.deepEqual(histogram.numbers.slice(0, 3), [2, 1, 0])
    assert.equal(histogram.numbers.at(-2), 1)
    assert.equal(histogram.numbers.at(-1), 40_002.7)
  })

  test('docs/metrics.md has the table of today (make docs)', () => {
    assert.equal(page, describeMetrics(page))
  })

  test('alerts in docs/metrics.md are PromQL, over metrics that exist', () => {
    const queries = [...page.matchAll(/^ +expr: (.+)$/gm), ...page.matchAll(/`(sum\S* ?.*?\))`/g)].map(([, query]) => query)
    assert.ok(queries.length >= 13, `${queries.length} queries`)
    const known = new Set(definitions.flatMap(([name, definition]) => {
      const full = prometheusName(name, definition)
      return definition.kind === 'histogram' ? [`${full}_bucket`, `${full}_sum`, `${full}_count`] : [full]
    }))
    for (const query of queries) {
      assert.equal(isPromQL(query), true, query)
      for (const [metric] of query.matchAll(/hocuspocus_affinity\w+/g)) assert.ok(known.has(metric), metric)
    }
    assert.equal(isPromQL('rate(a[5m) > 0'), false)
  })
})

function isPromQL(query) {
  let isGood = true
  promQL.parse(query).iterate({ enter: ({ type }) => void (isGood &&= !type.isError) })
  return isGood
}

describe('metrics of a cluster', () => {
  test('numbers move as documents are opened, proxied, stored, lost and taken over', async (t) => {
    const setup = () => ({
      affinity: {
        customEvents: {
          ask: async () => 42,
          throws: async () => {
            throw new Error('thrown')
          },
          never: () => new Promise(() => {}),
        },
        customEventTTL: 300,
      },
    })
    const cluster = await startCluster(2, { lockTTL: 1000, setup })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    await s1.lockDocument('doc')
    const ann = await synced(connect({ url: s1.url, name: 'doc' }))
    const bob = await synced(connect({ url: s2.url, name: 'doc' }))
    t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
    type(bob, 'hello')
    await showing('hello', [ann, bob])

    const [owner, origin] = await Promise.all([s1, s2].map(metricsOf))
    const { info, ready, redisUp, documentsOwned, sockets, proxySockets, routes, servers } = owner
    assert.deepEqual({ info, ready, redisUp, documentsOwned, sockets, proxySockets, routes, servers }, {
      info: { s1: 1 }, ready: 1, redisUp: 1, documentsOwned: 1, sockets: 1, proxySockets: 1, routes: 1, servers: 1,
    })
    assert.ok(owner.membershipSeconds > 0 && owner.membershipSeconds <= 1, `${owner.membershipSeconds}`)
    assert.deepEqual([origin.documentsOwned, origin.documentsKnown, origin.sockets, origin.proxySockets], [0, 1, 1, 0])
    for (const metrics of [owner, origin]) {
      assert.ok(metrics.framesReceived > 0 && metrics.framesSent > 0 && metrics.batchesReceived > 0)
      assert.ok(metrics.batchesSent.redis > 0 && metrics.batchesSent.direct === 0)
      assert.ok(metrics.batchReceivedBytes > 0 && metrics.batchSentBytes > 0)
    }
    await until(async () => (await metricsOf(s1)).storeConfirmationSeconds.confirmed.count > 0, { what: 'the store is confirmed' })
    await until(async () => (await metricsOf(s1)).renewalSeconds.count > 0, { what: 'a renewal' })

    for (const server of [s1, s2]) {
      assert.equal(await server.handleEvent('ask', 'doc', 1), 42)
      await assert.rejects(server.handleEvent('throws', 'doc', 1), /thrown/)
    }
    await assert.rejects(s2.handleEvent('never', 'doc', 1), { code: 'AFF_ETIMEOUT' })
    for (const [server, timeouts] of [[s1, 0], [s2, 1]]) {
      const { ok, threw, timeout, failed } = (await metricsOf(server)).eventSeconds
      assert.deepEqual([ok.count, threw.count, timeout.count, failed.count], [1, 1, timeouts, 0])
      if (timeouts) assert.ok(timeout.sum >= 0.3 && timeout.buckets.find(({ le }) => le === 0.25).count === 0, `${timeout.sum}`)
    }

    await s1.kill()
    await until(async () => (await metricsOf(s2)).failoverSeconds.count === 1, { what: 'the route has its next owner' })
    const after = await metricsOf(s2)
    assert.deepEqual(after.takeovers, { evidence: 1, left: 0, ended: 0, restarted: 0 })
    assert.deepEqual([after.documentsOwned, after.failovers, after.losses, after.servers], [1, 1, 0, 0])
    // Found dead after 450 ms; the client is asked for its token meanwhile.
    assert.ok(after.failoverSeconds.sum < 5, `${after.failoverSeconds.sum}`)

    const s3 = await cluster.add('s3')
    await cluster.redis.client.del('rsaServer:s2')
    await until(async () => (await metricsOf(s2)).reclaims.lapse === 1, { what: 's2 claims its document anew' })
    assert.equal((await metricsOf(s2)).membershipLapses, 1)
    // Both connections of both servers.
    await cluster.redis.client.client('KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
    await until(async () => (await metricsOf(s3)).redisDisconnects >= 1)

    const carl = await synced(connect({ url: s3.url, name: 'doc' }), 20_000)
    t.after(() => carl.destroy())
    await s2.run(({ affinity }) => affinity.drain())
    await until(async () => (await metricsOf(s3)).documentsOwned === 1, { what: 'the document has moved' })
    const drained = await metricsOf(s2)
    assert.deepEqual([drained.documentsOwned, drained.draining, drained.ready], [0, 1, 0])
    assert.equal(total((await metricsOf(s3)).takeovers), 0)
  })

  test('a document that is lost to another server is counted, with what its store was told', async (t) => {
    const cluster = await startCluster(2, { lockTTL: 500, stallLimit: 200 })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const ann = await synced(connect({ url: s1.url, name: 'doc' }))
    t.after(() => ann.destroy())
    const hung = s1.block(2500)
    await until(() => s2.lockDocument('doc').then(() => true), { every: 50, what: 's2 takes the document' })
    await hung
    await until(async () => (await metricsOf(s1)).losses === 1, { what: 's1 has lost it' })
    const { javascriptStalls, membershipLapses } = await metricsOf(s1)
    assert.ok(javascriptStalls >= 1 && membershipLapses >= 1)
    assert.equal((await metricsOf(s2)).takeovers.ended, 1)
    await until(async () => (await metricsOf(s1)).handOvers === 0, { what: 'its state has been handed over' })
  })
})

describe('registerMetrics', () => {
  test("prom-client's registry has them all, as text that can be parsed", async (t) => {
    const affinity = unused()
    const registry = new Registry()
    new Gauge({ name: 'of_the_user', help: 'another', registers: [registry] })
    const end = affinity.registerMetrics(registry)
    const text = await registry.metrics()
    const families = new Map(parsePrometheus(text).map((family) => [family.name, family]))
    for (const [name, definition] of definitions) {
      const family = families.get(prometheusName(name, definition))
      assert.equal(family?.type, definition.kind.toUpperCase(), name)
      assert.equal(family.help, definition.help)
      assert.ok(family.metrics.length > 0)
      // The parser does not tell labelled histograms apart.
      const values = definition.label ? Object.keys(affinity.metrics()[name]) : ['']
      for (const value of values) {
        const label = definition.label ? `${definition.label}="${value}"` : ''
        const part = definition.kind === 'histogram' ? `_bucket{${label && `${label},`}le="+Inf"}` : label && `{${label}}`
        assert.ok(text.includes(`\n${family.name}${part} `), `${family.name}${part}`)
      }
    }
    const json = await registry.getMetricsAsJSON()
    assert.equal(json.length, names.length + 1)

    assert.throws(() => unused().registerMetrics(registry), { code: 'AFF_EINVAL', message: /already been registered/ })
    assert.equal((await registry.getMetricsAsJSON()).length, names.length + 1, 'the others are still there')
    const taken = new Registry()
    new Gauge({ name: 'hocuspocus_affinity_gaps_total', help: 'of the user', registers: [taken] })
    assert.throws(() => affinity.registerMetrics(taken), { code: 'AFF_EINVAL' })
    assert.equal((await taken.getMetricsAsJSON()).length, 1, 'all or none')
    registry.resetMetrics()
    end()
    assert.deepEqual((await registry.getMetricsAsJSON()).map(({ name }) => name), ['of_the_user'])
    affinity.registerMetrics(registry)()
  })

  test('as OpenMetrics, with labels for all, and added up over processes', async () => {
    const affinity = unused()
    const registry = new Registry(Registry.OPENMETRICS_CONTENT_TYPE)
    registry.setDefaultLabels({ app: 'editor' })
    affinity.registerMetrics(registry)
    for (let times = 0; times < 2; times++) {
      const text = await registry.metrics()
      assert.match(text, /^hocuspocus_affinity_takeovers_total\{cause="left",app="editor"\} 0$/m)
      assert.match(text, /^hocuspocus_affinity_event_seconds_bucket\{outcome="ok",le="0\.025",app="editor"\} 0$/m)
      assert.match(text, /# EOF\n$/)
    }
    const plain = new Registry()
    affinity.registerMetrics(plain)
    const json = await plain.getMetricsAsJSON()
    const sum = await AggregatorRegistry.aggregate([json, json]).metrics()
    assert.match(sum, /^hocuspocus_affinity_info\{server="unused"\} 2$/m)
    assert.match(sum, /^hocuspocus_affinity_failover_seconds_bucket\{le="\+Inf"\} 0$/m)
  })

  test('with the numbers of a server', async (t) => {
    const cluster = await startCluster(1)
    t.after(() => cluster.stop())
    const [s1] = cluster.servers
    const client = import.meta.resolve('prom-client')
    const text = await s1.run(async (context, client) => {
      const { Registry } = await context.import(client).then((module) => module.default ?? module)
      const registry = new Registry()
      context.affinity.registerMetrics(registry)
      const release = await context.affinity.lockDocument('doc')
      // The engine's numbers are those of the end of its thread's last turn.
      while (context.affinity.metrics().documentsOwned === 0) await new Promise((resolve) => setTimeout(resolve, 1))
      const text = await registry.metrics()
      await release()
      return text
    }, client)
    assert.match(text, /^hocuspocus_affinity_documents_owned 1$/m)
    assert.match(text, /^hocuspocus_affinity_info\{server="s1"\} 1$/m)
    assert.match(text, /^hocuspocus_affinity_ready 1$/m)
  })

  test("OpenTelemetry's meter observes them all", async (t) => {
    const exporter = new InMemoryMetricExporter(AggregationTemporality.CUMULATIVE)
    const reader = new PeriodicExportingMetricReader({ exporter, exportIntervalMillis: 3_600_000 })
    const provider = new MeterProvider({ readers: [reader] })
    t.after(() => provider.shutdown())
    const affinity = unused()
    let reads = 0
    const read = affinity.metrics.bind(affinity)
    affinity.metrics = () => {
      reads++
      return read()
    }
    const end = affinity.registerMetrics(provider.getMeter('test'))
    const collect = async () => {
      exporter.reset()
      await reader.forceFlush()
      const metrics = exporter.getMetrics().flatMap(({ scopeMetrics }) => scopeMetrics.flatMap((scope) => scope.metrics))
      return new Map(metrics.map((metric) => [metric.descriptor.name, metric]))
    }
    const seen = await collect()
    assert.equal(reads, 1)
    for (const [name, { kind, help, label }] of definitions) {
      const parts = kind === 'histogram' ? ['.bucket', '.count', '.sum'] : ['']
      for (const part of parts) {
        const metric = seen.get(`${openTelemetryName(name)}${part}`)
        assert.ok(metric?.dataPoints.length > 0, `${name}${part}`)
        assert.ok(metric.descriptor.description.startsWith(help))
        if (label) for (const { attributes } of metric.dataPoints) assert.ok(attributes[label], name)
      }
    }
    assert.deepEqual(seen.get('hocuspocus.affinity.info').dataPoints.map(({ attributes, value }) => [attributes, value]), [[{ server: 'unused' }, 1]])
    assert.equal(seen.get('hocuspocus.affinity.queued').descriptor.unit, 'By')
    assert.equal(seen.get('hocuspocus.affinity.failover.sum').descriptor.unit, 's')
    assert.ok(seen.get('hocuspocus.affinity.failover.bucket').dataPoints.some(({ attributes }) => attributes.le === '+Inf'))
    end()
    await collect()
    assert.equal(reads, 1, 'nothing is read any more')
  })

  test('anything else is refused', () => {
    for (const target of [undefined, null, 1, {}, { registerMetric: 1 }]) {
      assert.throws(() => unused().registerMetrics(target), { code: 'AFF_EINVAL', message: /registerMetrics/ })
    }
  })
})
