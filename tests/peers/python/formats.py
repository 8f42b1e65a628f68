"""Our formats, written and read from the text of docs/formats.md alone, without a line of our code: Python cryptography (OpenSSL) and
argon2-cffi do the work. Keys are JSON Web Keys; a private one has the member its standard gives it (`k`, `d`, `priv`)."""

import base64, hashlib, hmac, json, os, pathlib, struct

from argon2.low_level import Type, hash_secret_raw
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.bindings._rust import openssl as rust_openssl
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, mlkem, padding, rsa, utils, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

COBBLESTONE = "C2SP-Cobblestone-256"
SPECIFICATION = "1225032687556092e30c845edae8bac8d26cae09"


class Unknown(Exception):
    """The library does not have this algorithm."""


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def compact_json(value):
    return json.dumps(value, separators=(",", ":")).encode()


def labelled(label, *parts):
    return hashlib.sha256(b"".join(struct.pack(">Q", len(part)) + part for part in (label.encode(), *parts))).digest()


# The encryption context.


def canonical(context):
    out = b"freehold-context-v1"
    for name, value in sorted((name.encode(), value.encode()) for name, value in context.items()):
        out += struct.pack(">I", len(name)) + name + struct.pack(">I", len(value)) + value
    return out


def commit(context):
    salt = os.urandom(16)
    return {"ctx": encode(salt + hashlib.sha256(salt + canonical(context)).digest())} if context else {}


def check_context(ctx, context):
    if not context:
        assert ctx is None, "a context where none was expected"
        return
    salt = decode(ctx)[:16]
    assert decode(ctx) == salt + hashlib.sha256(salt + canonical(context)).digest(), "another context"


# The file vault.


def open_vault(directory, passphrase=None, key_file=None):
    """Every key version: its algorithm, seed and public key."""
    directory = pathlib.Path(directory)
    header = json.loads((directory / "vault.json").read_text())
    kdf, vault = header["kdf"], decode(header["vault"])
    salt = decode(kdf["salt"])
    if kdf["name"] == "argon2id":
        numbers = struct.pack(">III", kdf["memory_kib"], kdf["passes"], kdf["lanes"])
        bound = labelled("argon2id", numbers, salt)
        opening = hash_secret_raw(passphrase, salt, kdf["passes"], kdf["memory_kib"], kdf["lanes"], 32, Type.ID)
    else:
        assert kdf["name"] == "key-file"
        bound = labelled("key-file", salt)
        opening = hmac.digest(pathlib.Path(key_file).read_bytes(), b"freehold-vault-key-file-v1" + salt, "sha256")
    root = AESGCM(opening).decrypt(decode(header["nonce"]), decode(header["sealed_root"]), header["format"].encode() + vault + bound)
    keys = {}
    for path in sorted(directory.glob("key_*.json")):
        key = json.loads(path.read_text())
        public_key = decode(key.get("public_key", ""))
        beside = labelled(key["format"], key["version"].encode(), key["algorithm"].encode(), decode(key["fingerprint"]), public_key)
        seed = AESGCM(root).decrypt(decode(key["nonce"]), decode(key["sealed"]), b"freehold-vault-value-v1" + vault + beside)
        label = "freehold-fingerprint-v1"
        identity = public_key or hmac.digest(seed, label.encode(), "sha256")
        assert decode(key["fingerprint"]) == labelled(label, key["algorithm"].encode(), identity), "another fingerprint"
        keys[key["version"]] = {"algorithm": key["algorithm"], "seed": encode(seed), "public_key": encode(public_key)}
    return keys


# Keys.

CURVES = {"P-256": ec.SECP256R1(), "P-384": ec.SECP384R1()}
ML_DSA = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    "ML-DSA-87": (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}
ML_KEM = {
    "ML-KEM-768": (mlkem.MLKEM768PrivateKey, mlkem.MLKEM768PublicKey),
    "ML-KEM-1024": (mlkem.MLKEM1024PrivateKey, mlkem.MLKEM1024PublicKey),
}
OKP = {
    "Ed25519": (ed25519.Ed25519PrivateKey, ed25519.Ed25519PublicKey),
    "X25519": (x25519.X25519PrivateKey, x25519.X25519PublicKey),
}


