//! Takes batches: checked, stored, recorded, and only then acknowledged.

use std::sync::Arc;

use schema::{
    clock::{Clock, Ids},
    wire::agent::{ReceiptAnswer, ReceiptBatch},
};
use trust::pair::PublicPair;

use super::{
    aggregate::{JournalCommand, JournalRefusal, JournalStream},
    check::{BatchRefusal, Stored, check},
    rows::{ReceiptRows, RowsError},
};
use crate::{
    access::permit::Question,
    agents::enrolment::agent_context,
    eventing::handler::{CommandError, Handler, Options},
    pki::identity::AgentIdentity,
};

/// Why a batch was not taken.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// It is not the next piece of the agent's journal.
    #[error(transparent)]
    Refused(#[from] BatchRefusal),
    /// It could not be stored.
    #[error(transparent)]
    Rows(#[from] RowsError),
    /// It could not be recorded.
    #[error(transparent)]
    Record(#[from] CommandError<JournalRefusal>),
}

impl IngestError {
    /// A stable code, when this is an answer to the agent; none for faults.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Refused(refusal) => Some(refusal.code()),
            Self::Rows(RowsError::Busy) => Some("receipts_busy"),
            Self::Rows(_) => None,
            Self::Record(error) => error.code(),
        }
    }
}

/// Takes the receipts of agents. Clones share it.
#[derive(Clone)]
pub struct Ingest {
    handler: Handler,
    rows: ReceiptRows,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

impl Ingest {
    /// Puts the parts together.
    pub fn new(handler: Handler, rows: ReceiptRows, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { handler, rows, clock, ids }
    }

    /// Takes a batch: rows first, then the event with their chain hash, then the answer. Whatever of it was taken before
    /// is not taken again; a crash in between is made good by the agent's next batch.
    pub async fn take(&self, from: &AgentIdentity, pair: &PublicPair, batch: &ReceiptBatch) -> Result<ReceiptAnswer, IngestError> {
        let journal = self.handler.load::<JournalStream>(from.tenant, batch.incarnation).await?.state;
        if journal.agent.is_some_and(|owner| owner != from.agent) {
            return Err(CommandError::Refused(JournalRefusal::OtherAgent).into());
        }
        let mut stored = self.rows.stored(from, batch).await?;
        let lost_to = self.lost(from, batch, &mut stored).await?;
        let checked = match check(batch, from, pair, &stored) {
            Ok(checked) => checked,
            Err(refusal) => {
                if let BatchRefusal::Fork { expected, found, head_sha256, .. } = refusal {
                    tracing::error!(tenant = %from.tenant, agent = %from.agent, "an agent sent two histories of one journal");
                    let (site, agent, first_seq) = (from.site, from.agent, batch.first_seq);
                    let command = JournalCommand::Fork { site, agent, first_seq, expected, found, head_sha256 };
                    self.record(from, batch, command).await?;
                }
                return Err(refusal.into());
            }
        };
        if !checked.new.is_empty() {
            self.rows.insert(from, &checked).await?;
        }
        let last = checked.new.last().map(|entry| (entry.receipt.seq, entry.chain));
        let (last_seq, chain) = last.unwrap_or((stored.last_seq, stored.last.unwrap_or(checked.head.last)));
        let head_sha256 = checked.head_sha256;
        if journal.last_seq >= last_seq {
            return Ok(ReceiptAnswer { acknowledged: last_seq, last: chain });
        }
        self.record(from, batch, JournalCommand::Accept { site: from.site, agent: from.agent, lost_to, last_seq, chain, head_sha256 })
            .await?;
        Ok(ReceiptAnswer { acknowledged: last_seq, last: chain })
    }

    /// An agent frees what was acknowledged; a control plane that was restored from an older backup asks for it in vain. Then the
    /// journal goes on from where the agent has it, and what is between is lost, and told.
    async fn lost(&self, from: &AgentIdentity, batch: &ReceiptBatch, stored: &mut Stored) -> Result<Option<u64>, IngestError> {
        let before = batch.first_seq.saturating_sub(1);
        if before > 0 && stored.last_seq > before && stored.before_batch.is_none() {
            // The first batch after what was lost, once more: whether it is the same shows where both end.
            stored.before_batch = Some(batch.previous);
        }
        if stored.last_seq >= before || !self.rows.was_recovered(from, batch.incarnation).await? {
            return Ok(None);
        }
        tracing::warn!(
            tenant = %from.tenant, agent = %from.agent, after = stored.last_seq, to = before,
            "receipts are lost: this control plane was restored, and the agent has freed them"
        );
        (stored.last_seq, stored.last, stored.before_batch) = (before, Some(batch.previous), Some(batch.previous));
        Ok(Some(before))
    }

    async fn record(&self, from: &AgentIdentity, batch: &ReceiptBatch, command: JournalCommand) -> Result<(), IngestError> {
        let ctx = agent_context(from, &*self.ids, self.clock.now());
        let question = Question::new("shipReceipts", "Receipts", batch.incarnation);
        self.handler.handle::<JournalStream>(&ctx, question, batch.incarnation, Options::default(), command).await?;
        Ok(())
    }
}
