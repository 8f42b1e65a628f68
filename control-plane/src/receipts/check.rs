//! Whether a batch of receipts is the next piece of one agent's journal. Pure: what is stored was looked up before.

use schema::{
    encoding::{Base64, Digest},
    wire::agent::{MAX_ENTRIES, Receipt, ReceiptBatch, ReceiptBatchHead, chain, chain_start},
};
use trust::{
    dsse::{EnvelopeError, open_document},
    pair::{PublicPair, Signers},
};

use crate::pki::identity::AgentIdentity;

/// The most bytes of one receipt.
pub const MAX_ENTRY_BYTES: usize = 32 * 1024;

/// What is stored of one incarnation of an agent's journal, as far as a batch touches it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// The last receipt stored; 0 while there is none.
    pub last_seq: u64,
    /// The chain hash after it; none while there is none.
    pub last: Option<Digest>,
    /// The chain hash before the batch's first receipt, where it is stored.
    pub before_batch: Option<Digest>,
    /// The chain hash after the batch's last receipt, where it is stored: the batch came before.
    pub after_batch: Option<Digest>,
}

/// A receipt that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedReceipt {
    /// What it says.
    pub receipt: Receipt,
    /// Its exact bytes.
    pub bytes: Vec<u8>,
    /// The chain hash after it.
    pub chain: Digest,
}

/// A batch that passed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckedBatch {
    /// What the agent signed.
    pub head: ReceiptBatchHead,
    /// SHA-256 of the signed head's envelope.
    pub head_sha256: Digest,
    /// The receipts that are not stored yet, in order.
    pub new: Vec<CheckedReceipt>,
}

/// Why a batch is refused.
#[derive(Debug, thiserror::Error)]
pub enum BatchRefusal {
    /// Nothing in it, or too much.
    #[error("a batch has 1 to {MAX_ENTRIES} receipts; this one has {0}")]
    Count(usize),
    /// A receipt is too large.
    #[error("receipt {seq} has {bytes} bytes and may have {MAX_ENTRY_BYTES}")]
    EntrySize {
        /// Its number.
        seq: u64,
        /// Its size.
        bytes: usize,
    },
    /// The head is not signed by the agent's pair.
    #[error("the head of the batch is not signed by this agent's pair")]
    Signature(#[source] EnvelopeError),
    /// The head was made for another agent or another batch.
    #[error("the signed head does not describe this batch: {0} differs")]
    Head(&'static str),
    /// The last entry does not hash to what was signed.
    #[error("the receipts do not hash to the signed chain")]
    Chain,
    /// A receipt does not read, or has another number.
    #[error("receipt {seq} is not readable, or carries another number")]
    Entry {
        /// Its number.
        seq: u64,
        /// What did not fit, when it did not read.
        #[source]
        source: Option<serde_json::Error>,
    },
    /// Receipts between what is stored and this batch are missing.
    #[error("receipts are missing: the next one is {expected}, this batch begins at {found}")]
    Gap {
        /// The next number.
        expected: u64,
        /// The batch's first.
        found: u64,
    },
    /// Another history under numbers that are taken.
    #[error("another history: receipt {seq} is already stored and is not the one sent")]
    Fork {
        /// The number from which the histories differ, or one after it.
        seq: u64,
        /// The chain hash that is stored.
        expected: Digest,
        /// What was sent.
        found: Digest,
        /// SHA-256 of the signed head's envelope.
        head_sha256: Digest,
    },
}

impl BatchRefusal {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Count(_) => "receipt_batch_size",
            Self::EntrySize { .. } => "receipt_too_large",
            Self::Signature(_) => "receipt_batch_signature",
            Self::Head(_) => "receipt_batch_head",
            Self::Chain => "receipt_chain_broken",
            Self::Entry { .. } => "receipt_unreadable",
            Self::Gap { .. } => "receipts_missing",
            Self::Fork { .. } => "receipts_forked",
        }
    }
}

