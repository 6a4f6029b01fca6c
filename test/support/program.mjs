// Programs of examples/ and docs/: servers that say `<serverId> listens on <port>`, and end at SIGTERM.
import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { until, within } from './wait.mjs'

const root = fileURLToPath(new URL('../../', import.meta.url))

/**
 * Starts one, and waits until it listens (with WORKERS: so many times). It is killed at the end of the test.
 *
 * @param {import('node:test').TestContext} t
 * @param {string[]} args of Node
 * @param {Record<string, string>} env
 */
export async function startProgram(t, args, env) {
  const child = spawn(process.execPath, args, { cwd: root, env: { ...process.env, NODE_ENV: 'testing', PORT: '0', ...env } })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (data) => (output += data))
  const exited = new Promise((resolve) => child.once('exit', (code, signal) => resolve(signal ?? code)))
  t.after(() => child.kill('SIGKILL'))
  const program = {
    pid: child.pid,
    exited,
    output: () => output,
    servers: () =>
      [...output.matchAll(/^(\S+) listens on (\d+)$/gm)].map(([, serverId, port]) => ({ serverId, port: Number(port), url: `ws://127.0.0.1:${port}` })),
    /** @param {number | string} [end] its exit code, or the signal by which it ends */
    async stop(end = 0) {
      child.kill('SIGTERM')
      assert.equal(await within(exited, `${args} ends\n${output}`), end, output)
    },
  }
  const count = Number(env.WORKERS ?? 1)
  await until(() => program.servers().length >= count || child.exitCode !== null, { timeout: 20_000, what: `${args} listens` })
  assert.equal(child.exitCode, null, output)
  return program
}
