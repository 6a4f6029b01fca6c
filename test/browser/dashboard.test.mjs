// The dashboard in Chromium: signed in with the keyboard alone, an owner killed while it looks on, light and dark, wide and narrow.
// With DOCS_IMAGES=1 it renews the pictures of docs/dashboard.md as well.
import assert from 'node:assert/strict'
import { createRequire } from 'node:module'
import { mkdir, readFile, writeFile } from 'node:fs/promises'
import path from 'node:path'
import { after, before, describe, test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { launchBrowser } from '../support/browser.mjs'
import { connect, synced } from '../support/client.mjs'
import { startCluster } from '../support/cluster.mjs'
import { mountDashboard, TOKEN } from '../support/dashboard.mjs'
import { until as untilTrue } from '../support/wait.mjs'

const screenshots = fileURLToPath(new URL('../../build/screenshots', import.meta.url))
const images = fileURLToPath(new URL('../../docs/images', import.meta.url))
const axe = await readFile(createRequire(import.meta.url).resolve('axe-core/axe.min.js'), 'utf8')
const until = (condition, what, timeout = 15_000) => untilTrue(condition, { every: 50, what, timeout })

const HOSTILE = '<img src=x onerror="globalThis.hacked = true">'
/** Who owns a document is who opens it first. */
const DOCUMENTS = [
  ['guides/getting-started', 'collab-1', ['collab-1', 'collab-2', 'collab-3', 'collab-3']],
  ['guides/deployment', 'collab-1', ['collab-2']],
  ['meetings/2026-11-25', 'collab-2', ['collab-1', 'collab-1', 'collab-2', 'collab-3', 'collab-3']],
  ['meetings/retrospective', 'collab-2', ['collab-1', 'collab-3']],
  ['roadmap', 'collab-2', ['collab-1']],
  ['specification', 'collab-3', ['collab-1', 'collab-2']],
  ['notes/ideas', 'collab-3', []],
]

describe('the dashboard', () => {
  let cluster
  let context
  let page
  let url
  let typing
  const providers = []
  const errors = []

  before(
    async () => {
      await mkdir(screenshots, { recursive: true })
      cluster = await startCluster(0, { lockTTL: 1500 })
      const servers = Object.fromEntries(await Promise.all([1, 2, 3].map(async (n) => [`collab-${n}`, await cluster.add(`collab-${n}`)])))
      for (const [name, owner, others] of DOCUMENTS) {
        for (const at of [owner, ...others]) providers.push(await synced(connect({ url: servers[at].url, name })))
      }
      typing = setInterval(() => {
        const { document } = providers[Math.floor(Math.random() * providers.length)]
        document.getText('text').insert(0, 'x')
      }, 20)
      url = await mountDashboard(servers['collab-1'])
      context = await launchBrowser({ viewport: { width: 1280, height: 820 }, reducedMotion: 'reduce' })
      page = await context.newPage()
      page.on('pageerror', (error) => errors.push(error.message))
      page.on('console', (message) => message.type() === 'error' && errors.push(message.text()))
    },
    { timeout: 60_000 },
  )

  after(async () => {
    clearInterval(typing)
    for (const provider of providers) provider.destroy()
    await context?.browser().close()
    await cluster?.stop()
  })

  const shoot = (name) => page.screenshot({ path: path.join(screenshots, `dashboard-${name}.png`), fullPage: true })
  /** What the window shows, small enough to be kept. */
  async function picture(name) {
    if (!process.env.DOCS_IMAGES) return
    const devtools = await context.newCDPSession(page)
    const { data } = await devtools.send('Page.captureScreenshot', { format: 'webp', quality: 80 })
    await mkdir(images, { recursive: true })
    await writeFile(path.join(images, `${name}.webp`), Buffer.from(data, 'base64'))
  }
  const row = (table, name) => page.locator(`#${table}`).getByRole('row').filter({ has: page.getByRole('rowheader', { name, exact: table === 'documents' }) })
  const cell = (table, name, index) => row(table, name).getByRole('cell').nth(index).innerText()
  const names = () => page.locator('#documents tbody th').allInnerTexts()
  const focused = () => page.evaluate(() => document.activeElement.innerText || document.activeElement.id)

  /** Presses Tab until the element with this text or id has the focus. */
  async function tabTo(what) {
    await until(async () => {
      await page.keyboard.press('Tab')
      return (await focused()) === what
    }, `Tab leads to ${what}`)
  }

  /** What axe-core finds, in words. */
  async function violations() {
    // The page's own policy would not let it in.
    await page.evaluate(axe)
    const { violations } = await page.evaluate(() => globalThis.axe.run(document, { runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] }))
    return violations.flatMap(({ id, nodes }) => nodes.map(({ target, failureSummary }) => `${id}: ${target} ${failureSummary}`))
  }

  test('is behind a token, and opened with the keyboard alone', async () => {
    await page.goto(url)
    assert.equal(await page.locator('#servers').count(), 0)
    assert.deepEqual(await violations(), [])
    assert.equal(await focused(), 'token', 'one can type at once')
    await page.keyboard.type('not the right token')
    await page.keyboard.press('Enter')
    await page.getByRole('alert').filter({ hasText: 'That is not the token.' }).waitFor()
    await shoot('sign-in')
    await page.keyboard.type(TOKEN)
    await page.keyboard.press('Enter')
    await page.getByRole('heading', { name: 'Servers' }).waitFor()
    assert.equal(page.url(), url)
    errors.length = 0 // Chromium tells of the 401
  })

  test('shows servers, documents and where their clients are', async () => {
    await until(async () => (await page.locator('#verdict').innerText()) === 'Healthy: all 3 servers', 'all are well')
    await until(async () => (await page.locator('#documents tbody tr').count()) === DOCUMENTS.length, 'all documents are listed')
    await until(async () => (await cell('servers', 'collab-2', 1)) === '3', 'it owns three')
    assert.equal(await cell('servers', 'collab-2', 0), 'Alive')
    const meeting = row('documents', 'meetings/2026-11-25')
    assert.match(await meeting.innerText(), /collab-2\s+\d+\s+6\s+collab-1\s+2\s+collab-2\s+2\s+collab-3\s+2/)
    assert.equal((await names())[0], 'meetings/2026-11-25', 'most clients first')
    await until(async () => Number(await page.locator('#total-messages').innerText()) > 0, 'messages are counted')
    assert.match(await page.getByRole('img', { name: /^Documents by server: collab-1 2/ }).getAttribute('aria-label'), /collab-2 3, collab-3 2$/)
  })

  test('a name is text, whatever stands in it', async () => {
    const provider = await synced(connect({ url: cluster.servers[0].url, name: HOSTILE }))
    await until(async () => (await names()).includes(HOSTILE), 'it is listed')
    assert.equal(await page.locator('#documents img').count(), 0)
    assert.equal(await page.evaluate(() => globalThis.hacked), undefined)
    provider.destroy()
    await until(async () => !(await names()).includes(HOSTILE), 'it is closed')
  })

  test('is sorted and searched with the keyboard', async () => {
    await page.evaluate(() => document.activeElement.blur())
    await tabTo('Name')
    await page.keyboard.press('Enter')
    const sorted = await names()
    assert.deepEqual(sorted, [...sorted].sort(new Intl.Collator('en', { numeric: true }).compare))
    assert.equal(await page.getByRole('columnheader', { name: 'Name' }).last().getAttribute('aria-sort'), 'ascending')
    await page.keyboard.press('Enter')
    assert.deepEqual(await names(), sorted.reverse())
    await page.keyboard.press('Shift+Tab')
    assert.equal(await focused(), 'prefix')
    await page.keyboard.type('meetings/')
    await until(async () => (await names()).length === 2, 'two are found')
    for (const place of ['documents-note', 'announcement']) assert.equal(await page.locator(`#${place}`).innerText(), '2 documents found.')
    await page.keyboard.press('Control+A')
    await page.keyboard.press('Delete')
    await until(async () => (await names()).length === DOCUMENTS.length, 'all are back')
    assert.equal(await page.locator('#events li').count(), 0, 'what was not searched for has not moved')
    await tabTo('Clients')
    await page.keyboard.press('Enter')
  })

  test('stands still while it is paused', async () => {
    const pause = page.getByRole('button', { name: 'Pause' })
    await pause.click()
    const asked = []
    const note = (request) => asked.push(request.url())
    page.on('request', note)
    await page.waitForTimeout(1500) // that nothing happens takes a time
    page.off('request', note)
    assert.deepEqual(asked, [])
    assert.equal(await pause.getAttribute('aria-pressed'), 'true')
    await pause.click()
    await page.waitForRequest(/state/)
  })

  test('looks right in light and dark, wide and narrow, and axe-core has no complaint', async () => {
    for (const colorScheme of ['light', 'dark']) {
      await page.emulateMedia({ colorScheme })
      assert.deepEqual(await violations(), [], colorScheme)
      await shoot(colorScheme)
    }
    await page.setViewportSize({ width: 360, height: 740 })
    assert.deepEqual(await violations(), [], 'narrow')
    assert.ok(await page.evaluate(() => document.documentElement.scrollWidth <= 360), 'nothing sticks out')
    await shoot('narrow-dark')
    await picture('dashboard-narrow')
    await page.emulateMedia({ colorScheme: 'light' })
    await shoot('narrow')
    await page.emulateMedia({ forcedColors: 'active', contrast: 'more' })
    await shoot('narrow-contrast')
    await page.emulateMedia({ forcedColors: 'none', contrast: 'no-preference' })
    await page.setViewportSize({ width: 1280, height: 820 })
  })

  test('an owner is killed: its documents are seen to move', async () => {
    await cluster.servers.find(({ serverId }) => serverId === 'collab-2').kill()
    await until(async () => /collab-2/.test(await page.locator('#events').innerText()), 'an event')
    const moves = page.locator('#events .moved')
    await until(async () => (await page.locator('#documents tr.moved').count()) > 0, 'rows are marked')
    await shoot('moved')
    await picture('dashboard')
    await until(async () => /moved from collab-2 to/.test(await page.locator('#announcement').innerText()), 'it is announced')
    await until(async () => (await cell('servers', 'collab-2', 0)) === 'Gone', 'it is shown as gone')
    assert.equal(await page.locator('#verdict').innerText(), 'collab-2 is gone')
    for (const name of ['meetings/2026-11-25', 'meetings/retrospective', 'roadmap']) {
      await until(async () => /^collab-[13]$/.test((await cell('documents', name, 0)).trim()), `${name} has another owner`)
      await until(async () => (await moves.allInnerTexts()).some((text) => text.includes(name) && /collab-2\s*→\s*collab-[13]/.test(text)), `its move is listed: ${name}`)
    }
    await until(async () => /collab-2\s+is gone/.test(await page.locator('#events').innerText()), 'so is the end of the server')
    assert.deepEqual(await violations(), [])
    await page.getByText('What is shown here').click()
    await page.emulateMedia({ colorScheme: 'dark' })
    assert.deepEqual(await violations(), [], 'dark')
    await shoot('moved-dark')
  })

  test('a server that hangs is shown as such, and the rest as ever', async () => {
    const hung = cluster.servers.find(({ serverId }) => serverId === 'collab-3')
    void hung.kill('SIGSTOP')
    await until(async () => /No answer|Gone/.test(await cell('servers', 'collab-3', 0)), 'it does not answer')
    assert.equal(await cell('servers', 'collab-1', 0), 'Alive')
    process.kill(hung.pid, 'SIGCONT')
    await until(async () => (await cell('servers', 'collab-3', 0)) === 'Alive', 'it answers again')
  })

  test('is closed by signing out', async () => {
    assert.deepEqual(errors, [])
    await tabTo('Sign out')
    await page.keyboard.press('Enter')
    await page.getByLabel('Token').waitFor()
    assert.deepEqual(await context.cookies(), [])
  })
})
