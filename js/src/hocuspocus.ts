import type { Hocuspocus } from '@hocuspocus/server'

/** What Hocuspocus 4 makes of a socket. */
export type ClientConnection = ReturnType<Hocuspocus['handleConnection']>
export type HandleConnection = Hocuspocus['handleConnection']

/* The reasons in our own rejections of a load, which are never a client's fault. */

/** Another server owns the document: its clients' routes go there, and those who waited for it here need not know. */
export const MOVED_REASON = 'redis-affinity:moved'
/** Nobody can say who owns it: the client is to connect again. */
export const NOT_OWNER_REASON = 'redis-affinity:not-owner'

/** With this a client's socket is closed where the client is to connect again: as Hocuspocus's ResetConnection. */
export const RESET = { code: 4205, reason: 'Reset Connection' }
