//! What waits for signatures, verified; and the checks before a signature. The control plane hands over bytes, and everything
//! that is told of them is read from them here.

use std::path::Path;

use schema::{
    clock::{Clock, SystemClock},
    encoding::{Base64, Digest, from_base64url},
    id::TenantId,
};
use serde_json::{Value, json};
use trust::{
    accept::Rejection,
    dsse::Envelope,
    signing::{Authority, Signable, read_payload},
    statement::{Head, Kind, policy::Policy, root::Root},
};

use super::{
    difference::{difference, visible},
    file::{Known, Memory, SignedBefore},
    holder::Holder,
};
use crate::{
    error::{Error, Exit},
    graphql::{Client, documents::SIGNING},
};

/// A policy may live as long as this; what asks for more shall not slip through among other changes.
const LONGEST_POLICY_DAYS: u64 = 400;
const DAY: u64 = 86_400;

/// Something that waits, as it came.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// What the control plane says of it.
    pub told: Value,
    /// Its kind, as far as the control plane says.
    pub kind: Kind,
    /// What it is said to be for.
    pub scope: String,
    payload: Vec<u8>,
    in_force: Option<Vec<u8>>,
}

/// A statement that was read and judged: what will be signed, and what it changes.
#[derive(Debug, Clone)]
pub struct Judged {
    kind: Kind,
    scope: String,
    payload: Vec<u8>,
    sha256: Digest,
    epoch: u64,
    serial: u64,
    /// What it says and changes, for people.
    pub text: Vec<String>,
}

/// Everything a signer needs on the table.
pub struct Desk {
    client: Client,
    /// Who signs what now: the newest root, which follows from the one that was pinned.
    pub authority: Authority,
    /// Whether the pinned root was never verified before, and a person must compare it.
    pub is_first: bool,
    /// Whether the next root shall begin the next epoch: after a recovery, and never else.
    pub recovery: bool,
    waiting: Vec<Waiting>,
}

impl Desk {
    /// Fetches roots and what waits, and verifies the roots against what this signer knows: the root that was named, the one it
    /// remembers, or, the first time, the newest, which a person must then compare with what an agent shows.
    pub async fn open(client: Client, memory: &Memory, named: Option<Digest>) -> Result<Self, Error> {
        let data = client.run(SIGNING, "StatementProposals", json!({})).await?;
        let roots = list(&data, "/roots").iter().map(|text| Ok(Base64::from(bytes(text)?))).collect::<Result<Vec<_>, Error>>()?;
        let told = roots.iter().map(peek).collect::<Result<Vec<_>, Error>>()?;
        let (tenant, newest) = match told.last() {
            Some(root) => (root.tenant, root.sha256),
            None => return Err(Error::new(Exit::Fault, "unexpected_answer", "the control plane gave no root")),
        };
        let known = memory.tenants.get(&tenant);
        let remembered = known.map(|known| known.root);
        if let (None, Some(known)) = (named, known) {
            is_as_signed(known, &told)?;
        }
        let pinned = named.or(remembered).unwrap_or(newest);
        let authority = Authority::verified(&roots, pinned).map_err(|rejection| untrusted(&rejection))?;
        let waiting = list(&data, "/statementProposals").iter().map(waiting).collect::<Result<_, _>>()?;
        Ok(Self { client, is_first: named.is_none() && remembered.is_none(), authority, recovery: false, waiting })
    }

    /// The tenant.
    pub fn tenant(&self) -> TenantId {
        self.authority.root().head.tenant
    }

    /// What waits of a kind.
    pub fn waiting(&self, kind: Kind) -> impl Iterator<Item = &Waiting> {
        self.waiting.iter().filter(move |waiting| waiting.kind == kind)
    }

    /// Reads what waits and checks it; what it says and changes, in words.
    pub fn judge(&self, waiting: &Waiting, keyid: Digest) -> Result<Judged, Error> {
        match waiting.kind {
            Kind::Root => self.judge_root(waiting, keyid),
            _ => self.judge_policy(waiting, keyid),
        }
    }

