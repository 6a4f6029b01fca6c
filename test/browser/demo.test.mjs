// The demo as its users meet it: `demo/demo.mjs` as a process, two Chromium browsers, and an end without leftovers.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { launchBrowser } from '../support/browser.mjs'
import { until as untilTrue, within } from '../support/wait.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const screenshots = path.join(root, 'build/screenshots')
const POLL_MS = 50 // each look costs the browser something
const START_MS = 110_000 // the first start installs what the page needs
const END_MS = 20_000
const TYPED_ON = /Typing went on: all \d+ changes of yours are saved|Your change of that time is saved/

describe('the demo', () => {
  let data
  let demo
  let browsers

  before(
    async () => {
      data = await mkdtemp(path.join(os.tmpdir(), 'rsa-demo-test-'))
      await mkdir(screenshots, { recursive: true })
      demo = await startDemo(data)
      browsers = await Promise.all([launchBrowser(), launchBrowser()])
    },
    { timeout: START_MS + 10_000 },
  )

  after(async () => {
    await Promise.all((browsers ?? []).map((context) => context.browser().close()))
    await demo?.end('SIGINT')
    await rm(data, { recursive: true, force: true })
  })

  test('two people on two servers, of which neither owns the document, see each other type', async () => {
    const { ann, bob, owner } = await openOnTwoServers('neither')
    await typeTogether(ann, bob)
    await seeEachOther(ann, bob)

    for (const page of [ann, bob]) {
      assert.match(await page.getByTestId(owner).innerText(), /owns the document/)
      assert.match(await page.getByTestId('story').innerText(), new RegExp(`passes your changes on to ${owner}`))
    }
    await ann.screenshot({ path: path.join(screenshots, 'demo-neither-owns.png') })
    await bob.emulateMedia({ colorScheme: 'dark' })
    await bob.screenshot({ path: path.join(screenshots, 'demo-neither-owns-dark.png') })
    await Promise.all([ann.close(), bob.close()])
  })

  test('two people on two servers, of which one owns the document, see each other type', async () => {
    const ann = await openPage(browsers[0], demo.url('one of them'))
    const { owner, socketServer } = await placementOf(ann)
    assert.equal(owner, socketServer, 'who opens a document first has it on the server of the socket')
    const bob = await openPage(browsers[1], demo.url('one of them'), (placement) => placement.socketServer !== owner)

    assert.equal((await placementOf(bob)).owner, owner)
    await typeTogether(ann, bob)
    await seeEachOther(ann, bob)
    await ann.setViewportSize({ width: 390, height: 844 })
    await ann.screenshot({ path: path.join(screenshots, 'demo-phone.png'), fullPage: true })

    await bob.close()
    await until(async () => (await people(ann)).length === 1, { what: 'who leaves is no longer listed' })
    await ann.close()
  })

  test('the owner is killed: the document moves, and both type on', async () => {
    const closes = await typingThrough('killed owner', async ({ ann, bob, owner, goesOn }) => {
      await button(ann, 'Kill', owner).click()
      await ownerIsNot(owner, [ann, bob])
      await goesOn()
      for (const page of [ann, bob]) {
        await until(async () => /killed/.test(await page.getByTestId(owner).innerText()), { what: 'its box says so' })
        const moved = new RegExp(`The document moved from ${owner} to server-\\d after \\d`)
        await logSays(page, new RegExp(`${owner} was killed\\.`), moved, TYPED_ON)
      }
      await shoot(ann, 'demo-killed')
    })
    assert.deepEqual(closes, [0, 0], 'no socket was closed')
    // With the keyboard this time.
    const page = await openPage(browsers[1], demo.url('killed owner'))
    await page.getByRole('button', { name: /^Start server-/ }).focus()
    await page.keyboard.press('Enter')
    await allRun(page)
    assert.match(await page.evaluate(() => document.activeElement.ariaLabel), /^Kill server-/, 'the focus is still there')
    await page.close()
  })

  test('the owner is stopped: it hands the document over, and both type on', async () => {
    const closes = await typingThrough('stopped owner', async ({ ann, bob, owner, goesOn }) => {
      await button(bob, 'Stop', owner).click()
      await ownerIsNot(owner, [ann, bob])
      await goesOn()
      for (const page of [ann, bob]) {
        const moved = new RegExp(`The document moved from ${owner} to server-\\d`)
        await logSays(page, moved, new RegExp(`${owner} was stopped\\.`))
      }
      await button(ann, 'Start', owner).click()
      await allRun(ann)
      await goesOn()
    })
    assert.deepEqual(closes, [0, 0], 'no socket was closed')
  })

  test('the owner is frozen: the document moves when its lease ends, and stays there after the thaw', async () => {
    const closes = await typingThrough('frozen owner', async ({ ann, bob, owner, goesOn }) => {
      await button(ann, 'Freeze', owner).click()
      const isTold = async () => (await bob.getByTestId('story').innerText()).startsWith(`${owner} is frozen.`)
      await until(isTold, { what: 'bob is told' })
      await shoot(bob, 'demo-frozen')
      await ownerIsNot(owner, [ann, bob])
      await goesOn()
      await button(bob, 'Thaw', owner).click()
      await allRun(ann)
      await goesOn()
      await logSays(bob, new RegExp(`${owner} was thawed\\.`))
      assert.notEqual((await placementOf(ann)).owner, owner)
    })
    assert.deepEqual(closes, [0, 0], 'no socket was closed')
  })

  test('Redis is restarted: both type on, and see each other again when it is back', async () => {
    const closes = await typingThrough('redis restarted', async ({ ann, bob, goesOn }) => {
      await button(ann, 'Restart', 'Redis').click()
      await logSays(ann, /Redis goes away\./)
      await logSays(bob, /Redis is back after/)
      await goesOn()
      await allRun(ann)
    })
    assert.deepEqual(closes, [0, 0], 'no socket was closed')
  })

  test("a page's own server is killed, the next one frozen: it connects to another one, and nothing is lost", async () => {
    const closes = await typingThrough('own server', async ({ ann, bob, goesOn }) => {
      for (const [action, undo] of [
        ['Kill', 'Start'],
        ['Freeze', 'Thaw'],
      ]) {
        const { socketServer } = await placementOf(ann)
        await button(ann, action, socketServer).click()
        await until(async () => ![socketServer, '…'].includes(await ann.getByTestId('socket-server').innerText()), {
          timeout: 20_000,
          what: 'ann has a socket on another server',
        })
        await goesOn()
        await logSays(ann, new RegExp(`The socket of this page, on ${socketServer}, was closed`), /connected again, through/)
        await button(bob, undo, socketServer).click()
        await allRun(ann)
      }
    })
    assert.ok(closes[0] >= 2, 'she had to connect again')
  })

  test('other sites cannot press the buttons', async () => {
    const post = (place, headers = {}) => fetch(demo.control(place), { method: 'POST', headers })
    assert.equal((await post('server-1/kill', { origin: 'http://elsewhere.example' })).status, 403)
    assert.equal((await post('server-1/start')).status, 409)
    assert.equal((await post('server-4/kill')).status, 404)
    assert.equal((await fetch(demo.control('server-1/kill'))).status, 405)
  })

  test('another document is opened by its name', async () => {
    const page = await openPage(browsers[0], demo.url('from here'))
    await page.getByLabel('Open another document').fill('to there')
    await page.getByTestId('open').click()
    await page.waitForURL(/document=to\+there/)
    assert.equal(await page.getByTestId('document').innerText(), 'to there')
    await placementOf(page)
    await page.close()
  })

  test('the dashboard is a link away, behind the token that the demo has printed', async () => {
    const page = await openPage(browsers[0], demo.url('on the dashboard'))
    const { owner } = await placementOf(page)
    const opened = page.waitForEvent('popup')
    await page.getByRole('link', { name: "Open the cluster's dashboard" }).click()
    const dashboard = await opened
    await dashboard.getByLabel('Token').fill(demo.token())
    await dashboard.keyboard.press('Enter')
    const row = dashboard.getByRole('row', { name: 'on the dashboard' })
    await until(async () => (await row.getByRole('cell').first().innerText()).trim() === owner, { what: 'it shows the owner' })
    await dashboard.getByText('Healthy: all 3 servers').waitFor()
    // The server that it came from may be the one that goes.
    await button(page, 'Kill', owner).click()
    await until(async () => /→/.test(await dashboard.locator('#events').innerText()), { what: 'it shows the move', timeout: 20_000 })
    await dashboard.screenshot({ path: path.join(screenshots, 'demo-dashboard.png') })
    await button(page, 'Start', owner).click()
    await allRun(page)
    await dashboard.close()
    await page.close()
  })

  test('Ctrl-C leaves no process behind, and the documents are there at the next start', async () => {
    const page = await openPage(browsers[0], demo.url('kept'))
    await page.getByTestId('editor').pressSequentially('Kept for the next time.')
    assert.ok((await processesOf(data)).length >= 6, 'the demo, redis-server, three servers, HAProxy')

    assert.equal(await demo.end('SIGINT'), 0)
    assert.deepEqual(await processesOf(data), [])
    assert.ok(
      (await readdir(data)).every((name) => name.endsWith('.yjs')),
      'only documents are left',
    )
    assert.match(await page.getByTestId('status').innerText(), /Connecting/)
    await page.close()

    demo = await startDemo(data)
    const later = await openPage(browsers[1], demo.url('kept'))
    await until(async () => (await textOf(later)).includes('Kept for the next time.'), { what: 'the text is loaded' })
    await later.close()
  })

  test('kill -9 leaves no process behind either, not even a frozen one', async () => {
    const { status } = await fetch(demo.control('server-2/freeze'), { method: 'POST' })
    assert.equal(status, 202)
    await demo.end('SIGKILL')
    await until(async () => (await processesOf(data)).length === 0, { what: 'all children have ended' })
  })

  test('a start that fails says why, and leaves no process behind', async () => {
    const folder = await mkdtemp(path.join(os.tmpdir(), 'rsa-demo-test-'))
    await writeFile(path.join(folder, 'haproxy'), '#!/bin/sh\necho out of order\nexit 3\n')
    await chmod(path.join(folder, 'haproxy'), 0o755)

    const failed = startDemo(data, { PATH: `${folder}:${process.env.PATH}` })
    await assert.rejects(failed, /haproxy ended \(3\)\s+out of order/)
    assert.deepEqual(await processesOf(data), [])
    await rm(folder, { recursive: true })
  })

  /** Ann's page on one server, Bob's on another; a third owns the document. */
  async function openOnTwoServers(documentName) {
    const url = demo.url(documentName)
    const first = await openPage(browsers[0], url)
    const { owner } = await placementOf(first)
    const ann = await openPage(browsers[0], url, ({ socketServer }) => socketServer !== owner)
    const hers = await placementOf(ann)
    const others = [owner, hers.socketServer]
    const bob = await openPage(browsers[1], url, ({ socketServer }) => !others.includes(socketServer))
    await first.close()

    const his = await placementOf(bob)
    assert.equal(new Set([...others, his.socketServer]).size, 3, 'three servers have a part in this')
    assert.deepEqual([hers.owner, his.owner], [owner, owner])
    return { ann, bob, owner }
  }

  /**
   * Both type all the time while `happen` happens. Then each has all that both have typed, and so has who comes later.
   * Resolves with how often each one's socket was closed.
   */
  async function typingThrough(documentName, happen) {
    const { ann, bob, owner } = await openOnTwoServers(documentName)
    const pages = [ann, bob]
    const closesOf = (page) => page.evaluate(() => Number(document.body.dataset.closes))
    const before = await Promise.all(pages.map(closesOf))
    await editor(ann).pressSequentially('Ann:')
    await sees(bob, 'Ann:')
    await startParagraph(bob)
    await editor(bob).pressSequentially('Bob:')
    await sees(ann, 'Bob:')

    const typists = [startTyping(ann, 'a'), startTyping(bob, 'b')]
    /** Each sees words of the other that are yet to be typed. */
    const goesOn = () => Promise.all([sees(bob, typists[0].word(3)), sees(ann, typists[1].word(3))])
    let typed
    try {
      await goesOn()
      await happen({ ann, bob, owner, goesOn })
    } finally {
      typed = await Promise.all(typists.map((typist) => typist.stop()))
    }
    const whole = `Ann:${typed[0]}\n\nBob:${typed[1]}`
    await Promise.all(pages.map((page) => hasWhole(page, whole)))

    const closes = (await Promise.all(pages.map(closesOf))).map((count, i) => count - before[i])
    for (const page of pages) await page.close()
    const later = await openPage(browsers[0], demo.url(documentName))
    await hasWhole(later, whole)
    await later.close()
    return closes
  }
})

