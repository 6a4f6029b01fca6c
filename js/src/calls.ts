import type { Documents } from './documents.js'
import { type Engine, RemoteFailure } from './engine.js'
import { AffinityError } from './errors.js'
import type { HandOvers } from './handover.js'
import type { EventOutcomeName, Measures } from './metrics.js'
import type { Options } from './options.js'
import { PayloadCodec } from './payload.js'

const MAX_PAYLOAD = 64 * 1024 * 1024

/** A call of handleEvent: how has it ended, or would it if nothing more happened? */
interface Call {
  outcome: EventOutcomeName
}

/** Custom events: those that this server asks for, and those that it handles, for itself or for others. */
export class EventCalls {
  readonly #payloads: PayloadCodec

  constructor(
    private readonly engine: Engine,
    private readonly documents: Documents,
    private readonly handOvers: HandOvers,
    private readonly options: Options,
    private readonly measures: Measures['events'],
  ) {
    this.#payloads = new PayloadCodec(options)
  }

  /** Has an event handled by the document's owner. */
  async handle(name: string, documentName: string, payload: unknown, onlyIfOpen: boolean): Promise<unknown> {
    const call: Call = { outcome: 'failed' }
    const started = performance.now()
    try {
      return await this.#haveHandled(call, name, documentName, payload, onlyIfOpen)
    } finally {
      this.measures[call.outcome].observe(performance.now() - started)
    }
  }

  async #haveHandled(call: Call, name: string, documentName: string, payload: unknown, onlyIfOpen: boolean): Promise<unknown> {
    if (this.documents.isLoaded(documentName)) {
      const use = this.engine.claim(documentName, 'event')
      const ended = use.then(() => () => this.engine.unuse(documentName, 'event')).catch(() => () => {})
      return this.#runHere(call, name, documentName, payload).finally(async () => (await ended)())
    }
    const packed = this.#payloads.pack({ type: 'event', payload })
    if (packed.length > MAX_PAYLOAD) {
      throw new AffinityError('AFF_EINVAL', `event "${name}": the payload has ${packed.length} bytes, at most ${MAX_PAYLOAD} are allowed`)
    }
    const outcome = await this.engine.emit(name, documentName, packed, onlyIfOpen).catch((error) => {
      if (error instanceof RemoteFailure) call.outcome = 'threw'
      else if ((error as AffinityError).code === 'AFF_ETIMEOUT') call.outcome = 'timeout'
      throw error instanceof RemoteFailure ? this.#payloads.unpackError(error.data) : error
    })
    if (outcome.here) {
      return this.#runHere(call, name, documentName, payload).finally(() => this.engine.unuse(documentName, 'event'))
    }
    const result = outcome.open ? this.#payloads.unpack(outcome.result) : undefined
    call.outcome = 'ok'
    return result?.type === 'result' ? result.payload : undefined
  }

  async #runHere(call: Call, name: string, documentName: string, payload: unknown): Promise<unknown> {
    call.outcome = 'threw'
    const result = await this.#run(name, documentName, payload)
    call.outcome = 'ok'
    return result
  }

  async #run(name: string, documentName: string, payload: unknown): Promise<unknown> {
    const handler = this.options.customEvents.get(name)
    if (!handler) throw new AffinityError('AFF_EEVENT', `unknown custom event "${name}" on server "${this.options.serverId}"`)
    return handler(documentName, payload)
  }

  /** Another server asks for this one; `token` names its call. */
  asked(token: number, name: string, documentName: string, packed: Uint8Array): void {
    this.#answer(name, documentName, packed).then(
      (result) => this.engine.eventResult(token, true, result),
      (error) => this.engine.eventResult(token, false, this.#payloads.packError(error)),
    )
  }

  async #answer(name: string, documentName: string, packed: Uint8Array): Promise<Uint8Array> {
    const internal = this.handOvers.handle(name, documentName, packed)
    if (internal) return internal.then(() => new Uint8Array())
    const event = this.#payloads.unpack(packed)
    const payload = event.type === 'event' ? event.payload : undefined
    return this.#payloads.pack({ type: 'result', payload: await this.#run(name, documentName, payload) })
  }
}
