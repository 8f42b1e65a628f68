//! Every error over HTTP: RFC 9457 problem details with a stable code and the request's id.

use std::fmt;

use actix_web::{
    Error, HttpRequest, HttpResponse, ResponseError,
    error::{JsonPayloadError, PathError, QueryPayloadError},
    http::StatusCode,
    web::{JsonConfig, PathConfig, QueryConfig},
};
use schema::wire::problem::{PROBLEM_JSON, Problem};

use crate::log::RequestContext;

/// A problem as actix-web answers it. `?` turns a [`Problem`] into one.
#[derive(Debug, Clone)]
pub struct HttpProblem(pub Problem);

impl From<Problem> for HttpProblem {
    fn from(problem: Problem) -> Self {
        Self(problem)
    }
}

impl fmt::Display for HttpProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.code, self.0.detail)
    }
}

impl std::error::Error for HttpProblem {}

impl ResponseError for HttpProblem {
    fn status_code(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn error_response(&self) -> HttpResponse {
        response(self.0.clone())
    }
}

/// The answer for a problem; fills in the request's id.
pub fn response(mut problem: Problem) -> HttpResponse {
    if problem.request_id.is_none() {
        problem.request_id = RequestContext::current().map(|context| context.id.to_string());
    }
    let status = StatusCode::from_u16(problem.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = serde_json::to_vec(&problem).unwrap_or_default();
    HttpResponse::build(status).content_type(PROBLEM_JSON).body(body)
}

/// A fault: logged whole, shown as a code and the request's id.
pub fn fault(error: &(dyn std::error::Error + 'static)) -> HttpProblem {
    tracing::error!(error, "a request failed");
    HttpProblem(Problem::new(500, "internal", "Internal fault", "something failed here; the logs say what, under the request's id"))
}

/// JSON bodies of at most `limit` bytes; what is wrong with one becomes a problem.
pub fn json_config(limit: usize) -> JsonConfig {
    JsonConfig::default().limit(limit).error_handler(move |error, _| {
        let problem = match &error {
            JsonPayloadError::Overflow { .. } | JsonPayloadError::OverflowKnownLength { .. } => {
                Problem::new(413, "body_too_large", "Body too large", format!("the body has more than {limit} bytes"))
            }
            JsonPayloadError::ContentType => Problem::new(
                415,
                "unsupported_media_type",
                "Unsupported media type",
                "the body must be JSON: send Content-Type: application/json",
            ),
            JsonPayloadError::Deserialize(error) => {
                let place = format!("line {}, column {}", error.line(), error.column());
                let (code, title) = match error.classify() {
                    serde_json::error::Category::Data => ("invalid_body", "Invalid body"),
                    _ => ("invalid_json", "Invalid JSON"),
                };
                Problem::new(400, code, title, format!("the body cannot be read: {}", shown(error))).fact("at", place)
            }
            _ => Problem::new(400, "invalid_body", "Invalid body", "the body cannot be read"),
        };
        HttpProblem(problem).into()
    })
}

/// serde's message, unless it quotes a value of the body: values may be secret.
fn shown(error: &serde_json::Error) -> String {
    let text = error.to_string();
    if text.starts_with("invalid type: string") || text.starts_with("invalid value: string") || text.starts_with("unknown variant") {
        let expected = text.find(", expected").map_or("", |at| &text[at..]);
        return format!("a value is not what is expected there{expected}");
    }
    text
}

/// What is wrong with a path segment becomes a problem.
pub fn path_config() -> PathConfig {
    PathConfig::default().error_handler(|error: PathError, _| {
        HttpProblem(Problem::new(404, "not_found", "Not found", format!("a part of the path cannot be read: {error}"))).into()
    })
}

/// What is wrong with the query becomes a problem.
pub fn query_config() -> QueryConfig {
    QueryConfig::default().error_handler(|error: QueryPayloadError, _| {
        HttpProblem(Problem::new(400, "invalid_query", "Invalid query", format!("the query cannot be read: {error}"))).into()
    })
}

/// For `App::default_service`: nothing stands at this path.
pub async fn not_found(request: HttpRequest) -> Result<HttpResponse, Error> {
    let detail = format!("{} {} does not exist here", request.method(), request.path());
    Err(HttpProblem(Problem::new(404, "not_found", "Not found", detail)).into())
}

/// For `Resource::default_service`: something stands at this path, for other methods.
pub async fn wrong_method(request: HttpRequest) -> Result<HttpResponse, Error> {
    let detail = format!("{} does not take {}", request.path(), request.method());
    Err(HttpProblem(Problem::new(405, "method_not_allowed", "Method not allowed", detail)).into())
}

#[cfg(test)]
mod tests {
    use actix_web::{App, test, web};

    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Body {
        #[allow(dead_code, reason = "only its type matters")]
        count: u32,
    }

    async fn take(_: web::Json<Body>) -> HttpResponse {
        HttpResponse::Ok().finish()
    }

    async fn answer(body: &str, content_type: &str) -> (u16, Problem) {
        let app = test::init_service(
            App::new()
                .app_data(json_config(64))
                .service(web::resource("/take").route(web::post().to(take)).default_service(web::to(wrong_method)))
                .default_service(web::to(not_found)),
        )
        .await;
        let request = test::TestRequest::post().uri("/take").insert_header(("content-type", content_type)).set_payload(body.to_owned());
        let response = test::call_service(&app, request.to_request()).await;
        assert_eq!(response.headers().get("content-type").unwrap(), PROBLEM_JSON);
        let status = response.status().as_u16();
        (status, test::read_body_json(response).await)
    }

    #[actix_web::test]
    async fn what_is_wrong_with_a_body_is_a_problem() {
        for (body, content_type, status, code) in [
            ("{", "application/json", 400, "invalid_json"),
            ("{\"count\":1,\"x\":2}", "application/json", 400, "invalid_body"),
            ("{\"count\":1}", "text/plain", 415, "unsupported_media_type"),
            (&format!("{{\"count\":1{}}}", " ".repeat(80)), "application/json", 413, "body_too_large"),
        ] {
            let (got, problem) = answer(body, content_type).await;
            assert_eq!((got, problem.code.as_str(), problem.status), (status, code, status), "{}", problem.detail);
            assert_eq!(problem.kind, format!("urn:freehold:problem:{code}"));
        }
    }

    #[actix_web::test]
    async fn a_problem_does_not_quote_values() {
        let (_, problem) = answer("{\"count\":\"hunter2\"}", "application/json").await;
        assert!(!problem.detail.contains("hunter2"), "{}", problem.detail);
        assert!(problem.detail.contains("expected u32"), "{}", problem.detail);
    }
}
