//! The header of a sealed file: a fixed part that the body is bound to, and a block of recipients that can be replaced
//! without touching the body. A MAC under a key derived from the content key covers both.
//!
//! ```json
//! {"fixed":"<base64url of JSON>","recipients":"<base64url of JSON>","mac":"<base64url>"}
//! ```
//!
//! Both parts travel as base64url of their exact bytes, as the protected header of a JWE does, so that nobody has to
//! write JSON the same way twice.

use aws_lc_rs::hmac;
use schema::{
    catalogue::Algorithm,
    context::EncryptionContext,
    encoding::{Base64, base64url},
    id::{FileId, KeyVersion},
};
use serde::{Deserialize, Serialize};

use super::{FileKeys, chunks::SPECIFICATION};
use crate::{
    algorithm::{ContentEncryption, WrappedKey},
    message::{
        MAX_RECIPIENTS, MessageError, Recipient,
        header::{Header, HeaderWriter},
        jwe::recipient_members,
    },
    policy::permit::UsePermit,
};

const WHAT: &str = "Freehold file";
const MAGIC: &[u8; 4] = b"FHF1";
/// Magic and length.
const PREAMBLE_BYTES: usize = 8;
/// The most bytes of a header.
const MAX_HEADER_BYTES: usize = 64 * 1024;
/// The body begins at a multiple of this: room for other recipients, and aligned for readers.
const ALIGN_BYTES: usize = 4096;

#[derive(Serialize, Deserialize)]
struct Outer {
    fixed: Base64,
    recipients: Base64,
    mac: Base64,
}

/// What never changes about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fixed {
    /// `FHF1`.
    format: String,
    /// The file.
    file: FileId,
    /// `C2SP-Cobblestone-256`.
    enc: String,
    /// The commit of the specification that was implemented.
    spec: String,
    /// The commitment to the encryption context.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    ctx: Option<String>,
}

#[derive(Deserialize)]
struct RecipientBlock {
    recipients: Vec<RecipientEntry>,
}

#[derive(Debug, Deserialize)]
struct RecipientEntry {
    header: Header,
    encrypted_key: Base64,
}

/// A header that was read. It is genuine once the file was opened.
#[derive(Debug)]
pub struct FileHeader {
    fixed: Fixed,
    fixed_bytes: Vec<u8>,
    recipients: Vec<RecipientEntry>,
    recipients_bytes: Vec<u8>,
    mac: Vec<u8>,
    length: u32,
}

/// Writes magic, length and header; returns them and what the body is bound to.
pub(super) fn write(
    file: FileId,
    ctx: Option<String>,
    recipients: &[Recipient],
    keys: &FileKeys,
) -> Result<(Vec<u8>, [u8; 32]), MessageError> {
    let fixed = HeaderWriter::new()
        .member("format", "FHF1")
        .member("file", file)
        .member("enc", ContentEncryption::Cobblestone256.name())
        .member("spec", SPECIFICATION)
        .optional("ctx", ctx)
        .json();
    let entries = recipients.iter().map(entry).collect::<Result<Vec<_>, _>>()?;
    Ok((assemble(fixed.as_bytes(), &entries, keys)?, binding(fixed.as_bytes())))
}

/// One recipient as it stands in the block.
fn entry(recipient: &Recipient) -> Result<String, MessageError> {
    let header = recipient_members(HeaderWriter::new(), recipient)?.optional("draft", recipient.algorithm.entry().draft).json();
    Ok(format!("{{\"header\":{header},\"encrypted_key\":\"{}\"}}", base64url(&recipient.wrapped.encrypted_key)))
}

