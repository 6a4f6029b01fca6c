// The demo as its users meet it: `demo/demo.mjs` as a process, two Chromium browsers, and an end without leftovers.

import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmod, mkdir, mkdtemp, readFile, readdir, rm, writeFile } from 'node:fs/promises'
import os from 'node:os'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { chromium } from 'playwright-core'
import { until, within } from '../support/wait.mjs'

const root = fileURLToPath(new URL('../..', import.meta.url))
const screenshots = path.join(root, 'build/screenshots')
const START_MS = 110_000 // the first start installs what the page needs
const END_MS = 20_000

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
    await Promise.all((browsers ?? []).map((browser) => browser.close()))
    await demo?.end('SIGINT')
    await rm(data, { recursive: true, force: true })
  })

  test('two people on two servers, of which neither owns the document, see each other type', async () => {
    const first = await openPage(browsers[0], demo.url('neither'))
    const { owner } = await placementOf(first)
    const ann = await openPage(browsers[0], demo.url('neither'), (placement) => placement.socketServer !== owner)
    const hers = await placementOf(ann)
    const bob = await openPage(
      browsers[1],
      demo.url('neither'),
      ({ socketServer }) => ![owner, hers.socketServer].includes(socketServer),
    )
    await first.context().close()

    const his = await placementOf(bob)
    assert.equal(new Set([owner, hers.socketServer, his.socketServer]).size, 3, 'three servers have a part in this')
    assert.deepEqual([hers.owner, his.owner], [owner, owner])
    await typeTogether(ann, bob)
    await seeEachOther(ann, bob)

    for (const page of [ann, bob]) {
      assert.match(await page.getByTestId(owner).innerText(), /owns the document/)
      assert.match(await page.getByTestId('story').innerText(), new RegExp(`passes your changes on to ${owner}`))
    }
    await ann.screenshot({ path: path.join(screenshots, 'demo-neither-owns.png') })
    await bob.emulateMedia({ colorScheme: 'dark' })
    await bob.screenshot({ path: path.join(screenshots, 'demo-neither-owns-dark.png') })
    await Promise.all([ann.context().close(), bob.context().close()])
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

    await bob.context().close()
    await until(async () => (await people(ann)).length === 1, { what: 'who leaves is no longer listed' })
    await ann.context().close()
  })

  test('another document is opened by its name', async () => {
    const page = await openPage(browsers[0], demo.url('from here'))
    await page.getByLabel('Open another document').fill('to there')
    await page.getByTestId('open').click()
    await page.waitForURL(/document=to\+there/)
    assert.equal(await page.getByTestId('document').innerText(), 'to there')
    await placementOf(page)
    await page.context().close()
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
    await page.context().close()

    demo = await startDemo(data)
    const later = await openPage(browsers[1], demo.url('kept'))
    await until(async () => (await textOf(later)).includes('Kept for the next time.'), { what: 'the text is loaded' })
    await later.context().close()
  })

  test('kill -9 leaves no process behind either', async () => {
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
})

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

function launchBrowser() {
  return chromium.launch({
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium',
    args: [
      '--headless',
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  })
}

/** Opens the page as a new person, again and again until the balancer has put the socket where `wanted` wants it. */
async function openPage(browser, url, wanted = () => true) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 800 } })
  const page = await context.newPage()
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

const textOf = (page) => page.getByTestId('editor').innerText()
const people = (page) => page.getByTestId('person').allInnerTexts()

/** One line by ann, one by bob, then both at the same time, each in a paragraph of their own. */
async function typeTogether(ann, bob) {
  const editor = (page) => page.getByTestId('editor')
  const sees = (page, text) =>
    until(async () => (await textOf(page)).includes(text), { what: `the page shows "${text}"` })

  await editor(ann).pressSequentially('Ann was here first.')
  await sees(bob, 'Ann was here first.')
  await editor(bob).press('Control+End')
  await editor(bob).press('Enter')
  await editor(bob).pressSequentially('Bob answers.')
  await sees(ann, 'Bob answers.')

  await Promise.all([
    editor(ann).pressSequentially(' She goes on while Bob types.'),
    editor(bob).pressSequentially(' He goes on while Ann types.'),
  ])
  const whole = 'Ann was here first. She goes on while Bob types.\n\nBob answers. He goes on while Ann types.'
  for (const page of [ann, bob]) {
    // The carets' labels are part of the editor's text: only the paragraphs' own text counts.
    const paragraphs = () => page.getByTestId('editor').evaluate(readParagraphs)
    await until(async () => (await paragraphs()) === whole, { what: 'both lines, whole' })
    await until(async () => (await page.getByTestId('unsynced').innerText()).endsWith('All changes saved'), {
      what: 'all saved',
    })
    await until(async () => (await page.getByTestId('status').innerText()) === 'Connected', { what: 'connected' })
  }
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
