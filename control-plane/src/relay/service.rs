//! One exchange between an agent and the relay.

use std::{collections::BTreeSet, error::Error, sync::Arc};

use schema::{
    clock::{Clock, Ids, Timestamp},
    encoding::Base64,
    id::{AgentId, PrekeyId, SiteId, TenantId},
    wire::{
        agent::RefusedDocument,
        relay::{MAX_CONTEXT_KEYS, MAX_DONE, MAX_NEIGHBOURS, MAX_PREKEYS, MAX_TRANSFERS, RelayAnswer, RelayAsk, Waiting},
    },
};
use trust::{
    document::{ContextKeyTransfer, Document, Prekey, Transfer},
    dsse::{EnvelopeError, open_document},
    pair::{PublicPair, Signers},
    seal::PREKEY_PUBLIC_BYTES,
};

use super::rows::{RelayRows, RelayRowsError, Relayed, What};
use crate::{
    access::permit::Question,
    agents::{Agent, enrolment::agent_context},
    eventing::{
        handler::{CommandError, Handler, Options},
        view::{Filter, QueryError, Views},
    },
    keys::{Key, KeyCommand, RecordSent},
    pki::identity::AgentIdentity,
};

/// The longest life of a prekey that the relay keeps: air-gapped sites fetch by file, days later.
const LONGEST_PREKEY: std::time::Duration = std::time::Duration::from_secs(31 * 86_400);
/// The most transfers that wait for one agent.
const MAX_WAITING: u64 = 20_000;

/// The most context keys of one sender that wait for one agent: two months', again after each restart of either.
const MAX_CONTEXT_KEYS_WAITING: u64 = 50;

/// Why an exchange came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// The agent may do nothing for now.
    #[error("an agent receives and sends material once somebody has vouched for it, and while it is not suspended")]
    NotAtWork,
    /// Too much at once.
    #[error("{list} has more than {max} entries; send the rest in the next request")]
    TooMany {
        /// Which list.
        list: &'static str,
        /// The most.
        max: usize,
    },
    /// The table.
    #[error(transparent)]
    Rows(#[from] RelayRowsError),
    /// The read model.
    #[error("asking which sites share a key failed")]
    Views(#[from] QueryError),
    /// What is stored does not read.
    #[error("what is stored of the agent is damaged")]
    Damaged,
    /// A command came to nothing because of a fault.
    #[error("recording that material was sent failed")]
    Fault(#[source] Box<dyn Error + Send + Sync>),
}

impl RelayError {
    /// A stable code; none for faults.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::NotAtWork => Some("agent_not_rostered"),
            Self::TooMany { .. } => Some("relay_request_too_large"),
            Self::Rows(_) | Self::Views(_) | Self::Damaged | Self::Fault(_) => None,
        }
    }
}

