// Serves the built page, which is a handful of small files, from memory.

import { readdir, readFile } from 'node:fs/promises'
import { createServer } from 'node:http'
import { extname, join } from 'node:path'

const TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.html': 'text/html; charset=utf-8',
  '.js': 'text/javascript; charset=utf-8',
  '.svg': 'image/svg+xml',
}

/** Resolves with the listening http.Server; `control` answers what is under /control/. */
export async function servePage(folder, control) {
  const files = new Map()
  for (const entry of await readdir(folder, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile()) continue
    const path = join(entry.parentPath ?? entry.path, entry.name)
    files.set(path.slice(folder.length), await readFile(path))
  }

  const server = createServer((request, response) => {
    const { pathname } = new URL(request.url, 'http://page')
    if (pathname.startsWith('/control/')) return control(request, response, pathname)
    const path = pathname === '/' ? '/index.html' : pathname
    const body = files.get(path)
    if (!body) return response.writeHead(404).end('Not found')
    response.writeHead(200, {
      'content-type': TYPES[extname(path)] ?? 'application/octet-stream',
      // Vite puts a hash of the contents into every other name.
      'cache-control': path === '/index.html' ? 'no-cache' : 'max-age=31536000, immutable',
    })
    response.end(body)
  })
  await new Promise((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve))
  return server
}