/// Checks a batch: size, signature, that the head describes it, its own chain, and how it joins what is stored.
pub fn check(batch: &ReceiptBatch, from: &AgentIdentity, pair: &PublicPair, stored: &Stored) -> Result<CheckedBatch, BatchRefusal> {
    if batch.entries.is_empty() || batch.entries.len() > MAX_ENTRIES {
        return Err(BatchRefusal::Count(batch.entries.len()));
    }
    let signed =
        open_document::<ReceiptBatchHead>(batch.head.as_slice(), &Signers::one(pair.clone()), 1).map_err(BatchRefusal::Signature)?;
    let head_sha256 = Digest::of(batch.head.as_slice());
    let head = signed.payload;
    describes(&head, batch, from)?;
    let all = read(batch)?;
    if all.last().is_none_or(|last| last.chain != head.last) {
        return Err(BatchRefusal::Chain);
    }
    let last_seq = batch.first_seq + (batch.entries.len() as u64 - 1);

    if batch.first_seq > stored.last_seq + 1 {
        return Err(BatchRefusal::Gap { expected: stored.last_seq + 1, found: batch.first_seq });
    }
    let fork = |seq, expected, found| Err(BatchRefusal::Fork { seq, expected, found, head_sha256 });
    let before = if batch.first_seq == 1 { Some(chain_start(batch.incarnation)) } else { stored.before_batch };
    match before {
        Some(before) if before == batch.previous => {}
        Some(before) => return fork(batch.first_seq - 1, before, batch.previous),
        None => return Err(BatchRefusal::Gap { expected: stored.last_seq + 1, found: batch.first_seq }),
    }
    // The chain covers everything before a point: agreeing at the last common receipt is agreeing on all of them.
    let last_common = stored.last_seq.min(last_seq);
    if last_common >= batch.first_seq {
        let expected = if last_common == stored.last_seq { stored.last } else { stored.after_batch };
        let ours = usize::try_from(last_common - batch.first_seq).ok().and_then(|index| all.get(index)).map(|entry| entry.chain);
        if let (Some(expected), Some(ours)) = (expected, ours)
            && expected != ours
        {
            return fork(last_common, expected, ours);
        }
    }
    let new = all.into_iter().filter(|entry| entry.receipt.seq > stored.last_seq).collect();
    Ok(CheckedBatch { head, head_sha256, new })
}

fn describes(head: &ReceiptBatchHead, batch: &ReceiptBatch, from: &AgentIdentity) -> Result<(), BatchRefusal> {
    let facts = [
        ("tenant", head.tenant == from.tenant),
        ("site", head.site == from.site),
        ("agent", head.agent == from.agent),
        ("incarnation", head.incarnation == batch.incarnation),
        ("first_seq", head.first_seq == batch.first_seq && batch.first_seq > 0),
        ("count", head.count == batch.entries.len() as u64 && batch.first_seq.checked_add(head.count).is_some()),
        ("previous", head.previous == batch.previous),
    ];
    match facts.iter().find(|(_, same)| !same) {
        Some((what, _)) => Err(BatchRefusal::Head(what)),
        None => Ok(()),
    }
}

fn read(batch: &ReceiptBatch) -> Result<Vec<CheckedReceipt>, BatchRefusal> {
    let mut previous = batch.previous;
    let entry = |(seq, Base64(bytes)): (u64, &Base64)| {
        if bytes.len() > MAX_ENTRY_BYTES {
            return Err(BatchRefusal::EntrySize { seq, bytes: bytes.len() });
        }
        let receipt: Receipt = serde_json::from_slice(bytes).map_err(|source| BatchRefusal::Entry { seq, source: Some(source) })?;
        if receipt.seq != seq || receipt.v != 1 {
            return Err(BatchRefusal::Entry { seq, source: None });
        }
        previous = chain(&previous, bytes);
        Ok(CheckedReceipt { receipt, bytes: bytes.clone(), chain: previous })
    };
    (batch.first_seq..).zip(&batch.entries).map(entry).collect()
}

#[cfg(test)]
mod tests {
    use schema::{
        clock::{ManualIds, Timestamp},
        id::{AgentId, IncarnationId, SiteId, TenantId},
        wire::agent::{OutcomeResult, ReceiptBody},
    };
    use trust::{dsse::sign_document, pair::Pair};

    use super::*;

    fn agent() -> AgentIdentity {
        AgentIdentity { tenant: TenantId::from_bits(1), site: SiteId::from_bits(2), agent: AgentId::from_bits(3) }
    }

    fn entry(seq: u64, size: u64) -> Base64 {
        let body = ReceiptBody::Outcome { intent: seq, result: OutcomeResult::Ok, code: None, size: Some(size) };
        let receipt = Receipt { v: 1, seq, time: Timestamp::from_micros(seq as i64), body };
        Base64(serde_json::to_vec(&receipt).unwrap())
    }

