// The JavaScript side of the checks against other programs: one JSON request a line in, one JSON answer a line out. Requests and answers
// are described in ../python/peer.py. `with` is a library: `jose`, or `hpke` (with the @noble implementations).
// FREEHOLD_PEER_MODULES is where the libraries are installed.

import { webcrypto } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const modules = process.env.FREEHOLD_PEER_MODULES
const require = createRequire(`${modules}/`)
const jose = require('jose')
const HPKE = require('hpke')
const noble = require('@panva/hpke-noble')

const DRAFT = 'draft-ietf-jose-hpke-pq-pqt-01'

class Unknown extends Error {}

const decode = (text) => new Uint8Array(Buffer.from(text, 'base64url'))
const encode = (bytes) => Buffer.from(bytes).toString('base64url')
const utf8 = (text) => new TextEncoder().encode(text)
const json = (bytes) => JSON.parse(Buffer.from(bytes).toString())

// jose answers an algorithm it does not have with an error of its own.
async function known(act) {
  try {
    return await act()
  } catch (error) {
    if (error instanceof jose.errors.JOSENotSupported) throw new Unknown(error.message)
    throw error
  }
}

const importKey = (key) => known(() => jose.importJWK(key, key.alg))

// HPKE: the key encryption of draft-ietf-jose-hpke-encrypt, put together here from the library's HPKE and WebCrypto's AES.

const HPKE_ALGORITHMS = {
  'HPKE-9-KE': () => new HPKE.CipherSuite(noble.KEM_MLKEM768_X25519, noble.KDF_SHAKE256, noble.AEAD_AES_256_GCM),
}

function suiteOf(alg) {
  if (!HPKE_ALGORITHMS[alg]) throw new Unknown(alg)
  return HPKE_ALGORITHMS[alg]()
}

const recipientStructure = (enc) => Buffer.concat([utf8('JOSE-HPKE rcpt'), Buffer.of(255), utf8(enc), Buffer.of(255)])
const aesKey = (bytes, use) => webcrypto.subtle.importKey('raw', bytes, 'AES-GCM', false, [use])

async function openHpke(key, message) {
  const suite = suiteOf(key.alg)
  const parts = message.startsWith('{') ? JSON.parse(message) : null
  const [protectedHeader, encryptedKey, iv, ciphertext, tag] = parts
    ? [parts.protected, parts.recipients?.[0].encrypted_key ?? parts.encrypted_key, parts.iv, parts.ciphertext, parts.tag]
    : message.split('.')
  const header = { ...json(decode(protectedHeader)), ...parts?.recipients?.[0].header }
  if (header.alg !== key.alg || header.enc !== 'A256GCM') throw new Error(`a message with ${header.alg} and ${header.enc}`)
  const secret = await suite.DeserializePrivateKey(decode(key.priv))
  const info = recipientStructure(header.enc)
  const contentKey = await suite.Open(secret, decode(header.ek), decode(encryptedKey), { info })
  const algorithm = { name: 'AES-GCM', iv: decode(iv), additionalData: utf8(protectedHeader) }
  const sealed = Buffer.concat([decode(ciphertext), decode(tag)])
  return new Uint8Array(await webcrypto.subtle.decrypt(algorithm, await aesKey(contentKey, 'decrypt'), sealed))
}

async function sealHpke(key, plaintext, form) {
  const suite = suiteOf(key.alg)
  const contentKey = webcrypto.getRandomValues(new Uint8Array(32))
  const iv = webcrypto.getRandomValues(new Uint8Array(12))
  const recipient = await suite.DeserializePublicKey(decode(key.pub))
  const sealedKey = await suite.Seal(recipient, contentKey, { info: recipientStructure('A256GCM') })
  const own = { alg: key.alg, kid: key.kid, ek: encode(sealedKey.encapsulatedSecret) }
  const shared = { enc: 'A256GCM', draft: DRAFT }
  const protectedHeader = encode(utf8(JSON.stringify(form === 'general' ? shared : { ...own, ...shared })))
  const algorithm = { name: 'AES-GCM', iv, additionalData: utf8(protectedHeader) }
  const sealed = new Uint8Array(await webcrypto.subtle.encrypt(algorithm, await aesKey(contentKey, 'encrypt'), plaintext))
  const [ciphertext, tag] = [encode(sealed.slice(0, -16)), encode(sealed.slice(-16))]
  const encryptedKey = encode(sealedKey.ciphertext)
  if (form === 'compact') return [protectedHeader, encryptedKey, encode(iv), ciphertext, tag].join('.')
  const content = { protected: protectedHeader, iv: encode(iv), ciphertext, tag }
  return JSON.stringify(
    form === 'flattened' ? { ...content, encrypted_key: encryptedKey } : { ...content, recipients: [{ header: own, encrypted_key: encryptedKey }] },
  )
}