/// Magic, length and header, padded.
fn assemble(fixed: &[u8], entries: &[String], keys: &FileKeys) -> Result<Vec<u8>, MessageError> {
    let block = format!("{{\"recipients\":[{}]}}", entries.join(","));
    let mac_text_bytes = 43;
    let json_bytes = 34 + base64url(fixed).len() + base64url(block.as_bytes()).len() + mac_text_bytes;
    let whole = (PREAMBLE_BYTES + json_bytes).next_multiple_of(ALIGN_BYTES);
    let length = whole - PREAMBLE_BYTES;
    if length > MAX_HEADER_BYTES {
        return Err(MessageError::TooLong { what: "the header", max_bytes: MAX_HEADER_BYTES });
    }
    let length_u32 = u32::try_from(length).map_err(|_| MessageError::TooLong { what: "the header", max_bytes: MAX_HEADER_BYTES })?;
    let mac = mac(keys, length_u32, fixed, block.as_bytes());
    let outer = Outer { fixed: fixed.into(), recipients: block.as_bytes().into(), mac: mac.as_ref().into() };
    let mut out = Vec::with_capacity(whole);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&length_u32.to_be_bytes());
    serde_json::to_writer(&mut out, &outer).map_err(|_| MessageError::Failed("writing the header"))?;
    if out.len() > whole {
        return Err(MessageError::Failed("measuring the header"));
    }
    out.resize(whole, b' ');
    Ok(out)
}

/// What the body is bound to: SHA-256 of magic and fixed part.
fn binding(fixed: &[u8]) -> [u8; 32] {
    schema::encoding::Digest::of(&[MAGIC, fixed].concat()).0
}

/// Covers the length too, so that not even the padding can change.
fn mac(keys: &FileKeys, length: u32, fixed: &[u8], recipients: &[u8]) -> hmac::Tag {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, keys.mac.as_slice()));
    context.update(MAGIC);
    context.update(&length.to_be_bytes());
    for part in [fixed, recipients] {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.sign()
}

impl FileHeader {
    /// Reads the JSON of a header.
    fn parse(json: &[u8]) -> Result<Self, MessageError> {
        let malformed = |detail: String| MessageError::Malformed { what: WHAT, detail };
        let end = json.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
        let outer: Outer = serde_json::from_slice(&json[..end]).map_err(|error| malformed(format!("header: {error}")))?;
        if json.first() != Some(&b'{') || json.get(end.wrapping_sub(1)) != Some(&b'}') {
            return Err(malformed("the header is padded with something else than spaces".to_owned()));
        }
        let fixed: Fixed = serde_json::from_slice(&outer.fixed.0).map_err(|error| malformed(format!("fixed part: {error}")))?;
        if fixed.format != "FHF1" || fixed.enc != ContentEncryption::Cobblestone256.name() {
            return Err(MessageError::NotUnderstood(format!("format {:?} with enc {:?}", fixed.format, fixed.enc)));
        }
        let block: RecipientBlock =
            serde_json::from_slice(&outer.recipients.0).map_err(|error| malformed(format!("recipients: {error}")))?;
        if block.recipients.is_empty() || block.recipients.len() > MAX_RECIPIENTS {
            return Err(MessageError::Recipients);
        }
        for recipient in &block.recipients {
            recipient.header.understood()?;
        }
        Ok(Self {
            fixed,
            fixed_bytes: outer.fixed.0,
            recipients: block.recipients,
            recipients_bytes: outer.recipients.0,
            mac: outer.mac.0,
            length: u32::try_from(json.len()).unwrap_or(u32::MAX),
        })
    }

    /// The file's id.
    pub fn file(&self) -> FileId {
        self.fixed.file
    }

    /// The key versions it is for, as far as it names ours.
    pub fn key_versions(&self) -> Vec<KeyVersion> {
        self.recipients.iter().filter_map(|recipient| recipient.header.key_version()).collect()
    }

    /// The first key version it is for; an error when it names none of ours.
    pub fn key_version(&self) -> Result<KeyVersion, MessageError> {
        self.key_versions().first().copied().ok_or(MessageError::NoKey)
    }

    /// How many recipients it has.
    pub fn recipient_count(&self) -> usize {
        self.recipients.len()
    }

    /// Bytes before the body.
    pub fn bytes_before_body(&self) -> usize {
        PREAMBLE_BYTES + self.length as usize
    }

    /// Whether it was made for this encryption context. No key is needed.
    pub fn matches(&self, context: &EncryptionContext) -> bool {
        context.matches(self.fixed.ctx.as_deref())
    }

