// The JavaScript side of the checks against other programs: one JSON request a line in, one JSON answer a line out. Requests and answers
// are described in ../python/peer.py. `with` is a library: `jose`, `hpke` (with the @noble implementations),
// `noble` (@noble/post-quantum alone), or `node` (Node.js itself, which is OpenSSL).
// FREEHOLD_PEER_MODULES is where the libraries are installed.

import { createPrivateKey, createPublicKey, sign as signWithNode, verify as verifyWithNode, webcrypto } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createInterface } from 'node:readline'

const modules = process.env.FREEHOLD_PEER_MODULES
const require = createRequire(`${modules}/`)
const jose = require('jose')
const HPKE = require('hpke')
const noble = require('@panva/hpke-noble')
const { ml_dsa44, ml_dsa65, ml_dsa87 } = require('@noble/post-quantum/ml-dsa.js')
const { ml_kem768, ml_kem1024 } = require('@noble/post-quantum/ml-kem.js')
const { slh_dsa_sha2_128s, slh_dsa_sha2_192s, slh_dsa_sha2_256s } = require('@noble/post-quantum/slh-dsa.js')

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

// HPKE: draft-ietf-jose-hpke-encrypt, put together here from the library's HPKE and WebCrypto's AES.

const classical = () => new HPKE.CipherSuite(noble.KEM_DHKEM_X25519_HKDF_SHA256, noble.KDF_HKDF_SHA256, noble.AEAD_ChaCha20Poly1305)
const hybrid = () => new HPKE.CipherSuite(noble.KEM_MLKEM768_X25519, noble.KDF_SHAKE256, noble.AEAD_AES_256_GCM)
const HPKE_ALGORITHMS = {
  'HPKE-4': [classical, 'draft-ietf-jose-hpke-encrypt-20'],
  'HPKE-9': [hybrid, 'draft-ietf-jose-hpke-pq-pqt-01'],
}

function suiteOf(alg) {
  const [make, draft] = HPKE_ALGORITHMS[alg.replace(/-KE$/, '')] ?? []
  if (!make) throw new Unknown(alg)
  return [make(), draft, alg.endsWith('-KE')]
}

const recipientStructure = (enc) => Buffer.concat([utf8('JOSE-HPKE rcpt'), Buffer.of(255), utf8(enc), Buffer.of(255)])
const aesKey = (bytes, use) => webcrypto.subtle.importKey('raw', bytes, 'AES-GCM', false, [use])

async function openHpke(key, message) {
  const [suite, , aroundKey] = suiteOf(key.alg)
  const parts = message.startsWith('{') ? JSON.parse(message) : null
  const [protectedHeader, encryptedKey, iv, ciphertext, tag] = parts
    ? [parts.protected, parts.recipients?.[0].encrypted_key ?? parts.encrypted_key, parts.iv, parts.ciphertext, parts.tag]
    : message.split('.')
  const header = { ...json(decode(protectedHeader)), ...parts?.recipients?.[0].header }
  if (header.alg !== key.alg) throw new Error(`a message with ${header.alg}`)
  const secret = await suite.DeserializePrivateKey(decode(key.priv ?? key.d))
  if (!aroundKey) return suite.Open(secret, decode(encryptedKey), decode(ciphertext), { aad: utf8(protectedHeader) })
  if (header.enc !== 'A256GCM') throw new Error(`a message with ${header.enc}`)
  const info = recipientStructure(header.enc)
  const contentKey = await suite.Open(secret, decode(header.ek), decode(encryptedKey), { info })
  const algorithm = { name: 'AES-GCM', iv: decode(iv), additionalData: utf8(protectedHeader) }
  const sealed = Buffer.concat([decode(ciphertext), decode(tag)])
  return new Uint8Array(await webcrypto.subtle.decrypt(algorithm, await aesKey(contentKey, 'decrypt'), sealed))
}

// A key pair of a partner: only its public half is told to the agent.
async function generate({ alg }) {
  const [suite] = suiteOf(alg)
  const { publicKey, privateKey } = await suite.GenerateKeyPair(true)
  return { pub: encode(await suite.SerializePublicKey(publicKey)), priv: encode(await suite.SerializePrivateKey(privateKey)) }
}

