//! `POST /v1/import-key`, `/v1/import` and `/v1/export`: material that comes from elsewhere, and material that leaves. It is
//! never in clear on the way, and every step is decided and on record (`docs/import.md`).

use schema::{
    clock::Clock as _,
    context::EncryptionContext,
    encoding::Base64,
    key::{KeyReference, Operation},
    wire::{
        operation::{
            Batch, BatchAnswer, ExportAnswer, ExportRequest, ImportAnswer, ImportKeyAnswer, ImportKeyRequest, ImportRequest, Wrapping,
        },
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
    problem,
};
use crate::{
    algorithm::public_key,
    keys::reconcile::meets,
    material::{
        self, MAX_MATERIAL_BYTES,
        import_keys::MODULUS_BYTES,
        wrapping::{Recipient, open_rsa_aes_kwp},
    },
    message::{MessageError, jwe::Jwe},
    vault::{Exported, VaultError},
};

/// The pair of the context that names the recipient of what is exported.
pub const EXPORT_RECIPIENT: &str = "export-recipient";

operation! {
    /// Gives a key to wrap material under, for the version that waits. It is for that version and for one import, and good for a day.
    import_key, import_key_batch: ImportKeyRequest => ImportKeyAnswer,
    at "/v1/import-key" and "/v1/batch/import-key", "material", "A key to wrap under."
}

operation! {
    /// Brings the material of a version that was made elsewhere. The material first seen for a version is the only one it ever has.
    import, import_batch: ImportRequest => ImportAnswer, at "/v1/import" and "/v1/batch/import", "material", "It is in the vault."
}

operation! {
    /// Takes the material of an exportable key out, wrapped to a public key of the caller's.
    export, export_batch: ExportRequest => ExportAnswer, at "/v1/export" and "/v1/batch/export", "material", "The material, wrapped."
}

impl Act for ImportKeyRequest {
    type Work = Wrapping;
    type Answer = ImportKeyAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Wrapping), Problem> {
        let asked = KeyUse::of(Operation::Import, &self.key, self.context, 0)?;
        Ok((vec![asked], self.wrapping.unwrap_or(Wrapping::Hpke)))
    }

    async fn run(shared: &Shared, wrapping: Wrapping, mut grants: Grants) -> Result<Done<ImportKeyAnswer>, MessageError> {
        let grant = grants.take()?;
        let offered = shared.import_keys.offer(grant.permit.version(), wrapping, shared.pipeline.time.now()).await?;
        let answer = ImportKeyAnswer {
            import_key: offered.id,
            wrapping,
            jwk: offered.jwk,
            pem: offered.pem,
            expires: offered.expires,
            used: grant.used,
        };
        Ok(Done::new(answer, 0))
    }
}

/// Material as it came.
pub struct Wrapped {
    import_key: String,
    format: schema::wire::operation::MaterialFormat,
    inside: Inside,
}

enum Inside {
    Jwe(Box<Jwe>),
    RsaAesKwp(Vec<u8>),
}

impl Act for ImportRequest {
    type Work = Wrapped;
    type Answer = ImportAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Wrapped), Problem> {
        let Self { key, format, jwe, wrapped, import_key, context } = self;
        let invalid = |detail: &str, field: &str| Problem::new(400, "invalid_body", "Invalid body", detail.to_owned()).field(field);
        let (inside, import_key, size) = match (jwe, wrapped, import_key) {
            (Some(text), None, None) => {
                let jwe = Jwe::parse(text.as_bytes()).map_err(|error| problem::of_message(&error))?;
                let named = jwe.named_key().ok_or_else(|| invalid("its \"kid\" must name the import key", "jwe"))?.to_owned();
                let size = jwe.plaintext_bytes();
                (Inside::Jwe(Box::new(jwe)), named, size)
            }
            (None, Some(bytes), Some(import_key)) => {
                let size = bytes.0.len();
                (Inside::RsaAesKwp(bytes.0), import_key, size)
            }
            _ => return Err(invalid("bring the material once: as jwe, or as wrapped with the import_key it was wrapped under", "jwe")),
        };
        if size > MAX_MATERIAL_BYTES * 2 {
            return Err(problem::of_message(&MessageError::TooLong { what: "the material", max_bytes: MAX_MATERIAL_BYTES }));
        }
        Ok((vec![KeyUse::of(Operation::Import, &key, context, size)?], Wrapped { import_key, format, inside }))
    }

    async fn run(shared: &Shared, work: Wrapped, mut grants: Grants) -> Result<Done<ImportAnswer>, MessageError> {
        let grant = grants.take()?;
        let (version, algorithm, now) = (grant.permit.version(), grant.permit.algorithm(), shared.pipeline.time.now());
        let wrapping = match work.inside {
            Inside::Jwe(_) => Wrapping::Hpke,
            Inside::RsaAesKwp(_) => Wrapping::RsaAesKwp,
        };
        let key = shared.import_keys.find(&work.import_key, version, wrapping, now).await?;
        let material = match &work.inside {
            Inside::Jwe(jwe) => jwe.open_with(&*key)?,
            Inside::RsaAesKwp(wrapped) => open_rsa_aes_kwp(&*key, MODULUS_BYTES, wrapped)?,
        };
        let (size, secret) = (material.len() as u64, material::read(algorithm, work.format, &material)?);
        // Guarded as its key demands, like what is made here.
        let in_force = shared.pipeline.current.load();
        if let Some(key) = in_force.as_ref().and_then(|set| set.key(&KeyReference::Id(version.key))) {
            meets(Some(shared.vault.description().brought), &key.definition, version)?;
        }
        let held = shared.vault.import(version, algorithm, secret).await?;
        // From here on the material is home: what fails now is made good when the version's record is signed.
        if let Err(error) = shared.import_keys.used(version, now).await {
            tracing::error!(error = &error as &dyn std::error::Error, %version, "an import key could not be forgotten: it goes when its day is over");
        }
        shared.to_report.notify_one();
        tracing::info!(%version, %algorithm, "the material of a key version was imported");
        let jwk = held.public_key.as_deref().and_then(|public_key| public_key::jwk(version, algorithm, public_key).ok());
        let jwk = jwk.and_then(|jwk| serde_json::to_value(jwk).ok());
        Ok(Done::new(ImportAnswer { fingerprint: held.fingerprint, jwk, used: grant.used }, size))
    }
}

