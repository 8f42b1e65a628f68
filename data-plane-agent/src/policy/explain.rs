//! Why nothing allows a request: the nearest policy whose scope matches, and the first of its conditions that failed.

use std::{str::FromStr, sync::Arc};

use cedar_policy::{
    Effect, Entities, EvalResult, Expression, Policy, Request, eval_expression,
    pst::{self, BinaryOp, Clause, UnaryOp},
};
use serde::Serialize;

/// The most policies that are looked at for one explanation.
const MAX_PERMITS: usize = 64;

/// The policy that came nearest to allowing a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Nearest {
    /// Its id.
    pub policy: String,
    /// Its first condition that failed, as Cedar text: `when { … }` or `unless { … }`.
    pub condition: String,
    /// What went wrong, when the condition could not be evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A permit, taken apart: it allows when every condition holds.
pub(crate) struct Permit {
    id: String,
    conditions: Vec<Condition>,
}

struct Condition {
    text: String,
    expression: Expression,
    /// What the expression must be.
    wanted: bool,
}

impl Permit {
    /// Reads a policy; nothing when it forbids, or cannot be taken apart (then it explains nothing, but still decides).
    pub(crate) fn read(policy: &Policy) -> Option<Self> {
        if policy.effect() != Effect::Permit {
            return None;
        }
        let pst::Policy::Static(read) = policy.to_pst().ok()? else { return None };
        let mut conditions = Vec::new();
        for clause in read.body().clauses() {
            match clause {
                Clause::When(expression) => take_apart(expression, true, &mut conditions)?,
                Clause::Unless(expression) => take_apart(expression, false, &mut conditions)?,
            }
        }
        Some(Self { id: policy.id().to_string(), conditions })
    }
}

/// `a && b` must be true: both must. `a || b` must be false: both must. `!a` must be true: `a` must be false.
fn take_apart(expression: &Arc<pst::Expr>, wanted: bool, conditions: &mut Vec<Condition>) -> Option<()> {
    match (&**expression, wanted) {
        (pst::Expr::BinaryOp { op: BinaryOp::And, left, right }, true) | (pst::Expr::BinaryOp { op: BinaryOp::Or, left, right }, false) => {
            take_apart(left, wanted, conditions)?;
            take_apart(right, wanted, conditions)
        }
        (pst::Expr::UnaryOp { op: UnaryOp::Not, expr }, _) => take_apart(expr, !wanted, conditions),
        _ => {
            let text = expression.to_string();
            let expression = Expression::from_str(&text).ok()?;
            let text = if wanted { format!("when {{ {text} }}") } else { format!("unless {{ {text} }}") };
            conditions.push(Condition { text, expression, wanted });
            Some(())
        }
    }
}

/// The permit with the fewest failed conditions, and its first one that failed.
pub(crate) fn nearest(permits: &[Permit], request: &Request, entities: &Entities) -> Option<Nearest> {
    let mut best: Option<(usize, Nearest)> = None;
    for permit in permits.iter().take(MAX_PERMITS) {
        let mut failed = permit.conditions.iter().filter_map(|condition| {
            let error = match eval_expression(request, entities, &condition.expression) {
                Ok(EvalResult::Bool(value)) if value == condition.wanted => return None,
                Ok(_) => None,
                Err(error) => Some(error.to_string()),
            };
            Some(Nearest { policy: permit.id.clone(), condition: condition.text.clone(), error })
        });
        let Some(first) = failed.next() else { continue };
        let count = 1 + failed.count();
        if best.as_ref().is_none_or(|(least, nearest)| (count, &first.policy) < (*least, &nearest.policy)) {
            best = Some((count, first));
        }
    }
    best.map(|(_, nearest)| nearest)
}
