//! Keys of partners: their public halves, version by version. Nobody here makes or holds them.

use schema::{
    catalogue::{Algorithm, Status},
    encoding::Base64,
    event::key::{ExternalVersionRegistered, KeyCreated, KeyEvent, PrimaryMoved, VersionActivated},
    key::{Durability, Limits, Origin, Protection, Purpose, RotationRule, fingerprint},
};

use super::{
    Fixed, Key, KeyRefusal, RegisterExternal,
    decide::{check_labels, check_placement},
};

type Decision = Result<Vec<KeyEvent>, KeyRefusal>;

pub(super) fn register(register: &RegisterExternal) -> Decision {
    if register.name_is_an_alias {
        return Err(KeyRefusal::NameTaken);
    }
    if register.name_is_a_composite {
        return Err(KeyRefusal::NameOfComposite);
    }
    let algorithm = register.algorithm;
    if !algorithm.entry().asymmetric {
        return Err(KeyRefusal::NoPublicHalf { algorithm });
    }
    let purpose = match register.purpose {
        Some(purpose) if !algorithm.serves(purpose) => return Err(KeyRefusal::Purpose { algorithm, purpose }),
        Some(purpose) => purpose,
        None => algorithm.entry().purposes.first().copied().ok_or(KeyRefusal::NoPublicHalf { algorithm })?,
    };
    // What is old may be verified; nothing new is sealed to it.
    if algorithm.entry().status == Status::Legacy && !matches!(purpose, Purpose::Sign | Purpose::SignDigest) {
        return Err(KeyRefusal::LegacyAlgorithm { algorithm });
    }
    check_placement(&register.placement)?;
    check_labels(&register.labels)?;
    let created = KeyCreated {
        project: register.project,
        name: register.name.clone(),
        description: register.description.clone(),
        algorithm,
        purpose,
        placement: register.placement.clone(),
        labels: register.labels.clone(),
        durability: Durability::Elsewhere,
        protection: Protection::Software,
        exportable: false,
        origin: Origin::External,
        eligible_generators: Vec::new(),
        deletion_protection: register.deletion_protection,
        limits: Limits::default(),
        rotation: RotationRule::default(),
        template: None,
    };
    Ok(std::iter::once(created.into()).chain(registered(1, algorithm, &register.public_key)).collect())
}

pub(super) fn register_version(key: &Key, fixed: &Fixed, public_key: &Base64) -> Decision {
    only_external(fixed)?;
    if key.suspended.is_some() {
        return Err(KeyRefusal::Suspended);
    }
    let fingerprint = fingerprint(fixed.algorithm, public_key.as_slice());
    let known = key.versions.iter().find(|(_, version)| version.made.as_ref().is_some_and(|made| made.fingerprint == fingerprint));
    match known {
        // Registered twice is registered once.
        Some((number, _)) if *number == key.highest() => Ok(Vec::new()),
        Some((number, _)) => Err(KeyRefusal::PublicKeyKnown { number: *number }),
        None => Ok(registered(key.highest() + 1, fixed.algorithm, public_key).collect()),
    }
}

/// A version that needs no home is active, and used when none is named, from the moment it is known.
fn registered(number: u32, algorithm: Algorithm, public_key: &Base64) -> impl Iterator<Item = KeyEvent> {
    let fingerprint = fingerprint(algorithm, public_key.as_slice());
    let registered = ExternalVersionRegistered { number, fingerprint, public_key: public_key.clone() };
    [registered.into(), VersionActivated { number }.into(), PrimaryMoved { number }.into()].into_iter()
}

pub(super) fn only_external(fixed: &Fixed) -> Result<(), KeyRefusal> {
    if fixed.origin == Origin::External { Ok(()) } else { Err(KeyRefusal::NotExternal) }
}

/// Refuses what makes, moves or holds material, for a key whose material is a partner's.
pub(super) fn not_external(fixed: &Fixed) -> Result<(), KeyRefusal> {
    if fixed.origin == Origin::External { Err(KeyRefusal::External) } else { Ok(()) }
}
