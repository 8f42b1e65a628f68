//! Decisions that are kept: a table of fixed size beside the policies of one set, so that it is gone the moment another set
//! is in force. A decision is found again only when every fact its policies look at is the same; what depends on the time or
//! the address is never kept.

use std::{
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::{Arc, PoisonError, RwLock},
};

use super::{
    looks::{Looks, Tags},
    slice::{Moment, Verdict},
};

/// How many decisions are kept at most; a new one takes the place of another.
const PLACES: usize = 8192;
/// A decision with more bytes of context than this is not kept.
const MAX_CONTEXT_BYTES: usize = 512;

/// The table. Where a decision stands follows from a hash; that it is the right one, from comparing.
pub(crate) struct KeptDecisions {
    places: Box<[Place]>,
    hashing: RandomState,
}

/// Decisions stand beside the table, so that an empty one is small.
type Place = RwLock<Option<Box<Kept>>>;

struct Kept {
    slice: u64,
    /// The pairs of the context that were looked at, in order of their names.
    tags: Box<[(Box<str>, Box<str>)]>,
    size: Option<u64>,
    version: Option<u32>,
    statements: &'static str,
    recipients: Option<u32>,
    verdict: Arc<Verdict>,
}

impl KeptDecisions {
    pub(crate) fn new() -> Self {
        Self { places: (0..PLACES).map(|_| RwLock::new(None)).collect(), hashing: RandomState::new() }
    }

    /// The verdict of this slice for a moment that looks the same.
    pub(crate) fn find(&self, slice: u64, looks: &Looks, moment: &Moment<'_>) -> Option<Arc<Verdict>> {
        let place = self.place(slice, looks, moment).read().unwrap_or_else(PoisonError::into_inner);
        place.as_ref().filter(|kept| kept.is_of(slice, looks, moment)).map(|kept| kept.verdict.clone())
    }

    pub(crate) fn keep(&self, slice: u64, looks: &Looks, moment: &Moment<'_>, verdict: Arc<Verdict>) {
        if looked_at(looks, moment).map(|(name, value)| name.len() + value.len()).sum::<usize>() > MAX_CONTEXT_BYTES {
            return;
        }
        let kept = Kept {
            slice,
            tags: looked_at(looks, moment).map(|(name, value)| (name.into(), value.into())).collect(),
            size: moment.size,
            version: moment.version,
            statements: moment.statements,
            recipients: moment.recipients,
            verdict,
        };
        *self.place(slice, looks, moment).write().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(kept));
    }

    fn place(&self, slice: u64, looks: &Looks, moment: &Moment<'_>) -> &Place {
        let mut hasher = self.hashing.build_hasher();
        slice.hash(&mut hasher);
        for (name, value) in looked_at(looks, moment) {
            name.hash(&mut hasher);
            value.hash(&mut hasher);
        }
        looks.size.then_some(moment.size).hash(&mut hasher);
        looks.version.then_some(moment.version).hash(&mut hasher);
        looks.statements.then_some(moment.statements).hash(&mut hasher);
        looks.recipients.then_some(moment.recipients).hash(&mut hasher);
        &self.places[(hasher.finish() % PLACES as u64) as usize]
    }
}

impl Kept {
    fn is_of(&self, slice: u64, looks: &Looks, moment: &Moment<'_>) -> bool {
        self.slice == slice
            && (!looks.size || self.size == moment.size)
            && (!looks.version || self.version == moment.version)
            && (!looks.statements || self.statements == moment.statements)
            && (!looks.recipients || self.recipients == moment.recipients)
            && self.tags.iter().map(|(name, value)| (&**name, &**value)).eq(looked_at(looks, moment))
    }
}

/// The pairs of a context that are looked at, in order of their names.
pub(crate) fn looked_at<'a>(looks: &'a Looks, moment: &Moment<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let wanted = |name: &str| match &looks.tags {
        Tags::All => true,
        Tags::Named(names) => names.contains(name),
    };
    moment.context.pairs().iter().filter(move |(name, _)| wanted(name)).map(|(name, value)| (name.as_str(), value.as_str()))
}
