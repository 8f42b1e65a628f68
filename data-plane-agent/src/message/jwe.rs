//! JWE (RFC 7516): compact, flattened and general JSON. Each message has a fresh A256GCM content key, or is encrypted
//! directly under its one recipient's key (`dir`, and HPKE's integrated encryption). [`replace`]: one recipient of several.

mod replace;

use schema::{
    catalogue::Sealing,
    clock::Ids,
    context::EncryptionContext,
    encoding::{base64url, push_base64url},
    id::KeyVersion,
};
use serde::Deserialize;
use zeroize::Zeroizing;

use super::{
    MAX_MESSAGE_BYTES, MAX_PLAINTEXT_BYTES, MAX_RECIPIENTS, MessageError, Recipient,
    header::{Header, HeaderWriter, base64url_len, carries, read_base64url, recipients},
    unwrap, wrap_for,
};
use crate::{
    algorithm::{
        ContentEncryption, LoadedKey, SealedContent, WrappedKey,
        aes_gcm::{Aes256Gcm, NONCE_BYTES, TAG_BYTES},
        public_key,
    },
    policy::permit::UsePermit,
    vault::{
        Vault, VaultError, public,
        secret::{ContentKey, SecretBytes},
    },
};

const WHAT: &str = "JWE";
/// Bytes of a content key.
const KEY_BYTES: usize = 32;
/// Bytes of the salt under which a message commits to its context.
const SALT_BYTES: usize = 16;

/// How a message is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Form {
    /// `a.b.c.d.e`: one recipient.
    #[default]
    Compact,
    /// A JSON object for one recipient.
    Flattened,
    /// A JSON object for any number of recipients.
    General,
}

/// Seals at most 1 MiB for the holders of the permitted keys.
///
/// One permit gives a message with everything in its protected header. Several (only in [`Form::General`]) share the
/// content key; each recipient's `alg`, `kid` and `ek` stand in its own header.
pub async fn encrypt(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permits: Vec<UsePermit>,
    plaintext: &[u8],
    context: &EncryptionContext,
    form: Form,
) -> Result<String, MessageError> {
    seal(vault, ids, permits, plaintext, context, form, None).await
}

pub(crate) async fn seal(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permits: Vec<UsePermit>,
    plaintext: &[u8],
    context: &EncryptionContext,
    form: Form,
    typ: Option<&str>,
) -> Result<String, MessageError> {
    if plaintext.len() > MAX_PLAINTEXT_BYTES {
        return Err(MessageError::TooLong { what: "the plaintext", max_bytes: MAX_PLAINTEXT_BYTES });
    }
    if permits.len() > 1 && form != Form::General {
        return Err(MessageError::Recipients);
    }
    if let [permit] = permits.as_slice()
        && permit.algorithm().entry().sealing == Some(Sealing::Direct)
    {
        return seal_directly(vault, ids, permits, plaintext, context, form, typ).await;
    }
    // One question to the system for all of it.
    let mut random = Zeroizing::new([0; KEY_BYTES + SALT_BYTES + NONCE_BYTES]);
    ids.fill(random.as_mut_slice());
    let (key, rest) = random.split_at(KEY_BYTES);
    let (salt, nonce) = rest.split_at(SALT_BYTES);
    let (Some(key), Ok(salt), Ok(nonce)) = (ContentKey::from_slice(key), salt.try_into(), nonce.try_into()) else {
        return Err(MessageError::Failed("making a content key"));
    };
    let recipients = wrap_for(vault, ids, permits, &key, ContentEncryption::A256Gcm).await?;
    let ctx = context.commit(salt);
    let sealed = Sealed { recipients: &recipients, ctx: ctx.as_deref(), typ, key: &key, nonce, plaintext };
    match form {
        Form::Compact => sealed.compact(),
        Form::Flattened => sealed.json(false),
        Form::General => sealed.json(true),
    }
}

