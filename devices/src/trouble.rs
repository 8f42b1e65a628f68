//! What goes wrong between a process and a device or service that holds or seals its keys.

use std::time::Duration;

/// What kind of trouble it is. Each has a stable code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TroubleKind {
    /// It cannot be reached, or is gone. It may come back.
    Gone,
    /// It did not answer in time.
    Slow,
    /// It is there and will not work before somebody unlocks it: a PIN that is wrong or blocked, a service that is sealed.
    Locked,
    /// It refused us: our token or role does not allow it.
    Refused,
    /// It answered with an error of its own.
    Failed,
}

impl TroubleKind {
    /// Whether it was there and said something.
    pub const fn answers(self) -> bool {
        matches!(self, Self::Refused | Self::Failed)
    }

    /// A stable name.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Gone => "vault_unavailable",
            Self::Slow => "vault_slow",
            Self::Locked => "vault_locked",
            Self::Refused => "vault_refused",
            Self::Failed => "vault_failed",
        }
    }
}

/// What happened, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {detail}")]
pub struct Trouble {
    /// What kind it is.
    pub kind: TroubleKind,
    /// Which device or service.
    pub place: String,
    /// What it said, or did not say, and what to do.
    pub detail: String,
}

impl Trouble {
    /// Something happened.
    pub fn new(kind: TroubleKind, place: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { kind, place: place.into(), detail: detail.into() }
    }

    /// Nothing happened in time.
    pub fn slow(place: impl Into<String>, act: &str, limit: Duration) -> Self {
        Self::new(TroubleKind::Slow, place, format!("{act} took longer than {} s; nothing is known of how it ended", limit.as_secs_f32()))
    }
}
