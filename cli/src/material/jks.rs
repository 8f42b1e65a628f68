//! Java key stores. The format has no standard but the code of the JDK: entries one behind the other, each private key in a
//! `EncryptedPrivateKeyInfo` under a stream that SHA-1 makes of password and salt, and at the end SHA-1 over password and all.
//! It protects little; here it is only read.

use aws_lc_rs::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY, digest};
use pkcs8::{ObjectIdentifier, PrivateKeyInfoRef, der::Decode as _};
use zeroize::Zeroizing;

use super::{Ask, NoKey, one_of};

const WHAT: &str = "a Java key store";
const MAGIC: [u8; 4] = [0xfe, 0xed, 0xfe, 0xed];
const JCEKS: [u8; 4] = [0xce, 0xce, 0xce, 0xce];
/// What the JDK calls `JavaSoft proprietary key-protection algorithm`.
const KEY_PROTECTOR: &str = "1.3.6.1.4.1.42.2.17.1.1";
const SHA1_BYTES: usize = 20;
const MAX_ENTRIES: u32 = 1000;
/// What the digest of a store begins with, after the password.
const WHITENER: &[u8] = b"Mighty Aphrodite";

/// The private key of a store; of several, the one of this name.
pub(super) fn read(bytes: &[u8], alias: Option<&str>, ask: Ask<'_>) -> Result<Zeroizing<Vec<u8>>, NoKey> {
    if bytes.starts_with(&JCEKS) {
        return Err(NoKey::NotSupported("a JCEKS store", "make it PKCS #12: keytool -importkeystore -deststoretype PKCS12"));
    }
    let protected = one_of(entries(bytes)?, alias)?;
    let password = utf16(&ask("the Java key store")?);
    let (content, stored) = bytes.split_at(bytes.len() - SHA1_BYTES);
    let mut whole = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    for part in [&password[..], WHITENER, content] {
        whole.update(part);
    }
    if whole.finish().as_ref() != stored {
        return Err(NoKey::WrongPassword);
    }
    match unprotect(&protected, &password) {
        // The store opened: the key has another password than the store.
        Err(NoKey::WrongPassword) => unprotect(&protected, &utf16(&ask("the key in the Java key store")?)),
        opened => opened,
    }
}

/// Java hashes the characters of a password, two bytes each.
fn utf16(password: &str) -> Zeroizing<Vec<u8>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(password.len() * 2));
    bytes.extend(password.encode_utf16().flat_map(u16::to_be_bytes));
    bytes
}

/// The private keys of a store, still protected, by name.
fn entries(bytes: &[u8]) -> Result<Vec<(String, Vec<u8>)>, NoKey> {
    let malformed = |detail: &str| NoKey::Malformed { what: WHAT, detail: detail.to_owned() };
    let short = || malformed("it ends in the middle");
    let content = bytes.len().checked_sub(SHA1_BYTES).map(|length| &bytes[..length]).ok_or_else(short)?;
    let mut reader = Reader(content);
    if reader.take(4).ok_or_else(short)? != MAGIC {
        return Err(malformed("it does not begin like one"));
    }
    let version = reader.number().ok_or_else(short)?;
    if !(1..=2).contains(&version) {
        return Err(malformed("its version is neither 1 nor 2"));
    }
    let count = reader.number().ok_or_else(short)?;
    if count > MAX_ENTRIES {
        return Err(malformed("it says to have more than 1000 entries"));
    }
    let mut keys = Vec::new();
    for _ in 0..count {
        let kind = reader.number().ok_or_else(short)?;
        let name = String::from_utf8_lossy(reader.text().ok_or_else(short)?).into_owned();
        reader.take(8).ok_or_else(short)?; // when it was made
        match kind {
            1 => {
                keys.push((name, reader.block().ok_or_else(short)?.to_vec()));
                for _ in 0..reader.number().ok_or_else(short)? {
                    reader.certificate(version).ok_or_else(short)?;
                }
            }
            2 => reader.certificate(version).ok_or_else(short)?,
            _ => return Err(malformed("an entry of it is neither a private key nor a certificate")),
        }
    }
    if reader.0.is_empty() { Ok(keys) } else { Err(malformed("something follows its last entry")) }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn number(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes(self.take(4)?.try_into().ok()?))
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let length = u16::from_be_bytes(self.take(2)?.try_into().ok()?);
        self.take(length.into())
    }

    fn block(&mut self) -> Option<&'a [u8]> {
        let length = self.number()?;
        self.take(usize::try_from(length).ok()?)
    }

    fn certificate(&mut self, version: u32) -> Option<()> {
        if version == 2 {
            self.text()?; // `X.509`
        }
        self.block().map(|_| ())
    }
}

/// Salt, the key under the stream, and SHA-1 over password and key.
fn unprotect(protected: &[u8], password: &[u8]) -> Result<Zeroizing<Vec<u8>>, NoKey> {
    let malformed = |detail: &str| NoKey::Malformed { what: WHAT, detail: detail.to_owned() };
    let info = EncryptedKey::from_der(protected).ok_or_else(|| malformed("the protection of its key is damaged"))?;
    if info.oid.to_string() != KEY_PROTECTOR {
        return Err(NoKey::NotSupported(
            "the protection of this key",
            "make the store PKCS #12: keytool -importkeystore -deststoretype PKCS12",
        ));
    }
    let salted = info.data.split_at_checked(SHA1_BYTES);
    let parts = salted.and_then(|(salt, rest)| Some((salt, rest.split_at_checked(rest.len().checked_sub(SHA1_BYTES)?)?)));
    let (salt, (hidden, stored)) = parts.ok_or_else(|| malformed("the protection of its key is damaged"))?;
    let mut key = Zeroizing::new(hidden.to_vec());
    let mut link = digest_of(&[password, salt]);
    for block in key.chunks_mut(SHA1_BYTES) {
        block.iter_mut().zip(link.iter()).for_each(|(byte, stream)| *byte ^= stream);
        link = digest_of(&[password, link.as_slice()]);
    }
    if digest_of(&[password, key.as_slice()]).as_slice() != stored {
        return Err(NoKey::WrongPassword);
    }
    PrivateKeyInfoRef::from_der(&key).map_err(|_| malformed("its key is not PKCS #8"))?;
    Ok(key)
}

struct EncryptedKey<'a> {
    oid: ObjectIdentifier,
    data: &'a [u8],
}

impl<'a> EncryptedKey<'a> {
    fn from_der(der: &'a [u8]) -> Option<Self> {
        use pkcs8::der::{Reader as _, SliceReader, asn1::OctetStringRef};
        use pkcs8::spki::AlgorithmIdentifierRef;
        let mut reader = SliceReader::new(der).ok()?;
        let read = |reader: &mut SliceReader<'a>| -> pkcs8::der::Result<Self> {
            let algorithm = AlgorithmIdentifierRef::decode(reader)?;
            Ok(Self { oid: algorithm.oid, data: <&OctetStringRef>::decode(reader)?.as_bytes() })
        };
        let read = reader.sequence(read).ok()?;
        reader.finish().ok().map(|()| read)
    }
}

fn digest_of(parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
    let whole = Zeroizing::new(parts.concat());
    Zeroizing::new(digest(&SHA1_FOR_LEGACY_USE_ONLY, &whole).as_ref().to_vec())
}
