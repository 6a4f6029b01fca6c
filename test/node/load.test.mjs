// Large messages, and a JavaScript thread that hangs under load.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import path from 'node:path'
import { describe, test } from 'node:test'
import { authFrame, connect, MessageType, rawSocket, statelessFrame, synced } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startRelay } from '../support/relay.mjs'
import { patience, until } from '../support/wait.mjs'

const MiB = 1024 * 1024
/** On slow builds (`make asan-node`) less is sent: how long a provider waits for a word from its server is not ours to change. */
const sent = MiB / patience

/** Resident memory of a process, in bytes: readable while its JavaScript thread hangs. */
const residentBytes = (pid) => Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+) kB/)[1]) * 1024

const stats = (server) => server.run(({ affinity }) => affinity.stats())

/** Clients that Redis has cut off for what it had to keep for them. INFO counts these from Redis 7.4 on; its log names them always. */
const cutOff = (redis) => readFileSync(path.join(redis.folder, 'redis.log'), 'utf8').split('\n').filter((line) => /output buffer limits/.test(line))

/** Whoever was cut off comes back and is sent all again, so arriving is no proof. */
async function assertUnbroken({ redis, servers }) {
  assert.deepEqual(cutOff(redis), [])
  for (const server of servers) {
    const { gaps, resets } = await stats(server)
    assert.deepEqual({ gaps, resets }, { gaps: 0, resets: 0 }, server.serverId)
  }
}

/** The most that Redis keeps for one subscriber, in bytes, as seen every few ms. */
function watchBuffers(redis) {
  const watch = { most: 0, ends: false }
  const look = async () => {
    while (!watch.ends) {
      const list = await redis.client.client('LIST', 'TYPE', 'pubsub')
      for (const [, bytes] of list.matchAll(/ omem=(\d+) /g)) watch.most = Math.max(watch.most, Number(bytes))
      await new Promise((resolve) => setTimeout(resolve, 5))
    }
  }
  look().catch(() => {}) // the test has ended
  return watch
}

