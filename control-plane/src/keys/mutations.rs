//! What can be done with keys through GraphQL.

use async_graphql::{Context, ID, InputObject, Object, Result};
use aws_lc_rs::signature;
use schema::{
    catalogue::Algorithm,
    encoding::Base64,
    id::{KeyId, SiteId},
    name::Name,
    public_key,
};

use super::{
    CreateKey, Key, KeyCommand, RegisterExternal, Successor, Template,
    graphql::*,
    placement::{HEARD_WITHIN, choose_generator},
};
use crate::{
    access::permit::Question,
    agents::{Agent, AgentState},
    aliases::Alias,
    composites::Composite,
    graphql::{
        api::{Api, Done, Filter, no_such},
        payload::{self, Common, CommonNew, Stop, UserError, field, optional, payloads},
        scalar::{Durability, KeyOrigin, KeyProtection, KeyPurpose, LabelInput, RevocationReason, Timestamp, UInt64},
    },
    naming,
    sites::Site,
};

payloads!(key: KeyNode =>
    CreateKeyPayload, RegisterExternalKeyPayload, RegisterExternalKeyVersionPayload, DescribeKeyPayload, RelabelKeyPayload, SetKeyLimitsPayload, SetKeyRotationRulePayload,
    SetKeyMinimumVersionsPayload, SetKeyDeletionProtectionPayload, SuspendKeyPayload, ResumeKeyPayload, RotateKeyPayload,
    SuspendKeyVersionPayload, ResumeKeyVersionPayload, DeactivateKeyVersionPayload, CompromiseKeyVersionPayload,
    RevokeKeyVersionPayload, DestroyKeyVersionPayload, CancelKeyVersionDestructionPayload, CancelKeyVersionDeactivationPayload, SetKeySuccessorPayload, AttestHolderLostPayload);

/// A key to create. Algorithm, purpose, placement, durability, protection, exportable and origin never change.
#[derive(InputObject)]
pub struct CreateKeyInput {
    /// Id or name.
    project: ID,
    /// 1 to 63 characters of a-z, 0-9, `-` and `.`, starting with a letter. Never personal; never changes.
    name: String,
    /// A name of the catalogue, e.g. `ML-DSA-65`.
    algorithm: String,
    /// What it is for.
    purpose: KeyPurpose,
    /// Sites where its material may be, ids or names.
    placement: Vec<ID>,
    /// How many homes a version needs; absent: a sealed backup, where every site of the key has a recovery key.
    durability: Option<Durability>,
    /// How well a vault must guard its material; one that does not never makes or holds it.
    #[graphql(default_with = "KeyProtection::Software")]
    protection: KeyProtection,
    /// Whether material may leave the vault, wrapped.
    #[graphql(default)]
    exportable: bool,
    /// Where its material is made.
    #[graphql(default_with = "KeyOrigin::Generated")]
    origin: KeyOrigin,
    /// In words.
    description: Option<String>,
    /// Labels, given to policy.
    #[graphql(default)]
    labels: Vec<LabelInput>,
    /// Whether it is protected from destruction.
    #[graphql(default = true)]
    deletion_protection: bool,
    /// Agents that may make its material; empty: any rostered agent of its sites.
    #[graphql(default)]
    eligible_generators: Vec<ID>,
    /// How new versions may come about; absent: only by hand.
    rotation: Option<RotationRuleInput>,
    /// Soft and hard limits; absent: none.
    limits: Option<UseLimitsInput>,
    /// The template of the policy in force that it follows.
    template: Option<String>,
    #[graphql(flatten)]
    common: CommonNew,
}

