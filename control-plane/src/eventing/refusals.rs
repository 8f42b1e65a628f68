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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use crate::{
        agents, aliases, authorities, bundles, callers, composites, erasures, keys, leases, policies, projects, sites, tenants, tokens,
    };

    #[test]
    fn every_refusal_stands_in_the_documentation_and_is_called_otherwise_than_all_others() {
        let domains = [
            tenants::TenantRefusal::CODES,
            projects::ProjectRefusal::CODES,
            authorities::AuthorityRefusal::CODES,
            sites::SiteRefusal::CODES,
            agents::AgentRefusal::CODES,
            callers::CallerRefusal::CODES,
            leases::BudgetRefusal::CODES,
            keys::KeyRefusal::CODES,
            aliases::AliasRefusal::CODES,
            composites::CompositeRefusal::CODES,
            policies::PolicyRefusal::CODES,
            bundles::stream::StatementRefusal::CODES,
            tokens::ApiTokenRefusal::CODES,
            erasures::ErasureRefusal::CODES,
        ];
        let text = include_str!("../../../docs/errors.md");
        let (_, tables) = text.split_once("## Refusals of the domains").expect("docs/errors.md has a part about the domains");
        let tables = tables.split("\n## ").next().unwrap_or_default();
        let documented: BTreeSet<_> = tables.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next()).collect();
        let mut codes = BTreeSet::new();
        for code in domains.into_iter().flatten() {
            assert!(codes.insert(*code), "{code} stands for two refusals");
            assert!(code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{code} is not snake case");
        }
        assert_eq!(codes, documented, "docs/errors.md and the refusals differ");
    }
}
