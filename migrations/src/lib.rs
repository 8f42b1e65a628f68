//! Dated database steps of the control plane, for SQLite and PostgreSQL.
