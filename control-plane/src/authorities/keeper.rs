//! Keeps the authorities of this process current: who certifies, and whose certificates are believed. Other replicas rotate too.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use schema::{
    clock::{Clock, Ids, Timestamp, new_id},
    encoding::Digest,
    event::authority::AuthorityEvent,
    id::{AuthoritiesId, PrincipalId, RequestId},
};
use tokio::sync::watch;

use super::{Authorities, AuthorityCommand, AuthorityRefusal, Stage};
use crate::{
    access::{
        context::{DEPLOYMENT, OpContext},
        permit::Question,
    },
    bundles::heartbeat::Named,
    eventing::handler::{CommandError, Handler, Options},
    pki::authority::{Authority, InvalidAuthority, IssueError, LIFE_MAX},
    pki::listener::RENEWAL_WINDOW,
    sealing::{SealingError, Secret, Secrets},
};

/// Agents are told of the next authority for so long before it takes over: those that only learn with their certificates (lives of
/// a week) have had two by then.
pub const TOLD_BEFORE: Duration = Duration::from_secs(14 * 86_400);
/// The next authority is made when the one in force has less than this left.
const ROTATE_BEFORE: Duration = Duration::from_secs(2 * 365 * 86_400);
/// After it was taken over from, an authority is believed for so long: what it certified may live, and then renew.
pub const FORMER_LIFE: Duration = Duration::from_secs(LIFE_MAX.as_secs() + RENEWAL_WINDOW.as_secs() + 86_400);
/// How often it is looked whether it is time, and what other replicas did.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Where the key of the first authority was kept before there could be several.
pub(crate) const FIRST_SECRET: &str = "agent-authority";

/// Why the authorities cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// Making one failed.
    #[error("making a certificate authority of agents failed")]
    Make(#[from] IssueError),
    /// What is kept is none.
    #[error("reading a certificate authority of agents failed")]
    Read(#[from] InvalidAuthority),
    /// The key could not be kept or read.
    #[error("keeping or reading the key of a certificate authority of agents failed")]
    Secret(#[from] SealingError),
    /// Recording failed, or was refused.
    #[error(transparent)]
    Command(#[from] CommandError<AuthorityRefusal>),
    /// The history names an authority whose key is not there.
    #[error(
        "the key of the certificate authority of agents {0} is missing from the database; restore the database that belongs to these records"
    )]
    KeyMissing(Digest),
}

/// How an operator rotates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rotation {
    /// The next one is made; it takes over by itself.
    Announced,
    /// The next one takes over at once, whatever agents were told.
    Now,
    /// The same, and no other one is believed any more.
    Compromised,
}

/// The authorities, shared by all parts of this process.
#[derive(Clone)]
pub struct Keeper(Arc<Inner>);

struct Inner {
    handler: Handler,
    secrets: Secrets,
    clock: Arc<dyn Clock>,
    ids: Arc<dyn Ids>,
    id: AuthoritiesId,
    /// Certificates of others that agents are told to believe: of the listener's own authority, where settings name one.
    beside: Vec<Vec<u8>>,
    named: Named,
    current: RwLock<Arc<Current>>,
    changed: watch::Sender<u64>,
}

/// What is so now.
pub struct Current {
    /// Certifies.
    pub issuer: Arc<Authority>,
    /// Every authority there was.
    pub all: Authorities,
    /// Those that are believed, PEM.
    pub pem: String,
}

