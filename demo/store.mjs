// Keeps each document in a file of its own. The folder is shared by the servers: that the owner alone writes is what
// RedisServerAffinity sees to.

import { createHash, randomUUID } from 'node:crypto'
import { mkdir, open, readFile, rename, rm } from 'node:fs/promises'
import { join } from 'node:path'
import { encodeStateAsUpdate } from 'yjs'

const NAME_MAX = 200 // file systems take 255 bytes

export class FileStore {
  extensionName = 'FileStore'

  constructor(folder) {
    this.folder = folder
  }

  async onConfigure() {
    await mkdir(this.folder, { recursive: true })
  }

  async onLoadDocument({ documentName }) {
    try {
      return new Uint8Array(await readFile(this.path(documentName)))
    } catch (error) {
      if (error.code !== 'ENOENT') throw error
    }
  }

  async onStoreDocument({ documentName, document }) {
    const path = this.path(documentName)
    const draft = `${path}.${randomUUID()}.draft`
    try {
      await writeThrough(draft, encodeStateAsUpdate(document))
      await rename(draft, path)
    } catch (error) {
      await rm(draft, { force: true })
      throw error
    }
  }

  path(documentName) {
    const name = encodeURIComponent(documentName)
    const short = name.length <= NAME_MAX ? name : createHash('sha256').update(name).digest('hex')
    return join(this.folder, `${short}.yjs`)
  }
}

async function writeThrough(path, bytes) {
  const file = await open(path, 'wx')
  try {
    await file.writeFile(bytes)
    await file.sync()
  } finally {
    await file.close()
  }
}
