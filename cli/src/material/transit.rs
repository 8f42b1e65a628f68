//! Backups of keys of the transit engine of Vault and OpenBao (`GET /transit/backup/:name`): base64 of JSON with every version of
//! the key, in clear.

use std::collections::BTreeMap;

use base64::{Engine as _, prelude::BASE64_STANDARD};
use pkcs8::{
    ObjectIdentifier,
    der::{Any, Encode as _, asn1::UintRef},
};
use schema::wire::operation::MaterialFormat;
use serde::Deserialize;
use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::{Found, NoKey, pem};

const WHAT: &str = "a backup of a transit key";
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
/// The most bytes of a backup.
pub const MAX_BYTES: usize = 4 * 1024 * 1024;

/// Every version of a key.
pub struct Backup {
    /// What the engine calls it.
    pub name: String,
    /// `aes256-gcm96`, …
    pub kind: &'static str,
    /// The algorithms of ours that a key of this kind can be.
    pub algorithms: &'static [&'static str],
    /// The versions, by number, from 1 on without gaps.
    pub versions: BTreeMap<u32, Found>,
}

#[derive(Deserialize)]
struct File {
    policy: Policy,
    #[serde(default)]
    archived_keys: Option<Archive>,
}

#[derive(Deserialize)]
struct Policy {
    name: String,
    keys: BTreeMap<String, Entry>,
    #[serde(default)]
    derived: bool,
    #[serde(default)]
    convergent_encryption: bool,
    /// Of all versions; below 0: each says its own.
    #[serde(default)]
    convergent_version: i64,
    /// How keys are derived: 1 is HKDF-SHA-256, 0 an older way.
    #[serde(default)]
    kdf: u32,
    latest_version: u32,
    #[serde(default)]
    min_available_version: u32,
    #[serde(rename = "type")]
    kind: u32,
}

#[derive(Deserialize)]
struct Archive {
    #[serde(default)]
    keys: Option<Vec<Entry>>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    key: Option<KeyBytes>,
    #[serde(default)]
    ec_d: Option<Box<RawValue>>,
    #[serde(default)]
    rsa_key: Option<RsaKey>,
    #[serde(default)]
    convergent_version: i64,
}

/// Standard base64, wiped.
struct KeyBytes(Zeroizing<Vec<u8>>);

impl<'de> Deserialize<'de> for KeyBytes {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Zeroizing::new(String::deserialize(deserializer)?);
        // The error does not repeat the text.
        BASE64_STANDARD.decode(text.as_bytes()).map(|bytes| Self(Zeroizing::new(bytes))).map_err(|_| serde::de::Error::custom("not base64"))
    }
}

/// As Go writes `rsa.PrivateKey`: numbers in decimal.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RsaKey {
    n: Box<RawValue>,
    e: Box<RawValue>,
    d: Box<RawValue>,
    primes: Vec<Box<RawValue>>,
    #[serde(default)]
    precomputed: Option<Precomputed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Precomputed {
    dp: Option<Box<RawValue>>,
    dq: Option<Box<RawValue>>,
    qinv: Option<Box<RawValue>>,
}

/// Whether a text seems to be a backup.
pub fn is_backup(text: &str) -> bool {
    let json = decoded(text);
    let head = json.as_ref().map_or(text.as_bytes(), |json| json.as_slice());
    head.trim_ascii_start().starts_with(b"{") && memchr(head, b"\"policy\"") && memchr(head, b"\"latest_version\"")
}

fn memchr(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window == word)
}

fn decoded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let text = text.trim();
    // What is no base64 at its beginning is none at all: a large file need not be tried.
    BASE64_STANDARD.decode(text).ok().map(Zeroizing::new)
}

