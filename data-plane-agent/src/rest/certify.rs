//! `POST /v1/certify`: a request for a certificate of a key in the vault, or a certificate that it signs itself. An action of
//! its own, so that whoever may sign messages with a key cannot have it certified as whatever they like.

use schema::{
    clock::Clock as _,
    encoding::Base64,
    key::Operation,
    wire::{
        operation::{Batch, BatchAnswer, CertificateKind, CertifyAnswer, CertifyRequest},
        problem::Problem,
    },
};

use super::{
    Shared,
    act::{Act, Done, Grants, KeyUse, operation},
    problem,
    transfer::with_facts,
};
use crate::{
    message::{
        MessageError,
        certificate::{self, Names, Subject},
    },
    vault::public,
};

/// How long a self-signed certificate lives, in days: unless it is said, and at most.
const DAYS: (u32, u32) = (30, 398);

operation! {
    /// Makes a request for a certificate of a key (PKCS #10), or a certificate that the key signs itself. Policy sees the names in the
    /// encryption context, as `certificate-kind`, `certificate-subject` and `certificate-names`.
    certify, certify_batch: CertifyRequest => CertifyAnswer, at "/v1/certify" and "/v1/batch/certify", "certificates", "The request, or the certificate."
}

impl Act for CertifyRequest {
    type Work = (CertificateKind, Subject, u32);
    type Answer = CertifyAnswer;

    fn plan(self, _: &Shared) -> Result<(Vec<KeyUse>, Self::Work), Problem> {
        let Self { key, kind, subject, dns, ip, email, uri, days, context } = self;
        let kind = kind.unwrap_or(CertificateKind::Request);
        let invalid = |detail: String, field| Problem::new(400, "invalid_body", "Invalid body", detail).field(field);
        let (default, most) = DAYS;
        let days = match (kind, days) {
            (CertificateKind::Request, Some(_)) => {
                return Err(invalid("how long a certificate lives, the authority that issues it says".to_owned(), "days"));
            }
            (_, days) => days.unwrap_or(default),
        };
        if !(1..=most).contains(&days) {
            return Err(invalid(format!("a self-signed certificate lives 1 to {most} days"), "days"));
        }
        let subject = Subject::parse(Names { subject: &subject, dns: &dns, ip: &ip, email: &email, uri: &uri })
            .map_err(|error| problem::of_message(&error))?;
        let facts =
            [("certificate-kind", kind.to_string()), ("certificate-subject", subject.name()), ("certificate-names", subject.names())];
        Ok((vec![KeyUse::of(Operation::Certify, &key, with_facts(context, &facts)?, 0)?], (kind, subject, days)))
    }

    async fn run(shared: &Shared, (kind, subject, days): Self::Work, mut grants: Grants) -> Result<Done<CertifyAnswer>, MessageError> {
        let grant = grants.take()?;
        let vault = &*shared.vault;
        let held = public::held(vault, &grant.permit).await?;
        let (label, der) = match kind {
            CertificateKind::Request => ("CERTIFICATE REQUEST", certificate::request(vault, grant.permit, &held, &subject).await?),
            CertificateKind::SelfSigned => {
                let life = (shared.pipeline.time.now(), days);
                ("CERTIFICATE", certificate::self_signed(vault, &*shared.ids, grant.permit, &held, &subject, life).await?)
            }
        };
        let size = der.len() as u64;
        Ok(Done::new(CertifyAnswer { kind, pem: certificate::pem(label, &der)?, der: Base64(der), used: grant.used }, size))
    }
}
