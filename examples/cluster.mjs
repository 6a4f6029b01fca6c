// Several processes on one port, with node:cluster: each is a server of its own, whichever accepts a client's socket.
//
//     PORT=8001 WORKERS=4 SERVER_ID=machine-1 node cluster.mjs

import cluster from 'node:cluster'
import { hostname } from 'node:os'

const { WORKERS = '2', SERVER_ID = hostname() } = process.env

if (cluster.isPrimary) {
  let stopping = false
  /** @param {string} serverId a worker that takes another one's place takes its name too, which is free by then */
  function start(serverId) {
    const worker = cluster.fork({ SERVER_ID: serverId })
    worker.once('exit', () => {
      if (!stopping) setTimeout(start, 1000, serverId)
    })
  }
  for (let n = 1; n <= Number(WORKERS); n++) start(`${SERVER_ID}-${n}`)

  // The workers drain, and this process ends with the last of them.
  const stop = () => {
    if (stopping) return
    stopping = true
    for (const worker of Object.values(cluster.workers ?? {})) worker?.process.kill('SIGTERM')
  }
  for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, stop)
} else {
  await import('./server.mjs')
}
