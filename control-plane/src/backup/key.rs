//! The key that backups are sealed to: HPKE with MLKEM768-X25519, as recovery keys of sites are. Whoever makes backups has the
//! public half only; the private half is kept apart.

use std::path::Path;

use schema::{
    clock::Ids,
    encoding::{Digest, base64url, from_base64url},
};
use service::files::{OWNER_ONLY, READABLE, read_secret_line, write_atomic};
use trust::seal::{PREKEY_PUBLIC_BYTES, PrekeySecret};

use super::BackupError;

/// How the line of a public half begins, and that of a private one.
const PUBLIC: &str = "freehold-backup-recipient-v1:";
const SECRET: &str = "freehold-backup-key-v1:";
const LABEL: &str = "freehold-control-plane-backup-recipient-v1";

/// The public half.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecipientKey(Vec<u8>);

impl RecipientKey {
    /// Of a private half.
    pub fn of(secret: &PrekeySecret) -> Self {
        Self(secret.public_key())
    }

    /// Identifies it: what people compare.
    pub fn keyid(&self) -> Digest {
        Digest::labelled(LABEL, &[&self.0])
    }

    pub(super) fn public_key(&self) -> &[u8] {
        &self.0
    }

    /// Reads the file that [`generate`] wrote beside the private half.
    pub fn read(path: &Path) -> Result<Self, BackupError> {
        let damaged = || BackupError::KeyFile { path: path.to_owned(), what: "the public half of a backup key" };
        let text = std::fs::read_to_string(path).map_err(|source| BackupError::reading(path, source))?;
        let bytes = from_base64url(text.trim().strip_prefix(PUBLIC).ok_or_else(damaged)?).map_err(|_| damaged())?;
        if bytes.len() == PREKEY_PUBLIC_BYTES { Ok(Self(bytes)) } else { Err(damaged()) }
    }
}

/// Reads the private half.
pub fn read_secret(path: &Path) -> Result<PrekeySecret, BackupError> {
    let damaged = || BackupError::KeyFile { path: path.to_owned(), what: "the private half of a backup key" };
    let line = read_secret_line(path)?;
    let text = std::str::from_utf8(&line).ok().and_then(|text| text.strip_prefix(SECRET)).ok_or_else(damaged)?;
    let bytes = zeroize::Zeroizing::new(from_base64url(text).map_err(|_| damaged())?);
    PrekeySecret::from_bytes(&bytes).map_err(|_| damaged())
}

/// Makes a key: the private half into one file, closed to others, the public one into another. Neither may be there.
pub fn generate(secret_file: &Path, public_file: &Path, ids: &dyn Ids) -> Result<RecipientKey, BackupError> {
    if let Some(path) = [secret_file, public_file].into_iter().find(|path| path.exists()) {
        return Err(BackupError::NotEmpty { what: format!("{} is there already", path.display()) });
    }
    let secret = PrekeySecret::generate(ids).map_err(|_| BackupError::Sealing)?;
    let recipient = RecipientKey::of(&secret);
    let line = zeroize::Zeroizing::new(format!("{SECRET}{}\n", base64url(&*secret.to_bytes())));
    write_atomic(secret_file, line.as_bytes(), OWNER_ONLY)?;
    write_atomic(public_file, format!("{PUBLIC}{}\n", base64url(&recipient.0)).as_bytes(), READABLE)?;
    Ok(recipient)
}
