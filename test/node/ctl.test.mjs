// affinityctl against real servers and a real redis-server.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'
import { describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { authority } from '../support/certificates.mjs'
import { connect, synced, text, type } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { startRedisCluster } from '../support/redis-cluster.mjs'
import { freePort, startRedis } from '../support/redis.mjs'
import { until } from '../support/wait.mjs'

const [program, ...first] = (process.env.AFFINITYCTL ?? fileURLToPath(new URL('../../build/affinityctl', import.meta.url))).split(' ')

/** Starts it; `done` resolves with `{ code, out, err }`. A second one to end: none is left behind. */
function start(redis, args, { env = {}, input = '' } = {}) {
  const url = redis === undefined ? {} : { REDIS_URL: redis.url ?? redis }
  const child = spawn(program, [...first, ...args], { env: { PATH: process.env.PATH, ...url, ...env }, timeout: 60_000 })
  const run = { child, out: '', err: '' }
  child.stdout.on('data', (data) => (run.out += data))
  child.stderr.on('data', (data) => (run.err += data))
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  run.done = new Promise((resolve) => child.on('close', (code, signal) => resolve({ code: code ?? signal, out: run.out, err: run.err })))
  return run
}
const ctl = (redis, ...args) => start(redis, args).done
async function json(redis, ...args) {
  const { code, out, err } = await ctl(redis, '--json', ...args)
  assert.equal(code, 0, err)
  return JSON.parse(out)
}

/** The same at a terminal, which script(1) gives it; the question is answered so. */
function atTerminal(redis, args, answer) {
  return new Promise((resolve) => {
    const child = spawn('script', ['-qec', [program, ...first, ...args].join(' '), '/dev/null'], { env: { PATH: process.env.PATH, REDIS_URL: redis.url }, timeout: 30_000 })
    let out = ''
    child.stdout.on('data', (data) => {
      out += data
      if (out.includes('[y/N]') && !child.stdin.writableEnded) child.stdin.end(`${answer}\n`)
    })
    child.on('close', (code) => resolve({ code, out }))
  })
}

function folderOf(t) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-ctl-'))
  t.after(() => rmSync(folder, { recursive: true, force: true }))
  return (name, content) => {
    writeFileSync(path.join(folder, name), content)
    return path.join(folder, name)
  }
}

/** `a` (clients at s1 and s2) and `b` (client at s2) are owned by s1. */
async function twoServers(t, options) {
  const cluster = await startCluster(2, { lockTTL: 2000, ...options })
  t.after(() => cluster.stop())
  const [s1, s2] = cluster.servers
  const open = async (server, name) => {
    const provider = connect({ url: server.url, name })
    t.after(() => provider.destroy())
    return synced(provider)
  }
  const first = [await open(s1, 'a'), await open(s1, 'b')]
  const others = [await open(s2, 'a'), await open(s2, 'b')]
  first[1].destroy()
  await until(async () => (await s1.connections('b')) === 1)
  return { cluster, redis: cluster.redis, s1, s2, open, ann: first[0], ben: others[0], bea: others[1] }
}

/**
 * A member of the cluster that owns a document, and answers as `answers` says: what comes, or nothing for undefined. For
 * what no real server can be brought to say.
 */
async function impostor(t, redis, serverId, document, answers) {
  const boot = 'facefacefacef00d'
  const channel = `rsaLink:${boot.slice(0, 12)}`
  await redis.client.set(`rsaServer:${serverId}`, boot)
  await redis.client.set(`rsaLock:${document}`, `7 ${boot} ${serverId}`)
  const listener = redis.client.duplicate()
  t.after(() => listener.disconnect())
  await listener.subscribe(channel)
  listener.on('messageBuffer', async (_, message) => {
    const end = 10 + message.readUInt16LE(8)
    const { id, ask } = JSON.parse(message.subarray(end))
    const outcome = await answers[ask]()
    if (outcome === undefined) return
    const head = Buffer.from(message.subarray(0, 10))
    head.writeUInt16LE(channel.length, 8)
    await redis.client.publish(message.subarray(10, end).toString(), Buffer.concat([head, Buffer.from(channel + JSON.stringify({ re: id, ...outcome }))]))
  })
}

