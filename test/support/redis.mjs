// A private redis-server for one test: its own port or Unix socket, no persistence, a temporary folder.
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import Redis from 'ioredis'
import { until } from './wait.mjs'

/** Another one in its place: a Valkey, say. */
const SERVER = process.env.REDIS_SERVER ?? 'redis-server'

// The shell stands between us and redis-server: its standard input is a pipe that only this process holds, so
// it ends however this process ends, SIGKILL included, and then the shell ends redis-server (by pid) and removes the
// folder. The first line that it prints is the pid.
const KEEPER = `
trap '' INT TERM HUP
dir=$1; shift
"$@" >"$dir/redis.log" 2>&1 &
pid=$!
echo $pid
cat >/dev/null
kill -9 $pid 2>/dev/null
wait $pid 2>/dev/null
rm -rf "$dir"
`

/**
 * @returns {Promise<number>} a TCP port that was free a moment ago: below those that the system gives to connections and to
 *   listeners that ask for any (from 32,768 on), so that nobody gets it by chance meanwhile
 */
export function freePort() {
  const port = 10_000 + Math.floor(Math.random() * 20_000)
  return new Promise((resolve, reject) => {
    const probe = net.createServer()
    probe.once('error', (error) => (error.code === 'EADDRINUSE' ? resolve(freePort()) : reject(error)))
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(port)))
  })
}

/**
 * @typedef {object} RedisOptions
 * @property {boolean} [unix] only a Unix socket (the default)
 * @property {number | true} [port] a TCP port instead; `true` picks a free one
 * @property {string} [password] of the default user
 * @property {string[]} [acl] `user ...` rules, as in an ACL file without the word `user`
 * @property {number} [db] the database index that `options` and `url` name
 * @property {string} [username] the user that `options` and `url` name, with `password` as its password
 * @property {{ cert: string, key: string, ca: string, clients?: boolean }} [tls] PEM: TLS alone, at a free port; with
 *   `clients` it asks clients for a certificate of the `ca`. `options` and `url` get the `ca` alone
 * @property {string[]} [args] more arguments for redis-server
 * @property {string[]} [sentinel] lines of a Sentinel's configuration: it is one
 */

/**
 * @param {RedisOptions} [settings]
 */
