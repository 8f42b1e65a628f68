//! What went wrong, what to do next, and the exit code.

use std::process::ExitCode;

use schema::wire::problem::Problem;

use crate::output::Format;

/// Exit codes. Documented in `freehold --help`; scripts rely on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Something broke that should not have.
    Fault = 1,
    /// The command was not understood, or an input was wrong.
    Usage = 2,
    /// It was refused: by a rule of the domain, by policy, or for want of a right.
    Refused = 3,
    /// It does not exist, or is not yours to see.
    NotFound = 4,
    /// The token or certificate was not accepted.
    Unauthenticated = 5,
    /// The server could not be reached.
    Unreachable = 6,
    /// A signature, message or file did not verify.
    Unverified = 7,
}

/// An error as a person or a script sees it.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit code.
    pub exit: Exit,
    /// A stable code, where the server gave one.
    pub code: String,
    /// What was wrong.
    pub message: String,
    /// What to do next.
    pub hint: Option<String>,
    /// The request, to find it in the server's logs.
    pub request_id: Option<String>,
    /// Facts that belong to the code.
    pub facts: serde_json::Map<String, serde_json::Value>,
}

impl Error {
    /// An error of this kind.
    pub fn new(exit: Exit, code: &str, message: impl Into<String>) -> Self {
        Self { exit, code: code.to_owned(), message: message.into(), hint: None, request_id: None, facts: serde_json::Map::new() }
    }

    /// An input was wrong.
    pub fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, "usage", message)
    }

    /// An act failed; its causes are told.
    pub fn fault(act: &str, source: impl std::error::Error) -> Self {
        let mut message = format!("{act}: {source}");
        let mut cause = source.source();
        while let Some(next) = cause {
            let text = next.to_string();
            if !message.ends_with(&text) {
                message.push_str(": ");
                message.push_str(&text);
            }
            cause = next.source();
        }
        Self::new(Exit::Fault, "fault", message)
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// An answer of an agent or of the control plane.
    pub fn from_problem(problem: Problem) -> Self {
        let exit = match (problem.status, problem.code.as_str()) {
            (401, _) => Exit::Unauthenticated,
            (404, _) => Exit::NotFound,
            (_, "not_genuine" | "truncated" | "context_mismatch") => Exit::Unverified,
            (400 | 413 | 415 | 422, _) => Exit::Usage,
            (403 | 409 | 410 | 429, _) => Exit::Refused,
            _ => Exit::Fault,
        };
        let message = if problem.detail.is_empty() { problem.title.clone() } else { problem.detail.clone() };
        let mut error = Self::new(exit, &problem.code, message);
        error.request_id = problem.request_id;
        error.facts = problem.facts;
        if let Some(field) = problem.field {
            error.message = format!("{field}: {}", error.message);
        }
        error
    }

    /// Prints the error to standard error and gives the exit code.
    #[allow(clippy::print_stderr, reason = "this is where errors are shown")]
    pub fn report(self, format: Format) -> ExitCode {
        if format == Format::Json {
            let body = serde_json::json!({
                "error": { "code": self.code, "message": self.message, "hint": self.hint, "request_id": self.request_id, "facts": self.facts }
            });
            eprintln!("{body:#}");
        } else {
            eprintln!("error: {} [{}]", self.message, self.code);
            for (name, value) in &self.facts {
                match value.as_array() {
                    Some(items) => {
                        let items: Vec<String> = items.iter().map(plain).collect();
                        if !items.is_empty() {
                            eprintln!("  {}: {}", name.replace('_', " "), items.join(", "));
                        }
                    }
                    None if value.is_null() => {}
                    None => eprintln!("  {}: {}", name.replace('_', " "), plain(value)),
                }
            }
            if let Some(hint) = &self.hint {
                eprintln!("  hint: {hint}");
            }
            if let Some(request) = &self.request_id {
                eprintln!("  request: {request}");
            }
        }
        ExitCode::from(self.exit as u8)
    }
}

fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
