//! One backup as bytes (`docs/formats/control-plane-backups.md`): a line `FHCB1`, a line with the head, and the body in sealed
//! chunks. The head seals the content key to the recipient, and every chunk is bound to the head, to its place, and to being the
//! last one or not (the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár over AES-256-GCM).

use std::{
    io::{self, Read, Write},
    path::{Path, PathBuf},
};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use schema::{
    clock::{Ids, Timestamp, random},
    encoding::{Base64, Digest, u64_string},
};
use serde::{Deserialize, Serialize};
use trust::seal::{PrekeySecret, open_for, seal_for};
use zeroize::Zeroizing;

use super::{BackupError, key::RecipientKey};

const MAGIC: &[u8] = b"FHCB1\n";
const FORMAT: &str = "freehold-control-plane-backup-v1";
/// The label of the content key's seal.
const LABEL: &str = "freehold-control-plane-backup-key-v1";
/// Plaintext of one chunk.
const CHUNK: usize = 64 * 1024;
const TAG: usize = 16;
/// The longest head that is read.
const MAX_HEAD: usize = 64 * 1024;

/// Which database a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Engine {
    /// A database file, as SQLite copies it.
    Sqlite,
    /// An archive of `pg_dump` in its custom format.
    Postgresql,
}

/// What stands in clear at the beginning.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    format: String,
    /// Its name.
    pub id: String,
    /// When it was begun.
    pub created: Timestamp,
    /// The deployment.
    pub deployment: String,
    /// What it is of.
    pub engine: Engine,
    /// The fingerprint of the sealing key, which is not in it and without which nobody reads it.
    pub sealing_key: String,
    /// The records that it holds at least: the place of the last of them.
    #[serde(with = "u64_string")]
    pub position: u64,
    /// The version of the program that made it.
    pub program: String,
    /// Identifies the key that opens it.
    pub recipient: Digest,
    encapsulated: Base64,
    encrypted_key: Base64,
}

impl Head {
    /// Of a backup that is about to be made.
    pub(super) fn new(id: String, created: Timestamp, deployment: String, engine: Engine, sealing_key: String, position: u64) -> Self {
        Self {
            format: FORMAT.to_owned(),
            id,
            created,
            deployment,
            engine,
            sealing_key,
            position,
            program: env!("CARGO_PKG_VERSION").to_owned(),
            recipient: Digest([0; 32]),
            encapsulated: Base64::default(),
            encrypted_key: Base64::default(),
        }
    }

    /// What the content key is sealed for: this backup and no other.
    fn bound(&self) -> Digest {
        let engine = match self.engine {
            Engine::Sqlite => "sqlite",
            Engine::Postgresql => "postgresql",
        };
        let (created, position, recipient) = (self.created.to_string(), self.position.to_string(), self.recipient.to_string());
        let parts = [&self.format, &self.id, &created, &self.deployment, engine, &self.sealing_key, &position, &self.program, &recipient];
        Digest::labelled(LABEL, &parts.map(str::as_bytes))
    }
}

/// The key of one backup's body.
pub(super) struct ContentKey(Zeroizing<[u8; 32]>);

struct Chunks {
    key: LessSafeKey,
    head: Digest,
    next: u64,
}

impl Chunks {
    fn new(key: &ContentKey, head_line: &[u8]) -> Result<Self, BackupError> {
        let key = UnboundKey::new(&AES_256_GCM, &*key.0).map_err(|_| BackupError::Sealing)?;
        Ok(Self { key: LessSafeKey::new(key), head: Digest::of(head_line), next: 0 })
    }

    fn nonce(&self, last: bool) -> Nonce {
        let mut nonce = [0; NONCE_LEN];
        nonce[NONCE_LEN - 9..NONCE_LEN - 1].copy_from_slice(&self.next.to_be_bytes());
        nonce[NONCE_LEN - 1] = u8::from(last);
        Nonce::assume_unique_for_key(nonce)
    }
}

/// Seals what is written into it.
pub(super) struct Sealer<W: Write> {
    chunks: Chunks,
    buffer: Vec<u8>,
    out: W,
}

