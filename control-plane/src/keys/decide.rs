//! How a key decides. Creation first, then what changes the whole key, then its versions from request to activation and
//! their states; their end stands in `destruction.rs`.

use std::time::Duration;

use schema::{
    catalogue::{Algorithm, Status},
    clock::Timestamp,
    event::key::{
        DeactivationCancelled, DeactivationScheduled, GeneratorAssigned, HolderReady, KeyCreated, KeyDeletionProtectionSet, KeyDescribed,
        KeyEvent, KeyLimitsSet, KeyMinimumVersionsSet, KeyRelabelled, KeyResumed, KeyRotationRuleSet, KeySuccessorSet, KeySuspended,
        MaterialSent, PrimaryMoved, VersionActivated, VersionBackedUp, VersionCompromised, VersionDeactivated, VersionMade,
        VersionRequested, VersionResumed, VersionRevoked, VersionSuspended,
    },
    id::{AgentId, KeyId, KeyVersion, SiteId},
    key::{Durability, Limits, MinimumVersions, Origin, Protection, RotationRule, VersionState},
    name::Labels,
};

use super::{
    CreateKey, Fixed, Key, KeyCommand, KeyRefusal, RecordBackup, RecordReady, RecordSent, RecordVersion, Successor, Template, Version,
    destruction, external, recovery,
};

/// The most labels of one key.
const MAX_LABELS: usize = 64;

type Decision = Result<Vec<KeyEvent>, KeyRefusal>;

