// The demo: Redis, three Hocuspocus servers, HAProxy in front, and a page with an editor. Ctrl-C ends all of it.
//
//   PORT        the port to open in the browser (8080, else the next free one; 0: any)
//   DEMO_DATA   where the documents are kept (demo/data)
//   DASHBOARD_TOKEN   opens the cluster's dashboard (a new one at each start)

import { randomBytes } from 'node:crypto'
import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { endAll, finished, killAll, startProgram, unlessItEnds, until } from './children.mjs'
import { Cluster, canConnect } from './cluster.mjs'
import { controlOf } from './control.mjs'
import { haproxyConfig } from './haproxy.mjs'
import { servePage } from './static.mjs'

const DEFAULT_PORT = 8080
const PORTS_TO_TRY = 20

const here = fileURLToPath(new URL('.', import.meta.url))
const pageSource = join(here, 'page')
const dataFolder = resolve(process.env.DEMO_DATA || join(here, 'data'))
const dashboardToken = process.env.DASHBOARD_TOKEN || randomBytes(12).toString('base64url')
const folder = await mkdtemp(join(tmpdir(), 'rsa-demo-'))
process.env.PATH += ':/usr/sbin' // where Debian puts haproxy

const cluster = new Cluster({ folder, dataFolder, dashboardToken })
const running = { pageServer: undefined, haproxy: undefined }
let ending

async function main() {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => (ending ? killAll() : leave(0)))

  await buildPage()
  running.pageServer = await servePage(join(folder, 'page'), controlOf(cluster))
  cluster.on('failure', fail)
  await cluster.start()
  const port = await choosePort()
  await startHaproxy(port)

  console.log(`
  Open this address in two windows:

    http://127.0.0.1:${port}/?document=welcome

  The cluster's dashboard: http://127.0.0.1:${port}/affinity/
  Its token: ${dashboardToken}

  ${cluster.servers.map(({ id, program }) => `${id}: process ${program.pid}`).join('\n  ')}
  Documents are kept in ${dataFolder}
  Ctrl-C ends the demo.
`)
  unlessItEnds(running.haproxy, new Promise(() => {})).catch(fail)
}

async function buildPage() {
  // npm writes the inner lock file last: older than the outer one means outdated or broken off.
  const [wanted, installed] = await Promise.all(
    ['', 'node_modules/.'].map((place) => modified(`${place}package-lock.json`)),
  )
  if (installed < wanted) {
    console.log('Installing what the page needs ...')
    await finished(
      startProgram('npm ci', 'npm', ['ci', '--ignore-scripts', '--no-audit', '--no-fund'], { cwd: pageSource }),
    )
  }
  const vite = join(pageSource, 'node_modules/vite/bin/vite.js')
  console.log('Building the page ...')
  const out = ['--outDir', join(folder, 'page'), '--emptyOutDir', '--logLevel', 'warn']
  await finished(startProgram('vite build', process.execPath, [vite, 'build', ...out], { cwd: pageSource }))
}

async function modified(name) {
  const found = await stat(join(pageSource, name)).catch(() => undefined)
  return found?.mtimeMs ?? -1
}

async function startHaproxy(port) {
  const config = join(folder, 'haproxy.cfg')
  const pagePort = running.pageServer.address().port
  await writeFile(config, haproxyConfig({ port, pagePort, servers: cluster.servers }))
  running.haproxy = startProgram('haproxy', 'haproxy', ['-db', '-f', config])
  const answers = until('HAProxy', () => canConnect({ port, host: '127.0.0.1' }))
  await unlessItEnds(running.haproxy, answers)
}

async function choosePort() {
  const wanted = process.env.PORT
    ? [Number(process.env.PORT)]
    : Array.from({ length: PORTS_TO_TRY }, (_, i) => DEFAULT_PORT + i)
  for (const port of wanted) {
    const free = await freePort(port)
    if (free) return free
  }
  throw new Error(`no free port: ${wanted.join(', ')}`)
}

function freePort(port) {
  return new Promise((resolve, reject) => {
    const probe = createServer()
    probe.once('error', (error) => (error.code === 'EADDRINUSE' ? resolve(undefined) : reject(error)))
    probe.listen(port, '127.0.0.1', () => {
      const free = probe.address().port
      probe.close(() => resolve(free))
    })
  })
}

/** In this order: no new sockets, the servers store what they hold, and Redis last, since storing asks it. */
function leave(code) {
  ending ??= (async () => {
    const servers = cluster.servers.map(({ program }) => program)
    const order = [[running.haproxy], servers, [cluster.redis.program]]
    await endAll(order.map((group) => group.filter(Boolean)))
    running.pageServer?.close()
    await rm(folder, { recursive: true, force: true })
    process.exit(code)
  })()
  return ending
}

function fail(error) {
  if (ending) return
  console.error(`demo: ${error.message}`)
  return leave(1)
}

await main().catch(fail)