/// A partner's key to register: only its public half is known here. Algorithm, purpose and placement never change.
#[derive(InputObject)]
pub struct RegisterExternalKeyInput {
    /// Id or name.
    project: ID,
    /// 1 to 63 characters of a-z, 0-9, `-` and `.`, starting with a letter. Never personal; never changes.
    name: String,
    /// An asymmetric algorithm of the catalogue, e.g. `HPKE-9-KE`.
    algorithm: String,
    /// What it is for; absent: the first purpose of the algorithm that its public half serves.
    purpose: Option<KeyPurpose>,
    /// Sites where it may be used, ids or names.
    placement: Vec<ID>,
    /// The public key: a JWK, or a PEM with `-----BEGIN PUBLIC KEY-----`.
    public_key: String,
    /// In words.
    description: Option<String>,
    /// Labels, given to policy.
    #[graphql(default)]
    labels: Vec<LabelInput>,
    /// Whether it is protected from destruction.
    #[graphql(default = true)]
    deletion_protection: bool,
    #[graphql(flatten)]
    common: CommonNew,
}

/// Defines inputs about one key.
macro_rules! inputs {
    ($($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(InputObject)]
        pub struct $name {
            $($(#[$fdoc])* $field: $type,)*
            #[graphql(flatten)]
            common: Common,
        }
    )*};
}

inputs! {
    /// The next public key of a partner.
    RegisterExternalKeyVersionInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// The public key: a JWK, or a PEM with `-----BEGIN PUBLIC KEY-----`.
        public_key: String,
    }
    /// What a key is for from now on.
    DescribeKeyInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// In words; absent: nothing.
        description: Option<String>,
    }
    /// New labels of a key.
    RelabelKeyInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// All labels.
        labels: Vec<LabelInput>,
    }
    /// New limits of a key.
    SetKeyLimitsInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// All limits.
        limits: UseLimitsInput,
    }
    /// A new rotation rule of a key.
    SetKeyRotationRuleInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// The rule.
        rotation: RotationRuleInput,
    }
    /// Which versions of a key may still be used.
    SetKeyMinimumVersionsInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// The lowest.
        minimum_versions: MinimumVersionsInput,
    }
    /// Whether a key is protected from destruction.
    SetKeyDeletionProtectionInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// Whether it is.
        protected: bool,
    }
    /// A key that shall do nothing for now.
    SuspendKeyInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// Why.
        reason: Option<String>,
    }
    /// A key that may be used again.
    ResumeKeyInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
        /// Why.
        reason: Option<String>,
    }
    /// A key that shall have a next version.
    RotateKeyInput {
        /// Id, `project/name` or `project/alias`.
        key: ID,
    }
    /// A version that shall do nothing for now.
    SuspendKeyVersionInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
        /// Why.
        reason: Option<String>,
    }
    /// A version that may be used again.
    ResumeKeyVersionInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
        /// Why.
        reason: Option<String>,
    }
    /// A version that shall only open and verify.
    DeactivateKeyVersionInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
        /// When; absent: now.
        at: Option<Timestamp>,
        /// Why.
        reason: Option<String>,
    }
    /// A version not to deactivate after all.
    CancelKeyVersionDeactivationInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
    }
    /// The key that takes the place of another.
    SetKeySuccessorInput {
        /// The key whose place is taken: id, `project/name` or `project/alias`.
        key: ID,
        /// The key that takes it; absent: no key does.
        successor: Option<ID>,
    }
    /// A version that is known or feared to be in other hands.
    CompromiseKeyVersionInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
        /// What is known.
        reason: Option<String>,
    }
    /// A version to revoke.
    RevokeKeyVersionInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
        /// Why; decides the state: compromised, suspended or deactivated.
        reason: RevocationReason,
        /// In words.
        comment: Option<String>,
    }
    /// A version to destroy.
    DestroyKeyVersionInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
        /// How long it can still be cancelled; absent: a day.
        wait_seconds: Option<UInt64>,
        /// Instead of a wait: when. It can be cancelled until then.
        at: Option<Timestamp>,
        /// Until when backups that hold it may exist, as far as you know: stated in the record of its destruction.
        backups_expire_at: Option<Timestamp>,
        /// Why.
        reason: Option<String>,
    }
    /// A version not to destroy after all.
    CancelKeyVersionDestructionInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
    }
    /// Why a holder will never report that it destroyed a version.
    AttestHolderLostInput {
        /// `key_…/3` or `project/name/3`.
        version: ID,
        /// The agent, `agt_…`.
        holder: ID,
        /// What is known of its vault.
        attestation: String,
    }
}

