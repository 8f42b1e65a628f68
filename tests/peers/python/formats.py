"""Our formats, written and read from the text of docs/formats.md alone, without a line of our code: Python cryptography (OpenSSL) and
argon2-cffi do the work. Keys are JSON Web Keys; a private one has the member its standard gives it (`k`, `d`, `priv`)."""

import base64, hashlib, hmac, json, os, pathlib, struct

from argon2.low_level import Type, hash_secret_raw
from cryptography.cobblestone import Cobblestone256Decryptor, Cobblestone256Encryptor
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, hpke, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap, aes_key_wrap

COBBLESTONE = "C2SP-Cobblestone-256"
SPECIFICATION = "1225032687556092e30c845edae8bac8d26cae09"
DRAFT = "draft-ietf-jose-hpke-pq-pqt-01"


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

ML_DSA = {
    "ML-DSA-44": (mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    "ML-DSA-65": (mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    "ML-DSA-87": (mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
}


def private(jwk, seed):
    """The private key of a public one. That they belong together is checked by what is done with them."""
    member = {"oct": "k", "OKP": "d", "AKP": "priv"}[jwk["kty"]]
    return {**jwk, member: encode(seed)}


def private_pem(key):
    secret = ed25519.Ed25519PrivateKey.from_private_bytes(decode(key["d"]))
    return secret.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()).decode()


def hybrid_private(seed):
    """MLKEM768-X25519 from its seed (draft-irtf-cfrg-concrete-hybrid-kems)."""
    expanded = hashlib.shake_256(seed).digest(96)
    secret = mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64])
    return hpke.MLKEM768X25519PrivateKey(secret, x25519.X25519PrivateKey.from_private_bytes(expanded[64:]))


def hybrid_public(public):
    return hpke.MLKEM768X25519PublicKey(
        mlkem.MLKEM768PublicKey.from_public_bytes(public[:1184]), x25519.X25519PublicKey.from_public_bytes(public[1184:])
    )


# Each HPKE algorithm: suite, how its keys are read, bytes of what is encapsulated.
HPKE = {
    "HPKE-9-KE": (
        hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.SHAKE256, hpke.AEAD.AES_256_GCM),
        lambda jwk: hybrid_private(decode(jwk["priv"])),
        lambda jwk: hybrid_public(decode(jwk["pub"])),
        1120,
    ),
}


def recipient_structure(enc):
    return b"JOSE-HPKE rcpt\xff" + enc.encode() + b"\xff"


# Messages.


def wrap(key, content_key, enc):
    """The members a recipient's header gets, and the encrypted content key."""
    alg = key["alg"]
    if alg == "A256KW":
        return {}, aes_key_wrap(decode(key["k"]), content_key)
    if alg in HPKE:
        suite, _, public, length = HPKE[alg]
        sealed = suite.encrypt(content_key, public(key), recipient_structure(enc))
        return {"ek": encode(sealed[:length]), "draft": DRAFT}, sealed[length:]
    raise Unknown(alg)


def unwrap(key, header, encrypted_key, enc):
    alg = header["alg"]
    assert alg == key["alg"], f"a message with {alg} for a key of {key['alg']}"
    if alg == "A256KW":
        assert "ek" not in header
        return aes_key_unwrap(decode(key["k"]), encrypted_key)
    if alg in HPKE:
        suite, secret, _, length = HPKE[alg]
        assert len(decode(header["ek"])) == length
        return suite.decrypt(decode(header["ek"]) + encrypted_key, secret(key), recipient_structure(enc))
    raise Unknown(alg)


def open_jwe(key, message, context):
    """Header and plaintext of a message in any form."""
    if message.startswith("{"):
        message = json.loads(message)
        protected = message["protected"]
        recipients = message.get("recipients") or [{"encrypted_key": message.get("encrypted_key", "")}]
        iv, ciphertext, tag = (message[name] for name in ("iv", "ciphertext", "tag"))
    else:
        protected, encrypted_key, iv, ciphertext, tag = message.split(".")
        recipients = [{"encrypted_key": encrypted_key}]
    header = json.loads(decode(protected))
    check_context(header.get("ctx"), context)
    merged = [({**header, **recipient.get("header", {})}, decode(recipient["encrypted_key"])) for recipient in recipients]
    mine, encrypted_key = next(each for each in merged if each[0]["kid"] == key["kid"])
    content_key = unwrap(key, mine, encrypted_key, header["enc"])
    assert header["enc"] == "A256GCM"
    return header, AESGCM(content_key).decrypt(decode(iv), decode(ciphertext) + decode(tag), protected.encode())


def seal_jwe(key, plaintext, form, context):
    content_key, iv = os.urandom(32), os.urandom(12)
    members, encrypted_key = wrap(key, content_key, "A256GCM")
    header = {"alg": key["alg"], "kid": key["kid"], "enc": "A256GCM", **members, **commit(context)}
    own = {} if form != "general" else {"alg": header.pop("alg"), "kid": header.pop("kid"), **({"ek": header.pop("ek")} if "ek" in header else {})}
    protected = encode(compact_json(header))
    sealed = AESGCM(content_key).encrypt(iv, plaintext, protected.encode())
    ciphertext, tag, encrypted_key = encode(sealed[:-16]), encode(sealed[-16:]), encode(encrypted_key)
    if form == "compact":
        return ".".join((protected, encrypted_key, encode(iv), ciphertext, tag))
    content = {"protected": protected, "iv": encode(iv), "ciphertext": ciphertext, "tag": tag}
    if form == "flattened":
        return json.dumps({**content, "encrypted_key": encrypted_key})
    return json.dumps({**content, "recipients": [{"header": own, "encrypted_key": encrypted_key}]})


# Signatures.


def sign(key, signed):
    if key.get("crv") == "Ed25519":
        return ed25519.Ed25519PrivateKey.from_private_bytes(decode(key["d"])).sign(signed)
    if key["alg"] in ML_DSA:
        return ML_DSA[key["alg"]][0].from_seed_bytes(decode(key["priv"])).sign(signed)
    raise Unknown(key["alg"])


def verify(key, signed, signature):
    """Raises InvalidSignature."""
    if key.get("crv") == "Ed25519":
        ed25519.Ed25519PublicKey.from_public_bytes(decode(key["x"])).verify(signature, signed)
    elif key["alg"] in ML_DSA:
        ML_DSA[key["alg"]][1].from_public_bytes(decode(key["pub"])).verify(signature, signed)
    else:
        raise Unknown(key["alg"])


def verify_jws(key, message, payload, context):
    """The payload of a genuine signature by this key; `payload` is the one of a detached signature."""
    if message.startswith("{"):
        message = json.loads(message)
        attached, signatures = message["payload"], message.get("signatures") or [message]
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
