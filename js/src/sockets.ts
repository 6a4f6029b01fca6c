import type { Receiver } from './hocuspocus.js'
import type { NativeRequest, SerializedHTTPRequest } from './request.js'
import { ClientSocket, type SocketHost } from './socket.js'
import { type BaseWebSocket, type Message, closeSocket } from './websocket.js'

/** The clients' sockets of this server, whoever has opened them: its WebSocket server by our hooks, or Hocuspocus. */
export class Sockets {
  #byId = new Map<number, ClientSocket>()
  #byWebSocket = new Map<BaseWebSocket, ClientSocket>()
  #byKey = new Map<string, ClientSocket>()
  /** Sockets refused because another one with their key is open; their close events are still to come. */
  #refusedKeys = new Map<string, number>()
  /** To be flushed. */
  #gathering: ClientSocket[] = []
  #lastId = 0

  /**
   * @param host throws where no socket is taken any more
   * @param add tells the rest of a new one
   */
  constructor(
    private readonly host: () => SocketHost,
    private readonly add: (client: ClientSocket, request: SerializedHTTPRequest, context: unknown) => void,
  ) {}

  get size(): number {
    return this.#byId.size
  }

  get(id: number): ClientSocket | undefined {
    return this.#byId.get(id)
  }

  closeAll(code: number, reason: string): void {
    for (const client of [...this.#byId.values()]) client.close(code, reason)
  }

  // ---- by our hooks -----------------------------------------------------------------------------------

  open(ws: BaseWebSocket, request: SerializedHTTPRequest, context: unknown): void {
    const key = keyOf(request)
    if (key !== undefined && this.#byKey.has(key)) {
      this.#refusedKeys.set(key, (this.#refusedKeys.get(key) ?? 0) + 1)
      closeSocket(ws, 1008, 'duplicate sec-websocket-key')
      return
    }
    const client = this.#new(ws, request, request, context)
    this.#byWebSocket.set(ws, client)
    if (key !== undefined) this.#byKey.set(key, client)
  }

  receive(ws: BaseWebSocket, data: Uint8Array): void {
    this.#byWebSocket.get(ws)?.receive(data, true)
  }

  closed(socketId: string | BaseWebSocket, code: number | undefined, reason: ArrayBuffer | undefined): void {
    const isKey = typeof socketId === 'string'
    if (isKey && this.#wasRefused(socketId)) return
    const client = isKey ? this.#byKey.get(socketId) : this.#byWebSocket.get(socketId)
    if (!client) return
    const key = isKey ? socketId : keyOf(client.request as SerializedHTTPRequest)
    this.#byWebSocket.delete(client.ws)
    if (key !== undefined) this.#byKey.delete(key)
    this.#byId.delete(client.id)
    client.closed(code === undefined ? undefined : { code, reason: reason ? Buffer.from(reason).toString() : '' })
  }

  #wasRefused(key: string): boolean {
    const refused = this.#refusedKeys.get(key)
    if (refused === undefined) return false
    if (refused > 1) this.#refusedKeys.set(key, refused - 1)
    else this.#refusedKeys.delete(key)
    return true
  }

  // ---- by Hocuspocus's own wiring ---------------------------------------------------------------------

  accept(ws: BaseWebSocket, request: NativeRequest, serialized: SerializedHTTPRequest, context: unknown): Receiver {
    const client = this.#new(ws, serialized, request, context)
    return {
      receive: (data) => client.receive(data),
      closed: (event) => {
        this.#byId.delete(client.id)
        client.closed(event)
      },
    }
  }

  /** @param kept what the socket keeps of the request: a connection of the Hocuspocus here gets it */
  #new(ws: BaseWebSocket, request: SerializedHTTPRequest, kept: SerializedHTTPRequest | NativeRequest, context: unknown): ClientSocket {
    const host = this.host()
    const client = new ClientSocket(++this.#lastId, ws, kept, context, host)
    this.#byId.set(client.id, client)
    this.add(client, request, context)
    return client
  }

  // ---- from the engine --------------------------------------------------------------------------------

  /** A frame of a document's owner; it goes out with the next flush(). */
  gather(id: number, message: Message): void {
    const client = this.#byId.get(id)
    if (client?.gather(message)) this.#gathering.push(client)
  }

  flush(): void {
    for (const client of this.#gathering) client.flush()
    this.#gathering.length = 0
  }
}

/** Undefined with HTTP/2, which has none. */
function keyOf({ headers }: SerializedHTTPRequest): string | undefined {
  const value = headers['sec-websocket-key']
  return Array.isArray(value) ? value[0] : value
}
