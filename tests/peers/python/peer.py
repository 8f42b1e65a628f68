"""The Python side of the checks against other programs: one JSON request a line in, one JSON answer a line out.

    {"op": "open", "with": "jwcrypto", "key": {JWK}, "message": "..."}  ->  {"ok": true, "plaintext": "..."}
                                                                        or  {"ok": false, "unknown": "HPKE-9-KE"}
                                                                        or  {"ok": false, "refused": "..."}

`with` is a library: `cryptography` (through formats.py) or `jwcrypto`. Bytes are base64url."""

import base64, hmac, json, os, pathlib, sys, traceback
from importlib.metadata import version

import formats
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_unwrap_with_padding, aes_key_wrap, aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat, load_der_private_key
from formats import Unknown, decode, encode
from jwcrypto import jwa, jwe, jwk, jws

GOLDEN = pathlib.Path(__file__).resolve().parents[3] / "schema/golden/formats"
GOLDEN_CONTEXT = {"app": "golden", "table": "people"}


def versions(request):
    return {name: version(name) for name in ("cryptography", "jwcrypto")}


def vault(request):
    return {"keys": formats.open_vault(request["directory"], key_file=request["key_file"])}


def private(request):
    return {"key": formats.private(request["key"], decode(request["seed"]))}


def pem(request):
    """A private key as PKCS#8."""
    return {"pem": formats.private_pem(request["key"])}


def same_public_key(request):
    return {"same": formats.same_public_key(request["key"], request["pem"])}


def golden(request):
    """Opens all of schema/golden/formats; answers with the names of what was opened."""
    keys = {}
    for kid, held in formats.open_vault(GOLDEN / "vault-v1", passphrase=b"golden passphrase").items():
        algorithm, public_key = held["algorithm"], held["public_key"]
        if algorithm == "A256KW+A256GCM":
            public = {"kty": "oct", "alg": "A256KW"}
        elif algorithm == "Ed25519":
            public = {"kty": "OKP", "alg": "EdDSA", "crv": "Ed25519", "x": public_key}
        else:
            public = {"kty": "AKP", "alg": algorithm, "pub": public_key}
        keys[algorithm] = formats.private({**public, "kid": kid}, decode(held["seed"]))
    read = lambda name: (GOLDEN / name).read_text()
    plaintext = b"what was sealed once is opened for ever"
    for name in ("a256kw-v1.jwe", "hpke-9-ke-v1.jwe", "two-recipients-v1.json"):
        for key in (keys["A256KW+A256GCM"], keys["HPKE-9-KE"]):
            if name.startswith("two") or name.startswith(key["alg"].lower()):
                assert formats.open_jwe(key, read(name), GOLDEN_CONTEXT)[1] == plaintext, name
    header, data_key = formats.open_jwe(keys["A256KW+A256GCM"], read("data-key-v1.jwe"), GOLDEN_CONTEXT)
    assert (header["typ"], len(data_key)) == ("freehold-data-key", 32)
    for name in ("two-signatures-v1.json", "composite-v1.json"):
        for algorithm in ("Ed25519", "ML-DSA-65"):
            assert formats.verify_jws(keys[algorithm], read(name), None, GOLDEN_CONTEXT) == plaintext, name
    file = (GOLDEN / "file-v1.fhf1").read_bytes()
    for algorithm in ("A256KW+A256GCM", "HPKE-9-KE"):
        assert formats.open_file(keys[algorithm], file, GOLDEN_CONTEXT) == bytes(i % 251 for i in range(20_000))
    return {"vault": sorted(keys)}


def known_to_jwcrypto(*names):
    for name in names:
        if name not in jwa.JWA.algorithms_registry:
            raise Unknown(name)


def jwcrypto_key(key):
    known_to_jwcrypto(key["alg"])
    return jwk.JWK(**key)


def open_message(request):
    key, message = request["key"], request["message"]
    if request["with"] == "jwcrypto":
        enc = request["enc"] or "none"
        known_to_jwcrypto(enc)
        opened = jwe.JWE(algs=[key["alg"], enc])
        opened.deserialize(message, key=jwcrypto_key(key))
        return {"plaintext": encode(opened.payload)}
    return {"plaintext": encode(formats.open_jwe(key, message, request["context"])[1])}


def seal_message(request):
    key, plaintext, form = request["key"], decode(request["plaintext"]), request["form"]
    if request["with"] != "jwcrypto":
        return {"message": formats.seal_jwe(key, request["enc"], plaintext, form, request["context"])}
    enc = request["enc"] or "none"
    known_to_jwcrypto(enc)
    key_of = jwcrypto_key(key)
    protected, own = {"enc": enc}, {"alg": key["alg"], "kid": key["kid"]}
    if form != "general":
        protected, own = {**own, **protected}, None
    sealed = jwe.JWE(plaintext, json.dumps(protected), algs=[key["alg"], enc])
    sealed.add_recipient(key_of, json.dumps(own) if own else None)
    text = sealed.serialize(compact=form == "compact")
    if form == "general" and "recipients" not in (parts := json.loads(text)):
        recipient = {name: parts.pop(name) for name in ("header", "encrypted_key") if name in parts}
        text = json.dumps({**parts, "recipients": [recipient]})
    return {"message": text}


