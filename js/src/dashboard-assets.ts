import { readFileSync, readdirSync } from 'node:fs'
import { extname, join } from 'node:path'
import { root } from '../addon.cjs'

export interface Asset {
  type: string
  body: Buffer
}

const TYPES: Record<string, string> = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
}

/** What the page to sign in needs as well. */
const OPEN = ['style.css', 'icon.svg']

const WRONG = 'That is not the token.'
const BARRED = 'Too many attempts. Try again in a minute.'

/** The files of js/dashboard, by their path below the dashboard's. */
export interface Assets {
  open: Map<string, Asset>
  /** For those who have signed in. */
  closed: Map<string, Asset>
  login: Asset
  /** `login` again, with what was wrong. */
  refused: Asset
  barred: Asset
}

let cached: Assets | undefined

/** Read once: they are small. */
export function assetsOf(): Assets {
  cached ??= readAssets(join(root, 'js/dashboard'))
  return cached
}

function readAssets(folder: string): Assets {
  const read = (name: string): Asset => ({ type: TYPES[extname(name)]!, body: readFileSync(join(folder, name)) })
  const login = read('login.html')
  const saying = (message: string): Asset => {
    const text = login.body.toString().replace('<p role="alert" hidden></p>', `<p role="alert">${message}</p>`)
    return { ...login, body: Buffer.from(text) }
  }
  const names = readdirSync(folder).filter((name) => extname(name) in TYPES && !name.endsWith('.html'))
  const mapOf = (some: string[]) => new Map(some.map((name) => [`/${name}`, read(name)]))
  return {
    open: mapOf(names.filter((name) => OPEN.includes(name))),
    closed: mapOf(names.filter((name) => !OPEN.includes(name))).set('/', read('index.html')),
    login,
    refused: saying(WRONG),
    barred: saying(BARRED),
  }
}
