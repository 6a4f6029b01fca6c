// The samples of README.md, the specification's among them: type-checked, and run where they can be.
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = fileURLToPath(new URL('../../', import.meta.url))

test("README's samples, the specification's among them, compile and run", async (t) => {
  const { stdout } = await promisify(execFile)(process.execPath, ['scripts/readme-samples.mjs'], { cwd: root, timeout: 100_000 })
  t.diagnostic(stdout.trim())
})