const until = (condition, options) => untilTrue(condition, { every: POLL_MS, ...options })

/** Resolves when the demo has printed its address; rejects with what it printed if it ends before. */
async function startDemo(data, env = {}) {
  // The test's own end, whichever way, is a Ctrl-C for the demo.
  const child = spawn('setpriv', ['--pdeathsig', 'INT', process.execPath, path.join(root, 'demo/demo.mjs')], {
    env: { ...process.env, ...env, PORT: '0', DEMO_DATA: data, TMPDIR: data },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const ended = once(child, 'close').then(([code, signal]) => signal ?? code)
  let output = ''
  const address = new Promise((resolve, reject) => {
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text) => {
        output += text
        const found = output.match(/http:\/\/[\d.]+:\d+/)
        if (found && output.includes('Ctrl-C')) resolve(found[0])
      })
    }
    ended.then((how) => reject(new Error(`the demo ended (${how}):\n${output}`)))
  })
  const base = await within(address, 'the demo prints its address', START_MS)

  return {
    token: () => output.match(/token: (\S+)/)[1],
    control: (place) => `${base}/control/${place}`,
    url: (documentName) => `${base}/?${new URLSearchParams({ document: documentName })}`,
    async end(signal) {
      child.kill(signal)
      return within(ended, `the demo ends after ${signal}; it printed:\n${output}`, END_MS)
    },
  }
}

