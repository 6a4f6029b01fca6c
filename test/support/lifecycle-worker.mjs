// A server in a worker, busy until it is terminated: documents of its own and of its peer, events, locks.
import { parentPort, workerData } from 'node:worker_threads'
import { keepTyping, makeServer, openDocument } from './lifecycle-process.mjs'

const server = makeServer(workerData.serverId, { address: workerData.redis, customEvents: { ping: async (_name, n) => n } })
parentPort.postMessage('started')
await server.affinity.ready()
await keepTyping(server, `own-${workerData.serverId}`)
for (let n = 0; n < 5; n++) openDocument(server, 'shared').catch(() => {})
for (let n = 0; ; n++) {
  await Promise.all([
    server.affinity.handleEvent('ping', 'shared', n),
    server.affinity.lockDocument(`lock-${workerData.serverId}-${n % 10}`).then((release) => release()),
  ])
  parentPort.postMessage('busy')
}
