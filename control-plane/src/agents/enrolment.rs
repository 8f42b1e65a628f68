//! How an agent joins and keeps its certificate: the file it is given, its first request, its renewals.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use schema::{
    clock::{Clock, Ids, Timestamp, new_id},
    encoding::Digest,
    id::{AgentId, PrincipalId, SiteId, TenantId},
    token::{InvalidToken, Token, TokenKind},
    wire::agent::{
        ComebackRequest, ComebackResponse, EnrolRequest, EnrolResponse, EnrolmentToken, RenewRequest, RenewResponse, StatementSet,
    },
};
use trust::{
    document::{self, CertificateAsk, RosterEntryError, open_roster_entry},
    dsse::{self, EnvelopeError},
    pair::PublicPair,
};

use super::{Agent, AgentCommand, AgentRefusal, Enrol, Invitation};
use crate::{
    access::{context::OpContext, permit::Question},
    authorities::keeper::Keeper,
    bundles::service::{Statements, StatementsError},
    eventing::{
        aggregate::{Aggregate, Deciding},
        handler::{CommandError, Handler, IdempotencyKey, Options},
        view::{Filter, QueryError, Views},
    },
    pki::{
        authority::{IssueError, Issued, SigningRequest},
        identity::AgentIdentity,
    },
    sites::{Site, SiteCommand, SiteRefusal},
};

/// How long an agent's certificate lives, unless settings say otherwise.
pub const DEFAULT_CERTIFICATE_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// By how much the clocks of replicas may differ.
const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The longest host name or program version that is kept.
const MAX_TEXT: usize = 255;

/// What an invitation needs beforehand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Welcome {
    /// SHA-256 of the payload of the tenant's current root: what the agent will pin.
    pub root: Digest,
    /// The key id of the pair of the site's founder; none when the agent will be the site's first.
    pub founder: Option<Digest>,
    /// Agents of the site that were revoked, and the key ids of their pairs.
    pub former: BTreeMap<AgentId, Digest>,
}

