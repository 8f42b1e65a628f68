//! Check 9, composites: each names keys of its own policy that can do what their places ask, at the same sites, and never
//! other keys than it did.

use schema::{composite::Member, id::CompositeId};

use super::{
    Rejection,
    definitions::Names,
    memory::{CompositeMemory, Memory},
};
use crate::statement::policy::{COMPOSITE_KEYS, CompositeDefinition, Policy};

/// Every composite of a policy.
pub(super) fn judge(policy: &Policy, names: &mut Names, memory: &mut Memory) -> Result<(), Rejection> {
    for (composite, definition) in &policy.composites {
        let unsound = |detail| Rejection::Composite { composite: *composite, detail };
        if !policy.head.requires.iter().any(|word| word == COMPOSITE_KEYS) {
            return Err(unsound("its policy does not require composite-keys, so that others would not know what its name means"));
        }
        members(definition, policy).map_err(unsound)?;
        if !names.take_for_composite(definition.project, &definition.name) {
            return Err(unsound("its name is a key's, or another composite's"));
        }
        remember(*composite, definition, memory)?;
    }
    Ok(())
}

/// What state makes from templates is no member: only policy says what a name stands for.
fn members(definition: &CompositeDefinition, policy: &Policy) -> Result<(), &'static str> {
    let mut sites = None;
    for (member, key) in definition.members() {
        let key = policy.keys.get(&key).ok_or("its policy does not define one of its keys")?;
        if !member.takes(key.algorithm, key.purpose) {
            return Err(match member {
                Member::Classical => "its classical key is none that signs classically",
                Member::PostQuantum => "its post-quantum key is none that signs post-quantum",
                Member::Encryption => "its encryption key is none of hybrid encryption",
            });
        }
        let mut placement = key.placement.clone();
        placement.sort_unstable();
        if *sites.get_or_insert_with(|| placement.clone()) != placement {
            return Err("its keys are placed at different sites");
        }
    }
    Ok(())
}

fn remember(composite: CompositeId, definition: &CompositeDefinition, memory: &mut Memory) -> Result<(), Rejection> {
    let CompositeDefinition { classical, post_quantum, encryption, .. } = *definition;
    let keys = CompositeMemory { classical, post_quantum, encryption };
    if *memory.composites.entry(composite).or_insert(keys) == keys { Ok(()) } else { Err(Rejection::CompositeRedefined(composite)) }
}