/// Changing keys.
#[derive(Default)]
pub struct KeyMutation;

#[Object]
impl KeyMutation {
    /// Creates a key and asks for its first version. It becomes active once its holders have reported it ready.
    async fn create_key(&self, ctx: &Context<'_>, input: CreateKeyInput) -> Result<CreateKeyPayload> {
        CreateKeyPayload::of(create(Api::of(ctx)?, input).await)
    }

    /// Registers a partner's public key, to encrypt to and to verify with. It is active at once; the partner alone has the
    /// private half.
    async fn register_external_key(&self, ctx: &Context<'_>, input: RegisterExternalKeyInput) -> Result<RegisterExternalKeyPayload> {
        RegisterExternalKeyPayload::of(register_external(Api::of(ctx)?, input).await)
    }

    /// Registers the next public key of a partner: it is used from now on when no version is named.
    async fn register_external_key_version(
        &self,
        ctx: &Context<'_>,
        input: RegisterExternalKeyVersionInput,
    ) -> Result<RegisterExternalKeyVersionPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.key("key", &input.key).await?;
            let fixed = api.state::<Key>(id, None).await?.and_then(|view| view.state.fixed).ok_or_else(|| no_such("key", "key"))?;
            let command = KeyCommand::RegisterExternalVersion { public_key: partners_key(fixed.algorithm, &input.public_key)? };
            on_key(api, "registerExternalKeyVersion", &input.key, command, input.common).await
        };
        RegisterExternalKeyVersionPayload::of(attempt.await)
    }

    /// Says what a key is for.
    async fn describe_key(&self, ctx: &Context<'_>, input: DescribeKeyInput) -> Result<DescribeKeyPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let command = KeyCommand::Describe { description: optional("description", input.description.as_deref())? };
            on_key(api, "describeKey", &input.key, command, input.common).await
        };
        DescribeKeyPayload::of(attempt.await)
    }

    /// Replaces all labels of a key.
    async fn relabel_key(&self, ctx: &Context<'_>, input: RelabelKeyInput) -> Result<RelabelKeyPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let command = KeyCommand::Relabel { labels: payload::labels(&input.labels)? };
            on_key(api, "relabelKey", &input.key, command, input.common).await
        };
        RelabelKeyPayload::of(attempt.await)
    }

    /// Replaces all limits of a key.
    async fn set_key_limits(&self, ctx: &Context<'_>, input: SetKeyLimitsInput) -> Result<SetKeyLimitsPayload> {
        let command = KeyCommand::SetLimits { limits: input.limits.into() };
        SetKeyLimitsPayload::of(on_key(Api::of(ctx)?, "setKeyLimits", &input.key, command, input.common).await)
    }

    /// Replaces the rotation rule of a key.
    async fn set_key_rotation_rule(&self, ctx: &Context<'_>, input: SetKeyRotationRuleInput) -> Result<SetKeyRotationRulePayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let command = KeyCommand::SetRotationRule { rotation: input.rotation.parse("rotation")? };
            on_key(api, "setKeyRotationRule", &input.key, command, input.common).await
        };
        SetKeyRotationRulePayload::of(attempt.await)
    }

    /// Says which versions of a key may still be used.
    async fn set_key_minimum_versions(&self, ctx: &Context<'_>, input: SetKeyMinimumVersionsInput) -> Result<SetKeyMinimumVersionsPayload> {
        let command = KeyCommand::SetMinimumVersions { minimum_versions: input.minimum_versions.into() };
        SetKeyMinimumVersionsPayload::of(on_key(Api::of(ctx)?, "setKeyMinimumVersions", &input.key, command, input.common).await)
    }

    /// Protects a key from destruction, or no longer.
    async fn set_key_deletion_protection(
        &self,
        ctx: &Context<'_>,
        input: SetKeyDeletionProtectionInput,
    ) -> Result<SetKeyDeletionProtectionPayload> {
        let command = KeyCommand::SetDeletionProtection { protected: input.protected };
        SetKeyDeletionProtectionPayload::of(on_key(Api::of(ctx)?, "setKeyDeletionProtection", &input.key, command, input.common).await)
    }

    /// No version of a key may do anything until it is resumed.
    async fn suspend_key(&self, ctx: &Context<'_>, input: SuspendKeyInput) -> Result<SuspendKeyPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let command = KeyCommand::Suspend { reason: optional("reason", input.reason.as_deref())? };
            on_key(api, "suspendKey", &input.key, command, input.common).await
        };
        SuspendKeyPayload::of(attempt.await)
    }

    /// The versions of a key may be used again, each as far as its own state allows.
    async fn resume_key(&self, ctx: &Context<'_>, input: ResumeKeyInput) -> Result<ResumeKeyPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let command = KeyCommand::Resume { reason: optional("reason", input.reason.as_deref())? };
            on_key(api, "resumeKey", &input.key, command, input.common).await
        };
        ResumeKeyPayload::of(attempt.await)
    }

    /// Asks for the next version; it becomes primary once its holders have reported it ready.
    async fn rotate_key(&self, ctx: &Context<'_>, input: RotateKeyInput) -> Result<RotateKeyPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.key("key", &input.key).await?;
            let fixed = api.state::<Key>(id, None).await?.and_then(|view| view.state.fixed).ok_or_else(|| no_such("key", "key"))?;
            let generator = generator(api, &fixed.placement, &fixed.eligible_generators).await?;
            on_key(api, "rotateKey", &input.key, KeyCommand::Rotate { generator }, input.common).await
        };
        RotateKeyPayload::of(attempt.await)
    }

    /// A version may do nothing until it is resumed.
    async fn suspend_key_version(&self, ctx: &Context<'_>, input: SuspendKeyVersionInput) -> Result<SuspendKeyVersionPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let reason = optional("reason", input.reason.as_deref())?;
            let command = |number| KeyCommand::SuspendVersion { number, reason };
            on_version(api, "suspendKeyVersion", &input.version, command, input.common).await
        };
        SuspendKeyVersionPayload::of(attempt.await)
    }

    /// A version is what it was before it was suspended.
    async fn resume_key_version(&self, ctx: &Context<'_>, input: ResumeKeyVersionInput) -> Result<ResumeKeyVersionPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let reason = optional("reason", input.reason.as_deref())?;
            let command = |number| KeyCommand::ResumeVersion { number, reason };
            on_version(api, "resumeKeyVersion", &input.version, command, input.common).await
        };
        ResumeKeyVersionPayload::of(attempt.await)
    }

    /// A version only opens and verifies, from now on or from a time on.
    async fn deactivate_key_version(&self, ctx: &Context<'_>, input: DeactivateKeyVersionInput) -> Result<DeactivateKeyVersionPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let reason = optional("reason", input.reason.as_deref())?;
            let due = input.at.map(|time| time.0);
            let command = |number| match due {
                Some(due) => KeyCommand::ScheduleDeactivation { number, due, reason },
                None => KeyCommand::DeactivateVersion { number, reason },
            };
            on_version(api, "deactivateKeyVersion", &input.version, command, input.common).await
        };
        DeactivateKeyVersionPayload::of(attempt.await)
    }

    /// Cancels the scheduled deactivation of a version.
    async fn cancel_key_version_deactivation(
        &self,
        ctx: &Context<'_>,
        input: CancelKeyVersionDeactivationInput,
    ) -> Result<CancelKeyVersionDeactivationPayload> {
        let command = |number| KeyCommand::CancelDeactivation { number };
        let attempt = on_version(Api::of(ctx)?, "cancelKeyVersionDeactivation", &input.version, command, input.common);
        CancelKeyVersionDeactivationPayload::of(attempt.await)
    }

    /// Says which key takes the place of another: what the old one protects is to move to it, by re-encrypting or signing again.
    async fn set_key_successor(&self, ctx: &Context<'_>, input: SetKeySuccessorInput) -> Result<SetKeySuccessorPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let id = api.key("key", &input.key).await?;
            let (successor, found) = match &input.successor {
                Some(reference) => {
                    let successor = api.key("successor", reference).await?;
                    (Some(successor), successor_of(api, id, successor).await?)
                }
                None => (None, None),
            };
            on_key(api, "setKeySuccessor", &input.key, KeyCommand::SetSuccessor { successor, found }, input.common).await
        };
        SetKeySuccessorPayload::of(attempt.await)
    }

    /// Says that a version is known or feared to be in other hands. There is no way back.
    async fn compromise_key_version(&self, ctx: &Context<'_>, input: CompromiseKeyVersionInput) -> Result<CompromiseKeyVersionPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let reason = optional("reason", input.reason.as_deref())?;
            let command = |number| KeyCommand::CompromiseVersion { number, reason };
            on_version(api, "compromiseKeyVersion", &input.version, command, input.common).await
        };
        CompromiseKeyVersionPayload::of(attempt.await)
    }

    /// Revokes a version; the reason decides the state it takes: compromised, suspended or deactivated.
    async fn revoke_key_version(&self, ctx: &Context<'_>, input: RevokeKeyVersionInput) -> Result<RevokeKeyVersionPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let comment = optional("comment", input.comment.as_deref())?;
            let command = |number| KeyCommand::RevokeVersion { number, reason: input.reason.into(), comment };
            on_version(api, "revokeKeyVersion", &input.version, command, input.common).await
        };
        RevokeKeyVersionPayload::of(attempt.await)
    }

    /// Schedules the destruction of a version. Until it is due it can be cancelled.
    async fn destroy_key_version(&self, ctx: &Context<'_>, input: DestroyKeyVersionInput) -> Result<DestroyKeyVersionPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let reason = optional("reason", input.reason.as_deref())?;
            let wait_seconds = input.wait_seconds.map(|seconds| seconds.0);
            let (due, backups_expire) = (input.at.map(|time| time.0), input.backups_expire_at.map(|time| time.0));
            let command = |number| KeyCommand::ScheduleDestruction { number, wait_seconds, due, reason, backups_expire };
            on_version(api, "destroyKeyVersion", &input.version, command, input.common).await
        };
        DestroyKeyVersionPayload::of(attempt.await)
    }

    /// Cancels the scheduled destruction of a version.
    async fn cancel_key_version_destruction(
        &self,
        ctx: &Context<'_>,
        input: CancelKeyVersionDestructionInput,
    ) -> Result<CancelKeyVersionDestructionPayload> {
        let command = |number| KeyCommand::CancelDestruction { number };
        let attempt = on_version(Api::of(ctx)?, "cancelKeyVersionDestruction", &input.version, command, input.common);
        CancelKeyVersionDestructionPayload::of(attempt.await)
    }

    /// Says why a holder will never report that it destroyed a version.
    async fn attest_holder_lost(&self, ctx: &Context<'_>, input: AttestHolderLostInput) -> Result<AttestHolderLostPayload> {
        let api = Api::of(ctx)?;
        let attempt = async {
            let holder = api.agent("holder", &input.holder)?;
            let attestation = field("attestation", &input.attestation)?;
            let command = |number| KeyCommand::AttestLost { number, holder, attestation };
            on_version(api, "attestHolderLost", &input.version, command, input.common).await
        };
        AttestHolderLostPayload::of(attempt.await)
    }
}

