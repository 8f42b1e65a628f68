//! The answer of a mutation: what it changed, or why it did not, as data.

use async_graphql::{InputObject, SimpleObject};
use schema::id::InvalidId;

use super::{
    fault::Fault,
    scalar::{LabelInput, UInt64},
};
use crate::eventing::aggregate::Refusal;

/// What was wrong with a command. An expected outcome, not a fault.
#[derive(Debug, Clone, PartialEq, Eq, SimpleObject)]
pub struct UserError {
    /// Stable, in snake case.
    pub code: String,
    /// The field of the input, e.g. `name`.
    pub field: Option<String>,
    /// What was wrong and what to do.
    pub message: String,
}

impl UserError {
    /// About a field.
    pub fn at(field: &'static str, code: &'static str, message: impl ToString) -> Self {
        Self { code: code.to_owned(), field: Some(field.to_owned()), message: message.to_string() }
    }

    /// About the whole command.
    pub fn new(code: &'static str, message: impl ToString) -> Self {
        Self { code: code.to_owned(), field: None, message: message.to_string() }
    }

    /// A domain's own reason.
    pub fn refusal(refusal: &dyn Refusal) -> Self {
        Self { code: refusal.code().to_owned(), field: refusal.field().map(str::to_owned), message: refusal.to_string() }
    }
}

/// Why a mutation stops early.
#[derive(Debug)]
pub enum Stop {
    /// The user can do something about it.
    Refused(Vec<UserError>),
    /// Something failed inside.
    Fault(Fault),
}

impl Stop {
    /// The end of a payload in which everything else is absent; a fault stays one.
    pub fn refused(self) -> Result<Outcome, Fault> {
        match self {
            Self::Refused(user_errors) => Ok(Outcome { user_errors, ..Outcome::default() }),
            Self::Fault(fault) => Err(fault),
        }
    }
}

impl From<UserError> for Stop {
    fn from(error: UserError) -> Self {
        Self::Refused(vec![error])
    }
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// What every mutation's payload ends with.
#[derive(Debug, Default, SimpleObject)]
pub struct Outcome {
    /// Why nothing was done; empty when it was.
    pub user_errors: Vec<UserError>,
    /// Give it to a query, on any replica, to read your own writes.
    pub position: Option<String>,
    /// The change is recorded, but could not be read back in time.
    pub pending: bool,
}

/// What every command on something that exists may carry.
#[derive(Debug, Default, InputObject)]
pub struct Common {
    /// The same key with the same input gives the same answer; with another input it is refused. Random when absent.
    pub idempotency_key: Option<String>,
    /// Refuse when the thing has changed since this revision.
    pub expected_revision: Option<UInt64>,
}

/// What every command that makes something may carry.
#[derive(Debug, Default, InputObject)]
pub struct CommonNew {
    /// The same key with the same input gives the same answer; with another input it is refused. Random when absent.
    pub idempotency_key: Option<String>,
}

impl From<CommonNew> for Common {
    fn from(common: CommonNew) -> Self {
        Self { idempotency_key: common.idempotency_key, expected_revision: None }
    }
}

/// Defines the payloads of mutations that answer with one object.
macro_rules! payloads {
    ($field:ident : $node:ty => $($name:ident),* $(,)?) => {$(
        /// What came of it.
        #[derive(async_graphql::SimpleObject)]
        pub struct $name {
            /// What it is now; absent when the command was refused.
            pub $field: Option<$node>,
            #[graphql(flatten)]
            outcome: $crate::graphql::payload::Outcome,
        }

        impl $name {
            fn of(attempt: Result<$crate::graphql::api::Done<$node>, $crate::graphql::payload::Stop>) -> async_graphql::Result<Self> {
                match attempt {
                    Ok(done) => Ok(Self { $field: done.node, outcome: done.outcome }),
                    Err(stop) => Ok(Self { $field: None, outcome: stop.refused()? }),
                }
            }
        }
    )*};
}
pub(crate) use payloads;

/// Parses a field's text, or says what is wrong with it.
pub fn field<T: std::str::FromStr>(name: &'static str, text: &str) -> Result<T, Stop>
where
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| UserError::at(name, "invalid_input", error).into())
}

/// As [`field`], when there is one.
pub fn optional<T: std::str::FromStr>(name: &'static str, text: Option<&str>) -> Result<Option<T>, Stop>
where
    T::Err: std::fmt::Display,
{
    text.map(|text| field(name, text)).transpose()
}

/// What a domain turns down before there is a command.
pub fn refused(refusal: impl crate::eventing::aggregate::Refusal) -> Stop {
    let field = refusal.field().map(str::to_owned);
    UserError { code: refusal.code().to_owned(), field, message: refusal.to_string() }.into()
}

/// Labels, each name once.
pub fn labels(input: &[LabelInput]) -> Result<schema::name::Labels, Stop> {
    let mut labels = schema::name::Labels::new();
    for label in input {
        let (name, value) = (field("labels", &label.name)?, field("labels", &label.value)?);
        if labels.insert(name, value).is_some() {
            return Err(UserError::at("labels", "invalid_input", format!("the label {} is there twice", label.name)).into());
        }
    }
    Ok(labels)
}

/// What an id that is not one is refused with.
pub fn not_an_id(name: &'static str, error: &InvalidId) -> Stop {
    UserError::at(name, "invalid_input", error).into()
}
