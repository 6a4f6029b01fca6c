import type { Document, Hocuspocus } from '@hocuspocus/server'
import type { Documents } from './documents.js'
import type { Openings } from './openings.js'

export interface Wrapping {
  documents: Documents
  openings: Openings
  /** Does the document stay in memory, or go in another way? */
  isKept(document: Document): boolean
  /** Hands all documents on; undefined once there is nobody left to do so. */
  drain(): Promise<void> | undefined
}

/** Makes Hocuspocus act on instances where it acts on names, and drain where it would send clients away. */
export function wrap(instance: Hocuspocus, { documents, openings, isKept, drain }: Wrapping): void {
  const unloadDocument = instance.unloadDocument.bind(instance)
  instance.unloadDocument = async (document) => {
    if (isKept(document) && !documents.isLost(document)) return
    if (instance.documents.get(document.name) === document) return unloadDocument(document)
    if (!documents.isLost(document) && !document.isDestroyed) return unloadDocument(document)
  }

  const createDocument = instance.createDocument.bind(instance)
  instance.createDocument = async (...args) => {
    const [documentName, , , connectionConfig] = args
    try {
      for (;;) {
        openings.check(documentName, connectionConfig)
        const document = await createDocument(...args)
        // What was lost while it was being loaded is nobody's: who has come since waits for the next load.
        const isLost = documents.isLost(document)
        if (isLost && instance.documents.get(documentName) === document) instance.documents.delete(documentName)
        if (!isLost) return opened(document, connectionConfig)
      }
    } finally {
      openings.ended(connectionConfig)
    }
  }

  /** @throws where whoever has opened it may not have it any more; then perhaps nobody wants it */
  function opened(document: Document, connectionConfig: object): Document {
    try {
      openings.check(document.name, connectionConfig)
      return document
    } catch (error) {
      if (document.getConnectionsCount() === 0) void instance.unloadDocument(document)
      throw error
    }
  }

  // One slot of the debouncer serves all instances of a name: a lost one must not take it from the present one.
  const storeDocumentHooks = instance.storeDocumentHooks.bind(instance)
  instance.storeDocumentHooks = (document, payload, immediately) =>
    documents.isLost(document) ? Promise.resolve() : storeDocumentHooks(document, payload, immediately)

  // Server.destroy() closes all connections before it waits for the documents: they move instead.
  const closeConnections = instance.closeConnections.bind(instance)
  instance.closeConnections = (documentName) => {
    const drained = documentName === undefined ? drain() : undefined
    if (drained) void drained.finally(() => closeConnections())
    else closeConnections(documentName)
  }
}
