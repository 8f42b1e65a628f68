//! The key under which receipts hide the values of encryption contexts: one of the site for each month. Every agent makes one of
//! its own, sends it to the others as material moves, and all use the one that was made first; a receipt names the key beside
//! what it hides.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use aws_lc_rs::hmac;
use schema::{
    clock::{Ids, Timestamp},
    context::EncryptionContext,
    encoding::{Base64, Digest, base64url},
    id::AgentId,
    name::Name,
};
use serde::{Deserialize, Serialize};
use trust::{
    accept::{AcceptedSet, Identity},
    document::{ContextKeyHead, Month, Prekey},
    movement::{CONTEXT_KEY_BYTES, MovementRefusal, OwnPrekey, accept_context_key, recipients, seal_context_key},
    pair::Pair,
    seal::SealError,
};

use super::directory::{ControlDirectory, KeepError, Sealed, sealing_key};
use crate::vault::{Vault, secret::SecretBytes};

const FILE: &str = "context-keys.json";
/// The key of the next month is made so long before it begins, so that every agent has it then.
const AHEAD: Duration = Duration::from_secs(2 * 86_400);
/// How much of a digest identifies a key in receipts.
const SHOWN_BYTES: usize = 12;

/// One key.
#[derive(Clone)]
struct ContextKey {
    /// Identifies it.
    id: Digest,
    made: Timestamp,
    secret: Arc<SecretBytes>,
    hmac: hmac::Key,
    /// The agents that have sent theirs.
    heard: BTreeSet<AgentId>,
}

impl ContextKey {
    fn new(id: Digest, made: Timestamp, secret: SecretBytes) -> Self {
        let hmac = hmac::Key::new(hmac::HMAC_SHA256, secret.expose());
        Self { id, made, secret: Arc::new(secret), hmac, heard: BTreeSet::new() }
    }

    /// Of two, the one that all use.
    fn rank(&self) -> (Timestamp, Digest) {
        (self.made, self.id)
    }
}

/// As it is kept.
#[derive(Serialize, Deserialize)]
struct Stored {
    month: Month,
    id: Digest,
    made: Timestamp,
    heard: BTreeSet<AgentId>,
    secret: Sealed,
}

/// Where keys are kept: nowhere before the agent has enrolled.
struct Keep {
    directory: ControlDirectory,
    identity: Identity,
    vault: Arc<dyn Vault>,
}

/// The keys of this month and the next.
pub struct ContextKeys {
    keep: Option<Keep>,
    /// Of an agent that belongs to no site yet.
    own: (String, hmac::Key),
    keys: RwLock<Arc<BTreeMap<Month, ContextKey>>>,
}

/// What a receipt says of an encryption context.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Hidden {
    /// Names in clear, values as the first 16 bytes of HMAC-SHA-256 over name and value, both prefixed by their lengths.
    pub values: BTreeMap<String, String>,
    /// Under which key; none when there is nothing to hide.
    pub key: Option<String>,
}

impl ContextKeys {
    /// Reads back what was kept. What does not read is given up: another one is made, or comes from the others.
    pub async fn open(directory: &ControlDirectory, identity: Option<&Identity>, vault: Arc<dyn Vault>) -> Result<Self, KeepError> {
        let own = vault.named_secret(&own_name()).await?;
        let id = Digest::labelled("freehold-context-key-id-v1", &[own.expose()]);
        let own = (shown("own", &id), hmac::Key::new(hmac::HMAC_SHA256, own.expose()));
        let mut keys = BTreeMap::new();
        let keep = identity.map(|identity| Keep { directory: directory.clone(), identity: identity.clone(), vault });
        if let Some(keep) = &keep {
            keys = keep.read().await?;
        }
        Ok(Self { keep, own, keys: RwLock::new(Arc::new(keys)) })
    }

    /// Hides the values of a context, under the key of the month.
    pub fn hide(&self, context: &EncryptionContext, now: Timestamp) -> Hidden {
        if context.pairs().is_empty() {
            return Hidden::default();
        }
        let (month, keys) = (Month::of(now), self.keys());
        // A clock that stands before every key there is uses the first.
        let found = keys.range(..=&month).next_back().or_else(|| keys.first_key_value());
        let (shown, key) = match found {
            Some((month, key)) => (shown(&month.to_string(), &key.id), &key.hmac),
            None => (self.own.0.clone(), &self.own.1),
        };
        let values = context.pairs().iter().map(|(name, value)| (name.clone(), hide(key, name, value))).collect();
        Hidden { values, key: Some(shown) }
    }

