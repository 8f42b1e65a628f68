//! Text that has been parsed once: names, labels and reasons. Look-alikes and control characters cannot enter.

use std::{fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is not acceptable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidText {
    /// Not a name.
    #[error("a name has 1 to 63 characters of a-z, 0-9, '-' and '.', and starts with a letter")]
    Name,
    /// Not a label.
    #[error("a label value has 0 to 63 characters of A-Z, a-z, 0-9, '-', '_', '.' and ':'")]
    LabelValue,
    /// Not free text.
    #[error("this text must have 1 to {max} characters and no control characters")]
    Text {
        /// The most characters allowed.
        max: usize,
    },
    /// Not an e-mail address.
    #[error("an e-mail address looks like name@example.org, with at most 254 characters and none that are invisible")]
    Email,
    /// Not a reference to a key or another named thing.
    #[error("expected an id, or project/name")]
    Reference,
}

macro_rules! text {
    ($($(#[$doc:meta])* $name:ident, $check:expr, $error:expr;)*) => {$(
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = InvalidText;

            fn from_str(text: &str) -> Result<Self, InvalidText> {
                let check: fn(&str) -> bool = $check;
                if check(text) { Ok(Self(text.into())) } else { Err($error) }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    )*};
}

const MAX_TEXT: usize = 1024;

text! {
    /// The immutable name of a project, site, key, policy or caller; also a label's key. Never personal.
    Name, |text| {
        let bytes = text.as_bytes();
        matches!(bytes.first(), Some(b'a'..=b'z'))
            && bytes.len() <= 63
            && bytes.iter().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'))
    }, InvalidText::Name;
    /// A label's value.
    LabelValue, |text| {
        text.len() <= 63
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b':'))
    }, InvalidText::LabelValue;
    /// Where a person is reached: something, `@`, something.
    Email, |text| {
        let parts = text.split_once('@').filter(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'));
        text.len() <= 254 && parts.is_some() && !text.chars().any(|c| c.is_control() || c.is_whitespace())
    }, InvalidText::Email;
    /// Free text written by a person: a display name, a description, a reason. Counts as personal.
    Text, |text| {
        !text.trim().is_empty() && text.chars().count() <= MAX_TEXT && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
    }, InvalidText::Text { max: MAX_TEXT };
}

/// Labels: names and values, sorted by name.
pub type Labels = std::collections::BTreeMap<Name, LabelValue>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for good in ["a", "card-data", "a.b-c9", &"x".repeat(63)] {
            assert!(good.parse::<Name>().is_ok(), "{good}");
        }
        for bad in ["", "9a", "-a", "A", "a_b", "a b", "аbc", "a\u{200b}", "a/b", &"x".repeat(64)] {
            assert!(bad.parse::<Name>().is_err(), "{bad}");
        }
    }

    #[test]
    fn addresses_have_two_sides() {
        for good in ["a@b", "zoë@example.org", "a.b+c@d.e"] {
            assert!(good.parse::<Email>().is_ok(), "{good}");
        }
        for bad in ["", "a", "@b", "a@", "a@b@c", "a b@c", "a@b\n", &format!("{}@b", "x".repeat(254))] {
            assert!(bad.parse::<Email>().is_err(), "{bad}");
        }
    }

    #[test]
    fn text_holds_no_control_characters() {
        assert!("Rotated after the audit.\nSee ticket 7".parse::<Text>().is_ok());
        for bad in ["", "  ", "a\u{1b}[31m", "a\u{0}"] {
            assert!(bad.parse::<Text>().is_err());
        }
    }
}
