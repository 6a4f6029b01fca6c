// The samples of README.md, the specification's among them, and of docs/: type-checked, and run where they can be.
import { execFile } from 'node:child_process'
import { test } from 'node:test'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

const root = fileURLToPath(new URL('../../', import.meta.url))

test("the samples of README, the specification's among them, and of docs/ compile and run", async (t) => {
  const { stdout } = await promisify(execFile)(process.execPath, ['scripts/readme-samples.mjs'], { cwd: root, timeout: 200_000 })
  t.diagnostic(stdout.trim())
})
