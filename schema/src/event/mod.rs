//! What is recorded: the envelope every event shares, and one file per domain. Events are for ever: past tense, one
//! fact, no secrets.

pub mod agent;
pub mod alias;
pub mod authority;
pub mod budget;
pub mod caller;
pub mod composite;
pub mod erasure;
#[cfg(test)]
mod golden;
pub mod key;
pub mod policy;
pub mod project;
pub mod receipt;
mod record;
pub mod site;
pub mod statement;
pub mod tenant;
pub mod token;
mod upcast;

pub use record::{Envelope, InvalidRecord, MAX_RECORD_BYTES, RECORD_VERSION, Record, StreamId};
pub use upcast::{UnknownEvent, lift};

/// An enum of the events of one domain.
///
/// Its JSON is the `data` of the envelope; the variant's name is the envelope's `type`.
pub trait Event: Sized + Clone + PartialEq + std::fmt::Debug + Send + Sync + 'static {
    /// Every `(type, schema version)` ever written, the present versions last of their type.
    const TYPES: &'static [(&'static str, u32)];

    /// The envelope's `type`.
    fn type_name(&self) -> &'static str;

    /// The envelope's `data`.
    fn data(&self) -> Result<serde_json::Value, serde_json::Error>;

    /// Reads the `data` of the present version of a type.
    fn parse(type_name: &str, data: serde_json::Value) -> Result<Self, serde_json::Error>;

    /// The present version of a type.
    fn schema_version(type_name: &str) -> u32 {
        Self::TYPES.iter().filter(|(name, _)| *name == type_name).map(|(_, version)| *version).max().unwrap_or(1)
    }
}

/// Defines the events of one domain: an enum of structs, each with its type name and schema version.
///
/// ```
/// use schema::{events, name::Name};
/// events! {
///     /// What happens to a project.
///     ProjectEvent {
///         /// It was created.
///         ProjectCreated 1 { name: Name, },
///     }
/// }
/// ```
#[macro_export]
macro_rules! events {
    ($(#[$doc:meta])* $enum:ident { $($(#[$vdoc:meta])* $variant:ident $version:literal { $($(#[$fdoc:meta])* $field:ident : $type:ty),* $(,)? },)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(untagged)]
        #[allow(clippy::large_enum_variant, reason = "events are made and read one at a time")]
        pub enum $enum { $($(#[$vdoc])* $variant($variant),)* }

        $(
            $(#[$vdoc])*
            #[derive(Debug, Clone, PartialEq, ::serde::Serialize, ::serde::Deserialize)]
            pub struct $variant { $($(#[$fdoc])* pub $field: $type,)* }

            impl From<$variant> for $enum {
                fn from(event: $variant) -> Self {
                    Self::$variant(event)
                }
            }
        )*

        impl $crate::event::Event for $enum {
            const TYPES: &'static [(&'static str, u32)] = &[$((stringify!($variant), $version)),*];

            fn type_name(&self) -> &'static str {
                match self { $(Self::$variant(_) => stringify!($variant),)* }
            }

            fn data(&self) -> Result<::serde_json::Value, ::serde_json::Error> {
                match self { $(Self::$variant(event) => ::serde_json::to_value(event),)* }
            }

            fn parse(type_name: &str, data: ::serde_json::Value) -> Result<Self, ::serde_json::Error> {
                match type_name {
                    $(stringify!($variant) => ::serde_json::from_value(data).map(Self::$variant),)*
                    other => Err(<::serde_json::Error as ::serde::de::Error>::custom(format!("no event of this domain is called {other}"))),
                }
            }
        }
    };
}
