// A stand-in for uWebSockets.js, as far as examples/uwebsockets.mjs uses it, on `ws`; and as strict where the real one is: what a
// callback is given can be read in that callback alone, and a closed socket throws.
import { createServer } from 'node:http'
import { WebSocketServer } from 'ws'

/** An object whose methods work until `end` is called. */
function passing(what, methods) {
  let over = false
  const guarded = Object.fromEntries(
    Object.entries(methods).map(([name, method]) => [
      name,
      (...args) => {
        if (over) throw new Error(`${what} is used after its callback (${name})`)
        return method(...args)
      },
    ]),
  )
  return [guarded, () => (over = true)]
}

/** Calls back with a copy of the bytes, and takes its memory away. */
function lend(bytes, callback) {
  const buffer = Uint8Array.from(bytes).buffer
  callback(buffer)
  structuredClone(buffer, { transfer: [buffer] })
}

const bytesOf = (text) => new TextEncoder().encode(text).buffer

function upgrade(sockets, behavior, incoming, stream, head) {
  const [url, query = ''] = incoming.url.split('?')
  const [request, requestEnds] = passing('HttpRequest', {
    getMethod: () => incoming.method.toLowerCase(),
    getUrl: () => url,
    getQuery: () => query,
    getHeader: (name) => incoming.headers[name] ?? '',
    forEach: (each) => Object.entries(incoming.headers).forEach(([name, value]) => each(name, value)),
  })
  const [response, responseEnds] = passing('HttpResponse', {
    getRemoteAddressAsText: () => bytesOf(incoming.socket.remoteAddress),
    upgrade: (userData, key) => {
      if (key !== incoming.headers['sec-websocket-key']) throw new Error('the wrong sec-websocket-key')
      sockets.handleUpgrade(incoming, stream, head, (socket) => open(behavior, socket, userData))
    },
  })
  behavior.upgrade(response, request, {})
  requestEnds()
  responseEnds()
}

/** No `readyState`, no `close` without effect: this is how the extension knows it. */
function open(behavior, socket, userData) {
  const [ws, closed] = passing('WebSocket', {
    getUserData: () => userData,
    send: (data, isBinary) => {
      socket.send(Buffer.from(data), { binary: isBinary === true })
      return 1
    },
    end: (code, reason) => {
      if (code === undefined || code === 1000) socket.close(1000)
      else socket.close(code, reason)
      gone(code ?? 1000, Buffer.from(reason ?? ''))
    },
    close: () => {
      socket.terminate()
      gone(1006, Buffer.alloc(0))
    },
  })
  let isGone = false
  // The real one calls it inside of `end`.
  const gone = (code, reason) => {
    if (isGone) return
    isGone = true
    closed()
    const getUserData = () => userData
    lend(reason, (buffer) => behavior.close(Object.assign(ws, { getUserData }), code, buffer))
  }
  behavior.open(ws)
  socket.on('message', (message, isBinary) => lend(message, (buffer) => !isGone && behavior.message(ws, buffer, isBinary)))
  socket.on('close', gone)
}

function App() {
  const httpServer = createServer()
  const app = {
    ws(_pattern, behavior) {
      const sockets = new WebSocketServer({ noServer: true, maxPayload: behavior.maxPayloadLength })
      httpServer.on('upgrade', (incoming, stream, head) => upgrade(sockets, behavior, incoming, stream, head))
      return app
    },
    listen(port, callback) {
      httpServer.listen(port, () => callback(httpServer))
      return app
    },
  }
  return app
}

const uWS = {
  App,
  us_socket_local_port: (httpServer) => httpServer.address().port,
  us_listen_socket_close: (httpServer) => httpServer.close(),
}
export default uWS