/// The content itself under the key of the one recipient.
async fn seal_directly(
    vault: &dyn Vault,
    ids: &dyn Ids,
    permits: Vec<UsePermit>,
    plaintext: &[u8],
    context: &EncryptionContext,
    form: Form,
    typ: Option<&str>,
) -> Result<String, MessageError> {
    let Ok([permit]) = <[UsePermit; 1]>::try_from(permits) else { return Err(MessageError::Recipients) };
    let entry = permit.algorithm().entry();
    let header = HeaderWriter::new()
        .optional("alg", entry.jose_alg)
        .member("kid", permit.version())
        .optional("enc", entry.jose_enc)
        .optional("typ", typ)
        .optional("ctx", context.commit(schema::clock::random(ids)))
        .optional("draft", entry.draft)
        .json();
    let mut protected = String::with_capacity(base64url_len(header.len()));
    push_base64url(&mut protected, header.as_bytes());
    let sealed = public::seal_content(vault, ids, permit, protected.as_bytes(), plaintext).await?;
    let encrypted_key = sealed.encapsulated.unwrap_or_default();
    let mut out =
        String::with_capacity(protected.len() + base64url_len(encrypted_key.len()) + base64url_len(sealed.ciphertext.len()) + 128);
    if form == Form::Compact {
        out.push_str(&protected);
        for part in [&encrypted_key, &sealed.nonce, &sealed.ciphertext, &sealed.tag] {
            out.push('.');
            push_base64url(&mut out, part);
        }
        return Ok(out);
    }
    // What is empty is absent (RFC 7516, section 7.2.1).
    let part = |out: &mut String, name, bytes: &[u8]| {
        if !bytes.is_empty() {
            push_member(out, name, bytes);
            out.push(',');
        }
    };
    out.push_str("{\"protected\":\"");
    out.push_str(&protected);
    out.push_str("\",");
    match form {
        Form::General if encrypted_key.is_empty() => out.push_str("\"recipients\":[{}],"),
        Form::General => {
            out.push_str("\"recipients\":[{");
            push_member(&mut out, "encrypted_key", &encrypted_key);
            out.push_str("}],");
        }
        _ => part(&mut out, "encrypted_key", &encrypted_key),
    }
    part(&mut out, "iv", &sealed.nonce);
    part(&mut out, "tag", &sealed.tag);
    push_member(&mut out, "ciphertext", &sealed.ciphertext);
    out.push('}');
    Ok(out)
}

struct Sealed<'a> {
    recipients: &'a [Recipient],
    ctx: Option<&'a str>,
    typ: Option<&'a str>,
    key: &'a ContentKey,
    nonce: [u8; NONCE_BYTES],
    plaintext: &'a [u8],
}

