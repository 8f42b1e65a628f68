//! The private half of a recovery key: HPKE with MLKEM768-X25519, a seed of 32 bytes. It exists while it is made and split, and
//! while a backup is opened.

use schema::{catalogue::Algorithm, clock::Ids, encoding::Digest};
use trust::recovery::{BackupHead, recovery_keyid};

use crate::{
    algorithm::{self, AlgorithmError, LoadedKey, SealedContent},
    vault::secret::{ContentKey, SecretBytes},
};

/// The bytes of the seed.
pub const SEED_BYTES: usize = 32;

/// The private half of a recovery key.
pub struct RecoverySecret {
    seed: SecretBytes,
    key: Box<dyn LoadedKey>,
}

impl RecoverySecret {
    /// A new one.
    pub fn generate(ids: &dyn Ids) -> Result<Self, AlgorithmError> {
        let hpke = algorithm();
        Self::from_seed(algorithm::serve(hpke).generate(hpke, ids)?)
    }

    /// The one that its shares gave.
    pub fn from_seed(seed: SecretBytes) -> Result<Self, AlgorithmError> {
        let hpke = algorithm();
        let key = algorithm::serve(hpke).load(hpke, &seed)?;
        Ok(Self { seed, key })
    }

    /// The seed.
    pub fn seed(&self) -> &SecretBytes {
        &self.seed
    }

    /// The public half.
    pub fn public_key(&self) -> &[u8] {
        self.key.public_key().unwrap_or_default()
    }

    /// Identifies it.
    pub fn keyid(&self) -> Digest {
        recovery_keyid(self.public_key())
    }

    /// Opens the content key of a backup.
    pub fn open(&self, head: &BackupHead) -> Result<ContentKey, AlgorithmError> {
        let sealed = SealedContent {
            encapsulated: Some(head.encapsulated.0.clone()),
            ciphertext: head.encrypted_key.0.clone(),
            ..SealedContent::default()
        };
        let key = self.key.open_content(&bound(head), &sealed)?;
        let not_genuine = AlgorithmError::NotGenuine { algorithm: algorithm(), act: "opening a backup" };
        ContentKey::from_slice(key.expose()).ok_or(not_genuine)
    }
}

/// Seals the content key of a backup to the public half; fills it into the head.
pub fn seal(head: &mut BackupHead, public_key: &[u8], key: &ContentKey, ids: &dyn Ids) -> Result<(), AlgorithmError> {
    let hpke = algorithm();
    let sealed = algorithm::serve(hpke).seal_content(hpke, public_key, &bound(head), key.expose(), ids)?;
    head.encapsulated = sealed.encapsulated.unwrap_or_default().into();
    head.encrypted_key = sealed.ciphertext.into();
    Ok(())
}

/// What a content key is sealed for: this site's backup of this agent at this time, and nothing else.
fn bound(head: &BackupHead) -> Vec<u8> {
    let BackupHead { tenant, site, agent, created, recovery_key, .. } = head;
    let names = [tenant.to_string(), site.to_string(), agent.to_string(), created.to_string()];
    let mut parts: Vec<&[u8]> = names.iter().map(|name| name.as_bytes()).collect();
    parts.push(&recovery_key.0);
    Digest::labelled("freehold-backup-key-v1", &parts).0.to_vec()
}

/// HPKE on the content itself, with MLKEM768-X25519, SHAKE256 and AES-256-GCM.
#[allow(clippy::expect_used, reason = "a name of the catalogue, covered by a test")]
pub(super) fn algorithm() -> Algorithm {
    "HPKE-9".parse().expect("HPKE-9 is in the catalogue")
}

#[cfg(test)]
mod tests {
    use schema::{
        clock::{ManualIds, Timestamp},
        id::{AgentId, SiteId, TenantId},
    };
    use trust::recovery::RECOVERY_PUBLIC_KEY_BYTES;

    use super::*;

    #[test]
    fn what_is_sealed_to_the_public_half_opens_with_the_private_one_as_what_it_was_sealed_for() {
        let ids = ManualIds::seeded(3);
        let secret = RecoverySecret::generate(&ids).unwrap();
        assert_eq!((secret.public_key().len(), secret.seed().len()), (RECOVERY_PUBLIC_KEY_BYTES, SEED_BYTES));
        let mut head = BackupHead {
            tenant: TenantId::from_bits(1),
            site: SiteId::from_bits(2),
            agent: AgentId::from_bits(3),
            created: Timestamp::default(),
            recovery_key: secret.keyid(),
            encapsulated: Vec::new().into(),
            encrypted_key: Vec::new().into(),
            versions: 0,
            tombstones: 0,
            body: Digest([0; 32]),
        };
        let key = ContentKey::random(&ids);
        seal(&mut head, secret.public_key(), &key, &ids).unwrap();
        assert_eq!(secret.open(&head).unwrap().expose(), key.expose());
        let again = RecoverySecret::from_seed(SecretBytes::new(secret.seed().expose().to_vec())).unwrap();
        assert_eq!(again.keyid(), secret.keyid());
        for other in [
            BackupHead { site: SiteId::from_bits(9), ..head.clone() },
            BackupHead { agent: AgentId::from_bits(9), ..head.clone() },
            BackupHead { created: Timestamp::from_micros(1), ..head.clone() },
        ] {
            assert!(secret.open(&other).is_err());
        }
        assert!(RecoverySecret::generate(&ids).unwrap().open(&head).is_err());
        assert!(RecoverySecret::from_seed(SecretBytes::new(vec![1; 31])).is_err());
    }
}
