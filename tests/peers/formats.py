#!/usr/bin/env python3
"""Opens everything in schema/golden/formats from the text of docs/formats.md alone, without a line of Freehold's code.

    python3 -m venv /tmp/peers && /tmp/peers/bin/pip install 'cryptography>=50' argon2-cffi jwcrypto
    /tmp/peers/bin/python tests/peers/formats.py

Other implementations used: Python cryptography (OpenSSL) for AES, HPKE, ML-DSA, Cobblestone; jwcrypto for JOSE; argon2-cffi.
"""

import base64, hashlib, hmac, json, pathlib, struct

from argon2.low_level import Type, hash_secret_raw
from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.hazmat.primitives import hashes, hpke
from cryptography.hazmat.primitives.asymmetric import ed25519, mldsa, mlkem, x25519
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.keywrap import aes_key_unwrap
from jwcrypto import jwe, jwk

GOLDEN = pathlib.Path(__file__).resolve().parents[2] / "schema/golden/formats"
PLAINTEXT = b"what was sealed once is opened for ever"
CONTEXT = {"app": "golden", "table": "people"}


def decode(text):
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def encode(data):
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def labelled(label, *parts):
    return hashlib.sha256(b"".join(struct.pack(">Q", len(p)) + p for p in (label.encode(), *parts))).digest()


def check_context(ctx):
    canonical = b"freehold-context-v1"
    for name, value in sorted(CONTEXT.items()):
        for text in (name.encode(), value.encode()):
            canonical += struct.pack(">I", len(text)) + text
    salt = decode(ctx)[:16]
    assert decode(ctx) == salt + hashlib.sha256(salt + canonical).digest(), "context"


def open_vault(directory, passphrase):
    header = json.loads((directory / "vault.json").read_text())
    kdf, vault = header["kdf"], decode(header["vault"])
    numbers = struct.pack(">III", kdf["memory_kib"], kdf["passes"], kdf["lanes"])
    bound = header["format"].encode() + vault + labelled("argon2id", numbers, decode(kdf["salt"]))
    opening = hash_secret_raw(passphrase, decode(kdf["salt"]), kdf["passes"], kdf["memory_kib"], kdf["lanes"], 32, Type.ID)
    root = AESGCM(opening).decrypt(decode(header["nonce"]), decode(header["sealed_root"]), bound)
    seeds = {}
    for path in sorted(directory.glob("key_*.json")):
        key = json.loads(path.read_text())
        public_key = decode(key.get("public_key", ""))
        beside = labelled(key["format"], key["version"].encode(), key["algorithm"].encode(), decode(key["fingerprint"]), public_key)
        seed = AESGCM(root).decrypt(decode(key["nonce"]), decode(key["sealed"]), b"freehold-vault-value-v1" + vault + beside)
        label = "freehold-fingerprint-v1"
        identity = public_key or hmac.digest(seed, label.encode(), "sha256")
        assert decode(key["fingerprint"]) == labelled(label, key["algorithm"].encode(), identity), "fingerprint"
        seeds[key["version"]] = (key["algorithm"], seed, public_key)
    return seeds


def open_sealed_key(vault, recipient, encrypted_key, enc):
    algorithm, seed, _ = vault[recipient["kid"]]
    if algorithm == "A256KW+A256GCM":
        assert recipient["alg"] == "A256KW" and "ek" not in recipient
        return aes_key_unwrap(seed, encrypted_key)
    assert recipient["alg"] == algorithm == "HPKE-9-KE"
    expanded = hashlib.shake_256(seed).digest(96)
    secret = hpke.MLKEM768X25519PrivateKey(
        mlkem.MLKEM768PrivateKey.from_seed_bytes(expanded[:64]), x25519.X25519PrivateKey.from_private_bytes(expanded[64:])
    )
    suite = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.SHAKE256, hpke.AEAD.AES_256_GCM)
    info = b"JOSE-HPKE rcpt\xff" + enc.encode() + b"\xff"
    return suite.decrypt(decode(recipient["ek"]) + encrypted_key, secret, info)


