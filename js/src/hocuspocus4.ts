import type { Document, Hocuspocus, onStoreDocumentPayload } from '@hocuspocus/server'
import { Doc, applyUpdate, encodeStateAsUpdate } from 'yjs'
import type { Accept, Adapter, CloseEvent, HocuspocusConnection, SocketForHocuspocus } from './hocuspocus.js'
import { type ClientRequest, type NativeRequest, type SerializedHTTPRequest, serializeRequest, toRequest, withAddress } from './request.js'
import type { BaseWebSocket } from './websocket.js'

type HandleConnection = Hocuspocus['handleConnection']

/** Hocuspocus 4: requests are the web's, and a connection is fed by whoever has the socket. */
export class Hocuspocus4 implements Adapter {
  readonly pings = false
  readonly #handleConnection: HandleConnection

  constructor(private readonly instance: Hocuspocus) {
    this.#handleConnection = instance.handleConnection
  }

  intercept(accept: Accept): void {
    this.instance.handleConnection = (incoming, request, context?: unknown) => {
      const ws = incoming as unknown as BaseWebSocket & { _socket?: { remoteAddress?: string } }
      const remoteAddress = ws._socket?.remoteAddress ?? ''
      const client = accept(ws, withAddress(request, remoteAddress), serializeRequest(request, remoteAddress), context)
      const handle = {
        handleMessage: (data: Uint8Array) => client.receive(data),
        handleClose: (event?: CloseEvent) => client.closed(event),
        onClose: () => handle,
      }
      return handle as unknown as ReturnType<HandleConnection>
    }
  }

  release(): void {
    this.instance.handleConnection = this.#handleConnection
  }

  requestOf(serialized: SerializedHTTPRequest): NativeRequest {
    return toRequest(serialized)
  }

  connect(socket: SocketForHocuspocus, request: NativeRequest, context: unknown): HocuspocusConnection {
    return this.#handleConnection.call(this.instance, socket as unknown as WebSocket, request as ClientRequest, context)
  }

  storePayload(document: Document): onStoreDocumentPayload {
    return {
      instance: this.instance,
      clientsCount: document.getConnectionsCount(),
      document,
      documentName: document.name,
      lastContext: {},
      lastTransactionOrigin: { source: 'local' as const, context: {} },
    }
  }

  /** As Hocuspocus does it. */
  merge(document: Document, loaded: unknown): void {
    if (loaded instanceof Doc) applyUpdate(document, encodeStateAsUpdate(loaded))
    else if (loaded instanceof Uint8Array) applyUpdate(document, loaded)
  }
}
