//! What differs between two drafts or versions of a policy document.

use std::time::Duration;

use schema::event::policy::PolicyContent;
use similar::TextDiff;

/// After this long a coarser difference is taken.
const LONGEST: Duration = Duration::from_millis(500);

/// What differs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// The Cedar texts, as a unified diff with three lines of context; empty when they are the same.
    pub unified: String,
    /// Which parts differ: `cedar`, `templates`, `vouching`, `offline`.
    pub changed_sections: Vec<&'static str>,
}

impl Difference {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changed_sections.is_empty()
    }
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Side<'a> {
    /// What it is called in the diff, e.g. `version 3` or `draft`.
    pub name: &'a str,
    /// Its Cedar text.
    pub cedar: &'a str,
    /// Its rules.
    pub content: &'a PolicyContent,
}

/// Compares two drafts or versions.
pub fn compare(old: Side<'_>, new: Side<'_>) -> Difference {
    let sections = [
        ("cedar", old.cedar != new.cedar),
        ("templates", old.content.templates != new.content.templates),
        ("vouching", old.content.vouching != new.content.vouching),
        ("offline", old.content.offline != new.content.offline),
    ];
    let changed_sections = sections.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect();
    let unified = match old.cedar == new.cedar {
        true => String::new(),
        false => {
            let diff = TextDiff::configure().timeout(LONGEST).diff_lines(old.cedar, new.cedar);
            diff.unified_diff().context_radius(3).header(old.name, new.name).to_string()
        }
    };
    Difference { unified, changed_sections }
}