    /// The content key as the permitted key gets it. A key pins its algorithm.
    pub(super) fn wrapped_for(&self, permit: &UsePermit) -> Result<WrappedKey, MessageError> {
        let version = permit.version();
        let recipient = self
            .recipients
            .iter()
            .find(|recipient| recipient.header.key_version() == Some(version))
            .ok_or(MessageError::OtherKey(version))?;
        let algorithm: Algorithm = permit.algorithm();
        if !recipient.header.is_for(algorithm) {
            let detail = format!("the file has alg {:?} for it", recipient.header.alg.as_deref().unwrap_or("none"));
            return Err(MessageError::OtherAlgorithm { version, algorithm: algorithm.name(), detail });
        }
        recipient.header.follows_draft(algorithm)?;
        recipient.header.wrapped_key(WHAT, algorithm, &recipient.encrypted_key.0)
    }

    /// Checks the header under the content key.
    pub(super) fn check(&self, keys: &FileKeys) -> Result<(), MessageError> {
        use subtle::ConstantTimeEq as _;
        let expected = mac(keys, self.length, &self.fixed_bytes, &self.recipients_bytes);
        if bool::from(expected.as_ref().ct_eq(&self.mac)) { Ok(()) } else { Err(MessageError::NotGenuine) }
    }

    /// The header with this recipient in the place of another; the rest, and the body, stay as they are.
    pub(super) fn replacing(&self, old: KeyVersion, new: &Recipient, keys: &FileKeys) -> Result<Vec<u8>, MessageError> {
        #[derive(Deserialize)]
        struct Block {
            recipients: Vec<serde_json::Value>,
        }
        let malformed = |error: serde_json::Error| MessageError::Malformed { what: WHAT, detail: format!("recipients: {error}") };
        let block: Block = serde_json::from_slice(&self.recipients_bytes).map_err(malformed)?;
        let each = self.recipients.iter().zip(block.recipients);
        let entries = each
            .map(|(read, text)| if read.header.key_version() == Some(old) { entry(new) } else { Ok(text.to_string()) })
            .collect::<Result<Vec<_>, _>>()?;
        assemble(&self.fixed_bytes, &entries, keys)
    }

    pub(super) fn binding(&self) -> [u8; 32] {
        binding(&self.fixed_bytes)
    }
}

/// Takes a file's first bytes until its header is whole.
#[derive(Debug, Default)]
pub struct HeaderReader(Vec<u8>);

impl HeaderReader {
    /// Nothing read yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes bytes, any amount. When the header is whole: the header, and how many of *these* bytes belong to it; the
    /// rest are the body. Never keeps more than 64 KiB.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Option<(FileHeader, usize)>, MessageError> {
        let mut taken = self.take(bytes, PREAMBLE_BYTES);
        let magic = &self.0[..self.0.len().min(4)];
        if !MAGIC.starts_with(magic) {
            return Err(MessageError::Malformed { what: WHAT, detail: "it does not begin with FHF1".to_owned() });
        }
        let Some(length) = self.0.get(4..PREAMBLE_BYTES).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes) else {
            return Ok(None);
        };
        let length = length as usize;
        if length > MAX_HEADER_BYTES {
            return Err(MessageError::TooLong { what: "the header", max_bytes: MAX_HEADER_BYTES });
        }
        taken += self.take(&bytes[taken..], PREAMBLE_BYTES + length);
        if self.0.len() < PREAMBLE_BYTES + length {
            return Ok(None);
        }
        Ok(Some((FileHeader::parse(&self.0[PREAMBLE_BYTES..])?, taken)))
    }

    /// The bytes ended: an error, because the header is not whole.
    pub fn finish(self) -> MessageError {
        MessageError::Truncated
    }

    fn take(&mut self, bytes: &[u8], wanted: usize) -> usize {
        let now = bytes.len().min(wanted.saturating_sub(self.0.len()));
        self.0.extend_from_slice(&bytes[..now]);
        now
    }
}