def private(jwk, seed):
    """The private key of a public one, from what the vault keeps."""
    if jwk["kty"] == "RSA":
        numbers = serialization.load_der_private_key(seed, None).private_numbers()
        of_rsa = {"d": numbers.d, "p": numbers.p, "q": numbers.q, "dp": numbers.dmp1, "dq": numbers.dmq1, "qi": numbers.iqmp}
        assert number(jwk["n"]) == numbers.public_numbers.n and number(jwk["e"]) == numbers.public_numbers.e, "another public key"
        return {**jwk, **{name: encode_number(value) for name, value in of_rsa.items()}}
    member = {"oct": "k", "OKP": "d", "EC": "d", "AKP": "priv"}[jwk["kty"]]
    return {**jwk, member: encode(seed)}


def number(text):
    return int.from_bytes(decode(text), "big")


def encode_number(value):
    return encode(value.to_bytes((value.bit_length() + 7) // 8, "big"))


def public_key(key):
    if key["kty"] == "RSA":
        return rsa.RSAPublicNumbers(number(key["e"]), number(key["n"])).public_key()
    if key["kty"] == "EC":
        return ec.EllipticCurvePublicNumbers(number(key["x"]), number(key["y"]), CURVES[key["crv"]]).public_key()
    if key["kty"] == "OKP":
        return OKP[key["crv"]][1].from_public_bytes(decode(key["x"]))
    for known in (ML_DSA, ML_KEM):
        if key["alg"] in known:
            return known[key["alg"]][1].from_public_bytes(decode(key["pub"]))
    raise Unknown(key["alg"])


def secret_key(key):
    if key["kty"] == "RSA":
        numbers = [number(key[name]) for name in ("p", "q", "d", "dp", "dq", "qi")]
        return rsa.RSAPrivateNumbers(*numbers, rsa.RSAPublicNumbers(number(key["e"]), number(key["n"]))).private_key()
    if key["kty"] == "EC":
        return ec.derive_private_key(number(key["d"]), CURVES[key["crv"]])
    if key["kty"] == "OKP":
        return OKP[key["crv"]][0].from_private_bytes(decode(key["d"]))
    for known in (ML_DSA, ML_KEM):
        if key["alg"] in known:
            return known[key["alg"]][0].from_seed_bytes(decode(key["priv"]))
    raise Unknown(key["alg"])


def private_pem(key):
    kind = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return secret_key(key).private_bytes(*kind).decode()


def same_public_key(key, pem):
    """Whether PEM and JWK are of one key."""
    kind = (serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    of_jwk = public_key(key).public_bytes(*kind)
    return serialization.load_pem_public_key(pem.encode()).public_bytes(*kind) == of_jwk


# Agreement.


def exchange(secret, public):
    return secret.exchange(ec.ECDH(), public) if isinstance(public, ec.EllipticCurvePublicKey) else secret.exchange(public)


def generate_like(public):
    if isinstance(public, ec.EllipticCurvePublicKey):
        return ec.generate_private_key(public.curve)
    return x25519.X25519PrivateKey.generate()


def raw_public(public):
    if isinstance(public, ec.EllipticCurvePublicKey):
        return public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    return public.public_bytes_raw()


def public_jwk(public):
    raw = raw_public(public)
    if len(raw) == 32:
        return {"kty": "OKP", "crv": "X25519", "x": encode(raw)}
    half = len(raw) // 2
    return {"kty": "EC", "crv": "P-256" if half == 32 else "P-384", "x": encode(raw[1 : 1 + half]), "y": encode(raw[1 + half :])}


def concat_kdf(agreed, alg, apu, apv):
    """RFC 7518, section 4.6.2, for 256 bits: one round of SHA-256."""
    assert len(agreed) in (32, 48)
    sized = lambda data: struct.pack(">I", len(data)) + data
    return hashlib.sha256(struct.pack(">I", 1) + agreed + sized(alg.encode()) + sized(apu) + sized(apv) + struct.pack(">I", 256)).digest()


# HPKE.


def hybrid_private(key):
    """MLKEM768-X25519 from its seed (draft-irtf-cfrg-concrete-hybrid-kems)."""
    expanded = hashlib.shake_256(decode(key["priv"])).digest(96)
    secret = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    return hpke.MLKEM768X25519PrivateKey(secret, x25519.X25519PrivateKey.from_private_bytes(expanded[64:]))


def hybrid_public(key):
    public = decode(key["pub"])
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:1184]), x25519.X25519PublicKey.from_public_bytes(public[1184:])
    )


