//! Prekeys of this agent: short-lived keys that others seal material to. A private half is on disk, sealed, before anybody
//! sees the public one, and is erased when nothing is waited for any more, or at its end: then nothing that was sealed to it
//! opens, whoever kept it.

use std::time::Duration;

use schema::{
    clock::{Ids, Timestamp, new_id},
    encoding::Base64,
    id::PrekeyId,
};
use serde::{Deserialize, Serialize};
use trust::{
    accept::Identity,
    document::{Prekey, sign},
    movement::OwnPrekey,
    pair::Pair,
    seal::{PrekeySecret, SealError},
};

use super::directory::{ControlDirectory, KeepError, Sealed, sealing_key};
use crate::vault::Vault;

const FILE: &str = "prekeys.json";
/// How long a prekey that the relay shows is good.
const RELAYED_LIFE: Duration = Duration::from_secs(3600);
/// How long one is good that travels as a file.
const FILED_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Why prekeys could not be made or kept.
#[derive(Debug, thiserror::Error)]
pub enum PrekeyError {
    /// The disk, or the vault that seals them.
    #[error("prekeys cannot be kept")]
    Keep(#[from] KeepError),
    /// Making or reading one failed.
    #[error("a prekey cannot be made or read")]
    Key(#[from] SealError),
}

/// How a prekey travels to those who seal to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Way {
    /// The relay shows it while this agent waits for material.
    Relay,
    /// As a file, by somebody's hand.
    File,
}

#[derive(Serialize, Deserialize)]
struct Stored {
    id: PrekeyId,
    way: Way,
    not_after: Timestamp,
    /// The signed prekey, exact bytes.
    document: Base64,
    secret: Sealed,
}

/// A live prekey.
struct Live {
    own: OwnPrekey,
    way: Way,
    document: Base64,
    /// Something that was sealed to it has been taken in.
    used: bool,
}

/// The live prekeys.
pub struct Prekeys {
    directory: ControlDirectory,
    identity: Identity,
    live: Vec<Live>,
    /// How long one is good that the relay shows.
    relayed_life: Duration,
}

/// What making and keeping prekeys needs.
pub struct Means<'a> {
    /// Seals private halves.
    pub vault: &'a dyn Vault,
    /// Signs.
    pub pair: &'a Pair,
    /// Randomness.
    pub ids: &'a dyn Ids,
    /// Agent time.
    pub now: Timestamp,
}

impl Prekeys {
    /// Reads back what was kept. What does not read is given up: others seal to a new one.
    pub async fn open(directory: ControlDirectory, identity: Identity, vault: &dyn Vault) -> Result<Self, KeepError> {
        let stored: Vec<Stored> = match directory.read(FILE) {
            Ok(stored) => stored.unwrap_or_default(),
            Err(KeepError::Damaged { path, .. }) => {
                tracing::error!(path = %path.display(), "the prekeys cannot be read and are given up: new ones are made");
                Vec::new()
            }
            Err(error) => return Err(error),
        };
        let mut live = Vec::new();
        if !stored.is_empty() {
            let key = sealing_key(vault).await?;
            for Stored { id, way, not_after, document, secret } in stored {
                let opened = directory.unseal(&key, &what(id), identity.agent, &secret);
                match opened.ok().and_then(|bytes| PrekeySecret::from_bytes(&bytes).ok()) {
                    Some(secret) => live.push(Live { own: OwnPrekey { id, not_after, secret }, way, document, used: false }),
                    None => tracing::error!(%id, "a prekey does not open under this vault and is given up"),
                }
            }
        }
        Ok(Self { directory, identity, live, relayed_life: RELAYED_LIFE })
    }

    /// From now on also those that the relay shows last as long as a person needs who carries them there, and back what was sealed.
    pub fn last_long(&mut self) {
        self.relayed_life = FILED_LIFE;
    }

    /// The signed prekeys, for the relay.
    pub fn shown(&self) -> Vec<Base64> {
        self.live.iter().filter(|live| live.way == Way::Relay).map(|live| live.document.clone()).collect()
    }

    /// Brings them to what is needed: while something is waited for there is one with half of its life left; those that ended
    /// or are of no use any more are erased.
    pub async fn tend(&mut self, waiting: bool, means: &Means<'_>) -> Result<(), PrekeyError> {
        let before = self.live.len();
        self.live.retain(|live| means.now <= live.own.not_after && (waiting || (live.way == Way::File && !live.used)));
        let mut changed = self.live.len() != before;
        let lasts = |live: &Live| live.way == Way::Relay && means.now.plus(self.relayed_life / 2) < live.own.not_after;
        if waiting && !self.live.iter().any(lasts) {
            let made = self.make(Way::Relay, self.relayed_life, means)?;
            self.live.push(made);
            changed = true;
        }
        if changed { self.keep(means).await } else { Ok(()) }
    }

    /// One that travels as a file: the last that was made this way, or a new one.
    pub async fn filed(&mut self, means: &Means<'_>) -> Result<Base64, PrekeyError> {
        let lasts = |live: &&Live| live.way == Way::File && means.now.plus(FILED_LIFE / 2) < live.own.not_after;
        if let Some(live) = self.live.iter().rev().find(lasts) {
            return Ok(live.document.clone());
        }
        let made = self.make(Way::File, FILED_LIFE, means)?;
        let document = made.document.clone();
        self.live.push(made);
        self.keep(means).await?;
        Ok(document)
    }

    /// Those that material may have been sealed to.
    pub fn own(&self) -> impl Iterator<Item = &OwnPrekey> {
        self.live.iter().map(|live| &live.own)
    }

    /// Something that was sealed to it has been taken in: it goes when nothing more is waited for, whichever way it went.
    pub fn used(&mut self, id: PrekeyId) {
        self.live.iter_mut().filter(|live| live.own.id == id).for_each(|live| live.used = true);
    }

    fn make(&self, way: Way, life: Duration, means: &Means<'_>) -> Result<Live, PrekeyError> {
        let secret = PrekeySecret::generate(means.ids)?;
        let Identity { tenant, site, agent, .. } = self.identity;
        let (id, issued, not_after) = (new_id(means.ids, means.now), means.now, means.now.plus(life));
        let prekey = Prekey { tenant, site, agent, id, public_key: secret.public_key().into(), not_after, issued };
        Ok(Live { own: OwnPrekey { id, not_after, secret }, way, document: sign(&prekey, means.pair), used: false })
    }

    async fn keep(&self, means: &Means<'_>) -> Result<(), PrekeyError> {
        if self.live.is_empty() {
            return Ok(self.directory.remove(FILE)?);
        }
        let key = sealing_key(means.vault).await?;
        let stored = self.live.iter().map(|live| {
            let OwnPrekey { id, not_after, secret } = &live.own;
            let secret = self.directory.seal(&key, &what(*id), self.identity.agent, &*secret.to_bytes(), means.ids)?;
            Ok(Stored { id: *id, way: live.way, not_after: *not_after, document: live.document.clone(), secret })
        });
        let stored = stored.collect::<Result<Vec<_>, KeepError>>()?;
        Ok(self.directory.write(FILE, &stored)?)
    }
}

fn what(id: PrekeyId) -> String {
    format!("prekey {id}")
}
