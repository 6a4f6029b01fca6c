/**
 * The yardstick: the specification's protocol as one would write it down at first, in JavaScript with ioredis and
 * msgpackr. One message per frame, the client's request in each, one publish per client; a lock per document, set with
 * SET NX and kept by an interval of its own. It has what the benchmark needs (locks, proxying, unloading) and no custom
 * events; it makes no attempt at faults.
 */
import { pack as defaultPack, unpack as defaultUnpack } from 'msgpackr'

/** The document of a frame: its first field, without the session. */
function documentOf(frame) {
  let length = 0
  let at = 0
  for (let factor = 1; ; factor *= 128) {
    const byte = frame[at++]
    length += (byte & 0x7f) * factor
    if (byte < 0x80) break
  }
  const address = Buffer.from(frame.buffer, frame.byteOffset + at, length).toString()
  return address.split('\0', 1)[0]
}

const toRequest = ({ url, headers }) => new Request(new URL(url, `http://${headers.host ?? 'localhost'}`), { headers })

/** Stands at the owner for a client's socket at another server. */
class ProxySocket {
  readyState = 1

  constructor(affinity, socketId, origin, request) {
    this.affinity = affinity
    this.socketId = socketId
    this.origin = origin
    this.connection = affinity.handleConnection(this, toRequest(request), {})
  }

  send(message) {
    this.affinity.publish(this.origin, { type: 'send', socketId: this.socketId, message })
  }

  close(code, reason) {
    this.affinity.publish(this.origin, { type: 'close', socketId: this.socketId, code, reason })
    this.end({ code, reason })
  }

  end(event) {
    this.readyState = 3
    this.affinity.proxySockets.delete(this.socketId)
    this.connection.handleClose(event)
  }
}

export class PlainServerAffinity {
  priority = 1000
  extensionName = 'PlainServerAffinity'
  /** The clients' sockets of this server, by id. */
  sockets = new Map()
  /** The proxy sockets at this server, by the client's socket id. */
  proxySockets = new Map()
  /** Documents of other servers, as far as known: name -> serverId. */
  owners = new Map()
  /** The locks of this server: name -> the interval that keeps each. */
  locks = new Map()

  constructor({ redis, serverId, pack = defaultPack, unpack = defaultUnpack, lockTTL = 10_000, prefix = 'plain' }) {
    Object.assign(this, { redis, serverId, pack, unpack, lockTTL, prefix })
    this.subscriber = redis.duplicate()
    this.subscriber.on('messageBuffer', (_channel, packed) => this.onMessage(this.unpack(packed)))
  }

  async ready() {
    await this.subscriber.subscribe(`${this.prefix}:${this.serverId}`, `${this.prefix}:all`)
  }

  publish(serverId, message) {
    this.redis.publish(`${this.prefix}:${serverId}`, this.pack(message)).catch(console.error)
  }

  onMessage(message) {
    switch (message.type) {
      case 'frame': {
        let proxy = this.proxySockets.get(message.socketId)
        if (!proxy) {
          proxy = new ProxySocket(this, message.socketId, message.from, message.request)
          this.proxySockets.set(message.socketId, proxy)
        }
        proxy.connection.handleMessage(message.message)
        break
      }
      case 'send':
        this.sockets.get(message.socketId)?.ws.send(message.message)
        break
      case 'close':
        this.sockets.get(message.socketId)?.ws.close(message.code, message.reason)
        break
      case 'closed':
        this.proxySockets.get(message.socketId)?.end({ code: message.code, reason: '' })
        break
      case 'unload':
        this.owners.delete(message.documentName)
        break
    }
  }

  // ---- Locks --------------------------------------------------------------------------------------------

  lockKey(documentName) {
    return `${this.prefix}Lock:${documentName}`
  }

  /** @returns {Promise<string>} the owner: this server, if nobody else has the document */
  async lock(documentName) {
    if (this.locks.has(documentName)) return this.serverId
    const key = this.lockKey(documentName)
    const taken = await this.redis.set(key, this.serverId, 'PX', this.lockTTL, 'NX')
    const owner = taken ? this.serverId : await this.redis.get(key)
    if (owner === this.serverId && !this.locks.has(documentName)) {
      const keep = () => this.redis.set(key, this.serverId, 'PX', this.lockTTL, 'XX').catch(console.error)
      this.locks.set(documentName, setInterval(keep, this.lockTTL / 2))
    }
    return owner ?? this.lock(documentName)
  }

  async lockDocument(documentName) {
    const owner = await this.lock(documentName)
    if (owner !== this.serverId) throw new Error(`document "${documentName}" is owned by server "${owner}"`)
    return () => this.releaseLock(documentName)
  }

  async releaseLock(documentName) {
    clearInterval(this.locks.get(documentName))
    if (this.locks.delete(documentName)) await this.redis.del(this.lockKey(documentName))
  }

  // ---- The WebSocket server's events ----------------------------------------------------------------------

  onSocketOpen(ws, request, context = {}) {
    const id = request.headers['sec-websocket-key']
    this.sockets.set(id, { ws, request, context, connection: undefined, peers: new Set(), turn: Promise.resolve() })
  }

  onSocketMessage(ws, request, message) {
    const id = request.headers['sec-websocket-key']
    const socket = this.sockets.get(id)
    if (!socket) return
    const frame = message instanceof Uint8Array ? message : new Uint8Array(message)
    const documentName = documentOf(frame)
    const owner = this.locks.has(documentName) ? this.serverId : this.owners.get(documentName)
    if (owner && !socket.waiting) {
      this.route(socket, id, owner, frame)
      return
    }
    // Frames keep their order while an owner is looked up.
    socket.waiting = (socket.waiting ?? 0) + 1
    socket.turn = socket.turn.then(async () => {
      const found = this.owners.get(documentName) ?? (await this.lock(documentName))
      if (found !== this.serverId) this.owners.set(documentName, found)
      this.route(socket, id, found, frame)
      socket.waiting--
    })
  }

  route(socket, socketId, owner, message) {
    if (owner === this.serverId) {
      socket.connection ??= this.handleConnection(socket.ws, toRequest(socket.request), socket.context)
      socket.connection.handleMessage(message)
      return
    }
    socket.peers.add(owner)
    this.publish(owner, { type: 'frame', from: this.serverId, socketId, request: socket.request, message })
  }

  onSocketClose(socketId, code, reason) {
    const socket = this.sockets.get(socketId)
    if (!socket) return
    this.sockets.delete(socketId)
    socket.connection?.handleClose({ code, reason: reason ? Buffer.from(reason).toString() : '' })
    for (const peer of socket.peers) this.publish(peer, { type: 'closed', socketId, code })
  }

  // ---- Hocuspocus's hooks ---------------------------------------------------------------------------------

  async onConfigure({ instance }) {
    this.handleConnection = instance.handleConnection.bind(instance)
  }

  async onLoadDocument({ documentName }) {
    await this.lockDocument(documentName)
  }

  async afterUnloadDocument({ documentName }) {
    await this.releaseLock(documentName)
    this.publish('all', { type: 'unload', documentName })
  }

  async onDestroy() {
    for (const keep of this.locks.values()) clearInterval(keep)
    this.subscriber.disconnect()
    this.redis.disconnect()
  }
}
