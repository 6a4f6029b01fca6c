// Tries what `make prebuilds` has built for glibc: the packed package in an empty project, two servers on a real redis-server,
// under Node 22 on the C library of Debian 11, for arm64 under qemu. (There is no Node on musl in Debian or npm.)
import assert from 'node:assert/strict'
import path from 'node:path'
import { startRedis } from '../test/support/redis.mjs'
import { ANSWER, project, root, run } from '../test/support/packed.mjs'

const cross = path.join(root, 'build/cross')
const bullseye = (arch, triplet) => ['lib', 'usr/lib'].map((folder) => path.join(cross, `bullseye-${arch}`, folder, triplet)).join(':')

const machines = {
  'linux-x64 on glibc 2.31': [
    path.join(cross, 'bullseye-amd64/lib/x86_64-linux-gnu/ld-2.31.so'),
    '--library-path',
    bullseye('amd64', 'x86_64-linux-gnu'),
    path.join(root, 'test/nodes/node_modules/node-22/bin/node'),
  ],
  'linux-arm64 on glibc 2.31, under qemu': [
    'qemu-aarch64',
    '-L',
    path.join(cross, 'bullseye-arm64'),
    path.join(cross, 'node-arm64/package/bin/node'),
  ],
}

const redis = await startRedis()
const { folder, end } = await project()
try {
  const env = { ...process.env, REDIS_SOCKET: redis.path }
  for (const [what, [command, ...args]] of Object.entries(machines)) {
    const { stdout } = await run(command, [...args, 'program.mjs'], { cwd: folder, env, timeout: 300_000 })
    assert.deepEqual(JSON.parse(stdout), ANSWER)
    console.log(`prebuilds: ${what}: two servers work`)
  }
} finally {
  await redis.stop()
  await end()
}