    /// Whether a key has to be made, or one is no longer needed.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.keep.is_some() && !self.keys().keys().eq(&months(now))
    }

    /// Brings the keys to what the time asks for.
    pub async fn tend(&self, ids: &dyn Ids, now: Timestamp) -> Result<(), KeepError> {
        let Some(keep) = self.keep.as_ref().filter(|_| self.is_due(now)) else { return Ok(()) };
        let before = self.keys();
        let mut keys = BTreeMap::new();
        for month in months(now) {
            let key = before.get(&month).cloned().unwrap_or_else(|| {
                let secret = SecretBytes::random(CONTEXT_KEY_BYTES, ids);
                let id = ContextKeyHead::identify(keep.identity.tenant, keep.identity.site, &month, secret.expose());
                ContextKey::new(id, now, secret)
            });
            keys.insert(month, key);
        }
        keep.write(&keys, ids).await?;
        self.put(keys);
        Ok(())
    }

    /// Whether an agent of the site has not sent its key yet: this one shows a prekey then.
    pub fn is_waiting(&self, set: &AcceptedSet) -> bool {
        let others = recipients(set);
        self.keys().values().any(|key| others.iter().any(|other| !key.heard.contains(other)))
    }

    /// Takes a key that another agent sent. Of two for one month the first that was made is used.
    pub async fn take<'a>(
        &self,
        set: &AcceptedSet,
        bytes: &[u8],
        prekeys: impl IntoIterator<Item = &'a OwnPrekey>,
        (ids, now): (&dyn Ids, Timestamp),
    ) -> Result<Taken, NotTaken> {
        let before = self.keys();
        let known: Vec<Month> = before.keys().cloned().collect();
        let (head, secret) = accept_context_key(set, bytes, &known, prekeys, now)?;
        let mut keys = (*before).clone();
        let Some(key) = keys.get_mut(&head.month) else { return Err(MovementRefusal::OtherMonth(head.month).into()) };
        let adopted = (head.made, head.id) < key.rank();
        let news = key.heard.insert(head.sender);
        if adopted {
            let heard = std::mem::take(&mut key.heard);
            *key = ContextKey { heard, ..ContextKey::new(head.id, head.made, SecretBytes::new(secret.to_vec())) };
        }
        if let Some(keep) = self.keep.as_ref().filter(|_| adopted || news) {
            keep.write(&keys, ids).await.map_err(NotTaken::Keep)?;
            self.put(keys);
        }
        Ok(Taken { shown: shown(&head.month.to_string(), &head.id), adopted, prekey: head.prekey })
    }

    /// Every key, sealed to a prekey of another agent, with its id.
    pub fn seal(
        &self,
        set: &AcceptedSet,
        prekey: &Prekey,
        but: impl Fn(&Digest) -> bool,
        by: (&Pair, &dyn Ids, Timestamp),
    ) -> Result<Vec<(Digest, Base64)>, SealError> {
        let keys = self.keys();
        let wanted = keys.iter().filter(|(_, key)| !but(&key.id));
        wanted
            .map(|(month, key)| {
                let sealed = seal_context_key(set, (month, key.made, key.secret.expose()), prekey, by)?;
                Ok((key.id, Base64(sealed)))
            })
            .collect()
    }

    fn keys(&self) -> Arc<BTreeMap<Month, ContextKey>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn put(&self, keys: BTreeMap<Month, ContextKey>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }
}

/// What came of a key that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    /// Which key, as receipts show it.
    pub shown: String,
    /// Whether it is used from now on.
    pub adopted: bool,
    /// The prekey it was sealed to.
    pub prekey: schema::id::PrekeyId,
}

/// Why a key that was sent is not taken.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// It is not what it should be.
    #[error(transparent)]
    Refused(#[from] MovementRefusal),
    /// It could not be kept. It may be taken another time.
    #[error("a key that hides encryption contexts cannot be kept")]
    Keep(#[source] KeepError),
}

impl Keep {
    async fn read(&self) -> Result<BTreeMap<Month, ContextKey>, KeepError> {
        let stored: Vec<Stored> = match self.directory.read(FILE) {
            Ok(stored) => stored.unwrap_or_default(),
            Err(KeepError::Damaged { path, .. }) => {
                tracing::error!(path = %path.display(), "the keys that hide encryption contexts cannot be read and are given up");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let mut keys = BTreeMap::new();
        if stored.is_empty() {
            return Ok(keys);
        }
        let key = sealing_key(&*self.vault).await?;
        let Identity { tenant, site, agent, .. } = self.identity;
        for Stored { month, id, made, heard, secret } in stored {
            let opened = self.directory.unseal(&key, &what(&month), agent, &secret);
            match opened.ok().filter(|secret| ContextKeyHead::identify(tenant, site, &month, secret) == id) {
                Some(secret) => {
                    let key = ContextKey { heard, ..ContextKey::new(id, made, SecretBytes::new(secret.to_vec())) };
                    keys.insert(month, key);
                }
                None => tracing::error!(%month, "a key that hides encryption contexts does not open here and is given up"),
            }
        }
        Ok(keys)
    }

    async fn write(&self, keys: &BTreeMap<Month, ContextKey>, ids: &dyn Ids) -> Result<(), KeepError> {
        let sealing = sealing_key(&*self.vault).await?;
        let stored = keys.iter().map(|(month, key)| {
            let secret = self.directory.seal(&sealing, &what(month), self.identity.agent, key.secret.expose(), ids)?;
            Ok(Stored { month: month.clone(), id: key.id, made: key.made, heard: key.heard.clone(), secret })
        });
        self.directory.write(FILE, &stored.collect::<Result<Vec<_>, KeepError>>()?)
    }
}

/// The month that is, and the one that is about to begin.
fn months(now: Timestamp) -> BTreeSet<Month> {
    [Month::of(now), Month::of(now.plus(AHEAD))].into()
}

fn what(month: &Month) -> String {
    format!("context key {month}")
}

/// A key in receipts.
fn shown(month: &str, id: &Digest) -> String {
    format!("{month}.{}", base64url(&id.0[..SHOWN_BYTES]))
}

fn hide(key: &hmac::Key, name: &str, value: &str) -> String {
    let mut hmac = hmac::Context::with_key(key);
    for part in [name, value] {
        hmac.update(&(part.len() as u64).to_be_bytes());
        hmac.update(part.as_bytes());
    }
    base64url(hmac.sign().as_ref().first_chunk::<16>().map_or(&[], |bytes| bytes.as_slice()))
}

#[allow(clippy::expect_used, reason = "a name of our own, covered by a test")]
fn own_name() -> Name {
    "receipt-context".parse().expect("this is a name")
}
