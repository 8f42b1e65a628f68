//! Several requests at once.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::wire::problem::Problem;

/// Up to 1000 requests of one operation, for any keys.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Batch<T> {
    /// The requests.
    pub items: Vec<T>,
}

/// What came of each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchAnswer<T> {
    /// One for each request, in their order.
    pub items: Vec<BatchItem<T>>,
    /// How many were answered.
    pub succeeded: usize,
    /// How many were refused, or failed.
    pub failed: usize,
}

/// What came of one request: an answer or a problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct BatchItem<T> {
    /// The status it would have had by itself: 200, or the problem's.
    pub status: u16,
    /// The answer.
    #[serde(default = "Option::default", skip_serializing_if = "Option::is_none")]
    pub answer: Option<T>,
    /// Why there is none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub problem: Option<Problem>,
}

impl<T> From<Result<T, Problem>> for BatchItem<T> {
    fn from(result: Result<T, Problem>) -> Self {
        match result {
            Ok(answer) => Self { status: 200, answer: Some(answer), problem: None },
            Err(problem) => Self { status: problem.status, answer: None, problem: Some(problem) },
        }
    }
}
