// Finds and loads the addon. CommonJS, and one file beside the two builds of the facade (dist and cjs): whoever gets both
// into one process still has one addon. scripts/install.mjs and the Makefile ask it for the platform's name.
'use strict'
const path = require('node:path')

const root = path.join(__dirname, '..')

/** A Node that runs on musl has no version of glibc to report. */
function hasMusl() {
  const report = process.report
  if (process.platform !== 'linux' || !report?.getReport) return false
  const { excludeNetwork } = report
  report.excludeNetwork = true // else it asks for the names of all that sockets are connected to
  const { header } = report.getReport()
  report.excludeNetwork = excludeNetwork
  return header.glibcVersionRuntime === undefined
}

/** The name of this process's folder in prebuilds/. */
function platform() {
  return `${process.platform}-${process.arch}${hasMusl() ? '-musl' : ''}`
}

/** A binary built here comes first: it is newer than one that was shipped. */
function load() {
  const failures = []
  const attempt = (name) => {
    try {
      return require(path.join(root, name))
    } catch (error) {
      failures.push(`${name}: ${error.message.split('\n')[0]}`)
      return undefined
    }
  }
  const built = attempt('build/affinity.node')
  if (built) return built
  const name = platform()
  const prebuilt = attempt(`prebuilds/${name}/affinity.node`)
  if (prebuilt) return prebuilt
  throw new Error(
    `@hocuspocus/extension-redis-affinity has no binary for ${name}; ` +
      `run "node scripts/install.mjs" in its folder to build one (${failures.join('; ')})`,
  )
}

/** Of this package. */
const { version } = require(path.join(root, 'package.json'))

module.exports = { load, platform, root, version }
