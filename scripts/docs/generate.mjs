// Writes docs/api.md from the types of js/src, docs/c-api.md from core/aff.h and the table of docs/metrics.md; with --check, only says which of them is stale.
import { readFileSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { describeHeader } from './c-api.mjs'
import { describeTypes } from './api.mjs'
import { describeMetrics } from './metrics.mjs'

process.chdir(path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..'))

const pages = {
  'docs/api.md': describeTypes('js/src/index.ts', 'js/src/dashboard.ts'),
  'docs/c-api.md': describeHeader(readFileSync('core/aff.h', 'utf8')),
  'docs/metrics.md': describeMetrics(readFileSync('docs/metrics.md', 'utf8')),
}

const current = (file) => {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
const stale = Object.keys(pages).filter((file) => current(file) !== pages[file])
if (process.argv.includes('--check')) {
  for (const file of stale) console.error(`${file} is stale: make docs`)
  process.exit(stale.length === 0 ? 0 : 1)
}
for (const file of stale) {
  writeFileSync(file, pages[file])
  console.log(`wrote ${file}`)
}
