// Clients: real HocuspocusProviders, each with its own Y.Doc, and raw sockets for what no provider would send.
import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider'
import * as decoding from 'lib0/decoding'
import * as encoding from 'lib0/encoding'
import WebSocket from 'ws'
import * as Y from 'yjs'
import { until } from './wait.mjs'

/**
 * A socket that several providers can share: `connect({ socket, name })`. Pass `headers` to send them with the handshake.
 * A function as `url` is asked at each connection, as a load balancer would be; `library`: another version of the provider.
 *
 * @param {{ url: string | (() => string), headers?: Record<string, string>, library?: any, [option: string]: any }} options
 */
export function openSocket({ url, headers, library, ...options }) {
  const Websocket = library?.HocuspocusProviderWebsocket ?? HocuspocusProviderWebsocket
  class Socket extends WebSocket {
    constructor(address) {
      super(typeof url === 'function' ? url() : address, { headers, maxPayload: 256 * 1024 * 1024 })
      // A provider that is destroyed while it connects no longer listens, and `ws` reports that it was cut off.
      this.on('error', () => {})
    }
  }
  const socket = new Websocket({
    url: typeof url === 'function' ? url() : url,
    // A reconnection shall not make a test wait for a second.
    delay: 20,
    minDelay: 10,
    maxDelay: 100,
    WebSocketPolyfill: headers || !options.native ? Socket : globalThis.WebSocket,
    ...options,
  })
  /** Every close of the socket: `{ code, reason }`. */
  socket.closes = []
  socket.on('close', ({ event }) => socket.closes.push({ code: event.code, reason: event.reason?.toString() }))
  return socket
}

/**
 * A provider, connected. It gets these fields more: `closes` (of the socket or of this document alone), `stateless`
 * (payloads received), `denied` (reasons), `surplus`: acknowledgements of what it had not changed.
 *
 * @param {object} options
 * @param {string | (() => string)} [options.url] opens a socket of its own; `socket` shares one
 * @param {ReturnType<typeof openSocket>} [options.socket]
 * @param {string} options.name
 * @param {string | (() => string)} [options.token]
 * @param {boolean} [options.sessionAwareness]
 * @param {Y.Doc} [options.document]
 * @param {Record<string, string>} [options.headers]
 * @param {any} [options.library] another version of the provider
 */
export function connect({ url, socket, name, token = 'alice', headers, library, document = new Y.Doc(), sessionAwareness = false, ...more }) {
  const own = socket ? null : openSocket({ url, headers, library })
  const Provider = library?.HocuspocusProvider ?? HocuspocusProvider
  const provider = new Provider({
    websocketProvider: socket ?? own,
    name,
    token,
    document,
    sessionAwareness,
    ...more,
  })
  provider.socket = socket ?? own
  provider.closes = []
  provider.stateless = []
  provider.denied = []
  provider.on('close', ({ event }) => provider.closes.push({ code: event.code, reason: event.reason?.toString() }))
  provider.on('stateless', ({ payload }) => provider.stateless.push(payload))
  provider.on('authenticationFailed', ({ reason }) => provider.denied.push(reason))
  provider.surplus = 0
  const decrement = provider.decrementUnsyncedChanges
  provider.decrementUnsyncedChanges = function () {
    if (this.unsyncedChanges === 0) this.surplus++
    decrement?.call(this) // not in old versions
  }
  provider.attach?.() // before 3.0, the constructor has done it

  const destroy = provider.destroy.bind(provider)
  provider.destroy = () => {
    destroy()
    own?.destroy()
    document.destroy()
  }
  return provider
}

/** Waits until the provider has seen the document and the server has all of the provider's edits. */
export async function synced(provider, timeout = 10_000) {
  await until(() => provider.isSynced && provider.unsyncedChanges === 0, {
    timeout,
    what: `${provider.configuration.name} is synced (unsynced changes: ${provider.unsyncedChanges})`,
  })
  return provider
}

export const text = (provider, field = 'text') => provider.document.getText(field).toString()
export const unsynced = (provider) => provider.unsyncedChanges

/** Appends to the text, as one update. */
export function type(provider, string, field = 'text') {
  const shared = provider.document.getText(field)
  shared.insert(shared.length, string)
}

/** Waits until all providers show this text. */
export async function showing(expected, providers, timeout = 10_000) {
  await until(() => providers.every((provider) => text(provider) === expected), {
    timeout,
    what: `all show ${JSON.stringify(expected)}, not ${JSON.stringify(providers.map((provider) => text(provider)))}`,
  })
}

/** The awareness states of others, without their clock: `[{ user: 'b' }]`. */
export function others(provider) {
  return [...provider.awareness.getStates()].filter(([client]) => client !== provider.document.clientID).map(([, state]) => state)
}

// --- raw frames: `address, type, ...` ------------------------------------------------------------

export const MessageType = { Sync: 0, Awareness: 1, Auth: 2, QueryAwareness: 3, Stateless: 5, BroadcastStateless: 6, CLOSE: 7, SyncStatus: 8, Ping: 9, Pong: 10 }

/** @param {(encoder: encoding.Encoder) => void} [body] */
export function frame(address, messageType, body = () => {}) {
  return encoding.encode((encoder) => {
    encoding.writeVarString(encoder, address)
    encoding.writeVarUint(encoder, messageType)
    body(encoder)
  })
}

export const authFrame = (address, token = 'alice') =>
  frame(address, MessageType.Auth, (encoder) => {
    encoding.writeVarUint(encoder, 0)
    encoding.writeVarString(encoder, token)
    encoding.writeVarString(encoder, '4.8.0')
  })

/** SyncStep1 of an empty document. */
export const syncFrame = (address, document = new Y.Doc()) =>
  frame(address, MessageType.Sync, (encoder) => {
    encoding.writeVarUint(encoder, 0)
    encoding.writeVarUint8Array(encoder, Y.encodeStateVector(document))
  })

export const statelessFrame = (address, payload) => frame(address, MessageType.Stateless, (encoder) => encoding.writeVarString(encoder, payload))

/**
 * A bare WebSocket that records what comes: `frames` as `{ address, type, bytes }` and, once it is closed, `closed`.
 *
 * @param {string} url
 * @param {object} [options] of `ws`
 */
export async function rawSocket(url, options = {}) {
  const socket = new WebSocket(url, { maxPayload: 256 * 1024 * 1024, ...options })
  socket.binaryType = 'arraybuffer'
  socket.frames = []
  socket.closed = null
  socket.on('message', (data) => {
    const bytes = new Uint8Array(data)
    const decoder = decoding.createDecoder(bytes)
    socket.frames.push({ address: decoding.readVarString(decoder), type: decoding.readVarUint(decoder), bytes })
  })
  socket.on('close', (code, reason) => (socket.closed = { code, reason: reason.toString() }))
  socket.on('error', () => {})
  await until(() => socket.readyState === WebSocket.OPEN || socket.closed, { what: 'the raw socket opens' })
  return socket
}

/** Two servers work: what a client of one types into "doc" arrives at a client of the other. Returns the two. */
export async function editCrosses(t, s1, s2) {
  const ann = connect({ url: s1.url, name: 'doc' })
  const bob = connect({ url: s2.url, name: 'doc' })
  t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
  await Promise.all([synced(ann), synced(bob)])
  type(bob, 'hello')
  await showing('hello', [ann, bob])
  return [ann, bob]
}
