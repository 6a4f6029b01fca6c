export const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms))

/** Waits for work to end, for so long at most; its failure is for others to see. */
export function within(ms: number, work: Promise<unknown>): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, ms)
    const done = () => {
      clearTimeout(timer)
      resolve()
    }
    work.then(done, done)
  })
}

/**
 * Calls `run` every so many ms, as long as somebody else refers to `owner`: the timer keeps neither that nor the process.
 * `run` is kept: it must not refer to `owner`, nor to what does.
 */
export function repeat<T extends object>(owner: T, ms: number, run: (owner: T) => void): NodeJS.Timeout {
  const reference = new WeakRef(owner)
  const timer = setInterval(() => {
    const present = reference.deref()
    if (present) run(present)
    else clearInterval(timer)
  }, ms)
  return timer.unref()
}
