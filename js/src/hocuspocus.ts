import type { Hocuspocus } from '@hocuspocus/server'

/** What Hocuspocus 4 makes of a socket. */
export type ClientConnection = ReturnType<Hocuspocus['handleConnection']>
export type HandleConnection = Hocuspocus['handleConnection']

/** The reason in our own rejection of a load: a lost race for a document, never a client's fault. */
export const NOT_OWNER_REASON = 'redis-affinity:not-owner'
