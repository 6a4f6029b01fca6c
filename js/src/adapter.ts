import { EventEmitter } from 'node:events'
import type { Hocuspocus } from '@hocuspocus/server'
import type { Adapter, SocketForHocuspocus } from './hocuspocus.js'
import { Hocuspocus3 } from './hocuspocus3.js'
import { Hocuspocus4 } from './hocuspocus4.js'

/** Nobody's socket, for any version. */
class ProbeSocket extends EventEmitter implements SocketForHocuspocus {
  readyState = 3
  send(): void {}
  close(): void {}
  ping(): void {}
}

/**
 * The adapter for a Hocuspocus. Its version is known by what it does with a socket: Hocuspocus 3 listens to it, later
 * ones give back a connection that wants to be fed.
 */
export function adapterOf(instance: Hocuspocus): Adapter {
  const probe = new ProbeSocket()
  const connection: ReturnType<Hocuspocus['handleConnection']> | undefined = instance.handleConnection(probe, new Request('http://localhost'))
  if (typeof connection?.handleMessage === 'function') {
    connection.handleClose()
    return new Hocuspocus4(instance)
  }
  probe.emit('close', 1000, Buffer.alloc(0))
  return new Hocuspocus3(instance)
}
