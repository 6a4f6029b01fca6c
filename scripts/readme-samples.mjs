// Takes README's samples at their word: every ```ts or ```js block that follows `<!-- sample: name -->` is type
// checked against the built package, and one marked `<!-- sample: name run -->` is run to its end as well, with
// the address of a private redis-server in REDIS_URL.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { startRedis } from '../test/support/redis.mjs'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
process.chdir(root)

const pattern = /<!-- sample: ([\w-]+)( run)? -->\s*```(ts|js)[^\n]*\n([\s\S]*?)```/g
const samples = [...readFileSync('README.md', 'utf8').matchAll(pattern)].map(([, name, run, language, code]) => ({
  name,
  run: Boolean(run),
  language,
  code,
}))
if (samples.length === 0) {
  console.error('README.md has no marked sample')
  process.exit(1)
}

// Inside the package, so that its own name and its development dependencies resolve.
const folder = path.join('build', 'samples')
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
for (const { name, language, code } of samples) {
  writeFileSync(path.join(folder, `${name}.${language === 'ts' ? 'mts' : 'mjs'}`), code)
}
writeFileSync(
  path.join(folder, 'tsconfig.json'),
  JSON.stringify({
    extends: '../../tsconfig.json',
    compilerOptions: {
      rootDir: '../..',
      outDir: 'out',
      declaration: false,
      allowJs: true,
      checkJs: true,
      noUnusedLocals: false,
      noUnusedParameters: false,
      // Samples show one thing each; a parameter's type may be left to the reader.
      noImplicitAny: false,
    },
    include: ['*.mts', '*.mjs'],
  }),
)
const check = spawnSync('node_modules/.bin/tsc', ['-p', folder], { encoding: 'utf8' })
if (check.status !== 0) {
  console.error(check.stdout + check.stderr)
  process.exit(1)
}

const redis = await startRedis({ port: true })
let failed = false
for (const { name } of samples.filter((sample) => sample.run)) {
  const program = path.join(folder, 'out', 'build', 'samples', `${name}.mjs`)
  const ran = spawnSync(process.execPath, [program], {
    encoding: 'utf8',
    timeout: 30_000,
    env: { ...process.env, REDIS_URL: redis.url, NODE_ENV: 'testing' },
  })
  if (ran.status === 0) continue
  failed = true
  console.error(`sample ${name}: ${ran.signal ? 'no end after 30 s' : `exit code ${ran.status}`}\n${ran.stdout}${ran.stderr}`)
}
await redis.stop()
process.exit(failed ? 1 : 0)
