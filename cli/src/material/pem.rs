//! PEM (RFC 7468) and DER: PKCS #8 in clear and under a password, and what came before it (`RSA PRIVATE KEY`, `EC PRIVATE KEY`).

use pkcs8::{
    EncryptedPrivateKeyInfoRef, ObjectIdentifier, PrivateKeyInfo, PrivateKeyInfoRef,
    der::{
        Any, Decode as _, Encode as _, Reader as _, SliceReader,
        asn1::{AnyRef, BitStringRef, OctetStringRef},
    },
    spki::AlgorithmIdentifierOwned,
};
use sec1::{EcParameters, EcPrivateKey};
use zeroize::Zeroizing;

use super::{Ask, NoKey};

const WHAT: &str = "a private key in PEM";
const DER: &str = "a private key in DER (PKCS #8)";
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
/// The most times a password is stretched: a file could ask for hours.
const MAX_ITERATIONS: u32 = 2_000_000;

/// The one private key of a text; certificates beside it are left alone.
pub(super) fn read(bytes: &[u8], ask: Ask<'_>) -> Result<Zeroizing<Vec<u8>>, NoKey> {
    let malformed = |detail: &str| NoKey::Malformed { what: WHAT, detail: detail.to_owned() };
    let text = std::str::from_utf8(bytes).map_err(|_| malformed("it is not text"))?;
    let mut found = None;
    for block in blocks(text) {
        if !block.contains("PRIVATE KEY-----") {
            continue;
        }
        if found.replace(block).is_some() {
            return Err(NoKey::Several(vec![
                "more than one PRIVATE KEY block: put the one that is meant into a file of its own".to_owned(),
            ]));
        }
    }
    let block = found.ok_or(NoKey::None("no block of it is called PRIVATE KEY"))?;
    if block.contains("Proc-Type:") || block.contains("DEK-Info:") {
        return Err(NoKey::NotSupported(
            "the password protection of old PEM",
            "write it as PKCS #8: openssl pkcs8 -topk8 -in old.pem -out new.pem",
        ));
    }
    let (label, der) = pkcs8::der::pem::decode_vec(block.as_bytes()).map_err(|_| malformed("a block of it is damaged"))?;
    let der = Zeroizing::new(der);
    match label {
        "PRIVATE KEY" | "ENCRYPTED PRIVATE KEY" => read_der(&der, ask),
        "RSA PRIVATE KEY" => wrap(RSA, Some(Any::null()), &der).ok_or(malformed("the RSA key in it is damaged")),
        "EC PRIVATE KEY" => ec(&der).ok_or(malformed("the elliptic-curve key in it is damaged, or names no curve")),
        _ => Err(NoKey::NotSupported("this kind of private key", "write it as PKCS #8: openssl pkcs8 -topk8, or ssh-keygen -p -m PKCS8")),
    }
}

/// PKCS #8, in clear or under a password.
pub(super) fn read_der(der: &[u8], ask: Ask<'_>) -> Result<Zeroizing<Vec<u8>>, NoKey> {
    let malformed = || NoKey::Malformed { what: DER, detail: "it is neither in clear nor under a password that PKCS #8 knows".to_owned() };
    if PrivateKeyInfoRef::from_der(der).is_ok() {
        return Ok(Zeroizing::new(der.to_vec()));
    }
    let encrypted = EncryptedPrivateKeyInfoRef::from_der(der).map_err(|_| malformed())?;
    if encrypted.encryption_algorithm.pbes2().is_some_and(is_too_slow) {
        return Err(NoKey::Malformed { what: DER, detail: "opening it would take longer than any honest file asks for".to_owned() });
    }
    let password = ask("the private key")?;
    let opened = encrypted.decrypt(password.as_bytes()).map_err(|_| NoKey::WrongPassword)?;
    // A wrong password may leave bytes that unpad all the same.
    PrivateKeyInfoRef::from_der(opened.as_bytes()).map_err(|_| NoKey::WrongPassword)?;
    Ok(Zeroizing::new(opened.as_bytes().to_vec()))
}

fn is_too_slow(parameters: &pkcs8::pkcs5::pbes2::Parameters) -> bool {
    use pkcs8::pkcs5::pbes2::Kdf;
    match &parameters.kdf {
        Kdf::Pbkdf2(pbkdf2) => pbkdf2.iteration_count > MAX_ITERATIONS,
        // Memory and time: 128 bytes times cost times block size, and that again for each lane.
        Kdf::Scrypt(scrypt) => {
            let blocks = u64::from(scrypt.block_size).saturating_mul(u64::from(scrypt.parallelization));
            scrypt.cost_parameter.saturating_mul(blocks) > (1 << 23)
        }
        _ => true,
    }
}

/// Whether DER begins like a PFX of PKCS #12: a sequence whose first member is the number 3, where PKCS #8 has 0 or 1.
pub(super) fn is_pfx(der: &[u8]) -> bool {
    let inside = match der {
        [0x30, length, rest @ ..] if *length < 0x80 => rest,
        [0x30, 0x80, rest @ ..] => rest,
        [0x30, length, rest @ ..] => rest.get(usize::from(*length & 0x7f)..).unwrap_or_default(),
        _ => return false,
    };
    inside.starts_with(&[0x02, 0x01, 0x03])
}

fn blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let begin = rest.find("-----BEGIN ")?;
        let from = &rest[begin..];
        let end = from.find("-----END ")?;
        let close = end + "-----END ".len();
        let length = close + from[close..].find("-----").map_or(from.len() - close, |dashes| dashes + 5);
        rest = &from[length..];
        Some(&from[..length])
    })
}

/// A private key of its standard in PKCS #8.
pub(super) fn wrap(oid: ObjectIdentifier, parameters: Option<Any>, inner: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    // It must at least be a sequence that ends where it says.
    AnyRef::from_der(inner).ok()?.sequence(|reader: &mut SliceReader<'_>| reader.read_slice(reader.remaining_len()).map(|_| ())).ok()?;
    let algorithm = AlgorithmIdentifierOwned { oid, parameters };
    let info = PrivateKeyInfo::<Any, &OctetStringRef, BitStringRef<'_>>::new(algorithm, OctetStringRef::new(inner).ok()?);
    info.to_der().ok().map(Zeroizing::new)
}

/// `ECPrivateKey` (RFC 5915), which names its curve inside.
fn ec(der: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let key = EcPrivateKey::from_der(der).ok()?;
    let EcParameters::NamedCurve(curve) = key.parameters?;
    wrap(EC, Some(Any::from(curve)), der)
}
