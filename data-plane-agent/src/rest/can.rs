//! `POST /v1/can`: whether a request would be allowed, and why. Nothing is used, no budget is taken from, and nothing goes on
//! record.

use actix_web::{HttpResponse, web};
use schema::{
    id::CallerId,
    key::{KeyReference, Operation},
    wire::{
        operation::{CanAnswer, CanRequest},
        problem::Problem,
    },
};
use service::problem::HttpProblem;

use super::{Shared, key_reference, tokens::CallerReference};
use crate::{
    operation::{Proven, Request, no_key_to_explain},
    policy::{
        decide::{Allowed, Refused},
        refusal::Refusal,
    },
};

/// Asks whether a request would be allowed, and why. To ask about another caller needs the action `explain` on the key.
#[utoipa::path(post, path = "/v1/can", tag = "decisions", request_body = CanRequest, security(("caller" = [])), responses(
    (status = 200, description = "Whether it would, and why.", body = CanAnswer),
    (status = "default", description = "The question was refused.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn can(by: Proven, shared: web::Data<Shared>, body: web::Json<CanRequest>) -> Result<HttpResponse, HttpProblem> {
    let CanRequest { caller, operation, key, context, size, address } = body.into_inner();
    let about = match caller.as_deref() {
        None => by.caller,
        // Whether there is such a caller is for those to know who may ask about others.
        Some(text) => match (caller_of(&shared, text), &key) {
            (Ok(caller), _) => caller,
            (Err(unknown), Some(key)) => {
                for key in keys_of(&shared, key, operation)? {
                    shared.pipeline.may_explain(by, &key)?;
                }
                return Err(unknown.into());
            }
            (Err(_), None) => return Err(no_key_to_explain().into()),
        },
    };
    let asking = Proven { caller: about, address: address.unwrap_or(by.address) };
    let request = Request { masks: operation == Operation::Decrypt, ..Request::new(asking, operation, &context, size) };
    let mut answer = CanAnswer {
        allowed: false,
        caller: about,
        operation,
        key_version: None,
        also: Vec::new(),
        policies: Vec::new(),
        obligations: Default::default(),
        warnings: Vec::new(),
        refusal: None,
    };
    let refused = |Refused { refusal, version, .. }| (refusal.problem(), version);
    let refusal = match (operation, key) {
        (Operation::Random, None) => {
            let decided = shared.pipeline.would_without_key(by, &request)?;
            decided.map(|allowed| (answer.policies, answer.warnings) = (allowed.policies, allowed.warnings)).map_err(refused)
        }
        (Operation::Random, Some(_)) => return Err(wrong("random names no key: leave it out").into()),
        (_, None) => return Err(wrong("this operation needs a key").into()),
        (_, Some(key)) => {
            let keys = keys_of(&shared, &key, operation)?;
            // Rewrapping protects with the newest version; whoever names a version asks whether that one may be read.
            let anew = operation == Operation::Rewrap && !matches!(keys.as_slice(), [KeyReference::Version(_)]);
            let request = Request { together: keys.len() > 1, anew, ..request };
            let mut decided = Ok(());
            for key in &keys {
                match shared.pipeline.would(by, &request, key)? {
                    Ok(allowed) => add(&mut answer, allowed),
                    Err(other) => {
                        decided = Err(refused(other));
                        break;
                    }
                }
            }
            decided
        }
    };
    match refusal {
        Ok(()) => answer.allowed = true,
        Err((problem, version)) => {
            (answer.refusal, answer.key_version) = (Some(problem), version);
            (answer.also, answer.policies, answer.warnings, answer.obligations) = Default::default();
        }
    }
    Ok(HttpResponse::Ok().json(answer))
}

/// The keys that take part: of a composite those that do this, else the key that is named.
fn keys_of(shared: &Shared, text: &str, operation: Operation) -> Result<Vec<KeyReference>, Problem> {
    let reference = key_reference(text)?;
    let in_force = shared.pipeline.current.load();
    let composite = in_force.as_ref().and_then(|set| set.composite(&reference));
    let members: Vec<_> = composite.into_iter().flat_map(|composite| composite.members_for(operation)).collect();
    Ok(if members.is_empty() { vec![reference] } else { members.into_iter().map(|(_, key)| KeyReference::Id(key)).collect() })
}

/// What is allowed of one key more.
fn add(answer: &mut CanAnswer, allowed: Allowed) {
    match answer.key_version {
        None => answer.key_version = Some(allowed.version),
        Some(_) => answer.also.push(allowed.version),
    }
    for policy in allowed.policies {
        if !answer.policies.contains(&policy) {
            answer.policies.push(policy);
        }
    }
    answer.obligations.add(allowed.obligations);
    answer.warnings.extend(allowed.warnings);
}

fn caller_of(shared: &Shared, text: &str) -> Result<CallerId, Problem> {
    let unknown = || Refusal::CallerUnknown { caller: text.to_owned() }.problem().field("caller");
    match text.parse::<CallerReference>() {
        Ok(CallerReference::Id(id)) => Ok(id),
        Ok(CallerReference::Named { project, name }) => {
            let in_force = shared.pipeline.current.load().ok_or_else(|| Refusal::NoStatements.problem())?;
            in_force.caller_named(&project, &name).ok_or_else(unknown)
        }
        Err(_) => Err(unknown()),
    }
}

fn wrong(detail: &str) -> Problem {
    Problem::new(400, "invalid_body", "Invalid body", detail).field("key")
}