async function sealHpke(key, plaintext, form) {
  const [suite, draft, aroundKey] = suiteOf(key.alg)
  const recipient = await suite.DeserializePublicKey(decode(key.pub ?? key.x))
  if (!aroundKey) {
    const protectedHeader = encode(utf8(JSON.stringify({ alg: key.alg, kid: key.kid, draft })))
    const sealed = await suite.Seal(recipient, plaintext, { aad: utf8(protectedHeader) })
    const [encryptedKey, ciphertext] = [encode(sealed.encapsulatedSecret), encode(sealed.ciphertext)]
    if (form === 'compact') return [protectedHeader, encryptedKey, '', ciphertext, ''].join('.')
    const content = { protected: protectedHeader, ciphertext }
    return JSON.stringify(
      form === 'flattened' ? { ...content, encrypted_key: encryptedKey } : { ...content, recipients: [{ encrypted_key: encryptedKey }] },
    )
  }
  const contentKey = webcrypto.getRandomValues(new Uint8Array(32))
  const iv = webcrypto.getRandomValues(new Uint8Array(12))
  const sealedKey = await suite.Seal(recipient, contentKey, { info: recipientStructure('A256GCM') })
  const own = { alg: key.alg, kid: key.kid, ek: encode(sealedKey.encapsulatedSecret) }
  const shared = { enc: 'A256GCM', draft }
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

// Post-quantum algorithms of @noble/post-quantum.

const NOBLE_SIGNATURES = {
  'ML-DSA-44': ml_dsa44,
  'ML-DSA-65': ml_dsa65,
  'ML-DSA-87': ml_dsa87,
  'SLH-DSA-SHA2-128s': slh_dsa_sha2_128s,
  'SLH-DSA-SHA2-192s': slh_dsa_sha2_192s,
  'SLH-DSA-SHA2-256s': slh_dsa_sha2_256s,
}
const NOBLE_KEMS = { 'ML-KEM-768': ml_kem768, 'ML-KEM-1024': ml_kem1024 }

function nobleOf(table, alg) {
  if (!table[alg]) throw new Unknown(alg)
  return table[alg]
}

// ML-DSA keys are seeds; SLH-DSA keys are whole.
const nobleSecret = (algorithm, key) => (key.alg.startsWith('ML-') ? algorithm.keygen(decode(key.priv)).secretKey : decode(key.priv))

const headerOf = (text) => JSON.parse(new TextDecoder().decode(decode(text)))

// Parts of a JWS that are put together here: protected header, payload, signature. Of several signatures the one of this key.
function signedParts(key, message, payload) {
  const parsed = message.startsWith('{') && JSON.parse(message)
  const one = parsed.signatures ? parsed.signatures.find((signature) => headerOf(signature.protected).kid === key.kid) : parsed
  const [protectedHeader, attached, signature] = parsed ? [one.protected, parsed.payload, one.signature] : message.split('.')
  return [protectedHeader, payload ?? attached, signature]
}

function signedMessage(key, payload, form, sign) {
  const protectedHeader = encode(utf8(JSON.stringify({ alg: key.alg, kid: key.kid })))
  const signature = encode(sign(utf8(`${protectedHeader}.${payload}`)))
  if (form === 'compact' || form === 'detached') return [protectedHeader, form === 'compact' ? payload : '', signature].join('.')
  const one = { protected: protectedHeader, signature }
  return JSON.stringify(form === 'flattened' ? { payload, ...one } : { payload, signatures: [one] })
}

function nobleVerify(key, message, payload) {
  const algorithm = nobleOf(NOBLE_SIGNATURES, key.alg)
  const [protectedHeader, text, signature] = signedParts(key, message, payload)
  if (!algorithm.verify(decode(signature), utf8(`${protectedHeader}.${text}`), decode(key.pub))) throw new Error('not genuine')
  return text
}

function nobleSign(key, payload, form) {
  const algorithm = nobleOf(NOBLE_SIGNATURES, key.alg)
  return signedMessage(key, payload, form, (signed) => algorithm.sign(signed, nobleSecret(algorithm, key)))
}

// Node.js itself.

function nodeVerify(key, message, payload) {
  const [protectedHeader, text, signature] = signedParts(key, message, payload)
  const publicKey = createPublicKey({ key, format: 'jwk' })
  if (!verifyWithNode(null, utf8(`${protectedHeader}.${text}`), publicKey, decode(signature))) throw new Error('not genuine')
  return text
}

function nodeSign(key, payload, form) {
  const secret = createPrivateKey({ key, format: 'jwk' })
  return signedMessage(key, payload, form, (signed) => signWithNode(null, signed, secret))
}

const samePublicKey = ({ key, pem }) => ({ same: createPublicKey(pem).export({ format: 'jwk' }).pub === key.pub })

function encapsulate({ key }) {
  const { cipherText, sharedSecret } = nobleOf(NOBLE_KEMS, key.alg).encapsulate(decode(key.pub))
  return { secret: encode(sharedSecret), ciphertext: encode(cipherText) }
}

function decapsulate({ key, ciphertext }) {
  const kem = nobleOf(NOBLE_KEMS, key.alg)
  return { secret: encode(kem.decapsulate(decode(ciphertext), kem.keygen(decode(key.priv)).secretKey)) }
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

async function seal({ with: library, key, enc, plaintext, form }) {
  const bytes = decode(plaintext)
  if (library === 'hpke') return { message: await sealHpke(key, bytes, form) }
  const recipient = await importKey(key)
  const own = { alg: key.alg, kid: key.kid }
  return known(async () => {
    if (form === 'compact')
      return { message: await new jose.CompactEncrypt(bytes).setProtectedHeader({ ...own, enc }).encrypt(recipient) }
    const sealed =
      form === 'flattened'
        ? await new jose.FlattenedEncrypt(bytes).setProtectedHeader({ ...own, enc }).encrypt(recipient)
        : await new jose.GeneralEncrypt(bytes).setProtectedHeader({ enc }).addRecipient(recipient).setUnprotectedHeader(own).encrypt()
    return { message: JSON.stringify(sealed) }
  })
}

// Signatures.

async function verify({ with: library, key, signature, payload }) {
  if (library === 'noble') return { payload: nobleVerify(key, signature, payload) }
  if (library === 'node') return { payload: nodeVerify(key, signature, payload) }
  const publicKey = await importKey(key)
  const options = { algorithms: [key.alg] }
  const parsed = signature.startsWith('{') && JSON.parse(signature)
  // RFC 7515, appendix F: a detached payload is put back before verifying.
  const whole = payload === undefined || parsed ? signature : signature.replace('..', `.${payload}.`)
  const verified = await known(() =>
    !parsed
      ? jose.compactVerify(whole, publicKey, options)
      : parsed.signatures
        ? jose.generalVerify(payload === undefined ? parsed : { ...parsed, payload }, publicKey, options)
        : jose.flattenedVerify(parsed, publicKey, options),
  )
  return { payload: encode(verified.payload) }
}

async function sign({ with: library, key, payload, form }) {
  if (library === 'noble') return { signature: nobleSign(key, payload, form) }
  if (library === 'node') return { signature: nodeSign(key, payload, form) }
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

// One message in general JSON with a signature by each of two keys.
async function sign_together({ with: library, keys, payload }) {
  if (library === 'node') {
    const signatures = keys.map((key) => JSON.parse(nodeSign(key, payload, 'general')).signatures[0])
    return { signature: JSON.stringify({ payload, signatures }) }
  }
  const secrets = await Promise.all(keys.map((key) => importKey(key)))
  return known(async () => {
    const signer = new jose.GeneralSign(decode(payload))
    keys.forEach((key, place) => signer.addSignature(secrets[place]).setProtectedHeader({ alg: key.alg, kid: key.kid }))
    return { signature: JSON.stringify(await signer.sign()) }
  })
}

function versions() {
  const of = (name) => JSON.parse(readFileSync(`${modules}/node_modules/${name}/package.json`)).version
  return { jose: of('jose'), hpke: of('hpke'), '@panva/hpke-noble': of('@panva/hpke-noble'), '@noble/post-quantum': of('@noble/post-quantum'), node: process.versions.node, openssl: process.versions.openssl }
}

const operations = { versions, generate, open, seal, verify, sign, sign_together, encapsulate, decapsulate, same_public_key: samePublicKey }

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
