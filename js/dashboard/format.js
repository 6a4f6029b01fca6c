// Numbers and times as people read them.

const number = new Intl.NumberFormat('en')
const clock = new Intl.DateTimeFormat('en-GB', { timeStyle: 'medium' })

export const count = (value) => number.format(value)
export const timeOf = (at) => clock.format(at)
export const plural = (n, one, many = `${one}s`) => `${count(n)} ${n === 1 ? one : many}`

const UNITS = [
  ['d', 86_400],
  ['h', 3600],
  ['min', 60],
  ['s', 1],
]

/** The two largest units: `3 d 4 h`. */
export function duration(ms) {
  let seconds = Math.max(0, Math.round(ms / 1000))
  const parts = []
  for (const [unit, size] of UNITS) {
    const n = Math.floor(seconds / size)
    seconds -= n * size
    if (n > 0 || parts.length > 0) parts.push(`${n} ${unit}`)
    if (parts.length === 2) break
  }
  return parts.join(' ') || '0 s'
}
