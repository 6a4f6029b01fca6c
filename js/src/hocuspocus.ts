import * as common from '@hocuspocus/common'
import type { Document, onStoreDocumentPayload } from '@hocuspocus/server'
import type { NativeRequest, SerializedHTTPRequest } from './request.js'
import type { BaseWebSocket } from './websocket.js'

/* What the rest needs of a Hocuspocus, whatever its version: hocuspocus3.ts and hocuspocus4.ts have it, adapter.ts chooses. */

/** What Hocuspocus calls on a socket. */
export interface SocketForHocuspocus {
  send(data: Uint8Array): void
  close(code?: number, reason?: string): void
  readyState: number
}

export interface CloseEvent {
  code: number
  reason: string
}

/** What Hocuspocus makes of a socket: whoever holds the socket feeds it. */
export interface HocuspocusConnection {
  handleMessage(frame: Uint8Array): void
  handleClose(event?: CloseEvent): void
  /** Hocuspocus closes what it has not heard of for its `timeout`. */
  lastMessageReceivedAt: number
}

/** Takes what comes from a client's socket. */
export interface Receiver {
  receive(data: Uint8Array): void
  closed(event?: CloseEvent): void
}

/** Takes a client's socket of Hocuspocus's own wiring. */
export type Accept = (ws: BaseWebSocket, request: NativeRequest, serialized: SerializedHTTPRequest, context: unknown) => Receiver

export interface Adapter {
  /** Does this version tell by pings whether a client lives? Others take messages for life. */
  readonly pings: boolean
  /** From here on whoever gives a client's socket to Hocuspocus, as its own Server does, gives it to us. */
  intercept(accept: Accept): void
  /** Undoes that. */
  release(): void
  /** The request as this version's hooks see it. */
  requestOf(serialized: SerializedHTTPRequest): NativeRequest
  connect(socket: SocketForHocuspocus, request: NativeRequest, context: unknown): HocuspocusConnection
  /** For a store that no client has caused. */
  storePayload(document: Document): onStoreDocumentPayload
  /** Takes in what an onLoadDocument hook has returned. */
  merge(document: Document, loaded: unknown): void
}

/* The reasons in our own rejections of a load, which are never a client's fault. */

/** Another server owns the document: its clients' routes go there, and those who waited for it here need not know. */
export const MOVED_REASON = 'redis-affinity:moved'
/** Nobody can say who owns it: the client is to connect again. */
export const NOT_OWNER_REASON = 'redis-affinity:not-owner'

/* With these a client's socket is closed, as by Hocuspocus. */

/** The client is to connect again. */
export const RESET = { code: 4205, reason: 'Reset Connection' }
/** It sent what can't be read. */
export const UNREADABLE = { code: 4401, reason: 'Unauthorized' }
/** It has not been heard of for `timeout`. */
export const TIMEOUT = { code: 4408, reason: 'Connection Timeout' }

/** Hocuspocus 3 has none. */
const Skip: new (message?: string) => Error =
  (common as Partial<typeof common>).SkipFurtherHooksError ?? class SkipFurtherHooksError extends Error {}

/** Keeps the hooks of later extensions from running, and is no failure. */
export const skipFurtherHooks = (message = ''): Error => new Skip(message)

export const isSkip = (error: unknown): boolean => error instanceof Skip