def open_jwe(vault, text):
    if text.startswith("{"):
        message = json.loads(text)
        protected, recipients = message["protected"], message["recipients"]
        iv, ciphertext, tag = (message[name] for name in ("iv", "ciphertext", "tag"))
    else:
        protected, encrypted_key, iv, ciphertext, tag = text.split(".")
        recipients = [{"header": {}, "encrypted_key": encrypted_key}]
    header = json.loads(decode(protected))
    assert header["enc"] == "A256GCM"
    check_context(header["ctx"])
    for recipient in recipients:
        content_key = open_sealed_key(vault, {**header, **recipient["header"]}, decode(recipient["encrypted_key"]), "A256GCM")
        plaintext = AESGCM(content_key).decrypt(decode(iv), decode(ciphertext) + decode(tag), protected.encode())
    return header, plaintext


def open_file(vault, data):
    assert data[:4] == b"FHF1"
    (length,) = struct.unpack(">I", data[4:8])
    assert (8 + length) % 4096 == 0
    header = json.loads(data[8 : 8 + length])
    fixed, block = decode(header["fixed"]), decode(header["recipients"])
    check_context(json.loads(fixed)["ctx"])
    for recipient in json.loads(block)["recipients"]:
        content_key = open_sealed_key(vault, recipient["header"], decode(recipient["encrypted_key"]), "C2SP-Cobblestone-256")
        expand = lambda info: HKDFExpand(hashes.SHA256(), 32, info).derive(content_key)
        covered = b"FHF1" + data[4:8] + b"".join(struct.pack(">Q", len(part)) + part for part in (fixed, block))
        assert decode(header["mac"]) == hmac.digest(expand(b"freehold-file-v1 header"), covered, "sha256"), "mac"
        decryptor = Cobblestone256Decryptor(expand(b"freehold-file-v1 body"), hashlib.sha256(b"FHF1" + fixed).digest())
        plaintext = decryptor.update(data[8 + length :]) + decryptor.finalize()
    return plaintext


def verify_jws(vault, text):
    message = json.loads(text)
    for signature in message["signatures"]:
        header = json.loads(decode(signature["protected"]))
        check_context(header["ctx"])
        algorithm, seed, public_key = vault[header["kid"]]
        signed = f"{signature['protected']}.{message['payload']}".encode()
        if algorithm == "Ed25519":
            assert header["alg"] == "EdDSA"
            ed25519.Ed25519PublicKey.from_public_bytes(public_key).verify(decode(signature["signature"]), signed)
        else:
            assert header["alg"] == algorithm == "ML-DSA-65"
            assert mldsa.MLDSA65PrivateKey.from_seed_bytes(seed).public_key().public_bytes_raw() == public_key
            mldsa.MLDSA65PublicKey.from_public_bytes(public_key).verify(decode(signature["signature"]), signed)
    return decode(message["payload"])


def main():
    vault = open_vault(GOLDEN / "vault-v1", b"golden passphrase")
    print("vault:", ", ".join(f"{version} {algorithm}" for version, (algorithm, _, _) in vault.items()))
    for name in ("a256kw-v1.jwe", "hpke-9-ke-v1.jwe", "two-recipients-v1.json"):
        _, plaintext = open_jwe(vault, (GOLDEN / name).read_text())
        assert plaintext == PLAINTEXT, name
        print("message:", name)
    header, data_key = open_jwe(vault, (GOLDEN / "data-key-v1.jwe").read_text())
    assert (header["typ"], len(data_key)) == ("freehold-data-key", 32)
    print("data key: data-key-v1.jwe")
    for name in ("a256kw-v1.jwe", "data-key-v1.jwe"):
        text = (GOLDEN / name).read_text()
        kid = json.loads(decode(text.split(".")[0]))["kid"]
        opened = jwe.JWE()
        opened.deserialize(text, key=jwk.JWK(kty="oct", k=encode(vault[kid][1])))
        assert opened.payload in (PLAINTEXT, data_key)
    print("jwcrypto opens the A256KW messages too")
    assert verify_jws(vault, (GOLDEN / "two-signatures-v1.json").read_text()) == PLAINTEXT
    print("signatures: two-signatures-v1.json")
    assert open_file(vault, (GOLDEN / "file-v1.fhf1").read_bytes()) == bytes(i % 251 for i in range(20_000))
    print("file: file-v1.fhf1")


main()
