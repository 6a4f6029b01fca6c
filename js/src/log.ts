import createDebug from 'debug'

export type LogLevel = 'debug' | 'info' | 'warn' | 'error'

/** What a line is about; also the end of its namespace: `DEBUG=redis-affinity:documents`. */
export type LogTopic = 'documents' | 'links' | 'redis' | 'sockets'

/** What the option `log` is called with. */
export interface LogEntry {
  level: LogLevel
  /** For people. */
  message: string
  /** This server's name. */
  server: string
  topic?: LogTopic
  /** The document, other server and epoch that it is about, if it is about any. */
  document?: string
  peer?: string
  epoch?: number
  /** The `code` of `error`. */
  code?: string
  error?: unknown
}

export type LogDetails = Omit<LogEntry, 'level' | 'message' | 'server' | 'code'>

const PREFIX = '[RedisServerAffinity]'
const NAMESPACE = 'redis-affinity'
const all = createDebug(NAMESPACE)
const byTopic: Record<LogTopic, createDebug.Debugger> = {
  documents: all.extend('documents'),
  links: all.extend('links'),
  redis: all.extend('redis'),
  sockets: all.extend('sockets'),
}

/** Who prints lines of that topic: its own namespace, or the one that stands for all. */
function debuggerOf(topic: LogTopic | undefined): createDebug.Debugger | undefined {
  if (topic && byTopic[topic].enabled) return byTopic[topic]
  return all.enabled ? all : undefined
}

/** Everything that one instance has to say to people. Nothing here throws. */
export class Logger {
  constructor(
    private readonly server: string,
    private readonly hook?: (entry: LogEntry) => void,
  ) {}

  /** Does anybody read lines below a warning on that topic? */
  wants(topic: LogTopic): boolean {
    return this.hook !== undefined || debuggerOf(topic) !== undefined
  }

  debug(message: string, details: LogDetails = {}): void {
    this.#say('debug', message, details)
  }

  info(message: string, details: LogDetails = {}): void {
    this.#say('info', message, details)
  }

  warn(message: string, details: LogDetails = {}): void {
    this.#say('warn', message, details)
  }

  /** What must not end the process: an error in a callback of the user's, say. `isPrinted`: by somebody else. */
  error(message: string, details: LogDetails = {}, isPrinted = false): void {
    if (this.hook || !isPrinted) this.#say('error', message, details)
  }

  #say(level: LogLevel, message: string, details: LogDetails): void {
    try {
      if (level === 'debug' || level === 'info') debuggerOf(details.topic)?.('%s', message)
      if (!this.hook || !this.#tellHook(level, message, details)) print(level, message, details.error)
    } catch {} // a console that throws
  }

  /** False: the hook has failed, and the console takes its place. */
  #tellHook(level: LogLevel, message: string, details: LogDetails): boolean {
    const entry: LogEntry = { level, message, server: this.server }
    for (const [key, value] of Object.entries(details)) if (value !== undefined) Object.assign(entry, { [key]: value })
    const code = (details.error as { code?: unknown } | undefined)?.code
    if (code !== undefined) entry.code = String(code)
    try {
      const result: unknown = this.hook!(entry)
      if (result instanceof Promise) result.catch(() => print(level, message, details.error))
      return true
    } catch {
      return false
    }
  }
}

/** Without a hook: what is below a warning is for `DEBUG` alone. */
function print(level: LogLevel, message: string, error: unknown): void {
  const isSaid = error === undefined || String((error as Error | null)?.message).endsWith(message)
  if (level === 'warn') console.warn(PREFIX, message)
  else if (level === 'error' && isSaid) console.error(PREFIX, message)
  else if (level === 'error') console.error(`${PREFIX} ${message}:`, error)
}