impl Keeper {
    /// Reads the authorities, and makes the first one when there is none. `beside` are told of as well; `named` is what heartbeats name.
    pub async fn open(
        handler: Handler,
        secrets: Secrets,
        (clock, ids): (Arc<dyn Clock>, Arc<dyn Ids>),
        beside: Vec<Vec<u8>>,
        named: Named,
    ) -> Result<Self, AuthorityError> {
        let keys = handler.keys(DEPLOYMENT).await?;
        let id = keys.derived_id("agent-authorities", &[]);
        let mut all = handler.load::<Authorities>(DEPLOYMENT, id).await?.state;
        if all.in_force().is_none() {
            let made = Authority::generate(&*ids, clock.now())?;
            // Of several replicas that start at once, all use the first.
            let kept = secrets.keep_first(DEPLOYMENT, FIRST_SECRET, &Secret::new(made.to_secret()?.to_vec())).await?;
            let first = Authority::from_secret(kept.reveal())?;
            secrets.put_secret(DEPLOYMENT, &secret_name(&first.sha256()), &kept).await?;
            let now = clock.now();
            let make = make(&first, now);
            let ctx = system(&*ids, now);
            all = handler.handle::<Authorities>(&ctx, question("keepAuthorities", id), id, Options::default(), make).await?.state;
        }
        let current = Arc::new(current(&secrets, all).await?);
        let keeper = Self(Arc::new(Inner {
            handler,
            secrets,
            clock,
            ids,
            id,
            beside,
            named,
            current: RwLock::new(current.clone()),
            changed: watch::Sender::new(0),
        }));
        keeper.name(&current);
        Ok(keeper)
    }

    /// What is so now.
    pub fn current(&self) -> Arc<Current> {
        self.0.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells when it is otherwise.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.0.changed.subscribe()
    }

    /// An operator rotates.
    pub async fn rotate(&self, ctx: &OpContext, rotation: Rotation) -> Result<Arc<Current>, AuthorityError> {
        self.refresh().await?;
        let waits = self.current().all.next().is_some();
        if rotation == Rotation::Compromised {
            let made = self.make().await?;
            let Made { sha256, certificate, expires } = Made::of(&made);
            self.handle(ctx, "rotateAgentAuthority", AuthorityCommand::Replace { sha256, certificate, expires }).await?;
        } else {
            if !waits || rotation == Rotation::Announced {
                let made = self.make().await?;
                self.handle(ctx, "rotateAgentAuthority", make(&made, self.0.clock.now())).await?;
            }
            if rotation == Rotation::Now {
                self.handle(ctx, "rotateAgentAuthority", self.take_over(true)).await?;
            }
        }
        self.refresh().await?;
        Ok(self.current())
    }

