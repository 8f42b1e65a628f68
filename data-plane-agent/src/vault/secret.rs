//! Bytes that must not leak: they do not print, serialise or copy, and are wiped on drop; and a process that keeps its
//! memory out of core dumps and swap.

use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::{DumpableBehavior, Resource, Rlimit, getrlimit, set_dumpable_behavior, setrlimit},
    thread::{CapabilitySet, capabilities},
};
use schema::clock::Ids;
use zeroize::{Zeroize, optimization_barrier};

/// Secret bytes of any length. No `Debug`, `Display`, `Serialize`, `Clone` or `PartialEq`: reading them is a word,
/// [`SecretBytes::expose`], that can be searched for.
///
/// ```compile_fail
/// fn print(secret: data_plane_agent::vault::secret::SecretBytes) {
///     println!("{secret:?}");
/// }
/// ```
/// ```compile_fail
/// fn copy(secret: &data_plane_agent::vault::secret::SecretBytes) -> data_plane_agent::vault::secret::SecretBytes {
///     secret.clone()
/// }
/// ```
/// ```compile_fail
/// fn write(secret: data_plane_agent::vault::secret::SecretBytes) -> String {
///     serde_json::to_string(&secret).unwrap_or_default()
/// }
/// ```
pub struct SecretBytes(Vec<u8>);

impl SecretBytes {
    /// Takes the bytes over; they are wiped when this is dropped. (Growing or truncating a vector leaves copies behind:
    /// make it with its final capacity.)
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }

    /// `length_bytes` fresh random bytes.
    pub fn random(length_bytes: usize, ids: &dyn Ids) -> Self {
        let mut bytes = vec![0; length_bytes];
        ids.fill(&mut bytes);
        Self(bytes)
    }

    /// Lets something append to the bytes, which are wiped whether or not it succeeds.
    pub fn take_from<E>(&mut self, append: impl FnOnce(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        append(&mut self.0)
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// The bytes, to be changed in place.
    pub fn expose_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }

    /// How many bytes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// As the body of an answer: shared without copying, wiped when the last reference is dropped. `Bytes` prints, so
    /// this belongs where the answer is written and nowhere else.
    pub fn into_body(self) -> bytes::Bytes {
        bytes::Bytes::from_owner(Body(self))
    }
}

impl Drop for SecretBytes {
    /// `Vec::zeroize` writes byte by byte, and what was never used as well: at the sizes of a stream that costs as much
    /// as the cipher. One `memset` that the compiler may not leave out wipes the same bytes.
    fn drop(&mut self) {
        self.0.as_mut_slice().fill(0);
        optimization_barrier(self.0.as_slice());
    }
}

struct Body(SecretBytes);

impl AsRef<[u8]> for Body {
    fn as_ref(&self) -> &[u8] {
        self.0.expose()
    }
}

/// A 256-bit key that protects the content of one message or file. On the heap, so that moving it leaves no copies.
pub struct ContentKey(Box<[u8; 32]>);

impl ContentKey {
    /// A fresh random key.
    pub fn random(ids: &dyn Ids) -> Self {
        let mut key = Box::new([0; 32]);
        ids.fill(key.as_mut_slice());
        Self(key)
    }

    /// From exactly 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        let mut key = Box::new([0; 32]);
        (bytes.len() == 32).then(|| {
            key.copy_from_slice(bytes);
            Self(key)
        })
    }

    /// The bytes themselves.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The same key once more, for another thread; both are wiped.
    pub(crate) fn copy(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Drop for ContentKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What [`harden`] could do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hardening {
    /// Core dumps are off, and other processes of the user cannot read this one's memory.
    pub no_core_dumps: bool,
    /// Memory stays out of swap.
    pub memory_locked: bool,
    /// What could not be done, and what to do about it: one sentence each, for the log.
    pub warnings: Vec<String>,
}

/// Keeps the memory of this process out of core dumps, debuggers of the same user, and swap. Call it once, before any
/// secret is loaded. Never fails: what the system does not let us do is in `warnings`.
///
/// Memory is locked only where the system sets no limit (or gives the right to pass it): with a limit, a later
/// allocation would fail in mid-operation. Pages are locked when they are first touched, so the resident size stays
/// what it is (`docs/decisions/0054-locking-memory.md`).
pub fn harden() -> Hardening {
    let mut warnings = Vec::new();
    let limit = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let dumpable = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    for error in [limit.err(), dumpable.err()].into_iter().flatten() {
        warnings.push(format!("core dumps could not be turned off ({error}); set LimitCORE=0 in the service unit"));
    }
    let no_core_dumps = warnings.is_empty();
    let may_lock = getrlimit(Resource::Memlock).current.is_none()
        || capabilities(None).is_ok_and(|sets| sets.effective.contains(CapabilitySet::IPC_LOCK));
    let memory_locked = may_lock
        && match mlockall(MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT) {
            Ok(()) => true,
            Err(error) => {
                warnings.push(format!("memory could not be kept out of swap ({error})"));
                false
            }
        };
    if !may_lock {
        warnings.push("memory is not kept out of swap: set LimitMEMLOCK=infinity in the service unit, or use encrypted swap".to_owned());
    }
    Hardening { no_core_dumps, memory_locked, warnings }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_the_same_memory() {
        let secret = SecretBytes::new(b"plaintext".to_vec());
        let place = secret.expose().as_ptr();
        let body = secret.into_body();
        assert_eq!(body.as_ptr(), place);
        assert_eq!(&body[..], b"plaintext");
    }

    #[test]
    fn a_content_key_is_32_bytes_and_nothing_else() {
        assert!(ContentKey::from_slice(&[1; 31]).is_none());
        assert!(ContentKey::from_slice(&[1; 33]).is_none());
        assert_eq!(ContentKey::from_slice(&[1; 32]).unwrap().expose(), &[1; 32]);
    }
}
