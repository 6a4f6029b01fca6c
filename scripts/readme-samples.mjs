// Takes the samples of README.md and docs/ at their word. A block that follows `<!-- sample: name -->` is
//   ts, js       type checked against the built package
//   yaml         parsed, marked or not
//   haproxy      given to `haproxy -c`
//   sh           parsed by the shell
// and one of ts, js or sh marked `<!-- sample: name run -->` is run to its end as well, with the address of a private
// redis-server in REDIS_URL. In docs/ every such block must be marked: as a sample, as part of a page that is done as a whole
// (`file:`, test/node/docs.test.mjs), or as `illustrative: why`.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseAllDocuments } from 'yaml'
import { blocksOf, samplesOf } from '../test/support/pages.mjs'
import { startRedis } from '../test/support/redis.mjs'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
process.chdir(root)

const EXTENSION = { ts: 'mts', js: 'mjs', yaml: 'yaml', haproxy: 'cfg', sh: 'sh' }
/** Made from something else, or done as a whole. */
const OTHERWISE = ['docs/api.md', 'docs/c-api.md', 'docs/getting-started.md']

const docs = readdirSync('docs').filter((name) => name.endsWith('.md')).map((name) => `docs/${name}`)
const samples = ['README.md', ...docs].flatMap(samplesOf).map((sample) => ({
  ...sample,
  title: `${sample.page}, sample ${sample.name}`,
  base: `${path.basename(sample.page, '.md')}-${sample.name}`,
}))
let failed = false
const complain = (title, text) => {
  failed = true
  console.error(`${title}:\n${text}`)
}
if (!samples.some(({ page }) => page === 'README.md')) complain('README.md', 'has no marked sample')
for (const { page, mark, language, code } of docs.filter((name) => !OTHERWISE.includes(name)).flatMap(blocksOf)) {
  if (language === 'yaml') for (const { errors } of parseAllDocuments(code)) errors.forEach((error) => complain(page, error.message))
  else if (language && language !== 'c' && !/^(sample|illustrative): ./.test(mark)) complain(page, `a block is not marked:\n${code}`)
}
for (const [n, { base, title }] of samples.entries()) {
  if (samples.findIndex((other) => other.base === base) !== n) complain(title, 'there are two of that name')
}

// Inside the package, so that its own name and its development dependencies resolve.
const folder = path.join('build', 'samples')
rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
for (const { base, language, code, title } of samples) {
  if (!EXTENSION[language]) complain(title, `what is a sample of "${language}"?`)
  writeFileSync(path.join(folder, `${base}.${EXTENSION[language]}`), code)
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
      noImplicitReturns: false,
    },
    include: ['*.mts', '*.mjs'],
  }),
)

const ENV = { ...process.env, NODE_ENV: 'testing', PATH: `${process.env.PATH}:/usr/sbin` } // where Debian puts haproxy
/** Runs a program; what it says is shown when it fails. */
function must(title, command, args, env = {}, timeout = 30_000) {
  const ran = spawnSync(command, args, { encoding: 'utf8', timeout, env: { ...ENV, ...env } })
  if (ran.status !== 0) complain(title, `${ran.error?.message ?? (ran.signal ? `no end after ${timeout / 1000} s` : `exit code ${ran.status}`)}\n${ran.stdout}${ran.stderr}`)
}

must('types of the samples', 'node_modules/.bin/tsc', ['-p', folder], {}, 120_000)
for (const { base, language, code, title } of samples) {
  const file = path.join(folder, `${base}.${EXTENSION[language]}`)
  if (language === 'sh') must(title, 'bash', ['-n', file])
  if (language === 'haproxy') must(title, 'haproxy', ['-c', '-f', file])
}

if (!failed) {
  const redis = await startRedis({ port: true })
  for (const { base, language, title } of samples.filter((sample) => sample.run)) {
    const program = path.join(folder, 'out', 'build', 'samples', `${base}.mjs`)
    if (language === 'sh') must(title, 'bash', ['-eu', '-o', 'pipefail', path.join(folder, `${base}.sh`)], { REDIS_URL: redis.url })
    else must(title, process.execPath, [program], { REDIS_URL: redis.url })
  }
  await redis.stop()
}
process.exit(failed ? 1 : 0)
