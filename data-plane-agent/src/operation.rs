//! The whole pipeline on one page:
//!
//! ```text
//! REST -> caller -> limits -> decide -> budgets -> permit -> intent in journal -> vault -> outcome in journal -> answer
//! ```
//!
//! [`Pipeline::begin`] goes as far as the durable intent; only then is there a permit to use a key with. Whoever has begun
//! says how it ended; an operation that is dropped on the way is recorded as aborted.

use std::{collections::HashMap, net::IpAddr, num::NonZeroU32, sync::Arc};

use schema::{
    clock::Clock,
    context::EncryptionContext,
    id::CallerId,
    key::{KeyReference, Operation},
    obligation::Obligations,
    wire::{
        agent::{Intent, OutcomeResult},
        operation::{Outlook, Used, Warning},
        problem::Problem,
    },
};
use service::log::RequestContext;

use crate::{
    budgets::{BudgetRefusal, Budgets},
    control::{contexts::ContextKeys, time::AgentClock},
    journal::{Journal, JournalError, Ticket},
    limits::Limits,
    policy::{
        current::Current,
        decide::{Allowed, AllowedKeyless, Ask, Grounds, Refused, decide, decide_keyless, known, outlook},
        in_force::{InForce, KeyInForce},
        once::Once,
        permit::UsePermit,
        refusal::Refusal,
    },
    selftest::{SelfTests, Tested},
};

/// Somebody who proved to be this caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proven {
    /// Who.
    pub caller: CallerId,
    /// Where from.
    pub address: IpAddr,
}

/// What is asked.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// By whom.
    pub by: Proven,
    /// What.
    pub operation: Operation,
    /// The encryption context.
    pub context: &'a EncryptionContext,
    /// Bytes of plaintext or ciphertext, when known beforehand.
    pub size: Option<u64>,
    /// How many keys a message or file is for, where it is for keys.
    pub recipients: Option<u32>,
    /// Whether the version is to protect anew, though the operation is one that also reads what is old.
    pub anew: bool,
    /// Whether the answer can be masked.
    pub masks: bool,
    /// Whether it is about one of the two signatures of a composite, which are judged together.
    pub together: bool,
}

impl<'a> Request<'a> {
    /// A request of the ordinary kind.
    pub fn new(by: Proven, operation: Operation, context: &'a EncryptionContext, size: Option<u64>) -> Self {
        Self { by, operation, context, size, recipients: None, anew: false, masks: false, together: false }
    }
}

/// One use of a key: what is asked, and of which.
pub type Use<'a> = (Request<'a>, &'a KeyReference);

/// The right to use a key once, and the operation it is for.
pub type Granted = (UsePermit, Begun);

/// An operation that may now happen, and is on record.
#[must_use = "an operation ends with an outcome; dropping it records it as aborted"]
pub struct Begun {
    /// The key.
    pub key: Arc<KeyInForce>,
    /// What the answer says of the decision.
    pub used: Used,
    /// What the permitting policies demand of the answer.
    pub obligations: Obligations,
    operation: Operation,
    ticket: Ticket,
}

impl Begun {
    /// It was done, over so many bytes of plaintext.
    pub fn done(self, size: u64) -> Used {
        self.judged(None, size)
    }

    /// Something was judged: found good, or not for the reason of this code.
    pub fn judged(self, code: Option<&str>, size: u64) -> Used {
        count(self.operation, "ok");
        self.ticket.finish(OutcomeResult::Ok, code, Some(size));
        self.used
    }

    /// It was not done; `code` is stable.
    pub fn failed(self, code: &str) {
        count(self.operation, "failed");
        self.ticket.finish(OutcomeResult::Failed, Some(code), None);
    }
}

/// What was made without a key.
pub struct Keyless<T> {
    /// What was made.
    pub made: T,
    /// The policies that allowed it.
    pub policies: Vec<String>,
    /// What should be looked at soon.
    pub warnings: Vec<Warning>,
}

/// What every operation goes through.
pub struct Pipeline {
    /// The set in force.
    pub current: Arc<Current>,
    /// What is remembered.
    pub journal: Arc<dyn Journal>,
    /// Agent time: the last signed time plus what has passed since.
    pub time: Arc<AgentClock>,
    /// Which algorithms passed their self-tests.
    pub tests: Arc<SelfTests>,
    /// How much one caller may take.
    pub limits: Limits,
    /// Hides the values of encryption contexts in receipts; made on site.
    pub context_keys: Arc<ContextKeys>,
    /// How often limited keys may still protect data.
    pub budgets: Arc<Budgets>,
}