async fn create(api: &Api, input: CreateKeyInput) -> Result<Done<KeyNode>, Stop> {
    let project = api.existing_project("project", &input.project).await?;
    let name: Name = field("name", &input.name)?;
    let mut placement = Vec::with_capacity(input.placement.len());
    for site in &input.placement {
        placement.push(api.existing_site("placement", site).await?);
    }
    let mut eligible_generators = Vec::with_capacity(input.eligible_generators.len());
    for agent in &input.eligible_generators {
        let agent = api.agent("eligibleGenerators", agent)?;
        api.state::<Agent>(agent, None).await?.ok_or_else(|| no_such("eligibleGenerators", "agent"))?;
        eligible_generators.push(agent);
    }
    let template = match &input.template {
        Some(template) => Some(template_in_force(api, project, field("template", template)?).await?),
        None => None,
    };
    let id = naming::key_id(&api.keys, project, &name);
    let alias = api.state::<Alias>(naming::alias_id(&api.keys, project, &name), None).await?;
    let composite = api.state::<Composite>(naming::composite_id(&api.keys, project, &name), None).await?;
    let command = CreateKey {
        project,
        description: optional("description", input.description.as_deref())?,
        algorithm: field("algorithm", &input.algorithm)?,
        purpose: input.purpose.into(),
        labels: payload::labels(&input.labels)?,
        durability: input.durability.map(Into::into),
        protection: input.protection.into(),
        exportable: input.exportable,
        origin: input.origin.into(),
        deletion_protection: input.deletion_protection,
        limits: input.limits.unwrap_or_default().into(),
        rotation: input.rotation.unwrap_or_default().parse("rotation")?,
        template,
        generator: generator(api, &placement, &eligible_generators).await?,
        name_is_an_alias: alias.is_some(),
        name_is_a_composite: composite.is_some(),
        sites_have_recovery_keys: sites_have_recovery_keys(api, &placement).await?,
        name,
        placement,
        eligible_generators,
    };
    let question = Question::new("createKey", "Key", id).within("Project", project);
    api.run::<Key>(id, KeyCommand::Create(Box::new(command)), question, input.common).await
}

