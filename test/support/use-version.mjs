// Preloaded (`--import`) by a server's process: `@hocuspocus/server` and `@hocuspocus/common` are those of the version
// in HOCUSPOCUS_VERSION, of test/servers. For our package too, as it would be beside them in node_modules.
import { createRequire, register } from 'node:module'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const folder = new URL(`../servers/node_modules/server-${process.env.HOCUSPOCUS_VERSION}/`, import.meta.url)
if (!existsSync(folder)) throw new Error(`test/servers has no server-${process.env.HOCUSPOCUS_VERSION}: see its package.json, and make setup`)

const from = new URL('package.json', folder)
const { exports, module } = createRequire(from)(fileURLToPath(from))
const main = new URL(exports?.default?.import ?? module, folder).href

const hooks = `
  let main, from
  export function initialize(data) { ({ main, from } = data) }
  export function resolve(specifier, context, next) {
    if (specifier === '@hocuspocus/server') return { url: main, shortCircuit: true }
    if (specifier === '@hocuspocus/common') return next(specifier, { ...context, parentURL: from })
    return next(specifier, context)
  }`
register(`data:text/javascript,${encodeURIComponent(hooks)}`, { data: { main, from: from.href } })
