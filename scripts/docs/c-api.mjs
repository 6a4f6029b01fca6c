// Markdown of a C header: what stands between blank lines is one section, its comment the text, the rest the code.

const HEAD = `# The engine's C interface

\`core/aff.h\`, for those who put something else than Node.js around the engine. This page is made from the header by \`make docs\`.
`

/** @param {string} header */
export function describeHeader(header) {
  const [, top, body] = /^\/\*\n([\s\S]*?)\*\/\n([\s\S]*)$/.exec(header)
  return `${[HEAD, prose(top), ...sectionsOf(body).map(describe)].join('\n')}`
}

/** Blank lines inside of braces and comments separate nothing. */
function sectionsOf(text) {
  const sections = ['']
  let depth = 0
  let isComment = false
  for (const line of text.split('\n')) {
    if (line.trim() === '' && depth === 0 && !isComment) {
      sections.push('')
      continue
    }
    sections[sections.length - 1] += `${line}\n`
    const bare = line.replace(/"[^"]*"|\/\*.*?\*\//g, '')
    if (bare.includes('/*')) isComment = true
    else if (bare.includes('*/')) isComment = false
    else if (!isComment) depth += bare.split('{').length - bare.split('}').length
  }
  return sections.filter((section) => section && !/^#(ifndef|include|endif)/.test(section))
}

function describe(section) {
  const [, comment = '', code] = /^(\/\*[\s\S]*?\*\/\n)?([\s\S]*)$/.exec(section)
  const title = namesOf(code).map((name) => `\`${name}\``).join(', ')
  const text = comment.replace(/^\/\*\s?\n?/, '').replace(/\s*\*\/\s*$/, '\n')
  return `${title ? `## ${title}\n\n` : ''}${comment ? `${prose(text)}\n` : ''}\`\`\`c\n${code.trimEnd()}\n\`\`\`\n`
}

/** What a piece of code declares. */
function namesOf(code) {
  const names = [...code.matchAll(/^\} (\w+);|^#define (\w+)|^(?:[\w*]+ )+\*?(\w+)\(|^typedef struct \w+ (\w+);/gm)].map((match) => match.slice(1).find(Boolean))
  const constants = /^enum \{/.test(code) ? [...code.matchAll(/\b(AFF_\w+) =/g)].map(([, name]) => name) : []
  return [...new Set([...names, ...constants])].filter((name) => name !== 'X')
}

/** A comment's text without its stars; indented lines are code. */
function prose(text) {
  const lines = text.split('\n').map((line) => line.replace(/^ \* ?/, ''))
  return `${lines.join('\n').trim().replaceAll('<', '&lt;')}\n`
}
