// Redis over TLS: the engine's own connections, from the options of the ioredis instance.
import assert from 'node:assert/strict'
import { X509Certificate } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { rootCertificates } from 'node:tls'
import { describe, test } from 'node:test'
import Redis from 'ioredis'
import { redisRoute } from '../../js/dist/redis.js'
import { RedisServerAffinity } from '@hocuspocus/extension-redis-affinity'
import { authority } from '../support/certificates.mjs'
import { editCrosses, showing, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startRedis } from '../support/redis.mjs'
import { startServer } from '../support/server.mjs'
import { until } from '../support/wait.mjs'

const ca = authority()
const other = authority()
const its = { ...ca.sign('DNS:redis.test,IP:127.0.0.1'), ca: ca.cert }

const worksIn = ({ servers: [s1, s2] }, t) => editCrosses(t, s1, s2)

/** A server's engine alone, in this process. */
function joins(t, options) {
  const affinity = new RedisServerAffinity({ redis: new Redis({ ...options, lazyConnect: true }) })
  t.after(() => affinity.onDestroy())
  return affinity.ready()
}

/** Options of an instance that never connects. */
const routeOf = (...args) => {
  const redis = new Redis(...args, { lazyConnect: true })
  return redisRoute(redis)
}
const reasonOf = (tls) => redisRoute(new Redis({ host: 'redis.test', lazyConnect: true, tls })).reason
const textOf = (bytes) => bytes && Buffer.from(bytes).toString()

describe('Redis over TLS', () => {
  test('a document is edited through two servers, also after Redis was restarted', async (t) => {
    const cluster = await startCluster(2, { redisOptions: { tls: its }, lockTTL: 2000 })
    t.after(() => cluster.stop())
    const [ann, bob] = await worksIn(cluster, t)
    await cluster.redis.kill9()
    type(ann, ', offline')
    await cluster.redis.restart()
    await showing('hello, offline', [ann, bob], { timeout: 20_000 })
    // The edit crosses with the one's publishing connection and the other's subscription: the other two may still be on their way.
    const itself = new RegExp(`laddr=127.0.0.1:${cluster.redis.port} .*name=redis-affinity`, 'g')
    await until(async () => (await cluster.redis.client.client('LIST')).match(itself)?.length === 4, { what: 'both servers have both connections' })
  })

  test('with a certificate of its own, an encrypted key and the name in the server\'s certificate', async (t) => {
    const { cert, key } = ca.sign(undefined, { passphrase: 'open sesame' })
    const redis = await startRedis({ tls: { ...its, clients: true } })
    t.after(() => redis.stop())
    const tls = { ca: [other.cert, Buffer.from(ca.cert)], cert: Buffer.from(cert), key: [key], passphrase: 'open sesame', servername: 'redis.test' }
    await joins(t, { ...redis.options, tls })
  })

  test('an URL with rediss:// and Node\'s own authorities, NODE_EXTRA_CA_CERTS included', async (t) => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-extra-'))
    t.after(() => rmSync(folder, { recursive: true, force: true }))
    writeFileSync(path.join(folder, 'ca.pem'), ca.cert)
    const redis = await startRedis({ tls: its, password: 'pa ss' })
    t.after(() => redis.stop())
    process.env.NODE_EXTRA_CA_CERTS = path.join(folder, 'ca.pem')
    t.after(() => delete process.env.NODE_EXTRA_CA_CERTS)
    const { port, password } = redis.options
    const options = redisRoute(new Redis(redis.url, { lazyConnect: true })).address
    assert.deepEqual({ port: options.port, password: options.password, hasTLS: options.hasTLS }, { port, password, hasTLS: true })
    const server = await startServer({ serverId: 's1', redis: { host: '127.0.0.1', port, password, tls: true } })
    t.after(() => server.stop())
    await server.edit('doc', 'hello')
  })

  describe('at the start, what will not get better by waiting is final', () => {
    const mine = ca.sign()
    const strangers = other.sign()
    const refused = {
      'another authority': [{}, { ca: other.cert }, /self-signed certificate in certificate chain/],
      'another name': [{}, { servername: 'elsewhere.test' }, /hostname mismatch/],
      'no certificate where one is asked for': [{ clients: true }, {}, /certificate required/],
      "another authority's certificate": [{ clients: true }, strangers, /unknown ca/],
      'an expired certificate': [{ clients: true }, null, /certificate expired/],
    }
    for (const [what, [settings, tls, message]] of Object.entries(refused)) {
      test(what, async (t) => {
        const redis = await startRedis({ tls: { ...its, ...settings } })
        t.after(() => redis.stop())
        const shown = tls ?? (await expired())
        await assert.rejects(joins(t, { ...redis.options, tls: { ...redis.options.tls, ...shown } }), { code: 'AFF_EREFUSED', message })
      })
    }

    async function expired() {
      const one = ca.sign(undefined, { days: 0 })
      await until(() => new Date(new X509Certificate(one.cert).validTo).getTime() < Date.now(), { what: 'it has expired' })
      return one
    }

    test('rejectUnauthorized: false believes everybody', async (t) => {
      const redis = await startRedis({ tls: its })
      t.after(() => redis.stop())
      await joins(t, { ...redis.options, tls: { ca: other.cert, rejectUnauthorized: false } })
    })

    test('TLS options that the engine does not know go through ioredis', async (t) => {
      const redis = await startRedis({ tls: its })
      t.after(() => redis.stop())
      await joins(t, { ...redis.options, tls: { ...redis.options.tls, minVersion: 'TLSv1.3' } })
      await assert.rejects(joins(t, { ...redis.options, tls: { ...redis.options.tls, ca: other.cert, minVersion: 'TLSv1.3' } }), { code: 'AFF_EREFUSED' })
    })

    test('what is no PEM, or does not fit, names the option', async () => {
      const bad = {
        'ca: no PEM certificate': { ca: 'nonsense' },
        'key needs cert': { key: mine.key },
        'it is not the key of cert': { cert: mine.cert, key: strangers.key },
      }
      for (const [problem, tls] of Object.entries(bad)) {
        const redis = new Redis({ host: '127.0.0.1', lazyConnect: true, tls })
        await assert.rejects(new RedisServerAffinity({ redis }).ready(), { name: 'AffinityError', code: 'AFF_EINVAL', message: new RegExp(`option "redis": .*${problem}`) })
      }
    })
  })

  test('later, a certificate that is not believed is an outage, told once, until Redis has the right one', async (t) => {
    const cluster = await startCluster(2, { redisOptions: { tls: its }, lockTTL: 2000 })
    t.after(() => cluster.stop())
    const [ann, bob] = await worksIn(cluster, t)
    cluster.redis.setTLS({ ...other.sign('IP:127.0.0.1'), ca: ca.cert })
    await cluster.redis.restart()
    const warnings = (server) => server.output().match(/Redis can't be used: TLS: [^\n]*certificate/g)?.length ?? 0
    await until(() => cluster.servers.every((server) => warnings(server) > 0), { timeout: 20_000, what: 'both servers say why' })
    cluster.redis.setTLS(its)
    await cluster.redis.restart()
    type(ann, '!')
    await showing('hello!', [ann, bob], { timeout: 20_000 })
    assert.deepEqual(cluster.servers.map(warnings), [1, 1])
    assert.deepEqual(cluster.servers.map((server) => server.exit), [null, null])
  })
})

