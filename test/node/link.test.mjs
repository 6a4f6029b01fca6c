// The option `link`: servers that can reach each other send directly, and Redis is idle meanwhile.
import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import net from 'node:net'
import os from 'node:os'
import path from 'node:path'
import { describe, test } from 'node:test'
import { connect, showing, synced, text, type, unsynced } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { until } from '../support/wait.mjs'

process.env.DEBUG = 'redis-affinity' // the servers tell their ports

const LINKED = { secret: 'a secret of the cluster', link: { listen: '127.0.0.1:0' } }

const stats = (server) => server.run(({ affinity }) => affinity.stats())
const portOf = (server) => Number(/direct links: listening at port (\d+)/.exec(server.output())?.[1])
const published = async (redis) => Number(/cmdstat_publish:calls=(\d+)/.exec(await redis.client.info('commandstats'))?.[1] ?? 0)

async function pair(t, options = LINKED, each = [{}, {}], scene = {}) {
  const cluster = await startCluster(0, options)
  t.after(() => cluster.stop())
  const s1 = (scene.s1 = await cluster.add('s1', each[0]))
  const s2 = await cluster.add('s2', each[1])
  const ann = await synced(connect({ url: s1.url, name: 'doc' }))
  const bob = await synced(connect({ url: s2.url, name: 'doc' }))
  t.after(() => [ann, bob].forEach((provider) => provider.destroy()))
  return Object.assign(scene, { cluster, s1, s2, ann, bob })
}

/** Both type until both servers send directly. */
async function linked({ s1, s2, ann, bob }) {
  await until(
    async () => {
      type(ann, 'a')
      type(bob, 'b')
      const links = await Promise.all([stats(s1), stats(s2)])
      return links.every((server) => server.links === 1)
    },
    { every: 20, what: 'both servers have a direct link' },
  )
  await until(() => text(ann) === text(bob) && unsynced(ann) + unsynced(bob) === 0)
}

async function typesDirectly(scene) {
  const { cluster, s2, ann, bob } = scene
  await linked(scene)
  // A process that gets no time for a second has its links given up; then they come back.
  await until(
    async () => {
      const before = await published(cluster.redis)
      const { batchesDirect: sent } = await stats(s2)
      for (let n = 0; n < 50; n++) {
        type(n % 2 ? ann : bob, `${n} `)
        await until(() => unsynced(ann) + unsynced(bob) === 0)
      }
      await until(() => text(ann) === text(bob))
      return (await published(cluster.redis)) === before && (await stats(s2)).batchesDirect - sent >= 25
    },
    { timeout: 20_000, what: 'Redis carries nothing of what is typed' },
  )
}

