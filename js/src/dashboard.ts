import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Extension } from '@hocuspocus/server' with { 'resolution-mode': 'import' }
import { Access } from './dashboard-access.js'
import { assetsOf } from './dashboard-assets.js'
import { answer, isPost, movedTo, readForm, sendJson } from './dashboard-http.js'
import { type DashboardState, type ObservedAffinity, Observer } from './dashboard-state.js'
import { AffinityError } from './errors.js'

export type { DashboardServer, DashboardDocument, DashboardState, ObservedAffinity } from './dashboard-state.js'

export interface DashboardOptions {
  /** What opens the page, 16 characters or more. The same one on all servers of a cluster. */
  token: string
  /** Where the page is. Default: '/affinity'. A reverse proxy in front must leave it as it is. */
  path?: string
  /** Documents that are asked of each server, 1 to 1000: those with most clients. Default: 200. */
  limit?: number
}

/** An extension for Hocuspocus's `Server`, or a part of any other `node:http` server. */
export interface Dashboard extends Extension {
  /** Answers a request and returns true if it is for the dashboard; else it leaves it alone and returns false. */
  handle(request: IncomingMessage, response: ServerResponse): boolean
}

const MIN_TOKEN = 16
const MAX_TOKEN = 1024
const MAX_PREFIX = 1000
const MAX_LIMIT = 1000
const KNOWN = ['token', 'path', 'limit']

function invalid(option: string, problem: string): AffinityError {
  return new AffinityError('AFF_EINVAL', `dashboard: option "${option}" ${problem}`)
}

/** No message here shows the token. */
function readOptions(options: DashboardOptions): Required<DashboardOptions> {
  if (typeof options !== 'object' || options === null) throw new AffinityError('AFF_EINVAL', 'dashboard: the options must be an object')
  for (const name of Object.keys(options)) {
    if (!KNOWN.includes(name)) throw invalid(name, `is unknown; known are ${KNOWN.join(', ')}`)
  }
  const { token, path = '/affinity', limit = 200 } = options
  if (typeof token !== 'string') throw invalid('token', `must be a string, not ${token === null ? 'null' : typeof token}`)
  if (token.length < MIN_TOKEN || token.length > MAX_TOKEN) {
    throw invalid('token', `must have ${MIN_TOKEN} to ${MAX_TOKEN} characters, not ${token.length}`)
  }
  // It becomes the path of a cookie.
  if (typeof path !== 'string' || !/^(\/[\w~-][\w.~-]*)+$/.test(path)) {
    throw invalid('path', `must look like "/affinity" or "/ops/affinity", not ${JSON.stringify(path)}`)
  }
  if (!Number.isInteger(limit) || limit < 1 || limit > MAX_LIMIT) throw invalid('limit', `must be an integer from 1 to ${MAX_LIMIT}, not ${String(limit)}`)
  return { token, path, limit }
}

function checkAffinity(affinity: ObservedAffinity): void {
  const lacks = (['servers', 'documents', 'health'] as const).filter((name) => typeof affinity?.[name] !== 'function')
  if (lacks.length > 0) throw new AffinityError('AFF_EINVAL', 'dashboard: "affinity" must be a RedisServerAffinity')
}

/**
 * A page that shows the cluster: its servers, their documents and clients, message rates, and documents as they move. It
 * changes nothing. docs/dashboard.md says how to mount it.
 *
 * @throws AffinityError `AFF_EINVAL`; it names the option
 */
export function dashboard(affinity: ObservedAffinity, options: DashboardOptions): Dashboard {
  checkAffinity(affinity)
  const { token, path, limit } = readOptions(options)
  const access = new Access(token, path)
  const observer = new Observer(affinity, limit)
  const assets = assetsOf()

  async function signIn(request: IncomingMessage, response: ServerResponse): Promise<void> {
    if (access.isBarred(request)) return answer(response, 429, assets.barred, { 'retry-after': '60' })
    const form = await readForm(request)
    if (!access.admits(request, form.get('token') ?? '')) return answer(response, 401, assets.refused)
    movedTo(response, './', { 'set-cookie': access.cookie(request) })
  }

  async function sendState(response: ServerResponse, query: string): Promise<void> {
    const prefix = new URLSearchParams(query).get('prefix') ?? ''
    if (prefix.length > MAX_PREFIX) return sendJson(response, 400, { error: { code: 'AFF_EINVAL', message: `prefix: at most ${MAX_PREFIX} characters` } })
    const state: DashboardState = await observer.state(prefix)
    sendJson(response, 200, state)
  }

  async function respond(request: IncomingMessage, response: ServerResponse, place: string, query: string): Promise<void> {
    // Relative, as are all addresses in the page.
    if (place === '') return movedTo(response, `${path.slice(path.lastIndexOf('/') + 1)}/`)
    if (isPost(request)) {
      if (place === '/login') return signIn(request, response)
      // Other sites' pages can post as well, but without the cookie: they sign nobody out.
      if (place === '/logout') return movedTo(response, './', access.isOpen(request) ? { 'set-cookie': access.noCookie(request) } : {})
    }
    if (request.method !== 'GET' && request.method !== 'HEAD') {
      const posts = place === '/login' || place === '/logout'
      return answer(response, 405, 'This page is read-only.\n', { allow: posts ? 'GET, HEAD, POST' : 'GET, HEAD' })
    }
    if (place === '/login' || place === '/logout') return movedTo(response, './')
    const open = assets.open.get(place)
    if (open) return answer(response, 200, open)
    // A wrong token of a script counts as an attempt to sign in.
    if (!access.isOpen(request)) {
      const barred = access.isBarred(request)
      if (place === '/') return answer(response, barred ? 429 : 401, barred ? assets.barred : assets.login)
      return answer(response, barred ? 429 : 401, 'Sign in first.\n', barred ? { 'retry-after': '60' } : { 'www-authenticate': 'Bearer' })
    }
    if (place === '/state') return sendState(response, query)
    const closed = assets.closed.get(place)
    return closed ? answer(response, 200, closed) : answer(response, 404, 'Not found\n')
  }

  function handle(request: IncomingMessage, response: ServerResponse): boolean {
    const [pathname = '', ...rest] = (request.url ?? '').split('?')
    if (pathname !== path && !pathname.startsWith(`${path}/`)) return false
    respond(request, response, pathname.slice(path.length), rest.join('?')).catch(() => {
      // Of what it does, only reading a form can fail.
      if (response.headersSent) response.destroy()
      else answer(response, 400, 'Bad request\n')
    })
    return true
  }

  return {
    extensionName: 'RedisServerAffinityDashboard',
    handle,
    onRequest({ request, response }): Promise<void> {
      // A rejection without any reason is how Hocuspocus is told that a request is answered.
      return handle(request, response) ? Promise.reject() : Promise.resolve()
    },
  }
}