def verify_signature(request):
    key, message, payload = request["key"], request["signature"], request.get("payload")
    payload = None if payload is None else decode(payload)
    if request["with"] != "jwcrypto":
        return {"payload": encode(formats.verify_jws(key, message, payload, request["context"]))}
    signed = jws.JWS()
    signed.allowed_algs = [key["alg"]]
    signed.deserialize(message)
    signed.verify(jwcrypto_key(key), detached_payload=payload)
    return {"payload": encode(signed.payload if payload is None else payload)}


def make_signature(request):
    key, payload, form = request["key"], decode(request["payload"]), request["form"]
    if request["with"] != "jwcrypto":
        return {"signature": formats.sign_jws(key, payload, form, request["context"])}
    signed = jws.JWS(payload)
    signed.allowed_algs = [key["alg"]]
    signed.add_signature(jwcrypto_key(key), None, json.dumps({"alg": key["alg"], "kid": key["kid"]}))
    if form == "detached":
        signed.detach_payload()
    text = signed.serialize(compact=form in ("compact", "detached"))
    if form == "general" and "signatures" not in (parts := json.loads(text)):
        signature = {name: parts.pop(name) for name in ("protected", "signature")}
        text = json.dumps({**parts, "signatures": [signature]})
    return {"signature": text}


def open_file(request):
    return {"plaintext": encode(formats.open_file(request["key"], decode(request["file"]), request["context"]))}


def seal_file(request):
    return {"file": encode(formats.seal_file(request["key"], decode(request["plaintext"]), request["context"]))}


def mac(request):
    key = request["key"]
    hash = {"HS256": "sha256", "HS384": "sha384", "HS512": "sha512"}[key["alg"]]
    return {"tag": encode(hmac.digest(decode(key["k"]), decode(request["payload"]), hash))}


def agree(request):
    """Agrees with the holder of a public key: the secret, and the public key of this side."""
    ours = formats.public_key(request["key"])
    ephemeral = formats.generate_like(ours)
    return {"secret": encode(formats.exchange(ephemeral, ours)), "public_key": encode(formats.raw_public(ephemeral.public_key()))}


def encapsulate(request):
    secret, ciphertext = formats.public_key(request["key"]).encapsulate()
    return {"secret": encode(secret), "ciphertext": encode(ciphertext)}


def decapsulate(request):
    return {"secret": encode(formats.secret_key(request["key"]).decapsulate(decode(request["ciphertext"])))}


def derive(request):
    hash = {"HKDF-SHA-256": hashes.SHA256(), "HKDF-SHA-512": hashes.SHA512()}[request["algorithm"]]
    kdf = HKDF(hash, request["bytes"], decode(request["salt"]), decode(request["info"]))
    return {"derived": encode(kdf.derive(decode(request["key"]["k"])))}


def wrap(request):
    key, plaintext = request["key"], decode(request["plaintext"])
    if key["kty"] == "oct":
        return {"wrapped": encode(aes_key_wrap(decode(key["k"]), plaintext))}
    return {"wrapped": encode(formats.public_key(key).encrypt(plaintext, formats.oaep()))}


def unwrap(request):
    key, wrapped = request["key"], decode(request["wrapped"])
    if key["kty"] == "oct":
        return {"plaintext": encode(aes_key_unwrap(decode(key["k"]), wrapped))}
    return {"plaintext": encode(formats.secret_key(key).decrypt(wrapped, formats.oaep()))}


def sign_digest(request):
    return {"signature": encode(formats.sign(request["key"], decode(request["digest"]), digest=True))}


def verify_digest(request):
    formats.verify(request["key"], decode(request["digest"]), decode(request["signature"]), digest=True)
    return {}


def sign_together(request):
    """One message in general JSON with a signature by each of two keys."""
    keys, payload = request["keys"], decode(request["payload"])
    if request["with"] != "jwcrypto":
        signed = [json.loads(formats.sign_jws(key, payload, "general", request["context"])) for key in keys]
        return {"signature": json.dumps({**signed[0], "signatures": [one["signatures"][0] for one in signed]})}
    signed = jws.JWS(payload)
    signed.allowed_algs = [key["alg"] for key in keys]
    for key in keys:
        signed.add_signature(jwcrypto_key(key), None, json.dumps({"alg": key["alg"], "kid": key["kid"]}))
    return {"signature": signed.serialize()}