/// Whether a sealed backup can be made wherever the key's material is.
async fn sites_have_recovery_keys(api: &Api, placement: &[SiteId]) -> Result<bool, Stop> {
    for site in placement {
        if api.state::<Site>(*site, None).await?.is_none_or(|view| view.state.recovery.is_none()) {
            return Ok(false);
        }
    }
    Ok(true)
}

async fn register_external(api: &Api, input: RegisterExternalKeyInput) -> Result<Done<KeyNode>, Stop> {
    let project = api.existing_project("project", &input.project).await?;
    let name: Name = field("name", &input.name)?;
    let algorithm = field("algorithm", &input.algorithm)?;
    let mut placement = Vec::with_capacity(input.placement.len());
    for site in &input.placement {
        placement.push(api.existing_site("placement", site).await?);
    }
    let id = naming::key_id(&api.keys, project, &name);
    let alias = api.state::<Alias>(naming::alias_id(&api.keys, project, &name), None).await?;
    let composite = api.state::<Composite>(naming::composite_id(&api.keys, project, &name), None).await?;
    let command = RegisterExternal {
        project,
        description: optional("description", input.description.as_deref())?,
        algorithm,
        purpose: input.purpose.map(Into::into),
        placement,
        labels: payload::labels(&input.labels)?,
        deletion_protection: input.deletion_protection,
        public_key: partners_key(algorithm, &input.public_key)?,
        name_is_an_alias: alias.is_some(),
        name_is_a_composite: composite.is_some(),
        name,
    };
    let question = Question::new("registerExternalKey", "Key", id).within("Project", project);
    api.run::<Key>(id, KeyCommand::RegisterExternal(Box::new(command)), question, input.common).await
}