CLASSICAL_SUITE = hpke.Suite(hpke.KEM.X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.CHACHA20_POLY1305)
HYBRID_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.SHAKE256, hpke.AEAD.AES_256_GCM)
# Each HPKE algorithm: suite, how its keys are read, bytes of what is encapsulated, the draft.
HPKE = {
    "HPKE-4": (CLASSICAL_SUITE, secret_key, public_key, 32, "draft-ietf-jose-hpke-encrypt-20"),
    "HPKE-9": (HYBRID_SUITE, hybrid_private, hybrid_public, 1120, "draft-ietf-jose-hpke-pq-pqt-01"),
}


def recipient_structure(enc):
    return b"JOSE-HPKE rcpt\xff" + enc.encode() + b"\xff"


# Messages.


def wrap(key, content_key, enc):
    """The members a recipient's header gets, and the encrypted content key."""
    alg = key["alg"]
    if alg == "A256KW":
        return {}, aes_key_wrap(decode(key["k"]), content_key)
    if alg == "RSA-OAEP-256":
        return {}, public_key(key).encrypt(content_key, oaep())
    if alg == "ECDH-ES+A256KW":
        ours = public_key(key)
        ephemeral = generate_like(ours)
        kek = concat_kdf(exchange(ephemeral, ours), alg, b"", b"")
        return {"epk": public_jwk(ephemeral.public_key())}, aes_key_wrap(kek, content_key)
    if alg.removesuffix("-KE") in HPKE:
        suite, _, public, length, draft = HPKE[alg.removesuffix("-KE")]
        sealed = suite.encrypt(content_key, public(key), recipient_structure(enc))
        return {"ek": encode(sealed[:length]), "draft": draft}, sealed[length:]
    raise Unknown(alg)


def unwrap(key, header, encrypted_key, enc):
    alg = header["alg"]
    assert alg == key["alg"], f"a message with {alg} for a key of {key['alg']}"
    assert ("ek" in header, "epk" in header) == (alg.startswith("HPKE-"), alg.startswith("ECDH-"))
    if alg == "A256KW":
        return aes_key_unwrap(decode(key["k"]), encrypted_key)
    if alg == "RSA-OAEP-256":
        return secret_key(key).decrypt(encrypted_key, oaep())
    if alg == "ECDH-ES+A256KW":
        agreed = exchange(secret_key(key), public_key(header["epk"]))
        return aes_key_unwrap(concat_kdf(agreed, alg, decode(header.get("apu", "")), decode(header.get("apv", ""))), encrypted_key)
    if alg.removesuffix("-KE") in HPKE:
        suite, secret, _, length, _ = HPKE[alg.removesuffix("-KE")]
        assert len(decode(header["ek"])) == length
        return suite.decrypt(decode(header["ek"]) + encrypted_key, secret(key), recipient_structure(enc))
    raise Unknown(alg)


def oaep():
    return padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


CONTENT = {"A256GCM": AESGCM, "C20P": ChaCha20Poly1305}


def open_jwe(key, message, context):
    """Header and plaintext of a message in any form."""
    if message.startswith("{"):
        message = json.loads(message)
        protected = message["protected"]
        recipients = message.get("recipients") or [{"encrypted_key": message.get("encrypted_key", "")}]
        iv, ciphertext, tag = (message.get(name, "") for name in ("iv", "ciphertext", "tag"))
    else:
        protected, encrypted_key, iv, ciphertext, tag = message.split(".")
        recipients = [{"encrypted_key": encrypted_key}]
    header = json.loads(decode(protected))
    check_context(header.get("ctx"), context)
    merged = [({**header, **recipient.get("header", {})}, decode(recipient.get("encrypted_key", ""))) for recipient in recipients]
    mine, encrypted_key = next(each for each in merged if each[0]["kid"] == key["kid"])
    sealed, associated = decode(ciphertext) + decode(tag), protected.encode()
    if mine["alg"] in HPKE:
        assert "enc" not in header and iv == tag == "" and len(encrypted_key) == HPKE[mine["alg"]][3]
        suite, secret = HPKE[mine["alg"]][:2]
        return header, rust_openssl.hpke._decrypt_with_aad(suite, encrypted_key + sealed, secret(key), b"", associated)
    if mine["alg"] == "dir":
        assert encrypted_key == b""
        content_key = decode(key["k"])
    else:
        content_key = unwrap(key, mine, encrypted_key, header["enc"])
    return header, CONTENT[header["enc"]](content_key).decrypt(decode(iv), sealed, associated)


