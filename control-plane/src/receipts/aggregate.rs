//! The receipts of one incarnation of an agent's journal, as a stream of events: how far they were taken, and what forked.

use schema::{
    encoding::Digest,
    event::receipt::{ReceiptEvent, ReceiptsAccepted, ReceiptsForked},
    id::{AgentId, IncarnationId, SiteId},
};
use serde::{Deserialize, Serialize};

use crate::eventing::{
    aggregate::{Aggregate, Deciding, EventMeta, Index},
    refusals,
};

/// How far the receipts of a journal were taken.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct JournalStream {
    /// Whose journal it is.
    pub agent: Option<AgentId>,
    /// The last receipt taken.
    pub last_seq: u64,
    /// The chain hash after it.
    pub chain: Option<Digest>,
    /// SHA-256 of the signed heads of batches that told another history.
    pub forks: Vec<Digest>,
}

/// What may be asked of it.
#[derive(Debug, Clone, Serialize)]
pub enum JournalCommand {
    /// Receipts up to here are stored.
    Accept {
        /// The site.
        site: SiteId,
        /// The agent.
        agent: AgentId,
        /// Those before this one are lost: this control plane was restored from an older backup, and the agent has freed them.
        #[serde(skip_serializing_if = "Option::is_none")]
        lost_to: Option<u64>,
        /// The last receipt of the batch.
        last_seq: u64,
        /// The chain hash after it.
        chain: Digest,
        /// SHA-256 of the signed head of the batch.
        head_sha256: Digest,
    },
    /// A batch told another history.
    Fork {
        /// The site.
        site: SiteId,
        /// The agent.
        agent: AgentId,
        /// The first number of the batch.
        first_seq: u64,
        /// The chain hash that is stored.
        expected: Digest,
        /// The one that was sent.
        found: Digest,
        /// SHA-256 of the signed head of the batch.
        head_sha256: Digest,
    },
}

refusals! {
    /// Why it says no.
    JournalRefusal {
        OtherAgent = "journal_of_another_agent", "this incarnation belongs to another agent's journal";
    }
}

impl Aggregate for JournalStream {
    type Id = IncarnationId;
    type Command = JournalCommand;
    type Event = ReceiptEvent;
    type Refusal = JournalRefusal;
    const KIND: &'static str = "journal";

    fn decide(&self, command: &JournalCommand, _: &Deciding<'_>) -> Result<Vec<ReceiptEvent>, JournalRefusal> {
        let (JournalCommand::Accept { agent, .. } | JournalCommand::Fork { agent, .. }) = command;
        if self.agent.is_some_and(|owner| owner != *agent) {
            return Err(JournalRefusal::OtherAgent);
        }
        Ok(match command.clone() {
            // A batch that came twice.
            JournalCommand::Accept { last_seq, .. } if last_seq <= self.last_seq => Vec::new(),
            JournalCommand::Accept { site, agent, lost_to, last_seq, chain, head_sha256 } => {
                let first_seq = lost_to.unwrap_or(0).max(self.last_seq) + 1;
                vec![ReceiptsAccepted { site, agent, first_seq, last_seq, chain, head_sha256 }.into()]
            }
            JournalCommand::Fork { head_sha256, .. } if self.forks.contains(&head_sha256) => Vec::new(),
            JournalCommand::Fork { site, agent, first_seq, expected, found, head_sha256 } => {
                vec![ReceiptsForked { site, agent, first_seq, expected, found, head_sha256 }.into()]
            }
        })
    }

    fn evolve(&mut self, event: &ReceiptEvent, _: &EventMeta) {
        match event {
            ReceiptEvent::ReceiptsAccepted(event) => {
                (self.agent, self.last_seq, self.chain) = (Some(event.agent), event.last_seq, Some(event.chain));
            }
            ReceiptEvent::ReceiptsForked(event) => {
                self.agent = Some(event.agent);
                self.forks.push(event.head_sha256);
            }
        }
    }

    /// The parent is the agent; a journal that forked is listed as such.
    fn index(&self) -> Index {
        let state = if self.forks.is_empty() { "whole" } else { "forked" };
        Index { parent: self.agent.map(|agent| agent.to_string()), state: Some(state.to_owned()), ..Index::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::eventing::scenario::Scenario;

    const AGENT: AgentId = AgentId::from_bits(3);
    const SITE: SiteId = SiteId::from_bits(2);

    fn accept(agent: AgentId, last_seq: u64) -> JournalCommand {
        JournalCommand::Accept { site: SITE, agent, lost_to: None, last_seq, chain: Digest([1; 32]), head_sha256: Digest([2; 32]) }
    }

    fn accepted(first_seq: u64, last_seq: u64) -> ReceiptEvent {
        ReceiptsAccepted { site: SITE, agent: AGENT, first_seq, last_seq, chain: Digest([1; 32]), head_sha256: Digest([2; 32]) }.into()
    }

    #[test]
    fn a_replay_is_recorded_once_and_the_next_run_joins_on() {
        Scenario::<JournalStream>::of(IncarnationId::from_bits(1))
            .when(&accept(AGENT, 4))
            .then([accepted(1, 4)])
            .when(&accept(AGENT, 4))
            .then([])
            .when(&accept(AGENT, 9))
            .then([accepted(5, 9)])
            .when(&accept(AgentId::from_bits(9), 12))
            .then_refused("journal_of_another_agent");
    }

    #[test]
    fn what_was_lost_is_no_part_of_a_run() {
        let after = JournalCommand::Accept {
            site: SITE,
            agent: AGENT,
            lost_to: Some(7),
            last_seq: 9,
            chain: Digest([1; 32]),
            head_sha256: Digest([2; 32]),
        };
        Scenario::<JournalStream>::of(IncarnationId::from_bits(1)).given([accepted(1, 4)]).when(&after).then([accepted(8, 9)]);
    }

    #[test]
    fn each_fork_is_recorded_once() {
        let fork = JournalCommand::Fork {
            site: SITE,
            agent: AGENT,
            first_seq: 3,
            expected: Digest([1; 32]),
            found: Digest([4; 32]),
            head_sha256: Digest([5; 32]),
        };
        let (scenario, events) =
            Scenario::<JournalStream>::of(IncarnationId::from_bits(1)).given([accepted(1, 4)]).when(&fork).then_accepted();
        assert_eq!(events.len(), 1);
        scenario.when(&fork).then([]);
    }
}
