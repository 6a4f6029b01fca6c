import type { LazyConnection } from './connection.js'
import type { Engine, Place } from './engine.js'
import { ClientState, addressOf, deniedReason, endsRoute, hasAddress, isClose } from './frames.js'
import { type CloseEvent, MOVED_REASON, NOT_OWNER_REASON, RESET, type SocketForHocuspocus } from './hocuspocus.js'
import type { NativeRequest, SerializedHTTPRequest } from './request.js'
import { type BaseWebSocket, type Message, closeSocket, framesOf, meet, sendTo, streamOf } from './websocket.js'

/** What all client sockets of a server share. */
export interface SocketHost {
  readonly engine: Engine
  /** A connection of the Hocuspocus here for a client. */
  connect(client: ClientSocket, socket: SocketForHocuspocus): LazyConnection
}

/** Of a route that is served by the Hocuspocus here, or was. */
class Served {
  here = false
  state: ClientState | undefined
  /** Served elsewhere since: what Hocuspocus here still sends for it is of no interest. */
  recalled = false
  /** The client has closed the address; what follows waits until Hocuspocus here has done so too. */
  held: Uint8Array[] | undefined
}

class Route {
  /** Frames given to the engine that it has not been heard to have had. */
  posted = 0
  served: Served | undefined

  constructor(readonly address: string) {}
}

/** What a socket needs beyond one document at another server. */
interface More {
  /** All routes, once there has been a second one. */
  routes: Map<string, Route> | undefined
  /** To the Hocuspocus here. */
  connection: LazyConnection | undefined
  /** Routes that are served here. */
  hereCount: number
  /** When the owners of its other documents were told that it lives. */
  toldAt: number
}

/** As Hocuspocus's own limit on what waits for an authentication. */
const MAX_HELD = 1000

const OPEN = 0
/** Nothing can be sent any more. */
const FAILED = 1
const CLOSED = 2

/**
 * The origin's side of a client socket: a frame of a document that is served here goes straight to
 * Hocuspocus, unless earlier ones of its address are still under way through the engine; all others go to
 * the engine.
 *
 * There are many of them, most have one document, and that at another server: what others need is made when they do.
 */
export class ClientSocket {
  /**
   * Where the last frame of the client went: most have the address of the one before. The only route, while there is
   * no map of them.
   */
  #recent: Route | undefined
  #more: More | undefined
  #state = OPEN
  /** The owners' frames that came together, until they are written. */
  #gathered: Message | Message[] | undefined

  constructor(
    readonly id: number,
    readonly ws: BaseWebSocket,
    readonly request: SerializedHTTPRequest | NativeRequest,
    /** What Hocuspocus's hooks get; it is theirs once they have it. */
    public context: unknown,
    private readonly host: SocketHost,
  ) {
    meet(ws)
  }

  /** A frame of the client. Hocuspocus may keep it: as a copy where its memory `isBorrowed`, and else as it is. */
  receive(data: Uint8Array, isBorrowed = false): void {
    if (this.#state === CLOSED) return
    this.#more?.connection?.alive()
    const route = this.#routeOf(data)
    if (route) {
      if (route.served?.here && route.posted === 0) {
        this.#receiveHere(route.served, isBorrowed ? Uint8Array.prototype.slice.call(data) : data)
        return
      }
      route.posted++
    }
    this.host.engine.frame(this.id, data)
  }

  #receiveHere(served: Served, data: Uint8Array): void {
    if (served.held) {
      if (served.held.push(data) > MAX_HELD) this.close(RESET.code, RESET.reason)
      return
    }
    served.state!.sent(data)
    this.#tellOwners()
    if (isClose(data)) served.held = []
    this.#more!.connection!.handleMessage(data)
  }

