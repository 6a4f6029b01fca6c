// The table of documents.

import { find, makeRow, Rows, say } from './dom.js'
import { count, plural } from './format.js'
import { setTag, tag } from './tags.js'

const LABELS = ['Name', 'Owner', 'Epoch', 'Clients', 'Connected to']
const CLASSES = ['name', '', 'number', 'number', 'from']
const MAX_ROWS = 500
const FLASH_MS = 3000

const table = find('documents')
const note = find('documents-note')
const compare = new Intl.Collator('en', { numeric: true }).compare
const ORDERS = {
  name: (a, b) => compare(a.name, b.name),
  owner: (a, b) => compare(a.owner, b.owner) || compare(a.name, b.name),
  epoch: (a, b) => a.epoch - b.epoch || compare(a.name, b.name),
  clients: (a, b) => a.clients - b.clients || compare(b.name, a.name),
}
let by = 'clients'
let direction = -1
let shown

function fill([name, owner, epoch, clients, from], item, row) {
  say(name, item.name)
  if (row.dataset.owner !== item.owner) {
    setTag(owner, item.owner)
    row.dataset.owner = item.owner
  }
  say(epoch, String(item.epoch))
  say(clients, count(item.clients))
  const places = Object.entries(item.from).sort(([a], [b]) => compare(a, b))
  const text = JSON.stringify(places)
  if (from.dataset.shown === text) return
  from.dataset.shown = text
  from.replaceChildren(...places.map(([serverId, n]) => tag(serverId, `\u00a0${count(n)}`)))
}

function flash(row) {
  row.classList.add('moved')
  setTimeout(() => row.classList.remove('moved'), FLASH_MS)
}

const rows = new Rows(table.tBodies[0], () => makeRow(LABELS, CLASSES), fill)

function show() {
  const { documents, servers, prefix } = shown
  const sorted = [...documents].sort((a, b) => direction * ORDERS[by](a, b))
  rows.show(sorted.slice(0, MAX_ROWS), ({ name }) => name)
  const open = servers.reduce((total, server) => total + server.open, 0)
  const visible = Math.min(documents.length, MAX_ROWS)
  table.hidden = documents.length === 0
  say(note, noteOf(open, visible, prefix))
}

function noteOf(open, visible, prefix) {
  if (visible === 0) return prefix ? 'No open document has a name that begins so.' : 'No document is open.'
  if (visible < open) return `${count(visible)} of ${plural(open, 'document')}. Search to see others.`
  return prefix ? `${plural(open, 'document')} found.` : ''
}

/**
 * Marks what has moved: by the events, since a document is in no server's list between two owners, and its row is a new one then.
 * Returns what there is to say to one who has searched, and can't see the table.
 */
export function showDocuments(state, events) {
  const isSearched = shown !== undefined && shown.prefix !== state.prefix
  shown = state
  show()
  const moved = events.flatMap(({ documents = [] }) => documents.map(({ name }) => rows.get(name)))
  for (const row of moved) if (row) flash(row)
  return isSearched ? note.textContent || plural(state.documents.length, 'document') : ''
}

for (const header of table.querySelectorAll('[data-sort]')) {
  header.querySelector('button').addEventListener('click', () => {
    direction = by === header.dataset.sort ? -direction : header.classList.contains('number') ? -1 : 1
    by = header.dataset.sort
    for (const other of table.querySelectorAll('[aria-sort]')) other.removeAttribute('aria-sort')
    header.setAttribute('aria-sort', direction > 0 ? 'ascending' : 'descending')
    if (shown) show()
  })
}
