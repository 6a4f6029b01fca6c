// The table of servers, and what they have together.

import { find, make, makeRow, Rows, say } from './dom.js'
import { count, duration, timeOf } from './format.js'
import { Spark } from './spark.js'
import { setTag, tint } from './tags.js'
import { serverState } from './verdict.js'

const LABELS = ['Name', 'State', 'Documents', 'Sockets', 'Proxies', 'In/s', 'Out/s', 'Trend', 'Up', 'Version']
const CLASSES = ['', '', 'number', 'number', 'number', 'number', 'number', 'trend', 'number', 'number']

const sparks = new WeakMap()
let most = 1

function newRow() {
  const row = makeRow(LABELS, CLASSES)
  const [name, state, documents, , , , , trend] = row.children
  name.append(make('span', { className: 'server' }), make('small', { className: 'soft' }))
  state.append(make('span', { className: 'pill' }))
  documents.append(make('span'), make('span', { className: 'bar', ariaHidden: 'true' }))
  sparks.set(row, new Spark(trend))
  return row
}

function fill([name, state, documents, sockets, proxies, into, out, , up, version], server, row, self) {
  const { serverId, alive, host, pid, region, messagesPerSecond: rate } = server
  setTag(name.firstElementChild, serverId)
  const last = alive ? serverId === self && 'serves this page' : `last heard at ${timeOf(server.updatedAt)}`
  say(name.lastElementChild, [`${host}:${pid}`, region, last].filter(Boolean).join(' · '))
  const { level, text } = serverState(server)
  row.dataset.level = level
  state.firstElementChild.dataset.level = level
  say(state.firstElementChild, text)
  const shown = (value) => (alive ? count(value) : '–')
  say(documents.firstElementChild, shown(server.documents))
  const bar = documents.lastElementChild
  tint(bar, serverId)
  bar.style.setProperty('--share', alive ? String(server.documents / most) : '0')
  say(sockets, shown(server.sockets))
  say(proxies, shown(server.proxies))
  say(into, shown(rate.in))
  say(out, shown(rate.out))
  say(up, alive ? duration(server.updatedAt - server.startedAt) : '–')
  say(version, server.version)
  tint(row, serverId)
  if (alive) sparks.get(row).add(rate.in + rate.out, server.updatedAt)
}

let self
const rows = new Rows(find('servers').tBodies[0], newRow, (cells, server, row) => fill(cells, server, row, self))
const totalSpark = new Spark(find('total-spark'))
const sum = (servers, valueOf) => servers.reduce((total, server) => total + valueOf(server), 0)

export function showServers(state) {
  self = state.self
  most = Math.max(1, ...state.servers.map(({ documents }) => documents))
  rows.show(state.servers, ({ serverId }) => serverId)

  const alive = state.servers.filter((server) => server.alive)
  const messages = sum(alive, ({ messagesPerSecond }) => messagesPerSecond.in)
  say(find('total-servers'), alive.length === state.servers.length ? count(alive.length) : `${count(alive.length)} of ${count(state.servers.length)}`)
  say(find('total-documents'), count(sum(alive, ({ documents }) => documents)))
  say(find('total-sockets'), count(sum(alive, ({ sockets }) => sockets)))
  say(find('total-proxies'), count(sum(alive, ({ proxies }) => proxies)))
  say(find('total-messages'), count(messages))
  totalSpark.add(messages, Math.max(0, ...alive.map(({ updatedAt }) => updatedAt)))
  showSpread(alive)
}

/** One strip, divided as the documents are. */
function showSpread(servers) {
  const spread = find('spread')
  while (spread.children.length > servers.length) spread.lastElementChild.remove()
  while (spread.children.length < servers.length) spread.append(make('span'))
  for (const [index, { serverId, documents }] of servers.entries()) {
    tint(spread.children[index], serverId)
    spread.children[index].style.flexGrow = String(documents)
    spread.children[index].hidden = documents === 0
  }
  const text = servers.map(({ serverId, documents }) => `${serverId} ${count(documents)}`).join(', ')
  spread.setAttribute('aria-label', `Documents by server: ${text}`)
}