pub(super) fn decide(key: &Key, command: &KeyCommand, now: Timestamp) -> Decision {
    let Some(fixed) = &key.fixed else {
        return match command {
            KeyCommand::Create(create) => self::create(create),
            KeyCommand::RegisterExternal(register) => external::register(register),
            KeyCommand::Recover(recover) => recovery::recover(key, recover, now),
            _ => Err(KeyRefusal::NotFound),
        };
    };
    match command {
        KeyCommand::Create(_) | KeyCommand::RegisterExternal(_) => Err(KeyRefusal::Exists),
        KeyCommand::Recover(recover) => recovery::recover(key, recover, now),
        KeyCommand::RegisterExternalVersion { public_key } => external::register_version(key, fixed, public_key),
        KeyCommand::Describe { description } => {
            changed(*description != key.description, || KeyDescribed { description: description.clone() }.into())
        }
        KeyCommand::Relabel { labels } => {
            only_by_template(fixed)?;
            check_labels(labels)?;
            changed(*labels != key.labels, || KeyRelabelled { labels: labels.clone() }.into())
        }
        KeyCommand::SetLimits { limits } => {
            only_by_template(fixed)?;
            check_limits(limits)?;
            check_uses(&key.rotation, limits, fixed.algorithm)?;
            changed(*limits != key.limits, || KeyLimitsSet { limits: limits.clone() }.into())
        }
        KeyCommand::SetRotationRule { rotation } => {
            only_by_template(fixed)?;
            external::not_external(fixed)?;
            check_rotation(rotation)?;
            check_uses(rotation, &key.limits, fixed.algorithm)?;
            check_imported(fixed.origin, rotation)?;
            changed(*rotation != key.rotation, || KeyRotationRuleSet { rotation: rotation.clone() }.into())
        }
        KeyCommand::SetMinimumVersions { minimum_versions } => {
            check_minimum_versions(key, minimum_versions)?;
            let minimum_versions = *minimum_versions;
            changed(minimum_versions != key.minimum_versions, || KeyMinimumVersionsSet { minimum_versions }.into())
        }
        KeyCommand::SetSuccessor { successor, found } => {
            check_successor(fixed, *successor, *found)?;
            let successor = *successor;
            changed(successor != key.successor, || KeySuccessorSet { successor }.into())
        }
        KeyCommand::SetDeletionProtection { protected } => {
            let protected = *protected;
            changed(protected != key.deletion_protection, || KeyDeletionProtectionSet { protected }.into())
        }
        KeyCommand::Suspend { .. } if key.suspended.is_some() => Err(KeyRefusal::AlreadySuspended),
        KeyCommand::Suspend { reason } => Ok(vec![KeySuspended { reason: reason.clone() }.into()]),
        KeyCommand::Resume { .. } if key.suspended.is_none() => Err(KeyRefusal::NotSuspended),
        KeyCommand::Resume { reason } => Ok(vec![KeyResumed { reason: reason.clone() }.into()]),
        KeyCommand::Rotate { generator } => rotate(key, fixed, *generator, now),
        KeyCommand::AssignGenerator { number, generator, site } => assign(key, fixed, *number, (*generator, *site)),
        KeyCommand::RecordVersion(record) => record_version(key, fixed, record),
        KeyCommand::RecordReady(report) => record_ready(key, fixed, report),
        KeyCommand::RecordSent(sent) => record_sent(key, fixed, sent),
        KeyCommand::RecordBackup(report) => record_backup(key, fixed, report),
        KeyCommand::SuspendVersion { number, reason } => {
            may_become(key, *number, VersionState::Suspended)?;
            Ok(vec![VersionSuspended { number: *number, reason: reason.clone() }.into()])
        }
        KeyCommand::ResumeVersion { number, .. } => resume_version(key, fixed, *number, command),
        KeyCommand::DeactivateVersion { number, reason } => {
            may_become(key, *number, VersionState::Deactivated)?;
            Ok(vec![VersionDeactivated { number: *number, reason: reason.clone() }.into()])
        }
        KeyCommand::ScheduleDeactivation { number, due, reason } => {
            may_become(key, *number, VersionState::Deactivated)?;
            match &find(key, *number)?.deactivation {
                Some(deactivation) => Err(KeyRefusal::DeactivationIsScheduled { number: *number, due: deactivation.due }),
                None if *due <= now => Err(KeyRefusal::DeactivationPast),
                None => Ok(vec![DeactivationScheduled { number: *number, due: *due, reason: reason.clone() }.into()]),
            }
        }
        KeyCommand::CancelDeactivation { number } => match find(key, *number)?.deactivation {
            None => Err(KeyRefusal::NoDeactivation { number: *number }),
            Some(_) => Ok(vec![DeactivationCancelled { number: *number }.into()]),
        },
        KeyCommand::CompromiseVersion { number, reason } => {
            may_become(key, *number, VersionState::Compromised)?;
            Ok(vec![VersionCompromised { number: *number, reason: reason.clone() }.into()])
        }
        KeyCommand::RevokeVersion { number, reason, comment } => {
            may_become(key, *number, reason.state())?;
            Ok(vec![VersionRevoked { number: *number, reason: *reason, comment: comment.clone() }.into()])
        }
        KeyCommand::ScheduleDestruction { number, wait_seconds, due, reason, backups_expire } => {
            let wait = due.map(|due| due.since(now)).or(wait_seconds.map(Duration::from_secs));
            destruction::schedule(key, *number, wait, (reason.as_ref(), *backups_expire), now)
        }
        KeyCommand::CancelDestruction { number } => destruction::cancel(key, *number),
        KeyCommand::BeginDestruction { number } => destruction::begin(key, *number, now),
        KeyCommand::RecordDestroyed(report) => destruction::record(key, fixed, report),
        KeyCommand::AttestLost { number, holder, attestation } => destruction::attest(key, *number, *holder, attestation),
    }
}

fn changed(differs: bool, event: impl FnOnce() -> KeyEvent) -> Decision {
    Ok(differs.then(event).into_iter().collect())
}

