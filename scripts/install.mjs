// npm's install script. The package ships a binary for the common platforms; elsewhere it is built here,
// with a C compiler and make, without node-gyp or Python.
import { spawnSync } from 'node:child_process'
import { existsSync, rmSync } from 'node:fs'
import { createRequire } from 'node:module'
import path from 'node:path'
import { fileURLToPath } from 'node:url'

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '..')
const require = createRequire(import.meta.url)

const prebuilt = path.join(root, 'prebuilds', `${process.platform}-${process.arch}`, 'affinity.node')
const built = path.join(root, 'build', 'affinity.node')

function loads(file) {
  if (!existsSync(file)) return false
  try {
    require(file)
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

/** Names what the build needs and this machine lacks. */
function missing() {
  const has = (command, args) => spawnSync(command, args, { stdio: 'ignore' }).status === 0
  const compiles = (header) =>
    spawnSync('gcc', ['-E', '-x', 'c', '-'], { input: `#include <${header}>\n`, stdio: ['pipe', 'ignore', 'ignore'] })
      .status === 0
  const lacks = []
  if (!has('make', ['--version'])) lacks.push('make')
  if (!has('gcc', ['--version'])) lacks.push('gcc')
  else {
    if (!compiles('hiredis/hiredis.h')) lacks.push('libhiredis-dev')
    const headers = path.resolve(process.execPath, '../../include/node')
    if (!existsSync(path.join(headers, 'uv.h')) && !compiles('uv.h')) lacks.push('libuv1-dev')
    if (!existsSync(path.join(headers, 'openssl/evp.h')) && !compiles('openssl/evp.h')) lacks.push('libssl-dev')
    if (!existsSync(path.join(headers, 'node_api.h')) && !canResolve('node-api-headers')) lacks.push('libnode-dev')
  }
  if (!has('pkg-config', ['--version'])) lacks.push('pkg-config')
  return lacks
}

if (!loads(prebuilt) && !loads(built)) {
  rmSync(built, { force: true })
  const make = spawnSync('make', ['native', `NODE=${process.execPath}`], { cwd: root, encoding: 'utf8' })
  if (make.status !== 0 || !loads(built)) {
    const lacks = missing()
    const cause = lacks.length
      ? `missing: ${lacks.join(' ')} (Debian package names)`
      : `\`make native\` failed:\n${make.error?.message ?? make.stderr}`
    console.error(
      `@hocuspocus/extension-redis-affinity: no prebuilt binary for ${process.platform}-${process.arch}, and it could not be built; ${cause}`,
    )
    process.exit(1)
  }
}
