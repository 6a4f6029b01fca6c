/** On builds that are slow (`make asan-node`) all deadlines are later. */
export const patience = Number(process.env.PATIENCE ?? 1)

/**
 * Waits for a condition by polling: tests wait for what they need, with a deadline, never for a time.
 *
 * @template T
 * @param {() => T | Promise<T>} condition its first truthy result is the answer; a throw counts as "not yet"
 * @param {{ timeout?: number, every?: number, what?: string }} [options] `what` names the condition in the error
 * @returns {Promise<T>}
 */
export async function until(condition, { timeout = 10_000, every = 5, what = condition.toString() } = {}) {
  const deadline = Date.now() + patience * timeout
  let last
  for (;;) {
    try {
      const result = await condition()
      if (result) return result
      last = result
    } catch (error) {
      last = error
    }
    if (Date.now() > deadline) {
      const seen = last instanceof Error ? `${last.message}` : JSON.stringify(last)
      throw new Error(`not within ${timeout} ms: ${what} (last: ${seen})`)
    }
    await new Promise((resolve) => setTimeout(resolve, every))
  }
}

/**
 * A promise that fails when it takes too long.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {string} what
 * @returns {Promise<T>}
 */
export function within(promise, what, timeout = 10_000) {
  let timer
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${timeout} ms: ${what}`)), patience * timeout)
  })
  return Promise.race([promise, late]).finally(() => clearTimeout(timer))
}

/** True when the condition stays true for the whole time: for what must not happen. */
export async function holds(condition, { during, what = condition.toString() }) {
  const end = Date.now() + during
  while (Date.now() < end) {
    if (!(await condition())) throw new Error(`did not hold for ${during} ms: ${what}`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
}