fn create(create: &CreateKey) -> Decision {
    if create.name_is_an_alias {
        return Err(KeyRefusal::NameTaken);
    }
    if create.name_is_a_composite {
        return Err(KeyRefusal::NameOfComposite);
    }
    let (algorithm, purpose) = (create.algorithm, create.purpose);
    if !algorithm.serves(purpose) {
        return Err(KeyRefusal::Purpose { algorithm, purpose });
    }
    if algorithm.entry().status == Status::Legacy {
        return Err(KeyRefusal::LegacyAlgorithm { algorithm });
    }
    if create.origin == Origin::External || create.durability == Some(Durability::Elsewhere) {
        return Err(KeyRefusal::NeedsPublicKey);
    }
    check_placement(&create.placement)?;
    if create.protection == Protection::Hardware && create.origin == Origin::Imported {
        return Err(KeyRefusal::ImportedHardware);
    }
    if create.protection == Protection::Hardware && create.exportable {
        return Err(KeyRefusal::ExportableHardware);
    }
    let durability = match create.durability {
        Some(Durability::SealedBackup) if !create.sites_have_recovery_keys => return Err(KeyRefusal::NoRecoveryKey),
        None if !create.sites_have_recovery_keys => return Err(KeyRefusal::DurabilityMustBeChosen),
        chosen => chosen.unwrap_or(Durability::SealedBackup),
    };
    if create.protection == Protection::Hardware && durability != Durability::SingleCopy {
        return Err(KeyRefusal::HardwareIsOneCopy);
    }
    check_labels(&create.labels)?;
    check_limits(&create.limits)?;
    check_rotation(&create.rotation)?;
    check_uses(&create.rotation, &create.limits, algorithm)?;
    check_imported(create.origin, &create.rotation)?;
    if let Some(template) = &create.template {
        check_template(create, durability, template)?;
    }
    if let Some(generator) = create.generator {
        check_generator(&create.placement, &create.eligible_generators, generator)?;
    }
    let created = KeyCreated {
        project: create.project,
        name: create.name.clone(),
        description: create.description.clone(),
        algorithm,
        purpose,
        placement: create.placement.clone(),
        labels: create.labels.clone(),
        durability,
        protection: create.protection,
        exportable: create.exportable,
        origin: create.origin,
        eligible_generators: create.eligible_generators.clone(),
        deletion_protection: create.deletion_protection,
        limits: create.limits.clone(),
        rotation: create.rotation.clone(),
        template: create.template.as_ref().map(|template| template.name.clone()),
    };
    let requested = VersionRequested { number: 1, generator: create.generator.map(|(agent, _)| agent) };
    Ok(vec![created.into(), requested.into()])
}

/// What a template fixes: agents would not believe a key that differs.
fn check_template(create: &CreateKey, durability: Durability, Template { rule, keys_made, .. }: &Template) -> Result<(), KeyRefusal> {
    let checks = [
        (rule.project == create.project, "this project"),
        (rule.algorithms.contains(&create.algorithm), "this algorithm"),
        (rule.purposes.contains(&create.purpose), "this purpose"),
        (create.placement.iter().all(|site| rule.placement.contains(site)), "one of these sites"),
        (rule.labels == create.labels, "labels other than its own"),
        (rule.durabilities.contains(&durability), "this durability"),
        (create.protection >= rule.protection, "this low a protection"),
        (rule.exportable || !create.exportable, "an exportable key"),
        (create.origin == Origin::Generated, "a key that is made elsewhere"),
        (rule.rotation == create.rotation, "a rotation rule other than its own"),
        (rule.limits == create.limits, "limits other than its own"),
    ];
    if let Some((_, what)) = checks.into_iter().find(|(fits, _)| !fits) {
        return Err(KeyRefusal::Template { what });
    }
    match rule.max_keys {
        Some(max) if *keys_made >= max => Err(KeyRefusal::TemplateUsedUp { max }),
        _ => Ok(()),
    }
}

fn only_by_template(fixed: &Fixed) -> Result<(), KeyRefusal> {
    if fixed.template.is_some() { Err(KeyRefusal::FollowsTemplate) } else { Ok(()) }
}

