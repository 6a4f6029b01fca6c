// `node --import` of this: whoever imports uWebSockets.js gets the stand-in.
import { register } from 'node:module'

const standIn = new URL('./uws.mjs', import.meta.url).href
const hooks = `export const resolve = (specifier, context, next) =>
  specifier === 'uWebSockets.js' ? { url: ${JSON.stringify(standIn)}, shortCircuit: true } : next(specifier, context)`
register(`data:text/javascript,${encodeURIComponent(hooks)}`)