def transit(request):
    """What a transit engine makes of a key: nonce, ciphertext and tag, behind the number of the version; of RSA what OAEP makes."""
    key, nonce = request["key"], os.urandom(12)
    if request["algorithm"].startswith("RSA-OAEP"):
        sealed = formats.secret_key(key).public_key().encrypt(decode(request["plaintext"]), formats.oaep())
        return {"ciphertext": f"vault:v{request['version']}:{base64.b64encode(sealed).decode()}"}
    secret = decode(key["k"])
    if "derivation" in request:
        secret = HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=decode(request["derivation"])).derive(secret)
    ciphers = {"A256GCM": AESGCM, "HKDF-SHA-256": AESGCM, "ChaCha20-Poly1305": ChaCha20Poly1305}
    seal = ciphers[request["algorithm"]](secret)
    associated = decode(request["associated"]) or None
    sealed = nonce + seal.encrypt(nonce, decode(request["plaintext"]), associated)
    return {"ciphertext": f"vault:v{request['version']}:{base64.b64encode(sealed).decode()}"}


def material(key, form):
    """A private key in one of the forms in which keys travel."""
    if form == "jwk":
        return json.dumps({name: value for name, value in key.items() if value is not None}).encode()
    if form == "pkcs8":
        if key["kty"] == "oct":
            raise Unknown("PKCS#8 of a symmetric key")
        return formats.secret_key(key).private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    return decode(key[{"oct": "k", "EC": "d", "OKP": "d", "AKP": "priv"}[key["kty"]]])


def bring(request):
    """Wraps a private key under the import key that was offered."""
    offered, secret = request["offered"], material(request["key"], request["form"])
    if request["wrapping"] == "hpke":
        return {"jwe": formats.seal_jwe(offered, None, secret, "compact", {})}
    kek = os.urandom(32)
    return {"wrapped": encode(formats.public_key(offered).encrypt(kek, formats.oaep()) + aes_key_wrap_with_padding(kek, secret))}


def taken(request):
    """Whether what was taken out is the private key it should be."""
    key, recipient, form = request["key"], request["recipient"], request["form"]
    if "jwe" in request:
        header, secret = formats.open_jwe(recipient, request["jwe"], {})
        assert (header["typ"], header["cty"]) == ("freehold-key", {"raw": "octet-stream", "pkcs8": "pkcs8", "jwk": "jwk+json"}[form])
    else:
        private, wrapped = formats.secret_key(recipient), decode(request["wrapped"])
        size = private.key_size // 8
        secret = aes_key_unwrap_with_padding(private.decrypt(wrapped[:size], formats.oaep()), wrapped[size:])
    if form == "jwk":
        members = ("kty", "crv", "k", "x", "y", "n", "e", "d", "p", "q", "dp", "dq", "qi", "pub", "priv")
        parsed = json.loads(secret)
        return {"same": all(parsed.get(name) == key.get(name) for name in members)}
    if form == "pkcs8":
        kind = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        public = load_der_private_key(secret, None).public_key().public_bytes(*kind)
        return {"same": public == formats.public_key(key).public_bytes(*kind)}
    return {"same": secret == material(key, "raw")}


def certified(request):
    """Whether a request or a self-signed certificate is signed by its own key, and that is this one; and the names in it."""
    pem, kind = request["pem"].encode(), (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    ours = formats.public_key(request["key"])
    if request["kind"] == "request":
        it = x509.load_pem_x509_csr(pem)
        assert it.is_signature_valid, "the signature"
    else:
        it = x509.load_pem_x509_certificate(pem)
        it.verify_directly_issued_by(it)
        assert it.extensions.get_extension_for_class(x509.BasicConstraints).value.ca is False
        assert (it.not_valid_after_utc - it.not_valid_before_utc).days == 30
    assert it.public_key().public_bytes(*kind) == ours.public_bytes(*kind), "another key"
    names = it.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {"subject": it.subject.rfc4514_string(), "dns": names.get_values_for_type(x509.DNSName)}


OPERATIONS = {
    "versions": versions,
    "vault": vault,
    "private": private,
    "pem": pem,
    "same_public_key": same_public_key,
    "mac": mac,
    "agree": agree,
    "encapsulate": encapsulate,
    "decapsulate": decapsulate,
    "derive": derive,
    "wrap": wrap,
    "unwrap": unwrap,
    "sign_digest": sign_digest,
    "verify_digest": verify_digest,
    "golden": golden,
    "open": open_message,
    "seal": seal_message,
    "verify": verify_signature,
    "sign": make_signature,
    "sign_together": sign_together,
    "transit": transit,
    "bring": bring,
    "taken": taken,
    "certified": certified,
    "open_file": open_file,
    "seal_file": seal_file,
}

for line in sys.stdin:
    request = json.loads(line)
    try:
        answer = {"ok": True, **OPERATIONS[request["op"]](request)}
    except (Unknown, UnsupportedAlgorithm) as unknown:
        answer = {"ok": False, "unknown": str(unknown)}
    except Exception as error:
        answer = {"ok": False, "refused": "".join(traceback.format_exception(error)[-3:])}
    print(json.dumps(answer), flush=True)
