//! A key of a PKCS#11 token wraps the sealing key and never leaves the token.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use devices::{
    Trouble, TroubleKind,
    pkcs11::{
        device::{Device, TokenSettings},
        sealing::{NONCE_BYTES, TokenKey},
    },
};
use schema::clock::{Ids, random};
use tokio::sync::Semaphore;

use super::{Made, Source, unwrapped, wrapping};
use crate::{
    config::TokenConfig,
    sealing::{Fingerprint, SealingError, SealingKey},
};

pub(super) const KIND: &str = "pkcs11";
/// The first byte of what the database keeps.
const VERSION: u8 = 1;

/// A token and its key, found when first needed.
pub(super) struct TokenSource {
    settings: TokenConfig,
    key: Arc<Mutex<Option<Arc<TokenKey>>>>,
    /// One call at a time: a module that hangs holds one thread, not one more with every try.
    calls: Arc<Semaphore>,
}

impl TokenSource {
    pub(super) fn new(settings: TokenConfig) -> Self {
        Self { settings, key: Arc::default(), calls: Arc::new(Semaphore::new(1)) }
    }

    /// Has the token do something, off the async threads and within the limit.
    async fn using<T: Send + 'static>(
        &self,
        fingerprint: &Fingerprint,
        may_make: bool,
        act: &'static str,
        work: impl FnOnce(&TokenKey) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, SealingError> {
        let (limit, place) = (self.settings.call_timeout.0, self.place());
        let (known, settings, calls) = (self.key.clone(), self.settings.clone(), self.calls.clone());
        let slow = || Trouble::slow(self.place(), act, limit);
        let done = async move {
            let turn = calls.acquire_owned().await;
            let done = tokio::task::spawn_blocking(move || {
                let _turn = turn;
                let kept = known.lock().unwrap_or_else(PoisonError::into_inner).clone();
                let key = match kept {
                    Some(key) => key,
                    None => {
                        let opened = Arc::new(open(&settings, may_make)?);
                        *known.lock().unwrap_or_else(PoisonError::into_inner) = Some(opened.clone());
                        opened
                    }
                };
                work(&key)
            });
            done.await.unwrap_or_else(|_| Err(Trouble::new(TroubleKind::Failed, place, "the call ended without an answer")))
        };
        let outcome = tokio::time::timeout(limit, done).await.unwrap_or_else(|_| Err(slow()));
        outcome.map_err(|trouble| SealingError::Device { fingerprint: fingerprint.clone(), trouble })
    }
}

fn open(settings: &TokenConfig, may_make: bool) -> Result<TokenKey, Trouble> {
    let token = TokenSettings {
        module: settings.module.clone(),
        token: settings.token.clone(),
        serial: settings.serial.clone(),
        pin_file: settings.pin_file.clone(),
        sessions: 1,
    };
    TokenKey::open(Arc::new(Device::open(token)?), &settings.key, may_make)
}

#[async_trait]
impl Source for TokenSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn place(&self) -> String {
        format!("key {:?} of token {:?}", self.settings.key, self.settings.token)
    }

    async fn open(&self, wanted: &Fingerprint, wrapped: Option<&[u8]>) -> Result<SealingKey, SealingError> {
        let other = || SealingError::WrappedElsewhere { expected: wanted.clone(), place: self.place() };
        let (version, rest) = wrapped.and_then(<[u8]>::split_first).ok_or_else(other)?;
        let (nonce, sealed) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(other)?;
        if *version != VERSION {
            return Err(other());
        }
        let (nonce, sealed, bound) = (*nonce, sealed.to_vec(), wrapping(wanted));
        let opened = self.using(wanted, false, "opening the sealing key", move |key| key.unseal(nonce, &bound, &sealed)).await?;
        unwrapped(opened, wanted, &self.place())
    }

    async fn make(&self, _: &[Fingerprint], ids: &dyn Ids) -> Result<Made, SealingError> {
        let key = SealingKey::generate(ids);
        let (fingerprint, secret, nonce) = (key.fingerprint(), key.clone(), random::<NONCE_BYTES>(ids));
        let bound = wrapping(&fingerprint);
        let seal = move |token: &TokenKey| token.seal(nonce, &bound, secret.bytes());
        let sealed = self.using(&fingerprint, true, "wrapping the sealing key", seal).await?;
        let wrapped = [[VERSION].as_slice(), &nonce, &sealed].concat();
        // What cannot be read back is not put to use.
        let back = self.open(&fingerprint, Some(&wrapped)).await?;
        Ok(Made { key: back, wrapped: Some(wrapped) })
    }

    /// The token holds no sealing keys.
    async fn retire(&self, _: &[Fingerprint]) -> Result<(), SealingError> {
        Ok(())
    }
}
