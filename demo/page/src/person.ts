export type Person = { name: string; color: string }

const ADJECTIVES = [
  'Brave',
  'Calm',
  'Clever',
  'Gentle',
  'Happy',
  'Kind',
  'Lively',
  'Merry',
  'Quick',
  'Quiet',
  'Sunny',
  'Witty',
]
const ANIMALS = [
  'Badger',
  'Beaver',
  'Finch',
  'Fox',
  'Hare',
  'Heron',
  'Koala',
  'Lynx',
  'Otter',
  'Owl',
  'Panda',
  'Robin',
  'Seal',
  'Wren',
]
// Each carries white text, and shows on a light and on a dark page.
const COLORS = ['#c2410c', '#be123c', '#a21caf', '#6d28d9', '#1d4ed8', '#0e7490', '#047857', '#4d7c0f']

function anyOf<T>(list: T[]): T {
  return list[Math.floor(Math.random() * list.length)]!
}

/** Somebody new for each window; a reload does not change who one is. */
export function thisPerson(): Person {
  const known = sessionStorage.getItem('person')
  if (known) return JSON.parse(known)
  const person = { name: `${anyOf(ADJECTIVES)} ${anyOf(ANIMALS)}`, color: anyOf(COLORS) }
  sessionStorage.setItem('person', JSON.stringify(person))
  return person
}

export function initials({ name }: Person): string {
  return name
    .split(' ')
    .map((word) => word[0])
    .join('')
}