def seal_jwe(key, enc, plaintext, form, context):
    content_key, iv = os.urandom(32), os.urandom(12)
    named = {"alg": key["alg"], "kid": key["kid"]}
    if key["alg"] in HPKE:
        suite, _, public, length, draft = HPKE[key["alg"]]
        protected = encode(compact_json({**named, "draft": draft, **commit(context)}))
        sealed = rust_openssl.hpke._encrypt_with_aad(suite, plaintext, public(key), b"", protected.encode())
        parts = {"protected": protected, "encrypted_key": encode(sealed[:length]), "ciphertext": encode(sealed[length:])}
        return in_form(form, parts, {})
    if key["alg"] == "dir":
        members, encrypted_key, content_key = {}, b"", decode(key["k"])
    else:
        members, encrypted_key = wrap(key, content_key, enc)
    header = {**named, "enc": enc, **members, **commit(context)}
    own = {name: header.pop(name) for name in ("alg", "kid", "ek", "epk") if name in header} if form == "general" else {}
    protected = encode(compact_json(header))
    sealed = CONTENT[enc](content_key).encrypt(iv, plaintext, protected.encode())
    parts = {"protected": protected, "encrypted_key": encode(encrypted_key), "iv": encode(iv), "ciphertext": encode(sealed[:-16]), "tag": encode(sealed[-16:])}
    return in_form(form, parts, own)


def in_form(form, parts, own):
    if form == "compact":
        return ".".join(parts.get(name, "") for name in ("protected", "encrypted_key", "iv", "ciphertext", "tag"))
    parts = {name: value for name, value in parts.items() if value or name == "ciphertext"}
    if form == "general":
        recipient = {"header": own} if own else {}
        if "encrypted_key" in parts:
            recipient["encrypted_key"] = parts.pop("encrypted_key")
        parts["recipients"] = [recipient]
    return json.dumps(parts)


# Signatures.

HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}


def pss(hash):
    return padding.PSS(padding.MGF1(hash), hash.digest_size)


def sign(key, signed, digest=False):
    """`digest`: what is signed is a digest, or the external mu of ML-DSA."""
    alg = key["alg"]
    hash = HASHES.get(alg[-3:])
    what = (lambda: utils.Prehashed(hash)) if digest else (lambda: hash)
    if alg == "EdDSA":
        return secret_key(key).sign(signed)
    if alg in ML_DSA:
        return secret_key(key).sign_mu(signed) if digest else secret_key(key).sign(signed)
    if alg.startswith("PS"):
        return secret_key(key).sign(signed, pss(hash), what())
    if alg.startswith("ES"):
        half = (CURVES[key["crv"]].key_size + 7) // 8
        return b"".join(part.to_bytes(half, "big") for part in utils.decode_dss_signature(secret_key(key).sign(signed, ec.ECDSA(what()))))
    raise Unknown(alg)


def verify(key, signed, signature, digest=False):
    """Raises InvalidSignature."""
    alg = key["alg"]
    hash = HASHES.get(alg[-3:])
    what = (lambda: utils.Prehashed(hash)) if digest else (lambda: hash)
    if alg == "EdDSA":
        public_key(key).verify(signature, signed)
    elif alg in ML_DSA:
        public_key(key).verify_mu(signature, signed) if digest else public_key(key).verify(signature, signed)
    elif alg.startswith("PS"):
        public_key(key).verify(signature, signed, pss(hash), what())
    elif alg.startswith("ES"):
        half = len(signature) // 2
        numbers = [int.from_bytes(part, "big") for part in (signature[:half], signature[half:])]
        public_key(key).verify(utils.encode_dss_signature(*numbers), signed, ec.ECDSA(what()))
    else:
        raise Unknown(alg)


