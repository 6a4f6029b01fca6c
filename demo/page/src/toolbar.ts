import type { ChainedCommands, Editor } from '@tiptap/core'
import { find, make } from './dom'

type Tool = {
  label: string
  sign: string
  run: (chain: ChainedCommands) => ChainedCommands
  active?: [string, object?]
}

const TOOLS: Tool[] = [
  { label: 'Heading', sign: 'H', run: (chain) => chain.toggleHeading({ level: 2 }), active: ['heading', { level: 2 }] },
  { label: 'Bold', sign: 'B', run: (chain) => chain.toggleBold(), active: ['bold'] },
  { label: 'Italic', sign: 'I', run: (chain) => chain.toggleItalic(), active: ['italic'] },
  { label: 'Bulleted list', sign: '•', run: (chain) => chain.toggleBulletList(), active: ['bulletList'] },
  { label: 'Numbered list', sign: '1.', run: (chain) => chain.toggleOrderedList(), active: ['orderedList'] },
  { label: 'Quotation', sign: '”', run: (chain) => chain.toggleBlockquote(), active: ['blockquote'] },
  { label: 'Undo', sign: '↶', run: (chain) => chain.undo() },
  { label: 'Redo', sign: '↷', run: (chain) => chain.redo() },
]

export function addToolbar(editor: Editor): void {
  const buttons = TOOLS.map((tool) => button(tool, editor))
  find('toolbar').append(...buttons)
  const refresh = () =>
    TOOLS.forEach(({ active }, i) => {
      if (active) buttons[i]!.ariaPressed = `${editor.isActive(...active)}`
    })
  editor.on('transaction', refresh)
  refresh()
}

function button({ label, sign, run }: Tool, editor: Editor): HTMLElement {
  const element = make('button', { text: sign, className: `tool-${label.split(' ')[0]!.toLowerCase()}` })
  element.setAttribute('type', 'button')
  element.ariaLabel = element.title = label
  element.addEventListener('mousedown', (event) => event.preventDefault()) // keeps the selection in the editor
  element.addEventListener('click', () => run(editor.chain().focus()).run())
  return element
}
