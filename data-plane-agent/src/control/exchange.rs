//! What an agent that is connected to nothing says and hears: all that a connected one would have sent, in one signed file for
//! somebody to carry (an *outbox*), and the answer (an *inbox*). Each may be made, handed in and taken twice, and any of them may be lost.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    sync::{Arc, Mutex as Locked, PoisonError},
};

use rcgen::KeyPair;
use schema::{
    clock::{Clock, Ids},
    encoding::{Base64, Digest},
    wire::{
        agent::{RatchetClaim, StatementSet},
        exchange::{CarriedFile, Inbox, MAX_BATCHES, MAX_DOCUMENT_BYTES, MAX_RELAY_ASKS, Outbox, OutboxFile},
        relay::{MAX_DONE, RelayAnswer},
    },
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};
use trust::{
    accept::{AcceptedSet, InboxRejection, accept_inbox},
    document,
};

use super::{
    carried::{self, CarryError, Taken},
    directory::{AgentKeys, ControlDirectory, KeepError, StoredCertificate, StoredIdentity, signing_request},
    lease::LeaseKeeper,
    ratchet::RatchetKeeper,
    report::{Prepared, Reporting},
    time::AgentClock,
};
use crate::{
    journal::ship::{ShipError, Shipper},
    keys::movement::{MoveError, Mover},
};

const FILE: &str = "exchange.json";
/// The most bytes of receipts in one outbox, about.
const RECEIPT_BYTES: usize = 8 << 20;
/// What went with so many outboxes is remembered, to know what an inbox answers.
const REMEMBERED: usize = 8;

/// `exchange.json`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    /// Version of this format: `1`.
    v: u32,
    /// The number of the last outbox that was written.
    written: u64,
    /// The number of the newest one that was answered.
    answered: u64,
    /// What the relay said of others then: their prekeys, and what waits for them.
    heard: RelayAnswer,
    /// What the relay need not keep for this agent any more.
    done: Vec<Digest>,
}

/// What came of an inbox, for the person who brought it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Exchanged {
    /// The number of the outbox that it answers.
    pub number: u64,
    /// Whether statements that came with it are in force now and were not before.
    pub new_statements: bool,
    /// How many key versions came in.
    pub versions: usize,
    /// Up to which receipt the control plane has everything.
    pub receipts: Option<u64>,
    /// What was not taken, on either side: code and detail.
    pub refused: Vec<(String, String)>,
}

/// Why nothing was written or taken. [`ExchangeError::code`] is stable.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// No statements were believed yet.
    #[error("this agent believes no statements yet: freehold-agent statements import FILE brings the first")]
    NoStatements,
    /// What comes after it could not be kept.
    #[error(transparent)]
    Keep(#[from] KeepError),
    /// The receipts.
    #[error("the receipts cannot be read, or are not those that the control plane has")]
    Receipts(#[from] ShipError),
    /// The relay's part.
    #[error("what is for other agents cannot be put together")]
    Relay(#[from] MoveError),
    /// It is too large, whatever is left out.
    #[error("what there is to say does not fit into one file of {MAX_DOCUMENT_BYTES} bytes")]
    TooLarge,
    /// The statements could not be handed to the part that judges them.
    #[error(transparent)]
    Carry(#[from] CarryError),
    /// They could not be kept.
    #[error("the statements that came with it could not be kept: {0}")]
    StatementsNotKept(String),
    /// The inbox is not believed.
    #[error(transparent)]
    Inbox(#[from] InboxRejection),
    /// It answers something that was never said here.
    #[error(
        "it answers outbox {found}, and this agent has written {written}: its data directory was restored from a copy. Enrol the host again \
         (freehold-agent enrol --again)"
    )]
    NotWritten {
        /// What it answers.
        found: u64,
        /// How many were written.
        written: u64,
    },
}

impl ExchangeError {
    /// A stable name.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoStatements => "no_statements",
            Self::Keep(_) | Self::Carry(_) | Self::StatementsNotKept(_) => "exchange_not_kept",
            Self::Receipts(_) => "receipts_unreadable",
            Self::Relay(_) => "relay_unwritten",
            Self::TooLarge => "outbox_too_large",
            Self::Inbox(rejection) => rejection.code(),
            Self::NotWritten { .. } => "inbox_not_asked_for",
        }
    }
}