    fn judge_root(&self, waiting: &Waiting, keyid: Digest) -> Result<Judged, Error> {
        let root: Root = read_payload(&waiting.payload).map_err(|error| unreadable(waiting, &error))?;
        let next = Authority::of(&waiting.payload).map_err(|error| unreadable(waiting, &error))?;
        let present = self.authority.root();
        let serial = present.head.serial + 1;
        self.head(&root.head, Kind::Root, serial, &[serial])?;
        if root.head.site.is_some() || root.head.project.is_some() || root.head.agent.is_some() {
            return Err(refused("statement_of_other_scope", "a root is for the whole tenant"));
        }
        let may =
            |authority: &Authority| authority.role(Kind::Root).is_ok_and(|role| role.tenant_held && role.signers.find(&keyid).is_some());
        if !may(&self.authority) && !may(&next) {
            return Err(stranger(keyid));
        }
        let mut text = heading(&root.head, &format!("Root of the tenant {}", root.head.tenant));
        let given_back =
            [Kind::Root, Kind::Policy].into_iter().filter(|kind| self.authority.is_tenant_held(*kind) && !next.is_tenant_held(*kind));
        text.extend(given_back.map(|kind| {
            format!(
                "GIVES {} BACK TO THE CONTROL PLANE: whoever has it can sign it from then on, and no signer of yours is asked",
                kind.to_string().to_uppercase()
            )
        }));
        let replaced = [Kind::State, Kind::Heartbeat].into_iter().filter(|kind| signers(&self.authority, *kind) != signers(&next, *kind));
        text.extend(replaced.map(|kind| {
            format!(
                "REPLACES THE PAIR that signs {kind} for the control plane: ask whoever runs it whether they meant to (root rotate-pairs)"
            )
        }));
        text.extend(roles(&self.authority, &next));
        text.extend(difference(Some(&without_keys(present)?), &without_keys(&root)?));
        Ok(self.judged(waiting, &root.head, text))
    }

    fn judge_policy(&self, waiting: &Waiting, keyid: Digest) -> Result<Judged, Error> {
        let policy: Policy = read_payload(&waiting.payload).map_err(|error| unreadable(waiting, &error))?;
        // What is in force is a base to compare with only when the tenant's own signers signed it: else the control plane could
        // have put anything into it.
        let held: Option<Policy> = match &waiting.in_force {
            Some(envelope) if self.authority.is_tenant_held(Kind::Policy) => {
                Some(self.authority.policy(envelope).map_err(|rejection| untrusted(&rejection))?)
            }
            _ => None,
        };
        let before = match (&held, &waiting.in_force) {
            (Some(held), _) => held.head.serial,
            (None, Some(envelope)) => {
                let envelope = Envelope::parse(envelope, Kind::Policy.max_bytes()).map_err(|error| unreadable(waiting, &error))?;
                read_payload::<Policy>(&envelope.payload).map_err(|error| unreadable(waiting, &error))?.head.serial
            }
            (None, None) => 0,
        };
        if held.as_ref().is_some_and(|held| held.scope() != policy.scope()) {
            return Err(refused("statement_of_other_scope", "what is said to be in force is for another project or site than what waits"));
        }
        let next = self.waiting(Kind::Root).next().and_then(|root| Authority::of(&root.payload).ok());
        let mut roots = vec![self.authority.root().head.serial];
        roots.extend(next.iter().map(|next| next.root().head.serial));
        self.head(&policy.head, Kind::Policy, before + 1, &roots)?;
        if policy.head.agent.is_some()
            || (policy.head.site.is_some() && policy.head.project.is_some())
            || scope_of(&policy.head) != waiting.scope
        {
            return Err(refused("statement_of_other_scope", "it is for another project or site than the control plane says"));
        }
        let may =
            |authority: &Authority| authority.role(Kind::Policy).is_ok_and(|role| role.tenant_held && role.signers.find(&keyid).is_some());
        if !may(&self.authority) && !next.as_ref().is_some_and(may) {
            return Err(stranger(keyid));
        }
        let what = match (policy.head.project, policy.head.site) {
            (Some(project), _) => format!("Policy of the project {project}{}", project_name(&policy)),
            (None, Some(site)) => format!("Policy of the site {site}"),
            (None, None) => format!("Policy of the whole tenant {}", policy.head.tenant),
        };
        let mut text = heading(&policy.head, &what);
        if held.is_none() && waiting.in_force.is_some() {
            text.push(
                "What is in force was signed by the control plane, not by signers of yours: everything is shown, as if it were new."
                    .to_owned(),
            );
        }
        let changes = difference(held.as_ref().map(json_of).transpose()?.as_ref(), &json_of(&policy)?);
        if changes.is_empty() {
            text.push("Nothing changes; it is signed anew so that it goes on.".to_owned());
        }
        text.extend(changes);
        Ok(self.judged(waiting, &policy.head, text))
    }

