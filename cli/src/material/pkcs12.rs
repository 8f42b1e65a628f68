//! PKCS #12 (RFC 7292), by the crate `p12-keystore`: AES and the old ciphers, with its integrity checked first.

use p12_keystore::{KeyStore, KeyStoreEntry, Pkcs12ImportPolicy, error::Error};
use zeroize::Zeroizing;

use super::{Ask, NoKey, one_of};

/// The private key of a store; of several, the one of this name.
pub(super) fn read(bytes: &[u8], alias: Option<&str>, ask: Ask<'_>) -> Result<Zeroizing<Vec<u8>>, NoKey> {
    let password = ask("the PKCS #12 file")?;
    let store = KeyStore::from_pkcs12(bytes, &password, Pkcs12ImportPolicy::Relaxed).map_err(|error| match error {
        Error::MacError(_) | Error::UnpadError | Error::Pkcs5Error(_) => NoKey::WrongPassword,
        other => NoKey::Malformed { what: "a PKCS #12 file", detail: other.to_string() },
    })?;
    let keys = store.entries().filter_map(|(name, entry)| match entry {
        KeyStoreEntry::PrivateKeyChain(chain) => Some((name.clone(), Zeroizing::new(chain.key().as_der().to_vec()))),
        _ => None,
    });
    one_of(keys.collect(), alias)
}
