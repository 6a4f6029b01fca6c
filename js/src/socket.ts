import { type LazyConnection, type SocketForHocuspocus } from './connection.js'
import type { Engine, Place } from './engine.js'
import { report } from './errors.js'
import { ClientState, addressOf, deniedReason, endsRoute, hasAddress, isClose } from './frames.js'
import { MOVED_REASON, NOT_OWNER_REASON, RESET } from './hocuspocus.js'
import { type Message, type Stream, framesOf } from './websocket.js'

/** The client's socket, whatever library it comes from. */
export interface RealSocket {
  send(data: Uint8Array): void
  close(code: number, reason: string): void
  /** What it writes to, if frames can be written there too. */
  stream(): Stream | undefined
}

interface Route {
  /** Served by the Hocuspocus here. */
  here: boolean
  /** Frames given to the engine that it has not been heard to have had. */
  posted: number
  /** While it is served here. */
  state: ClientState | undefined
  /** Served elsewhere since: what Hocuspocus here still sends for it is of no interest. */
  recalled: boolean
  /** The client has closed the address; what follows waits until Hocuspocus here has done so too. */
  held: Uint8Array[] | undefined
}

/** As Hocuspocus's own limit on what waits for an authentication. */
const MAX_HELD = 1000

/**
 * The origin's side of a client socket: a frame of a document that is served here goes straight to
 * Hocuspocus, unless earlier ones of its address are still under way through the engine; all others go to
 * the engine.
 */
export class ClientSocket {
  #routes = new Map<string, Route>()
  /** Where the last frame of the client went: most have the address of the one before. */
  #recentAddress = ''
  #recent: Route | undefined
  #hereCount = 0
  #connection: LazyConnection | undefined
  #closed = false
  #failed = false
  #toldAt = 0
  /** The owners' frames that came together, until they are written. */
  #gathered: Message | Message[] | undefined

  constructor(
    readonly id: number,
    private readonly socket: RealSocket,
    private readonly engine: Engine,
    private readonly connect: (socket: SocketForHocuspocus) => LazyConnection,
  ) {}

  /** A frame of the client. Hocuspocus may keep it: as a copy where its memory `isBorrowed`, and else as it is. */
  receive(data: Uint8Array, isBorrowed = false): void {
    if (this.#closed) return
    this.#connection?.alive()
    const route = this.#routeOf(data)
    if (route) {
      if (route.here && route.posted === 0) {
        this.#receiveHere(route, isBorrowed ? Uint8Array.prototype.slice.call(data) : data)
        return
      }
      route.posted++
    }
    this.engine.frame(this.id, data)
  }

  #receiveHere(route: Route, data: Uint8Array): void {
    if (route.held) {
      if (route.held.push(data) > MAX_HELD) this.close(RESET.code, RESET.reason)
      return
    }
    route.state!.sent(data)
    this.#tellOwners()
    if (isClose(data)) route.held = []
    this.#connection!.handleMessage(data)
  }