/// What exchanging needs.
pub struct ExchangeParts {
    /// What the agent keeps.
    pub directory: ControlDirectory,
    /// Where statements are left to be judged.
    pub carried: PathBuf,
    /// Who it is.
    pub stored: StoredIdentity,
    /// Its keys.
    pub keys: Arc<AgentKeys>,
    /// Whether it is connected to nothing: then receipts and certificates, too, travel this way.
    pub apart: bool,
    /// The accepted set.
    pub accepted: watch::Receiver<Option<Arc<AcceptedSet>>>,
    /// Agent time, and the wall clock.
    pub clocks: (Arc<AgentClock>, Arc<dyn Clock>),
    /// Randomness.
    pub ids: Arc<dyn Ids>,
    /// What it has to say.
    pub reports: Arc<dyn Reporting>,
    /// Proves its reports.
    pub ratchet: Arc<RatchetKeeper>,
    /// Asks for budgets.
    pub leases: LeaseKeeper,
}

/// Writes outboxes and takes inboxes.
pub struct Exchange {
    parts: ExchangeParts,
    shipper: Mutex<Shipper>,
    written: Locked<BTreeMap<u64, Prepared>>,
}

impl Exchange {
    /// Puts the parts together.
    pub fn new(parts: ExchangeParts, shipper: Shipper) -> Self {
        Self { parts, shipper: Mutex::new(shipper), written: Locked::default() }
    }

