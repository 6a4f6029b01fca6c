// Direct links fail like everything else: nothing that was on its way is lost, and nobody must notice.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { redisAway, startScene } from '../support/faults.mjs'
import { freePort } from '../support/redis.mjs'
import { startRelay } from '../support/relay.mjs'
import { until } from '../support/wait.mjs'

const HOME = { mayClose: ['home'] }
const LINKED = { secret: 'a secret of the cluster', link: { listen: '127.0.0.1:0' } }

const links = async (server) => (await server.run(({ affinity }) => affinity.stats())).links
const areLinked = (scene) =>
  until(async () => (await Promise.all(Object.values(scene.server).map(links))).every((n) => n === 2), { what: 'every server has a direct link to each other one' }).catch(async (error) => {
    console.error(await Promise.all(Object.values(scene.server).map(links)), scene.output())
    throw error
  })

/** Each server is reached directly through a relay: `scene.way.s1`. */
async function startWithRelays(t, options = {}) {
  const way = {}
  const each = {}
  for (const serverId of ['s1', 's2', 's3']) {
    const port = await freePort()
    way[serverId] = await startRelay({ options: { host: '127.0.0.1', port } })
    t.after(() => way[serverId].stop())
    each[serverId] = { link: { listen: `127.0.0.1:${port}`, advertise: `127.0.0.1:${way[serverId].options.port}` } }
  }
  const scene = await startScene(t, { lockTTL: 10_000, secret: LINKED.secret, each, ...options })
  await scene.warm()
  await areLinked(scene)
  return Object.assign(scene, { way })
}

describe('direct links', () => {
  test('are cut, all at once, again and again: what was on its way goes through Redis', async (t) => {
    const scene = await startWithRelays(t)
    for (let n = 0; n < 5; n++) {
      const cut = performance.now()
      for (const way of Object.values(scene.way)) way.cut({ refuse: n % 2 === 0 })
      assert.ok((await scene.flows(cut)) < 3000)
      for (const way of Object.values(scene.way)) way.restore()
      await areLinked(scene)
    }
    await scene.warm()
    await scene.check()
  })

  test('carry nothing any more, and nobody says so: after a second Redis does', async (t) => {
    const scene = await startWithRelays(t)
    const silent = performance.now()
    for (const way of Object.values(scene.way)) way.blackhole()
    const took = await scene.flows(silent)
    t.diagnostic(`edits flowed again after ${Math.round(took)} ms`)
    assert.ok(took < 3000, `${took} ms`)
    for (const way of Object.values(scene.way)) way.restore()
    await areLinked(scene)
    await scene.warm()
    await scene.check()
  })

  test('are slow: nothing is overtaken', async (t) => {
    const scene = await startWithRelays(t)
    for (const way of Object.values(scene.way)) way.delay(120)
    await scene.warm()
    await scene.check()
  })

  test('H11 the owner is killed', async (t) => {
    const scene = await startScene(t, { lockTTL: 30_000, ...LINKED })
    await scene.warm()
    await areLinked(scene)
    const killed = performance.now()
    await scene.server.s1.kill('SIGKILL')
    const took = await scene.flows(killed)
    t.diagnostic(`edits flowed again after ${Math.round(took)} ms`)
    assert.ok(took < 3000, `${took} ms`)
    await scene.warm()
    await scene.check(HOME)
  })

  test('H12 SIGTERM to the owner', async (t) => {
    const scene = await startScene(t, { lockTTL: 30_000, ...LINKED })
    await scene.warm()
    await areLinked(scene)
    scene.leaving.add('s1')
    const started = performance.now()
    await scene.server.s1.kill('SIGTERM')
    await scene.flows(performance.now())
    assert.ok(scene.pause(started, { till: performance.now() - 200 }) < 3000)
    await scene.warm()
    await scene.check(HOME)
  })

  test('H13 Redis restarts without its data', async (t) => {
    const scene = await startScene(t, { lockTTL: 10_000, ...LINKED })
    await scene.warm()
    await areLinked(scene)
    const { returned } = await redisAway(scene.redis, 300)
    assert.ok((await scene.flows(returned)) < 3000)
    await scene.warm()
    await scene.check()
  })
})
