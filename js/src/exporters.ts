import { AffinityError } from './errors.js'
import { DEFINITIONS, type Definition, type Durations, type Metrics, openTelemetryName, prometheusName, samplesOf, unitOf } from './metrics.js'

/* Neither library is needed: these are the parts of them that are used. */

/** A `Registry` of prom-client. */
export interface PrometheusRegistry {
  // biome-ignore lint/suspicious/noExplicitAny: prom-client's own types
  registerMetric(metric: any): void
  removeSingleMetric(name: string): void
}

/** A `Meter` of `@opentelemetry/api`. */
export interface OpenTelemetryMeter {
  // biome-ignore lint/suspicious/noExplicitAny: OpenTelemetry's own types
  createObservableCounter(name: string, options: { description: string; unit?: string }): any
  // biome-ignore lint/suspicious/noExplicitAny: likewise
  createObservableGauge(name: string, options: { description: string; unit?: string }): any
  // biome-ignore lint/suspicious/noExplicitAny: likewise
  addBatchObservableCallback(callback: (result: any) => void, observables: any[]): void
  // biome-ignore lint/suspicious/noExplicitAny: likewise
  removeBatchObservableCallback(callback: (result: any) => void, observables: any[]): void
}

export type MetricsTarget = PrometheusRegistry | OpenTelemetryMeter

type Name = keyof typeof DEFINITIONS
const definitions = Object.entries(DEFINITIONS) as [Name, Definition][]

const has = (target: unknown, method: string) => typeof (target as Record<string, unknown> | null | undefined)?.[method] === 'function'

/** Has the metrics read by a registry or a meter from here on; returns what ends that. */
export function exportMetrics(target: MetricsTarget, read: () => Metrics): () => void {
  if (has(target, 'registerMetric') && has(target, 'removeSingleMetric')) return toPrometheus(target as PrometheusRegistry, read)
  if (has(target, 'addBatchObservableCallback')) return toOpenTelemetry(target as OpenTelemetryMeter, read)
  throw new AffinityError('AFF_EINVAL', "registerMetrics: the target must be a Registry of prom-client or a Meter of OpenTelemetry's API")
}

// ---- Prometheus -----------------------------------------------------------------------------------------

/** As prom-client's own metrics: `get` is what a registry calls. It may change the name. */
class PrometheusMetric {
  readonly type: string
  readonly help: string
  /** What the processes of a `cluster` have is added up. */
  readonly aggregator = 'sum'
  name: string

  constructor(
    private readonly key: Name,
    private readonly definition: Definition,
    private readonly read: () => Metrics,
  ) {
    this.type = definition.kind
    this.help = definition.help
    this.name = prometheusName(key, definition)
  }

  async get() {
    const samples = samplesOf<unknown>(this.definition, this.read()[this.key])
    const values = this.type === 'histogram' ? samples.flatMap(({ labels, value }) => this.#bucketsOf(labels, value as Durations)) : samples
    return { name: this.name, help: this.help, type: this.type, aggregator: this.aggregator, values }
  }

  #bucketsOf(labels: Record<string, string>, { buckets, count, sum }: Durations) {
    const bucket = (le: number | string, value: number) => ({ metricName: `${this.name}_bucket`, labels: { ...labels, le }, value })
    return [
      ...buckets.map(({ le, count: upTo }) => bucket(le, upTo)),
      bucket('+Inf', count),
      { metricName: `${this.name}_sum`, labels, value: sum },
      { metricName: `${this.name}_count`, labels, value: count },
    ]
  }

  /** For tests of prom-client's users: what is read can't be reset. */
  reset(): void {}
}

/** A registry asks for all metrics in one turn: one look serves them. */
function oncePerTurn<T>(read: () => T): () => T {
  let seen: { value: T } | undefined
  return () => {
    if (!seen) {
      seen = { value: read() }
      queueMicrotask(() => (seen = undefined))
    }
    return seen.value
  }
}

function toPrometheus(registry: PrometheusRegistry, read: () => Metrics): () => void {
  const look = oncePerTurn(read)
  const registered: string[] = []
  const unregister = () => {
    for (const name of registered.splice(0)) registry.removeSingleMetric(name)
  }
  try {
    for (const [key, definition] of definitions) {
      const metric = new PrometheusMetric(key, definition, look)
      registry.registerMetric(metric)
      registered.push(metric.name)
    }
  } catch (error) {
    unregister()
    throw new AffinityError('AFF_EINVAL', `registerMetrics: ${(error as Error).message}`)
  }
  return unregister
}

// ---- OpenTelemetry --------------------------------------------------------------------------------------

/** As UCUM writes it. */
function ucumUnit(key: Name): string | undefined {
  const unit = unitOf(key)
  return unit && { bytes: 'By', seconds: 's' }[unit]
}

// biome-ignore lint/suspicious/noExplicitAny: OpenTelemetry's own types
type Observe = (value: unknown, observe: (instrument: any, value: number, attributes: Record<string, string | number>) => void) => void

/** There are no observable histograms: one becomes three counters, with the buckets' bounds as an attribute. */
function instrumentsOf(meter: OpenTelemetryMeter, key: Name, definition: Definition): { instruments: unknown[]; observe: Observe } {
  const name = openTelemetryName(key)
  const unit = ucumUnit(key)
  const options = { description: definition.help, unit }
  if (definition.kind !== 'histogram') {
    const instrument = definition.kind === 'counter' ? meter.createObservableCounter(name, options) : meter.createObservableGauge(name, options)
    const observe: Observe = (value, tell) => {
      for (const sample of samplesOf(definition, value as number)) tell(instrument, sample.value, sample.labels)
    }
    return { instruments: [instrument], observe }
  }
  const bucket = meter.createObservableCounter(`${name}.bucket`, { description: `${definition.help} At most le seconds.` })
  const count = meter.createObservableCounter(`${name}.count`, { description: `${definition.help} How many.` })
  const sum = meter.createObservableCounter(`${name}.sum`, { description: `${definition.help} Their sum.`, unit })
  const observe: Observe = (value, tell) => {
    for (const { labels, value: all } of samplesOf(definition, value as Durations)) {
      for (const { le, count: upTo } of all.buckets) tell(bucket, upTo, { ...labels, le: String(le) })
      tell(bucket, all.count, { ...labels, le: '+Inf' })
      tell(count, all.count, labels)
      tell(sum, all.sum, labels)
    }
  }
  return { instruments: [bucket, count, sum], observe }
}

function toOpenTelemetry(meter: OpenTelemetryMeter, read: () => Metrics): () => void {
  const all = definitions.map(([key, definition]) => ({ key, ...instrumentsOf(meter, key, definition) }))
  const instruments = all.flatMap((one) => one.instruments)
  const callback = (result: { observe(instrument: unknown, value: number, attributes: Record<string, string | number>): void }) => {
    const metrics = read()
    for (const { key, observe } of all) observe(metrics[key], (instrument, value, attributes) => result.observe(instrument, value, attributes))
  }
  meter.addBatchObservableCallback(callback, instruments)
  return () => meter.removeBatchObservableCallback(callback, instruments)
}