/**
 * The processes of a demo are those that name its data folder, whoever their parent is by now: in their environment, or
 * (redis-server writes its title over that) in their arguments.
 */
async function processesOf(data) {
  const read = (pid, name) => readFile(`/proc/${pid}/${name}`, 'utf8').catch(() => '')
  const pids = (await readdir('/proc')).filter((name) => /^\d+$/.test(name))
  const all = await Promise.all(
    pids.map(async (pid) => ({ environment: await read(pid, 'environ'), args: await read(pid, 'cmdline') })),
  )
  return all
    .filter(({ environment, args }) => `${environment}\0${args}`.includes(data))
    .map(({ args }) => args.replaceAll('\0', ' ').trim())
}

/** Opens the page as a new person, again and again until the balancer has put the socket where `wanted` wants it. */
async function openPage(browser, url, wanted = () => true) {
  const page = await browser.newPage()
  page.on('pageerror', (error) => console.error(`the page: ${error.stack}`))
  const attempt = async () => {
    await page.goto(url)
    return wanted(await placementOf(page))
  }
  await until(attempt, { timeout: 30_000, what: 'a socket on the wanted server' })
  return page
}

async function placementOf(page) {
  const [owner, socketServer] = await Promise.all(
    ['owner', 'socket-server'].map(async (name) => {
      const text = () => page.getByTestId(name).innerText()
      await until(async () => /^server-[123]$/.test(await text()), { what: `the page shows its ${name}` })
      return text()
    }),
  )
  return { owner, socketServer }
}

