//! `FHF1`: files and streams of any size, in constant memory. Bytes in, bytes out; nothing here reads or writes by
//! itself, so the same code serves bodies of requests and answers.
//!
//! ```text
//! "FHF1" | header length, 4 bytes big-endian | header (JSON, padded with spaces) | body (C2SP chunked encryption)
//! ```
//!
//! - [`header`]: who can open it, and the parts that can and cannot be replaced.
//! - [`chunks`]: the body.

pub mod chunks;
pub mod header;

use std::ops::Range;

use aws_lc_rs::hkdf;
use schema::{clock::Ids, context::EncryptionContext, id::FileId};
use zeroize::Zeroizing;

pub use self::chunks::CHUNK_BYTES;
use self::chunks::{ChunkOpener, ChunkSealer};
pub use self::header::{FileHeader, HeaderReader};
use super::{MessageError, unwrap, wrap_for};
use crate::{
    algorithm::ContentEncryption,
    policy::permit::UsePermit,
    vault::{Vault, secret::ContentKey},
};

/// The media type of a sealed file.
pub const MEDIA_TYPE: &str = "application/vnd.freehold.file";

/// Seals a stream. Emit [`FileSealer::header`] first, then what `push` and `finish` append.
pub struct FileSealer {
    header: Vec<u8>,
    chunks: ChunkSealer,
}

impl FileSealer {
    /// Makes a content key, wraps it for every permitted key, and writes the header.
    pub async fn begin(
        vault: &dyn Vault,
        ids: &dyn Ids,
        permits: Vec<UsePermit>,
        context: &EncryptionContext,
    ) -> Result<Self, MessageError> {
        let key = ContentKey::random(ids);
        let recipients = wrap_for(vault, ids, permits, &key, ContentEncryption::Cobblestone256).await?;
        let file: FileId = schema::clock::random_id(ids);
        let ctx = context.commit(schema::clock::random(ids));
        let keys = FileKeys::derive(&key)?;
        let (header, binding) = header::write(file, ctx, &recipients, &keys)?;
        Ok(Self { header, chunks: ChunkSealer::new(&keys.body, schema::clock::random(ids), &binding)? })
    }

    /// The first bytes of the file. Taken once; empty afterwards.
    pub fn header(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.header)
    }

    /// Takes plaintext, any amount; appends what is sealed to `out`. Keeps less than 16 KiB back.
    pub fn push(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
        self.chunks.push(plaintext, out)
    }

    /// Seals the last chunk. A file without it is cut off.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        self.chunks.finish(out)
    }

    /// How long the sealed file of so many bytes of plaintext will be, headers included, when the header is `header_bytes`.
    pub fn sealed_bytes(header_bytes: u64, plaintext_bytes: u64) -> u64 {
        header_bytes + chunks::sealed_bytes(plaintext_bytes)
    }
}

/// Opens a stream. Only plaintext that was found genuine comes out; the end is known to be the end by `finish` alone.
pub struct FileOpener {
    chunks: ChunkOpener,
}

impl FileOpener {
    /// Only this range of plaintext, from a body whose first chunk is that of this number; chunks have [`CHUNK_BYTES`] of
    /// plaintext. What is outside is not opened, so that changes there are not found.
    pub fn only(self, wanted: Range<u64>, first_chunk: u64) -> Self {
        Self { chunks: self.chunks.only(wanted, first_chunk) }
    }

    /// The same again, before anything was taken: to read a body twice.
    pub fn again(&self) -> Option<Self> {
        Some(Self { chunks: self.chunks.again()? })
    }

    /// Whether everything that is wanted came out, so that the rest does not matter.
    pub fn is_done(&self) -> bool {
        self.chunks.is_done()
    }

    /// Takes bytes of the body, any amount; appends the plaintext that was found genuine to `out`. After an error nothing
    /// more comes out: discard what came before.
    pub fn push(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
        self.chunks.push(sealed, out)
    }

    /// Opens the last chunk. Until this succeeds the file may be cut off.
    pub fn finish(self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        self.chunks.finish(out)
    }
}

impl FileHeader {
    /// Opens the file with the permitted key: checks the encryption context, unwraps the content key, and checks the
    /// header under it.
    pub async fn open(&self, vault: &dyn Vault, permit: UsePermit, context: &EncryptionContext) -> Result<FileOpener, MessageError> {
        if !self.matches(context) {
            return Err(MessageError::OtherContext);
        }
        let wrapped = self.wrapped_for(&permit)?;
        let key = unwrap(vault, permit, &wrapped, ContentEncryption::Cobblestone256).await?;
        let keys = FileKeys::derive(&key)?;
        self.check(&keys)?;
        Ok(FileOpener { chunks: ChunkOpener::new(keys.body, self.binding()) })
    }

    /// The header of the same file with the content key wrapped under another version, in the place of the first one. The body
    /// stays as it is. Whoever could open the file still can: the content key is the same.
    pub async fn rewrap(
        &self,
        vault: &dyn Vault,
        ids: &dyn Ids,
        (from, to): (UsePermit, UsePermit),
        context: &EncryptionContext,
    ) -> Result<Vec<u8>, MessageError> {
        if !self.matches(context) {
            return Err(MessageError::OtherContext);
        }
        let (old, wrapped) = (from.version(), self.wrapped_for(&from)?);
        let key = unwrap(vault, from, &wrapped, ContentEncryption::Cobblestone256).await?;
        let keys = FileKeys::derive(&key)?;
        self.check(&keys)?;
        let recipients = wrap_for(vault, ids, vec![to], &key, ContentEncryption::Cobblestone256).await?;
        self.replacing(old, recipients.first().ok_or(MessageError::Recipients)?, &keys)
    }
}

/// What a content key gives: one key for the body, one for the header's MAC (HKDF-Expand, RFC 5869, SHA-256).
pub(super) struct FileKeys {
    body: Zeroizing<[u8; 32]>,
    mac: Zeroizing<[u8; 32]>,
}

impl FileKeys {
    fn derive(key: &ContentKey) -> Result<Self, MessageError> {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, key.expose());
        Ok(Self { body: expand(&prk, &[b"freehold-file-v1 body"])?, mac: expand(&prk, &[b"freehold-file-v1 header"])? })
    }
}

/// HKDF-Expand to exactly `N` bytes.
fn expand<const N: usize>(prk: &hkdf::Prk, info: &[&[u8]]) -> Result<Zeroizing<[u8; N]>, MessageError> {
    struct Length(usize);
    impl hkdf::KeyType for Length {
        fn len(&self) -> usize {
            self.0
        }
    }
    let mut okm = Zeroizing::new([0; N]);
    prk.expand(info, Length(N))
        .and_then(|expanded| expanded.fill(okm.as_mut_slice()))
        .map_err(|_| MessageError::Failed("deriving a key"))?;
    Ok(okm)
}

#[cfg(test)]
mod tests;
