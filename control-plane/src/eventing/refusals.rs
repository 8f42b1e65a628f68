//! A short way to write down why a domain says no.

/// Defines an enum of refusals: each with its stable code, the input field it blames (where there is one) and a message
/// that says what was wrong and what to do. `CODES` lists the codes, so that a test can look for each in `docs/errors.md`.
macro_rules! refusals {
    ($(#[$doc:meta])* $name:ident { $(
        $(#[$vdoc:meta])* $variant:ident $({ $($field:ident : $type:ty),* $(,)? })? = $code:literal $(at $input:literal)?, $message:literal;
    )* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, ::thiserror::Error)]
        pub enum $name { $(
            $(#[$vdoc])*
            #[error($message)]
            $variant $({ $(
                #[allow(missing_docs)]
                $field: $type
            ),* })?,
        )* }

        impl $name {
            /// Every code, in the order of the definition.
            pub const CODES: &'static [&'static str] = &[$($code),*];
        }

        impl $crate::eventing::aggregate::Refusal for $name {
            fn code(&self) -> &'static str {
                match self { $(Self::$variant { .. } => $code,)* }
            }

            #[allow(unreachable_code, clippy::needless_return)]
            fn field(&self) -> Option<&'static str> {
                match self { $(Self::$variant { .. } => { $(return Some($input);)? None })* }
            }
        }
    };
}
pub(crate) use refusals;