/// Reads a backup: the base64 that the engine gives, or the JSON inside it.
pub fn read(bytes: &[u8]) -> Result<Backup, NoKey> {
    let malformed = |detail: &str| NoKey::Malformed { what: WHAT, detail: detail.to_owned() };
    if bytes.len() > MAX_BYTES {
        return Err(malformed("it is larger than 4 MiB"));
    }
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not text"))?;
    let json = decoded(text).unwrap_or_else(|| Zeroizing::new(text.as_bytes().to_vec()));
    let file: File = serde_json::from_slice(&json)
        .map_err(|error| malformed(&format!("line {}, column {} of its JSON is not as expected", error.line(), error.column())))?;
    let File { policy, archived_keys } = file;
    let (kind, algorithms) = if policy.derived { derived(&policy)? } else { kind(policy.kind)? };
    if policy.min_available_version > 1 {
        return Err(NoKey::NotSupported(
            "a key whose first versions were trimmed",
            "versions here have no gaps, so that the numbers in its ciphertexts would not be those of its versions",
        ));
    }
    let archived = archived_keys.and_then(|archive| archive.keys).unwrap_or_default();
    if policy.latest_version == 0 || policy.latest_version > 100_000 {
        return Err(malformed("its latest version is no sensible number"));
    }
    let (mut kept, mut archived): (BTreeMap<String, Entry>, BTreeMap<usize, Entry>) =
        (policy.keys, archived.into_iter().enumerate().collect());
    let mut versions = BTreeMap::new();
    for number in 1..=policy.latest_version {
        // The archive counts from 0, where nothing stands.
        let entry = kept.remove(&number.to_string()).or_else(|| archived.remove(&usize::try_from(number).unwrap_or(usize::MAX)));
        let entry = entry.ok_or_else(|| malformed(&format!("version {number} is missing")))?;
        if policy.convergent_encryption && convergence(policy.convergent_version, entry.convergent_version) < 2 {
            return Err(NoKey::NotSupported(
                "a key of the first convergent encryption, whose ciphertexts do not hold their nonces",
                "let Vault rewrap what is under it, and seal that here anew",
            ));
        }
        let found = found(kind, entry).ok_or_else(|| malformed(&format!("version {number} has no whole private key")))?;
        versions.insert(number, found);
    }
    Ok(Backup { name: policy.name, kind, algorithms, versions })
}