/// Reads what a partner sent.
fn partners_key(algorithm: Algorithm, text: &str) -> Result<Base64, Stop> {
    let invalid = |detail: String| UserError::at("publicKey", "invalid_public_key", detail);
    let public_key = public_key::read(algorithm, text).map_err(|error| invalid(error.to_string()))?;
    if !is_on_its_curve(algorithm, &public_key) {
        return Err(invalid(format!("this is no public key of {algorithm}: it is not a point of its curve, or not a sound RSA key")).into());
    }
    Ok(Base64(public_key))
}

/// Whether the library that agents use takes it, where more than the length can be wrong.
fn is_on_its_curve(algorithm: Algorithm, public_key: &[u8]) -> bool {
    let taken_by: &'static dyn signature::VerificationAlgorithm = match (algorithm.entry().jose_kty, algorithm.entry().jose_crv) {
        ("RSA", _) => &signature::RSA_PSS_2048_8192_SHA256,
        ("EC", Some("P-256")) => &signature::ECDSA_P256_SHA256_FIXED,
        ("EC", _) => &signature::ECDSA_P384_SHA384_FIXED,
        ("OKP", Some("Ed25519")) => &signature::ED25519,
        _ => return true,
    };
    signature::ParsedPublicKey::new(taken_by, public_key).is_ok()
}