    /// Receipts `from..=to` of a journal whose entries carry `size`.
    fn batch(pair: &Pair, from: u64, to: u64, size: u64) -> ReceiptBatch {
        let incarnation = IncarnationId::from_bits(9);
        let mut previous = chain_start(incarnation);
        for seq in 1..from {
            previous = chain(&previous, entry(seq, 1).as_slice());
        }
        let entries: Vec<_> = (from..=to).map(|seq| entry(seq, size)).collect();
        let last = entries.iter().fold(previous, |hash, entry| chain(&hash, entry.as_slice()));
        let AgentIdentity { tenant, site, agent } = agent();
        let head = ReceiptBatchHead { tenant, site, agent, incarnation, first_seq: from, count: entries.len() as u64, previous, last };
        ReceiptBatch { incarnation, first_seq: from, previous, entries, head: sign_document(&head, &[pair]).into() }
    }

    fn hash_after(pair: &Pair, seq: u64) -> Digest {
        check(&batch(pair, 1, seq, 1), &agent(), pair.public(), &Stored::default()).unwrap().head.last
    }

    #[test]
    fn the_first_batch_and_the_next_are_taken_whole() {
        let pair = Pair::generate(&ManualIds::seeded(1));
        let first = check(&batch(&pair, 1, 3, 1), &agent(), pair.public(), &Stored::default()).unwrap();
        assert_eq!(first.new.len(), 3);
        let last = Some(first.head.last);
        let stored = Stored { last_seq: 3, last, before_batch: last, after_batch: None };
        assert_eq!(check(&batch(&pair, 4, 5, 1), &agent(), pair.public(), &stored).unwrap().new.len(), 2);
    }

    #[test]
    fn a_replay_brings_nothing_new_and_an_overlap_only_what_is() {
        let pair = Pair::generate(&ManualIds::seeded(1));
        let last = Some(hash_after(&pair, 3));
        let replay = Stored { last_seq: 3, last, before_batch: None, after_batch: last };
        assert!(check(&batch(&pair, 1, 3, 1), &agent(), pair.public(), &replay).unwrap().new.is_empty());
        let overlap =
            check(&batch(&pair, 2, 5, 1), &agent(), pair.public(), &Stored { before_batch: Some(hash_after(&pair, 1)), ..replay });
        assert_eq!(overlap.unwrap().new.iter().map(|entry| entry.receipt.seq).collect::<Vec<_>>(), [4, 5]);
    }

    #[test]
    fn gaps_and_forks_are_told_apart() {
        let pair = Pair::generate(&ManualIds::seeded(1));
        let last = Some(hash_after(&pair, 3));
        let stored = Stored { last_seq: 3, last, before_batch: None, after_batch: last };
        let refusal = check(&batch(&pair, 5, 6, 1), &agent(), pair.public(), &stored).unwrap_err();
        assert!(matches!(refusal, BatchRefusal::Gap { expected: 4, found: 5 }));
        let refusal = check(&batch(&pair, 1, 3, 2), &agent(), pair.public(), &stored).unwrap_err();
        assert!(matches!(refusal, BatchRefusal::Fork { seq: 3, .. }), "{refusal}");
        let other = Stored { before_batch: Some(Digest([7; 32])), ..stored };
        assert_eq!(check(&batch(&pair, 4, 4, 1), &agent(), pair.public(), &other).unwrap_err().code(), "receipts_forked");
        // A fork inside what is stored, with more after it.
        let stored = Stored { last_seq: 5, last: Some(hash_after(&pair, 5)), before_batch: None, after_batch: last };
        assert_eq!(check(&batch(&pair, 1, 3, 2), &agent(), pair.public(), &stored).unwrap_err().code(), "receipts_forked");
    }

    #[test]
    fn signature_head_and_chain_are_checked() {
        let pair = Pair::generate(&ManualIds::seeded(1));
        let good = batch(&pair, 1, 3, 1);
        let code = |batch: &ReceiptBatch, from: &AgentIdentity, signer: &Pair| {
            check(batch, from, signer.public(), &Stored::default()).unwrap_err().code()
        };
        assert_eq!(code(&good, &agent(), &Pair::generate(&ManualIds::seeded(2))), "receipt_batch_signature");
        assert_eq!(code(&good, &AgentIdentity { tenant: TenantId::from_bits(7), ..agent() }, &pair), "receipt_batch_head");
        let mut cut = good.clone();
        cut.entries.pop();
        assert_eq!(code(&cut, &agent(), &pair), "receipt_batch_head");
        let mut edited = good.clone();
        edited.entries[1] = entry(2, 99);
        assert_eq!(code(&edited, &agent(), &pair), "receipt_chain_broken");
        let mut swapped = good.clone();
        swapped.entries.swap(0, 1);
        assert_eq!(code(&swapped, &agent(), &pair), "receipt_unreadable");
        let mut empty = good;
        empty.entries.clear();
        assert_eq!(code(&empty, &agent(), &pair), "receipt_batch_size");
    }
}
