import { createHash, createHmac, timingSafeEqual } from 'node:crypto'
import type { IncomingMessage } from 'node:http'
import type { TLSSocket } from 'node:tls'

const COOKIE = 'affinity-dashboard'
const SESSION_S = 12 * 3600
/** Wrong tokens from one address within a minute; after that all of its attempts wait for the next minute. */
const MAX_WRONG = 10
const MINUTE_MS = 60_000
const MAX_ADDRESSES = 1000

/** In constant time, whatever the lengths are. */
function isSame(a: string, b: string): boolean {
  const digest = (text: string) => createHash('sha256').update(text).digest()
  return timingSafeEqual(digest(a), digest(b))
}

function cookieOf(request: IncomingMessage): string | undefined {
  for (const pair of (request.headers.cookie ?? '').split(';')) {
    const [name, value] = pair.trim().split('=', 2)
    if (name === COOKIE) return value
  }
  return undefined
}

/**
 * Who may see the page: whoever sends the token, or the cookie of a session. That holds when it ends, signed with the token:
 * each server of a cluster with the same token believes it, and none remembers it.
 */
export class Access {
  #wrong = new Map<string, { count: number; until: number }>()

  constructor(
    private readonly token: string,
    private readonly path: string,
  ) {}

  /** By its cookie, or by `Authorization: Bearer`. */
  isOpen(request: IncomingMessage): boolean {
    const [, bearer] = /^Bearer +(.*)$/i.exec(request.headers.authorization ?? '') ?? []
    if (bearer !== undefined) return !this.isBarred(request) && this.admits(request, bearer)
    const [end = '', signature = ''] = (cookieOf(request) ?? '').split('.', 2)
    return /^\d{1,12}$/.test(end) && isSame(signature, this.#sign(end)) && Number(end) > Date.now() / 1000
  }

  /** Is it the token? If not, that is remembered of the address. */
  admits(request: IncomingMessage, token: string): boolean {
    if (isSame(token, this.token)) return true
    const address = request.socket.remoteAddress ?? ''
    const wrong = this.#wrongOf(address)
    this.#wrong.delete(address)
    if (this.#wrong.size >= MAX_ADDRESSES) this.#wrong.delete(this.#wrong.keys().next().value!)
    this.#wrong.set(address, { ...wrong, count: wrong.count + 1 })
    return false
  }

  isBarred(request: IncomingMessage): boolean {
    return this.#wrongOf(request.socket.remoteAddress ?? '').count >= MAX_WRONG
  }

  /** Of a new session. */
  cookie(request: IncomingMessage): string {
    const end = String(Math.floor(Date.now() / 1000) + SESSION_S)
    return this.#cookie(request, `${end}.${this.#sign(end)}`, SESSION_S)
  }

  noCookie(request: IncomingMessage): string {
    return this.#cookie(request, '', 0)
  }

  #wrongOf(address: string): { count: number; until: number } {
    const wrong = this.#wrong.get(address)
    return wrong && wrong.until > Date.now() ? wrong : { count: 0, until: Date.now() + MINUTE_MS }
  }

  #cookie(request: IncomingMessage, value: string, maxAge: number): string {
    // The header may be invented, by the one whose cookie this is.
    const isSecure = (request.socket as TLSSocket).encrypted || String(request.headers['x-forwarded-proto']).startsWith('https')
    return `${COOKIE}=${value}; Path=${this.path}; Max-Age=${maxAge}; HttpOnly; SameSite=Strict${isSecure ? '; Secure' : ''}`
  }

  #sign(end: string): string {
    return createHmac('sha256', this.token).update(`${COOKIE} ${this.path} ${end}`).digest('base64url')
  }
}