describe('direct links', () => {
  test('what clients type goes from server to server, and nothing of it through Redis', async (t) => {
    const scene = await pair(t)
    await typesDirectly(scene)
    type(scene.bob, 'y'.repeat(2_000_000)) // in fragments, and more than the credit of a link's beginning
    await until(() => text(scene.ann).includes('y'.repeat(2_000_000)))
  })

  test('with TLS, each side showing a certificate', async (t) => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-tls-'))
    t.after(() => rmSync(folder, { recursive: true, force: true }))
    const { key, cert } = certificate(folder)
    const scene = await pair(t, { ...LINKED, link: { ...LINKED.link, tls: { key, cert, ca: cert } } })
    await typesDirectly(scene)
  })

  test('with a certificate that is not trusted everything goes through Redis', async (t) => {
    const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-tls-'))
    t.after(() => rmSync(folder, { recursive: true, force: true }))
    const one = certificate(folder)
    const scene = await pair(t, { ...LINKED, link: { ...LINKED.link, tls: { key: one.key, cert: one.cert } } })
    await showingBoth(scene, 'x')
    await until(() => /no direct link .*certificate/.test(scene.s2.output()), { what: 'the log says why' })
    assert.equal((await stats(scene.s2)).links, 0)
  })

  test('a server without the option works with one that has it, through Redis', async (t) => {
    const scene = await pair(t, { secret: LINKED.secret }, [{ link: LINKED.link }, {}])
    await showingBoth(scene, 'hello')
    assert.equal((await stats(scene.s1)).batchesDirect, 0)
    assert.equal((await stats(scene.s2)).batchesDirect, 0)
  })

  test('a server that can not be reached is served through Redis', async (t) => {
    const closed = net.createServer().listen(0, '127.0.0.1')
    await once(closed, 'listening')
    const { port } = closed.address()
    closed.close()
    const scene = await pair(t, LINKED, [{ link: { listen: '127.0.0.1:0', advertise: `127.0.0.1:${port}` } }, {}])
    await showingBoth(scene, 'hello')
    await until(() => /no direct link .*refused/.test(scene.s2.output()), { what: 'the log says why' })
    assert.equal((await stats(scene.s2)).links, 0)
    await until(async () => {
      type(scene.ann, '.')
      return (await stats(scene.s1)).links === 1
    }, { every: 20, what: 'the other direction has one' })
    await showingBoth(scene, 'again')
  })

  test('H31 who does not have the secret is hung up on, whatever it says', async (t) => {
    const scene = await pair(t)
    await linked(scene)
    for (const bytes of ['GET / HTTP/1.1\r\n\r\n', '\0\0\0\x20' + 'x'.repeat(32), '\0\x10\0\0', '\0\0\0\0', '\xff\xff\xff\xff']) {
      const socket = net.connect(portOf(scene.s1), '127.0.0.1')
      socket.on('error', () => {})
      socket.resume()
      socket.write(bytes, 'latin1')
      await once(socket, 'close')
    }
    assert.ok((await stats(scene.s1)).forged >= 2)
    await typesDirectly(scene)
  })

  test('H31 what was recorded on the way to one server opens nothing when it is said again', async (t) => {
    const heard = []
    const scene = {}
    const recorder = net.createServer()
    recorder.on('connection', (socket) => {
      const onward = net.connect(portOf(scene.s1), '127.0.0.1')
      socket.on('data', (data) => heard.push(data))
      socket.pipe(onward).pipe(socket)
      for (const side of [socket, onward]) side.on('error', () => {})
    })
    recorder.listen(0, '127.0.0.1')
    await once(recorder, 'listening')
    t.after(() => recorder.close())
    await pair(t, LINKED, [{ link: { listen: '127.0.0.1:0', advertise: `127.0.0.1:${recorder.address().port}` } }, {}], scene)
    await linked(scene)
    const before = await stats(scene.s1)
    const socket = net.connect(portOf(scene.s1), '127.0.0.1')
    socket.on('error', () => {})
    const said = []
    socket.on('data', (data) => said.push(data))
    socket.write(Buffer.concat(heard))
    await once(socket, 'close')
    assert.equal(Buffer.concat(said).length, 4 + 16, 'the nonce of another connection, and nothing else')
    assert.equal((await stats(scene.s1)).framesIn, before.framesIn)
    await typesDirectly(scene)
  })

  test('a port that is taken is said so, with the option', async (t) => {
    const taken = net.createServer().listen(0, '127.0.0.1')
    await once(taken, 'listening')
    t.after(() => taken.close())
    const cluster = await startCluster(0)
    t.after(() => cluster.stop())
    await assert.rejects(cluster.add('s1', { ...LINKED, link: { listen: `127.0.0.1:${taken.address().port}` } }), /option "link".*in use/)
  })
})