    fn judged(&self, waiting: &Waiting, head: &Head, text: Vec<String>) -> Judged {
        Judged {
            kind: waiting.kind,
            scope: waiting.scope.clone(),
            sha256: Digest::of(&waiting.payload),
            payload: waiting.payload.clone(),
            epoch: head.epoch,
            serial: head.serial,
            text,
        }
    }

    /// The tenant, epoch, number and times are those of the next statement of its place.
    fn head(&self, head: &Head, kind: Kind, serial: u64, roots: &[u64]) -> Result<(), Error> {
        let present = &self.authority.root().head;
        if head.tenant != present.tenant {
            return Err(refused(
                "statement_of_other_tenant",
                &format!("it is for the tenant {}, and the root for {}", head.tenant, present.tenant),
            ));
        }
        let begins = kind == Kind::Root && head.epoch == present.epoch + 1;
        if begins && !self.recovery {
            return Err(refused(
                "statement_of_other_epoch",
                &format!(
                    "it begins the epoch {}, as only a recovery does: if the control plane was restored from an older backup, sign with --recovery",
                    head.epoch
                ),
            ));
        }
        if head.epoch != present.epoch && !begins {
            return Err(refused("statement_of_other_epoch", &format!("it is of epoch {}, and the root of {}", head.epoch, present.epoch)));
        }
        if head.serial != serial {
            return Err(refused("statement_not_next", &format!("it is number {}, and what is in force asks for {serial}", head.serial)));
        }
        if !roots.contains(&head.root_serial) {
            return Err(refused(
                "statement_of_other_root",
                &format!("it names the root {}, which is neither in force nor waits", head.root_serial),
            ));
        }
        let now = SystemClock.now();
        if head.expires <= now {
            return Err(refused("statement_ended", &format!("it ended on {}: let it be proposed again", head.expires)));
        }
        if kind == Kind::Policy && head.expires.since(now).as_secs() > LONGEST_POLICY_DAYS * DAY {
            return Err(refused(
                "statement_lives_too_long",
                &format!("a policy lives at most {LONGEST_POLICY_DAYS} days, and this one until {}", head.expires),
            ));
        }
        Ok(())
    }