impl<W: Write> Sealer<W> {
    /// Writes the head; gives the key as well, so that what was written can be read back.
    pub(super) fn begin(
        mut head: Head,
        recipient: &RecipientKey,
        ids: &dyn Ids,
        mut out: W,
    ) -> Result<(Self, Head, ContentKey), BackupError> {
        let key = ContentKey(Zeroizing::new(random(ids)));
        head.recipient = recipient.keyid();
        let (encapsulated, sealed) =
            seal_for(LABEL, &head.bound(), recipient.public_key(), &*key.0, ids).map_err(|_| BackupError::Sealing)?;
        (head.encapsulated, head.encrypted_key) = (encapsulated.into(), sealed.into());
        let line = serde_json::to_vec(&head).map_err(|_| BackupError::Sealing)?;
        let chunks = Chunks::new(&key, &line)?;
        let write = |out: &mut W| -> io::Result<()> {
            out.write_all(MAGIC)?;
            out.write_all(&line)?;
            out.write_all(b"\n")
        };
        write(&mut out).map_err(BackupError::writing)?;
        Ok((Self { chunks, buffer: Vec::with_capacity(CHUNK + TAG), out }, head, key))
    }

    fn chunk(&mut self, last: bool) -> io::Result<()> {
        let nonce = self.chunks.nonce(last);
        let sealed = self.chunks.key.seal_in_place_append_tag(nonce, Aad::from(self.chunks.head.0), &mut self.buffer);
        sealed.map_err(|_| io::Error::other("sealing a chunk failed"))?;
        self.out.write_all(&self.buffer)?;
        self.buffer.clear();
        self.chunks.next += 1;
        Ok(())
    }

    /// Writes the last chunk.
    pub(super) fn finish(mut self) -> Result<W, BackupError> {
        self.chunk(true).map_err(BackupError::writing)?;
        self.out.flush().map_err(BackupError::writing)?;
        Ok(self.out)
    }
}