/// What a template of the project's published policy allows.
async fn template_in_force(api: &Api, project: schema::id::ProjectId, name: Name) -> Result<Template, Stop> {
    let rule = crate::policies::graphql::template(api, project, &name).await?;
    let rule =
        rule.ok_or_else(|| UserError::at("template", "not_found", "no policy in force has a template of this name for the project"))?;
    let filter = Filter::within(project).term("template", Some(name.to_string()));
    let keys_made = api.count::<Key>(filter).await?;
    Ok(Template { name, rule, keys_made })
}

/// An agent at work at one of the sites that may make material, one that is there first, of those the longest rostered; none when there is none yet.
async fn generator(
    api: &Api,
    placement: &[schema::id::SiteId],
    eligible: &[schema::id::AgentId],
) -> Result<Option<(schema::id::AgentId, schema::id::SiteId)>, Stop> {
    let mut agents = Vec::new();
    for site in placement {
        let filter = Filter::within(site).state(Some(AgentState::Rostered.as_str()));
        agents.extend(api.every::<Agent>(filter).await?);
    }
    Ok(choose_generator(placement, eligible, &agents, &api.heard_of(HEARD_WITHIN).await?))
}

/// The most keys that take each other's places in a row.
const MAX_SUCCESSORS: usize = 32;

/// What there is to know of a key that is to take the place of another.
async fn successor_of(api: &Api, key: KeyId, successor: KeyId) -> Result<Option<Successor>, Stop> {
    let Some(first) = api.state::<Key>(successor, None).await?.map(|view| view.state) else { return Ok(None) };
    let Some(fixed) = &first.fixed else { return Ok(None) };
    let (project, purpose) = (fixed.project, fixed.purpose);
    let mut next = first.successor;
    for _ in 0..MAX_SUCCESSORS {
        match next {
            Some(id) if id != key => next = api.state::<Key>(id, None).await?.and_then(|view| view.state.successor),
            _ => break,
        }
    }
    Ok(Some(Successor { project, purpose, leads_back: next.is_some() }))
}

async fn on_key(api: &Api, action: &'static str, key: &str, command: KeyCommand, common: Common) -> Result<Done<KeyNode>, Stop> {
    let id = api.key("key", key).await?;
    api.run::<Key>(id, command, question(api, action, id).await?, common).await
}

async fn on_version(
    api: &Api,
    action: &'static str,
    version: &str,
    command: impl FnOnce(u32) -> KeyCommand,
    common: Common,
) -> Result<Done<KeyNode>, Stop> {
    let wrong = || UserError::at("version", "invalid_input", "expected a version: key_…/3 or project/name/3");
    let (key, number) = version.rsplit_once('/').ok_or_else(wrong)?;
    let number: u32 = number.parse().map_err(|_| wrong())?;
    let id = api.key("version", key).await?;
    api.run::<Key>(id, command(number), question(api, action, id).await?, common).await
}

async fn question(api: &Api, action: &'static str, id: KeyId) -> Result<Question, Stop> {
    let project = api.state::<Key>(id, None).await?.and_then(|view| view.state.fixed).map(|fixed| fixed.project);
    let question = Question::new(action, "Key", id);
    Ok(match project {
        Some(project) => question.within("Project", project),
        None => question,
    })
}
