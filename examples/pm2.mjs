// What PM2 starts (pm2.config.cjs).

import { hostname } from 'node:os'

// Not NODE_APP_INSTANCE alone: during a reload the old and the new process of an instance run at the same time, and two servers
// can't have one name.
process.env.SERVER_ID ??= `${hostname()}-${process.env.NODE_APP_INSTANCE ?? 0}-${process.pid}`

await import('./server.mjs') // ends by itself at SIGINT, which PM2 sends
process.send?.('ready')
