// The long version of test/node/lifecycle.test.mjs, with figures: `make lifecycle` (WORKERS, INSTANCES, SOCKETS).
import { instances, rss, sockets, workers } from '../test/support/lifecycle-rounds.mjs'
import { startRedis } from '../test/support/redis.mjs'

const number = (name, fallback) => Number(process.env[name] || fallback)
const redis = await startRedis()
const mib = (value) => `${value.toFixed(1)} MiB`

async function measure(what, warmUp, work) {
  await warmUp()
  const before = await rss()
  const start = performance.now()
  await work()
  const ms = performance.now() - start
  const after = await rss()
  console.log(`${what}: ${(ms / 1000).toFixed(1)} s, RSS ${mib(before)} -> ${mib(after)} (${mib(after - before)})`)
}

// Before each, as many lives as it takes until the allocators' caches are full.
const count = { workers: number('WORKERS', 100), instances: number('INSTANCES', 1000), sockets: number('SOCKETS', 100_000) }
await measure(`${count.instances} instances`, () => instances(redis.options, 1000), () => instances(redis.options, count.instances))
const clients = await sockets(redis.options)
await measure(`${count.sockets} sockets`, () => clients.run(5000), () => clients.run(count.sockets))
await clients.end()
await measure(`${count.workers} workers`, () => workers(redis.options, 5), () => workers(redis.options, count.workers))
await redis.stop()