/// A key that no ciphertext is under itself: each context has a key that is derived from it.
fn derived(policy: &Policy) -> Result<(&'static str, &'static [&'static str]), NoKey> {
    match (policy.kind, policy.kdf) {
        (0, 1) => Ok(("aes256-gcm96, derived", &["HKDF-SHA-256"])),
        (0, _) => Err(NoKey::NotSupported(
            "a derived key of the first kind, which is not derived by HKDF",
            "let Vault rewrap what is under it under a newer key first",
        )),
        _ => Err(NoKey::NotSupported(
            "a derived key of this kind",
            "of derived keys those of aes256-gcm96 are read: let Vault open what is under it, and seal that here anew",
        )),
    }
}

/// Which convergent encryption a version has.
fn convergence(of_key: i64, of_version: i64) -> i64 {
    match (of_version, of_key) {
        (0, 0) => 1,
        (0, of_key) => of_key,
        (of_version, _) => of_version,
    }
}

/// What the engine's numbers of kinds mean, and what of ours they can be.
fn kind(number: u32) -> Result<(&'static str, &'static [&'static str]), NoKey> {
    Ok(match number {
        0 => ("aes256-gcm96", &["A256GCM"]),
        1 => ("ecdsa-p256", &["ECDSA-P256"]),
        2 => ("ed25519", &["Ed25519"]),
        4 => ("rsa-4096", &["RSA-PSS-4096", "RSA-OAEP-256-4096"]),
        5 => ("chacha20-poly1305", &["ChaCha20-Poly1305"]),
        6 => ("ecdsa-p384", &["ECDSA-P384"]),
        9 => ("rsa-3072", &["RSA-PSS-3072", "RSA-OAEP-256-3072"]),
        3 => {
            return Err(NoKey::NotSupported(
                "an rsa-2048 key",
                "it is too short: make a new key, and let Vault open what is under this one",
            ));
        }
        7 => return Err(NoKey::NotSupported("an ecdsa-p521 key", "no algorithm of the catalogue is like it")),
        8 => {
            return Err(NoKey::NotSupported(
                "an aes128-gcm96 key",
                "no algorithm of the catalogue is like it: let Vault rewrap under an aes256 key first",
            ));
        }
        _ => {
            return Err(NoKey::NotSupported(
                "a key of this kind",
                "aes256-gcm96, chacha20-poly1305, ed25519, ecdsa-p256, ecdsa-p384, rsa-3072 and rsa-4096 are read",
            ));
        }
    })
}

fn found(kind: &str, entry: Entry) -> Option<Found> {
    let raw = |bytes| Found { format: MaterialFormat::Raw, bytes };
    match kind {
        "aes256-gcm96" | "aes256-gcm96, derived" | "chacha20-poly1305" => entry.key.map(|key| key.0).filter(|key| key.len() == 32).map(raw),
        // Go keeps the public half behind the seed.
        "ed25519" => entry.key.filter(|key| key.0.len() == 64).map(|key| raw(Zeroizing::new(key.0[..32].to_vec()))),
        "ecdsa-p256" => padded(number(entry.ec_d.as_deref()?)?, 32).map(raw),
        "ecdsa-p384" => padded(number(entry.ec_d.as_deref()?)?, 48).map(raw),
        _ => rsa(entry.rsa_key?).map(|bytes| Found { format: MaterialFormat::Pkcs8, bytes }),
    }
}

fn rsa(key: RsaKey) -> Option<Zeroizing<Vec<u8>>> {
    let [p, q] = key.primes.as_slice() else { return None };
    let precomputed = key.precomputed?;
    let parts = [&key.n, &key.e, &key.d, p, q, precomputed.dp.as_ref()?, precomputed.dq.as_ref()?, precomputed.qinv.as_ref()?];
    let parts = parts.into_iter().map(|part| number(part)).collect::<Option<Vec<_>>>()?;
    let mut numbers = vec![UintRef::new(&[0]).ok()?];
    for part in &parts {
        numbers.push(UintRef::new(part).ok()?);
    }
    pem::wrap(RSA, Some(Any::null()), &Zeroizing::new(numbers.to_der().ok()?))
}

/// A decimal number as big-endian bytes.
fn number(raw: &RawValue) -> Option<Zeroizing<Vec<u8>>> {
    let digits = raw.get().as_bytes();
    // 4096 bits have 1234 digits.
    if digits.is_empty() || digits.len() > 1300 {
        return None;
    }
    let mut little = Zeroizing::new(Vec::with_capacity(600));
    for digit in digits {
        let mut carry = u16::from(digit.checked_sub(b'0').filter(|digit| *digit < 10)?);
        for byte in little.iter_mut() {
            let value = u16::from(*byte) * 10 + carry;
            let [high, low] = value.to_be_bytes();
            (*byte, carry) = (low, high.into());
        }
        if carry > 0 {
            little.push(u8::try_from(carry).ok()?);
        }
    }
    little.reverse();
    Some(little)
}

fn padded(number: Zeroizing<Vec<u8>>, length: usize) -> Option<Zeroizing<Vec<u8>>> {
    let missing = length.checked_sub(number.len())?;
    let mut bytes = Zeroizing::new(vec![0; missing]);
    bytes.reserve_exact(number.len());
    bytes.extend_from_slice(&number);
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimal_numbers_become_bytes() {
        let read = |text: &str| number(&RawValue::from_string(text.to_owned()).unwrap()).map(|bytes| bytes.to_vec());
        for (text, bytes) in [
            ("0", vec![]),
            ("255", vec![255]),
            ("256", vec![1, 0]),
            ("65537", vec![1, 0, 1]),
            ("18446744073709551616", vec![1, 0, 0, 0, 0, 0, 0, 0, 0]),
        ] {
            assert_eq!(read(text), Some(bytes), "{text}");
        }
        for text in ["-1", "1e3", "1.5", "\"1\"", "null"] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
