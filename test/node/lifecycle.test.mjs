// A native thread in somebody's process: how it begins, ends, and is forgotten.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { exitScenes } from '../support/lifecycle-process.mjs'
import { startRedis } from '../support/redis.mjs'
import { holds, until, within } from '../support/wait.mjs'

const program = fileURLToPath(new URL('../support/lifecycle-process.mjs', import.meta.url))

describe('lifecycle', () => {
  let redis
  before(async () => {
    redis = await startRedis()
  })
  after(() => redis.stop())

  function play(t, scene, ...flags) {
    const child = spawn(process.execPath, [...flags, program, scene], { env: { ...process.env, REDIS: JSON.stringify(redis.options) } })
    const run = { child, output: '', errors: '', exit: null, ended: null }
    child.stdout.on('data', (data) => (run.output += data))
    child.stderr.on('data', (data) => (run.errors += data))
    run.ended = new Promise((resolve) => child.on('close', (code, signal) => resolve((run.exit = { code, signal }))))
    t.after(async () => {
      child.kill('SIGKILL')
      await run.ended
    })
    return run
  }

  /** Plays a scene to its end, which comes by itself. */
  async function playOut(t, scene, ...flags) {
    const run = play(t, scene, ...flags)
    await within(run.ended, `"${scene}" ends`, 20_000).catch((error) => assert.fail(`${error.message}\n${run.output}${run.errors}`))
    return run
  }

  describe('process.exit', () => {
    for (const scene of exitScenes) {
      test(scene, async (t) => {
        await redis.client.flushall()
        const { exit, errors } = await playOut(t, scene)
        assert.deepEqual(exit, { code: 7, signal: null }, errors)
        assert.doesNotMatch(errors, /FATAL|Assertion|Error/)
      })
    }
  })

  describe('the natural end', () => {
    for (const [scene, output] of Object.entries({
      'never used': '',
      'destroyed at once': '',
      'destroyed after use': 'AFF_ECLOSED\n',
      'destroyed without Redis': 'AFF_ECLOSED\n',
    })) {
      test(`${scene}: nothing holds the process`, async (t) => {
        await redis.client.flushall()
        const run = await playOut(t, scene)
        assert.deepEqual(run.exit, { code: 0, signal: null }, run.errors)
        assert.equal(run.output, output)
      })
    }

    test('not destroyed: the process goes on, as with any connection', async (t) => {
      await redis.client.flushall()
      const run = play(t, 'not destroyed')
      await until(() => run.output.includes('member'))
      await holds(() => run.exit === null, { during: 1000 })
    })
  })

  test('workers are terminated under traffic, 10 times; their peer works on', async (t) => {
    await redis.client.flushall()
    const run = await playOut(t, 'workers', '--expose-gc')
    assert.deepEqual(run.exit, { code: 0, signal: null }, run.errors)
    assert.match(run.output, /^busy [5-9]/)
  })

  test('60 instances and 3,000 sockets leave no memory behind', async (t) => {
    await redis.client.flushall()
    const run = await playOut(t, 'instances and sockets', '--expose-gc')
    assert.deepEqual(run.exit, { code: 0, signal: null }, run.errors)
    // MiB. A leaked engine has about 1, with its thread's stack and buffers; a leaked socket more than 4 KiB.
    const [instances, sockets] = run.output.split(',').map(Number)
    assert.ok(instances < 20 && sockets < 10, `grown by ${run.output} MiB`)
  })

  describe('garbage collection', () => {
    test('a forgotten instance ends its thread, and then nothing holds the process', async (t) => {
      const run = await playOut(t, 'forgotten', '--expose-gc')
      assert.deepEqual(run.exit, { code: 0, signal: null }, run.errors)
      assert.equal(run.output, 'collected\n')
      await until(async () => (await redis.clientCount()) === 0, { what: 'its connections are closed' })
    })

    test('30 forgotten instances, with timers of their own', async (t) => {
      await redis.client.flushall()
      const run = await playOut(t, 'many forgotten', '--expose-gc')
      assert.deepEqual(run.exit, { code: 0, signal: null }, run.errors)
      assert.match(run.output, /^threads (\d+)\ncollected\n$/)
    })

    test('what somebody counts on is not collected: a hold, an open document, a pending call', async (t) => {
      await redis.client.flushall()
      const run = await playOut(t, 'forgotten in use', '--expose-gc')
      assert.deepEqual(run.exit, { code: 0, signal: null }, run.errors)
      assert.equal(run.output, 'ready after all\nholder,loader\ntrue,true\n')
    })
  })
})