const editor = (page) => page.getByTestId('editor')
const textOf = (page) => page.getByTestId('editor').innerText()
const people = (page) => page.getByTestId('person').allInnerTexts()

const button = (page, action, server) => page.getByRole('button', { name: `${action} ${server}` })

const sees = (page, text) =>
  until(async () => (await textOf(page)).includes(text), { timeout: 20_000, what: `the page shows "${text}"` })

/** A new paragraph at the end, with the caret in it. */
async function startParagraph(page) {
  // The caret is the browser's until the editor has read it: a change by someone else in between puts it back.
  const goToEnd = async () => {
    await editor(page).press('Control+End')
    return editor(page).evaluate((element) => {
      const { doc, selection } = element.editor.state
      return selection.empty && selection.to === doc.content.size - 1
    })
  }
  await until(goToEnd, { what: "the editor's caret is at the end" })
  await editor(page).press('Enter')
}

/** Types numbered words until it is told to stop. */
function startTyping(page, letter) {
  let stopped = false
  let count = 0
  const word = (n) => ` ${letter}${n}`
  const run = async () => {
    while (!stopped) await editor(page).pressSequentially(word(++count), { delay: 20 })
  }
  const done = run()
  done.catch(() => {}) // stop() tells of it
  return {
    /** The word that comes so many words from now. */
    word: (ahead) => word(count + ahead),
    async stop() {
      stopped = true
      await done
      return Array.from({ length: count }, (_, i) => word(i + 1)).join('')
    },
  }
}

