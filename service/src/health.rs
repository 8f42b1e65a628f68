//! `/livez`: the process answers. `/readyz`: it can do its work, and if not, why.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use actix_web::{HttpResponse, web};
use futures::{FutureExt, future::BoxFuture};
use serde::Serialize;
use tokio_util::sync::CancellationToken;

/// The most time a check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(2);

type Check = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;
type Note = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// What must hold for the process to be ready; app data of [`routes`]. Reasons are shown to whoever may reach the port: no
/// secrets in them.
pub struct Readiness {
    stopping: CancellationToken,
    checks: Vec<(&'static str, Check)>,
    notes: Vec<(&'static str, Note)>,
}

impl Readiness {
    /// Not ready from the moment `stopping` is cancelled, so that no new work is sent here.
    pub fn new(stopping: CancellationToken) -> Self {
        Self { stopping, checks: Vec::new(), notes: Vec::new() }
    }

    /// Adds a check that answers at once: `Err` says why not.
    #[must_use]
    pub fn check(self, name: &'static str, check: impl Fn() -> Result<(), String> + Send + Sync + 'static) -> Self {
        let check = Arc::new(check);
        self.check_async(name, move || {
            let check = check.clone();
            async move { check() }
        })
    }

    /// Adds a check that has to wait, at most two seconds.
    #[must_use]
    pub fn check_async<F>(mut self, name: &'static str, check: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        self.checks.push((name, Box::new(move || check().boxed())));
        self
    }

    /// Adds something that somebody should look at, though the process does its work: it is told, and changes nothing.
    #[must_use]
    pub fn note(mut self, name: &'static str, note: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        self.notes.push((name, Box::new(note)));
        self
    }

    /// Asks every check.
    pub async fn report(&self) -> Report {
        let asked = self.checks.iter().map(|(name, check)| async {
            let answer = tokio::time::timeout(CHECK_LIMIT, check()).await;
            let why = answer.unwrap_or_else(|_| Err(format!("no answer within {} s", CHECK_LIMIT.as_secs()))).err();
            (*name, Verdict { ok: why.is_none(), why })
        });
        let mut checks: BTreeMap<_, _> = futures::future::join_all(asked).await.into_iter().collect();
        if self.stopping.is_cancelled() {
            checks.insert("shutdown", Verdict { ok: false, why: Some("the process is shutting down".to_owned()) });
        }
        let notes = self.notes.iter().filter_map(|(name, note)| note().map(|text| (*name, text))).collect();
        let ready = checks.values().all(|verdict| verdict.ok);
        Report { ready, status: Status::of(ready, &notes), checks, notes }
    }
}

/// What `/readyz` answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Whether every check passed.
    pub ready: bool,
    /// The same in a word, which also tells when somebody should look before it fails.
    pub status: Status,
    /// Every check by name.
    pub checks: BTreeMap<&'static str, Verdict>,
    /// What somebody should look at, though it does not keep the process from its work.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub notes: BTreeMap<&'static str, String>,
}

/// How a process is, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// All is well.
    Ok,
    /// It does its work, and there are notes.
    Degraded,
    /// A check failed.
    Down,
}

impl Status {
    fn of(ready: bool, notes: &BTreeMap<&'static str, String>) -> Self {
        match (ready, notes.is_empty()) {
            (false, _) => Self::Down,
            (true, false) => Self::Degraded,
            (true, true) => Self::Ok,
        }
    }
}

/// What one check found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// Whether it passed.
    pub ok: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// Adds `/livez` and `/readyz`; needs `web::Data<Readiness>`.
pub fn routes(config: &mut web::ServiceConfig) {
    config.route("/livez", web::get().to(live)).route("/readyz", web::get().to(ready));
}

async fn live() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "live": true }))
}

async fn ready(readiness: web::Data<Readiness>) -> HttpResponse {
    let report = readiness.report().await;
    let mut answer = if report.ready { HttpResponse::Ok() } else { HttpResponse::ServiceUnavailable() };
    answer.insert_header(("cache-control", "no-store")).json(report)
}

#[cfg(test)]
mod tests {
    use actix_web::{App, test};

    use super::*;

    #[actix_web::test]
    async fn not_ready_says_why_and_shutdown_makes_it_so() {
        let stopping = CancellationToken::new();
        let (good, bad) = (Readiness::new(stopping.clone()).check("store", || Ok(())), Readiness::new(stopping.clone()));
        assert!(good.report().await.ready);
        let bad = bad.check_async("journal", || async { Err("the disk is full".to_owned()) });
        let good = good.note("clock", || Some("it is wrong".to_owned())).note("rest", || None);
        let report = good.report().await;
        assert!(report.ready, "a note changes nothing");
        assert_eq!(report.status, Status::Degraded);
        assert_eq!(report.notes, [("clock", "it is wrong".to_owned())].into());
        let app = test::init_service(App::new().app_data(web::Data::new(bad)).configure(routes)).await;
        let response = test::call_service(&app, test::TestRequest::get().uri("/readyz").to_request()).await;
        assert_eq!(response.status(), 503);
        let body: serde_json::Value = test::read_body_json(response).await;
        assert_eq!(body["checks"]["journal"]["why"], "the disk is full");
        let response = test::call_service(&app, test::TestRequest::get().uri("/livez").to_request()).await;
        assert_eq!(response.status(), 200);

        stopping.cancel();
        let report = good.report().await;
        assert!(!report.ready && !report.checks["shutdown"].ok);
        assert_eq!(report.status, Status::Down);
    }
}
