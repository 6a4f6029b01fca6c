// A line of the last values. The number beside it says what it ends in.

const SVG = 'http://www.w3.org/2000/svg'
const VALUES = 60
const [WIDTH, HEIGHT] = [120, 24]

export class Spark {
  #values = []
  #line = document.createElementNS(SVG, 'polyline')
  #area = document.createElementNS(SVG, 'polygon')
  #last

  constructor(parent) {
    const svg = document.createElementNS(SVG, 'svg')
    svg.setAttribute('class', 'spark')
    svg.setAttribute('viewBox', `0 0 ${WIDTH} ${HEIGHT}`)
    svg.setAttribute('preserveAspectRatio', 'none')
    svg.setAttribute('aria-hidden', 'true')
    svg.append(this.#area, this.#line)
    parent.append(svg)
  }

  /** `at`: one value for each; the same again is no news. */
  add(value, at) {
    if (at === this.#last) return
    this.#last = at
    this.#values.push(value)
    this.#values.splice(0, this.#values.length - VALUES)
    const top = Math.max(1, ...this.#values)
    const step = WIDTH / (VALUES - 1)
    const from = WIDTH - (this.#values.length - 1) * step
    const points = this.#values.map((one, index) => `${(from + index * step).toFixed(1)},${(HEIGHT - 2 - (one / top) * (HEIGHT - 4)).toFixed(1)}`)
    this.#line.setAttribute('points', points.join(' '))
    this.#area.setAttribute('points', [`${from.toFixed(1)},${HEIGHT}`, ...points, `${WIDTH},${HEIGHT}`].join(' '))
  }
}