impl Sealed<'_> {
    /// The protected header; names the one recipient, when there is one.
    fn protected(&self) -> Result<String, MessageError> {
        let writer = HeaderWriter::new();
        let (writer, draft) = match self.recipients {
            [one] => (recipient_members(writer, one)?, one.algorithm.entry().draft),
            several => (writer, several.iter().find_map(|recipient| recipient.algorithm.entry().draft)),
        };
        Ok(writer
            .member("enc", ContentEncryption::A256Gcm.name())
            .optional("typ", self.typ)
            .optional("ctx", self.ctx)
            .optional("draft", draft)
            .json())
    }

    /// Encrypts in a buffer of its own; returns ciphertext and tag.
    fn content(&self, aad: &[u8]) -> Result<(Vec<u8>, [u8; TAG_BYTES]), MessageError> {
        let failed = |_| MessageError::Failed("encrypting");
        let mut data = vec![0; self.plaintext.len()];
        let mut tag = [0; TAG_BYTES];
        let gcm = Aes256Gcm::new(self.key.expose()).map_err(failed)?;
        gcm.seal_to(self.nonce, aad, self.plaintext, &mut data, &mut tag).map_err(failed)?;
        Ok((data, tag))
    }

    fn compact(&self) -> Result<String, MessageError> {
        let [recipient] = self.recipients else { return Err(MessageError::Recipients) };
        let header = self.protected()?;
        let encrypted_key = &recipient.wrapped.encrypted_key;
        let parts = [header.len(), encrypted_key.len(), NONCE_BYTES, self.plaintext.len(), TAG_BYTES];
        let mut out = String::with_capacity(parts.iter().map(|part| base64url_len(*part) + 1).sum());
        push_base64url(&mut out, header.as_bytes());
        let (ciphertext, tag) = self.content(out.as_bytes())?;
        for part in [encrypted_key.as_slice(), &self.nonce, &ciphertext, &tag] {
            out.push('.');
            push_base64url(&mut out, part);
        }
        Ok(out)
    }

    fn json(&self, general: bool) -> Result<String, MessageError> {
        let mut protected = String::new();
        push_base64url(&mut protected, self.protected()?.as_bytes());
        let (ciphertext, tag) = self.content(protected.as_bytes())?;
        let mut out = String::with_capacity(base64url_len(ciphertext.len()) + protected.len() + 2048 * self.recipients.len());
        out.push_str("{\"protected\":\"");
        out.push_str(&protected);
        out.push_str("\",");
        if general {
            out.push_str("\"recipients\":[");
        }
        for (index, recipient) in self.recipients.iter().enumerate() {
            if index > 0 {
                out.push(',');
            }
            if general {
                out.push('{');
            }
            if self.recipients.len() > 1 {
                out.push_str("\"header\":");
                out.push_str(&recipient_members(HeaderWriter::new(), recipient)?.json());
                out.push(',');
            }
            push_member(&mut out, "encrypted_key", &recipient.wrapped.encrypted_key);
            if general {
                out.push('}');
            }
        }
        out.push_str(if general { "]," } else { "," });
        push_member(&mut out, "iv", &self.nonce);
        out.push(',');
        push_member(&mut out, "ciphertext", &ciphertext);
        out.push(',');
        push_member(&mut out, "tag", &tag);
        out.push('}');
        Ok(out)
    }
}

fn push_member(out: &mut String, name: &str, bytes: &[u8]) {
    out.push('"');
    out.push_str(name);
    out.push_str("\":\"");
    push_base64url(out, bytes);
    out.push('"');
}

/// `alg`, `kid` and `ek` or `epk` of one recipient.
pub(super) fn recipient_members(writer: HeaderWriter, recipient: &Recipient) -> Result<HeaderWriter, MessageError> {
    let writer = writer.optional("alg", recipient.algorithm.entry().jose_alg).member("kid", recipient.permit_version);
    let (with_ek, with_epk) = carries(recipient.algorithm);
    Ok(match &recipient.wrapped.encapsulated {
        Some(encapsulated) if with_ek => writer.member("ek", base64url(encapsulated)),
        Some(encapsulated) if with_epk => {
            let epk = public_key::ephemeral_jwk(recipient.algorithm, encapsulated).map_err(VaultError::from)?;
            writer.json_member("epk", &epk)
        }
        _ => writer,
    })
}

/// A message that was read, but not opened.
#[derive(Debug)]
pub struct Jwe {
    recipients: Vec<Addressed>,
    /// What is authenticated beside the ciphertext: the protected header as it stood there, and `aad`.
    authenticated: Vec<u8>,
    iv: Vec<u8>,
    ciphertext: Vec<u8>,
    tag: Vec<u8>,
}

/// One recipient of a message that was read.
#[derive(Debug)]
struct Addressed {
    header: Header,
    encrypted_key: Vec<u8>,
}