export async function startRedis(settings = {}) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-redis-'))
  const socket = path.join(folder, 'redis.sock')
  const port = settings.port === true || settings.tls ? await freePort() : (settings.port ?? 0)
  const { password, username, db = 0, tls } = settings

  const config = ['save ""', 'appendonly no', 'daemonize no', `dir ${folder}`, 'bind 127.0.0.1', `unixsocket ${socket}`]
  config.push(...(tls ? ['port 0', `tls-port ${port}`, `tls-auth-clients ${tls.clients ? 'yes' : 'no'}`] : [`port ${port}`]))
  const pemFile = (name) => path.join(folder, `${name}.pem`)
  const writePems = ({ cert, key, ca }) => Object.entries({ cert, key, ca }).forEach(([name, pem]) => writeFileSync(pemFile(name), pem))
  if (tls) {
    writePems(tls)
    config.push(`tls-cert-file ${pemFile('cert')}`, `tls-key-file ${pemFile('key')}`, `tls-ca-cert-file ${pemFile('ca')}`)
  }
  // With a user of its own, the password is that user's, given in its rule.
  if (password && !username) config.push(`requirepass "${password}"`)
  for (const rule of settings.acl ?? []) config.push(`user ${rule}`)
  if (settings.sentinel) config.splice(0, 2, ...settings.sentinel)
  writeFileSync(path.join(folder, 'redis.conf'), `${config.join('\n')}\n`)

  /** ioredis options by which a test or a server reaches this redis-server. */
  const options = {
    ...(port ? { host: '127.0.0.1', port } : { path: socket }),
    ...(username && { username }),
    ...(password && { password }),
    ...(db && { db }),
    ...(tls && { tls: { ca: tls.ca } }),
  }
  // The test's own connection.
  const nearOptions = tls ? { ...options, host: undefined, port: undefined, path: socket, tls: undefined } : options

  /** One per start; each holds the folder until `stop()`. */
  const keepers = []
  const monitors = []
  let pid = 0

  async function launch() {
    const args = [path.join(folder, 'redis.conf'), ...(settings.sentinel ? ['--sentinel'] : []), ...(settings.args ?? [])]
    const keeper = spawn('sh', ['-c', KEEPER, 'keeper', folder, SERVER, ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    })
    keeper.unref()
    keeper.stdin.unref()
    keepers.push(keeper)
    pid = await new Promise((resolve) => keeper.stdout.once('data', (data) => resolve(Number(data))))
    keeper.stdout.destroy()
    // Any answer will do, "NOAUTH" included: it listens.
    await until(() => answers(port && !tls ? { port, host: '127.0.0.1' } : { path: socket }), { what: 'redis-server listens' })
  }

  /** Ends redis-server; its folder goes only with `stop()`. */
  async function end(signal) {
    try {
      process.kill(pid, signal)
    } catch {
      return
    }
    await until(() => !alive(pid), { what: 'redis-server has ended' })
  }

  let client
  const redis = {
    folder,
    port,
    path: port ? undefined : socket,
    options,
    url: port
      ? `${tls ? 'rediss' : 'redis'}://${username ?? ''}${password ? `:${encodeURIComponent(password)}@` : ''}127.0.0.1:${port}/${db}`
      : socket,
    get pid() {
      return pid
    },

    /** A connection of the test itself (made at the first use). */
    get client() {
      if (!client) {
        client = new Redis({ ...nearOptions, maxRetriesPerRequest: null, retryStrategy: () => 20 })
        client.on('error', () => {})
      }
      return client
    },

    /** A running total per command, from INFO COMMANDSTATS: `{ get: 3, 'client|list': 1, ... }`. */
    async commandStats() {
      const text = await redis.client.info('commandstats')
      return Object.fromEntries([...text.matchAll(/^cmdstat_([^:]+):calls=(\d+)/gm)].map(([, name, calls]) => [name, Number(calls)]))
    },

    /** How many clients are connected, without the test's own connection. */
    async clientCount() {
      const list = /** @type {string} */ (await redis.client.client('LIST'))
      return list.trim().split('\n').length - 1
    },

    /**
     * Records every command of every client, as MONITOR tells them.
     * @returns {Promise<{ commands: string[][], stop: () => void }>}
     */
    async monitor() {
      const connection = await redis.client.monitor()
      monitors.push(connection)
      const commands = []
      connection.on('monitor', (_time, args) => commands.push(args))
      return { commands, stop: () => connection.disconnect() }
    },

    /** Ends it as a crash would; `restart()` brings it back, empty, at the same address. */
    kill9: () => end('SIGKILL'),

    /** With other certificates, from the next restart on. */
    setTLS: writePems,

    async restart() {
      await end('SIGTERM')
      await launch()
    },

    async stop() {
      client?.disconnect()
      await end('SIGTERM')
      for (const connection of monitors) connection.disconnect()
      // The keepers see the end of their input and remove the folder; twice does no harm.
      for (const keeper of keepers) keeper.stdin.destroy()
      rmSync(folder, { recursive: true, force: true })
    },
  }

  await launch()
  return redis
}

/** Does something listen there and answer in Redis's protocol? */
function answers(address) {
  return new Promise((resolve) => {
    const socket = net.connect(address)
    socket.setTimeout(1000, () => socket.destroy())
    socket.once('connect', () => socket.write('PING\r\n'))
    socket.once('data', (data) => {
      resolve(/^(\+PONG|-NOAUTH|-NOPERM)/.test(data.toString()))
      socket.destroy()
    })
    socket.once('error', () => resolve(false))
    socket.once('close', () => resolve(false))
  })
}

function alive(pid) {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}