    /// Does what is due, for ever; `changed` is called whenever other authorities are believed than before.
    pub async fn run<F: Future<Output = ()>>(self, changed: impl Fn() -> F) {
        let mut told = self.follow();
        loop {
            if let Err(error) = self.once().await {
                tracing::error!(error = &error as &dyn std::error::Error, "keeping the certificate authorities of agents failed");
            }
            if told.has_changed().unwrap_or(false) {
                told.mark_unchanged();
                changed().await;
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK_EVERY) => {}
                _ = told.changed() => changed().await,
            }
        }
    }

    /// Does what is due now.
    async fn once(&self) -> Result<(), AuthorityError> {
        self.refresh().await?;
        let (now, current) = (self.0.clock.now(), self.current());
        let ctx = system(&*self.0.ids, now);
        let mut commands = Vec::new();
        match (current.all.next().map(|next| next.stage), current.all.in_force()) {
            (Some(Stage::Next { not_before }), _) if not_before <= now => commands.push(self.take_over(false)),
            (None, Some(in_force)) if in_force.expires.since(now) < ROTATE_BEFORE => {
                tracing::warn!(ends = %in_force.expires, "the certificate authority of agents ends: the next one is made and told to agents");
                let made = self.make().await?;
                commands.push(make(&made, now));
            }
            _ => {}
        }
        if current.all.ended(now).next().is_some() {
            commands.push(AuthorityCommand::Retire);
        }
        for command in commands {
            match self.handle(&ctx, "keepAuthorities", command).await {
                // Another replica was first.
                Err(AuthorityError::Command(CommandError::Refused(_))) => {}
                other => other?,
            }
        }
        self.refresh().await
    }

    async fn make(&self) -> Result<Authority, AuthorityError> {
        let made = Authority::generate(&*self.0.ids, self.0.clock.now())?;
        // The key first: an authority that took over without one would certify nobody.
        let secret = Secret::new(made.to_secret()?.to_vec());
        self.0.secrets.put_secret(DEPLOYMENT, &secret_name(&made.sha256()), &secret).await?;
        Ok(made)
    }

    fn take_over(&self, early: bool) -> AuthorityCommand {
        AuthorityCommand::TakeOver { early, former_until: self.0.clock.now().plus(FORMER_LIFE) }
    }

    async fn handle(&self, ctx: &OpContext, action: &'static str, command: AuthorityCommand) -> Result<(), AuthorityError> {
        let id = self.0.id;
        let handled = self.0.handler.handle::<Authorities>(ctx, question(action, id), id, Options::default(), command).await?;
        for event in handled.events {
            match event {
                AuthorityEvent::AuthorityMade(event) => {
                    tracing::info!(authority = %event.sha256, "a certificate authority of agents was made")
                }
                AuthorityEvent::AuthorityTookOver(event) => tracing::info!(authority = %event.sha256, "it certifies agents from now on"),
                AuthorityEvent::AuthorityRetired(event) => tracing::info!(authority = %event.sha256, "it is believed no more"),
            }
        }
        Ok(())
    }

    /// Reads the history again, and uses what it says.
    async fn refresh(&self) -> Result<(), AuthorityError> {
        let all = self.0.handler.load::<Authorities>(DEPLOYMENT, self.0.id).await?.state;
        if all == self.current().all {
            return Ok(());
        }
        let next = Arc::new(current(&self.0.secrets, all).await?);
        *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = next.clone();
        self.name(&next);
        self.0.changed.send_modify(|count| *count += 1);
        // What certifies no more needs no key.
        for known in next.all.known.iter().filter(|known| !matches!(known.stage, Stage::Next { .. } | Stage::InForce { .. })) {
            self.0.secrets.forget(DEPLOYMENT, &secret_name(&known.sha256)).await?;
        }
        if next.all.known.len() > 1 {
            self.0.secrets.forget(DEPLOYMENT, FIRST_SECRET).await?;
        }
        Ok(())
    }

    fn name(&self, current: &Current) {
        let own = current.all.believed().map(|known| known.sha256);
        let all: BTreeSet<Digest> = own.chain(self.0.beside.iter().map(|der| Digest::of(der))).collect();
        self.0.named.set(all);
    }
}

/// What is recorded of an authority.
struct Made {
    sha256: Digest,
    certificate: schema::encoding::Base64,
    expires: Timestamp,
}

impl Made {
    fn of(authority: &Authority) -> Self {
        Self { sha256: authority.sha256(), certificate: authority.certificate_der().to_vec().into(), expires: authority.expires() }
    }
}

fn make(authority: &Authority, now: Timestamp) -> AuthorityCommand {
    let Made { sha256, certificate, expires } = Made::of(authority);
    AuthorityCommand::Make { sha256, certificate, expires, not_before: now.plus(TOLD_BEFORE) }
}

async fn current(secrets: &Secrets, all: Authorities) -> Result<Current, AuthorityError> {
    let in_force = all.in_force().ok_or(AuthorityError::KeyMissing(Digest([0; 32])))?;
    let secret = secrets.secret(DEPLOYMENT, &secret_name(&in_force.sha256)).await?;
    let secret = secret.ok_or(AuthorityError::KeyMissing(in_force.sha256))?;
    let issuer = Arc::new(Authority::from_secret(secret.reveal())?);
    let pem = all.believed().map(|known| service::tls::to_pem(known.certificate.as_slice())).collect();
    Ok(Current { issuer, all, pem })
}

/// Under which name the key of an authority is kept.
pub(crate) fn secret_name(sha256: &Digest) -> String {
    format!("{FIRST_SECRET}/{sha256}")
}

fn question(action: &'static str, id: AuthoritiesId) -> Question {
    Question::new(action, "Authorities", id)
}

fn system(ids: &dyn Ids, now: Timestamp) -> OpContext {
    OpContext {
        tenant: DEPLOYMENT,
        principal: PrincipalId::System("authorities"),
        scopes: Vec::new(),
        via: None,
        request: new_id::<RequestId>(ids, now),
    }
}
