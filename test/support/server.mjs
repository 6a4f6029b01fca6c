// Starts Hocuspocus servers with the extension, each in a process of its own, and steers them.
import { fork } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { storeReader } from './store.mjs'
import { within } from './wait.mjs'

const program = fileURLToPath(new URL('./server-process.mjs', import.meta.url))
const useVersion = new URL('./use-version.mjs', import.meta.url).href
const defaultEntry = new URL('../../js/dist/index.js', import.meta.url).href

/**
 * @typedef {object} ServerOptions
 * @property {string} [serverId]
 * @property {object} redis what startRedis() returned, or ioredis options
 * @property {string} [storeFolder] shared by the servers of a cluster
 * @property {'auto' | 'ws'} [wiring] `auto`: `new Server({extensions})` alone; `ws`: a WebSocketServer of `ws`
 *   and the explicit onSocketOpen/Message/Close
 * @property {object} [configuration] more of Hocuspocus's configuration, e.g. `{ timeout: 500 }`
 * @property {object} [socketContext] with `ws`: the third argument of onSocketOpen
 * @property {number} [maxPayload] of the WebSocket server
 * @property {(context: any) => any} [setup] runs in the server's process (so it sees its argument only, none of the
 *   test's variables) and returns `{ affinity, extensions, beforeLoad, beforeWrite }`: what can't be copied there, as functions
 * @property {string} [entry] another build of the package
 * @property {string} [hocuspocus] a version of test/servers, instead of the one in node_modules
 * Everything else goes to RedisServerAffinity: lockTTL, proxySocketTTL, customEventTTL, prefix, ...
 */