async function ownerIsNot(former, pages) {
  const moved = async () => {
    const owners = await Promise.all(pages.map((page) => page.getByTestId('owner').innerText()))
    return new Set(owners).size === 1 && /^server-[123]$/.test(owners[0]) && owners[0] !== former
  }
  await until(moved, { timeout: 20_000, what: `all pages show an owner other than ${former}` })
}

/** The log of a page has a line for each pattern. */
async function logSays(page, ...patterns) {
  for (const pattern of patterns) {
    await until(async () => pattern.test(await page.getByTestId('log').innerText()), { what: `the log says ${pattern}` })
  }
}

/** All servers and Redis are shown as running. */
async function allRun(page) {
  const names = ['server-1', 'server-2', 'server-3', 'redis']
  const states = () => Promise.all(names.map((name) => page.getByTestId(name).getAttribute('data-state')))
  await until(async () => (await states()).every((state) => state === 'up'), { timeout: 20_000, what: 'all are up' })
}

async function shoot(page, name) {
  for (const colorScheme of ['dark', 'light']) {
    await page.emulateMedia({ colorScheme })
    await page.screenshot({ path: path.join(screenshots, `${name}-${colorScheme}.png`) })
  }
}

/** One line by ann, one by bob, then both at the same time, each in a paragraph of their own. */
async function typeTogether(ann, bob) {
  await editor(ann).pressSequentially('Ann was here first.')
  await sees(bob, 'Ann was here first.')
  await startParagraph(bob)
  await editor(bob).pressSequentially('Bob answers.')
  await sees(ann, 'Bob answers.')

  await Promise.all([
    editor(ann).pressSequentially(' She goes on while Bob types.'),
    editor(bob).pressSequentially(' He goes on while Ann types.'),
  ])
  const whole = 'Ann was here first. She goes on while Bob types.\n\nBob answers. He goes on while Ann types.'
  for (const page of [ann, bob]) await hasWhole(page, whole)
}

/** The page has exactly this text, and nothing to send any more. */
async function hasWhole(page, whole) {
  // The carets' labels are part of the editor's text: only the paragraphs' own text counts.
  const paragraphs = () => editor(page).evaluate(readParagraphs)
  const same = until(async () => (await paragraphs()) === whole, { what: `the page has all: ${whole}` })
  await same.catch(async (error) => assert.equal(await paragraphs(), whole, error.message))
  await until(async () => (await page.getByTestId('unsynced').innerText()).endsWith('All changes saved'), {
    what: 'all saved',
  })
  await until(async () => (await page.getByTestId('status').innerText()) === 'Connected', { what: 'connected' })
}

/** Runs in the page. */
function readParagraphs(editor) {
  const copy = editor.cloneNode(true)
  for (const caret of copy.querySelectorAll('.collaboration-carets__caret')) caret.remove()
  return [...copy.querySelectorAll('p')]
    .map((paragraph) => paragraph.textContent.replace(/[\u2060\ufeff]/g, ''))
    .join('\n\n')
}

/** Both are listed at both, each with the server of the own socket, and the other's caret is drawn. */
async function seeEachOther(ann, bob) {
  for (const [page, other] of [
    [ann, bob],
    [bob, ann],
  ]) {
    await until(async () => (await people(page)).length === 2, { what: 'two people are listed' })
    const { socketServer } = await placementOf(other)
    const [me, them] = await people(page)
    assert.match(me, /\(you\)/)
    assert.match(them, new RegExp(`on ${socketServer}`))
    const name = await other
      .locator('[data-testid=person] .name')
      .first()
      .evaluate((element) => element.firstChild.textContent)
    const label = page.locator('.collaboration-carets__label')
    await until(async () => (await label.allInnerTexts()).includes(name), { what: `the caret of ${name} is drawn` })
  }
}