/// Why one document is not relayed.
enum Turned {
    Refused { code: &'static str, detail: String },
    Fault(RelayError),
}

impl From<RelayRowsError> for Turned {
    fn from(error: RelayRowsError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<EnvelopeError> for Turned {
    fn from(error: EnvelopeError) -> Self {
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::Refused { code: "document_not_genuine", detail: format!("{error}{cause}") }
    }
}

fn refused<T>(code: &'static str, detail: &str) -> Result<T, Turned> {
    Err(Turned::Refused { code, detail: detail.to_owned() })
}

/// Relays.
#[derive(Clone)]
pub struct Relay {
    handler: Handler,
    views: Views,
    rows: RelayRows,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

/// Who asks.
struct Asker<'a> {
    identity: &'a AgentIdentity,
    signers: Signers,
    now: Timestamp,
}

impl Relay {
    /// Puts the parts together.
    pub fn new(handler: Handler, views: Views, rows: RelayRows, clock: Arc<dyn Clock>, ids: Arc<dyn Ids>) -> Self {
        Self { handler, views, rows, clock, ids }
    }

    /// Takes what an agent has for others, and gives what others have for it. Anything may be asked again.
    pub async fn exchange(&self, identity: &AgentIdentity, agent: &Agent, ask: &RelayAsk) -> Result<RelayAnswer, RelayError> {
        if !agent.is_at_work() {
            return Err(RelayError::NotAtWork);
        }
        let lists = [
            ("prekeys", ask.prekeys.len(), MAX_PREKEYS),
            ("transfers", ask.transfers.len(), MAX_TRANSFERS),
            ("context_keys", ask.context_keys.len(), MAX_CONTEXT_KEYS),
            ("neighbours", ask.neighbours.len(), MAX_NEIGHBOURS),
            ("done", ask.done.len(), MAX_DONE),
        ];
        if let Some((list, _, max)) = lists.into_iter().find(|(_, length, max)| length > max) {
            return Err(RelayError::TooMany { list, max });
        }
        let enrolment = agent.enrolment.as_ref().ok_or(RelayError::Damaged)?;
        let pair = PublicPair::parse(enrolment.ed25519.as_slice(), enrolment.ml_dsa_65.as_slice()).map_err(|_| RelayError::Damaged)?;
        let asker = Asker { identity, signers: Signers::one(pair), now: self.clock.now() };
        let (tenant, me) = (identity.tenant, identity.agent);
        let mut answer = RelayAnswer::default();

        self.rows.sweep(tenant, asker.now).await?;
        let (mut prekeys, mut shown) = (Vec::new(), Vec::new());
        for (index, bytes) in ask.prekeys.iter().enumerate() {
            match asker.prekey(bytes) {
                Ok(prekey) => {
                    shown.push(prekey.prekey);
                    prekeys.push(prekey);
                }
                turned => note(&mut answer, "prekeys", index, turned.map(drop))?,
            }
        }
        self.rows.keep_only(tenant, me, &shown).await?;
        self.rows.forget(tenant, me, &ask.done).await?;
        for prekey in &prekeys {
            self.rows.keep(tenant, prekey, asker.now).await?;
        }
        for (index, bytes) in ask.transfers.iter().enumerate() {
            let taken = self.transfer(&asker, bytes).await;
            note(&mut answer, "transfers", index, taken)?;
        }
        for (index, bytes) in ask.context_keys.iter().enumerate() {
            let taken = self.context_key(&asker, bytes).await;
            note(&mut answer, "context_keys", index, taken)?;
        }
        let sites = self.sites(identity, &ask.neighbours).await?;
        answer.prekeys = self.rows.prekeys(tenant, &sites, me).await?;
        answer.transfers = self.rows.transfers(tenant, me).await?;
        answer.context_keys = self.rows.context_keys(tenant, me).await?;
        answer.waiting = self.rows.waiting(tenant, &sites, me).await?;
        Ok(answer)
    }

    /// The site of an agent, and of those it asks for the ones that share a key with it.
    async fn sites(&self, identity: &AgentIdentity, neighbours: &[SiteId]) -> Result<Vec<SiteId>, RelayError> {
        let mut sites = vec![identity.site];
        let others: BTreeSet<SiteId> = neighbours.iter().copied().filter(|site| *site != identity.site).collect();
        for site in others {
            let terms = [identity.site, site].map(|site| ("site".to_owned(), site.to_string())).into();
            if self.views.count::<Key>(identity.tenant, &Filter { terms, ..Filter::default() }).await? > 0 {
                sites.push(site);
            }
        }
        Ok(sites)
    }

    /// Records that material is on its way to somebody, then keeps it for them.
    async fn transfer(&self, asker: &Asker<'_>, bytes: &Base64) -> Result<(), Turned> {
        let transfer: Transfer = asker.open(bytes)?;
        let head = transfer.head;
        if head.sender != asker.identity.agent {
            return refused("transfer_of_another_agent", "an agent sends what it sealed itself");
        }
        asker.is_here(head.tenant, head.site)?;
        let tenant = asker.identity.tenant;
        let expires = self.may_reach(tenant, head.destination(), head.recipient, head.prekey).await?;
        let waiting = Waiting { recipient: head.recipient, prekey: head.prekey, version: head.version };
        let (same, all) = self.rows.waits(tenant, waiting, head.sender).await?;
        if same {
            return Ok(());
        }
        if all >= MAX_WAITING {
            return refused("relay_full", "too much waits for this recipient: it has to fetch some first");
        }
        let sent = RecordSent {
            version: head.version,
            sites: [head.site, head.destination()],
            sender: head.sender,
            recipient: head.recipient,
            fingerprint: head.fingerprint,
        };
        let context = agent_context(asker.identity, &*self.ids, asker.now);
        let question = Question::new("relayMaterial", "Key", head.version.key);
        let recorded =
            self.handler.handle::<Key>(&context, question, head.version.key, Options::default(), KeyCommand::RecordSent(sent)).await;
        recorded.map_err(|error: CommandError<_>| match error.code() {
            Some(code) => Turned::Refused { code, detail: error.to_string() },
            None => fault(Box::new(error)),
        })?;
        let what = What::Material(head.sender, head.version);
        let site = head.destination();
        let relayed = Relayed { recipient: head.recipient, site, prekey: head.prekey, what, expires, bytes: bytes.clone() };
        Ok(self.rows.keep(tenant, &relayed, asker.now).await?)
    }

    /// Keeps a context key for its recipient. It is no key of the tenant's, and no destruction asks who has it: there is no event.
    async fn context_key(&self, asker: &Asker<'_>, bytes: &Base64) -> Result<(), Turned> {
        let head = asker.open::<ContextKeyTransfer>(bytes)?.head;
        if head.sender != asker.identity.agent {
            return refused("transfer_of_another_agent", "an agent sends what it sealed itself");
        }
        asker.is_here(head.tenant, head.site)?;
        let tenant = asker.identity.tenant;
        let expires = self.may_reach(tenant, head.site, head.recipient, head.prekey).await?;
        if self.rows.context_keys_of(tenant, head.recipient, head.sender).await? >= MAX_CONTEXT_KEYS_WAITING {
            return refused("relay_full", "too much waits for this recipient: it has to fetch some first");
        }
        let what = What::ContextKey(head.sender);
        let relayed = Relayed { recipient: head.recipient, site: head.site, prekey: head.prekey, what, expires, bytes: bytes.clone() };
        Ok(self.rows.keep(tenant, &relayed, asker.now).await?)
    }

    /// Until when something that is sealed to a prekey of this agent may wait for it.
    async fn may_reach(&self, tenant: TenantId, site: SiteId, recipient: AgentId, prekey: PrekeyId) -> Result<Timestamp, Turned> {
        let loaded = self.handler.load::<Agent>(tenant, recipient).await.map_err(|error| fault(Box::new(error)))?;
        let at_work = loaded.state.is_at_work() && loaded.state.fixed.as_ref().is_some_and(|fixed| fixed.site == site);
        if !at_work {
            return refused("transfer_recipient_not_at_work", "the recipient is no agent at work at the site that is named");
        }
        match self.rows.prekey_end(tenant, recipient, prekey).await? {
            Some(expires) => Ok(expires),
            None => refused("prekey_unknown", "the recipient shows no such prekey, or no longer"),
        }
    }
}

fn fault(error: Box<dyn Error + Send + Sync>) -> Turned {
    Turned::Fault(RelayError::Fault(error))
}

fn note(answer: &mut RelayAnswer, list: &str, index: usize, outcome: Result<(), Turned>) -> Result<(), RelayError> {
    match outcome {
        Ok(()) => Ok(()),
        Err(Turned::Fault(error)) => Err(error),
        Err(Turned::Refused { code, detail }) => {
            answer.refused.push(RefusedDocument { list: list.to_owned(), index, code: code.to_owned(), detail });
            Ok(())
        }
    }
}

impl Asker<'_> {
    /// Reads a document that the asker's own pair must have signed.
    fn open<D: Document>(&self, bytes: &Base64) -> Result<D, Turned> {
        Ok(open_document::<D>(bytes.as_slice(), &self.signers, 1)?.payload)
    }

    fn prekey(&self, bytes: &Base64) -> Result<Relayed, Turned> {
        let prekey: Prekey = self.open(bytes)?;
        if prekey.agent != self.identity.agent {
            return refused("prekey_of_another_agent", "an agent shows its own prekeys");
        }
        self.is_here(prekey.tenant, prekey.site)?;
        if prekey.not_after < self.now || prekey.not_after > self.now.plus(LONGEST_PREKEY) {
            return refused("prekey_ended", "a prekey is good for a month at most, and must not have ended");
        }
        if prekey.public_key.as_slice().len() != PREKEY_PUBLIC_BYTES {
            return refused("prekey_malformed", "the public key is none of MLKEM768-X25519");
        }
        let (recipient, site, expires) = (prekey.agent, prekey.site, prekey.not_after);
        Ok(Relayed { recipient, site, prekey: prekey.id, what: What::Prekey, expires, bytes: bytes.clone() })
    }

    fn is_here(&self, tenant: TenantId, site: SiteId) -> Result<(), Turned> {
        if tenant == self.identity.tenant && site == self.identity.site {
            return Ok(());
        }
        refused("document_of_another_site", "the document names another tenant or site than the agent's own")
    }
}