pub(super) fn check_placement(placement: &[SiteId]) -> Result<(), KeyRefusal> {
    if placement.is_empty() {
        return Err(KeyRefusal::NoPlacement);
    }
    let twice = placement.iter().enumerate().any(|(place, site)| placement[..place].contains(site));
    if twice { Err(KeyRefusal::PlacementTwice) } else { Ok(()) }
}

pub(super) fn check_labels(labels: &Labels) -> Result<(), KeyRefusal> {
    if labels.len() > MAX_LABELS { Err(KeyRefusal::TooManyLabels { max: MAX_LABELS }) } else { Ok(()) }
}

fn check_limits(limits: &Limits) -> Result<(), KeyRefusal> {
    if limits.is_sound() { Ok(()) } else { Err(KeyRefusal::Limits) }
}

fn check_rotation(rotation: &RotationRule) -> Result<(), KeyRefusal> {
    if rotation.is_sound() { Ok(()) } else { Err(KeyRefusal::Rotation) }
}

/// A rule that goes by uses needs somebody to count them.
fn check_uses(rotation: &RotationRule, limits: &Limits, algorithm: Algorithm) -> Result<(), KeyRefusal> {
    let Some(uses) = rotation.after_uses else { return Ok(()) };
    let limits = limits.within(algorithm);
    let counted = limits.soft_uses.into_iter().chain(limits.hard_uses).max().is_some_and(|limit| limit >= uses);
    if counted { Ok(()) } else { Err(KeyRefusal::UsesNotCounted) }
}

/// What is made elsewhere comes when somebody brings it.
fn check_imported(origin: Origin, rotation: &RotationRule) -> Result<(), KeyRefusal> {
    let by_itself = rotation.every_seconds.is_some() || rotation.after_uses.is_some() || rotation.calendar.is_some();
    if origin == Origin::Imported && by_itself { Err(KeyRefusal::ImportedByHand) } else { Ok(()) }
}

fn check_minimum_versions(key: &Key, minimum: &MinimumVersions) -> Result<(), KeyRefusal> {
    let highest = key.highest();
    if minimum.process > highest || minimum.protect > highest {
        return Err(KeyRefusal::MinimumVersion { highest });
    }
    if minimum.process > key.primary || minimum.protect > key.primary {
        return Err(KeyRefusal::MinimumAbovePrimary { primary: key.primary });
    }
    Ok(())
}

fn check_successor(fixed: &Fixed, successor: Option<KeyId>, found: Option<Successor>) -> Result<(), KeyRefusal> {
    let Some(successor) = successor else { return Ok(()) };
    let found = found.ok_or(KeyRefusal::SuccessorMissing)?;
    match () {
        () if successor == fixed.id => Err(KeyRefusal::SuccessorItself),
        () if found.project != fixed.project => Err(KeyRefusal::SuccessorElsewhere),
        () if found.purpose != fixed.purpose => Err(KeyRefusal::SuccessorPurpose { purpose: fixed.purpose }),
        () if found.leads_back => Err(KeyRefusal::SuccessorCircle),
        () => Ok(()),
    }
}

fn check_generator(placement: &[SiteId], eligible: &[AgentId], (agent, site): (AgentId, SiteId)) -> Result<(), KeyRefusal> {
    if !placement.contains(&site) {
        return Err(KeyRefusal::NotPlacedThere);
    }
    if !eligible.is_empty() && !eligible.contains(&agent) {
        return Err(KeyRefusal::NotEligible { agent });
    }
    Ok(())
}

fn rotate(key: &Key, fixed: &Fixed, generator: Option<(AgentId, SiteId)>, now: Timestamp) -> Decision {
    external::not_external(fixed)?;
    if key.suspended.is_some() {
        return Err(KeyRefusal::Suspended);
    }
    if let Some((number, _)) = key.pending() {
        return Err(KeyRefusal::VersionPending { number });
    }
    let until = key.rotation_allowed();
    if now < until {
        return Err(KeyRefusal::RotationTooSoon { until });
    }
    if let Some(generator) = generator {
        check_generator(&fixed.placement, &fixed.eligible_generators, generator)?;
    }
    Ok(vec![VersionRequested { number: key.highest() + 1, generator: generator.map(|(agent, _)| agent) }.into()])
}

