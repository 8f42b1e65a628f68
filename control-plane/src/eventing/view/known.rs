//! What was read before, brought up to the present by reading only what changed since.

use std::collections::BTreeMap;

use schema::id::TenantId;

use super::{QueryError, Views};
use crate::eventing::aggregate::Aggregate;

/// Rows looked at in one question.
const PAGE: usize = 10_000;

/// What is known of one kind in one tenant. What is personal is not kept: it is read anew each time, because whom it is about may be
/// erased.
#[derive(Debug)]
pub struct Known<A: Aggregate>(BTreeMap<A::Id, Row<A>>);

#[derive(Debug)]
struct Row<A> {
    revision: u64,
    state: A,
    is_personal: bool,
}

impl<A: Aggregate> Default for Known<A> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<A: Aggregate> Known<A> {
    /// Every state, in order of ids.
    pub fn states(&self) -> impl Iterator<Item = &A> {
        self.0.values().map(|row| &row.state)
    }

    /// The same, taken out.
    pub fn into_states(self) -> Vec<A> {
        self.0.into_values().map(|row| row.state).collect()
    }

    /// Forgets what must not be kept.
    pub fn rest(&mut self) {
        self.0.retain(|_, row| !row.is_personal);
    }
}

impl Views {
    /// Brings what is known of a kind up to the present. Gives how many were read for it.
    pub async fn refresh<A: Aggregate>(&self, tenant: TenantId, known: &mut Known<A>) -> Result<usize, QueryError> {
        let (mut present, mut after) = (BTreeMap::new(), None);
        loop {
            let page = self.revisions::<A>(tenant, after, PAGE).await?;
            after = page.last().map(|(id, _)| *id);
            let is_last = page.len() < PAGE;
            present.extend(page);
            if is_last {
                break;
            }
        }
        known.0.retain(|id, row| present.get(id) == Some(&row.revision));
        let missing: Vec<A::Id> = present.into_keys().filter(|id| !known.0.contains_key(id)).collect();
        for (view, is_personal) in self.opened::<A>(tenant, &missing).await? {
            known.0.insert(view.id, Row { revision: view.revision, state: view.state, is_personal });
        }
        Ok(missing.len())
    }
}