describe('which way to Redis', () => {
  test('host, port and names', () => {
    const { address } = routeOf('rediss://me:pa%20ss@redis.test:7000/3')
    assert.deepEqual(
      { ...address, tlsCA: undefined, connectTimeout: undefined },
      {
        host: 'redis.test',
        port: 7000,
        family: 0,
        username: 'me',
        password: 'pa ss',
        db: 3,
        hasTLS: true,
        tlsRejectUnauthorized: true,
        connectTimeout: undefined,
        tlsCA: undefined,
        tlsCert: undefined,
        tlsKey: undefined,
        tlsPassphrase: undefined,
        tlsServerName: undefined,
      },
    )
    assert.ok(textOf(address.tlsCA).includes(rootCertificates[0]))
    assert.equal(routeOf({ host: 'redis.test', tls: { host: 'other.test', port: 1 } }).address.host, 'other.test')
    assert.deepEqual([routeOf('redis://redis.test?family=6'), routeOf({ family: 4, tls: {} })].map((route) => route.address.family), [6, 4])
    assert.match(routeOf({ family: '6' }).reason, /family/)
    assert.equal(routeOf({ host: 'münchen.test' }).address.host, 'xn--mnchen-3ya.test')
    assert.deepEqual(Object.keys(routeOf({ path: '/run/redis.sock' }).address).sort(), ['connectTimeout', 'db', 'password', 'path', 'username'])
  })

  test('certificates and keys, as Node takes them', () => {
    const bytes = (text) => new Uint8Array(Buffer.from(text))
    const forms = [
      { ca: 'CA', cert: 'CERT', key: 'KEY', passphrase: 'P' },
      { ca: Buffer.from('CA'), cert: bytes('CERT'), key: Buffer.from('KEY'), passphrase: 'P' },
      { ca: ['CA'], cert: ['CERT'], key: [{ pem: 'KEY', passphrase: 'P' }] },
      { ca: [bytes('CA')], cert: [Buffer.from('CERT')], key: ['KEY'], passphrase: 'P', minVersion: 'TLSv1.2', pfx: undefined },
    ]
    for (const tls of forms) {
      const { address } = routeOf({ tls })
      assert.deepEqual([address.tlsCA, address.tlsCert, address.tlsKey, address.tlsPassphrase].map(textOf), ['CA\n', 'CERT', 'KEY', 'P'])
    }
    assert.equal(textOf(routeOf({ tls: { ca: ['A', 'B'] } }).address.tlsCA), 'A\nB\n')
    assert.equal(routeOf({ tls: { rejectUnauthorized: false } }).address.tlsRejectUnauthorized, false)
  })

  test('what the engine does not know of is not passed over', () => {
    const unknown = {
      checkServerIdentity: () => undefined,
      pfx: Buffer.from('x'),
      secureContext: {},
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.2',
      ciphers: 'AES128-SHA',
      ALPNProtocols: ['redis'],
      servername: '',
      ca: [],
      cert: ['a', 'b'],
      key: ['a', 'b'],
      session: Buffer.from('x'),
      secureProtocol: 'TLSv1_2_method',
    }
    for (const [name, value] of Object.entries(unknown)) {
      assert.match(reasonOf({ [name]: value }) ?? `${name} was passed over`, new RegExp(`"${name}"`))
    }
    assert.match(routeOf({ path: '/run/redis.sock', tls: {} }).reason, /Unix socket/)
    assert.match(routeOf({ sentinels: [{ host: 'a', port: 1 }], name: 'm' }).reason, /Sentinel/)
  })
})