    /// Signs, hands the signatures in, and remembers it. Gives what waits afterwards; nothing when it is complete.
    pub async fn sign(&self, judged: &Judged, holder: &Holder, memory: &mut Memory, file: &Path) -> Result<Value, Error> {
        let part = holder.sign(Signable::of(judged.kind), &judged.payload)?;
        // Remembered first: a signature that was given and forgotten is worse than one remembered and never given.
        let known = memory.tenants.entry(self.tenant()).or_insert_with(|| Known { root: self.authority.sha256(), signed: Vec::new() });
        known.root = self.authority.sha256();
        let entry = SignedBefore {
            kind: judged.kind.to_string(),
            scope: judged.scope.clone(),
            epoch: judged.epoch,
            serial: judged.serial,
            sha256: judged.sha256,
            at: SystemClock.now(),
        };
        if !known.signed.iter().any(|signed| signed.sha256 == entry.sha256) {
            known.signed.push(entry);
        }
        memory.keep(file)?;
        let input = json!({
            "kind": super::super::commands::word(&judged.kind.to_string()), "scope": judged.scope, "sha256": judged.sha256.to_string(),
            "keyid": part.keyid.to_string(), "signature": Base64(part.bytes).to_string(),
        });
        let payload = self.client.mutate(SIGNING, "SignStatement", input).await?;
        Ok(payload.get("proposal").cloned().unwrap_or(Value::Null))
    }

    /// Whether this signer signed a later one for the same place: then what is said to be in force is a past that came back.
    pub fn is_past(&self, judged: &Judged, memory: &Memory) -> Result<(), Error> {
        let signed = memory.tenants.get(&self.tenant()).into_iter().flat_map(|known| &known.signed);
        let same_place = signed.filter(|signed| signed.kind == judged.kind.to_string() && signed.scope == judged.scope);
        match same_place.filter(|signed| (signed.epoch, signed.serial) > (judged.epoch, judged.serial)).max_by_key(|signed| signed.serial) {
            None => Ok(()),
            Some(later) => Err(refused(
                "statement_older_than_signed",
                &format!(
                    "it is number {}, and you signed number {} on {}: the control plane shows a past",
                    judged.serial, later.serial, later.at
                ),
            )),
        }
    }

    /// Another statement with the same number that this signer signed before.
    pub fn signed_other(&self, judged: &Judged, memory: &Memory) -> Option<SignedBefore> {
        let known = memory.tenants.get(&self.tenant())?;
        let same_place = |signed: &&SignedBefore| {
            signed.kind == judged.kind.to_string()
                && signed.scope == judged.scope
                && (signed.epoch, signed.serial) == (judged.epoch, judged.serial)
        };
        known.signed.iter().filter(same_place).find(|signed| signed.sha256 != judged.sha256).cloned()
    }
}

fn waiting(told: &Value) -> Result<Waiting, Error> {
    let kind = match told["kind"].as_str() {
        Some("ROOT") => Kind::Root,
        Some("POLICY") => Kind::Policy,
        _ => return Err(Error::new(Exit::Fault, "unexpected_answer", "something waits that is neither root nor policy")),
    };
    let in_force = if told["inForce"].is_null() { None } else { Some(bytes(&told["inForce"])?) };
    let scope = told["scope"].as_str().unwrap_or_default().to_owned();
    Ok(Waiting { kind, scope, payload: bytes(&told["payload"])?, in_force, told: told.clone() })
}

fn heading(head: &Head, what: &str) -> Vec<String> {
    let days = head.expires.since(SystemClock.now()).as_secs() / DAY;
    vec![format!("{what}"), format!("Number {} of epoch {}, good until {} ({days} days)", head.serial, head.epoch, head.expires)]
}

/// Thresholds in words: they are what a root is about.
fn roles(present: &Authority, next: &Authority) -> Vec<String> {
    let told = |authority: &Authority, kind: Kind| match authority.role(kind) {
        Ok(role) if role.tenant_held => format!("{} of {} signers of yours", role.threshold, role.signers.len()),
        Ok(role) => format!("{} of {} pairs of the control plane", role.threshold, role.signers.len()),
        Err(_) => "nobody".to_owned(),
    };
    let kinds = [Kind::Root, Kind::Policy, Kind::State, Kind::Heartbeat];
    kinds.iter().map(|kind| format!("{kind}: signed by {}, now by {}", told(next, *kind), told(present, *kind))).collect()
}

