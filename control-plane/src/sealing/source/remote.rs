//! A key of the transit engine of a server that speaks the API of Vault and OpenBao wraps the sealing key.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use devices::{
    Trouble, TroubleKind,
    remote::{
        client::{Client, ServerSettings},
        transit::TransitKey,
    },
};
use schema::clock::Ids;

use super::{Made, Source, unwrapped, wrapping};
use crate::{
    config::TransitConfig,
    sealing::{Fingerprint, SealingError, SealingKey},
};

pub(super) const KIND: &str = "remote";
/// The first byte of what the database keeps.
const VERSION: u8 = 1;

/// A server and its key.
pub(super) struct RemoteSource {
    settings: TransitConfig,
    client: Arc<Client>,
}

impl RemoteSource {
    /// Must be called inside a runtime, which the calls wait on.
    pub(super) fn new(settings: TransitConfig) -> Result<Self, SealingError> {
        let server = ServerSettings {
            url: settings.url.clone(),
            login: settings.login(),
            namespace: settings.namespace.clone(),
            outgoing: settings.outgoing.clone(),
            call: settings.call_timeout.0,
        };
        let client = Client::new(server).map_err(|trouble| SealingError::Device { fingerprint: Fingerprint::none(), trouble })?;
        Ok(Self { settings, client: Arc::new(client) })
    }

    /// Has the server do something, off the async threads. Each call has its limit.
    async fn using<T: Send + 'static>(
        &self,
        fingerprint: &Fingerprint,
        may_make: bool,
        work: impl FnOnce(&TransitKey) -> Result<T, Trouble> + Send + 'static,
    ) -> Result<T, SealingError> {
        let (client, settings, place) = (self.client.clone(), self.settings.clone(), self.place());
        let done = tokio::task::spawn_blocking(move || {
            let outcome = work(&TransitKey::open(client.clone(), &settings.mount, &settings.key, may_make)?)?;
            client.tend(Instant::now());
            Ok(outcome)
        });
        let outcome = done.await.unwrap_or_else(|_| Err(Trouble::new(TroubleKind::Failed, place, "the call ended without an answer")));
        outcome.map_err(|trouble| SealingError::Device { fingerprint: fingerprint.clone(), trouble })
    }
}

#[async_trait]
impl Source for RemoteSource {
    fn kind(&self) -> &'static str {
        KIND
    }

    fn place(&self) -> String {
        format!("key {:?} of {}", self.settings.key, self.client.place())
    }

    async fn open(&self, wanted: &Fingerprint, wrapped: Option<&[u8]>) -> Result<SealingKey, SealingError> {
        let other = || SealingError::WrappedElsewhere { expected: wanted.clone(), place: self.place() };
        let sealed = match wrapped.and_then(<[u8]>::split_first) {
            Some((&VERSION, sealed)) => sealed.to_vec(),
            _ => return Err(other()),
        };
        let bound = wrapping(wanted);
        let opened = self.using(wanted, false, move |key| key.unseal(&bound, &sealed)).await?;
        unwrapped(opened, wanted, &self.place())
    }

    fn advice(&self) -> Option<String> {
        self.client.advice(Instant::now()).map(|trouble| trouble.to_string())
    }

    async fn make(&self, _: &[Fingerprint], ids: &dyn Ids) -> Result<Made, SealingError> {
        let key = SealingKey::generate(ids);
        let (fingerprint, secret) = (key.fingerprint(), key.clone());
        let bound = wrapping(&fingerprint);
        let sealed = self.using(&fingerprint, true, move |transit| transit.seal(&bound, secret.bytes())).await?;
        let wrapped = [[VERSION].as_slice(), &sealed].concat();
        // What cannot be read back is not put to use.
        let back = self.open(&fingerprint, Some(&wrapped)).await?;
        Ok(Made { key: back, wrapped: Some(wrapped) })
    }

    /// The server holds no sealing keys.
    async fn retire(&self, _: &[Fingerprint]) -> Result<(), SealingError> {
        Ok(())
    }
}
