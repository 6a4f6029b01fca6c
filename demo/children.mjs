// The processes of the demo: started here, remembered here, ended here.

import { fork, spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as sleep } from 'node:timers/promises'

const GRACE_MS = 5_000
const OUTPUT_MAX_LINES = 30

const children = new Set()
let ending = false

/** Starts a program that the kernel ends when this process goes, however it goes. */
export function startProgram(name, command, args, options = {}) {
  return remember(name, () => spawn('setpriv', ['--pdeathsig', 'KILL', command, ...args], spawnOptions(options)))
}

/**
 * Starts a Node module with an IPC channel; its 'disconnect' event tells it that this process has gone. Lest it be frozen
 * then, the kernel lets it go on.
 */
export function startModule(name, path, options = {}) {
  const through = { execPath: 'setpriv', execArgv: ['--pdeathsig', 'CONT', process.execPath] }
  return remember(name, () => fork(path, { ...spawnOptions(options, ['ipc']), ...through }))
}

// Detached: Ctrl-C in a terminal reaches this process only, which then ends the others in order.
function spawnOptions(options, stdio = []) {
  return { ...options, detached: true, stdio: ['ignore', 'pipe', 'pipe', ...stdio] }
}

function remember(name, spawnIt) {
  if (ending) throw new Error('the demo is ending')
  const child = spawnIt()
  const program = { name, child, pid: child.pid, output: [] }
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding('utf8').on('data', (text) => {
      program.output.push(...text.split('\n').filter(Boolean))
      program.output.splice(0, program.output.length - OUTPUT_MAX_LINES)
    })
  }
  // Resolves, never rejects: with the exit code, the name of the signal, or the error of a failed start.
  program.ended = new Promise((resolve) => {
    child.once('error', (error) => resolve(error.message))
    child.once('close', (code, signal) => resolve(signal ?? code))
  }).finally(() => children.delete(program))
  children.add(program)
  return program
}

/** Waits for a program that is to do its work and end. */
export async function finished(program) {
  const how = await program.ended
  if (how !== 0) throw endedTooSoon(program, how)
}

/** Resolves with what `wait` resolves with; rejects if the program ends first. */
export function unlessItEnds(program, wait) {
  const ended = program.ended.then((how) => Promise.reject(endedTooSoon(program, how)))
  return Promise.race([wait, ended])
}

function endedTooSoon({ name, output }, how) {
  return new Error([`${name} ended (${how})`, ...output].join('\n  '))
}

/** The next message of a child module. */
export async function messageFrom(program) {
  const [message] = await unlessItEnds(program, once(program.child, 'message'))
  return message
}

/** Calls `check` until it no longer throws. */
export async function until(what, check, deadlineMs = 15_000) {
  const deadline = Date.now() + deadlineMs
  for (;;) {
    try {
      return await check()
    } catch (error) {
      if (Date.now() > deadline) throw new Error(`no ${what} after ${deadlineMs} ms: ${error.message}`)
      await sleep(50)
    }
  }
}

/** Ends one program and what it started: politely, then not. */
async function end(program) {
  signal(program, 'SIGTERM')
  signal(program, 'SIGCONT') // a frozen one hears nothing
  const timer = setTimeout(signal, GRACE_MS, program, 'SIGKILL')
  await program.ended
  clearTimeout(timer)
}

/** From now on nothing is started; what is not in `order` yet, such as a build, ends first. */
export async function endAll(order) {
  ending = true
  const ordered = order.flat()
  await Promise.all([...children].filter((child) => !ordered.includes(child)).map(end))
  for (const group of order) await Promise.all(group.map(end))
}

export function killAll() {
  for (const child of children) signal(child, 'SIGKILL')
}

// Each child leads its own process group (detached), so that a build's helpers end with it.
export function signal(program, name) {
  const { pid } = program
  if (pid === undefined || !children.has(program)) return
  try {
    process.kill(-pid, name)
  } catch (error) {
    if (error.code !== 'ESRCH') throw error
  }
}
