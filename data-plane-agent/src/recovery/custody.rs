//! Makes the recovery key of a site. Its private half is made in the process of the command, split, given out, and gone: it
//! never comes near the running agent, the vault or the control plane. The public half is signed by the agent's pair with its
//! next report.

use std::path::{Path, PathBuf};

use schema::{
    clock::{Clock, Ids, Timestamp},
    encoding::{Base64, Digest},
};
use service::files::{FileError, OWNER_ONLY, create_private_directory, sync_directory, write_atomic};
use trust::{
    accept::{AcceptedSet, Identity, RecoveryMemory, Rejection, restore},
    document,
    pair::Pair,
    recovery::{RecoveryKey, recovery_keyid},
};

use super::{
    secret::RecoverySecret,
    share::{self, Share, ShareError},
};
use crate::{
    algorithm::AlgorithmError,
    control::directory::{ControlDirectory, KeepError, MadeRecoveryKey},
};

/// Why there is no recovery key, or no other one.
#[derive(Debug, thiserror::Error)]
pub enum CustodyError {
    /// The agent is nobody's.
    #[error("this agent has not joined a site: run freehold-agent enrol first")]
    NotEnrolled,
    /// It has nothing to go by.
    #[error("this agent has no statements of its site yet: start it, and try again when it is ready")]
    NoStatements,
    /// What it has does not hold.
    #[error("the kept statements do not hold: start the agent, and try again when it is ready")]
    Rejected(#[source] Rejection),
    /// There is one.
    #[error(
        "this site has the recovery key {0} already; --replace makes another one, to which every agent of the site must then be \
         told to seal (recovery confirm), and which opens none of the backups made so far"
    )]
    Exists(Digest),
    /// The site tells of none.
    #[error("the site tells of no recovery key that waits for confirmation: see freehold-agent recovery status")]
    NothingWaits,
    /// The site tells of another one.
    #[error("the site tells of the recovery key {found}, which is another one: do not confirm it, and find out whose that is")]
    Other {
        /// Its key id.
        found: Digest,
    },
    /// The shares.
    #[error(transparent)]
    Share(#[from] ShareError),
    /// Making the key failed.
    #[error("the recovery key cannot be made")]
    Make(#[from] AlgorithmError),
    /// Something is where the shares should go.
    #[error("{0} is there already: name a new directory for the shares")]
    InTheWay(PathBuf),
    /// Writing failed.
    #[error(transparent)]
    File(#[from] FileError),
    /// Keeping failed.
    #[error(transparent)]
    Keep(#[from] KeepError),
}

/// A recovery key whose shares are still here. Dropped without [`Prepared::register`] it is as if it had never been.
pub struct Prepared {
    made: MadeRecoveryKey,
    /// The shares, one for each person.
    pub shares: Vec<Share>,
}

/// The set that the agent has believed last, verified again.
pub fn kept_set(directory: &ControlDirectory) -> Result<AcceptedSet, CustodyError> {
    let identity = directory.identity()?.ok_or(CustodyError::NotEnrolled)?.identity;
    let statements = directory.statements()?.ok_or(CustodyError::NoStatements)?;
    restore(&statements, &identity).map_err(CustodyError::Rejected)
}

/// Makes a recovery key and splits it; that the shares give it back is tried before anybody has them.
pub fn prepare(
    directory: &ControlDirectory,
    (shares, threshold): (u8, u8),
    replace: bool,
    clock: &dyn Clock,
    ids: &dyn Ids,
) -> Result<Prepared, CustodyError> {
    let set = kept_set(directory)?;
    let unregistered = directory.made_recovery_key()?;
    let known = [set.recovery_key(), set.told_recovery_key()].into_iter().flatten().max_by_key(|known| known.number);
    let exists = known.map(RecoveryMemory::keyid).or(unregistered.as_ref().map(|made| recovery_keyid(made.public_key.as_slice())));
    if let Some(exists) = exists.filter(|_| !replace) {
        return Err(CustodyError::Exists(exists));
    }
    let secret = RecoverySecret::generate(ids)?;
    let split = share::split(&secret, shares, threshold, ids)?;
    let needed = split.iter().rev().take(threshold.into()).map(|share| Share::parse(&share.reveal())).collect::<Result<Vec<_>, _>>()?;
    if share::combine(&needed)?.keyid() != secret.keyid() {
        return Err(ShareError::Wrong.into());
    }
    let number = known.map_or(1, |known| known.number.saturating_add(1));
    let made = MadeRecoveryKey { v: 1, number, public_key: secret.public_key().into(), shares, threshold, made: clock.now() };
    Ok(Prepared { made, shares: split })
}

impl Prepared {
    /// Its key id.
    pub fn keyid(&self) -> Digest {
        recovery_keyid(self.made.public_key.as_slice())
    }

    /// Writes each share into a file of its own, in a new directory that only its owner can enter.
    pub fn write(&self, directory: &Path) -> Result<Vec<PathBuf>, CustodyError> {
        if directory.exists() {
            return Err(CustodyError::InTheWay(directory.to_owned()));
        }
        create_private_directory(directory)?;
        let mut written = Vec::with_capacity(self.shares.len());
        for share in &self.shares {
            let path = directory.join(format!("share-{}.txt", share.number()));
            write_atomic(&path, format!("{}\n", &*share.reveal()).as_bytes(), OWNER_ONLY)?;
            written.push(path);
        }
        sync_directory(directory)?;
        Ok(written)
    }

    /// The shares are where they belong: from now on this agent seals to the key, and says so to the site.
    pub fn register(self, directory: &ControlDirectory) -> Result<(), CustodyError> {
        let mut confirmed = directory.confirmed()?;
        confirmed.recovery = Some(self.keyid());
        directory.keep_made_recovery_key(&self.made)?;
        Ok(directory.keep_confirmed(&confirmed)?)
    }
}

/// What the agent says of the recovery key that was made here, until the site tells of it or of a later one.
pub fn document(set: &AcceptedSet, made: &MadeRecoveryKey, by: &Identity, pair: &Pair, now: Timestamp) -> Option<Base64> {
    if set.told_recovery_key().is_some_and(|told| told.number >= made.number) {
        return None;
    }
    let MadeRecoveryKey { number, ref public_key, shares, threshold, .. } = *made;
    let (tenant, site, agent, public_key) = (by.tenant, by.site, by.agent, public_key.clone());
    Some(document::sign(&RecoveryKey { tenant, site, number, public_key, shares, threshold, agent, issued: now }, pair))
}

/// A person at this agent has compared the key id: from the next statements on backups are sealed to that key.
pub fn confirm(directory: &ControlDirectory, keyid: Digest) -> Result<(), CustodyError> {
    let set = kept_set(directory)?;
    let found = set.waiting_recovery_key().ok_or(CustodyError::NothingWaits)?.keyid();
    if found != keyid {
        return Err(CustodyError::Other { found });
    }
    remember(directory, keyid)
}

/// Keeps that this recovery key is the right one.
pub fn remember(directory: &ControlDirectory, keyid: Digest) -> Result<(), CustodyError> {
    let mut confirmed = directory.confirmed()?;
    confirmed.recovery = Some(keyid);
    Ok(directory.keep_confirmed(&confirmed)?)
}
