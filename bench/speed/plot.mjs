// A line plot as SVG, without dependencies: each series with the range of its rounds as whiskers.
import { median, number } from './figures.mjs'

const WIDTH = 640
const HEIGHT = 360
const LEFT = 64
const RIGHT = 130
const TOP = 44
const BOTTOM = 52

const escape = (text) => text.replace(/[&<>]/g, (c) => ({ '&': '&amp;', '<': '&lt;', '>': '&gt;' })[c])

/** A step of 1, 2 or 5 times a power of ten, for about five lines. */
function stepFor(top) {
  const power = 10 ** Math.floor(Math.log10(top / 5))
  return [1, 2, 5, 10].map((factor) => factor * power).find((step) => top / step <= 6)
}

/**
 * @param {{ title: string, x: string, y: string, logarithmic?: boolean, series: { name: string, colour: string, points: { x: number, values: number[] }[] }[] }} plot
 *   `values`: of the rounds
 * @returns {string} SVG
 */
export function plotSvg({ title, x, y, logarithmic = false, series }) {
  const points = series.flatMap((one) => one.points)
  const xs = [...new Set(points.map((point) => point.x))].sort((a, b) => a - b)
  const scale = logarithmic ? Math.log : (value) => value
  const [low, high] = [scale(xs[0]), scale(xs.at(-1))]
  const top = Math.max(...points.flatMap(({ values }) => values)) * 1.05
  const atX = (value) => LEFT + ((scale(value) - low) / (high - low || 1)) * (WIDTH - LEFT - RIGHT)
  const atY = (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM)
  const text = (at, up, content, more = '') => `<text x="${at.toFixed(1)}" y="${up.toFixed(1)}" ${more}>${escape(content)}</text>`
  const line = (x1, y1, x2, y2, more) => `<line x1="${x1.toFixed(1)}" y1="${y1.toFixed(1)}" x2="${x2.toFixed(1)}" y2="${y2.toFixed(1)}" ${more}/>`

  const parts = [text(LEFT, 22, title, 'font-size="14" font-weight="bold"')]
  const step = stepFor(top)
  for (let value = 0; value <= top; value += step) {
    parts.push(line(LEFT, atY(value), WIDTH - RIGHT, atY(value), 'stroke="#ddd"'))
    parts.push(text(LEFT - 6, atY(value) + 4, number(value), 'text-anchor="end"'))
  }
  for (const value of xs) parts.push(text(atX(value), HEIGHT - BOTTOM + 18, String(value), 'text-anchor="middle"'))
  parts.push(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, x, 'text-anchor="middle"'))
  parts.push(text(0, 0, y, `text-anchor="middle" transform="translate(16 ${(HEIGHT + TOP - BOTTOM) / 2}) rotate(-90)"`))

  // The names stand at the ends of their lines, kept apart.
  let lastLabel = -Infinity
  const ordered = series
    .map((one) => ({ ...one, end: atY(median(one.points.at(-1).values)) }))
    .sort((a, b) => a.end - b.end)
  for (const { name, points: own, colour, end } of ordered) {
    const path = own.map(({ x: at, values }) => `${atX(at).toFixed(1)},${atY(median(values)).toFixed(1)}`).join(' ')
    parts.push(`<polyline points="${path}" fill="none" stroke="${colour}" stroke-width="2"/>`)
    for (const { x: at, values } of own) {
      parts.push(line(atX(at), atY(Math.min(...values)), atX(at), atY(Math.max(...values)), `stroke="${colour}"`))
      parts.push(`<circle cx="${atX(at).toFixed(1)}" cy="${atY(median(values)).toFixed(1)}" r="3" fill="${colour}"/>`)
    }
    lastLabel = Math.max(end, lastLabel + 14)
    parts.push(text(WIDTH - RIGHT + 10, lastLabel + 4, name, `fill="${colour}"`))
  }
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${HEIGHT}" width="${WIDTH}" height="${HEIGHT}" font-family="sans-serif" font-size="11">`,
    `<rect width="${WIDTH}" height="${HEIGHT}" fill="white"/>`,
    ...parts,
    '</svg>\n',
  ].join('\n')
}
