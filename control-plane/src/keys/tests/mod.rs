//! What the tests of keys share: a key with the usual settings, and short ways to write commands.

mod creating;
mod destroying;
mod ending;
mod external;
mod machine;
mod versions;

use std::time::Duration;

use schema::{
    encoding::{Base64, Digest},
    event::key::KeyEvent,
    id::{AgentId, KeyId, KeyVersion, ProjectId, SiteId, VaultId},
    key::{Durability, Limits, Origin, Purpose, RotationRule},
};

use super::{CreateKey, Key, KeyCommand, RecordBackup, RecordDestroyed, RecordReady, RecordSent, RecordVersion};
use crate::eventing::scenario::Scenario;

const ID: KeyId = KeyId::from_bits(1);
const SITE: SiteId = SiteId::from_bits(1);
const ALICE: AgentId = AgentId::from_bits(1);
const BOB: AgentId = AgentId::from_bits(2);
const CAROL: AgentId = AgentId::from_bits(3);

fn key() -> Scenario<Key> {
    Scenario::of(ID)
}

fn settings() -> CreateKey {
    CreateKey {
        project: ProjectId::from_bits(1),
        name: "card-data".parse().unwrap(),
        description: None,
        algorithm: "A256KW+A256GCM".parse().unwrap(),
        purpose: Purpose::Encrypt,
        placement: vec![SITE],
        labels: Default::default(),
        durability: Some(Durability::SingleCopy),
        protection: schema::key::Protection::Software,
        exportable: false,
        origin: Origin::Generated,
        eligible_generators: Vec::new(),
        deletion_protection: false,
        limits: Limits::default(),
        rotation: RotationRule::default(),
        template: None,
        generator: Some((ALICE, SITE)),
        name_is_an_alias: false,
        name_is_a_composite: false,
        sites_have_recovery_keys: false,
    }
}

fn create(change: impl FnOnce(&mut CreateKey)) -> KeyCommand {
    let mut settings = settings();
    change(&mut settings);
    KeyCommand::Create(Box::new(settings))
}

fn fingerprint(number: u32) -> Digest {
    Digest::of(&number.to_be_bytes())
}

fn made(number: u32, change: impl FnOnce(&mut RecordVersion)) -> KeyCommand {
    let mut record = RecordVersion {
        version: KeyVersion::new(ID, number),
        site: SITE,
        algorithm: settings().algorithm,
        origin: Origin::Generated,
        generator: ALICE,
        fingerprint: fingerprint(number),
        public_key: None,
        record: Base64(vec![1]),
    };
    change(&mut record);
    KeyCommand::RecordVersion(Box::new(record))
}

fn ready(number: u32, holder: AgentId) -> KeyCommand {
    ready_in(number, holder, VaultId::from_bits(holder.bits()))
}

fn ready_in(number: u32, holder: AgentId, vault: VaultId) -> KeyCommand {
    let (version, fingerprint, report) = (KeyVersion::new(ID, number), fingerprint(number), Base64(vec![2]));
    KeyCommand::RecordReady(RecordReady { version, site: SITE, holder, vault, fingerprint, protection: None, report })
}

fn sent(number: u32, sender: AgentId, recipient: AgentId) -> KeyCommand {
    let (version, fingerprint) = (KeyVersion::new(ID, number), fingerprint(number));
    KeyCommand::RecordSent(RecordSent { version, sites: [SITE, SITE], sender, recipient, fingerprint })
}

/// It is in a backup, sealed to a recovery key that goes by this number.
fn backed_up(number: u32, holder: AgentId, key: u8) -> KeyCommand {
    let (version, recovery_key) = (KeyVersion::new(ID, number), Digest([key; 32]));
    let (fingerprint, backup, report) = (fingerprint(number), Digest::of(b"a backup"), Base64(vec![4]));
    KeyCommand::RecordBackup(RecordBackup { version, site: SITE, holder, fingerprint, recovery_key, backup, report })
}

fn destroyed(number: u32, holder: AgentId) -> KeyCommand {
    let version = KeyVersion::new(ID, number);
    KeyCommand::RecordDestroyed(RecordDestroyed { version, holder, fingerprint: fingerprint(number), report: Base64(vec![3]) })
}

fn rotate() -> KeyCommand {
    KeyCommand::Rotate { generator: Some((ALICE, SITE)) }
}

/// Does all of these, each of which must be accepted.
fn after(mut present: Scenario<Key>, commands: impl IntoIterator<Item = KeyCommand>) -> Scenario<Key> {
    for command in commands {
        present = present.later(Duration::from_secs(1)).when(&command).then_accepted().0;
    }
    present
}

/// A key whose first version is active.
fn active() -> Scenario<Key> {
    after(key(), [create(|_| ()), made(1, |_| ()), ready(1, ALICE)])
}

fn names(events: &[KeyEvent]) -> Vec<&'static str> {
    use schema::event::Event;
    events.iter().map(Event::type_name).collect()
}
