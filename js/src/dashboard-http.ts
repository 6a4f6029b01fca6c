import type { IncomingMessage, OutgoingHttpHeaders, ServerResponse } from 'node:http'
import type { Asset } from './dashboard-assets.js'

/** The page has no inline script or style, talks to its own server only, and stands in no frame. */
const HEADERS: OutgoingHttpHeaders = {
  'cache-control': 'no-store',
  'content-security-policy':
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
  'cross-origin-opener-policy': 'same-origin',
  'cross-origin-resource-policy': 'same-origin',
  'referrer-policy': 'no-referrer',
  'x-content-type-options': 'nosniff',
  'x-frame-options': 'DENY',
}

const MAX_FORM = 8192

/** Answers once, with the headers of everything here. Node leaves the body out for HEAD. */
export function answer(response: ServerResponse, status: number, what: Asset | string, headers: OutgoingHttpHeaders = {}): void {
  const { type, body } = typeof what === 'string' ? { type: 'text/plain; charset=utf-8', body: Buffer.from(what) } : what
  response.writeHead(status, { ...HEADERS, 'content-type': type, 'content-length': body.length, ...headers }).end(body)
}

export function sendJson(response: ServerResponse, status: number, value: unknown): void {
  answer(response, status, { type: 'application/json; charset=utf-8', body: Buffer.from(JSON.stringify(value)) })
}

export function movedTo(response: ServerResponse, location: string, headers: OutgoingHttpHeaders = {}): void {
  answer(response, 303, '', { location, ...headers })
}

export const isPost = (request: IncomingMessage): boolean => request.method === 'POST'

/** What a form has sent. Rejects if it is too long, or ends too soon. */
export async function readForm(request: IncomingMessage): Promise<URLSearchParams> {
  // Express and others may have read the body before.
  const { body } = request as { body?: unknown }
  if (typeof body === 'object' && body !== null) return new URLSearchParams(body as Record<string, string>)
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    length += chunk.length
    if (length > MAX_FORM) throw new Error('too long')
    chunks.push(chunk)
  }
  return new URLSearchParams(Buffer.concat(chunks).toString())
}
