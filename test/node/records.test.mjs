// Records for the engine's thread, as JavaScript lays them out.
import assert from 'node:assert/strict'
import { describe, test } from 'node:test'
import { Records, handOneByOne } from '../../js/dist/records.js'

const bytes = (...parts) => Buffer.concat(parts.map((part) => Buffer.from(part)))
const hex = (text) => Buffer.from(text.replace(/\s/g, ''), 'hex')

/** What is handed over, as copies. */
function gather() {
  const handed = []
  const records = new Records((memory, length) => handed.push(Buffer.from(memory.subarray(0, length))))
  return { records, handed }
}

describe('records', () => {
  // The same bytes as in test/c/test_queue.c, where the engine's side writes and reads them.
  test('they are laid out as the engine reads them', () => {
    const { records, handed } = gather()
    records.put(7, { flag: true, code: 4205, socket: 0x01020304, status: -3, request: 2 ** 53 }, bytes('doc'), bytes('name'), bytes('data!'))
    records.putFrame(8, 9, bytes('frame'))
    records.putForMany(10, Uint32Array.of(1, 0x0a0b0c0d, 77), 2, bytes('to two'))
    records.flush()
    assert.deepEqual(handed, [
      bytes(
        hex('30000000 07 01 6d10 04030201 fdffffff 0000000000004043 0000000000000000 03000000 04000000'),
        'docnamedata!',
        hex('29000000 08 00 0000 09000000 00000000 0000000000000000 0000000000000000 00000000 00000000'),
        'frame',
        hex('32000000 0a 00 0000 00000000 00000000 0000000000000000 0000000000000000 00000000 08000000 01000000 0d0c0b0a'),
        'to two',
      ),
    ])
  })

  test('their memory is used again, and what stood there before is gone', () => {
    const { records, handed } = gather()
    records.put(1, { flag: true, code: 65_535, socket: 2 ** 32 - 1, status: -1, request: 1e15 }, bytes('d'), bytes('n'), bytes('x'))
    records.flush()
    records.putFrame(2, 3, bytes('y'))
    records.flush()
    const fresh = gather()
    fresh.records.putFrame(2, 3, bytes('y'))
    fresh.records.flush()
    assert.deepEqual(handed[1], fresh.handed[0])
  })

  test('many are handed over in between, in their order, each whole', () => {
    const { records, handed } = gather()
    const lengths = Array.from({ length: 1000 }, (_, n) => (n % 50 === 7 ? 70_000 + n : (n * 37) % 3000))
    for (const [n, length] of lengths.entries()) records.putFrame(1, n, new Uint8Array(length).fill(n))
    records.flush()
    assert.ok(handed.length > 1000 / 64)
    let next = 0
    for (const block of handed) {
      let count = 0
      for (let at = 0; at < block.length; next++, count++) {
        const end = at + 4 + block.readUInt32LE(at)
        assert.equal(block.readUInt32LE(at + 8), next)
        assert.equal(end - at - 40, lengths[next])
        assert.ok(block.subarray(at + 40, end).every((byte) => byte === next % 256))
        at = end
      }
      assert.ok(count <= 64)
    }
    assert.equal(next, 1000)
  })

  test('those that are refused together are handed over one by one; what is said of it meanwhile is not lost', () => {
    const taken = []
    let isFull = true
    const hand = (record) => {
      if (record.length > 100) return -5
      taken.push(record.readUInt32LE?.(8) ?? Buffer.from(record).readUInt32LE(8))
      return 0
    }
    const refused = []
    const records = new Records((memory, length) => {
      if (!isFull) return hand(Buffer.from(memory.subarray(0, length)))
      isFull = false
      refused.push(...handOneByOne(memory.slice(0, length), hand))
      records.putFrame(3, 99, bytes('said of it'))
    })
    records.putFrame(1, 11, bytes('small'))
    records.put(2, { socket: 12, request: 5 }, undefined, undefined, new Uint8Array(65_000))
    records.putFrame(1, 13, new Uint8Array(10))
    records.putFrame(1, 14, new Uint8Array(66_000)) // has no room beside those
    assert.deepEqual(taken, [11, 13, 99])
    assert.deepEqual(refused, [{ kind: 2, socket: 12, request: 5, status: -5 }])
  })
})
