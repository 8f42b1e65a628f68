//! `GET /v1/keys/{key}/public`: the public half of a key, as JWK, JWKS or PEM.

use actix_web::{HttpResponse, web};
use schema::{
    context::EncryptionContext,
    id::KeyVersion,
    key::{KeyReference, Operation, words},
    wire::problem::Problem,
};
use serde::Deserialize;
use service::problem::HttpProblem;

use super::{
    Shared,
    discover::{KeySet, key_set},
    key_reference,
};
use crate::{
    algorithm::public_key::{jwk, pem},
    operation::{Proven, Request},
};

words! {
    /// How a public key is written.
    #[derive(Default, utoipa::ToSchema)]
    KeyFormat {
        /// JSON Web Key (RFC 7517).
        #[default]
        Jwk = "jwk",
        /// JSON Web Key Set: every version that still verifies or opens.
        Jwks = "jwks",
        /// SubjectPublicKeyInfo in PEM (RFC 5280).
        Pem = "pem",
    }
}

/// How it is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    #[serde(default)]
    format: KeyFormat,
}

/// Reads the public half of a key by id: of its primary version.
#[utoipa::path(get, path = "/v1/keys/{key}/public", tag = "keys", security(("caller" = [])), params(
    ("key" = String, Path, description = "The key's id, `key_…`."),
    ("format" = Option<KeyFormat>, Query, description = "`jwk`, `jwks` or `pem`."),
), responses(
    (status = 200, description = "The public key.", content((Object = "application/jwk+json"), (String = "application/x-pem-file"))),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn by_id(
    by: Proven,
    shared: web::Data<Shared>,
    key: web::Path<String>,
    wanted: web::Query<Wanted>,
) -> Result<HttpResponse, HttpProblem> {
    read(by, &shared, &key, wanted.format)
}

/// Reads the public half of a key by `project/name`, or of one version by `key_…/3`; of a composite those of all its keys.
#[utoipa::path(get, path = "/v1/keys/{project}/{name}/public", tag = "keys", security(("caller" = [])), params(
    ("project" = String, Path, description = "The project's name, or the key's id."),
    ("name" = String, Path, description = "The key's name or alias, or the version's number."),
    ("format" = Option<KeyFormat>, Query, description = "`jwk`, `jwks` or `pem`."),
), responses(
    (status = 200, description = "The public key.", content((Object = "application/jwk+json"), (String = "application/x-pem-file"))),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn by_name(
    by: Proven,
    shared: web::Data<Shared>,
    path: web::Path<(String, String)>,
    wanted: web::Query<Wanted>,
) -> Result<HttpResponse, HttpProblem> {
    let (project, name) = path.into_inner();
    read(by, &shared, &format!("{project}/{name}"), wanted.format)
}

fn read(by: Proven, shared: &Shared, key: &str, format: KeyFormat) -> Result<HttpResponse, HttpProblem> {
    let context = EncryptionContext::default();
    let request = Request::new(by, Operation::PublicKey, &context, None);
    let reference = key_reference(key)?;
    let in_force = shared.pipeline.current.load();
    if let Some(composite) = in_force.as_ref().and_then(|set| set.composite(&reference)) {
        if format != KeyFormat::Jwks {
            let detail = "a composite has several public keys: ask for jwks, or for one of its keys";
            return Err(Problem::new(400, "no_such_format", "Not in this format", detail).field("format").into());
        }
        let mut whole = KeySet { keys: Vec::new() };
        for (_, member) in composite.members_for(Operation::PublicKey) {
            let (key, _) = shared.pipeline.public_key(&request, &KeyReference::Id(member))?;
            whole.keys.extend(key_set(&key).keys);
        }
        return Ok(HttpResponse::Ok().content_type("application/jwk-set+json").json(whole));
    }
    let (key, number) = shared.pipeline.public_key(&request, &reference)?;
    if format == KeyFormat::Jwks {
        return Ok(HttpResponse::Ok().content_type("application/jwk-set+json").json(key_set(&key)));
    }
    let version = KeyVersion::new(key.id, number);
    let public_key = key.public_key(number).ok_or_else(|| {
        Problem::new(409, "no_version_record", "The version is not made yet", format!("the generator of {version} has not reported it yet"))
    })?;
    let mut response = HttpResponse::Ok();
    response.insert_header((schema::wire::operation::header::KEY_VERSION, version.to_string()));
    let written = match format {
        KeyFormat::Jwk | KeyFormat::Jwks => {
            jwk(version, key.algorithm(), public_key).map(|jwk| response.content_type("application/jwk+json").json(jwk))
        }
        KeyFormat::Pem => pem(key.algorithm(), public_key).map(|pem| response.content_type("application/x-pem-file").body(pem)),
    };
    Ok(written.map_err(|error| Problem::new(400, "no_such_format", "Not in this format", error.to_string()).field("format"))?)
}
