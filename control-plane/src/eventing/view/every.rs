//! All of a kind at once, for parts of the control plane that need a tenant's whole present.

use schema::id::TenantId;

use super::{Filter, Page, QueryError, Views};
use crate::eventing::aggregate::Aggregate;

/// Rows read at a time.
const PAGE: usize = 500;

impl Views {
    /// Every one there is, in order of ids.
    pub async fn every<A: Aggregate>(&self, tenant: TenantId) -> Result<Vec<A>, QueryError> {
        self.every_of(tenant, &Filter::default()).await
    }

    /// Every one that passes the filter, in order of ids.
    pub async fn every_of<A: Aggregate>(&self, tenant: TenantId, filter: &Filter) -> Result<Vec<A>, QueryError> {
        let (mut found, mut after) = (Vec::new(), None);
        loop {
            let slice = self.page::<A>(tenant, filter, &Page::First { count: PAGE, after }).await?;
            after = slice.items.last().map(|(cursor, _)| cursor.clone());
            found.extend(slice.items.into_iter().map(|(_, view)| view.state));
            if !slice.has_next {
                return Ok(found);
            }
        }
    }
}
