// The owner of a document dies: its documents move, and their clients must not notice.
import assert from 'node:assert/strict'
import { appendFileSync, readFileSync, existsSync } from 'node:fs'
import path from 'node:path'
import { describe, test } from 'node:test'
import { startScene } from '../support/faults.mjs'
import { until, within } from '../support/wait.mjs'

const HOME = { mayClose: ['home'] }

describe('the owner is killed', () => {
  test('H11 its document moves; no socket is closed, no other document notices, nothing is lost or left unsynced', async (t) => {
    // A lockTTL that nobody could wait for: it is the evidence of death that counts.
    const scene = await startScene(t, { lockTTL: 30_000 })
    await scene.warm()
    const killed = performance.now()
    await scene.server.s1.kill('SIGKILL')
    const took = await scene.flows(killed)
    t.diagnostic(`edits flowed again after ${Math.round(took)} ms`)
    assert.ok(took < 3000, `${took} ms`)
    await scene.warm()
    await scene.check(HOME)
    // The documents of others have not stopped meanwhile.
    for (const document of ['doc-2', 'doc-3']) assert.ok(scene.pause(killed, { document }) < 1000, document)
  })

  test('H11 one after the other, until one server is left', async (t) => {
    const scene = await startScene(t, { servers: 4, lockTTL: 30_000 })
    await scene.warm()
    for (const serverId of ['s1', 's4']) {
      const killed = performance.now()
      await scene.server[serverId].kill('SIGKILL')
      assert.ok((await scene.flows(killed)) < 3000)
    }
    await scene.server.s2.kill('SIGKILL')
    for (const document of ['doc-1', 'doc-2', 'doc-3']) await scene.flows(performance.now(), { document })
    assert.deepEqual((await scene.cluster.holders('doc-2')).map((server) => server.serverId), ['s3'])
    await scene.check({ mayClose: ['home', 'ann'] })
  })

  test('without evidence (the machine vanished, its connections stand half open): when its membership has ended', async (t) => {
    const lockTTL = 1500
    const scene = await startScene(t, { lockTTL, relays: true })
    await scene.warm()
    scene.relay.s1.blackhole()
    const vanished = performance.now()
    await scene.server.s1.kill('SIGKILL')
    const took = await scene.flows(vanished)
    t.diagnostic(`edits flowed again after ${Math.round(took)} ms of a lockTTL of ${lockTTL} ms`)
    // What it takes on a quiet machine is for `make faults` to say; this one may be busy.
    assert.ok(took < lockTTL + 4000, `${took} ms`)
    await scene.check(HOME)
  })

  test('H14 nobody receives what is published to a dead server: acted on, by a client that types a single time', async (t) => {
    const scene = await startScene(t, { lockTTL: 60_000 })
    await scene.warm()
    scene.rest()
    await until(() => scene.provider('ann', 'doc-1').unsyncedChanges === 0)
    await scene.server.s1.kill('SIGKILL')
    const edited = performance.now()
    const edit = scene.edit('ann', 'doc-1')
    await until(() => scene.provider('bob', 'doc-1').document.getText('text').toString().includes(edit), { what: 'bob has it' })
    const took = performance.now() - edited
    t.diagnostic(`after ${Math.round(took)} ms`)
    assert.ok(took < 5000, `${took} ms`)
    await scene.check(HOME)
  })

  test('H10 it starts again under its name at once, while everybody types; meanwhile a second one of a living name does not', async (t) => {
    const scene = await startScene(t, { lockTTL: 30_000 })
    await scene.warm()
    await assert.rejects(scene.cluster.add('s2'), { code: 'AFF_ETAKEN', message: /s2/ })
    await scene.server.s1.kill('SIGKILL')
    scene.cluster.servers.splice(scene.cluster.servers.indexOf(scene.server.s1), 1)
    const again = await within(scene.cluster.add('s1'), 's1 starts again, long before lockTTL', 8000)
    assert.equal(again.exit, null)
    await scene.flows(performance.now())
    await scene.check(HOME)
  })
})

