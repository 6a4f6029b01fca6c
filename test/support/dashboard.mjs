// The dashboard of a server of a test cluster.

export const TOKEN = 'a token of the tests'
const built = new URL('../../js/dist/dashboard.js', import.meta.url).href

/** Mounts it on an http server of its own in the server's process. Resolves with its address, which ends in a slash. */
export async function mountDashboard(server, options = {}) {
  const port = await server.run(
    async ({ affinity, import: load }, built, options) => {
      const { dashboard } = await load(built)
      const { createServer } = await load('node:http')
      const { handle } = dashboard(affinity, options)
      const http = createServer((request, response) => handle(request, response) || response.writeHead(404).end())
      await new Promise((resolve) => http.listen(0, '127.0.0.1', resolve))
      return http.address().port
    },
    built,
    { token: TOKEN, ...options },
  )
  return `http://127.0.0.1:${port}/affinity/`
}
