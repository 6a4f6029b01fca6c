// What the page's buttons call, and what tells the page about the cluster:
//
//   GET  /control/events             the states of all, now and at each change (Server-Sent Events)
//   POST /control/<server>/<action>  kill, stop, freeze, thaw or start
//   POST /control/redis/restart
//
// It listens on the loopback address only. Other sites' pages in the same browser reach that too: they are refused by
// the headers that browsers do not let them choose.

const LOOPBACK = ['127.0.0.1', 'localhost', '[::1]']
const PING_MS = 15_000 // well within HAProxy's time-outs

/** Answers requests whose path starts with /control/. */
export function controlOf(cluster) {
  return (request, response, pathname) => {
    const answer = (status, text, headers) =>
      response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8', ...headers }).end(`${text}\n`)

    if (!isOurs(request.headers)) return answer(403, 'Only for the page of this demo')
    const [, id, action] = pathname.split('/').slice(1)
    const wanted = pathname === '/control/events' ? 'GET' : 'POST'
    if (request.method !== wanted) return answer(405, `Only ${wanted}`, { allow: wanted })
    if (wanted === 'GET') return sendEvents(cluster, response)

    const member = cluster.find(id)
    if (!member) return answer(404, `No such server: ${id}`)
    if (!member.actions().includes(action)) return answer(409, `${id} is ${member.state.name}: not possible now`)
    Promise.resolve(member[action]()).catch((error) => console.error(`${id}, ${action}: ${error.message}`))
    answer(202, 'Under way')
  }
}

function isOurs({ host, origin }) {
  if (!URL.canParse(`http://${host}`)) return false
  const { hostname } = new URL(`http://${host}`)
  return LOOPBACK.includes(hostname) && (origin === undefined || origin === `http://${host}`)
}

function sendEvents(cluster, response) {
  response.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-store' })
  const send = () => response.write(`data: ${JSON.stringify(cluster.states())}\n\n`)
  response.write('retry: 1000\n')
  send()
  cluster.on('change', send)
  const ping = setInterval(() => response.write(':\n\n'), PING_MS)
  response.on('close', () => {
    clearInterval(ping)
    cluster.off('change', send)
  })
}
