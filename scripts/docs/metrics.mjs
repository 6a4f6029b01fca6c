// The table of docs/metrics.md, from js/src/metrics.ts as it was built. The rest of the page is written by hand.
import { RedisServerAffinity } from '../../js/dist/index.js'
import { DEFINITIONS, openTelemetryName, prometheusName } from '../../js/dist/metrics.js'

const BEGIN = '<!-- metrics: written by `make docs` -->\n'
const END = '<!-- /metrics -->\n'

/** The label of a metric with the values that it can have. */
function labelOf({ label }, value) {
  if (label === undefined) return ''
  return label === 'server' ? '`server`' : `\`${label}\`: ${Object.keys(value).map((name) => `\`${name}\``).join(', ')}`
}

function table() {
  const redis = { options: {}, duplicate() {}, disconnect() {} }
  const metrics = new RedisServerAffinity({ redis, serverId: 's' }).metrics() // of one that has not started
  const rows = Object.entries(DEFINITIONS).map(([name, definition]) => {
    const { kind, help } = definition
    return `| \`${name}\` | \`${prometheusName(name, definition)}\` | \`${openTelemetryName(name)}\` | ${kind} | ${labelOf(definition, metrics[name])} | ${help} |\n`
  })
  return `| \`metrics()\` | Prometheus | OpenTelemetry | kind | label | meaning |\n|---|---|---|---|---|---|\n${rows.join('')}`
}

/** The page as it should be. */
export function describeMetrics(text) {
  const [begin, end] = [text.indexOf(BEGIN), text.indexOf(END)]
  if (begin < 0 || end < begin) throw new Error('docs/metrics.md lacks its marks')
  return `${text.slice(0, begin)}${BEGIN}\n${table()}\n${text.slice(end)}`
}
