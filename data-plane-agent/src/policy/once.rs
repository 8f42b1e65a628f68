//! One decision for requests that are no different: the items of a batch.

use std::collections::HashMap;

use schema::{
    context::EncryptionContext,
    key::{KeyReference, Operation},
};

use super::decide::{Allowed, Ask, Grounds, Refused, decide};

/// The decisions of one batch: one caller, one set in force, one moment.
#[derive(Default)]
pub struct Once<'a> {
    decided: HashMap<Question<'a>, Result<Allowed, Refused>>,
}

#[derive(PartialEq, Eq, Hash)]
struct Question<'a> {
    operation: Operation,
    key: &'a KeyReference,
    context: &'a EncryptionContext,
    size: Option<u64>,
    recipients: Option<u32>,
    anew: bool,
    masks: bool,
    together: bool,
}

impl<'a> Once<'a> {
    /// Decides, or says again what was decided.
    pub fn decide(&mut self, grounds: &Grounds<'_>, ask: &Ask<'a>, key: &'a KeyReference) -> Result<Allowed, Refused> {
        let Ask { caller: _, operation, context, address: _, size, recipients, anew, masks, together } = *ask;
        let question = Question { operation, key, context, size, recipients, anew, masks, together };
        match self.decided.entry(question).or_insert_with(|| decide(grounds, ask, key)) {
            Ok(allowed) => Ok(allowed.again()),
            Err(refused) => Err(refused.clone()),
        }
    }
}
