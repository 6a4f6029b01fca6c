/** Redis by hand, for figures without a client library's part. */
import { once } from 'node:events'
import net from 'node:net'

/** @param {...any} to as of net.connect() */
export const connect = (...to) =>
  new Promise((resolve, reject) => {
    const socket = net.connect(...to)
    socket.once('connect', () => resolve(socket.setNoDelay(true))).once('error', reject)
  })

/** A connection that has subscribed to a channel: what comes on it from here on are messages. */
export async function subscribed(path, channel) {
  const socket = await connect(path)
  const told = once(socket, 'data')
  socket.write(`*2\r\n$9\r\nSUBSCRIBE\r\n$${channel.length}\r\n${channel}\r\n`)
  await told
  return socket
}

/** A PUBLISH up to the message's length, in digits. */
export const publishHead = (channel) => `*3\r\n$7\r\nPUBLISH\r\n$${channel.length}\r\n${channel}\r\n$`
