// What has happened since the page was opened: a list, and now and then a sentence for screen readers.

import { find, make, say } from './dom.js'
import { plural, timeOf } from './format.js'
import { tag } from './tags.js'

const MAX_EVENTS = 200
const MAX_NAMES = 3
/** Who listens is told at most so often, in one go. */
const ANNOUNCE_MS = 5000

const WORDS = {
  up: 'has joined',
  gone: 'is gone',
  left: 'has left',
  draining: 'is draining',
  silent: 'does not answer',
  answers: 'answers again',
}
const LEVELS = { up: 'good', gone: 'bad', left: 'busy', draining: 'busy', silent: 'warn', answers: 'good' }

const list = find('events')

function namesOf(documents) {
  const names = documents.slice(0, MAX_NAMES).flatMap(({ name }) => [make('bdi', { className: 'name' }, name), ', '])
  names.pop()
  const more = documents.length - MAX_NAMES
  return more > 0 ? [...names, ` and ${more} more`] : names
}

function moveItem({ from, to, documents }) {
  const details = documents.length === 1 ? `epoch ${documents[0].epoch}` : plural(documents.length, 'document')
  const way = make('span', { className: 'way' }, tag(from), make('span', { className: 'arrow', role: 'img', ariaLabel: 'to' }, '→'), tag(to))
  return make('div', {}, make('p', {}, ...namesOf(documents)), make('p', { className: 'soft' }, way, details))
}

function serverItem({ kind, server }) {
  const item = make('div', {}, make('p', {}, tag(server), ` ${WORDS[kind]}`))
  item.dataset.level = LEVELS[kind]
  return item
}

/** `at` in ms since 1970. */
export function showEvents(events, at) {
  if (events.length === 0) return
  find('events-note').hidden = true
  list.hidden = false
  const time = make('time', { dateTime: new Date(at).toISOString() }, timeOf(at))
  for (const event of events) {
    const item = event.kind === 'moved' ? moveItem(event) : serverItem(event)
    list.prepend(make('li', { className: event.kind }, time.cloneNode(true), item))
  }
  while (list.children.length > MAX_EVENTS) list.lastElementChild.remove()
  announce(events)
}

let waiting = []
let timer

function announce(events) {
  waiting.push(...events)
  if (timer === undefined) tell()
}

function tell() {
  const sentences = waiting.map((event) => {
    if (event.kind !== 'moved') return `${event.server} ${WORDS[event.kind]}.`
    const { from, to, documents } = event
    return `${documents.length === 1 ? documents[0].name : plural(documents.length, 'document')} moved from ${from} to ${to}.`
  })
  say(find('announcement'), sentences.length > 4 ? `${sentences.slice(0, 3).join(' ')} And ${sentences.length - 3} more events.` : sentences.join(' '))
  waiting = []
  // What comes in the meantime waits.
  timer = setTimeout(() => {
    timer = undefined
    if (waiting.length > 0) tell()
  }, ANNOUNCE_MS)
}
