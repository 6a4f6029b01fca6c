// The picture of the cluster: the balancer on top, the three servers, and the way that this page's changes take.

import { find, make, say } from './dom'
import { badge, type Presence } from './people'

/** Sent by the owner when this page's connection to the document stands (demo/server.mjs). */
export type Placement = { owner: string; socketServer: string }

const SERVERS = ['server-1', 'server-2', 'server-3'] // as in demo/demo.mjs

export function readPlacement(payload: string, documentName: string): Placement | undefined {
  const { type, document, owner, socketServer } = JSON.parse(payload)
  return type === 'placement' && document === documentName ? { owner, socketServer } : undefined
}

export function showCluster(placement: Placement | undefined, people: Presence[]): void {
  find('cluster').replaceChildren(
    make('p', { className: 'balancer', text: 'HAProxy, in turn, not by document' }),
    ...SERVERS.map((id) => box(id, placement, people)),
    ...(placement ? ways(placement) : []),
  )
  say('story', story(placement))
  say('socket-server', placement?.socketServer ?? '…')
  say('owner', placement?.owner ?? '…')
}

function box(id: string, placement: Placement | undefined, people: Presence[]): HTMLElement {
  const element = make('div', { className: 'box', testid: id }, make('strong', { text: id }))
  element.style.gridColumn = `${column(id)}`
  if (id === placement?.owner) {
    element.classList.add('is-owner')
    element.append(make('span', { className: 'role owner', text: 'owns the document' }))
  }
  if (id === placement?.socketServer) {
    element.classList.add('is-mine')
    element.append(make('span', { className: 'role mine', text: 'has your socket' }))
  }
  element.append(make('span', { className: 'badges' }, ...people.filter(({ server }) => server === id).map(badge)))
  return element
}

/** The lines: down from the balancer to the socket's server, and from there to the owner. */
function ways({ owner, socketServer }: Placement): HTMLElement[] {
  const down = make('span', { className: 'down', hidden: true })
  down.style.gridColumn = `${column(socketServer)}`
  if (owner === socketServer) return [down]

  const [from, to] = [column(socketServer), column(owner)]
  const first = Math.min(from, to)
  const count = Math.abs(from - to) + 1
  const across = make('span', { className: from < to ? 'across' : 'across leftward', hidden: true })
  across.append(make('span', { text: 'through Redis' }))
  across.style.gridColumn = `${first} / span ${count}`
  across.style.setProperty('--columns', `${count}`)
  return [down, across]
}

function column(id: string): number {
  return SERVERS.indexOf(id) + 1
}

function story(placement: Placement | undefined): string {
  if (!placement) return 'Looking for the server that owns this document …'
  const { owner, socketServer } = placement
  if (owner === socketServer)
    return `Your socket is on ${owner}, which owns this document too: nothing has to be passed on.`
  return `Your socket is on ${socketServer}. It passes your changes on to ${owner}, the only server that has this document open.`
}
