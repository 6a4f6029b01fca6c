// Keys and certificates, made anew by each test with openssl: none lies in the repository.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import os from 'node:os'
import path from 'node:path'

const NEW_KEY = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1']

const configuration = (extensions) => `[req]
distinguished_name = dn
x509_extensions = ext
prompt = no
[dn]
CN = a test
[ext]
${extensions}
`

/**
 * Somebody whose certificates are believed, or not.
 *
 * @returns {{ cert: string, sign: (names?: string, more?: { days?: number, passphrase?: string }) => { cert: string, key: string } }}
 *   `names` is a subjectAltName ("DNS:redis.test,IP:127.0.0.1"); `days` 0: it expires within a second
 */
export function authority() {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'rsa-ca-'))
  process.once('exit', () => rmSync(folder, { recursive: true, force: true }))
  const file = (name) => path.join(folder, name)
  const openssl = (...args) => execFileSync('openssl', args, { stdio: 'pipe' })
  const read = (name) => readFileSync(file(name), 'utf8')

  writeFileSync(file('ca.cnf'), configuration('basicConstraints = critical,CA:TRUE'))
  openssl('req', '-x509', ...NEW_KEY, '-nodes', '-days', '2', '-config', file('ca.cnf'), '-keyout', file('ca.key'), '-out', file('ca.pem'))

  return {
    cert: read('ca.pem'),
    sign(names, { days = 2, passphrase } = {}) {
      writeFileSync(file('one.cnf'), configuration(names ? `subjectAltName = ${names}` : 'basicConstraints = CA:FALSE'))
      const locked = passphrase ? ['-passout', `pass:${passphrase}`] : ['-nodes']
      openssl('req', '-new', ...NEW_KEY, ...locked, '-config', file('one.cnf'), '-keyout', file('one.key'), '-out', file('one.csr'))
      const by = ['-CA', file('ca.pem'), '-CAkey', file('ca.key'), '-CAcreateserial', '-days', String(days)]
      openssl('x509', '-req', '-in', file('one.csr'), ...by, '-extfile', file('one.cnf'), '-extensions', 'ext', '-out', file('one.pem'))
      return { cert: read('one.pem'), key: read('one.key') }
    },
  }
}