/// Why an agent did not join, or got no certificate.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The text is no enrolment token.
    #[error("the enrolment token is not one")]
    Token(#[source] InvalidToken),
    /// Nobody was invited with this token.
    #[error("this enrolment token is unknown; make a new invitation")]
    UnknownToken,
    /// The certificate request cannot be used, or no certificate could be made.
    #[error("no certificate could be made for the request")]
    Certificate(#[source] IssueError),
    /// The roster entry is none, or not signed by its own pair.
    #[error("the roster entry is not one, or not signed by its own pair")]
    RosterEntry(#[source] RosterEntryError),
    /// What is to say who comes back does not.
    #[error("what asks for a certificate is not signed by the agent's pair, or is nothing of the kind")]
    Ask(#[source] EnvelopeError),
    /// It is about another certificate signing request.
    #[error("what asks for a certificate names another certificate signing request than the one beside it")]
    OtherRequest,
    /// The roster entry names another tenant than the token was made in.
    #[error("the roster entry names another tenant than the enrolment file")]
    OtherTenant,
    /// A text is too long.
    #[error("{0} has more than {MAX_TEXT} bytes or control characters")]
    Text(&'static str),
    /// The domain says no, or recording failed.
    #[error(transparent)]
    Command(#[from] CommandError<AgentRefusal>),
    /// Who founds the site could not be recorded.
    #[error("recording who founds the site failed")]
    Founding(#[source] Box<CommandError<SiteRefusal>>),
    /// The read model could not be asked.
    #[error("asking the read model failed")]
    Query(#[from] QueryError),
    /// The tenant's root could not be read.
    #[error("reading the tenant's root failed")]
    Root(#[from] StatementsError),
}

impl EnrolError {
    /// A stable code, when this is an answer to the agent; none for faults.
    pub fn code(&self) -> Option<&'static str> {
        match self {
            Self::Token(_) => Some("enrolment_token_invalid"),
            Self::UnknownToken => Some("enrolment_token_unknown"),
            Self::Certificate(IssueError::Request(_)) => Some("certificate_request_invalid"),
            Self::Certificate(IssueError::KeyType) => Some("certificate_key_type"),
            Self::Certificate(IssueError::Issue(_)) | Self::Query(_) | Self::Root(_) => None,
            Self::Founding(error) => error.code(),
            Self::RosterEntry(_) => Some("roster_entry_invalid"),
            Self::Ask(_) | Self::OtherRequest => Some("certificate_ask_invalid"),
            Self::OtherTenant => Some("roster_entry_of_another_tenant"),
            Self::Text(_) => Some("text_invalid"),
            Self::Command(error) => error.code(),
        }
    }
}

/// Lets agents in.
#[derive(Clone)]
pub struct Enrolment {
    handler: Handler,
    views: Views,
    statements: Statements,
    authorities: Keeper,
    settings: EnrolmentSettings,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
}

/// Whom agents are to believe as their listener.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenerAuthority {
    /// Our own authorities.
    Ours,
    /// These, PEM.
    Named(String),
    /// The authorities of their systems.
    System,
}

/// What the deployment says about agents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnrolmentSettings {
    /// Where agents find their listener, `https://host:port`.
    pub public_url: String,
    /// The authority of that listener's certificate.
    pub listener: ListenerAuthority,
    /// How long a certificate lives; held between a day and thirty.
    pub certificate_life: Duration,
}

impl Enrolment {
    /// Puts the parts together.
    pub fn new(
        handler: Handler,
        views: Views,
        statements: Statements,
        authorities: Keeper,
        settings: EnrolmentSettings,
        clock: Arc<dyn Clock>,
        ids: Arc<dyn Ids>,
    ) -> Self {
        Self { handler, views, statements, authorities, settings, clock, ids }
    }

    /// Our authorities, and the listener's when it is another: agents learn with each certificate whom to believe next.
    fn authorities_pem(&self) -> String {
        let own = self.authorities.current().pem.clone();
        match &self.settings.listener {
            ListenerAuthority::Named(other) => format!("{own}{other}"),
            ListenerAuthority::Ours | ListenerAuthority::System => own,
        }
    }

    fn issue(&self, request: &SigningRequest, identity: &AgentIdentity) -> Result<Issued, EnrolError> {
        let (issuer, life) = (self.authorities.current().issuer.clone(), self.settings.certificate_life);
        issuer.issue_agent(request, identity, life, &*self.ids, self.clock.now()).map_err(EnrolError::Certificate)
    }

    /// What an invitation to a site needs: looked up before the command.
    pub async fn welcome(&self, tenant: TenantId, site: SiteId) -> Result<Welcome, EnrolError> {
        let agents = self.agents_of(tenant, site).await?;
        // Who has just enrolled may not be in the read model yet. An invitation that does not name it would be refused.
        let founder = match founder(&agents) {
            None => self.recorded_founder(tenant, site).await?,
            known => known,
        };
        Ok(Welcome { root: self.statements.root(tenant).await?.sha256, founder, former: former(&agents) })
    }

    /// Whom the site's own stream names as the first of its agents, when that one is at work.
    async fn recorded_founder(&self, tenant: TenantId, site: SiteId) -> Result<Option<Digest>, EnrolError> {
        let Some(named) = self.handler.load::<Site>(tenant, site).await.map_err(fault)?.state.founder else { return Ok(None) };
        let agent = self.handler.load::<Agent>(tenant, named.agent).await?.state;
        Ok(founder(std::slice::from_ref(&agent)).filter(|keyid| *keyid == named.keyid))
    }

    /// The file an agent is given. Secret: it holds the token.
    pub fn file(
        &self,
        tenant: TenantId,
        site: SiteId,
        agent: AgentId,
        welcome: &Welcome,
        token: &Token,
        expires: Timestamp,
    ) -> EnrolmentToken {
        EnrolmentToken {
            v: 1,
            control_plane: self.settings.public_url.clone(),
            ca_pem: match &self.settings.listener {
                ListenerAuthority::Ours => Some(self.authorities.current().pem.clone()),
                ListenerAuthority::Named(pem) => Some(pem.clone()),
                ListenerAuthority::System => None,
            },
            tenant,
            site,
            agent,
            root: welcome.root,
            founder: welcome.founder,
            former: welcome.former.clone(),
            token: token.reveal().to_owned(),
            expires,
        }
    }

    /// An agent comes with its token. Who it is follows from the token; that it may be believed, from its pair and vouches.
    pub async fn enrol(&self, request: &EnrolRequest) -> Result<EnrolResponse, EnrolError> {
        let token = Token::parse(TokenKind::Enrolment, &request.token).map_err(EnrolError::Token)?;
        let digest = token.digest();
        let (tenant, invited) = self.views.by_handle::<Agent>(&digest).await?.ok_or(EnrolError::UnknownToken)?;
        let site = invited.state.fixed.as_ref().map(|fixed| fixed.site).ok_or(EnrolError::UnknownToken)?;
        for (what, text) in [("host", &request.host), ("agent_version", &request.agent_version)] {
            if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
                return Err(EnrolError::Text(what));
            }
        }
        let (entry, pair) = open_roster_entry(request.roster_entry.as_slice()).map_err(EnrolError::RosterEntry)?;
        if entry.tenant != tenant {
            return Err(EnrolError::OtherTenant);
        }
        let signing_request = SigningRequest::parse(&request.csr_pem).map_err(EnrolError::Certificate)?;
        let identity = AgentIdentity { tenant, site, agent: invited.id };
        let issued = self.issue(&signing_request, &identity)?;
        let csr = Digest::of(signing_request.der());
        let others = self.agents_of(tenant, site).await?;
        let command = Enrol {
            token: digest,
            agent: entry.agent,
            site: entry.site,
            root: entry.root,
            keyid: pair.keyid(),
            ed25519: entry.ed25519,
            ml_dsa_65: entry.ml_dsa_65,
            roster_entry: request.roster_entry.clone(),
            csr,
            certificate_key: Digest::of(signing_request.public_key()),
            certificate_serial: issued.serial.clone(),
            certificate_expires: issued.expires,
            host: request.host.clone(),
            agent_version: request.agent_version.clone(),
            site_is_founded: others.iter().any(|other| other.rostered.is_some() && other.is_one()),
        };
        let command = AgentCommand::Enrol(Box::new(command));
        self.found(&identity, pair.keyid(), &command).await?;
        self.record(&identity, "enrolAgent", &csr, command).await?;
        tracing::info!(%tenant, %site, agent = %invited.id, "an agent enrolled");
        Ok(EnrolResponse {
            agent: invited.id,
            certificate_pem: issued.chain_pem,
            ca_pem: self.authorities_pem(),
            certificate_expires: issued.expires,
        })
    }

    /// The next certificate of an agent that proved who it is: in TLS, or by its pair; and possession of its key in the request.
    pub async fn renew(&self, identity: &AgentIdentity, request: &RenewRequest) -> Result<RenewResponse, EnrolError> {
        let signing_request = SigningRequest::parse(&request.csr_pem).map_err(EnrolError::Certificate)?;
        let issued = self.renewed(identity, &signing_request).await?;
        Ok(RenewResponse { certificate_pem: issued.chain_pem, ca_pem: self.authorities_pem(), certificate_expires: issued.expires })
    }

    /// Who says it comes back, and with which request. Whether it is that agent is judged by [`Self::come_back`].
    pub fn comeback(request: &ComebackRequest) -> Result<(AgentIdentity, SigningRequest), EnrolError> {
        let signing_request = SigningRequest::parse(&request.csr_pem).map_err(EnrolError::Certificate)?;
        let claimed: CertificateAsk = dsse::peek_document(request.ask.as_slice()).map_err(EnrolError::Ask)?;
        let CertificateAsk { tenant, site, agent, csr, .. } = claimed;
        if csr != Digest::of(signing_request.der()) {
            return Err(EnrolError::OtherRequest);
        }
        Ok((AgentIdentity { tenant, site, agent }, signing_request))
    }

    /// Whether there is such an agent. Asked before anything is read for a tenant that somebody only claims to be of.
    pub async fn knows(&self, identity: &AgentIdentity) -> Result<bool, EnrolError> {
        Ok(self.views.by_id::<Agent>(identity.tenant, identity.agent, None).await?.is_some())
    }

    /// An agent that knows no authority of ours any more, or whose certificate nobody takes, proves by its pair who it is. It gets
    /// a certificate, and a heartbeat that names whom to believe. No more: whom it talks to it knows only afterwards.
    pub async fn come_back(
        &self,
        (identity, agent): (&AgentIdentity, &Agent),
        request: &ComebackRequest,
        signing_request: &SigningRequest,
    ) -> Result<ComebackResponse, EnrolError> {
        let enrolment = agent.enrolment.as_ref().ok_or(EnrolError::UnknownToken)?;
        let pair = PublicPair::parse(enrolment.ed25519.as_slice(), enrolment.ml_dsa_65.as_slice()).map_err(|_| EnrolError::OtherRequest)?;
        document::open::<CertificateAsk>(request.ask.as_slice(), &pair).map_err(EnrolError::Ask)?;
        let AgentIdentity { tenant, site, agent } = *identity;
        // A new heartbeat names all that are believed now.
        self.statements.beat(tenant, site).await?;
        let served = self.statements.set(tenant, site).await?.ok_or(EnrolError::Root(StatementsError::Missing))?;
        let set: StatementSet = serde_json::from_slice(&served.body).map_err(|_| EnrolError::Root(StatementsError::Missing))?;
        let heartbeat = set.heartbeat.ok_or(EnrolError::Root(StatementsError::Missing))?;
        let issued = self.renewed(identity, signing_request).await?;
        tracing::info!(%tenant, %site, %agent, "an agent came back by its pair");
        Ok(ComebackResponse {
            roots: set.roots,
            heartbeat,
            ca_pem: self.authorities_pem(),
            certificate_pem: issued.chain_pem,
            certificate_expires: issued.expires,
        })
    }

    async fn renewed(&self, identity: &AgentIdentity, signing_request: &SigningRequest) -> Result<Issued, EnrolError> {
        let issued = self.issue(signing_request, identity)?;
        let command = AgentCommand::RenewCertificate {
            csr: Digest::of(signing_request.der()),
            certificate_key: Digest::of(signing_request.public_key()),
            certificate_serial: issued.serial.clone(),
            certificate_expires: issued.expires,
        };
        let question = Question::new("renewCertificate", "Agent", identity.agent);
        let ctx = self.context(identity);
        self.handler.handle::<Agent>(&ctx, question, identity.agent, Options::default(), command).await?;
        Ok(issued)
    }

    /// Of several agents that were invited to an empty site, one founds it. The site's own stream says which: that is decided
    /// before the agent enrols, so that two which come at the same moment cannot both.
    async fn found(&self, identity: &AgentIdentity, keyid: Digest, enrol: &AgentCommand) -> Result<(), EnrolError> {
        let AgentIdentity { tenant, site, agent } = *identity;
        let joiner = self.handler.load::<Agent>(tenant, agent).await?.state;
        let now = self.clock.now();
        let is_first = joiner.enrolment.is_none() && joiner.invitation.as_ref().is_some_and(|invitation| invitation.founder.is_none());
        // Who would be refused anyway founds nothing.
        if !is_first || joiner.decide(enrol, &Deciding { now, ids: &*self.ids }).is_err() {
            return Ok(());
        }
        let founder = self.handler.load::<Site>(tenant, site).await.map_err(fault)?.state.founder;
        let instead_of = match founder.filter(|founder| founder.agent != agent) {
            None => None,
            Some(founder) => {
                let former = self.handler.load::<Agent>(tenant, founder.agent).await?.state;
                may_never_act(&former, now).then_some(founder.agent)
            }
        };
        let question = Question::new("foundSite", "Site", site);
        let command = SiteCommand::Found { agent, keyid, instead_of };
        match self.handler.handle::<Site>(&self.context(identity), question, site, Options::default(), command).await {
            Ok(_) => Ok(()),
            Err(CommandError::Refused(SiteRefusal::Founded)) => Err(CommandError::Refused(AgentRefusal::FounderMissing).into()),
            Err(error) => Err(fault(error)),
        }
    }

    /// Under an idempotency key of the certificate request: an agent that lost the answer asks again with the same one.
    async fn record(&self, identity: &AgentIdentity, action: &'static str, csr: &Digest, command: AgentCommand) -> Result<(), EnrolError> {
        let options = Options { idempotency_key: csr.to_string().parse::<IdempotencyKey>().ok(), ..Options::default() };
        let question = Question::new(action, "Agent", identity.agent);
        self.handler.handle::<Agent>(&self.context(identity), question, identity.agent, options, command).await?;
        Ok(())
    }

    async fn agents_of(&self, tenant: TenantId, site: SiteId) -> Result<Vec<Agent>, QueryError> {
        self.views.every_of(tenant, &Filter { parent: Some(site.to_string()), ..Filter::default() }).await
    }

    fn context(&self, identity: &AgentIdentity) -> OpContext {
        agent_context(identity, &*self.ids, self.clock.now())
    }
}

/// Whether an agent was revoked or cut off, or was invited and can no longer come. Clocks of replicas may differ by a minute.
fn may_never_act(agent: &Agent, now: Timestamp) -> bool {
    let too_late = |invitation: &Invitation| invitation.cancelled.is_some() || invitation.expires.plus(CLOCK_TOLERANCE) < now;
    !agent.is_one() || (agent.enrolment.is_none() && agent.invitation.as_ref().is_none_or(too_late))
}

fn fault(error: CommandError<SiteRefusal>) -> EnrolError {
    EnrolError::Founding(Box::new(error))
}

/// An agent as the one who acts.
pub fn agent_context(identity: &AgentIdentity, ids: &dyn Ids, now: Timestamp) -> OpContext {
    let request = service::log::RequestContext::current().map_or_else(|| new_id(ids, now), |context| context.id);
    OpContext { tenant: identity.tenant, principal: PrincipalId::Agent(identity.agent), scopes: Vec::new(), via: None, request }
}

/// Whom a joiner believes first: of the agents at work the one that was rostered first.
fn founder(agents: &[Agent]) -> Option<Digest> {
    let at_work = agents.iter().filter(|agent| agent.rostered.is_some() && agent.is_one());
    at_work.min_by_key(|agent| agent.rostered).and_then(|agent| agent.enrolment.as_ref()).map(|enrolment| enrolment.keyid)
}

/// Agents that were of the site and were revoked: who joins now never saw them at work, and must know whose signatures stand
/// under the versions they made.
fn former(agents: &[Agent]) -> BTreeMap<AgentId, Digest> {
    let revoked = agents.iter().filter(|agent| agent.rostered.is_some() && agent.revoked.is_some());
    revoked.filter_map(|agent| Some((agent.fixed.as_ref()?.id, agent.enrolment.as_ref()?.keyid))).collect()
}
