// The picture of the cluster: the balancer on top, the three servers with their buttons, Redis below, and the way that
// this page's changes take.

import { type Action, press, type State, type States } from './control'
import { find, make, say, setText } from './dom'
import { note } from './log'
import { badge, type Presence } from './people'

/** Sent by the owner when this page's connection to the document stands (demo/server.mjs). */
export type Placement = { owner: string; socketServer: string }

const SERVERS = ['server-1', 'server-2', 'server-3'] // as in demo/cluster.mjs

const STATES = { starting: 'starting …', up: 'running', frozen: 'frozen', stopping: 'stopping …', down: 'down' }

const ACTIONS: Record<Action, { label: string; hint: string }> = {
  kill: { label: 'Kill', hint: 'The process ends at once (SIGKILL)' },
  stop: { label: 'Stop', hint: 'It hands its documents over, then it ends (SIGTERM)' },
  freeze: { label: 'Freeze', hint: 'The process stands still (SIGSTOP), as on an overloaded machine' },
  thaw: { label: 'Thaw', hint: 'The process goes on (SIGCONT)' },
  start: { label: 'Start', hint: 'A new process takes its place' },
  restart: { label: 'Restart', hint: 'It is away for a second, and comes back empty' },
}

export function readPlacement(payload: string, documentName: string): Placement | undefined {
  const { type, document, owner, socketServer } = JSON.parse(payload)
  return type === 'placement' && document === documentName ? { owner, socketServer } : undefined
}

/** A server, or Redis. It stays the same element, so that focus and half a click survive what changes in it. */
class Box {
  readonly element: HTMLElement
  readonly #name: string
  readonly #state = make('span', { className: 'state' })
  readonly #controls = make('span', { className: 'controls' })
  readonly #buttons: [Action, HTMLElement][]

  constructor(id: string, name: string, actions: Action[], ...parts: HTMLElement[]) {
    this.#name = name
    this.#buttons = actions.map((action) => [action, button(id, name, action)])
    this.#controls.append(...this.#buttons.map(([, element]) => element))
    const head = make('span', { className: 'head' }, make('strong', { text: name }), this.#state)
    this.element = make('div', { testid: id }, head, ...parts, this.#controls)
    this.element.role = 'group'
    this.element.ariaLabel = name
  }

  show(state: State | undefined): void {
    this.element.dataset.state = state?.name ?? 'unknown'
    setText(this.#state, wordsOf(state))

    const focused = this.#buttons.find(([, element]) => element === document.activeElement)?.[1]
    for (const [action, element] of this.#buttons) element.hidden = !state?.actions.includes(action)
    // A button that goes leaves its focus to what comes instead of it.
    if (focused?.hidden) this.#buttons.find(([, element]) => !element.hidden)?.[1].focus()
  }
}

function wordsOf(state: State | undefined): string {
  if (!state) return 'no news'
  return state.name === 'down' && isWord(state.why) ? state.why : STATES[state.name]
}

function isWord(why: string | undefined): why is string {
  return why !== undefined && !why.includes(' ')
}

function button(id: string, name: string, action: Action): HTMLElement {
  const { label, hint } = ACTIONS[action]
  const element = make('button', { text: label, className: `do-${action}` })
  element.setAttribute('type', 'button')
  element.ariaLabel = `${label} ${name}`
  element.title = hint
  element.addEventListener('mousedown', (event) => event.preventDefault()) // who types goes on typing
  element.addEventListener('click', async ({ detail }) => {
    if (detail > 1) return // the second half of a double click would hit the next button
    const problem = await press(id, action)
    if (problem) note(problem)
  })
  return element
}

type ServerParts = { box: Box; owner: HTMLElement; mine: HTMLElement; badges: HTMLElement }

const servers = new Map<string, ServerParts>()
const redis = new Box('redis', 'Redis', ['restart'])
redis.element.className = 'redis'
const lines = {
  down: make('span', { className: 'line down', hidden: true }),
  toRedis: make('span', { className: 'line to-redis', hidden: true }),
  toOwner: make('span', { className: 'line to-owner', hidden: true }),
}

/** Once, at the start. */
export function drawCluster(): void {
  for (const id of SERVERS) {
    const owner = make('span', { className: 'role owner' })
    const mine = make('span', { className: 'role mine', text: 'has your socket' })
    const badges = make('span', { className: 'badges' })
    const box = new Box(id, id, ['start', 'kill', 'stop', 'freeze', 'thaw'], owner, mine, badges)
    box.element.classList.add('box')
    box.element.style.gridColumn = `${column(id)}`
    servers.set(id, { box, owner, mine, badges })
  }
  find('cluster').append(
    make('p', { className: 'balancer', text: 'HAProxy, in turn, not by document' }),
    ...[...servers.values()].map(({ box }) => box.element),
    redis.element,
    ...Object.values(lines),
  )
}

export function showCluster(placement: Placement | undefined, people: Presence[], states: States | undefined): void {
  const { owner, socketServer } = placement ?? {}
  for (const [id, parts] of servers) {
    const state = states?.servers[id]
    parts.box.show(state)
    parts.box.element.classList.toggle('is-owner', id === owner)
    parts.box.element.classList.toggle('is-mine', id === socketServer)
    parts.owner.hidden = id !== owner
    parts.mine.hidden = id !== socketServer
    setText(parts.owner, state?.name === 'down' ? 'owned the document' : 'owns the document')
    parts.badges.replaceChildren(...people.filter(({ server }) => server === id).map(badge))
  }
  redis.show(states?.redis)

  const passedOn = owner !== socketServer
  place(lines.down, socketServer)
  place(lines.toRedis, passedOn ? socketServer : undefined)
  place(lines.toOwner, passedOn ? owner : undefined)
  find('cluster').classList.toggle('is-broken', passedOn && !carries(owner!, states))

  say('story', story(placement, states))
  say('socket-server', socketServer ?? '…')
  say('owner', owner ?? '…')
}

function place(line: HTMLElement, id: string | undefined): void {
  line.hidden = id === undefined
  if (id) line.style.gridColumn = `${column(id)}`
}

function column(id: string): number {
  return SERVERS.indexOf(id) + 1
}

/** Do changes get through Redis to the owner? */
function carries(owner: string, states: States | undefined): boolean {
  return !states || (states.redis.name === 'up' && ['up', 'stopping'].includes(states.servers[owner]!.name))
}

function story(placement: Placement | undefined, states: States | undefined): string {
  if (!placement) return 'Looking for the server that owns this document …'
  const { owner, socketServer } = placement
  const mine = states?.servers[socketServer]?.name
  if (mine === 'frozen')
    return `Your socket is on ${socketServer}, which is frozen. HAProxy cuts it off in some seconds, and this page connects to another server. Type on.`
  const state = states?.servers[owner]?.name
  if (state === 'down') return `${owner} is gone. Another server takes the document over. Type on.`
  if (state === 'stopping') return `${owner} hands the document over to another server. Type on.`
  if (state === 'frozen')
    return `${owner} is frozen. When its lease runs out, after 3 seconds, another server takes the document over. Type on.`
  if (states?.redis.name === 'down')
    return owner === socketServer
      ? 'Redis is away. Your changes reach the owner, and pages on other servers when Redis is back. Type on.'
      : 'Redis is away. Your changes reach the owner when it is back. Type on.'
  if (owner === socketServer)
    return `Your socket is on ${owner}, which owns this document too: nothing has to be passed on.`
  return `Your socket is on ${socketServer}. It passes your changes on to ${owner}, the only server that has this document open.`
}
