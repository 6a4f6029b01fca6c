// The versions of test/servers and test/providers.
import { execFile } from 'node:child_process'
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const versions = (folder, prefix) => {
  const { dependencies } = JSON.parse(readFileSync(new URL(`../${folder}/package.json`, import.meta.url), 'utf8'))
  return Object.keys(dependencies).map((name) => name.slice(prefix.length))
}

export const SERVERS = versions('servers', 'server-')
export const PROVIDERS = versions('providers', 'provider-')

/** `make matrix`: all versions, not a selection. */
export const isMatrix = process.env.MATRIX === '1'

export const loadProvider = (version) =>
  import(new URL(`../providers/node_modules/provider-${version}/dist/hocuspocus-provider.esm.js`, import.meta.url).href)

const root = fileURLToPath(new URL('../../', import.meta.url))
const manifestOf = (folder) => JSON.parse(readFileSync(path.join(folder, 'package.json'), 'utf8'))
const typesOf = (folder) => path.join(folder, manifestOf(folder).types)

/**
 * What TypeScript complains of in a program that uses our package with a version of Hocuspocus: declarations included, but
 * for Hocuspocus's own.
 *
 * @returns {Promise<string[]>}
 */
export async function diagnose(version, program) {
  const server = path.join(root, `test/servers/node_modules/server-${version}`)
  // 3.4.0 has its own in the common folder.
  const common = [path.join(server, 'node_modules'), path.join(root, 'test/servers/node_modules')]
    .map((folder) => path.join(folder, '@hocuspocus/common'))
    .find((folder) => JSON.parse(readIf(path.join(folder, 'package.json')) ?? '{}').version === version)
  const options = {
    target: 'ES2022',
    module: 'NodeNext',
    moduleResolution: 'NodeNext',
    strict: true,
    noEmit: true,
    skipLibCheck: false,
    types: ['node'],
    paths: {
      '@hocuspocus/server': [typesOf(server)],
      '@hocuspocus/common': [typesOf(common)],
      '@hocuspocus/extension-redis-affinity': [path.join(root, manifestOf(root).exports['.'].import.types)],
    },
  }
  mkdirSync(path.join(root, 'build'), { recursive: true })
  const folder = mkdtempSync(path.join(root, 'build/types-'))
  try {
    writeFileSync(path.join(folder, 'tsconfig.json'), JSON.stringify({ compilerOptions: options, files: [path.join(root, program)] }))
    const output = await new Promise((resolve) => {
      execFile(path.join(root, 'node_modules/.bin/tsc'), ['-p', folder, '--pretty', 'false'], { cwd: root }, (_error, stdout, stderr) => resolve(stdout + stderr))
    })
    return output.split('\n').filter((line) => line.includes('error') && !line.startsWith('test/servers/node_modules/'))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

function readIf(file) {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return undefined
  }
}
