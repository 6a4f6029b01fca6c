import type { AffinityError } from './errors.js'

/** How a server is: for probes of load balancers and orchestrators. */
export interface Health {
  /** False: this process is of no use any more, and must be started again. */
  live: boolean
  /**
   * It has joined, and serves its clients; documents too that nobody has open yet, as soon as Redis answers. False
   * while it starts, drains, ends, or has failed; with `failClosed`, also while it is no member.
   */
  serving: boolean
  /** It is a member of the cluster, and serves: it can claim and store documents. */
  ready: boolean
  redis: 'up' | 'down'
  /** Is its membership valid? Without that nobody counts on what it owned, and it stores nothing. */
  member: boolean
  /** For how long the membership is valid without a renewal. */
  membershipMs: number
  /** It hands its documents on, and claims none. */
  draining: boolean
  /** The JavaScript thread has hung for longer than `stallLimit`, and the engine has not yet heard that it answers again. */
  stalled: boolean
  /** Other servers that it knows. */
  servers: number
  /** Documents that it owns. */
  documents: number
  /** Why it is not ready. */
  reason?: string
}

export interface HealthSources {
  hasJoined: boolean
  failure: AffinityError | undefined
  isClosed: boolean
  isDraining: boolean
  failClosed: boolean
  membershipMs: number
  /** Why Redis is away, if it is and that is known. */
  whyAway: string | undefined
  engine: { redisUp: number; stalled: number; peers: number; documentsOwned: number }
}

/** What is wrong for good, on purpose, or not done yet. */
function whyNotServing({ failure, isClosed, isDraining, hasJoined, whyAway, engine }: HealthSources): string | undefined {
  if (failure) return `failed: ${failure.message}`
  if (isClosed) return 'closed'
  if (isDraining) return 'draining'
  if (hasJoined) return undefined
  return engine.redisUp ? 'starting' : `starting: ${whyAway ?? 'not connected to Redis yet'}`
}

export function healthOf(sources: HealthSources): Health {
  const { failure, failClosed, membershipMs, isDraining, whyAway, engine } = sources
  const member = membershipMs > 0
  const redis = engine.redisUp ? 'up' : 'down'
  const notServing = whyNotServing(sources)
  const reason = notServing ?? (member ? undefined : redis === 'down' ? (whyAway ?? 'Redis is away') : 'not a member')
  return {
    live: failure === undefined,
    serving: notServing === undefined && (member || !failClosed),
    ready: reason === undefined,
    redis,
    member,
    membershipMs,
    draining: isDraining,
    stalled: engine.stalled > 0,
    servers: engine.peers,
    documents: engine.documentsOwned,
    ...(reason === undefined ? {} : { reason }),
  }
}
