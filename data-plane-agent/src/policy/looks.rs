//! What the conditions of policies look at in a request. Nothing else takes part in a decision, so a decision whose facts
//! come again need not be made again.

use std::collections::BTreeSet;

use cedar_policy::Policy;
use serde_json::Value;

/// The facts of a request that a set of policies looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Looks {
    /// Pairs of the encryption context.
    pub(crate) tags: Tags,
    pub(crate) time: bool,
    pub(crate) address: bool,
    pub(crate) size: bool,
    pub(crate) version: bool,
    pub(crate) statements: bool,
    pub(crate) recipients: bool,
}

/// Pairs of the encryption context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tags {
    /// Those of these names.
    Named(BTreeSet<String>),
    /// Any.
    All,
}

impl Looks {
    const NOWHERE: Self = Self {
        tags: Tags::Named(BTreeSet::new()),
        time: false,
        address: false,
        size: false,
        version: false,
        statements: false,
        recipients: false,
    };
    pub(crate) const EVERYWHERE: Self =
        Self { tags: Tags::All, time: true, address: true, size: true, version: true, statements: true, recipients: true };

    /// What these policies look at; everything, when one cannot be read.
    pub(crate) fn of<'a>(policies: impl Iterator<Item = &'a Policy>) -> Self {
        let mut looks = Self::NOWHERE;
        for policy in policies.filter(|policy| policy.has_non_scope_constraint()) {
            match policy.to_json() {
                Ok(json) => looks.find(&json["conditions"]),
                Err(_) => return Self::EVERYWHERE,
            }
        }
        looks
    }

    /// Whether the next request of the same shape may differ in nothing but the time: then nothing is kept.
    pub(crate) fn passing(&self) -> bool {
        self.time || self.address
    }

    /// Whether any fact of a request is looked at.
    pub(crate) fn anywhere(&self) -> bool {
        *self != Self::NOWHERE
    }

    /// Walks the JSON form of an expression: `{"<operator>": {"left": …, …}}`.
    fn find(&mut self, node: &Value) {
        match node {
            Value::Object(map) => {
                if map.get("Var").and_then(Value::as_str) == Some("context") {
                    *self = Self::EVERYWHERE; // context as a whole: compared, or handed on
                    return;
                }
                if let Some(access) = map.get(".").or_else(|| map.get("has"))
                    && is_context(&access["left"])
                {
                    return self.note(access["attr"].as_str());
                }
                if let Some(access) = map.get("getTag").or_else(|| map.get("hasTag"))
                    && is_encryption(&access["left"])
                    && let Some(name) = access["right"]["Value"].as_str()
                {
                    if let Tags::Named(names) = &mut self.tags {
                        names.insert(name.to_owned());
                    }
                    return;
                }
                map.values().for_each(|inner| self.find(inner));
            }
            Value::Array(items) => items.iter().for_each(|inner| self.find(inner)),
            _ => {}
        }
    }

    fn note(&mut self, attribute: Option<&str>) {
        match attribute {
            Some("encryption") => self.tags = Tags::All,
            Some("time") => self.time = true,
            Some("address") => self.address = true,
            Some("size") => self.size = true,
            Some("version") => self.version = true,
            Some("statements") => self.statements = true,
            Some("recipients") => self.recipients = true,
            _ => *self = Self::EVERYWHERE,
        }
    }
}

fn is_context(node: &Value) -> bool {
    node["Var"] == "context"
}

fn is_encryption(node: &Value) -> bool {
    node["."]["attr"] == "encryption" && is_context(&node["."]["left"])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(condition: &str) -> Looks {
        let policy: Policy = format!("permit (principal, action, resource) {condition};").parse().unwrap();
        Looks::of([&policy].into_iter())
    }

    #[test]
    fn every_fact_is_found_and_no_other() {
        assert!(!looks("").anywhere());
        assert!(!looks("when { principal.name == \"context\" && resource.hasTag(\"time\") }").anywhere());
        let size = looks("when { context has size && context.size < 5 }");
        assert_eq!(size, Looks { size: true, ..Looks::NOWHERE });
        assert!(looks("unless { context.time > datetime(\"2026-01-01\") }").passing());
        assert!(looks("when { context.address.isLoopback() }").passing());
        assert_eq!(looks("when { context has recipients }"), Looks { recipients: true, ..Looks::NOWHERE });
        assert_eq!(looks("when { context has version }"), Looks { version: true, ..Looks::NOWHERE });
        assert_eq!(looks("when { if context.statements == \"fresh\" then true else false }"), Looks { statements: true, ..Looks::NOWHERE });
    }

    #[test]
    fn pairs_are_known_by_name_unless_they_are_computed() {
        let named = |names: &[&str]| Looks { tags: Tags::Named(names.iter().map(|name| (*name).to_owned()).collect()), ..Looks::NOWHERE };
        let two = "when { context.encryption.hasTag(\"a\") && context.encryption.getTag(\"b\") == principal.getTag(\"c\") }";
        assert_eq!(looks(two), named(&["a", "b"]));
        assert_eq!(looks("when { context.encryption.hasTag(principal.name) }").tags, Tags::All);
        assert_eq!(looks("when { context.encryption == context.encryption }").tags, Tags::All);
        assert_eq!(looks("when { context == context }"), Looks::EVERYWHERE);
        assert_eq!(looks("when { [context].contains(context) }"), Looks::EVERYWHERE);
        assert_eq!(looks("when { {Var: context.size} == {Var: 1} }"), Looks { size: true, ..Looks::NOWHERE });
    }
}
