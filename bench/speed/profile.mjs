// What a CPU profile of V8 says about our own code.

/**
 * Is this frame ours: the facade, or what it calls that has no URL (the addon, a built-in)? By name the addon's functions
 * can't be told apart: to V8 all of Node-API is one function, under whichever name it has heard last.
 */
function isOurs({ callFrame: { url, functionName } }, parent) {
  if (url.includes('/js/dist/')) return true
  return url === '' && !functionName.startsWith('(garbage') && functionName !== '(program)' && parent !== undefined && parent.callFrame.url.includes('/js/dist/')
}

/** By which of our functions a sample is known to be about a message on its way from a document's owner to clients. */
const OUTWARD = { origin: /^#?(onBlock|onRecord)$/, owner: /^(proxySend|#?flushSends|putForMany|#?handOver)$/ }

/**
 * Self time by function, in microseconds.
 *
 * @param {object} profile of the inspector's Profiler
 * @returns {{ busy: number, ours: number, originOut: number, ownerOut: number, functions: { name: string, self: number, ours: boolean }[] }}
 *   `busy`: all but idle; `originOut`, `ownerOut`: the part of `ours` that is on the way to clients, if this server is the
 *   origin or the owner
 */
export function ownTime(profile) {
  const byId = new Map(profile.nodes.map((node) => [node.id, node]))
  const parents = new Map()
  for (const node of profile.nodes) for (const child of node.children ?? []) parents.set(child, node)
  const self = new Map()
  profile.samples.forEach((id, n) => self.set(id, (self.get(id) ?? 0) + (profile.timeDeltas[n] ?? 0)))

  const functions = new Map()
  const sums = { busy: 0, ours: 0, originOut: 0, ownerOut: 0 }
  const isOutward = (node, pattern) => {
    for (let at = node; at; at = parents.get(at.id)) {
      const { functionName, url } = at.callFrame
      if (pattern.test(functionName) || (pattern === OUTWARD.owner && functionName === 'send' && url.endsWith('/proxy.js'))) return true
    }
    return false
  }
  for (const [id, time] of self) {
    const node = byId.get(id)
    const { functionName, url, lineNumber } = node.callFrame
    if (functionName === '(idle)') continue
    const ours = isOurs(node, parents.get(id))
    sums.busy += time
    if (ours) {
      sums.ours += time
      if (isOutward(node, OUTWARD.origin)) sums.originOut += time
      if (isOutward(node, OUTWARD.owner)) sums.ownerOut += time
    }
    const place = url.replace(/^file:\/\//, '').replace(/^.*\/node_modules\//, '').replace(/^.*\/(js\/dist|bench)\//, '$1/')
    const addon = ours && place === '' ? ' (called by js/dist)' : ''
    const name = place ? `${functionName || '(anonymous)'} ${place}:${lineNumber + 1}` : `${functionName || '(anonymous)'}${addon}`
    const known = functions.get(name) ?? { name, self: 0, ours }
    known.self += time
    functions.set(name, known)
  }
  return { ...sums, functions: [...functions.values()].sort((a, b) => b.self - a.self) }
}
