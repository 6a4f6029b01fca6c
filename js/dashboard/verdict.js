// The cluster's health in a few words.

import { plural } from './format.js'

/** What a server is: `{ level, text }`. */
export function serverState({ alive, draining, answers }) {
  if (!alive) return { level: 'bad', text: 'Gone' }
  if (!answers) return { level: 'warn', text: 'No answer' }
  return draining ? { level: 'busy', text: 'Draining' } : { level: 'good', text: 'Alive' }
}

const names = (servers) => (servers.length > 3 ? plural(servers.length, 'server') : servers.map(({ serverId }) => serverId).join(', '))

/** `{ level, text }` of the whole, as the server that tells it sees it. */
export function verdict({ servers, health, self, error }) {
  if (health.redis === 'down') return { level: 'bad', text: `Redis is away, as ${self} sees it` }
  if (error) return { level: 'bad', text: error.message }
  const gone = servers.filter(({ alive }) => !alive)
  const silent = servers.filter(({ alive, answers }) => alive && !answers)
  const draining = servers.filter(({ alive, draining }) => alive && draining)
  if (silent.length > 0) return { level: 'warn', text: `No answer from ${names(silent)}` }
  if (gone.length > 0) return { level: 'warn', text: `${names(gone)} ${gone.length === 1 ? 'is' : 'are'} gone` }
  if (draining.length > 0) return { level: 'busy', text: `${names(draining)} ${draining.length === 1 ? 'is' : 'are'} draining` }
  if (!health.ready) return { level: 'warn', text: `${self}: ${health.reason}` }
  return { level: 'good', text: servers.length === 1 ? 'Healthy: 1 server' : `Healthy: all ${plural(servers.length, 'server')}` }
}
