// The demo: Redis, three Hocuspocus servers, HAProxy in front, and a page with an editor. Ctrl-C ends all of it.
//
//   PORT        the port to open in the browser (8080, else the next free one; 0: any)
//   DEMO_DATA   where the documents are kept (demo/data)

import { mkdtemp, rm, stat, writeFile } from 'node:fs/promises'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { endAll, finished, killAll, messageFrom, startModule, startProgram, unlessItEnds, until } from './children.mjs'
import { haproxyConfig } from './haproxy.mjs'
import { servePage } from './static.mjs'

const SERVER_IDS = ['server-1', 'server-2', 'server-3'] // the page draws these three
const DEFAULT_PORT = 8080
const PORTS_TO_TRY = 20

const here = fileURLToPath(new URL('.', import.meta.url))
const pageSource = join(here, 'page')
const dataFolder = resolve(process.env.DEMO_DATA || join(here, 'data'))
const folder = await mkdtemp(join(tmpdir(), 'rsa-demo-'))
process.env.PATH += ':/usr/sbin' // where Debian puts haproxy

const running = { pageServer: undefined, redis: undefined, servers: [], haproxy: undefined }
let ending

async function main() {
  for (const name of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(name, () => (ending ? killAll() : leave(0)))

  await buildPage()
  running.pageServer = await servePage(join(folder, 'page'))
  const redisSocket = await startRedis()
  const servers = await Promise.all(SERVER_IDS.map((id) => startServer(id, redisSocket)))
  const port = await choosePort()
  await startHaproxy(port, servers)

  console.log(`
  Open this address in two windows:

    http://127.0.0.1:${port}/?document=welcome

  ${servers.map(({ id, pid, port }) => `${id}: process ${pid}, port ${port}`).join('\n  ')}
  Documents are kept in ${dataFolder}
  Ctrl-C ends the demo.
`)
  watch()
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

async function startRedis() {
  const socket = join(folder, 'redis.sock')
  const options = ['--port', '0', '--unixsocket', socket, '--dir', folder, '--save', '', '--appendonly', 'no']
  running.redis = startProgram('redis-server', 'redis-server', options)
  const opened = until('redis-server', () => canConnect(socket))
  await unlessItEnds(running.redis, opened)
  return socket
}

async function startServer(id, redisSocket) {
  const env = { ...process.env, SERVER_ID: id, REDIS_SOCKET: redisSocket, DATA_FOLDER: dataFolder }
  const server = startModule(id, join(here, 'server.mjs'), { env })
  running.servers.push(server)
  const { port } = await messageFrom(server)
  return { id, port, pid: server.pid }
}

async function startHaproxy(port, servers) {
  const config = join(folder, 'haproxy.cfg')
  const pagePort = running.pageServer.address().port
  await writeFile(config, haproxyConfig({ port, pagePort, servers }))
  running.haproxy = startProgram('haproxy', 'haproxy', ['-db', '-f', config])
  const answers = until('HAProxy', () => canConnect({ port, host: '127.0.0.1' }))
  await unlessItEnds(running.haproxy, answers)
}

/** Shows what the servers print, and tells of one that dies; without Redis or HAProxy there is no demo. */
function watch() {
  for (const server of running.servers) {
    for (const stream of [server.child.stdout, server.child.stderr]) stream.pipe(process.stderr, { end: false })
    server.ended.then((how) => ending ?? console.error(`${server.name} ended (${how}); the others go on.`))
  }
  for (const program of [running.redis, running.haproxy]) {
    unlessItEnds(program, new Promise(() => {})).catch(fail)
  }
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

function canConnect(where) {
  return new Promise((resolve, reject) => {
    const socket = connect(where, () => resolve(socket.destroy()))
    socket.once('error', reject)
  })
}

/** In this order: no new sockets, the servers store what they hold, and Redis last, since storing asks it. */
function leave(code) {
  ending ??= (async () => {
    const { haproxy, servers, redis, pageServer } = running
    await endAll([[haproxy], servers, [redis]].map((group) => group.filter(Boolean)))
    pageServer?.close()
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
