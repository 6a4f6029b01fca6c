import { find, make } from './dom'
import { initials, type Person } from './person'

/** What each window tells the others about itself. */
export type Presence = Person & { id: number; isMe: boolean; server?: string }

type AwarenessState = { user?: Partial<Person>; server?: unknown }

/** Everybody in the document, this window first. Others' states are input from elsewhere: nothing in them is certain. */
export function presences(states: Map<number, AwarenessState>, me: number): Presence[] {
  return [...states]
    .filter(([, state]) => typeof state.user?.name === 'string')
    .map(([id, { user, server }]) => ({
      id,
      isMe: id === me,
      name: user!.name!,
      color: /^#[0-9a-f]{6}$/i.test(user!.color ?? '') ? user!.color! : '#6b7280',
      server: typeof server === 'string' ? server : undefined,
    }))
    .sort((a, b) => Number(b.isMe) - Number(a.isMe) || a.name.localeCompare(b.name) || a.id - b.id)
}

export function badge(person: Presence): HTMLElement {
  const element = make('span', { className: 'badge', text: initials(person), hidden: true })
  element.style.backgroundColor = person.color
  return element
}

export function showPeople(people: Presence[]): void {
  find('people').replaceChildren(...people.map(row))
  find('hint').hidden = people.length > 1
}

function row(person: Presence): HTMLElement {
  const name = make('span', { className: 'name', text: person.name })
  if (person.isMe) name.append(make('span', { className: 'me', text: ' (you)' }))
  const server = make('span', { className: 'server', text: person.server ? `on ${person.server}` : '' })
  return make('li', { testid: 'person' }, badge(person), name, server)
}