impl Act for ExportRequest {
    type Work = (Recipient, schema::wire::operation::MaterialFormat, Option<Wrapping>);
    type Answer = ExportAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { key, format, wrapping, jwk, pem, context } = self;
        let recipient = Recipient::read(jwk.as_ref(), pem.as_deref()).map_err(|error| problem::of_message(&error))?;
        if wrapping == Some(Wrapping::RsaAesKwp) && recipient.algorithm.entry().jose_kty != "RSA" {
            let detail = "rsa-aes-kwp wraps to an RSA key: give one, or leave the wrapping out";
            return Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("wrapping"));
        }
        let mut asked = KeyUse::of(Operation::Export, &key, with_facts(context, &[(EXPORT_RECIPIENT, recipient.name())])?, 0)?;
        let in_force = shared.pipeline.current.load();
        let exported = in_force.as_ref().and_then(|set| set.key(&asked.key)).map(|key| key.algorithm());
        asked.warnings.extend(exported.and_then(|algorithm| recipient.warning(algorithm)));
        Ok((vec![asked], (recipient, format, wrapping)))
    }

    async fn run(
        shared: &Shared,
        (recipient, format, wrapping): Self::Work,
        mut grants: Grants,
    ) -> Result<Done<ExportAnswer>, MessageError> {
        let grant = grants.take()?;
        let (version, algorithm) = (grant.permit.version(), grant.permit.algorithm());
        let permit = grant.permit.into_export().ok_or(MessageError::Failed("granting an export"))?;
        let Exported { held, material } = shared.vault.export(permit).await?;
        if held.version != version || held.algorithm != algorithm {
            return Err(VaultError::OtherAlgorithm { version, held: held.algorithm, asked: algorithm }.into());
        }
        let written = material::write(algorithm, format, &material)?;
        let (jwe, wrapped) = match wrapping {
            Some(Wrapping::RsaAesKwp) => (None, Some(Base64(recipient.rsa_aes_kwp(&written, &*shared.ids)?))),
            Some(Wrapping::Hpke) | None => (Some(recipient.jwe(&written, format, &*shared.ids)?), None),
        };
        tracing::warn!(%version, recipient = recipient.name(), "the material of a key version was exported");
        let size = written.len() as u64;
        Ok(Done::new(ExportAnswer { jwe, wrapped, recipient: recipient.name(), format, used: grant.used }, size))
    }
}

/// What the agent itself says of a request, for policy to look at and for receipts to keep. A caller cannot say it.
pub(super) fn with_facts(context: EncryptionContext, facts: &[(&str, String)]) -> Result<EncryptionContext, Problem> {
    let mut pairs = context.pairs().clone();
    for (name, value) in facts {
        if pairs.insert((*name).to_owned(), value.clone()).is_some() {
            let detail = format!("the pair {name:?} is the agent's to say: leave it out");
            return Err(Problem::new(400, "context_reserved", "A pair of the context is reserved", detail).field("context"));
        }
    }
    let fits = EncryptionContext::new(pairs);
    fits.map_err(|error| Problem::new(400, "invalid_body", "Invalid body", error.to_string()).field("context"))
}
