// Many lives of workers, instances and sockets in this process, for the test and the benchmark.
import { setTimeout as sleep } from 'node:timers/promises'
import { Worker } from 'node:worker_threads'
import { keepTyping, makeServer, openDocument, threads } from './lifecycle-process.mjs'
import { until } from './wait.mjs'

export async function rss() {
  for (let n = 0; n < 5; n++) {
    globalThis.gc()
    await sleep(10)
  }
  return process.memoryUsage().rss / 2 ** 20
}

/** Workers are terminated: some while they start, most in the middle of traffic with a server of this thread. */
export async function workers(redis, rounds, random = Math.random) {
  const peer = makeServer('peer', { address: redis, lockTTL: 1000, customEvents: { ping: async (_name, n) => n } })
  await peer.affinity.ready()
  const stopTyping = await keepTyping(peer, 'shared')
  const before = threads()
  let busy = 0
  for (let round = 0; round < rounds; round++) {
    const serverId = `worker-${round}`
    const worker = new Worker(new URL('./lifecycle-worker.mjs', import.meta.url), { workerData: { serverId, redis } })
    let heard = 0
    const failed = new Promise((_, reject) => worker.once('error', reject))
    worker.on('message', () => heard++)
    await Promise.race([failed, until(() => heard > (round % 4 === 0 ? 0 : 1 + random() * 20), { timeout: 20_000, what: `worker ${round} works` })])
    if (heard > 1) busy++
    await sleep(random() * 3)
    await worker.terminate()
  }
  await until(() => threads() <= before, { what: `the threads are gone: ${threads()} of ${before}` })
  // Whoever was at the shared document with a dead worker can go on.
  await openDocument(peer, 'shared')
  await stopTyping()
  await peer.affinity.onDestroy()
  return { busy }
}

/** Instances that come and go, each with a document. */
export async function instances(redis, count) {
  for (let n = 0; n < count; n++) {
    const server = makeServer('same', { address: redis })
    const release = await server.affinity.lockDocument(`doc-${n}`)
    await release()
    await server.affinity.onDestroy()
  }
}

/** Clients' sockets that come and go, each with a document of another server, which is open all the time. */
export async function sockets(redis, count, atOnce = 50) {
  const owner = makeServer('owner', { address: redis })
  const origin = makeServer('origin', { address: redis })
  const connection = await owner.hocuspocus.openDirectConnection('doc', {})
  await origin.affinity.ready()
  let opened = 0
  async function client() {
    while (opened < count) {
      opened++
      const socket = await openDocument(origin, 'doc')
      socket.close()
    }
  }
  const run = async (more) => {
    count = opened + more
    await Promise.all(Array.from({ length: atOnce }, client))
    const idle = () => origin.affinity.stats().sockets === 0 && owner.affinity.stats().proxies === 0
    await until(idle, { what: 'all sockets are gone at both' })
  }
  return {
    run,
    async end() {
      await connection.disconnect()
      await origin.affinity.onDestroy()
      await owner.affinity.onDestroy()
    },
  }
}
