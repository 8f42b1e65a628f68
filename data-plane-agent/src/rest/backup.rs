//! `POST /v1/backup`: backs up the whole vault now. For those who may read the agent's data: the command on this host brings the
//! token that stands there.

use actix_web::{HttpRequest, HttpResponse, http::header::AUTHORIZATION, web};
use schema::wire::{problem::Problem, recovery::BackupAnswer};
use service::problem::HttpProblem;

use super::Shared;

/// Writes a backup of everything the vault holds, sealed to the site's recovery key, and reads it back. The vault stays in use.
#[utoipa::path(post, path = "/v1/backup", tag = "agent", responses(
    (status = 200, description = "It was written, read back and found whole.", body = BackupAnswer),
    (status = 403, description = "Only for those who may read the agent's data directory.", body = Problem, content_type = "application/problem+json"),
    (status = 409, description = "There is nothing to seal to, or nowhere to put it.", body = Problem, content_type = "application/problem+json"),
    (status = 500, description = "Writing failed.", body = Problem, content_type = "application/problem+json"),
))]
pub async fn backup(request: HttpRequest, shared: web::Data<Shared>) -> Result<HttpResponse, HttpProblem> {
    let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
    let owner = header.and_then(|value| value.strip_prefix("Bearer ")).is_some_and(|token| shared.local.is(token));
    if !owner {
        let detail = "backups are made from the agent's own host, by the user it runs as: freehold-agent backup create";
        return Err(Problem::new(403, "only_for_the_owner", "Only for the agent's owner", detail).into());
    }
    let Some(backups) = &shared.backups else {
        let detail = "this agent has not joined a site: run freehold-agent enrol first";
        return Err(Problem::new(409, "not_enrolled", "Nobody's agent", detail).into());
    };
    match backups.whole("asked for on the host").await {
        Ok(written) => Ok(HttpResponse::Ok().insert_header(("cache-control", "no-store")).json(written)),
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "a backup was not made");
            let status = if error.is_refusal() { 409 } else { 500 };
            Err(Problem::new(status, error.code(), "No backup was made", chain(&error)).into())
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}