  /** What is served here does not pass the engine; owners of other documents of this client must hear that it lives. */
  #tellOwners(): void {
    const more = this.#more!
    if ((more.routes?.size ?? 1) === more.hereCount) return
    const now = Date.now()
    if (now - more.toldAt < this.host.engine.aliveEvery) return
    more.toldAt = now
    this.host.engine.socketAlive(this.id)
  }

  /** Undefined where the frame's address can't be read. */
  #routeOf(frame: Uint8Array): Route | undefined {
    if (this.#recent && hasAddress(frame, this.#recent.address)) return this.#recent
    const address = addressOf(frame)
    if (address === undefined) return undefined
    return (this.#recent = this.#find(address) ?? this.#add(address))
  }

  #find(address: string | undefined): Route | undefined {
    if (address === undefined) return undefined
    return this.#recent?.address === address ? this.#recent : this.#more?.routes?.get(address)
  }

  #add(address: string): Route {
    const route = new Route(address)
    const other = this.#recent
    if (other) this.#moreOf().routes ??= new Map([[other.address, other]])
    this.#more?.routes?.set(address, route)
    return route
  }

  #forget({ address }: Route): void {
    this.#more?.routes?.delete(address)
    if (this.#recent?.address === address) this.#recent = undefined
  }

  /** The engine hands a frame over that was on its way when the document turned out to be served here. */
  local(data: Uint8Array): void {
    if (this.#state === CLOSED) return
    const route = this.#find(addressOf(data))
    if (!route) return
    const served = (route.served ??= new Served())
    if (served.here && route.posted > 0) route.posted--
    const copy = data.slice()
    served.state ??= new ClientState()
    served.recalled = false
    served.state.sent(copy)
    this.#open().handleMessage(copy)
  }

  /** The engine says where an address is served from here on. */
  placed(address: string, place: Place, taken: number): void {
    const route = this.#find(address)
    if (!route) return
    if (place === 'recall') {
      const served = (route.served ??= new Served())
      served.recalled = true
      this.host.engine.routeState(this.id, address, (served.state ?? new ClientState()).serialize())
    } else {
      route.posted = Math.max(0, route.posted - taken)
    }
    this.#setHere(route, place === 'here')
    if (place === 'ended' && route.posted === 0) this.#forget(route)
  }

  #setHere(route: Route, isHere: boolean): void {
    if (!isHere && !route.served) return
    const served = (route.served ??= new Served())
    if (!isHere) served.state = undefined
    if (served.here === isHere) return
    served.here = isHere
    const more = this.#moreOf()
    more.hereCount += isHere ? 1 : -1
    if (more.hereCount === 0) setImmediate(() => this.#endConnectionIfUnused())
  }

  #moreOf(): More {
    return (this.#more ??= { routes: undefined, connection: undefined, hereCount: 0, toldAt: 0 })
  }

  #open(): LazyConnection {
    const more = this.#moreOf()
    more.connection ??= this.host.connect(this, {
      send: (data) => this.#sendFromHere(data),
      close: (code, reason) => this.close(code ?? 1000, reason ?? ''),
      readyState: 1,
    })
    return more.connection
  }

  /** Hocuspocus here has a frame for the client. */
  #sendFromHere(data: Uint8Array): void {
    if (this.#state === CLOSED) return
    const denied = deniedReason(data)
    if (denied === MOVED_REASON) return
    if (denied === NOT_OWNER_REASON) {
      this.close(RESET.code, RESET.reason)
      return
    }
    const address = addressOf(data)!
    const route = this.#find(address)
    const served = route?.served
    if (served?.recalled) return
    this.send(data)
    served?.state?.received(data)
    if (!endsRoute(data)) return
    const held = served?.held ?? []
    if (served) served.state = served.held = undefined
    if (route) this.#setHere(route, false)
    this.host.engine.routeEnded(this.id, address)
    for (const frame of held) this.receive(frame) // the same address again: a new route
  }

  /** Without documents here, Hocuspocus would wait for an authentication that is happening elsewhere. */
  #endConnectionIfUnused(): void {
    const more = this.#more
    if (!more?.connection || more.hereCount > 0) return
    more.connection.handleClose()
    more.connection = undefined
  }

  /** A frame for the client. Where its socket throws, the client has missed something: it is to connect again. */
  send(data: Uint8Array): void {
    this.flush()
    if (this.#state !== OPEN) return
    try {
      sendTo(this.ws, data)
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
    if (this.#state !== OPEN) return
    const isOne = !(gathered instanceof Array)
    try {
      const stream = streamOf(this.ws)
      if (stream) stream.write(isOne ? gathered.frame : framesOf(gathered))
      else for (const { data } of isOne ? [gathered] : gathered) sendTo(this.ws, data)
    } catch (error) {
      this.#onSendError(error)
    }
  }

  #onSendError(error: unknown): void {
    this.#state = FAILED
    this.host.engine.log.error('sending to a socket failed', { topic: 'sockets', error })
    this.close(RESET.code, RESET.reason)
  }

  /** Closes the client's socket; its library reports that with `closed`. */
  close(code: number, reason: string): void {
    if (this.#state === CLOSED) return
    this.flush()
    try {
      closeSocket(this.ws, code, reason)
    } catch (error) {
      this.host.engine.log.error('closing a socket failed', { topic: 'sockets', error })
    }
  }

  get isClosed(): boolean {
    return this.#state === CLOSED
  }

  /** It lives, though it says nothing. */
  alive(): void {
    if (this.#state === CLOSED) return
    this.#more?.connection?.alive()
    this.host.engine.socketAlive(this.id)
  }

  /** The client's socket is closed. */
  closed(event?: CloseEvent): void {
    if (this.#state === CLOSED) return
    this.#state = CLOSED
    this.#more?.connection?.handleClose(event)
    this.#more = this.#recent = undefined
    this.host.engine.socketClosed(this.id)
  }
}
