/**
 * The least that a proxy in Node can cost: frames pass as they are, with the number of their socket before them, on the one
 * thread of JavaScript, straight from socket to socket. It has no documents, no owners and no faults: only the way.
 */
import { EventEmitter, once } from 'node:events'
import net from 'node:net'
import { Redis } from 'ioredis'
import { connect, publishHead, subscribed } from './resp.mjs'

const OWNER = 's1'
const ORIGIN = 's2'

/** What is written within one turn of the loop is one system call. */
function write(socket, ...parts) {
  if (socket.writableCorked === 0) {
    socket.cork()
    process.nextTick(() => socket.uncork())
  }
  for (const part of parts) socket.write(part)
}

/** Calls `onMessage` with each message of a stream, of which `next` finds one: `[start, end, endOfAll]`, if it is there. */
function cut(stream, next, onMessage) {
  let rest = Buffer.alloc(0)
  stream.on('data', (data) => {
    rest = rest.length > 0 ? Buffer.concat([rest, data]) : data
    for (let found = next(rest); found; found = next(rest)) {
      const [start, end, endOfAll] = found
      onMessage(rest.subarray(start, end))
      rest = rest.subarray(endOfAll)
    }
  })
}

async function throughRedis({ redis, self, peer }, onMessage) {
  const channel = (serverId) => `relay-${serverId}`
  const publisher = await connect(redis.path)
  publisher.resume()
  const subscriber = await subscribed(redis.path, channel(self))
  const before = `*3\r\n$7\r\nmessage\r\n$${channel(self).length}\r\n${channel(self)}\r\n$`.length
  const next = (bytes) => {
    const lineEnd = bytes.indexOf('\r\n', before)
    if (lineEnd < 0) return undefined
    const start = lineEnd + 2
    const end = start + Number(bytes.latin1Slice(before, lineEnd))
    return end + 2 <= bytes.length ? [start, end, end + 2] : undefined
  }
  cut(subscriber, next, onMessage)
  const head = publishHead(channel(peer))
  return (message) => write(publisher, `${head}${message.length}\r\n`, message, '\r\n')
}

async function throughTcp({ redis, self }, onMessage) {
  const client = new Redis(redis)
  const next = (bytes) => {
    if (bytes.length < 4) return undefined
    const end = 4 + bytes.readUInt32LE()
    return end <= bytes.length ? [4, end, end] : undefined
  }
  let link
  const linked = (socket) => cut((link = socket), next, onMessage)
  if (self === OWNER) {
    const server = net.createServer({ noDelay: true }, linked).listen(0, '127.0.0.1')
    await once(server, 'listening')
    await client.set('relay-port', server.address().port)
  } else {
    linked(await connect(Number(await client.get('relay-port')), '127.0.0.1'))
  }
  client.disconnect()
  return (message) => {
    const length = Buffer.alloc(4)
    length.writeUInt32LE(message.length)
    write(link, length, message)
  }
}

const withId = (id, frame) => {
  const message = Buffer.allocUnsafe(4 + frame.length)
  message.writeUInt32LE(id)
  message.set(frame, 4)
  return message
}

/**
 * What a server does with each of its clients' sockets. The owner gives those of the other server to `serve`, as sockets too; an
 * empty frame says that one has gone.
 */
export async function relay({ redis, serverId, isDirect }, serve) {
  const isOwner = serverId === OWNER
  const sockets = new Map()
  const send = await (isDirect ? throughTcp : throughRedis)({ redis, self: serverId, peer: isOwner ? ORIGIN : OWNER }, (message) => {
    const id = message.readUInt32LE()
    const frame = message.subarray(4)
    const socket = sockets.get(id) ?? (isOwner ? open(id) : undefined)
    if (!isOwner) socket?.send(frame)
    else if (frame.length > 0) socket.emit('message', frame)
    else socket.emit('close', sockets.delete(id))
  })

  function open(id) {
    const socket = Object.assign(new EventEmitter(), { send: (frame) => send(withId(id, frame)) })
    sockets.set(id, socket)
    serve(socket)
    return socket
  }

  let lastId = 0
  return (socket) => {
    if (isOwner) return serve(socket)
    const id = ++lastId
    sockets.set(id, socket)
    socket.on('message', (frame) => send(withId(id, frame)))
    socket.on('close', () => sockets.delete(id) && send(withId(id, Buffer.alloc(0))))
  }
}