impl<W: Write> Write for Sealer<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // Only what something follows is written as not the last one.
        if self.buffer.len() == CHUNK {
            self.chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A backup whose head was read.
pub struct Opening<R: Read> {
    path: PathBuf,
    /// The head, as it says of itself.
    pub head: Head,
    line: Vec<u8>,
    input: R,
}

impl<R: Read> Opening<R> {
    /// Reads the head.
    pub fn begin(path: &Path, mut input: R) -> Result<Self, BackupError> {
        let damaged = |detail: &str| BackupError::Damaged { path: path.to_owned(), detail: detail.to_owned() };
        let mut magic = [0; MAGIC.len()];
        let length = fill(&mut input, &mut magic).map_err(|source| BackupError::reading(path, source))?;
        if magic[..length] != *MAGIC {
            let newer = length == MAGIC.len() && magic.starts_with(b"FHCB") && magic.ends_with(b"\n");
            return Err(if newer {
                BackupError::newer(path, &String::from_utf8_lossy(&magic[..5]))
            } else {
                damaged("it does not begin as a backup")
            });
        }
        let mut line = Vec::new();
        loop {
            let mut byte = [0];
            match fill(&mut input, &mut byte).map_err(|source| BackupError::reading(path, source))? {
                0 => return Err(damaged("its head is cut off")),
                _ if byte[0] == b'\n' => break,
                _ if line.len() == MAX_HEAD => return Err(damaged("its head is too long")),
                _ => line.push(byte[0]),
            }
        }
        #[derive(Deserialize)]
        struct Format {
            format: String,
        }
        let format: Format = serde_json::from_slice(&line).map_err(|_| damaged("its head does not read"))?;
        if format.format != FORMAT {
            return Err(BackupError::newer(path, &format.format));
        }
        let head = serde_json::from_slice(&line).map_err(|_| damaged("its head does not read"))?;
        Ok(Self { path: path.to_owned(), head, line, input })
    }

    /// Opens it with the key it is sealed to.
    pub fn open(self, secret: &PrekeySecret) -> Result<Opener<R>, BackupError> {
        let given = RecipientKey::of(secret).keyid();
        if self.head.recipient != given {
            return Err(BackupError::OtherKey { path: self.path, sealed_to: self.head.recipient, given });
        }
        let (encapsulated, sealed) = (self.head.encapsulated.as_slice(), self.head.encrypted_key.as_slice());
        let key = open_for(LABEL, &self.head.bound(), secret, encapsulated, sealed).ok().and_then(|key| <[u8; 32]>::try_from(&**key).ok());
        let Some(key) = key else {
            return Err(BackupError::Damaged { path: self.path, detail: "its head was changed, its key does not open".to_owned() });
        };
        self.open_with(&ContentKey(Zeroizing::new(key)))
    }

    /// Opens it with its own key, which whoever just wrote it has.
    pub(super) fn open_with(self, key: &ContentKey) -> Result<Opener<R>, BackupError> {
        let chunks = Chunks::new(key, &self.line)?;
        Ok(Opener { path: self.path, head: self.head, chunks, input: self.input, ahead: None })
    }
}

/// Gives what is sealed in a backup, chunk by chunk.
pub struct Opener<R: Read> {
    path: PathBuf,
    /// The head.
    pub head: Head,
    chunks: Chunks,
    input: R,
    /// The chunk that was read and not opened yet.
    ahead: Option<Vec<u8>>,
}

impl<R: Read> Opener<R> {
    /// Opens everything and writes it out. What was written is to be thrown away when this fails.
    pub fn copy_to(mut self, out: &mut impl Write) -> Result<(), BackupError> {
        let mut next = self.read()?;
        loop {
            let this = std::mem::replace(&mut next, self.read()?);
            let last = next.is_empty();
            let plain = self.open(&this, last)?;
            out.write_all(&plain).map_err(BackupError::writing)?;
            if last {
                return Ok(());
            }
        }
    }

    fn read(&mut self) -> Result<Vec<u8>, BackupError> {
        if let Some(ahead) = self.ahead.take() {
            return Ok(ahead);
        }
        let mut chunk = vec![0; CHUNK + TAG];
        let length = fill(&mut self.input, &mut chunk).map_err(|source| BackupError::reading(&self.path, source))?;
        chunk.truncate(length);
        Ok(chunk)
    }

    fn open(&mut self, sealed: &[u8], last: bool) -> Result<Vec<u8>, BackupError> {
        let open = |last| {
            let mut chunk = sealed.to_vec();
            let length = self.chunks.key.open_in_place(self.chunks.nonce(last), Aad::from(self.chunks.head.0), &mut chunk).ok()?.len();
            chunk.truncate(length);
            Some(chunk)
        };
        let Some(plain) = open(last) else {
            let detail = match (last, open(!last)) {
                (true, Some(_)) => "it is cut off".to_owned(),
                (true, None) if sealed.len() < CHUNK + TAG => format!("it is cut off or was changed in chunk {}", self.chunks.next + 1),
                (_, Some(_)) => "something follows its end".to_owned(),
                _ => format!("it was changed in chunk {}", self.chunks.next + 1),
            };
            return Err(BackupError::Damaged { path: self.path.clone(), detail });
        };
        self.chunks.next += 1;
        Ok(plain)
    }
}

/// Reads until the buffer is full or the end is there.
fn fill(input: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut length = 0;
    while length < buffer.len() {
        match input.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(length)
}

#[cfg(test)]
mod tests {
    use schema::clock::ManualIds;

    use super::*;

    fn sealed(body: &[u8], secret: &PrekeySecret) -> Vec<u8> {
        let ids = ManualIds::seeded(9);
        let head = Head::new("a".to_owned(), Timestamp::default(), "freehold".to_owned(), Engine::Sqlite, "f".to_owned(), 7);
        let (mut sealer, ..) = Sealer::begin(head, &RecipientKey::of(secret), &ids, Vec::new()).unwrap();
        sealer.write_all(body).unwrap();
        sealer.finish().unwrap()
    }

    fn opened(bytes: &[u8], secret: &PrekeySecret) -> Result<Vec<u8>, BackupError> {
        let mut out = Vec::new();
        Opening::begin(Path::new("b.fhcb"), bytes)?.open(secret)?.copy_to(&mut out)?;
        Ok(out)
    }

    #[test]
    fn what_is_sealed_opens_whole_with_its_key_only() {
        let (secret, other) =
            (PrekeySecret::generate(&ManualIds::seeded(1)).unwrap(), PrekeySecret::generate(&ManualIds::seeded(2)).unwrap());
        for length in [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 3 * CHUNK + 5] {
            let body: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let bytes = sealed(&body, &secret);
            assert_eq!(opened(&bytes, &secret).unwrap(), body);
            assert_eq!(opened(&bytes, &other).unwrap_err().code(), "backup_of_another_key");
            assert!(body.len() < 100 || !bytes.windows(100).any(|window| window == &body[..100]));
        }
    }

    #[test]
    fn a_damaged_backup_is_named_whatever_is_wrong_with_it() {
        let secret = PrekeySecret::generate(&ManualIds::seeded(1)).unwrap();
        let body = vec![7; 2 * CHUNK + 100];
        let bytes = sealed(&body, &secret);
        let body_at = bytes.len() - body.len() - 3 * TAG;
        for end in (0..bytes.len()).step_by(4099).chain([bytes.len() - 1, body_at, body_at + CHUNK + TAG, body_at + 2 * (CHUNK + TAG)]) {
            let error = opened(&bytes[..end], &secret).unwrap_err();
            assert_eq!(error.code(), "backup_damaged", "cut at {end}");
        }
        let cut = opened(&bytes[..body_at + CHUNK + TAG], &secret).unwrap_err().to_string();
        assert!(cut.contains("it is cut off"), "{cut}");
        for place in (0..bytes.len()).step_by(997).chain(0..body_at) {
            let mut changed = bytes.clone();
            changed[place] ^= 1;
            let code = opened(&changed, &secret).map(drop).unwrap_err().code();
            let known = ["backup_damaged", "backup_of_newer_version", "backup_of_another_key"];
            assert!(known.contains(&code), "changed at {place}: {code}");
        }
        let mut longer = bytes.clone();
        longer.extend_from_slice(&bytes[body_at..]);
        assert_eq!(opened(&longer, &secret).unwrap_err().code(), "backup_damaged");
        // Chunks stand in their order.
        let mut swapped = bytes.clone();
        let (first, second) = (body_at..body_at + CHUNK + TAG, body_at + CHUNK + TAG..body_at + 2 * (CHUNK + TAG));
        swapped[first.clone()].copy_from_slice(&bytes[second.clone()]);
        swapped[second].copy_from_slice(&bytes[first]);
        assert_eq!(opened(&swapped, &secret).unwrap_err().code(), "backup_damaged");
    }

    /// `FREEHOLD_BLESS=1` writes it when it is not there; one that is there is history.
    #[test]
    fn the_golden_backup_opens() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../schema/golden/control-plane-backups/backup-v1.fhcb");
        let secret = PrekeySecret::from_bytes(&[7; 32]).unwrap();
        let body: Vec<u8> = (0..CHUNK + 100).map(|n| (n % 251) as u8).collect();
        if std::env::var_os("FREEHOLD_BLESS").is_some() && !Path::new(path).exists() {
            std::fs::create_dir_all(Path::new(path).parent().unwrap()).unwrap();
            std::fs::write(path, sealed(&body, &secret)).unwrap();
        }
        assert_eq!(opened(&std::fs::read(path).unwrap(), &secret).unwrap(), body);
    }

    #[test]
    fn a_newer_backup_is_named_as_one() {
        let secret = PrekeySecret::generate(&ManualIds::seeded(1)).unwrap();
        let bytes = sealed(b"body", &secret);
        let mut newer = bytes.clone();
        newer[4] = b'2';
        assert_eq!(opened(&newer, &secret).unwrap_err().code(), "backup_of_newer_version");
        let text = String::from_utf8_lossy(&bytes[..bytes.len() - 20]).replace("backup-v1", "backup-v2");
        assert_eq!(opened(text.as_bytes(), &secret).unwrap_err().code(), "backup_of_newer_version");
    }
}
