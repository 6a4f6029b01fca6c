// What stands in the Markdown pages: their fenced blocks, with the comment that marks them.
import { readFileSync } from 'node:fs'

/**
 * @typedef {object} Block
 * @property {string} page
 * @property {string} mark what stands in the comment before it, without its delimiters; empty if there is none
 * @property {string} language
 * @property {string} code
 */

/** @param {string} page @returns {Block[]} */
export function blocksOf(page) {
  const pattern = /(?:<!-- ([^>]*?) -->\s*\n)?```(\w*)[^\n]*\n([\s\S]*?)```/g
  return [...readFileSync(page, 'utf8').matchAll(pattern)].map(([, mark = '', language, code]) => ({ page, mark, language, code }))
}

/** Samples: `<!-- sample: name -->`, or `<!-- sample: name run -->`. @param {string} page */
export function samplesOf(page) {
  return blocksOf(page).flatMap((block) => {
    const [, name, run] = /^sample: ([\w-]+)( run)?$/.exec(block.mark) ?? []
    return name ? [{ ...block, name, run: Boolean(run) }] : []
  })
}
