// Large messages, and a JavaScript thread that hangs under load.
import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { describe, test } from 'node:test'
import { authFrame, connect, MessageType, rawSocket, statelessFrame, synced } from '../support/client.mjs'
import { startCluster } from '/tmp/single/cluster.mjs'
import { until } from '../support/wait.mjs'

const MiB = 1024 * 1024

/** Resident memory of a process, in bytes: readable while its JavaScript thread hangs. */
const residentBytes = (pid) => Number(readFileSync(`/proc/${pid}/status`, 'utf8').match(/VmRSS:\s+(\d+) kB/)[1]) * 1024

describe('load', () => {
  test('a message of 64 MiB passes from client to owner to client', async (t) => {
    const cluster = await startCluster(3)
    t.after(() => cluster.stop())
    const [s1, s2, s3] = cluster.servers
    const owner = await synced(connect({ url: s2.url, name: 'huge' }))
    const writer = await synced(connect({ url: s1.url, name: 'huge' }))
    const reader = await synced(connect({ url: s3.url, name: 'huge' }))
    t.after(() => [owner, writer, reader].forEach((provider) => provider.destroy()))
    // The update around the string, with the address, is what makes it 64 MiB.
    const length = 64 * MiB - 256
    writer.document.getText('text').insert(0, 'h'.repeat(length))
    await until(() => [owner, reader].every((provider) => provider.document.getText('text').length === length), { timeout: 60_000, every: 50, what: 'both others have it' })
    await synced(writer, 60_000)
    assert.deepEqual([owner, writer, reader].flatMap((provider) => provider.closes), [])
    const late = await synced(connect({ url: s1.url, name: 'huge' }), 60_000)
    t.after(() => late.destroy())
    assert.equal(late.document.getText('text').length, length)
  })

  test('a JavaScript thread that hangs for 5 s under 25 MB/s: lease held, frames in order, memory bounded, no ioredis command', async (t) => {
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
  })
})