/** @param {ServerOptions & Record<string, any>} options */
export async function startServer({
  serverId,
  redis,
  storeFolder,
  wiring = 'auto',
  configuration,
  socketContext,
  maxPayload = 128 * 1024 * 1024,
  setup,
  entry = defaultEntry,
  hocuspocus = process.env.HOCUSPOCUS_VERSION,
  ...affinity
}) {
  const ownFolder = storeFolder ? null : mkdtempSync(path.join(os.tmpdir(), 'rsa-store-'))
  const folder = storeFolder ?? /** @type {string} */ (ownFolder)
  const child = fork(program, [], {
    serialization: 'advanced',
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: { ...process.env, NODE_ENV: 'testing', HOCUSPOCUS_VERSION: hocuspocus },
    // A test may ask for the memory in use after a collection.
    execArgv: ['--expose-gc', ...(hocuspocus ? ['--import', useVersion] : [])],
  })

  let output = ''
  for (const stream of [child.stdout, child.stderr]) {
    stream?.on('data', (data) => {
      output = (output + data).slice(-64 * 1024)
      if (process.env.TEST_VERBOSE) process.stderr.write(`[${serverId}] ${data}`)
    })
  }

  /** @type {Map<number, { resolve: (value: any) => void, reject: (error: Error) => void }>} */
  const pending = new Map()
  let lastId = 0
  child.on('message', ({ id, result, error }) => {
    const call = pending.get(id)
    pending.delete(id)
    if (error) call?.reject(Object.assign(new Error(error.message), { code: error.code, owner: error.owner, remoteStack: error.stack }))
    else call?.resolve(result)
  })
  const exited = new Promise((resolve) => {
    child.on('exit', (code, signal) => {
      server.exit = { code, signal }
      for (const call of pending.values()) call.reject(new Error(`server ${serverId} ended (${signal ?? code})\n${output}`))
      pending.clear()
      resolve(server.exit)
    })
  })

  function call(message) {
    if (server.exit) return Promise.reject(new Error(`server ${serverId} has ended (${server.exit.signal ?? server.exit.code})\n${output}`))
    return new Promise((resolve, reject) => {
      lastId += 1
      pending.set(lastId, { resolve, reject })
      child.send({ id: lastId, ...message })
    })
  }

  const server = {
    serverId,
    pid: child.pid,
    port: 0,
    url: '',
    store: storeReader(folder),
    /** @type {{ code: number | null, signal: string | null } | null} set when the process has ended */
    exit: null,
    exited,
    /** What it printed (the last 64 KiB). */
    output: () => output,

    /**
     * Runs a function in the server's process: `run(async ({ hocuspocus, affinity, Y, kept }, a) => ..., a)`. It is sent as
     * source, so it sees its arguments only. Arguments and result are copied (Map, Date, Uint8Array included).
     * @type {(run: (context: any, ...args: any[]) => any, ...args: any[]) => Promise<any>}
     */
    run: (run, ...args) => call({ source: run.toString(), args }),

    /** Locks a document and keeps the release function for `release(name)`. */
    lockDocument: (name) =>
      server.run(async ({ affinity, kept }, name) => {
        const release = await affinity.lockDocument(name)
        kept.releases ??= []
        kept.releases.push({ name, release })
      }, name),
    /** Calls the oldest release function that `lockDocument(name)` got and that was not called yet. */
    release: (name) =>
      server.run(async ({ kept }, name) => {
        const index = kept.releases.findIndex((held) => held.name === name)
        await kept.releases.splice(index, 1)[0].release()
      }, name),
    releaseLock: (name) => server.run(({ affinity }, name) => affinity.releaseLock(name), name),
    handleEvent: (event, name, payload, onlyIfOpen) =>
      server.run(({ affinity }, ...args) => affinity.handleEvent(...args), event, name, payload, onlyIfOpen),

    /** Appends to the text of a document over a direct connection; `{ keep: true }` leaves it open until `closeDirect(name)`. */
    edit: (name, text, { keep = false } = {}) =>
      server.run(
        async ({ hocuspocus, kept }, name, text, keep) => {
          const connection = await hocuspocus.openDirectConnection(name, {})
          await connection.transact((document) => document.getText('text').insert(document.getText('text').length, text))
          if (!keep) return connection.disconnect()
          kept.direct ??= new Map()
          kept.direct.set(name, connection)
        },
        name,
        text,
        keep,
      ),
    closeDirect: (name) =>
      server.run(async ({ kept }, name) => {
        const connection = kept.direct.get(name)
        kept.direct.delete(name)
        await connection.disconnect()
      }, name),

    /** @returns {Promise<string[]>} the documents that this server has loaded */
    documents: () => server.run(({ hocuspocus }) => [...hocuspocus.documents.keys()]),
    /** @returns {Promise<string | undefined>} a loaded document's text */
    text: (name, field = 'text') => server.run(({ hocuspocus }, name, field) => hocuspocus.documents.get(name)?.getText(field).toString(), name, field),
    /** How many clients a loaded document has here. */
    connections: (name) => server.run(({ hocuspocus }, name) => hocuspocus.documents.get(name)?.getConnectionsCount() ?? 0, name),
    /** What the recording hooks saw: `events('onAuthenticate', 'doc')`. */
    events: (hook, name) =>
      server.run(
        ({ events }, hook, name) => events.filter((event) => (!hook || event.hook === hook) && (!name || event.documentName === name)),
        hook,
        name,
      ),
    closeConnections: (name) => server.run(({ hocuspocus }, name) => hocuspocus.closeConnections(name), name),
    broadcastStateless: (name, payload) =>
      server.run(({ hocuspocus }, name, payload) => hocuspocus.documents.get(name).broadcastStateless(payload), name, payload),
    /** Blocks the JavaScript thread: the promise resolves when it runs again. */
    block: (ms) =>
      server.run((_, ms) => {
        const end = Date.now() + ms
        while (Date.now() < end);
      }, ms),
    /** @returns {Promise<{ rss: number, heapUsed: number, external: number, arrayBuffers: number }>} after a collection */
    memory: () =>
      server.run(() => {
        globalThis.gc()
        return process.memoryUsage()
      }),
    /** Commands sent by ioredis in that process, by name. */
    redisCommands: () => server.run(({ redisCommands }) => ({ ...redisCommands })),
    /** Hocuspocus's own graceful end; the process goes on. */
    destroy: () => server.run(({ destroy }) => destroy()),
    /** Lets go of the process: it must end by itself, as nothing holds it. */
    async endsByItself(timeout = 10_000) {
      await server.run(() => {
        process.removeAllListeners('disconnect')
        setImmediate(() => process.disconnect())
      })
      return within(exited, `server ${serverId} ends by itself`, timeout)
    },

    /** @param {NodeJS.Signals} [signal] */
    async kill(signal = 'SIGKILL') {
      child.kill(signal)
      return exited
    },
    /** Ends it somehow, for good. */
    async stop() {
      if (!server.exit) {
        await within(server.destroy(), 'destroy', 3000).catch(() => {})
        child.kill('SIGKILL')
        await exited
      }
      if (ownFolder) rmSync(ownFolder, { recursive: true, force: true })
    },
  }

  try {
    const settings = {
      serverId,
      redis: redis.options ?? redis,
      affinity,
      storeFolder: folder,
      wiring,
      configuration,
      socketContext,
      maxPayload,
      setup: setup?.toString(),
      entry,
    }
    server.port = await within(call({ start: settings }), `server ${serverId} starts`, 20_000)
  } catch (error) {
    child.kill('SIGKILL')
    await exited
    if (ownFolder) rmSync(ownFolder, { recursive: true, force: true })
    throw error
  }
  server.url = `ws://127.0.0.1:${server.port}`
  return server
}
