//! A key comes as far again as a signed state says it was: after the control plane was restored from an older backup. Nothing goes
//! back, and what is here and further stays.

use schema::{
    clock::Timestamp,
    event::key::{
        DestructionBegun, DestructionScheduled, ExternalVersionRegistered, HolderReady, KeyCreated, KeyEvent, PrimaryMoved,
        VersionActivated, VersionBackedUp, VersionCompromised, VersionDeactivated, VersionMade, VersionRequested, VersionSuspended,
    },
    key::VersionState,
    name::Name,
};
use serde::Serialize;
use trust::{
    document::{HolderReport, VersionRecord},
    dsse::peek_document,
    recovery::BackupReport,
    statement::{
        policy::KeyDefinition,
        state::{KeyState as ToldKey, VersionEntry},
    },
};

use super::{Key, KeyRefusal, Version};

/// What agents hold of a key, signed by this control plane before it was restored.
#[derive(Debug, Clone, Serialize)]
pub struct RecoverKey {
    /// What it is, as policy says; needed where nobody here knows it any more.
    pub definition: Option<KeyDefinition>,
    /// The template it follows.
    pub template: Option<Name>,
    /// Its versions.
    pub told: ToldKey,
}

pub(super) fn recover(key: &Key, recover: &RecoverKey, now: Timestamp) -> Result<Vec<KeyEvent>, KeyRefusal> {
    let mut events = Vec::new();
    if key.fixed.is_none() {
        let definition = recover.definition.as_ref().ok_or(KeyRefusal::NotFound)?;
        events.push(created(definition, recover.template.clone()).into());
    }
    let external = recover.definition.as_ref().map(|definition| definition.external.as_slice()).unwrap_or_default();
    for (number, told) in &recover.told.versions {
        let (number, known) = (*number, key.versions.get(number));
        match (known, (number as usize).checked_sub(1).and_then(|place| external.get(place))) {
            (Some(_), _) => {}
            (None, Some(version)) => events.push(
                ExternalVersionRegistered { number, fingerprint: version.fingerprint, public_key: version.public_key.clone() }.into(),
            ),
            (None, None) => events.push(VersionRequested { number, generator: told.generator }.into()),
        }
        documents(number, known, told, &mut events);
        state(number, known, told, now, &mut events);
    }
    if recover.told.primary > key.primary {
        events.push(PrimaryMoved { number: recover.told.primary }.into());
    }
    Ok(events)
}

fn created(definition: &KeyDefinition, template: Option<Name>) -> KeyCreated {
    KeyCreated {
        project: definition.project,
        name: definition.name.clone(),
        description: None,
        algorithm: definition.algorithm,
        purpose: definition.purpose,
        placement: definition.placement.clone(),
        labels: definition.labels.clone(),
        durability: definition.durability,
        protection: definition.protection,
        exportable: definition.exportable,
        origin: definition.origin,
        eligible_generators: definition.eligible_generators.clone(),
        // Statements do not tell of it: the safe one of both.
        deletion_protection: true,
        limits: definition.limits.clone(),
        rotation: definition.rotation.clone(),
        template,
    }
}

/// Who made it, who has it, and in which backup it is. The documents were verified when they first came.
fn documents(number: u32, known: Option<&Version>, told: &VersionEntry, events: &mut Vec<KeyEvent>) {
    if known.is_none_or(|known| known.made.is_none())
        && let Some(record) = &told.record
        && let Ok(VersionRecord { generator, fingerprint, public_key, .. }) = peek_document(record.as_slice())
    {
        events.push(VersionMade { number, generator, fingerprint, public_key, record: record.clone() }.into());
    }
    for (holder, report) in &told.ready {
        let is_known = known.is_some_and(|known| known.holders.get(holder).is_some_and(|holder| holder.ready.is_some()));
        if !is_known && let Ok(HolderReport { vault, protection, .. }) = peek_document(report.as_slice()) {
            events.push(HolderReady { number, holder: *holder, vault, protection, report: report.clone() }.into());
        }
    }
    if let Some(report) = &told.backup
        && let Ok(BackupReport { holder, recovery_key, backup, .. }) = peek_document(report.as_slice())
        && known.is_none_or(|known| !known.backups.contains_key(&holder))
    {
        events.push(VersionBackedUp { number, holder, recovery_key, backup, report: report.clone() }.into());
    }
}

