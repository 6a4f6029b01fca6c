import { HocuspocusProvider, HocuspocusProviderWebsocket } from '@hocuspocus/provider'
import { Editor } from '@tiptap/core'
import { Collaboration } from '@tiptap/extension-collaboration'
import { CollaborationCaret } from '@tiptap/extension-collaboration-caret'
import { Placeholder } from '@tiptap/extensions'
import { StarterKit } from '@tiptap/starter-kit'
import { drawCluster, type Placement, readPlacement, showCluster } from './cluster'
import { type States, watchStates } from './control'
import { find, say } from './dom'
import { Happenings } from './happenings'
import { presences, showPeople } from './people'
import { thisPerson } from './person'
import { addToolbar } from './toolbar'

const documentName = new URLSearchParams(location.search).get('document')?.trim() || 'welcome'
const address = `/?${new URLSearchParams({ document: documentName })}`
let placement: Placement | undefined
let states: States | undefined
let refusal: string | undefined
let closes = 0 // of this page's socket; the tests count them
const happenings = new Happenings()

const socket = new HocuspocusProviderWebsocket({
  url: `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}`,
  maxDelay: 3000, // between attempts to connect again
})

const provider = new HocuspocusProvider({
  websocketProvider: socket,
  name: documentName,
  onStatus: show,
  onSynced: show,
  onUnsyncedChanges({ number }) {
    if (number === 0) happenings.allSaved()
    show()
  },
  onAwarenessChange: show,
  onStateless({ payload }) {
    const told = readPlacement(payload, documentName)
    if (!told) return
    placement = told
    happenings.placed(told)
    provider.setAwarenessField('server', told.socketServer)
    show()
  },
  onClose() {
    closes++
    happenings.socketClosed()
    placement = undefined
    show()
  },
  onAuthenticated() {
    refusal = undefined
    show()
  },
  onAuthenticationFailed({ reason }) {
    refusal = reason
    show()
  },
})

const editor = new Editor({
  element: find('editor'),
  extensions: [
    StarterKit.configure({ undoRedo: false }), // Collaboration has its own
    Placeholder.configure({ placeholder: 'Write something …' }),
    Collaboration.configure({ document: provider.document }),
    CollaborationCaret.configure({ provider, user: thisPerson() }),
  ],
  editorProps: {
    attributes: {
      role: 'textbox',
      'aria-multiline': 'true',
      'aria-label': `Text of the document ${documentName}`,
      'data-testid': 'editor',
    },
  },
})

function show(): void {
  const status = statusText()
  say('status', status)
  document.body.dataset.connected = `${status === 'Connected'}`
  document.body.dataset.closes = `${closes}`

  const unsynced = provider.unsyncedChanges
  find('unsynced').dataset.count = `${unsynced}`
  say('unsynced', savedText(unsynced))

  const people = presences(provider.awareness!.getStates(), provider.document.clientID)
  showPeople(people)
  showCluster(placement, people, states)
}

function statusText(): string {
  if (refusal) return `Refused: ${refusal}`
  if (socket.status !== 'connected') return 'Connecting …'
  return provider.isSynced ? 'Connected' : 'Loading …'
}

function savedText(unsynced: number): string {
  if (unsynced === 0) return 'All changes saved'
  return unsynced === 1 ? '1 change on its way' : `${unsynced} changes on their way`
}

history.replaceState(null, '', address)
document.title = `${documentName} – RedisServerAffinity`
find('title').textContent = documentName
find('second').setAttribute('href', address)
addToolbar(editor)
drawCluster()
provider.document.on('update', (_update: Uint8Array, origin: unknown) => {
  if (origin !== provider) happenings.typed()
})
watchStates((now) => {
  states = now
  if (now) happenings.states(now)
  show()
})
provider.attach()
show()
