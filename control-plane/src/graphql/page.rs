//! Relay connections: pages of 1 to 100, opaque cursors.

use async_graphql::{
    OutputType,
    connection::{Connection, Edge, EmptyFields},
};

use super::fault::{Fault, bad_request};
use crate::eventing::view::Page;

const DEFAULT_LENGTH: i32 = 20;
const MAX_LENGTH: i32 = 100;

/// A list of things in GraphQL.
pub type List<N> = Connection<String, N, EmptyFields, EmptyFields>;

/// Reads the four arguments of a connection.
pub fn page(first: Option<i32>, after: Option<String>, last: Option<i32>, before: Option<String>) -> Result<Page, Fault> {
    let count = |length: Option<i32>| match length.unwrap_or(DEFAULT_LENGTH) {
        length @ 1..=MAX_LENGTH => Ok(usize::try_from(length).unwrap_or(1)),
        _ => Err(bad_request("invalid_page", format!("a page has 1 to {MAX_LENGTH} entries"))),
    };
    match (first, after, last, before) {
        (first, after, None, None) => Ok(Page::First { count: count(first)?, after }),
        (None, None, last, before) => Ok(Page::Last { count: count(last)?, before }),
        _ => Err(bad_request("invalid_page", "ask for a page by first and after, or by last and before, not by both")),
    }
}

/// Makes a connection of entries with their cursors.
pub fn list<N: OutputType>(entries: impl IntoIterator<Item = (String, N)>, has_previous: bool, has_next: bool) -> List<N> {
    let mut connection = Connection::new(has_previous, has_next);
    connection.edges.extend(entries.into_iter().map(|(cursor, node)| Edge::new(cursor, node)));
    connection
}

/// A list with nothing in it.
pub fn empty<N: OutputType>() -> List<N> {
    Connection::new(false, false)
}

/// How many entries a list may have at most, for the cost of a query.
pub fn cost(first: Option<i32>, last: Option<i32>) -> usize {
    let length = first.or(last).unwrap_or(DEFAULT_LENGTH).clamp(1, MAX_LENGTH);
    usize::try_from(length).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_go_one_way_and_are_bounded() {
        assert!(matches!(page(None, None, None, None), Ok(Page::First { count: 20, after: None })));
        assert!(matches!(page(None, None, Some(100), Some("c".to_owned())), Ok(Page::Last { count: 100, before: Some(_) })));
        for (first, last) in [(Some(0), None), (Some(101), None), (None, Some(-1)), (Some(1), Some(1))] {
            assert!(page(first, None, last, None).is_err(), "{first:?} {last:?}");
        }
    }
}