fn assign(key: &Key, fixed: &Fixed, number: u32, generator: (AgentId, SiteId)) -> Decision {
    external::not_external(fixed)?;
    let version = find(key, number)?;
    if version.made.is_some() {
        return Err(KeyRefusal::AlreadyMade { number });
    }
    if version.state == VersionState::Destroyed {
        return Err(KeyRefusal::Destroyed { number });
    }
    check_generator(&fixed.placement, &fixed.eligible_generators, generator)?;
    let generator = generator.0;
    changed(version.generator != Some(generator), || GeneratorAssigned { number, generator }.into())
}

fn record_version(key: &Key, fixed: &Fixed, record: &RecordVersion) -> Decision {
    external::not_external(fixed)?;
    let (number, version) = find_named(key, fixed, record.version)?;
    if let Some(made) = &version.made {
        // Agents repeat their reports until they are acknowledged.
        let same = made.fingerprint == record.fingerprint && version.generator == Some(record.generator);
        return if same { Ok(Vec::new()) } else { Err(KeyRefusal::FingerprintIsFinal { number }) };
    }
    if version.state == VersionState::Destroyed {
        return Err(KeyRefusal::Destroyed { number });
    }
    check_generator(&fixed.placement, &fixed.eligible_generators, (record.generator, record.site))?;
    match version.generator {
        None => return Err(KeyRefusal::NoGenerator { number }),
        Some(chosen) if chosen != record.generator => return Err(KeyRefusal::NotTheGenerator { agent: record.generator }),
        Some(_) => {}
    }
    if record.algorithm != fixed.algorithm || record.origin != fixed.origin {
        return Err(KeyRefusal::OtherAlgorithm { algorithm: fixed.algorithm });
    }
    if record.public_key.is_some() != fixed.algorithm.entry().asymmetric {
        return Err(KeyRefusal::PublicKey);
    }
    let made = VersionMade {
        number,
        generator: record.generator,
        fingerprint: record.fingerprint,
        public_key: record.public_key.clone(),
        record: record.record.clone(),
    };
    Ok(vec![made.into()])
}

fn record_ready(key: &Key, fixed: &Fixed, report: &RecordReady) -> Decision {
    external::not_external(fixed)?;
    let (number, version) = find_named(key, fixed, report.version)?;
    let made = version.made.as_ref().ok_or(KeyRefusal::NotMade { number })?;
    if !fixed.placement.contains(&report.site) {
        return Err(KeyRefusal::NotPlacedThere);
    }
    if report.fingerprint != made.fingerprint {
        return Err(KeyRefusal::FingerprintIsFinal { number });
    }
    if report.protection.unwrap_or_default() < fixed.protection {
        return Err(KeyRefusal::ProtectionNotMet { number, demanded: fixed.protection });
    }
    if version.state == VersionState::Destroyed {
        return Err(KeyRefusal::Destroyed { number });
    }
    if version.holders.get(&report.holder).is_some_and(|holder| holder.ready.is_some()) {
        return Ok(Vec::new());
    }
    let mut events = vec![
        HolderReady { number, holder: report.holder, vault: report.vault, protection: report.protection, report: report.report.clone() }
            .into(),
    ];
    if version.state == VersionState::PreActivation && version.is_home_with(fixed.durability, Some((report.holder, report.vault))) {
        events.extend(activate(key, number));
    }
    Ok(events)
}

