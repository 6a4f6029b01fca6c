import { X509Certificate } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { domainToASCII } from 'node:url'
import * as nodeTLS from 'node:tls'
import type { Redis } from 'ioredis'

/** Where Redis is, as native.open() gets it. */
export interface RedisAddress {
  host?: string
  port?: number
  /** 4 or 6: only such addresses of the host's name; 0: all. */
  family?: number
  path?: string
  username?: string
  password?: string
  db: number
  connectTimeout: number
  hasTLS?: boolean
  tlsCA?: Uint8Array
  tlsCert?: Uint8Array
  tlsKey?: Uint8Array
  tlsPassphrase?: Uint8Array
  tlsServerName?: string
  tlsRejectUnauthorized?: boolean
}

/** How an ioredis instance's Redis is reached: by the engine itself; or not, for a reason (the end of a sentence). */
export type RedisRoute = { address: RedisAddress } | { reason: string }

type Settings = Record<string, unknown>
type TLSRoute = { tls: Partial<RedisAddress> } | { reason: string }

/** What the native side does anyway. */
const SAME: Settings = { minVersion: 'TLSv1.2', maxVersion: 'TLSv1.3' }
const HONOURED = ['host', 'port', 'ca', 'cert', 'key', 'passphrase', 'servername', 'rejectUnauthorized']

const isPEM = (value: unknown): value is string | NodeJS.ArrayBufferView => typeof value === 'string' || ArrayBuffer.isView(value)

function bytes(value: string | NodeJS.ArrayBufferView): Uint8Array {
  return typeof value === 'string' ? Buffer.from(value) : new Uint8Array(value.buffer, value.byteOffset, value.byteLength)
}

/** The certificates that Node believes by default. */
export function trustedCertificates(): Buffer {
  const { getCACertificates } = nodeTLS as { getCACertificates?: (type: 'default') => string[] }
  if (getCACertificates) return Buffer.from(getCACertificates('default').join('\n'))
  return Buffer.from([...nodeTLS.rootCertificates, extraCertificates()].join('\n'))
}

/** Where getCACertificates is missing. As Node does, a file that can't be read or parsed is left out. */
function extraCertificates(): string {
  const file = process.env.NODE_EXTRA_CA_CERTS
  if (!file) return ''
  try {
    const pem = readFileSync(file, 'latin1')
    new X509Certificate(pem)
    return pem
  } catch {
    return ''
  }
}

/** One certificate authority or several; undefined: what Node believes by default. */
function authorities(ca: unknown): Uint8Array | undefined {
  if (ca === undefined || ca === null || ca === '') return trustedCertificates()
  const list = Array.isArray(ca) ? ca : [ca]
  return list.length > 0 && list.every(isPEM) ? Buffer.concat(list.flatMap((one) => [bytes(one), Buffer.from('\n')])) : undefined
}

/** One, or an array of it. Node takes several, of which OpenSSL chooses by the kind of key. */
function single(value: unknown): unknown {
  return Array.isArray(value) && value.length === 1 ? value[0] : value
}

function tlsRoute(tls: Settings): TLSRoute {
  const set = Object.keys(tls).filter((name) => tls[name] !== undefined && tls[name] !== null)
  const unusual = set.find((name) => !HONOURED.includes(name) && tls[name] !== SAME[name])
  if (unusual !== undefined) return { reason: `of its TLS options, "${unusual}" is not among those that the engine knows` }
  const cert = single(tls.cert)
  const given = single(tls.key)
  const { pem: key, passphrase = tls.passphrase } = (isPEM(given) ? { pem: given } : (given ?? {})) as Settings
  const ca = authorities(tls.ca)
  if (ca === undefined) return { reason: 'its TLS option "ca" is not PEM, or an array of that' }
  if (set.includes('cert') && !isPEM(cert)) return { reason: 'its TLS option "cert" is not one in PEM' }
  if (set.includes('key') && !isPEM(key)) return { reason: 'its TLS option "key" is not one in PEM' }
  if (passphrase !== undefined && passphrase !== null && typeof passphrase !== 'string') return { reason: 'its TLS passphrase is no string' }
  const { servername } = tls
  if (servername !== undefined && (typeof servername !== 'string' || servername === '')) {
    return { reason: 'its TLS option "servername" is not a name' }
  }
  const believesAll = tls.rejectUnauthorized === undefined ? process.env.NODE_TLS_REJECT_UNAUTHORIZED === '0' : tls.rejectUnauthorized === false
  return {
    tls: {
      hasTLS: true,
      tlsCA: ca,
      tlsCert: isPEM(cert) ? bytes(cert) : undefined,
      tlsKey: isPEM(key) ? bytes(key) : undefined,
      tlsPassphrase: passphrase ? Buffer.from(passphrase) : undefined,
      tlsServerName: servername,
      tlsRejectUnauthorized: !believesAll,
    },
  }
}

/** The system's resolver knows ASCII only. */
function hostOf(host: unknown): string {
  const name = String(host || 'localhost')
  return /^[ -~]*$/.test(name) ? name : domainToASCII(name) || name
}

function portOf(port: unknown): number {
  const number = Number(port ?? 6379)
  return Number.isInteger(number) && number > 0 && number <= 65_535 ? number : 0 // which the native side refuses
}

/** As Node takes it; what else there may be is for ioredis to refuse. */
const isFamily = (family: unknown): family is number => family === 0 || family === 4 || family === 6

/** Decides how the Redis of an ioredis instance is reached. */
export function redisRoute(redis: Redis): RedisRoute {
  if ((redis as { isCluster?: boolean }).isCluster) return { reason: 'it is a Redis Cluster' }
  const options = redis.options as typeof redis.options & Settings
  if (options.sentinels?.length) return { reason: 'it uses Sentinel' }
  if (options.Connector) return { reason: 'it has a Connector of its own' }
  const base = {
    username: options.username || undefined,
    password: options.password || undefined,
    db: options.db ?? 0,
    connectTimeout: options.connectTimeout ?? 10_000,
  }
  const { tls } = options as Settings
  if (tls && options.path) return { reason: 'it uses TLS over a Unix socket' }
  if (options.path) return { address: { ...base, path: options.path } }
  const family = options.family ?? 0
  if (!isFamily(family)) return { reason: 'its option "family" is none of 0, 4 and 6' }
  if (!tls) return { address: { ...base, family, host: hostOf(options.host), port: portOf(options.port) } }
  const settings = (typeof tls === 'object' ? tls : {}) as Settings
  const route = tlsRoute(settings)
  if ('reason' in route) return route
  return {
    address: { ...base, ...route.tls, family, host: hostOf(settings.host ?? options.host), port: portOf(settings.port ?? options.port) },
  }
}