fn state(number: u32, known: Option<&Version>, told: &VersionEntry, now: Timestamp, events: &mut Vec<KeyEvent>) {
    let present = known.map_or(VersionState::PreActivation, |known| known.state);
    let was_used = matches!(told.state, VersionState::Active | VersionState::Deactivated) || told.activated.is_some();
    let further = told.state.rank() > present.rank();
    if present == VersionState::PreActivation && was_used {
        events.push(VersionActivated { number }.into());
    }
    let reason = None;
    match told.state {
        VersionState::Suspended if matches!(present, VersionState::PreActivation | VersionState::Active) => {
            events.push(VersionSuspended { number, reason }.into());
        }
        VersionState::Deactivated if further => events.push(VersionDeactivated { number, reason }.into()),
        VersionState::Compromised if further => events.push(VersionCompromised { number, reason }.into()),
        VersionState::Destroyed if further => {
            events.push(DestructionScheduled { number, due: now, reason, backups_expire: None }.into());
            events.push(DestructionBegun { number }.into());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use schema::{
        clock::ManualIds,
        encoding::{Base64, Digest},
        id::{AgentId, KeyId, KeyVersion, SiteId, TenantId, VaultId},
        key::Origin,
    };
    use trust::{document, document::HolderStatus, pair::Pair};

    use super::*;
    use crate::eventing::aggregate::{Aggregate, Deciding, EventMeta};

    const KEY: KeyId = KeyId::from_bits(1);
    const AGENT: AgentId = AgentId::from_bits(2);

    fn entry(number: u32, state: VersionState) -> VersionEntry {
        let pair = Pair::generate(&ManualIds::seeded(3));
        let (tenant, site, version) = (TenantId::from_bits(4), SiteId::from_bits(5), KeyVersion::new(KEY, number));
        let (fingerprint, issued) = (Digest([number as u8; 32]), Timestamp::default());
        let algorithm = "A256KW+A256GCM".parse().unwrap();
        let (origin, vault) = (Origin::Generated, VaultId::from_bits(6));
        let record: Base64 = document::sign(
            &VersionRecord { tenant, site, version, algorithm, origin, generator: AGENT, fingerprint, public_key: None, issued },
            &pair,
        );
        let ready: Base64 = document::sign(
            &HolderReport {
                tenant,
                site,
                version,
                holder: AGENT,
                vault,
                fingerprint,
                status: HolderStatus::Ready,
                protection: None,
                issued,
            },
            &pair,
        );
        VersionEntry {
            state,
            created: issued,
            activated: None,
            generator: Some(AGENT),
            record: Some(record),
            ready: [(AGENT, ready)].into(),
            backup: None,
        }
    }

    fn definition() -> KeyDefinition {
        serde_json::from_value(serde_json::json!({
            "name": "card", "aliases": [], "project": schema::id::ProjectId::from_bits(7), "project_name": "payments",
            "algorithm": "A256KW+A256GCM", "purpose": "encrypt", "placement": [SiteId::from_bits(5)], "labels": {},
            "durability": "single-copy", "exportable": false, "origin": "generated", "eligible_generators": [],
            "rotation": schema::key::RotationRule::default(), "limits": schema::key::Limits::default(),
            "minimum_versions": schema::key::MinimumVersions::default(),
        }))
        .unwrap()
    }

    fn recovered(key: &Key, versions: &[VersionState], primary: u32) -> Key {
        let versions = (1..).zip(versions).map(|(number, state)| (number, entry(number, *state))).collect();
        let command = RecoverKey { definition: Some(definition()), template: None, told: ToldKey { primary, versions } };
        let ids = ManualIds::seeded(1);
        let command = super::super::KeyCommand::Recover(Box::new(command));
        let events = key.decide(&command, &Deciding { now: Timestamp::default(), ids: &ids }).unwrap();
        let mut key = key.clone();
        for event in &events {
            let meta = EventMeta {
                id: schema::id::EventId::from_bits(1),
                tenant: TenantId::from_bits(4),
                stream: schema::event::StreamId::of(KEY),
                revision: 1,
                time: Timestamp::default(),
                actor: "system:test".to_owned(),
            };
            key.evolve(event, &meta);
        }
        key
    }

    #[test]
    fn a_key_comes_as_far_as_it_was_and_never_back() {
        use VersionState::{Active, Compromised, Deactivated, Destroyed, PreActivation, Suspended};
        let key = recovered(&Key::default(), &[Active], 1);
        assert_eq!((key.primary, key.versions[&1].state, key.fixed.as_ref().unwrap().name.to_string().as_str()), (1, Active, "card"));
        assert!(key.versions[&1].made.is_some() && key.versions[&1].holders[&AGENT].ready.is_some());
        // Rotated since: the old one at its end, the new one in use, one more in the making.
        let key = recovered(&key, &[Deactivated, Active, PreActivation], 2);
        let states: Vec<_> = key.versions.values().map(|version| version.state).collect();
        assert_eq!((key.primary, states), (2, vec![Deactivated, Active, PreActivation]));
        let key = recovered(&key, &[Destroyed, Compromised, Suspended], 2);
        let states: Vec<_> = key.versions.values().map(|version| version.state).collect();
        assert_eq!(states, [Destroyed, Compromised, Suspended]);
        // What is said to be less changes nothing.
        let before = key.clone();
        assert_eq!(recovered(&key, &[Active, Active], 1), before);
    }
}
