//! What a single request may cost: depth, complexity, aliases and directives. Checked before anything is resolved.

use std::sync::Arc;

use async_graphql::{
    ServerError, ServerResult, Variables,
    extensions::{Extension, ExtensionContext, ExtensionFactory, NextParseQuery},
    parser::types::{ExecutableDocument, Selection, SelectionSet},
};

/// The deepest nesting of fields. The standard introspection query needs 15.
pub const MAX_DEPTH: usize = 16;
/// The most fields a request may ask for, a list counting as often as it is long.
pub const MAX_COMPLEXITY: usize = 20_000;
/// The most aliases in one document, fragments included.
pub const MAX_ALIASES: usize = 20;
/// The most directives on one field.
pub const MAX_DIRECTIVES: usize = 4;

/// Refuses documents with too many aliases: each makes the same field be resolved once more.
pub struct AliasLimit;

impl ExtensionFactory for AliasLimit {
    fn create(&self) -> Arc<dyn Extension> {
        Arc::new(Self)
    }
}

#[async_trait::async_trait]
impl Extension for AliasLimit {
    async fn parse_query(
        &self,
        ctx: &ExtensionContext<'_>,
        query: &str,
        variables: &Variables,
        next: NextParseQuery<'_>,
    ) -> ServerResult<ExecutableDocument> {
        let document = next.run(ctx, query, variables).await?;
        let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
        let fragments = document.fragments.values().map(|fragment| &fragment.node.selection_set.node);
        let aliases: usize = operations.chain(fragments).map(count_aliases).sum();
        if aliases > MAX_ALIASES {
            let message = format!("the query has {aliases} aliases; at most {MAX_ALIASES} are allowed: send several requests");
            return Err(ServerError::new(message, None));
        }
        Ok(document)
    }
}

fn count_aliases(set: &SelectionSet) -> usize {
    set.items
        .iter()
        .map(|item| match &item.node {
            Selection::Field(field) => usize::from(field.node.alias.is_some()) + count_aliases(&field.node.selection_set.node),
            Selection::InlineFragment(fragment) => count_aliases(&fragment.node.selection_set.node),
            Selection::FragmentSpread(_) => 0,
        })
        .sum()
}
