/** The element with this id, or with this data-testid: the page has each once. */
export function find(name: string): HTMLElement {
  const element = document.querySelector<HTMLElement>(`#${name}, [data-testid="${name}"]`)
  if (!element) throw new Error(`the page has no ${name}`)
  return element
}

/** Sets a text unless it is there already: a screen reader would read it out again. */
export function setText(element: HTMLElement, text: string): void {
  if (element.textContent !== text) element.textContent = text
}

export function say(name: string, text: string): void {
  setText(find(name), text)
}

type Properties = { className?: string; text?: string; testid?: string; hidden?: boolean }

export function make(
  tag: string,
  { className, text, testid, hidden }: Properties = {},
  ...children: Node[]
): HTMLElement {
  const element = document.createElement(tag)
  if (className) element.className = className
  if (text !== undefined) element.textContent = text
  if (testid) element.dataset.testid = testid
  if (hidden) element.ariaHidden = 'true'
  element.append(...children)
  return element
}
