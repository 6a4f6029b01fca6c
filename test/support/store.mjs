// Where the servers of a test cluster keep their documents: one file each, in a folder that they share, with a
// log of every load and store, so that a test can count them.
import { appendFileSync, existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { createHash } from 'node:crypto'
import path from 'node:path'
import * as Y from 'yjs'

/** The file's name: readable where it can be, else a hash (a document's name may be 65,535 bytes long). */
function fileOf(folder, name) {
  const encoded = encodeURIComponent(name)
  return path.join(folder, `${encoded.length < 150 ? encoded : createHash('sha256').update(name).digest('hex')}.bin`)
}

function log(folder, kind, serverId, name) {
  appendFileSync(path.join(folder, `${kind}.log`), `${JSON.stringify({ serverId, name, time: Date.now() })}\n`)
}

/**
 * The Hocuspocus extension.
 *
 * @param {string} folder
 * @param {string} serverId
 * @param {() => Promise<void>} [beforeLoad] lets a test slow loading down
 * @param {() => Promise<void>} [beforeWrite] lets a test slow storing down, between the encoding and the writing
 */
export function fileStore(folder, serverId, beforeLoad = async () => {}, beforeWrite = async () => {}) {
  mkdirSync(folder, { recursive: true })
  return {
    extensionName: 'file-store',
    async onLoadDocument({ document, documentName }) {
      log(folder, 'loads', serverId, documentName)
      await beforeLoad()
      const file = fileOf(folder, documentName)
      if (existsSync(file)) Y.applyUpdate(document, readFileSync(file))
    },
    async onStoreDocument({ document, documentName }) {
      const file = fileOf(folder, documentName)
      const temporary = `${file}.${serverId}.${process.pid}`
      const state = Y.encodeStateAsUpdate(document)
      await beforeWrite()
      writeFileSync(temporary, state)
      renameSync(temporary, file)
      log(folder, 'stores', serverId, documentName)
    },
  }
}

/** What the test sees of the folder. */
export function storeReader(folder) {
  const lines = (kind, name) => {
    const file = path.join(folder, `${kind}.log`)
    if (!existsSync(file)) return []
    const entries = readFileSync(file, 'utf8').trim().split('\n').filter(Boolean).map((line) => JSON.parse(line))
    return name === undefined ? entries : entries.filter((entry) => entry.name === name)
  }
  return {
    folder,
    /** @returns {{ serverId: string, name: string, time: number }[]} */
    loads: (name) => lines('loads', name),
    /** @returns {{ serverId: string, name: string, time: number }[]} */
    stores: (name) => lines('stores', name),
    /** The stored document, null when there is none. */
    document(name) {
      const file = fileOf(folder, name)
      if (!existsSync(file)) return null
      const doc = new Y.Doc()
      Y.applyUpdate(doc, readFileSync(file))
      return doc
    },
    /** The stored text. */
    text(name, field = 'text') {
      return this.document(name)?.getText(field).toString() ?? null
    },
    remove: (name) => rmSync(fileOf(folder, name)),
  }
}
