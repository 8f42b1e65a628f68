//! What is made of bare bytes, without a message around them: tags, signatures over digests, wrapped keys, secrets.
//!
//! There is no header that an encryption context could stand in: policy sees it and receipts keep it, but nothing binds it
//! (`docs/decisions/0143-bare-results-bind-no-context.md`). Nor does anything name the version: whoever keeps a result keeps
//! the `key_version` of the answer, and names it.

use schema::{
    encoding::Base64,
    key::Operation,
    wire::{
        operation::{
            AgreeAnswer, AgreeRequest, Batch, BatchAnswer, CheckAnswer, DecapsulateAnswer, DecapsulateRequest, DeriveAnswer, DeriveRequest,
            EncapsulateAnswer, EncapsulateRequest, MacAnswer, MacRequest, SecretBytes, SignDigestAnswer, SignDigestRequest, UnwrapAnswer,
            UnwrapRequest, VerifyDigestRequest, VerifyMacRequest, WrapAnswer, WrapRequest,
        },
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation, verdict},
    key_reference,
};
use crate::{
    message::{MAX_PLAINTEXT_BYTES, MessageError},
    vault::{public, secret},
};

/// The most bytes of a key that is wrapped: the largest private key is a fraction of it.
const MAX_KEY_BYTES: usize = 64 * 1024;
/// The most bytes that are derived at once (RFC 5869 allows 255 times the hash).
const MAX_DERIVED_BYTES: usize = 255 * 32;

operation! {
    /// Authenticates a message with a shared key: the whole HMAC tag.
    mac, mac_batch: MacRequest => MacAnswer, at "/v1/mac" and "/v1/batch/mac", "signatures", "The tag."
}

operation! {
    /// Checks the tag of a message, in constant time.
    verify_mac, verify_mac_batch: VerifyMacRequest => CheckAnswer, at "/v1/verify-mac" and "/v1/batch/verify-mac", "signatures", "Whether it is genuine."
}

operation! {
    /// Signs a ready digest: of the hash that the key's algorithm signs with, or the external mu of ML-DSA.
    sign_digest, sign_digest_batch: SignDigestRequest => SignDigestAnswer,
    at "/v1/sign-digest" and "/v1/batch/sign-digest", "signatures", "The signature, as the algorithm's standard writes it."
}

operation! {
    /// Verifies a signature over a ready digest.
    verify_digest, verify_digest_batch: VerifyDigestRequest => CheckAnswer,
    at "/v1/verify-digest" and "/v1/batch/verify-digest", "signatures", "Whether it is genuine."
}

operation! {
    /// Wraps a bare key of at most 64 KiB.
    wrap, wrap_batch: WrapRequest => WrapAnswer, at "/v1/wrap" and "/v1/batch/wrap", "keys", "The wrapped key."
}

operation! {
    /// Unwraps a bare key.
    unwrap, unwrap_batch: UnwrapRequest => UnwrapAnswer, at "/v1/unwrap" and "/v1/batch/unwrap", "keys", "The key in clear."
}

operation! {
    /// Agrees on a secret with the holder of another key. The secret is as it comes out of the curve: derive keys from it.
    agree, agree_batch: AgreeRequest => AgreeAnswer, at "/v1/agree" and "/v1/batch/agree", "secrets", "The shared secret."
}

operation! {
    /// Makes a secret and encapsulates it for the holder of a key (FIPS 203).
    encapsulate, encapsulate_batch: EncapsulateRequest => EncapsulateAnswer,
    at "/v1/encapsulate" and "/v1/batch/encapsulate", "secrets", "The secret, in clear and encapsulated."
}

operation! {
    /// Takes an encapsulated secret out.
    decapsulate, decapsulate_batch: DecapsulateRequest => DecapsulateAnswer,
    at "/v1/decapsulate" and "/v1/batch/decapsulate", "secrets", "The secret."
}

operation! {
    /// Derives a key (HKDF, RFC 5869). The same request gives the same key, as long as it names the version.
    derive, derive_batch: DeriveRequest => DeriveAnswer, at "/v1/derive" and "/v1/batch/derive", "secrets", "The derived key."
}

impl Act for MacRequest {
    type Work = SecretBytes;
    type Answer = MacAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, SecretBytes), Problem> {
        at_most(&self.payload, MAX_PLAINTEXT_BYTES, "payload")?;
        Ok((vec![KeyUse::of(Operation::Mac, &self.key, self.context, self.payload.0.len())?], self.payload))
    }

    async fn run(shared: &Shared, payload: SecretBytes, mut grants: Grants) -> Result<Done<MacAnswer>, MessageError> {
        let grant = grants.take()?;
        let tag = Base64(shared.vault.mac(grant.permit, &payload.0).await?);
        Ok(Done::new(MacAnswer { tag, used: grant.used }, grant.size))
    }
}

