// Asks for the state of the cluster once a second while anybody sees the page, and shows it.

import { find, say } from './dom.js'
import { showDocuments } from './documents.js'
import { showEvents } from './events.js'
import { timeOf } from './format.js'
import { showServers } from './servers.js'
import { verdict } from './verdict.js'
import { Watcher } from './watcher.js'

const EVERY_MS = 1000
const ANSWER_WITHIN_MS = 4000
const TYPED_MS = 300

const watcher = new Watcher()
const pause = find('pause')
const prefix = find('prefix')
let timer
let asking
let answeredAt
let isPaused = false

async function ask() {
  clearTimeout(timer)
  asking?.abort()
  const mine = (asking = new AbortController())
  try {
    const signal = AbortSignal.any([mine.signal, AbortSignal.timeout(ANSWER_WITHIN_MS)])
    const response = await fetch(`state?${new URLSearchParams({ prefix: prefix.value })}`, { signal, cache: 'no-store' })
    if (response.status === 401) return location.reload() // the session has ended
    if (!response.ok) throw new Error(`status ${response.status}`)
    show(await response.json())
  } catch {
    if (mine.signal.aborted) return // another question is under way
    showSilence()
  }
  schedule()
}

function schedule() {
  clearTimeout(timer)
  if (!isPaused && document.visibilityState === 'visible') timer = setTimeout(ask, EVERY_MS)
}

function show(state) {
  answeredAt = Date.now()
  const { level, text } = verdict(state)
  showVerdict(level, text)
  say(find('source'), `${state.self}, ${timeOf(answeredAt)}`)
  find('notice').hidden = !state.error
  if (state.error) say(find('notice'), `The list of servers is not up to date: ${state.error.message}.`)
  showServers(state)
  const events = watcher.next(state, answeredAt)
  const found = showDocuments(state, events)
  if (found) say(find('announcement'), found)
  showEvents(events, answeredAt)
}

function showSilence() {
  showVerdict('bad', 'This server does not answer')
  say(find('notice'), answeredAt ? `No answer since ${timeOf(answeredAt)}. What you see is of that time; the page goes on asking.` : 'No answer yet; the page goes on asking.')
  find('notice').hidden = false
}

function showVerdict(level, text) {
  find('verdict').dataset.level = level
  say(find('verdict'), text)
  const title = level === 'good' ? 'Cluster' : `${text} – cluster`
  if (document.title !== title) document.title = title
}

pause.addEventListener('click', () => {
  isPaused = !isPaused
  pause.setAttribute('aria-pressed', String(isPaused))
  document.body.classList.toggle('paused', isPaused)
  if (isPaused) clearTimeout(timer)
  else ask()
})

document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible' && !isPaused) ask()
  else clearTimeout(timer)
})

prefix.addEventListener('input', () => {
  clearTimeout(timer)
  timer = setTimeout(ask, TYPED_MS)
})
find('search').addEventListener('submit', (event) => {
  event.preventDefault()
  ask()
})

ask()
