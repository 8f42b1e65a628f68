//! The root: who signs what. Signing it, and signing policies, which is the same act.

use std::path::PathBuf;

use clap::Subcommand;
use schema::encoding::Digest;
use serde_json::{Value, json};
use trust::{
    passphrase::PublicSigner,
    signing::{Part, Signable},
    statement::Kind,
};

use super::{Idempotency, Session};
use crate::{
    error::{Error, Exit},
    graphql::documents::SIGNING,
    output::{self, Format},
    signing::{
        desk::{Desk, Waiting},
        difference::visible,
        file::{self, Memory, PassphraseSource},
        holder::Holder,
    },
};

/// The root: who signs root, policy, state and heartbeat, and how many must.
#[derive(Debug, Subcommand)]
pub enum Root {
    /// Show who signs what now
    Show {
        /// SHA-256 of a root you know; the newest must follow from it
        #[arg(long, value_name = "SHA256", allow_hyphen_values = true)]
        root: Option<Digest>,
    },
    /// Propose who signs root and policy from now on: the tenant's own signers, and the control plane no more
    ///
    /// It waits until enough of the present signers (the control plane itself, the first time) and of the new ones have signed
    /// it, and enough of the new ones every policy in force. Until then everything goes on as before.
    Propose {
        /// A signer of root and policy: what 'signer public' printed, or a signer's file; once for each
        #[arg(long = "signer", value_name = "FILE")]
        signers: Vec<PathBuf>,
        /// A signer of root only
        #[arg(long = "root-signer", value_name = "FILE")]
        root_signers: Vec<PathBuf>,
        /// A signer of policy only
        #[arg(long = "policy-signer", value_name = "FILE")]
        policy_signers: Vec<PathBuf>,
        /// How many must sign the next root
        #[arg(long, value_name = "N", required_unless_present = "renew")]
        root_threshold: Option<u32>,
        /// How many must sign a policy
        #[arg(long, value_name = "N", required_unless_present = "renew")]
        policy_threshold: Option<u32>,
        /// The same signers and thresholds as now, for another term
        #[arg(long, conflicts_with_all = ["signers", "root_signers", "policy_signers", "root_threshold", "policy_threshold"])]
        renew: bool,
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Propose to give root and policy back to the control plane: from then on whoever has it can grant use of keys
    ///
    /// It waits until enough of the present signers have signed it; then the control plane signs the policies anew, as they are
    /// proposed now.
    Return {
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Give the control plane fresh pairs to sign with: after its host or database was in other hands, or as a routine
    ///
    /// The next root names them, and the old ones no more: at once where the control plane signs root, else when enough of the
    /// tenant's signers have signed it (freehold root sign). Then everything is signed anew, agents follow by themselves, and the
    /// old pairs are erased: make a backup, one from before cannot sign for the tenant any more.
    RotatePairs {
        #[command(flatten)]
        idempotency: Idempotency,
    },
    /// Show the root that waits for signatures, and whose are missing
    Pending,
    /// Look at the root that waits, and sign it
    Sign {
        #[command(flatten)]
        sign: Signing,
        /// The root begins the next epoch: the control plane was restored from an older backup, and you know of it
        #[arg(long)]
        recovery: bool,
    },
    /// Let a root that was proposed wait no more
    Withdraw {
        /// Why
        #[arg(long)]
        reason: Option<String>,
    },
}

/// What signing takes.
#[derive(Debug, clap::Args)]
pub struct Signing {
    /// The signer's file
    #[arg(long, value_name = "FILE", env = "FREEHOLD_SIGNER")]
    pub signer: PathBuf,
    #[command(flatten)]
    pub passphrase: PassphraseSource,
    /// SHA-256 of the root to begin from, as an agent or another signer shows it; needed once, then remembered
    #[arg(long, value_name = "SHA256", allow_hyphen_values = true)]
    pub root: Option<Digest>,
    /// Sign without asking; what is signed is shown all the same
    #[arg(long)]
    pub yes: bool,
}

/// Columns of what waits.
pub const WAITING: &[output::Column] = &[
    ("kind", "/kind"),
    ("for", "/scope"),
    ("number", "/serial"),
    ("since", "/proposedAt"),
    ("signed", "/progress"),
    ("sha256", "/sha256"),
    ("instead of", "/supersedes"),
];

impl Root {
    /// Runs the command.
    pub async fn run(self, session: &Session) -> Result<(), Error> {
        match self {
            Self::Show { root } => {
                let desk = Desk::open(session.control_plane()?, &Memory::default(), root).await?;
                show(session, &desk)
            }
            Self::Propose { signers, root_signers, policy_signers, root_threshold, policy_threshold, renew, idempotency } => {
                let mut input = match renew {
                    true => renewed(&Desk::open(session.control_plane()?, &Memory::default(), None).await?)?,
                    false => json!({
                        "rootSigners": publics(signers.iter().chain(&root_signers))?, "rootThreshold": root_threshold,
                        "policySigners": publics(signers.iter().chain(&policy_signers))?, "policyThreshold": policy_threshold,
                    }),
                };
                input["idempotencyKey"] = json!(idempotency.idempotency_key);
                let payload = session.control_plane()?.mutate(SIGNING, "ProposeRoot", input).await?;
                output::note("Now each signer: freehold root sign, then freehold policy sign.");
                output::object(session.output, WAITING, &with_progress(payload.get("proposal").unwrap_or(&Value::Null)))
            }
            Self::Return { idempotency } => {
                let input = json!({ "idempotencyKey": idempotency.idempotency_key });
                let payload = session.control_plane()?.mutate(SIGNING, "ReturnRoot", input).await?;
                output::note("Now enough of the signers: freehold root sign. From then on the control plane signs root and policy.");
                output::object(session.output, WAITING, &with_progress(payload.get("proposal").unwrap_or(&Value::Null)))
            }
            Self::RotatePairs { idempotency } => {
                let input = json!({ "idempotencyKey": idempotency.idempotency_key });
                let payload = session.control_plane()?.mutate(SIGNING, "RotatePairs", input).await?;
                match payload.get("proposal").filter(|proposal| !proposal.is_null()) {
                    Some(proposal) => {
                        output::note("Now enough of the signers: freehold root sign. Then the old pairs are erased: make a backup.");
                        output::object(session.output, WAITING, &with_progress(proposal))
                    }
                    None => {
                        output::note(
                            "The old pairs count no more, and are erased. Make a backup: one from before cannot sign for this tenant.",
                        );
                        let row = json!({ "id": payload["rootSerial"], "serial": payload["rootSerial"] });
                        output::object(session.output, &[("root in force", "/serial")], &row)
                    }
                }
            }
            Self::Pending => pending(session, Kind::Root).await,
            Self::Sign { sign, recovery } => sign.run(session, Kind::Root, &[], recovery).await,
            Self::Withdraw { reason } => {
                let desk = Desk::open(session.control_plane()?, &Memory::default(), None).await?;
                let waits = desk.waiting(Kind::Root).next().map(|waiting| waiting.told["sha256"].clone());
                let sha256 = waits.ok_or_else(|| Error::new(Exit::NotFound, "proposal_not_found", "no root waits for signatures"))?;
                session.control_plane()?.mutate(SIGNING, "WithdrawRootProposal", json!({ "sha256": sha256, "reason": reason })).await?;
                output::line("withdrawn")
            }
        }
    }
}

fn show(session: &Session, desk: &Desk) -> Result<(), Error> {
    let root = desk.authority.root();
    let rows: Vec<Value> = root
        .roles
        .iter()
        .map(|(kind, role)| {
            let held = desk.authority.is_tenant_held(*kind);
            json!({
                "id": kind.to_string(), "kind": kind.to_string(), "threshold": role.threshold, "of": role.signers.len(),
                "held": if held { "tenant" } else { "control plane" },
                "signers": role.signers.iter().map(ToString::to_string).collect::<Vec<_>>(),
            })
        })
        .collect();
    match session.output {
        Format::Table => {
            output::line(&format!("root {} of {}, good until {}", root.head.serial, root.head.tenant, root.head.expires))?;
            output::line(&format!("sha256 {}", desk.authority.sha256()))?;
            let columns = [("signs", "/kind"), ("needed", "/threshold"), ("of", "/of"), ("held by", "/held"), ("signers", "/signers")];
            output::list(session.output, &columns, &rows)
        }
        _ => {
            let value = json!({
                "id": desk.authority.sha256(), "tenant": root.head.tenant, "serial": root.head.serial, "epoch": root.head.epoch,
                "expires": root.head.expires, "roles": rows,
            });
            output::object(session.output, &[], &value)
        }
    }
}

/// The public halves in these files.
fn publics<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Result<Vec<Value>, Error> {
    files.map(|path| file::public(path).map(|public| json!({ "ed25519": public.ed25519, "mlDsa65": public.ml_dsa_65 }))).collect()
}

/// The signers there are, named again.
fn renewed(desk: &Desk) -> Result<Value, Error> {
    if !desk.authority.is_tenant_held(Kind::Root) {
        return Err(Error::usage("the control plane signs the root: name signers of your own with --signer"));
    }
    let role = |kind: Kind| {
        let role = desk.authority.role(kind).map_err(|rejection| Error::new(Exit::Unverified, rejection.code(), rejection.to_string()))?;
        let signer = |pair: &trust::pair::PublicPair| {
            let public = trust::passphrase::PublicSigner::of(pair);
            json!({ "ed25519": public.ed25519, "mlDsa65": public.ml_dsa_65 })
        };
        Ok::<_, Error>((role.signers.iter().map(signer).collect::<Vec<_>>(), role.threshold))
    };
    let ((root, root_threshold), (policy, policy_threshold)) = (role(Kind::Root)?, role(Kind::Policy)?);
    Ok(json!({ "rootSigners": root, "rootThreshold": root_threshold, "policySigners": policy, "policyThreshold": policy_threshold }))
}

/// `2 of 3 (root 2)`, one for each root whose signers are needed.
fn with_progress(told: &Value) -> Value {
    let mut row = told.clone();
    let needs = told["needs"].as_array().cloned().unwrap_or_default();
    let progress = needs.iter().map(|need| {
        let signed = need["signed"].as_array().map_or(0, Vec::len);
        format!("{signed} of {} (root {})", need["threshold"], need["rootSerial"].as_str().unwrap_or_default())
    });
    row["progress"] = json!(progress.collect::<Vec<_>>().join(", "));
    row["id"] = told["sha256"].clone();
    row
}

/// Lists what waits.
pub async fn pending(session: &Session, kind: Kind) -> Result<(), Error> {
    let client = session.control_plane()?;
    let data = client.run(SIGNING, "StatementProposals", json!({ "kind": super::word(&kind.to_string()) })).await?;
    let rows = data["statementProposals"].as_array().cloned().unwrap_or_default();
    output::list(session.output, WAITING, &rows.iter().map(with_progress).collect::<Vec<_>>())
}

impl Signing {
    /// Shows what waits, asks, signs and hands in, one after the other. `only`: ids of what to sign; empty means all.
    pub async fn run(&self, session: &Session, kind: Kind, only: &[String], recovery: bool) -> Result<(), Error> {
        let mut memory = Memory::read(&self.signer)?;
        let mut desk = Desk::open(session.control_plane()?, &memory, self.root).await?;
        desk.recovery = recovery;
        let waits: Vec<&Waiting> = desk.waiting(kind).filter(|waiting| only.is_empty() || only.contains(&waiting.scope)).collect();
        if waits.is_empty() {
            return Err(Error::new(Exit::NotFound, "proposal_not_found", format!("no {kind} waits for signatures here")));
        }
        if desk.is_first {
            self.first(&desk)?;
        }
        let keyid = self.public()?.keyid;
        let (mut holder, mut rows, mut declined) = (None, Vec::new(), 0);
        for waiting in waits {
            let judged = desk.judge(waiting, keyid)?;
            desk.is_past(&judged, &memory)?;
            let done = waiting
                .told
                .pointer("/needs")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .any(|need| need["signed"].as_array().is_some_and(|signed| signed.contains(&json!(keyid))));
            if done {
                output::note(&format!("{kind} of {}: you have signed this already", visible(&waiting.scope)));
                continue;
            }
            output::note("");
            judged.text.iter().for_each(|line| output::note(line));
            if let Some(other) = desk.signed_other(&judged, &memory) {
                output::note(&format!(
                    "Careful: on {} you signed another statement with this very number ({}). If that one has enough signatures, agents may get either.",
                    other.at, other.sha256
                ));
            }
            if !self.yes && !confirmed("Sign this? [y/N] ")? {
                declined += 1;
                continue;
            }
            if holder.is_none() {
                holder = Some(self.holder()?);
            }
            if let Some(holder) = &holder {
                let left = desk.sign(&judged, holder, &mut memory, &self.signer).await?;
                // What waits now may be something else, or the same with what is missing.
                let mut row = with_progress(if left["sha256"] == waiting.told["sha256"] { &left } else { &waiting.told });
                if left.is_null() {
                    row["progress"] = json!("complete");
                }
                rows.push(row);
            }
        }
        if declined > 0 && rows.is_empty() {
            return Err(Error::new(Exit::Refused, "not_confirmed", "nothing was signed"));
        }
        output::list(session.output, WAITING, &rows)
    }

    /// The public half of the signer.
    pub fn public(&self) -> Result<PublicSigner, Error> {
        file::public(&self.signer)
    }

    /// Whoever has the pair, ready to sign.
    fn holder(&self) -> Result<Holder, Error> {
        Holder::open(&self.signer, &self.passphrase)
    }

    /// Signs something.
    pub fn sign(&self, what: Signable, payload: &[u8]) -> Result<Part, Error> {
        self.holder()?.sign(what, payload)
    }

    /// The first time there is nothing to judge roots by: a person compares.
    pub fn first(&self, desk: &Desk) -> Result<(), Error> {
        let sha256 = desk.authority.sha256();
        output::note(&format!("This signer has seen no root of the tenant {} yet. The newest is {sha256}.", desk.tenant()));
        output::note("Compare it with what an agent shows (freehold status) or another signer has (freehold signer show).");
        if self.yes {
            return Err(
                Error::usage("a root that was never compared is not taken with --yes").hint(format!("compare, then give --root {sha256}"))
            );
        }
        match confirmed("Is it the same? [y/N] ")? {
            true => Ok(()),
            false => Err(Error::new(Exit::Refused, "not_confirmed", "nothing was signed")),
        }
    }
}

/// Asks a person; who is not there has not agreed.
pub fn confirmed(question: &str) -> Result<bool, Error> {
    use std::io::{BufRead, IsTerminal};
    if !std::io::stdin().is_terminal() {
        return Err(Error::usage("nobody is there to confirm").hint("use --yes"));
    }
    output::note(question);
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer).map_err(|source| Error::fault("could not read the answer", source))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