impl Act for VerifyMacRequest {
    type Work = (SecretBytes, Base64);
    type Answer = CheckAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        at_most(&self.payload, MAX_PLAINTEXT_BYTES, "payload")?;
        let checking = KeyUse::of(Operation::VerifyMac, &self.key, self.context, self.payload.0.len())?;
        Ok((vec![checking], (self.payload, self.tag)))
    }

    async fn run(shared: &Shared, (payload, tag): Self::Work, mut grants: Grants) -> Result<Done<CheckAnswer>, MessageError> {
        let grant = grants.take()?;
        let code = verdict(shared.vault.verify_mac(grant.permit, &payload.0, &tag.0).await.map_err(MessageError::from))?;
        Ok(checked(code, grant.used, grant.size))
    }
}

impl Act for SignDigestRequest {
    type Work = Base64;
    type Answer = SignDigestAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Base64), Problem> {
        Ok((vec![KeyUse::of(Operation::SignDigest, &self.key, self.context, self.digest.0.len())?], self.digest))
    }

    async fn run(shared: &Shared, digest: Base64, mut grants: Grants) -> Result<Done<SignDigestAnswer>, MessageError> {
        let grant = grants.take()?;
        let signature = Base64(shared.vault.sign_digest(grant.permit, &digest.0).await?);
        Ok(Done::new(SignDigestAnswer { signature, used: grant.used }, grant.size))
    }
}

impl Act for VerifyDigestRequest {
    type Work = (Base64, Base64);
    type Answer = CheckAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let checking = KeyUse::of(Operation::VerifyDigest, &self.key, self.context, self.digest.0.len())?;
        Ok((vec![checking], (self.digest, self.signature)))
    }

    async fn run(shared: &Shared, (digest, signature): Self::Work, mut grants: Grants) -> Result<Done<CheckAnswer>, MessageError> {
        let grant = grants.take()?;
        let checking = public::verify_digest(&*shared.vault, grant.permit, &digest.0, &signature.0);
        let code = verdict(checking.await.map_err(MessageError::from))?;
        Ok(checked(code, grant.used, grant.size))
    }
}

impl Act for WrapRequest {
    type Work = SecretBytes;
    type Answer = WrapAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, SecretBytes), Problem> {
        at_most(&self.plaintext, MAX_KEY_BYTES, "plaintext")?;
        Ok((vec![KeyUse::of(Operation::Wrap, &self.key, self.context, self.plaintext.0.len())?], self.plaintext))
    }

    async fn run(shared: &Shared, plaintext: SecretBytes, mut grants: Grants) -> Result<Done<WrapAnswer>, MessageError> {
        let grant = grants.take()?;
        let key = secret::SecretBytes::new(plaintext.0.to_vec());
        let wrapped = Base64(public::wrap_bytes(&*shared.vault, &*shared.ids, grant.permit, &key).await?);
        Ok(Done::new(WrapAnswer { wrapped, used: grant.used }, grant.size))
    }
}

impl Act for UnwrapRequest {
    type Work = Base64;
    type Answer = UnwrapAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Base64), Problem> {
        Ok((vec![KeyUse::of(Operation::Unwrap, &self.key, self.context, self.wrapped.0.len())?], self.wrapped))
    }

    async fn run(shared: &Shared, wrapped: Base64, mut grants: Grants) -> Result<Done<UnwrapAnswer>, MessageError> {
        let grant = grants.take()?;
        let plaintext = handed_out(shared.vault.unwrap_bytes(grant.permit, &wrapped.0).await?);
        let size = plaintext.0.len() as u64;
        Ok(Done::new(UnwrapAnswer { plaintext, used: grant.used }, size))
    }
}

/// How the other's public key comes.
pub enum Theirs {
    /// As the algorithm's standard writes it.
    Plain(Vec<u8>),
    /// As a JWK or a PEM.
    Text(String),
    /// As a key that policy names.
    Known,
}