def verify_jws(key, message, payload, context):
    """The payload of a genuine signature by this key; `payload` is the one of a detached signature."""
    if message.startswith("{"):
        message = json.loads(message)
        attached, signatures = message.get("payload", ""), message.get("signatures") or [message]
    else:
        protected, attached, signature = message.split(".")
        signatures = [{"protected": protected, "signature": signature}]
    if payload is not None:
        assert attached == "", "a detached signature with a payload"
        attached = encode(payload)
    for signature in signatures:
        header = json.loads(decode(signature["protected"]))
        if header["kid"] == key["kid"]:
            assert header["alg"] == key["alg"]
            check_context(header.get("ctx"), context)
            verify(key, f"{signature['protected']}.{attached}".encode(), decode(signature["signature"]))
            return decode(attached)
    raise InvalidSignature("no signature by this key")


def sign_jws(key, payload, form, context):
    protected = encode(compact_json({"alg": key["alg"], "kid": key["kid"], **commit(context)}))
    attached = encode(payload)
    signature = encode(sign(key, f"{protected}.{attached}".encode()))
    if form in ("compact", "detached"):
        return f"{protected}.{attached if form == 'compact' else ''}.{signature}"
    if form == "flattened":
        return json.dumps({"payload": attached, "protected": protected, "signature": signature})
    return json.dumps({"payload": attached, "signatures": [{"protected": protected, "signature": signature}]})


# Files.


def file_keys(content_key):
    expand = lambda info: HKDFExpand(hashes.SHA256(), 32, info).derive(content_key)
    return expand(b"freehold-file-v1 body"), expand(b"freehold-file-v1 header")


def file_mac(header_key, length, fixed, block):
    covered = b"FHF1" + struct.pack(">I", length) + b"".join(struct.pack(">Q", len(part)) + part for part in (fixed, block))
    return hmac.digest(header_key, covered, "sha256")


def open_file(key, data, context):
    assert data[:4] == b"FHF1"
    (length,) = struct.unpack(">I", data[4:8])
    assert (8 + length) % 4096 == 0
    header = json.loads(data[8 : 8 + length])
    fixed, block = decode(header["fixed"]), decode(header["recipients"])
    said = json.loads(fixed)
    assert (said["format"], said["enc"], said["spec"]) == ("FHF1", COBBLESTONE, SPECIFICATION)
    check_context(said.get("ctx"), context)
    recipient = next(each for each in json.loads(block)["recipients"] if each["header"]["kid"] == key["kid"])
    content_key = unwrap(key, recipient["header"], decode(recipient["encrypted_key"]), COBBLESTONE)
    body_key, header_key = file_keys(content_key)
    assert decode(header["mac"]) == file_mac(header_key, length, fixed, block), "another mac"
    decryptor = Cobblestone256Decryptor(body_key, hashlib.sha256(b"FHF1" + fixed).digest())
    return decryptor.update(data[8 + length :]) + decryptor.finalize()


def seal_file(key, plaintext, context):
    content_key = os.urandom(32)
    members, encrypted_key = wrap(key, content_key, COBBLESTONE)
    identity = "fil_" + "0123456789abcdefghjkmnpqrstvwxyz"[os.urandom(1)[0] % 8] + "".join("0123456789abcdefghjkmnpqrstvwxyz"[byte % 32] for byte in os.urandom(25))
    fixed = compact_json({"format": "FHF1", "file": identity, "enc": COBBLESTONE, "spec": SPECIFICATION, **commit(context)})
    header = {"alg": key["alg"], "kid": key["kid"], **members}
    block = compact_json({"recipients": [{"header": header, "encrypted_key": encode(encrypted_key)}]})
    body_key, header_key = file_keys(content_key)
    whole = lambda mac: compact_json({"fixed": encode(fixed), "recipients": encode(block), "mac": encode(mac)})
    length = (8 + len(whole(bytes(32))) + 4095) // 4096 * 4096 - 8
    text = whole(file_mac(header_key, length, fixed, block)).ljust(length)
    encryptor = Cobblestone256Encryptor(body_key, hashlib.sha256(b"FHF1" + fixed).digest())
    return b"FHF1" + struct.pack(">I", length) + text + encryptor.update(plaintext) + encryptor.finalize()