impl Pipeline {
    /// From a proven caller to a durable intent.
    pub async fn begin(&self, request: &Request<'_>, reference: &KeyReference) -> Result<Granted, Problem> {
        self.limits.admit(request.by.caller)?;
        let in_force = self.current.load();
        let tested = self.tests.latest();
        let mut allowed = decide(&self.grounds(in_force.as_deref(), &tested), &ask(request), reference)
            .map_err(|refused| self.refuse(request, &in_force, refused))?;
        self.count_use(request, &mut allowed).await.map_err(|refused| self.refuse(request, &in_force, refused))?;
        let ticket = self.journal.intent(self.allowed_intent(request, &in_force, &allowed)).await.map_err(no_journal)?;
        Ok(begun(allowed, (request, reference), ticket))
    }

    /// The same for several groups of uses at once: of a group all are allowed, or none happens. What is asked twice is decided
    /// once, every use has an intent of its own, and all are waited for together.
    pub async fn begin_all(&self, by: Proven, groups: &[Vec<Use<'_>>]) -> Result<Vec<Result<Vec<Granted>, Problem>>, Problem> {
        self.limits.admit_many(by.caller, items(groups.len()))?;
        let in_force = self.current.load();
        let tested = self.tests.latest();
        let grounds = self.grounds(in_force.as_deref(), &tested);
        let mut once = Once::default();
        let mut decided = Vec::with_capacity(groups.len());
        let mut intents = Vec::with_capacity(groups.len());
        for group in groups {
            let mut allowed: Result<Vec<Allowed>, Problem> = Ok(Vec::with_capacity(group.len()));
            for (request, reference) in group {
                match (once.decide(&grounds, &ask(request), reference), &mut allowed) {
                    (Ok(mut one), Ok(all)) => match self.count_use(request, &mut one).await {
                        Ok(()) => all.push(one),
                        Err(refused) => allowed = Err(self.refuse(request, &in_force, refused)),
                    },
                    (Err(refused), Ok(_)) => allowed = Err(self.refuse(request, &in_force, refused)),
                    (_, Err(_)) => break,
                }
            }
            if let Ok(allowed) = &allowed {
                intents.extend(group.iter().zip(allowed).map(|((request, _), allowed)| self.allowed_intent(request, &in_force, allowed)));
            }
            decided.push(allowed);
        }
        let mut tickets = self.journal.intents(intents).await.map_err(no_journal)?.into_iter();
        let granted = groups.iter().zip(decided).map(|(group, allowed)| {
            let each = group.iter().zip(allowed?).zip(&mut tickets);
            Ok(each.map(|(((request, reference), allowed), ticket)| begun(allowed, (request, reference), ticket)).collect())
        });
        Ok(granted.collect())
    }

    /// The same for what needs no key: random bytes. Each item that is allowed is made after its intent, by `make`.
    pub async fn without_key<T>(
        &self,
        by: Proven,
        asked: &[Request<'_>],
        mut make: impl FnMut(u64) -> T,
    ) -> Result<Vec<Result<Keyless<T>, Problem>>, Problem> {
        self.limits.admit_many(by.caller, items(asked.len()))?;
        let in_force = self.current.load();
        let tested = self.tests.latest();
        let grounds = self.grounds(in_force.as_deref(), &tested);
        let mut once = HashMap::new();
        let decided: Vec<_> = asked
            .iter()
            .map(|request| match once.entry(request.size).or_insert_with(|| decide_keyless(&grounds, &ask(request))) {
                Ok(allowed) => Ok(allowed.clone()),
                Err(refused) => Err(self.refuse(request, &in_force, refused.clone())),
            })
            .collect();
        let intent = |(request, decided): (_, &Result<AllowedKeyless, _>)| {
            let policies = decided.as_ref().ok()?.policies.clone();
            Some(Intent { policies, ..self.intent(request, &in_force) })
        };
        let intents = asked.iter().zip(&decided).filter_map(intent).collect();
        let mut tickets = self.journal.intents(intents).await.map_err(no_journal)?.into_iter();
        let made = asked.iter().zip(decided).map(|(request, decided)| {
            let AllowedKeyless { policies, warnings } = decided?;
            let ticket = tickets.next().ok_or_else(|| no_journal(JournalError::Closed))?;
            let made = make(request.size.unwrap_or_default());
            count(request.operation, "ok");
            ticket.finish(OutcomeResult::Ok, None, request.size);
            Ok(Keyless { made, policies, warnings })
        });
        Ok(made.collect())
    }

    /// Reading a public key is decided like the rest, but not on record.
    pub fn public_key(&self, request: &Request<'_>, reference: &KeyReference) -> Result<(Arc<KeyInForce>, u32), Problem> {
        self.limits.admit(request.by.caller)?;
        let in_force = self.current.load();
        let tested = self.tests.latest();
        let allowed = decide(&self.grounds(in_force.as_deref(), &tested), &ask(request), reference)
            .map_err(|refused| self.refuse(request, &in_force, refused))?;
        Ok((allowed.key, allowed.version.number))
    }

    /// Whether a request would be allowed; `by` asks. About others only whom policy lets `explain` the key may ask.
    pub fn would(&self, by: Proven, request: &Request<'_>, reference: &KeyReference) -> Result<Result<Allowed, Refused>, Problem> {
        if by.caller == request.by.caller {
            self.limits.admit(by.caller)?;
        } else {
            self.may_explain(by, reference)?;
        }
        let in_force = self.current.load();
        let decided = decide(&self.grounds(in_force.as_deref(), &self.tests.latest()), &ask(request), reference);
        Ok(decided.and_then(|mut allowed| {
            if is_counted(request, &allowed) {
                let looked = self.budgets.look(allowed.version, &allowed.key.definition.limits, request.size);
                allowed.warnings.extend(looked.map_err(|refusal| over_budget(&allowed, refusal))?);
            }
            Ok(allowed)
        }))
    }

    /// Whether a caller may ask about others with this key.
    pub fn may_explain(&self, by: Proven, reference: &KeyReference) -> Result<(), Problem> {
        self.limits.admit(by.caller)?;
        let (in_force, context) = (self.current.load(), EncryptionContext::default());
        let asking = Request::new(by, Operation::Explain, &context, None);
        let decided = decide(&self.grounds(in_force.as_deref(), &self.tests.latest()), &ask(&asking), reference);
        decided.map(drop).map_err(|refused| self.refuse(&asking, &in_force, refused))
    }

    /// The same for what needs no key. Nobody asks it about others: there is no key to explain.
    pub fn would_without_key(&self, by: Proven, request: &Request<'_>) -> Result<Result<AllowedKeyless, Refused>, Problem> {
        self.limits.admit(by.caller)?;
        if by.caller != request.by.caller {
            return Err(no_key_to_explain());
        }
        let in_force = self.current.load();
        let tested = self.tests.latest();
        Ok(decide_keyless(&self.grounds(in_force.as_deref(), &tested), &ask(request)))
    }

    /// The set that a known caller looks around in.
    pub fn discover(&self, by: Proven) -> Result<Arc<InForce>, Problem> {
        self.limits.admit(by.caller)?;
        let in_force = self.current.load();
        known(&self.grounds(in_force.as_deref(), &self.tests.latest()), by.caller).map_err(|refusal| refusal.problem())?;
        in_force.ok_or_else(|| Refusal::NoStatements.problem())
    }

    /// How an operation stands with a key of this set.
    pub fn outlook(&self, request: &Request<'_>, in_force: &InForce, key: &KeyInForce) -> Option<Outlook> {
        outlook(&self.grounds(Some(in_force), &self.tests.latest()), &ask(request), key)
    }

    /// Counts the use of a version whose uses or bytes are limited; nothing is done for any other.
    async fn count_use(&self, request: &Request<'_>, allowed: &mut Allowed) -> Result<(), Refused> {
        if is_counted(request, allowed) {
            let taken = self.budgets.take(allowed.version, &allowed.key.definition.limits, request.size).await;
            allowed.warnings.extend(taken.map_err(|refusal| over_budget(allowed, refusal))?);
        }
        Ok(())
    }

    fn grounds<'a>(&self, in_force: Option<&'a InForce>, tested: &'a Tested) -> Grounds<'a> {
        Grounds { in_force, enabled: &tested.enabled, now: self.time.now() }
    }

    fn allowed_intent(&self, request: &Request<'_>, in_force: &Option<Arc<InForce>>, allowed: &Allowed) -> Intent {
        Intent {
            key_version: Some(allowed.version),
            algorithm: Some(allowed.key.algorithm().name().to_owned()),
            policies: allowed.policies.clone(),
            ..self.intent(request, in_force)
        }
    }

    fn refuse(&self, request: &Request<'_>, in_force: &Option<Arc<InForce>>, refused: Refused) -> Problem {
        if let Refusal::Undecidable(error) = &refused.refusal {
            tracing::error!(error = error as &dyn std::error::Error, "a request could not be decided");
        }
        count(request.operation, "refused");
        let policies = match &refused.refusal {
            Refusal::Forbidden { policies } => policies.clone(),
            _ => Vec::new(),
        };
        let algorithm = refused.algorithm.map(|algorithm| algorithm.name().to_owned());
        let intent = Intent { key_version: refused.version, algorithm, policies, ..self.intent(request, in_force) };
        self.journal.refusal(intent, refused.refusal.code());
        let mut problem = refused.refusal.problem();
        // Too old may also mean that the clock is wrong.
        if let (Refusal::StatementsExpired { .. } | Refusal::NotOffline { .. }, Some(advice)) = (&refused.refusal, self.time.advice()) {
            problem.detail = format!("{}; {advice}", problem.detail);
        }
        problem
    }

    fn intent(&self, request: &Request<'_>, in_force: &Option<Arc<InForce>>) -> Intent {
        let context = RequestContext::current();
        let hidden = self.context_keys.hide(request.context, self.time.now());
        Intent {
            caller: Some(request.by.caller.to_string()),
            operation: request.operation,
            key_version: None,
            algorithm: None,
            size: request.size,
            context: hidden.values,
            context_key: hidden.key,
            request: context.map_or_else(String::new, |context| context.id.to_string()),
            trace: context.and_then(|context| context.trace).map(|trace| trace.trace_text()),
            statements: in_force.as_ref().map_or_else(String::new, |in_force| in_force.serials.to_string()),
            policies: Vec::new(),
        }
    }
}

fn begun(allowed: Allowed, (request, reference): (&Request<'_>, &KeyReference), ticket: Ticket) -> Granted {
    let Allowed { permit, key, version, policies, obligations, warnings } = allowed;
    let algorithm = key.algorithm().name().to_owned();
    let used = Used { asked_for: reference.to_string(), key_version: version, algorithm, policies, warnings };
    (permit, Begun { key, used, obligations, operation: request.operation, ticket })
}

/// Why a question about another caller is refused that names no key.
pub fn no_key_to_explain() -> Problem {
    let detail = "without a key only the caller itself may ask: policies allow to explain keys";
    Problem::new(403, "not_allowed_by_policy", "Policy does not allow it", detail).field("caller")
}

/// Whether a use is one that a limit of its key counts.
fn is_counted(request: &Request<'_>, allowed: &Allowed) -> bool {
    allowed.key.definition.limits.are_counted() && (request.operation.protects() || request.anew)
}

fn over_budget(allowed: &Allowed, refusal: BudgetRefusal) -> Refused {
    Refused { refusal: Refusal::Budget(refusal), version: Some(allowed.version), algorithm: Some(allowed.key.algorithm()) }
}

/// As how many requests so many items count.
fn items(count: usize) -> NonZeroU32 {
    u32::try_from(count).ok().and_then(NonZeroU32::new).unwrap_or(NonZeroU32::MIN)
}

fn count(operation: Operation, result: &'static str) {
    metrics::counter!("freehold_operations_total", "operation" => operation.as_str(), "result" => result).increment(1);
}

fn ask<'a>(request: &Request<'a>) -> Ask<'a> {
    Ask {
        caller: request.by.caller,
        operation: request.operation,
        context: request.context,
        address: request.by.address,
        size: request.size,
        recipients: request.recipients,
        anew: request.anew,
        masks: request.masks,
        together: request.together,
    }
}

fn no_journal(error: JournalError) -> Problem {
    tracing::error!(error = &error as &dyn std::error::Error, "the journal took no intent: the operation was refused");
    Problem::new(503, error.code(), "The journal takes no entries", error.to_string())
}