#[derive(Deserialize)]
struct JsonMessage<'a> {
    #[serde(borrow)]
    protected: std::borrow::Cow<'a, str>,
    #[serde(default)]
    unprotected: Option<Header>,
    #[serde(default)]
    header: Option<Header>,
    #[serde(default, borrow)]
    encrypted_key: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow, deserialize_with = "recipients")]
    recipients: Option<Vec<JsonRecipient<'a>>>,
    #[serde(default, borrow)]
    aad: Option<std::borrow::Cow<'a, str>>,
    #[serde(default, borrow)]
    iv: std::borrow::Cow<'a, str>,
    #[serde(borrow)]
    ciphertext: std::borrow::Cow<'a, str>,
    #[serde(default, borrow)]
    tag: std::borrow::Cow<'a, str>,
}

#[derive(Deserialize)]
struct JsonRecipient<'a> {
    #[serde(default)]
    header: Option<Header>,
    #[serde(default, borrow)]
    encrypted_key: Option<std::borrow::Cow<'a, str>>,
}

/// What came out of a message.
pub struct Opened {
    /// The plaintext.
    pub plaintext: SecretBytes,
    /// What it is, when the message says: [`super::data_key::TYP`].
    pub typ: Option<String>,
}

impl Jwe {
    /// Reads a message in any form. Nothing is decrypted, and no key is touched.
    pub fn parse(text: &[u8]) -> Result<Self, MessageError> {
        if text.len() > MAX_MESSAGE_BYTES {
            return Err(MessageError::TooLong { what: "the message", max_bytes: MAX_MESSAGE_BYTES });
        }
        let text = text.trim_ascii(); // a text file ends with a line feed
        let message = match text.first() {
            Some(b'{') => Self::parse_json(text)?,
            _ => Self::parse_compact(text)?,
        };
        if message.plaintext_bytes() > MAX_PLAINTEXT_BYTES {
            return Err(MessageError::TooLong { what: "the plaintext", max_bytes: MAX_PLAINTEXT_BYTES });
        }
        for recipient in &message.recipients {
            recipient.header.understood()?;
        }
        Ok(message)
    }