/// Whoever was sent a copy is asked for it when the version is destroyed, also if nothing was heard of it since.
fn record_sent(key: &Key, fixed: &Fixed, sent: &RecordSent) -> Decision {
    external::not_external(fixed)?;
    let (number, version) = find_named(key, fixed, sent.version)?;
    let made = version.made.as_ref().ok_or(KeyRefusal::NotMade { number })?;
    if sent.sites.iter().any(|site| !fixed.placement.contains(site)) {
        return Err(KeyRefusal::NotPlacedThere);
    }
    if sent.fingerprint != made.fingerprint {
        return Err(KeyRefusal::FingerprintIsFinal { number });
    }
    if version.state == VersionState::Destroyed {
        return Err(KeyRefusal::Destroyed { number });
    }
    if version.holders.get(&sent.sender).is_none_or(|holder| holder.gone.is_some()) {
        return Err(KeyRefusal::NotAHolder { agent: sent.sender });
    }
    changed(!version.holders.contains_key(&sent.recipient), || {
        MaterialSent { number, sender: sent.sender, recipient: sent.recipient }.into()
    })
}

/// A version is in a backup. One report of each holder and recovery key is kept: they are repeated until they are
/// acknowledged, and a backup that is written again says nothing new.
fn record_backup(key: &Key, fixed: &Fixed, report: &RecordBackup) -> Decision {
    external::not_external(fixed)?;
    let (number, version) = find_named(key, fixed, report.version)?;
    let made = version.made.as_ref().ok_or(KeyRefusal::NotMade { number })?;
    if !fixed.placement.contains(&report.site) {
        return Err(KeyRefusal::NotPlacedThere);
    }
    if report.fingerprint != made.fingerprint {
        return Err(KeyRefusal::FingerprintIsFinal { number });
    }
    if version.state == VersionState::Destroyed {
        return Err(KeyRefusal::Destroyed { number });
    }
    if !version.holders.contains_key(&report.holder) {
        return Err(KeyRefusal::NotAHolder { agent: report.holder });
    }
    if version.backups.get(&report.holder).is_some_and(|known| known.recovery_key == report.recovery_key) {
        return Ok(Vec::new());
    }
    let RecordBackup { holder, recovery_key, backup, .. } = *report;
    let mut events = vec![VersionBackedUp { number, holder, recovery_key, backup, report: report.report.clone() }.into()];
    let backed_up = Version { backups: version.backups_with(report), ..version.clone() };
    if version.state == VersionState::PreActivation && backed_up.is_home_with(fixed.durability, None) {
        events.extend(activate(key, number));
    }
    Ok(events)
}

/// The version has its homes: it becomes active, and primary when it is the newest to do so.
fn activate(key: &Key, number: u32) -> impl Iterator<Item = KeyEvent> {
    let moved = (number > key.primary).then(|| PrimaryMoved { number }.into());
    std::iter::once(VersionActivated { number }.into()).chain(moved)
}

fn resume_version(key: &Key, fixed: &Fixed, number: u32, command: &KeyCommand) -> Decision {
    let version = find(key, number)?;
    let (KeyCommand::ResumeVersion { reason, .. }, Some(before)) = (command, version.suspended_in) else {
        return Err(KeyRefusal::VersionNotSuspended { number });
    };
    let mut events = vec![VersionResumed { number, reason: reason.clone() }.into()];
    if before == VersionState::PreActivation && version.is_home_with(fixed.durability, None) {
        events.extend(activate(key, number));
    }
    Ok(events)
}

fn may_become(key: &Key, number: u32, to: VersionState) -> Result<(), KeyRefusal> {
    find(key, number)?.may_become(to)
}

pub(super) fn find(key: &Key, number: u32) -> Result<&Version, KeyRefusal> {
    key.versions.get(&number).ok_or(KeyRefusal::VersionNotFound { number })
}

pub(super) fn find_named<'a>(key: &'a Key, fixed: &Fixed, version: KeyVersion) -> Result<(u32, &'a Version), KeyRefusal> {
    if version.key != fixed.id {
        return Err(KeyRefusal::OtherKey);
    }
    Ok((version.number, find(key, version.number)?))
}