/// Who may sign a kind, by key id.
fn signers(authority: &Authority, kind: Kind) -> Vec<Digest> {
    authority.root().roles.get(&kind).map(|role| role.signers.clone()).unwrap_or_default()
}

fn project_name(policy: &Policy) -> String {
    policy.keys.values().next().map(|key| format!(" ({})", visible(key.project_name.as_str()))).unwrap_or_default()
}

fn scope_of(head: &Head) -> String {
    match (head.project, head.site) {
        (Some(project), _) => project.to_string(),
        (None, Some(site)) => site.to_string(),
        (None, None) => head.tenant.to_string(),
    }
}

/// What a root says of itself, whoever signed it.
struct Told {
    tenant: TenantId,
    serial: u64,
    sha256: Digest,
}

/// A root that this signer signed is the one that took effect: else the control plane may have two of that number, one for
/// agents and one for signers.
fn is_as_signed(known: &Known, told: &[Told]) -> Result<(), Error> {
    for root in told {
        let mut signed =
            known.signed.iter().filter(|signed| signed.kind == Kind::Root.to_string() && signed.serial == root.serial).peekable();
        if signed.peek().is_some() && !signed.any(|signed| signed.sha256 == root.sha256) {
            let message = format!("the root {} is {}, which is not the one you signed", root.serial, root.sha256);
            return Err(Error::new(Exit::Unverified, "equivocation", message)
                .hint("if another proposal took its place, compare the newest root with what agents show, and give it as --root"));
        }
    }
    Ok(())
}

fn peek(envelope: &Base64) -> Result<Told, Error> {
    let broken =
        |error: &dyn std::fmt::Display| Error::new(Exit::Fault, "unexpected_answer", format!("the newest root cannot be read: {error}"));
    let envelope = Envelope::parse(envelope.as_slice(), Kind::Root.max_bytes()).map_err(|error| broken(&error))?;
    let root: Root = serde_json::from_slice(&envelope.payload).map_err(|error| broken(&error))?;
    Ok(Told { tenant: root.head.tenant, serial: root.head.serial, sha256: Digest::of(&envelope.payload) })
}

/// A root as people can read it: signers by key id, which is the hash of both their keys and was checked to be.
fn without_keys(root: &Root) -> Result<Value, Error> {
    let mut value = json_of(root)?;
    if let Some(signers) = value.get_mut("signers").and_then(Value::as_object_mut) {
        for signer in signers.values_mut().filter_map(Value::as_object_mut) {
            signer.remove("ed25519");
            signer.remove("ml_dsa_65");
        }
    }
    Ok(value)
}

fn json_of(value: &impl serde::Serialize) -> Result<Value, Error> {
    serde_json::to_value(value).map_err(|source| Error::fault("could not show a statement", source))
}

fn list(data: &Value, pointer: &str) -> Vec<Value> {
    data.pointer(pointer).and_then(Value::as_array).cloned().unwrap_or_default()
}

fn bytes(text: &Value) -> Result<Vec<u8>, Error> {
    let bytes = text.as_str().and_then(|text| from_base64url(text).ok());
    bytes.ok_or_else(|| Error::new(Exit::Fault, "unexpected_answer", "the control plane gave something that is not base64url"))
}

fn refused(code: &str, message: &str) -> Error {
    Error::new(Exit::Refused, code, format!("not signed: {message}"))
}

fn stranger(keyid: Digest) -> Error {
    refused("signer_not_in_role", &format!("the pair {keyid} is none of those who may sign this"))
}

fn unreadable(waiting: &Waiting, error: &dyn std::error::Error) -> Error {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        text = format!("{text}: {next}");
        cause = next.source();
    }
    refused("statement_unreadable", &format!("what waits for {}: {text}", visible(&waiting.scope)))
}

fn untrusted(rejection: &Rejection) -> Error {
    Error::new(Exit::Unverified, rejection.code(), format!("what the control plane gave does not hold: {rejection}"))
        .hint("do not sign; ask the other signers, and compare with what agents show")
}
