// Servers have a colour each, by the order in which they are first seen. Their names are always beside it.

import { make, say } from './dom.js'

const HUES = 8
const hues = new Map()

function hueOf(serverId) {
  if (!hues.has(serverId)) hues.set(serverId, String(hues.size % HUES))
  return hues.get(serverId)
}

/** Gives an element the server's colour. */
export function tint(element, serverId) {
  if (element.dataset.hue !== hueOf(serverId)) element.dataset.hue = hueOf(serverId)
}

/** The name of a server with its dot. */
export function tag(serverId, ...more) {
  const element = make('span', { className: 'tag' }, make('bdi', {}, serverId), ...more)
  tint(element, serverId)
  return element
}

export function setTag(cell, serverId) {
  const shown = cell.firstElementChild
  if (!shown) return cell.append(tag(serverId))
  say(shown.firstElementChild, serverId)
  tint(shown, serverId)
}