test('bad values of `link` are refused, with the name of the part', async () => {
  const { RedisServerAffinity } = await import('@hocuspocus/extension-redis-affinity')
  const { Redis } = await import('ioredis')
  const redis = new Redis({ lazyConnect: true })
  const secret = 'hush'
  const listen = '127.0.0.1:0'
  const refused = [
    ['link', true],
    ['link', null],
    ['link', []],
    ['link.port', { listen, port: 5 }],
    ['link.listen', {}],
    ['link.listen', { listen: -1 }],
    ['link.listen', { listen: 65_536 }],
    ['link.listen', { listen: 1.5 }],
    ['link.listen', { listen: 'localhost' }],
    ['link.listen', { listen: 'localhost:port' }],
    ['link.listen', { listen: '127.0.0.1:65536' }],
    ['link.listen', { listen: `${'a'.repeat(256)}:1` }],
    ['link.advertise', { listen: 0 }],
    ['link.advertise', { listen: '[::]:0' }],
    ['link.advertise', { listen, advertise: '' }],
    ['link.advertise', { listen, advertise: 'host:0' }],
    ['link.advertise', { listen, advertise: 5 }],
    ['link.advertise', { listen, advertise: 'a:b:c' }],
    ['link.tls', { listen, tls: true }],
    ['link.tls.pem', { listen, tls: { key: 'k', cert: 'c', pem: 'p' } }],
    ['link.tls.key', { listen, tls: { cert: 'c' } }],
    ['link.tls.cert', { listen, tls: { key: 'k' } }],
    ['link.tls.ca', { listen, tls: { key: 'k', cert: 'c', ca: 5 } }],
    ['link.tls.passphrase', { listen, tls: { key: 'k', cert: 'c', passphrase: 5 } }],
    ['link.tls.servername', { listen, tls: { key: 'k', cert: 'c', servername: '' } }],
    ['link.tls.rejectUnauthorized', { listen, tls: { key: 'k', cert: 'c', rejectUnauthorized: 'no' } }],
  ]
  for (const [part, link] of refused) {
    assert.throws(
      () => new RedisServerAffinity({ redis, secret, link }),
      (error) => error.code === 'AFF_EINVAL' && error.message.includes(`option "${part}"`),
      `${part} ${JSON.stringify(link)}`,
    )
  }
  const pack = { pack: (message) => JSON.stringify(message), unpack: JSON.parse }
  assert.throws(() => new RedisServerAffinity({ redis, link: { listen } }), /option "link" needs the option "secret"/)
  assert.throws(() => new RedisServerAffinity({ redis, secret, link: { listen }, ...pack }), /option "(pack|link)"/)
  // What only the engine can tell, it tells by name too.
  const started = new RedisServerAffinity({ redis, secret, link: { listen, tls: { key: 'no PEM', cert: 'no PEM' } } })
  assert.throws(() => started.stats(), (error) => error.code === 'AFF_EINVAL' && /option "link": .*(PEM|certificate|key)/i.test(error.message))
  for (const good of [{ listen }, { listen: 0, advertise: 'host' }, { listen: '[::1]:0' }, { listen: '0.0.0.0:0', advertise: '[::1]:5' }]) {
    new RedisServerAffinity({ redis, secret, link: good })
  }
})

async function showingBoth({ ann, bob }, string) {
  type(ann, string)
  await showing(text(ann), [ann, bob])
  type(bob, string)
  await showing(text(bob), [ann, bob])
}

/** Signed by itself; for 127.0.0.1. */
function certificate(folder) {
  const [keyFile, certFile] = ['key.pem', 'cert.pem'].map((name) => path.join(folder, name))
  const config = path.join(folder, 'openssl.cnf')
  writeFileSync(config, '[req]\ndistinguished_name = dn\nx509_extensions = ext\nprompt = no\n[dn]\nCN = a server\n[ext]\nsubjectAltName = IP:127.0.0.1\n')
  execFileSync('openssl', ['req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes', '-days', '2', '-config', config, '-keyout', keyFile, '-out', certFile], { stdio: 'pipe' })
  return { key: readFileSync(keyFile, 'utf8'), cert: readFileSync(certFile, 'utf8') }
}
