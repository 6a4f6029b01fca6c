// The package as npm gets it, installed into an empty project.
import { execFile } from 'node:child_process'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

export const root = fileURLToPath(new URL('../../', import.meta.url))
export const run = promisify(execFile)

const versionOf = async (name) => JSON.parse(await readFile(path.join(root, 'node_modules', name, 'package.json'))).version

/** A user's whole program: two servers, and an event that crosses from one to the other. */
const body = `
async function main() {
  const servers = []
  for (const serverId of ['one', 'two']) {
    const customEvents = { who: async (documentName, payload) => ({ serverId, documentName, payload }) }
    const affinity = new RedisServerAffinity({ redis: new Redis(process.env.REDIS_SOCKET), serverId, customEvents })
    const server = new Server({ port: 0, address: '127.0.0.1', quiet: true, extensions: [affinity] })
    await server.listen()
    servers.push({ affinity, server })
  }
  const release = await servers[0].affinity.lockDocument('page')
  const answer = await servers[1].affinity.handleEvent('who', 'page', new Date(7))
  await release()
  for (const { server } of servers) await server.destroy()
  console.log(JSON.stringify(answer))
}
main()
`
const needs = [
  ['Server', '@hocuspocus/server'],
  ['RedisServerAffinity', '@hocuspocus/extension-redis-affinity'],
  ['Redis', 'ioredis'],
]
const programs = {
  'program.mjs': needs.map(([what, from]) => `import { ${what} } from '${from}'\n`).join('') + body,
  'program.cjs': needs.map(([what, from]) => `const { ${what} } = require('${from}')\n`).join('') + body,
}

/** `a/{b,c}` is two names. */
function expand(line) {
  const [, head, choices, tail] = line.match(/^([^{]*)\{([^}]*)\}(.*)$/) ?? []
  return choices === undefined ? [line] : choices.split(',').flatMap((choice) => expand(head + choice + tail))
}

/** What the package has to hold. */
export const listedFiles = async () => (await readFile(path.join(root, 'test/node/package-files.txt'), 'utf8')).trim().split('\n').flatMap(expand)

/** Packs what has been built. Returns the archive's path and what lies in it. */
export async function pack(folder) {
  const { stdout } = await run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', folder], { cwd: root })
  const [{ filename, files }] = Object.values(JSON.parse(stdout))
  return { archive: path.join(folder, filename), files: files.map((file) => file.path).sort() }
}

/** A project with the package, its peers and the programs above. `more`: further packages of the root's. */
export async function project(more = []) {
  const folder = await mkdtemp(path.join(tmpdir(), 'rsa-package-'))
  const end = () => rm(folder, { recursive: true, force: true })
  try {
    const { archive, files } = await pack(folder)
    await writeFile(path.join(folder, 'package.json'), '{"private": true}')
    for (const [name, text] of Object.entries(programs)) await writeFile(path.join(folder, name), text)
    const others = ['@hocuspocus/server', 'ioredis', 'yjs', 'y-protocols', ...more]
    const versions = await Promise.all(others.map(async (name) => `${name}@${await versionOf(name)}`))
    const options = ['--ignore-scripts', '--prefer-offline', '--no-audit', '--no-fund']
    await run('npm', ['install', ...options, archive, ...versions], { cwd: folder })
    return { folder, files, installed: path.join(folder, 'node_modules/@hocuspocus/extension-redis-affinity'), end }
  } catch (error) {
    await end()
    throw error
  }
}

/** What the program has to print. */
export const ANSWER = { serverId: 'one', documentName: 'page', payload: new Date(7).toJSON() }
