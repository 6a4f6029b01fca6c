// Chromium without a window, as the tests of pages use it.
import { chromium } from 'playwright-core'

/** Resolves with its one context: what a page has loaded is in the cache for the next. */
export async function launchBrowser(options = {}) {
  const browser = await chromium.launch({
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
  return browser.newContext({ viewport: { width: 1280, height: 800 }, ...options })
}
