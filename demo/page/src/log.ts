import { find, make } from './dom'

const MAX_NOTES = 50

/** Adds a line to "What happened", newest first. */
export function note(text: string): void {
  const time = make('time', { text: new Date().toLocaleTimeString(undefined, { timeStyle: 'medium', hourCycle: 'h23' }) })
  const log = find('log')
  log.prepend(make('li', {}, time, make('span', { text })))
  while (log.children.length > MAX_NOTES) log.lastElementChild!.remove()
  find('log-hint').hidden = true
}
