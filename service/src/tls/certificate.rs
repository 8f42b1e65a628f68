//! A listener's own certificate: looked at again every few seconds, replaced when its files changed.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use super::{TlsError, certificates_from_file, key_from_pem, provider};
use crate::files::read_secret;

/// How often the files are looked at, at most.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// A certificate and its key from two PEM files. A pair that cannot be used is logged, and the last good one stays.
pub struct ReloadingCertificate {
    certificate: PathBuf,
    key: PathBuf,
    every: Duration,
    current: RwLock<Arc<CertifiedKey>>,
    looked: Mutex<Looked>,
}

/// What was seen of the files.
struct Looked {
    at: Instant,
    modified: Modified,
}

type Modified = [Option<SystemTime>; 2];

impl ReloadingCertificate {
    /// Reads both files. The key must be closed to others (see [`read_secret`]).
    pub fn open(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        // The times come first: a change while the files are read is seen by the next look.
        let modified = [certificate, key].map(modified);
        let current = RwLock::new(Arc::new(read(certificate, key)?));
        Ok(Self {
            certificate: certificate.to_path_buf(),
            key: key.to_path_buf(),
            every: LOOK_EVERY,
            current,
            looked: Mutex::new(Looked { at: Instant::now(), modified }),
        })
    }

    /// Looks at the files this often, at most.
    #[must_use]
    pub fn every(mut self, every: Duration) -> Self {
        self.every = every;
        self
    }

    fn look(&self) {
        // Whoever does not get the lock goes on with the current pair: somebody else is looking.
        let Ok(mut looked) = self.looked.try_lock() else { return };
        if looked.at.elapsed() < self.every {
            return;
        }
        looked.at = Instant::now();
        let modified = [&self.certificate, &self.key].map(|path| modified(path));
        if modified == looked.modified {
            return;
        }
        looked.modified = modified;
        match read(&self.certificate, &self.key) {
            Ok(pair) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(pair);
                tracing::info!(certificate = %self.certificate.display(), "the TLS certificate was replaced");
            }
            Err(error) => tracing::error!(
                certificate = %self.certificate.display(),
                error = &error as &dyn std::error::Error,
                "the changed TLS certificate cannot be used; the last good one stays"
            ),
        }
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()
}

fn read(certificate: &Path, key: &Path) -> Result<CertifiedKey, TlsError> {
    let chain = certificates_from_file(certificate)?;
    let private = key_from_pem(&read_secret(key)?, key)?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|source| TlsError::Pair {
        certificate: certificate.display().to_string(),
        key: key.display().to_string(),
        source,
    })
}

impl ResolvesServerCert for ReloadingCertificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.look();
        Some(self.current.read().unwrap_or_else(PoisonError::into_inner).clone())
    }
}

impl fmt::Debug for ReloadingCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadingCertificate").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}