    fn parse_compact(text: &[u8]) -> Result<Self, MessageError> {
        let mut parts = text.split(|byte| *byte == b'.');
        let mut next = |name: &'static str| {
            parts
                .next()
                .ok_or_else(|| MessageError::Malformed { what: WHAT, detail: format!("it has no {name}; compact form has five parts") })
        };
        let (protected, encrypted_key, iv, ciphertext, tag) =
            (next("header")?, next("encrypted key")?, next("initialization vector")?, next("ciphertext")?, next("tag")?);
        if parts.next().is_some() {
            return Err(MessageError::Malformed { what: WHAT, detail: "it has more than five parts".to_owned() });
        }
        let header = Header::parse(WHAT, &read_base64url(WHAT, "the protected header", protected)?)?;
        let encrypted_key = read_base64url(WHAT, "the encrypted key", encrypted_key)?;
        Ok(Self {
            recipients: vec![Addressed { header, encrypted_key }],
            authenticated: protected.to_vec(),
            iv: read_base64url(WHAT, "the initialization vector", iv)?,
            ciphertext: read_base64url(WHAT, "the ciphertext", ciphertext)?,
            tag: read_base64url(WHAT, "the tag", tag)?,
        })
    }

    fn parse_json(text: &[u8]) -> Result<Self, MessageError> {
        let malformed = |detail: String| MessageError::Malformed { what: WHAT, detail };
        let json: JsonMessage<'_> = serde_json::from_slice(text).map_err(|error| malformed(error.to_string()))?;
        let protected = Header::parse(WHAT, &read_base64url(WHAT, "\"protected\"", json.protected.as_bytes())?)?;
        let given = match (json.recipients, json.encrypted_key, json.header) {
            (Some(recipients), None, None) => recipients,
            (None, encrypted_key, header) => vec![JsonRecipient { header, encrypted_key }],
            _ => return Err(malformed("it has \"recipients\" and also a recipient of the flattened form".to_owned())),
        };
        if given.is_empty() || given.len() > MAX_RECIPIENTS {
            return Err(MessageError::Recipients);
        }
        let mut recipients = Vec::with_capacity(given.len());
        for recipient in given {
            let others: Vec<&Header> = json.unprotected.iter().chain(&recipient.header).collect();
            let header = protected.with_unprotected(WHAT, &others)?;
            let encrypted_key =
                read_base64url(WHAT, "\"encrypted_key\"", recipient.encrypted_key.as_deref().unwrap_or_default().as_bytes())?;
            recipients.push(Addressed { header, encrypted_key });
        }
        let mut authenticated = json.protected.as_bytes().to_vec();
        if let Some(aad) = &json.aad {
            read_base64url(WHAT, "\"aad\"", aad.as_bytes())?;
            authenticated.push(b'.');
            authenticated.extend_from_slice(aad.as_bytes());
        }
        Ok(Self {
            recipients,
            authenticated,
            iv: read_base64url(WHAT, "\"iv\"", json.iv.as_bytes())?,
            ciphertext: read_base64url(WHAT, "\"ciphertext\"", json.ciphertext.as_bytes())?,
            tag: read_base64url(WHAT, "\"tag\"", json.tag.as_bytes())?,
        })
    }

    /// The key versions it is for, as far as it names ours.
    pub fn key_versions(&self) -> Vec<KeyVersion> {
        self.recipients.iter().filter_map(|recipient| recipient.header.key_version()).collect()
    }

    /// The first key version it is for; an error when it names none of ours.
    pub fn key_version(&self) -> Result<KeyVersion, MessageError> {
        self.key_versions().first().copied().ok_or(MessageError::NoKey)
    }

    /// The key it is for, as it stands there.
    pub(crate) fn named_key(&self) -> Option<&str> {
        self.recipients.first()?.header.kid.as_deref()
    }

    /// Opens a message to a key of the agent itself, which no vault has and no policy speaks of.
    pub(crate) fn open_with(&self, key: &dyn LoadedKey) -> Result<SecretBytes, MessageError> {
        let (algorithm, entry) = (key.algorithm(), key.algorithm().entry());
        let [Addressed { header, encrypted_key }] = self.recipients.as_slice() else { return Err(MessageError::Recipients) };
        if entry.sealing != Some(Sealing::Direct) || !header.is_for(algorithm) || header.enc.as_deref() != entry.jose_enc {
            return Err(MessageError::Malformed { what: WHAT, detail: format!("it is not one of {algorithm}") });
        }
        header.follows_draft(algorithm)?;
        let sealed = SealedContent {
            encapsulated: Some(encrypted_key.clone()),
            nonce: self.iv.clone(),
            ciphertext: self.ciphertext.clone(),
            tag: self.tag.clone(),
        };
        key.open_content(&self.authenticated, &sealed).map_err(|_| MessageError::NotGenuine)
    }

    /// How many recipients it has.
    pub fn recipient_count(&self) -> usize {
        self.recipients.len()
    }

    /// Bytes of plaintext.
    pub fn plaintext_bytes(&self) -> usize {
        // Where there is no tag, it stands at the end of the ciphertext.
        self.ciphertext.len().saturating_sub(if self.tag.is_empty() { TAG_BYTES } else { 0 })
    }

    /// Whether it was made for this encryption context. No key is needed.
    pub fn matches(&self, context: &EncryptionContext) -> bool {
        self.recipients.first().is_some_and(|recipient| context.matches(recipient.header.ctx.as_deref()))
    }

    /// Opens it with the permitted key.
    pub async fn decrypt(&self, vault: &dyn Vault, permit: UsePermit, context: &EncryptionContext) -> Result<Opened, MessageError> {
        let (place, wrapped) = self.wrapped_for(&permit, context)?;
        // It stands in the protected header: all recipients have the same.
        let typ = self.recipients.get(place).and_then(|recipient| recipient.header.typ.clone());
        if permit.algorithm().entry().sealing == Some(Sealing::Direct) {
            return Ok(Opened { plaintext: self.open_directly(vault, permit, wrapped.encrypted_key).await?, typ });
        }
        let key = unwrap(vault, permit, &wrapped, ContentEncryption::A256Gcm).await?;
        Ok(Opened { plaintext: self.open(&key)?, typ })
    }

    /// Which recipient a permitted key is, and its content key as it was wrapped: when the message is of the key's algorithm, and
    /// made with this encryption context. No key is used.
    fn wrapped_for(&self, permit: &UsePermit, context: &EncryptionContext) -> Result<(usize, WrappedKey), MessageError> {
        let (place, recipient) = self.recipient(permit.version())?;
        pinned(permit, &recipient.header)?;
        if !self.matches(context) {
            return Err(MessageError::OtherContext);
        }
        Ok((place, recipient.header.wrapped_key(WHAT, permit.algorithm(), &recipient.encrypted_key)?))
    }

    /// Opens content that is encrypted under the key itself. What stands where a wrapped key would is what the KEM
    /// encapsulated.
    async fn open_directly(&self, vault: &dyn Vault, permit: UsePermit, encrypted_key: Vec<u8>) -> Result<SecretBytes, MessageError> {
        if encrypted_key.is_empty() == permit.algorithm().entry().asymmetric || self.recipients.len() != 1 {
            let detail = format!("an encrypted key of {} bytes does not go with {}", encrypted_key.len(), permit.algorithm());
            return Err(MessageError::Malformed { what: WHAT, detail });
        }
        let sealed = SealedContent {
            encapsulated: Some(encrypted_key).filter(|key| !key.is_empty()),
            nonce: self.iv.clone(),
            ciphertext: self.ciphertext.clone(),
            tag: self.tag.clone(),
        };
        vault.open_content(permit, &self.authenticated, &sealed).await.map_err(|error| match error.code() {
            "not_genuine" => MessageError::NotGenuine,
            _ => error.into(),
        })
    }

    /// Opens the content. Every way to fail looks the same.
    fn open(&self, key: &ContentKey) -> Result<SecretBytes, MessageError> {
        let nonce = self.iv.as_slice().try_into().map_err(|_| MessageError::NotGenuine)?;
        if self.tag.len() != TAG_BYTES {
            return Err(MessageError::NotGenuine);
        }
        let mut plaintext = SecretBytes::new(vec![0; self.ciphertext.len()]);
        Aes256Gcm::new(key.expose())
            .map_err(|_| MessageError::Failed("decrypting"))?
            .open_to(nonce, &self.authenticated, &self.ciphertext, &self.tag, plaintext.expose_mut())
            .map_err(|_| MessageError::NotGenuine)?;
        Ok(plaintext)
    }

    /// The recipient that is this key version; the only one, when it does not say which key it is for.
    fn recipient(&self, version: KeyVersion) -> Result<(usize, &Addressed), MessageError> {
        let is_named = |(_, recipient): &(usize, &Addressed)| recipient.header.key_version() == Some(version);
        if let Some(named) = self.recipients.iter().enumerate().find(is_named) {
            return Ok(named);
        }
        match self.recipients.as_slice() {
            [only] if only.header.kid.is_none() => Ok((0, only)),
            _ => Err(MessageError::OtherKey(version)),
        }
    }
}

/// A key pins `alg`, `enc` and the draft.
fn pinned(permit: &UsePermit, header: &Header) -> Result<(), MessageError> {
    let entry = permit.algorithm().entry();
    if !header.is_for(permit.algorithm()) || header.enc.as_deref() != entry.jose_enc {
        let (alg, enc) = (header.alg.as_deref().unwrap_or("none"), header.enc.as_deref().unwrap_or("none"));
        return Err(MessageError::OtherAlgorithm {
            version: permit.version(),
            algorithm: entry.name,
            detail: format!("the message has alg {alg:?} and enc {enc:?}"),
        });
    }
    header.follows_draft(permit.algorithm())
}

#[cfg(test)]
mod tests;
