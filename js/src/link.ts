import { isIPv6 } from 'node:net'
import type { NativeOptions } from './native.js'
import { trustedCertificates } from './redis.js'

/** Direct links to other servers, beside Redis. */
export interface LinkConfiguration {
  /** Where this server listens: a port, or "host:port". Port 0: any that is free. */
  listen: number | string
  /**
   * How other servers reach it: "host" or "host:port". Default: the host of `listen`, if that is not all addresses. A
   * missing port is that of `listen`.
   */
  advertise?: string
  /** TLS 1.2 or newer on all direct links. Default: signed with the `secret`, and not encrypted. */
  tls?: LinkTLS
}

/** PEM, as in Node's `tls`. */
export interface LinkTLS {
  key: string | Uint8Array
  cert: string | Uint8Array
  /** Who has signed the servers' certificates. Given, each side asks the other for one. Default: whose certificates Node believes. */
  ca?: string | Uint8Array
  passphrase?: string
  /** The name in the other servers' certificates. Default: the host that is dialled. */
  servername?: string
  /** Default: true. */
  rejectUnauthorized?: boolean
}

/** What native.open() gets of it. */
export type LinkSettings = Pick<NativeOptions, Extract<keyof NativeOptions, `link${string}`>>

const KNOWN = ['listen', 'advertise', 'tls']
const KNOWN_TLS = ['key', 'cert', 'ca', 'passphrase', 'servername', 'rejectUnauthorized']
/** 0.0.0.0, ::, and how else they are written. */
const EVERYWHERE = /^[0.:]+$/

type Invalid = (option: string, problem: string) => Error

const show = (value: unknown) => (typeof value === 'string' ? JSON.stringify(value) : String(value))

function checkObject(option: string, value: unknown, known: string[], invalid: Invalid): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw invalid(option, `must be an object, not ${show(value)}`)
  for (const name of Object.keys(value)) if (!known.includes(name)) throw invalid(`${option}.${name}`, `is unknown; known are ${known.join(', ')}`)
}

/** "host:port", "[::1]:port", "host", "::1". */
function split(text: string): { host: string; port?: number } | undefined {
  const [, bracketed, plain, port] = /^(?:\[([^\]]+)\]|([^:]+))(?::(\d{1,5}))?$/.exec(text) ?? []
  const host = bracketed ?? plain ?? (isIPv6(text) ? text : undefined)
  if (!host || host.length > 255 || host.includes('\0')) return undefined
  if (port !== undefined && Number(port) > 65_535) return undefined
  return { host, port: port === undefined ? undefined : Number(port) }
}

function listenAt(listen: unknown, invalid: Invalid): { host: string; port: number } {
  const wanted = typeof listen === 'number' ? { host: '0.0.0.0', port: listen } : typeof listen === 'string' ? split(listen) : undefined
  const { host, port } = wanted ?? {}
  if (!host || port === undefined || !Number.isInteger(port) || port < 0 || port > 65_535) {
    throw invalid('link.listen', `must be a port, or "host:port", not ${show(listen)}`)
  }
  return { host, port }
}

function advertised(advertise: unknown, host: string, invalid: Invalid): string {
  if (advertise === undefined) {
    if (EVERYWHERE.test(host)) throw invalid('link.advertise', `is missing: how do other servers reach this one, which listens at ${host}?`)
    return host
  }
  const wanted = typeof advertise === 'string' ? split(advertise) : undefined
  if (!wanted || wanted.port === 0) throw invalid('link.advertise', `must be "host" or "host:port", not ${show(advertise)}`)
  return advertise as string
}

function pem(option: string, value: unknown, isNeeded: boolean, invalid: Invalid): Uint8Array | undefined {
  if (value === undefined && !isNeeded) return undefined
  if (typeof value !== 'string' && !(value instanceof Uint8Array)) {
    throw invalid(option, `must be a string or a Buffer, not ${value === null ? 'null' : typeof value}`)
  }
  return typeof value === 'string' ? Buffer.from(value) : value
}

function tlsSettings(tls: unknown, invalid: Invalid): LinkSettings {
  checkObject('link.tls', tls, KNOWN_TLS, invalid)
  const { key, cert, ca, passphrase, servername, rejectUnauthorized = true } = tls as Record<string, unknown>
  if (typeof rejectUnauthorized !== 'boolean') throw invalid('link.tls.rejectUnauthorized', `must be true or false, not ${show(rejectUnauthorized)}`)
  if (passphrase !== undefined && typeof passphrase !== 'string') throw invalid('link.tls.passphrase', `must be a string, not ${typeof passphrase}`)
  if (servername !== undefined && (typeof servername !== 'string' || servername === '')) {
    throw invalid('link.tls.servername', `must be a name, not ${show(servername)}`)
  }
  return {
    linkHasTLS: true,
    linkAsksForCert: ca !== undefined && rejectUnauthorized,
    linkKey: pem('link.tls.key', key, true, invalid),
    linkCert: pem('link.tls.cert', cert, true, invalid),
    linkCA: pem('link.tls.ca', ca, false, invalid) ?? trustedCertificates(),
    linkPassphrase: passphrase === undefined ? undefined : Buffer.from(passphrase),
    linkServerName: servername,
    linkRejectUnauthorized: rejectUnauthorized,
  }
}

/** Checks the option `link`; `invalid` makes the error that names what is wrong. */
export function linkSettings(link: unknown, invalid: Invalid): LinkSettings {
  if (link === undefined) return {}
  checkObject('link', link, KNOWN, invalid)
  const { listen, advertise, tls } = link as Record<string, unknown>
  const { host, port } = listenAt(listen, invalid)
  return {
    linkHost: host,
    linkPort: port,
    linkAdvertise: advertised(advertise, host, invalid),
    ...(tls === undefined ? {} : tlsSettings(tls, invalid)),
  }
}