describe('load', () => {
  test('H13 a message of 64 MiB passes from client to owner to client', async (t) => {
    const cluster = await startCluster(3)
    t.after(() => cluster.stop())
    const [s1, s2, s3] = cluster.servers
    const owner = await synced(connect({ url: s2.url, name: 'huge' }))
    const writer = await synced(connect({ url: s1.url, name: 'huge' }))
    const reader = await synced(connect({ url: s3.url, name: 'huge' }))
    t.after(() => [owner, writer, reader].forEach((provider) => provider.destroy()))
    // The update around the string, with the address, is what makes it 64 MiB.
    const length = 64 * sent - 256
    writer.document.getText('text').insert(0, 'h'.repeat(length))
    await until(() => [owner, reader].every((provider) => provider.document.getText('text').length === length), { timeout: 60_000, every: 50, what: 'both others have it' })
    await synced(writer, 60_000)
    assert.deepEqual([owner, writer, reader].flatMap((provider) => provider.closes), [])
    const late = await synced(connect({ url: s1.url, name: 'huge' }), 60_000)
    t.after(() => late.destroy())
    assert.equal(late.document.getText('text').length, length)
    await assertUnbroken(cluster)
  })

  test('H13 40 documents of 1 MiB while an origin hears nothing, then all again to it, then from its clients to another: below what Redis allows', async (t) => {
    const cluster = await startCluster(0, { lockTTL: 30_000 })
    t.after(() => cluster.stop())
    const relay = await startRelay(cluster.redis)
    t.after(() => relay.stop())
    // Nothing is stored: when the owner dies, it is the clients that bring all of it.
    const owner = await cluster.add('owner', { configuration: { debounce: 120_000, maxDebounce: 240_000 } })
    const origin = await cluster.add('origin', { redis: relay })
    const other = await cluster.add('other')
    const names = Array.from({ length: 40 }, (_, n) => `mass-${n}`)
    for (const name of names) await owner.lockDocument(name)
    const readers = names.map((name) => connect({ url: origin.url, name }))
    const late = names.map((name) => connect({ url: other.url, name }))
    t.after(() => [...readers, ...late].forEach((provider) => provider.destroy()))
    await Promise.all([...readers, ...late].map((provider) => synced(provider, 20_000)))
    const haveAll = (providers) => until(() => providers.every((provider) => provider.document.getText('text').length === sent), { timeout: 60_000, every: 20, what: 'all have all' })

    const buffers = watchBuffers(cluster.redis)
    t.after(() => (buffers.ends = true))
    relay.blackhole()
    await owner.run(async ({ hocuspocus }, names, length) => {
      for (const name of names) hocuspocus.documents.get(name).getText('text').insert(0, 'm'.repeat(length))
    }, names, sent)
    await haveAll(late)
    // All but what a link lets pass without an acknowledgement (8 MiB at most).
    await until(async () => (await stats(owner)).queued > 40 * sent - 10 * MiB, { what: 'what is meant for the origin waits at the owner' })
    relay.cut()
    relay.restore()
    await haveAll(readers)
    assert.deepEqual(cutOff(cluster.redis), [])
    assert.ok((await stats(origin)).gaps + (await stats(owner)).gaps > 0, 'something was lost, and sent again')
    for (const server of cluster.servers) assert.equal((await stats(server)).resets, 0, server.serverId)

    await owner.kill('SIGKILL')
    // Sync frames of one side answer for both.
    for (const provider of readers) provider.document.getText('text').insert(0, '!')
    await until(() => [...readers, ...late].every((provider) => provider.document.getText('text').length === sent + 1 && provider.unsyncedChanges === 0), {
      timeout: 60_000,
      every: 20,
      what: 'all have all at another owner',
    })
    for (const name of names) {
      const holders = await cluster.holders(name)
      assert.equal(holders.length, 1, name)
      assert.equal((await holders[0].text(name)).length, sent + 1)
    }
    assert.deepEqual([...readers, ...late].flatMap((provider) => [...provider.closes, ...provider.socket.closes]), [])
    assert.deepEqual(cutOff(cluster.redis), [])
    t.diagnostic(`Redis kept ${(buffers.most / MiB).toFixed(1)} MiB for one subscriber at most`)
    // Redis's own limits for subscribers are 32 MiB at once, or 8 MiB for a minute.
    assert.ok(buffers.most < 8 * MiB + MiB, `${buffers.most} bytes`)
  })

  test('H13 a JavaScript thread that hangs for 5 s under 25 MB/s: lease held, frames in order, memory bounded, no ioredis command', async (t) => {
    const lockTTL = 3000
    const hang = 5000
    const rate = 25e6
    const cluster = await startCluster(2, { lockTTL })
    t.after(() => cluster.stop())
    const [s1, s2] = cluster.servers
    const ann = await synced(connect({ url: s2.url, name: 'hangs' }))
    t.after(() => ann.destroy())
    // Its own hook: the recording one would keep every payload.
    await s2.run(({ hocuspocus, kept }) => {
      kept.received = []
      const extension = hocuspocus.configuration.extensions.find((one) => one.extensionName === 'recorder')
      extension.onStateless = async ({ payload }) => void kept.received.push(Number(payload.slice(0, payload.indexOf(':'))))
    })
    const socket = await rawSocket(s1.url)
    t.after(() => socket.terminate())
    socket.send(authFrame('hangs'))
    await until(() => socket.frames.some((one) => one.type === MessageType.Auth))
    await until(async () => (await s2.connections('hangs')) === 2)

    const record = await cluster.redis.client.get('rsaLock:hangs')
    const member = await cluster.redis.client.get('rsaServer:s2')
    const commands = await s2.redisCommands()
    await s2.memory()
    const memoryBefore = residentBytes(s2.pid)

    let hanging = true
    const hung = s2.block(hang).then(() => (hanging = false))
    const padding = 'p'.repeat(64 * 1024)
    const started = Date.now()
    let sent = 0
    let sentBytes = 0
    let mostMemory = 0
    let lastLook = 0
    while (hanging || sentBytes < (rate * hang) / 1000) {
      if (sentBytes < ((Date.now() - started) * rate) / 1000) {
        const bytes = statelessFrame('hangs', `${sent}:${padding}`)
        socket.send(bytes)
        sent += 1
        sentBytes += bytes.length
      } else {
        await new Promise((resolve) => setTimeout(resolve, 1))
      }
      if (Date.now() - lastLook > 100) {
        lastLook = Date.now()
        if (hanging) {
          mostMemory = Math.max(mostMemory, residentBytes(s2.pid))
          assert.equal(await cluster.redis.client.get('rsaServer:s2'), member, 'the membership is held')
          assert.equal(await cluster.redis.client.get('rsaLock:hangs'), record, 'and the lease')
        }
        await new Promise((resolve) => setImmediate(resolve))
      }
    }
    await hung
    const late = Date.now() - started
    assert.ok(sentBytes >= (rate * hang) / 1000, `sent ${sentBytes} bytes in ${late} ms`)

    const received = () => s2.run(({ kept }) => kept.received.length)
    await until(async () => (await received()) >= sent, { timeout: 60_000, every: 50, what: `all ${sent} frames arrive` })
    assert.deepEqual(await s2.run(({ kept }) => kept.received), Array.from({ length: sent }, (_, index) => index), 'each once, in order')
    assert.equal(await cluster.redis.client.get('rsaServer:s2'), member)
    assert.equal(await cluster.redis.client.get('rsaLock:hangs'), record)
    assert.deepEqual(await s2.redisCommands(), commands)
    // 8 MiB over all links is what a receiver takes before its JavaScript does; the rest is room for allocators.
    assert.ok(mostMemory - memoryBefore < 48 * MiB, `grew by ${Math.round((mostMemory - memoryBefore) / MiB)} MiB while it hung`)
    assert.deepEqual(ann.closes, [])
    assert.equal(socket.closed, null)
    await assertUnbroken(cluster)
  })
})