impl Act for AgreeRequest {
    type Work = Theirs;
    type Answer = AgreeAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Theirs), Problem> {
        let Self { key, public_key, jwk, pem, their_key, context } = self;
        let mut known = None;
        let theirs = match (public_key, jwk, pem, their_key) {
            (Some(bytes), None, None, None) => Theirs::Plain(bytes.0),
            (None, Some(jwk), None, None) => Theirs::Text(jwk.to_string()),
            (None, None, Some(pem), None) => Theirs::Text(pem),
            (None, None, None, Some(named)) => {
                let reference = key_reference(&named).map_err(|problem| problem.field("their_key"))?;
                known = Some(KeyUse::new(Operation::PublicKey, reference, context.clone(), 0));
                Theirs::Known
            }
            _ => {
                let detail = "give the other's public key once: as public_key, jwk, pem or their_key";
                return Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("public_key"));
            }
        };
        let size = match &theirs {
            Theirs::Plain(bytes) => bytes.len(),
            Theirs::Text(text) => text.len(),
            Theirs::Known => 0,
        };
        let ours = KeyUse::of(Operation::Agree, &key, context, size)?;
        Ok((std::iter::once(ours).chain(known).collect(), theirs))
    }

    async fn run(shared: &Shared, theirs: Theirs, mut grants: Grants) -> Result<Done<AgreeAnswer>, MessageError> {
        const WHAT: &str = "public key for this key";
        let (grant, known) = (grants.take()?, grants.another());
        let (vault, algorithm) = (&*shared.vault, grant.permit.algorithm());
        let mut their_key = None;
        let public_key = match (theirs, known) {
            (Theirs::Plain(bytes), _) => bytes,
            (Theirs::Text(text), _) => {
                let read = schema::public_key::read(algorithm, &text);
                read.map_err(|error| MessageError::Malformed { what: WHAT, detail: error.to_string() })?
            }
            (Theirs::Known, Some(known)) if known.permit.algorithm() == algorithm => {
                their_key = Some(known.used);
                public::read(vault, known.permit).await?
            }
            (Theirs::Known, Some(known)) => {
                let (version, theirs) = (known.permit.version(), known.permit.algorithm());
                let detail = format!("and {} is one of {algorithm}: both must be of the same", grant.permit.version());
                return Err(MessageError::OtherAlgorithm { version, algorithm: theirs.name(), detail });
            }
            (Theirs::Known, None) => return Err(MessageError::Failed("granting a use")),
        };
        let agreed = vault.agree(grant.permit, &public_key).await;
        let secret = handed_out(agreed.map_err(|error| match error.code() {
            "malformed_key" => MessageError::Malformed { what: WHAT, detail: error.to_string() },
            _ => error.into(),
        })?);
        let size = secret.0.len() as u64;
        Ok(Done::new(AgreeAnswer { secret, their_key, used: grant.used }, size))
    }
}

impl Act for EncapsulateRequest {
    type Work = ();
    type Answer = EncapsulateAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, ()), Problem> {
        Ok((vec![KeyUse::of(Operation::Encapsulate, &self.key, self.context, 32)?], ()))
    }

    async fn run(shared: &Shared, (): (), mut grants: Grants) -> Result<Done<EncapsulateAnswer>, MessageError> {
        let grant = grants.take()?;
        let made = public::encapsulate(&*shared.vault, &*shared.ids, grant.permit).await?;
        let (secret, ciphertext) = (handed_out(made.secret), Base64(made.ciphertext));
        Ok(Done::new(EncapsulateAnswer { secret, ciphertext, used: grant.used }, grant.size))
    }
}

impl Act for DecapsulateRequest {
    type Work = Base64;
    type Answer = DecapsulateAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Base64), Problem> {
        Ok((vec![KeyUse::of(Operation::Decapsulate, &self.key, self.context, self.ciphertext.0.len())?], self.ciphertext))
    }

    async fn run(shared: &Shared, ciphertext: Base64, mut grants: Grants) -> Result<Done<DecapsulateAnswer>, MessageError> {
        let grant = grants.take()?;
        let secret = handed_out(shared.vault.decapsulate(grant.permit, &ciphertext.0).await?);
        let size = secret.0.len() as u64;
        Ok(Done::new(DecapsulateAnswer { secret, used: grant.used }, size))
    }
}

impl Act for DeriveRequest {
    type Work = (Base64, Base64, usize);
    type Answer = DeriveAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let length = self.bytes as usize;
        if length == 0 || length > MAX_DERIVED_BYTES {
            let detail = format!("ask for 1 to {MAX_DERIVED_BYTES} bytes");
            return Err(Problem::new(400, "invalid_body", "Invalid body", detail).field("bytes"));
        }
        Ok((vec![KeyUse::of(Operation::Derive, &self.key, self.context, length)?], (self.salt, self.info, length)))
    }

    async fn run(shared: &Shared, (salt, info, length): Self::Work, mut grants: Grants) -> Result<Done<DeriveAnswer>, MessageError> {
        let grant = grants.take()?;
        let derived = handed_out(shared.vault.derive(grant.permit, &salt.0, &info.0, length).await?);
        Ok(Done::new(DeriveAnswer { derived, used: grant.used }, grant.size))
    }
}

fn checked(code: Option<&'static str>, used: schema::wire::operation::Used, size: u64) -> Done<CheckAnswer> {
    Done { answer: CheckAnswer { valid: code.is_none(), reason: code.map(str::to_owned), used }, size, code }
}

/// A secret on its way into an answer.
fn handed_out(secret: secret::SecretBytes) -> SecretBytes {
    SecretBytes::from(secret.expose().to_vec())
}

fn at_most(bytes: &SecretBytes, max_bytes: usize, field: &str) -> Result<(), Problem> {
    if bytes.0.len() > max_bytes {
        let detail = format!("{field} has {} bytes, and at most {max_bytes} are taken", bytes.0.len());
        return Err(Problem::new(413, "too_long", "Too long", detail).field(field));
    }
    Ok(())
}
