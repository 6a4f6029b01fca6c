// npm's install script. The package ships a binary for the common platforms; elsewhere it is built here,
// with a C compiler and make, without node-gyp or Python.
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import addon from '../js/addon.cjs'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const require = createRequire(import.meta.url)
const onMac = process.platform === 'darwin'

function loads() {
  try {
    addon.load()
    return true
  } catch {
    return false
  }
}

function canResolve(name) {
  try {
    require.resolve(name)
    return true
  } catch {
    return false
  }
}

/** Names what the build needs and this machine lacks, as Debian calls it; on a Mac as Homebrew does. */
function missing() {
  const [compiler, ...flags] = (process.env.CC ?? (onMac ? 'cc' : 'gcc')).split(' ')
  const succeeds = (command, args, input) => spawnSync(command, args, { input, stdio: ['pipe', 'ignore', 'ignore'] }).status === 0
  const compiles = (header) => succeeds(compiler, [...flags, '-E', '-x', 'c', '-'], `#include <${header}>\n`)
  const headers = path.resolve(process.execPath, '../../include/node')
  const lacks = []
  if (!succeeds('make', ['--version'])) lacks.push('make')
  if (!succeeds('pkg-config', ['--version'])) lacks.push('pkg-config')
  if (!succeeds(compiler, [...flags, '--version'])) return [...lacks, compiler]
  if (!compiles('stdio.h')) return [...lacks, onMac ? 'the command line tools of Xcode' : 'libc6-dev']
  if (onMac ? !succeeds('pkg-config', ['--exists', 'hiredis']) : !compiles('hiredis/hiredis.h')) {
    lacks.push(onMac ? 'hiredis' : 'libhiredis-dev')
  }
  if (!existsSync(path.join(headers, 'uv.h')) && !compiles('uv.h')) lacks.push(onMac ? 'libuv' : 'libuv1-dev')
  if (!existsSync(path.join(headers, 'openssl/evp.h')) && !compiles('openssl/evp.h')) lacks.push(onMac ? 'openssl' : 'libssl-dev')
  if (!existsSync(path.join(headers, 'node_api.h')) && !canResolve('node-api-headers')) lacks.push('libnode-dev')
  return lacks
}

if (!loads()) {
  rmSync(path.join(root, 'build/affinity.node'), { force: true })
  const make = spawnSync('make', ['native', `NODE=${process.execPath}`, 'WERROR='], { cwd: root, encoding: 'utf8' })
  if (make.status !== 0 || !loads()) {
    const lacks = missing()
    const cause = lacks.length
      ? `missing: ${lacks.join(' ')} (${onMac ? 'Homebrew' : 'Debian'} package names)`
      : `\`make native\` failed:\n${make.error?.message ?? make.stderr}`
    console.error(
      `@hocuspocus/extension-redis-affinity: no prebuilt binary for ${addon.platform()}, and it could not be built; ${cause}`,
    )
    process.exit(1)
  }
}