  /** What is served here does not pass the engine; owners of other documents of this client must hear that it lives. */
  #tellOwners(): void {
    if (this.#routes.size === this.#hereCount) return
    const now = Date.now()
    if (now - this.#toldAt < this.engine.aliveEvery) return
    this.#toldAt = now
    this.engine.socketAlive(this.id)
  }

  /** Undefined where the frame's address can't be read. */
  #routeOf(frame: Uint8Array): Route | undefined {
    if (this.#recent && hasAddress(frame, this.#recentAddress)) return this.#recent
    const address = addressOf(frame)
    if (address === undefined) return undefined
    let route = this.#routes.get(address)
    if (!route) this.#routes.set(address, (route = { here: false, posted: 0, state: undefined, recalled: false, held: undefined }))
    this.#recentAddress = address
    return (this.#recent = route)
  }

  #forget(address: string): void {
    this.#routes.delete(address)
    this.#recent = undefined
  }

  /** The engine hands a frame over that was on its way when the document turned out to be served here. */
  local(data: Uint8Array): void {
    if (this.#closed) return
    const route = this.#routes.get(addressOf(data) ?? '')
    if (!route) return
    if (route.here && route.posted > 0) route.posted--
    const copy = data.slice()
    route.state ??= new ClientState()
    route.recalled = false
    route.state.sent(copy)
    this.#open().handleMessage(copy)
  }

  /** The engine says where an address is served from here on. */
  placed(address: string, place: Place, taken: number): void {
    const route = this.#routes.get(address)
    if (!route) return
    const here = place === 'here'
    if (place === 'recall') {
      route.recalled = true
      this.engine.routeState(this.id, address, (route.state ?? new ClientState()).serialize())
    } else {
      route.posted = Math.max(0, route.posted - taken)
    }
    if (!here) route.state = undefined
    if (here !== route.here) this.#setHere(route, here)
    if (place === 'ended' && route.posted === 0) this.#forget(address)
  }

  #setHere(route: Route, here: boolean): void {
    route.here = here
    this.#hereCount += here ? 1 : -1
    if (this.#hereCount === 0) setImmediate(() => this.#endConnectionIfUnused())
  }

  #open(): LazyConnection {
    this.#connection ??= this.connect({
      send: (data) => this.#sendFromHere(data),
      close: (code, reason) => this.close(code ?? 1000, reason ?? ''),
      readyState: 1,
    })
    return this.#connection
  }

  /** Hocuspocus here has a frame for the client. */
  #sendFromHere(data: Uint8Array): void {
    if (this.#closed) return
    const denied = deniedReason(data)
    if (denied === MOVED_REASON) return
    if (denied === NOT_OWNER_REASON) {
      this.close(RESET.code, RESET.reason)
      return
    }
    const address = addressOf(data)!
    const route = this.#routes.get(address)
    if (route?.recalled) return
    this.send(data)
    route?.state?.received(data)
    if (!endsRoute(data)) return
    const held = route?.held ?? []
    if (route) route.state = route.held = undefined
    if (route?.here) this.#setHere(route, false)
    this.engine.routeEnded(this.id, address)
    for (const frame of held) this.receive(frame) // the same address again: a new route
  }

  /** Without documents here, Hocuspocus would wait for an authentication that is happening elsewhere. */
  #endConnectionIfUnused(): void {
    if (this.#hereCount > 0 || !this.#connection) return
    this.#connection.handleClose()
    this.#connection = undefined
  }

  /** A frame for the client. Where its socket throws, the client has missed something: it is to connect again. */
  send(data: Uint8Array): void {
    this.flush()
    if (this.#closed || this.#failed) return
    try {
      this.socket.send(data)
    } catch (error) {
      this.#onSendError(error)
    }
  }

  /** As send(), but written with what follows until flush(). True: that is to be called. */
  gather(message: Message): boolean {
    if (this.#gathered === undefined) {
      this.#gathered = message
      return true
    }
    if (this.#gathered instanceof Array) this.#gathered.push(message)
    else this.#gathered = [this.#gathered, message]
    return false
  }

  /** What was gathered takes one write, where the socket's stream is to be had. */
  flush(): void {
    const gathered = this.#gathered
    if (gathered === undefined) return
    this.#gathered = undefined
    if (this.#closed || this.#failed) return
    const isOne = !(gathered instanceof Array)
    try {
      const stream = this.socket.stream()
      if (stream) stream.write(isOne ? gathered.frame : framesOf(gathered))
      else for (const { data } of isOne ? [gathered] : gathered) this.socket.send(data)
    } catch (error) {
      this.#onSendError(error)
    }
  }

  #onSendError(error: unknown): void {
    this.#failed = true
    report('sending to a socket failed', error)
    this.close(RESET.code, RESET.reason)
  }

  /** Closes the client's socket; its library reports that with `closed`. */
  close(code: number, reason: string): void {
    if (this.#closed) return
    this.flush()
    try {
      this.socket.close(code, reason)
    } catch (error) {
      report('closing a socket failed', error)
    }
  }

  /** The client's socket is closed. */
  closed(event?: { code: number; reason: string }): void {
    if (this.#closed) return
    this.#closed = true
    this.#connection?.handleClose(event)
    this.#routes.clear()
    this.#recent = undefined
    this.engine.socketClosed(this.id)
  }
}