describe('what is under way while an owner dies', () => {
  /** Runs on the servers: stateless messages and events go to a file, so that what a killed server saw is known. */
  const setup = ({ kept, import: load }) => {
    const fs = load('node:fs') // once: imports need not end in the order in which they begin
    kept.line = async (kind, text) => {
      const { appendFileSync } = await fs
      if (kept.log) appendFileSync(kept.log, `${JSON.stringify({ kind, text })}\n`)
    }
    return {
      affinity: {
        customEvents: {
          whoAmI: async (_name, payload) => {
            await kept.line('event', payload)
            return process.pid
          },
          slowly: async (_name, payload) => {
            await kept.line('event', payload)
            if (kept.slow) await new Promise(() => {})
            return process.pid
          },
        },
      },
      extensions: [{ onStateless: ({ payload }) => kept.line('stateless', payload) }],
    }
  }

  async function logged(scene) {
    const file = path.join(scene.cluster.store.folder, 'seen.log')
    for (const server of scene.cluster.servers) await server.run(({ kept, import: load }, file) => load('node:fs').then(() => void (kept.log = file)), file)
    appendFileSync(file, '')
    return (kind) => (existsSync(file) ? readFileSync(file, 'utf8') : '').trim().split('\n').filter(Boolean).map((line) => JSON.parse(line)).filter((entry) => entry.kind === kind).map((entry) => entry.text)
  }

  test('H23 stateless messages arrive at least once, in their order', async (t) => {
    const scene = await startScene(t, { setup, lockTTL: 30_000 })
    const seen = await logged(scene)
    await scene.warm()
    const ann = scene.provider('ann', 'doc-1')
    let sent = 0
    const sending = setInterval(() => ann.sendStateless(`${sent++}`), 5)
    t.after(() => clearInterval(sending))
    await until(() => seen('stateless').length > 20)
    const killed = performance.now()
    await scene.server.s1.kill('SIGKILL')
    await scene.flows(killed)
    const enough = sent + 20
    await until(() => sent >= enough)
    clearInterval(sending)
    await until(() => new Set(seen('stateless')).size === sent, {
      what: 'all stateless messages have arrived',
    }).catch(() => {
      const had = new Set(seen('stateless'))
      assert.deepEqual(Array.from({ length: sent }, (_, n) => `${n}`).filter((n) => !had.has(n)), [], 'stateless messages lost')
    })
    const firsts = [...new Set(seen('stateless'))].map(Number)
    assert.deepEqual(firsts, firsts.toSorted((a, b) => a - b), 'in order')
    await scene.check(HOME)
  })

  test('H24 an event to the dead owner is answered by the new one, within its time', async (t) => {
    const scene = await startScene(t, { setup, lockTTL: 30_000, customEventTTL: 10_000 })
    const seen = await logged(scene)
    await scene.warm()
    await scene.server.s1.kill('SIGKILL')
    const started = performance.now()
    const answers = await Promise.all([
      scene.server.s2.handleEvent('whoAmI', 'doc-1', 'one'),
      scene.server.s3.handleEvent('whoAmI', 'doc-1', 'two'),
    ])
    t.diagnostic(`answered after ${Math.round(performance.now() - started)} ms`)
    const [owner] = await scene.cluster.holders('doc-1')
    assert.deepEqual(answers, [owner.pid, owner.pid])
    assert.deepEqual(seen('event').toSorted(), ['one', 'two'])
    await scene.check(HOME)
  })

  test('H24 an event that the owner was handling when it died is handled by the new one', async (t) => {
    const scene = await startScene(t, { setup, lockTTL: 30_000, customEventTTL: 10_000 })
    const seen = await logged(scene)
    await scene.server.s1.run(({ kept }) => void (kept.slow = true))
    await scene.warm()
    const answer = scene.server.s2.handleEvent('slowly', 'doc-1', 'again')
    await until(() => seen('event').length === 1, { what: 's1 handles it' })
    await scene.server.s1.kill('SIGKILL')
    const pid = await within(answer, 'the answer')
    assert.ok([scene.server.s2.pid, scene.server.s3.pid].includes(pid))
    assert.deepEqual(seen('event'), ['again', 'again'], 'at least once')
    await scene.check(HOME)
  })
})
