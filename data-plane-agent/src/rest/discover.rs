//! What may I do? `GET /v1/keys`, `GET /v1/algorithms`, `GET /v1/jwks`. Answers hold nothing that a caller may not do.

use std::collections::HashMap;

use actix_web::{HttpResponse, web};
use schema::{
    catalogue::Algorithm,
    context::EncryptionContext,
    id::{KeyId, KeyVersion},
    key::{KeyReference, Operation},
    wire::{
        operation::{AlgorithmEntry, AlgorithmsAnswer, CompositeEntry, KeyEntry, KeysAnswer, Outlook},
        problem::Problem,
    },
};
use serde::{Deserialize, Serialize};
use service::problem::HttpProblem;

use super::Shared;
use crate::{
    algorithm::public_key::{Jwk, jwk},
    operation::{Proven, Request},
    policy::in_force::{CompositeInForce, InForce, KeyInForce, serves},
};

/// The most keys of one answer.
const MAX_KEYS: usize = 100;
/// Keys that are looked at before others get their turn.
const TOGETHER: usize = 8;

/// Which keys.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wanted {
    after: Option<KeyId>,
    project: Option<String>,
}

/// The keys this caller may use, and what for; and the composites of these keys.
#[utoipa::path(get, path = "/v1/keys", tag = "decisions", security(("caller" = [])), params(
    ("after" = Option<String>, Query, description = "Go on after this key: the `next` of the answer before."),
    ("project" = Option<String>, Query, description = "Only keys of this project, by its name."),
), responses(
    (status = 200, description = "Up to 100 keys.", body = KeysAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn keys(by: Proven, shared: web::Data<Shared>, wanted: web::Query<Wanted>) -> Result<HttpResponse, HttpProblem> {
    let in_force = shared.pipeline.discover(by)?;
    let of_project = |key: &&KeyInForce| wanted.project.as_ref().is_none_or(|name| *name == *key.definition.project_name.to_string());
    let mut found = Vec::new();
    let (mut next, mut composites) = (None, Vec::new());
    let mut by_key = HashMap::<KeyId, Vec<&CompositeInForce>>::new();
    for composite in in_force.composites() {
        by_key.entry(composite.definition.classical).or_default().push(composite);
    }
    for (place, key) in sorted(&in_force).filter(|key| wanted.after.is_none_or(|after| key.id > after)).filter(of_project).enumerate() {
        if found.len() == MAX_KEYS {
            next = found.last().map(|entry: &KeyEntry| entry.id);
            break;
        }
        found.extend(entry(by, &shared, &in_force, key));
        let of_key = by_key.get(&key.id).into_iter().flatten();
        composites.extend(of_key.filter_map(|composite| composite_entry(by, &shared, &in_force, composite)));
        if place % TOGETHER == TOGETHER - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(HttpResponse::Ok().json(KeysAnswer { keys: found, composites, next }))
}

/// Every algorithm of this agent, and what its keys may do.
#[utoipa::path(get, path = "/v1/algorithms", tag = "decisions", security(("caller" = [])), responses(
    (status = 200, description = "The catalogue.", body = AlgorithmsAnswer),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn algorithms(by: Proven, shared: web::Data<Shared>) -> Result<HttpResponse, HttpProblem> {
    shared.pipeline.discover(by)?;
    let described = |algorithm: Algorithm| {
        let entry = algorithm.entry();
        let operations = |purpose: &schema::key::Purpose| {
            let served = Operation::ALL.iter().copied().filter(|operation| algorithm.does(*purpose, *operation));
            (purpose.to_string(), served.collect())
        };
        AlgorithmEntry {
            name: entry.name.to_owned(),
            title: entry.title.to_owned(),
            standard: entry.standard.to_owned(),
            status: entry.status.to_string(),
            operations: entry.purposes.iter().map(operations).collect(),
            classical_bits: entry.classical_bits,
            quantum_category: entry.quantum_category,
            enabled: shared.pipeline.tests.latest().enabled.contains(&algorithm),
        }
    };
    Ok(HttpResponse::Ok().json(AlgorithmsAnswer { algorithms: Algorithm::all().map(described).collect() }))
}

/// A JSON Web Key Set (RFC 7517, section 5).
#[derive(Debug, Serialize)]
pub(super) struct KeySet {
    pub(super) keys: Vec<Jwk>,
}

/// The public keys this caller may read, as one set: every version that still verifies or opens.
#[utoipa::path(get, path = "/v1/jwks", tag = "keys", security(("caller" = [])), responses(
    (status = 200, description = "A JSON Web Key Set.", body = Object, content_type = "application/jwk-set+json"),
    (status = "default", description = "Refused or failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn jwks(by: Proven, shared: web::Data<Shared>) -> Result<HttpResponse, HttpProblem> {
    let in_force = shared.pipeline.discover(by)?;
    let mut keys = Vec::new();
    for (place, key) in sorted(&in_force).enumerate() {
        if outlook(by, &shared, &in_force, key, Operation::PublicKey, false) == Some(Outlook::Allowed) {
            keys.extend(key_set(key).keys);
        }
        if place % TOGETHER == TOGETHER - 1 {
            tokio::task::yield_now().await;
        }
    }
    Ok(HttpResponse::Ok().content_type("application/jwk-set+json").json(KeySet { keys }))
}

/// The public keys of every version of a key that still verifies or opens. A version its generator has not reported, and an
/// algorithm without a JWK, are left out.
pub(super) fn key_set(key: &KeyInForce) -> KeySet {
    let usable = key.versions.iter().filter(|(_, version)| version.state.may_process());
    let written = usable.filter_map(|(number, _)| jwk(KeyVersion::new(key.id, *number), key.algorithm(), key.public_key(*number)?).ok());
    KeySet { keys: written.collect() }
}

fn sorted(in_force: &InForce) -> impl Iterator<Item = &KeyInForce> {
    let mut keys: Vec<&KeyInForce> = in_force.keys().map(|key| &**key).collect();
    keys.sort_unstable_by_key(|key| key.id);
    keys.into_iter()
}

/// A key as this caller sees it; nothing when it may do nothing with it.
fn entry(by: Proven, shared: &Shared, in_force: &InForce, key: &KeyInForce) -> Option<KeyEntry> {
    let definition = &key.definition;
    let served = Operation::ALL.iter().copied().filter(|operation| serves(definition, *operation));
    let operations: std::collections::BTreeMap<_, _> =
        served.filter_map(|operation| Some((operation, outlook(by, shared, in_force, key, operation, false)?))).collect();
    (!operations.is_empty()).then(|| KeyEntry {
        id: key.id,
        name: format!("{}/{}", definition.project_name, definition.name),
        algorithm: definition.algorithm.name().to_owned(),
        purpose: definition.purpose.to_string(),
        primary: key.primary,
        versions: key.versions.iter().map(|(number, version)| (*number, version.state.to_string())).collect(),
        operations,
    })
}

/// A composite as this caller sees it; nothing when it may do nothing by its name.
fn composite_entry(by: Proven, shared: &Shared, in_force: &InForce, composite: &CompositeInForce) -> Option<CompositeEntry> {
    let together = |operation: Operation| {
        let members = composite.members_for(operation);
        let each = members.iter().map(|(_, key)| {
            let key = in_force.key(&KeyReference::Id(*key)).filter(|key| serves(&key.definition, operation))?;
            outlook(by, shared, in_force, key, operation, members.len() > 1)
        });
        // The least of them: allowed stands before conditional.
        each.collect::<Option<Vec<_>>>()?.into_iter().max()
    };
    let operations: std::collections::BTreeMap<_, _> =
        Operation::ALL.iter().filter_map(|operation| Some((*operation, together(*operation)?))).collect();
    (!operations.is_empty()).then(|| CompositeEntry {
        id: composite.id,
        name: composite.full_name(),
        rule: composite.definition.rule,
        members: composite.definition.members().collect(),
        operations,
    })
}

fn outlook(by: Proven, shared: &Shared, in_force: &InForce, key: &KeyInForce, operation: Operation, together: bool) -> Option<Outlook> {
    let context = EncryptionContext::default();
    shared.pipeline.outlook(&Request { masks: true, together, ..Request::new(by, operation, &context, None) }, in_force, key)
}
