// The cluster's states as demo/control.mjs tells them, and the requests of the buttons.

export type Action = 'kill' | 'stop' | 'freeze' | 'thaw' | 'start' | 'restart'

export type State = {
  name: 'starting' | 'up' | 'frozen' | 'stopping' | 'down'
  why?: string
  /** What can be done now. */
  actions: Action[]
}

export type States = { servers: Record<string, State>; redis: State }

/** Calls `tell` with the states, now and at each change; with undefined when the demo cannot be reached. */
export function watchStates(tell: (states: States | undefined) => void): void {
  let events: EventSource | undefined
  // A browser allows six such connections to one address: windows that nobody sees do without.
  const openOrClose = () => {
    if (document.hidden) {
      events?.close()
      events = undefined
    } else {
      events ??= new EventSource('/control/events')
      events.onmessage = ({ data }) => tell(JSON.parse(data))
      events.onerror = () => tell(undefined)
    }
  }
  document.addEventListener('visibilitychange', openOrClose)
  openOrClose()
}

/** Resolves with what went wrong, if anything did. */
export async function press(id: string, action: Action): Promise<string | undefined> {
  try {
    const response = await fetch(`/control/${id}/${action}`, { method: 'POST' })
    return response.ok ? undefined : (await response.text()).trim()
  } catch {
    return 'The demo does not answer'
  }
}
