//! Private keys as other programs keep them: found in their containers, taken out, and wrapped before they go anywhere.
//!
//! - [`pem`]: PEM and DER, also under a password. [`pkcs12`], [`jks`]: key stores. [`transit`]: backups of Vault's transit engine.
//! - [`wrap`]: what is done before material leaves this process.

mod jks;
mod pem;
mod pkcs12;
pub mod transit;
pub mod wrap;

use schema::{key::words, wire::operation::MaterialFormat};
use zeroize::Zeroizing;

words! {
    /// How a file keeps a key.
    Container {
        /// PEM: `-----BEGIN PRIVATE KEY-----` and its older kin, also under a password.
        Pem = "pem",
        /// DER of PKCS #8, also under a password.
        Der = "der",
        /// PKCS #12: `.p12`, `.pfx`.
        Pkcs12 = "pkcs12",
        /// A Java key store.
        Jks = "jks",
        /// A private JSON Web Key.
        Jwk = "jwk",
        /// The bytes of the key itself.
        Raw = "raw",
        /// A backup of a key of the transit engine of Vault or OpenBao.
        Transit = "transit",
    }
}

/// Why there is no key to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoKey {
    /// The file is not what it should be.
    #[error("this is not {what}: {detail}")]
    Malformed {
        /// What it should be.
        what: &'static str,
        /// What is wrong.
        detail: String,
    },
    /// The password is wrong, or the file was damaged: nobody can tell which.
    #[error("the password does not open it, or it is damaged")]
    WrongPassword,
    /// There is no key in it.
    #[error("there is no private key in it: {0}")]
    None(&'static str),
    /// There are several.
    #[error("there are several keys in it: {}", .0.join(", "))]
    Several(Vec<String>),
    /// It is kept in a way that is not read.
    #[error("{0} is not read here; {1}")]
    NotSupported(&'static str, &'static str),
    /// The password was not given.
    #[error("{0}")]
    Password(String),
}

/// Asks for a password; the text says what it opens.
pub type Ask<'a> = &'a mut dyn FnMut(&str) -> Result<Zeroizing<String>, NoKey>;

/// A key that was taken out of its container.
pub struct Found {
    /// What it looks like now.
    pub format: MaterialFormat,
    /// It.
    pub bytes: Zeroizing<Vec<u8>>,
}

/// What a file seems to be. The bytes of a key itself look like nothing: these are never guessed.
pub fn recognise(bytes: &[u8]) -> Option<Container> {
    match bytes {
        [0xfe, 0xed, 0xfe, 0xed, ..] | [0xce, 0xce, 0xce, 0xce, ..] => return Some(Container::Jks),
        [0x30, ..] => return Some(if pem::is_pfx(bytes) { Container::Pkcs12 } else { Container::Der }),
        _ => {}
    }
    let text = std::str::from_utf8(bytes).ok()?.trim();
    if text.contains("-----BEGIN ") {
        return Some(Container::Pem);
    }
    if transit::is_backup(text) {
        return Some(Container::Transit);
    }
    text.starts_with('{').then_some(Container::Jwk)
}

/// Takes the key out of a file that holds one; of several, the one of this name.
pub fn read(bytes: &[u8], container: Container, alias: Option<&str>, ask: Ask<'_>) -> Result<Found, NoKey> {
    let pkcs8 = |bytes| Found { format: MaterialFormat::Pkcs8, bytes };
    match container {
        Container::Pem => pem::read(bytes, ask).map(pkcs8),
        Container::Der => pem::read_der(bytes, ask).map(pkcs8),
        Container::Pkcs12 => pkcs12::read(bytes, alias, ask).map(pkcs8),
        Container::Jks => jks::read(bytes, alias, ask).map(pkcs8),
        Container::Jwk => Ok(Found { format: MaterialFormat::Jwk, bytes: Zeroizing::new(bytes.trim_ascii().to_vec()) }),
        Container::Raw => Ok(Found { format: MaterialFormat::Raw, bytes: Zeroizing::new(bytes.to_vec()) }),
        Container::Transit => Err(NoKey::NotSupported("a backup of several versions", "it is brought version by version")),
    }
}

/// One of several, by name; the only one, when none is named.
fn one_of<T>(mut keys: Vec<(String, T)>, alias: Option<&str>) -> Result<T, NoKey> {
    let names = keys.iter().map(|(name, _)| name.clone()).collect();
    match alias {
        Some(alias) => keys.into_iter().find(|(name, _)| name == alias).map(|(_, key)| key).ok_or(NoKey::Several(names)),
        None if keys.len() > 1 => Err(NoKey::Several(names)),
        None => keys.pop().map(|(_, key)| key).ok_or(NoKey::None("it holds only certificates, or keys of other kinds")),
    }
}

#[cfg(test)]
mod tests;