    /// Writes everything that there is to say; and whether more receipts wait for the next.
    pub async fn write(&self, mover: &mut Mover) -> Result<(OutboxFile, bool), ExchangeError> {
        let ExchangeParts { directory, stored, keys, accepted, clocks: (time, _), reports, leases, apart, .. } = &self.parts;
        let set = accepted.borrow().clone().ok_or(ExchangeError::NoStatements)?;
        let mut kept = self.kept()?;
        // Counted before it exists: no two have one number.
        kept.written += 1;
        self.keep(&kept)?;
        let prepared = reports.prepare().await?;
        // What the control plane has forgotten is shown to it by another file (freehold-agent statements export).
        let report = schema::wire::agent::Report { holds: None, ..prepared.report.clone() };
        let mut relay = mover.outbox(&set, kept.heard.clone()).await?;
        if let Some(last) = relay.last_mut() {
            last.done.extend(kept.done.iter().take(MAX_DONE - last.done.len().min(MAX_DONE)));
        }
        let surplus = relay.len().saturating_sub(MAX_RELAY_ASKS);
        relay.drain(..surplus);
        let lease = leases.ask(&set).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "no lease is asked for in this outbox");
            None
        });
        let (receipts, more) = match apart {
            true => self.shipper.lock().await.waiting(MAX_BATCHES, RECEIPT_BYTES).await?,
            false => (Vec::new(), false),
        };
        let csr_pem = match apart {
            true => Some(signing_request(&KeyPair::from_pem(&keys.tls_key_pem).map_err(KeepError::TlsKey)?, stored.identity.agent)?),
            false => None,
        };
        let trust::accept::Identity { tenant, site, agent, .. } = stored.identity;
        let number = kept.written;
        let outbox = Outbox { tenant, site, agent, number, issued: time.now(), report, relay, lease, receipts, csr_pem };
        let signed = document::sign(&outbox, &keys.pair);
        if signed.as_slice().len() > MAX_DOCUMENT_BYTES {
            return Err(ExchangeError::TooLarge);
        }
        let mut written = self.written.lock().unwrap_or_else(PoisonError::into_inner);
        written.insert(number, prepared);
        while written.len() > REMEMBERED {
            written.pop_first();
        }
        let known = directory.authorities()?.map(|known| known.ca_pem);
        let file = OutboxFile {
            format: OutboxFile::FORMAT.to_owned(),
            v: 1,
            control_plane: stored.control_plane.clone(),
            ca_pem: stored.ca_pem.clone().map(|enrolled| known.unwrap_or(enrolled)),
            outbox: signed,
        };
        Ok((file, more))
    }

    /// Takes what was answered. Nothing is lost when it is taken twice, late, or out of order.
    pub async fn take(&self, mover: &mut Mover, inbox: &Base64, statements: Option<&StatementSet>) -> Result<Exchanged, ExchangeError> {
        let mut exchanged = Exchanged::default();
        if let Some(statements) = statements {
            match carried::hand_over(&self.parts.carried, statements, &*self.parts.ids).await? {
                Taken::InForce { new } => exchanged.new_statements = new,
                // Newer ones came another way; whatever else is wrong, the rest is judged by itself.
                Taken::Refused(rejected) if rejected.code == "older" => {}
                Taken::Refused(rejected) => exchanged.refused.push((rejected.code, rejected.detail)),
                Taken::Failed { detail } => return Err(ExchangeError::StatementsNotKept(detail)),
            }
        }
        let set = self.parts.accepted.borrow().clone().ok_or(ExchangeError::NoStatements)?;
        let inbox = accept_inbox(&set, inbox.as_slice())?;
        let kept = self.kept()?;
        if inbox.number > kept.written {
            return Err(ExchangeError::NotWritten { found: inbox.number, written: kept.written });
        }
        exchanged.number = inbox.number;
        self.report_was_taken(&inbox).await;
        self.take_relayed(mover, &set, &inbox, kept, &mut exchanged).await?;
        if let Some(lease) = &inbox.lease
            && let Err(error) = self.parts.leases.take(&set, lease).await
        {
            // An older one than the one that is held: it came late, or twice.
            tracing::debug!(error = &error as &dyn std::error::Error, "the lease in an inbox is not used");
        }
        if let Some(taken) = inbox.receipts.as_ref().filter(|_| self.parts.apart) {
            self.shipper.lock().await.taken(taken.incarnation, &taken.answer).await?;
            exchanged.receipts = Some(taken.answer.acknowledged);
        }
        if let Some(renewed) = inbox.certificate.as_ref().filter(|_| self.parts.apart && inbox.number >= self.answered_before()) {
            self.parts.directory.keep_certificate(&StoredCertificate {
                certificate_pem: renewed.certificate_pem.clone(),
                ca_pem: renewed.ca_pem.clone(),
                received: self.parts.clocks.1.now(),
                expires: renewed.certificate_expires,
            })?;
        }
        let documents = inbox.report.refused.iter().chain(inbox.relay.iter().flat_map(|relay| &relay.refused));
        exchanged.refused.extend(documents.map(|refused| (refused.code.clone(), format!("{}: {}", refused.list, refused.detail))));
        exchanged.refused.extend(inbox.refused.iter().map(|part| (part.code.clone(), format!("{}: {}", part.part, part.detail))));
        Ok(exchanged)
    }

    async fn report_was_taken(&self, inbox: &Inbox) {
        let prepared = self.written.lock().unwrap_or_else(PoisonError::into_inner).remove(&inbox.number);
        match (prepared, inbox.ratchet) {
            (Some(prepared), _) => self.parts.reports.answered(&prepared, &inbox.report).await,
            // It was written before this process began: what it said is said again, and taken again.
            (None, Some(counter)) => {
                self.parts.ratchet.was_answered(&RatchetClaim { counter, proof: None, next: Digest([0; 32]) });
            }
            (None, None) => {}
        }
    }

    async fn take_relayed(
        &self,
        mover: &mut Mover,
        set: &AcceptedSet,
        inbox: &Inbox,
        mut kept: Kept,
        exchanged: &mut Exchanged,
    ) -> Result<(), ExchangeError> {
        if let Some(relay) = &inbox.relay {
            let (taken, done) = mover.inbox(set, relay).await?;
            exchanged.versions = taken;
            kept.done.extend(done);
            let surplus = kept.done.len().saturating_sub(MAX_DONE);
            kept.done.drain(..surplus);
            if inbox.number >= kept.answered {
                kept.heard = RelayAnswer { prekeys: relay.prekeys.clone(), waiting: relay.waiting.clone(), ..RelayAnswer::default() };
            }
        }
        kept.answered = kept.answered.max(inbox.number);
        Ok(self.keep(&kept)?)
    }

    fn answered_before(&self) -> u64 {
        self.kept().map_or(u64::MAX, |kept| kept.answered)
    }

    fn kept(&self) -> Result<Kept, KeepError> {
        Ok(self.parts.directory.read(FILE)?.unwrap_or_else(|| Kept { v: 1, ..Kept::default() }))
    }

    fn keep(&self, kept: &Kept) -> Result<(), KeepError> {
        self.parts.directory.write(FILE, kept)
    }
}
