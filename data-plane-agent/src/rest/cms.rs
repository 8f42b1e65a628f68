//! `POST /v1/cms/open` and `/v1/cms/verify`: what old programs sealed and signed, in clear or turned into JOSE.
//!
//! What is as strong as what the key itself would make is decided like a message of ours. What is weaker is another operation,
//! `decrypt-legacy` or `verify-legacy`, that policy must allow by name or by allowing everything.

use schema::{
    key::Operation,
    wire::{
        operation::{Batch, BatchAnswer, CmsOpenAnswer, CmsOpenRequest, CmsVerifyAnswer, CmsVerifyRequest, SecretBytes, Warning},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation, verdict},
    encrypt::jwe_form,
    key_reference, problem,
    sign::jws_form,
};
use crate::{
    message::{
        MessageError,
        cms::{enveloped::Enveloped, signed::Signed},
        jwe, jws,
    },
    vault::public,
};

operation! {
    /// Opens a message of CMS (PKCS#7) that was sealed to an RSA or elliptic-curve key, or seals it again under another key as a JWE. What is weaker than our
    /// own messages needs `decrypt-legacy`, else it needs `decrypt`, or `re-encrypt` when it is sealed again.
    open, open_batch: CmsOpenRequest => CmsOpenAnswer, at "/v1/cms/open" and "/v1/batch/cms/open", "old formats", "What was in it."
}

operation! {
    /// Verifies a signature of CMS (PKCS#7), and signs the content again with another key as a JWS where that is asked for. What is weaker
    /// than our own signatures needs `verify-legacy`, else it needs `verify`, or `re-sign` when it is signed again.
    verify, verify_batch: CmsVerifyRequest => CmsVerifyAnswer, at "/v1/cms/verify" and "/v1/batch/cms/verify", "old formats", "Whether it is genuine."
}

impl Act for CmsOpenRequest {
    type Work = (Enveloped, Option<usize>, jwe::Form);
    type Answer = CmsOpenAnswer;

    fn plan(self, _shared: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { message, key, recipient, seal_with, context, format } = self;
        let sealed = Enveloped::parse(&message.0).map_err(|error| problem::of_message(&error))?;
        let legacy = sealed.recipient(recipient).map_err(|error| problem::of_message(&error))?.legacy();
        let operation = match (legacy.is_empty(), &seal_with) {
            (false, _) => Operation::DecryptLegacy,
            (true, None) => Operation::Decrypt,
            (true, Some(_)) => Operation::ReEncrypt,
        };
        let size = sealed.ciphertext_bytes();
        let opening = KeyUse::of(operation, &key, context.clone(), size)?;
        let mut uses = vec![KeyUse { warnings: warnings(&legacy), ..opening }];
        if let Some(key) = seal_with {
            uses.push(KeyUse::of(Operation::Encrypt, &key, context, size)?);
        }
        Ok((uses, (sealed, recipient, jwe_form(format))))
    }

    async fn run(shared: &Shared, (sealed, recipient, form): Self::Work, mut grants: Grants) -> Result<Done<CmsOpenAnswer>, MessageError> {
        let opening = grants.take()?;
        let vault = &*shared.vault;
        let plaintext = sealed.open(vault, opening.permit, sealed.recipient(recipient)?).await?;
        let size = plaintext.len() as u64;
        let mut answer = CmsOpenAnswer { plaintext: None, message: None, sealed: None, used: opening.used };
        match grants.another() {
            Some(sealing) => {
                let permits = vec![sealing.permit];
                answer.message = Some(jwe::encrypt(vault, &*shared.ids, permits, plaintext.expose(), &sealing.context, form).await?);
                answer.sealed = Some(sealing.used);
            }
            None => answer.plaintext = Some(SecretBytes::from(plaintext.expose().to_vec())),
        }
        Ok(Done::new(answer, size))
    }
}

/// A signature that was read.
pub struct Read {
    signed: Signed,
    signer: Option<usize>,
    content: Option<SecretBytes>,
    form: jws::Form,
}

impl Act for CmsVerifyRequest {
    type Work = Read;
    type Answer = CmsVerifyAnswer;

    fn plan(self, shared: &Shared) -> Result<(Vec<KeyUse>, Read), Problem> {
        let Self { message, key, signer, content, sign_with, context, format } = self;
        let signed = Signed::parse(&message.0).map_err(|error| problem::of_message(&error))?;
        let reference = key_reference(&key)?;
        let in_force = shared.pipeline.current.load();
        let found = in_force.as_ref().and_then(|set| set.key(&reference));
        let chosen = signed.signer(signer).map_err(|error| problem::of_message(&error))?;
        // A key that is not there has no algorithm: the decision says that it is not there.
        let legacy = found.map(|key| chosen.legacy(key.algorithm())).unwrap_or_default();
        let operation = match (legacy.is_empty(), &sign_with) {
            (false, _) => Operation::VerifyLegacy,
            (true, None) => Operation::Verify,
            (true, Some(_)) => Operation::ReSign,
        };
        let size = content.as_ref().map_or(signed.content().map_or(0, <[u8]>::len), |content| content.0.len());
        let verifying = KeyUse::new(operation, reference, context.clone(), size);
        let mut uses = vec![KeyUse { warnings: warnings(&legacy), ..verifying }];
        if let Some(key) = sign_with {
            uses.push(KeyUse::of(Operation::Sign, &key, context, size)?);
        }
        Ok((uses, Read { signed, signer, content, form: jws_form(false, format)? }))
    }

    async fn run(shared: &Shared, read: Read, mut grants: Grants) -> Result<Done<CmsVerifyAnswer>, MessageError> {
        let verifying = grants.take()?;
        let vault = &*shared.vault;
        let held = public::held(vault, &verifying.permit).await?;
        let detached = read.content.as_ref().map(|content| content.0.as_slice());
        let code = verdict(read.signed.verify(read.signed.signer(read.signer)?, verifying.permit, &held, detached))?;
        let genuine = code.is_none();
        let payload = read.signed.content().filter(|_| genuine).map(|content| SecretBytes::from(content.to_vec()));
        let (reason, size) = (code.map(str::to_owned), verifying.size);
        let mut answer = CmsVerifyAnswer { valid: genuine, reason, payload, signature: None, signed: None, used: verifying.used };
        if let Some(signing) = grants.another().filter(|_| genuine) {
            let content = read.signed.content().or(detached).unwrap_or_default();
            answer.signature = Some(jws::sign(vault, &*shared.ids, vec![signing.permit], content, &signing.context, read.form).await?);
            answer.signed = Some(signing.used);
        }
        Ok(Done { answer, size, code })
    }
}

fn warnings(legacy: &[String]) -> Vec<Warning> {
    if legacy.is_empty() {
        return Vec::new();
    }
    let detail = format!("it was made with {}: make it anew with a key of ours (seal_with, sign_with)", legacy.join(", and "));
    vec![Warning { code: "algorithm_legacy".to_owned(), detail }]
}
