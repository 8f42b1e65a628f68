//! The Freehold control plane: events, GraphQL, signed statements.
