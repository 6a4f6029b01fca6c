// The few things that all parts of the page do with elements. What comes from the cluster becomes text, never HTML.

export const find = (id) => document.getElementById(id)

/** An element with properties and children (elements or strings). */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag)
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value
    else element.setAttribute(name, value)
  }
  element.append(...children)
  return element
}

/** Leaves the element alone if it says so already: screen readers and selections are not disturbed. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text
}

/**
 * Makes the rows of a table those of `items`, in this order. Rows stay the same elements, so that focus and selection do.
 * `fill(cells, item, row)` writes what has changed.
 */
export class Rows {
  #rows = new Map()

  constructor(body, makeRow, fill) {
    this.body = body
    this.makeRow = makeRow
    this.fill = fill
  }

  /** The row of a key, while it is shown. */
  get(key) {
    return this.#rows.get(key)
  }

  show(items, keyOf) {
    const keys = new Set(items.map(keyOf))
    for (const [key, row] of this.#rows) {
      if (keys.has(key)) continue
      row.remove()
      this.#rows.delete(key)
    }
    let next = this.body.firstElementChild
    for (const item of items) {
      const key = keyOf(item)
      const row = this.#rows.get(key) ?? this.makeRow()
      this.#rows.set(key, row)
      if (row === next) next = next.nextElementSibling
      else this.body.insertBefore(row, next)
      this.fill(row.children, item, row)
    }
  }
}

/** A row of a table: its first cell is the header. `labels` are shown where the columns stand below each other. */
export function makeRow(labels, classes = []) {
  const cells = labels.map((label, index) => {
    const role = index === 0 ? 'rowheader' : 'cell'
    return make(index === 0 ? 'th' : 'td', { className: classes[index] ?? '', role, 'data-label': label, ...(index === 0 && { scope: 'row' }) })
  })
  return make('tr', { role: 'row' }, ...cells)
}