describe('servers, documents, owner', () => {
  test('show what is there', async (t) => {
    const { redis, cluster, s1, s2 } = await twoServers(t)
    const listed = await until(async () => {
      const { servers } = await json(redis, 'servers')
      return servers[0]?.documents === 2 && servers[1]?.sockets === 2 && servers
    })
    assert.deepEqual(
      listed.map(({ serverId, alive, draining, documents, pid }) => ({ serverId, alive, draining, documents, pid })),
      [
        { serverId: 's1', alive: true, draining: false, documents: 2, pid: s1.pid },
        { serverId: 's2', alive: true, draining: false, documents: 0, pid: s2.pid },
      ],
    )
    const table = (await ctl(redis, 'servers')).out.split('\n')
    assert.match(table[0], /^SERVER {2}STATE {2,}DOCUMENTS/)
    assert.match(table[1], /^s1 {6}alive +2 /)

    const { documents, servers, failed } = await json(redis, 'documents')
    assert.deepEqual(
      documents.map(({ name, server, clients, from }) => ({ name, server, clients, from })),
      [
        { name: 'a', server: 's1', clients: 2, from: { s1: 1, s2: 1 } },
        { name: 'b', server: 's1', clients: 1, from: { s2: 1 } },
      ],
    )
    assert.deepEqual([servers.map(({ server, total }) => [server, total]), failed], [[['s1', 2], ['s2', 0]], []])
    assert.deepEqual((await json(redis, 'documents', '--server', 's2')).documents, [])
    assert.deepEqual((await json(redis, 'documents', '--starting', 'b')).documents.map(({ name }) => name), ['b'])
    const cut = await ctl(redis, 'documents', '--limit', '1')
    assert.match(cut.out, /^DOCUMENT.*\na +s1 +2 +\d+ +s1:1 s2:1\n$/)
    assert.match(cut.err, /server "s1" has 2 documents; these are the 1 with most clients/)

    const owner = await json(redis, 'owner', 'a')
    assert.deepEqual([owner.owned, owner.server, owner.epoch], [true, 's1', documents[0].epoch])
    assert.match((await ctl(redis, 'owner', 'a')).out, /^s1, epoch \d+, boot [0-9a-f]{16}\n$/)
    assert.deepEqual(await ctl(redis, 'owner', 'nothing'), { code: 1, out: 'nobody owns it\n', err: '' })

    const nobody = await ctl(redis, 'documents', '--server', 'nobody')
    assert.deepEqual([nobody.code, nobody.err], [1, 'affinityctl: server "nobody" is no member of the cluster\n'])
  })

  test('a server that was killed is gone, and owns nothing', async (t) => {
    const { redis, s1, s2 } = await twoServers(t)
    await s2.kill()
    await s1.kill()
    await until(async () => (await json(redis, 'servers')).servers.every(({ alive }) => !alive))
    const { code, out } = await ctl(redis, 'owner', 'a')
    assert.equal(code, 1)
    assert.match(out, /^s1 had it, and is gone/)
    assert.match((await ctl(redis, 'servers')).out, /\ns1 {6}gone /)
    const doctor = await ctl(redis, 'doctor')
    assert.equal(doctor.code, 0)
    assert.match(doctor.out, /warn {2}server +s1 has gone without a word/)
  })

  test('a server that hangs is told of, and the others answer', async (t) => {
    const { redis, s1, s2 } = await twoServers(t, { lockTTL: 20_000 })
    process.kill(s2.pid, 'SIGSTOP')
    const { code, out, err } = await ctl(redis, 'documents', '--timeout', '1', '--json')
    assert.equal(code, 1)
    assert.deepEqual(JSON.parse(out).documents.map(({ name }) => name), ['a', 'b'])
    assert.match(err, /server "s2": no answer within 1 s/)
    assert.equal(await s1.connections('a'), 2)
  })

  test('names that would do something to a terminal do not', async (t) => {
    const hostile = ['\u001b[2J', 'a\nb', '\u009b31m', 'x\u202egnp', 'back\\slash', '日本', '-dash', '"\'`$(id)']
    const { cluster, redis, s1, open } = await twoServers(t)
    for (const name of hostile) await open(s1, name)
    const bad = await cluster.add('s\u001b[31m3')
    const { out } = await until(async () => {
      const result = await ctl(redis, 'documents')
      return result.out.includes('dash') && result
    })
    // biome-ignore lint/suspicious/noControlCharactersInRegex: that is what must not be there
    assert.doesNotMatch(out, /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u202e]/)
    for (const shown of ['\\u001b[2J', 'a\\u000ab', '\\u009b31m', 'x\\u202egnp', 'back\\\\slash', '日本']) assert.ok(out.includes(shown), shown)
    assert.deepEqual((await json(redis, 'documents')).documents.map(({ name }) => name).sort(), ['a', 'b', ...hostile].sort())
    assert.ok((await until(async () => (await ctl(redis, 'servers')).out.includes('s\\u001b[31m3'))))
    for (const name of hostile) assert.equal((await json(redis, 'owner', '--', name)).server, 's1')
    const dry = await ctl(redis, 'move', '--dry-run', '--', '\u001b[2J', 's2')
    assert.deepEqual([dry.code, dry.out, dry.err.includes('\u001b')], [0, '\\u001b[2J would go from s1 to s2; nothing was done\n', false])
    assert.deepEqual((await json(redis, 'documents', '--server', bad.serverId)).documents, [])
    const { err } = await ctl(redis, 'documents', '--server', '\u001b[2J')
    assert.equal(err, 'affinityctl: server "\\u001b[2J" is no member of the cluster\n')
  })

  test('what else stands in Redis harms nothing', async (t) => {
    const { redis } = await twoServers(t)
    const hash = ['x', '{', 'y', 'null', 'z', '{"serverId":"z","updatedAt":1}', 'w', '{"serverId":7}', 'v', Buffer.from([0xff])]
    await redis.client.hset('rsaServers', ...hash)
    await redis.client.set('rsaServer:z', 'no boot')
    await redis.client.set('rsaLock:odd', '9 0123456789abcdef s\n\u001b[2J')
    await redis.client.set('rsaLock:odder', '99999999999999999999 0123456789abcdef s1')
    await redis.client.set('rsaLock:bytes', Buffer.from([0xff, 0xfe]))
    const { servers } = await json(redis, 'servers')
    assert.deepEqual(servers.map(({ serverId, alive }) => [serverId, alive]), [['s1', true], ['s2', true], ['z', false]])
    assert.equal((await ctl(redis, 'servers')).code, 0)
    assert.match((await ctl(redis, 'owner', 'odd')).out, /^s\\u000a\\u001b\[2J had it, and is gone/)
    for (const name of ['odder', 'bytes']) assert.match((await ctl(redis, 'owner', name)).out, /its lease can't be read/)
  })
})

describe('with a secret', () => {
  test('the right one is answered, a wrong one and none are not', async (t) => {
    const file = folderOf(t)
    const { redis } = await twoServers(t, { secret: 'open sesame' })
    const right = await json(redis, 'documents', '--secret-file', file('right', 'open sesame\n'))
    assert.deepEqual(right.documents.map(({ name }) => name), ['a', 'b'])
    const wrong = await ctl(redis, 'documents', '--timeout', '1', '--secret-file', file('wrong', 'open barley'))
    assert.equal(wrong.code, 1)
    assert.match(wrong.err, /server "s1": no answer within 1 s: it hangs; or its secret is not the one of --secret-file/)
    const none = await ctl(redis, 'drain', 's1', '--yes', '--timeout', '1')
    assert.equal(none.code, 1)
    assert.match(none.err, /or it has a secret, and --secret-file must name it/)
    assert.match((await ctl(redis, 'servers', '--secret-file', file('empty', '\n'))).err, /--secret-file: .*must have 1 to 65536 bytes/)

    const watch = start(redis, ['watch', '--seconds', '20', '--json', '--secret-file', file('again', 'open sesame')])
    t.after(() => watch.child.kill('SIGKILL'))
    await until(() => /watching server "s1"/.test(watch.err))
    for (const to of ['s2', 's1']) assert.equal((await json(redis, 'move', 'a', to, '--yes', '--secret-file', file('right', 'open sesame'))).moved, true)
    const drained = await json(redis, 'drain', 's1', '--yes', '--secret-file', file('right', 'open sesame'))
    assert.deepEqual([drained.drained, drained.places], [true, { s2: 2 }])
    await until(() => watch.out.trim().split('\n').filter((line) => line.includes('"owned"')).length === 4)
    watch.child.kill('SIGINT')
    assert.equal((await watch.done).code, 0)
  })
})

describe('watch', () => {
  test('tells of a takeover, and of servers that come later', async (t) => {
    const { cluster, redis, s1, ben, open } = await twoServers(t)
    const watch = start(redis, ['watch', '--json'])
    const shown = start(redis, ['watch', '--server', 's2'])
    t.after(() => [watch, shown].forEach(({ child }) => child.kill('SIGKILL')))
    await until(() => /watching server "s1"/.test(watch.err) && /watching server "s2"/.test(watch.err) && /watching server "s2"/.test(shown.err))
    await s1.kill()
    type(ben, 'x') // somebody needs it
    const events = () => watch.out.trim().split('\n').filter(Boolean).map((line) => JSON.parse(line))
    await until(() => events().some(({ kind, by, documentName, server }) => kind === 'takeover' && by === 's2' && documentName === 'a' && server === 's1'))
    const owned = await until(() => events().find(({ kind, by, documentName }) => kind === 'owned' && by === 's2' && documentName === 'a'))
    assert.equal(owned.epoch, (await json(redis, 'owner', 'a')).epoch)
    assert.ok(Math.abs(owned.at - Date.now()) < 60_000)
    await until(() => /^\d\d:\d\d:\d\d\.\d{3} {2}s2 {2}takeover {2}a {2}server s1 {2}epoch \d+$/m.test(shown.out))

    const s3 = await cluster.add('s3')
    await until(() => /watching server "s3"/.test(watch.err))
    await open(s3, 'late')
    await until(() => events().some(({ kind, by, documentName }) => kind === 'owned' && by === 's3' && documentName === 'late'))
    assert.ok(!shown.out.includes('late'))

    // Redis goes and comes: it goes on.
    await redis.restart()
    let n = 0
    await until(
      async () => {
        await open(s3, `later-${n++}`) // what happens while it is not subscribed again is not seen
        return events().some(({ documentName }) => documentName?.startsWith('later'))
      },
      { timeout: 30_000 },
    )
    for (const { child } of [watch, shown]) child.kill('SIGTERM')
    assert.deepEqual([(await watch.done).code, (await shown.done).code], [0, 0])
  })

  test('is bounded, and needs a server', async (t) => {
    const { redis } = await twoServers(t)
    assert.deepEqual(await ctl(redis, 'watch', '--server', 'nobody'), { code: 1, out: '', err: 'affinityctl: server "nobody" is no member of the cluster\n' })
    const { code } = await ctl(redis, 'watch', '--seconds', '1')
    assert.equal(code, 0)
    const watches = Array.from({ length: 17 }, () => start(redis, ['watch', '--server', 's1', '--seconds', '30']))
    t.after(() => watches.forEach(({ child }) => child.kill('SIGKILL')))
    await until(() => watches.some(({ err }) => /is not watched: 16 others watch this server already \(AFF_EFULL\)/.test(err)), { timeout: 30_000 })
  })
})

describe('drain', () => {
  test('moves all documents; sockets stay open and edits go on', async (t) => {
    const { redis, s1, s2, ann, ben, bea, open } = await twoServers(t)
    let n = 0
    const typing = setInterval(() => type(ben, `${n++} `), 10)
    t.after(() => clearInterval(typing))
    const { code, out, err } = await ctl(redis, 'drain', 's1', '--yes')
    assert.equal(code, 0, err)
    assert.match(err, /server "s1" has 2 open documents with 3 clients\. Draining stores each one and frees it for the 1 other server;/)
    assert.ok(!err.includes('alone'))
    assert.match(out, /^s1 is drained, in \d+\.\d s\.\n {2}2 documents: s2\nIt can be stopped now; its 1 socket is closed then/)
    clearInterval(typing)
    assert.deepEqual((await s1.documents()), [])
    assert.deepEqual((await s2.documents()).sort(), ['a', 'b'])
    type(ann, 'from the drained one')
    type(bea, 'b')
    await until(() => ann.document.getText('text').toString() === ben.document.getText('text').toString() && ben.document.getText('text').toString().includes('from the drained one'))
    assert.deepEqual([ann, ben, bea].map(({ socket }) => socket.closes), [[], [], []])

    // It claims nothing any more, and is a proxy for what others have.
    await open(s2, 'new')
    await open(s1, 'new')
    assert.equal((await json(redis, 'owner', 'new')).server, 's2')
    await until(async () => (await json(redis, 'servers')).servers[0].draining)
    const again = await json(redis, 'drain', 's1', '--yes')
    assert.deepEqual([again.drained, again.documents], [true, 0])
    assert.deepEqual(await s1.run(({ affinity }) => affinity.health().draining), true)
  })

  test('documents that only its own clients have open go too', async (t) => {
    const { redis, s1, s2 } = await twoServers(t)
    const alone = connect({ url: s1.url, name: 'alone' })
    t.after(() => alone.destroy())
    await synced(alone)
    const drained = await start(redis, ['drain', 's1', '--yes']).done
    assert.match(drained.out, /^s1 is drained, in .* s\.\n {2}\d documents?: s2\nIt can be stopped now/)
    type(alone, 'not lost')
    await until(async () => (await s2.text('alone')) === 'not lost')
    assert.deepEqual(alone.socket.closes, [])
  })

  test('asks first, and does nothing where nobody can say yes or nobody is there to take over', async (t) => {
    const { redis, s1, s2 } = await twoServers(t)
    const silent = await ctl(redis, 'drain', 's1')
    assert.equal(silent.code, 2)
    assert.match(silent.err, /nobody can be asked here: say --yes/)
    assert.equal(await s1.run(({ affinity }) => affinity.health().draining), false)
    assert.deepEqual(await ctl(redis, 'drain', 'nobody', '--yes'), { code: 1, out: '', err: 'affinityctl: server "nobody" is no member of the cluster\n' })

    await s2.stop()
    await until(async () => (await json(redis, 'servers')).servers.length === 1)
    const alone = await ctl(redis, 'drain', 's1', '--yes')
    assert.equal(alone.code, 1)
    assert.match(alone.err, /no other server is there to take the documents of "s1".*--force/)
    assert.equal(await s1.run(({ affinity }) => affinity.health().draining), false)
    const forced = await json(redis, 'drain', 's1', '--yes', '--force')
    assert.equal(forced.left, 0)
  })

  test('at a terminal it waits for a yes', async (t) => {
    const { redis, s1 } = await twoServers(t)
    const no = await atTerminal(redis, ['drain', 's1'], '')
    assert.deepEqual([no.code, /nothing was done/.test(no.out)], [1, true])
    assert.equal(await s1.run(({ affinity }) => affinity.health().draining), false)
    const yes = await atTerminal(redis, ['drain', 's1'], 'y')
    assert.deepEqual([yes.code, /s1 is drained/.test(yes.out)], [0, true])
  })

  test('a server that dies meanwhile is told of', async (t) => {
    const { redis, s1 } = await twoServers(t, {
      setup: () => ({ beforeWrite: () => new Promise((resolve) => setTimeout(resolve, 60_000)) }),
    })
    const drain = start(redis, ['drain', 's1', '--yes'])
    await until(() => s1.run(({ affinity }) => affinity.health().draining))
    await s1.kill()
    const { code, err } = await drain.done
    assert.equal(code, 1)
    assert.match(err, /server "s1"(, while it drained)?: (nobody listens on its channel|no answer)/)
  })
})

describe('move', () => {
  const plan = /^affinityctl: document "a" is at server "s1", and 2 clients have it open\. It is stored there, and goes to "s2"; no client's socket is closed, they pause for a moment\.\n$/
  const lease = (redis, name) => redis.client.get(`rsaLock:${name}`)
  /** Refused, with nothing on standard output; what it says. */
  async function refusal(redis, ...args) {
    const { code, out, err } = await ctl(redis, 'move', ...args)
    assert.deepEqual([code, out], [1, ''], err)
    return err
  }

  test('moves a document while people type, and says who has it then', async (t) => {
    const { redis, s1, s2, ann, ben } = await twoServers(t)
    const timer = setInterval(() => [ann, ben].forEach((typist) => type(typist, '.')), 20)
    t.after(() => clearInterval(timer))
    const { code, out, err } = await ctl(redis, 'move', 'a', 's2', '--yes')
    assert.deepEqual([code, plan.test(err)], [0, true], err)
    assert.match(out, /^a is at s2 now, after \d+ ms\n$/)
    assert.equal((await json(redis, 'owner', 'a')).server, 's2')
    await until(async () => !(await s1.documents()).includes('a') && (await s2.documents()).includes('a'))
    const written = text(ben).length
    await until(() => text(ann).length > written + 10 && text(ben).length > written + 10, { what: 'they type on' })
    clearInterval(timer)
    await until(() => !ann.hasUnsyncedChanges && !ben.hasUnsyncedChanges)
    await until(async () => (await s2.text('a')) === text(ann) && text(ann) === text(ben))
    const { ms, ...back } = await json(redis, 'move', 'a', 's1', '--yes')
    assert.deepEqual(back, { document: 'a', from: 's2', to: 's1', clients: 2, moved: true, dryRun: false })
    assert.ok(ms >= 0)
    assert.deepEqual([ann, ben].map(({ socket }) => socket.closes), [[], []])
  })

  test('a dry run says what it would do, and changes nothing', async (t) => {
    const { redis, cluster, s1, s2 } = await twoServers(t)
    const before = { lease: await lease(redis, 'a'), loads: cluster.store.loads('a').length }
    for (const more of [[], ['--yes']]) {
      const { code, out, err } = await ctl(redis, 'move', 'a', 's2', '--dry-run', ...more)
      assert.deepEqual([code, out, plan.test(err)], [0, 'a would go from s1 to s2; nothing was done\n', true], err)
    }
    const told = await ctl(redis, 'move', 'a', 's2', '--dry-run', '--json')
    assert.deepEqual([told.code, told.err], [0, ''])
    assert.deepEqual(JSON.parse(told.out), { document: 'a', from: 's1', to: 's2', clients: 2, moved: false, dryRun: true, ms: 0 })
    assert.deepEqual({ lease: await lease(redis, 'a'), loads: cluster.store.loads('a').length }, before)
    assert.deepEqual([(await s1.documents()).includes('a'), await s2.documents()], [true, []])
    // It refuses what a move would refuse.
    assert.equal(await refusal(redis, 'a', 's9', '--dry-run'), 'affinityctl: server "s9" is no member of the cluster\n')
  })

  test('asks first: it moves nothing where nobody says yes', async (t) => {
    const { redis } = await twoServers(t)
    const before = await lease(redis, 'a')
    for (const more of [[], ['--json']]) {
      const { code, out, err } = await ctl(redis, 'move', 'a', 's2', ...more)
      assert.deepEqual([code, out], [2, ''])
      assert.match(err, /goes to "s2".*\n.*move: nobody can be asked here: say --yes\n$/)
    }
    const no = await atTerminal(redis, ['move', 'a', 's2'], 'n')
    assert.deepEqual([no.code, /Move it\? \[y\/N\]/.test(no.out), /nothing was done/.test(no.out)], [1, true, true])
    assert.equal(await lease(redis, 'a'), before)
    const yes = await atTerminal(redis, ['move', 'a', 's2'], 'y')
    assert.deepEqual([yes.code, /a is at s2 now/.test(yes.out)], [0, true])
  })

  test('what is there already stays, and what is locked', async (t) => {
    const { redis, s1 } = await twoServers(t)
    const before = await lease(redis, 'a')
    assert.deepEqual(await ctl(redis, 'move', 'a', 's1'), { code: 0, out: 'a is at s1 already\n', err: '' })
    assert.deepEqual(await json(redis, 'move', 'a', 's1'), { document: 'a', from: 's1', to: 's1', clients: 2, moved: false, dryRun: false, ms: 0 })
    assert.equal(await lease(redis, 'a'), before)

    await s1.lockDocument('a')
    const lines = (await refusal(redis, 'a', 's2', '--yes')).split('\n')
    assert.deepEqual(lines.slice(1), [
      'affinityctl: server "s1": document "a" is locked by lockDocument: it stays (AFF_EINVAL)',
      'affinityctl: document "a" is at server "s1" now',
      '',
    ])
    await s1.release('a')
    assert.equal((await json(redis, 'move', 'a', 's2', '--yes')).moved, true)
  })

  test('a document that nobody has open is not moved', async (t) => {
    const { redis, s1 } = await twoServers(t)
    assert.equal(await refusal(redis, 'nothing', 's2', '--yes'), 'affinityctl: document "nothing": nobody has it open\n')
    await redis.client.set('rsaLock:former', '9 0123456789abcdef s1') // of a process that was s1 before
    assert.equal(await refusal(redis, 'former', 's2', '--yes'), 'affinityctl: document "former": nobody has it open; server "s1" had it, and is gone\n')
    await redis.client.set('rsaLock:odd', 'no lease')
    assert.equal(await refusal(redis, 'odd', 's2', '--yes'), 'affinityctl: document "odd": nobody has it open\n')
    await s1.lockDocument('locked')
    assert.equal(await refusal(redis, 'locked', 's2', '--yes'), 'affinityctl: document "locked": nobody has it open; server "s1" holds its lease\n')
    await redis.client.lpush('rsaLock:type', 'x')
    assert.match(await refusal(redis, 'type', 's2', '--yes'), /^affinityctl: Redis: WRONGTYPE/)
  })

  test('a server that could not take it gets nothing', async (t) => {
    const { redis, cluster, s2 } = await twoServers(t)
    const before = await lease(redis, 'a')
    assert.equal(await refusal(redis, 'a', 's9', '--yes'), 'affinityctl: server "s9" is no member of the cluster\n')
    const s3 = await cluster.add('s3')
    await s3.kill()
    // At once its membership stands still: nobody listens.
    assert.match(await refusal(redis, 'a', 's3', '--yes'), /^affinityctl: server "s3"(: nobody listens on its channel| is no member)/)
    await until(async () => (await redis.client.get('rsaServer:s3')) === null)
    assert.equal(await refusal(redis, 'a', 's3', '--yes'), 'affinityctl: server "s3" is no member of the cluster\n')
    await s2.run(({ affinity }) => affinity.drain())
    await until(async () => (await json(redis, 'servers')).servers.some(({ draining }) => draining))
    assert.equal(await refusal(redis, 'a', 's2', '--yes'), 'affinityctl: server "s2" is draining: it takes no documents\n')
    assert.equal(await lease(redis, 'a'), before)
  })

  test('both servers must answer', async (t) => {
    const { redis, s1, s2 } = await twoServers(t, { lockTTL: 20_000 })
    const before = await lease(redis, 'a')
    for (const { serverId, pid } of [s2, s1]) {
      process.kill(pid, 'SIGSTOP')
      assert.match(await refusal(redis, 'a', 's2', '--yes', '--timeout', '1'), new RegExp(`^affinityctl: server "${serverId}": no answer within 1 s: it hangs; `))
      process.kill(pid, 'SIGCONT')
    }
    assert.equal(await lease(redis, 'a'), before)
  })

  test('an owner that stores for long moves it later, and that is said', async (t) => {
    const setup = () => ({ beforeWrite: () => new Promise((resolve) => (globalThis.isSlow ? (globalThis.goOn = resolve) : resolve())) })
    const { redis, s1, s2, ann } = await twoServers(t, { setup })
    await s1.run(() => (globalThis.isSlow = true))
    type(ann, 'x')
    await until(() => s1.run(() => globalThis.goOn !== undefined))
    const lines = (await refusal(redis, 'a', 's2', '--yes', '--timeout', '1')).split('\n')
    assert.deepEqual(lines.slice(1), [
      'affinityctl: server "s1": no answer within 1 s: it stores the document first, and may still move it',
      'affinityctl: document "a" is at server "s1" now',
      '',
    ])
    await s1.run(() => {
      globalThis.isSlow = false
      globalThis.goOn()
    })
    await until(async () => (await s2.documents()).includes('a'))
    assert.equal((await json(redis, 'owner', 'a')).server, 's2')
  })

  test('says who has it whatever its owner says', async (t) => {
    const { redis, s2 } = await twoServers(t)
    const listed = { answer: { total: 1, documents: [{ name: 'x', epoch: 7, clients: 1, from: { f: 1 } }] } }
    let outcome
    await impostor(t, redis, 'f', 'x', { documents: () => listed, move: () => outcome() })
    const move = (...more) => ctl(redis, 'move', 'x', 's2', '--yes', '--timeout', '1', ...more)
    const after = ({ code, out, err }) => [code, out.replace(/\d+ ms/, 'n ms'), err.split('\n').slice(1, -1).map((line) => line.replace('affinityctl: ', ''))]

    outcome = () => ({ answer: { from: 'f', to: 's3' } })
    assert.deepEqual(after(await move()), [1, 'x is at s3 now, after n ms\n', ['document "x" did not go to server "s2"']])
    outcome = () => ({ answer: { from: 'f' } })
    assert.deepEqual(after(await move()), [1, 'x: nobody has it open any more\n', ['document "x" did not go to server "s2"']])
    const { ms, ...nobody } = JSON.parse((await move('--json')).out)
    assert.deepEqual([nobody, ms >= 0], [{ document: 'x', from: 'f', to: null, clients: 1, moved: false, dryRun: false }, true])
    outcome = () => ({ error: { code: 'AFF_EREDIS', message: 'no Redis' } })
    assert.deepEqual(after(await move()), [1, '', ['server "f": no Redis (AFF_EREDIS)', 'document "x" is at server "f" now']])
    // It goes, and the answer is lost.
    const boot = await redis.client.get('rsaServer:s2')
    outcome = () => void redis.client.set('rsaLock:x', `8 ${boot} s2`)
    const silence = 'server "f": no answer within 1 s: it stores the document first, and may still move it'
    assert.deepEqual(after(await move()), [0, 'x is at s2 now, after n ms\n', [silence]])
    await redis.client.set('rsaLock:x', `9 ${await redis.client.get('rsaServer:f')} f`)
    outcome = () => void redis.client.del('rsaLock:x')
    assert.deepEqual(after(await move()), [1, '', [silence, 'document "x": nobody has it open now']])
    assert.deepEqual(await s2.documents(), [])

    await redis.client.set('rsaLock:x', `10 ${await redis.client.get('rsaServer:f')} f`)
    await redis.client.hset('rsaServers', 'f', JSON.stringify({ serverId: 'f', updatedAt: Date.now(), draining: true }))
    assert.equal(await refusal(redis, 'x', 's2', '--yes'), 'affinityctl: server "f" is draining: it hands its documents on by itself\n')
  })
})

describe('doctor', () => {
  const checks = async (redis, ...args) => {
    const { code, out, err } = await ctl(redis, 'doctor', '--json', ...args)
    assert.equal(err, '')
    return { code, ok: JSON.parse(out).ok, ...Object.fromEntries(JSON.parse(out).checks.map(({ check, status, message }) => [check, `${status}: ${message}`])) }
  }

  test('finds nothing wrong with a Redis as it comes, and changes nothing', async (t) => {
    const { redis } = await twoServers(t)
    const before = await redis.client.keys('*')
    const result = await checks(redis)
    assert.deepEqual([result.code, result.ok], [0, true], JSON.stringify(result))
    for (const check of ['connection', 'version', 'mode', 'eviction', 'memory', 'buffers', 'timeout', 'clock', 'access', 'pubsub', 'servers']) assert.match(result[check], /^ok: /, check)
    assert.match(result.servers, /2 are members/)
    assert.deepEqual((await redis.client.keys('*')).sort(), before.sort())
    const { out } = await ctl(redis, 'doctor')
    assert.match(out, /^ok {4}connection /)
  })

  test('finds what is wrong with others', async (t) => {
    const args = ['--maxmemory', '100mb', '--maxmemory-policy', 'allkeys-lru', '--client-output-buffer-limit', 'pubsub 1mb 256kb 10', '--timeout', '5']
    const redis = await startRedis({ args })
    t.after(() => redis.stop())
    const result = await checks(redis)
    assert.deepEqual([result.code, result.ok], [1, false])
    assert.match(result.eviction, /^fail: maxmemory-policy is allkeys-lru: .*set noeviction/)
    assert.match(result.buffers, /^warn: .*pubsub 1048576 262144 10/)
    assert.match(result.timeout, /^warn: .*after 5 s/)
    await redis.client.config('SET', 'maxmemory', '0')
    assert.match((await checks(redis)).eviction, /^warn: /)
    await redis.client.config('SET', 'maxmemory-policy', 'noeviction', 'maxmemory', '1mb')
    assert.match((await checks(redis)).memory, /^fail: .*raise maxmemory/)
  })

  test('says what it may not look at, and what servers may not do', async (t) => {
    const rights = 'resetkeys resetchannels -@all ~rsaLock:* ~rsaServer:* ~rsaServers &rsaLink:* +ping +client|setname +eval +get +set +del +pexpire +time +publish +subscribe +unsubscribe +pubsub|numsub +hset +hvals +hdel'
    const redis = await startRedis({ port: true, acl: [`fine on >pw ${rights}`, `poor on >pw ${rights} -set`, `deaf on >pw ${rights} -subscribe`] })
    t.after(() => redis.stop())
    const url = (name) => `redis://${name}@127.0.0.1:${redis.port}`
    const env = { REDIS_PASSWORD: 'pw' }
    const doctor = async (name) => JSON.parse((await start(url(name), ['doctor', '--json'], { env }).done).out)
    const of = ({ checks }, name) => checks.filter(({ check }) => check === name).map(({ status, message }) => `${status}: ${message}`)[0]
    const fine = await doctor('fine')
    assert.equal(fine.ok, true)
    for (const check of ['version', 'mode', 'eviction', 'memory', 'buffers', 'timeout']) assert.match(of(fine, check), /^warn: can't tell \(.*NOPERM/, check)
    for (const check of ['access', 'pubsub', 'servers']) assert.match(of(fine, check), /^ok: /, check)
    assert.match(of(await doctor('poor'), 'access'), /^fail: .*see README.md, Users/)
    assert.match(of(await doctor('deaf'), 'pubsub'), /^fail: .*NOPERM/)
  })

  test('a replica, a Sentinel and a node of a Cluster are none to ask', async (t) => {
    const primary = await startRedis({ port: true })
    t.after(() => primary.stop())
    const replica = await startRedis({ port: true, args: ['--replicaof', '127.0.0.1', String(primary.port)] })
    t.after(() => replica.stop())
    assert.match((await checks(replica)).mode, /^fail: a replica of 127\.0\.0\.1/)
    const sentinel = await startRedis({ port: true, sentinel: [`sentinel monitor main 127.0.0.1 ${primary.port} 1`] })
    t.after(() => sentinel.stop())
    assert.match((await ctl(sentinel, 'servers')).err, /this is a Sentinel: give the address of its primary/)

    const cluster = await startRedisCluster()
    t.after(() => cluster.stop())
    const { port } = cluster.nodes[0]
    const node = `redis://127.0.0.1:${port}`
    for (const command of [['servers'], ['documents'], ['owner', 'a'], ['watch'], ['drain', 's1', '--yes'], ['move', 'a', 's1', '--yes']]) {
      const { code, err } = await ctl(node, ...command)
      assert.equal(code, 1)
      assert.match(err, /a node of a Redis Cluster, and affinityctl works with a single Redis \(or Sentinel's primary\) only/)
    }
    assert.match((await checks(node)).mode, /^warn: a node of a Redis Cluster/)
  })
})

describe('the way to Redis', () => {
  test('with TLS', async (t) => {
    const file = folderOf(t)
    const ca = authority()
    const redis = await startRedis({ tls: { ...ca.sign('IP:127.0.0.1'), ca: ca.cert } })
    t.after(() => redis.stop())
    const trusted = file('ca.pem', ca.cert)
    assert.equal((await ctl(redis, 'doctor', '--tls-ca', trusted)).code, 0)
    const strange = await ctl(redis, 'servers', '--tls-ca', file('other.pem', authority().cert))
    assert.equal(strange.code, 1)
    assert.match(strange.err, /refuses: TLS: /)
    assert.equal((await ctl(redis, 'servers', '--tls-insecure')).code, 0)
    assert.match((await ctl(redis, 'servers', '--tls-ca', trusted, '--tls-name', 'redis.test')).err, /refuses: TLS: /)
    const broken = await ctl(redis, 'servers', '--tls-ca', file('broken.pem', 'no PEM'))
    assert.deepEqual([broken.code, /ca: no PEM certificate in it/.test(broken.err)], [2, true])
  })

  test('with passwords, from the environment and from a file', async (t) => {
    const file = folderOf(t)
    const redis = await startRedis({ port: true, password: 'p%@:/ w' })
    t.after(() => redis.stop())
    const bare = `redis://127.0.0.1:${redis.port}/0`
    assert.equal((await ctl(redis, 'servers')).code, 0)
    assert.equal((await ctl(bare, 'servers', '--password-file', file('pw', 'p%@:/ w\n'))).code, 0)
    assert.equal((await start(bare, ['servers'], { env: { REDIS_PASSWORD: 'p%@:/ w' } }).done).code, 0)
    const wrong = await start(bare, ['servers'], { env: { REDIS_PASSWORD: 'nope' } }).done
    assert.equal(wrong.code, 1)
    assert.match(wrong.err, /refuses: WRONGPASS/)
    const none = await ctl(bare, 'servers')
    assert.match(none.err, /NOAUTH/)
    for (const { err } of [wrong, none]) assert.ok(!err.includes('nope'))
  })

  test('nowhere', async () => {
    const port = await freePort()
    for (const command of [['servers'], ['watch'], ['drain', 's1', '--yes'], ['move', 'a', 's1', '--yes']]) {
      const { code, out, err } = await ctl(`redis://127.0.0.1:${port}`, ...command, '--timeout', '1')
      assert.deepEqual([code, out], [1, ''])
      assert.equal(err, `affinityctl: Redis at redis://127.0.0.1:${port}/0 can't be reached within 1 s: connect: connection refused\n`)
    }
    const doctor = await ctl(`redis://127.0.0.1:${port}`, 'doctor', '--timeout', '1')
    assert.equal(doctor.code, 1)
    assert.match(doctor.out, /^fail {2}connection +Redis at .*connection refused\n$/)
  })
})

describe('the command line', () => {
  for (const [args, complaint] of [
    [[], 'which command? affinityctl --help lists them'],
    [['bogus'], 'bogus: no such command; affinityctl --help lists them'],
    [['servers', 'x'], 'servers: takes no argument, such as "x"'],
    [['owner'], 'owner: needs one argument, DOCUMENT'],
    [['owner', ''], 'owner: DOCUMENT must be UTF-8, and not empty'],
    [['drain', 'a', 'b'], 'drain: needs one argument, SERVER'],
    [['move', 'a'], 'move: needs two arguments, DOCUMENT SERVER'],
    [['move', 'a', ''], 'move: DOCUMENT SERVER must be UTF-8, and not empty'],
    [['servers', '--yes'], '--yes: is no option of servers'],
    [['drain', 'a', '--dry-run'], '--dry-run: is no option of drain'],
    [['owner', 'a', '--limit', '5'], '--limit: is no option of owner'],
    [['documents', '--limit', '0'], '--limit: must be a number from 1 to 10000, not "0"'],
    [['documents', '--limit', '10001'], '--limit: must be a number from 1 to 10000, not "10001"'],
    [['servers', '--timeout', '1.5'], '--timeout: must be a number from 1 to 600, not "1.5"'],
    [['servers', '--timeout', '99999999999999999999'], '--timeout: must be a number from 1 to 600, not "99999999999999999999"'],
    [['servers', '--timeout'], '--timeout: needs a value'],
    [['servers', '--json=yes'], '--json=yes: takes no value'],
    [['servers', '--nonsense'], '--nonsense: no such option'],
    [['-x', 'servers'], '-x: no such option'],
    [['servers', '--url', 'http://a'], '--url: must be redis://[user:password@]host[:port][/db], rediss://..., or the path of a Unix socket'],
    [['servers', '--url', 'redis://u:p%zz@a'], '--url: user or password have a % without two hexadecimal digits'],
    [['servers', '--url', 'redis://a:0'], '--url: the port must be a number from 1 to 65535'],
    [['servers', '--url', 'redis://[::1'], '--url: must be redis://[user:password@]host[:port][/db], rediss://..., or the path of a Unix socket'],
    [['servers', '--url', 'redis://a/x'], '--url: what follows the host must be the number of a database'],
    [['servers', '--url', 'redis://a?x=1'], '--url: options in the URL are not known'],
    [['servers', '--url', 'redis://:1'], '--url: names no host'],
    [['servers', '--tls-ca', 'x'], '--tls-ca: needs an address with rediss://'],
    [['servers', '--secret-file', '/nowhere/x'], '--secret-file: /nowhere/x: No such file or directory'],
    [['servers', '--prefix', 'x'.repeat(1025)], '--prefix: must have at most 1024 bytes'],
  ]) {
    test(`${JSON.stringify(args).slice(0, 60)}: ${complaint.slice(0, 60)}`, async () => {
      assert.deepEqual(await ctl(undefined, ...args), { code: 2, out: '', err: `affinityctl: ${complaint}\n` })
    })
  }

  test('help and version', async () => {
    const help = await ctl(undefined, '--help')
    assert.equal(help.code, 0)
    for (const word of ['servers', 'documents', 'owner', 'watch', 'drain', 'move', '--dry-run', 'doctor', '--json', '--secret-file']) assert.ok(help.out.includes(word))
    assert.match((await ctl(undefined, '--version')).out, /^affinityctl \d+\.\d+\.\d+\n$/)
    assert.equal((await ctl('redis://a:b:c', '--help')).code, 0)
  })
})
