//! What a single request may cost: depth, complexity, aliases and directives. Checked before anything is resolved.

use async_graphql::{
    Request, Response, ServerError,
    parser::types::{OperationType, Selection, SelectionSet},
};
use schema::id::RequestId;

use super::fault::complete;

/// The deepest nesting of fields. The standard introspection query needs 15.
pub const MAX_DEPTH: usize = 16;
/// The most fields a request may ask for, a list counting as often as it is long.
pub const MAX_COMPLEXITY: usize = 20_000;
/// The most aliases in one document, fragments included.
pub const MAX_ALIASES: usize = 20;
/// The most directives on one field.
pub const MAX_DIRECTIVES: usize = 4;

/// A request whose document was parsed and has not too many aliases.
pub struct Parsed {
    pub(super) request: Request,
    /// Whether it holds no mutation.
    pub reads_only: bool,
    /// Whether it holds subscriptions and nothing else.
    pub subscribes: bool,
}

impl Parsed {
    /// The operation's name, as the client chose it, when it is short.
    pub fn name(&self) -> Option<&str> {
        self.request.operation_name.as_deref().filter(|name| name.len() <= 64)
    }
}

/// Parses the document of a request. Refuses too many aliases: each makes the same field be resolved once more.
pub fn parse(mut request: Request, id: RequestId) -> Result<Parsed, Response> {
    let refused = |error: ServerError| complete(Response::from_errors(vec![error]), id);
    let document = request.parsed_query().map_err(refused)?;
    let operations = document.operations.iter().map(|(_, operation)| &operation.node.selection_set.node);
    let fragments = document.fragments.values().map(|fragment| &fragment.node.selection_set.node);
    let aliases = count_aliases(operations.chain(fragments));
    if aliases > MAX_ALIASES {
        let message = format!("the query has {aliases} aliases; at most {MAX_ALIASES} are allowed: send several requests");
        return Err(refused(ServerError::new(message, None)));
    }
    let reads_only = document.operations.iter().all(|(_, operation)| operation.node.ty == OperationType::Query);
    let subscribes = document.operations.iter().all(|(_, operation)| operation.node.ty == OperationType::Subscription);
    Ok(Parsed { request, reads_only, subscribes })
}

/// Without recursion: how deep a document is was not looked at yet.
fn count_aliases<'a>(sets: impl Iterator<Item = &'a SelectionSet>) -> usize {
    let (mut sets, mut aliases): (Vec<_>, usize) = (sets.collect(), 0);
    while let Some(set) = sets.pop() {
        for item in &set.items {
            match &item.node {
                Selection::Field(field) => {
                    aliases += usize::from(field.node.alias.is_some());
                    sets.push(&field.node.selection_set.node);
                }
                Selection::InlineFragment(fragment) => sets.push(&fragment.node.selection_set.node),
                Selection::FragmentSpread(_) => {}
            }
        }
    }
    aliases
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Parsed, Response> {
        parse(Request::new(text), RequestId::from_bits(1))
    }

    #[test]
    fn a_document_reads_only_when_it_has_no_mutation() {
        assert!(parsed("{ a } ").unwrap().reads_only);
        assert!(!parsed("query A { a } mutation B { b }").unwrap().reads_only);
    }

    #[test]
    fn aliases_are_counted_wherever_they_stand() {
        let many = |n: usize| (0..n).map(|n| format!("x{n}: a ")).collect::<String>();
        assert!(parsed(&format!("{{ {} ... on B {{ {} }} }}", many(10), many(10))).is_ok());
        for text in [format!("{{ a {{ {} }} }}", many(21)), format!("fragment F on B {{ {} }} query A {{ ...F }}", many(21))] {
            let refused = parsed(&text).err().unwrap();
            assert!(refused.errors[0].message.contains("21 aliases"), "{:?}", refused.errors);
        }
    }

    #[test]
    fn a_very_deep_document_is_refused_and_nothing_worse() {
        let depth = 100_000;
        let refused = parsed(&format!("{}{{a{}", "{a".repeat(depth), "}".repeat(depth + 1)));
        assert!(refused.is_err());
    }
}
