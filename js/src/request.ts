import { IncomingMessage } from 'node:http'
import type { Socket } from 'node:net'

/**
 * A client's HTTP request (the handshake of its WebSocket) as plain data: it crosses to the owner of a
 * document once, when the client's proxy socket is opened there.
 */
export interface SerializedHTTPRequest {
  method: string
  /** As on the request line (`/path?query`), or absolute. */
  url: string
  /** Names in lower case. */
  headers: Record<string, string | string[]>
  /** Where the connection came from; empty if unknown. */
  socket: { remoteAddress: string }
}

/** The parts of uWebSockets.js's HttpRequest and HttpResponse that are needed. */
export interface UwsRequest {
  getMethod(): string
  getUrl(): string
  getQuery(): string | undefined
  forEach(callback: (name: string, value: string) => void): void
}
export interface UwsResponse {
  getRemoteAddressAsText(): ArrayBuffer
}

/**
 * Makes plain data of a request of Node's http module, of a web `Request`, or of uWebSockets.js (which
 * allows reading its request and response only inside the `upgrade` handler).
 *
 * @param request what the client sent
 * @param remote the client's address, or uWebSockets.js's HttpResponse; Node's request knows its own
 */
export function serializeRequest(
  request: IncomingMessage | Request | UwsRequest,
  remote?: string | UwsResponse,
): SerializedHTTPRequest {
  const remoteAddress = typeof remote === 'string' ? remote : addressOf(remote)
  if ('getUrl' in request) return fromUws(request, remoteAddress)
  if (isWebRequest(request)) {
    return {
      method: request.method,
      url: request.url,
      headers: Object.fromEntries(request.headers),
      socket: { remoteAddress },
    }
  }
  return {
    method: request.method ?? 'GET',
    url: request.url ?? '/',
    headers: definedHeaders(request),
    socket: { remoteAddress: remoteAddress || (request.socket?.remoteAddress ?? '') },
  }
}

/** By what it can do: servers have classes of their own for it. */
export function isWebRequest<T extends object>(request: IncomingMessage | SerializedHTTPRequest | T): request is T & Request {
  return typeof (request as Request).headers.get === 'function'
}

/** As Hocuspocus wants it: 4 the web's, 3 that of Node's http module. */
export type NativeRequest = ClientRequest | IncomingMessage

export function isNative(request: SerializedHTTPRequest | NativeRequest): request is NativeRequest {
  return request instanceof IncomingMessage || isWebRequest(request)
}

function addressOf(response?: UwsResponse): string {
  return response ? Buffer.from(response.getRemoteAddressAsText()).toString() : ''
}

function definedHeaders(request: IncomingMessage): Record<string, string | string[]> {
  const headers: Record<string, string | string[]> = {}
  for (const [name, value] of Object.entries(request.headers)) {
    if (value !== undefined) headers[name] = value
  }
  return headers
}

function fromUws(request: UwsRequest, remoteAddress: string): SerializedHTTPRequest {
  const headers: Record<string, string> = {}
  request.forEach((name, value) => {
    headers[name] = value
  })
  const query = request.getQuery()
  return {
    method: request.getMethod().toUpperCase(),
    url: query ? `${request.getUrl()}?${query}` : request.getUrl(),
    headers,
    socket: { remoteAddress },
  }
}

/** A web Request whose `socket.remoteAddress` is the client's address: what Hocuspocus's hooks see. */
export type ClientRequest = Request & { socket: { remoteAddress: string } }

/** The request as a web Request. Headers or an address that can't be carried over are left out. */
export function toRequest(serialized: SerializedHTTPRequest): ClientRequest {
  const headers = new Headers()
  for (const [name, values] of Object.entries(serialized.headers)) {
    for (const value of Array.isArray(values) ? values : [values]) {
      try {
        headers.append(name, value)
      } catch {
        // HTTP/2's pseudo-headers (":path") and the like have no place in a web Request.
      }
    }
  }
  const request = new Request(absoluteUrl(serialized, headers.get('host')), { headers })
  return withAddress(request, serialized.socket?.remoteAddress ?? '')
}

export function withAddress(request: Request, remoteAddress: string): ClientRequest {
  if (!('socket' in request)) Object.defineProperty(request, 'socket', { value: { remoteAddress }, enumerable: true })
  return request as ClientRequest
}

/** The request as one of Node's http module. Its socket has nothing but the client's address. */
export function toIncomingMessage(serialized: SerializedHTTPRequest): IncomingMessage {
  const message = new IncomingMessage({ remoteAddress: serialized.socket?.remoteAddress ?? '' } as Socket)
  message.method = serialized.method
  message.url = pathOf(serialized.url)
  message.headers = { ...(serialized.headers as IncomingMessage['headers']) }
  for (const [name, values] of Object.entries(serialized.headers)) {
    for (const value of Array.isArray(values) ? values : [values]) message.rawHeaders.push(name, value)
  }
  return message
}

/** As on the request line. */
function pathOf(url: string): string {
  if (!/^[a-z][a-z\d+.-]*:\/\//i.test(url) || !URL.canParse(url)) return url
  const { pathname, search } = new URL(url)
  return pathname + search
}

function absoluteUrl(serialized: SerializedHTTPRequest, host: string | null): string {
  for (const base of [`http://${host || 'localhost'}`, 'http://localhost']) {
    if (URL.canParse(serialized.url, base)) return new URL(serialized.url, base).href
  }
  return 'http://localhost/'
}