// Messages.

async function open({ with: library, key, message }) {
  if (library === 'hpke') return { plaintext: encode(await openHpke(key, message)) }
  const secret = await importKey(key)
  const parsed = message.startsWith('{') && JSON.parse(message)
  const opened = await known(() =>
    !parsed ? jose.compactDecrypt(message, secret) : parsed.recipients ? jose.generalDecrypt(parsed, secret) : jose.flattenedDecrypt(parsed, secret),
  )
  return { plaintext: encode(opened.plaintext) }
}

async function seal({ with: library, key, plaintext, form }) {
  const bytes = decode(plaintext)
  if (library === 'hpke') return { message: await sealHpke(key, bytes, form) }
  const recipient = await importKey(key)
  const own = { alg: key.alg, kid: key.kid }
  return known(async () => {
    if (form === 'compact')
      return { message: await new jose.CompactEncrypt(bytes).setProtectedHeader({ ...own, enc: 'A256GCM' }).encrypt(recipient) }
    const sealed =
      form === 'flattened'
        ? await new jose.FlattenedEncrypt(bytes).setProtectedHeader({ ...own, enc: 'A256GCM' }).encrypt(recipient)
        : await new jose.GeneralEncrypt(bytes).setProtectedHeader({ enc: 'A256GCM' }).addRecipient(recipient).setUnprotectedHeader(own).encrypt()
    return { message: JSON.stringify(sealed) }
  })
}

// Signatures.

async function verify({ key, signature, payload }) {
  const publicKey = await importKey(key)
  const options = { algorithms: [key.alg] }
  const parsed = signature.startsWith('{') && JSON.parse(signature)
  // RFC 7515, appendix F: a detached payload is put back before verifying.
  const whole = payload === undefined || parsed ? signature : signature.replace('..', `.${payload}.`)
  const verified = await known(() =>
    !parsed
      ? jose.compactVerify(whole, publicKey, options)
      : parsed.signatures
        ? jose.generalVerify(parsed, publicKey, options)
        : jose.flattenedVerify(parsed, publicKey, options),
  )
  return { payload: encode(verified.payload) }
}

async function sign({ key, payload, form }) {
  const secret = await importKey(key)
  const header = { alg: key.alg, kid: key.kid }
  return known(async () => {
    if (form === 'general') {
      const signer = new jose.GeneralSign(decode(payload))
      signer.addSignature(secret).setProtectedHeader(header)
      return { signature: JSON.stringify(await signer.sign()) }
    }
    if (form === 'flattened')
      return { signature: JSON.stringify(await new jose.FlattenedSign(decode(payload)).setProtectedHeader(header).sign(secret)) }
    const compact = await new jose.CompactSign(decode(payload)).setProtectedHeader(header).sign(secret)
    return { signature: form === 'compact' ? compact : compact.replace(/\..*\./, '..') }
  })
}

function versions() {
  const of = (name) => JSON.parse(readFileSync(`${modules}/node_modules/${name}/package.json`)).version
  return { jose: of('jose'), hpke: of('hpke'), '@panva/hpke-noble': of('@panva/hpke-noble'), node: process.versions.node }
}

const operations = { versions, open, seal, verify, sign }

for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line)
  let answer
  try {
    answer = { ok: true, ...(await operations[request.op](request)) }
  } catch (error) {
    answer = error instanceof Unknown ? { ok: false, unknown: error.message } : { ok: false, refused: `${error.stack}` }
  }
  process.stdout.write(`${JSON.stringify(answer)}\n`)
}
